//! Who is in the DMQ mesh: node lists, pings, and what a missed one means (docs/kdmq.md 2 and 3).
//!
//! In mode `bridge` a node names only itself and follows no list; in mode `mesh` it names every
//! active DMQ node and greets those that a server names. A server counts as hearing us only while
//! its own list names us as active: only then does it send us its updates.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use bstr::BStr;
use crdt::planted::{self, Bug};
use kdmq::Generation;
use kdmq::notification::{self, NodeLine, Status, Transport};

use super::peer::{Address, Peer, PeerId, Phase};
use super::{Ask, Dmq, Ended};
use crate::config::{Config, DmqMode, SipTransport};
use crate::cx::Cx;
use crate::front::{Front, Outgoing, is_trusted};
use crate::io::{Level, Mono, SocketId};

/// The channel of node lists.
pub(super) const CHANNEL: &str = "notification_peer";

/// Servers that a node attends to at most.
const PEERS_MAX: usize = 256;

/// How long a ping waits for its answer, milliseconds.
const PING_GIVE_UP_MS: u64 = 4_000;

/// How long a server is remembered that never answered a ping, milliseconds.
const STRANGER_MS: u64 = 60_000;

/// The interval between pings of a server that does not answer, milliseconds.
const SILENT_PING_MS: u64 = 2_000;

/// The interval between pings of a server that may take us for gone, milliseconds.
const DOUBTFUL_PING_MS: u64 = 1_000;

/// A ping that is answered later than this was lost at first, milliseconds: RFC 3261's T1.
const PROMPT_MS: u64 = 500;

/// Who sent a request, by its From.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// A server.
    Server(PeerId),
    /// Another Starling node: it has its own ways to tell us.
    Starling,
    /// It may not speak, or there is no room for another server.
    Refused,
}

/// The local socket that a server at this address is spoken to from.
pub(crate) fn socket_for(config: &Config, address: &Address) -> Option<SocketId> {
    let fits =
        |s: &crate::config::SipSocket| s.transport == address.transport && s.addr.is_ipv4() == address.addr.is_ipv4();
    config.sip.iter().position(fits).and_then(|at| u16::try_from(at).ok()).map(SocketId)
}

/// The address that a line of a node list names; `None` for names and transports that we do not speak.
fn address_of(line: &NodeLine<'_>) -> Option<Address> {
    let host = std::str::from_utf8(line.host).ok()?;
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
    let transport = match line.transport {
        None | Some(Transport::Udp) => SipTransport::Udp,
        Some(Transport::Tcp) => SipTransport::Tcp,
        Some(Transport::Tls | Transport::Sctp) => return None,
    };
    Some(Address { addr: SocketAddr::new(ip, line.port.unwrap_or(5060)), transport })
}

/// Whether it is one of our own sockets.
fn is_ours(config: &Config, address: &Address) -> bool {
    config.sip.iter().any(|s| s.transport == address.transport && s.addr == address.addr)
}

