//! How late a stamped message of a server is: what was lost at first arrives when the server repeats it, up to 30 s later.
//!
//! The server's clock may be wrong, so only the differences between its stamps and their arrival are compared: the message
//! that lay least behind its stamp was not late. Invariant: the lateness of a message never exceeds what the least late one
//! of the last minute shows.

use std::collections::{BTreeMap, VecDeque};

use crdt::{Slot, Wall};

use super::Dmq;
use crate::cx::Cx;
use crate::io::Mono;

/// What comes later than this was lost at first, or what it answers was, milliseconds: RFC 3261's T1, and a margin.
pub(crate) const LATE_MS: u64 = 450;

/// How far the stamps of a server's messages lay ahead of their arrival, at most, milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lateness {
    /// In the present half minute, and in the one before.
    present: Option<Period>,
    before: Option<Period>,
    /// What is taken for the least late message until there are others.
    assumed: Option<i64>,
}

/// Half a minute.
#[derive(Clone, Copy, Debug)]
struct Period {
    since: Mono,
    /// What the least late message was, and what it is taken for.
    seen: i64,
    most: i64,
}

/// A server repeats for so long; a clock that was set back shows after twice that, milliseconds.
const HALF_MS: u64 = 30_000;

/// By so much two clocks are taken to differ at most while nothing is known, milliseconds.
const ASSUMED_MS: i64 = 2_000;

impl Lateness {
    /// That of a server whose clock is taken to be right at first, for half a minute to a minute: what it says first may be old.
    pub(crate) fn in_time() -> Self {
        Self { assumed: Some(-ASSUMED_MS), ..Self::default() }
    }

    /// Our wall clock has jumped by so many milliseconds; the server's has not.
    pub(crate) fn clock_jumped(&mut self, by_ms: i64) {
        for period in [&mut self.present, &mut self.before].into_iter().flatten() {
            period.most = period.most.saturating_sub(by_ms);
            period.seen = period.seen.saturating_sub(by_ms);
        }
    }

    /// A message with this stamp arrived at this wall time, both in milliseconds. Returns how late it is, milliseconds.
    pub(crate) fn of(&mut self, stamp_ms: u64, wall_ms: u64, now: Mono) -> u64 {
        let ahead = ahead(stamp_ms, wall_ms);
        if self.present.is_none_or(|present| now.ms_since(present.since) >= HALF_MS) {
            self.before = self.present.filter(|last| now.ms_since(last.since) < 2 * HALF_MS);
            // However long the silence was, its clock is still taken for what it was: what it says first may be what it repeats, or
            // what waited while we stood still.
            let kept = self.present.filter(|_| self.before.is_none()).map(|last| last.seen);
            let assumed = self.assumed.take().or(kept);
            self.present = Some(Period { since: now, seen: ahead, most: assumed.unwrap_or(ahead) });
        }
        if let Some(present) = &mut self.present {
            present.seen = ahead.max(present.seen);
            present.most = ahead.max(present.most);
        }
        self.by_now(stamp_ms, wall_ms)
    }

    /// How late a message with this stamp is by what is known, milliseconds: one that says nothing of the server's clock.
    pub(crate) fn by_now(&self, stamp_ms: u64, wall_ms: u64) -> u64 {
        let ahead = ahead(stamp_ms, wall_ms);
        self.most().filter(|most| *most > ahead).map_or(0, |most| most.abs_diff(ahead))
    }

    /// When, by our clock, a message with this stamp would have come if it were in time; not after now.
    pub(crate) fn in_time_at(&self, stamp_ms: u64, now: Wall) -> Wall {
        Wall(stamp_ms.saturating_add_signed(self.most().unwrap_or(0).saturating_neg()).min(now.0))
    }

