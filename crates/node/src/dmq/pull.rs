//! Asking a server for everything it has, and what its silence about a cell means.
//!
//! A pull asks the `usrloc` channel, then the `htable` channel, each question once and without
//! retransmission, because every copy starts another dump (docs/kdmq.md 9.2). The 200 ends a dump, but its
//! last messages may still be on the way; a gap in the Call-ID counters shows lost ones (docs/kdmq.md 9.3).
//!
//! A lost tail leaves no gap, and a way that carries the 200 may lose every large datagram: before an absence counts, the
//! server is asked for answers of that size ([`Pull::prove`]).
//!
//! Invariant: an absence becomes a removal only after a dump that is known to be complete, of the
//! life in which this very server had shown that it holds this very version; and a great many
//! absences only after a second dump says the same.

mod ask;
mod conclude;
mod questions;
mod way;

use std::collections::BTreeSet;

use crdt::{Slot, Wall};
use kdmq::life::CallIdCounter as Mark;

pub(crate) use self::conclude::{conclude, conclude_absences};
use self::questions::Questions;
use self::way::{Evidence, Way};
use super::DataChannel;
use super::life::{Arrived, Dump};
use crate::io::{Mono, Now};

/// A dump counts as ended this long after its 200 and its last message, milliseconds: the first
/// retransmission of a lost tail (500 ms) has had its chance.
const QUIET_MS: u64 = 1_000;

/// The same where nothing can be inferred from an absence: what comes later is taken in later.
const QUICK_MS: u64 = 200;

/// How long a known gap may stay open before the question is asked again: retransmissions come at
/// 0.5, 1.5, 3.5 and 7.5 s.
const GAP_MS: u64 = 9_000;

/// A dump is over this long after its 200 whatever comes then: those are live messages of a process that is not known yet.
const OVER_MS: u64 = 5_000;

/// Complete silence after a question, before it is asked again.
const SILENCE_MS: u64 = 6_000;

/// After this nothing of a dump can be on its way any more, milliseconds: its sender has given up repeating it.
pub(super) const LATE_MS: u64 = 40_000;

/// The same over TCP, whose repetitions are up to two minutes apart.
pub(super) const LATE_TCP_MS: u64 = 130_000;

/// Questions asked in one pull and channel.
const TRIES: u32 = 3;

/// More absences than this, and than a fifth of all, need a second dump that agrees.
const MANY_ABSENT: usize = 50;

/// A dump of more messages than this is not asked for only to make sure.
pub(crate) const CHEAP_MESSAGES: u64 = 2_000;

/// Where a pull stands.
#[derive(Debug, Default)]
pub(crate) struct Pull {
    /// Counts up with each pull of this life.
    pub(crate) number: u32,
    stage: Option<Stage>,
    quiet_ms: u64,
    /// Whether one was finished in this life.
    finished: bool,
    /// Whether one got all entries in this life.
    shown: bool,
    /// Since when the last such one would have shown whatever there was, and of what it showed something that was not taken in.
    shown_since: Option<(Mono, BTreeSet<Slot>)>,
    /// Of what this one has shown something that was not taken in.
    left_out: BTreeSet<Slot>,
    /// Which channels the last one got completely.
    contacts: Outcome,
    entries: Outcome,
    /// The last message of contacts, and whether the process that sent it was seen to send nothing more of them.
    tail: Option<Mark>,
    tail_seen: bool,
    pub(crate) way: Way,
    /// Whether the server sent any request of its present life since the question.
    heard_since: bool,
    /// Whether updates may have been lost since it began.
    missed_since: bool,
    questions: Questions,
    /// Absences found by the pull before, waiting for confirmation.
    suspected: usize,
    /// When a message of one that asked for contacts came last, or could have; and whether that one was broken off.
    last: Option<Mono>,
    stopped: bool,
    /// When the last one that asked for contacts ended, and how long the server was busy with it.
    ended: Option<Mono>,
    took_ms: u64,
    begun: Mono,
    retry_at: Option<Mono>,
    /// Pulls in a row that did not show what had been told: it is told again, and asked for less and less often.
    fruitless: u32,
}

#[derive(Debug)]
struct Stage {
    ask: DataChannel,
    tries: u32,
    asked: Mono,
    answered: Option<Mono>,
    last: Mono,
    arrived: Arrived,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Outcome {
    #[default]
    Unknown,
    Complete,
    /// The server has no such channel.
    Absent,
    Partial,
}

/// What a pull got, as far as absences depend on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Got {
    number: u32,
    begun: Mono,
    entries_from: Mono,
    contacts: Outcome,
    entries: Outcome,
    heard_since: bool,
    tail_seen: bool,
    /// What it did not show, and what would be removed for that.
    gone: BTreeSet<Slot>,
}

