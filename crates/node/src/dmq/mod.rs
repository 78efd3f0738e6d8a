//! The KDMQ side of a node: every Kamailio server that it is a DMQ peer of.
//!
//! | module | what it knows |
//! |---|---|
//! | `peer` | one server: address, phase, figures |
//! | `life` | its restarts and its processes, by Call-ID |
//! | `book` | what it is known to hold |
//! | `membership` | node lists, pings, who is there |
//! | `owner` | which of several nodes speaks for it |
//! | `usrloc_in`, `htable_in`, `counters` | what its messages mean |
//! | `age` | when what its dumps show of an entry was written |
//! | `lateness` | how late its stamped messages are |
//! | `streams` | its TCP connections, and what they lose |
//! | `pull` | its dumps, and what they do not show |
//! | `comeback` | what is not certain after it was silent |
//! | `former` | what another node may have told it |
//! | `doubts` | what others may have told it that we do not know of |
//! | `changes` | what a changed cell means for it |
//! | `feed` | what it is told |
//! | `leases` | its contacts that outlive a cell |
//! | `orphans` | what it holds and nobody else knows any more |
//! | `facts` | how its hash tables expire |
//! | `joining` | what can be told only with what other nodes have |
//! | `shelf` | books on disk |
//!
//! It leaves the SIP envelope and transactions to `front`, and every decision between two versions
//! to the merge. Invariant: a server's entry in the book never claims more than was learned.

mod age;
mod book;
mod changes;
mod comeback;
mod contests;
mod counters;
mod doubts;
mod facts;
mod feed;
mod former;
mod how;
mod htable_in;
mod joining;
mod lateness;
mod leases;
mod life;
mod membership;
mod orphans;
mod owner;
mod peer;
mod pull;
mod requests;
mod shelf;
mod spoken;
mod strangers;
mod streams;
mod usrloc_in;
mod views;

use std::collections::BTreeMap;

use crdt::Wall;
use kdmq::life::CallIdCounter as Mark;

pub(crate) use counters::{deadline as counter_deadline, is_counter};
pub(crate) use facts::{Expiry, Facts};
pub(crate) use feed::Fed;
pub(crate) use htable_in::matching;
pub(crate) use membership::Sender;
pub(crate) use owner::Standing;
pub(crate) use peer::{Address, Peer, PeerId};
pub(crate) use usrloc_in::{contact_of, drop_aliases};

pub(crate) use self::how::How;
use self::owner::Holding;
use self::peer::Phase;
use self::spoken::Spoken;
use crate::config::{Config, DmqConfig};
use crate::cx::Cx;
use crate::front::{Front, Outgoing};
use crate::io::{ConnId, Mono, Now};

/// The channels that carry data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DataChannel {
    /// Contacts.
    Usrloc,
    /// Entries of hash tables.
    Htable,
}

impl DataChannel {
    /// The R-URI user.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Usrloc => "usrloc",
            Self::Htable => "htable",
        }
    }

    const fn sync(self) -> &'static [u8] {
        match self {
            Self::Usrloc => kdmq::usrloc::SYNC,
            Self::Htable => kdmq::htable::SYNC,
        }
    }
}

/// What an open request of ours was for.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// A node list.
    Ping(PeerId),
    /// A question for everything.
    Pull { peer: PeerId, channel: DataChannel, number: u32 },
    /// Whether large answers arrive.
    Echo { peer: PeerId, number: u32 },
    /// News.
    Feed { peer: PeerId, fed: Fed },
}

/// How a request of ours ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ended<'a> {
    /// With this final response.
    Answered { code: u16, server: Option<&'a [u8]>, body: &'a [u8], size: usize },
    /// Without any.
    TimedOut,
}

/// Give a data request up after this, milliseconds: four retransmissions.
const GIVE_UP_MS: u64 = 8_000;

/// A node looks at the time at least every second. If it did not for so long, it was stopped, and whatever is timed by
/// servers may have ended.
const STOOD_STILL_MS: u64 = 6_000;

