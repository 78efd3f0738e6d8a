//! What a server may hold though nobody who could tell has told us: servers that know each other tell their changes directly.
//!
//! Such a message is repeated until it is answered or given up, so for half a minute (over TCP for two) it may come late, in the
//! wrong order, or never, and this node sees nothing of it. What another server has said is therefore doubtful at each server that
//! it may have told, and so is everything while a server was not heard here: it may have told others what it did not tell us. A
//! dump that is asked for when nothing of it can be on its way any more ends the doubt; one a minute at most.
//!
//! It leaves asking and concluding to `pull`, and telling to `feed`. Invariant: a removal that a server was told by another one
//! is not forgotten before a dump has shown that it arrived (docs/rules.md R7).

use std::collections::BTreeMap;

use crdt::{Cause, CellRef, Change, Dot, Forget, Replica, Slot, Stamp, Wall};
use serde::{Deserialize, Serialize};
use tables::location;

use super::book::{Proof, fingerprint};
use super::peer::{Peer, PeerId};
use super::pull::LATE_TCP_MS;
use super::{Dmq, How, contact_of};
use crate::config::{DmqMode, SipTransport};
use crate::cx::Cx;
use crate::io::{Mono, Now};

/// So long after a server has spoken its message may still arrive, milliseconds: it repeats it for 30 s (`fr_timer`).
pub(super) const UNDER_WAY_MS: u64 = 32_000;

/// How long doubts gather before a dump is asked for, milliseconds.
const GATHER_MS: u64 = 60_000;

/// Between two looks through doubts that no dump will end, milliseconds.
const SWEEP_MS: u64 = 10_001;

/// How long what was doubtful explains what a server shows that nobody here has asked since, milliseconds.
const OLD_MS: u64 = 600_000;

/// What is doubtful at one server.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    cells: BTreeMap<Slot, Doubt>,
    /// When anything else may have been said to it last.
    all: Option<Mono>,
    /// When anybody counted last: other servers have told it their value, which may have replaced a sum of ours.
    counted: Option<Mono>,
    /// Since when there has been a doubt that no dump has looked at.
    since: Option<Mono>,
    /// When doubts were last looked through that no dump here will end.
    swept: Mono,
    /// Whether everybody knows that what this server itself says may be lost (see [`Dmq::watch_gaps`]).
    gap_known: bool,
}

#[derive(Debug, Default)]
struct Doubt {
    /// When another server spoke about the cell last.
    at: Mono,
    /// The same for the disk, unix seconds.
    wall_s: u64,
    /// Whether one of them has removed it, and under which ruid, as a fingerprint: see [`Said::Gone`].
    removed: Option<u64>,
    /// Whether some of it was heard by nobody here.
    unheard: bool,
    /// What others have set it to, as fingerprints; the latest last.
    said: Vec<u64>,
    /// The removal that must not be forgotten.
    held: Option<Dot>,
}

/// A doubt on disk.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Saved {
    wall_s: u64,
    removed: Option<u64>,
    unheard: bool,
    said: Vec<u64>,
}

impl Saved {
    /// Whether it matters also where nothing is known of what the server holds.
    pub(crate) const fn is_removal(&self) -> bool {
        self.removed.is_some()
    }
}

/// What another server said of a cell.
#[derive(Clone, Copy, Debug)]
pub(super) enum Said {
    /// That it is gone; a contact under this ruid, as a fingerprint. [`ANY_RUID`] for an entry, and where it is not known.
    Gone(u64),
    /// The value of an entry, as a fingerprint.
    Value(u64),
    /// Anything, of which nobody here has heard.
    Unheard,
    /// Something about a contact, or how long an entry lives.
    Other,
}

/// A removal that hits whatever there is.
pub(super) const ANY_RUID: u64 = 0;

/// So many values of one cell are remembered.
const SAID_MAX: usize = 16;

impl Doubts {
    /// Whatever it holds may be something else.
    pub(crate) fn doubt_all(&mut self, now: Mono) {
        self.all = Some(now);
        self.since.get_or_insert(now);
    }

