//! What a server is to be told: a queue of cells, not of messages.
//!
//! A cell waits at most once and is rendered when its turn comes, so a newer version replaces a
//! waiting one by itself and the queue is bounded by the number of cells. At most one request per
//! cell is open, because a server's workers apply requests in any order (docs/kdmq.md 6.8).

mod outcome;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crdt::Slot;
use tables::htable::{self, Value};
use tables::location::{self, Contact, Member};

use super::book::{Note, Proof, Ruid, Version, fingerprint};
use super::facts::{Expiry, Facts};
use super::peer::Peer;
use super::{counters, usrloc_in};
use crate::cx::Cx;
use crate::io::Mono;

pub(crate) use self::outcome::{answered, timed_out};

/// Requests without any answer after which feeding stops (docs/kdmq.md 11.2).
pub(crate) const UNANSWERED_MAX: u32 = 2;

/// Largest body of a request that carries several contacts, bytes: stays below the MTU with its headers.
const MULTI_BODY_MAX: usize = 1_000;

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    waiting: VecDeque<Slot>,
    queued: BTreeSet<Slot>,
    open: BTreeMap<Slot, Open>,
    requests: usize,
    unanswered: u32,
    /// When the last request was answered, and when one last that had been lost at first.
    answered_at: Option<Mono>,
    answered_late_at: Option<Mono>,
    /// Cells that are not told because of the feed limit.
    limited: BTreeSet<Slot>,
    /// Values of entries that it was told and did not answer, or of which another copy may be under way: one that stood still
    /// reads them when it goes on.
    under_way: BTreeMap<Slot, UnderWay>,
    /// Where those on disk are others.
    unsaved: BTreeSet<Slot>,
    /// Answers to requests of an earlier epoch mean nothing any more.
    epoch: u32,
}

#[derive(Debug, Default)]
struct UnderWay {
    values: BTreeSet<u64>,
    /// When it was told the last of them.
    told: Mono,
}

#[derive(Debug, Default)]
struct Open {
    again: bool,
}

impl Peer {
    /// It is told a value of an entry: from now on it may have that, also if this process ends before the answer comes.
    fn tells(&mut self, slot: Slot, value: u64, now: Mono) {
        self.feed.may_take(slot, value, now);
        self.comeback.tells(slot, value);
        if self.book.get(slot).is_none() {
            let note = Note { held: None, proof: Proof::Answered, ruid: Ruid::AsHeld, value, pull: None };
            self.book.note(slot, note, now);
        }
    }
}

/// A request to be sent.
#[derive(Debug)]
pub(crate) struct Request {
    /// `usrloc` or `htable`.
    pub(crate) channel: &'static str,
    /// JSON.
    pub(crate) body: Vec<u8>,
    /// What its 200 will mean.
    pub(crate) fed: Fed,
}

/// What a request tells, to be noted when it is answered.
#[derive(Clone, Debug)]
pub(crate) struct Fed {
    epoch: u32,
    sent: Mono,
    items: Vec<Item>,
    /// The counter whose sum it tells.
    counter: Option<(String, Vec<u8>)>,
}

#[derive(Clone, Debug)]
struct Item {
    slot: Slot,
    version: Version,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    /// A contact under this ruid.
    Contact { ruid: Vec<u8> },
    /// A value; `then_expire`: its deadline still has to be told, or that it has none.
    Set { value: u64, then_expire: Option<Option<u64>> },
    /// The deadline of a value told before.
    Expire { value: u64 },
    /// A contact or an entry is gone.
    Gone,
}

impl Feed {
    /// The cell has to be looked at.
    pub(crate) fn enqueue(&mut self, slot: Slot) {
        if let Some(open) = self.open.get_mut(&slot) {
            open.again = true;
        } else if self.queued.insert(slot) {
            self.waiting.push_back(slot);
        }
    }

    /// Whether the cell waits, or a request about it is open.
    pub(crate) fn is_pending(&self, slot: Slot) -> bool {
        self.open.contains_key(&slot) || self.queued.contains(&slot)
    }

    /// If a request about the cell is open, it has to be sent again after that one, whatever it achieves.
    pub(crate) fn look_again(&mut self, slot: Slot) {
        if let Some(open) = self.open.get_mut(&slot) {
            open.again = true;
        }
    }

    /// Waiting cells.
    pub(crate) fn queued(&self) -> usize {
        self.queued.len()
    }

    /// Open requests.
    pub(crate) fn requests(&self) -> usize {
        self.requests
    }

