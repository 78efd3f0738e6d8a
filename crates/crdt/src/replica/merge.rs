//! Cells from outside.

use crdts::{CvRDT, LWWReg};

use super::write::latest_deadline;
use super::{Facts, Replica};
use crate::cell::{CellError, CellRef};
use crate::change::{Cause, Merged};
use crate::ids::{Dot, Wall};
use crate::order::Order;
use crate::planted::{self, Bug};
use crate::store::slots::{Slot, TableId};

/// Which of two versions a register holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Held,
    Offered,
}

/// The merge, and the only one: a last-writer-wins register whose marker is the order.
pub(super) fn offered_wins(held: Order, offered: Order) -> bool {
    let time_and_removal = |order: Order| (order.rank, order.stamp.time, order.removed);
    if planted::on(Bug::MergeByArrival) {
        return true;
    } else if planted::on(Bug::DotLeftOut) {
        return (offered.rank, offered.stamp, offered.removed) > (held.rank, held.stamp, held.removed);
    } else if planted::on(Bug::TimeAloneDecides) {
        return time_and_removal(offered) > time_and_removal(held);
    }
    let mut register = LWWReg { val: Version::Held, marker: held };
    register.merge(LWWReg { val: Version::Offered, marker: offered });
    register.val == Version::Offered
}

impl Replica {
    /// Merges a cell that a peer pushed. `via` is carried to the change.
    pub fn merge_pushed(&mut self, now: Wall, bytes: &[u8], via: u32) -> Merged {
        self.merge(now, bytes, Cause::Pushed, via)
    }

    /// Covers dots whose versions a pushed cell overwrote before they could be pushed themselves. To be called after that
    /// cell was merged: what it overwrote is dead then, wherever it was written.
    pub fn cover_overwritten(&mut self, dots: impl IntoIterator<Item = Dot>) {
        for dot in dots {
            if dot.seq > 0 && dot.origin != self.origin && !self.is_retired(dot) {
                self.clock.insert(dot);
            }
        }
    }

    pub(super) fn merge(&mut self, now: Wall, bytes: &[u8], cause: Cause, via: u32) -> Merged {
        let cell = match CellRef::decode(bytes) {
            Ok(cell) => cell,
            Err(error) => return self.malformed(error),
        };
        let dot = cell.order.dot;
        if self.is_retired(dot) {
            self.alarms.retired += 1;
            return Merged::Stale;
        }
        if self.clock.contains(dot) || dot.origin == self.origin {
            return self.merge_known(&cell, bytes);
        }
        if self.is_too_far_ahead(now, &cell) {
            self.alarms.too_far_ahead += 1;
            if planted::on(Bug::RefusedIsCovered) {
                self.clock.insert(dot);
            }
            return Merged::TooFarAhead;
        }
        let Some(table) = self.table_id(cell.table) else { return self.malformed(CellError::Table) };
        self.hybrid.observe(cell.order.stamp.time);
        self.clock.insert(dot);
        match self.find(table, &cell) {
            Some((_, facts)) if !offered_wins(facts.order, cell.order) => Merged::Stale,
            held => Merged::New(Slot(self.take(held, &cell, table, bytes.into(), cause, via))),
        }
    }

    /// A cell under a dot that is covered, or that only we can issue: nothing new, or a dot used twice.
    fn merge_known(&mut self, cell: &CellRef<'_>, bytes: &[u8]) -> Merged {
        let shown = self.dots.get(cell.order.dot).and_then(|slot| self.slots.bytes(slot));
        let reused = match shown {
            Some(shown) => shown != bytes,
            None => !self.clock.contains(cell.order.dot),
        };
        if reused {
            self.alarms.dot_reuse += 1;
            return Merged::DotReuse;
        }
        Merged::Stale
    }

    fn malformed(&mut self, error: CellError) -> Merged {
        self.alarms.malformed += 1;
        Merged::Malformed(error)
    }

    fn is_too_far_ahead(&self, now: Wall, cell: &CellRef<'_>) -> bool {
        let latest = self.rules.latest_ms(now);
        cell.order.stamp.time.ms() > latest || cell.birth.is_some_and(|birth| birth > latest / 1_000)
    }

    pub(super) fn find(&self, table: TableId, cell: &CellRef<'_>) -> Option<(u32, Facts)> {
        let slot = self.slots.find(table, cell.key, cell.member)?;
        Some((slot, self.facts(slot)?))
    }

    /// Takes a version that won.
    pub(super) fn take(
        &mut self,
        held: Option<(u32, Facts)>,
        cell: &CellRef<'_>,
        table: TableId,
        blob: Box<[u8]>,
        cause: Cause,
        via: u32,
    ) -> u32 {
        let latest = latest_deadline(self.table(table).rules, cell.order.stamp, cell.birth);
        if cell.body.is_some() && cell.deadline.unwrap_or(u64::MAX) > latest {
            self.alarms.beyond_rules += 1;
        }
        let (slot, old) = self.put(held, cell, table, blob);
        self.changed(slot, old, cause, via);
        slot
    }
}