/// Messages of a dump of which even the smallest server has the memory, 10 to 20 kB each. The end of a larger one may be
/// missing without a gap: what a full server cannot send is lost, and its 200 comes all the same.
const SURE_MESSAGES: usize = 1_000;

/// What to do after a look at the pull.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing.
    Wait,
    /// Send this question.
    Send(DataChannel),
    /// It is over: [`conclude`] it.
    Conclude,
}

/// What a finished pull leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is done with.
    Over,
    /// A second dump has to confirm a great loss.
    AskAgain,
    /// Entries have to be asked for again: it is known now what other nodes know of them.
    AskEntries,
    /// Absences count only if datagrams of so many bytes, and as long as any that the server has sent, reach us:
    /// [`Pull::prove`], and look again.
    Prove(usize),
}

impl Pull {
    /// Whether a dump is open.
    pub(crate) fn is_open(&self) -> bool {
        self.stage.is_some()
    }

    /// Begins anew, with the contacts too if `everything` is wanted; the first question has to be sent. `careful` if an
    /// absence could mean something: then the tail of the dump gets more time.
    pub(crate) fn start(&mut self, everything: bool, careful: bool, now: Mono) -> DataChannel {
        self.number += 1;
        self.quiet_ms = if careful { QUIET_MS } else { QUICK_MS };
        self.contacts = Outcome::Unknown;
        self.entries = Outcome::Unknown;
        self.questions.from = None;
        (self.heard_since, self.missed_since) = (false, false);
        self.tail = None;
        self.tail_seen = false;
        self.left_out.clear();
        self.way.forget_echoes();
        self.begun = now;
        self.took_ms = 0;
        self.retry_at = None;
        let only_entries = std::mem::take(&mut self.questions.wanted) && !everything && self.finished;
        let first = if only_entries { DataChannel::Htable } else { DataChannel::Usrloc };
        self.stage = Some(Stage::new(first, now));
        first
    }

    /// Whether one was finished in this life of the server.
    pub(crate) fn has_finished(&self) -> bool {
        self.finished
    }

    /// Whether one has shown all entries that it has, in this life of the server.
    pub(crate) fn has_shown(&self) -> bool {
        self.shown
    }

    /// Breaks off; what has arrived stays, and more may come.
    pub(crate) fn stop(&mut self) {
        let asked_contacts = self.asks_contacts();
        if let Some(stage) = self.stage.take().filter(|_| asked_contacts) {
            (self.last, self.stopped) = (Some(stage.last), true);
        }
    }

    /// Whether this pull has asked for contacts.
    fn asks_contacts(&self) -> bool {
        self.contacts != Outcome::Unknown || self.stage.as_ref().is_some_and(|s| s.ask == DataChannel::Usrloc)
    }

    /// What dump a contact that comes now may belong to.
    pub(crate) fn dump(&self, now: Mono) -> Dump {
        match self.last {
            _ if self.is_open() && self.asks_contacts() => Dump::Open,
            Some(last) if now.ms_since(last) < LATE_MS && self.stopped => Dump::Open,
            Some(last) if now.ms_since(last) < LATE_MS => Dump::Late,
            _ => Dump::No,
        }
    }

    /// The server sent a request of its present life.
    pub(crate) fn heard(&mut self) {
        self.heard_since = true;
    }

    /// Updates may have been lost, which what it has shown by now may lack.
    pub(crate) fn missed(&mut self) {
        self.missed_since = true;
    }

    /// A message of the dump arrived.
    pub(crate) fn arrived(&mut self, mark: Option<Mark>, now: Mono) {
        if let Some(stage) = &mut self.stage {
            if let (DataChannel::Htable, Some(tail), Some(mark)) = (stage.ask, self.tail, mark) {
                self.tail_seen |= mark.pid == tail.pid && mark.counter == tail.counter + 1;
            }
            stage.arrived.insert(mark);
            stage.last = now;
        }
    }

    /// The question was answered.
    pub(crate) fn answered(&mut self, ask: DataChannel, number: u32, code: u16, now: Mono) {
        let current = self.number == number;
        let Some(stage) = self.stage.as_mut().filter(|s| current && s.ask == ask) else { return };
        stage.answered.get_or_insert(now);
        stage.last = stage.last.max(now);
        if code == 404 {
            *self.outcome(ask) = Outcome::Absent;
        }
    }

