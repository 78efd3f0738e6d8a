//! Taking in that a contact is gone: a server says so, or its dump does not show it any more.
//!
//! It leaves to its parent what a server says of contacts that it has, and to `pull` whether an absence means anything.
//! Invariant: only the version that was removed goes, or an older one (docs/rules.md 13).

use bstr::BStr;
use crdt::planted::{self, Bug};
use crdt::{CellRef, Order, Outcome, Slot, StampRule, Wall, Write};
use kdmq::usrloc::Row;
use tables::location::{self, Contact, Member};

use super::{Held, contact_of, end_of, held};
use crate::config::DmqMode;
use crate::cx::Cx;
use crate::dmq::How;
use crate::dmq::book::Proof;
use crate::dmq::peer::Peer;

/// A removal at the server (never out of a dump). It carries the version that it removes, so a
/// re-REGISTER that this server had not seen survives it (docs/rules.md 13).
pub(crate) fn remove(peer: &mut Peer, row: &Row<'_>, how: How, cx: &mut Cx<'_>) {
    let Some(member) = member_of_removal(row, cx) else {
        cx.stats.dmq_rows_refused += 1;
        return;
    };
    let held = held(cx.replica, cx.now.wall, &row.aor, &member);
    if held.is_none() && planted::on(Bug::UnknownContactNotRemoved) {
        return;
    }
    if let Some(held) = held {
        if how.is_news(cx.now.wall) {
            peer.touched(held.slot, cx.now.mono);
        }
        peer.feed.look_again(held.slot);
        if !held.live {
            peer.book.remove(held.slot);
            return;
        }
        let version = Some(held.order.into());
        let shown = peer.book.get(held.slot).is_some_and(|e| e.proof == Proof::Seen && e.held == version);
        let survives = survives(&held, &row.contact);
        if survives && shown {
            // It has said since that somebody registered again.
            return;
        }
        peer.book.remove(held.slot);
        if survives {
            let slot = held.slot;
            outlast(peer, slot, cx);
            return peer.correct(slot, cx);
        }
        // However late it is known to be, it may be later than that: it is later than what it names.
        let early = matches!(how, How::Held(said) if said.0 < held.order.stamp.time.ms());
        if (early || peer.comeback.look_at.is_some()) && names(&held, &row.contact) {
            return remove_repeated(peer, (held.slot, held.order), row, &member, cx);
        }
    }
    let write = Write {
        table: location::TABLE,
        key: &row.aor,
        member: &member,
        rank: 0,
        stamp: how.stamp(),
        deadline: None,
        body: None,
        via: peer.tag,
        birth: None,
    };
    match cx.replica.write(cx.now.wall, write) {
        Ok(Outcome::Written(slot, _)) => {
            if how.is_news(cx.now.wall) {
                peer.touched(slot, cx.now.mono);
            }
            peer.removed_again(slot, &row.contact, cx);
            drop_aliases(&row.aor, &member, cx);
        }
        Ok(Outcome::Lost(slot)) => peer.feed.enqueue(slot),
        Err(_) => cx.stats.dmq_rows_refused += 1,
    }
}

/// A removal that came too late may yet arrive at the servers that its server tells directly. They must not be taken to have removed
/// the contact themselves, whoever speaks for them by then: what they held was the version before.
fn outlast(peer: &Peer, slot: Slot, cx: &mut Cx<'_>) {
    if cx.config.dmq.mode == DmqMode::Bridge || peer.lists.is_empty() {
        return;
    }
    let Some(cell) = cx.replica.cell(slot) else { return };
    let stamp = StampRule::At(Wall(cell.order.stamp.time.ms().saturating_add(1).min(cx.now.wall.0)));
    let (table, key, member) = (cell.table.to_owned(), cell.key.to_vec(), cell.member.to_vec());
    let (rank, deadline, birth) = (cell.order.rank, cell.deadline, cell.birth);
    let body = cell.body.map(<[u8]>::to_vec);
    let (key, member, body) = (&key[..], &member[..], body.as_deref());
    let write = Write { table: &table, key, member, rank, stamp, deadline, body, via: 0, birth };
    if cx.replica.write(cx.now.wall, write).is_err() {
        cx.stats.dmq_rows_refused += 1;
    }
}

