//! Sums over cells by deadline: the plain form of what a node keeps for its digests.

use std::collections::BTreeMap;

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
    /// Whatever its deadline.
    all: Sum,
    ending: BTreeMap<u64, Sum>,
}

impl Sums {
    pub(super) fn add(&mut self, deadline: Option<u64>, hash: u128) {
        let one = Sum { hash, cells: 1 };
        self.all.add(one);
        if let Some(deadline) = deadline {
            self.ending.entry(deadline).or_default().add(one);
        }
    }

    pub(super) fn sub(&mut self, deadline: Option<u64>, hash: u128) {
        let one = Sum { hash, cells: 1 };
        self.all.sub(one);
        if let Some(deadline) = deadline
            && let Some(sum) = self.ending.get_mut(&deadline)
        {
            sum.sub(one);
            if sum.cells == 0 {
                self.ending.remove(&deadline);
            }
        }
    }

    /// Of what has a deadline after a unix second, or none: fewer seconds have passed than are to come.
    pub(super) fn beyond(&self, horizon: u64) -> Sum {
        let mut rest = self.all;
        self.ending.range(..=horizon).for_each(|(_, sum)| rest.sub(*sum));
        rest
    }
}
