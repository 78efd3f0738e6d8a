//! Local writes: stamps (R4), deadlines (R1), floors (R7).

use super::{Facts, Replica};
use crate::cell::CellRef;
use crate::change::{Cause, Outcome, StampRule, Write, WriteError};
use crate::hlc::{Hlc, Stamp};
use crate::ids::{Dot, Wall};
use crate::order::{Order, Rank};
use crate::planted::{self, Bug};
use crate::rules::{Forget, TableRules};
use crate::store::slots::{Slot, TableId};

/// A version without its dot.
struct Draft<'a> {
    key: &'a [u8],
    member: &'a [u8],
    rank: Rank,
    stamp: Stamp,
    birth: Option<u64>,
    deadline: Option<u64>,
    body: Option<&'a [u8]>,
}

impl Replica {
    /// Writes a version if it wins over the one that is held. A write that was made is covered at once, under a dot of
    /// its own, and is a [`Cause::Local`] change.
    pub fn write(&mut self, now: Wall, w: Write<'_>) -> Result<Outcome, WriteError> {
        self.check(&w)?;
        let table = self.table_id(w.table).ok_or(WriteError::TooManyTables)?;
        let rules = self.table(table).rules;
        let resumed = planted::on(Bug::ContributionResumed);
        if w.rank != 0 && !resumed && rules.max_life.is_none() && !w.member.starts_with(&self.origin.0.to_be_bytes()) {
            return Err(WriteError::ForeignRank);
        }
        let held = self.slots.find(table, w.key, w.member).and_then(|slot| Some((slot, self.facts(slot)?)));
        let birth = match rules.max_life {
            None => None,
            Some(_) => {
                let copied = held.and_then(|(_, facts)| facts.birth);
                // The wall clock may be behind a birth that was copied from another cell; the hybrid clock is not.
                let latest = self.hybrid.now(now).secs();
                let given = w.birth.map(|birth| birth.min(latest));
                // What is removed unseen was born before, so its versions are dead when this one is forgotten.
                let unseen = w.body.is_none().then_some(latest);
                match copied.or(given).or(unseen).ok_or(WriteError::MissingBirth)? {
                    _ if planted::on(Bug::BirthNotCopied) => Some(now.secs()),
                    birth => Some(birth),
                }
            }
        };
        if w.body.is_some() && w.deadline.is_none() && rules.forget != Forget::Stable {
            return Err(WriteError::MissingDeadline);
        }
        let stamp = self.stamp(now, &w, table, held.as_ref().map(|(_, facts)| facts));
        let order = Order { rank: w.rank, stamp, removed: w.body.is_none(), dot: self.next_dot() };
        if let Some((slot, _)) = held.filter(|(_, facts)| facts.order > order) {
            return Ok(Outcome::Lost(Slot(slot)));
        }
        let stamp = self.above_floor(now, stamp, w.rank, table, held.as_ref().map(|(_, facts)| facts));
        let deadline =
            w.body.and(w.deadline).map(|deadline| match deadline.min(latest_deadline(rules, stamp, birth)) {
                _ if planted::on(Bug::DeadlineNotClamped) => deadline,
                clamped => clamped,
            });
        let draft = Draft { key: w.key, member: w.member, rank: w.rank, stamp, birth, deadline, body: w.body };
        Ok(self.commit(table, held, &draft, w.via))
    }

    /// Removes exactly what was seen (the OR-map's removal): a tombstone with the stamp of `seen`. It wins over the version
    /// that was seen and loses to any later one.
    ///
    /// Lost if the slot was freed, holds a greater version than `seen`, or one that is dead everywhere already: a tombstone,
    /// or past its deadline by more than `max_skew`.
    pub fn remove_observed(&mut self, now: Wall, slot: Slot, seen: Order, via: u32) -> Outcome {
        let dead = now.0.saturating_sub(u64::from(self.rules.max_skew())) / 1_000;
        let ended = |facts: &Facts| facts.order.removed || facts.deadline.is_some_and(|deadline| deadline <= dead);
        let Some(facts) = self.facts(slot.0).filter(|facts| facts.order <= seen && !ended(facts)) else {
            return Outcome::Lost(slot);
        };
        let blob: Box<[u8]> = self.slots.bytes(slot.0).unwrap_or_default().into();
        let Ok(cell) = CellRef::decode(&blob) else { return Outcome::Lost(slot) };
        let (key, member) = (cell.key, cell.member);
        let stamp = if planted::on(Bug::RemovalBeatsUnseen) { self.fresh_stamp(now) } else { seen.stamp };
        let (rank, birth) = (seen.rank, facts.birth);
        let draft = Draft { key, member, rank, stamp, birth, deadline: None, body: None };
        self.commit(facts.table, Some((slot.0, facts)), &draft, via)
    }

