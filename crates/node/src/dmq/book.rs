//! What one server is known to hold, cell by cell, in its present life.
//!
//! Learned from the server's own messages and dumps, from our requests that it answered, and from
//! what another server has told it directly. Only the first kind is proof ([`Proof::Seen`]): 200 is
//! not "stored". What it agreed on last is kept as long as it lives, also when it holds nothing, or nobody knows what: it is the
//! base of what it sets there next. Invariant: no entry outlives the cell's slot, and an entry without a ruid of its own means that
//! the server has the contact under the ruid of the body that the store holds.

use std::collections::BTreeSet;

use crdt::{Dot, Order, Slot, SlotMap, Stamp};
use serde::{Deserialize, Serialize};

use crate::io::Mono;

/// Names a version of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    /// When it was written.
    pub(crate) stamp: Stamp,
    /// Which write it is.
    pub(crate) dot: Dot,
}

impl From<Order> for Version {
    fn from(order: Order) -> Self {
        Self { stamp: order.stamp, dot: order.dot }
    }
}

/// How we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Proof {
    /// The server itself showed it: as the sender or in a dump.
    Seen,
    /// It answered our request with 200.
    Answered,
    /// Another server told it directly.
    Told,
    /// Not at all: only what it agreed on last is known ([`Entry::agreed`]).
    Base,
}

/// What the server holds of one cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Which version; `None`: something else than any version we could name.
    pub(crate) held: Option<Version>,
    /// How we know.
    pub(crate) proof: Proof,
    /// The last version that we and the server agreed on, for stamping what it changed on its own (docs/rules.md 14).
    pub(crate) agreed: Option<Stamp>,
    /// The ruid that this server has for the contact, where it differs from the held body's.
    pub(crate) ruid: Option<Box<[u8]>>,
    /// Hash of the value that a hash-table entry has there, or had; 0 for contacts.
    pub(crate) value: u64,
    /// Number of the pull during or after which the server last showed it.
    pub(crate) shown_in: u32,
    /// When this was learned, in seconds of the monotonic clock.
    #[serde(skip)]
    pub(crate) learned_s: u32,
}

impl Entry {
    /// What stands on disk for a cell of which nothing is known but what stands beside its entry.
    pub(crate) const fn nothing() -> Self {
        let (held, agreed, ruid, proof) = (None, None, None, Proof::Base);
        Self { held, proof, agreed, ruid, value: 0, shown_in: 0, learned_s: 0 }
    }

    /// Whether it is that.
    pub(crate) fn is_nothing(&self) -> bool {
        self.proof == Proof::Base && self.agreed.is_none()
    }

