//! One connection to another node, and what is known of the node behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crdt::planted::{self, Bug};
use crdt::{Clock, NodeId, Origin};

use super::push::PushQueue;
use super::skew::Offset;
use super::swim::Id;
use super::wire::{Assembler, Hello, Push, ServerNote, frames};
use crate::cx::Cx;
use crate::io::{LANE_WINDOW, Lane, LinkId, Mono, Output};

/// Control messages that may wait on a stalled push lane before more are dropped.
const CONTROL_WINDOW: u32 = 64;

/// A connection.
pub(super) struct Link {
    /// The shell's number.
    pub id: LinkId,
    /// Remote address.
    pub addr: SocketAddr,
    /// Whether this side dialed.
    pub dialed: bool,
    /// The name that the peer's certificate proves.
    pub subject: Option<String>,
    /// Since when it is up.
    pub up_at: Mono,
    /// Who is there, once its hello was accepted.
    pub peer: Option<Box<Peer>>,
    /// Cells to push.
    pub queue: PushQueue,
    /// Frames of the push lane that the transport has not taken yet.
    pub unsent: u32,
    /// Frames of the peer's push lane.
    pub assembler: Assembler,
    /// The number of the next session lane opened here.
    pub next_session: u32,
    /// Whether our clocks have changed since they were last shown there.
    pub show: bool,
    /// When that was.
    pub shown_at: Mono,
    /// The forgotten dots as last shown there.
    pub shown_forgotten: Clock,
    /// When the next ping is due.
    pub ping_at: Mono,
    /// Whether it has to be told whom we have links to.
    pub tell_links: bool,
    /// Whether it has to be told which servers we see.
    pub tell_servers: bool,
}

impl Link {
    /// A link without a hello.
    pub(super) fn new(id: LinkId, addr: SocketAddr, dialed: bool, subject: Option<String>, up_at: Mono) -> Self {
        Self {
            id,
            addr,
            dialed,
            subject,
            up_at,
            peer: None,
            queue: PushQueue::default(),
            unsent: 0,
            assembler: Assembler::default(),
            next_session: 0,
            show: false,
            shown_at: up_at,
            shown_forgotten: Clock::default(),
            ping_at: up_at,
            tell_links: false,
            tell_servers: false,
        }
    }

    /// The address that complaints about the peer are counted under: of an incoming link the port means nothing.
    pub(super) fn remote(&self) -> SocketAddr {
        let port = if self.dialed { self.addr.port() } else { 0 };
        SocketAddr::new(self.addr.ip(), port)
    }

    /// Sends a message on the push lane.
    pub(super) fn send(&mut self, message: &Push<'_>, cx: &mut Cx<'_>) {
        for bytes in frames(message.encode()) {
            self.unsent += 1;
            cx.out.push_back(Output::Frame { link: self.id, lane: Lane::Push, bytes });
        }
    }

    /// Sends a message that is of no use later: not at all if the lane is stalled.
    pub(super) fn send_or_drop(&mut self, message: &Push<'_>, cx: &mut Cx<'_>) {
        if self.unsent < CONTROL_WINDOW {
            self.send(message, cx);
        }
    }

    /// Tells what has changed about us, as soon as the lane takes it.
    pub(super) fn tell(&mut self, nodes: &BTreeMap<NodeId, LinkId>, servers: &[ServerNote], cx: &mut Cx<'_>) {
        if !self.has_news() {
            return;
        }
        if std::mem::take(&mut self.tell_links) {
            self.send(&Push::Links(nodes.keys().copied().collect()), cx);
        }
        if std::mem::take(&mut self.tell_servers) {
            self.send(&Push::Servers(servers.to_vec()), cx);
        }
    }

    fn has_news(&self) -> bool {
        self.peer.is_some() && (self.tell_links || self.tell_servers) && self.unsent < CONTROL_WINDOW
    }

    /// Whether the push lane takes cells and clocks.
    pub(super) fn has_credit(&self) -> bool {
        self.peer.is_some() && self.unsent < LANE_WINDOW
    }

    /// Whether pushes may flow in either direction: the peer is near enough in time (R3), and neither side has to be put
    /// right by a full session first (R6).
    pub(super) fn open(&self) -> bool {
        self.peer.as_ref().is_some_and(|peer| peer.open && peer.trusted())
    }

    /// When something is due on it.
    pub(super) fn wakeup(&self) -> Option<Mono> {
        if self.peer.is_none() {
            return Some(self.up_at.plus_ms(super::HELLO_MS));
        }
        if self.has_news() {
            return Some(Mono(0));
        }
        let flush = self.queue.due().filter(|_| self.has_credit());
        let show = self.show_due().filter(|_| self.has_credit() && self.queue.is_empty());
        [Some(self.ping_at), flush, show].into_iter().flatten().min()
    }
}

/// The node behind a link whose hello was accepted.
pub(super) struct Peer {
    /// Stable id.
    pub node: NodeId,
    /// Process lifetime.
    pub origin: Origin,
    /// Name.
    pub name: String,
    /// Advertised address.
    pub advertise: SocketAddr,
    /// Membership generation as of its hello.
    pub generation: u64,
    /// Nodes that it has links to.
    pub links: BTreeSet<NodeId>,
    /// Servers that it sees.
    pub servers: Vec<ServerNote>,
    /// What it has shown to have taken in.
    pub clock: Clock,
    /// What it has shown to have forgotten by stability.
    pub forgotten: Clock,
    /// Whether pushes may flow (R6).
    pub open: bool,
    /// When to ask for what it has shown and this node lacks.
    pub ask_at: Option<Mono>,
    /// No session is asked of it before this.
    pub pull_after: Mono,
    /// Sessions in a row that failed or were in vain.
    pub pull_failures: u32,
    /// Clock offset (R3).
    pub offset: Offset,
    /// Audits in a row that found equal clocks and unequal digests.
    pub mismatches: u32,
}

impl Peer {
    /// From an accepted hello.
    pub(super) fn new(hello: Hello, now: Mono) -> Self {
        Self {
            node: hello.node,
            origin: hello.origin,
            name: hello.name,
            advertise: hello.advertise,
            generation: hello.generation,
            links: hello.links.into_iter().collect(),
            servers: hello.servers,
            clock: hello.clocks.clock,
            forgotten: hello.clocks.forgotten.unwrap_or_default(),
            open: false,
            ask_at: None,
            pull_after: now,
            pull_failures: 0,
            offset: Offset::default(),
            mismatches: 0,
        }
    }

    /// Its name as a member.
    pub(super) fn id(&self) -> Id {
        Id { addr: self.advertise, node: self.node, generation: self.generation, name: self.name.clone() }
    }

    /// Whether data may be exchanged: its clock is near enough (R3).
    pub(super) fn trusted(&self) -> bool {
        !self.offset.skewed() || planted::on(Bug::SkewedPeerTrusted)
    }
}