    /// Writes the held version again, under a new dot and a stamp above all that could have beaten it (R6, R9).
    pub(super) fn reissue(&mut self, slot: u32) -> bool {
        let Some(facts) = self.facts(slot) else { return false };
        let held = facts.order.stamp.time;
        let time = if facts.order.rank == 0 {
            // Not now: a write that is newer than what is issued again, and not known here yet, has to beat it.
            let floor = self.table(facts.table).floor.map_or(Hlc::default(), |floor| floor.time);
            let time = held.max(floor).next();
            self.hybrid.observe(time);
            time
        } else {
            // A rank says more than a time: a ranked version stays where it is among its like.
            held.next()
        };
        let blob: Box<[u8]> = self.slots.bytes(slot).unwrap_or_default().into();
        let Ok(cell) = CellRef::decode(&blob) else { return false };
        let stamp = Stamp { time, node: self.node };
        let CellRef { key, member, birth, deadline, body, .. } = cell;
        let draft = Draft { key, member, rank: facts.order.rank, stamp, birth, deadline, body };
        matches!(self.commit(facts.table, Some((slot, facts)), &draft, 0), Outcome::Written(..))
    }

    /// Dates the ends again that this origin gave a birth itself, because it did not know what it ended: for when our clock
    /// was found to have been behind the others'. Their births are then earlier than those of the versions that they beat, so
    /// they would be forgotten before these are dead (R1). Each that is held is written once more, born now; how many.
    pub fn end_again(&mut self, now: Wall) -> usize {
        let own = self.dots.range(self.origin, 1..=self.seq);
        let dated_here = |facts: &Facts| {
            let ranked = self.table(facts.table).rules.max_life.is_some();
            // A copied birth of that very second is harmless: its end is only kept for longer.
            ranked && facts.order.removed && facts.birth == Some(facts.order.stamp.time.secs())
        };
        let ends: Vec<(u32, Facts)> = own
            .filter_map(|(_, slot)| Some((slot, self.facts(slot)?)))
            .filter(|(_, facts)| dated_here(facts))
            .collect();
        let mut ended = 0;
        for (slot, facts) in ends {
            let stamp = self.fresh_stamp(now);
            let blob: Box<[u8]> = self.slots.bytes(slot).unwrap_or_default().into();
            let Ok(CellRef { key, member, .. }) = CellRef::decode(&blob) else { continue };
            let (rank, birth) = (facts.order.rank, Some(stamp.time.secs()));
            let draft = Draft { key, member, rank, stamp, birth, deadline: None, body: None };
            ended +=
                usize::from(matches!(self.commit(facts.table, Some((slot, facts)), &draft, 0), Outcome::Written(..)));
        }
        ended
    }

    /// A stamp above everything given and observed.
    pub(crate) fn fresh_stamp(&mut self, now: Wall) -> Stamp {
        Stamp { time: self.hybrid.tick(now), node: self.node }
    }

    fn check(&self, w: &Write<'_>) -> Result<(), WriteError> {
        let order = Order { rank: w.rank, stamp: Stamp::default(), removed: w.body.is_none(), dot: self.next_dot() };
        let Write { table, key, member, deadline, body, .. } = *w;
        Ok(CellRef { table, key, member, order, birth: None, deadline, body }.check()?)
    }

    /// The dot of the next write.
    pub(crate) const fn next_dot(&self) -> Dot {
        Dot { origin: self.origin, seq: self.seq + 1 }
    }

