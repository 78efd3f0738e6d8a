//! Taking in what a server says on the `htable` channel.
//!
//! Live messages are writes of the moment they arrive: 5.6 gives no time, so a reordering of live
//! writes on the way cannot be seen (docs/rules.md 13). A dump is old news: an entry that equals what the
//! server was known to have is no write, anything else is stamped by what is known of its age
//! (docs/rules.md 14, docs/kdmq.md 7.6).

use bstr::BStr;
use crdt::planted::{self, Bug};
use crdt::{Hlc, Order, Outcome, Slot, StampRule, Wall, Write};
use kdmq::htable::{Action, Cell, How as Match, On};
use tables::htable::{self, Value};

use super::How;
use super::age::age;
use super::book::{Note, Proof, Ruid, fingerprint};
use super::counters;
use super::facts::{Expiry, Facts};
use super::lateness::LATE_MS;
use super::peer::Peer;
use crate::config::DmqMode;
use crate::cx::Cx;
use crate::io::Mono;

/// Differences below this, in seconds, are rounding and not a change (docs/rules.md 11).
pub(super) const SAME_WITHIN_S: u64 = 2;

/// An `expire` that overtook its `set` waits this long for it, milliseconds.
const EARLY_EXPIRE_MS: u64 = 2_000;

/// So many of them wait at most, per server.
const EARLY_EXPIRES_MAX: usize = 1_024;

pub(super) struct Held {
    pub(super) slot: Slot,
    pub(super) order: Order,
    pub(super) live: bool,
    pub(super) deadline: Option<u64>,
    pub(super) body: Option<Vec<u8>>,
}

fn held(cx: &Cx<'_>, table: &str, key: &[u8]) -> Option<Held> {
    let slot = cx.replica.slot(table, key, b"")?;
    let cell = cx.replica.cell(slot)?;
    Some(Held {
        slot,
        order: cell.order,
        live: cell.is_live(cx.now.wall),
        deadline: cell.deadline,
        body: cell.body.map(<[u8]>::to_vec),
    })
}

/// Takes in one action; sync requests and dumps are the caller's.
pub(crate) fn take(peer: &mut Peer, action: &Action<'_>, facts: &Facts, how: How, cx: &mut Cx<'_>) {
    if let Some(slot) = slot_of(action, cx) {
        let value = match action {
            Action::Set { value, .. } => fingerprint(&value.encode()),
            _ => 0,
        };
        peer.doubt_told_since(slot, value, how, cx);
    }
    match action {
        Action::Set { table, key, value, last_modified } => {
            set(peer, (table, key), value, *last_modified, facts, how, cx);
        }
        Action::Expire { table, key, seconds } => expire(peer, (table, key), *seconds, facts, how, cx),
        Action::Delete { table, key } => delete(peer, (table, key), how, cx),
        Action::RemoveMatching { table, how: by, on, pattern } => {
            remove_matching(peer, table, (*by, *on, pattern), how, cx);
        }
        Action::None | Action::Sync { .. } | Action::Cells(_) => {}
    }
}

/// A table's name if it can be a table here.
fn table_of(name: &BStr, cx: &mut Cx<'_>) -> Option<String> {
    let name = std::str::from_utf8(name).ok().filter(|n| !n.is_empty() && n.len() <= 48);
    if name.is_none() {
        cx.stats.dmq_rows_refused += 1;
    }
    name.map(htable::table)
}

