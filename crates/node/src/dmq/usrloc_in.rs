//! Taking in what a server says on the `usrloc` channel.
//!
//! Every statement ends in one of three ways: a write (the server knows something new), agreement
//! (the server holds what we hold) or a correction (the server holds something that the merge has
//! decided against; the winner goes back to it). What a statement is worth is decided by SIP's own
//! order where there is one, by the hybrid clock otherwise (docs/rules.md 10 to 15).

mod removal;

use bstr::{BStr, ByteSlice};
use crdt::planted::{self, Bug};
use crdt::{CellRef, Order, Outcome, Replica, Slot, Stamp, StampRule, Wall, Write};
use kdmq::usrloc::Row;
use tables::location::{self, Contact, Event};

pub(crate) use self::removal::{drop_aliases, remove, remove_absent};
use super::How;
use super::book::{Note, Proof, Ruid, fingerprint};
use super::life::Dump;
use super::peer::Peer;
use super::pull::LATE_MS;
use crate::cx::Cx;

/// What the store holds for a contact.
struct Held<'a> {
    slot: Slot,
    order: Order,
    live: bool,
    contact: Option<Contact<'a>>,
}

fn held<'a>(replica: &'a Replica, now: Wall, aor: &[u8], member: &'a [u8]) -> Option<Held<'a>> {
    let slot = replica.slot(location::TABLE, aor, member)?;
    let cell = replica.cell(slot)?;
    let contact = cell.body.and_then(|b| Contact::decode(b, member).ok());
    Some(Held { slot, order: cell.order, live: cell.is_live(now), contact })
}

/// An insert or refresh at the server, live or out of its dump.
pub(crate) fn update(peer: &mut Peer, row: &Row<'_>, how: How, cx: &mut Cx<'_>) {
    let contact = &row.contact;
    if contact.uri.is_empty() || contact.ruid.is_empty() || row.aor.is_empty() {
        cx.stats.dmq_rows_refused += 1;
        return;
    }
    let member = location::identity(&contact.uri, &contact.instance, contact.reg_id);
    let late = if how == How::Live { lateness(peer, row, cx) } else { 0 };
    if late < LOST_MS {
        return merge(peer, row, &member, how, cx);
    }
    let said = peer.contact_lateness.said_at(contact.last_modified.saturating_mul(1_000), cx.now.wall);
    merge(peer, row, &member, How::Held(said), cx);
    // What it says late it did before it took in what we told it since: with that it ended.
    if let Some(slot) = cx.replica.slot(location::TABLE, &row.aor, &member) {
        peer.contested(slot, cx.now.mono);
    }
}

/// Whether a contact was written just now, by the server's clock and ours, and so perhaps told to others in this moment: they may
/// take it in after what they have. What is held is what they have, or will.
pub(crate) fn is_fresh_news(action: &kdmq::usrloc::Action<'_>, cx: &Cx<'_>) -> bool {
    const JUST_S: u64 = 3;
    let kdmq::usrloc::Action::Update(row) = action else { return false };
    let contact = &row.contact;
    let just = contact.last_modified.abs_diff(cx.now.wall.0 / 1_000) <= JUST_S;
    let same = || {
        let member = location::identity(&contact.uri, &contact.instance, contact.reg_id);
        let held = held(cx.replica, cx.now.wall, &row.aor, &member).and_then(|held| held.contact);
        held.is_some_and(|held| location::compare_events(&held, contact) == Event::Same)
    };
    just && !same()
}

/// How late a live message about a contact is that was lost at first, milliseconds. Contacts are stamped in seconds.
const LOST_MS: u64 = 3_000;

/// Whether an update tells of so long ago that it belongs to a dump, whichever process sent it: nobody repeats for so long, or
/// a dump is under way, and then it is better to take it at the time that it tells.
pub(crate) fn is_old(peer: &mut Peer, action: &kdmq::usrloc::Action<'_>, cx: &Cx<'_>) -> bool {
    let kdmq::usrloc::Action::Update(row) = action else { return false };
    let least = if peer.pull.dump(cx.now.mono) == Dump::No { LATE_MS } else { LOST_MS };
    lateness(peer, row, cx) >= least
}