/// A process that was stopped has read what waited for it after this long, milliseconds.
const READ_LATE_MS: u64 = 300;

/// Every server this node knows.
#[derive(Debug)]
pub(crate) struct Dmq {
    peers: BTreeMap<PeerId, Peer>,
    by_uri: BTreeMap<String, PeerId>,
    by_address: BTreeMap<Address, PeerId>,
    by_tag: BTreeMap<u32, PeerId>,
    next_id: u32,
    facts: Facts,
    holding: Holding,
    /// What those servers have said lately.
    spoken: Spoken,
    lease_cursor: Option<crdt::Slot>,
    lease_at: Mono,
    /// SIP addresses of the other Starling nodes.
    nodes: Vec<std::net::SocketAddr>,
    /// Those of them that are not linked with this one.
    unlinked: Vec<std::net::SocketAddr>,
    /// Writes for the disk besides what the books have to say themselves.
    puts: Vec<shelf::Put>,
    started: Mono,
    /// When time was last seen to pass.
    ticked: Now,
    /// This process was stopped: what it reads until then may have waited since then.
    stopped: Option<(Wall, Mono)>,
    /// What the last look found; `None`: look again.
    quiet: Option<Quiet>,
    /// Whether this node speaks for any server yet: not before it has caught up with the other nodes.
    attending: bool,
    /// Whether this node has got what the other nodes have, since its start.
    joined: bool,
    /// Whether it has what others have of counters as well: see [`Dmq::know_counters`].
    counters_known: bool,
    durable: bool,
    /// Whether what other nodes should know of our servers has changed.
    notes_changed: bool,
}

/// Until when [`Dmq::tick`] has nothing to do, unless something else happens.
#[derive(Clone, Copy, Debug)]
struct Quiet {
    /// See [`Dmq::next_wakeup`].
    wake: Mono,
    /// When doubts are looked through, which nobody is woken for.
    sweep: Mono,
}

impl Dmq {
    /// Knows the configured servers, and greets them at the first tick.
    pub(crate) fn new(config: &Config, now: Mono) -> Self {
        let mut dmq = Self {
            peers: BTreeMap::new(),
            by_uri: BTreeMap::new(),
            by_address: BTreeMap::new(),
            by_tag: BTreeMap::new(),
            next_id: 1,
            facts: Facts::default(),
            holding: Holding::default(),
            spoken: Spoken::default(),
            lease_cursor: None,
            lease_at: now,
            nodes: Vec::new(),
            unlinked: Vec::new(),
            puts: Vec::new(),
            started: now,
            ticked: Now { mono: now, wall: Wall(0) },
            stopped: None,
            quiet: None,
            attending: false,
            joined: false,
            counters_known: false,
            durable: config.durable,
            notes_changed: false,
        };
        for peer in &config.dmq.peers {
            let address = Address { addr: peer.addr, transport: peer.transport };
            if let Some(socket) = membership::socket_for(config, &address) {
                let id = dmq.add(address, socket, now);
                if let Some(peer) = dmq.peers.get_mut(&id) {
                    peer.configured = true;
                }
            }
        }
        dmq
    }

    fn add(&mut self, address: Address, socket: crate::io::SocketId, now: Mono) -> PeerId {
        let id = PeerId(self.next_id);
        self.next_id += 1;
        let mut peer = Peer::new(id, address, socket, self.durable, now);
        peer.joined = self.joined;
        if now.ms_since(self.started) < peer.late_ms() {
            peer.pull.assume_asked(peer.late_ms(), self.started);
        }
        if self.counters_known {
            peer.counters.know_others();
        }
        self.by_uri.insert(peer.uri.clone(), id);
        self.by_address.insert(peer.address.clone(), id);
        self.by_tag.insert(peer.tag, id);
        self.peers.insert(id, peer);
        id
    }

    /// Tells which SIP addresses are other Starling nodes', so that none is taken for a server, and which of these are not
    /// linked.
    pub(crate) fn set_nodes(&mut self, nodes: Vec<std::net::SocketAddr>, unlinked: Vec<std::net::SocketAddr>) {
        (self.nodes, self.unlinked) = (nodes, unlinked);
    }