fn set(
    peer: &mut Peer,
    (name, key): (&BStr, &BStr),
    value: &Value<'_>,
    last_modified: Option<u64>,
    facts: &Facts,
    how: How,
    cx: &mut Cx<'_>,
) {
    let Some(table) = table_of(name, cx) else { return };
    let name = htable::name(&table).unwrap_or_default().to_owned();
    if counters::is_counter(cx.config, &name) {
        return counters::set_by_server(peer, (&table, key), (value, last_modified), how, cx);
    }
    let now_s = cx.now.wall.0 / 1_000;
    let held = held(cx, &table, key);
    let body = value.encode();
    let held_deadline = held.as_ref().filter(|h| h.live).and_then(|h| h.deadline);
    let mut deadline = facts.of(cx.config, peer.id, &name).of_set(cx.config, &name, now_s, held_deadline);
    if let Some((seconds, at)) = peer.early_expires.remove(&(table.clone(), key.to_vec()))
        && cx.now.mono.ms_since(at) < EARLY_EXPIRE_MS
    {
        deadline = expires_in(seconds, &name, cx);
    }
    let said = last_modified.filter(|_| how == How::Live && peer.generation == kdmq::Generation::V6);
    let lateness = said.map_or(0, |ms| peer.lateness.of(ms, cx.now.wall.0, cx.now.mono));
    if let Some(held) = &held {
        if peer.is_outdone(held.slot, how, cx.now) || is_overtaken(peer, held, &body, last_modified, how, cx) {
            return;
        }
        let fresh = cx.now.wall.0.saturating_sub(held.order.stamp.time.ms()) < SAME_WITHIN_S * 1_000;
        let repeated = held.live && held.body.as_deref() == Some(&body) && planted::on(Bug::SameValueIsNoWrite);
        if repeated {
            return agree(peer, held.slot, held.order, &body, how, cx);
        }
        if held.live && fresh && held.body.as_deref() == Some(&body) && near(held.deadline, deadline) {
            return agree(peer, held.slot, held.order, &body, how, cx);
        }
    }
    let live = held.is_some_and(|held| held.live);
    if lateness >= LATE_MS {
        let then = Wall(cx.now.wall.0.saturating_sub(lateness));
        return set_late(peer, (&table, key), (&body, deadline), (then, live), cx);
    }
    let stamp = match said {
        // It may be repeating what it said in a silence.
        Some(ms) if peer.comeback.look_at.is_some() => StampRule::At(peer.lateness.in_time_at(ms, cx.now.wall)),
        _ => how.stamp(),
    };
    write(peer, (&table, key), Some(&body), deadline, stamp, how, cx);
    if let (Some(ms), Some(slot)) = (said, cx.replica.slot(&table, key, b"")) {
        peer.latest.enter(slot, ms, cx.now.mono);
    }
}

/// Whether a later write of a 6 has arrived before this one: it applies sets by its own stamps, in the order of which it may have
/// said the two within a moment. What comes later than that its clock tells, as far as we know it. What comes in time is never
/// judged by the stamp of what is held: that is as far ahead of our clock as another node's is.
fn is_overtaken(peer: &mut Peer, held: &Held, body: &[u8], last_modified: Option<u64>, how: How, cx: &Cx<'_>) -> bool {
    let Some(at) = last_modified.filter(|_| peer.generation == kdmq::Generation::V6) else { return false };
    let then = peer.lateness.in_time_at(at, cx.now.wall).0;
    let came = match how {
        How::Held(arrival) => arrival.0,
        How::Live | How::Dump => cx.now.wall.0,
    };
    let late = came.saturating_sub(then) >= LATE_MS;
    let before = late && then + LATE_MS < held.order.stamp.time.ms();
    let overtaken = peer.latest.enter(held.slot, at, cx.now.mono) || before;
    overtaken && held.body.as_deref() != Some(body) && peer.book.holds(held.slot, held.order.into())
}

/// A 6 repeats a set that was lost, and says when it was; `live`: something is held that lives.
fn set_late(
    peer: &mut Peer,
    at: (&str, &[u8]),
    (body, deadline): (&[u8], Option<u64>),
    (then, live): (Wall, bool),
    cx: &mut Cx<'_>,
) {
    if !live && cx.replica.may_have_forgotten(at.0, then) {
        // It may have deleted it since, and that be forgotten already: its dump tells.
        return peer.pull.want_entries();
    }
    write(peer, at, Some(body), deadline, StampRule::At(then), How::Live, cx);
    if let Some(slot) = cx.replica.slot(at.0, at.1, b"") {
        // What we have told it since it took in after this, and ended it.
        peer.contested(slot, cx.now.mono);
    }
}

fn near(a: Option<u64>, b: Option<u64>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.abs_diff(b) <= SAME_WITHIN_S,
        (a, b) => a == b,
    }
}

