//! What a node has taken in: for each origin the sequences it covers, as a prefix and ranges beyond it.
//!
//! A clock is a set of dots, and joins are unions. Prefixes are a [`crdts::VClock`]; holes come from pushes that were
//! lost, and go when a sync session fills them.
//!
//! An origin that is **retired** (docs/rules.md) stays in the clock as a mark beside its last prefix. The mark is a
//! state above every unmarked one: a clock with it covers all that the origin ever wrote, and joins keep it. It costs 9
//! bytes, and says to a node that comes back after years that what it holds of that origin is dead. Without it, such a
//! node could not be told from one that brings news.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crdts::{CmRDT, VClock};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

use crate::ids::{Dot, DotRange, Origin};
use crate::ranges::{Ranges, gaps};

/// The most origins that a clock from outside may name.
pub const ORIGINS_MAX: usize = 65_536;
/// The most ranges beyond prefixes that a clock from outside may have, all origins together.
pub const RANGES_MAX: usize = 262_144;

/// A clock from outside that is not in its normal form, or exceeds a limit. The sender is at fault; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a clock is not in normal form, or too large")]
pub struct ClockError;

/// A set of dots; see the module's docs.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "Vec<OnWire>")]
pub struct Clock {
    /// No entry is 0.
    prefix: VClock<Origin>,
    /// No entry is empty; all start above the prefix and leave at least one number between.
    beyond: BTreeMap<Origin, Ranges>,
}

/// One origin of a clock, as it is sent: `beyond` as (numbers missing before the range, its length).
#[derive(Clone, Debug, Serialize, Deserialize)]
struct OnWire {
    origin: Origin,
    prefix: u64,
    beyond: Vec<(u64, u64)>,
}

/// As a list of (origin, prefix, ranges), in the order of origins.
impl Serialize for Clock {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.beyond.is_empty() {
            let whole = |(&origin, &prefix)| OnWire { origin, prefix, beyond: Vec::new() };
            return serializer.collect_seq(self.prefix.dots.iter().map(whole));
        }
        let mut list = serializer.serialize_seq(Some(self.origins().count()))?;
        for origin in self.origins() {
            let prefix = self.prefix(origin);
            let mut end = prefix;
            let beyond = self.ranges_beyond(origin).map(|(first, last)| {
                let relative = (first - end - 1, last - first + 1);
                end = last;
                relative
            });
            list.serialize_element(&OnWire { origin, prefix, beyond: beyond.collect() })?;
        }
        list.end()
    }
}

impl TryFrom<Vec<OnWire>> for Clock {
    type Error = ClockError;

    fn try_from(entries: Vec<OnWire>) -> Result<Self, ClockError> {
        let ranges: usize = entries.iter().map(|entry| entry.beyond.len()).sum();
        if entries.len() > ORIGINS_MAX || ranges > RANGES_MAX || !entries.is_sorted_by(|a, b| a.origin < b.origin) {
            return Err(ClockError);
        }
        let mut clock = Self::default();
        for OnWire { origin, prefix, beyond } in entries {
            if prefix == 0 && beyond.is_empty() {
                return Err(ClockError);
            }
            let mut end = prefix;
            let mut absolute = Vec::with_capacity(beyond.len());
            for (missing, len) in beyond {
                let first = end.checked_add(missing).and_then(|n| n.checked_add(1)).ok_or(ClockError)?;
                end = len.checked_sub(1).and_then(|n| first.checked_add(n)).ok_or(ClockError)?;
                absolute.push((first, end));
            }
            let least = prefix.checked_add(2).or((absolute.is_empty()).then_some(0)).ok_or(ClockError)?;
            let beyond = Ranges::checked(absolute, least).ok_or(ClockError)?;
            clock.raise(origin, prefix);
            if !beyond.is_empty() {
                clock.beyond.insert(origin, beyond);
            }
        }
        Ok(clock)
    }
}

impl Clock {
    /// A clock that covers nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it covers nothing.
    pub fn is_empty(&self) -> bool {
        self.prefix.is_empty() && self.beyond.is_empty()
    }

