//! What a finished pull shows that the server lacks.
//!
//! Invariant: see [`super`]; whatever is not known to be held is queued afterwards.

use crdt::planted::{self, Bug};
use crdt::{Order, Slot};
use tables::{htable, location};

use super::{Got, MANY_ABSENT, Outcome, SURE_MESSAGES, Verdict};
use crate::config::SipTransport;
use crate::cx::Cx;
use crate::dmq::book::{Proof, Version, fingerprint};
use crate::dmq::facts::{Expiry, Facts};
use crate::dmq::feed;
use crate::dmq::peer::Peer;
use crate::dmq::usrloc_in;
use crate::io::Level;

/// Draws the consequences of a finished pull: what the server has dropped is removed, what it lacks
/// is queued. Or tells what has to come first.
pub(crate) fn conclude(peer: &mut Peer, facts: &Facts, cx: &mut Cx<'_>) -> Verdict {
    if peer.pull.take_passed_over() && peer.joined {
        return Verdict::AskEntries;
    }
    let mut absent = absent(peer, &peer.pull.got(), facts, cx);
    if planted::on(Bug::AbsenceIgnored) {
        absent.lacking.extend(absent.gone.drain(..).map(|(slot, _)| slot));
    }
    let many = absent.gone.len() > MANY_ABSENT && absent.gone.len() * 5 > peer.book.len();
    if many && peer.pull.suspected == 0 {
        peer.pull.suspected = absent.gone.len();
        let text = format!(
            "{}: {} of {} cells are missing from its dump; asking once more before they are removed",
            peer.uri,
            absent.gone.len(),
            peer.book.len()
        );
        cx.log(Level::Warn, text);
        return Verdict::AskAgain;
    }
    match peer.address.transport {
        SipTransport::Udp if !absent.gone.is_empty() && !peer.pull.has_asked_for_echoes() => {
            return Verdict::Prove(absent.unshown);
        }
        SipTransport::Tcp if !absent.gone.is_empty() => {
            let gone = absent.gone.iter().map(|(slot, _)| *slot).collect();
            peer.streams.wait(Got { gone, ..peer.pull.got() });
        }
        SipTransport::Udp => remove(peer, absent.gone, cx),
        SipTransport::Tcp => {}
    }
    peer.pull.suspected = 0;
    let told = |slot: &Slot| peer.book.get(*slot).is_some_and(|e| e.proof == Proof::Answered);
    let refused = absent.lacking.iter().any(told);
    if refused || peer.pull.contacts != Outcome::Unknown {
        peer.pull.fruitless = if refused { peer.pull.fruitless + 1 } else { 0 };
    }
    if absent.differs {
        peer.pull.found_difference();
    }
    for slot in absent.lacking {
        peer.book.remove(slot);
    }
    for slot in absent.unseen {
        peer.book.waive_proof(slot);
    }
    peer.settle_doubts(cx.replica, cx.now.mono);
    peer.drop_old_touches(cx.now.mono);
    peer.ask_first = false;
    peer.pull.ask_entries_again(cx.now.mono);
    end(peer, cx);
    enqueue_lacking(peer, cx);
    Verdict::Over
}

/// The pull is over: what it shows of what may have been missed, or when it is tried again.
fn end(peer: &mut Peer, cx: &mut Cx<'_>) {
    let begun = peer.pull.got().begun;
    // Before others have been heard, what it shows is not taken in.
    if peer.joined {
        peer.pull.note_shown();
    }
    if peer.pull.is_complete() {
        if peer.comeback.look_at.is_none() {
            peer.forget_repeated();
            peer.comeback.forget_passed_over();
        }
        if !peer.pull.missed_since {
            (peer.gap, peer.own_gap) = (false, false);
        }
        peer.comeback.dumped(begun);
        peer.comeback.again = false;
        peer.figures.last_sync = peer.joined.then_some(cx.now.wall_at(begun).0 / 1_000).or(peer.figures.last_sync);
    } else {
        let wait = 60_000;
        peer.pull.retry_at = Some(cx.now.mono.plus_ms(wait));
        let text = format!("{}: its dump arrived with gaps; trying again in {} s", peer.uri, wait / 1_000);
        cx.log(Level::Warn, text);
    }
}

/// Removes what a pull did not show that is known only now to be whole, and that was not heard of since.
pub(crate) fn conclude_absences(peer: &mut Peer, got: &Got, facts: &Facts, cx: &mut Cx<'_>) {
    let mut gone = absent(peer, got, facts, cx).gone;
    gone.retain(|(slot, _)| got.gone.contains(slot));
    remove(peer, gone, cx);
}

