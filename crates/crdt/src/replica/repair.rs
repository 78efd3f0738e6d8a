//! Repair (R9): equal clocks showed unequal digests, so the book-keeping of one of us is wrong. Dots cannot be trusted
//! then; cells are compared as they are, by ranges of their ids.
//!
//! Both sides do the same with the other's cells: where both hold a cell, the greater order stays; what only we hold and
//! is live, we issue again.

use std::collections::BTreeSet;

use super::Replica;
use crate::cell::{CellRef, id_bytes};
use crate::change::Cause;
use crate::ids::Wall;

/// What a repair did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Versions taken from the peer, because they are greater than ours.
    pub taken: u64,
    /// Cells that only we had, issued again.
    pub reissued: u64,
    /// Bytes that are no cells, or cells that cannot be taken: too far ahead, or under a dot that names another cell here.
    pub refused: u64,
}

/// The range that a cell belongs to: a byte of the hash of its id.
fn range_of(bytes: &[u8]) -> u8 {
    id_bytes(bytes).map_or(0, |id| twox_hash::XxHash3_128::oneshot(id) as u8)
}

impl Replica {
    /// For each of the 256 ranges of ids, the sum over the cells that [`Replica::digest_beyond`] covers. Costs all cells.
    pub fn range_digests(&self, horizon: u64) -> Vec<u128> {
        let mut sums = vec![0_u128; 256];
        for (slot, cell) in self.scan(None, usize::MAX) {
            if let Some(bytes) = self.bytes(slot).filter(|_| cell.is_live_at(horizon)) {
                let sum = &mut sums[usize::from(range_of(bytes))];
                *sum = sum.wrapping_add(super::digest::hash(bytes));
            }
        }
        sums
    }

    /// The canonical bytes of all cells held in a range, dead ones included: the peer has to know what beats its own.
    pub fn range_cells(&self, range: u8) -> impl Iterator<Item = &[u8]> {
        let blobs = (0..self.slots.len()).filter_map(|slot| self.slots.bytes(slot as u32));
        blobs.filter(move |bytes| range_of(bytes) == range)
    }

    /// Compares a range with all the peer's cells in it ([`Replica::range_cells`] there).
    pub fn repair_range<'a>(
        &mut self,
        range: u8,
        horizon: u64,
        theirs: impl IntoIterator<Item = &'a [u8]>,
        now: Wall,
    ) -> Repaired {
        let mut repaired = Repaired::default();
        let mut both = BTreeSet::new();
        for bytes in theirs {
            match CellRef::decode(bytes) {
                Ok(cell) if range_of(bytes) == range => both.extend(self.repair_cell(&cell, bytes, now, &mut repaired)),
                _ => repaired.refused += 1,
            }
        }
        let ours = self.scan(None, usize::MAX).filter(|(slot, cell)| {
            let here = self.bytes(*slot).is_some_and(|bytes| range_of(bytes) == range);
            here && cell.is_live_at(horizon) && !both.contains(&slot.0)
        });
        let only_ours: Vec<u32> = ours.map(|(slot, _)| slot.0).collect();
        for slot in only_ours {
            repaired.reissued += u64::from(self.reissue(slot));
        }
        repaired
    }

    /// Compares one cell; gives its slot if both have it.
    fn repair_cell(&mut self, cell: &CellRef<'_>, bytes: &[u8], now: Wall, repaired: &mut Repaired) -> Option<u32> {
        let table = self.table_id(cell.table)?;
        let (slot, facts) = self.find(table, cell)?;
        let ours = self.slots.bytes(slot)?;
        // One dot with two bodies is dot reuse; the greater bytes stay, so that both sides agree.
        let greater = (cell.order, bytes) > (facts.order, ours);
        let dot = cell.order.dot;
        let free = self.dots.get(dot).is_none_or(|shown| shown == slot) && !self.is_retired(dot);
        if greater && (!free || cell.order.stamp.time.ms() > self.rules.latest_ms(now)) {
            repaired.refused += 1;
        } else if greater {
            self.hybrid.observe(cell.order.stamp.time);
            self.take(Some((slot, facts)), cell, table, bytes.into(), Cause::Repaired, 0);
            if dot.origin != self.origin {
                self.clock.insert(dot);
            }
            repaired.taken += 1;
        }
        Some(slot)
    }
}
