//! A virtual network for a few nodes: seeded, in virtual time, without the SIP half.
//!
//! Links are ordered lanes that can be cut and stall meanwhile, as QUIC does, and lose their datagrams at random. A cut
//! that outlasts [`IDLE_MS`] ends the link. Disks take a moment; a crash loses the batch under way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use bytes::Bytes;
use crdt::{NodeId, Origin, Rules, TableRules, Wall};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::peer::TestNode;
use crate::config::Config;
use crate::io::{Batch, Input, Lane, LinkId, Mono, Now, Output};

/// A link that carried nothing for so long is dead, milliseconds.
pub(super) const IDLE_MS: u64 = 5_000;
const DIAL_TIMEOUT_MS: u64 = 2_000;
const DISK_US: u64 = 1_500;
const WALL_START: u64 = 1_700_000_000_000;

/// A table that forgets by time.
pub(super) const TIMED: &str = "location";
/// A table that forgets by stability.
pub(super) const STABLE: &str = "htable:plain";

pub(super) fn rules() -> Rules {
    let dialogs = TableRules::by_birth(3_600);
    Rules::new(10, 2_000).table(TIMED, TableRules::by_time(3_600)).table(tables::dialog::TABLE, dialogs)
}

enum Event {
    Wake(usize, u64),
    /// A packet of a dial arrives, or does not; the first is repeated once.
    Dialed {
        node: usize,
        to: SocketAddr,
        life: u64,
        first: bool,
    },
    DialFailed(usize, SocketAddr, u64),
    LinkUp {
        conn: u64,
        side: usize,
    },
    /// The head of a lane's queue arrives.
    Arrive(u64, usize, Lane),
    Sent(u64, usize, Lane),
    Datagram(u64, usize, Bytes),
    Idle(u64, u64),
    Closed(u64, usize),
    Disk(usize, u64, Batch),
}

struct Conn {
    ends: [usize; 2],
    lives: [u64; 2],
    up: [bool; 2],
    /// Whether an end was told that it is up.
    told: [bool; 2],
    open: bool,
    /// Messages under way by sending side and lane, as the sender names it; `None` closes the lane.
    lanes: BTreeMap<(usize, Lane), VecDeque<Option<Bytes>>>,
    cut_at: Option<Mono>,
    /// Frames that the transport did not take while the link was cut.
    stuck: Vec<(usize, Lane)>,
    last: BTreeMap<(usize, Lane), Mono>,
}

pub(super) struct Net {
    pub nodes: Vec<TestNode>,
    pub now: Mono,
    pub rng: ChaCha8Rng,
    /// One-way delay, microseconds, and what is added at random.
    pub delay_us: (u64, u64),
    /// How long the transport takes a frame for, microseconds.
    pub sent_us: u64,
    /// Datagrams lost, per mille.
    pub loss: u32,
    /// Frames that arrived, and datagrams.
    pub frames: u64,
    pub datagrams: u64,
    pub bytes: u64,
    conns: BTreeMap<u64, Conn>,
    pub cut: BTreeSet<(usize, usize)>,
    queue: BTreeMap<(Mono, u64), Event>,
    counter: u64,
    pub disk_fails: bool,
}

pub(super) fn addr(node: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 7_000 + node as u16))
}

const fn pair(a: usize, b: usize) -> (usize, usize) {
    if a < b { (a, b) } else { (b, a) }
}

fn link_id(conn: u64, side: usize) -> LinkId {
    LinkId(conn * 2 + side as u64)
}

/// The lane as the other side names it.
const fn mirrored(lane: Lane) -> Lane {
    match lane {
        Lane::Push => Lane::Push,
        Lane::Session { id, opened_here } => Lane::Session { id, opened_here: !opened_here },
    }
}

/// Plants the bug that the environment names, in a build with the feature `planted`.
fn plant() {
    #[cfg(feature = "planted")]
    if let Ok(name) = std::env::var("STARLING_PLANT") {
        let bug = crdt::planted::Bug::by_name(&name).expect("STARLING_PLANT names a bug");
        crdt::planted::choose(Some(bug));
    }
}

impl Net {
    pub(super) fn new(seed: u64) -> Self {
        plant();
        println!("seed {seed}");
        Self {
            nodes: Vec::new(),
            now: Mono(0),
            rng: ChaCha8Rng::seed_from_u64(seed),
            delay_us: (300, 200),
            sent_us: 50,
            loss: 0,
            frames: 0,
            datagrams: 0,
            bytes: 0,
            conns: BTreeMap::new(),
            cut: BTreeSet::new(),
            queue: BTreeMap::new(),
            counter: 0,
            disk_fails: false,
        }
    }

