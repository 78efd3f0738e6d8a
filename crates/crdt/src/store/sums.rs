//! Running sums over live cells, for digests (R9): per table in all, and per table and second of deadline.
//!
//! A digest at some moment is the sum of all cells with a body, less those whose deadline has passed. The latter is
//! kept as a running sum up to a cursor, so a digest costs the tables and the seconds between cursor and moment, not the
//! cells. The cursor may go back: the wall clock may.

use std::collections::BTreeMap;

use super::slots::TableId;

/// A sum of cell hashes (wrapping) and the number of cells in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) hash: u128,
    pub(crate) cells: u64,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.hash = self.hash.wrapping_add(other.hash);
        self.cells += other.cells;
    }

    fn sub(&mut self, other: Self) {
        self.hash = self.hash.wrapping_sub(other.hash);
        self.cells -= other.cells;
    }
}

/// The sums of a store.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    all: Vec<Sum>,
    by_deadline: BTreeMap<(u64, TableId), Sum>,
    /// The sum of what has a deadline of at most `cursor`.
    passed: Vec<Sum>,
    cursor: u64,
}

impl Sums {
    /// Makes room for a table.
    pub(crate) fn grow(&mut self, tables: usize) {
        self.all.resize(tables, Sum::default());
        self.passed.resize(tables, Sum::default());
    }

    /// Counts a cell with a body.
    pub(crate) fn add(&mut self, table: TableId, deadline: Option<u64>, hash: u128) {
        let one = Sum { hash, cells: 1 };
        self.all[usize::from(table)].add(one);
        if let Some(deadline) = deadline {
            self.by_deadline.entry((deadline, table)).or_default().add(one);
            if deadline <= self.cursor {
                self.passed[usize::from(table)].add(one);
            }
        }
    }

    /// Takes back a cell that was counted.
    pub(crate) fn sub(&mut self, table: TableId, deadline: Option<u64>, hash: u128) {
        let one = Sum { hash, cells: 1 };
        self.all[usize::from(table)].sub(one);
        if let Some(deadline) = deadline {
            if let Some(sum) = self.by_deadline.get_mut(&(deadline, table)) {
                sum.sub(one);
                if sum.cells == 0 {
                    self.by_deadline.remove(&(deadline, table));
                }
            }
            if deadline <= self.cursor {
                self.passed[usize::from(table)].sub(one);
            }
        }
    }

    /// Moves the cursor, so that digests near `secs` are cheap.
    pub(crate) fn advance(&mut self, secs: u64) {
        let (low, high) = (self.cursor.min(secs), self.cursor.max(secs));
        if low < high {
            for (&(_, table), &sum) in self.by_deadline.range((low + 1, 0)..=(high, TableId::MAX)) {
                let passed = &mut self.passed[usize::from(table)];
                if secs > self.cursor { passed.add(sum) } else { passed.sub(sum) }
            }
        }
        self.cursor = secs;
    }

    /// Per table, the sum of what has a later deadline than `secs`, or none.
    pub(crate) fn beyond(&self, secs: u64) -> Vec<Sum> {
        let mut sums = self.all.clone();
        for (sum, passed) in sums.iter_mut().zip(&self.passed) {
            sum.sub(*passed);
        }
        let (low, high) = (self.cursor.min(secs), self.cursor.max(secs));
        if low < high {
            for (&(_, table), &between) in self.by_deadline.range((low + 1, 0)..=(high, TableId::MAX)) {
                let sum = &mut sums[usize::from(table)];
                if secs > self.cursor { sum.sub(between) } else { sum.add(between) }
            }
        }
        sums
    }

    /// Bytes, roughly.
    pub(crate) fn memory(&self) -> usize {
        self.by_deadline.len() * (size_of::<((u64, TableId), Sum)>() + 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_beyond_a_second_is_the_same_wherever_the_cursor_is() {
        let cells = [(0, None, 1_u128), (0, Some(5), 20), (1, Some(7), 300), (1, Some(9), 4_000)];
        for cursor in [0, 5, 6, 9, 20] {
            let mut sums = Sums::default();
            sums.grow(2);
            sums.advance(6);
            for (table, deadline, hash) in cells {
                sums.add(table, deadline, hash);
            }
            sums.advance(cursor);
            let beyond = |secs| sums.beyond(secs).iter().map(|s| s.hash).sum::<u128>();
            assert_eq!((beyond(4), beyond(5), beyond(8), beyond(9)), (4_321, 4_301, 4_001, 1), "cursor {cursor}");
            sums.sub(1, Some(7), 300);
            assert_eq!(sums.beyond(0)[1], Sum { hash: 4_000, cells: 1 });
        }
    }
}