fn expire(peer: &mut Peer, (name, key): (&BStr, &BStr), seconds: i64, facts: &Facts, how: How, cx: &mut Cx<'_>) {
    let Some(table) = table_of(name, cx) else { return };
    let plain = htable::name(&table).unwrap_or_default();
    if facts.of(cx.config, peer.id, plain) == Expiry::Never {
        // Servers ignore it for such a table, so it changed nothing at the sender.
        return;
    }
    let Some(held) = held(cx, &table, key).filter(|h| h.live) else {
        let now = cx.now.mono;
        if peer.early_expires.len() >= EARLY_EXPIRES_MAX {
            peer.early_expires.retain(|_, (_, at)| now.ms_since(*at) < EARLY_EXPIRE_MS);
        }
        if peer.early_expires.len() < EARLY_EXPIRES_MAX {
            peer.early_expires.insert((table, key.to_vec()), (seconds, now));
        }
        return;
    };
    let deadline = expires_in(seconds, plain, cx);
    let Some(body) = held.body else { return };
    let fresh = cx.now.wall.0.saturating_sub(held.order.stamp.time.ms()) < SAME_WITHIN_S * 1_000;
    if fresh && near(held.deadline, deadline) {
        return agree(peer, held.slot, held.order, &body, how, cx);
    }
    write(peer, (&table, key), Some(&body), deadline, how.stamp(), how, cx);
}

/// The deadline that an expiry in `seconds` means. Servers take 0 and less for "never": the entry then lives as long as
/// its table lets it live here.
fn expires_in(seconds: i64, name: &str, cx: &Cx<'_>) -> Option<u64> {
    let now_s = cx.now.wall.0 / 1_000;
    if seconds > 0 {
        return Some(now_s.saturating_add_signed(seconds));
    }
    let longest = cx.config.htables.get(name).map_or(0, |t| t.max_ttl_s);
    (longest > 0).then(|| now_s + u64::from(longest))
}

fn delete(peer: &mut Peer, (name, key): (&BStr, &BStr), how: How, cx: &mut Cx<'_>) {
    let Some(table) = table_of(name, cx) else { return };
    if counters::is_counter(cx.config, htable::name(&table).unwrap_or_default()) {
        return counters::delete_by_server(peer, (&table, key), cx);
    }
    let held = held(cx, &table, key);
    if held.is_none() && planted::on(Bug::UnknownEntryNotDeleted) {
        return;
    }
    if let Some(held) = held {
        if how.is_news(cx.now.wall) {
            peer.touched(held.slot, cx.now.mono);
        }
        peer.book.remove(held.slot);
        peer.feed.look_again(held.slot);
        if !held.live {
            return peer.has_removed(held.slot, cx);
        }
    }
    // A delete of what is not known is a write too: it may have overtaken its set (docs/rules.md 10).
    write(peer, (&table, key), None, None, how.stamp(), how, cx);
}

fn write(
    peer: &mut Peer,
    (table, key): (&str, &[u8]),
    body: Option<&[u8]>,
    deadline: Option<u64>,
    stamp: StampRule,
    how: How,
    cx: &mut Cx<'_>,
) {
    let write = Write { table, key, member: b"", rank: 0, stamp, deadline, body, via: peer.tag, birth: None };
    match (cx.replica.write(cx.now.wall, write), body) {
        (Ok(Outcome::Written(slot, _)), Some(body)) => {
            let Some(order) = cx.replica.cell(slot).map(|c| c.order) else { return };
            agree(peer, slot, order, body, how, cx);
        }
        (Ok(Outcome::Written(slot, _)), None) => {
            peer.has_removed(slot, cx);
            if how.is_news(cx.now.wall) {
                peer.touched(slot, cx.now.mono);
            }
        }
        // What it lost to may be a repetition of an older word: the dump that follows shows which is right.
        (Ok(Outcome::Lost(slot)), Some(_)) if how == How::Live && is_repeated(peer, slot, cx) => {}
        // It has said since what is held.
        (Ok(Outcome::Lost(slot)), Some(_)) if matches!(how, How::Held(_)) && shows(peer, slot, cx) => {}
        (Ok(Outcome::Lost(slot)), Some(body)) => correct(peer, slot, body, cx),
        (Ok(Outcome::Lost(slot)), None) => peer.feed.enqueue(slot),
        (Err(_), _) => cx.stats.dmq_rows_refused += 1,
    }
}

/// Whether what is held is a word of this server that it may have repeated.
fn is_repeated(peer: &Peer, slot: Slot, cx: &Cx<'_>) -> bool {
    let held = cx.replica.cell(slot).map(|cell| cell.order.stamp);
    held.is_some_and(|stamp| peer.comeback.is_repeated(slot, stamp))
}

