//! The mesh half of a node: links to other nodes, membership, push, sync and audit.
//!
//! A link is a mutually authenticated connection that the shell keeps. Its first frame in each direction is a hello;
//! nothing else is taken before it. Between two nodes at most one link carries data. What follows:
//!
//! - [`dial`] keeps connecting to whoever should be linked and is not;
//! - [`swim`] says who is a member, as a hint for people and for ownership;
//! - [`push`] sends what changes, at once;
//! - [`clocks`] shows what this node has, and notices what it lacks (and whose wall clock is off, [`skew`]);
//! - [`pull`] and [`serve`] are the two ends of a sync session, which gets what is missing;
//! - [`audit`] compares digests where clocks are equal, and repairs;
//! - [`roster`] remembers who was met.
//!
//! It leaves to `crdt` what is merged, covered and forgotten, and to the journal what goes to disk.
//!
//! Invariants: no data moves on a link before its hello was accepted and its node entered in the roster of forgetting (R5); all
//! queues are bounded; one input causes at most one chunk of bulk work per session.

mod audit;
mod clocks;
mod dial;
mod hello;
mod link;
mod pull;
mod push;
mod roster;
mod serve;
mod skew;
mod swim;
mod wire;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use self::tests::config as test_config;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use crdt::{Cause, Change, NodeId};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use self::audit::Audit;
use self::dial::Dialer;
use self::link::{Link, Peer};
use self::pull::Pull;
use self::roster::{Known, Roster};
use self::serve::Serve;
pub(crate) use self::skew::Jumps;
use self::swim::{Id, Swim, SwimEvent};
pub(crate) use self::wire::ServerNote;
use crate::config::Config;
use crate::cx::Cx;
use crate::io::{Lane, Level, LinkId, Mono, Now, Output, Tree};
use crate::view::{MemberState, MemberView};

/// A link without a hello is closed after this, milliseconds.
const HELLO_MS: u64 = 5_000;
/// Between two looks at who has been away for too long, milliseconds.
const HOUSEKEEPING_MS: u64 = 60_000;
/// How long a node takes at most to ask its servers for what they have, milliseconds.
const REPLACED_MS: u64 = 120_000;
/// The same complaint is made once in this time, milliseconds.
const COMPLAIN_MS: u64 = 60_000;
/// A node that was refused is there for so long, milliseconds: longer than the time until it tries again.
const REFUSED_MS: u64 = 60_000;
/// So many of them are remembered.
const REFUSED_MAX: usize = 64;
/// How long a node that learned of another by hearsay leaves it the first dial, if the other's id is lower, milliseconds.
const DEFER_MS: u64 = 500;

/// Key of the generation in `Tree::Meta`.
const GENERATION: &[u8] = b"swim/generation";

