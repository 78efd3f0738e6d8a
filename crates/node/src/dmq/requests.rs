//! A server's KDMQ request, from its envelope to its effect and its answer.

use std::collections::BTreeSet;

use crdt::planted::{self, Bug};
use crdt::{Cause, Change, Slot};
use kdmq::life::CallIdCounter as Mark;
use kdmq::{Channel, Generation, htable, usrloc};
use tables::location::{self, Member};

use super::book::{Note, Proof, Ruid, fingerprint};
use super::doubts::{ANY_RUID, Said};
use super::facts::{Expiry, Facts};
use super::life::{Dump, Sign};
use super::owner::HeldMessage;
use super::peer::{Address, Peer, PeerId};
use super::spoken::Word;
use super::{DataChannel, Dmq, How, Sender, htable_in, mark, usrloc_in};
use crate::config::SipTransport;
use crate::cx::Cx;
use crate::front::{Front, Path, Request};
use crate::io::{Level, Mono};

/// What a request is answered.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Status.
    pub(crate) code: u16,
    /// Body of the 200 to a node list.
    pub(crate) body: Option<Vec<u8>>,
    /// Whether the answer promises that something was kept.
    pub(crate) promises: bool,
}

impl Reply {
    fn code(code: u16) -> Self {
        Self { code, body: None, promises: false }
    }
}

/// Whose message it is that came, and how.
#[derive(Clone, Copy)]
struct Came {
    id: PeerId,
    /// Which of the server's messages it is.
    mark: Option<Mark>,
    /// How what tells itself when it was said is taken.
    live: How,
    /// How what does not is taken.
    unstamped: How,
}

/// Tables learned from outside are asked about at most this often, milliseconds.
const LEARN_EVERY_MS: u64 = 30_000;

impl Dmq {
    /// Executes a request and says how to answer it.
    pub(crate) fn on_request(&mut self, request: &Request<'_>, front: &mut Front, cx: &mut Cx<'_>) -> Reply {
        self.quiet = None;
        let message = &request.message;
        let Some(channel) = message.uri().and_then(|uri| sip::Uri::parse(uri).ok()) else {
            return refuse(400, cx);
        };
        let channel = Channel::from_user(channel.user.unwrap_or_default());
        let Some(address) = identity(request) else { return refuse(400, cx) };
        let data = channel != Channel::Notification;
        let empty = message.body.is_empty() || !matches!(message.content_length(), Ok(Some(1..)));
        if data && empty {
            return refuse(400, cx);
        }
        let agent = message.user_agent();
        let nodes = std::mem::take(&mut self.nodes);
        let sender = self.sender(address, agent.as_deref(), request.path.socket(), &nodes, cx);
        let reply = match sender {
            Sender::Refused => refuse(403, cx),
            Sender::Starling if data => Reply::code(200),
            Sender::Starling => Reply { code: 200, body: Some(message.body.to_vec()), promises: false },
            Sender::Server(id) => self.of_server(id, channel, request, &nodes, front, cx),
        };
        self.nodes = nodes;
        reply
    }

    fn of_server(
        &mut self,
        id: PeerId,
        channel: Channel<'_>,
        request: &Request<'_>,
        nodes: &[std::net::SocketAddr],
        front: &mut Front,
        cx: &mut Cx<'_>,
    ) -> Reply {
        let message = &request.message;
        let mark = mark(request.envelope.call_id);
        let Some(peer) = self.peers.get_mut(&id) else { return Reply::code(500) };
        peer.figures.requests_in += 1;
        match peer.life.observe(mark) {
            Sign::Late => return Reply::code(200),
            Sign::New => self.restarted(id, front, cx),
            Sign::First | Sign::None | Sign::Same => {}
        }
        let Some(peer) = self.peers.get_mut(&id) else { return Reply::code(500) };
        let (live, unstamped) = match request.path {
            Path::Tcp { conn, .. } => {
                if peer.streams.heard(conn, cx.now) {
                    peer.missed_something();
                }
                // When it was said is not known; it is better taken for too old than for news.
                let live = peer.streams.held_up(conn).map_or(How::Live, How::Held);
                (live, live)
            }
            Path::Udp { .. } => {
                let late = peer.life.late_ms(mark, cx.now.mono);
                if late.is_some() {
                    peer.pull.way.repeated(cx.now.mono);
                }
                let said = |late_ms: u64| How::Held(crdt::Wall(cx.now.wall.0.saturating_sub(late_ms)));
                (How::Live, late.map_or(How::Live, said))
            }
        };
        let came = Came { id, mark, live, unstamped };
        peer.heard = Some(cx.now.mono);
        peer.longest = peer.longest.max(message.size());
        peer.pull.heard();
        self.is_there(id, cx);
        match channel {
            Channel::Notification => {
                let body = self.notified(id, message.body, nodes, front, cx);
                Reply { code: 200, body: Some(body), promises: false }
            }
            Channel::Usrloc => self.usrloc(came, message.body, cx),
            Channel::Htable => self.htable(came, message.body, cx),
            Channel::Dialog | Channel::Presence | Channel::Custom(_) => {
                cx.stats.dmq_other_channels += 1;
                Reply::code(404)
            }
        }
    }

