//! Two simulated servers against two real ones: the same script of writes, the same split in plain DMQ, and in the end
//! each server holds what its counterpart holds. What `starling sim compare` says of Kamailio rests on this.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use node::{Mono, Now, Wall};
use simulation::kamailio::{Local, Timing, Value as Written};
use simulation::script::{Generation, ServerSpec, TableSpec};
use starling_tests::compare::{Value, unix_now};
use starling_tests::host::Host;
use starling_tests::kamailio::{Kamailio, KamailioConfig};
use starling_tests::net::{Net, Site};
use starling_tests::phone::{Contact, Phone};
use starling_tests::topology::TABLES;
use starling_tests::wait::{PATIENCE, eventually, limited, secs};

/// What somebody does at a server.
#[derive(Clone, Debug)]
enum Act {
    /// The phone registers this URI for so many hours. It has one Call-ID wherever it goes.
    Register(String, String, u32),
    /// The same for a phone with an instance.
    Moves(String, String, u32),
    Unregister(String, String),
    Star(String),
    Set(&'static str, String, Value),
    Delete(&'static str, String),
    Increment(String),
}

/// A script: who does what where, in this order.
#[derive(Default)]
struct Script(Vec<(usize, Act)>);

impl Script {
    /// `phone` is the address of record, and what tells two devices of it apart behind a slash.
    fn register(&mut self, server: usize, phone: &str, uri: &str, hours: u32) -> &mut Self {
        self.add(server, Act::Register(phone.to_owned(), uri_of(uri), hours))
    }

    fn moves(&mut self, server: usize, phone: &str, uri: &str, hours: u32) -> &mut Self {
        self.add(server, Act::Moves(phone.to_owned(), uri_of(uri), hours))
    }

    fn unregister(&mut self, server: usize, phone: &str, uri: &str) -> &mut Self {
        self.add(server, Act::Unregister(phone.to_owned(), uri_of(uri)))
    }

    fn star(&mut self, server: usize, phone: &str) -> &mut Self {
        self.add(server, Act::Star(phone.to_owned()))
    }

    fn set(&mut self, server: usize, table: &'static str, key: &str, value: impl Into<Value>) -> &mut Self {
        self.add(server, Act::Set(table, key.to_owned(), value.into()))
    }

    fn delete(&mut self, server: usize, table: &'static str, key: &str) -> &mut Self {
        self.add(server, Act::Delete(table, key.to_owned()))
    }

    fn increment(&mut self, server: usize, key: &str, times: usize) -> &mut Self {
        (0..times).for_each(|_| _ = self.add(server, Act::Increment(key.to_owned())));
        self
    }

    fn add(&mut self, server: usize, act: Act) -> &mut Self {
        self.0.push((server, act));
        self
    }
}

fn uri_of(name: &str) -> String {
    format!("sip:{name}@192.0.2.1:5060")
}

fn aor_of(phone: &str) -> &str {
    phone.split('/').next().unwrap_or(phone)
}

const INSTANCE: &str = "urn:uuid:99999999-0000-4000-8000-000000000001";

/// What a server holds, in a form that is the same for both kinds: ruids, Call-IDs and seconds are each run's own.
#[derive(Debug, Default, PartialEq)]
struct Holdings {
    /// Address of record, URI, instance, reg-id, CSeq, hours left.
    contacts: BTreeSet<(String, String, String, u32, u32, u64)>,
    entries: BTreeMap<(&'static str, String), Value>,
    /// What it says of the other server.
    peer: String,
}

/// Full hours, the last minutes of one counted as all of it.
fn hours(seconds: u64) -> u64 {
    (seconds + 600) / 3_600
}

/// Two servers in plain DMQ, real or simulated.
trait Pair {
    fn act(&mut self, server: usize, act: &Act);
    fn wait(&mut self, time: Duration);
    fn cut(&mut self);
    fn heal(&mut self);
    fn restart(&mut self, server: usize);
    fn holdings(&mut self, server: usize) -> Holdings;

    fn play(&mut self, script: &Script) {
        for (server, act) in &script.0 {
            self.act(*server, act);
            // It arrives before the next thing happens.
            self.wait(Duration::from_millis(100));
        }
    }

    /// Waits until each says this of the other.
    fn wait_peer(&mut self, word: &str) {
        for server in [0, 1] {
            for waited in 0.. {
                let said = self.holdings(server).peer;
                if said == word {
                    break;
                }
                assert!(waited < 600, "server {server} says {said}, not {word}");
                self.wait(Duration::from_millis(100));
            }
        }
    }
}

struct Real<'n> {
    net: &'n Net,
    sites: [Site; 2],
    hosts: [Host; 2],
    servers: [Kamailio; 2],
    phones: BTreeMap<String, Phone>,
}

impl<'n> Real<'n> {
    fn start(net: &'n Net, fr_timer_ms: u32) -> Self {
        let sites = [net.site(), net.site()];
        let hosts = [sites[0].host(), sites[1].host()];
        let servers = [0, 1].map(|ix| {
            let config =
                KamailioConfig { server_id: ix as u32 + 1, fr_timer_ms, ..KamailioConfig::knowing(&hosts[1 - ix]) };
            Kamailio::start(&format!("k{ix}"), &hosts[ix], config)
        });
        Self { net, sites, hosts, servers, phones: BTreeMap::new() }
    }

    fn phone(&mut self, server: usize, name: &str) -> &mut Phone {
        let sip = self.servers[server].sip();
        let phone = self.phones.entry(name.to_owned()).or_insert_with(|| Phone::new(aor_of(name), sip));
        phone.move_to(sip);
        phone
    }
}

impl Pair for Real<'_> {
    fn act(&mut self, server: usize, act: &Act) {
        match act {
            Act::Register(phone, uri, hours) => {
                self.phone(server, phone).register(&[Contact::new(uri)], hours * 3_600).map(drop)
            }
            Act::Moves(phone, uri, hours) => {
                let contact = Contact::new(uri).instance(INSTANCE, 1);
                self.phone(server, phone).register(&[contact], hours * 3_600).map(drop)
            }
            Act::Unregister(phone, uri) => self.phone(server, phone).unregister(uri).map(drop),
            Act::Star(phone) => self.phone(server, phone).unregister_all().map(drop),
            Act::Set(table, key, value) => self.servers[server].set(table, key, value.clone()),
            Act::Delete(table, key) => self.servers[server].script(&format!("del-{table}"), &[("X-K", key)]).map(drop),
            Act::Increment(key) => self.servers[server].script("inc-cnt", &[("X-K", key)]).map(drop),
        }
        .unwrap_or_else(|error| panic!("{act:?} at {server}: {error}"));
    }

    fn wait(&mut self, time: Duration) {
        std::thread::sleep(time);
    }

    fn cut(&mut self) {
        self.net.cut(&self.sites[0], &self.sites[1]);
    }

    fn heal(&mut self) {
        self.net.heal();
    }

    fn restart(&mut self, server: usize) {
        self.servers[server].restart();
        self.wait(secs(5));
    }

    fn holdings(&mut self, server: usize) -> Holdings {
        let kamailio = &self.servers[server];
        let now = unix_now();
        let mut all = Holdings::default();
        for (aor, contacts) in kamailio.contacts().unwrap() {
            for c in contacts {
                let hours = hours(c.expires.saturating_sub(now));
                all.contacts.insert((aor.clone(), c.contact, c.instance, c.reg_id, c.cseq, hours));
            }
        }
        for table in TABLES {
            let entries = kamailio.entries(table).unwrap();
            all.entries.extend(entries.into_iter().map(|(key, value)| ((table, key), value)));
        }
        let other = self.hosts[1 - server].sip().to_string();
        let nodes = kamailio.dmq_nodes().unwrap();
        all.peer = nodes.into_iter().find(|(name, _)| *name == other).map_or_else(String::new, |(_, word)| word);
        all
    }
}

struct Simulated {
    servers: [simulation::kamailio::Kamailio; 2],
    lives: [u32; 2],
    timing: Timing,
    now_us: u64,
    flying: VecDeque<(u64, SocketAddr, SocketAddr, Vec<u8>)>,
    cut: bool,
    cseqs: BTreeMap<String, u32>,
}

const WALL_MS: u64 = 1_800_000_000_000;

impl Simulated {
    fn start(fr_timer_ms: u32) -> Self {
        let timing = Timing { ping_ms: 5_000, answer_ms: u64::from(fr_timer_ms), sweep_ms: 1_000, batch_contacts: 1 };
        let now = Now { mono: Mono(0), wall: Wall(WALL_MS) };
        let mut this = Self {
            servers: [0, 1].map(|ix| Self::launch(ix, 1, timing, now)),
            lives: [1; 2],
            timing,
            now_us: 0,
            flying: VecDeque::new(),
            cut: false,
            cseqs: BTreeMap::new(),
        };
        this.wait(secs(2));
        this
    }

