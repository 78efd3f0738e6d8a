//! The TCP connections by which a server's requests come.
//!
//! Nothing is repeated over TCP: what was on its way on a connection that breaks is lost, and whoever sent it does not know.
//! Nor is anything in order between two connections: the answer to a question comes on ours, a dump on theirs, and theirs
//! may be held up for minutes after a bad time on the way while ours is not. So a connection that ended half way, or another
//! one beside it, means that something may have been missed; and a dump over TCP is known to be whole only when its own
//! connection was seen to carry something behind it.
//!
//! It leaves to `pull` what a dump shows. Invariant: [`Streams::due`] names a pull only if nothing was lost since its question.

use std::collections::BTreeMap;

use crdt::Wall;

use super::pull::{Got, LATE_TCP_MS};
use crate::io::{ConnId, Mono, Now};

/// When a connection moves again, what was held up comes at once: so long after it has moved, everything older is there,
/// milliseconds.
const FLUSH_MS: u64 = 4_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Those that have brought a request, and are open here.
    open: BTreeMap<ConnId, Open>,
    /// The server may still write to one that is dead, because the last one ended half way, or is none of this process: the
    /// next one that comes shows that it has found out.
    broken: bool,
    /// How often something may have been lost.
    losses: u32,
    /// That number when the open pull was asked.
    asked: u32,
    waiting: Option<Waiting>,
    /// Since when the server answers, as long as what it said before may not have come yet; and whether it was silent.
    back: Option<Mono>,
    was_silent: bool,
    /// When a request of its came last, and the first one since it answers.
    heard: Option<Mono>,
    moved: Option<Mono>,
}

/// A connection of the server's.
#[derive(Clone, Copy, Debug)]
struct Open {
    /// When something came on it last.
    heard: Wall,
    /// Whether the server has been silent since.
    silent: bool,
    /// What comes now may have been held up since then; until when that is so.
    held_up: Option<(Wall, Mono)>,
}

/// A pull whose absences count once its connection has moved.
#[derive(Debug)]
struct Waiting {
    got: Got,
    moved: Option<Mono>,
}

impl Streams {
    /// A request came on this connection. Returns whether something before it may have been lost.
    pub(crate) fn heard(&mut self, conn: ConnId, now: Now) -> bool {
        self.heard = Some(now.mono);
        self.moved.get_or_insert(now.mono);
        let before = self.open.get(&conn).copied();
        let held_up = match before {
            Some(Open { heard, silent: true, .. }) => Some((heard, now.mono.plus_ms(FLUSH_MS))),
            Some(Open { held_up, .. }) => held_up.filter(|(_, until)| now.mono < *until),
            None => None,
        };
        self.open.insert(conn, Open { heard: now.wall, silent: false, held_up });
        let new = before.is_none();
        // One beside another: the server may have found out that the other one is dead.
        if new && (self.broken || self.open.len() > 1) {
            self.broken = false;
            self.lost();
            return true;
        }
        if let Some(waiting) = &mut self.waiting {
            waiting.moved.get_or_insert(now.mono);
        }
        false
    }

    /// The server is silent: what it says meanwhile is held up, and comes all at once later, if at all.
    pub(crate) fn silent(&mut self) {
        self.open.values_mut().for_each(|open| open.silent = true);
        (self.back, self.was_silent) = (None, true);
    }

    /// The server answers, for the first time or again.
    pub(crate) fn back(&mut self, now: Mono) {
        self.back = Some(now);
        self.moved = self.heard.filter(|heard| *heard == now);
    }

    /// Until when a connection of the server's may hold up what it said before it answered, and what it answers to a question: if
    /// it were told anything now, it might be told what it has changed itself.
    pub(crate) fn held_up_until(&self) -> Option<Mono> {
        let back = self.back?;
        match self.moved {
            None => Some(back.plus_ms(LATE_TCP_MS)),
            Some(moved) => self.was_silent.then(|| moved.plus_ms(FLUSH_MS)),
        }
    }

    /// That is over: all has come, or whoever wrote to these connections is gone.
    pub(crate) fn give_up(&mut self, now: Mono) {
        if self.held_up_until().is_some_and(|until| until <= now) {
            (self.back, self.was_silent) = (None, false);
        }
    }

    /// Since when what comes on this connection now may have been held up.
    pub(crate) fn held_up(&self, conn: ConnId) -> Option<Wall> {
        self.open.get(&conn)?.held_up.map(|(since, _)| since)
    }

    /// Whether all that the server says comes by one connection.
    pub(crate) fn in_order(&self) -> bool {
        self.open.len() == 1
    }

