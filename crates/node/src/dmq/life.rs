//! One life of a server: from its start to its restart, read off the Call-IDs of its requests.
//!
//! Kamailio numbers its Call-IDs `<16 hex counter>-<pid>@<ip>`: all processes of one start share a
//! random first value and count up by one per message. A counter far from the last one therefore
//! means a restart; a gap within one pid means a lost message. Requests without such a Call-ID
//! (other DMQ implementations, stateless sending) say nothing and change nothing here. What a process has numbered lower than
//! something that has arrived before was said before that arrived.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crdt::planted::{self, Bug};
use kdmq::life::CallIdCounter as Mark;

use super::lateness::LATE_MS;
use crate::io::Mono;

/// A server repeats what was lost for 30 s (`fr_timer`); what came longer ago is not compared with, milliseconds.
const REPEATED_MS: u64 = 40_000;

/// How long after it was said a message is sent again over UDP, milliseconds (RFC 3261, 17.1.2.2), and how exactly that is kept.
const REPEATS_MS: [u64; 10] = [500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500];
const REPEATS_WITHIN_MS: u64 = 50;

/// So many messages of a process are remembered, and so many processes.
const HEARD_MAX: usize = 64;

/// What a message says about the life of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// Nothing can be said.
    None,
    /// The first message that tells.
    First,
    /// The life that we know.
    Same,
    /// The server restarted before it sent this.
    New,
    /// A latecomer from before the last restart: to be answered and otherwise ignored.
    Late,
}

/// What is known of the server's processes in its present life.
#[derive(Debug, Default)]
pub(crate) struct Life {
    base: Option<Mark>,
    before: Option<Mark>,
    /// Processes that have sent live updates: SIP workers.
    live: BTreeSet<u32>,
    /// Processes that have sent dump messages: DMQ workers. Whether that is known, or a guess because a dump was open.
    dumping: BTreeMap<u32, bool>,
    /// The messages of each process that were its latest when they came: counter and arrival, both rising.
    heard: BTreeMap<u32, VecDeque<(u64, Mono)>>,
}

/// What dump a data message may belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dump {
    /// Only dumps have such messages.
    Sure,
    /// One is open.
    Open,
    /// None is open, but what one lost on the way may still come.
    Late,
    /// None.
    No,
}

impl Life {
    /// Takes in a request's Call-ID; forgets the old life if there is a new one.
    pub(crate) fn observe(&mut self, mark: Option<Mark>) -> Sign {
        let Some(mark) = mark else { return Sign::None };
        match (self.base, self.before) {
            (None, _) => {
                self.base = Some(mark);
                Sign::First
            }
            (Some(base), _) if mark.same_life(base) || planted::on(Bug::RestartUnnoticed) => Sign::Same,
            (_, Some(before)) if mark.same_life(before) => Sign::Late,
            (Some(base), _) => {
                *self = Self { base: Some(mark), before: Some(base), ..Self::default() };
                Sign::New
            }
        }
    }

    /// How long ago, at least, a message was said that comes now, milliseconds, if it was lost at first: its process has said
    /// something since that came before it. Where messages are sent again, it has waited for its turn.
    pub(crate) fn late_ms(&mut self, mark: Option<Mark>, now: Mono) -> Option<u64> {
        let Mark { counter, pid } = mark?;
        if self.heard.len() >= HEARD_MAX && !self.heard.contains_key(&pid) {
            return None;
        }
        let heard = self.heard.entry(pid).or_default();
        while heard.front().is_some_and(|(_, at)| now.ms_since(*at) > REPEATED_MS) {
            heard.pop_front();
        }
        if let Some((_, at)) = heard.iter().find(|(later, _)| *later > counter) {
            let late = now.ms_since(*at);
            let turn = REPEATS_MS.into_iter().find(|after| *after + REPEATS_WITHIN_MS >= late);
            return (late >= LATE_MS).then(|| late.max(turn.map_or(0, |after| after - REPEATS_WITHIN_MS)));
        }
        if heard.len() >= HEARD_MAX {
            heard.pop_front();
        }
        heard.push_back((counter, now));
        None
    }

    /// A counter of this life, for the disk.
    pub(crate) fn base(&self) -> Option<u64> {
        self.base.map(|b| b.counter)
    }

    /// Takes up a life that an earlier process of ours had seen.
    pub(crate) fn resume(counter: u64) -> Self {
        Self { base: Some(Mark { counter, pid: 0 }), ..Self::default() }
    }

    /// Whether a data message belongs to a dump. Dumps come from DMQ workers, live updates from SIP workers; an unknown
    /// process counts as dumping while a dump is open, because a snapshot taken for a live write would beat newer writes,
    /// while a live write taken for a snapshot only gets a coarser time. That is a guess, and one that speaks when nothing
    /// of a dump can be on its way any more was a SIP worker all along.
    pub(crate) fn is_dump(&mut self, mark: Option<Mark>, dump: Dump) -> bool {
        let Some(Mark { pid, .. }) = mark else { return matches!(dump, Dump::Sure | Dump::Open) };
        if self.live.contains(&pid) {
            return false;
        }
        match (self.dumping.get(&pid), dump) {
            (_, Dump::Sure) => drop(self.dumping.insert(pid, true)),
            (Some(true), _) | (Some(false), Dump::Open | Dump::Late) => {}
            (None, Dump::Open) => drop(self.dumping.insert(pid, false)),
            (None, Dump::Late) | (_, Dump::No) => {
                self.dumping.remove(&pid);
                self.live.insert(pid);
                return false;
            }
        }
        true
    }

