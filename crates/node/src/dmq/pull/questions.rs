//! Which question a dump of entries answers, and when entries are asked for again.
//!
//! A dump that was lost at first may come behind the one that was asked for after it, and shows what was so earlier. Invariant:
//! what is said to be asked for at a time was asked for then or later.

use super::Pull;
use crate::dmq::peer::LIVELY_MS;
use crate::io::Mono;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Questions {
    /// Whether entries are wanted though nothing was missed.
    pub(super) wanted: bool,
    /// When they were asked for, as far as the answer is not known to be whole yet, oldest first; the last of all; and the last
    /// that was answered.
    asked: Vec<Mono>,
    asked_last: Mono,
    answered: Mono,
    /// Whether answers come in the order of the questions.
    in_order: bool,
    late_ms: u64,
    /// When what this pull has got was asked for, at the earliest.
    pub(super) from: Option<Mono>,
    /// When they are asked for once more.
    again: Option<Mono>,
    /// Whether a dump differs from what was said a moment before, and whether it is the second one for that reason.
    differs: bool,
    looked_again: bool,
    /// Whether entries were passed over that others may know more about.
    passed_over: bool,
}

impl Pull {
    /// Nothing is known of the server any more, but for what it may still answer.
    pub(crate) fn forget(&mut self) {
        let Questions { asked, asked_last, answered, late_ms, .. } = std::mem::take(&mut self.questions);
        let questions = Questions { asked, asked_last, answered, late_ms, ..Questions::default() };
        let mut way = std::mem::take(&mut self.way);
        way.forget_echoes();
        *self = Self { questions, way, ..Self::default() };
    }

    /// A process of ours that ended then may have asked, and the server may still repeat its answer.
    pub(crate) fn assume_asked(&mut self, late_ms: u64, then: Mono) {
        self.questions.late_ms = late_ms;
        self.questions.asked.push(then);
    }

    /// A question for entries is sent to a server that has any, as far as is known, or not. What it answers may come so late.
    pub(super) fn asks_entries(&mut self, has_any: bool, late_ms: u64, now: Mono) {
        self.questions.late_ms = late_ms;
        self.questions.asked_last = now;
        self.questions.asked.retain(|at| now.ms_since(*at) < late_ms);
        if has_any {
            self.questions.asked.push(now);
        }
    }

    /// A dump differs from what was said just before it was asked for.
    pub(crate) fn found_difference(&mut self) {
        self.questions.differs = true;
    }

    /// An entry of a dump is passed over until it is known what other nodes know of it.
    pub(crate) fn pass_over(&mut self) {
        self.questions.passed_over = true;
    }

    /// Whether any was since the last call.
    pub(super) fn take_passed_over(&mut self) -> bool {
        std::mem::take(&mut self.questions.passed_over)
    }

    /// Whether this is the second dump for that reason.
    pub(crate) fn looks_again(&self) -> bool {
        self.questions.looked_again
    }

    /// If what was got may answer an older question, it is asked for once more when nothing of that can come. If it differs from
    /// what was said a moment before, once more when that is past: what was said may have been a repetition.
    pub(super) fn ask_entries_again(&mut self, now: Mono) {
        let older =
            self.questions.from.filter(|from| *from < self.begun).map(|from| from.plus_ms(self.questions.late_ms));
        let looked_again = std::mem::take(&mut self.questions.looked_again);
        let differs = std::mem::take(&mut self.questions.differs) && !looked_again;
        self.questions.again = older.or(differs.then(|| now.plus_ms(LIVELY_MS)));
    }

    /// When that is.
    pub(crate) fn entries_again(&self) -> Option<Mono> {
        self.questions.again
    }

    /// It is time for it.
    pub(crate) fn look_at_entries(&mut self, now: Mono) {
        if self.questions.again.take_if(|at| *at <= now).is_some() {
            self.questions.looked_again = true;
            self.questions.wanted = true;
        }
    }

    /// What was on its way will not come any more.
    pub(crate) fn lost_entries(&mut self) {
        self.questions.asked.clear();
    }

    /// Whether a dump of entries is on its way that may not know what the server has been told meanwhile.
    pub(crate) fn awaits_entries(&self, now: Mono) -> bool {
        let Questions { asked, answered, late_ms, .. } = &self.questions;
        asked.last().is_some_and(|at| at > answered && now.ms_since(*at) < *late_ms)
    }

    /// A part of a dump of entries has come: when it was asked for, at the earliest. A dump that was lost at first may come behind
    /// the one that was asked for after it, unless all come by one connection, in order. What nobody asked for answers nothing.
    pub(crate) fn entries_came(&mut self, in_order: bool, now: Mono) -> Mono {
        let Questions { asked, asked_last, late_ms, from, .. } = &mut self.questions;
        asked.retain(|at| now.ms_since(*at) < *late_ms);
        let earliest = asked.first().copied().unwrap_or(*asked_last);
        *from = Some(from.map_or(earliest, |from| from.min(earliest)));
        self.questions.in_order = in_order;
        earliest
    }

    /// When what this pull has got of entries was asked for, at the earliest.
    pub(crate) fn entries_from(&self) -> Option<Mono> {
        self.questions.from
    }

    /// The question of that time has its whole answer.
    pub(super) fn entries_answered(&mut self, then: Mono) {
        let Questions { asked, answered, in_order, .. } = &mut self.questions;
        asked.retain(|at| if *in_order { *at > then } else { *at != then });
        *answered = then;
    }

    /// The next pull shall at least get the entries.
    pub(crate) fn want_entries(&mut self) {
        self.questions.wanted = true;
    }

    /// Whether somebody wants the entries.
    pub(crate) fn entries_wanted(&self) -> bool {
        self.questions.wanted
    }
}
