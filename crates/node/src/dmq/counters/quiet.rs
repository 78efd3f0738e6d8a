//! One counter at a server that says no stamps (generation 5): the sum is told in a quiet moment.
//!
//! An increment between our set and its arrival cannot be told from one after it, so a set waits until the server
//! has said nothing about the key for a moment. A value below the base that comes close behind another message is one that
//! was overtaken on the way; one that comes after a quiet moment is a decrement. While the server may still be repeating what it
//! said in a silence, it is neither: the dump at the end of that time tells. Where the base was guessed from the first
//! message, one that this had overtaken tells better. What messages count that cross a set is told by `crossing`; whether the
//! set has come after them nobody knows, so the sum is told again. A dump is read entry by entry while our sets arrive: an
//! entry may come after the answer to a set that it does not show yet.
//!
//! Invariant: the base is what the server had when it or we last spoke.

use std::collections::VecDeque;

use super::crossing::Crossing;
use crate::io::Mono;

/// A key counts as quiet after this long without a message from the server, milliseconds.
pub(super) const QUIET_MS: u64 = 50;

/// An entry of a dump that is below the base may be older than a live message that came up to this long before it,
/// milliseconds.
const LIVELY_MS: u64 = 3_000;

/// A message of the server that says just what we have set, and not what it has counted to from there, was under way when the set
/// arrived, if it comes within this time after the answer, milliseconds: it was lost at first at most.
const CROSSED_MS: u64 = 2_000;

/// After an answer that came late enough for the request to be repeated, another copy of that may arrive for so long, milliseconds:
/// behind the next sum it would undo that.
const COPY_MS: u64 = 2_000;

/// A server repeats what was lost for so long (`fr_timer`, and a margin), milliseconds.
const REPEATED_MS: u64 = 32_000;

/// How many values are kept that were replaced by our sets so lately that a dump may show them. One that was asked for before
/// more of them says nothing that could be understood.
const REPLACED: usize = 64;

/// How many sums are kept that had no answer: a server that leaves more of them unanswered in a row counts as silent.
const UNANSWERED: usize = 8;

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
    /// The last set and what crosses it, until the server has been quiet after its end; and when that was.
    crossing: Option<Crossing>,
    ended: Mono,
    /// Until when another copy of the last set may arrive.
    copies_until: Mono,
    /// Whether it is not known if the last set came after what the server had counted meanwhile.
    unsure: bool,
    /// The sum that is to be told next, and whether the disk knows that.
    intended: Option<(i64, bool)>,
    /// Sums of which nobody knows whether they arrived, or came last: the server has one of them, or the base.
    perhaps: Vec<i64>,
    /// Sums that had no answer, and since when that is known: told into a silence they have not arrived, unless a dump shows just
    /// that. One may have waited where the server reads, so only a dump that was asked for later tells that it has not.
    unanswered: Vec<(i64, Mono)>,
    /// The base that was guessed, until a quiet moment.
    guessed: Option<i64>,
    /// Our last sets; the newest last.
    replaced: VecDeque<Replaced>,
    /// When the newest set was answered that is not kept there any more.
    dropped: Option<Mono>,
}

/// One of our sets.
#[derive(Clone, Copy, Debug)]
struct Replaced {
    /// What the server had before it, and has of its own since.
    before: i64,
    /// What of that was known when it was told.
    least: i64,
    sum: i64,
    answered: Mono,
}

impl Quiet {
    /// A counter of which the server has `base`, which is counted already.
    pub(super) fn new(base: i64) -> Self {
        Self {
            base,
            heard: Mono(0),
            telling: None,
            taken: false,
            crossing: None,
            ended: Mono(0),
            copies_until: Mono(0),
            unsure: false,
            intended: None,
            perhaps: Vec::new(),
            unanswered: Vec::new(),
            guessed: None,
            replaced: VecDeque::new(),
            dropped: None,
        }
    }

    /// As [`Quiet::new`], where sets of before may not have arrived: a value below the base is old for a moment. `last` is the
    /// one that has no answer, and whether it is still under way.
    pub(super) fn taken_over(base: i64, last: Option<(i64, bool)>, now: Mono) -> Self {
        let crossing = last.map(|(sum, _)| Crossing::new(base, sum));
        let mut quiet = Self { heard: now, telling: last.map(|(sum, _)| sum), crossing, ..Self::new(base) };
        if last.is_some_and(|(_, open)| !open) {
            quiet.unanswered(now);
        }
        quiet
    }