    /// Cells that the server is not known to hold in their present version.
    pub(crate) fn lag(&self) -> usize {
        self.queued.len() + self.open.len() + self.limited.len()
    }

    /// Whether something was just lost on the way: then what it says may be older than what it was told.
    pub(crate) fn is_lossy(&self, now: Mono) -> bool {
        // RFC 3261's T2, and a margin.
        const WHILE_MS: u64 = 4_500;
        self.answered_late_at.is_some_and(|at| now.ms_since(at) <= WHILE_MS)
    }

    /// Whether nothing is waiting or open.
    pub(crate) fn is_idle(&self) -> bool {
        self.queued.is_empty() && self.requests == 0
    }

    /// Whether there is nothing to tell.
    pub(crate) fn is_told(&self) -> bool {
        self.queued.is_empty() && self.limited.is_empty()
    }

    /// When the last request was answered.
    pub(crate) fn answered_at(&self) -> Option<Mono> {
        self.answered_at
    }

    /// Drops everything; answers that are still under way mean nothing.
    pub(crate) fn clear(&mut self) {
        *self = Self { epoch: self.epoch.wrapping_add(1), ..Self::default() };
    }

    /// Puts what is open back into the queue: the server is not answering.
    pub(crate) fn suspend(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        self.requests = 0;
        self.unanswered = 0;
        for slot in std::mem::take(&mut self.open).into_keys() {
            self.enqueue(slot);
        }
    }

    /// It may get this value of an entry at any time from now on.
    fn may_take(&mut self, slot: Slot, value: u64, now: Mono) {
        const REMEMBERED: usize = 16;
        let UnderWay { values, told } = self.under_way.entry(slot).or_default();
        *told = now;
        if values.insert(value) {
            self.unsaved.insert(slot);
        }
        if values.len() > REMEMBERED {
            values.pop_first();
        }
    }

    /// Whether it may have, or get, a value of this entry from us, though it never answered.
    pub(crate) fn may_reach(&self, slot: Slot) -> bool {
        self.under_way.contains_key(&slot)
    }

    /// Whether it was told this value of an entry, and may have got it since it was told anything later about the entry.
    pub(crate) fn may_have_taken(&self, slot: Slot, value: u64) -> bool {
        self.under_way.get(&slot).is_some_and(|under_way| under_way.values.contains(&value))
    }

    /// What it may get of an entry, for the disk.
    pub(crate) fn under_way(&self, slot: Slot) -> Vec<u64> {
        self.under_way.get(&slot).into_iter().flat_map(|under_way| &under_way.values).copied().collect()
    }

    /// Where that has changed since the last call.
    pub(crate) fn take_unsaved(&mut self) -> BTreeSet<Slot> {
        std::mem::take(&mut self.unsaved)
    }

    /// Takes up what an earlier process of ours had told.
    pub(crate) fn restore(&mut self, slot: Slot, under_way: Vec<u64>, now: Mono) {
        if !under_way.is_empty() {
            self.under_way.insert(slot, UnderWay { values: under_way.into_iter().collect(), told: now });
        }
    }

    /// A dump that was asked for then has shown something else of the entry, or the version that counts.
    pub(crate) fn shown(&mut self, slot: Slot, asked: Mono) {
        if self.under_way.get(&slot).is_some_and(|under_way| under_way.told < asked) {
            self.proven(slot);
        }
    }

    /// Nothing of what it was told of an entry is under way any more.
    fn proven(&mut self, slot: Slot) {
        if self.under_way.remove(&slot).is_some() {
            self.unsaved.insert(slot);
        }
    }

    /// The cell's slot is gone.
    pub(crate) fn forget(&mut self, slot: Slot) {
        self.queued.remove(&slot);
        self.limited.remove(&slot);
        self.open.remove(&slot);
        self.under_way.remove(&slot);
        self.unsaved.remove(&slot);
    }

    fn put_back(&mut self, slot: Slot) {
        self.queued.insert(slot);
        self.waiting.push_front(slot);
    }

    fn pop(&mut self) -> Option<Slot> {
        loop {
            let slot = self.waiting.pop_front()?;
            if self.queued.remove(&slot) {
                return Some(slot);
            }
        }
    }

    fn start(&mut self, items: &[Item]) {
        self.requests += 1;
        self.open.extend(items.iter().map(|item| (item.slot, Open::default())));
    }
}

/// Whether servers are told of a table's cells. Dialogs live at nodes only.
pub(crate) fn is_told(table: &str) -> bool {
    table == location::TABLE || htable::name(table).is_some()
}

