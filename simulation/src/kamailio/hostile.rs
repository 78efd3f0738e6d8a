//! A server that takes part like any other, and sends what nobody should take.

use node::{Mono, Now};

use super::Kamailio;

/// What a hostile server has in mind.
pub(super) struct Hostile {
    next: Mono,
}

impl Hostile {
    pub(super) fn new(now: Mono) -> Self {
        Self { next: now.plus_ms(1_000) }
    }

    pub(super) fn wakeup(&self) -> Mono {
        self.next
    }
}

impl Kamailio {
    pub(super) fn be_hostile(&mut self, now: Now) {
        if let Some(hostile) = &mut self.hostile
            && hostile.next <= now.mono
        {
            hostile.next = now.mono.plus_ms(1_000);
        }
    }
}