    fn restarted(&mut self, id: PeerId, front: &mut Front, cx: &mut Cx<'_>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.figures.restarts += 1;
        peer.forget_state(cx.replica);
        peer.comeback.restarted(cx.now.mono);
        self.holding.restarted(id);
        peer.pull.lost_entries();
        peer.ping_open = false;
        peer.ping_now(cx.now.mono);
        self.notes_changed = true;
        self.facts.forget(id);
        front.drop_requests(|ask| ask.peer() == id);
        let text = format!("server {} has restarted: it will be given everything again", peer.uri);
        cx.log(Level::Info, text);
    }

    fn usrloc(&mut self, came: Came, body: &[u8], cx: &mut Cx<'_>) -> Reply {
        let Came { id, mark, live, unstamped } = came;
        let batch = match usrloc::decode(body) {
            Ok(batch) => batch,
            Err(error) => return malformed(error.status(), cx),
        };
        cx.stats.dmq_rows_refused += u64::from(batch.skipped);
        let said = match &batch.actions[..] {
            [usrloc::Action::Remove(row)] => Said::Gone(fingerprint(&row.contact.ruid)),
            actions if actions.iter().any(|a| matches!(a, usrloc::Action::Remove(_))) => Said::Gone(ANY_RUID),
            _ => Said::Other,
        };
        let gone = self.of_removal(unstamped, cx);
        let Some(peer) = self.peers.get_mut(&id) else { return Reply::code(500) };
        if (!peer.owned || peer.strangers.are_yielded_to() || !self.attending)
            && !planted::on(Bug::OwnershipOfOutputOnly)
        {
            // One may be of a dump that was asked for when this node spoke for the server.
            let said_at = batch.actions.iter().map(|action| usrloc_in::said_at(peer, action, cx)).min();
            self.hold((id, live), DataChannel::Usrloc, body, said_at.unwrap_or(cx.now.wall), cx);
            batch.actions.iter().filter_map(Word::of_contact).for_each(|word| self.spoken.heard(word, cx.now.mono));
            let about = batch.actions.iter().filter_map(|a| usrloc_in::slot_of(a, cx)).collect();
            self.crossed(id, about, said, Peer::contested_elsewhere, cx);
            // It may be applied before this input is over: the first message of a server makes it ours.
            return Reply { code: 200, body: None, promises: true };
        }
        peer.batch = peer.batch.max(batch.actions.len());
        // Only dumps have several actions in one message.
        let snapshot = batch.actions.len() > 1 && peer.life.is_dump(mark, Dump::Sure);
        let updates = batch.actions.iter().any(|a| matches!(a, usrloc::Action::Update(_)));
        let dump = updates && (snapshot || peer.life.is_dump(mark, peer.pull.dump(cx.now.mono)));
        if dump {
            peer.pull.arrived(mark, cx.now.mono);
        }
        let dump = dump || batch.actions.iter().any(|action| usrloc_in::is_old(peer, action, cx));
        // What counts as dumped may be live, of a process that has not spoken before; what is known already is not.
        let fresh = |action: &usrloc::Action<'_>| !dump || usrloc_in::is_fresh_news(action, cx);
        let crosses: Vec<bool> = batch.actions.iter().map(fresh).collect();
        for action in &batch.actions {
            match action {
                usrloc::Action::None => {}
                usrloc::Action::Update(row) => {
                    let stamp = Some(row.contact.last_modified.saturating_mul(1_000));
                    let how = if dump { How::Dump } else { live.said_at(stamp, cx.now.wall) };
                    usrloc_in::update(peer, row, how, cx);
                }
                usrloc::Action::Remove(row) => {
                    peer.life.is_live(mark);
                    usrloc_in::remove(peer, row, gone, cx);
                }
                usrloc::Action::Sync => asked_for_all(peer, DataChannel::Usrloc, cx),
            }
        }
        let crossing = batch.actions.iter().zip(crosses).filter_map(|(action, crosses)| crosses.then_some(action));
        let about: Vec<Slot> = crossing.filter_map(|action| usrloc_in::slot_of(action, cx)).collect();
        if !about.is_empty() {
            self.crossed(id, about, said, Peer::contested, cx);
        }
        Reply { code: 200, body: None, promises: true }
    }