    /// The base is only guessed, from what the server says now.
    pub(super) fn guessed(&mut self, now: Mono) {
        (self.guessed, self.heard) = (Some(self.base), now);
    }

    /// The base, while it is only guessed.
    pub(super) fn guess(&self) -> Option<i64> {
        self.guessed
    }

    /// Takes up what an earlier process of ours knew. What that one has told may still wait where the server reads.
    pub(super) fn restore(base: i64, mut telling: Vec<i64>, now: Mono) -> Self {
        telling.drain(..telling.len().saturating_sub(UNANSWERED));
        let unanswered = telling.iter().map(|sum| (*sum, now)).collect();
        Self { perhaps: telling, unanswered, ..Self::new(base) }
    }

    /// The base, and the sums that have arrived or not, that is under way or will be; the newest last.
    pub(super) fn saved(&self) -> (i64, Vec<i64>) {
        let next = self.telling.or(self.intended.map(|(sum, _)| sum));
        let unanswered = self.unanswered.iter().map(|(sum, _)| *sum).filter(|sum| !self.perhaps.contains(sum));
        (self.base, self.perhaps.iter().copied().chain(unanswered).chain(next).collect())
    }

    /// A sum is to be told as soon as the disk knows: a process that begins with what was there before would take it for the
    /// server's own. Gives the one that may be told now.
    pub(super) fn intends(&mut self, sum: i64) -> Option<i64> {
        let (intended, kept) = *self.intended.get_or_insert((sum, false));
        kept.then_some(intended)
    }

    /// The disk knows what is intended.
    pub(super) fn kept(&mut self) {
        if let Some((_, kept)) = &mut self.intended {
            *kept = true;
        }
    }

