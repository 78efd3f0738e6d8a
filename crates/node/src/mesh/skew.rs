//! How far another node's wall clock is from ours (R3).
//!
//! The offset is theirs minus ours. A ping measures it to half a round trip; the hello gives a first guess, which may be
//! wrong by as long as the hello was under way, so a guess that looks bad only holds data back until the first pong.

use crate::io::Now;

/// What has been measured of one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offset {
    ms: Option<i64>,
    skewed: bool,
}

impl Offset {
    /// Takes the wall clock of a hello.
    pub(super) fn greet(&mut self, wall_ms: u64, now: Now, max_ms: u64) {
        let ms = difference(wall_ms, now.wall.0);
        self.ms = Some(ms);
        self.skewed = ms.unsigned_abs() > max_ms;
    }

    /// Takes a pong: the peer's wall clock, and when its ping left by our monotonic clock, microseconds.
    /// A round trip that says less than the limit asks for is ignored.
    pub(super) fn measure(&mut self, wall_ms: u64, sent_us: u64, now: Now, max_ms: u64) {
        let round_trip_ms = now.mono.0.saturating_sub(sent_us) / 1_000;
        if sent_us > now.mono.0 || round_trip_ms > max_ms {
            return;
        }
        let ms = difference(wall_ms.saturating_add(round_trip_ms / 2), now.wall.0);
        self.ms = Some(ms);
        self.skewed = ms.unsigned_abs().saturating_sub(round_trip_ms / 2) > max_ms;
    }

    /// Our wall clock has jumped by so many milliseconds. What was off stays so until a pong says otherwise: what was dated by the
    /// clock of before has to be dated again first (R1).
    pub(super) fn shift(&mut self, by_ms: i64, max_ms: u64) {
        if let Some(ms) = &mut self.ms {
            *ms = ms.saturating_sub(by_ms);
            self.skewed |= ms.unsigned_abs() > max_ms;
        }
    }

    /// Whether it is within the limit by what is known, though no pong may have confirmed it since a jump.
    pub(super) fn agrees(self, max_ms: u64) -> bool {
        self.ms.is_none_or(|ms| ms.unsigned_abs() <= max_ms)
    }

    /// Milliseconds, theirs minus ours.
    pub(super) fn ms(self) -> Option<i64> {
        self.ms
    }

    /// Whether it exceeds the limit.
    pub(super) fn skewed(self) -> bool {
        self.skewed
    }
}

/// Finds jumps of our own wall clock, so that not even the first tick after one goes by a wrong time: what is forgotten by
/// mistake is gone. A jump may also be right (a virtual machine that was suspended); the next pongs tell.
#[derive(Debug)]
pub(crate) struct Jumps {
    /// Wall minus monotonic clock, milliseconds, when last looked at.
    gap: i128,
}

impl Jumps {
    /// From now on.
    pub(crate) fn new(now: Now) -> Self {
        Self { gap: gap(now) }
    }

    /// By how much the wall clock has jumped since the last call, milliseconds, if it has: small steps are left to
    /// the pings.
    pub(crate) fn look(&mut self, now: Now) -> Option<i64> {
        const STEP_MS: i128 = 100;
        let gap = gap(now);
        let by = gap - self.gap;
        self.gap = gap;
        (by.abs() >= STEP_MS).then(|| i64::try_from(by).unwrap_or(i64::MAX))
    }
}

fn gap(now: Now) -> i128 {
    i128::from(now.wall.0) - i128::from(now.mono.ms())
}

fn difference(theirs: u64, ours: u64) -> i64 {
    i64::try_from(i128::from(theirs) - i128::from(ours)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use crdt::Wall;

    use super::*;
    use crate::io::Mono;

    fn now(mono_ms: u64, wall_ms: u64) -> Now {
        Now { mono: Mono(mono_ms * 1_000), wall: Wall(wall_ms) }
    }

    #[test]
    fn a_pong_corrects_a_hello_that_was_long_under_way() {
        let mut offset = Offset::default();
        offset.greet(100_000, now(0, 103_000), 2_000);
        assert!(offset.skewed());
        offset.measure(103_050, 0, now(100, 103_100), 2_000);
        assert_eq!((offset.ms(), offset.skewed()), (Some(0), false));
    }

    #[test]
    fn a_clock_that_is_really_off_stays_off() {
        let mut offset = Offset::default();
        offset.greet(110_000, now(0, 100_000), 2_000);
        offset.measure(110_000, 0, now(1, 100_001), 2_000);
        assert_eq!((offset.ms(), offset.skewed()), (Some(9_999), true));
    }

    #[test]
    fn a_jump_of_our_own_clock_is_found_at_once_and_drift_is_not() {
        let mut jumps = Jumps::new(now(0, 100_000));
        assert_eq!(jumps.look(now(10_000, 110_001)), None);
        assert_eq!(jumps.look(now(10_001, 3_710_002)), Some(3_600_000));
        assert_eq!(jumps.look(now(10_002, 110_003)), Some(-3_600_000));
        let mut offset = Offset::default();
        offset.greet(100_000, now(0, 100_000), 2_000);
        offset.shift(3_600_000, 2_000);
        assert_eq!((offset.ms(), offset.skewed()), (Some(-3_600_000), true));
        offset.shift(-3_600_000, 2_000);
        assert_eq!((offset.ms(), offset.skewed(), offset.agrees(2_000)), (Some(0), true, true), "no pong confirms it");
        offset.measure(110_004, 10_003_000, now(10_003, 110_004), 2_000);
        assert_eq!((offset.ms(), offset.skewed()), (Some(0), false));
    }

    #[test]
    fn a_slow_round_trip_says_nothing() {
        let mut offset = Offset::default();
        offset.measure(150_000, 0, now(5_000, 100_000), 2_000);
        assert_eq!(offset, Offset::default());
    }
}