    /// When, by our clock, what has this stamp and comes late was said; not after now. As long as nothing has shown how far the
    /// server's clock is off, it is taken to be right: one that is said too late might undo what followed it.
    pub(crate) fn said_at(&self, stamp_ms: u64, now: Wall) -> Wall {
        let most = [self.present, self.before].into_iter().flatten().max_by_key(|period| period.most);
        if most.is_some_and(|period| period.seen < period.most) {
            Wall(stamp_ms.min(now.0))
        } else {
            self.in_time_at(stamp_ms, now)
        }
    }

    fn most(&self) -> Option<i64> {
        [self.present, self.before].into_iter().flatten().map(|period| period.most).max()
    }
}

/// The stamps of what a server has said of cells within the last moment, for which its order cannot be told by arrival.
#[derive(Debug, Default)]
pub(crate) struct Latest {
    stamps: BTreeMap<Slot, (u64, Mono)>,
    /// Each message, oldest first.
    order: VecDeque<(Mono, Slot)>,
}

impl Latest {
    /// Enters what was said of a cell. Says whether something with a later stamp was said before; else this is the latest.
    pub(crate) fn enter(&mut self, slot: Slot, stamp_ms: u64, now: Mono) -> bool {
        while let Some((at, old)) = self.order.front().copied().filter(|(at, _)| now.ms_since(*at) > LATE_MS) {
            self.order.pop_front();
            if self.stamps.get(&old).is_some_and(|(_, last)| *last == at) {
                self.stamps.remove(&old);
            }
        }
        if self.stamps.get(&slot).is_some_and(|(latest, _)| *latest > stamp_ms) {
            return true;
        }
        self.stamps.insert(slot, (stamp_ms, now));
        self.order.push_back((now, slot));
        false
    }

    /// The cell is forgotten.
    pub(crate) fn forget(&mut self, slot: Slot) {
        self.stamps.remove(&slot);
    }
}

fn ahead(stamp_ms: u64, wall_ms: u64) -> i64 {
    i64::try_from(stamp_ms).unwrap_or(i64::MAX).saturating_sub_unsigned(wall_ms)
}