    /// The server said a value; returns what that adds to what it has counted, `None` for old news.
    pub(super) fn said(&mut self, said: i64, source: Source, now: Mono) -> Option<i64> {
        let silence = now.ms_since(self.heard);
        self.intended = None;
        if silence >= QUIET_MS {
            self.guessed = None;
        }
        if let Source::Dump { asked } = source {
            if let Some(step) = self.shows(said, asked, now) {
                return step;
            }
        } else {
            self.heard = now;
            if let Some(guessed) = self.guessed.filter(|guessed| said <= *guessed) {
                // It has just counted to this value, so it had less before.
                self.guessed = Some(said - 1);
                return Some(guessed - said + 1);
            }
            if let Some(step) = self.crosses(said, silence, now).or_else(|| self.crossed(said, now)) {
                return Some(step);
            }
        }
        let base = match (source, self.telling) {
            // Counted from the old base or from the sum under way: the smaller positive step.
            (Source::Dump { .. }, Some(sum)) if said > sum && (sum > self.base || said <= self.base) => {
                self.taken = true;
                sum
            }
            _ => {
                // A message is a step, so the server had something else before.
                let not_from_base = said < self.base || said == self.base && !matches!(source, Source::Dump { .. });
                let arrived = |sum: &i64| said >= *sum && (*sum > self.base || not_from_base);
                std::mem::take(&mut self.perhaps).into_iter().filter(arrived).max().unwrap_or(self.base)
            }
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
        match &mut self.crossing {
            // It shows what the messages have told.
            Some(_) if matches!(source, Source::Dump { .. }) && said == base => {}
            Some(crossing) if matches!(source, Source::Live) && self.telling.is_some() => crossing.restart(said),
            _ => self.crossing = None,
        }
        Some(said - base)
    }

    /// What a dump adds that shows what the server had before a set or has from one, or is too old to be understood: then it adds
    /// nothing. `None` if it is none of these.
    fn shows(&mut self, said: i64, asked: Mono, now: Mono) -> Option<Option<i64>> {
        if let Some(step) = self.wiped_out(said, asked, now) {
            return Some(Some(step));
        }
        // One that overtook the answer, or comes after it was lost, shows just the sum: the server has counted nothing.
        let told = self.telling == Some(said) || self.unanswered.iter().any(|(sum, _)| *sum == said);
        // The others may still wait where the server reads, or another copy of this one.
        self.unanswered.retain(|(_, since)| *since >= asked);
        if told {
            if self.base != said {
                self.replaced(said, now);
            }
            self.taken = self.telling == Some(said);
            self.base = said;
            return Some(Some(0));
        }
        if self.dropped.is_some_and(|answered| answered >= asked) {
            return Some(None);
        }
        // What it had counted until then is counted, and the set has come after it.
        self.replaced_below(said, asked, now).map(|before| Some(said - before))
    }

    /// What a message adds that crosses our last set. A value between the one before and the sum may as well be a decrement of the
    /// sum: then it comes later.
    fn crosses(&mut self, said: i64, silence: u64, now: Mono) -> Option<i64> {
        let answered = self.telling.is_none();
        if answered && silence >= QUIET_MS && now.ms_since(self.ended) >= QUIET_MS {
            self.crossing = None;
        }
        let crossing = self.crossing.as_mut()?;
        let counted = crossing.said(said)?;
        if !answered || crossing.is_open() {
            (self.base, self.taken) = (counted.last, counted.taken);
        }
        if answered {
            self.ends_crossed();
            // What a dump shows that was read before the set is counted up to here.
            if let Some(last) = self.replaced.back_mut() {
                last.before = last.before.max(said.min(last.sum));
            }
        }
        Some(counted.step)
    }

    /// The last set was answered. If the server has counted above it meanwhile, it may have come before or after that.
    fn ends_crossed(&mut self) {
        let Some(last) = self.replaced.back_mut() else { return };
        if let Some(crossing) = self.crossing.as_ref().filter(|crossing| crossing.is_open()) {
            self.unsure = true;
            self.perhaps = crossing.ends().filter(|end| *end != self.base).chain([last.sum]).collect();
            self.perhaps.sort_unstable();
            self.perhaps.dedup();
        }
    }

    /// What a message adds that was lost at first, and under way when our last set arrived.
    fn crossed(&mut self, said: i64, now: Mono) -> Option<i64> {
        let last = self.replaced.back_mut()?;
        let alike = said == last.sum && said == self.base && now.ms_since(last.answered) < CROSSED_MS;
        if said <= last.before || !alike {
            return None;
        }
        Some(said - std::mem::replace(&mut last.before, said))
    }

    /// What more has been counted if a dump shows just what we have set last, and not what the server has said since: it had
    /// counted that before the set came, and its messages were lost at first. Decrements would have been told.
    fn wiped_out(&mut self, said: i64, asked: Mono, now: Mono) -> Option<i64> {
        let last = self.replaced.back_mut()?;
        let later = asked.ms_since(self.heard) >= QUIET_MS && self.heard > last.answered;
        if said != last.sum || self.base <= said || !later || now.ms_since(last.answered) > REPEATED_MS {
            return None;
        }
        let before = std::mem::replace(&mut last.before, self.base);
        self.base = said;
        Some(said - before)
    }

    /// Which value that a set has replaced since a dump was asked for its entry was read after, if it shows `said`: the
    /// greatest that is not above it, unless what the server has is nearer, or lies on the way from a sum of ours to what it has
    /// said since. A set sent shortly before the question may be answered before it arrives.
    fn replaced_below(&mut self, said: i64, asked: Mono, now: Mono) -> Option<i64> {
        let base = self.base;
        let old = |set: &Replaced| set.answered < asked && now.ms_since(set.answered) >= LIVELY_MS;
        let sets = self.replaced.iter_mut().skip_while(|set| old(set));
        let later = sets.filter(|set| (base <= said || set.sum > said) && set.least <= said);
        let set = later.max_by_key(|set| set.before.min(said))?;
        let before = set.before.min(said);
        if base <= said && base >= before {
            return None;
        }
        // Counted up to here, however many dumps show it.
        set.before = set.before.max(said);
        Some(before)
    }

    /// What the server has, as far as is known.
    pub(super) fn believed(&self) -> i64 {
        self.base
    }

    /// That, and what it had before the last sets: a dump that comes late may show any of it.
    pub(super) fn lately(&self) -> Vec<i64> {
        self.replaced.iter().map(|set| set.before).chain([self.base]).collect()
    }

    /// Whether the server is known to have a sum.
    pub(super) fn has(&self, sum: i64) -> bool {
        self.base == sum && !self.unsure
    }

    /// The sum is being sent.
    pub(super) fn sent(&mut self, sum: i64) {
        (self.telling, self.taken, self.intended) = (Some(sum), false, None);
        (self.crossing, self.unsure) = (Some(Crossing::new(self.base, sum).or(&self.perhaps)), false);
    }

    /// The sum was answered with 200 (`stored`), or refused.
    pub(super) fn ended(&mut self, stored: bool, now: Mono) {
        let Some(sum) = self.telling.take() else { return };
        self.ended = now;
        if !stored {
            self.crossing = None;
            return;
        }
        self.unanswered.clear();
        self.perhaps.clear();
        let open = self.crossing.as_ref().is_some_and(Crossing::is_open);
        if open || !self.taken {
            self.replaced(sum, now);
        }
        if open {
            self.ends_crossed();
        } else if !self.taken {
            self.base = sum;
        }
    }

    /// The server has this sum of ours instead of the base.
    fn replaced(&mut self, sum: i64, now: Mono) {
        if self.replaced.len() == REPLACED {
            self.dropped = self.replaced.pop_front().map(|set| set.answered);
        }
        self.replaced.push_back(Replaced { before: self.base, least: self.base, sum, answered: now });
    }

    /// Nobody knows whether the sum has arrived.
    pub(super) fn unanswered(&mut self, now: Mono) {
        self.ended = now;
        if let Some(sum) = self.telling.take()
            && !self.taken
        {
            if self.unanswered.len() == UNANSWERED {
                self.unanswered.remove(0);
            }
            self.unanswered.push((sum, now));
        }
    }

    /// The request that was just answered was repeated.
    pub(super) fn may_come_twice(&mut self, now: Mono) {
        self.copies_until = now.plus_ms(COPY_MS);
    }

    /// Whether the sum is under way.
    pub(super) fn is_open(&self) -> bool {
        self.telling.is_some()
    }

    /// When the next sum may be told; `None` while one is under way. What crosses the last set must not cross two of them.
    pub(super) fn due_at(&self) -> Option<Mono> {
        self.telling.is_none().then(|| self.heard.max(self.ended).plus_ms(QUIET_MS).max(self.copies_until))
    }

    /// The server has dropped its entry.
    pub(super) fn clear(&mut self) {
        self.base = 0;
        self.intended = None;
        self.replaced.clear();
        self.crossing = self.telling.map(|sum| Crossing::new(0, sum));
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
    fn a_sum_whose_answer_came_late_is_followed_by_the_next_when_no_copy_of_it_can_come_behind_that() {
        const T0: Mono = Mono(60_000_000);
        let mut quiet = Quiet::new(29);
        quiet.sent(30);
        quiet.ended(true, T0);
        assert_eq!(quiet.due_at(), Some(T0.plus_ms(QUIET_MS)));
        quiet.may_come_twice(T0);
        assert_eq!(quiet.due_at(), Some(T0.plus_ms(COPY_MS)));
    }

    #[test]
    fn sums_that_wait_at_a_server_that_stands_still_are_no_increments_whichever_a_dump_shows_first() {
        const T0: Mono = Mono(60_000_000);
        let dump = Source::Dump { asked: T0 };
        for shown in [&[93, 102, 110][..], &[83, 93, 110], &[102, 110], &[110], &[93, 93, 102], &[110, 102, 110]] {
            let mut quiet = Quiet::new(83);
            for (sum, ms) in [(93, 1_000), (102, 2_000), (110, 3_000)] {
                quiet.sent(sum);
                quiet.unanswered(T0.plus_ms(ms));
            }
            for (number, said) in shown.iter().enumerate() {
                let counted = quiet.said(*said, dump, T0.plus_ms(9_000 + number as u64 * 1_000));
                assert_eq!(counted.unwrap_or(0), 0, "{said} of {shown:?}");
            }
        }
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
    fn what_dumps_show_that_were_read_before_a_set_is_counted_once() {
        const T0: Mono = Mono(60_000_000);
        let dump = Source::Dump { asked: T0 };
        let mut quiet = Quiet::new(83);
        for sum in [88, 92] {
            quiet.sent(sum);
            quiet.ended(true, T0);
        }
        let shown = [85, 85, 86, 85, 93, 93];
        let counted = shown.map(|said| quiet.said(said, dump, T0.plus_ms(9_000)).unwrap_or(0));
        assert_eq!(counted, [2, 0, 1, 0, 1, 0]);
    }

    #[test]
    fn a_dump_that_was_asked_for_before_more_sets_than_are_kept_says_nothing() {
        const T0: Mono = Mono(60_000_000);
        let sets = 2 * REPLACED as i64;
        for shown in [0, 3, sets / 2] {
            let mut quiet = Quiet::new(0);
            for sum in 1..=sets {
                quiet.sent(sum);
                quiet.ended(true, T0.plus_ms(100 * sum as u64));
            }
            let now = T0.plus_ms(20_000);
            assert_eq!(quiet.said(shown, Source::Dump { asked: T0 }, now), None, "{shown}");
            assert_eq!(quiet.believed(), sets);
            assert_eq!(quiet.said(sets + 1, Source::Dump { asked: now }, now), Some(1), "a new one is understood");
        }
    }

    #[test]
    fn increments_that_a_set_has_wiped_out_before_they_were_heard_count_from_what_was_there_before_it() {
        const T0: Mono = Mono(60_000_000);
        let mut quiet = Quiet::new(140);
        quiet.sent(141);
        quiet.ended(true, T0);
        let said = [142, 141, 145, 144, 143].map(|said| quiet.said(said, Source::Live, T0.plus_ms(1_500)));
        assert_eq!(said.into_iter().flatten().sum::<i64>(), 4, "from the sum, as far as is known");
        let at = T0.plus_ms(4_000);
        assert_eq!(quiet.said(141, Source::Dump { asked: T0.plus_ms(1_500) }, at), None, "it may be older");
        assert_eq!(quiet.said(141, Source::Dump { asked: at }, at), Some(1), "five from 140");
        assert_eq!(quiet.believed(), 141);
        assert_eq!(quiet.said(142, Source::Live, T0.plus_ms(9_000)), Some(1));
    }

    #[test]
    fn a_sum_is_told_when_the_disk_knows_of_it_unless_the_server_has_spoken() {
        let mut quiet = Quiet::new(5);
        assert_eq!((quiet.intends(6), quiet.saved()), (None, (5, vec![6])));
        assert_eq!(quiet.intends(7), None, "the disk does not know yet");
        quiet.kept();
        assert_eq!(quiet.intends(7), Some(6), "one after the other");
        quiet.sent(6);
        quiet.ended(true, Mono(0));
        assert_eq!((quiet.intends(7), quiet.saved()), (None, (6, vec![7])));
        assert_eq!(quiet.said(8, Source::Live, Mono(60_000_000)), Some(2));
        quiet.kept();
        assert_eq!((quiet.intends(9), quiet.saved()), (None, (8, vec![9])));
    }

    #[test]
    fn a_sum_that_waits_where_the_server_reads_has_arrived_if_a_later_dump_shows_it() {
        const T0: Mono = Mono(60_000_000);
        let mut quiet = Quiet::new(35);
        quiet.sent(36);
        quiet.unanswered(T0);
        assert_eq!(quiet.said(35, Source::Dump { asked: Mono(0) }, T0.plus_ms(2_000)), Some(0), "read before the set");
        let asked = T0.plus_ms(2_000);
        assert_eq!(quiet.said(36, Source::Dump { asked }, asked.plus_ms(1)), Some(0));
        assert_eq!(quiet.said(37, Source::Live, asked.plus_ms(2)), Some(1));
    }

    #[test]
    fn a_dump_that_shows_a_sum_without_its_answer_is_followed_by_an_older_one() {
        const T0: Mono = Mono(60_000_000);
        let mut quiet = Quiet::new(85);
        quiet.sent(88);
        quiet.ended(true, T0);
        quiet.sent(89);
        let dump = Source::Dump { asked: T0 };
        assert_eq!(quiet.said(89, dump, T0.plus_ms(6_000)), Some(0));
        assert_eq!(quiet.said(88, dump, T0.plus_ms(7_000)), Some(0), "lost and sent again");
        quiet.ended(true, T0.plus_ms(8_000));
        assert_eq!((quiet.believed(), quiet.said(90, Source::Live, T0.plus_ms(20_000))), (89, Some(1)));
    }

    #[test]
    fn a_message_that_the_answer_to_a_set_has_overtaken_counts_from_the_value_before_it() {
        const T0: Mono = Mono(60_000_000);
        for (messages, counted) in
            [(&[50][..], 1), (&[50, 51], 2), (&[51, 50], 2), (&[52], 3), (&[53], 1), (&[53, 50], 2)]
        {
            let mut quiet = Quiet::new(49);
            quiet.sent(52);
            quiet.ended(true, T0);
            let said = messages.iter().map(|&said| quiet.said(said, Source::Live, T0.plus_ms(1)).unwrap_or(0));
            assert_eq!(said.sum::<i64>(), counted, "{messages:?}");
            assert_eq!(quiet.believed(), messages.iter().copied().max().map_or(0, |most| most.max(52)));
        }
        for (said, counted) in [(52, 3), (51, -1)] {
            let mut quiet = Quiet::new(49);
            quiet.sent(52);
            quiet.ended(true, T0);
            assert_eq!(quiet.said(said, Source::Live, T0.plus_ms(600)), Some(counted), "a decrement comes later");
        }
    }

    #[test]
    fn a_sum_that_came_before_or_after_what_the_server_had_counted_is_told_again_and_meanwhile_is_either() {
        const T0: Mono = Mono(60_000_000);
        for next in [45, 46] {
            let mut quiet = Quiet::new(43);
            quiet.sent(44);
            let said = [45, 44].map(|said| quiet.said(said, Source::Live, T0));
            assert_eq!(said, [Some(1), Some(1)]);
            quiet.ended(true, T0.plus_ms(1));
            assert!(!quiet.has(45));
            assert_eq!(quiet.said(next, Source::Live, T0.plus_ms(1_000)), Some(1), "{next}");
        }
        let mut quiet = Quiet::new(43);
        quiet.sent(44);
        quiet.said(45, Source::Live, T0);
        quiet.ended(true, T0.plus_ms(1));
        quiet.sent(45);
        quiet.ended(true, T0.plus_ms(100));
        assert!(quiet.has(45));
        assert_eq!(quiet.said(46, Source::Live, T0.plus_ms(1_000)), Some(1));
    }

    #[test]
    fn what_crosses_a_set_after_the_entry_was_dropped_counts_from_nothing() {
        let mut quiet = Quiet::new(1);
        quiet.sent(40);
        quiet.clear();
        let said = [2, 1].map(|said| quiet.said(said, Source::Live, Mono(60_000_000)).unwrap_or(0));
        assert_eq!(said.iter().sum::<i64>(), 2, "{said:?}");
        assert_eq!(quiet.believed(), 2);
    }

    #[test]
    fn a_dump_among_messages_that_cross_a_set_shows_nothing_more() {
        const T0: Mono = Mono(60_000_000);
        let mut quiet = Quiet::new(34);
        quiet.sent(35);
        quiet.ended(true, T0);
        let mut said = |said, source, ms| quiet.said(said, source, T0.plus_ms(ms)).unwrap_or(0);
        let dump = Source::Dump { asked: T0.plus_ms(24) };
        assert_eq!([said(37, Source::Live, 24), said(37, dump, 25), said(36, Source::Live, 25)], [2, 0, 0]);
    }

    #[test]
    fn a_sum_that_had_no_answer_has_arrived_if_a_dump_shows_it_and_else_not() {
        for (shown, counted) in [(140, 0), (141, 0), (145, 5)] {
            let mut quiet = Quiet::new(140);
            quiet.sent(141);
            quiet.unanswered(Mono(0));
            assert_eq!(quiet.said(shown, ASKED, Mono(60_000_000)), Some(counted));
        }
    }

    #[test]
    fn of_several_sums_that_had_no_answer_any_may_have_arrived() {
        for (shown, counted) in [(12, 0), (14, 0), (15, 0)] {
            let mut quiet = Quiet::new(12);
            for sum in [14, 15] {
                quiet.sent(sum);
                quiet.unanswered(Mono(0));
            }
            let (base, told) = quiet.saved();
            assert_eq!(quiet.said(shown, ASKED, Mono(60_000_000)), Some(counted), "{shown}");
            let mut restarted = Quiet::restore(base, told, Mono(0));
            assert_eq!(restarted.said(shown, ASKED, Mono(60_000_000)), Some(counted), "{shown} after a restart");
        }
    }

    #[test]
    fn a_sum_that_waits_at_a_server_while_its_node_restarts_is_no_increment_whichever_dump_shows_it() {
        let mut restarted = Quiet::restore(10, vec![11], Mono(5));
        let dump = Source::Dump { asked: Mono(5) };
        assert_eq!([10, 11].map(|shown| restarted.said(shown, dump, Mono(60_000_000))), [Some(0), Some(0)]);
        assert_eq!(restarted.saved(), (11, vec![11]));
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

    #[test]
    fn a_dump_that_was_read_just_before_the_last_message_has_nothing_new() {
        let mut quiet = Quiet::new(240);
        quiet.sent(241);
        quiet.ended(true, Mono(100_000_000));
        let asked = Mono(101_900_000);
        assert_eq!(quiet.said(242, Source::Live, asked.plus_ms(4)), Some(1));
        assert_eq!(quiet.said(241, Source::Dump { asked }, asked.plus_ms(18)), None);
        assert_eq!(quiet.believed(), 242);
    }
}
