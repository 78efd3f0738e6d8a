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
        tcp: false,
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
                        self.flying.push_back((self.now_ms + 1, from, send.to, send.bytes.into()));
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

/// A peer made of nothing but messages, at 10.9.0.1.
struct Stranger<'m> {
    mesh: &'m mut Mesh,
    count: u32,
}

impl Stranger<'_> {
    fn addr() -> SocketAddr {
        "10.9.0.1:5060".parse().unwrap()
    }

    /// Sends a request to the first server and returns the code of its answer, if there is one.
    fn ask(&mut self, channel: &str, body: &str) -> Option<u16> {
        self.count += 1;
        let (own, to, id) = (Self::addr(), self.mesh.servers[0].addr(), self.count);
        let request = sip::MessageBuilder::request(b"KDMQ", format!("sip:{channel}@{to}").as_bytes())
            .header("Via", format!("SIP/2.0/UDP {own};branch=z9hG4bKstranger{id}"))
            .header("To", format!("<sip:{channel}@{to}>"))
            .header("From", format!("<sip:{channel}@{own}>;tag=1"))
            .header("CSeq", "10 KDMQ")
            .header("Call-ID", format!("{id}@stranger"))
            .header("Max-Forwards", "1")
            .finish(body.as_bytes());
        let mark = self.mesh.sent.len();
        let now = at(self.mesh.now_ms);
        self.mesh.servers[0].receive(own, &request, now);
        self.mesh.run(100);
        let answer = self.mesh.sent[mark..].iter().find(|(_, to, text)| *to == own && text.starts_with("SIP/2.0"));
        answer.map(|(_, _, text)| text[8..11].parse().unwrap())
    }

    /// Answers everything that the first server has sent here since `mark`.
    fn answer_all(&mut self, mark: usize) {
        let own = Self::addr();
        let mesh = &mut *self.mesh;
        for (from, to, text) in &mesh.sent[mark..] {
            if *to == own && text.starts_with("KDMQ") {
                let request = sip::parse(text.as_bytes()).unwrap();
                let answer =
                    sip::MessageBuilder::response_to(&request, *from, 200, "OK", Some(b"t")).unwrap().finish(b"");
                mesh.servers[0].receive(own, &answer, at(mesh.now_ms));
            }
        }
    }

    /// What the first server has sent here since `mark`, without its answers.
    fn heard(&self, mark: usize) -> Vec<String> {
        let here =
            self.mesh.sent[mark..].iter().filter(|(_, to, text)| *to == Self::addr() && text.starts_with("KDMQ"));
        here.map(|(_, _, text)| text.clone()).collect()
    }
}

fn alone(generation: Generation) -> Mesh {
    Mesh::new(generation, 1)
}

fn row(ruid: &str, uri: &str, callid: &str, cseq: u32, q: i32, last_modified: u64) -> String {
    let expires = WALL_MS / 1_000 + 3_600;
    format!(
        "{{\"action\":1,\"aor\":\"alice\",\"ruid\":\"{ruid}\",\"c\":\"{uri}\",\"received\":\"\",\"path\":\"\",\
         \"callid\":\"{callid}\",\"user_agent\":\"n/a\",\"instance\":\"\",\"expires\":{expires},\"cseq\":{cseq},\
         \"flags\":0,\"cflags\":0,\"q\":{q},\"last_modified\":{last_modified},\"methods\":-1,\"reg_id\":0,\"server_id\":9}}"
    )
}

const THEN: u64 = WALL_MS / 1_000;

