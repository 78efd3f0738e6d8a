//! A host that a node runs on: its process and lives, its clock and disk. What goes in and out is in [`crate::step`].

use std::collections::VecDeque;
use std::net::SocketAddr;

use crdt::NodeId;
use node::config::{Ack, DmqConfig, DmqMode, DmqPeer, HtableConfig, SipSocket, SipTransport, Timing};
use node::{Config, Mono, Node, Origin, Restored};

use crate::clock::WallClock;
use crate::coverage::{METRICS, Sometimes};
use crate::disk::Disk;
use crate::invariants::Moment;
use crate::ledger::{DeedId, Ended};
use crate::queue::At;
use crate::rng::{Rng, Stream};
use crate::script::{DiskLoss, NodeIx, NodeSpec, Script};
use crate::step::Arrival;
use crate::world::World;

/// Between two pings to a server, milliseconds: the daemon's default.
const PING_MS: u64 = 5_000;

/// A node's host.
pub(crate) struct NodeHost {
    /// Its part of the script.
    pub spec: NodeSpec,
    /// Its QUIC address.
    pub quic: SocketAddr,
    /// Its SIP address.
    pub sip: SocketAddr,
    /// Its name.
    pub name: String,
    /// The process; `None` while it is down.
    pub node: Option<Node>,
    /// The origin of its current or last life.
    pub origin: Origin,
    /// How often it was started.
    pub lives: u32,
    /// How often it came under a new identity.
    pub identities: u64,
    /// When its process started.
    pub started: Mono,
    /// Its wall clock.
    pub clock: WallClock,
    /// Its disk; not used without one.
    pub disk: Disk,
    /// The faults that keep its process down.
    pub killed: Vec<u32>,
    /// The faults that make it stand still, and since when.
    pub paused: Vec<u32>,
    pub paused_at: Mono,
    /// What makes it slow: the fault and microseconds per input.
    pub slow: Vec<(u32, u64)>,
    /// How many faults say that it speaks another version of the protocol.
    pub other_version: u32,
    /// Until when it works on what it took in last.
    pub busy_until: Mono,
    /// What it has not taken in yet.
    pub waiting: VecDeque<Arrival>,
    /// Whether an [`Event::Ready`] is in the world's queue.
    pub ready: bool,
    /// When the node wants its next tick, and when the world's queue has one for it.
    pub until: Mono,
    pub wake: Option<Mono>,
    /// Deeds that were given to this life and are not answered.
    pub open: Vec<DeedId>,
}

/// The QUIC address of a node.
pub(crate) fn quic_addr(ix: NodeIx) -> SocketAddr {
    SocketAddr::from(([10, 0, (ix / 200) as u8, (ix % 200) as u8 + 1], 7946))
}

/// The SIP address of a node.
pub(crate) fn sip_addr(ix: NodeIx) -> SocketAddr {
    SocketAddr::from(([10, 0, (ix / 200) as u8, (ix % 200) as u8 + 1], 5070))
}

impl NodeHost {
    /// A host whose node was never started.
    pub(crate) fn new(spec: &NodeSpec, seed: u64, history: bool) -> Self {
        Self {
            spec: spec.clone(),
            quic: quic_addr(spec.ix),
            sip: sip_addr(spec.ix),
            name: format!("n{}", spec.ix),
            node: None,
            origin: Origin(0),
            lives: 0,
            identities: 0,
            started: Mono(0),
            clock: WallClock { offset_ms: spec.clock_offset_ms, drift_ppm: spec.clock_drift_ppm, jump_ms: 0 },
            disk: Disk::new(Rng::stream(seed, Stream::Disk, u64::from(spec.ix)), history),
            killed: Vec::new(),
            paused: Vec::new(),
            paused_at: Mono(0),
            slow: Vec::new(),
            other_version: 0,
            busy_until: Mono(0),
            waiting: VecDeque::new(),
            ready: false,
            until: Mono(0),
            wake: None,
            open: Vec::new(),
        }
    }

    /// Whether it stands still.
    pub(crate) fn is_paused(&self) -> bool {
        !self.paused.is_empty()
    }

    /// How long each input takes, microseconds.
    pub(crate) fn slow_us(&self) -> u64 {
        self.slow.iter().map(|(_, us)| *us).max().unwrap_or(0)
    }

    /// What its process is started with.
    fn config(&self, script: &Script, servers: Vec<DmqPeer>) -> Config {
        let limits = &script.limits;
        let tables = script.htables.iter().map(|(name, table)| {
            let config = HtableConfig {
                autoexpire_s: table.autoexpire_s,
                updateexpire: !table.keep_expire,
                counter: table.counter,
                max_ttl_s: table.max_ttl_s,
            };
            (name.clone(), config)
        });
        // In this order: crate::step numbers them.
        let tcp = servers.iter().any(|server| server.transport == SipTransport::Tcp);
        let sockets = [Some(SipTransport::Udp), tcp.then_some(SipTransport::Tcp)].into_iter().flatten();
        let trusted = ["10.1.0.0/16", "10.0.0.0/16"].into_iter().filter_map(|net| net.parse().ok());
        Config {
            node: NodeId(u64::from(self.spec.ix) + 1 + 1_000 * self.identities),
            origin: self.origin,
            name: self.name.clone(),
            cluster: "sim".to_owned(),
            advertise: self.quic,
            join: self.spec.join.iter().map(|&ix| quic_addr(ix)).collect(),
            ack: if self.spec.ack_disk && self.spec.durable { Ack::Disk } else { Ack::Memory },
            durable: self.spec.durable,
            max_skew_ms: limits.max_skew_ms,
            forget_after_s: limits.forget_after_s,
            timing: if limits.wan { Timing::Wan } else { Timing::Lan },
            location_max_ttl_s: limits.location_max_ttl_s,
            dialog_max_life_s: limits.dialog_max_life_s,
            htables: tables.collect(),
            sip: sockets.map(|transport| SipSocket { transport, addr: self.sip }).collect(),
            dmq: DmqConfig {
                peers: servers,
                mode: if limits.mesh { DmqMode::Mesh } else { DmqMode::Bridge },
                trusted: trusted.collect(),
                ping_interval_ms: PING_MS,
                window: 64,
                feed_limit: 0,
                multi: 3,
            },
        }
    }
}

