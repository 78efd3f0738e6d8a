//! Retirement of closed origins (RULES, "Origins"), so that clocks do not grow with every restart for good.
//!
//! An origin is closed when it is no member's current one. It is retired when twice `forget_after` has passed since then,
//! no cell shows a dot of it, every member was seen to cover all of it that we do, and nothing of it was forgotten by
//! stability: G has to name what others may lack.
//!
//! A retired origin leaves the clock that is shown, sent and held; a note of how far it was covered stays here. What the
//! note covers is not taken up again, neither cells nor clocks. So retirement changes what is said, not what is covered, and
//! nodes need not retire together. A peer that still names the origin is told of the note in the session, as part of F.
//! Should G turn out to name it after all, the origin is put back.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Replica;
use crate::clock::Clock;
use crate::ids::{Dot, Origin, Wall};
use crate::planted::{self, Bug};

/// A closed origin on its way to retirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// When it was first seen closed, unix seconds.
    pub since: u64,
    /// How far we covered it when every member was seen to cover as much; 0: not yet.
    pub covered: u64,
}

impl Replica {
    /// Looks for closed origins and retires those whose time has come; returns how many. Call it now and then, every
    /// minute say. `forget_after` is in seconds, and exceeds every `max_ttl`.
    pub fn retire_origins(&mut self, now: Wall, forget_after: u64) -> u64 {
        let open: BTreeSet<Origin> = self.roster.members.values().map(|member| member.origin).collect();
        let closed: Vec<Origin> =
            self.clock.origins().filter(|origin| *origin != self.origin && !open.contains(origin)).collect();
        self.closed.retain(|origin, _| closed.binary_search(origin).is_ok());
        let mut retired = 0;
        for origin in closed {
            let through = self.clock.max(origin);
            let before = self.closed.get(&origin).copied();
            let mut entry = before.unwrap_or(Closed { since: now.secs(), covered: 0 });
            if entry.covered != through {
                entry.covered = if self.all_cover(origin) { through } else { 0 };
            }
            self.closed.insert(origin, entry);
            let due = now.secs() >= entry.since.saturating_add(forget_after.saturating_mul(2));
            let idle = self.clock.is_prefix(origin) && !self.dots.shows(origin) && !self.forgotten.names(origin);
            if due && idle && entry.covered == through && !self.forgetting_is_skewed() {
                self.retire(origin, through);
                retired += 1;
            }
        }
        retired
    }

    fn retire(&mut self, origin: Origin, through: u64) {
        self.clock.remove_range(origin, 1..=through);
        self.durable.remove_range(origin, 1..=u64::MAX);
        self.retired.insert(origin, through);
        self.closed.remove(&origin);
    }

    /// Whether every member is known to cover all that we cover of an origin, and our disk as well.
    fn all_cover(&self, origin: Origin) -> bool {
        let ours: Clock = self.clock.of_origin(origin);
        let shown = self.roster.members.values().map(|member| member.shown.as_ref());
        shown.chain([Some(&self.durable)]).all(|shown| shown.is_some_and(|shown| shown.includes(&ours)))
    }

    /// Whether we cover a dot, of retired origins as well.
    pub fn covers_dot(&self, dot: Dot) -> bool {
        self.clock.contains(dot) || self.is_retired(dot)
    }

    /// Whether we cover all of a clock, as far as it is not about retired origins: if so, its owner has nothing for us.
    pub fn covers(&self, theirs: &Clock) -> bool {
        self.clock.includes(theirs) || (!self.retired.is_empty() && self.clock.includes(&self.acceptable(theirs)))
    }

    pub(super) fn is_retired(&self, dot: Dot) -> bool {
        if planted::on(Bug::RetiredTakenUp) {
            return false;
        }
        !self.retired.is_empty() && self.retired.get(&dot.origin).is_some_and(|through| dot.seq <= *through)
    }

    /// A clock from outside as far as we take it up: without what we retired, and without writes of our own origin that we
    /// never made.
    pub(super) fn acceptable(&self, theirs: &Clock) -> Clock {
        let mut rest = theirs.clone();
        for (&origin, &through) in self.retired.iter().filter(|_| !planted::on(Bug::RetiredTakenUp)) {
            rest.remove_range(origin, 1..=through);
        }
        rest.remove_range(self.origin, self.seq + 1..=u64::MAX);
        rest
    }

    /// What we retired of the origins that a peer still names: part of what we cover.
    pub(super) fn retired_of(&self, theirs: &Clock) -> Clock {
        let mut clock = Clock::new();
        for (&origin, &through) in self.retired.iter().filter(|(origin, _)| theirs.names(**origin)) {
            clock.insert_range(origin, 1..=through);
        }
        clock
    }

    /// Puts origins back that are named in what was forgotten by stability elsewhere.
    pub(super) fn unretire(&mut self, forgotten: &Clock) {
        let back: Vec<Origin> = self.retired.keys().copied().filter(|origin| forgotten.names(*origin)).collect();
        for origin in back {
            if let Some(through) = self.retired.remove(&origin) {
                self.clock.insert_range(origin, 1..=through);
            }
        }
    }
}
