//! Time: deadlines, and the two ways to forget (R1, R5).

use std::collections::{BTreeSet, VecDeque};

use super::{Facts, Replica};
use crate::change::Cause;
use crate::clock::Clock;
use crate::ids::{Dot, Wall};
use crate::planted::{self, Bug};
use crate::rules::Forget;

/// Slots looked at per [`Replica::tick`].
const WORK_PER_TICK: usize = 4096;

/// With more holes than this, G is widened to all that is stable: still covered by every member, and without holes.
const HOLES_FORGOTTEN_MAX: usize = 1024;

/// State of forgetting.
#[derive(Debug, Default)]
pub(super) struct Forgetting {
    /// What every member is known to have.
    stable: Clock,
    /// It has to be computed anew.
    pub(super) stale: bool,
    /// Dots of dead cells in tables that forget by stability.
    waiting: BTreeSet<Dot>,
    /// Those of them that were stable when they were put here.
    ready: VecDeque<Dot>,
    /// Stable ones with a rank whose owner has not ended them, or left holes in our clock.
    blocked: Vec<Dot>,
    /// Our clock is too far from the others' (R3).
    skewed: bool,
    /// Somebody may yet tell of versions that removals beat (R5, R7).
    pub(super) settling: bool,
    /// Slots whose time came while it was.
    postponed: Vec<u32>,
}

impl Forgetting {
    /// The version is not current any more.
    pub(super) fn unwait(&mut self, dot: Dot) {
        if !self.waiting.is_empty() {
            self.waiting.remove(&dot);
        }
    }

    fn wait(&mut self, dot: Dot) {
        if self.waiting.insert(dot) && self.stable.contains(dot) {
            self.ready.push_back(dot);
        }
    }
}

impl Replica {
    /// Lets deadlines pass and forgets what may be forgotten. The work per call is bounded: if it returns true, there is
    /// more to do at once.
    pub fn tick(&mut self, now: Wall) -> bool {
        self.sums.advance(now.secs());
        let secs = u32::try_from(now.secs()).unwrap_or(u32::MAX);
        let mut work = WORK_PER_TICK;
        while work > 0
            && let Some((due, slot)) = self.ring.pop(secs)
        {
            self.fire(due, slot, secs);
            work -= 1;
        }
        self.restabilise();
        while work > 0
            && !self.forgetting.skewed
            && !self.forgetting.settling
            && let Some(dot) = self.forgetting.ready.pop_front()
        {
            self.forget_stable(dot, u64::from(secs));
            work -= 1;
        }
        work == 0
    }

    /// The unix second at which [`Replica::tick`] has something to do; 0: at once.
    pub fn next_wakeup(&self) -> Option<u64> {
        let Forgetting { ready, stale, skewed, settling, waiting, .. } = &self.forgetting;
        if !skewed && !settling && (!ready.is_empty() || (*stale && !waiting.is_empty())) {
            return Some(0);
        }
        self.ring.next().map(u64::from)
    }

    /// R3: while our clock is beyond `max_skew` from the others', nothing is forgotten.
    pub fn set_skewed(&mut self, skewed: bool) {
        self.forgetting.skewed = skewed && !planted::on(Bug::ForgetWhileSkewed);
        if !skewed {
            for slot in std::mem::take(&mut self.forgetting.postponed) {
                self.schedule(slot, 0);
            }
        }
    }

    /// While it is not known who has to be waited for, nothing is forgotten by stability: servers that have not yet said
    /// what they hold (R7: a removal must still be there to beat what such a server brings), or nodes that this one is still
    /// to meet (R5). The other members forget nothing either that this one has not shown before.
    pub fn set_settling(&mut self, settling: bool) {
        self.forgetting.stale |= self.forgetting.settling != settling;
        self.forgetting.settling = settling;
    }

    /// Whether [`Replica::set_skewed`] holds.
    pub(super) const fn forgetting_is_skewed(&self) -> bool {
        self.forgetting.skewed
    }

    /// Plans what comes next for a version that was just put in place.
    pub(super) fn plan(&mut self, slot: u32, facts: &Facts) {
        if !facts.order.removed {
            if let Some(deadline) = facts.deadline {
                self.schedule(slot, deadline);
            }
        } else if self.is_stable(facts.table) {
            self.forgetting.wait(facts.order.dot);
        } else {
            self.schedule(slot, self.end_of(facts));
        }
    }

