//! Simulated servers do what real ones were observed to do (docs/kdmq.md), alone and in a plain DMQ mesh.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use node::{Mono, Now, Wall};
use starling_simulation::kamailio::{Kamailio, Local, Timing, Value};
use starling_simulation::script::{Generation, ServerSpec, TableSpec};

const WALL_MS: u64 = 1_800_000_000_000;

fn at(ms: u64) -> Now {
    Now { mono: Mono(ms * 1_000), wall: Wall(WALL_MS + ms) }
}

fn addr(ix: u16) -> SocketAddr {
    format!("10.1.0.{}:5060", ix + 1).parse().unwrap()
}

fn tables() -> BTreeMap<String, TableSpec> {
    let exp = TableSpec { autoexpire_s: 3_600, ..TableSpec::default() };
    let fix = TableSpec { autoexpire_s: 120, keep_expire: true, ..TableSpec::default() };
    let cnt = TableSpec { counter: true, ..TableSpec::default() };
    [("plain", TableSpec::default()), ("exp", exp), ("fix", fix), ("cnt", cnt)]
        .map(|(name, spec)| (name.to_owned(), spec))
        .into()
}

fn spec(ix: u16, generation: Generation) -> ServerSpec {
    ServerSpec {
        ix,
        site: 0,
        generation,
        nodes: Vec::new(),
        peers: Vec::new(),
        start_ms: 0,
        memory_contacts: 0,
        reorder_permille: 0,
        hostile: false,
    }
}

/// Servers that name each other, 1 ms apart.
struct Mesh {
    servers: Vec<Kamailio>,
    specs: Vec<ServerSpec>,
    lives: Vec<u32>,
    now_ms: u64,
    flying: VecDeque<(u64, SocketAddr, SocketAddr, Vec<u8>)>,
    cut: BTreeSet<(SocketAddr, SocketAddr)>,
    /// Everything that was sent: from, to, text.
    sent: Vec<(SocketAddr, SocketAddr, String)>,
}

impl Mesh {
    fn of(specs: Vec<ServerSpec>) -> Self {
        let mut mesh = Self {
            servers: Vec::new(),
            lives: vec![1; specs.len()],
            specs,
            now_ms: 0,
            flying: VecDeque::new(),
            cut: BTreeSet::new(),
            sent: Vec::new(),
        };
        mesh.servers = (0..mesh.specs.len()).map(|ix| mesh.start(ix)).collect();
        mesh.run(2_000);
        mesh
    }

    fn new(generation: Generation, count: u16) -> Self {
        Self::of((0..count).map(|ix| spec(ix, generation)).collect())
    }

    fn start(&self, ix: usize) -> Kamailio {
        let peers: Vec<_> = self.specs.iter().map(|s| addr(s.ix)).filter(|a| *a != addr(self.specs[ix].ix)).collect();
        let timing = Timing { batch_contacts: 1, ..Timing::default() };
        let now = at(self.now_ms);
        Kamailio::start(&self.specs[ix], addr(self.specs[ix].ix), &peers, &tables(), self.lives[ix], 7, now)
            .with_timing(timing, now)
    }

    fn restart(&mut self, ix: usize) {
        self.lives[ix] += 1;
        self.servers[ix] = self.start(ix);
    }

    fn cut(&mut self, a: usize, b: usize) {
        let (a, b) = (self.servers[a].addr(), self.servers[b].addr());
        self.cut.extend([(a, b), (b, a)]);
    }