    fn outcome(&mut self, ask: DataChannel) -> &mut Outcome {
        match ask {
            DataChannel::Usrloc => &mut self.contacts,
            DataChannel::Htable => &mut self.entries,
        }
    }

    /// Opens the pull once more, until the server's echoes have come. Returns how many to ask for.
    pub(crate) fn prove(&mut self, now: Mono) -> u32 {
        self.stage = Some(Stage::new(DataChannel::Htable, now));
        self.way.ask(now)
    }

    /// Whether echoes were asked for since it began.
    fn has_asked_for_echoes(&self) -> bool {
        self.way.evidence(self.begun) != Evidence::Unwanted
    }

    /// An echo has come, or never will.
    pub(crate) fn echoed(&mut self, number: u32, arrived: bool, now: Mono) {
        if number == self.number {
            self.way.echoed(arrived, now);
        }
    }

    /// Waits for the echoes, and for what of the dump is still repeated; without one of them no dump counts as complete.
    fn look_at_evidence(&mut self, evidence: Evidence, now: Mono) -> Next {
        match evidence {
            Evidence::Awaited => return Next::Wait,
            Evidence::By(at) if now < at => return Next::Wait,
            Evidence::Unwanted | Evidence::By(_) => {}
            Evidence::Lost => {
                for outcome in [&mut self.contacts, &mut self.entries] {
                    if *outcome == Outcome::Complete {
                        *outcome = Outcome::Partial;
                    }
                }
            }
        }
        self.stage = None;
        Next::Conclude
    }

    /// What has to be done now.
    pub(crate) fn look(&mut self, now: Mono) -> Next {
        let evidence = self.way.evidence(self.begun);
        if self.is_open() && evidence != Evidence::Unwanted {
            return self.look_at_evidence(evidence, now);
        }
        let Some(stage) = &mut self.stage else { return Next::Wait };
        if now < stage.due(self.quiet_ms) {
            return Next::Wait;
        }
        // A dump of entries has a message even if there are none (docs/kdmq.md 9.2).
        let came = stage.ask == DataChannel::Usrloc || self.entries == Outcome::Absent || self.questions.from.is_some();
        let over = stage.answered.is_some() && stage.arrived.missing() == 0 && came;
        if !over && stage.tries < TRIES {
            let (ask, asked, tries) = (stage.ask, stage.asked, stage.tries + 1);
            *stage = Stage { tries, ..Stage::new(ask, now) };
            self.way.lost(asked);
            return Next::Send(ask);
        }
        let (ask, asked) = (stage.ask, stage.asked);
        if ask == DataChannel::Usrloc {
            self.tail = stage.arrived.tail();
        }
        self.took_ms += stage.last.ms_since(stage.asked);
        if ask == DataChannel::Htable && over {
            self.entries_answered(asked);
        }
        let outcome = self.outcome(ask);
        if *outcome == Outcome::Unknown {
            *outcome = if over { Outcome::Complete } else { Outcome::Partial };
        }
        if ask == DataChannel::Usrloc {
            self.stage = Some(Stage::new(DataChannel::Htable, now));
            return Next::Send(DataChannel::Htable);
        }
        self.stage = None;
        self.finished = true;
        self.shown |= matches!(self.entries, Outcome::Complete | Outcome::Absent);
        // One of entries alone brings no contacts, and does not put off their proof.
        if self.contacts != Outcome::Unknown {
            (self.last, self.stopped) = (Some(now), false);
            self.ended = Some(now);
        }
        Next::Conclude
    }

    /// When to look again.
    pub(crate) fn next_wakeup(&self) -> Option<Mono> {
        let stage = self.stage.as_ref()?;
        match self.way.evidence(self.begun) {
            Evidence::Unwanted => Some(stage.due(self.quiet_ms)),
            // Their transactions wake us.
            Evidence::Awaited => None,
            Evidence::By(at) => Some(at),
            Evidence::Lost => Some(stage.last),
        }
    }

    /// When the last pull began, and whether it got all contacts and all entries.
    pub(crate) fn proves(&self) -> (Mono, bool, bool) {
        (self.begun, self.contacts == Outcome::Complete, self.entries == Outcome::Complete)
    }

    /// Since when whatever it holds of entries would have been shown, if the last pull got them all.
    pub(crate) fn shows_entries_since(&self) -> Option<Mono> {
        let got = self.got();
        (got.entries == Outcome::Complete && got.heard_since).then_some(got.entries_from)
    }

    /// What it shows of an entry is not taken in.
    pub(crate) fn leave_out(&mut self, slot: Slot) {
        self.left_out.insert(slot);
    }

