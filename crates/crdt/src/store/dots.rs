//! Which slot shows which dot: for each origin, pages of 256 sequences.
//!
//! A page is a bitmap and the slots of the set bits, packed. A full page costs 4.3 bytes per dot; a page of which 16 dots
//! are left, 9. New dots are appended; most dots die in place, and an empty page goes.
//!
//! **Invariant:** a dot is here exactly while the version that it names is the current one of a held cell.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::ids::{Dot, Origin};

const PAGE: u64 = 256;

#[derive(Debug, Default)]
struct Page {
    bits: [u64; 4],
    slots: Vec<u32>,
}

impl Page {
    /// Whether the bit is set, and how many set bits lie before it.
    fn rank(&self, at: u64) -> (bool, usize) {
        let (word, bit) = ((at / 64) as usize, at % 64);
        let before: u32 = self.bits[..word].iter().map(|w| w.count_ones()).sum();
        let below = self.bits[word] & ((1 << bit) - 1);
        (self.bits[word] >> bit & 1 == 1, (before + below.count_ones()) as usize)
    }

    fn insert(&mut self, at: u64, slot: u32) {
        let (set, rank) = self.rank(at);
        if set {
            self.slots[rank] = slot;
            return;
        }
        if self.slots.len() == self.slots.capacity() {
            // Doubling would leave a quarter of the index empty.
            self.slots.reserve_exact((self.slots.len() / 4).clamp(4, 64));
        }
        self.slots.insert(rank, slot);
        self.bits[(at / 64) as usize] |= 1 << (at % 64);
    }

    fn remove(&mut self, at: u64) {
        let (set, rank) = self.rank(at);
        if set {
            self.slots.remove(rank);
            self.bits[(at / 64) as usize] &= !(1 << (at % 64));
            if self.slots.len() < self.slots.capacity() / 2 {
                self.slots.shrink_to(self.slots.len() + 4);
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        let set = (0..PAGE).filter(|at| self.bits[(at / 64) as usize] >> (at % 64) & 1 == 1);
        set.zip(self.slots.iter().copied())
    }
}

/// The index of all current dots.
#[derive(Debug, Default)]
pub(crate) struct DotIndex {
    origins: BTreeMap<Origin, BTreeMap<u64, Page>>,
}

impl DotIndex {
    pub(crate) fn get(&self, dot: Dot) -> Option<u32> {
        let page = self.origins.get(&dot.origin)?.get(&(dot.seq / PAGE))?;
        let (set, rank) = page.rank(dot.seq % PAGE);
        set.then(|| page.slots[rank])
    }

    pub(crate) fn insert(&mut self, dot: Dot, slot: u32) {
        let pages = self.origins.entry(dot.origin).or_default();
        pages.entry(dot.seq / PAGE).or_default().insert(dot.seq % PAGE, slot);
    }

    /// Takes a dot out if it names this slot.
    pub(crate) fn remove(&mut self, dot: Dot, slot: u32) {
        if self.get(dot) != Some(slot) {
            return;
        }
        let Some(pages) = self.origins.get_mut(&dot.origin) else { return };
        let Some(page) = pages.get_mut(&(dot.seq / PAGE)) else { return };
        page.remove(dot.seq % PAGE);
        if page.slots.is_empty() {
            pages.remove(&(dot.seq / PAGE));
        }
        if pages.is_empty() {
            self.origins.remove(&dot.origin);
        }
    }

    /// Whether any cell shows a dot of this origin.
    pub(crate) fn shows(&self, origin: Origin) -> bool {
        self.origins.contains_key(&origin)
    }

    /// The dots of a range that cells show, ascending, with their slots.
    pub(crate) fn range(&self, origin: Origin, seqs: RangeInclusive<u64>) -> impl Iterator<Item = (u64, u32)> + '_ {
        let (first, last) = (*seqs.start(), *seqs.end());
        let pages = self.origins.get(&origin).map(|pages| pages.range(first / PAGE..=last / PAGE));
        pages
            .into_iter()
            .flatten()
            .flat_map(|(number, page)| page.iter().map(move |(at, slot)| (number * PAGE + at, slot)))
            .filter(move |(seq, _)| (first..=last).contains(seq))
    }

    /// All dots that cells show, by origin, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Dot, u32)> + '_ {
        self.origins
            .keys()
            .flat_map(|&origin| self.range(origin, 0..=u64::MAX).map(move |(seq, slot)| (Dot { origin, seq }, slot)))
    }

    /// Bytes, roughly.
    pub(crate) fn memory(&self) -> usize {
        let page = |page: &Page| size_of::<u64>() + size_of::<Page>() + page.slots.capacity() * size_of::<u32>();
        self.origins.values().flat_map(BTreeMap::values).map(page).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_index_is_a_map_from_dots_to_slots(
            steps in proptest::collection::vec((0..2_u64, 1..700_u64, any::<bool>()), 0..400),
            first in 0..700_u64, len in 0..700_u64,
        ) {
            let (mut index, mut model) = (DotIndex::default(), BTreeMap::new());
            for (slot, (origin, seq, insert)) in (0_u32..).zip(steps) {
                let dot = Dot { origin: Origin(origin), seq };
                if insert {
                    index.insert(dot, slot);
                    model.insert(dot, slot);
                } else if let Some(slot) = model.remove(&dot) {
                    index.remove(dot, slot);
                }
                prop_assert_eq!(index.get(dot), model.get(&dot).copied());
            }
            prop_assert_eq!(index.iter().collect::<Vec<_>>(), model.iter().map(|(d, s)| (*d, *s)).collect::<Vec<_>>());
            for origin in [Origin(0), Origin(1)] {
                let dot = |seq| Dot { origin, seq };
                let found: Vec<_> = index.range(origin, first..=first + len).collect();
                let wanted: Vec<_> = model.range(dot(first)..=dot(first + len)).map(|(d, s)| (d.seq, *s)).collect();
                prop_assert_eq!(found, wanted);
                prop_assert_eq!(index.shows(origin), model.keys().any(|d| d.origin == origin));
            }
        }
    }

    #[test]
    fn a_dot_that_names_another_slot_stays() {
        let mut index = DotIndex::default();
        let dot = Dot { origin: Origin(1), seq: 1 };
        index.insert(dot, 3);
        index.remove(dot, 4);
        assert_eq!(index.get(dot), Some(3));
    }
}
