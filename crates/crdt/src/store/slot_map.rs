//! A map from slots, for whoever notes something about very many cells: who holds them, when they were spoken of.
//!
//! Slots count up from 0 and are used again, so the map is an array in pages: a lookup is two steps, without hashing or
//! searching, and what is noted of all cells costs no more than the notes.
//!
//! **Invariant:** a page is there exactly while it holds something, so a map of few scattered slots stays small.

use crate::store::slots::Slot;

/// Entries per page: few, because scattered slots have a page each.
const PAGE: usize = 16;

#[derive(Clone, Debug)]
struct Page<T> {
    held: usize,
    entries: [Option<T>; PAGE],
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self { held: 0, entries: std::array::from_fn(|_| None) }
    }
}

/// A map from slots to `T`, in the order of the slots.
#[derive(Clone, Debug)]
pub struct SlotMap<T> {
    pages: Vec<Option<Box<Page<T>>>>,
    len: usize,
}

impl<T> Default for SlotMap<T> {
    fn default() -> Self {
        Self { pages: Vec::new(), len: 0 }
    }
}

const fn place(slot: Slot) -> (usize, usize) {
    (slot.0 as usize / PAGE, slot.0 as usize % PAGE)
}

impl<T> SlotMap<T> {
    /// How many slots have an entry.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether none has.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry of a slot.
    pub fn get(&self, slot: Slot) -> Option<&T> {
        let (page, at) = place(slot);
        self.pages.get(page)?.as_ref()?.entries[at].as_ref()
    }

    /// The entry of a slot, to be changed.
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        let (page, at) = place(slot);
        self.pages.get_mut(page)?.as_mut()?.entries[at].as_mut()
    }

    /// Whether a slot has an entry.
    pub fn contains(&self, slot: Slot) -> bool {
        self.get(slot).is_some()
    }

    /// Enters a value; gives the one that was there.
    pub fn insert(&mut self, slot: Slot, value: T) -> Option<T> {
        let (page, at) = place(slot);
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        let page = self.pages[page].get_or_insert_default();
        let old = page.entries[at].replace(value);
        if old.is_none() {
            page.held += 1;
            self.len += 1;
        }
        old
    }

    /// Takes an entry out.
    pub fn remove(&mut self, slot: Slot) -> Option<T> {
        let (page, at) = place(slot);
        let place = self.pages.get_mut(page)?;
        let page = place.as_mut()?;
        let old = page.entries[at].take()?;
        page.held -= 1;
        self.len -= 1;
        if page.held == 0 {
            *place = None;
        }
        Some(old)
    }

    /// Takes out every entry that is not to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(Slot, &T) -> bool) {
        for (number, place) in self.pages.iter_mut().enumerate() {
            let Some(page) = place else { continue };
            for (at, entry) in page.entries.iter_mut().enumerate() {
                if entry.as_ref().is_some_and(|value| !keep(slot(number, at), value)) {
                    *entry = None;
                    page.held -= 1;
                    self.len -= 1;
                }
            }
            if page.held == 0 {
                *place = None;
            }
        }
    }

    /// Takes out everything, and gives back the memory.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// All entries, in the order of the slots.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        self.pages.iter().enumerate().filter_map(|(number, page)| Some((number, page.as_ref()?))).flat_map(
            |(number, page)| {
                let entries = page.entries.iter().enumerate();
                entries.filter_map(move |(at, entry)| Some((slot(number, at), entry.as_ref()?)))
            },
        )
    }
}

/// The slot of a place; only of places that a slot was entered at, so it fits.
const fn slot(page: usize, at: usize) -> Slot {
    Slot((page * PAGE + at) as u32)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((0..200_u32, 0..4_u8, any::<u16>()), 0..300)) {
            let (mut map, mut model) = (SlotMap::default(), BTreeMap::new());
            for (number, step, value) in steps {
                let slot = Slot(number);
                match step {
                    0 | 1 => prop_assert_eq!(map.insert(slot, value), model.insert(slot, value)),
                    2 => prop_assert_eq!(map.remove(slot), model.remove(&slot)),
                    _ => {
                        map.retain(|slot, held| slot.0 % 7 != number % 7 || *held > value);
                        model.retain(|slot, held| slot.0 % 7 != number % 7 || *held > value);
                    }
                }
                prop_assert_eq!(map.get(slot), model.get(&slot));
                prop_assert_eq!(map.len(), model.len());
            }
            let held: Vec<(Slot, u16)> = map.iter().map(|(slot, value)| (slot, *value)).collect();
            prop_assert_eq!(held, model.into_iter().collect::<Vec<_>>());
            let filled = map.pages.iter().flatten().all(|page| page.held > 0);
            prop_assert!(filled, "an empty page is held");
        }
    }
}
