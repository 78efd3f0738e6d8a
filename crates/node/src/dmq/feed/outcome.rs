//! What came of a request that told a server something.
//!
//! Invariant: a request ends once, and whatever it was about is then held, queued, or known to be refused.

use tables::htable;

use super::{Fed, Item, Request, UNANSWERED_MAX, What};
use crate::cx::Cx;
use crate::dmq::book::{Note, Proof, Ruid, Version};
use crate::dmq::counters::Told;
use crate::dmq::lateness::LATE_MS;
use crate::dmq::peer::Peer;
use crate::dmq::{counters, usrloc_in};

/// A request was answered with this code. A set whose deadline must be told yields the next request.
pub(crate) fn answered(peer: &mut Peer, fed: &Fed, code: u16, cx: &mut Cx<'_>) -> Option<Request> {
    if fed.epoch != peer.feed.epoch {
        return None;
    }
    peer.feed.requests = peer.feed.requests.saturating_sub(1);
    peer.feed.unanswered = 0;
    peer.feed.answered_at = Some(cx.now.mono);
    let late = cx.now.mono.ms_since(fed.sent) >= LATE_MS;
    if late {
        peer.feed.answered_late_at = Some(cx.now.mono);
        peer.pull.way.lost(fed.sent);
    }
    if let Some(key) = &fed.counter {
        let how = if (200..300).contains(&code) { Told::Seen { late } } else { Told::Refused(code) };
        counters::told(peer, key, how, cx);
    }
    let mut follow_up = None;
    for item in &fed.items {
        if !(200..300).contains(&code) {
            refused(peer, item, code, cx);
        } else if let Some(request) = stored(peer, item, cx) {
            follow_up = Some(request);
            continue;
        }
        close(peer, item, cx);
    }
    follow_up
}

/// The server said 200: presumably it did what it was told.
fn stored(peer: &mut Peer, item: &Item, cx: &mut Cx<'_>) -> Option<Request> {
    let held = Some(item.version);
    match &item.what {
        What::Contact { ruid } => {
            let as_held =
                cx.replica.cell(item.slot).and_then(|c| usrloc_in::contact_of(&c).map(|(_, c)| **c.ruid == ruid[..]));
            let ruid = match (peer.book.get(item.slot), as_held) {
                // It may have told its own ruid while the request was open; then it keeps that.
                (Some(_), _) => Ruid::Kept,
                (None, Some(true)) => Ruid::AsHeld,
                (None, _) => Ruid::Own(ruid),
            };
            peer.book.note(item.slot, Note { held, proof: Proof::Answered, ruid, value: 0, pull: None }, cx.now.mono);
            None
        }
        What::Set { value, then_expire: Some(deadline) } => expiry(peer, item, *value, *deadline, cx),
        What::Set { value, then_expire: None } | What::Expire { value } => {
            let note = Note { held, proof: Proof::Answered, ruid: Ruid::AsHeld, value: *value, pull: None };
            peer.book.note(item.slot, note, cx.now.mono);
            None
        }
        // It will be told once more, for which the ruid is needed.
        What::Gone if peer.contests.contains(item.slot) => {
            let value = peer.book.get(item.slot).map_or(0, |e| e.value);
            let note = Note { held, proof: Proof::Answered, ruid: Ruid::Kept, value, pull: None };
            peer.book.note(item.slot, note, cx.now.mono);
            None
        }
        What::Gone => {
            if !peer.feed.open.get(&item.slot).is_some_and(|o| o.again) {
                if cx.replica.table_of(item.slot).and_then(htable::name).is_some() {
                    peer.book.removed(item.slot, item.version.stamp, true, cx.now.mono);
                } else {
                    peer.book.remove(item.slot);
                }
                peer.acknowledged(item.slot, cx.replica);
            }
            None
        }
    }
}

/// The second half of a set: how long it lives.
fn expiry(peer: &mut Peer, item: &Item, value: u64, deadline: Option<u64>, cx: &Cx<'_>) -> Option<Request> {
    let cell = cx.replica.cell(item.slot)?;
    let name = htable::name(cell.table)?;
    // To a server 0 means "never", so what ends in this second ends in the next one there.
    let left = deadline.map_or(0, |d| d.saturating_sub(cx.now.wall.0 / 1_000).max(1));
    let left = u32::try_from(left).unwrap_or(u32::MAX);
    let body = kdmq::htable::encode_expire(name.as_bytes(), cell.key, left).ok()?;
    peer.feed.requests += 1;
    let item = Item { slot: item.slot, version: item.version, what: What::Expire { value } };
    Some(Request {
        channel: "htable",
        body,
        fed: Fed { epoch: peer.feed.epoch, sent: cx.now.mono, items: vec![item], counter: None },
    })
}

/// The server refused: it has no such table, or does not understand us. Asking again would not help.
fn refused(peer: &mut Peer, item: &Item, code: u16, cx: &mut Cx<'_>) {
    cx.stats.dmq_refused += 1;
    let table = cx.replica.cell(item.slot).and_then(|c| htable::name(c.table).map(str::to_owned));
    if code == 500
        && let Some(table) = table
    {
        peer.lacks_tables.insert(table);
        return;
    }
    let value = peer.book.get(item.slot).map_or(0, |e| e.value);
    let note = Note { held: Some(item.version), proof: Proof::Answered, ruid: Ruid::Kept, value, pull: None };
    peer.book.note(item.slot, note, cx.now.mono);
}

fn close(peer: &mut Peer, item: &Item, cx: &Cx<'_>) {
    let again = peer.feed.open.remove(&item.slot).is_some_and(|o| o.again);
    // Another copy of it, or of what it was told before, may still be under way on a lossy way.
    if !peer.feed.is_lossy(cx.now.mono) {
        peer.feed.proven(item.slot);
    }
    let current = cx.replica.cell(item.slot).map(|c| Version::from(c.order));
    if again && current == Some(item.version) && peer.book.holds(item.slot, item.version) {
        // The server spoke about the cell meanwhile: tell it once more, so that ours comes last.
        let value = peer.book.get(item.slot).map_or(0, |e| e.value);
        let note = Note { held: None, proof: Proof::Answered, ruid: Ruid::Kept, value, pull: None };
        peer.book.note(item.slot, note, cx.now.mono);
    }
    if again || current != Some(item.version) {
        peer.feed.enqueue(item.slot);
    }
}

/// A request got no answer. Returns whether the server has to be taken for silent.
pub(crate) fn timed_out(peer: &mut Peer, fed: &Fed, cx: &mut Cx<'_>) -> bool {
    if fed.epoch != peer.feed.epoch {
        return false;
    }
    peer.feed.requests = peer.feed.requests.saturating_sub(1);
    peer.feed.unanswered += 1;
    if let Some(key) = &fed.counter {
        counters::told(peer, key, Told::Unanswered, cx);
    }
    for item in &fed.items {
        if peer.feed.open.remove(&item.slot).is_some() {
            peer.feed.enqueue(item.slot);
        }
    }
    peer.feed.unanswered >= UNANSWERED_MAX
}