    fn htable(&mut self, came: Came, body: &[u8], cx: &mut Cx<'_>) -> Reply {
        let Came { id, mark, live, unstamped } = came;
        let action = match htable::decode(body) {
            Ok(action) => action,
            Err(error) => return malformed(error.status(), cx),
        };
        let said = match &action {
            htable::Action::Delete { .. } => Said::Gone(ANY_RUID),
            htable::Action::Set { value, .. } => Said::Value(fingerprint(&value.encode())),
            _ => Said::Other,
        };
        let unstamped = if matches!(said, Said::Gone(_)) { self.of_removal(unstamped, cx) } else { unstamped };
        let Some(peer) = self.peers.get_mut(&id) else { return Reply::code(500) };
        if (!peer.owned || peer.strangers.are_yielded_to() || !self.attending)
            && !planted::on(Bug::OwnershipOfOutputOnly)
        {
            self.hold((id, live), DataChannel::Htable, body, cx.now.wall, cx);
            Word::of_entry(&action).into_iter().for_each(|word| self.spoken.heard(word, cx.now.mono));
            let about: Vec<Slot> = htable_in::slot_of(&action, cx).into_iter().collect();
            if let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.owned) {
                about.iter().for_each(|slot| peer.comeback.pass_over(*slot));
            }
            self.crossed(id, about, said, Peer::contested_elsewhere, cx);
            return Reply { code: 200, body: None, promises: true };
        }
        match &action {
            htable::Action::Cells(cells) => {
                peer.life.is_dump(mark, Dump::Sure);
                peer.pull.arrived(mark, cx.now.mono);
                cx.stats.dmq_rows_refused += u64::from(cells.skipped);
                let asked = peer.pull.entries_came(peer.streams.in_order(), cx.now.mono);
                for cell in &cells.cells {
                    htable_in::dump_cell(peer, cell, asked, &mut self.facts, cx);
                }
            }
            htable::Action::Sync { .. } => asked_for_all(peer, DataChannel::Htable, cx),
            action => {
                peer.life.is_live(mark);
                let stamp = match action {
                    htable::Action::Set { last_modified, .. } if peer.generation == Generation::V6 => *last_modified,
                    _ => None,
                };
                let how = stamp.map_or(unstamped, |_| live.said_at(stamp, cx.now.wall));
                htable_in::take(peer, action, &self.facts, how, cx);
                repeats(peer, (htable_in::slot_of(action, cx), said), cx);
                learn_of(peer, action, &self.facts, cx);
                let about = htable_in::slot_of(action, cx).into_iter().collect();
                self.crossed(id, about, said, Peer::contested, cx);
            }
        }
        Reply { code: 200, body: None, promises: true }
    }

    /// How a removal is taken that this process reads after it was stopped: it may be older than what was registered or set
    /// elsewhere since. One that is lost is made up for by an expiry, or said again; what it wrongly removes is gone.
    fn of_removal(&self, live: How, cx: &Cx<'_>) -> How {
        let stopped = self.stopped.filter(|(_, until)| cx.now.mono < *until);
        stopped.filter(|_| live == How::Live).map_or(live, |(since, _)| How::Held(since))
    }

    /// A server has just spoken about these cells, also to the servers that it tells its changes itself.
    fn crossed(
        &mut self,
        id: PeerId,
        about: Vec<Slot>,
        said: Said,
        contested: fn(&mut Peer, Slot, Mono),
        cx: &mut Cx<'_>,
    ) {
        let now = cx.now.mono;
        for slot in &about {
            self.doubt_elsewhere(id, *slot, said, None, cx);
        }
        let Some(lists) = self.lend_lists(id) else { return };
        for peer in self.peers.values_mut().filter(|p| p.id != id && p.owned && lists.contains(&p.uri)) {
            for slot in &about {
                if peer.book.fresh(*slot, now) == Some(Proof::Seen) {
                    contested(peer, *slot, now);
                }
            }
        }
        self.return_lists(id, lists);
    }

    /// Takes out whom a server tells its updates itself, if it tells anybody; to be given back.
    pub(super) fn lend_lists(&mut self, id: PeerId) -> Option<BTreeSet<String>> {
        let peer = self.peers.get_mut(&id).filter(|peer| !peer.lists.is_empty())?;
        Some(std::mem::take(&mut peer.lists))
    }

    /// Gives back what [`Dmq::lend_lists`] gave.
    pub(super) fn return_lists(&mut self, id: PeerId, lists: BTreeSet<String>) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.lists = lists;
        }
    }
}