    /// Makes sure that a slot fires at a second or before.
    fn schedule(&mut self, slot: u32, secs: u64) {
        let secs = u32::try_from(secs).unwrap_or(u32::MAX - 1).min(u32::MAX - 1);
        if let Some(entry) = self.slots.entry_mut(slot)
            && entry.due > secs
        {
            entry.due = secs;
            self.ring.insert(secs, slot);
        }
    }

    /// The unix second from which on a dead version is forgotten: by its stamp or birth in tables that forget by time (R1);
    /// in others the second in which an expired one has been dead everywhere.
    fn end_of(&self, facts: &Facts) -> u64 {
        let rules = self.table(facts.table).rules;
        let written = facts.order.stamp.time.secs() + 1;
        let end = match (rules.forget, rules.max_life, facts.birth) {
            (Forget::Stable, ..) => 0,
            _ if planted::on(Bug::ForgetAtOwnDeadline) && facts.deadline.is_some() => 0,
            (Forget::ByTime { .. }, Some(life), Some(birth)) if !planted::on(Bug::RankedForgottenByStamp) => {
                birth.saturating_add(u64::from(life))
            }
            (Forget::ByTime { max_ttl }, ..) => written.saturating_add(u64::from(max_ttl)),
        };
        end.max(facts.deadline.unwrap_or(0)).saturating_add(u64::from(self.rules.grace()))
    }

    fn fire(&mut self, due: u32, slot: u32, now: u32) {
        let Some(entry) = self.slots.entry_mut(slot).filter(|entry| entry.due == due) else { return };
        entry.due = u32::MAX;
        let was_expired = entry.expired;
        let Some(facts) = self.facts(slot) else { return };
        if !facts.order.removed {
            let Some(deadline) = facts.deadline else { return };
            if deadline > u64::from(now) {
                return self.schedule(slot, deadline);
            }
            if !was_expired {
                if let Some(entry) = self.slots.entry_mut(slot) {
                    entry.expired = true;
                }
                self.changed(slot, None, Cause::Expired, 0);
            }
        }
        let end = self.end_of(&facts);
        if end > u64::from(now) {
            self.schedule(slot, end);
        } else if self.is_stable(facts.table) {
            self.forgetting.wait(facts.order.dot);
        } else if self.forgetting.skewed {
            self.forgetting.postponed.push(slot);
        } else {
            self.free(slot, &facts);
        }
    }

    /// Finds what has become stable since the last time.
    fn restabilise(&mut self) {
        self.roster_promote();
        if !std::mem::take(&mut self.forgetting.stale) {
            return;
        }
        let stable = self.stable().unwrap_or_default();
        let news = stable.difference(&self.forgetting.stable);
        self.forgetting.stable = stable;
        let Forgetting { waiting, ready, blocked, .. } = &mut self.forgetting;
        ready.extend(blocked.drain(..));
        for (origin, seqs) in news {
            let (first, last) = (Dot { origin, seq: *seqs.start() }, Dot { origin, seq: *seqs.end() });
            ready.extend(waiting.range(first..=last));
        }
    }

    /// R5: forgets a dead cell that every member is known to have. One that had expired by a clock that was put right since
    /// is not dead.
    fn forget_stable(&mut self, dot: Dot, now: u64) {
        let Forgetting { stable, waiting, .. } = &self.forgetting;
        if !waiting.contains(&dot) || !stable.contains(dot) {
            return;
        }
        let Some((slot, facts)) = self.dots.get(dot).and_then(|slot| Some((slot, self.facts(slot)?))) else { return };
        let end = if facts.order.removed { 0 } else { self.end_of(&facts) };
        if end > now {
            self.forgetting.waiting.remove(&dot);
            return self.schedule(slot, end);
        }
        if facts.order.rank == 0 {
            let floor = &mut self.tables[usize::from(facts.table)].floor;
            *floor = (*floor).max(Some(facts.order.stamp));
        } else if !self.is_ended_by_owner(slot) {
            return self.forgetting.blocked.push(dot);
        }
        self.forgotten.insert(dot);
        if self.forgotten.holes() > HOLES_FORGOTTEN_MAX {
            self.forgotten.join(&self.forgetting.stable);
        }
        self.free(slot, &facts);
    }

    /// Whether a ranked cell's owner wrote its end, and we cover everything that the owner wrote until then. Only then can
    /// no older version of the cell come in: such cells have one writer, so no floor is kept for them (R7, R8).
    fn is_ended_by_owner(&self, slot: u32) -> bool {
        self.slots.cell(slot).is_some_and(|cell| {
            let Dot { origin, .. } = cell.order.dot;
            cell.member.starts_with(&origin.0.to_be_bytes()) && self.clock.is_prefix(origin)
        })
    }
}
