//! The roster (R5): every node that was a member within `forget_after`, and which of our peers' clocks forgetting may
//! go by.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Replica;
use crate::clock::Clock;
use crate::ids::{Dot, NodeId, Origin};
use crate::planted::{self, Bug};

/// A member of the roster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its process lifetime, as last seen.
    pub origin: Origin,
    /// The last stability clock that it showed and that our clock included: what forgetting goes by.
    pub shown: Option<Clock>,
    /// A later one that our clock did not include yet.
    pub pending: Option<Clock>,
}

/// All members except this node.
#[derive(Clone, Debug, Default)]
pub(super) struct Roster {
    pub(super) members: BTreeMap<NodeId, Member>,
}

/// A stability clock with more holes than this is cut: it asks for more than is missing, which is safe.
const HOLES_SHOWN_MAX: usize = 1024;

impl Replica {
    /// Enters a peer, with the stability clock of its hello. Has to happen before any data moves in either direction.
    pub fn roster_enter(&mut self, node: NodeId, origin: Origin, shown: &Clock) {
        if node == self.node || planted::on(Bug::RosterIgnored) {
            return;
        }
        let member = self.roster.members.entry(node).or_insert(Member { origin, shown: None, pending: None });
        member.origin = origin;
        self.closed.remove(&origin);
        self.roster_show(node, shown);
    }

    /// A member showed its stability clock. What was shown before counts until our clock includes this one, unless it is
    /// less: then the member's disk went back, and nothing is forgotten before this one is included.
    pub fn roster_show(&mut self, node: NodeId, shown: &Clock) {
        let Some(member) = self.roster.members.get_mut(&node) else { return };
        if member.shown.as_ref().is_some_and(|before| !shown.includes(before)) {
            member.shown = None;
        }
        member.pending = Some(shown.clone());
        self.forgetting.stale = true;
    }

    /// Drops a node that was away for `forget_after`. When it comes back, R6 puts it right.
    pub fn roster_remove(&mut self, node: NodeId) {
        self.roster.members.remove(&node);
        self.forgetting.stale = true;
    }

    /// The members, by node.
    pub fn roster(&self) -> impl Iterator<Item = (NodeId, &Member)> {
        self.roster.members.iter().map(|(node, member)| (*node, member))
    }

    /// Our clock reached the disk as it was then; without a disk the node calls this with its clock at once.
    pub fn persisted(&mut self, clock: &Clock) {
        self.durable.join(&self.acceptable(clock));
        self.forgetting.stale = true;
    }

    /// Leaves a dot out of the stability clock until as many [`Replica::release`]s: a server attached to this node has not
    /// acknowledged it (R7).
    pub fn hold(&mut self, dot: Dot) {
        if planted::on(Bug::ServersNotWaitedFor) {
            return;
        }
        *self.held_dots.entry(dot).or_default() += 1;
        self.forgetting.stale = true;
    }

    /// Takes back one [`Replica::hold`]. One too many is ignored.
    pub fn release(&mut self, dot: Dot) {
        if let Some(count) = self.held_dots.get_mut(&dot) {
            *count -= 1;
            if *count == 0 {
                self.held_dots.remove(&dot);
            }
            self.forgetting.stale = true;
        }
    }

    /// What we show to others: our clock as it is on disk, without what our servers have not acknowledged; nothing while it is not
    /// known what they have ([`Replica::set_settling`]).
    pub fn stability_clock(&self) -> Clock {
        if self.forgetting.settling {
            return Clock::default();
        }
        let kept = if planted::on(Bug::StableFromMemory) { &self.clock } else { &self.durable };
        let mut clock = kept.minus(self.held_dots.keys().copied());
        clock.truncate(HOLES_SHOWN_MAX);
        clock
    }

    /// Lets clocks count that our own includes by now.
    pub(super) fn roster_promote(&mut self) {
        let mut members = std::mem::take(&mut self.roster.members);
        for member in members.values_mut() {
            if let Some(pending) =
                member.pending.take_if(|pending| planted::on(Bug::StableUnseen) || self.covers(pending))
            {
                member.shown = Some(pending);
                self.forgetting.stale = true;
            }
        }
        self.roster.members = members;
    }

    /// What every member is known to have, us included; `None` while a member has shown nothing that counts.
    pub(super) fn stable(&self) -> Option<Clock> {
        let mut stable = self.stability_clock();
        for member in self.roster.members.values() {
            stable.intersect(member.shown.as_ref()?);
        }
        Some(stable)
    }
}
