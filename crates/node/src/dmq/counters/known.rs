//! What is known of one counter of a server, whichever way it is told, and how requests about it end. Invariant: a delete
//! without an answer is not forgotten before the server has spoken or another request was answered.

use crdt::Wall;

use super::quiet::Quiet;
use super::stamped::Stamped;
use crate::dmq::How;
use crate::dmq::peer::LIVELY_MS;
use crate::io::{Mono, Now};

/// What is known of one counter.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) way: Way,
    /// Whether a delete of ours is under way.
    pub(super) deleting: bool,
    /// Whether the entry may be gone: one has arrived or not, because it had no answer, or a dump does not show the entry; and the
    /// server has not spoken since.
    pub(super) perhaps_gone: bool,
    /// When the server last said or showed it, or was told.
    spoken: Mono,
    /// Whether the server is known to have an entry: one of 0 is a counter too.
    pub(super) entered: bool,
}

/// How it is told.
#[derive(Debug)]
pub(super) enum Way {
    Quiet(Quiet),
    Stamped(Stamped),
}

/// How a request that told a counter ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// With 200; `late`: so late that the request was repeated, and any copy of it may still be under way.
    Seen { late: bool },
    /// With this other code.
    Refused(u16),
    /// Without an answer.
    Unanswered,
}

impl Known {
    /// One that nothing is under way about.
    pub(super) fn new(way: Way, entered: bool) -> Self {
        Self { way, deleting: false, perhaps_gone: false, spoken: Mono(0), entered }
    }

    /// What the server had before the first message, as far as messages that others had overtaken have not told better yet.
    pub(super) fn guess(&self) -> Option<i64> {
        match &self.way {
            Way::Quiet(quiet) => quiet.guess(),
            Way::Stamped(stamped) => stamped.guess(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.deleting
            || match &self.way {
                Way::Quiet(quiet) => quiet.is_open(),
                Way::Stamped(stamped) => stamped.is_open(),
            }
    }

    /// What the server has, as far as is known.
    pub(super) fn believed(&self) -> i64 {
        match &self.way {
            Way::Quiet(quiet) => quiet.believed(),
            Way::Stamped(stamped) => stamped.believed(),
        }
    }

    /// That, and what it had shortly before, where a dump that comes late may show it.
    pub(super) fn lately(&self) -> Vec<i64> {
        match &self.way {
            Way::Quiet(quiet) => quiet.lately(),
            Way::Stamped(stamped) => vec![stamped.believed()],
        }
    }

    /// What the server says tells whether a delete that had no answer has arrived: then it counts from nothing.
    pub(super) fn heard(&mut self, said: i64, now: Mono) {
        self.spoken = now;
        let base = self.believed();
        if std::mem::take(&mut self.perhaps_gone) && said.abs() < (said - base).abs() {
            self.clear();
        }
        self.entered = true;
    }

    /// Whether the server has counted something if it says this after all that was counted has expired: its entry may outlive that,
    /// or begin again.
    pub(super) fn is_news_after_end(&mut self, said: i64, how: How) -> bool {
        let more = said.abs() > self.believed().abs();
        if how != How::Dump && said.abs() < self.believed().abs() {
            self.clear();
        }
        how != How::Dump || more || said == 0
    }

    /// Whether the server has said, shown or been told the counter later than it said something then.
    pub(super) fn was_spoken_of_after(&self, said: Wall, now: Now) -> bool {
        said < now.wall_at(self.spoken)
    }

    /// A dump that was asked for then has shown everything.
    pub(super) fn dumped(&mut self, asked: Mono) {
        self.perhaps_gone |= self.entered && !self.is_open() && self.spoken.plus_ms(LIVELY_MS) < asked;
    }

    pub(super) fn clear(&mut self) {
        self.entered = false;
        match &mut self.way {
            Way::Quiet(quiet) => quiet.clear(),
            Way::Stamped(stamped) => stamped.clear(),
        }
    }

    pub(super) fn end(&mut self, how: Told, now: Mono) {
        self.spoken = now;
        self.entered |= matches!(how, Told::Seen { .. });
        self.perhaps_gone = match how {
            Told::Unanswered => self.deleting || self.perhaps_gone,
            Told::Seen { .. } => false,
            Told::Refused(_) => self.perhaps_gone,
        };
        self.deleting = false;
        match (&mut self.way, how) {
            (Way::Quiet(quiet), Told::Unanswered) => quiet.unanswered(now),
            (Way::Quiet(quiet), Told::Refused(_)) => quiet.ended(false, now),
            (Way::Quiet(quiet), Told::Seen { late }) => {
                quiet.ended(true, now);
                if late {
                    quiet.may_come_twice(now);
                }
            }
            (Way::Stamped(stamped), Told::Seen { .. }) => stamped.answered(now),
            (Way::Stamped(stamped), Told::Refused(_)) => stamped.failed(),
            (Way::Stamped(stamped), Told::Unanswered) => stamped.unanswered(),
        }
    }
}
