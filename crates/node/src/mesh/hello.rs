//! Hello: who may exchange data with this node, and which of two links to the same node stays.

use super::link::{Link, Peer};
use super::roster::Known;
use super::wire::{Clocks, Hello, LIST_MAX, Push, TEXT_MAX, WireError};
use super::{HELLO_MS, Mesh, REFUSED_MAX, REFUSED_MS};
use crate::cx::Cx;
use crate::io::{Level, LinkId, Output};

/// Two links that came up within this time of each other were dialed at the same time, from both sides, milliseconds.
const SIMULTANEOUS_MS: u64 = 5_000;

/// Why a hello is refused. Nothing was exchanged; the link is closed with these words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// The link leads back here.
    Ourselves,
    /// Another process has our id: a copied data directory.
    SameId,
    /// Another node advertises our address.
    SameAddress,
    Cluster,
    Rules,
    Name,
}

impl Refusal {
    const fn words(self) -> &'static str {
        match self {
            Self::Ourselves => "this is the node itself",
            Self::SameId => "two nodes with one id: was a data directory copied?",
            Self::SameAddress => "two nodes advertise one address",
            Self::Cluster => "another cluster",
            Self::Rules => "other limits (max_ttl, grace, max_skew) than this node's",
            Self::Name => "the name is not the certificate's",
        }
    }
}

impl Mesh {
    /// Sends our hello on a new link.
    pub(super) fn greet(&mut self, mut link: Link, cx: &mut Cx<'_>) {
        let clocks = link.clocks(true, cx);
        let hello = Hello {
            cluster: cx.config.cluster.clone(),
            node: cx.config.node,
            origin: cx.replica.origin(),
            name: cx.config.name.clone(),
            advertise: cx.config.advertise,
            sip: cx.config.sip.iter().map(|socket| socket.addr).collect(),
            rules: cx.replica.rules().fingerprint(),
            wall: cx.now.wall.0,
            generation: self.swim.id().generation,
            links: self.peers.keys().copied().collect(),
            servers: self.servers.clone(),
            clocks,
        };
        if hello.check().is_err() {
            let text = || {
                format!("no node will take our hello: a name of over {TEXT_MAX} bytes, or over {LIST_MAX} addresses")
            };
            self.complain(cx.config.advertise, "own hello", Level::Error, text, cx);
        }
        link.send(&Push::Hello(Box::new(hello)), cx);
        self.links.insert(link.id, link);
    }