/// The next request for a server, if its window has room and there is something to tell.
pub(crate) fn next(peer: &mut Peer, facts: &Facts, cx: &mut Cx<'_>) -> Option<Request> {
    let limits = &cx.config.dmq;
    if !peer.may_be_fed() || peer.feed.requests >= limits.window {
        return None;
    }
    let room = if peer.feed.limited.is_empty() {
        0
    } else {
        limits.feed_limit.saturating_sub(peer.book.len() + under_way(peer))
    };
    if !peer.feed.limited.is_empty() && peer.feed.queued.is_empty() {
        for slot in peer.feed.limited.iter().copied().take(room).collect::<Vec<_>>() {
            peer.feed.limited.remove(&slot);
            peer.feed.enqueue(slot);
        }
    }
    let long = peer.feed.queued() > limits.window;
    let most = if long { limits.multi.max(1) } else { 1 };
    let mut contacts: Vec<(Box<Message>, Item)> = Vec::new();
    let mut bytes = 0;
    while contacts.len() < most
        && let Some(slot) = peer.feed.pop()
    {
        match render(peer, slot, contacts.len(), facts, cx) {
            None => {}
            Some(Rendered::Contact(message, item)) => {
                bytes += message.body.len();
                if !contacts.is_empty() && bytes > MULTI_BODY_MAX {
                    peer.feed.put_back(slot);
                    break;
                }
                contacts.push((message, item));
            }
            Some(Rendered::Entry(body, item)) if contacts.is_empty() => {
                return Some(request(peer, "htable", body, vec![item], cx.now.mono));
            }
            Some(Rendered::Entry(..)) => {
                peer.feed.put_back(slot);
                break;
            }
        }
    }
    let body = match &mut contacts[..] {
        [] => return None,
        [(only, _)] => std::mem::take(&mut only.body),
        several => together(several.iter().map(|(message, _)| message), peer.generation)?,
    };
    let items = contacts.into_iter().map(|(_, item)| item).collect();
    Some(request(peer, "usrloc", body, items, cx.now.mono))
}

/// A contact's message, and what it was made from, in case several go together.
struct Message {
    body: Vec<u8>,
    aor: Vec<u8>,
    ruid: Vec<u8>,
    /// `None`: remove it.
    contact: Option<Contact<'static>>,
}

fn together<'m>(messages: impl Iterator<Item = &'m Box<Message>>, generation: kdmq::Generation) -> Option<Vec<u8>> {
    let mut multi = kdmq::usrloc::Multi::new(generation);
    for message in messages {
        match &message.contact {
            Some(contact) => multi.push_update(&message.aor, contact, &message.ruid).ok()?,
            None => multi.push_remove(&message.aor, &message.ruid).ok()?,
        }
    }
    multi.finish().ok()
}

fn request(peer: &mut Peer, channel: &'static str, body: Vec<u8>, items: Vec<Item>, now: Mono) -> Request {
    peer.feed.start(&items);
    for item in &items {
        // What is told while a dump is open is newer than the dump.
        peer.touched(item.slot, now);
        if let What::Set { value, .. } = item.what {
            peer.tells(item.slot, value, now);
        }
    }
    Request { channel, body, fed: Fed { epoch: peer.feed.epoch, sent: now, items, counter: None } }
}

/// The request that tells the sum of a counter, which is no single cell.
pub(crate) fn counter_request(peer: &mut Peer, key: (String, Vec<u8>), body: Vec<u8>, now: Mono) -> Request {
    peer.feed.requests += 1;
    let fed = Fed { epoch: peer.feed.epoch, sent: now, items: Vec::new(), counter: Some(key) };
    Request { channel: "htable", body, fed }
}

enum Rendered {
    Contact(Box<Message>, Item),
    Entry(Vec<u8>, Item),
}

fn render(peer: &mut Peer, slot: Slot, beside: usize, facts: &Facts, cx: &mut Cx<'_>) -> Option<Rendered> {
    let cell = cx.replica.cell(slot)?;
    let version = Version::from(cell.order);
    let live = cell.is_live(cx.now.wall);
    let entry = peer.book.get(slot);
    if peer.book.holds(slot, version) || (!live && entry.is_none() && !peer.feed.may_reach(slot)) {
        return None;
    }
    if cell.table == location::TABLE {
        if location::parse_member(cell.member) != Member::Device {
            return None;
        }
        return contact(peer, slot, version, (live, beside), cx);
    }
    let name = htable::name(cell.table)?.to_owned();
    if peer.lacks_tables.contains(&name) || counters::is_counter(cx.config, &name) {
        return None;
    }
    let expiry = match facts.of(cx.config, peer.id, &name) {
        Expiry::Unknown => facts.common(cx.config, &name),
        known => known,
    };
    entry_of(slot, version, live, &name, expiry, cx)
}

