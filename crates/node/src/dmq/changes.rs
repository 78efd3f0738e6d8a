//! What a changed cell means for the servers: whose books are out of date, and who is to be told.
//!
//! It leaves the telling to `feed`. Invariant: a server that does not hold the new version has it queued, unless another
//! server tells it the same.

use std::collections::BTreeSet;

use crdt::{Cause, CellRef, Change, counter};
use kdmq::Generation;
use tables::{htable, location};

use super::book::{Note, Proof, Ruid, fingerprint};
use super::facts::{Expiry, Facts};
use super::feed::is_told;
use super::{Dmq, Peer, PeerId, counters, orphans, requests, usrloc_in};
use crate::config::DmqMode;
use crate::cx::Cx;

impl Dmq {
    /// Cells have changed: every book that relied on what was there is put right, and the servers
    /// that do not hold the new version are to be told.
    pub(crate) fn on_changes(&mut self, changes: &[Change], cx: &mut Cx<'_>) {
        self.quiet = None;
        let mut graves = Vec::new();
        for change in changes {
            if cx.replica.table_of(change.slot).is_some_and(|table| !is_told(table)) {
                continue;
            }
            if let (Cause::Forgotten, Some(old), true) = (change.cause, &change.old, cx.durable()) {
                self.forget_entries(old);
            }
            let counter = counters::key_of(change, cx);
            if let Some((table, key)) = &counter
                && change.cause != Cause::Local
            {
                counter::drop_outdated(cx.replica, cx.now.wall, (table, key), 0);
            }
            // With the last contribution, at about this time, the entries of the servers end too.
            let expired = change.cause == Cause::Expired
                && counter.as_ref().is_some_and(|(t, k)| counters::value(cx.replica, (t, k), cx.now.wall).is_none());
            let dropped = change.cause == Cause::Forgotten && orphans::matters(change, cx.replica.rules(), cx.now.wall);
            let mut orphans = Vec::new();
            let told = self.lend_told(change, cx);
            let left = self.value_before(change, cx);
            let several = cx.replica.cell(change.slot).filter(|_| change.cause == Cause::Pushed);
            let several = several.and_then(|c| self.spoken.several((c.table, c.key, c.member), cx.now.mono));
            for peer in self.peers.values_mut() {
                match change.cause {
                    Cause::Forgotten => {
                        if let (Some(entry), true) = (peer.forget_cell(change.slot, cx.replica), dropped) {
                            orphans.push((peer.id, entry));
                        }
                    }
                    Cause::Expired => {
                        match &counter {
                            Some(key) if expired => {
                                peer.counters.end(key, counters::outlived_until(&key.0, cx.config, cx.now.mono));
                            }
                            // The sum is less by this contribution.
                            Some(key) => peer.counters.touch(key.clone()),
                            None => {}
                        }
                        delete_expired(peer, change, &self.facts, cx);
                    }
                    _ if counter.is_some() => counter.iter().for_each(|key| counted(peer, key, change, cx)),
                    _ => {
                        left.into_iter().for_each(|value| peer.former.left(change.slot, value, cx.now.mono));
                        requests::keep_ruid(peer, change, cx);
                        peer.hasten_contest(change.slot, cx.now.mono);
                        let direct = told.as_ref().is_some_and(|told| told.to(peer));
                        if peer.owned && !(direct && requests::presume(peer, change, several, cx)) {
                            peer.hold_removal(change.slot, cx.replica);
                            peer.feed.enqueue(change.slot);
                        }
                        if peer.owned {
                            usrloc_in::alias(peer, change.slot, cx);
                        }
                    }
                }
            }
            if let Some(told) = told {
                self.return_lists(told.by, told.lists);
            }
            if counter.is_none() {
                self.doubt_change(change, cx);
            }
            graves.extend((!orphans.is_empty()).then_some((change, orphans)));
        }
        // A tombstone may get the slot of a cell that was forgotten, which has to be off all books by then.
        graves.into_iter().for_each(|(change, orphans)| self.bury(change, orphans, cx));
    }

    /// The value of an entry from which the mesh has gone on, if another node may have told it a server.
    fn value_before(&self, change: &Change, cx: &Cx<'_>) -> Option<u64> {
        let shared = self.peers.values().any(|peer| peer.former.is_shared(cx.now.mono));
        let old = change.old.as_deref().filter(|_| shared).and_then(|old| CellRef::decode(old).ok());
        old.filter(|old| htable::name(old.table).is_some())?.body.map(fingerprint)
    }

    /// Whom the server that a change came from has told it itself.
    fn lend_told(&mut self, change: &Change, cx: &Cx<'_>) -> Option<Told> {
        let by = *self.by_tag.get(&change.via)?;
        let sender = self.peers.get(&by).filter(|sender| !sender.lists.is_empty())?;
        let stamps = sender.generation == Generation::V6;
        let cell = cx.replica.cell(change.slot);
        let contact = cell.as_ref().is_some_and(|cell| cell.table == location::TABLE);
        let fresh = cell.is_some_and(|cell| cell.order.stamp.time.ms() + FRESH_MS > cx.now.wall.0);
        Some(Told { by, lists: self.lend_lists(by)?, fresh, stamped: stamps && !contact })
    }
}

/// A counter has changed.
fn counted(peer: &mut Peer, key: &counters::Key, change: &Change, cx: &Cx<'_>) {
    if change.cause == Cause::Local {
        peer.counters.counted(key);
    }
    peer.counters.touch(key.clone());
    if cx.config.dmq.mode == DmqMode::Mesh {
        peer.doubts.doubt_counters(cx.now.mono);
    }
}

/// An entry has expired: a server whose table does not expire, as far as is known, would keep it for ever.
fn delete_expired(peer: &mut Peer, change: &Change, facts: &Facts, cx: &Cx<'_>) {
    let name = cx.replica.table_of(change.slot).and_then(htable::name);
    let stays = name.is_some_and(|name| !matches!(facts.of(cx.config, peer.id, name), Expiry::After(_)));
    if let Some(value) = peer.book.get(change.slot).map(|e| e.value).filter(|_| stays && peer.owned) {
        let note = Note { held: None, proof: Proof::Seen, ruid: Ruid::Kept, value, pull: None };
        peer.book.note(change.slot, note, cx.now.mono);
        peer.feed.enqueue(change.slot);
    }
}

/// What a server tells others is news for so long, milliseconds: what it repeats after a silence it told them long ago.
const FRESH_MS: u64 = 1_000;

/// What a server has told others itself.
struct Told {
    by: PeerId,
    lists: BTreeSet<String>,
    fresh: bool,
    /// Whether it carries a stamp, which a 5.6 refuses (docs/kdmq.md 7.4).
    stamped: bool,
}

impl Told {
    /// Whether it told this one, and was understood.
    fn to(&self, peer: &Peer) -> bool {
        let understood = !self.stamped || peer.generation == Generation::V6;
        understood && self.fresh && self.by != peer.id && self.lists.contains(&peer.uri)
    }
}
