//! Sums over cells by deadline: the plain form of what a node keeps for its digests.

use std::collections::BTreeMap;
use std::ops::Bound;

/// A sum of cell hashes (wrapping) and the number of cells in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Of the hashes.
    pub hash: u128,
    /// How many.
    pub cells: u64,
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

/// One sum per deadline.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    endless: Sum,
    ending: BTreeMap<u64, Sum>,
}

impl Sums {
    pub(super) fn add(&mut self, deadline: Option<u64>, hash: u128) {
        let one = Sum { hash, cells: 1 };
        match deadline {
            None => self.endless.add(one),
            Some(deadline) => self.ending.entry(deadline).or_default().add(one),
        }
    }

    pub(super) fn sub(&mut self, deadline: Option<u64>, hash: u128) {
        let one = Sum { hash, cells: 1 };
        let Some(deadline) = deadline else { return self.endless.sub(one) };
        if let Some(sum) = self.ending.get_mut(&deadline) {
            sum.sub(one);
            if sum.cells == 0 {
                self.ending.remove(&deadline);
            }
        }
    }

    /// Of what has a deadline after a unix second, or none.
    pub(super) fn beyond(&self, horizon: u64) -> Sum {
        let mut all = self.endless;
        self.ending.range((Bound::Excluded(horizon), Bound::Unbounded)).for_each(|(_, sum)| all.add(*sum));
        all
    }
}
