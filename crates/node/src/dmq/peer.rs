//! One Kamailio server as this node sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crdt::planted::{self, Bug};
use crdt::{Dot, Forget, NodeId, Replica, Slot, SlotMap};
use kdmq::Generation;
use tables::htable;

use super::How;
use super::book::{Book, Entry, Note, Proof};
use super::comeback::Comeback;
use super::contests::Contests;
use super::counters::Counters;
use super::doubts::Doubts;
use super::feed::Feed;
use super::former::Former;
use super::lateness::{Lateness, Latest};
use super::life::Life;
use super::owner::Standing;
use super::pull::{LATE_MS, LATE_TCP_MS, Pull};
use super::strangers::Strangers;
use super::streams::Streams;
use crate::config::SipTransport;
use crate::cx::Cx;
use crate::io::{Mono, Now, SocketId};

/// A server's number in this node, given in the order in which they were met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PeerId(pub(crate) u32);

/// What the node list and the From of a DMQ node say: its identity, and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    /// IP and port.
    pub(crate) addr: SocketAddr,
    /// UDP or TCP.
    pub(crate) transport: SipTransport,
}

impl Address {
    /// `sip:host:port[;transport=tcp]`, the spelling that Kamailio uses.
    pub(crate) fn uri(&self) -> String {
        match self.transport {
            SipTransport::Udp => format!("sip:{}", self.addr),
            SipTransport::Tcp => format!("sip:{};transport=tcp", self.addr),
        }
    }
}

/// How long before a question something live may be newer than the answer, milliseconds.
pub(super) const LIVELY_MS: u64 = 3_000;

/// So many cells are remembered for that before old ones are looked for, at least.
const LIVELY_MAX: usize = 10_000;

/// The `via` tag of a server by its address.
pub(crate) fn tag(uri: &str) -> u32 {
    ((super::book::fingerprint(uri.as_bytes()) >> 32) as u32).max(1)
}

/// Where a server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Never heard of, or only configured.
    New,
    /// It answers.
    Active,
    /// It has left a ping or two data requests unanswered; nothing but pings is sent.
    Silent,
    /// It said goodbye (status `disabled`); only its own word brings it back.
    Left,
}

impl Phase {
    /// The word for it in `GET /v1/peers`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Active => "active",
            Self::Silent => "silent",
            Self::Left => "left",
        }
    }
}

