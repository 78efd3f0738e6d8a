//! The TCP connections by which a server's requests come.
//!
//! Nothing is repeated over TCP: what was on its way on a connection that breaks is lost, and whoever sent it does not know.
//! Nor is anything in order between two connections: the answer to a question comes on ours, a dump on theirs, and theirs
//! may be held up for minutes after a bad time on the way while ours is not. So a connection that ended half way, or another
//! one beside it, means that something may have been missed; and a dump over TCP is known to be whole only when its own
//! connection was seen to carry something behind it.
//!
//! It leaves to `pull` what a dump shows. Invariant: [`Streams::due`] names a pull only if nothing was lost since its question.

use std::collections::BTreeSet;

use super::pull::Got;
use crate::io::{ConnId, Mono};

/// When a connection moves again, what was held up comes at once: so long after it has moved, everything older is there,
/// milliseconds.
const FLUSH_MS: u64 = 4_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Those that have brought a request, and are open here.
    open: BTreeSet<ConnId>,
    /// The last one ended half way, and none has come since: the server may still write to it.
    broken: bool,
    /// How often something may have been lost.
    losses: u32,
    /// That number when the open pull was asked.
    asked: u32,
    waiting: Option<Waiting>,
}

/// A pull whose absences count once its connection has moved.
#[derive(Debug)]
struct Waiting {
    got: Got,
    moved: Option<Mono>,
}

impl Streams {
    /// A request came on this connection. Returns whether something before it may have been lost.
    pub(crate) fn heard(&mut self, conn: ConnId, now: Mono) -> bool {
        let new = self.open.insert(conn);
        // One beside another: the server may have found out that the other one is dead.
        if new && (self.broken || self.open.len() > 1) {
            self.broken = false;
            self.lost();
            return true;
        }
        if let Some(waiting) = &mut self.waiting {
            waiting.moved.get_or_insert(now);
        }
        false
    }

    /// A connection ended; `whole` if all that was sent on it has come. Returns whether something may have been lost.
    pub(crate) fn closed(&mut self, conn: ConnId, whole: bool) -> bool {
        if !self.open.remove(&conn) || whole {
            return false;
        }
        self.broken = true;
        self.lost();
        true
    }

    fn lost(&mut self) {
        self.losses += 1;
        self.waiting = None;
    }

    /// The server is asked for everything.
    pub(crate) fn asked(&mut self) {
        self.asked = self.losses;
    }

    /// A pull has ended, and its absences would count. The oldest one waits: what a later one shows is not absent.
    pub(crate) fn wait(&mut self, got: Got) {
        if self.asked == self.losses && self.open.len() <= 1 {
            self.waiting.get_or_insert(Waiting { got, moved: None });
        }
    }

    /// When the absences of the pull that waits count.
    pub(crate) fn due_at(&self) -> Option<Mono> {
        Some(self.waiting.as_ref()?.moved?.plus_ms(FLUSH_MS))
    }

    /// That pull, once.
    pub(crate) fn due(&mut self, now: Mono) -> Option<Got> {
        self.due_at().filter(|at| *at <= now)?;
        self.waiting.take().map(|waiting| waiting.got)
    }

    /// What it holds is not asked about any more: it restarted, or another node speaks for it.
    pub(crate) fn forget_pulls(&mut self) {
        self.waiting = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ConnId = ConnId(1);
    const B: ConnId = ConnId(2);

    fn asked_and_waiting() -> Streams {
        let mut streams = Streams::default();
        assert!(!streams.heard(A, Mono(0)), "nothing came before the first one");
        streams.asked();
        streams.wait(Got::default());
        streams
    }

    #[test]
    fn a_dump_is_whole_when_its_connection_has_carried_something_behind_it() {
        let mut streams = asked_and_waiting();
        assert_eq!(streams.due_at(), None);
        assert!(!streams.heard(A, Mono(0).plus_ms(10)));
        let due = Mono(0).plus_ms(10 + FLUSH_MS);
        assert_eq!(streams.due_at(), Some(due));
        assert!(streams.due(Mono(0).plus_ms(10)).is_none());
        assert!(streams.due(due).is_some() && streams.due(due).is_none());
    }

    #[test]
    fn a_dump_on_a_connection_that_ended_half_way_proves_nothing() {
        let mut streams = asked_and_waiting();
        assert!(streams.closed(A, false));
        assert!(streams.heard(B, Mono(1)), "what was written to the old one until now is lost as well");
        assert!(!streams.heard(B, Mono(2)));
        assert_eq!(streams.due_at(), None);
    }

    #[test]
    fn a_second_connection_beside_the_first_means_that_the_first_may_be_dead() {
        let mut streams = asked_and_waiting();
        assert!(streams.heard(B, Mono(1)));
        streams.wait(Got::default());
        assert!(!streams.heard(A, Mono(2)) && !streams.heard(B, Mono(2)), "both are known now");
        assert_eq!(streams.due_at(), None);
    }

    #[test]
    fn a_connection_that_was_closed_in_order_has_lost_nothing() {
        let mut streams = asked_and_waiting();
        assert!(!streams.closed(A, true));
        assert!(!streams.heard(B, Mono(1)));
        assert_eq!(streams.due_at(), Some(Mono(1).plus_ms(FLUSH_MS)));
    }
}
