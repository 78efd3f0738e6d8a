//! Retirement of closed origins (docs/rules.md, "Origins").
//!
//! An origin is closed when it is no member's current one. It is retired when no cell shows a dot of it, every member is
//! known to cover all of it that we do, and twice `forget_after` has passed since it was first seen closed. Its entry in
//! the clock is then marked, the mark travels with sessions, and nothing of it is taken up again.

use std::collections::BTreeSet;

use super::Replica;
use crate::clock::Clock;
use crate::ids::{Dot, Origin, Wall};

impl Replica {
    /// Looks for closed origins and retires those whose time has come; returns how many. Call it now and then, every
    /// minute say. `forget_after` is in seconds, and exceeds every `max_ttl`.
    pub fn retire_origins(&mut self, now: Wall, forget_after: u64) -> u64 {
        let open: BTreeSet<Origin> = self.roster.members.values().map(|member| member.origin).collect();
        let closed = |origin: &Origin| *origin != self.origin && !open.contains(origin);
        let closed: Vec<Origin> = self.clock.origins().filter(closed).filter(|o| !self.clock.is_retired(*o)).collect();
        self.closed.retain(|origin, _| closed.binary_search(origin).is_ok());
        let mut retired = 0;
        for origin in closed {
            let since = *self.closed.entry(origin).or_insert(now.secs());
            let due = now.secs() >= since.saturating_add(forget_after.saturating_mul(2));
            if due && !self.forgetting_is_skewed() && !self.dots.shows(origin) && self.all_cover(origin) {
                self.clock.retire(origin);
                self.forgotten.forget_origin(origin);
                self.closed.remove(&origin);
                retired += 1;
            }
        }
        retired
    }

    /// Goes on as another process lifetime, fresh as in [`Replica::new`], when the cluster retired ours
    /// ([`SyncAborted::OwnOriginRetired`](crate::SyncAborted::OwnOriginRetired)). Links have to say hello anew.
    pub fn renew_origin(&mut self, origin: Origin) {
        self.origin = origin;
        self.seq = 0;
    }

    /// Whether every member is known to cover all that we cover of an origin, and our disk as well.
    fn all_cover(&self, origin: Origin) -> bool {
        let ours: Clock = self.clock.of_origin(origin);
        let shown = self.roster.members.values().map(|member| member.shown.as_ref());
        shown.chain([Some(&self.durable)]).all(|shown| shown.is_some_and(|shown| shown.includes(&ours)))
    }

    /// Prepares for a clock in which origins are retired that are not here: cells that show later dots of them than the
    /// cluster ever saw are news, and are issued again as our own; what shows earlier ones is dropped by the session, which
    /// does not show them. Returns how many were issued again.
    pub(super) fn take_retired(&mut self, theirs: &Clock, now: Wall) -> u64 {
        let news: Vec<Origin> = theirs.retired().filter(|origin| !self.clock.is_retired(*origin)).collect();
        let mut reissued = 0;
        for origin in news {
            let shown: Vec<(u64, u32)> = self.dots.range(origin, 1..=u64::MAX).collect();
            for (seq, slot) in shown {
                let Some(facts) = self.facts(slot) else { continue };
                let live = self.slots.cell(slot).is_some_and(|cell| cell.is_live(now));
                if live && !theirs.contains(Dot { origin, seq }) {
                    reissued += u64::from(self.reissue(now, slot));
                } else {
                    self.free(slot, &facts);
                }
            }
            self.forgotten.forget_origin(origin);
            self.closed.remove(&origin);
        }
        reissued
    }
}