    fn addr(ix: usize) -> SocketAddr {
        SocketAddr::from(([10, ix as u8 + 1, 0, 2], 5060))
    }

    fn launch(ix: usize, life: u32, timing: Timing, now: Now) -> simulation::kamailio::Kamailio {
        let spec = ServerSpec {
            ix: ix as u16,
            site: 0,
            generation: Generation::V5,
            nodes: Vec::new(),
            peers: vec![1 - ix as u16],
            start_ms: 0,
            memory_contacts: 0,
            reorder_permille: 0,
            tcp: false,
            hostile: false,
        };
        let table = |autoexpire_s, keep_expire, counter| TableSpec { autoexpire_s, keep_expire, counter, max_ttl_s: 0 };
        let tables = [
            ("plain", table(0, false, false)),
            ("exp", table(3_600, false, false)),
            ("fix", table(120, true, false)),
            ("short", table(5, false, false)),
            ("cnt", table(0, false, true)),
        ];
        let tables = tables.map(|(name, spec)| (name.to_owned(), spec)).into();
        simulation::kamailio::Kamailio::start(&spec, Self::addr(ix), &[Self::addr(1 - ix)], &tables, life, 1, now)
            .with_timing(timing, now)
    }

    fn now(&self) -> Now {
        Now { mono: Mono(self.now_us), wall: Wall(WALL_MS + self.now_us / 1_000) }
    }