    fn prefix(&self, origin: Origin) -> u64 {
        self.prefix.get(&origin)
    }

    fn raise(&mut self, origin: Origin, prefix: u64) {
        if prefix > 0 {
            self.prefix.apply(crdts::Dot::new(origin, prefix));
        }
    }

    fn ranges_beyond(&self, origin: Origin) -> impl DoubleEndedIterator<Item = (u64, u64)> + Clone + '_ {
        self.beyond.get(&origin).into_iter().flat_map(Ranges::iter)
    }

    /// All ranges of an origin, ascending, the prefix among them.
    fn ranges_of(&self, origin: Origin) -> impl DoubleEndedIterator<Item = (u64, u64)> + Clone + '_ {
        let prefix = self.prefix(origin);
        (prefix > 0).then_some((1, prefix)).into_iter().chain(self.ranges_beyond(origin))
    }

    /// Every origin it names, ascending.
    pub fn origins(&self) -> impl Iterator<Item = Origin> + '_ {
        let mut prefixes = self.prefix.dots.keys().copied().peekable();
        let mut beyond = self.beyond.keys().copied().peekable();
        std::iter::from_fn(move || {
            let next = match (prefixes.peek(), beyond.peek()) {
                (Some(&one), Some(&other)) => one.min(other),
                (one, other) => one.or(other).copied()?,
            };
            prefixes.next_if_eq(&next);
            beyond.next_if_eq(&next);
            Some(next)
        })
    }

    /// The greatest sequence that it covers of an origin; 0 if none.
    pub fn max(&self, origin: Origin) -> u64 {
        self.beyond.get(&origin).and_then(Ranges::max).unwrap_or_else(|| self.prefix(origin))
    }

    /// How many ranges it has beyond the prefixes: a measure of its holes.
    pub fn holes(&self) -> usize {
        self.beyond.values().map(Ranges::len).sum()
    }

    /// Whether what it covers of an origin has no hole.
    pub fn is_prefix(&self, origin: Origin) -> bool {
        !self.beyond.contains_key(&origin)
    }

    /// Whether it covers a dot.
    pub fn contains(&self, dot: Dot) -> bool {
        dot.seq <= self.prefix(dot.origin)
            || self.beyond.get(&dot.origin).is_some_and(|ranges| ranges.contains(dot.seq, dot.seq))
    }

    /// Covers a dot; says whether it did not before. Sequence 0 is no dot.
    pub fn insert(&mut self, dot: Dot) -> bool {
        if dot.seq == 0 || self.contains(dot) {
            return false;
        }
        self.insert_range(dot.origin, dot.seq..=dot.seq);
        true
    }

    /// Covers a range of sequences of one origin.
    pub fn insert_range(&mut self, origin: Origin, seqs: RangeInclusive<u64>) {
        let (first, last) = ((*seqs.start()).max(1), *seqs.end());
        let prefix = self.prefix(origin);
        if first > last || last <= prefix {
            return;
        }
        if first > prefix + 1 {
            return self.beyond.entry(origin).or_default().insert(first, last);
        }
        let mut end = last;
        if let Some(beyond) = self.beyond.get_mut(&origin) {
            beyond.insert(prefix + 1, last);
            end = beyond.take_from(prefix + 1).unwrap_or(last);
            if beyond.is_empty() {
                self.beyond.remove(&origin);
            }
        }
        self.raise(origin, end);
    }

    fn insert_all(&mut self, ranges: impl Iterator<Item = (Origin, RangeInclusive<u64>)>) {
        for (origin, seqs) in ranges {
            self.insert_range(origin, seqs);
        }
    }

    /// Uncovers a range of sequences of one origin.
    pub fn remove_range(&mut self, origin: Origin, seqs: RangeInclusive<u64>) {
        let (first, last) = ((*seqs.start()).max(1), *seqs.end());
        let prefix = self.prefix(origin);
        if first > last || first > prefix && !self.beyond.contains_key(&origin) {
            return;
        }
        let beyond = self.beyond.entry(origin).or_default();
        if first <= prefix {
            self.prefix.dots.remove(&origin);
            if prefix > last {
                beyond.insert(last + 1, prefix);
            }
            if first > 1 {
                self.prefix.apply(crdts::Dot::new(origin, first - 1));
            }
        }
        beyond.remove(first, last);
        if beyond.is_empty() {
            self.beyond.remove(&origin);
        }
    }

    /// Covers all that the other covers.
    pub fn join(&mut self, other: &Self) {
        self.insert_all(other.ranges());
    }

    /// Whether it covers all that the other covers.
    pub fn includes(&self, other: &Self) -> bool {
        let prefixes = other.prefix.dots.iter().all(|(origin, prefix)| self.prefix(*origin) >= *prefix);
        let covers = |origin: Origin, (first, last)| {
            last <= self.prefix(origin) || self.beyond.get(&origin).is_some_and(|ranges| ranges.contains(first, last))
        };
        prefixes && other.beyond.iter().all(|(origin, ranges)| ranges.iter().all(|range| covers(*origin, range)))
    }

    /// The dots that it covers and the other does not, by origin, ascending.
    pub fn difference(&self, other: &Self) -> impl Iterator<Item = (Origin, RangeInclusive<u64>)> + use<> {
        let mut found = Vec::new();
        for origin in self.origins() {
            for (first, last) in self.ranges_of(origin) {
                gaps(first, last, other.ranges_of(origin), |f, l| found.push((origin, f..=l)));
            }
        }
        found.into_iter()
    }

    /// All dots that it covers, by origin, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = (Origin, RangeInclusive<u64>)> + '_ {
        self.origins().flat_map(|origin| self.ranges_of(origin).map(move |(first, last)| (origin, first..=last)))
    }

    /// The clock without these dots.
    #[must_use]
    pub fn minus(&self, dots: impl IntoIterator<Item = Dot>) -> Self {
        let mut clock = self.clone();
        for dot in dots {
            clock.remove_range(dot.origin, dot.seq..=dot.seq);
        }
        clock
    }

    /// Keeps the dots that the other covers as well.
    pub fn intersect(&mut self, other: &Self) {
        if self.beyond.is_empty() && other.beyond.is_empty() {
            return self.prefix.dots.retain(|origin, prefix| {
                *prefix = (*prefix).min(other.prefix(*origin));
                *prefix > 0
            });
        }
        let mut clock = Self::new();
        for (origin, seqs) in self.ranges() {
            let overlaps = other.ranges_of(origin).filter(|(f, l)| f <= seqs.end() && seqs.start() <= l);
            for (f, l) in overlaps {
                clock.insert_range(origin, f.max(*seqs.start())..=l.min(*seqs.end()));
            }
        }
        *self = clock;
    }

    /// Uncovers dots, the last ranges of each origin first, until there are at most `max` ranges beyond prefixes for
    /// every origin that has any. A clock that covers less is always safe to show: it asks for more than is missing.
    pub(crate) fn truncate(&mut self, max: usize) {
        if self.holes() > max {
            let each = max / self.beyond.len();
            self.beyond.values_mut().for_each(|ranges| ranges.truncate(each));
            self.beyond.retain(|_, ranges| !ranges.is_empty());
        }
    }

    /// The part that concerns one origin.
    pub(crate) fn of_origin(&self, origin: Origin) -> Self {
        let mut clock = Self::new();
        clock.insert_all(self.ranges_of(origin).map(|(first, last)| (origin, first..=last)));
        clock
    }

    /// Whether it covers any dot of an origin.
    pub fn names(&self, origin: Origin) -> bool {
        self.prefix(origin) > 0 || self.beyond.contains_key(&origin)
    }
}

impl FromIterator<DotRange> for Clock {
    fn from_iter<I: IntoIterator<Item = DotRange>>(ranges: I) -> Self {
        let mut clock = Self::new();
        clock.insert_all(ranges.into_iter().map(|r| (r.origin, r.first..=r.last)));
        clock
    }
}

#[cfg(test)]
#[path = "clock_tests.rs"]
mod tests;