    /// The last pull is done with.
    fn note_shown(&mut self) {
        let left_out = std::mem::take(&mut self.left_out);
        if let Some(since) = self.shows_entries_since() {
            self.shown_since = Some((since, left_out));
        }
    }

    /// Whether what the server shows of an entry that it is not known to hold has come there later than this, and was said later
    /// too: a dump before did not show it, when nothing that had been said by then could still be on its way.
    pub(crate) fn is_later(&self, slot: Slot, then: Wall, under_way_ms: u64, now: Now) -> bool {
        let of = self.shown_since.as_ref().filter(|(_, left_out)| !left_out.contains(&slot));
        of.is_some_and(|(since, _)| then.0 + under_way_ms < now.wall_at(*since).0)
    }

    fn got(&self) -> Got {
        let Self { number, begun, contacts, entries, heard_since, tail_seen, .. } = *self;
        let entries_from = self.questions.from.map_or(begun, |from| from.min(begun));
        Got { number, begun, entries_from, contacts, entries, heard_since, tail_seen, gone: BTreeSet::new() }
    }

    /// Whether the last pull got everything.
    pub(crate) fn is_complete(&self) -> bool {
        self.contacts != Outcome::Partial && self.entries != Outcome::Partial
    }

    /// One that got not everything is tried again at once.
    pub(crate) fn forget_retry(&mut self) {
        self.retry_at = None;
    }

    /// When a pull that got not everything may be tried again.
    pub(crate) fn retry_at(&self) -> Option<Mono> {
        self.retry_at
    }

    /// When a pull that only proves what the server holds is cheap enough: a moment after the last answer to a feed, if that is what
    /// it has to prove, and such that it costs the server neither many transactions nor much of its time. `rows` are expected, in no
    /// fewer than `messages`.
    pub(crate) fn may_verify_at(&self, fed: Option<Mono>, rows: u64, messages: u64) -> Option<Mono> {
        // Ten messages and two hundred rows a second at most: about what its phones cost it.
        const PER_MESSAGE_MS: u64 = 100;
        const PER_ROW_MS: u64 = 5;
        const SHARE: u64 = 50;
        const BETWEEN_MS: u64 = 3_000;
        const AFTER_FEED_MS: u64 = 1_000;
        let work = self.took_ms * SHARE;
        let ended = self.ended.filter(|_| self.finished && messages <= CHEAP_MESSAGES)?;
        // What others tell it is looked at once a minute at most, so that needs no more patience.
        let between = BETWEEN_MS << fed.map_or(0, |_| self.fruitless.min(8));
        let rested = ended.plus_ms(between.max(work).max(messages * PER_MESSAGE_MS).max(rows * PER_ROW_MS));
        Some(fed.map_or(rested, |fed| rested.max(fed.plus_ms(AFTER_FEED_MS))))
    }
}

impl Stage {
    fn new(ask: DataChannel, now: Mono) -> Self {
        Self { ask, tries: 1, asked: now, answered: None, last: now, arrived: Arrived::default() }
    }

    /// When it is over, or has failed, if nothing more comes.
    fn due(&self, quiet_ms: u64) -> Mono {
        let (quiet, at_most) = match self.arrived.missing() {
            0 => (quiet_ms, OVER_MS),
            _ => (GAP_MS, 2 * GAP_MS),
        };
        match self.answered {
            Some(at) => self.last.plus_ms(quiet).min(at.plus_ms(at_most)),
            None => self.last.plus_ms(SILENCE_MS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_whole_dump_did_not_have_was_said_later_than_what_could_have_been_on_its_way_to_it() {
        let (mut pull, slot, at) = (Pull::default(), crate::dmq::book::tests::slot(), |ms: u64| Mono(ms * 1_000));
        let later = |pull: &Pull, then: u64| {
            pull.is_later(slot, Wall(then), 32_000, Now { mono: at(130_000), wall: Wall(1_130_000) })
        };
        pull.start(true, false, at(100_000));
        pull.answered(DataChannel::Usrloc, 1, 200, at(100_001));
        assert_eq!(pull.look(at(100_300)), Next::Send(DataChannel::Htable));
        pull.asks_entries(true, 40_000, at(100_300));
        pull.heard();
        pull.entries_came(false, at(100_301));
        pull.answered(DataChannel::Htable, 1, 200, at(100_301));
        assert_eq!(pull.look(at(100_600)), Next::Conclude);
        assert!(!later(&pull, 0), "it is not concluded");
        pull.note_shown();
        assert!(later(&pull, 1_067_999) && !later(&pull, 1_068_300));
        pull.forget();
        assert!(!later(&pull, 0), "the server has restarted");
    }
}