    fn stamp(&mut self, now: Wall, w: &Write<'_>, table: TableId, held: Option<&Facts>) -> Stamp {
        let rules = self.table(table).rules;
        let time = match w.stamp {
            StampRule::Now if planted::on(Bug::WallClockStamps) => Hlc::from_ms(now.0),
            StampRule::Now => {
                self.hybrid.observe(held.map_or(Hlc::default(), |facts| facts.order.stamp.time));
                self.hybrid.tick(now)
            }
            StampRule::At(then) if planted::on(Bug::SipTimesAhead) => Hlc::from_ms(then.0),
            StampRule::At(then) => Hlc::from_ms(then.0.min(now.0)),
            StampRule::Above(stamp) => stamp.time.next().min(self.hybrid.now(now).next()),
            StampRule::Least => least_time(rules, w.deadline).min(self.hybrid.now(now)),
        };
        Stamp { time, node: self.node }
    }

    /// R7: where nothing live is held, a greater version may have been forgotten. One that is held and dead may be less
    /// than that: it may have come in from afar after the greater one was forgotten.
    fn above_floor(&self, now: Wall, stamp: Stamp, rank: Rank, table: TableId, held: Option<&Facts>) -> Stamp {
        let dead = held.is_none_or(|held| held.order.removed || held.deadline.is_some_and(|d| d <= now.secs()));
        match self.table(table).floor.filter(|_| dead && rank == 0 && !planted::on(Bug::NoFloor)) {
            Some(floor) if stamp.time <= floor.time => Stamp { time: floor.time.next(), ..stamp },
            _ => stamp,
        }
    }

    /// Whether a removal of that moment, or a later one, may have been forgotten in a table (R7).
    pub fn may_have_forgotten(&self, table: &str, since: Wall) -> bool {
        self.tables
            .iter()
            .any(|t| &*t.name == table && t.floor.is_some_and(|floor| floor.time >= Hlc::from_ms(since.0)))
    }

    fn commit(&mut self, table: TableId, held: Option<(u32, Facts)>, draft: &Draft<'_>, via: u32) -> Outcome {
        let dot = self.next_dot();
        let order = Order { rank: draft.rank, stamp: draft.stamp, removed: draft.body.is_none(), dot };
        if let Some((slot, facts)) = held
            && facts.order > order
        {
            return Outcome::Lost(Slot(slot));
        }
        let name = std::mem::take(&mut self.tables[usize::from(table)].name);
        let Draft { key, member, birth, deadline, body, .. } = *draft;
        let cell = CellRef { table: &name, key, member, order, birth, deadline, body };
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        cell.encode_into(&mut scratch);
        // What is held is of just its length.
        let (slot, old) = self.put(held, &cell, table, scratch.as_slice().into());
        self.scratch = scratch;
        self.tables[usize::from(table)].name = name;
        self.seq += 1;
        self.clock.insert(dot);
        self.hybrid.observe(draft.stamp.time);
        self.changed(slot, old, Cause::Local, via);
        Outcome::Written(Slot(slot), dot)
    }
}

/// The latest deadline that a version may have (R1), unix seconds.
pub(super) fn latest_deadline(rules: TableRules, stamp: Stamp, birth: Option<u64>) -> u64 {
    match (rules.forget, rules.max_life, birth) {
        (Forget::Stable, ..) => u64::MAX,
        (Forget::ByTime { .. }, Some(life), Some(birth)) if !planted::on(Bug::RankedForgottenByStamp) => {
            birth.saturating_add(u64::from(life))
        }
        (Forget::ByTime { max_ttl }, ..) => stamp.time.secs().saturating_add(u64::from(max_ttl)),
    }
}

/// The least time at which a version with that deadline may have been written (R1).
fn least_time(rules: TableRules, deadline: Option<u64>) -> Hlc {
    let secs = match (rules.forget, rules.max_life) {
        (Forget::ByTime { max_ttl }, None) => deadline.unwrap_or(0).saturating_sub(u64::from(max_ttl)),
        _ => 0,
    };
    Hlc::from_ms(secs.saturating_mul(1_000)).next()
}