impl World {
    /// Starts a node's process, if it is down and nothing keeps it down.
    pub(crate) fn start_node(&mut self, at: At) {
        let now = self.now;
        let seed = self.script.seed;
        let servers = self.servers_of(at);
        let host = &mut self.nodes[usize::from(at)];
        if host.node.is_some() || !host.killed.is_empty() {
            return;
        }
        if host.lives > 0 && !host.spec.durable {
            host.identities += 1;
        }
        host.lives += 1;
        let life = u64::from(host.spec.ix) << 32 | u64::from(host.lives);
        host.origin = Origin(Rng::stream(seed, Stream::Origin, life).next().max(1));
        host.started = now;
        host.busy_until = now;
        host.wake = None;
        let config = host.config(&self.script, servers);
        let restored = if host.spec.durable { host.disk.load() } else { Restored::default() };
        let entropy = Rng::stream(seed, Stream::Node, life).bytes();
        let own_now = node::Now { mono: now, wall: host.clock.wall(now) };
        host.node = Some(Node::new(config, entropy, own_now, restored));
        let (origin, memory_only) = (host.origin, host.lives > 1 && !host.spec.durable);
        self.note(at, || format!("starts, origin {origin}"));
        if memory_only {
            self.saw(Sometimes::MemoryOnly);
        }
        self.saw_start(at);
        self.tell(Moment::Started { node: usize::from(at), origin });
        self.host_changed(at);
        self.arrive(at, Arrival::Tick);
    }

    fn saw_start(&mut self, at: At) {
        if (0..self.nodes.len() as At).any(|other| other != at && self.net.is_cut(at, other)) {
            self.saw(Sometimes::JoinDuringCut);
        }
        if self.nodes[usize::from(at)].lives > 1 && self.servers_at(at).any(|server| server.process.is_none()) {
            self.saw(Sometimes::NodeWhileServerDown);
        }
    }

    /// Ends a node's process at once.
    pub(crate) fn kill_node(&mut self, at: At, loss: DiskLoss, new_identity: bool) {
        if self.nodes[usize::from(at)].node.is_none() {
            return;
        }
        self.tell(Moment::Crashing { node: usize::from(at) });
        self.note(at, || format!("is killed, disk: {loss:?}"));
        let now = self.now;
        self.saw_crash(at, loss);
        let host = &mut self.nodes[usize::from(at)];
        host.node = None;
        host.paused.clear();
        host.waiting.clear();
        host.wake = None;
        let loss = if new_identity { DiskLoss::Wiped } else { loss };
        let lost = host.disk.crash(loss, now);
        if loss == DiskLoss::Wiped {
            // The identity is kept beside the state.
            host.identities += 1;
        }
        let open = std::mem::take(&mut host.open);
        match loss {
            DiskLoss::LostFsync if lost => self.saw(Sometimes::LostFsync),
            DiskLoss::Backup if lost => self.saw(Sometimes::Backup),
            DiskLoss::Wiped if new_identity => self.saw(Sometimes::NewIdentity),
            DiskLoss::Wiped if lost => self.saw(Sometimes::Wiped),
            _ => {}
        }
        self.links_die(at);
        self.tcp_dies(at);
        for deed in open {
            self.deed_ended(deed, Ended::Unknown);
        }
    }

    fn saw_crash(&mut self, at: At, loss: DiskLoss) {
        self.saw_metrics(at);
        let host = &self.nodes[usize::from(at)];
        let writing = host.disk.flying.is_some();
        let now = host_now(host, self.now);
        let unwritten = host.node.as_ref().is_some_and(|node| node.status(now).durable == Some(false));
        if writing {
            self.saw(Sometimes::CrashWhileWriting);
        }
        if writing && loss == DiskLoss::Tail {
            self.saw(Sometimes::TailWritten);
        }
        if unwritten {
            self.saw(Sometimes::AckedAndLost);
        }
    }

    /// Adds what a node's own counters tell. Once per life.
    pub(crate) fn saw_metrics(&mut self, at: At) {
        let host = &self.nodes[usize::from(at)];
        let Some(node) = &host.node else { return };
        let metrics = node.metrics(host_now(host, self.now));
        let forgot = !node.replica().forgotten().is_empty();
        for metric in metrics {
            if let Some((_, what)) = METRICS.iter().find(|(name, _)| *name == metric.name) {
                self.coverage.add(*what, metric.value);
            }
        }
        if forgot {
            self.saw(Sometimes::Forgotten);
        }
    }
}

/// The two times as a node sees them.
pub(crate) fn host_now(host: &NodeHost, now: Mono) -> node::Now {
    node::Now { mono: now, wall: host.clock.wall(now) }
}