impl Dmq {
    /// Finds out who sent a request, and gets to know a new server.
    pub(crate) fn sender(
        &mut self,
        address: Address,
        agent: Option<&[u8]>,
        socket: SocketId,
        nodes: &[SocketAddr],
        cx: &mut Cx<'_>,
    ) -> Sender {
        if !is_trusted(cx.config, address.addr.ip()) {
            cx.stats.dmq_untrusted += 1;
            return Sender::Refused;
        }
        let is_node = agent.is_some_and(|a| a.starts_with(b"starling")) || nodes.contains(&address.addr);
        if is_node || is_ours(cx.config, &address) {
            return Sender::Starling;
        }
        if let Some(id) = self.by_address.get(&address).copied() {
            if let (Some(peer), Some(agent)) = (self.peers.get_mut(&id), agent) {
                peer.generation = Generation::from_agent(agent);
                peer.socket = socket;
            }
            return Sender::Server(id);
        }
        if self.peers.len() >= PEERS_MAX {
            cx.stats.dmq_peers_refused += 1;
            return Sender::Refused;
        }
        let id = self.add(address, socket, cx.now.mono);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.generation = agent.map_or(Generation::V5, Generation::from_agent);
            let text = format!("server {} has come", peer.uri);
            cx.log(Level::Info, text);
        }
        Sender::Server(id)
    }

    /// A server sent a node list; returns the body of the 200.
    pub(crate) fn notified(
        &mut self,
        id: PeerId,
        body: &[u8],
        nodes: &[SocketAddr],
        front: &mut Front,
        cx: &mut Cx<'_>,
    ) -> Vec<u8> {
        let (lines, bad) = notification::decode(body);
        cx.stats.dmq_node_lines_bad += u64::from(bad);
        let uri = self.peers.get(&id).map(|p| p.uri.clone()).unwrap_or_default();
        let leaves = lines
            .iter()
            .any(|line| line.status == Some(Status::Disabled) && address_of(line).is_some_and(|a| a.uri() == uri));
        if leaves && let Some(peer) = self.peers.get_mut(&id) {
            peer.phase = Phase::Left;
            suspend(peer, front, cx);
            self.notes_changed = true;
            cx.log(Level::Info, format!("server {uri} has left"));
        } else if !lines.is_empty() {
            self.listed(id, &lines, nodes, cx);
        }
        self.list_for(id, nodes, cx)
    }

    /// Takes in what a server says of who is there.
    fn listed(&mut self, id: PeerId, lines: &[NodeLine<'_>], nodes: &[SocketAddr], cx: &mut Cx<'_>) {
        let mut others = BTreeSet::new();
        let mut lists_us = false;
        for line in lines.iter().filter(|l| l.status.is_none_or(|s| s == Status::Active)) {
            let Some(address) = address_of(line) else { continue };
            if is_ours(cx.config, &address) {
                lists_us = true;
                continue;
            }
            others.insert(address.uri());
            let greet = cx.config.dmq.mode == DmqMode::Mesh
                && !self.by_address.contains_key(&address)
                && !nodes.contains(&address.addr)
                && is_trusted(cx.config, address.addr.ip())
                && self.peers.len() < PEERS_MAX;
            if greet && let Some(socket) = socket_for(cx.config, &address) {
                self.add(address, socket, cx.now.mono);
            }
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        others.remove(&peer.uri);
        if peer.lists_us && !lists_us {
            peer.missed();
        }
        peer.lists_us = lists_us;
        let lost: Vec<String> = peer.lists.difference(&others).cloned().collect();
        peer.lists = others;
        for uri in lost {
            // What this server told it last may not have arrived, and we relied on it.
            if let Some(other) = self.by_uri.get(&uri).and_then(|id| self.peers.get_mut(id)) {
                other.relied_in_vain();
            }
        }
    }

    /// The node list that a server is told.
    pub(super) fn list_for(&self, id: PeerId, nodes: &[SocketAddr], cx: &Cx<'_>) -> Vec<u8> {
        let Some(peer) = self.peers.get(&id) else { return Vec::new() };
        let Some(own) = cx.config.sip.get(usize::from(peer.socket.0)) else { return Vec::new() };
        let mut addresses = vec![Address { addr: own.addr, transport: own.transport }];
        if cx.config.dmq.mode == DmqMode::Mesh {
            let servers = self.peers.values().filter(|p| p.phase == Phase::Active).map(|p| p.address.clone());
            // The mesh knows nodes by their UDP address; to a server that speaks TCP each names itself. One that is not linked may be
            // dead: each naming would make it active again, and the server repeat for half a minute whatever it tells it.
            let linked = |node: &&SocketAddr| own.transport == SipTransport::Udp && !self.unlinked.contains(node);
            let nodes = nodes.iter().filter(linked);
            let nodes = nodes.map(|addr| Address { addr: *addr, transport: SipTransport::Udp });
            addresses.extend(servers.chain(nodes));
        }
        // A 5.6 server without an IPv6 socket hangs at a line with an IPv6 address.
        addresses.retain(|a| a.addr.is_ipv4() || own.addr.is_ipv6());
        addresses.truncate(notification::MAX_NODES);
        loop {
            let hosts: Vec<String> = addresses.iter().map(|a| host(&a.addr)).collect();
            let lines: Vec<NodeLine<'_>> = addresses
                .iter()
                .zip(&hosts)
                .map(|(a, host)| {
                    let transport = match a.transport {
                        SipTransport::Udp => Transport::Udp,
                        SipTransport::Tcp => Transport::Tcp,
                    };
                    NodeLine::new(BStr::new(host.as_bytes()), a.addr.port(), transport, Status::Active)
                })
                .collect();
            match notification::encode(&lines) {
                Ok(body) => return body,
                // Too long for a server: name fewer, ourselves first.
                Err(_) if addresses.len() > 1 => _ = addresses.pop(),
                Err(_) => return Vec::new(),
            }
        }
    }

    /// Sends a ping that is due.
    pub(crate) fn ping_if_due(&mut self, id: PeerId, front: &mut Front, cx: &mut Cx<'_>) {
        let Some(peer) = self.peers.get(&id) else { return };
        if cx.now.mono < peer.ping_at || peer.ping_open || !peer.is_pinged() {
            return;
        }
        // Whoever never answered a ping may not be a DMQ peer at all.
        let keep_ms = if peer.answered { cx.config.forget_after_s * 1_000 } else { STRANGER_MS };
        let gone = peer.heard.is_some_and(|h| cx.now.mono.ms_since(h) > keep_ms);
        if gone && !peer.configured {
            return self.forget(id, front, cx);
        }
        let body = self.list_for(id, &self.nodes, cx);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let answers = peer.phase == Phase::Active;
        let (interval, give_up_ms) = match answers {
            true if peer.comeback.look_at.is_some() => {
                (DOUBTFUL_PING_MS.min(cx.config.dmq.ping_interval_ms), PING_GIVE_UP_MS)
            }
            true => (cx.config.dmq.ping_interval_ms, PING_GIVE_UP_MS),
            false => (SILENT_PING_MS.min(cx.config.dmq.ping_interval_ms), SILENT_PING_MS),
        };
        peer.ping_at = cx.now.mono.plus_ms(interval);
        peer.ping_open = true;
        peer.pinged_at = cx.now.mono;
        peer.figures.pings_out += 1;
        let outgoing = Outgoing {
            to: &peer.address,
            socket: peer.socket,
            channel: CHANNEL,
            max_forwards: if peer.heard.is_none() { 2 } else { 1 },
            content_type: "text/plain",
            body: &body,
            give_up_ms,
            retransmit: true,
            padding: 0,
            ask: Ask::Ping(id),
        };
        front.send(outgoing, cx);
    }

    fn forget(&mut self, id: PeerId, front: &mut Front, cx: &mut Cx<'_>) {
        if let Some(mut peer) = self.peers.remove(&id) {
            peer.forget_state(cx.replica);
            peer.doubts.clear(cx.replica);
            self.by_uri.remove(&peer.uri);
            self.by_address.remove(&peer.address);
            self.by_tag.remove(&peer.tag);
            self.facts.forget(id);
            self.notes_changed = true;
            front.drop_requests(|ask| ask.peer() == id);
            cx.log(Level::Info, format!("server {} is forgotten", peer.uri));
        }
    }

    /// A ping was answered, or not.
    pub(crate) fn ping_ended(&mut self, id: PeerId, how: Ended<'_>, front: &mut Front, cx: &mut Cx<'_>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.ping_open = false;
        let Ended::Answered { code, server, body, size } = how else {
            peer.pings_missed += 1;
            let quiet = peer.heard.is_none_or(|h| cx.now.mono.ms_since(h) > PING_GIVE_UP_MS);
            if quiet || peer.pings_missed > 1 {
                peer.missed();
            }
            if quiet && peer.phase == Phase::Active {
                self.went_silent(id, "a ping had no answer", front, cx);
            } else if peer.phase == Phase::Active {
                // Nothing passed for seconds, and what it said meanwhile comes in any order.
                peer.came_back(cx.now.mono);
            }
            return;
        };
        if server.is_some_and(|s| s.starts_with(b"starling")) {
            return self.forget(id, front, cx);
        }
        peer.pings_missed = 0;
        peer.answered = true;
        peer.ping_answer = size;
        if cx.now.mono.ms_since(peer.pinged_at) >= PROMPT_MS {
            peer.pull.way.lost(peer.pinged_at);
            peer.repeats_something(cx.now.mono);
        }
        peer.heard = Some(cx.now.mono);
        if !(200..300).contains(&code) {
            cx.stats.dmq_pings_refused += 1;
            return;
        }
        if let Some(server) = server {
            peer.generation = Generation::from_agent(server);
        }
        self.is_there(id, cx);
        let (lines, bad) = notification::decode(body);
        cx.stats.dmq_node_lines_bad += u64::from(bad);
        if lines.is_empty() {
            // Other implementations answer without a list; then its 200 has to do.
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.lists_us = true;
            }
        } else {
            let nodes = std::mem::take(&mut self.nodes);
            self.listed(id, &lines, &nodes, cx);
            self.nodes = nodes;
        }
    }

    /// A sign of life.
    pub(crate) fn is_there(&mut self, id: PeerId, cx: &mut Cx<'_>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.phase == Phase::Active {
            return;
        }
        if peer.phase != Phase::New || peer.configured {
            let text = format!("server {} answers", peer.uri);
            cx.log(Level::Info, text);
        }
        if matches!(peer.phase, Phase::New | Phase::Silent) {
            peer.is_heard(&self.unlinked, cx.config, cx.now.mono);
        }
        peer.phase = Phase::Active;
        peer.missed();
        peer.came_back(cx.now.mono);
        if peer.address.transport == SipTransport::Tcp {
            peer.streams.back(cx.now.mono);
        }
        // Our ping makes it take us for active at once.
        peer.ping_at = cx.now.mono;
        self.notes_changed = true;
    }

    /// It does not answer: nothing but pings is sent until it does.
    pub(crate) fn went_silent(&mut self, id: PeerId, why: &str, front: &mut Front, cx: &mut Cx<'_>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.phase != Phase::Active {
            return;
        }
        peer.phase = Phase::Silent;
        peer.missed();
        peer.lists_us = false;
        suspend(peer, front, cx);
        peer.pull.stop();
        peer.ping_at = cx.now.mono.plus_ms(SILENT_PING_MS);
        self.notes_changed = true;
        let text = format!("server {} does not answer: {why}", peer.uri);
        cx.log(Level::Warn, text);
    }
}

