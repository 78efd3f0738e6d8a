//! What the tests share: a seeded generator, and short names for long calls.

use crdt::{Replica, Wall};

/// A seeded generator (SplitMix64, Steele et al. 2014): one seed replays a run.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True in `percent` of cases.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.index(of.len())])
    }
}

/// The id of a cell: table, key, member.
pub(crate) type CellId = (String, Vec<u8>, Vec<u8>);

/// What a reader sees: the canonical bytes of all live cells.
pub(crate) fn live_view(replica: &Replica, now: Wall) -> std::collections::BTreeMap<CellId, Vec<u8>> {
    let live = replica.scan(None, usize::MAX).filter(|(_, cell)| cell.is_live(now));
    live.map(|(slot, cell)| {
        let id = (cell.table.to_owned(), cell.key.to_vec(), cell.member.to_vec());
        (id, replica.bytes(slot).expect("a scanned cell has bytes").to_vec())
    })
    .collect()
}