    /// A frame of a peer's push lane.
    pub(super) fn push_frame(&mut self, id: LinkId, frame: &[u8], cx: &mut Cx<'_>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let mut assembler = std::mem::take(&mut link.assembler);
        let taken = match assembler.push(frame) {
            Ok(Some(message)) => Push::decode(&message).map(|message| self.push_message(id, message, cx)),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        match taken {
            Ok(()) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.assembler = assembler;
                }
            }
            Err(WireError::Version(_)) => self.refuse(id, "another version of the protocol", cx),
            Err(error) => self.malformed(id, error, cx),
        }
    }

    fn push_message(&mut self, id: LinkId, message: Push<'_>, cx: &mut Cx<'_>) {
        let greeted = self.peer(id).is_some();
        match message {
            Push::Hello(hello) if !greeted => self.take_hello(id, *hello, cx),
            _ if !greeted => self.misbehaved(id, "data before hello", cx),
            Push::Hello(_) => self.misbehaved(id, "second hello", cx),
            Push::Cells(items) => self.take_cells(id, items, cx),
            Push::Clocks(clocks) => self.take_clocks(id, *clocks, cx),
            Push::Ping { sent } => {
                let pong = Push::Pong { sent, wall: cx.now.wall.0 };
                if let Some(link) = self.links.get_mut(&id) {
                    link.send_or_drop(&pong, cx);
                }
            }
            Push::Pong { sent, wall } => self.take_pong(id, sent, wall, cx),
            Push::Links(links) => {
                if let Some(peer) = self.peer_mut(id) {
                    peer.links = links.into_iter().collect();
                }
            }
            Push::Servers(servers) => {
                if let Some(peer) = self.peer_mut(id) {
                    peer.servers = servers;
                }
            }
        }
    }

    fn take_hello(&mut self, id: LinkId, hello: Hello, cx: &mut Cx<'_>) {
        let Some(link) = self.links.get(&id) else { return };
        let (addr, dialed) = (link.addr, link.dialed);
        match refusal(link, &hello, cx) {
            None => self.accept(id, hello, cx),
            Some(Refusal::Ourselves) => {
                if dialed {
                    self.dialer.ours(addr);
                }
                self.close(id, Refusal::Ourselves.words(), cx);
            }
            Some(refusal) => self.refuse(id, refusal.words(), cx),
        }
    }

    /// Takes a node in: roster first (R5), then data.
    fn accept(&mut self, id: LinkId, hello: Hello, cx: &mut Cx<'_>) {
        let node = hello.node;
        if !self.survives(id, &hello, cx) {
            cx.stats.links_duplicate += 1;
            self.close(id, "duplicate link", cx);
            return;
        }
        cx.stats.links_up += 1;
        if let Some(link) = self.links.get(&id) {
            self.refused.remove(&link.addr.ip());
        }
        let known = Known {
            name: hello.name.clone(),
            addr: hello.advertise,
            sip: hello.sip.clone(),
            seen: cx.now.wall.0 / 1_000,
        };
        self.enter_roster(node, known, cx);
        cx.replica.roster_enter(node, hello.origin, &hello.clocks.stability);
        let replaced = self.peers.insert(node, id);
        let wall = hello.wall;
        let mut peer = Box::new(Peer::new(hello, cx.now.mono));
        peer.offset.greet(wall, cx.now, cx.config.max_skew_ms);
        cx.log(Level::Info, format!("linked to {} ({node}) at {}", peer.name, peer.advertise));
        self.swim.announce(peer.id(), cx.now.mono);
        if let Some(link) = self.links.get_mut(&id) {
            self.dialer.linked(node, [link.dialed.then_some(link.addr), Some(peer.advertise)], cx.now.mono);
            link.peer = Some(peer);
        }
        match replaced {
            Some(old) => self.discard(old, "duplicate link", cx),
            None => self.tell_links(),
        }
        self.swim_events(cx);
        self.judge_skew(id, cx);
        self.judge(id, true, cx);
        self.pull_tick(cx);
    }

    /// Whether a new link is to be the one that carries data to its node.
    fn survives(&self, id: LinkId, hello: &Hello, cx: &Cx<'_>) -> bool {
        let (Some(new), Some(old)) =
            (self.links.get(&id), self.peers.get(&hello.node).and_then(|old| self.links.get(old)))
        else {
            return true;
        };
        let restarted = old.peer.as_ref().is_some_and(|peer| peer.origin != hello.origin);
        let simultaneous = new.up_at.ms_since(old.up_at) < SIMULTANEOUS_MS && new.dialed != old.dialed;
        let dialed_by_lower = new.dialed == (cx.config.node < hello.node);
        restarted || !simultaneous || dialed_by_lower
    }

    /// Closes a link whose peer is not to be talked to, and says so.
    fn refuse(&mut self, id: LinkId, reason: &'static str, cx: &mut Cx<'_>) {
        let Some(link) = self.links.get(&id) else { return };
        let (addr, remote) = (link.addr, link.remote());
        cx.stats.links_refused += 1;
        self.refused.retain(|_, at| cx.now.mono.ms_since(*at) < REFUSED_MS);
        if self.refused.len() < REFUSED_MAX {
            self.refused.insert(addr.ip(), cx.now.mono);
        }
        if link.dialed {
            self.dialer.refused(addr, cx.now.mono, &mut self.rng);
        }
        self.complain(remote, reason, Level::Warn, || format!("refused the node at {addr}: {reason}"), cx);
        self.close(id, reason, cx);
    }

    /// Closes a link whose peer broke the protocol.
    pub(super) fn misbehaved(&mut self, id: LinkId, what: &'static str, cx: &mut Cx<'_>) {
        let Some((addr, remote)) = self.links.get(&id).map(|link| (link.addr, link.remote())) else { return };
        cx.stats.frames_malformed += 1;
        self.complain(remote, what, Level::Warn, || format!("the node at {addr} broke the protocol: {what}"), cx);
        self.close(id, what, cx);
    }

    /// Closes a link on which something came that could not be read.
    pub(super) fn malformed(&mut self, id: LinkId, error: WireError, cx: &mut Cx<'_>) {
        let Some((addr, remote)) = self.links.get(&id).map(|link| (link.addr, link.remote())) else { return };
        self.complain(
            remote,
            "bytes",
            Level::Warn,
            || format!("cannot read what the node at {addr} sends: {error}"),
            cx,
        );
        self.misbehaved(id, "malformed message", cx);
    }

    /// Closes a link and forgets it.
    pub(super) fn close(&mut self, id: LinkId, reason: &'static str, cx: &mut Cx<'_>) {
        if self.links.contains_key(&id) {
            cx.out.push_back(Output::CloseLink { link: id, reason });
            self.drop_link(id, reason, cx);
        }
    }

    /// Closes a link whose node has a better one.
    fn discard(&mut self, id: LinkId, reason: &'static str, cx: &mut Cx<'_>) {
        cx.stats.links_duplicate += 1;
        cx.out.push_back(Output::CloseLink { link: id, reason });
        self.end_sessions(id, cx);
        self.links.remove(&id);
    }

    /// A link is gone: ends what ran on it, and lets the dialer know.
    pub(super) fn drop_link(&mut self, id: LinkId, reason: &str, cx: &mut Cx<'_>) {
        self.end_sessions(id, cx);
        let Some(Link { peer: Some(peer), up_at, .. }) = self.links.remove(&id) else { return };
        if self.peers.get(&peer.node) != Some(&id) {
            return;
        }
        cx.stats.links_down += 1;
        cx.log(Level::Info, format!("link to {} ({}) ended: {reason}", peer.name, peer.node));
        self.peers.remove(&peer.node);
        self.roster.seen(peer.node, cx.now.wall.0 / 1_000);
        self.dialer.unlinked(peer.node, up_at, cx.now.mono, &mut self.rng);
        cx.replica.set_skewed(self.skewed(cx.config.max_skew_ms));
        self.tell_links();
    }

    fn end_sessions(&mut self, id: LinkId, cx: &mut Cx<'_>) {
        self.pull_lost(id, cx);
        self.serves_lost(id, cx);
        self.audit_lost(id);
    }

    /// All peers are to be told whom this node has links to: what they relay depends on it.
    fn tell_links(&mut self) {
        self.links.values_mut().for_each(|link| link.tell_links = true);
    }

    /// Closes links whose hello does not come.
    pub(super) fn close_silent(&mut self, cx: &mut Cx<'_>) {
        let silent = |link: &&Link| link.peer.is_none() && cx.now.mono.ms_since(link.up_at) >= HELLO_MS;
        let ids: Vec<LinkId> = self.links.values().filter(silent).map(|link| link.id).collect();
        for id in ids {
            self.close(id, "no hello", cx);
        }
    }
}