    /// The message is never part of a dump: its sender is a SIP worker, whatever was guessed.
    pub(crate) fn is_live(&mut self, mark: Option<Mark>) {
        if let Some(Mark { pid, .. }) = mark
            && self.dumping.get(&pid) != Some(&true)
        {
            self.dumping.remove(&pid);
            self.live.insert(pid);
        }
    }
}

/// Which messages of a dump have arrived.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    processes: BTreeMap<u32, Run>,
    /// Messages, those without a counter included.
    pub(crate) messages: u64,
}

#[derive(Debug)]
struct Run {
    first: u64,
    last: u64,
    count: u64,
}

impl Arrived {
    /// Takes in one message (not a retransmission).
    pub(crate) fn insert(&mut self, mark: Option<Mark>) {
        self.messages += 1;
        let Some(Mark { counter, pid }) = mark else { return };
        let run = self.processes.entry(pid).or_insert(Run { first: counter, last: counter, count: 0 });
        run.first = run.first.min(counter);
        run.last = run.last.max(counter);
        run.count += 1;
    }

    /// The last message, if all came from one process.
    pub(crate) fn tail(&self) -> Option<Mark> {
        let mut runs = self.processes.iter();
        let (pid, run) = runs.next()?;
        runs.next().is_none().then_some(Mark { counter: run.last, pid: *pid })
    }

    /// How many messages are known to be missing.
    pub(crate) fn missing(&self) -> u64 {
        if planted::on(Bug::GapsIgnored) {
            return 0;
        }
        self.processes.values().map(|r| (r.last - r.first + 1).saturating_sub(r.count)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(counter: u64, pid: u32) -> Option<Mark> {
        Some(Mark { counter, pid })
    }

    #[test]
    fn a_far_counter_is_a_restart_and_latecomers_of_the_old_life_are_told_apart() {
        let mut life = Life::default();
        assert_eq!(life.observe(None), Sign::None);
        assert_eq!(life.observe(mark(1 << 60, 7)), Sign::First);
        assert_eq!(life.observe(mark((1 << 60) + 900, 8)), Sign::Same);
        assert_eq!(life.observe(mark(1 << 50, 9)), Sign::New);
        assert_eq!(life.observe(mark((1 << 60) + 901, 8)), Sign::Late);
        assert_eq!(life.observe(mark((1 << 50) + 1, 9)), Sign::Same);
    }

    #[test]
    fn what_is_numbered_lower_than_what_came_before_was_said_before_that() {
        let mut life = Life::default();
        let mut at = |counter, pid, ms: u64| life.late_ms(mark(counter, pid), Mono(ms * 1_000));
        assert_eq!(at(5, 1, 0), None);
        assert_eq!(at(9, 1, 1_000), None);
        assert_eq!(at(4, 2, 3_000), None, "processes count for themselves");
        assert_eq!(at(7, 1, 3_000), Some(3_450), "said before 9 came, and not 1.5 s ago");
        assert_eq!(at(3, 1, 3_460), Some(3_460), "as 5 came, and sent again a moment before its time");
        assert_eq!(at(2, 1, 3_550), Some(3_550), "the same, after a longer way");
        assert_eq!(at(1, 1, 3_551), Some(7_450), "said before 5 came");
        assert_eq!(at(10, 1, 3_001), None);
        assert_eq!(at(9, 1, 3_002), None, "hardly late");
        assert_eq!(at(8, 1, 90_000), None, "nobody repeats for so long");
    }

    #[test]
    fn an_unknown_process_counts_as_dumping_only_while_a_dump_is_open() {
        let mut life = Life::default();
        assert!(!life.is_dump(mark(1, 1), Dump::No));
        assert!(life.is_dump(mark(1, 2), Dump::Open));
        assert!(!life.is_dump(mark(2, 1), Dump::Open), "a known SIP worker stays live");
        assert!(life.is_dump(mark(2, 2), Dump::Late), "a latecomer of a dump stays a snapshot");
    }

    #[test]
    fn a_process_that_was_guessed_to_dump_is_known_by_what_it_says_later() {
        let mut life = Life::default();
        assert!(life.is_dump(mark(1, 1), Dump::Open));
        assert!(!life.is_dump(mark(2, 1), Dump::No), "nothing of a dump can be on its way");
        assert!(!life.is_dump(mark(3, 1), Dump::Open));
        assert!(life.is_dump(mark(1, 2), Dump::Open));
        life.is_live(mark(2, 2));
        assert!(!life.is_dump(mark(3, 2), Dump::Open), "it has sent what no dump has");
        assert!(life.is_dump(mark(1, 3), Dump::Sure));
        life.is_live(mark(2, 3));
        assert!(life.is_dump(mark(3, 3), Dump::No), "it was seen to dump");
    }

    #[test]
    fn a_gap_in_a_dump_is_counted_until_it_is_filled() {
        let mut arrived = Arrived::default();
        for counter in [10, 13] {
            arrived.insert(mark(counter, 1));
        }
        assert_eq!(arrived.missing(), 2);
        for counter in [12, 11] {
            arrived.insert(mark(counter, 1));
        }
        assert_eq!(arrived.missing(), 0);
    }
}