/// A removal of the held version that the server may have been repeating since its silence began. It does not say when that was,
/// and somebody may have registered since then at a server that could not be heard either: so it is one of that version.
fn remove_repeated(peer: &mut Peer, (slot, seen): (Slot, Order), row: &Row<'_>, member: &[u8], cx: &mut Cx<'_>) {
    remove_absent(peer, slot, seen, cx);
    peer.touched(slot, cx.now.mono);
    peer.removed_again(slot, &row.contact, cx);
    drop_aliases(&row.aor, member, cx);
}

/// Whether a removal names the held version.
fn names(held: &Held<'_>, removed: &Contact<'_>) -> bool {
    held.contact.as_ref().is_some_and(|contact| contact.callid == removed.callid && contact.cseq == removed.cseq)
}

/// A dump shows that the server has dropped what it was known to hold: a removal of that version, and so of whatever other
/// servers' dumps show of it, or a node takes in that a server repeats. Those give its time by the clock of a server, in
/// seconds, which may be ahead of ours: it is at the end of that second, but not after now, which the version itself may be of.
pub(crate) fn remove_absent(peer: &Peer, slot: Slot, seen: Order, cx: &mut Cx<'_>) {
    let Some(cell) = cx.replica.cell(slot) else { return };
    let end = contact_of(&cell).map_or(1_000, |(_, contact)| end_of(&contact));
    let ended = end.min(cx.now.wall.0);
    if ended <= seen.stamp.time.ms() || end > cx.now.wall.0.saturating_add(1_000) {
        cx.replica.remove_observed(cx.now.wall, slot, seen, peer.tag);
        return;
    }
    let (table, key, member) = (cell.table.to_owned(), cell.key.to_vec(), cell.member.to_vec());
    let removal = Write {
        table: &table,
        key: &key,
        member: &member,
        rank: 0,
        stamp: StampRule::At(Wall(ended)),
        deadline: None,
        body: None,
        via: peer.tag,
        birth: None,
    };
    if cx.replica.write(cx.now.wall, removal).is_err() {
        cx.stats.dmq_rows_refused += 1;
    }
}

/// Whether the held version is later than the one that the server removed.
fn survives(held: &Held<'_>, removed: &Contact<'_>) -> bool {
    let Some(contact) = &held.contact else { return false };
    if planted::on(Bug::RemovalAlwaysWins) {
        return false;
    }
    if removed.callid.is_empty() && removed.last_modified == 0 {
        return false;
    }
    if contact.callid == removed.callid {
        contact.cseq > removed.cseq
    } else {
        contact.last_modified > removed.last_modified
    }
}

/// Which contact a removal means: by its own attributes, else by its ruid.
fn member_of_removal(row: &Row<'_>, cx: &Cx<'_>) -> Option<Vec<u8>> {
    let contact = &row.contact;
    let by_attributes =
        (!contact.uri.is_empty()).then(|| location::identity(&contact.uri, &contact.instance, contact.reg_id));
    if let Some(member) = &by_attributes
        && cx.replica.slot(location::TABLE, &row.aor, member).is_some()
    {
        return by_attributes;
    }
    by_ruid(&row.aor, &contact.ruid, cx).or(by_attributes)
}

fn by_ruid(aor: &[u8], ruid: &BStr, cx: &Cx<'_>) -> Option<Vec<u8>> {
    if ruid.is_empty() {
        return None;
    }
    let wanted = location::alias_member(ruid);
    cx.replica.members(location::TABLE, aor).find_map(|(_, cell)| match location::parse_member(cell.member) {
        Member::Ruid(_) if cell.member == wanted => cell.body.map(<[u8]>::to_vec),
        Member::Ruid(_) => None,
        Member::Device => {
            let named = cell.body.and_then(|b| Contact::decode(b, cell.member).ok());
            named.is_some_and(|c| c.ruid == ruid).then(|| cell.member.to_vec())
        }
    })
}

/// Removes the aliases of a contact that is gone.
pub(crate) fn drop_aliases(aor: &[u8], member: &[u8], cx: &mut Cx<'_>) {
    let names = |cell: &CellRef<'_>| {
        matches!(location::parse_member(cell.member), Member::Ruid(_)) && cell.body == Some(member)
    };
    let aliases: Vec<(Slot, Order)> = cx
        .replica
        .members(location::TABLE, aor)
        .filter(|(_, cell)| names(cell))
        .map(|(slot, cell)| (slot, cell.order))
        .collect();
    for (slot, order) in aliases {
        cx.replica.remove_observed(cx.now.wall, slot, order, 0);
    }
}