impl Dmq {
    /// Our wall clock has jumped by so many milliseconds; it is taken to be right now, or not.
    pub(crate) fn clock_jumped(&mut self, by_ms: i64, right: bool, cx: &Cx<'_>) {
        self.quiet = None;
        let before = Wall(cx.now.wall.0.saturating_add_signed(by_ms.saturating_neg()));
        for peer in self.peers.values_mut() {
            peer.lateness.clock_jumped(by_ms);
            peer.contact_lateness.clock_jumped(by_ms);
            if right && by_ms.unsigned_abs() > cx.config.max_skew_ms {
                peer.tell_expiries_again(before, cx.replica, cx.now.mono);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_800_000_000_000;

    #[test]
    fn a_repeated_message_is_as_late_as_its_stamp_says_whatever_the_clock() {
        for off in [-3_600_000, 0, 3_600_000] {
            let clock = |ms: u64| (START + ms).saturating_add_signed(off);
            let mut lateness = Lateness::default();
            let mut at = |stamp: u64, ms: u64| lateness.of(clock(stamp), START + ms, Mono(ms * 1_000));
            assert_eq!(at(1_000, 1_002), 0, "the first one");
            assert_eq!(at(5_000, 5_002), 0);
            assert_eq!(at(4_000, 9_002), 5_000);
            assert_eq!(at(9_500, 9_501), 0, "a quicker way");
            assert_eq!(at(39_000, 40_001), 1_000, "the half minute before counts too");
        }
    }

    #[test]
    fn the_first_messages_of_a_server_whose_clock_is_taken_to_be_right_may_be_late() {
        let mut lateness = Lateness::in_time();
        let mut at = |stamp: u64, ms: u64| lateness.of(START + stamp, START + ms, Mono(ms * 1_000));
        assert_eq!(at(10_000, 91_000), 79_000);
        assert_eq!(at(60_000, 91_001), 29_001);
        assert_eq!(at(91_500, 91_502), 0);
        assert_eq!(
            lateness.said_at(START + 60_000, Wall(START + 91_001)),
            Wall(START + 60_002),
            "by what the last one showed"
        );
        let mut lateness = Lateness::in_time();
        lateness.of(START + 10_000, START + 91_000, Mono(91_000_000));
        assert_eq!(lateness.said_at(START + 10_000, Wall(START + 91_000)), Wall(START + 10_000));
        assert_eq!(lateness.in_time_at(START + 10_000, Wall(START + 91_000)), Wall(START + 12_000), "at the latest");
        // A clock that is wrong is known after a minute.
        let mut lateness = Lateness::in_time();
        let last = (0..70).map(|s| lateness.of(START + s * 1_000, START + 3_600_000 + s * 1_000, Mono(s * 1_000_000)));
        assert_eq!(last.last(), Some(0));
    }

    #[test]
    fn a_clock_that_was_set_back_is_believed_after_a_minute() {
        let mut lateness = Lateness::default();
        assert_eq!(lateness.of(START + 10_000, START, Mono(0)), 0);
        let mut last = 0;
        for s in 1..=70 {
            last = lateness.of(START + s * 1_000, START + s * 1_000, Mono(s * 1_000_000));
        }
        assert_eq!(last, 0);
    }

    #[test]
    fn what_a_server_says_first_after_a_silence_is_as_late_as_what_it_said_before_shows() {
        for off in [-3_600_000, 0, 3_600_000] {
            let mut lateness = Lateness::default();
            let mut at = |stamp: u64, s: u64| {
                lateness.of((START + stamp * 1_000).saturating_add_signed(off), START + s * 1_000, Mono(s * 1_000_000))
            };
            assert_eq!(at(8, 8), 0);
            assert_eq!(at(205, 225), 20_000);
            assert_eq!(at(300, 300), 0);
            assert_eq!(at(4_000, 7_600), 3_600_000, "however long it was");
        }
    }

    #[test]
    fn what_is_another_servers_says_nothing_of_the_clock() {
        let mut lateness = Lateness::default();
        assert_eq!(lateness.of(START, START, Mono(0)), 0);
        assert_eq!(lateness.by_now(START + 26_000, START), 0);
        assert_eq!(lateness.by_now(START - 26_000, START), 26_000);
        assert_eq!(lateness.of(START + 1_000, START + 1_000, Mono(1_000_000)), 0, "as before");
    }

    #[test]
    fn a_jump_of_our_own_clock_makes_no_message_late() {
        for by in [-2_000_000i64, 2_000_000] {
            let mut lateness = Lateness::default();
            assert_eq!(lateness.of(START, START, Mono(0)), 0);
            lateness.clock_jumped(by);
            assert_eq!(lateness.of(START + 100, (START + 100).saturating_add_signed(by), Mono(100_000)), 0);
            lateness.clock_jumped(-by);
            assert_eq!(lateness.of(START + 200, START + 200, Mono(200_000)), 0);
            assert_eq!(lateness.of(START + 200, START + 5_200, Mono(5_200_000)), 5_000, "as late as it is");
        }
    }

    #[test]
    fn of_two_words_within_a_moment_the_one_with_the_lower_stamp_is_behind() {
        let (mut latest, slot) = (Latest::default(), crate::dmq::book::tests::slot());
        let mut at = |stamp: u64, ms: u64| latest.enter(slot, stamp, Mono(ms * 1_000));
        assert!(!at(1_002, 0));
        assert!(at(1_001, 1));
        assert!(!at(1_002, 2), "the same once more");
        assert!(!at(1_003, 3));
        assert!(!at(1_001, 4 + LATE_MS), "its lateness tells");
        latest.forget(slot);
        assert!(!latest.enter(slot, 1, Mono(4_000)));
    }

    #[test]
    fn wild_stamps_are_numbers_like_others() {
        let mut lateness = Lateness::default();
        lateness.of(u64::MAX, 0, Mono(0));
        assert!(lateness.of(0, u64::MAX, Mono(0)) > 0);
    }
}