    /// Somebody has counted, and servers tell each other what that makes for them.
    pub(super) fn doubt_counters(&mut self, now: Mono) {
        self.counted = Some(now);
        self.since.get_or_insert(now);
    }

    /// Whether a dump is still to come that may show anything. One that is too large to be asked for is not waited for.
    pub(crate) fn are_open(&self, now: Mono) -> bool {
        self.all.is_some_and(|at| now.ms_since(at) < GATHER_MS + 2 * UNDER_WAY_MS)
    }

    /// Something that it holds is not proven.
    pub(crate) fn begin(&mut self, now: Mono) {
        self.since.get_or_insert(now);
    }

    /// Whether another server may have removed this cell there; a contact that it has under this ruid, as a fingerprint
    /// (docs/kdmq.md 6.5).
    pub(crate) fn removed(&self, slot: Slot, ruid: impl FnOnce() -> Option<u64>) -> bool {
        let Some(removed) = self.cells.get(&slot).and_then(|doubt| doubt.removed) else { return false };
        removed == ANY_RUID || ruid().is_none_or(|ruid| ruid == removed)
    }

    /// Whether a contact that it has under this ruid, and that says when it was modified (unix seconds), is another server's word of
    /// before that one removed it.
    pub(crate) fn removed_after(&self, slot: Slot, ruid: u64, last_modified: u64) -> bool {
        let doubt = self.cells.get(&slot).filter(|doubt| doubt.removed == Some(ruid));
        doubt.is_some_and(|doubt| last_modified < doubt.wall_s)
    }

    /// Whether another server may have told it this value of the cell, just now or much too late.
    pub(crate) fn said(&self, slot: Slot, value: u64) -> bool {
        self.cells.get(&slot).is_some_and(|doubt| doubt.said.contains(&value))
    }

    /// Whether another server may have told it words about this cell that nobody here has heard.
    pub(crate) fn is_unheard(&self, slot: Slot) -> bool {
        self.cells.get(&slot).is_some_and(|doubt| doubt.unheard)
    }

    /// What of a doubt goes to disk.
    pub(crate) fn saved(&self, slot: Slot) -> Option<Saved> {
        let doubt = self.cells.get(&slot)?;
        let Doubt { wall_s, removed, unheard, said, .. } = doubt;
        Some(Saved { wall_s: *wall_s, removed: *removed, unheard: *unheard, said: said.clone() })
    }

    /// Takes up the doubt of an earlier process. No dump has ended it since, unless that was so long ago that it can have been
    /// dropped without one.
    pub(crate) fn restore(&mut self, slot: Slot, saved: Saved, now: Now) {
        let Saved { wall_s, removed, unheard, said } = saved;
        if wall_s.saturating_add(OLD_MS / 1_000) < now.wall.0 / 1_000 {
            return;
        }
        self.since.get_or_insert(now.mono);
        self.cells.insert(slot, Doubt { at: now.mono, wall_s, removed, unheard, said, held: None });
    }

    /// When a dump should look at what there is.
    pub(crate) fn due(&self) -> Option<Mono> {
        self.since.map(|since| since.plus_ms(GATHER_MS))
    }

    /// The cell is forgotten.
    pub(crate) fn forget(&mut self, slot: Slot, replica: &mut Replica) {
        if let Some(dot) = self.cells.remove(&slot).and_then(|doubt| doubt.held) {
            replica.release(dot);
        }
    }

    /// There is no such server any more.
    pub(crate) fn clear(&mut self, replica: &mut Replica) {
        for doubt in std::mem::take(&mut self.cells).into_values() {
            if let Some(dot) = doubt.held {
                replica.release(dot);
            }
        }
        *self = Self::default();
    }
}