    /// The facts about hash tables.
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// A request of ours ended.
    pub(crate) fn ended(&mut self, ask: Ask, how: Ended<'_>, front: &mut Front, cx: &mut Cx<'_>) {
        self.quiet = None;
        match ask {
            Ask::Ping(peer) => self.ping_ended(peer, how, front, cx),
            Ask::Pull { peer, channel, number } => {
                let Some(peer) = self.peers.get_mut(&peer) else { return };
                if let Ended::Answered { code, .. } = how {
                    peer.pull.answered(channel, number, code, cx.now.mono);
                }
            }
            Ask::Echo { peer, number } => {
                let Some(peer) = self.peers.get_mut(&peer) else { return };
                let arrived = matches!(how, Ended::Answered { .. });
                peer.pull.echoed(number, arrived, cx.now.mono);
            }
            Ask::Feed { peer: id, fed } => {
                let Some(peer) = self.peers.get_mut(&id) else { return };
                match how {
                    Ended::Answered { code, .. } => {
                        peer.heard = Some(cx.now.mono);
                        if let Some(request) = feed::answered(peer, &fed, code, cx) {
                            send(peer, request, front, cx);
                        }
                    }
                    Ended::TimedOut => {
                        cx.stats.dmq_unanswered += 1;
                        if feed::timed_out(peer, &fed, cx) {
                            self.went_silent(id, "two requests had no answer", front, cx);
                        }
                    }
                }
            }
        }
    }

    /// A TCP connection ended; `whole` if all that was sent on it has come.
    pub(crate) fn stream_closed(&mut self, conn: ConnId, whole: bool) {
        self.quiet = None;
        for peer in self.peers.values_mut() {
            if peer.streams.closed(conn, whole) {
                peer.missed_something();
            }
        }
    }

    /// Sends what may be sent.
    pub(crate) fn pump(&mut self, front: &mut Front, cx: &mut Cx<'_>) {
        if !self.attending {
            return;
        }
        for peer in self.peers.values_mut().filter(|peer| peer.may_be_fed() && !peer.feed.is_told()) {
            self.quiet = None;
            while let Some(request) = feed::next(peer, &self.facts, cx) {
                send(peer, request, front, cx);
            }
        }
    }