/// When what has just come was said at the latest: the same for one that is kept for the owner.
pub(crate) fn said_at(peer: &mut Peer, action: &kdmq::usrloc::Action<'_>, cx: &Cx<'_>) -> Wall {
    match action {
        kdmq::usrloc::Action::Update(row) if lateness(peer, row, cx) >= LOST_MS => {
            peer.contact_lateness.said_at(row.contact.last_modified.saturating_mul(1_000), cx.now.wall)
        }
        _ => cx.now.wall,
    }
}

/// How long ago a message tells what it tells, milliseconds; 0 if it does not say. A contact that is known may be another
/// server's, and its time by that one's clock.
fn lateness(peer: &mut Peer, row: &Row<'_>, cx: &Cx<'_>) -> u64 {
    let contact = &row.contact;
    let stamp = contact.last_modified.saturating_mul(1_000);
    let member = location::identity(&contact.uri, &contact.instance, contact.reg_id);
    let held = held(cx.replica, cx.now.wall, &row.aor, &member).and_then(|held| held.contact);
    match stamp {
        0 => 0,
        _ if held.is_some_and(|held| location::compare_events(&held, contact) == Event::Same) => {
            peer.contact_lateness.by_now(stamp, cx.now.wall.0)
        }
        _ => peer.contact_lateness.of(stamp, cx.now.wall.0, cx.now.mono),
    }
}

fn merge(peer: &mut Peer, row: &Row<'_>, member: &[u8], how: How, cx: &mut Cx<'_>) {
    let contact = &row.contact;
    let mut above = None;
    if let Some(held) = held(cx.replica, cx.now.wall, &row.aor, member) {
        if is_repeated(peer, &held, contact, how) {
            return;
        }
        if let (false, Some(removed)) = (held.live, peer.repeated_removal(held.slot, held.order.stamp)) {
            // The removal, or this, may be a repetition of an older word.
            match (how, removed.is_before(contact)) {
                (How::Live | How::Held(_), false) => return,
                (How::Dump, true) => above = Some(held.order.stamp),
                _ => {}
            }
        }
        if how == How::Dump && peer.is_touched(held.slot, peer.pull.proves().0) {
            if !is_later(peer, &held, contact, cx.now.wall) {
                return;
            }
            // What it was told meanwhile it may have taken in after that.
            peer.contested(held.slot, cx.now.mono);
        }
        if how == How::Dump && is_late_word(peer, &held, contact, cx) {
            let slot = held.slot;
            return correct(peer, slot, contact, cx);
        }
        match judge(peer, &held, contact, how) {
            Verdict::Agrees => {
                let as_held = held.contact.as_ref().is_some_and(|known| known.ruid == contact.ruid);
                let (slot, order) = (held.slot, held.order);
                return agree(peer, slot, order, (&contact.ruid, as_held), how, cx);
            }
            Verdict::Reordered => return,
            Verdict::Stale => {
                let slot = held.slot;
                return correct(peer, slot, contact, cx);
            }
            Verdict::Newer => above = Some(held.order.stamp),
            Verdict::News => {}
        }
    }
    match write(peer, row, member, above, how, cx) {
        Some(Outcome::Written(slot, _)) => {
            let Some(order) = cx.replica.cell(slot).map(|c| c.order) else { return };
            agree(peer, slot, order, (&contact.ruid, true), how, cx);
        }
        Some(Outcome::Lost(slot)) => correct(peer, slot, contact, cx),
        None => {}
    }
}

/// When a contact was last modified at the latest, unix milliseconds: it says so in seconds.
fn end_of(contact: &Contact<'_>) -> u64 {
    contact.last_modified.saturating_mul(1_000).saturating_add(1_000)
}

/// Whether a server that has just come back says what it had said before a removal: news are told at once.
fn is_repeated(peer: &Peer, held: &Held<'_>, new: &Contact<'_>, how: How) -> bool {
    const RECENT_MS: u64 = 1_000;
    let removed = held.order.stamp.time.ms();
    let earlier = end_of(new).saturating_add(RECENT_MS) < removed && peer.comeback.look_at.is_some();
    // What was kept for the owner has a time by our clock, which may be ahead of that by which the removal of just this was dated.
    let kept = matches!(how, How::Held(_)) && removed == end_of(new);
    !held.live && how != How::Dump && (earlier || kept)
}