impl Peer {
    /// Another server has spoken about the cell, and may have told this one.
    pub(super) fn doubt(&mut self, slot: Slot, said: Said, replica: &mut Replica, now: Now) {
        let gone = replica.cell(slot).filter(|cell| cell.body.is_none());
        let stable = gone.filter(|cell| replica.rules().of(cell.table).forget == Forget::Stable);
        let held = stable.map(|cell| cell.order.dot);
        self.doubts.since.get_or_insert(now.mono);
        let doubt = self.doubts.cells.entry(slot).or_default();
        (doubt.at, doubt.wall_s) = (now.mono, now.wall.0 / 1_000);
        match said {
            // Whoever speaks for the server next has to know, also after a restart.
            Said::Gone(_) => self.book.changed_beside(slot),
            _ => self.book.changed(slot),
        }
        match said {
            Said::Gone(ruid) => {
                let same = doubt.removed.is_none_or(|removed| removed == ruid);
                doubt.removed = Some(if same { ruid } else { ANY_RUID });
            }
            Said::Unheard => doubt.unheard = true,
            Said::Value(value) if !doubt.said.contains(&value) => {
                if doubt.said.len() >= SAID_MAX {
                    doubt.said.remove(0);
                }
                doubt.said.push(value);
            }
            Said::Value(_) | Said::Other => {}
        }
        held.into_iter().for_each(|dot| replica.hold(dot));
        std::mem::replace(&mut doubt.held, held).into_iter().for_each(|dot| replica.release(dot));
    }

    /// What it says of an entry, that it has this value or another one, may be old. What it was told since may have replaced it: where
    /// that is what its dump shows, it has not gone back to it.
    pub(crate) fn doubt_told_since(&mut self, slot: Slot, value: u64, how: How, cx: &mut Cx<'_>) {
        let said = match how {
            How::Held(said) => said,
            How::Live if self.comeback.look_at.is_some() => Wall(0),
            How::Live | How::Dump => return,
        };
        let learned = |learned_s: u32| cx.now.wall_at(Mono(u64::from(learned_s) * 1_000_000 + 999_000));
        let answered = self.book.get(slot).filter(|entry| entry.proof == Proof::Answered);
        let answered = answered.filter(|entry| said <= learned(entry.learned_s)).map(|entry| entry.value);
        let repeated = || self.comeback.told(slot).filter(|_| how == How::Live);
        if let Some(told) = answered.or_else(repeated).filter(|told| *told != value) {
            self.doubt(slot, Said::Value(told), cx.replica, cx.now);
        }
    }

    /// Whether a dump that does not show the version which the server has shown before shows another server's word, not its own:
    /// its own would have come, if nothing was lost; or more likely, if others' words are on their way that nobody here heard. What
    /// a node that is not linked has told it is neither.
    pub(crate) fn is_anothers(&self, slot: Slot, held: Stamp, mode: DmqMode) -> bool {
        if !self.tells_its_own(slot, mode) {
            return false;
        }
        let unheard = self.doubts.is_unheard(slot);
        let shown = self.book.get(slot).is_some_and(|entry| entry.agreed == Some(held));
        !self.comeback.is_deaf() || (unheard && shown)
    }

    /// The same for a contact that it does not show at all. If another server has spoken about it, the late removal or refresh of
    /// that one is likelier than a removal of its own within the moment in which it may have taken us for gone.
    pub(crate) fn is_anothers_removal(&self, slot: Slot, mode: DmqMode) -> bool {
        self.tells_its_own(slot, mode) && (!self.comeback.is_deaf() || self.doubts.cells.contains_key(&slot))
    }

    /// Whether this node has heard what the server itself said of a cell, but for moments in which it may have taken us for gone.
    pub(crate) fn tells_its_own(&self, slot: Slot, mode: DmqMode) -> bool {
        let missed = self.own_gap || self.comeback.was_passed_over(slot) || self.strangers.any();
        mode == DmqMode::Mesh && !missed
    }

