//! Runs by hand: build a platform, let time pass, cut it, write, look, compare.
//!
//! The same world as [`run()`](crate::run()), without a planned end: whoever has a [`Sim`] says what happens when.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use node::{Mono, Node, Now};

use crate::host::host_now;
use crate::invariants::Violation;
use crate::kamailio::Kamailio;
use crate::ledger::{DeedId, What};
use crate::load::Ask;
use crate::run::{LogLine, Options, Outcome};
use crate::script::{
    DiskLoss, Entry, FaultKind, Generation, Host, Leave, Limits, NetSpec, NodeIx, NodeSpec, PathSpec, PhoneSpec,
    Script, ServerIx, ServerSpec,
};
use crate::view::View;
use crate::world::World;

/// Faults that nobody numbered in a script are numbered from here.
const BY_HAND: u32 = 1 << 30;

/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(5);

/// A quick and quiet network within a site, as a rack has it.
const LAN: PathSpec = PathSpec {
    delay_us: 200,
    jitter_us: 100,
    loss_permille: 0,
    duplicate_permille: 0,
    reorder_permille: 0,
    bytes_per_s: 0,
    mtu: 0,
};

/// What is to be built. [`Builder::build`] makes it.
#[derive(Clone, Debug)]
pub struct Builder {
    script: Script,
    options: Options,
}

impl Default for Builder {
    fn default() -> Self {
        let net = NetSpec {
            site: LAN,
            wan: PathSpec { delay_us: 20_000, jitter_us: 2_000, ..LAN },
            host: PathSpec { delay_us: 30, jitter_us: 20, ..LAN },
        };
        let limits = Limits {
            max_skew_ms: 5_000,
            forget_after_s: 7 * 86_400,
            location_max_ttl_s: 86_400,
            dialog_max_life_s: 43_200,
            mesh: false,
            wan: false,
        };
        let day = 86_400_000;
        let script = Script {
            scenario: "by hand".to_owned(),
            seed: 0,
            duration_ms: day,
            settle_ms: 60_000,
            nodes: Vec::new(),
            servers: Vec::new(),
            phones: Vec::new(),
            writers: Vec::new(),
            calls: Vec::new(),
            htables: BTreeMap::new(),
            net,
            faults: Vec::new(),
            limits,
        };
        Self { script, options: Options { log: false, timeline: false, check: true } }
    }
}

impl Builder {
    /// So many nodes on one site, each with a disk, all joining the first; the numbers count from 0.
    #[must_use]
    pub fn nodes(mut self, count: NodeIx) -> Self {
        let join = |ix| if ix == 0 { vec![1].into_iter().filter(|&other| other < count).collect() } else { vec![0] };
        self.script.nodes = (0..count)
            .map(|ix| NodeSpec {
                ix,
                site: 0,
                durable: true,
                ack_disk: false,
                start_ms: 0,
                clock_offset_ms: 0,
                clock_drift_ppm: 0,
                join: join(ix),
            })
            .collect();
        self
    }

    /// So many servers of 5.6 behaviour, one after another attached to the nodes that were given before.
    #[must_use]
    pub fn servers(mut self, count: ServerIx) -> Self {
        let nodes: Vec<NodeIx> = self.script.nodes.iter().map(|node| node.ix).collect();
        let home = |ix: ServerIx| nodes.get(usize::from(ix) % nodes.len().max(1)).copied();
        self.script.servers = (0..count)
            .map(|ix| ServerSpec {
                ix,
                site: 0,
                generation: Generation::V5,
                nodes: home(ix).into_iter().collect(),
                peers: Vec::new(),
                start_ms: 0,
                memory_contacts: 0,
                reorder_permille: 0,
                tcp: false,
                hostile: false,
            })
            .collect();
        self
    }

    /// So many phones, each with an address of record of its own, at the servers that were given before, or else at the
    /// nodes. They register within the first ten seconds and refresh at half of five minutes.
    #[must_use]
    pub fn phones(mut self, count: u32) -> Self {
        let servers = self.script.servers.iter().map(|server| Entry::Server(server.ix));
        let nodes = self.script.nodes.iter().map(|node| Entry::Node(node.ix));
        let entries: Vec<Entry> = if self.script.servers.is_empty() { nodes.collect() } else { servers.collect() };
        let at = |id: u32| -> Vec<Entry> {
            let first = id as usize % entries.len().max(1);
            entries.iter().cycle().skip(first).take(entries.len()).copied().collect()
        };
        self.script.phones = (0..count)
            .map(|id| PhoneSpec {
                id,
                aor: id,
                at: at(id),
                expires_s: 300,
                outbound: false,
                start_ms: 1_000 + u64::from(id) * 9_000 / u64::from(count.max(1)),
                stop_ms: None,
                leave: Leave::Silent,
            })
            .collect();
        self
    }

