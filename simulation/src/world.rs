//! The world of one run: every host, the network between them, and what is going to happen.
//!
//! Invariant: everything that happens is an event of one queue, taken in the order of (time, number). What an event does to
//! a host is in the module of that host's kind; this one puts them together.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::net::SocketAddr;

use foldhash::fast::{FixedState, FoldHasher};
use node::config::{DmqPeer, SipTransport};
use node::{Mono, Node, Wall};

use crate::clock::true_wall;
use crate::coverage::{Coverage, Sometimes};
use crate::host::NodeHost;
use crate::hostile::Hostile;
use crate::invariants::{self, Invariant, Moment, Violation};
use crate::kamailio::Kamailio;
use crate::ledger::Ledger;
use crate::load::Load;
use crate::net::Net;
use crate::queue::{At, Event, Queue};
use crate::quic::Conns;
use crate::run::{LogLine, Options, Outcome, Row};
use crate::script::{DiskLoss, FaultKind, Host, NodeIx, PathSpec, Script, ServerIx};
use crate::server::ServerHost;
use crate::step::Arrival;
use crate::tcp::Tcps;
use crate::view::{HostView, Traffic, View};

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Load and faults.
    Going,
    /// Both are over; everybody becomes equal.
    Calm,
    /// Everybody is.
    Equal,
    /// Over.
    Over,
}

/// Everything of one run.
pub(crate) struct World {
    pub script: Script,
    pub options: Options,
    pub now: Mono,
    pub queue: Queue,
    pub net: Net,
    pub conns: Conns,
    pub tcps: Tcps,
    pub nodes: Vec<NodeHost>,
    pub servers: Vec<ServerHost>,
    node_at: BTreeMap<NodeIx, At>,
    server_at: BTreeMap<ServerIx, At>,
    pub ledger: Ledger,
    pub load: Load,
    /// When the queue has the next [`Event::Load`].
    pub load_at: Mono,
    pub traffic: Traffic,
    pub coverage: Coverage,
    hasher: FoldHasher<'static>,
    pub steps: u64,
    /// Whether a node's outputs are being carried out.
    pub stepping: bool,
    /// The faults that go on, by place in the script.
    pub active: Vec<bool>,
    pub phase: Phase,
    pub equal_after_ms: Option<u64>,
    invariants: Vec<Box<dyn Invariant>>,
    pub violation: Option<Violation>,
    pub log: Vec<LogLine>,
    pub timeline: Vec<Row>,
    /// Traffic as of the last row of the timeline.
    pub told: Traffic,
    /// Hostile senders, by the number of their fault.
    pub strangers: BTreeMap<u32, Hostile>,
    /// When the run is over, once that is known.
    pub end_at: Mono,
}

impl World {
    /// The world of a script at its beginning.
    pub(crate) fn new(script: Script, options: Options) -> Self {
        let needs_history = |node: NodeIx| {
            script.faults.iter().any(|fault| {
                matches!(fault.kind, FaultKind::Kill { host: Host::Node(ix), disk: DiskLoss::Backup | DiskLoss::LostFsync, .. }
                    if ix == node)
            })
        };
        let nodes: Vec<NodeHost> =
            script.nodes.iter().map(|spec| NodeHost::new(spec, script.seed, needs_history(spec.ix))).collect();
        let servers: Vec<ServerHost> = script.servers.iter().map(ServerHost::new).collect();
        let node_at = script.nodes.iter().enumerate().map(|(at, spec)| (spec.ix, at as At)).collect();
        let first = nodes.len();
        let server_at = script.servers.iter().enumerate().map(|(at, spec)| (spec.ix, (first + at) as At)).collect();
        let net = Net::new(nodes.len() + servers.len(), script.seed, usual_paths(&script));
        let load = Load::new(&script);
        let invariants = if options.check { invariants::all(&script) } else { Vec::new() };
        let mut world = Self {
            now: Mono(0),
            queue: Queue::default(),
            net,
            conns: Conns::default(),
            tcps: Tcps::default(),
            nodes,
            servers,
            node_at,
            server_at,
            ledger: Ledger::default(),
            load,
            load_at: Mono(u64::MAX),
            traffic: Traffic::default(),
            coverage: Coverage::default(),
            hasher: FixedState::with_seed(0).build_hasher(),
            steps: 0,
            stepping: false,
            active: vec![false; script.faults.len()],
            phase: Phase::Going,
            equal_after_ms: None,
            invariants,
            violation: None,
            log: Vec::new(),
            timeline: Vec::new(),
            told: Traffic::default(),
            strangers: BTreeMap::new(),
            end_at: Mono(0),
            script,
            options,
        };
        world.plan();
        world
    }