    /// A dump has been taken in: what it was late enough for is certain now.
    pub(crate) fn settle_doubts(&mut self, replica: &mut Replica, now: Mono) {
        let (begun, contacts, entries) = self.pull.proves();
        let proves = |at: Mono| at.plus_ms(UNDER_WAY_MS) <= begun;
        let under_way_ms = self.under_way_ms();
        let table_of = |slot| replica.cell(slot).map(|cell| cell.table == location::TABLE);
        let over = |(slot, doubt): (&Slot, &Doubt)| {
            let got = if table_of(*slot) == Some(true) { contacts } else { entries };
            (got && doubt.at.plus_ms(under_way_ms) <= begun).then_some(*slot)
        };
        let over: Vec<Slot> = self.doubts.cells.iter().filter_map(over).collect();
        self.end_doubts(over, replica);
        if contacts && entries && self.doubts.all.is_some_and(proves) {
            self.doubts.all = None;
        }
        self.doubts.counted.take_if(|at| entries && proves(*at));
        let open = self.doubts.all.is_some() || self.doubts.counted.is_some();
        let left = !self.doubts.cells.is_empty() || open || self.book.unproven() > 0;
        self.doubts.since = left.then_some(now);
    }

    /// Looks through doubts that no dump here will end: about what was said too long ago to be under way. Whoever asks next asks late
    /// enough, but what has arrived may be what that dump shows.
    pub(crate) fn drop_old_doubts(&mut self, replica: &mut Replica, now: Mono) {
        self.doubts.counted.take_if(|at| now.ms_since(*at) > UNDER_WAY_MS);
        let under_way_ms = self.under_way_ms();
        let explains_ms = if self.can_be_proven() { OLD_MS } else { under_way_ms };
        let mut old = Vec::new();
        let mut arrived = Vec::new();
        for (slot, doubt) in &mut self.doubts.cells {
            let ms = now.ms_since(doubt.at);
            if ms > explains_ms {
                old.push(*slot);
            } else if ms > under_way_ms {
                arrived.extend(doubt.held.take().map(|dot| (*slot, dot)));
            }
        }
        for (slot, dot) in arrived {
            self.let_go(slot, dot, replica);
        }
        self.end_doubts(old, replica);
    }

    fn end_doubts(&mut self, slots: Vec<Slot>, replica: &mut Replica) {
        for slot in slots {
            let Some(doubt) = self.doubts.cells.remove(&slot) else { continue };
            match doubt.removed {
                Some(_) => self.book.changed_beside(slot),
                None => self.book.changed(slot),
            }
            if let Some(dot) = doubt.held {
                self.let_go(slot, dot, replica);
            }
        }
    }

    /// A removal need not be kept for a doubt any longer. If it holds the cell after all it has to be told, and the removal to be
    /// kept until then.
    fn let_go(&mut self, slot: Slot, dot: Dot, replica: &mut Replica) {
        self.hold_removal(slot, replica);
        replica.release(dot);
    }

    /// When doubts are looked through that no dump here will end.
    fn next_sweep(&self) -> Option<Mono> {
        let ended_here = self.is_served() && self.can_be_proven();
        (!ended_here).then(|| self.doubts.swept.plus_ms(SWEEP_MS))
    }

    /// How long what another server tells it may be on its way, milliseconds.
    pub(super) fn under_way_ms(&self) -> u64 {
        if self.address.transport == SipTransport::Tcp { LATE_TCP_MS } else { UNDER_WAY_MS }
    }

    /// Whether what another server said then may still be on its way to it.
    fn may_get(&self, said: Stamp, now: Now) -> bool {
        said.time.ms() + self.under_way_ms() > now.wall.0
    }

    /// Whether dumps of this server are small enough to be asked for only to make sure.
    pub(crate) fn can_be_proven(&self) -> bool {
        self.dump_messages() <= super::pull::CHEAP_MESSAGES
    }
}

impl Dmq {
    /// A server has spoken about the cell, then or (`None`) just now: which others it may have told so.
    pub(super) fn doubt_elsewhere(&mut self, by: PeerId, slot: Slot, said: Said, at: Option<Stamp>, cx: &mut Cx<'_>) {
        let lists = self.lend_lists(by).unwrap_or_default();
        let mesh = cx.config.dmq.mode == DmqMode::Mesh;
        for peer in self.peers.values_mut().filter(|peer| peer.id != by) {
            let under_way = at.is_none_or(|at| peer.may_get(at, cx.now));
            if under_way && (mesh || lists.contains(&peer.uri)) {
                peer.doubt(slot, said, cx.replica, cx.now);
            }
        }
        self.return_lists(by, lists);
    }