/// One server.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) address: Address,
    pub(crate) uri: String,
    /// The `via` tag of what came from it; the same at every node, never 0.
    pub(crate) tag: u32,
    /// The local socket that it knows us by.
    pub(crate) socket: SocketId,
    pub(crate) configured: bool,
    pub(crate) phase: Phase,
    pub(crate) generation: Generation,
    pub(crate) life: Life,
    /// When anything came from it.
    pub(crate) heard: Option<Mono>,
    /// When its last ping was due, and whether one is open.
    pub(crate) ping_at: Mono,
    pub(crate) ping_open: bool,
    /// When the last one was sent.
    pub(crate) pinged_at: Mono,
    pub(crate) pings_missed: u32,
    /// Whether it ever answered one.
    pub(crate) answered: bool,
    /// How long the answer to the last one was, bytes.
    pub(crate) ping_answer: usize,
    /// Its longest request so far, bytes.
    pub(crate) longest: usize,
    /// Whether its last list names us as active: only then does it send us updates.
    pub(crate) lists_us: bool,
    /// The other nodes that it lists as active, and so tells its updates directly.
    pub(crate) lists: BTreeSet<String>,
    /// Whether updates of it, or of others that it takes in, may have been lost since the last complete pull.
    pub(crate) gap: bool,
    /// Whether updates of its own may have.
    pub(crate) own_gap: bool,
    /// Whether it has to be asked for what it took in meanwhile before it is told anything.
    pub(crate) ask_first: bool,
    /// What is not certain since it and we could not speak.
    pub(crate) comeback: Comeback,
    /// How late its messages about entries are, and those about contacts.
    pub(crate) lateness: Lateness,
    pub(crate) contact_lateness: Lateness,
    /// In which order it has said what it has said of entries just now.
    pub(crate) latest: Latest,
    /// Contacts of which it holds a version that lost, though its `last_modified` is later than the winner's: a 6 takes that only
    /// without one (docs/kdmq.md 6.1).
    pub(crate) ahead: BTreeSet<Slot>,
    /// Whether this node speaks and listens for it.
    pub(crate) owned: bool,
    /// Since when no other node speaks for it; `None`: one does.
    pub(crate) unspoken: Option<Mono>,
    /// Whether it was shown by a whole dump, since anything may have been lost, what it lacked then, and told that.
    pub(crate) settled: bool,
    /// How this node stands to it, as the other nodes are told.
    pub(crate) standing: Standing,
    /// Nodes that may speak for it as well and are not linked with this one.
    pub(crate) strangers: Strangers,
    /// What another node may have told it.
    pub(crate) former: Former,
    /// The other nodes that hear it, as far as they are linked with this one.
    pub(crate) shared: Vec<NodeId>,
    pub(crate) book: Book,
    pub(crate) pull: Pull,
    pub(crate) streams: Streams,
    pub(crate) feed: Feed,
    /// Cells about which something was said live, by it or to it, since shortly before the pull: a server replicates a
    /// write before it applies it, so a dump may be older than what came just before it was asked for.
    pub(crate) live_lately: SlotMap<Mono>,
    /// At how many of them old ones are looked for.
    live_limit: usize,
    /// Removals in tables that forget by stability, which this server has not acknowledged: none of
    /// them may be forgotten before (R7).
    pub(crate) unacknowledged: BTreeMap<Slot, Dot>,
    /// What it may hold that nobody has told us.
    pub(crate) doubts: Doubts,
    /// The life that is on disk.
    pub(crate) saved_life: Option<SavedLife>,
    /// Cells about which it and another server spoke at the same time.
    pub(crate) contests: Contests,
    /// Tables that it does not have (it answered 500).
    pub(crate) lacks_tables: BTreeSet<String>,
    /// `$shtex` that overtook its set: seconds and arrival by table and key.
    pub(crate) early_expires: BTreeMap<(String, Vec<u8>), (i64, Mono)>,
    /// The most contacts that it was seen to put into one message.
    pub(crate) batch: usize,
    /// What it has of the counters.
    pub(crate) counters: Counters,
    /// Whether this node has got what the other nodes have, since its start.
    pub(crate) joined: bool,
    /// When it was last asked for its tables because one was unknown.
    pub(crate) learned_at: Option<Mono>,
    pub(crate) figures: Figures,
}

/// Large enough to tell whether large datagrams arrive, bytes: see [`Peer::echo_padding`].
const ENOUGH: usize = 4_096;

/// What goes to disk of a server's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SavedLife {
    /// A counter of its Call-IDs.
    counter: u64,
    /// [`Peer::longest`], up to what counts.
    longest: u16,
}

impl SavedLife {
    pub(crate) fn encode(self) -> Vec<u8> {
        [&self.counter.to_be_bytes()[..], &self.longest.to_be_bytes()].concat()
    }

    /// `None` if the bytes make no sense.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (counter, longest) = bytes.split_first_chunk::<8>()?;
        Some(Self { counter: u64::from_be_bytes(*counter), longest: u16::from_be_bytes(longest.try_into().ok()?) })
    }
}

/// What `GET /v1/peers` counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) requests_in: u64,
    pub(crate) requests_out: u64,
    pub(crate) pings_out: u64,
    pub(crate) corrections: u64,
    pub(crate) restarts: u64,
    pub(crate) last_sync: Option<u64>,
}

