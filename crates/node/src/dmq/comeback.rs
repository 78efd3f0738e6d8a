//! What is not certain of a server that was silent, or could not hear us, and is there again.
//!
//! It repeats what it said meanwhile, in any order, and it may still take us for gone for a moment. So it is asked for
//! everything a second time, when nothing of that can be under way any more. Invariant: what that dump shows of what it may have
//! repeated is later than the repeated words.

use std::collections::{BTreeMap, BTreeSet};

use crdt::{Slot, Stamp};
use tables::location::Contact;

use super::How;
use super::peer::Peer;
use crate::config::{DmqMode, SipTransport};
use crate::cx::Cx;
use crate::io::{Mono, Now};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Comeback {
    /// When it is asked for everything once more, because it may have taken us for gone for a moment: see
    /// [`Peer::came_back`].
    pub(crate) look_at: Option<Mono>,
    /// Until when it may take us for gone so; `None` if a dump has been asked for since, and taken in.
    deaf: Option<Mono>,
    /// When it restarted last.
    restarted: Option<Mono>,
    /// When that can wait no longer.
    by: Mono,
    /// Whether it is time for it.
    pub(crate) again: bool,
    /// Entries about which it spoke since it came back, and the stamps that its last word got and the one before that. It may
    /// have been repeating, in any order, what it had said in the silence; what its next dump shows of them is later.
    repeated: BTreeMap<Slot, (Stamp, Option<Stamp>)>,
    /// The versions of contacts that it removed so.
    removed: BTreeMap<Slot, Removed>,
    /// Entries of which a dump has shown something since it came back that the mesh had gone on from, and when that dump was
    /// asked for. What it said before is older still.
    outdone: BTreeMap<Slot, Mono>,
    /// The values of entries that it was told last since it came back, as fingerprints.
    told: BTreeMap<Slot, u64>,
    /// Entries about which it spoke meanwhile what was not taken in, because it was left to a stranger.
    passed_over: BTreeSet<Slot>,
}

impl Comeback {
    /// It spoke about an entry, and that is not taken in.
    pub(crate) fn pass_over(&mut self, slot: Slot) {
        if self.look_at.is_some() {
            self.passed_over.insert(slot);
        }
    }

    /// Whether what it said of an entry was not taken in: its next dump shows it.
    pub(crate) fn was_passed_over(&self, slot: Slot) -> bool {
        self.passed_over.contains(&slot)
    }

    /// Whether the version of this stamp is what the server said while it may have been repeating old words.
    pub(crate) fn is_repeated(&self, slot: Slot, stamp: Stamp) -> bool {
        self.repeated.get(&slot).is_some_and(|(last, _)| *last == stamp)
    }

    /// Whether the version of this stamp is what it said just before that.
    pub(crate) fn was_repeated(&self, slot: Slot, stamp: Stamp) -> bool {
        self.repeated.get(&slot).is_some_and(|(_, before)| *before == Some(stamp))
    }

    /// A dump that was asked for then has shown an entry that has lost.
    pub(crate) fn outdone(&mut self, slot: Slot, asked: Mono) {
        if self.look_at.is_some() {
            self.outdone.insert(slot, asked);
        }
    }

    /// It is told a value of an entry.
    pub(crate) fn tells(&mut self, slot: Slot, value: u64) {
        if self.look_at.is_some() {
            self.told.insert(slot, value);
        }
    }

    /// Which value of an entry it was told last since it came back. What it says of the entry may be older, even if a dump has shown
    /// that value since.
    pub(crate) fn told(&self, slot: Slot) -> Option<u64> {
        self.told.get(&slot).copied()
    }

    /// The cell is forgotten.
    pub(crate) fn forget(&mut self, slot: Slot) {
        self.repeated.remove(&slot);
        self.told.remove(&slot);
        self.removed.remove(&slot);
        self.outdone.remove(&slot);
        self.passed_over.remove(&slot);
    }

    /// It restarted: it does not repeat what an earlier life of it said.
    pub(crate) fn clear(&mut self) {
        self.repeated.clear();
        self.told.clear();
        self.removed.clear();
        self.outdone.clear();
    }

    /// What was passed over is shown, or does not matter any more.
    pub(crate) fn forget_passed_over(&mut self) {
        self.passed_over.clear();
    }

    /// Its process is a new one, which has not pinged us in vain.
    pub(crate) fn restarted(&mut self, now: Mono) {
        (self.deaf, self.restarted) = (None, Some(now));
    }

    /// Whether it has restarted since this node knows it.
    pub(crate) const fn has_restarted(&self) -> bool {
        self.restarted.is_some()
    }

    /// Whether it restarted so short a time ago.
    pub(crate) fn has_restarted_within(&self, ms: u64, now: Mono) -> bool {
        self.restarted.is_some_and(|at| now.ms_since(at) <= ms)
    }

    /// Whether it may not have said everything.
    pub(crate) fn is_deaf(&self) -> bool {
        self.deaf.is_some()
    }