    /// The same for a change: what another node passes on was just said to others as well.
    pub(super) fn doubt_change(&mut self, change: &Change, cx: &mut Cx<'_>) {
        if change.cause == Cause::Synced {
            return self.doubt_synced(change.slot, cx);
        }
        if !matches!(change.cause, Cause::Local | Cause::Pushed) {
            return;
        }
        let Some(cell) = cx.replica.cell(change.slot) else { return };
        let stamp = cell.order.stamp;
        let Some(by) = self.by_tag.get(&change.via).copied() else { return self.doubt_old(None, change, stamp, cx) };
        let said = match cell.body {
            None => {
                let old = change.old.as_deref().and_then(|old| CellRef::decode(old).ok());
                let contact = old.as_ref().and_then(contact_of);
                Said::Gone(contact.map_or(ANY_RUID, |(_, contact)| fingerprint(&contact.ruid)))
            }
            Some(_) if cell.table == location::TABLE => Said::Other,
            Some(body) => Said::Value(fingerprint(body)),
        };
        // A removal may have the time of what it removed.
        let at = (!matches!(said, Said::Gone(_))).then_some(stamp);
        self.doubt_elsewhere(by, change.slot, said, at, cx);
        self.doubt_old(Some(by), change, stamp, cx);
    }

    /// A sync brings the last word about an entry alone: any of those before it may still be on its way.
    fn doubt_synced(&mut self, slot: Slot, cx: &mut Cx<'_>) {
        let Some(cell) = cx.replica.cell(slot).filter(|cell| cell.table != location::TABLE) else { return };
        let stamp = cell.order.stamp;
        if cx.config.dmq.mode == DmqMode::Mesh {
            for peer in self.peers.values_mut().filter(|peer| peer.may_get(stamp, cx.now)) {
                peer.doubt(slot, Said::Unheard, cx.replica, cx.now);
            }
        }
    }

    /// What was there before may still be on its way to any server, if one has said the new (`by`), and in any case to one that
    /// has just started: it comes with what that asked others for.
    fn doubt_old(&mut self, by: Option<PeerId>, change: &Change, at: Stamp, cx: &mut Cx<'_>) {
        let old = change.old.as_deref().and_then(|old| CellRef::decode(old).ok());
        let old = old.filter(|cell| cell.table != location::TABLE && cx.config.dmq.mode == DmqMode::Mesh);
        let Some((stamp, body)) = old.and_then(|cell| Some((cell.order.stamp, cell.body?))) else { return };
        let said = Said::Value(fingerprint(body));
        // Of two words of its own that came in any order either may be the later one.
        let own = |peer: &Peer| by == Some(peer.id) && peer.comeback.was_repeated(change.slot, stamp);
        for peer in self.peers.values_mut().filter(|peer| peer.may_get(at, cx.now) && !own(peer)) {
            if by.is_some() || peer.comeback.has_restarted_within(2 * peer.under_way_ms(), cx.now.mono) {
                peer.doubt(change.slot, said, cx.replica, cx.now);
            }
        }
    }

    /// When [`Dmq::watch_gaps`] has doubts to look through.
    pub(super) fn next_sweep(&self) -> Option<Mono> {
        self.peers.values().filter_map(Peer::next_sweep).min()
    }

    /// Looks after what is doubtful. What a server says while it is not heard here, others may hear.
    pub(super) fn watch_gaps(&mut self, cx: &mut Cx<'_>) {
        let mesh = cx.config.dmq.mode == DmqMode::Mesh;
        let mut changed = false;
        for peer in self.peers.values_mut() {
            changed |= std::mem::replace(&mut peer.doubts.gap_known, peer.gap) != peer.gap;
            if mesh && peer.book.unproven() > 0 {
                peer.doubts.begin(cx.now.mono);
            }
            if peer.next_sweep().is_some_and(|at| at <= cx.now.mono) {
                peer.doubts.swept = cx.now.mono;
                peer.drop_old_doubts(cx.replica, cx.now.mono);
            }
        }
        if mesh && changed {
            self.peers.values_mut().for_each(|peer| peer.doubts.doubt_all(cx.now.mono));
        }
    }
}
