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

    /// Milliseconds, theirs minus ours.
    pub(super) fn ms(self) -> Option<i64> {
        self.ms
    }

    /// Whether it exceeds the limit.
    pub(super) fn skewed(self) -> bool {
        self.skewed
    }
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
    fn a_slow_round_trip_says_nothing() {
        let mut offset = Offset::default();
        offset.measure(150_000, 0, now(5_000, 100_000), 2_000);
        assert_eq!(offset, Offset::default());
    }
}
