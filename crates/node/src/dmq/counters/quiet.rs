//! One counter at a server that says no stamps (generation 5): the sum is told in a quiet moment.
//!
//! An increment between our set and its arrival cannot be told from one after it, so a set waits until the server
//! has said nothing about the key for a moment. A value below the base that comes close behind another message is one that
//! was overtaken on the way; one that comes after a quiet moment is a decrement. While the server may still be repeating what it
//! said in a silence, it is neither: the dump at the end of that time tells.
//!
//! Invariant: the base is what the server had when it or we last spoke.

use crate::io::Mono;

/// A key counts as quiet after this long without a message from the server, milliseconds.
const QUIET_MS: u64 = 50;

/// An entry of a dump that is below the base may be older than a live message that came up to this long before it,
/// milliseconds.
const LIVELY_MS: u64 = 3_000;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The server's message.
    Live,
    /// Its message at a time when it may still be repeating old ones, because they had no answer.
    Repeated,
    /// Its dump.
    Dump,
}

/// What is known of the counter at this server.
#[derive(Debug)]
pub(super) struct Quiet {
    base: i64,
    heard: Mono,
    /// The sum that is being told, while the request is open.
    telling: Option<i64>,
    /// Whether the server has counted on from what is being told.
    taken: bool,
    /// A sum that had no answer, or that an earlier process of ours was telling when it ended: the server has it, or the base.
    perhaps: Option<Perhaps>,
}

/// A sum of which nobody knows whether it arrived.
#[derive(Clone, Copy, Debug)]
struct Perhaps {
    sum: i64,
    /// It had time for an answer and got none: it counts as taken only if the server shows it as it is.
    doubtful: bool,
}

impl Quiet {
    /// A counter of which the server has `base`, which is counted already.
    pub(super) fn new(base: i64) -> Self {
        Self { base, heard: Mono(0), telling: None, taken: false, perhaps: None }
    }

    /// Takes up what an earlier process of ours knew.
    pub(super) fn restore(base: i64, telling: Option<i64>) -> Self {
        let perhaps = telling.map(|sum| Perhaps { sum, doubtful: false });
        Self { perhaps, ..Self::new(base) }
    }

    /// The base, and the sum that is under way.
    pub(super) fn saved(&self) -> (i64, Option<i64>) {
        (self.base, self.telling.or(self.perhaps.map(|p| p.sum)))
    }

    /// The server said a value; returns what that adds to what it has counted, `None` for old news.
    pub(super) fn said(&mut self, said: i64, source: Source, now: Mono) -> Option<i64> {
        let silence = now.ms_since(self.heard);
        self.heard = now;
        let base = match self.telling {
            // Counted from the old base or from the sum under way: the smaller positive step. A dump may also show the sum
            // itself, before its answer comes.
            Some(sum)
                if (said > sum || said == sum && source == Source::Dump)
                    && (said - sum < said - self.base || said <= self.base) =>
            {
                self.taken = true;
                self.telling = Some(said);
                sum
            }
            _ => match self.perhaps.take() {
                Some(Perhaps { sum, doubtful: true }) if said == sum => sum,
                Some(Perhaps { sum, doubtful: false }) if said >= sum && (sum > self.base || said < self.base) => sum,
                _ => self.base,
            },
        };
        let old_news = match source {
            Source::Live => silence < QUIET_MS,
            Source::Repeated => true,
            Source::Dump => silence < LIVELY_MS,
        };
        if said < base && old_news {
            return None;
        }
        self.base = said;
        Some(said - base)
    }

    /// What the server has, as far as is known.
    pub(super) fn believed(&self) -> i64 {
        self.base
    }

    /// The sum is being sent.
    pub(super) fn sent(&mut self, sum: i64) {
        (self.telling, self.taken) = (Some(sum), false);
    }

    /// The sum was answered with 200 (`stored`), or not.
    pub(super) fn ended(&mut self, stored: bool) {
        match self.telling.take() {
            Some(_) if self.taken => {}
            Some(sum) if stored => self.base = sum,
            // Only the answer may have been lost.
            sum => self.perhaps = sum.map(|sum| Perhaps { sum, doubtful: true }),
        }
    }

    /// Whether the sum is under way.
    pub(super) fn is_open(&self) -> bool {
        self.telling.is_some()
    }

    /// When the next sum may be told; `None` while one is under way.
    pub(super) fn due_at(&self) -> Option<Mono> {
        self.telling.is_none().then(|| self.heard.plus_ms(QUIET_MS))
    }

    /// The server has dropped its entry.
    pub(super) fn clear(&mut self) {
        self.base = 0;
    }
}