    /// Everything that is drawn comes from this number.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.script.seed = seed;
        self
    }

    /// Keeps a readable log ([`Sim::log`]).
    #[must_use]
    pub fn log(mut self) -> Self {
        self.options.log = true;
        self
    }

    /// Changes anything of the script that has no method here.
    #[must_use]
    pub fn change(mut self, change: impl FnOnce(&mut Script)) -> Self {
        change(&mut self.script);
        self
    }

    /// Builds it. All nodes and servers start with the first moment that passes.
    pub fn build(self) -> Sim {
        let world = World::new(self.script, self.options);
        Sim { world, cuts: Vec::new(), faults: BY_HAND, killed: BTreeMap::new() }
    }
}

/// What was waited for did not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotSo {
    /// Not within this virtual time.
    InTime(Duration),
    /// A promise was broken first.
    Broken(Violation),
}

impl fmt::Display for NotSo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InTime(limit) => write!(f, "not within {} ms", limit.as_millis()),
            Self::Broken(Violation { property, at_us, what }) => {
                write!(f, "{property} is broken after {} ms: {what}", at_us / 1_000)
            }
        }
    }
}

impl std::error::Error for NotSo {}

/// A running platform in virtual time. All promises are checked while time passes.
pub struct Sim {
    world: World,
    cuts: Vec<FaultKind>,
    faults: u32,
    /// The numbers of the faults that keep nodes down.
    killed: BTreeMap<NodeIx, u32>,
}

impl Sim {
    /// Starts to build one.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// One that does what a script says, faults included; ask it to run for the script's duration.
    pub fn of(script: Script, options: Options) -> Self {
        Self { world: World::new(script, options), cuts: Vec::new(), faults: BY_HAND, killed: BTreeMap::new() }
    }

    /// Virtual time since the start.
    pub fn now(&self) -> Duration {
        Duration::from_micros(self.world.now.0)
    }

    /// Lets virtual time pass; stops early at a broken promise ([`Sim::violation`]).
    pub fn run_for(&mut self, time: Duration) {
        let end = Mono(self.world.now.0.saturating_add(micros(time)));
        self.world.run_until(end);
    }

    /// Lets time pass until it is so, and says how long that took.
    ///
    /// # Errors
    /// [`NotSo`] if it is not so within `limit` of virtual time, or a promise was broken.
    pub fn run_until(&mut self, limit: Duration, mut is_so: impl FnMut(&dyn View) -> bool) -> Result<Duration, NotSo> {
        let start = self.now();
        loop {
            if let Some(violation) = &self.world.violation {
                return Err(NotSo::Broken(violation.clone()));
            }
            let waited = self.now() - start;
            if is_so(&self.world) {
                return Ok(waited);
            }
            if waited >= limit {
                return Err(NotSo::InTime(limit));
            }
            self.run_for(LOOK.min(limit - waited));
        }
    }

    /// Whether all nodes that run hold the same, and their servers with them.
    pub fn is_equal(&self) -> bool {
        self.world.all_equal()
    }

    /// Lets time pass until everybody is equal, and says how long that took.
    ///
    /// # Panics
    /// If they are not within `limit` of virtual time, or a promise was broken.
    pub fn assert_equal_within(&mut self, limit: Duration) -> Duration {
        let start = self.now();
        while !self.is_equal() {
            self.assert_held();
            let waited = self.now() - start;
            assert!(waited < limit, "not everybody is equal after {} ms", waited.as_millis());
            self.run_for(LOOK.min(limit - waited));
        }
        self.assert_held();
        self.now() - start
    }

    fn assert_held(&self) {
        if let Some(violation) = &self.world.violation {
            panic!("{}", NotSo::Broken(violation.clone()));
        }
    }

    /// The first promise that was broken.
    pub fn violation(&self) -> Option<&Violation> {
        self.world.violation.as_ref()
    }

    /// Cuts all paths between nodes of the one side and nodes of the other, until [`Sim::heal`].
    pub fn cut(&mut self, one: &[NodeIx], other: &[NodeIx]) {
        self.fault(true, hosts(one), hosts(other));
    }

    /// Cuts only the paths from the one side to the other, until [`Sim::heal`].
    pub fn cut_one_way(&mut self, from: &[NodeIx], to: &[NodeIx]) {
        self.fault(false, hosts(from), hosts(to));
    }

