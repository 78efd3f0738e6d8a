//! One node and some scripted servers in virtual time: no sockets, no sleeping.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use crdt::{NodeId, Origin, Wall};
use kdmq::Generation;
use starling_node::config::{Ack, DmqConfig, DmqMode, HtableConfig, SipSocket, SipTransport, Timing};
use starling_node::{Batch, CommandId, Config, Input, Mono, Node, Now, Output, Restored, SocketId, Tree};
use tables::htable::Value;

use crate::scripted::Server;

pub(crate) const START_MS: u64 = 1_800_000_000_000;
pub(crate) const NODE: &str = "127.0.0.1:5070";

pub(crate) fn config() -> Config {
    Config {
        node: NodeId(1),
        origin: Origin(11),
        name: "n1".into(),
        cluster: "test".into(),
        advertise: "127.0.0.1:7946".parse().unwrap(),
        join: Vec::new(),
        ack: Ack::Memory,
        durable: false,
        max_skew_ms: 2_000,
        forget_after_s: 8 * 86_400,
        timing: Timing::Lan,
        location_max_ttl_s: 7 * 86_400,
        dialog_max_life_s: 3_600,
        htables: BTreeMap::from([("calls".to_owned(), HtableConfig { counter: true, ..HtableConfig::default() })]),
        sip: vec![SipSocket { transport: SipTransport::Udp, addr: NODE.parse().unwrap() }],
        dmq: DmqConfig {
            peers: Vec::new(),
            mode: DmqMode::Bridge,
            trusted: vec!["127.0.0.0/8".parse().unwrap()],
            ping_interval_ms: 5_000,
            window: 32,
            feed_limit: 0,
            multi: 3,
        },
    }
}

pub(crate) struct World {
    pub(crate) node: Node,
    pub(crate) servers: BTreeMap<SocketAddr, Server>,
    pub(crate) now_ms: u64,
    /// To the node: (source, bytes).
    inbox: VecDeque<(SocketAddr, Vec<u8>)>,
    wake: Mono,
    disk: BTreeMap<(Tree, Vec<u8>), Vec<u8>>,
    config: Config,
    pub(crate) log: Vec<String>,
    /// What happens to packets on their way; without it each arrives at once.
    pub(crate) weather: Option<Weather>,
    /// Longer packets are lost, without a word.
    pub(crate) black_hole: Option<usize>,
    /// Packets in which this stands are lost, however often they are repeated.
    pub(crate) lost: Option<&'static str>,
    /// The disk has taken in nothing of what it was given since.
    pub(crate) disk_waits: bool,
    unwritten: Vec<Batch>,
    /// Commands that were answered.
    pub(crate) done: Vec<CommandId>,
    /// Packets on the way, by arrival.
    wire: BTreeMap<(u64, u64), Packet>,
    packets: u64,
}

/// Packets are late, overtake each other and get lost, the same for the same seed.
pub(crate) struct Weather {
    /// Never 0.
    pub(crate) seed: u64,
    /// The longest way, milliseconds.
    pub(crate) delay_ms: u64,
    /// Of a hundred packets so many are lost.
    pub(crate) lost: u64,
}

impl Weather {
    fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 11) % below
    }

    /// How long a packet takes; `None`: it is lost.
    fn fate(&mut self) -> Option<u64> {
        let lost = self.random(100) < self.lost;
        let delay = self.random(self.delay_ms + 1);
        (!lost).then_some(delay)
    }
}

enum Packet {
    ToNode { from: SocketAddr, bytes: Vec<u8> },
    ToServer { to: SocketAddr, bytes: Vec<u8> },
}

/// Plants the bug that the environment names, in a build with the feature `planted`.
fn plant() {
    #[cfg(feature = "planted")]
    if let Ok(name) = std::env::var("STARLING_PLANT") {
        let bug = crdt::planted::Bug::by_name(&name).expect("STARLING_PLANT names a bug");
        assert!(crdt::planted::choose(Some(bug)));
    }
}

impl World {
    pub(crate) fn new(config: Config) -> Self {
        plant();
        let node = Node::new(config.clone(), [7; 32], now(0), Restored::default());
        let mut world = Self {
            node,
            servers: BTreeMap::new(),
            now_ms: 0,
            inbox: VecDeque::new(),
            wake: Mono(0),
            disk: BTreeMap::new(),
            config,
            log: Vec::new(),
            weather: None,
            black_hole: None,
            lost: None,
            disk_waits: false,
            unwritten: Vec::new(),
            done: Vec::new(),
            wire: BTreeMap::new(),
            packets: 0,
        };
        world.handle(Input::Tick);
        world
    }

    pub(crate) fn now(&self) -> Now {
        now(self.now_ms)
    }

    pub(crate) fn wall_s(&self) -> u64 {
        (START_MS + self.now_ms) / 1_000
    }

    /// Starts a server of generation 5 that knows the node.
    pub(crate) fn start(&mut self, addr: &str) -> SocketAddr {
        self.start_as(addr, Generation::V5)
    }

    /// Starts a server that knows the node.
    pub(crate) fn start_as(&mut self, addr: &str, generation: Generation) -> SocketAddr {
        let addr: SocketAddr = addr.parse().unwrap();
        let lives = self.servers.get(&addr).map_or(0, |s| s.lives);
        let mut server = Server::new(addr, lives + 1, generation);
        let list = format!("sip:{addr};status=active\r\n");
        server.request("notification_peer", list.into_bytes(), 2, "main");
        self.servers.insert(addr, server);
        addr
    }

    pub(crate) fn server(&mut self, addr: SocketAddr) -> &mut Server {
        self.servers.get_mut(&addr).unwrap()
    }