    /// A connection ended; `whole` if all that was sent on it has come. Returns whether something may have been lost.
    pub(crate) fn closed(&mut self, conn: ConnId, whole: bool) -> bool {
        if self.open.remove(&conn).is_none() || whole {
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

    /// The server is asked for everything. If no connection of it is known here, it may still write to one that an earlier
    /// process of ours had: what it answers until it finds out that this is dead is lost.
    pub(crate) fn asked(&mut self) {
        self.asked = self.losses;
        self.broken |= self.open.is_empty();
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

    fn at(mono: Mono) -> Now {
        Now { mono, wall: Wall(1_800_000_000_000 + mono.ms()) }
    }

    fn asked_and_waiting() -> Streams {
        let mut streams = Streams::default();
        assert!(!streams.heard(A, at(Mono(0))), "nothing came before the first one");
        streams.asked();
        streams.wait(Got::default());
        streams
    }

    #[test]
    fn a_dump_is_whole_when_its_connection_has_carried_something_behind_it() {
        let mut streams = asked_and_waiting();
        assert_eq!(streams.due_at(), None);
        assert!(!streams.heard(A, at(Mono(0).plus_ms(10))));
        let due = Mono(0).plus_ms(10 + FLUSH_MS);
        assert_eq!(streams.due_at(), Some(due));
        assert!(streams.due(Mono(0).plus_ms(10)).is_none());
        assert!(streams.due(due).is_some() && streams.due(due).is_none());
    }

    #[test]
    fn a_dump_on_a_connection_that_ended_half_way_proves_nothing() {
        let mut streams = asked_and_waiting();
        assert!(streams.closed(A, false));
        assert!(streams.heard(B, at(Mono(1))), "what was written to the old one until now is lost as well");
        assert!(!streams.heard(B, at(Mono(2))));
        assert_eq!(streams.due_at(), None);
    }

    #[test]
    fn the_answer_to_a_process_that_has_no_connection_yet_may_go_to_one_of_the_process_before() {
        let mut streams = Streams::default();
        streams.asked();
        streams.wait(Got::default());
        assert!(streams.heard(A, at(Mono(0))), "what went to the dead one is lost");
        assert_eq!(streams.due_at(), None);
        streams.asked();
        streams.wait(Got::default());
        assert!(!streams.heard(A, at(Mono(1))));
        assert_eq!(streams.due_at(), Some(Mono(1).plus_ms(FLUSH_MS)));
    }

    #[test]
    fn what_was_held_up_while_the_server_was_silent_comes_at_once() {
        let mut streams = Streams::default();
        let (first, later) = (at(Mono(0)), at(Mono(0).plus_ms(60_000)));
        streams.heard(A, first);
        assert_eq!(streams.held_up(A), None);
        streams.silent();
        for now in [later, at(later.mono.plus_ms(FLUSH_MS - 1))] {
            assert!(!streams.heard(A, now));
            assert_eq!(streams.held_up(A), Some(first.wall));
        }
        streams.heard(A, at(later.mono.plus_ms(FLUSH_MS)));
        assert_eq!(streams.held_up(A), None);
    }

    #[test]
    fn a_server_that_answers_again_is_held_up_until_all_that_it_said_meanwhile_has_come() {
        let back = Mono(60_000_000);
        let (until, moved) = (back.plus_ms(LATE_TCP_MS), back.plus_ms(1));
        for conn in [A, B] {
            let mut streams = Streams::default();
            streams.heard(A, at(Mono(0)));
            streams.silent();
            assert_eq!(streams.held_up_until(), None, "it is told nothing anyway");
            streams.back(back);
            assert_eq!(streams.held_up_until(), Some(until));
            streams.heard(conn, at(moved));
            streams.heard(conn, at(moved.plus_ms(1)));
            assert_eq!(streams.held_up_until(), Some(moved.plus_ms(FLUSH_MS)), "{conn:?}");
            streams.give_up(moved.plus_ms(FLUSH_MS));
            assert_eq!(streams.held_up_until(), None, "{conn:?}");
        }
        let (mut first, mut gone) = (Streams::default(), Streams::default());
        first.heard(A, at(back));
        first.back(back);
        assert_eq!(first.held_up_until(), None, "it spoke first");
        gone.back(back);
        gone.give_up(until);
        assert_eq!(gone.held_up_until(), None);
    }

    #[test]
    fn a_second_connection_beside_the_first_means_that_the_first_may_be_dead() {
        let mut streams = asked_and_waiting();
        assert!(streams.heard(B, at(Mono(1))));
        streams.wait(Got::default());
        assert!(!streams.heard(A, at(Mono(2))) && !streams.heard(B, at(Mono(2))), "both are known now");
        assert_eq!(streams.due_at(), None);
    }

    #[test]
    fn a_connection_that_was_closed_in_order_has_lost_nothing() {
        let mut streams = asked_and_waiting();
        assert!(!streams.closed(A, true));
        assert!(!streams.heard(B, at(Mono(1))));
        assert_eq!(streams.due_at(), Some(Mono(1).plus_ms(FLUSH_MS)));
    }
}