fn contact(
    peer: &mut Peer,
    slot: Slot,
    version: Version,
    (live, beside): (bool, usize),
    cx: &mut Cx<'_>,
) -> Option<Rendered> {
    let cell = cx.replica.cell(slot)?;
    let entry = peer.book.get(slot);
    if !live {
        let ruid = entry?
            .ruid
            .clone()
            .map(Vec::from)
            .or_else(|| usrloc_in::contact_of(&cell).map(|(_, c)| c.ruid.to_vec()))?;
        let body = kdmq::usrloc::encode_remove(cell.key, &ruid).ok()?;
        let message = Message { body, aor: cell.key.to_vec(), ruid, contact: None };
        return Some(Rendered::Contact(Box::new(message), Item { slot, version, what: What::Gone }));
    }
    let limit = cx.config.dmq.feed_limit;
    if limit > 0 && entry.is_none() && peer.book.len() + under_way(peer) + beside >= limit {
        cx.stats.dmq_feed_limited += 1;
        peer.feed.limited.insert(slot);
        return None;
    }
    let (aor, mut contact) = usrloc_in::contact_of(&cell)?;
    let ruid = entry.and_then(|e| e.ruid.clone()).map_or_else(|| contact.ruid.to_vec(), Vec::from);
    if names_address(&contact.sock, peer) {
        contact.sock = Default::default();
        contact.sockname = Default::default();
    }
    if peer.ahead.contains(&slot) {
        contact.last_modified = 0;
    }
    match kdmq::usrloc::encode_update(aor, &contact, &ruid, peer.generation) {
        Ok(body) => {
            let item = Item { slot, version, what: What::Contact { ruid: ruid.clone() } };
            let contact = Some(contact.into_owned());
            let message = Box::new(Message { body, aor: aor.to_vec(), ruid, contact });
            Some(Rendered::Contact(message, item))
        }
        Err(_) => {
            cx.stats.dmq_unsendable += 1;
            None
        }
    }
}

/// Cells that open requests add to what the server holds.
fn under_way(peer: &Peer) -> usize {
    peer.feed.open.keys().filter(|slot| peer.book.get(**slot).is_none()).count()
}

/// A server must not be told a socket of its own: 5.6 would keep a pointer into the message (docs/kdmq.md 6.7).
fn names_address(sock: &[u8], peer: &Peer) -> bool {
    let ip = peer.address.addr.ip().to_string();
    bstr::ByteSlice::find(sock, ip.as_bytes()).is_some()
}

fn entry_of(slot: Slot, version: Version, live: bool, name: &str, expiry: Expiry, cx: &mut Cx<'_>) -> Option<Rendered> {
    let cell = cx.replica.cell(slot)?;
    let key = cell.key;
    if !live {
        let body = kdmq::htable::encode_delete(name.as_bytes(), key).ok()?;
        return Some(Rendered::Entry(body, Item { slot, version, what: What::Gone }));
    }
    let body = cell.body?;
    let value = fingerprint(body);
    let tells_expiry = match expiry {
        Expiry::Never => None,
        Expiry::After(_) => Some(cell.deadline),
        Expiry::Unknown => cell.deadline.map(Some),
    };
    let decoded = Value::decode(body).ok()?;
    match kdmq::htable::encode_set(name.as_bytes(), key, &decoded, None) {
        Ok(body) => {
            let what = What::Set { value, then_expire: tells_expiry };
            Some(Rendered::Entry(body, Item { slot, version, what }))
        }
        Err(_) => {
            cx.stats.dmq_unsendable += 1;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_that_was_asked_for_before_a_value_was_told_does_not_show_that_it_never_arrived() {
        let (mut feed, slot) = (Feed::default(), crate::dmq::book::tests::slot());
        feed.may_take(slot, 7, Mono(5_000));
        feed.shown(slot, Mono(4_999));
        assert!(feed.may_have_taken(slot, 7));
        feed.may_take(slot, 8, Mono(6_000));
        feed.shown(slot, Mono(5_001));
        assert!(feed.may_have_taken(slot, 7) && feed.may_reach(slot), "the later one may have come behind it");
        feed.shown(slot, Mono(6_001));
        assert!(!feed.may_have_taken(slot, 7) && !feed.may_reach(slot));
    }
}