/// Whether what a dump shows was certainly written after the held version, which something live was said about: by SIP's
/// order, by the server's own seconds, or by its clock where what is held is a removal. It is then no older snapshot, and perhaps no
/// dump's at all.
fn is_later(peer: &Peer, held: &Held<'_>, new: &Contact<'_>, now: Wall) -> bool {
    let Some(contact) = &held.contact else {
        let said = new.last_modified.saturating_mul(1_000);
        return said.min(peer.contact_lateness.in_time_at(said, now).0) > held.order.stamp.time.ms();
    };
    match location::compare_events(contact, new) {
        Event::Newer => true,
        Event::Unordered => new.last_modified > contact.last_modified,
        Event::Same | Event::Stale => false,
    }
}

/// Whether a dump shows what another server told this one too late: it has removed the contact since. Its own word would have come.
fn is_late_word(peer: &Peer, held: &Held<'_>, new: &Contact<'_>, cx: &Cx<'_>) -> bool {
    let since = new.last_modified.saturating_add(cx.config.max_skew_ms / 1_000);
    !held.live
        && peer.tells_its_own(held.slot, cx.config.dmq.mode)
        && peer.doubts.removed_after(held.slot, fingerprint(&new.ruid), since)
}

enum Verdict {
    /// The same event as the held version.
    Agrees,
    /// Older than what this very server has said before: its workers overtook each other.
    Reordered,
    /// The mesh knows better.
    Stale,
    /// To be written: SIP itself says that it is newer than the held version.
    Newer,
    /// To be written.
    News,
}

fn judge(peer: &Peer, held: &Held<'_>, new: &Contact<'_>, how: How) -> Verdict {
    let Some(contact) = &held.contact else { return Verdict::News };
    let event = compare(contact, new);
    let stale = || match peer.book.holds(held.slot, held.order.into()) {
        true if how != How::Dump => Verdict::Reordered,
        _ => Verdict::Stale,
    };
    match event {
        Event::Same => Verdict::Agrees,
        Event::Stale => stale(),
        Event::Newer => Verdict::Newer,
        // 6.x orders by `last_modified` itself, so an older one is stale there as well (docs/rules.md 13).
        Event::Unordered
            if peer.generation == kdmq::Generation::V6 && held.live && contact.last_modified > new.last_modified =>
        {
            stale()
        }
        Event::Unordered => Verdict::News,
    }
}

fn compare(held: &Contact<'_>, new: &Contact<'_>) -> Event {
    match location::compare_events(held, new) {
        Event::Newer | Event::Stale if planted::on(Bug::CseqIgnored) => Event::Unordered,
        event => event,
    }
}

/// Writes what a server said; `above` is the stamp of the held version if SIP says that this one is newer.
fn write(
    peer: &Peer,
    row: &Row<'_>,
    member: &[u8],
    above: Option<Stamp>,
    how: How,
    cx: &mut Cx<'_>,
) -> Option<Outcome> {
    let contact = &row.contact;
    let happened = Wall(contact.last_modified.saturating_mul(1_000));
    let longest = u64::from(cx.config.location_max_ttl_s) * 1_000;
    // A permanent contact, or one that does not say when it was written, would be dead from the start by its own time.
    let too_old = || {
        happened.0.saturating_add(longest) <= cx.now.wall.0
            && cx.replica.slot(location::TABLE, &row.aor, member).is_none()
    };
    let at = |wall: Wall| match above {
        // SIP itself says that it is newer, so no coarse or lagging clock may say otherwise (R4).
        Some(stamp) if stamp.time >= crdt::Hlc::from_ms(wall.0) => StampRule::Above(stamp),
        _ => StampRule::At(wall),
    };
    let stamp = match how {
        How::Live => StampRule::Now,
        How::Dump if planted::on(Bug::PulledIsNow) => StampRule::Now,
        How::Dump if too_old() => StampRule::Least,
        How::Dump => at(happened),
        How::Held(arrival) => at(arrival),
    };
    let body = contact.encode(member);
    let result = cx.replica.write(
        cx.now.wall,
        Write {
            table: location::TABLE,
            key: &row.aor,
            member,
            rank: 0,
            stamp,
            deadline: Some(location::deadline(contact.expires, cx.now.wall.0 / 1_000, cx.config.location_max_ttl_s)),
            body: Some(&body),
            via: peer.tag,
            birth: None,
        },
    );
    match result {
        Ok(outcome) => Some(outcome),
        Err(_) => {
            cx.stats.dmq_rows_refused += 1;
            None
        }
    }
}