fn refusal(link: &Link, hello: &Hello, cx: &Cx<'_>) -> Option<Refusal> {
    let ours = cx.config;
    if hello.node == ours.node {
        return Some(if hello.origin == cx.replica.origin() { Refusal::Ourselves } else { Refusal::SameId });
    }
    if hello.advertise == ours.advertise {
        return Some(Refusal::SameAddress);
    }
    if hello.cluster != ours.cluster {
        return Some(Refusal::Cluster);
    }
    if link.subject.as_ref().is_some_and(|subject| *subject != hello.name) {
        return Some(Refusal::Name);
    }
    (hello.rules != cx.replica.rules().fingerprint()).then_some(Refusal::Rules)
}

impl Link {
    /// What this node has, for a hello (`whole`) or as news.
    pub(super) fn clocks(&mut self, whole: bool, cx: &mut Cx<'_>) -> Clocks {
        let clock = cx.replica.clock().clone();
        let horizon = super::clocks::horizon(cx);
        let (digest, cells) = cx.replica.digest_beyond(horizon);
        let forgotten =
            (whole || self.shown_forgotten != *cx.replica.forgotten()).then(|| cx.replica.forgotten().clone());
        if let Some(forgotten) = &forgotten {
            self.shown_forgotten = forgotten.clone();
        }
        self.show = false;
        self.shown_at = cx.now.mono;
        let stability = cx.replica.stability_clock();
        Clocks { clock, stability, forgotten, horizon, digest: digest.to_le_bytes(), cells }
    }
}