    /// The CSeq of a phone's next request.
    fn cseq(&mut self, phone: &str) -> u32 {
        let cseq = self.cseqs.entry(phone.to_owned()).or_insert(0);
        *cseq += 1;
        *cseq
    }
}

impl Pair for Simulated {
    fn act(&mut self, server: usize, act: &Act) {
        let now = self.now();
        let taken = match act {
            Act::Register(phone, uri, hours) | Act::Moves(phone, uri, hours) => {
                let moves = matches!(act, Act::Moves(..));
                let instance = if moves { format!("<{INSTANCE}>") } else { String::new() };
                let what = Local::Register {
                    aor: aor_of(phone),
                    uri,
                    callid: phone,
                    cseq: self.cseq(phone),
                    expires_s: hours * 3_600,
                    instance: &instance,
                    reg_id: u32::from(moves),
                };
                self.servers[server].local(&what, now)
            }
            Act::Unregister(phone, uri) => {
                self.cseq(phone);
                self.servers[server].local(&Local::Unregister { aor: aor_of(phone), uri }, now)
            }
            Act::Star(phone) => {
                self.cseq(phone);
                self.servers[server].local(&Local::Star { aor: aor_of(phone) }, now)
            }
            Act::Set(table, key, value) => {
                let value = match value {
                    Value::Int(number) => Written::Int(*number),
                    Value::Str(text) => Written::Str(text),
                };
                self.servers[server].local(&Local::Set { table, key, value }, now)
            }
            Act::Delete(table, key) => self.servers[server].local(&Local::Delete { table, key }, now),
            Act::Increment(key) => self.servers[server].local(&Local::Add { table: "cnt", key, by: 1 }, now),
        };
        assert!(taken, "{act:?} at {server}");
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now_us + time.as_micros() as u64;
        while self.now_us < end {
            let now = self.now();
            while self.flying.front().is_some_and(|(due, ..)| *due <= self.now_us) {
                let (_, from, to, bytes) = self.flying.pop_front().expect("there is one");
                let server = self.servers.iter_mut().find(|server| server.addr() == to).expect("only two");
                server.receive(from, &bytes, now);
            }
            for server in &mut self.servers {
                server.tick(now);
                while let Some(send) = server.poll() {
                    if !self.cut {
                        self.flying.push_back((self.now_us + 500, server.addr(), send.to, send.bytes.into()));
                    }
                }
            }
            self.now_us += 500;
        }
    }

    fn cut(&mut self) {
        self.cut = true;
    }

    fn heal(&mut self) {
        self.cut = false;
    }

    fn restart(&mut self, server: usize) {
        self.lives[server] += 1;
        self.servers[server] = Self::launch(server, self.lives[server], self.timing, self.now());
        self.wait(secs(5));
    }