    /// The node is stopped, as by SIGSTOP, and what is sent to it is lost.
    pub(crate) fn stop_node(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            let (now_ms, wall_s) = (self.now_ms, self.wall_s());
            for server in self.servers.values_mut() {
                server.tick(now_ms, wall_s);
                server.outbox.clear();
            }
            self.now_ms += 100;
        }
    }

    /// Kills the node, lets time pass, and starts it from its disk.
    pub(crate) fn restart_node(&mut self, away_ms: u64) {
        self.stop_node(away_ms);
        self.config.origin = Origin(self.config.origin.0 + 1);
        let entries = self.disk.iter().map(|((tree, key), value)| (*tree, key.clone(), value.clone())).collect();
        self.node = Node::new(self.config.clone(), [8; 32], now(self.now_ms), Restored { entries });
        self.handle(Input::Tick);
    }

    /// The disk takes in what waits, and everything from now on.
    pub(crate) fn let_disk_write(&mut self) {
        self.disk_waits = false;
        for batch in std::mem::take(&mut self.unwritten) {
            self.persist(batch);
        }
        self.handle(Input::Tick);
    }

    fn persist(&mut self, batch: Batch) {
        if self.disk_waits {
            self.unwritten.push(batch);
            return;
        }
        for (tree, key, value) in batch.puts {
            match value {
                Some(value) => _ = self.disk.insert((tree, key), value.to_vec()),
                None => _ = self.disk.remove(&(tree, key)),
            }
        }
        self.node.handle(Input::Persisted { batch: batch.number }, now(self.now_ms));
    }

    pub(crate) fn handle(&mut self, input: Input<'_>) {
        self.node.handle(input, now(self.now_ms));
        loop {
            match self.node.poll() {
                Output::Sleep { until, .. } => {
                    self.wake = until;
                    return;
                }
                Output::SipDatagram { to, bytes, .. } => self.travel(Packet::ToServer { to, bytes: bytes.to_vec() }),
                Output::Persist(batch) => self.persist(batch),
                Output::Done { id, result: Ok(_) } => self.done.push(id),
                Output::Log(line) => self.log.push(line.text),
                _ => {}
            }
        }
    }

    fn travel(&mut self, packet: Packet) {
        let (Packet::ToNode { bytes, .. } | Packet::ToServer { bytes, .. }) = &packet;
        let lost = |text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
        if self.black_hole.is_some_and(|longest| bytes.len() > longest) || self.lost.is_some_and(lost) {
            return;
        }
        let Some(weather) = &mut self.weather else { return self.arrive(packet) };
        if let Some(delay) = weather.fate() {
            self.packets += 1;
            self.wire.insert((self.now_ms + delay, self.packets), packet);
        }
    }

    fn arrive(&mut self, packet: Packet) {
        match packet {
            Packet::ToNode { from, bytes } => self.inbox.push_back((from, bytes)),
            Packet::ToServer { to, bytes } => {
                let wall_s = self.wall_s();
                if let Some(server) = self.servers.get_mut(&to).filter(|s| s.reachable) {
                    server.receive(&bytes, wall_s);
                }
            }
        }
    }

    /// Lets time pass, a millisecond at a step where something happens.
    pub(crate) fn run_ms(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            let (now_ms, wall_s) = (self.now_ms, self.wall_s());
            let mut sent = Vec::new();
            for (addr, server) in &mut self.servers {
                server.tick(now_ms, wall_s);
                let reachable = server.reachable;
                let packets = server.outbox.drain(..).filter(|_| reachable);
                sent.extend(packets.map(|bytes| Packet::ToNode { from: *addr, bytes }));
            }
            for packet in sent {
                self.travel(packet);
            }
            while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= now_ms) {
                let packet = entry.remove();
                self.arrive(packet);
            }
            while let Some((from, bytes)) = self.inbox.pop_front() {
                self.handle(Input::SipDatagram { socket: SocketId(0), from, bytes: &bytes });
            }
            if self.wake.ms() <= self.now_ms {
                self.handle(Input::Tick);
            }
            self.now_ms += 1;
        }
    }

    /// Whether the node has nothing to do now.
    pub(crate) fn sleeps(&self) -> bool {
        self.wake > Mono(self.now_ms * 1_000)
    }

    /// Runs until it is so, at most `ms`.
    pub(crate) fn run_until(&mut self, ms: u64, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        for _ in 0..ms.div_ceil(10) {
            if is_so(self) {
                return;
            }
            self.run_ms(10);
        }
        panic!("not within {ms} ms: {what}\n{}", self.log.join("\n"));
    }

    /// The URIs that the node shows for an AoR.
    pub(crate) fn shows(&self, aor: &str) -> Vec<String> {
        let contacts = self.node.location(aor.as_bytes(), self.now());
        contacts.into_iter().map(|c| c.contact.to_string()).collect()
    }

    pub(crate) fn entry(&self, table: &str, key: &str) -> Option<String> {
        let entry = self.node.htable_get(table, key.as_bytes(), self.now())?;
        Some(match entry.value {
            starling_node::Value::Int(int) => int.to_string(),
            starling_node::Value::Str(text) => text.to_string(),
        })
    }
}

/// A node with two servers that it knows.
pub(crate) fn two() -> (World, SocketAddr, SocketAddr) {
    let mut world = World::new(config());
    let k1 = world.start("127.0.0.11:5060");
    let k2 = world.start("127.0.0.12:5060");
    world.run_ms(8_000);
    (world, k1, k2)
}

pub(crate) fn text(text: &'static str) -> Value<'static> {
    Value::Str(std::borrow::Cow::Owned(text.into()))
}

fn now(ms: u64) -> Now {
    Now { mono: Mono(ms * 1_000), wall: Wall(START_MS + ms) }
}
