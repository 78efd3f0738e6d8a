//! When what a dump shows of an entry was written, as far as it can be known (docs/rules.md 14, docs/kdmq.md 7.6).
//!
//! It leaves to `htable_in` whether it is news at all. Invariant: what may be another's word, or says nothing of its time, never
//! gets a time later than what the server is known to have agreed on.

use crdt::planted::{self, Bug};
use crdt::{Hlc, StampRule, Wall};
use kdmq::htable::Cell;

use super::book::fingerprint;
use super::facts::{Expiry, Facts};
use super::htable_in::{Held, SAME_WITHIN_S};
use super::peer::Peer;
use crate::config::DmqMode;
use crate::cx::Cx;

/// So long after a restart a server may show what others told it because of that, milliseconds: they repeat it for half a minute,
/// and its dump may be asked for a minute later.
const TOLD_ALL_MS: u64 = 105_000;

/// When a dumped entry that we did not know was written, as far as it can be known.
pub(super) fn age(peer: &Peer, cell: &Cell<'_>, held: Option<&Held>, facts: &Facts, cx: &Cx<'_>) -> StampRule {
    match told(peer, cell, held, facts, cx) {
        // It lives, so it was not written before its table lets it.
        StampRule::Above(stamp) => match earliest(cell, cx) {
            Some(earliest) if stamp.time < Hlc::from_ms(earliest.0) => StampRule::At(earliest),
            _ => StampRule::Above(stamp),
        },
        told => told,
    }
}

/// When an entry with this end can have been written at the earliest, by the longest life that its table allows.
fn earliest(cell: &Cell<'_>, cx: &Cx<'_>) -> Option<Wall> {
    let table = cx.config.htables.get(std::str::from_utf8(&cell.table).ok()?)?;
    let longest = Some(table.max_ttl_s).filter(|seconds| *seconds > 0)?;
    Some(Wall(cell.expire.checked_sub(longest.into())?.saturating_mul(1_000)))
}

/// When it was written by what is known of it and of the server.
fn told(peer: &Peer, cell: &Cell<'_>, held: Option<&Held>, facts: &Facts, cx: &Cx<'_>) -> StampRule {
    if planted::on(Bug::PulledIsNow) {
        return StampRule::Now;
    }
    if held.is_some_and(|h| peer.doubts.said(h.slot, fingerprint(&cell.value.encode()))) {
        // Another server's word that came too late; when it was said is known here.
        return StampRule::Least;
    }
    // A server gives another life to what another tells it too late.
    if let Some(ended) = held.filter(|h| outlives(cell, h) && !peer.doubts.is_unheard(h.slot)) {
        return StampRule::Above(ended.order.stamp);
    }
    let mode = cx.config.dmq.mode;
    let others_word = |h: &Held| is_unstamped(peer, cell, mode) && !is_strangers_word(peer, h, cx);
    // Others tell it all that they have when it has restarted, old or not; that keeps the stamp of what it has set itself.
    let told_all = peer.comeback.has_restarted_within(TOLD_ALL_MS, cx.now.mono)
        && cell.last_modified.is_some_and(|ms| is_anothers_stamp(ms, held, mode));
    if told_all {
        return StampRule::Least;
    }
    if held.is_some_and(|h| others_word(h) || peer.is_anothers(h.slot, h.order.stamp, mode)) {
        return StampRule::Least;
    }
    if let Some(ms) = cell.last_modified.filter(|ms| !is_anothers_stamp(*ms, held, mode)) {
        return StampRule::At(peer.lateness.in_time_at(ms, cx.now.wall));
    }
    if let Some(repeated) = held.filter(|h| peer.comeback.is_repeated(h.slot, h.order.stamp)) {
        return StampRule::Above(repeated.order.stamp);
    }
    let told = |h: &&Held| peer.strangers.follow(h.order.stamp);
    // What it did not have is set anew.
    let anew = |h: &&Held| {
        let removed = Wall(h.order.stamp.time.ms());
        peer.book.get(h.slot).is_none() && !h.live && peer.pull.is_later(h.slot, removed, peer.under_way_ms(), cx.now)
    };
    let from = held.filter(|h| told(h) || anew(h)).map(|h| h.order.stamp);
    let base = held.and_then(|h| peer.book.base(h.slot)).or(from);
    let name = std::str::from_utf8(&cell.table).unwrap_or_default();
    let restarts = cx.config.htables.get(name).is_some_and(|t| t.updateexpire);
    // One that ends later than any that is set now was given another life, by us or by `htable.setex`.
    let latest = |seconds: u32| cx.now.wall.0 / 1_000 + u64::from(seconds) + SAME_WITHIN_S;
    if let Expiry::After(seconds) = facts.of(cx.config, peer.id, name)
        && restarts
        && (u64::from(seconds) + 1..=latest(seconds)).contains(&cell.expire)
    {
        let written = (cell.expire - u64::from(seconds)).saturating_mul(1_000);
        let last_agreement = peer.figures.last_sync.unwrap_or(0) * 1_000;
        return StampRule::At(Wall(written.clamp(last_agreement.min(cx.now.wall.0), cx.now.wall.0)));
    }
    base.map_or(StampRule::Least, StampRule::Above)
}

/// Whether what is held has ended by itself, and what is shown lives longer: whatever was set before would have ended before.
fn outlives(cell: &Cell<'_>, held: &Held) -> bool {
    let ended = held.deadline.filter(|_| !held.live && held.body.is_some());
    ended.is_some_and(|ended| cell.expire > ended + SAME_WITHIN_S)
}

/// Whether a 6 shows an entry that it did not set itself, so another server did: its own sets have a stamp (docs/kdmq.md 7.4).
fn is_unstamped(peer: &Peer, cell: &Cell<'_>, mode: DmqMode) -> bool {
    mode == DmqMode::Mesh && peer.generation == kdmq::Generation::V6 && cell.last_modified.is_none()
}

/// Whether a node that is not linked has told it that, rather than another server: that has none, or its word could not be still on
/// its way.
fn is_strangers_word(peer: &Peer, held: &Held, cx: &Cx<'_>) -> bool {
    let late = held.order.stamp.time.ms() + peer.under_way_ms() >= cx.now.wall.0;
    peer.strangers.any() && (!late || peer.strangers.are_all(peer.lists.len()))
}

/// Whether a 6 may have kept the stamp of the version that is held, where another server's set without one has replaced that
/// (docs/kdmq.md 7.4).
fn is_anothers_stamp(ms: u64, held: Option<&Held>, mode: DmqMode) -> bool {
    const APART_MS: u64 = 1_000;
    mode == DmqMode::Mesh && held.is_some_and(|held| held.order.stamp.time.ms().abs_diff(ms) < APART_MS)
}