#[test]
fn a_contact_is_found_by_ruid_then_by_uri_and_keeps_its_ruid() {
    for generation in BOTH {
        let mut mesh = alone(generation);
        let mut peer = Stranger { mesh: &mut mesh, count: 0 };
        let held = |peer: &Stranger<'_>| -> Vec<(String, i32)> {
            let all = peer.mesh.servers[0].lookup("alice", at(peer.mesh.now_ms));
            all.map(|h| (h.contact.ruid.to_string(), h.contact.q)).collect()
        };
        let one = |q| vec![("r1".to_owned(), q)];
        assert_eq!(peer.ask("usrloc", &row("r1", "sip:a@1", "c1", 5, 1, THEN)), Some(200));
        assert_eq!(held(&peer), one(1));
        // Its ruid: whatever the CSeq says.
        assert_eq!(peer.ask("usrloc", &row("r1", "sip:a@1", "c1", 2, 2, THEN)), Some(200));
        assert_eq!(held(&peer), one(2));
        // Another ruid, same URI: by SIP's order.
        for (callid, cseq, q, taken) in
            [("c1", 2, 3, false), ("c1", 1, 3, false), ("c1", 3, 4, true), ("c2", 1, 5, true)]
        {
            let before = held(&peer);
            assert_eq!(peer.ask("usrloc", &row("r2", "sip:a@1", callid, cseq, q, THEN)), Some(200));
            assert_eq!(held(&peer), if taken { one(q) } else { before });
        }
        // A removal under a foreign ruid misses.
        assert_eq!(peer.ask("usrloc", "{\"action\":2,\"aor\":\"alice\",\"ruid\":\"r2\"}"), Some(200));
        assert_eq!(held(&peer), one(5));
        assert_eq!(peer.ask("usrloc", "{\"action\":2,\"aor\":\"alice\",\"ruid\":\"r1\"}"), Some(200));
        assert!(held(&peer).is_empty());
        // There is no tombstone.
        peer.ask("usrloc", &row("r1", "sip:a@1", "c1", 1, 6, THEN));
        assert_eq!(held(&peer), one(6));
    }
}

#[test]
fn the_last_arrival_wins_on_5_6_and_the_newest_stamp_on_6() {
    for generation in BOTH {
        let newest = generation == Generation::V6;
        let mut mesh = alone(generation);
        let mut peer = Stranger { mesh: &mut mesh, count: 0 };
        for (q, stamp) in [(1, THEN + 5), (2, THEN), (3, THEN + 5), (4, 0)] {
            peer.ask("usrloc", &row("r1", "sip:a@1", "c1", 1, q, stamp));
            let held = peer.mesh.servers[0].lookup("alice", at(peer.mesh.now_ms)).next().unwrap().contact.q;
            let refused = newest && stamp == THEN;
            assert_eq!(held, if refused { 1 } else { q });
        }
        let set = |value: &str, stamp: Option<u64>| {
            let stamp = stamp.map_or_else(String::new, |stamp| format!("\"last_modified\":{stamp},"));
            format!(
                "{{\"action\":2,\"htname\":\"plain\",\"cname\":\"k\",\"type\":2,\"strval\":\"{value}\",{stamp}\"mode\":1}}"
            )
        };
        assert_eq!(peer.ask("htable", &set("a", None)), Some(200));
        let code = peer.ask("htable", &set("b", Some(WALL_MS)));
        assert_eq!(code, Some(if newest { 200 } else { 400 }));
        peer.ask("htable", &set("c", Some(WALL_MS)));
        assert_eq!(peer.mesh.entry(0, "plain", "k").as_deref(), Some(if newest { "b" } else { "a" }));
        peer.ask("htable", &set("d", None));
        assert_eq!(peer.mesh.entry(0, "plain", "k").as_deref(), Some("d"));
    }
}

#[test]
fn requests_are_answered_as_real_servers_answer_them() {
    let phrase = "{\"action\":2,\"htname\":\"nix\",\"cname\":\"k\",\"type\":2,\"strval\":\"v\",\"mode\":1}";
    for generation in BOTH {
        let mut mesh = alone(generation);
        let mut peer = Stranger { mesh: &mut mesh, count: 0 };
        for (channel, body, code) in [
            ("usrloc", "", 400),
            ("usrloc", "{\"action\":", 400),
            ("usrloc", "{\"action\":7}", 400),
            ("usrloc", "{\"action\":0}", 200),
            ("usrloc", "{\"action\":2,\"aor\":\"a\",\"ruid\":\"x\"}", 200),
            ("htable", phrase, 500),
            ("htable", "{\"action\":99}", 500),
            ("htable", "{\"action\":4,\"htname\":\"plain\",\"cname\":\"nobody\",\"mode\":0}", 200),
            ("dialog", "{\"action\":4}", 404),
            ("notification_peer", "", 200),
        ] {
            assert_eq!(peer.ask(channel, body), Some(code), "{channel} {body}");
        }
        assert_eq!(peer.mesh.servers[0].fallen(), None);
    }
}

