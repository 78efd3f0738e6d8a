//! Every count that was ever made, and what a counter must show of them (R8).
//!
//! What is known of a counter is the base of the greatest epoch, and every increment that was made in it. Of an origin all
//! increments up to the last one that anybody has are in its contribution.

use std::collections::BTreeMap;

use crdt::{Dot, Rank, Replica, Wall, counter};

/// The table that is looked at: its contributions do not expire.
pub(crate) const TABLE: &str = "ctr";

/// What was done to a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    Add(i64),
    Set(i64),
    Delete,
}

#[derive(Debug)]
struct Counted {
    dot: Dot,
    epoch: Rank,
    count: Count,
}

/// All counts, by key.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    keys: BTreeMap<Vec<u8>, Vec<Counted>>,
}

impl Sums {
    /// Records what a replica has just done to a counter.
    pub(crate) fn record(&mut self, replica: &Replica, key: &[u8], count: Count) {
        let origin = replica.origin();
        let own = |cell: &crdt::CellRef<'_>| cell.member.starts_with(&origin.0.to_be_bytes()) && cell.body.is_some();
        let cell = replica.members(TABLE, key).map(|(_, cell)| cell).find(own);
        let dot = cell.map_or(Dot { origin, seq: replica.clock().max(origin) }, |cell| cell.order.dot);
        let counted = Counted { dot, epoch: cell.map_or(0, |cell| cell.order.rank), count };
        self.keys.entry(key.to_vec()).or_default().push(counted);
    }

    /// Compares what a node shows with what it should. For a node that has everything that anybody has.
    pub(crate) fn check(&self, replica: &Replica, now: Wall) -> Result<(), String> {
        for (key, counts) in &self.keys {
            let seen = |c: &&Counted| replica.covers_dot(c.dot);
            let resets = counts.iter().filter(|c| !matches!(c.count, Count::Add(_)));
            if !resets.clone().all(|c| seen(&c)) {
                // A reset was lost in a crash; the removals that it made may not have been.
                continue;
            }
            let known = |c: &&Counted| {
                let later = |other: &&Counted| (other.dot.origin, other.epoch) == (c.dot.origin, c.epoch);
                counts.iter().filter(later).any(|other| other.dot.seq >= c.dot.seq && seen(&other))
            };
            let epoch = counts.iter().filter(known).map(|c| c.epoch).max();
            let current = counts.iter().filter(known).filter(|c| Some(c.epoch) == epoch);
            let value = current.fold(None, |sum: Option<i64>, c| match c.count {
                Count::Add(by) | Count::Set(by) => Some(sum.unwrap_or(0) + by),
                Count::Delete => sum,
            });
            let shown = counter::value(replica, TABLE, key, now);
            if shown != value {
                return Err(format!("of counter {key:?} it must show {value:?}, but shows {shown:?}: {counts:?}"));
            }
        }
        Ok(())
    }
}