/// A server spoke about an entry, and may be repeating itself.
fn repeats(peer: &mut Peer, (slot, said): (Option<Slot>, Said), cx: &Cx<'_>) {
    let Some((slot, cell)) = slot.and_then(|slot| Some((slot, cx.replica.cell(slot)?))) else { return };
    let lost = match said {
        Said::Value(value) => cell.body.map(fingerprint) != Some(value),
        Said::Gone(_) => cell.body.is_some(),
        _ => false,
    };
    peer.repeats(slot, (!lost).then_some(cell.order.stamp), cx.now.mono);
}

fn refuse(code: u16, cx: &mut Cx<'_>) -> Reply {
    cx.stats.dmq_requests_refused += 1;
    Reply::code(code)
}

fn malformed(code: u16, cx: &mut Cx<'_>) -> Reply {
    cx.stats.dmq_malformed += 1;
    Reply::code(code)
}

/// The sender's identity: host, port and transport of its From.
fn identity(request: &Request<'_>) -> Option<Address> {
    let uri = request.envelope.from.uri().ok()?;
    // A server that calls itself by a name is reached where it sends from.
    let ip = uri.host.ip().unwrap_or(request.source.ip());
    let tcp = uri.params.value("transport").is_some_and(|t| t.eq_ignore_ascii_case(b"tcp"));
    let transport = if tcp { SipTransport::Tcp } else { SipTransport::Udp };
    Some(Address { addr: std::net::SocketAddr::new(ip, uri.port.unwrap_or(5060)), transport })
}

/// A table that we know nothing of: its dump tells whether its entries expire by themselves.
fn learn_of(peer: &mut Peer, action: &htable::Action<'_>, facts: &Facts, cx: &Cx<'_>) {
    let htable::Action::Set { table, .. } = action else { return };
    let Ok(name) = std::str::from_utf8(table) else { return };
    if facts.of(cx.config, peer.id, name) != Expiry::Unknown || peer.lacks_tables.contains(name) {
        return;
    }
    if peer.learned_at.is_none_or(|at| cx.now.mono.ms_since(at) > LEARN_EVERY_MS) {
        peer.learned_at = Some(cx.now.mono);
        peer.pull.want_entries();
    }
}

/// The server wants everything: it has just started, or somebody told it to ask.
fn asked_for_all(peer: &mut Peer, channel: DataChannel, cx: &Cx<'_>) {
    let slots: Vec<Slot> = cx
        .replica
        .scan_tables(|table| (table == location::TABLE) == (channel == DataChannel::Usrloc))
        .filter(|(slot, cell)| cell.is_live(cx.now.wall) || peer.book.get(*slot).is_some())
        .map(|(slot, _)| slot)
        .collect();
    for slot in slots {
        if let Some(value) = peer.book.get(slot).map(|e| e.value) {
            let note = Note { held: None, proof: Proof::Answered, ruid: Ruid::Kept, value, pull: None };
            peer.book.note(slot, note, cx.now.mono);
        }
        peer.feed.enqueue(slot);
    }
}

/// Applies what was held while another node spoke for this server; what that node had passed on is
/// recognised as the same event and changes nothing.
pub(crate) fn replay(peer: &mut Peer, held: Vec<HeldMessage>, facts: &mut Facts, cx: &mut Cx<'_>) {
    let (past, present): (Vec<_>, Vec<_>) = held.into_iter().partition(|message| message.past);
    if !past.is_empty() {
        past.iter().for_each(|message| take_held(peer, message, facts, cx));
        // It counts all the same, but the server has lost it.
        peer.forget_state(cx.replica);
    }
    present.iter().for_each(|message| take_held(peer, message, facts, cx));
}

