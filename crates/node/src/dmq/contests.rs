//! Cells about which a server and somebody else spoke at the same time: nobody knows which word it applied last.
//!
//! It is told the winner, when the winner is known here. What is contested others say. Invariant: a contest that is over leaves
//! the cell queued for the server.

use std::collections::{BTreeMap, BTreeSet};

use crdt::planted::{self, Bug};
use crdt::{Replica, Slot, Wall};
use tables::htable;

use super::book::{Note, Proof, Ruid};
use super::owner::HOLD_MS;
use super::peer::Peer;
use crate::io::Mono;

/// How long two servers' messages about one cell take to be merged at every node, milliseconds.
const CONTEST_MS: u64 = 500;

/// Cells that are contested, and when that will have been merged.
#[derive(Debug, Default)]
pub(crate) struct Contests {
    due: BTreeMap<Slot, Mono>,
    order: BTreeSet<(Mono, Slot)>,
}

impl Contests {
    /// Enters a cell, or moves it.
    fn insert(&mut self, slot: Slot, due: Mono) {
        if let Some(before) = self.due.insert(slot, due) {
            self.order.remove(&(before, slot));
        }
        self.order.insert((due, slot));
    }

    /// It is due no later than this.
    fn hasten(&mut self, slot: Slot, due: Mono) {
        if self.due.get(&slot).is_some_and(|at| *at > due) {
            self.insert(slot, due);
        }
    }

    /// Whether the cell is contested.
    pub(crate) fn contains(&self, slot: Slot) -> bool {
        self.due.contains_key(&slot)
    }

    /// The cell is forgotten.
    pub(crate) fn remove(&mut self, slot: Slot) {
        if let Some(due) = self.due.remove(&slot) {
            self.order.remove(&(due, slot));
        }
    }

    /// Takes out one that is due.
    fn pop(&mut self, now: Mono) -> Option<Slot> {
        let (due, slot) = self.order.first().copied().filter(|(due, _)| *due <= now)?;
        self.order.remove(&(due, slot));
        self.due.remove(&slot);
        Some(slot)
    }

    /// When one is due, at the earliest.
    pub(crate) fn next(&self) -> Option<Mono> {
        self.order.first().map(|(due, _)| *due)
    }
}

impl Peer {
    /// It cannot be known which of several messages about a cell it applied last: its own and another server's may have
    /// crossed, or its workers overtaken each other. It is told the winner, but only when the winner is known here too.
    pub(crate) fn contested(&mut self, slot: Slot, now: Mono) {
        if planted::on(Bug::ContestNotSettled) {
            return;
        }
        self.contests.insert(slot, now.plus_ms(CONTEST_MS));
    }

    /// As [`Peer::contested`], while what was said is only held, because another node speaks for who said it: until that node
    /// (or, if it has failed, whoever takes over) has passed it on, nobody knows the winner.
    pub(crate) fn contested_elsewhere(&mut self, slot: Slot, now: Mono) {
        self.contests.insert(slot, now.plus_ms(CONTEST_MS + HOLD_MS));
    }

    /// What a contest waited for has come.
    pub(crate) fn hasten_contest(&mut self, slot: Slot, now: Mono) {
        self.contests.hasten(slot, now.plus_ms(CONTEST_MS));
    }

    /// Queues the winners of contests that are over.
    pub(crate) fn settle_contests(&mut self, now: Mono) {
        while let Some(slot) = self.contests.pop(now) {
            self.figures.corrections += 1;
            self.tell_again(slot, now);
        }
    }

    /// What it was told is not what counts.
    fn tell_again(&mut self, slot: Slot, now: Mono) {
        let value = self.book.get(slot).map_or(0, |e| e.value);
        let note = Note { held: None, proof: Proof::Answered, ruid: Ruid::Kept, value, pull: None };
        self.book.note(slot, note, now);
        self.feed.enqueue(slot);
    }

    /// Our clock was wrong: how long entries live was told in seconds from a time that is not. `before`: what it would
    /// show without the jump. What only now seems to live stays as it is.
    pub(crate) fn tell_expiries_again(&mut self, before: Wall, replica: &Replica, now: Mono) {
        let expires = |slot: &Slot| {
            let cell = replica.cell(*slot).filter(|cell| htable::name(cell.table).is_some());
            cell.is_some_and(|cell| cell.deadline.is_some() && cell.is_live(before))
        };
        let slots: Vec<Slot> = self.book.iter().map(|(slot, _)| slot).filter(expires).collect();
        slots.into_iter().for_each(|slot| self.tell_again(slot, now));
    }
}