    /// Posts what the script says.
    fn plan(&mut self) {
        for (at, spec) in self.script.nodes.iter().enumerate() {
            self.queue.post(Mono(0).plus_ms(spec.start_ms), Event::Start(at as At));
        }
        for (at, spec) in self.script.servers.iter().enumerate() {
            self.queue.post(Mono(0).plus_ms(spec.start_ms), Event::Start((self.nodes.len() + at) as At));
        }
        for (index, fault) in self.script.faults.iter().enumerate() {
            self.queue.post(Mono(0).plus_ms(fault.at_ms), Event::Fault(index as u32));
        }
        self.queue.post(Mono(0).plus_ms(1_000), Event::Second);
        self.plan_load();
    }

    /// Posts the end of load and faults. Without it the world goes on for as long as it is asked to.
    pub(crate) fn plan_end(&mut self) {
        self.queue.post(Mono(0).plus_ms(self.script.duration_ms), Event::Calm);
    }

    /// Runs until `end`, the end of the run, or a broken promise.
    pub(crate) fn run_until(&mut self, end: Mono) {
        while self.violation.is_none() && self.phase != Phase::Over {
            let Some((at, event)) = self.queue.pop(end) else {
                self.now = self.now.max(end);
                return;
            };
            self.now = at;
            self.event(event);
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Start(at) if self.is_node(at) => self.start_node(at),
            Event::Start(at) => self.start_server(at),
            Event::Wake(at) => self.wake(at),
            Event::Ready(at) if self.is_node(at) => self.ready(at),
            Event::Ready(at) => self.server_ready(at),
            Event::ServerWake(at) => self.server_wake(at),
            Event::Load => self.load_due(),
            Event::Patience(deed) => self.patience_ends(deed),
            Event::Sip { from, to, bytes } => self.sip_arrives(from, to, bytes),
            Event::Strange { from, to, bytes } => self.arrive(to, Arrival::Sip { from, bytes, hostile: true }),
            Event::Hostile(fault) => self.hostile(fault),
            Event::Disk { at, life, batch } => self.disk_done(at, life, batch),
            Event::DialFailed { at, life, addr } => {
                if self.nodes[usize::from(at)].lives == life {
                    self.arrive(at, Arrival::DialFailed { addr });
                }
            }
            Event::LegSent { conn, leg, again } => self.leg_sent(conn, leg, again),
            Event::Leg { conn, leg, again } => self.leg(conn, leg, again),
            Event::DialTimeout(conn) => self.dial_timeout(conn),
            Event::Lane { conn, side, lane } => self.lane_arrives(conn, side, lane),
            Event::Credit { conn, side, lane } => self.credit(conn, side, lane),
            Event::Datagram { conn, side, bytes } => self.datagram_arrives(conn, side, bytes),
            Event::Idle { conn, side, epoch } => self.idle(conn, side, epoch),
            Event::Ended { conn, side, why } => self.ended(conn, side, why),
            Event::Tcp { conn, side } => self.tcp_arrives(conn, side),
            Event::TcpTimeout(conn) => self.tcp_timeout(conn),
            Event::Fault(fault) => self.fault_begins(fault),
            Event::FaultOver(fault) => self.fault_ends(fault),
            Event::Second => self.second(),
            Event::Calm => self.calm(),
            Event::Compare => self.compare(),
            Event::End => self.end(),
        }
    }

    fn second(&mut self) {
        self.queue.post(self.now.plus_ms(1_000), Event::Second);
        self.tell(Moment::Second);
        if self.options.timeline {
            self.add_row();
        }
    }

    /// Tells the checkers of a moment.
    pub(crate) fn tell(&mut self, moment: Moment) {
        if self.invariants.is_empty() || self.violation.is_some() {
            return;
        }
        let mut all = std::mem::take(&mut self.invariants);
        self.violation = invariants::tell(&mut all, moment, self).err();
        self.invariants = all;
    }

    /// Whether a host is a node's.
    pub(crate) fn is_node(&self, at: At) -> bool {
        usize::from(at) < self.nodes.len()
    }

    /// The place of a host of the script.
    pub(crate) fn at(&self, host: Host) -> Option<At> {
        match host {
            Host::Node(ix) => self.node_at.get(&ix).copied(),
            Host::Server(ix) => self.server_at.get(&ix).copied(),
        }
    }

    /// The node with a QUIC address.
    pub(crate) fn node_by_quic(&self, addr: SocketAddr) -> Option<At> {
        let at = self.host_by_ip(addr)?;
        (self.is_node(at) && addr.port() == 7946).then_some(at)
    }

    /// The host that a SIP address belongs to.
    pub(crate) fn host_by_sip(&self, addr: SocketAddr) -> Option<At> {
        let at = self.host_by_ip(addr)?;
        let port = if self.is_node(at) { 5070 } else { 5060 };
        (addr.port() == port).then_some(at)
    }

    fn host_by_ip(&self, addr: SocketAddr) -> Option<At> {
        let std::net::IpAddr::V4(ip) = addr.ip() else { return None };
        let [10, kind, high, low] = ip.octets() else { return None };
        let ix = u16::from(high) * 200 + u16::from(low).checked_sub(1)?;
        match kind {
            0 => self.at(Host::Node(ix)),
            1 => self.at(Host::Server(ix)),
            _ => None,
        }
    }