impl Peer {
    pub(crate) fn new(id: PeerId, address: Address, socket: SocketId, durable: bool, now: Mono) -> Self {
        let uri = address.uri();
        Self {
            id,
            tag: tag(&uri),
            uri,
            address,
            socket,
            configured: false,
            phase: Phase::New,
            generation: Generation::V5,
            life: Life::default(),
            heard: None,
            ping_at: now,
            ping_open: false,
            pinged_at: now,
            pings_missed: 0,
            answered: false,
            ping_answer: 0,
            longest: 0,
            lists_us: false,
            lists: BTreeSet::new(),
            gap: true,
            own_gap: true,
            ask_first: true,
            comeback: Comeback::default(),
            lateness: Lateness::default(),
            contact_lateness: Lateness::in_time(),
            latest: Latest::default(),
            ahead: BTreeSet::new(),
            owned: false,
            unspoken: Some(Mono(0)),
            settled: false,
            standing: Standing::Hears,
            strangers: Strangers::default(),
            former: Former::default(),
            shared: Vec::new(),
            book: Book::new(durable),
            pull: Pull::default(),
            streams: Streams::default(),
            feed: Feed::default(),
            live_lately: SlotMap::default(),
            live_limit: LIVELY_MAX,
            unacknowledged: BTreeMap::new(),
            doubts: Doubts::default(),
            saved_life: None,
            contests: Contests::default(),
            lacks_tables: BTreeSet::new(),
            early_expires: BTreeMap::new(),
            batch: 1,
            counters: Counters::default(),
            joined: false,
            learned_at: None,
            figures: Figures::default(),
        }
    }

    /// Whether what this server sends changes the state, and what changes is sent to it.
    pub(crate) fn is_served(&self) -> bool {
        self.owned && self.phase == Phase::Active && !self.strangers.are_yielded_to()
    }

    /// Everything that was known of its state is void: it restarted.
    pub(crate) fn forget_state(&mut self, replica: &mut Replica) {
        self.book.clear();
        self.strangers.restarted();
        self.former.restarted();
        self.contact_lateness = Lateness::in_time();
        self.hand_over(replica);
    }

    /// Another node speaks for it, or did so far: nobody here knows what it holds.
    pub(crate) fn hand_over(&mut self, replica: &mut Replica) {
        for dot in std::mem::take(&mut self.unacknowledged).into_values() {
            replica.release(dot);
        }
        self.book.keep_bases();
        self.pull.forget();
        self.streams.forget_pulls();
        self.feed.clear();
        self.live_lately.clear();
        self.comeback.clear();
        self.comeback.forget_passed_over();
        self.lacks_tables.clear();
        self.contests = Contests::default();
        self.early_expires.clear();
        self.counters.reset();
        self.lateness = Lateness::default();
        self.latest = Latest::default();
        self.ahead.clear();
        self.learned_at = None;
        self.missed();
    }

    /// Updates of it may have been lost: it has to be pulled before it is told anything, and that does not wait for a dump that
    /// arrived in part before.
    pub(crate) fn missed(&mut self) {
        self.own_gap = true;
        self.pull.forget_retry();
        self.relied_in_vain();
    }

    /// So may have been what another server was to tell it.
    pub(crate) fn relied_in_vain(&mut self) {
        self.gap = true;
        self.ask_first = true;
        self.settled = false;
        self.pull.missed();
    }

    /// Something on its way to us was lost. A dump that is open is not to be waited for: it is asked for again.
    pub(crate) fn missed_something(&mut self) {
        self.pull.stop();
        self.pull.lost_entries();
        self.missed();
    }

    /// How much longer than an ordinary ping's answer its longest request is, or one of `size` bytes, bytes. Whatever way loses
    /// large datagrams loses those of 4 kB, which are fragments.
    pub(crate) fn echo_padding(&self, size: usize) -> usize {
        self.longest.max(size).min(ENOUGH).saturating_sub(self.ping_answer)
    }

    /// What the disk should have of its life; `None`: nothing.
    pub(crate) fn life_to_save(&self) -> Option<SavedLife> {
        let longest = self.longest.min(ENOUGH) as u16;
        self.life.base().map(|counter| SavedLife { counter, longest })
    }

    /// Takes up what the disk had of its life.
    pub(crate) fn resume_life(&mut self, saved: SavedLife) {
        self.life = Life::resume(saved.counter);
        self.longest = usize::from(saved.longest);
        self.saved_life = Some(saved);
    }

    /// What a dump of it takes at least, messages.
    pub(crate) fn dump_messages(&self) -> u64 {
        (self.book.contacts() / self.batch) as u64
    }

    /// Whether requests with news may be sent now.
    pub(crate) fn may_be_fed(&self) -> bool {
        let asked = !self.ask_first && self.streams.held_up_until().is_none();
        self.is_served() && (asked || planted::on(Bug::FedBeforeAsked))
    }

