//! Slots: where cells are, and how they are found by table, key and member.
//!
//! All members of a key form a chain; the index knows its head. So one lookup finds a key, and an AoR with several
//! contacts costs one entry. A lookup walks the chain: keys are expected to have tens of members, not thousands.
//!
//! **Invariant:** a freed slot is not used again before [`Slots::recycle`], so whoever holds a handle across that time
//! sees that the cell is gone, never another cell.

use std::hash::{BuildHasher, Hasher};

use foldhash::quality::FixedState;
use hashbrown::HashTable;

use crate::cell::{CellRef, key_and_member};

/// The handle of a cell in the store, stable while the cell is held. It is not used for another cell while changes are
/// undrained or a session is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub(crate) u32);

/// Number of a table name, in the order of first use.
pub(crate) type TableId = u16;

/// End of a chain.
const NONE: u32 = u32::MAX;

/// Entries per segment: segments never move, so the store grows without copying and without a spare half.
const SEGMENT: usize = 1 << 10;

/// What is known of a slot beside the cell's bytes.
#[derive(Debug)]
pub(crate) struct Entry {
    blob: Option<Box<[u8]>>,
    hash: u32,
    next: u32,
    /// The second for which the ring has a valid entry of this slot; `u32::MAX`: none.
    pub(crate) due: u32,
    pub(crate) table: TableId,
    /// The deadline has passed, and that was said.
    pub(crate) expired: bool,
}

/// Segmented slots with their key index.
#[derive(Debug)]
pub(crate) struct Slots {
    segments: Vec<Vec<Entry>>,
    /// Chain heads by the hash of table and key.
    heads: HashTable<u32>,
    hasher: FixedState,
    free: Vec<u32>,
    /// Freed, but perhaps still referred to.
    limbo: Vec<u32>,
    held: usize,
    blob_bytes: usize,
}

fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

