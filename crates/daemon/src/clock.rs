//! The only place that reads a clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use node::{Mono, Now, Wall};

/// Reads both times; the monotonic one counts from the creation of the clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts at 0 now.
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Both times of this instant.
    pub(crate) fn now(self) -> Now {
        let micros = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        Now { mono: Mono(micros), wall: wall() }
    }

    /// The instant of a monotonic time; far ones are cut to an hour from now, after which one looks again.
    pub(crate) fn instant(self, mono: Mono) -> Instant {
        let horizon = Instant::now() + Duration::from_secs(3_600);
        self.start.checked_add(Duration::from_micros(mono.0)).map_or(horizon, |at| at.min(horizon))
    }
}

/// Unix time in milliseconds. A clock before 1970 reads as 0: everything else refuses to work with it, loudly.
pub(crate) fn wall() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