    /// The cell has changed, or the server was found to have something else, and is to be told: a removal is held until it knows.
    pub(crate) fn hold_removal(&mut self, slot: Slot, replica: &mut Replica) {
        self.acknowledged(slot, replica);
        let Some(cell) = replica.cell(slot).filter(|cell| cell.body.is_none()) else { return };
        let (stable, dot) = (replica.rules().of(cell.table).forget == Forget::Stable, cell.order.dot);
        if stable && (self.book.get(slot).is_some() || self.feed.may_reach(slot)) {
            replica.hold(dot);
            self.unacknowledged.insert(slot, dot);
        }
    }

    /// The server knows of the removal, or it is none any more.
    pub(crate) fn acknowledged(&mut self, slot: Slot, replica: &mut Replica) {
        if let Some(dot) = self.unacknowledged.remove(&slot) {
            replica.release(dot);
        }
    }

    /// It has shown that it holds a version.
    pub(crate) fn showed(&mut self, slot: Slot, note: Note<'_>, how: How, now: Now) {
        let Now { mono: now, wall } = now;
        let live = how != How::Dump;
        let crossed = live
            && match self.book.fresh(slot, now) {
                Some(Proof::Told) => true,
                // It may be repeating what it said before that.
                Some(Proof::Answered | Proof::Base) => self.feed.is_lossy(now) || self.comeback.look_at.is_some(),
                Some(Proof::Seen) | None => false,
            };
        self.book.note(slot, note, now);
        if how.is_news(wall) {
            self.touched(slot, now);
        }
        if crossed {
            self.contested(slot, now);
        }
        // What it ends up with depends on which of the two messages it applied last.
        self.feed.look_again(slot);
    }

    /// It has removed a cell itself. If its removal is what is held of an entry, it is the base of what it sets there next.
    pub(crate) fn has_removed(&mut self, slot: Slot, cx: &Cx<'_>) {
        let Some(cell) = cx.replica.cell(slot).filter(|cell| cell.body.is_none()) else { return };
        if htable::name(cell.table).is_some() {
            self.book.removed(slot, cell.order.stamp, false, cx.now.mono);
        }
    }

    /// It holds something that lost, or dropped something that won: the winner goes back to it.
    pub(crate) fn correct(&mut self, slot: Slot, cx: &mut Cx<'_>) {
        self.hold_removal(slot, cx.replica);
        self.figures.corrections += 1;
        cx.stats.dmq_corrections += 1;
        self.feed.enqueue(slot);
    }

    /// The cell is held no more; gives what this server had of it.
    pub(crate) fn forget_cell(&mut self, slot: Slot, replica: &mut Replica) -> Option<Entry> {
        self.acknowledged(slot, replica);
        self.doubts.forget(slot, replica);
        self.feed.forget(slot);
        self.contests.remove(slot);
        self.live_lately.remove(slot);
        self.comeback.forget(slot);
        self.latest.forget(slot);
        self.former.forget(slot);
        self.ahead.remove(&slot);
        self.book.remove(slot)
    }

    /// Something newer than what a dump may show is known of this cell.
    pub(crate) fn touched(&mut self, slot: Slot, now: Mono) {
        self.live_lately.insert(slot, now);
        if self.live_lately.len() > self.live_limit && !self.pull.is_open() {
            self.drop_old_touches(now);
        }
    }

    /// How late a part of a dump may come, milliseconds.
    pub(crate) fn late_ms(&self) -> u64 {
        if self.address.transport == SipTransport::Tcp { LATE_TCP_MS } else { LATE_MS }
    }

    /// Whether a dump that was asked for then may be older than what was said of this cell.
    pub(crate) fn is_touched(&self, slot: Slot, asked: Mono) -> bool {
        self.live_lately.get(slot).is_some_and(|at| at.plus_ms(LIVELY_MS) >= asked)
    }

    /// Forgets what was said too long ago to race with a dump of which anything may still come.
    pub(crate) fn drop_old_touches(&mut self, now: Mono) {
        let late_ms = self.late_ms();
        self.live_lately.retain(|_, at| now.ms_since(*at) <= LIVELY_MS + late_ms);
        self.live_limit = LIVELY_MAX.max(2 * self.live_lately.len());
    }
}