    fn base(agreed: Stamp, learned_s: u32) -> Self {
        let (held, ruid, proof) = (None, None, Proof::Base);
        Self { held, proof, agreed: Some(agreed), ruid, value: 0, shown_in: 0, learned_s }
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Book {
    entries: SlotMap<Entry>,
    unproven: usize,
    contacts: usize,
    bases: usize,
    /// Entries that are not on disk as they are now; `None` without a disk.
    unsaved: Option<BTreeSet<Slot>>,
}

impl Book {
    /// An empty one; `saved` if it goes to disk.
    pub(crate) fn new(saved: bool) -> Self {
        Self { unsaved: saved.then(BTreeSet::new), ..Self::default() }
    }

    /// What the server is known to hold of a cell.
    pub(crate) fn get(&self, slot: Slot) -> Option<&Entry> {
        self.entries.get(slot).filter(|entry| entry.proof != Proof::Base)
    }

    /// Whether the server is known to hold just this version.
    pub(crate) fn holds(&self, slot: Slot, version: Version) -> bool {
        self.get(slot).is_some_and(|e| e.held == Some(version))
    }

    /// What of the cell the server changes if it changes something: see [`Entry::agreed`].
    pub(crate) fn base(&self, slot: Slot) -> Option<Stamp> {
        self.entries.get(slot).and_then(|entry| entry.agreed)
    }

    /// The server holds nothing of an entry, and knows of the removal that has this stamp. `doubtful` if it has only answered so: then
    /// it may still show what it had.
    pub(crate) fn removed(&mut self, slot: Slot, agreed: Stamp, doubtful: bool, now: Mono) {
        let value = self.remove(slot).filter(|_| doubtful).map_or(0, |entry| entry.value);
        self.insert(slot, Entry { value, ..Entry::base(agreed, seconds(now)) });
        self.unsaved(slot);
    }

    /// Whether it has shown this value of an entry before, or was told it, and nothing of its own since.
    pub(crate) fn has_had(&self, slot: Slot, value: u64) -> bool {
        self.entries.get(slot).is_some_and(|entry| entry.value == value)
    }

    /// What it holds is not known any more, only what of entries it agreed on.
    pub(crate) fn keep_bases(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        self.clear();
        for (slot, entry) in entries.iter() {
            if let Some(agreed) = entry.agreed.filter(|_| entry.value != 0 || entry.proof == Proof::Base) {
                self.insert(slot, Entry::base(agreed, entry.learned_s));
            }
            self.unsaved(slot);
        }
    }

    /// Notes what the server holds; a ruid that was known and is not named anew is kept.
    pub(crate) fn note(&mut self, slot: Slot, note: Note, now: Mono) {
        let base = self.entries.get(slot).filter(|entry| entry.proof == Proof::Base).and_then(|entry| entry.agreed);
        if base.is_some() {
            self.remove(slot);
        }
        let old = self.entries.get_mut(slot);
        // What another server told it may not have arrived: what it was known to have stays the base for what it changes.
        let told = note.proof == Proof::Told;
        let agreed = note.held.filter(|_| !told).map(|v| v.stamp);
        let learned_s = seconds(now);
        if let Some(entry) = old {
            let before = (entry.proof, entry.value);
            let saved = (entry.held, entry.proof, entry.agreed, entry.value);
            let renamed = match note.ruid {
                Ruid::Kept => false,
                Ruid::AsHeld => entry.ruid.is_some(),
                Ruid::Own(ruid) => entry.ruid.as_deref() != Some(ruid),
            };
            entry.held = note.held;
            entry.proof = note.proof;
            entry.agreed = agreed.or(entry.agreed);
            match note.ruid {
                Ruid::Own(ruid) if renamed => entry.ruid = Some(ruid.into()),
                Ruid::AsHeld => entry.ruid = None,
                Ruid::Kept | Ruid::Own(_) => {}
            }
            entry.value = if told { entry.value } else { note.value };
            entry.learned_s = learned_s;
            entry.shown_in = note.pull.unwrap_or(entry.shown_in);
            let after = (entry.proof, entry.value);
            let same = !renamed && saved == (entry.held, entry.proof, entry.agreed, entry.value);
            self.uncount(before);
            self.count(after);
            // A dump mostly shows what is known. In which one it was shown does not outlive the process.
            if same {
                return;
            }
        } else {
            let ruid = match note.ruid {
                Ruid::Kept | Ruid::AsHeld => None,
                Ruid::Own(ruid) => Some(ruid.into()),
            };
            let (held, proof, value) = (note.held, note.proof, note.value);
            let (shown_in, agreed) = (note.pull.unwrap_or(0), agreed.or(base));
            self.insert(slot, Entry { held, proof, agreed, ruid, value, shown_in, learned_s });
        }
        self.unsaved(slot);
    }

    /// Takes up an entry of an earlier process.
    pub(crate) fn restore(&mut self, slot: Slot, entry: Entry) {
        self.insert(slot, Entry { shown_in: 0, ..entry });
    }

    fn insert(&mut self, slot: Slot, entry: Entry) {
        self.count((entry.proof, entry.value));
        self.entries.insert(slot, entry);
    }

    fn count(&mut self, (proof, value): (Proof, u64)) {
        self.unproven += usize::from(proof == Proof::Answered);
        self.bases += usize::from(proof == Proof::Base);
        self.contacts += usize::from(value == 0 && proof != Proof::Base);
    }

    fn uncount(&mut self, (proof, value): (Proof, u64)) {
        self.unproven -= usize::from(proof == Proof::Answered);
        self.bases -= usize::from(proof == Proof::Base);
        self.contacts -= usize::from(value == 0 && proof != Proof::Base);
    }

    /// The entry is not on disk as it is now.
    fn unsaved(&mut self, slot: Slot) {
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.insert(slot);
        }
    }

    /// Something that goes to disk with an entry has changed.
    pub(crate) fn changed(&mut self, slot: Slot) {
        if self.entries.get(slot).is_some() {
            self.unsaved(slot);
        }
    }

    /// The same where something has to be there without an entry too, or had to be.
    pub(crate) fn changed_beside(&mut self, slot: Slot) {
        self.unsaved(slot);
    }

    /// The entries that have changed since the last call, for the disk; `None`: gone.
    pub(crate) fn take_unsaved(&mut self) -> Vec<(Slot, Option<Entry>)> {
        let Some(unsaved) = self.unsaved.as_mut().filter(|unsaved| !unsaved.is_empty()) else { return Vec::new() };
        let slots = std::mem::take(unsaved);
        slots.into_iter().map(|slot| (slot, self.entries.get(slot).cloned())).collect()
    }

    /// Nothing is known any more.
    pub(crate) fn clear(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.extend(entries.iter().map(|(slot, _)| slot));
        }
        self.unproven = 0;
        self.contacts = 0;
        self.bases = 0;
    }

