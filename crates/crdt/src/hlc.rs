//! Hybrid logical time (Kulkarni et al., "Logical Physical Clocks", 2014): wall clock milliseconds, and a counter for
//! what happens within one of them or while the wall clock stands still or goes back.
//!
//! **Invariant:** a [`HybridClock`] never gives the same time twice, and what it gives lies above all that it observed.

use serde::{Deserialize, Serialize};

use crate::ids::{NodeId, Wall};

/// A hybrid logical time: 48 bits of unix milliseconds, then a 16 bit counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hlc(u64);

impl Hlc {
    /// The first time of a millisecond.
    pub const fn from_ms(ms: u64) -> Self {
        if ms >> 48 != 0 { Self(u64::MAX << 16) } else { Self(ms << 16) }
    }

    /// The packed form: milliseconds in the upper 48 bits, counter in the lower 16.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// From the packed form.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Unix milliseconds.
    pub const fn ms(self) -> u64 {
        self.0 >> 16
    }

    /// Whole unix seconds, rounded down.
    pub const fn secs(self) -> u64 {
        self.ms() / 1_000
    }

    /// The next time: counts up, and on into the next millisecond when the counter is full.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// When and where a version was written. Two versions may share a stamp; their dots tell them apart (R4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// When it happened, which may be earlier than when we heard of it.
    pub time: Hlc,
    /// The node that wrote it down.
    pub node: NodeId,
}

/// The clock that stamps local writes.
#[derive(Clone, Debug, Default)]
pub(crate) struct HybridClock {
    last: Hlc,
}

impl HybridClock {
    /// A clock that goes on above `last`.
    pub(crate) const fn above(last: Hlc) -> Self {
        Self { last }
    }

    /// The last time given or observed.
    pub(crate) const fn last(&self) -> Hlc {
        self.last
    }

    /// What the clock would show now; not above everything given.
    pub(crate) fn now(&self, wall: Wall) -> Hlc {
        self.last.max(Hlc::from_ms(wall.0))
    }

    /// A fresh time above all given and observed ones.
    pub(crate) fn tick(&mut self, wall: Wall) -> Hlc {
        self.last = Hlc::from_ms(wall.0).max(self.last.next());
        self.last
    }

    /// Folds in a time seen elsewhere.
    pub(crate) fn observe(&mut self, time: Hlc) {
        self.last = self.last.max(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_goes_on_while_the_wall_clock_stands_still_or_goes_back() {
        let mut clock = HybridClock::default();
        let a = clock.tick(Wall(100));
        let b = clock.tick(Wall(100));
        let c = clock.tick(Wall(50));
        assert!(a < b && b < c);
        assert_eq!(c.ms(), 100);
    }

    #[test]
    fn a_fresh_time_lies_above_an_observed_one() {
        let mut clock = HybridClock::default();
        clock.observe(Hlc::from_ms(500));
        assert!(clock.tick(Wall(100)) > Hlc::from_ms(500));
    }

    #[test]
    fn a_full_counter_carries_into_the_milliseconds() {
        let full = Hlc::from_bits((7 << 16) | 0xffff);
        assert_eq!(full.next(), Hlc::from_ms(8));
    }
}