    /// Adds a node that joins `join`, and starts it.
    pub(super) fn add(&mut self, durable: bool, join: &[usize]) -> usize {
        self.add_with(durable, join, |_| {}, rules())
    }

    pub(super) fn add_with(
        &mut self,
        durable: bool,
        join: &[usize],
        change: impl FnOnce(&mut Config),
        rules: Rules,
    ) -> usize {
        let index = self.nodes.len();
        let mut config = super::config(index, durable);
        config.join = join.iter().map(|&node| addr(node)).collect();
        change(&mut config);
        let node = TestNode::start(config, BTreeMap::new(), rules, self.wall(0), 0);
        self.nodes.push(node);
        self.input(index, Input::Tick);
        index
    }

    pub(super) fn wall(&self, ahead: i64) -> Now {
        let wall = (WALL_START + self.now.ms()).saturating_add_signed(ahead);
        Now { mono: self.now, wall: Wall(wall) }
    }

    pub(super) fn node_now(&self, node: usize) -> Now {
        self.wall(self.nodes[node].ahead)
    }

    fn post(&mut self, at: Mono, event: Event) {
        self.counter += 1;
        self.queue.insert((at, self.counter), event);
    }

    fn delay(&mut self) -> u64 {
        let (fixed, jitter) = self.delay_us;
        fixed + self.rng.random_range(0..=jitter)
    }