/// Links, membership, push, sync and audit. See the module.
pub(crate) struct Mesh {
    rng: ChaCha8Rng,
    links: BTreeMap<LinkId, Link>,
    /// The one link per node that carries data.
    peers: BTreeMap<NodeId, LinkId>,
    dialer: Dialer,
    swim: Swim,
    roster: Roster,
    pull: Option<Pull>,
    /// Whether a session has ended well since the start.
    pulled: bool,
    started: Mono,
    /// By how much our wall clock has jumped since a peer's was last found near it, milliseconds.
    jumped_ms: i64,
    /// Whether what this node holds is as new as can be had: see [`Mesh::catch_up`].
    caught_up: bool,
    /// When it first had what every linked node has.
    level: Option<Mono>,
    /// Nodes whose address another one has now, and since when: see [`Mesh::enter_roster`].
    replaced: BTreeMap<NodeId, Mono>,
    /// Whether there was something on disk.
    past: bool,
    /// Where a node was refused that may be one of us, one of another version say, and when.
    refused: BTreeMap<IpAddr, Mono>,
    serves: BTreeMap<(LinkId, u32), Serve>,
    audit: Option<Audit>,
    servers: Vec<ServerNote>,
    /// Who sent the frame that is being handled.
    source: Option<NodeId>,
    complaints: BTreeMap<(SocketAddr, &'static str), Mono>,
    housekeeping_at: Mono,
    puts: Vec<(Vec<u8>, Option<Bytes>)>,
    /// When [`Mesh::tick`] has something to do, as of the last look; `Mono(0)`: look again.
    wake: (Mono, &'static str),
}

/// Whether a node is told at its start to join others.
fn joins(config: &Config) -> bool {
    config.join.iter().any(|addr| *addr != config.advertise)
}

/// See [`Mesh::wake`].
const LOOK: (Mono, &str) = (Mono(0), "mesh");

impl Mesh {
    /// A mesh without links. `puts` is what [`Mesh::take_puts`] gave to the disk in earlier lives.
    pub(crate) fn new(config: &Config, seed: [u8; 32], now: Now, puts: &[(Tree, Vec<u8>, Vec<u8>)]) -> Self {
        let mut rng = ChaCha8Rng::from_seed(seed);
        let mut roster = Roster::default();
        let mut generation = now.wall.0;
        for (_, key, value) in puts.iter().filter(|(tree, ..)| *tree == Tree::Meta) {
            if Roster::owns(key) {
                roster.restore(key, value);
            } else if key == GENERATION
                && let Ok(saved) = value.as_slice().try_into()
            {
                generation = generation.max(u64::from_be_bytes(saved).saturating_add(1));
            }
        }
        let mut dialer = Dialer::default();
        dialer.ours(config.advertise);
        config.join.iter().for_each(|&addr| dialer.configure(addr, now.mono));
        roster.iter().for_each(|(node, known)| dialer.learn(known.addr, Some(node), now.mono, 0));
        let id = Id { addr: config.advertise, node: config.node, generation, name: config.name.clone() };
        let swim_rng = ChaCha8Rng::from_seed(rng.random());
        Self {
            links: BTreeMap::new(),
            peers: BTreeMap::new(),
            dialer,
            swim: Swim::new(id, config.timing, config.forget_after_s, swim_rng, now.mono),
            roster,
            pull: None,
            pulled: false,
            started: now.mono,
            caught_up: false,
            level: None,
            replaced: BTreeMap::new(),
            past: !puts.is_empty(),
            refused: BTreeMap::new(),
            jumped_ms: 0,
            serves: BTreeMap::new(),
            audit: None,
            servers: Vec::new(),
            source: None,
            complaints: BTreeMap::new(),
            housekeeping_at: now.mono.plus_ms(HOUSEKEEPING_MS),
            puts: vec![generation_put(generation)],
            wake: LOOK,
            rng,
        }
    }

    /// A connection is up: greets.
    pub(crate) fn link_up(
        &mut self,
        link: LinkId,
        addr: SocketAddr,
        dialed: bool,
        subject: Option<&str>,
        cx: &mut Cx<'_>,
    ) {
        self.wake = LOOK;
        if dialed {
            self.dialer.connected(addr, cx.now.mono, &mut self.rng);
        }
        self.greet(Link::new(link, addr, dialed, subject.map(str::to_owned), cx.now.mono), cx);
    }

    /// A connection ended.
    pub(crate) fn link_down(&mut self, link: LinkId, reason: &str, cx: &mut Cx<'_>) {
        self.wake = LOOK;
        self.drop_link(link, reason, cx);
    }

    /// An attempt to connect failed.
    pub(crate) fn dial_failed(&mut self, addr: SocketAddr, reason: &str, cx: &mut Cx<'_>) {
        self.wake = LOOK;
        cx.stats.dials_failed += 1;
        self.dialer.failed(addr, cx.now.mono, &mut self.rng);
        self.complain(addr, "dial", Level::Info, || format!("cannot reach {addr}: {reason}"), cx);
    }

    /// A datagram of a link: a packet of the membership protocol.
    pub(crate) fn datagram(&mut self, link: LinkId, bytes: &[u8], cx: &mut Cx<'_>) {
        self.wake = LOOK;
        if self.peer(link).is_none() {
            return;
        }
        cx.stats.swim_packets_in += 1;
        if !self.swim.packet(bytes, cx.now.mono) {
            cx.stats.swim_packets_malformed += 1;
        }
        self.swim_events(cx);
    }

    /// A frame of an ordered lane.
    pub(crate) fn frame(&mut self, link: LinkId, lane: Lane, bytes: &[u8], cx: &mut Cx<'_>) {
        self.wake = LOOK;
        self.source = self.peer(link).map(|peer| peer.node);
        match lane {
            Lane::Push => self.push_frame(link, bytes, cx),
            // Lanes overtake each other: the hello may still be under way.
            Lane::Session { .. } if self.source.is_none() => self.decline(link, lane, cx),
            Lane::Session { id, opened_here: true } => self.answer_frame(link, id, bytes, cx),
            Lane::Session { id, opened_here: false } => self.serve_frame(link, id, bytes, cx),
        }
    }

    /// The transport took frames.
    pub(crate) fn frames_sent(&mut self, link: LinkId, lane: Lane, frames: u32, cx: &mut Cx<'_>) {
        self.wake = LOOK;
        match lane {
            Lane::Push => {
                let Some(link) = self.links.get_mut(&link) else { return };
                link.unsent = link.unsent.saturating_sub(frames);
                link.flush(cx);
            }
            Lane::Session { id, opened_here: false } => self.serve_credit(link, id, frames, cx),
            Lane::Session { opened_here: true, .. } => {}
        }
    }

    /// The peer closed a session lane.
    pub(crate) fn lane_closed(&mut self, link: LinkId, lane: Lane, cx: &mut Cx<'_>) {
        self.wake = LOOK;
        match lane {
            Lane::Push => self.misbehaved(link, "push lane closed", cx),
            Lane::Session { id, opened_here: true } => self.answer_closed(link, id, cx),
            Lane::Session { id, opened_here: false } => self.serve_closed(link, id, cx),
        }
    }

    /// Cells changed: pushes them. Call with every batch of `drain_changes`, before a slot can be used again, and before
    /// another input is handled: what came from a peer is told by the frame that was handled last.
    pub(crate) fn on_changes(&mut self, changes: &[Change], cx: &mut Cx<'_>) {
        for link in self.links.values_mut() {
            link.show = true;
            for change in changes {
                match change.cause {
                    // A repair brings what others issued and cover; whoever lost it finds out for itself.
                    // A session may bring very much: neighbours see it in our clocks and ask for what they lack.
                    Cause::Expired | Cause::Repaired | Cause::Synced => {}
                    Cause::Forgotten => link.queue.forget(change.slot),
                    Cause::Local => link.enter(change, None, cx),
                    Cause::Pushed => link.enter(change, self.source, cx),
                }
            }
            link.flush(cx);
            if let Some(at) = link.wakeup().filter(|&at| at < self.wake.0) {
                self.wake = (at, "link");
            }
        }
    }

    /// Time passed. Does what is due, at most one chunk of bulk work. Cheap when nothing is: call it after every input.
    pub(crate) fn tick(&mut self, cx: &mut Cx<'_>) {
        if self.wake == LOOK {
            self.wake = self.look();
        }
        if self.wake.0 > cx.now.mono {
            return;
        }
        let linked = self.links.values().filter_map(|link| link.peer.as_ref()).map(|peer| peer.id());
        self.swim.tick(linked, cx.now.mono);
        self.swim_events(cx);
        for addr in self.dialer.due(cx.now.mono) {
            cx.stats.dials += 1;
            cx.out.push_back(Output::Dial { addr });
        }
        self.close_silent(cx);
        for link in self.links.values_mut() {
            link.tell(&self.peers, &self.servers, cx);
            link.flush(cx);
            link.ping(cx);
            link.show_if_due(cx);
        }
        self.pull_tick(cx);
        self.serve_tick(cx);
        self.audit_tick(cx);
        self.housekeeping(cx);
        self.wake = self.look();
    }

    /// When [`Mesh::tick`] has something to do, and what; a moment that is past means at once.
    pub(crate) fn next_wakeup(&self) -> (Mono, &'static str) {
        if self.wake == LOOK { self.look() } else { self.wake }
    }

    fn look(&self) -> (Mono, &'static str) {
        let mut next = (self.swim.next(), "swim");
        let mut earlier = |at: Option<Mono>, why| {
            if let Some(at) = at.filter(|&at| at < next.0) {
                next = (at, why);
            }
        };
        earlier(self.dialer.next(), "dial");
        earlier(Some(self.housekeeping_at), "roster");
        earlier(self.serve_wakeup(), "serve");
        earlier(self.pull_wakeup(), "pull");
        earlier(self.audit_wakeup(), "audit");
        for link in self.links.values() {
            earlier(link.wakeup(), "link");
        }
        next
    }

    /// The durable clock moved: it is shown with the next clocks.
    pub(crate) fn persisted(&mut self) {
        self.links.values_mut().for_each(|link| link.show = true);
        self.wake = LOOK;
    }

    /// This node and the others, by name.
    pub(crate) fn members(&self, config: &Config) -> Vec<MemberView> {
        let me = MemberView {
            name: config.name.clone(),
            id: config.node,
            addr: config.advertise,
            state: MemberState::Alive,
            linked: false,
            offset_ms: None,
            queued: 0,
        };
        let mut rows = vec![me];
        rows.extend(self.roster.iter().map(|(node, known)| self.member(node, known)));
        rows.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        rows
    }

    fn member(&self, node: NodeId, known: &Known) -> MemberView {
        let link = self.peers.get(&node).and_then(|link| self.links.get(link));
        let peer = link.and_then(|link| link.peer.as_ref());
        let state = match self.swim.state(known.addr) {
            _ if peer.is_some() => MemberState::Alive,
            Some(foca::State::Alive) => MemberState::Alive,
            Some(foca::State::Suspect) => MemberState::Suspect,
            Some(foca::State::Down) | None => MemberState::Down,
        };
        MemberView {
            name: known.name.clone(),
            id: node,
            addr: known.addr,
            state,
            linked: peer.is_some_and(|peer| peer.trusted()),
            offset_ms: peer.and_then(|peer| peer.offset.ms()),
            queued: link.map_or(0, |link| link.queue.len()),
        }
    }

    /// Other nodes with a link that carries data.
    pub(crate) fn links(&self) -> usize {
        self.links.values().filter(|link| link.peer.as_ref().is_some_and(|peer| peer.trusted())).count()
    }

    /// Whether this node is still taking in its first session.
    pub(crate) fn joining(&self) -> bool {
        self.pull.is_some() && !self.pulled
    }

    /// Since when this node has had what the others had after its start, or knows that there are none, or has met none for so
    /// long that they would not know it any more.
    pub(crate) fn level_since(&mut self, config: &Config, now: Mono) -> Option<Mono> {
        let alone = self.roster.iter().next().is_none() && !joins(config);
        let given_up = now.ms_since(self.started) >= config.forget_after_s * 1_000;
        let level = self.links() > 0 && self.pull.is_none() && self.behind().next().is_none();
        if alone || given_up || level {
            self.level.get_or_insert(now);
        }
        self.level
    }

    /// How many linked nodes have lower ids: what one of several nodes has to do alone, each leaves to those first.
    pub(crate) fn nodes_before(&self, config: &Config) -> u64 {
        self.peers.keys().filter(|node| **node < config.node).count() as u64
    }

    /// Whether this node can say what everybody knows of something that a server shows it: one without a past can when every
    /// node that is known of or configured is linked with it, or has not been for so long that it is not waited for.
    pub(crate) fn knows_everything(&self, config: &Config, now: Mono) -> bool {
        const LONGEST_MS: u64 = 600_000;
        // Whoever is known at our address is an earlier life of ours.
        let mut others = self.roster.iter().filter(|(_, known)| known.addr != config.advertise);
        let refused = self.refused.values().any(|at| now.ms_since(*at) < REFUSED_MS);
        let met =
            |addr: &SocketAddr| *addr == config.advertise || self.roster.iter().any(|(_, known)| known.addr == *addr);
        let all = !refused && config.join.iter().all(met) && others.all(|(node, _)| self.peers.contains_key(&node));
        all || self.past || now.ms_since(self.started) >= LONGEST_MS
    }

    /// Whether this node has, since its start, got what the others had, so that it may speak for the mesh: a server that
    /// were told what a disk had kept, or asked while others already know more, would be told wrong. Waits for every node
    /// that it knows of, but not long for those that do not come.
    pub(crate) fn catch_up(&mut self, config: &Config, now: Mono) -> bool {
        const ABSENT_MS: u64 = 3_000;
        const LONGEST_MS: u64 = 60_000;
        if self.caught_up {
            return true;
        }
        let waited = now.ms_since(self.started);
        let expected = self.roster.iter().count().max(usize::from(!config.join.is_empty()));
        let met = self.links() >= expected || waited >= ABSENT_MS;
        let level = self.pull.is_none() && self.behind().next().is_none();
        self.caught_up = met && level || waited >= LONGEST_MS;
        self.caught_up
    }

    /// Our wall clock has jumped by so many milliseconds: every other one is off by that until a pong says otherwise. Without
    /// a link it is our own that is in doubt, if there are others to be in doubt with.
    pub(crate) fn clock_jumped(&mut self, by_ms: i64, cx: &mut Cx<'_>) {
        let max_ms = cx.config.max_skew_ms;
        self.wake = LOOK;
        for peer in self.links.values_mut().filter_map(|link| link.peer.as_mut()) {
            peer.offset.shift(by_ms, max_ms);
        }
        self.jumped_ms = self.jumped_ms.saturating_add(by_ms);
        cx.log(Level::Warn, format!("the clock of this host has jumped by {by_ms} ms"));
        cx.replica.set_skewed(self.skewed(max_ms));
    }

    /// Whether our clock may be taken for right: it agrees with most of the others that are linked; without any it is in doubt
    /// after a jump, if there are others.
    pub(crate) fn is_clock_right(&self, max_ms: u64) -> bool {
        let agree = || self.links.values().filter_map(|link| link.peer.as_ref()).map(|peer| peer.offset.agrees(max_ms));
        match agree().count() {
            0 => !self.skewed(max_ms),
            all => 2 * agree().filter(|agrees| *agrees).count() >= all,
        }
    }

    /// Whether any peer's clock is off by more than allowed, or ours may be (R3).
    pub(crate) fn skewed(&self, max_ms: u64) -> bool {
        let doubtful = self.jumped_ms.unsigned_abs() > max_ms && self.roster.iter().next().is_some();
        doubtful || self.links.values().any(|link| link.peer.as_ref().is_some_and(|peer| !peer.trusted()))
    }

    /// The KDMQ servers that this node sees; told to all peers when it changes.
    pub(crate) fn set_servers(&mut self, servers: Vec<ServerNote>, cx: &mut Cx<'_>) {
        if self.servers == servers {
            return;
        }
        self.servers = servers;
        self.wake = LOOK;
        for link in self.links.values_mut() {
            link.tell_servers = true;
            link.tell(&self.peers, &self.servers, cx);
        }
    }

    /// The servers that linked nodes see, by node.
    pub(crate) fn peer_servers(&self) -> impl Iterator<Item = (NodeId, &[ServerNote])> {
        self.peers.iter().filter_map(|(&node, link)| {
            let peer = self.links.get(link)?.peer.as_ref()?;
            Some((node, peer.servers.as_slice()))
        })
    }

    /// SIP addresses of every node that was ever met: none of them is a Kamailio server.
    pub(crate) fn sip_addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.roster.iter().flat_map(|(_, known)| known.sip.iter().copied())
    }

    /// Those of nodes that are not linked.
    pub(crate) fn unlinked_sip_addrs(&self) -> impl Iterator<Item = SocketAddr> {
        let unlinked = self.roster.iter().filter(|(node, _)| !self.peers.contains_key(node));
        unlinked.flat_map(|(_, known)| known.sip.iter().copied())
    }

    /// What the mesh wants on disk since the last call.
    pub(crate) fn take_puts(&mut self) -> Vec<(Tree, Vec<u8>, Option<Bytes>)> {
        let (mut puts, roster) = (std::mem::take(&mut self.puts), self.roster.take_unsaved());
        if puts.is_empty() && roster.is_empty() {
            return Vec::new();
        }
        puts.extend(roster);
        puts.into_iter().map(|(key, value)| (Tree::Meta, key, value)).collect()
    }
}

fn generation_put(generation: u64) -> (Vec<u8>, Option<Bytes>) {
    (GENERATION.to_vec(), Some(Bytes::copy_from_slice(&generation.to_be_bytes())))
}

impl Mesh {
    fn peer(&self, link: LinkId) -> Option<&Peer> {
        self.links.get(&link)?.peer.as_deref()
    }

