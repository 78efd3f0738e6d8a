//! A host's wall clock: off by something, drifting, jumping. The monotonic one is everybody's, and right.

use node::{Mono, Wall};

/// The right time of day at the start of every run, unix milliseconds.
pub const WALL_START_MS: u64 = 1_800_000_000_000;

/// The right time of day.
pub(crate) const fn true_wall(now: Mono) -> Wall {
    Wall(WALL_START_MS + now.ms())
}

/// A wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WallClock {
    /// How far it is off, milliseconds.
    pub offset_ms: i64,
    /// What it gains, parts per million since the start of the run.
    pub drift_ppm: i32,
    /// How far it has jumped, milliseconds.
    pub jump_ms: i64,
}

impl WallClock {
    /// What it shows. It never shows a time before 1970.
    pub(crate) fn wall(&self, now: Mono) -> Wall {
        // Of the largest drift there is room for almost three years.
        let drift = (now.0 as i64).saturating_mul(i64::from(self.drift_ppm)) / 1_000_000_000;
        let off = self.offset_ms.saturating_add(self.jump_ms).saturating_add(drift);
        Wall(true_wall(now).0.saturating_add_signed(off))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_drifts_with_time_and_jumps_both_ways() {
        let mut clock = WallClock { offset_ms: -500, drift_ppm: 100, jump_ms: 0 };
        assert_eq!(clock.wall(Mono(0)), Wall(WALL_START_MS - 500));
        // 100 ppm of an hour are 360 ms.
        assert_eq!(clock.wall(Mono(3_600_000_000)), Wall(WALL_START_MS + 3_600_000 - 140));
        clock.jump_ms = -7_200_000;
        assert_eq!(clock.wall(Mono(0)), Wall(WALL_START_MS - 7_200_500));
    }
}
