//! Who is due when: slots by the second in which something has to be done about them.
//!
//! A slot has at most one valid entry, the one of the second that its `due` names. A later deadline (a refresh) leaves the
//! entry where it is: when it fires, the slot is put where it now belongs. Only an earlier one makes a second entry, and
//! the first is then stale. So a refresh costs nothing here. Seconds are keys of an ordered map: there are only as many as
//! there are distinct deadlines, however far ahead, and the wall clock may jump.

use std::collections::BTreeMap;

/// Buckets of slots per unix second.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    seconds: BTreeMap<u32, Vec<u32>>,
}

impl Ring {
    pub(crate) fn insert(&mut self, due: u32, slot: u32) {
        let bucket = self.seconds.entry(due).or_default();
        if bucket.len() == bucket.capacity() {
            bucket.reserve_exact((bucket.len() / 4).max(4));
        }
        bucket.push(slot);
    }

    /// Takes out one entry that is due at `now` or before.
    pub(crate) fn pop(&mut self, now: u32) -> Option<(u32, u32)> {
        let mut first = self.seconds.first_entry().filter(|first| *first.key() <= now)?;
        let due = *first.key();
        let slot = first.get_mut().pop();
        if first.get().is_empty() {
            first.remove();
        }
        slot.map(|slot| (due, slot))
    }

    /// The first second in which something is due.
    pub(crate) fn next(&self) -> Option<u32> {
        self.seconds.keys().next().copied()
    }

    /// Bytes, roughly.
    pub(crate) fn memory(&self) -> usize {
        let bucket = |bucket: &Vec<u32>| bucket.capacity() * size_of::<u32>() + size_of::<(u32, Vec<u32>)>();
        self.seconds.values().map(bucket).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_out_second_by_second() {
        let mut ring = Ring::default();
        for (due, slot) in [(5, 1), (3, 2), (9, 3)] {
            ring.insert(due, slot);
        }
        assert_eq!(ring.next(), Some(3));
        let fired: Vec<_> = std::iter::from_fn(|| ring.pop(5)).collect();
        assert_eq!(fired, [(3, 2), (5, 1)]);
        assert_eq!(ring.next(), Some(9));
    }
}