    /// Fixes the ruid of an entry that relied on the held body's, before that body goes.
    pub(crate) fn pin_ruid(&mut self, slot: Slot, ruid: &[u8]) {
        if let Some(entry) = self.entries.get_mut(slot)
            && entry.ruid.is_none()
        {
            entry.ruid = Some(ruid.into());
            self.unsaved(slot);
        }
    }

    /// No dump will ever show the cell: the answer has to do.
    pub(crate) fn waive_proof(&mut self, slot: Slot) {
        if let Some(entry) = self.entries.get_mut(slot)
            && entry.proof == Proof::Answered
        {
            entry.proof = Proof::Told;
            self.unproven -= 1;
            self.unsaved(slot);
        }
    }

    /// Lets go of a ruid that is the held body's again.
    pub(crate) fn unpin_ruid(&mut self, slot: Slot, ruid: &[u8]) {
        if let Some(entry) = self.entries.get_mut(slot)
            && entry.ruid.as_deref() == Some(ruid)
        {
            entry.ruid = None;
            self.unsaved(slot);
        }
    }

    /// What was learned of the cell a moment ago: how, if it was. [`Proof::Base`]: the server was told to remove it, and has answered.
    pub(crate) fn fresh(&self, slot: Slot, now: Mono) -> Option<Proof> {
        // What it has removed itself it has not been told.
        let entry = self.entries.get(slot).filter(|entry| entry.proof != Proof::Base || entry.value != 0)?;
        (seconds(now).saturating_sub(entry.learned_s) <= CROSSING_S).then_some(entry.proof)
    }

    /// The server does not hold the cell. Gives what it held.
    pub(crate) fn remove(&mut self, slot: Slot) -> Option<Entry> {
        let entry = self.entries.remove(slot)?;
        self.unsaved(slot);
        self.uncount((entry.proof, entry.value));
        Some(entry).filter(|entry| entry.proof != Proof::Base)
    }

    /// What it holds, in slot order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &Entry)> {
        self.entries.iter().filter(|(_, entry)| entry.proof != Proof::Base)
    }

    /// How many cells it is known to hold.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.bases
    }

    /// How many of them are contacts.
    pub(crate) fn contacts(&self) -> usize {
        self.contacts
    }

    /// How many of them only by an answer to us.
    pub(crate) fn unproven(&self) -> usize {
        self.unproven
    }
}

/// Which ruid the server has.
#[derive(Debug)]
pub(crate) enum Ruid<'a> {
    /// Nothing new is known.
    Kept,
    /// The held body's.
    AsHeld,
    /// This one.
    Own(&'a [u8]),
}

/// Something new about what a server holds.
#[derive(Debug)]
pub(crate) struct Note<'a> {
    /// See [`Entry::held`].
    pub(crate) held: Option<Version>,
    /// See [`Entry::proof`].
    pub(crate) proof: Proof,
    /// See [`Entry::ruid`].
    pub(crate) ruid: Ruid<'a>,
    /// See [`Entry::value`].
    pub(crate) value: u64,
    /// The pull in or after which the server showed it; `None` if it did not show it.
    pub(crate) pull: Option<u32>,
}