#[test]
fn some_messages_end_a_server() {
    use Generation::{V5, V6};
    for (channel, body, generations) in [
        ("usrloc", "{}", &[V5, V6][..]),
        ("usrloc", "{\"action\":1,\"aor\":5,\"ruid\":\"r\",\"c\":\"sip:a@b\"}", &[V5, V6]),
        ("htable", "{}", &[V5]),
        ("notification_peer", "sip:10.9.0.1:5060;status=active", &[V5]),
        ("notification_peer", "sip:10.9.0.1:5060;status=not_active\r\n", &[V5]),
        ("notification_peer", "sip:10.9.0.1:5060;status=active\r\n\r\n", &[V5]),
    ] {
        for generation in BOTH {
            let mut mesh = alone(generation);
            let code = Stranger { mesh: &mut mesh, count: 0 }.ask(channel, body);
            assert_eq!(mesh.servers[0].fallen().is_some(), generations.contains(&generation), "{body} {generation:?}");
            assert_eq!(mesh.servers[0].poisoned(), generations.contains(&generation), "{body} {generation:?}");
            assert_eq!(code.is_none(), generations.contains(&generation), "{body} {generation:?}");
        }
    }
}

#[test]
fn a_dump_goes_to_the_asker_and_is_over_when_the_question_is_answered() {
    for generation in BOTH {
        let mut mesh = alone(generation);
        for i in 0..40 {
            mesh.register(0, &format!("u{i}"), "sip:u@a", "c", 1);
        }
        mesh.register(0, "u0", "sip:u@b", "c", 1);
        mesh.set(0, "plain", "k", "v");
        let mut peer = Stranger { mesh: &mut mesh, count: 0 };
        // From somebody who is not in its list, everybody else gets it: nobody.
        let mark = peer.mesh.sent.len();
        assert_eq!(peer.ask("usrloc", "{\"action\":3}"), Some(200));
        assert!(peer.heard(mark).is_empty());
        assert_eq!(peer.ask("notification_peer", "sip:10.9.0.1:5060;status=active\r\n"), Some(200));
        let mark = peer.mesh.sent.len();
        peer.ask("usrloc", "{\"action\":3}");
        let here: Vec<_> = peer.mesh.sent[mark..].iter().filter(|(_, to, _)| *to == Stranger::addr()).collect();
        let answer = here.iter().position(|(_, _, text)| text.starts_with("SIP/2.0 200")).unwrap();
        let rows: Vec<_> = here[..answer].iter().filter(|(.., text)| text.contains("{\"action\":1,")).collect();
        assert_eq!(rows.len(), 42, "two contacts of one address make three rows");
        assert_eq!(here[answer..].iter().filter(|(.., text)| text.starts_with("KDMQ sip:usrloc")).count(), 0);
        let ids: Vec<_> = rows
            .iter()
            .map(|(.., text)| {
                let message = sip::parse(text.as_bytes()).unwrap();
                kdmq::life::CallIdCounter::parse(message.call_id().unwrap()).unwrap()
            })
            .collect();
        assert!(ids.windows(2).all(|pair| pair[0].pid == pair[1].pid && pair[0].counter + 1 == pair[1].counter));
        let mark = peer.mesh.sent.len();
        peer.ask("htable", "{\"action\":1}");
        let cells: Vec<_> = peer.heard(mark).into_iter().filter(|text| text.contains("{\"cells\":[")).collect();
        assert_eq!(cells.len(), 1);
        assert_eq!(cells[0].contains("last_modified"), generation == Generation::V6);
    }
}

#[test]
fn a_silent_peer_is_given_up_in_the_way_of_its_generation() {
    for (generation, configured, hearsay) in
        [(Generation::V5, "pending", [Some("disabled"), None]), (Generation::V6, "not_active", [Some("disabled"); 2])]
    {
        let mut mesh = Mesh::new(generation, 2);
        mesh.cut(0, 1);
        mesh.run(41_500);
        assert_eq!(mesh.state(0, 1), Some(configured));
        let mut peer = Stranger { mesh: &mut mesh, count: 0 };
        peer.ask("notification_peer", "sip:10.9.0.1:5060;status=active\r\n");
        let word = |mesh: &Mesh| mesh.servers[0].peers().find(|(a, _)| *a == Stranger::addr()).map(|(_, word)| word);
        assert_eq!(word(peer.mesh), Some("active"));
        peer.mesh.run(40_000);
        assert_eq!(word(peer.mesh), hearsay[0]);
        // Its own message brings it back to 6 only.
        peer.ask("notification_peer", "sip:10.9.0.1:5060;status=active\r\n");
        let back = generation == Generation::V6;
        assert_eq!(word(peer.mesh), Some(if back { "active" } else { "disabled" }));
        peer.mesh.run(if back { 40_000 } else { 0 });
        // What is told meanwhile never arrives.
        let mark = peer.mesh.sent.len();
        peer.mesh.register(0, "alice", "sip:a@1", "c", 1);
        assert!(peer.heard(mark).iter().all(|text| !text.contains("alice")));
        peer.mesh.run(10_000);
        assert_eq!(word(peer.mesh), hearsay[1]);
        // Removed or not, it may come again.
        peer.ask("notification_peer", "sip:10.9.0.1:5060;status=active\r\n");
        assert_eq!(word(peer.mesh), Some("active"));
    }
}

