//! One counter at a server that says no stamps (generation 5): the sum is told in a quiet moment.
//!
//! An increment between our set and its arrival cannot be told from one after it, so a set waits until the server
//! has said nothing about the key for a moment. A value below the base that comes close behind another message is one that
//! was overtaken on the way; one that comes after a quiet moment is a decrement. While the server may still be repeating what it
//! said in a silence, it is neither: the dump at the end of that time tells. Where the base was guessed from the first
//! message, one that this had overtaken tells better. A dump is read entry by entry while our sets arrive: an entry may come
//! after the answer to a set that it does not show yet.
//!
//! Invariant: the base is what the server had when it or we last spoke.

use std::collections::VecDeque;

use crate::io::Mono;

/// A key counts as quiet after this long without a message from the server, milliseconds.
pub(super) const QUIET_MS: u64 = 50;

/// An entry of a dump that is below the base may be older than a live message that came up to this long before it,
/// milliseconds.
const LIVELY_MS: u64 = 3_000;

/// How many values are kept that were replaced by our sets so lately that a dump may show them.
const REPLACED: usize = 16;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The server's message.
    Live,
    /// Its message at a time when it may still be repeating old ones, because they had no answer.
    Repeated,
    /// Its dump, for which it was asked then.
    Dump { asked: Mono },
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
    /// A sum that an earlier process of ours was telling when it ended: the server has it, or the base.
    perhaps: Option<i64>,
    /// A sum that had no answer: told into a silence it has not arrived, unless a dump shows just that.
    unanswered: Option<i64>,
    /// The base that was guessed, until a quiet moment.
    guessed: Option<i64>,
    /// What the server had before our last sets, each with the time of the answer; the newest last.
    replaced: VecDeque<(i64, Mono)>,
}

impl Quiet {
    /// A counter of which the server has `base`, which is counted already.
    pub(super) fn new(base: i64) -> Self {
        Self {
            base,
            heard: Mono(0),
            telling: None,
            taken: false,
            perhaps: None,
            unanswered: None,
            guessed: None,
            replaced: VecDeque::new(),
        }
    }

    /// The base is only guessed, from what the server says now.
    pub(super) fn guessed(&mut self, now: Mono) {
        (self.guessed, self.heard) = (Some(self.base), now);
    }

    /// Takes up what an earlier process of ours knew.
    pub(super) fn restore(base: i64, telling: Option<i64>) -> Self {
        Self { perhaps: telling, ..Self::new(base) }
    }

    /// The base, and the sum that is under way.
    pub(super) fn saved(&self) -> (i64, Option<i64>) {
        (self.base, self.telling.or(self.perhaps))
    }

    /// The server said a value; returns what that adds to what it has counted, `None` for old news.
    pub(super) fn said(&mut self, said: i64, source: Source, now: Mono) -> Option<i64> {
        let silence = now.ms_since(self.heard);
        self.heard = now;
        if silence >= QUIET_MS {
            self.guessed = None;
        }
        if !matches!(source, Source::Dump { .. })
            && let Some(guessed) = self.guessed
            && said <= guessed
        {
            // It has just counted to this value, so it had less before.
            self.guessed = Some(said - 1);
            return Some(guessed - said + 1);
        }
        // A dump that overtook the answer, or comes after it was lost, shows just the sum: the server has counted nothing.
        let told = [self.telling, self.unanswered].contains(&Some(said));
        if let Source::Dump { asked } = source {
            self.unanswered = None;
            if !told && let Some(before) = self.replaced_below(said, asked, now) {
                // What it had counted until then is counted, and the set has come after it.
                return Some(said - before);
            }
        }
        let base = match self.telling {
            _ if told && matches!(source, Source::Dump { .. }) => said,
            // Counted from the old base or from the sum under way: the smaller positive step.
            Some(sum) if said > sum && (said - sum < said - self.base || said <= self.base) => {
                self.taken = true;
                self.telling = Some(said);
                sum
            }
            _ => match self.perhaps.take() {
                Some(sum) if said >= sum && (sum > self.base || said < self.base) => sum,
                _ => self.base,
            },
        };
        let old_news = match source {
            Source::Live => silence < QUIET_MS,
            Source::Repeated => true,
            Source::Dump { .. } => silence < LIVELY_MS,
        };
        if said < base && old_news {
            return None;
        }
        self.base = said;
        Some(said - base)
    }