fn remove(peer: &mut Peer, gone: Vec<(Slot, Order)>, cx: &mut Cx<'_>) {
    for (slot, order) in gone {
        peer.book.remove(slot);
        usrloc_in::remove_absent(peer, slot, order, cx);
        peer.has_removed(slot, cx);
        cx.stats.dmq_absences += 1;
    }
}

struct Absent {
    /// Removed at the server while we could not hear it.
    gone: Vec<(Slot, Order)>,
    /// Not there, and no proof that they ever were, or newer elsewhere.
    lacking: Vec<Slot>,
    /// No dump shows them: entries without an expiry in a table whose entries expire (docs/kdmq.md, 9.8).
    unseen: Vec<Slot>,
    /// Whether an entry is missing that was spoken of just before.
    differs: bool,
    /// How long one message with everything that was not shown would be, bytes, roughly.
    unshown: usize,
}

/// What the names of the fields of an entry, and of a contact, take in a dump, bytes.
const ENTRY_FIELDS: usize = 60;
const CONTACT_FIELDS: usize = 220;

fn absent(peer: &Peer, got: &Got, facts: &Facts, cx: &Cx<'_>) -> Absent {
    // A dump that may have exhausted its server proves an absence only if its process was heard right behind its end.
    let sure = peer.book.contacts() / peer.batch <= SURE_MESSAGES || got.tail_seen;
    let mut found = Absent { gone: Vec::new(), lacking: Vec::new(), unseen: Vec::new(), differs: false, unshown: 0 };
    for (slot, entry) in peer.book.iter() {
        if entry.shown_in >= got.number {
            continue;
        }
        let (complete, doubtful, asked, fields) = match cx.replica.table_of(slot) {
            Some(location::TABLE) => (got.contacts, !sure, got.begun, CONTACT_FIELDS),
            _ => (got.entries, false, got.entries_from, ENTRY_FIELDS),
        };
        // What was not asked for is in no message that may be lost.
        let cell = (complete == Outcome::Complete).then(|| cx.replica.cell(slot)).flatten();
        found.unshown += cell.as_ref().map_or(0, |cell| fields + cell.key.len() + cell.body.map_or(0, <[u8]>::len));
        if peer.is_touched(slot, asked) {
            found.differs |= entry.value != 0 && complete == Outcome::Complete;
            continue;
        }
        if complete != Outcome::Complete || !got.heard_since || doubtful {
            continue;
        }
        let Some(cell) = cell else { continue };
        let expires = |name: &str| matches!(facts.of(cx.config, peer.id, name), Expiry::After(_));
        if cell.deadline.is_none() && cell.body.is_some() && htable::name(cell.table).is_some_and(expires) {
            found.unseen.push(slot);
            continue;
        }
        let current = entry.held == Some(Version::from(cell.order)) && cell.is_live(cx.now.wall);
        let mode = cx.config.dmq.mode;
        let likely = match cell.table {
            location::TABLE => peer.is_anothers_removal(slot, mode),
            _ => peer.is_anothers(slot, cell.order.stamp, mode),
        };
        let held_ruid = || usrloc_in::contact_of(&cell).map(|(_, contact)| fingerprint(&contact.ruid));
        let ruid = || entry.ruid.as_deref().map(fingerprint).or_else(held_ruid);
        // What it was taken for when it was looked at first depends on what was known then of how it can be heard.
        let anothers = !got.gone.contains(&slot) && (peer.doubts.removed(slot, ruid) || likely);
        if entry.proof == Proof::Seen && current && !anothers {
            found.gone.push((slot, cell.order));
        } else {
            found.lacking.push(slot);
        }
    }
    found
}

/// Queues every cell that the server is not known to hold; rendering skips what needs no telling.
pub(crate) fn enqueue_lacking(peer: &mut Peer, cx: &Cx<'_>) {
    let lacking: Vec<Slot> = cx
        .replica
        .scan_tables(feed::is_told)
        .filter(|(slot, cell)| {
            let known = peer.book.get(*slot);
            let holds = peer.book.holds(*slot, cell.order.into());
            !holds
                && (known.is_some()
                    || (cell.is_live(cx.now.wall) && !peer.strangers.may_have_removed(cell.order.stamp)))
        })
        .map(|(slot, _)| slot)
        .collect();
    for slot in lacking {
        peer.feed.enqueue(slot);
    }
}
