//! Digests (R9): sums over live cells. Equal clocks, equal digests; otherwise it is a bug of ours.

use std::collections::BTreeMap;

use super::Replica;
use crate::ids::Wall;

/// Sums over the live cells of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// Of all tables.
    pub total: u128,
    /// How many.
    pub cells: u64,
    /// By table: sum and number. A table without live cells is left out.
    pub tables: BTreeMap<String, (u128, u64)>,
}

/// The hash of a cell: of its canonical bytes, so of id, order with dot, birth, deadline and body.
pub(super) fn hash(bytes: &[u8]) -> u128 {
    twox_hash::XxHash3_128::oneshot(bytes)
}

impl Replica {
    /// Sums over all cells that are live at `now`. Costs the tables and the seconds since the last tick, not the cells.
    pub fn digest(&self, now: Wall) -> Digest {
        let mut digest = Digest::default();
        for (table, sum) in self.tables.iter().zip(self.sums.beyond(now.secs())) {
            digest.total = digest.total.wrapping_add(sum.hash);
            digest.cells += sum.cells;
            if sum.cells > 0 {
                digest.tables.insert(table.name.to_string(), (sum.hash, sum.cells));
            }
        }
        digest
    }

    /// Sum and number of the cells with a deadline after the unix second `horizon`, or none. Two nodes compare theirs for
    /// a horizon of `max(now, now') + max_skew`.
    pub fn digest_beyond(&self, horizon: u64) -> (u128, u64) {
        let sums = self.sums.beyond(horizon);
        sums.iter().fold((0, 0), |(hash, cells), sum| (sum.hash.wrapping_add(hash), cells + sum.cells))
    }

    /// Live cells by table, by name.
    pub fn tables(&self, now: Wall) -> BTreeMap<&str, u64> {
        let sums = self.sums.beyond(now.secs());
        self.tables.iter().zip(sums).map(|(table, sum)| (&*table.name, sum.cells)).collect()
    }

    /// Live cells of all tables.
    pub fn live_cells(&self, now: Wall) -> u64 {
        self.sums.beyond(now.secs()).iter().map(|sum| sum.cells).sum()
    }
}