    /// Time passed. Cheap when nothing is due: call it after every input.
    pub(crate) fn tick(&mut self, front: &mut Front, cx: &mut Cx<'_>) {
        if cx.now.mono.ms_since(self.ticked.mono) > STOOD_STILL_MS {
            self.quiet = None;
            let since = Some(self.ticked.wall).filter(|wall| wall.0 > 0);
            self.stopped = since.map(|since| (since, cx.now.mono.plus_ms(READ_LATE_MS)));
            self.stood_still(cx);
        }
        self.ticked = cx.now;
        if self.quiet.is_some_and(|quiet| cx.now.mono < quiet.wake.min(quiet.sweep)) {
            return;
        }
        self.watch_gaps(cx);
        let wake = self.look(&cx.config.dmq);
        if cx.now.mono < wake {
            self.quiet = Some(Quiet { wake, sweep: self.next_sweep().unwrap_or(Mono(u64::MAX)) });
            return;
        }
        self.quiet = None;
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            self.ping_if_due(id, front, cx);
            self.look_at_pull(id, front, cx);
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.settle_contests(cx.now.mono);
                peer.look_again(cx.config.dmq.mode, cx.now.mono);
                peer.pull.look_at_entries(cx.now.mono);
                peer.streams.give_up(cx.now.mono);
            }
        }
        if self.attending {
            counters::feed_due(&mut self.peers, front, cx);
        }
        self.renew_leases(cx);
    }

    /// This process was stopped for so long that servers may have given up repeating what they said, or taken us for gone.
    fn stood_still(&mut self, cx: &mut Cx<'_>) {
        for peer in self.peers.values_mut().filter(|p| p.phase == Phase::Active) {
            // A dump that was open has gone by.
            peer.pull.stop();
            peer.missed();
            peer.came_back(cx.now.mono);
        }
    }

    /// Whether nodes are still to be met, or servers may be attached that have not yet said what they hold.
    pub(crate) fn is_settling(&self, config: &Config, now: Mono) -> bool {
        const YOUNG_MS: u64 = 60_000;
        let unheard = |p: &Peer| match p.phase {
            Phase::Active => {
                let asked = !p.ask_first && p.pull.has_shown();
                p.owned && (!asked || p.pull.awaits_entries(now) || p.doubts.are_open(now))
            }
            // It restarted, or came to us, and went before it could be asked, or before it has shown what it was asked for. It is
            // waited for as long as a node is.
            Phase::Silent => {
                let lately = p.heard.is_some_and(|at| now.ms_since(at) < config.forget_after_s * 1_000);
                p.owned && lately && (!p.pull.has_shown() || p.pull.awaits_entries(now))
            }
            Phase::New | Phase::Left => false,
        };
        !self.joined || now.ms_since(self.started) < YOUNG_MS || self.peers.values().any(unheard)
    }

    /// When [`Dmq::tick`] has something to do.
    pub(crate) fn next_wakeup(&self, config: &DmqConfig) -> Mono {
        self.quiet.map_or_else(|| self.look(config), |quiet| quiet.wake)
    }

    fn look(&self, config: &DmqConfig) -> Mono {
        let of = |peer: &Peer| {
            let ping = (!peer.ping_open && peer.is_pinged()).then_some(peer.ping_at);
            let contest = peer.contests.next();
            let again = peer.comeback.look_at.filter(|_| !peer.pull.is_open());
            let entries = peer.pull.entries_again().into_iter().chain(peer.streams.held_up_until()).min();
            let pull = peer.pull.next_wakeup().filter(|_| peer.is_served());
            let absences = peer.streams.due_at().filter(|_| peer.is_served());
            let news = [pull, absences, peer.pull_due(config.mode), counters::next_wakeup(peer, config)]
                .into_iter()
                .flatten()
                .min();
            [ping, contest, again, entries, news.filter(|_| self.attending)].into_iter().flatten().min()
        };
        self.peers.values().filter_map(of).chain([self.lease_at]).min().unwrap_or(Mono(u64::MAX))
    }

    /// From now on this node speaks for servers. Returns whether that is new.
    pub(crate) fn attend(&mut self) -> bool {
        self.quiet = self.quiet.filter(|_| self.attending);
        !std::mem::replace(&mut self.attending, true)
    }

    /// Whether something waits until the journal has written what it is given now.
    pub(crate) fn wants_ticket(&self) -> bool {
        self.peers.values().any(|peer| peer.counters.wants_ticket())
    }

    /// That is there when the journal is done with this ticket.
    pub(crate) fn ticket(&mut self, ticket: u64) {
        self.peers.values_mut().for_each(|peer| peer.counters.ticket(ticket));
    }

    /// The journal is done with these tickets.
    pub(crate) fn kept(&mut self, done: &dyn Fn(u64) -> bool) {
        for peer in self.peers.values_mut() {
            if peer.counters.kept(done) {
                self.quiet = None;
            }
        }
    }
}

fn send(peer: &mut Peer, request: feed::Request, front: &mut Front, cx: &mut Cx<'_>) {
    peer.figures.requests_out += 1;
    cx.stats.dmq_requests_out += 1;
    let outgoing = Outgoing {
        to: &peer.address,
        socket: peer.socket,
        channel: request.channel,
        max_forwards: 1,
        content_type: "application/json",
        body: &request.body,
        give_up_ms: GIVE_UP_MS,
        retransmit: true,
        padding: 0,
        ask: Ask::Feed { peer: peer.id, fed: request.fed },
    };
    front.send(outgoing, cx);
}

/// Reads the mark off a Call-ID.
fn mark(call_id: &[u8]) -> Option<Mark> {
    Mark::parse(call_id)
}
