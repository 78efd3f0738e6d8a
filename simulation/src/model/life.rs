//! What one life of a node covers, and what it must show.

use crdt::{Clock, Origin};

use super::sums::Sums;
use super::{CellNo, NONE, WriteNo, Written};

/// One life of a node's process.
#[derive(Debug)]
pub struct Life {
    /// Its origin.
    pub origin: Origin,
    /// Every dot that it covers, those of retired origins included. It only grows.
    pub covered: Clock,
    /// Whether the process is gone.
    pub over: bool,
    /// Its clock as it was seen last.
    pub(super) seen: Clock,
    /// The greatest covered write by cell.
    best: Vec<WriteNo>,
    /// Over those of them that have a body.
    pub(super) sums: Sums,
}

impl Life {
    pub(super) fn new(origin: Origin) -> Self {
        Self { origin, covered: Clock::new(), over: false, seen: Clock::new(), best: Vec::new(), sums: Sums::default() }
    }

    /// Its clock, as it was seen last.
    pub const fn clock(&self) -> &Clock {
        &self.seen
    }

    /// The greatest covered write of a cell.
    pub fn best(&self, cell: CellNo) -> Option<WriteNo> {
        self.best.get(cell as usize).copied().filter(|&write| write != NONE)
    }

    /// It covers a write.
    pub(super) fn take(&mut self, write: WriteNo, writes: &[Written]) {
        let new = &writes[write as usize];
        let cell = new.cell as usize;
        if self.best.len() <= cell {
            self.best.resize(cell + 1, NONE);
        }
        let held = self.best[cell];
        if held != NONE {
            let old = &writes[held as usize];
            if old.order >= new.order {
                return;
            }
            if !old.order.removed {
                self.sums.sub(old.deadline, old.hash);
            }
        }
        if !new.order.removed {
            self.sums.add(new.deadline, new.hash);
        }
        self.best[cell] = write;
    }
}