/// Whether what is held is what this server is known to have.
fn shows(peer: &Peer, slot: Slot, cx: &Cx<'_>) -> bool {
    cx.replica.cell(slot).is_some_and(|cell| peer.book.holds(slot, cell.order.into()))
}

fn agree(peer: &mut Peer, slot: Slot, order: Order, body: &[u8], how: How, cx: &Cx<'_>) {
    let note = Note {
        held: Some(order.into()),
        proof: Proof::Seen,
        ruid: Ruid::AsHeld,
        value: fingerprint(body),
        pull: Some(peer.pull.number),
    };
    peer.showed(slot, note, how, cx.now);
    if how == How::Dump {
        peer.pull.entries_from().into_iter().for_each(|asked| peer.feed.shown(slot, asked));
    }
}

fn correct(peer: &mut Peer, slot: Slot, body: &[u8], cx: &mut Cx<'_>) {
    if planted::on(Bug::NoCorrection) {
        return;
    }
    let pull = Some(peer.pull.number);
    let note = Note { held: None, proof: Proof::Seen, ruid: Ruid::AsHeld, value: fingerprint(body), pull };
    peer.book.note(slot, note, cx.now.mono);
    peer.correct(slot, cx);
}

/// Removes whatever matches, as the server did: an observed removal per entry.
fn remove_matching(peer: &mut Peer, name: &BStr, (by, on, pattern): (Match, On, &BStr), how: How, cx: &mut Cx<'_>) {
    let Some(table) = table_of(name, cx) else { return };
    let on_values = on == On::Values;
    let found = match by {
        Match::Prefix => matching(&table, on_values, &|text| text.starts_with(pattern), cx),
        Match::Regex => match regex::bytes::Regex::new(&String::from_utf8_lossy(pattern)) {
            Ok(regex) => matching(&table, on_values, &|text| regex.is_match(text), cx),
            Err(_) => {
                cx.stats.dmq_rows_refused += 1;
                return;
            }
        },
    };
    for (slot, order) in found {
        // What was written after the removal had arrived is none of what it meant.
        if matches!(how, How::Held(arrival) if order.stamp.time >= Hlc::from_ms(arrival.0 + 1)) {
            continue;
        }
        peer.book.remove(slot);
        peer.touched(slot, cx.now.mono);
        cx.replica.remove_observed(cx.now.wall, slot, order, peer.tag);
        peer.has_removed(slot, cx);
    }
}

/// The live entries of a table whose key (or string value) passes the test.
pub(crate) fn matching(table: &str, on_values: bool, test: &dyn Fn(&[u8]) -> bool, cx: &Cx<'_>) -> Vec<(Slot, Order)> {
    let fits = |cell: &crdt::CellRef<'_>| {
        if on_values {
            matches!(cell.body.map(Value::decode), Some(Ok(Value::Str(text))) if test(&text))
        } else {
            test(cell.key)
        }
    };
    cx.replica
        .scan_tables(|name| name == table)
        .filter(|(_, cell)| cell.is_live(cx.now.wall) && fits(cell))
        .map(|(slot, cell)| (slot, cell.order))
        .collect()
}