    fn fault(&mut self, both: bool, from: Vec<Host>, to: Vec<Host>) {
        let kind = FaultKind::Cut { from, to, both };
        self.faults += 1;
        self.world.apply(self.faults, &kind);
        self.cuts.push(kind);
    }

    /// Takes back all cuts.
    pub fn heal(&mut self) {
        for kind in std::mem::take(&mut self.cuts) {
            self.world.revert(0, &kind);
        }
    }

    /// Kills a node's process. Its disk keeps what was fsynced.
    pub fn kill(&mut self, node: NodeIx) {
        self.faults += 1;
        let kind = FaultKind::Kill { host: Host::Node(node), disk: DiskLoss::None, new_identity: false };
        self.world.apply(self.faults, &kind);
        self.killed.insert(node, self.faults);
    }

    /// Starts a node that was killed.
    pub fn start(&mut self, node: NodeIx) {
        if let Some(number) = self.killed.remove(&node) {
            let kind = FaultKind::Kill { host: Host::Node(node), disk: DiskLoss::None, new_identity: false };
            self.world.revert(number, &kind);
        }
    }

    /// A phone registers a contact, `expires` seconds long.
    pub fn register(&mut self, at: Entry, aor: &str, uri: &str, expires_s: u32) -> DeedId {
        let (aor, uri) = (aor.to_owned(), uri.to_owned());
        self.ask(at, What::Register { phone: u32::MAX, aor, uri, expires_s, cseq: 1 })
    }

    /// A phone removes its contact.
    pub fn unregister(&mut self, at: Entry, aor: &str, uri: &str) -> DeedId {
        self.ask(at, What::Unregister { phone: u32::MAX, aor: aor.to_owned(), uri: uri.to_owned() })
    }

    /// A key of a hash table is set.
    pub fn set(&mut self, at: Entry, table: &str, key: &str, value: &str) -> DeedId {
        let (table, key, value) = (table.to_owned(), key.to_owned(), value.to_owned());
        self.ask(at, What::Set { table, key, value })
    }

    /// A key of a hash table is deleted.
    pub fn delete(&mut self, at: Entry, table: &str, key: &str) -> DeedId {
        self.ask(at, What::Delete { table: table.to_owned(), key: key.to_owned() })
    }

    /// A counter is incremented.
    pub fn add(&mut self, at: Entry, table: &str, key: &str, by: i64) -> DeedId {
        self.ask(at, What::Add { table: table.to_owned(), key: key.to_owned(), by })
    }

    fn ask(&mut self, at: Entry, what: What) -> DeedId {
        let deed = self.world.ledger.begin(what.clone(), at, self.world.now);
        self.world.ask(&Ask { deed, at, what, phone: None });
        deed
    }

    /// A node.
    ///
    /// # Panics
    /// If there is no such node, or it is down.
    pub fn node(&self, ix: NodeIx) -> &Node {
        let at = self.world.at(Host::Node(ix)).expect("a node of the script");
        self.world.nodes[usize::from(at)].node.as_ref().expect("a node that runs")
    }

    /// The two times as a node sees them: what its queries take.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn node_now(&self, ix: NodeIx) -> Now {
        let at = self.world.at(Host::Node(ix)).expect("a node of the script");
        host_now(&self.world.nodes[usize::from(at)], self.world.now)
    }

    /// The contact URIs that a node shows for an address of record.
    ///
    /// # Panics
    /// If there is no such node, or it is down.
    pub fn contacts(&self, node: NodeIx, aor: &str) -> Vec<String> {
        let rows = self.node(node).location(aor.as_bytes(), self.node_now(node));
        rows.into_iter().map(|row| row.contact.to_string()).collect()
    }

    /// A server, `None` while it is down.
    pub fn server(&self, ix: ServerIx) -> Option<&Kamailio> {
        View::server(&self.world, ix)
    }

    /// Everything, for reading.
    pub fn view(&self) -> &dyn View {
        &self.world
    }

    /// A hash of everything that every participant has taken in: equal for equal runs.
    pub fn trace(&self) -> u64 {
        self.world.trace_so_far()
    }

    /// The log, if it was asked for.
    pub fn log(&self) -> &[LogLine] {
        &self.world.log
    }

    /// What came of it.
    pub fn finish(self) -> Outcome {
        self.world.outcome()
    }
}

fn hosts(nodes: &[NodeIx]) -> Vec<Host> {
    nodes.iter().copied().map(Host::Node).collect()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