    fn peer_mut(&mut self, link: LinkId) -> Option<&mut Peer> {
        self.links.get_mut(&link)?.peer.as_deref_mut()
    }

    /// Carries out what membership wants.
    fn swim_events(&mut self, cx: &mut Cx<'_>) {
        while let Some(event) = self.swim.poll() {
            match event {
                SwimEvent::Send(addr, bytes) => match self.link_to(addr) {
                    Some(link) => {
                        cx.stats.swim_packets_out += 1;
                        cx.out.push_back(Output::Datagram { link, bytes });
                    }
                    None => cx.stats.swim_packets_unsent += 1,
                },
                SwimEvent::Renamed(id) => self.met(&id, cx),
                SwimEvent::Up(id) => {
                    cx.log(Level::Info, format!("member {} at {} is alive", id.name, id.addr));
                    self.met(&id, cx);
                }
                SwimEvent::Down(id) => cx.log(Level::Info, format!("member {} at {} is down", id.name, id.addr)),
                SwimEvent::Renewed(generation) => self.puts.push(generation_put(generation)),
            }
        }
    }

    fn link_to(&self, addr: SocketAddr) -> Option<LinkId> {
        let leads_there = |link: &&LinkId| self.peer(**link).is_some_and(|peer| peer.advertise == addr);
        self.peers.values().find(leads_there).copied()
    }