#[test]
fn one_who_has_left_comes_back_to_5_6_only_by_answering_its_ping() {
    for generation in BOTH {
        let mut mesh = alone(generation);
        let mut peer = Stranger { mesh: &mut mesh, count: 0 };
        let word = |mesh: &Mesh| mesh.servers[0].peers().next().map(|(_, word)| word);
        peer.ask("notification_peer", "sip:10.9.0.1:5060;status=active\r\n");
        peer.ask("notification_peer", "sip:10.9.0.1:5060;status=disabled\r\n");
        assert_eq!(word(peer.mesh), Some("disabled"));
        peer.ask("notification_peer", "sip:10.9.0.1:5060;status=active\r\n");
        assert_eq!(word(peer.mesh), Some(if generation == Generation::V5 { "disabled" } else { "active" }));
        let mark = peer.mesh.sent.len();
        peer.mesh.run(10_000);
        peer.answer_all(mark);
        assert_eq!(word(peer.mesh), Some("active"));
    }
}

#[test]
fn entries_expire_by_their_tables_rule_and_nobody_is_told() {
    for generation in BOTH {
        let mut mesh = Mesh::new(generation, 2);
        mesh.set(0, "fix", "k", "v");
        mesh.set(0, "exp", "k", "v");
        mesh.run(60_000);
        // The first restarts its life only in a table that does so.
        mesh.set(0, "fix", "k", "w");
        mesh.set(0, "exp", "k", "w");
        let mark = mesh.sent.len();
        mesh.run(63_000);
        for ix in [0, 1] {
            assert_eq!(mesh.entry(ix, "fix", "k"), None);
            assert_eq!(mesh.entry(ix, "exp", "k").as_deref(), Some("w"));
        }
        assert_eq!(mesh.said(0, mark, "\"k\""), 0);
        let mut peer = Stranger { mesh: &mut mesh, count: 0 };
        let expire = |seconds| {
            format!("{{\"action\":3,\"htname\":\"exp\",\"cname\":\"k\",\"type\":0,\"intval\":{seconds},\"mode\":0}}")
        };
        peer.ask("htable", &expire(10));
        assert_eq!(
            peer.mesh.servers[0].entry("exp", "k", at(peer.mesh.now_ms)).unwrap().expires,
            at(peer.mesh.now_ms - 100).wall.0 / 1_000 + 10
        );
        // Permanent, and in no dump.
        peer.ask("htable", &expire(0));
        assert_eq!(peer.mesh.servers[0].entry("exp", "k", at(peer.mesh.now_ms)).unwrap().expires, 0);
        peer.ask("notification_peer", "sip:10.9.0.1:5060;status=active\r\n");
        let mark = peer.mesh.sent.len();
        peer.ask("htable", "{\"action\":1}");
        assert!(peer.heard(mark).iter().any(|text| text.contains("{\"cells\":[]}")));
    }
}

#[test]
fn counters_that_two_servers_add_to_at_once_lose_increments() {
    for generation in BOTH {
        let mut mesh = Mesh::new(generation, 2);
        for _ in 0..10 {
            let now = at(mesh.now_ms);
            for server in &mut mesh.servers {
                assert!(server.local(&Local::Add { table: "cnt", key: "n", by: 1 }, now));
            }
            mesh.run(20);
        }
        let counted: i64 = mesh.entry(0, "cnt", "n").unwrap().parse().unwrap();
        assert!(counted < 20, "{counted}");
        mesh.set(0, "cnt", "text", "x");
        assert!(!mesh.inc(0, "text", 1), "a text cannot be counted up");
        let now = at(mesh.now_ms);
        assert!(!mesh.servers[0].local(&Local::Add { table: "plain", key: "new", by: 1 }, now), "no initval");
    }
}

#[test]
fn a_slow_worker_is_overtaken() {
    let mut orders = BTreeSet::new();
    let mut specs = [spec(0, Generation::V5), spec(1, Generation::V5)];
    specs[0].reorder_permille = 500;
    let mut mesh = Mesh::of(specs.into());
    for i in 0..30 {
        let value = i.to_string();
        let now = at(mesh.now_ms);
        mesh.servers[0].local(&Local::Set { table: "plain", key: "k", value: Value::Str("early") }, now);
        mesh.servers[0].local(&Local::Set { table: "plain", key: "k", value: Value::Str(&value) }, now);
        mesh.run(50);
        orders.insert(mesh.entry(1, "plain", "k").unwrap() == value);
    }
    assert_eq!(orders.len(), 2, "sometimes the earlier one arrives later");
}