    /// A dump that was asked for then is whole.
    pub(crate) fn dumped(&mut self, asked: Mono) {
        self.deaf = self.deaf.filter(|until| *until > asked);
    }
}

/// The version of a contact that a removal names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Removed {
    last_modified: u64,
    cseq: u32,
}

impl Removed {
    /// Whether a contact is later than this version.
    pub(crate) fn is_before(self, contact: &Contact<'_>) -> bool {
        (contact.last_modified, contact.cseq) > (self.last_modified, self.cseq)
    }
}

/// How long after a repeated message another one that was lost once more may come, milliseconds: RFC 3261's T2, and a margin.
/// More than [`super::peer::LIVELY_MS`], so that what was repeated does not count as newer than the dump.
const REPEATS_MS: u64 = 4_500;

impl Peer {
    /// It and we can speak again. A ping of its own from the time when we could not may still run into its timeout: then it
    /// takes us for gone and sends us nothing until our next ping, and nobody ever tells us what it took in between
    /// (docs/kdmq.md 3.4). So pings come quickly until that cannot happen any more, and then it is asked once more.
    pub(crate) fn came_back(&mut self, now: Mono) {
        self.repeats_something(now);
        self.pull.way.passes_again(now);
        if self.comeback.restarted != Some(now) {
            self.comeback.deaf = self.comeback.look_at;
        }
    }

    /// Something between it and us was lost at first: it may be repeating other things too, and is asked once more when it cannot be
    /// any more. It did not take us for gone.
    pub(crate) fn repeats_something(&mut self, now: Mono) {
        // Over UDP a ping that is still open is repeated, and so answered, within T2.
        const UDP_MS: u64 = 6_000;
        // Over TCP nothing is repeated: its `fr_timer` is 30 s, if nobody changed it.
        const TCP_MS: u64 = 36_000;
        let wait = if self.address.transport == SipTransport::Tcp { TCP_MS } else { UDP_MS };
        self.comeback.look_at = Some(now.plus_ms(wait));
        self.comeback.by = now.plus_ms(3 * wait);
    }

    /// It spoke about an entry while it may be repeating old words: the dump that puts them right must be later than they are.
    /// `stamp`: what its word got, if it is what counts.
    pub(crate) fn repeats(&mut self, slot: Slot, stamp: Option<Stamp>, now: Mono) {
        if let Some(at) = &mut self.comeback.look_at {
            *at = (*at).max(now.plus_ms(REPEATS_MS).min(self.comeback.by));
            let Some(stamp) = stamp else { return };
            let (last, before) = self.comeback.repeated.entry(slot).or_insert((stamp, None));
            if *last != stamp {
                *before = Some(std::mem::replace(last, stamp));
            }
        }
    }

    /// It removed a contact while it may be repeating old words (see [`Peer::repeats`]).
    pub(crate) fn removed_again(&mut self, slot: Slot, contact: &Contact<'_>, cx: &Cx<'_>) {
        let Some(cell) = cx.replica.cell(slot).filter(|_| self.comeback.look_at.is_some()) else { return };
        let version = Removed { last_modified: contact.last_modified, cseq: contact.cseq };
        self.repeats(slot, Some(cell.order.stamp), cx.now.mono);
        self.comeback.removed.insert(slot, version);
    }

    /// Which version of a contact a removal named that it may have repeated, if that removal is what is held.
    pub(crate) fn repeated_removal(&self, slot: Slot, held: Stamp) -> Option<Removed> {
        self.comeback.removed.get(&slot).copied().filter(|_| self.comeback.is_repeated(slot, held))
    }

    /// Whether what it said of an entry is older than what it has shown since, which has lost. A server tells a change just before
    /// it makes it, so what it said within half a second before it was asked may be what it did after it. Over TCP it is only
    /// known when something was said at the earliest.
    pub(crate) fn is_outdone(&self, slot: Slot, how: How, now: Now) -> bool {
        const JUST_MS: u64 = 500;
        let (Some(asked), How::Held(said)) = (self.comeback.outdone.get(&slot), how) else { return false };
        self.address.transport == SipTransport::Udp && said.0 + JUST_MS < now.wall_at(*asked).0
    }

    /// A dump has shown what its repeated words were worth.
    pub(crate) fn forget_repeated(&mut self) {
        self.comeback.clear();
    }

    /// Asks once more when it is time (see [`Peer::came_back`]).
    pub(crate) fn look_again(&mut self, mode: DmqMode, now: Mono) {
        if self.comeback.look_at.is_some_and(|at| at <= now) && !self.pull.is_open() {
            self.comeback.look_at = None;
            // Quick pings leave a second at most; beyond this a dump costs the server more than that is worth. Feeding goes on:
            // all that may be missing is what it took in within that second.
            match mode {
                _ if !self.can_be_proven() => self.forget_repeated(),
                DmqMode::Bridge => self.comeback.again = true,
                DmqMode::Mesh => self.doubts.doubt_all(now),
            }
        }
    }
}