    /// Somebody is a member: remembers and dials it. Of two nodes that hear of each other the one with the lower id dials first.
    fn met(&mut self, id: &Id, cx: &mut Cx<'_>) {
        let linked = self.link_to(id.addr).and_then(|link| self.peer(link));
        if id.node == cx.config.node || linked.is_some_and(|peer| peer.node != id.node) {
            return;
        }
        let sip = self.roster.get(id.node).map(|known| known.sip.clone()).unwrap_or_default();
        let known = Known { name: id.name.clone(), addr: id.addr, sip, seen: cx.now.wall.0 / 1_000 };
        self.enter_roster(id.node, known, cx);
        let after_ms = if cx.config.node < id.node { 0 } else { DEFER_MS };
        self.dialer.learn(id.addr, Some(id.node), cx.now.mono, after_ms);
    }

    /// Enters a node. One that was at its address had no disk and will not come back, but its servers are there: the new one
    /// asks them first, and until then no removal is forgotten that the old one had not seen.
    fn enter_roster(&mut self, node: NodeId, known: Known, cx: &mut Cx<'_>) {
        for gone in self.roster.enter(node, known) {
            self.replaced.insert(gone, cx.now.mono);
            self.dialer.forget(gone);
            if let Some(&link) = self.peers.get(&gone) {
                self.close(link, "another node has its address now", cx);
            }
        }
    }