/// The server showed that it holds this version, under this ruid, which is that of the held body or not.
fn agree(peer: &mut Peer, slot: Slot, order: Order, (ruid, as_held): (&BStr, bool), how: How, cx: &mut Cx<'_>) {
    let note = Note {
        held: Some(order.into()),
        proof: Proof::Seen,
        ruid: if as_held { Ruid::AsHeld } else { Ruid::Own(ruid) },
        value: 0,
        pull: Some(peer.pull.number),
    };
    peer.showed(slot, note, how, cx.now);
    peer.ahead.remove(&slot);
    if !as_held {
        alias(peer, slot, cx);
    }
}

/// The server holds something that lost; the winner goes back to it under its own ruid.
fn correct(peer: &mut Peer, slot: Slot, shown: &Contact<'_>, cx: &mut Cx<'_>) {
    if planted::on(Bug::NoCorrection) {
        return;
    }
    let winner = cx.replica.cell(slot).and_then(|cell| contact_of(&cell).map(|(_, contact)| contact.last_modified));
    let later = winner.is_some_and(|last_modified| last_modified < shown.last_modified);
    if later && peer.generation == kdmq::Generation::V6 {
        peer.ahead.insert(slot);
    }
    let ruid = &shown.ruid;
    let pull = Some(peer.pull.number);
    peer.book.note(slot, Note { held: None, proof: Proof::Seen, ruid: Ruid::Own(ruid), value: 0, pull }, cx.now.mono);
    peer.correct(slot, cx);
}

/// Keeps a ruid of this server that the held body does not name as a cell of its own, so that any
/// node can remove the contact there later (docs/rules.md 15).
pub(crate) fn alias(peer: &Peer, slot: Slot, cx: &mut Cx<'_>) {
    if planted::on(Bug::NoAliases) {
        return;
    }
    let Some(ruid) = peer.book.get(slot).and_then(|e| e.ruid.clone()) else { return };
    let Some(cell) = cx.replica.cell(slot) else { return };
    let Some(deadline) = cell.deadline.filter(|_| cell.is_live(cx.now.wall)) else { return };
    let (key, member) = (cell.key.to_vec(), cell.member.to_vec());
    let name = location::alias_member(&ruid);
    let known = cx
        .replica
        .slot(location::TABLE, &key, &name)
        .and_then(|s| cx.replica.cell(s))
        .is_some_and(|c| c.body == Some(&member[..]) && c.deadline >= Some(deadline));
    if known {
        return;
    }
    let write = Write {
        table: location::TABLE,
        key: &key,
        member: &name,
        rank: 0,
        stamp: StampRule::Now,
        deadline: Some(deadline),
        body: Some(&member),
        via: 0,
        birth: None,
    };
    if cx.replica.write(cx.now.wall, write).is_err() {
        cx.stats.dmq_rows_refused += 1;
    }
}

/// The contact that a slot holds, with its AoR.
pub(crate) fn contact_of<'a>(cell: &CellRef<'a>) -> Option<(&'a BStr, Contact<'a>)> {
    let contact = Contact::decode(cell.body?, cell.member).ok()?;
    Some((cell.key.as_bstr(), contact))
}

/// The held contact that an action is about.
pub(crate) fn slot_of(action: &kdmq::usrloc::Action<'_>, cx: &Cx<'_>) -> Option<Slot> {
    let row = match action {
        kdmq::usrloc::Action::Update(row) | kdmq::usrloc::Action::Remove(row) => row,
        kdmq::usrloc::Action::None | kdmq::usrloc::Action::Sync => return None,
    };
    let contact = &row.contact;
    let member = location::identity(&contact.uri, &contact.instance, contact.reg_id);
    cx.replica.slot(location::TABLE, &row.aor, &member)
}
