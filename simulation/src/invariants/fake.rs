//! A world for the checkers' own tests: real nodes without a network between them.

use std::collections::BTreeMap;

use node::config::{Ack, DmqConfig, DmqMode, HtableConfig, SipSocket, SipTransport, Timing};
use node::{Command, CommandId, Config, Input, Mono, Node, NodeId, Now, Origin, Output, Restored, Wall};

use super::{Kind, Moment};
use crate::kamailio::Kamailio;
use crate::ledger::{DeedId, Ended, Ledger, What};
use crate::model::Shared;
use crate::script::{
    Entry, Generation, Limits, NetSpec, NodeIx, NodeSpec, PathSpec, Script, ServerIx, ServerSpec, TableSpec,
};
use crate::view::{HostView, Traffic, View};

const WALL: u64 = 1_800_000_000_000;

/// A script of so many nodes and servers; server n is attached to node n.
pub(super) fn script(nodes: u16, servers: u16) -> Script {
    let path = PathSpec {
        delay_us: 100,
        jitter_us: 0,
        loss_permille: 0,
        duplicate_permille: 0,
        reorder_permille: 0,
        bytes_per_s: 0,
        mtu: 0,
    };
    let node = |ix| NodeSpec {
        ix,
        site: 0,
        durable: true,
        ack_disk: true,
        start_ms: 0,
        clock_offset_ms: 0,
        clock_drift_ppm: 0,
        join: Vec::new(),
    };
    let server = |ix| ServerSpec {
        ix,
        site: 0,
        generation: Generation::V5,
        nodes: vec![ix],
        peers: Vec::new(),
        start_ms: 0,
        memory_contacts: 0,
        reorder_permille: 0,
        tcp: false,
        hostile: false,
    };
    let counter = TableSpec { counter: true, ..TableSpec::default() };
    Script {
        scenario: "test".into(),
        seed: 1,
        duration_ms: 60_000,
        settle_ms: 30_000,
        nodes: (0..nodes).map(node).collect(),
        servers: (0..servers).map(server).collect(),
        phones: Vec::new(),
        writers: Vec::new(),
        calls: Vec::new(),
        htables: BTreeMap::from([("t".into(), TableSpec::default()), ("c".into(), counter)]),
        net: NetSpec { site: path, wan: path, host: path },
        faults: Vec::new(),
        limits: Limits {
            max_skew_ms: 5_000,
            forget_after_s: 7_200,
            location_max_ttl_s: 3_600,
            dialog_max_life_s: 3_600,
            mesh: false,
            wan: false,
        },
    }
}

/// Nodes that hear nothing of each other.
pub(super) struct World {
    pub(super) script: Script,
    pub(super) now: Mono,
    pub(super) nodes: Vec<Option<Node>>,
    pub(super) lives: Vec<u32>,
    pub(super) ledger: Ledger,
    pub(super) traffic: Traffic,
    pub(super) model: Shared,
    /// Added to every node's wall clock, milliseconds.
    pub(super) wall_off: i64,
}

impl World {
    pub(super) fn new(script: Script) -> Self {
        let count = script.nodes.len();
        let mut world = Self {
            script,
            now: Mono(0),
            nodes: (0..count).map(|_| None).collect(),
            lives: vec![0; count],
            ledger: Ledger::default(),
            traffic: Traffic::default(),
            model: crate::model::Model::shared(),
            wall_off: 0,
        };
        (0..count).for_each(|node| world.start(node));
        world
    }

    pub(super) fn origin(&self, node: usize) -> Origin {
        Origin(100 * (node as u64 + 1) + u64::from(self.lives[node]))
    }

    /// Starts a process with an empty disk.
    pub(super) fn start(&mut self, node: usize) {
        self.lives[node] += 1;
        let origin = self.origin(node);
        let htables = self.script.htables.iter().map(|(name, spec)| {
            let config = HtableConfig { counter: spec.counter, ..HtableConfig::default() };
            (name.clone(), config)
        });
        let config = Config {
            node: NodeId(node as u64 + 1),
            origin,
            name: format!("n{node}"),
            cluster: "test".into(),
            advertise: ([10, 0, 0, node as u8 + 1], 7946).into(),
            join: Vec::new(),
            ack: Ack::Memory,
            durable: false,
            max_skew_ms: self.script.limits.max_skew_ms,
            forget_after_s: self.script.limits.forget_after_s,
            timing: Timing::Lan,
            location_max_ttl_s: self.script.limits.location_max_ttl_s,
            dialog_max_life_s: self.script.limits.dialog_max_life_s,
            htables: htables.collect(),
            sip: vec![SipSocket { transport: SipTransport::Udp, addr: ([10, 0, 0, node as u8 + 1], 5070).into() }],
            dmq: DmqConfig {
                peers: Vec::new(),
                mode: DmqMode::Bridge,
                trusted: Vec::new(),
                ping_interval_ms: 5_000,
                window: 64,
                feed_limit: 0,
                multi: 3,
            },
        };
        let at = self.at(node);
        self.nodes[node] = Some(Node::new(config, [node as u8; 32], at, Restored::default()));
        self.tell(Moment::Started { node, origin });
    }