    fn run(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            let now = at(self.now_ms);
            while self.flying.front().is_some_and(|(due, ..)| *due <= self.now_ms) {
                let (_, from, to, bytes) = self.flying.pop_front().unwrap();
                if let Some(server) = self.servers.iter_mut().find(|s| s.addr() == to) {
                    server.receive(from, &bytes, now);
                }
            }
            for server in &mut self.servers {
                if server.wakeup() <= now.mono {
                    server.tick(now);
                }
                while let Some(send) = server.poll() {
                    let from = server.addr();
                    self.sent.push((from, send.to, String::from_utf8_lossy(&send.bytes).into_owned()));
                    if !self.cut.contains(&(from, send.to)) {
                        self.flying.push_back((self.now_ms + 1, from, send.to, send.bytes));
                    }
                }
            }
            self.now_ms += 1;
        }
    }

    fn register(&mut self, ix: usize, aor: &str, uri: &str, callid: &str, cseq: u32) -> bool {
        let now = at(self.now_ms);
        let what = Local::Register { aor, uri, callid, cseq, expires_s: 3_600, instance: "", reg_id: 0 };
        let done = self.servers[ix].local(&what, now);
        self.run(20);
        done
    }

    fn unregister(&mut self, ix: usize, aor: &str, uri: &str) {
        self.servers[ix].local(&Local::Unregister { aor, uri }, at(self.now_ms));
        self.run(20);
    }

    fn set(&mut self, ix: usize, table: &str, key: &str, value: &str) -> bool {
        let done = self.servers[ix].local(&Local::Set { table, key, value: Value::Str(value) }, at(self.now_ms));
        self.run(20);
        done
    }

    fn delete(&mut self, ix: usize, table: &str, key: &str) {
        self.servers[ix].local(&Local::Delete { table, key }, at(self.now_ms));
        self.run(20);
    }

    fn inc(&mut self, ix: usize, key: &str, by: i64) -> bool {
        let done = self.servers[ix].local(&Local::Add { table: "cnt", key, by }, at(self.now_ms));
        self.run(20);
        done
    }

    /// (AoR, contact) pairs.
    fn contacts(&self, ix: usize) -> BTreeSet<(String, String)> {
        let held = self.servers[ix].contacts(at(self.now_ms));
        held.map(|h| (h.aor.to_string(), h.contact.uri.to_string())).collect()
    }

    fn entries(&self, ix: usize) -> BTreeMap<(String, String), String> {
        let held = self.servers[ix].entries(at(self.now_ms));
        held.map(|e| ((e.table.to_owned(), e.key.to_string()), text(e.value))).collect()
    }

    fn entry(&self, ix: usize, table: &str, key: &str) -> Option<String> {
        self.servers[ix].entry(table, key, at(self.now_ms)).map(|e| text(e.value))
    }

    fn state(&self, ix: usize, of: usize) -> Option<&'static str> {
        let of = addr(self.specs[of].ix);
        self.servers[ix].peers().find(|(addr, _)| *addr == of).map(|(_, word)| word)
    }

    /// Texts that `from` has sent since `mark` and that contain this.
    fn said(&self, from: usize, mark: usize, what: &str) -> usize {
        let from = addr(self.specs[from].ix);
        self.sent[mark..].iter().filter(|(f, _, text)| *f == from && text.contains(what)).count()
    }
}

fn text(value: &tables::htable::Value<'_>) -> String {
    match value {
        tables::htable::Value::Int(number) => number.to_string(),
        tables::htable::Value::Str(text) => text.to_string(),
    }
}

const BOTH: [Generation; 2] = [Generation::V5, Generation::V6];

#[test]
fn two_servers_meet_and_tell_each_other_what_happens() {
    for generation in BOTH {
        let mut mesh = Mesh::new(generation, 2);
        assert_eq!((mesh.state(0, 1), mesh.state(1, 0)), (Some("active"), Some("active")));
        mesh.register(0, "alice", "sip:alice@a", "c1", 1);
        mesh.register(1, "bob", "sip:bob@b", "c2", 1);
        assert!(mesh.set(0, "plain", "k", "v"));
        assert!(mesh.inc(1, "n", 3) && mesh.inc(0, "n", 1));
        assert_eq!(mesh.contacts(0).len(), 2);
        assert_eq!(mesh.contacts(0), mesh.contacts(1));
        assert_eq!(mesh.entries(0), mesh.entries(1));
        assert_eq!(mesh.entry(1, "cnt", "n").as_deref(), Some("4"));
        mesh.unregister(0, "alice", "sip:alice@a");
        mesh.delete(1, "plain", "k");
        assert_eq!(mesh.contacts(1).len(), 1);
        assert_eq!(mesh.entry(0, "plain", "k"), None);
    }
}

#[test]
fn a_third_server_is_met_by_hearsay() {
    for generation in BOTH {
        let mut mesh = Mesh::new(generation, 2);
        let spec = spec(2, generation);
        let late = Kamailio::start(&spec, addr(2), &[addr(0)], &tables(), 1, 7, at(mesh.now_ms));
        mesh.servers.push(late);
        mesh.specs.push(spec);
        mesh.run(11_000);
        assert_eq!((mesh.state(1, 2), mesh.state(2, 1)), (Some("active"), Some("active")));
    }
}