    /// Lets nodes go that were away for longer than `forget_after`.
    fn housekeeping(&mut self, cx: &mut Cx<'_>) {
        if self.housekeeping_at > cx.now.mono {
            return;
        }
        self.housekeeping_at = cx.now.mono.plus_ms(HOUSEKEEPING_MS);
        let now_s = cx.now.wall.0 / 1_000;
        cx.replica.retire_origins(cx.now.wall, cx.config.forget_after_s);
        for &node in self.peers.keys() {
            self.roster.seen(node, now_s);
        }
        self.replaced.retain(|&node, since| {
            let kept = cx.now.mono.ms_since(*since) < REPLACED_MS;
            if !kept && self.roster.get(node).is_none() {
                cx.replica.roster_remove(node);
            }
            kept
        });
        let alive: BTreeSet<NodeId> =
            self.swim.members().filter(|(_, state)| *state != foca::State::Down).map(|(id, _)| id.node).collect();
        for node in self.roster.seen_before(now_s.saturating_sub(cx.config.forget_after_s)) {
            if !alive.contains(&node) && !self.peers.contains_key(&node) {
                cx.log(Level::Info, format!("node {node} was away for too long and is no member any more"));
                self.roster.remove(node);
                self.dialer.forget(node);
                cx.replica.roster_remove(node);
            }
        }
    }

    /// Writes a line at most once a minute per address and kind.
    fn complain(
        &mut self,
        addr: SocketAddr,
        kind: &'static str,
        level: Level,
        text: impl FnOnce() -> String,
        cx: &mut Cx<'_>,
    ) {
        let now = cx.now.mono;
        self.complaints.retain(|_, at| now.ms_since(*at) < COMPLAIN_MS);
        if let std::collections::btree_map::Entry::Vacant(entry) = self.complaints.entry((addr, kind)) {
            entry.insert(now);
            cx.log(level, text());
        }
    }
}