/// Nothing more is told, nor repeated: a repetition might arrive behind what is told when it is back.
fn suspend(peer: &mut Peer, front: &mut Front, cx: &mut Cx<'_>) {
    peer.feed.suspend();
    peer.counters.suspend(cx.now.mono);
    let id = peer.id;
    front.drop_requests(|ask| matches!(ask, Ask::Feed { peer, .. } if *peer == id));
    if peer.address.transport == SipTransport::Tcp {
        front.cut_off(peer.address.addr, cx);
        peer.streams.silent();
    }
}

impl Ask {
    /// The server that was asked.
    pub(crate) fn peer(&self) -> PeerId {
        match self {
            Self::Ping(peer) | Self::Pull { peer, .. } | Self::Echo { peer, .. } | Self::Feed { peer, .. } => *peer,
        }
    }
}

impl Peer {
    /// Whether it is greeted: a server that has left is not, unless the configuration names it.
    pub(crate) fn is_pinged(&self) -> bool {
        let given_up = self.phase == Phase::Silent && planted::on(Bug::SilentNotGreeted);
        (self.phase != Phase::Left || self.configured) && !given_up
    }

    /// Pings at once.
    pub(crate) fn ping_now(&mut self, now: Mono) {
        self.ping_at = now;
    }
}

/// The host as it stands in a SIP URI.
fn host(addr: &SocketAddr) -> String {
    match addr {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    }
}