#[test]
fn a_phone_that_moves_with_its_instance_keeps_its_row() {
    for generation in BOTH {
        let mut mesh = Mesh::new(generation, 2);
        for (cseq, uri) in [(1, "sip:a@1"), (2, "sip:a@2")] {
            let now = at(mesh.now_ms);
            let instance = "<urn:uuid:1>";
            let what = Local::Register { aor: "alice", uri, callid: "c", cseq, expires_s: 60, instance, reg_id: 1 };
            assert!(mesh.servers[0].local(&what, now));
            mesh.run(50);
        }
        for server in &mesh.servers {
            let held: Vec<_> = server.lookup("alice", at(mesh.now_ms)).map(|h| h.contact.uri.to_string()).collect();
            assert_eq!(held, ["sip:a@2"]);
        }
        // An old request is refused, a repetition changes nothing.
        assert!(mesh.register(1, "bob", "sip:b@1", "c", 5));
        assert!(mesh.register(1, "bob", "sip:b@1", "c", 5));
        assert!(!mesh.register(1, "bob", "sip:b@1", "c", 4));
        let now = at(mesh.now_ms);
        mesh.servers[1].local(&Local::Star { aor: "alice" }, now);
        mesh.run(50);
        assert!(mesh.servers[0].lookup("alice", at(mesh.now_ms)).next().is_none());
    }
}

#[test]
fn a_full_server_refuses_phones_and_loses_the_tail_of_its_dumps() {
    for generation in BOTH {
        let mut small = spec(0, generation);
        small.memory_contacts = 1_000;
        let mut mesh = Mesh::of(vec![small.clone(), spec(1, generation)]);
        for i in 0..400 {
            mesh.register(0, &format!("u{i}"), "sip:u@a", "c", 1);
            mesh.run(100);
        }
        mesh.run(10_000);
        assert_eq!(mesh.contacts(1).len(), 400);
        mesh.restart(1);
        mesh.run(60_000);
        let arrived = mesh.contacts(1).len();
        assert!((1..200).contains(&arrived), "{arrived} of 400");
        // Beyond its memory: refused to phones, not answered to peers; 5.6 does not live long then.
        small.memory_contacts = 100;
        let mut mesh = Mesh::of(vec![small, spec(1, generation)]);
        mesh.run(7_000);
        for i in 0..140 {
            mesh.register(1, &format!("u{i}"), "sip:u@a", "c", 1);
        }
        assert!((60..=100).contains(&mesh.contacts(0).len()));
        assert!(!mesh.register(0, "late", "sip:u@a", "c", 1));
        assert_eq!(mesh.servers[0].fallen().is_some(), generation == Generation::V5);
        assert!(!mesh.servers[0].poisoned());
    }
}

#[test]
fn a_hostile_server_stays_a_peer_and_molests_nodes_only() {
    let mut evil = spec(0, Generation::V5);
    evil.hostile = true;
    evil.nodes = vec![0];
    let mut mesh = Mesh::of(vec![evil, spec(1, Generation::V5), spec(2, Generation::V5)]);
    let mark = mesh.sent.len();
    mesh.run(120_000);
    // The test's "node" is a server, which such a peer kills.
    assert!(mesh.servers[1].fallen().is_some());
    assert_eq!(mesh.servers[2].fallen(), None);
    let evil: Vec<_> = mesh.sent[mark..].iter().filter(|(from, ..)| *from == addr(0)).collect();
    assert!(evil.len() > 100);
    assert!(evil.iter().filter(|(_, to, _)| *to == addr(2)).all(|(.., text)| !text.contains("evil")));
}

#[test]
fn two_runs_of_one_seed_are_the_same() {
    let run = || {
        let mut specs = vec![spec(0, Generation::V5), spec(1, Generation::V6)];
        specs[0].reorder_permille = 300;
        let mut mesh = Mesh::of(specs);
        for i in 0..50 {
            mesh.register(i % 2, &format!("u{i}"), "sip:u@a", "c", 1);
            mesh.inc(i % 2, "n", 1);
        }
        mesh.run(20_000);
        mesh.sent
    };
    assert_eq!(run(), run());
}