/// Messages of two servers about one cell within this many seconds may have crossed on their way to each other.
const CROSSING_S: u32 = 2;

fn seconds(now: Mono) -> u32 {
    u32::try_from(now.ms() / 1_000).unwrap_or(u32::MAX)
}

/// The hash by which values of hash-table entries are compared; never 0.
pub(crate) fn fingerprint(body: &[u8]) -> u64 {
    use std::hash::Hasher;
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(body);
    hasher.finish().max(1)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn shown(pull: u32, ruid: Ruid<'_>) -> Note<'_> {
        let held = Version { stamp: Stamp::default(), dot: Dot { origin: crdt::Origin(1), seq: 1 } };
        Note { held: Some(held), proof: Proof::Seen, ruid, value: 0, pull: Some(pull) }
    }

    #[test]
    fn what_is_shown_again_is_not_saved_again() {
        let (mut book, slot, now) = (Book::new(true), slot(), Mono(0));
        book.note(slot, shown(1, Ruid::AsHeld), now);
        assert_eq!(book.take_unsaved().len(), 1);
        book.note(slot, shown(2, Ruid::AsHeld), now);
        assert!(book.take_unsaved().is_empty());
        assert_eq!(book.get(slot).map(|entry| entry.shown_in), Some(2));
        book.note(slot, shown(3, Ruid::Own(b"r")), now);
        assert_eq!(book.take_unsaved().len(), 1);
        book.note(slot, shown(4, Ruid::Own(b"r")), now);
        assert!(book.take_unsaved().is_empty());
    }

    #[test]
    fn what_was_agreed_on_stays_the_base_when_nobody_knows_what_is_held() {
        let (mut book, slot, now) = (Book::new(true), slot(), Mono(0));
        let entry = Note { value: 7, ..shown(1, Ruid::AsHeld) };
        book.note(slot, entry, now);
        book.keep_bases();
        assert!(book.get(slot).is_none() && book.len() == 0 && book.contacts() == 0 && book.iter().next().is_none());
        assert_eq!(book.base(slot), Some(Stamp::default()));
        assert!(matches!(&book.take_unsaved()[..], [(_, Some(saved))] if saved.proof == Proof::Base));
        let later = Stamp { time: crdt::Hlc::from_ms(5), ..Stamp::default() };
        book.removed(slot, later, false, now);
        assert_eq!((book.base(slot), book.fresh(slot, now)), (Some(later), None));
        book.note(slot, Note { value: 7, ..shown(1, Ruid::AsHeld) }, now);
        book.removed(slot, later, true, now);
        assert_eq!((book.base(slot), book.fresh(slot, now)), (Some(later), Some(Proof::Base)));
        book.note(slot, Note { proof: Proof::Told, value: 8, ..shown(2, Ruid::AsHeld) }, now);
        assert_eq!((book.len(), book.base(slot)), (1, Some(later)));
        book.remove(slot);
        assert_eq!(book.base(slot), None);
    }

    #[test]
    fn of_what_is_held_of_contacts_nothing_is_kept_when_nobody_knows() {
        let (mut book, slot) = (Book::new(true), slot());
        book.note(slot, shown(1, Ruid::AsHeld), Mono(0));
        book.keep_bases();
        assert_eq!(book.base(slot), None);
        assert!(matches!(&book.take_unsaved()[..], [(_, None)]));
    }

    /// Any slot.
    pub(in crate::dmq) fn slot() -> Slot {
        use crdt::{NodeId, Origin, Outcome, Replica, Rules, StampRule, TableRules, Wall, Write};
        let rules = Rules::new(1, 1).table("t", TableRules::by_time(60));
        let mut replica = Replica::new(NodeId(1), Origin(1), rules, 1);
        let write = Write {
            table: "t",
            key: b"k",
            member: b"",
            rank: 0,
            stamp: StampRule::Now,
            deadline: Some(1_030),
            body: Some(b"v"),
            via: 0,
            birth: None,
        };
        match replica.write(Wall(1_000_000), write) {
            Ok(Outcome::Written(slot, _)) => slot,
            other => panic!("{other:?}"),
        }
    }
}