    /// Which value that a set has replaced since a dump was asked for its entry was read after, if it shows `said`: the
    /// greatest that is not above it, unless what the server has is nearer. A set sent shortly before the question may be answered before it arrives.
    fn replaced_below(&mut self, said: i64, asked: Mono, now: Mono) -> Option<i64> {
        let old = |answered: Mono| answered < asked && now.ms_since(answered) >= LIVELY_MS;
        while self.replaced.front().is_some_and(|(_, answered)| old(*answered)) {
            self.replaced.pop_front();
        }
        let before = self.replaced.iter().map(|(value, _)| *value).filter(|value| *value <= said).max()?;
        (self.base > said || self.base < before).then_some(before)
    }

    /// What the server has, as far as is known.
    pub(super) fn believed(&self) -> i64 {
        self.base
    }

    /// The sum is being sent.
    pub(super) fn sent(&mut self, sum: i64) {
        (self.telling, self.taken) = (Some(sum), false);
    }

    /// The sum was answered with 200 (`stored`), or refused.
    pub(super) fn ended(&mut self, stored: bool, now: Mono) {
        let Some(sum) = self.telling.take() else { return };
        if stored {
            self.unanswered = None;
        }
        if stored && !self.taken {
            if self.replaced.len() == REPLACED {
                self.replaced.pop_front();
            }
            self.replaced.push_back((self.base, now));
            self.base = sum;
        }
    }

    /// Nobody knows whether the sum has arrived.
    pub(super) fn unanswered(&mut self) {
        if let Some(sum) = self.telling.take()
            && !self.taken
        {
            self.unanswered = Some(sum);
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
        self.replaced.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Source = Source::Dump { asked: Mono(0) };

    #[test]
    fn a_dump_that_overtakes_the_answer_to_a_sum_shows_the_sum_and_no_increment() {
        let mut quiet = Quiet::new(4);
        quiet.sent(7);
        assert_eq!(quiet.said(7, ASKED, Mono(0)), Some(0));
        quiet.ended(true, Mono(0));
        assert_eq!(quiet.said(8, Source::Live, Mono(60_000)), Some(1));
    }

    #[test]
    fn a_dump_that_was_read_before_a_set_and_comes_after_its_answer_counts_from_the_value_before_it() {
        const T0: Mono = Mono(60_000_000);
        let dump = Source::Dump { asked: T0 };
        for (shown, counted) in [(83, 0), (85, 2), (88, 0), (92, 0), (93, 1)] {
            let mut quiet = Quiet::new(83);
            for sum in [88, 92] {
                quiet.sent(sum);
                quiet.ended(true, T0);
            }
            assert_eq!(quiet.said(shown, dump, T0.plus_ms(40_000)), Some(counted), "{shown}");
            assert_eq!(quiet.believed(), shown.max(92));
        }
        let mut quiet = Quiet::new(83);
        quiet.sent(92);
        quiet.ended(true, T0);
        let later = T0.plus_ms(LIVELY_MS);
        assert_eq!(quiet.said(83, Source::Dump { asked: later }, later), Some(-9), "asked after it: a decrement");
    }

    #[test]
    fn a_sum_that_had_no_answer_has_arrived_if_a_dump_shows_it_and_else_not() {
        for (shown, counted) in [(140, 0), (141, 0), (145, 5)] {
            let mut quiet = Quiet::new(140);
            quiet.sent(141);
            quiet.unanswered();
            assert_eq!(quiet.said(shown, ASKED, Mono(60_000_000)), Some(counted));
        }
    }

    #[test]
    fn the_first_messages_that_overtake_each_other_are_all_counted() {
        let orders = [[1, 2, 3, 4], [2, 3, 1, 4], [4, 3, 2, 1], [3, 4, 1, 2]];
        let all = orders.into_iter().flat_map(|order| [(order, Source::Live), (order, Source::Repeated)]);
        for (order, source) in all {
            // The mesh has 2, and the server may have had any of them before.
            let base = 2.min(order[0] - 1);
            let mut quiet = Quiet::new(base);
            quiet.guessed(Mono(60_000_000));
            let counted = order.map(|said| quiet.said(said, source, Mono(60_000_000)).unwrap_or(0));
            assert_eq!(counted.iter().sum::<i64>(), 4, "{order:?}, {source:?}");
        }
    }

    #[test]
    fn a_decrement_below_a_guessed_base_is_none_that_was_overtaken() {
        let mut quiet = Quiet::new(2);
        quiet.guessed(Mono(0));
        assert_eq!(quiet.said(3, Source::Live, Mono(0)), Some(1));
        assert_eq!(quiet.said(2, Source::Live, Mono(60_000_000)), Some(-1));
    }

    #[test]
    fn a_dump_that_the_sum_has_not_reached_shows_the_base_and_what_was_counted() {
        let mut quiet = Quiet::new(4);
        quiet.sent(7);
        assert_eq!(quiet.said(4, ASKED, Mono(0)), Some(0));
        assert_eq!(quiet.said(5, ASKED, Mono(0)), Some(1));
    }
}