    fn wall(&self) -> Wall {
        Wall((WALL + self.now.ms()).saturating_add_signed(self.wall_off))
    }

    fn at(&self, _node: usize) -> Now {
        Now { mono: self.now, wall: self.wall() }
    }

    /// Lets the model see a moment.
    pub(super) fn tell(&self, moment: Moment) {
        self.model.borrow_mut().observe(moment, self).unwrap();
    }

    /// A command at a node, a millisecond later. Says whether it was carried out.
    pub(super) fn command(&mut self, node: usize, command: Command) -> bool {
        self.now = self.now.plus_ms(1);
        let at = self.at(node);
        let running = self.nodes[node].as_mut().unwrap();
        running.handle(Input::Command { id: CommandId(0), command }, at);
        let mut done = false;
        loop {
            match running.poll() {
                Output::Sleep { .. } => break,
                Output::Done { result, .. } => done = result.is_ok(),
                _ => {}
            }
        }
        self.tell(Moment::Stepped { node, input: if done { Kind::Command } else { Kind::Refused } });
        done
    }

    /// A deed at a node, as a phone or writer does it.
    pub(super) fn deed(&mut self, node: usize, what: What) -> DeedId {
        let command = match what.clone() {
            What::Register { aor, uri, expires_s, .. } => Command::LocationAdd(Box::new(node::NewContact {
                aor: aor.into(),
                contact: uri.into(),
                expires_in: expires_s,
                ..node::NewContact::default()
            })),
            What::Unregister { aor, uri, .. } => Command::LocationRemove { aor: aor.into(), contact: Some(uri.into()) },
            What::RemoveAll { aor, .. } => Command::LocationRemove { aor: aor.into(), contact: None },
            What::Set { table, key, value } => {
                let value = node::Value::Str(value.into());
                Command::HtableSet { table, key: key.into(), value, expires_in: None }
            }
            What::Delete { table, key } => Command::HtableDelete { table, key: key.into() },
            What::Add { table, key, by } => Command::HtableInc { table, key: key.into(), by },
            call => crate::load::command(&call).unwrap(),
        };
        let at = Entry::Node(self.script.nodes[node].ix);
        let deed = self.ledger.begin(what, at, self.now.plus_ms(1));
        let done = self.command(node, command);
        self.ledger.taken(deed, self.now);
        self.ledger.end(deed, if done { Ended::Done } else { Ended::Refused }, self.now);
        deed
    }

    /// Time passes; nobody does anything.
    pub(super) fn pass(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
    }

    pub(super) fn crash(&mut self, node: usize) {
        self.tell(Moment::Crashing { node });
        self.nodes[node] = None;
    }
}

impl View for World {
    fn now(&self) -> Mono {
        self.now
    }

    fn true_wall(&self) -> Wall {
        Wall(WALL + self.now.ms())
    }

    fn script(&self) -> &Script {
        &self.script
    }

    fn nodes(&self) -> usize {
        self.nodes.len()
    }

    fn node(&self, position: usize) -> HostView<'_> {
        HostView {
            spec: &self.script.nodes[position],
            node: self.nodes[position].as_ref(),
            origin: self.origin(position),
            lives: self.lives[position],
            paused: false,
            wall: self.wall(),
            started: Mono(0),
        }
    }

    fn running(&self, position: usize) -> Option<&Node> {
        self.nodes[position].as_ref()
    }

    fn position(&self, ix: NodeIx) -> Option<usize> {
        self.script.nodes.iter().position(|spec| spec.ix == ix)
    }

    fn server(&self, _ix: ServerIx) -> Option<&Kamailio> {
        None
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn faulty(&self) -> bool {
        false
    }

    fn traffic(&self) -> &Traffic {
        &self.traffic
    }
}