fn take_held(peer: &mut Peer, message: &HeldMessage, facts: &Facts, cx: &mut Cx<'_>) {
    let how = How::Held(message.arrival);
    match message.channel {
        DataChannel::Usrloc => {
            let Ok(batch) = usrloc::decode(&message.body) else { return };
            if batch.actions.len() > 1 {
                return;
            }
            for action in &batch.actions {
                match action {
                    // A dump's, as the larger ones above.
                    usrloc::Action::Update(_) if usrloc_in::is_old(peer, action, cx) => {}
                    usrloc::Action::Update(row) => usrloc_in::update(peer, row, how, cx),
                    usrloc::Action::Remove(row) => usrloc_in::remove(peer, row, how, cx),
                    usrloc::Action::Sync => asked_for_all(peer, message.channel, cx),
                    usrloc::Action::None => {}
                }
            }
        }
        DataChannel::Htable => match htable::decode(&message.body) {
            Ok(htable::Action::Sync { .. }) => asked_for_all(peer, message.channel, cx),
            Ok(action) => htable_in::take(peer, &action, facts, how, cx),
            Err(_) => {}
        },
    }
}

/// Before a body goes, the ruid under which this server has the contact is fixed in its book.
pub(crate) fn keep_ruid(peer: &mut Peer, change: &Change, cx: &Cx<'_>) {
    let Some(held) = peer.book.get(change.slot).map(|entry| entry.held) else { return };
    let current = cx.replica.cell(change.slot);
    if held.is_some() && held == current.as_ref().map(|cell| cell.order.into()) {
        // Noted with or after the change.
        return;
    }
    let Some(old) = change.old.as_deref().and_then(|b| crdt::CellRef::decode(b).ok()) else { return };
    if old.table != location::TABLE || location::parse_member(old.member) != Member::Device {
        return;
    }
    let Some((_, before)) = usrloc_in::contact_of(&old) else { return };
    let now = current.and_then(|c| usrloc_in::contact_of(&c).map(|(_, c)| c));
    match now {
        Some(now) if now.ruid == before.ruid => {}
        Some(now) => {
            peer.book.pin_ruid(change.slot, &before.ruid);
            peer.book.unpin_ruid(change.slot, &now.ruid);
        }
        None => peer.book.pin_ruid(change.slot, &before.ruid),
    }
}

/// Another server tells this one its changes directly. Returns whether that will do, so that we need
/// not tell it too. `several`: that this is what is left of several words, the last one of which named this ruid.
pub(crate) fn presume(peer: &mut Peer, change: &Change, several: Option<&[u8]>, cx: &Cx<'_>) -> bool {
    if !matches!(change.cause, Cause::Local | Cause::Pushed) {
        return false;
    }
    let Some(cell) = cx.replica.cell(change.slot) else { return false };
    if peer.feed.is_pending(change.slot) {
        return false;
    }
    let fresh = matches!(peer.book.fresh(change.slot, cx.now.mono), Some(Proof::Seen | Proof::Told));
    if fresh || several.is_some() {
        // Its own message may cross this one, or its workers may apply two of the other server's in the wrong order.
        peer.contested(change.slot, cx.now.mono);
    }
    if let (Some(ruid), None, None) = (several, cell.body, peer.book.get(change.slot)) {
        // What the removal followed may arrive after it.
        let ruid = if ruid.is_empty() { Ruid::AsHeld } else { Ruid::Own(ruid) };
        let note = Note { held: None, proof: Proof::Answered, ruid, value: 0, pull: None };
        peer.book.note(change.slot, note, cx.now.mono);
    }
    // It may not have applied it when a dump is asked for in this moment.
    peer.touched(change.slot, cx.now.mono);
    if !peer.can_be_proven() || !peer.may_be_fed() {
        return false;
    }
    if cell.is_live(cx.now.wall) {
        let value = cell.body.map_or(0, fingerprint);
        let held = Some(cell.order.into());
        peer.book.note(
            change.slot,
            Note { held, proof: Proof::Told, ruid: Ruid::Kept, value, pull: None },
            cx.now.mono,
        );
        return true;
    }
    if cell.table == location::TABLE {
        let own = peer.book.get(change.slot).is_some_and(|e| e.ruid.is_some());
        let aliased = cx
            .replica
            .members(location::TABLE, cell.key)
            .any(|(_, alias)| matches!(location::parse_member(alias.member), Member::Ruid(_)) && alias.body.is_some());
        // Under another ruid the other server's removal misses here (docs/kdmq.md 6.5).
        if own || aliased {
            return false;
        }
    }
    if let Some(value) = peer.book.get(change.slot).map(|e| e.value) {
        let held = Some(cell.order.into());
        let note = Note { held, proof: Proof::Told, ruid: Ruid::Kept, value, pull: None };
        peer.book.note(change.slot, note, cx.now.mono);
    }
    true
}
