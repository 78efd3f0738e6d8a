//! One node and some scripted servers in virtual time: no sockets, no sleeping.
//!
//! A [`Server`] does what Kamailio 5.6.3 was observed to do with contacts and tables: the last
//! arrival wins, a contact is found by ruid, then by URI, a removal by ruid alone; it answers a
//! question with a dump, and only then with 200; a restart forgets everything and starts new Call-IDs.
//! It stands in for a real server where virtual time is needed; the real ones have tests of their own.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use crdt::{NodeId, Origin, Wall};
use kdmq::{htable, usrloc};
use sip::MessageBuilder;
use starling_node::config::{Ack, DmqConfig, DmqMode, HtableConfig, SipSocket, SipTransport, Timing};
use starling_node::{Batch, Config, Input, Mono, Node, Now, Output, Restored, SocketId, Tree};
use tables::htable::Value;
use tables::location::Contact;

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
}

/// Plants the bug that the environment names, in a build with the feature `planted`.
fn plant() {
    #[cfg(feature = "planted")]
    if let Ok(name) = std::env::var("STARLING_PLANT") {
        let bug = crdt::planted::Bug::by_name(&name).expect("STARLING_PLANT names a bug");
        crdt::planted::choose(Some(bug));
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

    /// Starts a server that knows the node.
    pub(crate) fn start(&mut self, addr: &str) -> SocketAddr {
        let addr: SocketAddr = addr.parse().unwrap();
        let lives = self.servers.get(&addr).map_or(0, |s| s.lives);
        let mut server = Server::new(addr, lives + 1);
        let list = format!("sip:{addr};status=active\r\n");
        server.request("notification_peer", list.into_bytes(), 2, "main");
        self.servers.insert(addr, server);
        addr
    }

    pub(crate) fn server(&mut self, addr: SocketAddr) -> &mut Server {
        self.servers.get_mut(&addr).unwrap()
    }

    /// Kills the node, lets time pass, and starts it from its disk.
    pub(crate) fn restart_node(&mut self, away_ms: u64) {
        let end = self.now_ms + away_ms;
        while self.now_ms < end {
            let (now_ms, wall_s) = (self.now_ms, self.wall_s());
            for server in self.servers.values_mut() {
                server.tick(now_ms, wall_s);
                server.outbox.clear();
            }
            self.now_ms += 100;
        }
        self.config.origin = Origin(self.config.origin.0 + 1);
        let entries = self.disk.iter().map(|((tree, key), value)| (*tree, key.clone(), value.clone())).collect();
        self.node = Node::new(self.config.clone(), [8; 32], now(self.now_ms), Restored { entries });
        self.handle(Input::Tick);
    }

    fn persist(&mut self, batch: Batch) {
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
                Output::SipDatagram { to, bytes, .. } => {
                    let wall_s = self.wall_s();
                    if let Some(server) = self.servers.get_mut(&to)
                        && server.reachable
                    {
                        server.receive(&bytes, wall_s);
                    }
                }
                Output::Persist(batch) => self.persist(batch),
                Output::Log(line) => self.log.push(line.text),
                _ => {}
            }
        }
    }

    /// Lets time pass, a millisecond at a step where something happens.
    pub(crate) fn run_ms(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            let (now_ms, wall_s) = (self.now_ms, self.wall_s());
            for (addr, server) in &mut self.servers {
                server.tick(now_ms, wall_s);
                for bytes in server.outbox.drain(..) {
                    if server.reachable {
                        self.inbox.push_back((*addr, bytes));
                    }
                }
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

fn now(ms: u64) -> Now {
    Now { mono: Mono(ms * 1_000), wall: Wall(START_MS + ms) }
}

/// A scripted server.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) lives: u64,
    pub(crate) reachable: bool,
    /// By AoR and ruid.
    pub(crate) contacts: BTreeMap<(String, String), Contact<'static>>,
    /// By table and key: value and absolute expiry.
    pub(crate) entries: BTreeMap<(String, String), (Value<'static>, u64)>,
    /// Seconds of `autoexpire` by table; other tables do not expire.
    pub(crate) autoexpire: BTreeMap<String, u64>,
    /// Data requests received, retransmissions not counted, with their channel.
    pub(crate) received: Vec<(String, Vec<u8>)>,
    counters: BTreeMap<&'static str, u64>,
    next_ruid: u64,
    open: BTreeMap<String, (Vec<u8>, u64, u64)>,
    seen: std::collections::BTreeSet<String>,
    next_ping: u64,
    heard_of_node: bool,
    outbox: Vec<Vec<u8>>,
    now_ms: u64,
}

impl Server {
    fn new(addr: SocketAddr, lives: u64) -> Self {
        Self {
            addr,
            lives,
            reachable: true,
            contacts: BTreeMap::new(),
            entries: BTreeMap::new(),
            autoexpire: BTreeMap::from([("exp".to_owned(), 3_600)]),
            received: Vec::new(),
            counters: BTreeMap::new(),
            next_ruid: 1,
            open: BTreeMap::new(),
            seen: Default::default(),
            next_ping: 0,
            heard_of_node: false,
            outbox: Vec::new(),
            now_ms: 0,
        }
    }

    /// Sends a request as one of this server's processes.
    pub(crate) fn request(&mut self, channel: &str, body: Vec<u8>, max_forwards: u32, process: &'static str) {
        let counter = self.counters.entry(process).or_insert(0);
        *counter += 1;
        let start = (0x0123_4567_0000_0000u64).wrapping_mul(self.lives) ^ (u64::from(self.addr.port()) << 40);
        let pid = match process {
            "main" => 100,
            "sip" => 101,
            _ => 102,
        };
        let call_id = format!("{:016x}-{pid}@{}", start + *counter, self.addr.ip());
        let bytes = MessageBuilder::request(b"KDMQ", format!("sip:{channel}@{NODE}").as_bytes())
            .header("Via", format!("SIP/2.0/UDP {};branch=z9hG4bK{call_id}", self.addr))
            .header("To", format!("<sip:{channel}@{NODE}>"))
            .header("From", format!("<sip:{channel}@{}>;tag=1", self.addr))
            .header("CSeq", "10 KDMQ")
            .header("Call-ID", &call_id)
            .content_length()
            .header("User-Agent", "kamailio (5.6.3 (x86_64/linux))")
            .header("Max-Forwards", max_forwards.to_string())
            .finish(&body);
        self.open.insert(call_id, (bytes.clone(), self.now_ms, 500));
        self.outbox.push(bytes);
    }

    fn tick(&mut self, now_ms: u64, wall_s: u64) {
        self.now_ms = now_ms;
        self.contacts.retain(|_, c| c.expires == 0 || c.expires > wall_s);
        self.entries.retain(|_, (_, expire)| *expire == 0 || *expire > wall_s);
        let mut again = Vec::new();
        self.open.retain(|_, (bytes, sent, wait)| {
            if now_ms >= *sent + *wait {
                again.push(bytes.clone());
                *sent = now_ms;
                *wait = (*wait * 2).min(4_000);
            }
            true
        });
        self.outbox.extend(again);
        if self.heard_of_node && now_ms >= self.next_ping {
            self.next_ping = now_ms + 10_000;
            let list = self.list();
            self.request("notification_peer", list, 1, "main");
        }
    }

    fn list(&self) -> Vec<u8> {
        let node = if self.heard_of_node { format!("sip:{NODE};status=active\r\n") } else { String::new() };
        format!("{node}sip:{};status=active\r\n", self.addr).into_bytes()
    }

    fn receive(&mut self, bytes: &[u8], wall_s: u64) {
        let message = sip::parse(bytes).expect("a node sends SIP");
        if message.method().is_none() {
            let call_id = String::from_utf8(message.call_id().unwrap().to_vec()).unwrap();
            self.open.remove(&call_id);
            self.heard_of_node = true;
            return;
        }
        self.heard_of_node = true;
        let channel = message.uri().unwrap().split(|b| matches!(b, b':' | b'@')).nth(1).unwrap();
        let channel = String::from_utf8(channel.to_vec()).unwrap();
        let branch = String::from_utf8(message.via().unwrap().branch().to_vec()).unwrap();
        let mut body = Vec::new();
        if channel == "notification_peer" {
            body = self.list();
        } else if self.seen.insert(branch) {
            self.received.push((channel.clone(), message.body.to_vec()));
            self.execute(&channel, message.body, wall_s);
        }
        let source = NODE.parse().unwrap();
        let answer = MessageBuilder::response_to(&message, source, 200, "OK", Some(b"t"))
            .unwrap()
            .header("Server", "kamailio (5.6.3 (x86_64/linux))")
            .finish(&body);
        self.outbox.push(answer);
    }

    fn execute(&mut self, channel: &str, body: &[u8], wall_s: u64) {
        if channel == "usrloc" {
            for action in usrloc::decode(body).expect("a node sends valid bodies").actions {
                match action {
                    usrloc::Action::Update(row) => {
                        self.store(row.aor.to_string(), row.contact.into_owned());
                    }
                    usrloc::Action::Remove(row) => {
                        self.contacts.remove(&(row.aor.to_string(), row.contact.ruid.to_string()));
                    }
                    usrloc::Action::Sync => self.dump_contacts(),
                    usrloc::Action::None => {}
                }
            }
            return;
        }
        match htable::decode(body).expect("a node sends valid bodies") {
            htable::Action::Set { table, key, value, .. } => {
                let expire = self.autoexpire.get(&table.to_string()).map_or(0, |s| wall_s + s);
                let value = match value {
                    Value::Int(int) => Value::Int(int),
                    Value::Str(text) => Value::Str(text.into_owned().into()),
                };
                self.entries.insert((table.to_string(), key.to_string()), (value, expire));
            }
            htable::Action::Expire { table, key, seconds } => {
                if self.autoexpire.contains_key(&table.to_string())
                    && let Some((_, expire)) = self.entries.get_mut(&(table.to_string(), key.to_string()))
                {
                    *expire = wall_s.saturating_add_signed(seconds);
                }
            }
            htable::Action::Delete { table, key } => {
                self.entries.remove(&(table.to_string(), key.to_string()));
            }
            htable::Action::Sync { .. } => self.dump_entries(),
            other => panic!("a node never sends {other:?}"),
        }
    }

    /// As 5.6: by ruid, else by URI under the old ruid, else new.
    fn store(&mut self, aor: String, contact: Contact<'static>) {
        let by_uri = self
            .contacts
            .iter()
            .find(|((a, _), held)| *a == aor && held.uri == contact.uri)
            .map(|(key, held)| (key.clone(), held.callid == contact.callid && held.cseq >= contact.cseq));
        let key = (aor, contact.ruid.to_string());
        match by_uri {
            Some((held, refused)) if !self.contacts.contains_key(&key) => {
                if !refused {
                    let ruid = held.1.clone();
                    self.contacts.insert(held, Contact { ruid: ruid_of(&ruid), ..contact });
                }
            }
            _ => _ = self.contacts.insert(key, contact),
        }
    }

    fn dump_contacts(&mut self) {
        for ((aor, ruid), contact) in self.contacts.clone() {
            let body = usrloc::encode_update(aor.as_bytes(), &contact, ruid.as_bytes(), kdmq::Generation::V5);
            self.request("usrloc", body.unwrap(), 1, "dmq");
        }
    }

    fn dump_entries(&mut self) {
        let cells: Vec<String> = self
            .entries
            .iter()
            .map(|((table, key), (value, expire))| {
                let value = match value {
                    Value::Int(int) => format!(r#""type":0,"intval":{int}"#),
                    Value::Str(text) => format!(r#""type":2,"strval":"{text}""#),
                };
                format!(r#"{{"htname":"{table}","cname":"{key}",{value},"expire":{expire}}}"#)
            })
            .collect();
        let body = format!(r#"{{"cells":[{}]}}"#, cells.join(","));
        self.request("htable", body.into_bytes(), 1, "dmq");
    }

    /// A phone REGISTERs here; returns the ruid.
    pub(crate) fn register(
        &mut self,
        aor: &str,
        uri: &str,
        callid: &str,
        cseq: u32,
        expires: u64,
        wall_s: u64,
    ) -> String {
        let held = self.contacts.iter().find(|((a, _), c)| a == aor && *c.uri == uri);
        let ruid = held.map_or_else(
            || {
                self.next_ruid += 1;
                format!("uloc-{}-{}-{}", self.addr.ip(), self.lives, self.next_ruid)
            },
            |((_, ruid), _)| ruid.clone(),
        );
        let contact = Contact {
            uri: owned(uri),
            callid: owned(callid),
            user_agent: owned("phone"),
            ruid: ruid_of(&ruid),
            cseq,
            expires: wall_s + expires,
            last_modified: wall_s,
            methods: u32::MAX,
            q: -1,
            ..Contact::default()
        };
        let body = usrloc::encode_update(aor.as_bytes(), &contact, ruid.as_bytes(), kdmq::Generation::V5);
        self.contacts.insert((aor.to_owned(), ruid.clone()), contact);
        if self.heard_of_node {
            self.request("usrloc", body.unwrap(), 1, "sip");
        }
        ruid
    }

    /// A phone un-REGISTERs here.
    pub(crate) fn unregister(&mut self, aor: &str, uri: &str) {
        let key = self.contacts.iter().find(|((a, _), c)| a == aor && *c.uri == uri).map(|(k, _)| k.clone());
        let Some(key) = key else { return };
        let contact = self.contacts.remove(&key).unwrap();
        let update = usrloc::encode_update(aor.as_bytes(), &contact, key.1.as_bytes(), kdmq::Generation::V5).unwrap();
        let body = String::from_utf8(update).unwrap().replacen(r#""action":1"#, r#""action":2"#, 1);
        self.request("usrloc", body.into_bytes(), 1, "sip");
    }

    /// Gives up on everything that was not answered, as after `fr_timer`.
    pub(crate) fn forget_open(&mut self) {
        self.open.clear();
    }

    /// `$sht(table=>key) = value` here.
    pub(crate) fn set(&mut self, table: &str, key: &str, value: Value<'static>, wall_s: u64) {
        let expire = self.autoexpire.get(table).map_or(0, |s| wall_s + s);
        let body = htable::encode_set(table.as_bytes(), key.as_bytes(), &value, None).unwrap();
        self.entries.insert((table.to_owned(), key.to_owned()), (value, expire));
        self.request("htable", body, 1, "sip");
    }

    /// `$sht(table=>key) = $null` here.
    pub(crate) fn delete(&mut self, table: &str, key: &str) {
        self.entries.remove(&(table.to_owned(), key.to_owned()));
        let body = htable::encode_delete(table.as_bytes(), key.as_bytes()).unwrap();
        self.request("htable", body, 1, "sip");
    }

    /// The URIs under an AoR.
    pub(crate) fn holds(&self, aor: &str) -> Vec<String> {
        self.contacts.iter().filter(|((a, _), _)| a == aor).map(|(_, c)| c.uri.to_string()).collect()
    }

    pub(crate) fn entry(&self, table: &str, key: &str) -> Option<String> {
        self.entries.get(&(table.to_owned(), key.to_owned())).map(|(value, _)| match value {
            Value::Int(int) => int.to_string(),
            Value::Str(text) => text.to_string(),
        })
    }
}

fn owned(text: &str) -> std::borrow::Cow<'static, bstr::BStr> {
    std::borrow::Cow::Owned(text.into())
}

fn ruid_of(text: &str) -> std::borrow::Cow<'static, bstr::BStr> {
    owned(text)
}