impl Slots {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            segments: Vec::new(),
            heads: HashTable::new(),
            hasher: FixedState::with_seed(seed),
            free: Vec::new(),
            limbo: Vec::new(),
            held: 0,
            blob_bytes: 0,
        }
    }

    fn hash(&self, table: TableId, key: &[u8]) -> u32 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u16(table);
        hasher.write(key);
        hasher.finish() as u32
    }

    /// Number of slots ever used, free ones included.
    pub(crate) fn len(&self) -> usize {
        self.segments.last().map_or(0, |last| (self.segments.len() - 1) * SEGMENT + last.len())
    }

    /// Number of cells held.
    pub(crate) const fn held(&self) -> usize {
        self.held
    }

    pub(crate) fn entry(&self, slot: u32) -> Option<&Entry> {
        self.segments.get(slot as usize / SEGMENT)?.get(slot as usize % SEGMENT)
    }

    pub(crate) fn entry_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        self.segments.get_mut(slot as usize / SEGMENT)?.get_mut(slot as usize % SEGMENT)
    }

    /// The entry of a slot that we handed out.
    fn known(&self, slot: u32) -> &Entry {
        &self.segments[slot as usize / SEGMENT][slot as usize % SEGMENT]
    }

    fn known_mut(&mut self, slot: u32) -> &mut Entry {
        &mut self.segments[slot as usize / SEGMENT][slot as usize % SEGMENT]
    }

    pub(crate) fn bytes(&self, slot: u32) -> Option<&[u8]> {
        self.entry(slot)?.blob.as_deref()
    }

    /// The cell in a slot. What is held was checked when it came in.
    pub(crate) fn cell(&self, slot: u32) -> Option<CellRef<'_>> {
        self.bytes(slot).map(|bytes| CellRef::decode(bytes).expect("held cells are canonical"))
    }

    fn id(&self, slot: u32) -> Option<(&[u8], &[u8])> {
        key_and_member(self.bytes(slot)?)
    }

    fn head(&self, table: TableId, key: &[u8], hash: u32) -> Option<u32> {
        let is_head = |&slot: &u32| {
            let entry = self.known(slot);
            entry.hash == hash && entry.table == table && self.id(slot).is_some_and(|(held, _)| held == key)
        };
        self.heads.find(spread(hash), is_head).copied()
    }

    /// The members of a key, in no meaningful order.
    pub(crate) fn chain(&self, table: TableId, key: &[u8]) -> impl Iterator<Item = u32> + '_ {
        let head = self.head(table, key, self.hash(table, key));
        std::iter::successors(head, |&slot| Some(self.known(slot).next).filter(|&next| next != NONE))
    }

    pub(crate) fn find(&self, table: TableId, key: &[u8], member: &[u8]) -> Option<u32> {
        self.chain(table, key).find(|&slot| self.id(slot).is_some_and(|(_, held)| held == member))
    }

    /// Holds a new cell. The caller knows that the id is not held.
    pub(crate) fn insert(&mut self, table: TableId, key: &[u8], blob: Box<[u8]>) -> u32 {
        let hash = self.hash(table, key);
        let head = self.head(table, key, hash);
        self.held += 1;
        self.blob_bytes += blob.len();
        let next = head.map_or(NONE, |head| std::mem::replace(&mut self.known_mut(head).next, NONE));
        let slot = self.place(Entry { blob: Some(blob), hash, next, due: u32::MAX, table, expired: false });
        match head {
            // Second in the chain: the index goes on pointing to the head.
            Some(head) => self.known_mut(head).next = slot,
            None => {
                let segments = &self.segments;
                let hash_of = |&s: &u32| spread(segments[s as usize / SEGMENT][s as usize % SEGMENT].hash);
                self.heads.insert_unique(spread(hash), slot, hash_of);
            }
        }
        slot
    }

    fn place(&mut self, entry: Entry) -> u32 {
        if let Some(slot) = self.free.pop() {
            *self.known_mut(slot) = entry;
            return slot;
        }
        if self.segments.last().is_none_or(|last| last.len() == SEGMENT) {
            self.segments.push(Vec::with_capacity(SEGMENT));
        }
        let slot = u32::try_from(self.len()).expect("fewer than 2^32 cells");
        self.segments.last_mut().expect("there is a segment").push(entry);
        slot
    }

    /// Replaces a cell's bytes; gives the old ones.
    pub(crate) fn replace(&mut self, slot: u32, blob: Box<[u8]>) -> Box<[u8]> {
        self.blob_bytes += blob.len();
        let old = self.known_mut(slot).blob.replace(blob).expect("the slot holds a cell");
        self.blob_bytes -= old.len();
        old
    }

    /// Frees a slot; gives the bytes that it held.
    pub(crate) fn remove(&mut self, slot: u32) -> Box<[u8]> {
        let (hash, next) = (self.known(slot).hash, self.known(slot).next);
        let at_head = self.heads.find_entry(spread(hash), |&head| head == slot);
        match at_head {
            Ok(mut head) if next != NONE => *head.get_mut() = next,
            Ok(head) => drop(head.remove()),
            Err(_) => {
                let before = self.before(slot);
                self.known_mut(before).next = next;
            }
        }
        let entry = self.known_mut(slot);
        entry.next = NONE;
        entry.due = u32::MAX;
        let blob = entry.blob.take().expect("the slot holds a cell");
        self.held -= 1;
        self.blob_bytes -= blob.len();
        self.limbo.push(slot);
        blob
    }

    fn before(&self, slot: u32) -> u32 {
        let cell = self.cell(slot).expect("the slot holds a cell");
        let mut chain = self.chain(self.known(slot).table, cell.key);
        chain.find(|&other| self.known(other).next == slot).expect("a chained slot has one before it")
    }

    /// Lets freed slots be used again: nobody refers to them any more.
    pub(crate) fn recycle(&mut self) {
        self.free.append(&mut self.limbo);
    }

    /// Bytes of cells, and bytes of entries and the key index.
    pub(crate) fn memory(&self) -> (usize, usize) {
        let entries = self.segments.len() * SEGMENT * size_of::<Entry>();
        let lists = (self.free.capacity() + self.limbo.capacity()) * size_of::<u32>();
        (self.blob_bytes, entries + self.heads.allocation_size() + lists)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dot, Order, Origin, Stamp};

    fn blob(key: &[u8], member: &[u8]) -> Box<[u8]> {
        let dot = Dot { origin: Origin(1), seq: 1 };
        let order = Order { rank: 0, stamp: Stamp::default(), removed: true, dot };
        CellRef { table: "t", key, member, order, birth: None, deadline: None, body: None }.encode().into()
    }

    #[test]
    fn every_member_of_a_chain_can_be_removed_and_the_others_stay() {
        for gone in 0..3_u8 {
            let mut slots = Slots::new(7);
            let handles: Vec<u32> = (0..3).map(|m| slots.insert(0, b"k", blob(b"k", &[m]))).collect();
            slots.insert(0, b"other", blob(b"other", &[0]));
            slots.remove(handles[usize::from(gone)]);
            for m in 0..3 {
                let found = slots.find(0, b"k", &[m]);
                assert_eq!(found, (m != gone).then(|| handles[usize::from(m)]), "gone {gone}, member {m}");
            }
            assert_eq!((slots.chain(0, b"k").count(), slots.held()), (2, 3));
        }
    }

    #[test]
    fn a_freed_slot_is_used_again_only_after_recycling() {
        let mut slots = Slots::new(7);
        let first = slots.insert(0, b"a", blob(b"a", b""));
        slots.remove(first);
        assert_eq!(slots.bytes(first), None);
        assert_ne!(slots.insert(0, b"b", blob(b"b", b"")), first);
        slots.recycle();
        assert_eq!(slots.insert(0, b"c", blob(b"c", b"")), first);
    }

    #[test]
    fn tables_with_equal_keys_are_apart() {
        let mut slots = Slots::new(7);
        slots.insert(0, b"k", blob(b"k", b""));
        assert_eq!(slots.find(1, b"k", b""), None);
    }

    #[test]
    fn many_keys_are_found_after_the_index_grew() {
        let mut slots = Slots::new(7);
        let keys: Vec<[u8; 4]> = (0..5_000_u32).map(u32::to_be_bytes).collect();
        let handles: Vec<u32> = keys.iter().map(|key| slots.insert(0, key, blob(key, b""))).collect();
        for (key, handle) in keys.iter().zip(handles) {
            assert_eq!(slots.find(0, key, b""), Some(handle));
        }
    }
}