    /// The SIP address of a host.
    pub(crate) fn sip_of(&self, at: At) -> SocketAddr {
        match self.nodes.get(usize::from(at)) {
            Some(node) => node.sip,
            None => self.servers[usize::from(at) - self.nodes.len()].addr,
        }
    }

    /// The servers that name a node.
    pub(crate) fn servers_at(&self, at: At) -> impl Iterator<Item = &ServerHost> {
        let ix = self.nodes[usize::from(at)].spec.ix;
        self.servers.iter().filter(move |server| server.spec.nodes.contains(&ix))
    }

    /// As a node's configuration names them.
    pub(crate) fn servers_of(&self, at: At) -> Vec<DmqPeer> {
        let transport = |tcp| if tcp { SipTransport::Tcp } else { SipTransport::Udp };
        self.servers_at(at).map(|server| DmqPeer { addr: server.addr, transport: transport(server.spec.tcp) }).collect()
    }

    /// Counts something for the coverage.
    pub(crate) fn saw(&mut self, what: Sometimes) {
        self.coverage.add(what, 1);
    }

    /// Adds to the hash of everything that was taken in.
    pub(crate) fn hash(&mut self, at: At, kind: u8, number: u64, bytes: &[u8]) {
        self.hasher.write_u64(self.now.0);
        self.hasher.write_u64(u64::from(at) << 48 | u64::from(kind) << 40 | bytes.len() as u64);
        self.hasher.write_u64(number);
        self.hasher.write(bytes);
    }

    /// Keeps a line of the log about a host, if one is wanted.
    pub(crate) fn note(&mut self, at: At, what: impl FnOnce() -> String) {
        if !self.options.log {
            return;
        }
        let who = match self.nodes.get(usize::from(at)) {
            Some(node) => node.name.clone(),
            None => format!("k{}", self.servers[usize::from(at) - self.nodes.len()].spec.ix),
        };
        self.line(who, what());
    }

    /// Keeps a line of the log.
    pub(crate) fn line(&mut self, who: String, what: String) {
        self.log.push(LogLine { at_us: self.now.0, who, what });
    }

    /// What came of the run.
    pub(crate) fn outcome(mut self) -> Outcome {
        for at in 0..self.nodes.len() {
            self.saw_metrics(at as At);
        }
        Outcome {
            violation: self.violation,
            trace: self.hasher.finish(),
            equal_after_ms: self.equal_after_ms,
            steps: self.steps,
            coverage: self.coverage.rows(),
            traffic: (&self.traffic).into(),
            log: self.log,
            timeline: self.timeline,
        }
    }

    /// The hash of everything taken in so far.
    pub(crate) fn trace_so_far(&self) -> u64 {
        self.hasher.finish()
    }
}

/// What the path between two hosts is like when nothing is wrong.
fn usual_paths(script: &Script) -> impl Fn(At, At) -> PathSpec + '_ {
    let nodes = script.nodes.len();
    let site = move |at: At| match script.nodes.get(usize::from(at)) {
        Some(node) => node.site,
        None => script.servers[usize::from(at) - nodes].site,
    };
    // A server stands on the host of the first node that it names, if they are in one site.
    let home = move |at: At| {
        let server = script.servers.get(usize::from(at).checked_sub(nodes)?)?;
        let first = server.nodes.first()?;
        script.nodes.iter().position(|node| node.ix == *first && node.site == server.site)
    };
    move |from, to| {
        let one_host = home(from) == Some(usize::from(to)) || home(to) == Some(usize::from(from));
        match (one_host, site(from) == site(to)) {
            (true, _) => script.net.host,
            (false, true) => script.net.site,
            (false, false) => script.net.wan,
        }
    }
}

impl View for World {
    fn now(&self) -> Mono {
        self.now
    }

    fn true_wall(&self) -> Wall {
        true_wall(self.now)
    }

    fn script(&self) -> &Script {
        &self.script
    }

    fn nodes(&self) -> usize {
        self.nodes.len()
    }

    fn node(&self, position: usize) -> HostView<'_> {
        let host = &self.nodes[position];
        HostView {
            spec: &host.spec,
            node: host.node.as_ref(),
            origin: host.origin,
            lives: host.lives,
            paused: host.is_paused(),
            wall: host.clock.wall(self.now),
            started: host.started,
        }
    }

    fn running(&self, position: usize) -> Option<&Node> {
        self.nodes[position].node.as_ref()
    }

    fn position(&self, ix: NodeIx) -> Option<usize> {
        self.node_at.get(&ix).map(|at| usize::from(*at))
    }

    fn server(&self, ix: ServerIx) -> Option<&Kamailio> {
        let at = *self.server_at.get(&ix)?;
        self.servers[usize::from(at) - self.nodes.len()].process.as_ref()
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn faulty(&self) -> bool {
        self.active.contains(&true)
    }

    fn traffic(&self) -> &Traffic {
        &self.traffic
    }
}