/// One entry of a dump that was asked for then.
pub(crate) fn dump_cell(peer: &mut Peer, cell: &Cell<'_>, asked: Mono, facts: &mut Facts, cx: &mut Cx<'_>) {
    let Some(table) = table_of(&cell.table, cx) else { return };
    let name = htable::name(&table).unwrap_or_default().to_owned();
    let key: &[u8] = &cell.key;
    if counters::is_counter(cx.config, &name) {
        return counters::dumped(peer, (&table, key), (&cell.value, cell.last_modified), asked, cx);
    }
    let now_s = cx.now.wall.0 / 1_000;
    let held = held(cx, &table, key);
    let set_at = held
        .as_ref()
        .filter(|h| h.live && h.deadline.is_none() && peer.book.holds(h.slot, h.order.into()))
        .map(|h| h.order.stamp.time.ms() / 1_000);
    facts.learn(peer.id, &name, cell.expire, set_at);
    if cell.expire != 0 && cell.expire <= now_s {
        return;
    }
    let body = cell.value.encode();
    let lately = held.as_ref().is_some_and(|h| peer.is_touched(h.slot, asked));
    let same_value = held.as_ref().is_some_and(|h| h.body.as_deref() == Some(&body));
    if lately && !(set_at.is_some() && same_value) {
        if !same_value {
            peer.pull.found_difference();
        }
        held.into_iter().for_each(|held| peer.pull.leave_out(held.slot));
        return;
    }
    let deadline = (cell.expire != 0).then_some(cell.expire);
    let Some(held) = held else {
        if !peer.joined {
            // Others may know better: it is asked again when they have been heard.
            return peer.pull.pass_over();
        }
        return write(peer, (&table, key), Some(&body), deadline, age(peer, cell, None, facts, cx), How::Dump, cx);
    };
    let same = held.live && held.body.as_deref() == Some(&body);
    if same && held.deadline.is_none() && deadline.is_some() {
        // The expiry of a set that we heard without knowing that its table expires.
        let stamp = StampRule::Above(held.order.stamp);
        return write(peer, (&table, key), Some(&body), deadline, stamp, How::Dump, cx);
    }
    if same {
        return agree(peer, held.slot, held.order, &body, How::Dump, cx);
    }
    differs(peer, cell, (&table, &body, deadline), (&held, asked), facts, cx);
}

/// A dump that was asked for then shows something else than what is held, or what is held to be gone.
fn differs(
    peer: &mut Peer,
    cell: &Cell<'_>,
    (table, body, deadline): (&str, &[u8], Option<u64>),
    (held, asked): (&Held, Mono),
    facts: &Facts,
    cx: &mut Cx<'_>,
) {
    let value = fingerprint(body);
    let entry = peer.book.get(held.slot);
    let told = peer.feed.may_have_taken(held.slot, value) || peer.former.had(held.slot, value, cx.now.mono);
    if peer.book.has_had(held.slot, value) || told {
        // What it was known to have, or had from us, and the mesh has gone on: it lags, whatever it was presumed to have been
        // told.
        let note = Note {
            held: entry.and_then(|e| e.held).filter(|version| *version != held.order.into()),
            proof: Proof::Seen,
            ruid: Ruid::AsHeld,
            value,
            pull: Some(peer.pull.number),
        };
        peer.book.note(held.slot, note, cx.now.mono);
        peer.hold_removal(held.slot, cx.replica);
        peer.feed.enqueue(held.slot);
        peer.comeback.outdone(held.slot, asked);
        return;
    }
    let based = peer.book.base(held.slot) == Some(held.order.stamp);
    if based && !peer.doubts.said(held.slot, value) && peer.comeback.look_at.is_some() && peer.can_be_proven() {
        // One dump after another, and one may be the answer to a question of long ago: the one that follows tells.
        if entry.is_none() {
            peer.pull.leave_out(held.slot);
            return peer.pull.found_difference();
        }
        let held_body = held.body.as_deref().unwrap_or_default();
        return agree(peer, held.slot, held.order, held_body, How::Dump, cx);
    }
    let stamp = age(peer, cell, Some(held), facts, cx);
    let unexplained = matches!(stamp, StampRule::Least) && !held.live && peer.book.get(held.slot).is_none();
    let own = cx.config.dmq.mode == DmqMode::Bridge && !peer.gap;
    if unexplained && own && !peer.pull.looks_again() {
        // All that it says is heard, and nobody else tells it anything, so its word for this is likely still on its way.
        peer.pull.leave_out(held.slot);
        return peer.pull.found_difference();
    }
    write(peer, (table, &cell.key), Some(body), deadline, stamp, How::Dump, cx);
    if cx.replica.cell(held.slot).is_some_and(|cell| cell.order == held.order) {
        peer.comeback.outdone(held.slot, asked);
    }
}

/// The held entry that an action is about; a pattern is about none in particular.
pub(crate) fn slot_of(action: &Action<'_>, cx: &Cx<'_>) -> Option<Slot> {
    let (table, key) = match action {
        Action::Set { table, key, .. } | Action::Expire { table, key, .. } | Action::Delete { table, key } => {
            (table, key)
        }
        _ => return None,
    };
    cx.replica.slot(&htable::table(std::str::from_utf8(table).ok()?), key, b"")
}