#[test]
fn a_restart_empties_a_server_and_it_asks_everybody_once() {
    for generation in BOTH {
        let mut mesh = Mesh::new(generation, 2);
        for i in 0..50 {
            mesh.register(0, &format!("u{i}"), &format!("sip:u{i}@a"), "c", 1);
            mesh.set(0, "plain", &format!("k{i}"), "v");
        }
        mesh.restart(1);
        assert!(mesh.contacts(1).is_empty() && mesh.entries(1).is_empty());
        let mark = mesh.sent.len();
        mesh.run(3_000);
        assert_eq!(mesh.contacts(1), mesh.contacts(0));
        assert_eq!(mesh.entries(1), mesh.entries(0));
        assert_eq!(mesh.said(1, mark, "\r\n\r\n{\"action\":3}"), 1);
        assert_eq!(mesh.said(1, mark, "\r\n\r\n{\"action\":1}"), 1);
        mesh.run(60_000);
        assert_eq!(mesh.said(1, mark, "{\"action\":3}"), 1, "a sync is asked for once in a life");
    }
}

/// What differs after a split in which each side changed something.
fn differences_after(generation: Generation, split_ms: u64) -> (usize, usize) {
    let mut mesh = Mesh::new(generation, 2);
    let name = |kind: &str, i: usize| (format!("{kind}{i}"), format!("sip:{kind}{i}@a"));
    for kind in ["same", "moved", "gone"] {
        for i in 0..5 {
            let (aor, uri) = name(kind, i);
            mesh.register(0, &aor, &uri, "before", 1);
            mesh.set(1, "plain", &aor, "before");
        }
    }
    assert_eq!(mesh.contacts(0), mesh.contacts(1));
    let (begun, during) = (mesh.now_ms, split_ms);
    mesh.cut(0, 1);
    if split_ms > 60_000 {
        mesh.run(60_000);
        assert_ne!(mesh.state(0, 1), Some("active"));
    }
    for side in [0, 1] {
        for i in 0..5 {
            let (aor, uri) = name(&format!("new{side}-"), i);
            mesh.register(side, &aor, &uri, "during", 1);
            mesh.set(side, "plain", &aor, "during");
            mesh.register(side, &format!("moved{i}"), &format!("sip:side{side}@b"), "during", 1);
            mesh.set(side, "plain", &format!("moved{i}"), &format!("side {side}"));
        }
    }
    for i in 0..5 {
        let (aor, uri) = name("gone", i);
        mesh.unregister(0, &aor, &uri);
        mesh.delete(0, "plain", &aor);
    }
    mesh.run((begun + during).saturating_sub(mesh.now_ms));
    mesh.cut.clear();
    mesh.run(40_000);
    assert_eq!((mesh.state(0, 1), mesh.state(1, 0)), (Some("active"), Some("active")));
    let contacts = mesh.contacts(0).symmetric_difference(&mesh.contacts(1)).count();
    let (left, right) = (mesh.entries(0), mesh.entries(1));
    let keys: BTreeSet<_> = left.keys().chain(right.keys()).collect();
    let entries = keys.into_iter().filter(|key| left.get(*key) != right.get(*key)).count();
    let after = mesh.now_ms;
    mesh.run(60_000);
    assert_eq!(mesh.contacts(0).symmetric_difference(&mesh.contacts(1)).count(), contacts, "after {after}");
    (contacts, entries)
}

#[test]
fn nothing_that_changed_in_a_long_split_is_ever_repaired() {
    for generation in BOTH {
        // 10 added, 10 moved, 5 removed on one side; keys: 10 added, 5 written on both, 5 deleted.
        assert_eq!(differences_after(generation, 120_000), (25, 20), "{generation:?}");
    }
}

#[test]
fn a_short_split_is_bridged_by_repetition_but_5_6_swaps_what_both_wrote() {
    assert_eq!(differences_after(Generation::V5, 10_000), (0, 5));
    assert_eq!(differences_after(Generation::V6, 10_000), (0, 0));
}