    pub(super) fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&pair(a, b))
    }

    /// Cuts two nodes apart. What is under way stalls.
    pub(super) fn cut(&mut self, a: usize, b: usize) {
        if !self.cut.insert(pair(a, b)) {
            return;
        }
        let now = self.now;
        let ids: Vec<u64> = self
            .conns
            .iter()
            .filter(|(_, c)| c.open && pair(c.ends[0], c.ends[1]) == pair(a, b))
            .map(|(&id, _)| id)
            .collect();
        for id in ids {
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.cut_at = Some(now);
            }
            self.post(now.plus_ms(IDLE_MS), Event::Idle(id, now.0));
        }
    }

    pub(super) fn heal(&mut self, a: usize, b: usize) {
        if !self.cut.remove(&pair(a, b)) {
            return;
        }
        let now = self.now;
        let mut again = Vec::new();
        let mut stuck = Vec::new();
        for (&id, conn) in self
            .conns
            .iter_mut()
            .filter(|(_, c)| c.open && c.up == [true, true] && pair(c.ends[0], c.ends[1]) == pair(a, b))
        {
            conn.cut_at = None;
            stuck.extend(conn.stuck.drain(..).map(|(side, lane)| (id, side, lane)));
            for (&(side, lane), queue) in &conn.lanes {
                again.extend(queue.iter().map(|_| (id, side, lane)));
            }
        }
        // Retransmission after a cut takes a moment.
        for (id, side, lane) in stuck {
            self.post(now.plus_ms(100), Event::Sent(id, side, lane));
        }
        for (id, side, lane) in again {
            self.post(now.plus_ms(100), Event::Arrive(id, side, lane));
        }
    }

    pub(super) fn cut_groups(&mut self, a: &[usize], b: &[usize]) {
        a.iter().for_each(|&a| b.iter().for_each(|&b| self.cut(a, b)));
    }

    pub(super) fn heal_all(&mut self) {
        let all: Vec<_> = self.cut.iter().copied().collect();
        all.into_iter().for_each(|(a, b)| self.heal(a, b));
    }

    /// Ends a process at once. Its links die at the other side after the idle time.
    pub(super) fn crash(&mut self, node: usize) {
        self.nodes[node].up = false;
        let now = self.now;
        let ids: Vec<u64> =
            self.conns.iter().filter(|(_, c)| c.open && c.ends.contains(&node)).map(|(&id, _)| id).collect();
        for id in ids {
            let Some(conn) = self.conns.get_mut(&id) else { continue };
            for side in 0..2 {
                if conn.ends[side] == node {
                    conn.up[side] = false;
                }
            }
            conn.cut_at = Some(now);
            self.post(now.plus_ms(IDLE_MS), Event::Idle(id, now.0));
        }
    }

    /// Starts it again with what its disk holds, or with nothing.
    pub(super) fn restart(&mut self, node: usize) {
        let old = &self.nodes[node];
        let life = old.life + 1;
        let mut config = old.config.clone();
        config.origin = Origin(config.node.0 * 1_000 + life);
        let disk = if config.durable { old.disk.clone() } else { BTreeMap::new() };
        if !config.durable {
            config.node = NodeId(config.node.0 + 1_000);
        }
        let (ahead, rules) = (old.ahead, old.replica.rules().clone());
        let mut new = TestNode::start(config, disk, rules, self.wall(ahead), life);
        new.ahead = ahead;
        self.nodes[node] = new;
        self.input(node, Input::Tick);
    }

    /// Gives a node an input and carries out what it wants.
    pub(super) fn input(&mut self, node: usize, input: Input<'_>) {
        let now = self.node_now(node);
        let n = &mut self.nodes[node];
        if !n.up {
            return;
        }
        n.handle(input, now);
        self.outputs(node);
    }

    fn outputs(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].out.pop_front() {
            self.output(node, output);
        }
        let (wake, _) = self.nodes[node].next_wakeup();
        let wake = wake.max(Mono(self.now.0 + 1));
        if self.nodes[node].wake.is_none_or(|at| at > wake || at <= self.now) {
            self.nodes[node].wake = Some(wake);
            let life = self.nodes[node].life;
            self.post(wake, Event::Wake(node, life));
        }
    }

    fn output(&mut self, node: usize, output: Output) {
        let life = self.nodes[node].life;
        match output {
            Output::Dial { addr } => {
                let delay = self.delay();
                self.post(Mono(self.now.0 + delay), Event::Dialed { node, to: addr, life, first: true });
            }
            Output::CloseLink { link, .. } => self.close(link),
            Output::Datagram { link, bytes } => {
                assert!(bytes.len() <= 1_100);
                let delay = self.delay();
                let lost = self.rng.random_range(0..1_000) < self.loss;
                if !lost {
                    self.post(Mono(self.now.0 + delay), Event::Datagram(link.0 / 2, (link.0 % 2) as usize, bytes));
                }
            }
            Output::Frame { link, lane, bytes } => {
                assert!(bytes.len() <= crate::io::MAX_FRAME);
                self.send(link, lane, Some(bytes));
            }
            Output::CloseLane { link, lane } => self.send(link, lane, None),
            Output::Persist(batch) => self.post(Mono(self.now.0 + DISK_US), Event::Disk(node, life, batch)),
            Output::Log(line) => {
                let text = format!("{:>9} {node} {:?} {}", self.now.ms(), line.level, line.text);
                println!("{text}");
                self.nodes[node].logs.push(text);
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    fn send(&mut self, link: LinkId, lane: Lane, item: Option<Bytes>) {
        let (id, side) = (link.0 / 2, (link.0 % 2) as usize);
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.open) else { return };
        let is_frame = item.is_some();
        conn.lanes.entry((side, lane)).or_default().push_back(item);
        let stalled = conn.cut_at.is_some();
        if is_frame && stalled {
            conn.stuck.push((side, lane));
        }
        if is_frame && !stalled {
            self.post(Mono(self.now.0 + self.sent_us), Event::Sent(id, side, lane));
        }
        if !stalled {
            let at = Mono(self.now.0 + self.delay());
            let Some(conn) = self.conns.get_mut(&id) else { return };
            let last = conn.last.entry((side, lane)).or_default();
            *last = at.max(*last);
            let at = *last;
            self.post(at, Event::Arrive(id, side, lane));
        }
    }

    fn close(&mut self, link: LinkId) {
        let (id, side) = (link.0 / 2, (link.0 % 2) as usize);
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.open) else { return };
        conn.open = false;
        conn.up[side] = false;
        let stalled = conn.cut_at.is_some();
        let after = if stalled { IDLE_MS * 1_000 } else { self.delay() };
        self.post(Mono(self.now.0 + after), Event::Closed(id, 1 - side));
    }

    /// Runs until `ms` from now.
    pub(super) fn run(&mut self, ms: u64) {
        let end = self.now.plus_ms(ms);
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) {
            self.now = entry.key().0;
            let event = entry.remove();
            self.event(event);
        }
        self.now = end;
    }

    /// Runs until the condition holds; gives the milliseconds that it took, and fails after `limit_ms`.
    pub(super) fn until(&mut self, limit_ms: u64, what: &str, mut holds: impl FnMut(&Self) -> bool) -> u64 {
        let start = self.now;
        while !holds(self) {
            let waited = self.now.ms_since(start);
            assert!(waited < limit_ms, "not within {limit_ms} ms: {what}");
            self.run(5);
        }
        self.now.ms_since(start)
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Wake(node, life) => {
                if self.nodes[node].life == life && self.nodes[node].wake == Some(self.now) {
                    self.nodes[node].wake = None;
                    self.nodes[node].wakeups += 1;
                    self.input(node, Input::Tick);
                }
            }
            Event::Dialed { node, to, life, first } => self.dialed(node, to, life, first),
            Event::DialFailed(node, addr, life) => {
                if self.nodes[node].life == life {
                    self.input(node, Input::DialFailed { addr, reason: "timeout" });
                }
            }
            Event::LinkUp { conn, side } => self.link_up(conn, side),
            Event::Arrive(id, side, lane) => self.arrive(id, side, lane),
            Event::Sent(id, side, lane) => self.give(id, side, |link| Input::FramesSent { link, lane, frames: 1 }),
            Event::Datagram(id, side, bytes) => {
                if self.conns.get(&id).is_some_and(|conn| conn.cut_at.is_none()) {
                    self.datagrams += 1;
                    self.bytes += bytes.len() as u64;
                    self.give(id, 1 - side, |link| Input::Datagram { link, bytes: &bytes });
                }
            }
            Event::Idle(id, since) => {
                if self.conns.get(&id).is_some_and(|conn| conn.open && conn.cut_at == Some(Mono(since))) {
                    for side in 0..2 {
                        self.give(id, side, |link| Input::LinkDown { link, reason: "idle" });
                    }
                    self.conns.remove(&id);
                }
            }
            Event::Closed(id, side) => {
                self.give(id, side, |link| Input::LinkDown { link, reason: "closed" });
                self.conns.remove(&id);
            }
            Event::Disk(node, life, batch) => self.disk(node, life, batch),
        }
    }

    fn give<'a>(&mut self, id: u64, side: usize, input: impl FnOnce(LinkId) -> Input<'a>) {
        let Some(conn) = self.conns.get(&id).filter(|conn| conn.up[side]) else { return };
        let node = conn.ends[side];
        if self.nodes[node].life == conn.lives[side] {
            self.input(node, input(link_id(id, side)));
        }
    }

    fn dialed(&mut self, node: usize, to: SocketAddr, life: u64, first: bool) {
        if self.nodes[node].life != life {
            return;
        }
        let target = (0..self.nodes.len()).find(|&n| self.nodes[n].config.advertise == to);
        let Some(target) = target.filter(|&n| self.nodes[n].up && !self.is_cut(node, n)) else {
            let again = Event::Dialed { node, to, life, first: false };
            let event = if first { again } else { Event::DialFailed(node, to, life) };
            return self.post(self.now.plus_ms(DIAL_TIMEOUT_MS / 2), event);
        };
        self.counter += 1;
        let id = self.counter;
        let conn = Conn {
            ends: [node, target],
            lives: [life, self.nodes[target].life],
            up: [true, true],
            told: [false, false],
            open: true,
            lanes: BTreeMap::new(),
            cut_at: None,
            stuck: Vec::new(),
            last: BTreeMap::new(),
        };
        self.conns.insert(id, conn);
        // The dialing side is done with the handshake first.
        let back = self.delay();
        let there = self.delay();
        self.post(Mono(self.now.0 + back), Event::LinkUp { conn: id, side: 0 });
        self.post(Mono(self.now.0 + back + there), Event::LinkUp { conn: id, side: 1 });
    }

    fn link_up(&mut self, id: u64, side: usize) {
        let Some(conn) = self.conns.get(&id).filter(|conn| conn.open) else { return };
        let other = &self.nodes[conn.ends[1 - side]].config;
        let ephemeral = SocketAddr::from(([10, 0, 0, 1], 40_000 + (id % 20_000) as u16));
        let addr = if side == 0 { other.advertise } else { ephemeral };
        let name = other.name.clone();
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.told[side] = true;
        }
        self.give(id, side, |link| Input::LinkUp { link, addr, dialed: side == 0, subject: Some(&name) });
    }

    fn arrive(&mut self, id: u64, side: usize, lane: Lane) {
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.cut_at.is_none() && conn.open) else { return };
        if !conn.told[1 - side] {
            return self.post(Mono(self.now.0 + 100), Event::Arrive(id, side, lane));
        }
        let Some(item) = conn.lanes.get_mut(&(side, lane)).and_then(VecDeque::pop_front) else { return };
        let lane_there = mirrored(lane);
        match item {
            Some(bytes) => {
                self.frames += 1;
                self.bytes += bytes.len() as u64;
                self.give(id, 1 - side, |link| Input::Frame { link, lane: lane_there, bytes: &bytes });
            }
            None => self.give(id, 1 - side, |link| Input::LaneClosed { link, lane: lane_there }),
        }
    }

    fn disk(&mut self, node: usize, life: u64, batch: Batch) {
        let fails = self.disk_fails;
        let n = &mut self.nodes[node];
        if n.life != life || !n.up {
            return;
        }
        if fails {
            return self.input(node, Input::PersistFailed { batch: batch.number, reason: "full" });
        }
        for (tree, key, value) in batch.puts {
            match value {
                Some(value) => n.disk.insert((tree, key), value),
                None => n.disk.remove(&(tree, key)),
            };
        }
        self.input(node, Input::Persisted { batch: batch.number });
    }
}