    fn holdings(&mut self, server: usize) -> Holdings {
        let (now, kamailio) = (self.now(), &self.servers[server]);
        let mut all = Holdings::default();
        for held in kamailio.contacts(now) {
            let (aor, c) = (held.aor.to_string(), held.contact);
            let hours = hours(c.expires.saturating_sub(now.wall.0 / 1_000));
            all.contacts.insert((aor, c.uri.to_string(), c.instance.to_string(), c.reg_id, c.cseq, hours));
        }
        for entry in kamailio.entries(now) {
            let table = TABLES.into_iter().find(|table| *table == entry.table).expect("a table");
            let value = match entry.value {
                tables::htable::Value::Int(number) => Value::Int(*number),
                tables::htable::Value::Str(text) => Value::Str(text.to_string()),
            };
            all.entries.insert((table, entry.key.to_string()), value);
        }
        let peers: Vec<_> = kamailio.peers().collect();
        all.peer = peers.first().map_or_else(String::new, |(_, word)| (*word).to_owned());
        all
    }
}

/// Fails unless each real server holds what its simulated counterpart holds.
#[track_caller]
fn check_same(moment: &str, real: &mut Real<'_>, simulated: &mut Simulated) -> [Holdings; 2] {
    for server in [0, 1] {
        let expected = simulated.holdings(server);
        eventually(secs(3), &format!("{moment}: real and simulated server {server} hold the same"), || {
            let held = real.holdings(server);
            let only_real: Vec<_> = held.contacts.difference(&expected.contacts).collect();
            let only_simulated: Vec<_> = expected.contacts.difference(&held.contacts).collect();
            ensure!(held.contacts == expected.contacts, "real: {only_real:?}, simulated: {only_simulated:?}");
            ensure!(
                held == expected,
                "real: {:?} {:?}, simulated: {:?} {:?}",
                held.peer,
                held.entries,
                expected.peer,
                expected.entries
            );
            Ok(())
        });
    }
    let held = [real.holdings(0), real.holdings(1)];
    eprintln!(
        "{moment}: {} and {} contacts, {} and {} entries",
        held[0].contacts.len(),
        held[1].contacts.len(),
        held[0].entries.len(),
        held[1].entries.len()
    );
    held
}

/// What everybody knows before the split.
fn before() -> Script {
    let mut script = Script::default();
    for name in ["untouched", "gone", "refreshed", "both", "starred", "wandering"] {
        script.register(0, name, name, 3).set(1, "plain", name, "before");
    }
    script.moves(0, "mover", "mover-old", 3);
    script.register(0, "starred/2", "starred-2", 3).register(1, "gone-right", "gone-right", 3);
    script.set(0, "exp", "both", "before");
    script.increment(0, "calls", 3).increment(1, "calls", 2).increment(1, "right", 1);
    script
}

/// What each side does alone.
fn during() -> Script {
    let mut script = Script::default();
    // Dead when it is looked for.
    script.set(1, "short", "dead soon", 1);
    for (side, name) in [(0, "left"), (1, "right")] {
        for i in 0..5 {
            script.register(side, &format!("new-{name}-{i}"), name, 2).set(side, "plain", &format!("{name}-{i}"), i);
        }
        script.set(side, "plain", "both", name).set(side, "exp", "both", name).increment(side, "calls", side + 4);
        // Two devices, one address of record; and one URI under two Call-IDs.
        script.register(side, &format!("both/{name}"), &format!("both-{name}"), 1);
        script.register(side, &format!("twin/{name}"), "twin", 2);
        script.set(side, "cnt", "text", if side == 0 { Value::Int(7) } else { Value::from("text") });
    }
    script.unregister(0, "gone", "gone").delete(0, "plain", "gone").unregister(1, "gone-right", "gone-right");
    script.register(1, "refreshed", "refreshed", 1).star(0, "starred").delete(0, "exp", "both");
    // The same Call-ID at one server after the other.
    script.register(0, "wandering", "wandering", 2).register(1, "wandering", "wandering", 1);
    script.moves(1, "mover", "mover-new", 2);
    script.register(0, "walker", "walker", 1).register(1, "walker", "walker", 2);
    script
}

/// What is done when all is well again, at things that are not.
fn after() -> Script {
    let mut script = Script::default();
    script.register(0, "twin/left", "twin", 3).unregister(1, "both/right", "both-right");
    script.register(0, "walker", "walker", 3).unregister(1, "refreshed", "refreshed");
    script.unregister(0, "twin/left", "twin").star(1, "starred").moves(0, "mover", "mover-home", 1);
    script.increment(0, "calls", 1).delete(1, "plain", "left-0").set(0, "plain", "right-0", "later");
    script.register(1, "wandering", "wandering", 3).unregister(0, "gone-right", "gone-right");
    script.increment(1, "right", 2).set(1, "exp", "both", "later");
    script
}

fn both(fr_timer_ms: u32, test: impl FnOnce(&mut Real<'_>, &mut Simulated) + Send) {
    Net::run(|net| {
        let mut real = Real::start(net, fr_timer_ms);
        let mut simulated = Simulated::start(fr_timer_ms);
        real.wait_peer("active");
        simulated.wait_peer("active");
        test(&mut real, &mut simulated);
    });
}

/// Does the same to both.
fn each(real: &mut Real<'_>, simulated: &mut Simulated, action: impl Fn(&mut dyn Pair)) {
    action(real);
    action(simulated);
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn after_a_long_split_in_plain_dmq_simulated_servers_differ_as_real_ones_do() {
    limited(secs(180), || {
        both(3_000, |real, simulated| {
            each(real, simulated, |pair| pair.play(&before()));
            let held = check_same("before", real, simulated);
            assert_eq!(held[0], held[1]);
            each(real, simulated, |pair| {
                pair.cut();
                pair.wait_peer("pending");
                pair.play(&during());
                pair.wait(secs(6));
            });
            check_same("during", real, simulated);
            each(real, simulated, |pair| {
                pair.heal();
                pair.wait_peer("active");
                pair.wait(secs(6));
            });
            let held = check_same("healed", real, simulated);
            let contacts = held[0].contacts.symmetric_difference(&held[1].contacts).count();
            assert!(contacts > 20, "{contacts}");
            each(real, simulated, |pair| pair.play(&after()));
            let held = check_same("after", real, simulated);
            assert!(held[0].contacts != held[1].contacts && held[0].entries != held[1].entries);
            // A server that starts anew takes what the other has, ghosts included.
            each(real, simulated, |pair| pair.restart(1));
            let held = check_same("restarted", real, simulated);
            assert_eq!(held[0], held[1]);
            each(real, simulated, |pair| pair.play(&after()));
            check_same("again", real, simulated);
        });
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_split_shorter_than_sips_patience_swaps_what_both_wrote_in_simulated_servers_as_in_real_ones() {
    limited(secs(120), || {
        both(30_000, |real, simulated| {
            each(real, simulated, |pair| pair.play(&before()));
            check_same("before", real, simulated);
            let mut script = Script::default();
            for (side, name) in [(0, "left"), (1, "right")] {
                script.set(side, "plain", "both", name).register(side, &format!("new-{name}"), name, 2);
                script.register(side, &format!("twin/{name}"), "twin", 2);
            }
            // Refused at the one server, taken at the other.
            script.register(0, "walker", "walker", 1).register(1, "walker", "walker", 2);
            script.unregister(0, "gone", "gone").delete(1, "plain", "gone").increment(0, "calls", 1);
            each(real, simulated, |pair| {
                pair.cut();
                pair.play(&script);
                pair.wait(Duration::from_millis(300));
                pair.heal();
                pair.wait(secs(8));
            });
            let held = check_same("healed", real, simulated);
            let of = |side: usize| held[side].entries[&("plain", "both".to_owned())].clone();
            assert_eq!((of(0), of(1)), (Value::from("right"), Value::from("left")));
        });
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_server_that_starts_alone_takes_the_others_dump_over_what_it_has_in_both_worlds() {
    limited(secs(120), || {
        both(3_000, |real, simulated| {
            // The second has asked nobody in its life, the first has: only one of them will send everything.
            each(real, simulated, |pair| {
                pair.cut();
                pair.wait_peer("pending");
                pair.restart(1);
                pair.play(&before());
                pair.play(&during());
                pair.wait(secs(6));
            });
            check_same("alone", real, simulated);
            each(real, simulated, |pair| {
                pair.heal();
                pair.wait_peer("active");
                pair.wait(secs(6));
            });
            let held = check_same("met", real, simulated);
            assert!(held[0].contacts != held[1].contacts && held[0].entries != held[1].entries);
        });
    });
}

#[test]
fn a_script_is_played_alike_twice() {
    let play = || {
        let mut pair = Simulated::start(3_000);
        pair.play(&before());
        pair.cut();
        pair.wait_peer("pending");
        pair.play(&during());
        pair.heal();
        pair.wait(PATIENCE);
        [pair.holdings(0), pair.holdings(1)]
    };
    assert_eq!(play(), play());
}
