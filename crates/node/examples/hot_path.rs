//! Prints what a server's update costs a node on the processor, and what a contact costs it in memory. No sockets: the
//! node's inputs are made here, its outputs are counted and thrown away.
//!
//! A scripted server sends an update (some 840 bytes) for each of 20,000 contacts (or as many as the first argument says),
//! then refreshes of all of them in another order. Two real nodes are linked with the one that is measured and take what
//! it pushes; at the end all three must hold the same. Time is that of this thread on a processor, so that a busy machine
//! can be borne, and only while the measured node works. Memory is that of a node of its own, with five times as many
//! contacts.
//!
//! `cargo run --release -p starling-node --example hot_path`

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::net::SocketAddr;
use std::time::Instant;

use crdt::{NodeId, Origin, Wall};
use sip::MessageBuilder;
use starling_node::config::{Ack, DmqConfig, DmqMode, SipSocket, SipTransport, Timing};
use starling_node::{Config, Input, LinkId, Mono, Node, Now, Output, Restored, SocketId};

const START_MS: u64 = 1_800_000_000_000;
/// Between two updates, microseconds: 10,000 a second.
const STEP_US: u64 = 100;
/// Updates between two times that the other nodes are served.
const BURST: usize = 500;
/// Rounds of refreshes.
const ROUNDS: u64 = 4;
const SERVER: &str = "127.0.0.21:5060";

fn sip_addr(id: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, id], 5070))
}

fn link_addr(id: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, id], 7946))
}

fn config(id: u8) -> Config {
    Config {
        node: NodeId(u64::from(id)),
        origin: Origin(u64::from(id) * 11),
        name: format!("n{id}"),
        cluster: "hot".into(),
        advertise: link_addr(id),
        join: Vec::new(),
        ack: Ack::Memory,
        durable: false,
        max_skew_ms: 2_000,
        forget_after_s: 8 * 86_400,
        timing: Timing::Lan,
        location_max_ttl_s: 7 * 86_400,
        dialog_max_life_s: 3_600,
        htables: BTreeMap::new(),
        sip: vec![SipSocket { transport: SipTransport::Udp, addr: sip_addr(id) }],
        dmq: DmqConfig {
            peers: Vec::new(),
            mode: DmqMode::Bridge,
            trusted: vec!["127.0.0.0/8".parse().expect("a network")],
            ping_interval_ms: 60_000,
            window: 32,
            feed_limit: 0,
            multi: 3,
        },
    }
}

/// What a phone registers.
#[derive(Clone, Copy)]
enum Phone {
    /// A short user agent, and nothing that is not needed.
    Plain,
    /// With instance, path and received address.
    Rich,
}

/// What a real server sends for a phone.
fn update(phone: Phone, n: usize, round: u64, now_s: u64) -> Vec<u8> {
    let (cseq, expires) = (round + 1, now_s + 3_600 + n as u64 % 600);
    let attributes = match phone {
        Phone::Plain => format!(
            r#""c":"sip:u{n:06}@127.0.0.99:{}","received":"","path":"","callid":"c-u{n:06}@lab","user_agent":"LabPhone/1.0","instance":"""#,
            20_000 + n % 40_000
        ),
        Phone::Rich => format!(
            r#""c":"sip:u{n:06}@192.0.2.7:{};transport=tcp","received":"sip:198.51.100.9:{};transport=tcp","path":"<sip:edge1@192.0.2.1;lr;ob>","callid":"7f03-{n:08x}-3b16b956@192.0.2.7","user_agent":"Acme-Phone T46U 108.86.0.20 805e0c123456","instance":"<urn:uuid:8d1f0a52-7a6f-4f0e-9c55-{n:012x}>""#,
            20_000 + n % 40_000,
            30_000 + n % 30_000
        ),
    };
    let body = format!(
        r#"{{"action":1,"aor":"u{n:06}","ruid":"uloc-1-6b03e4c9-7f30-{n:x}",{attributes},"expires":{expires},"cseq":{cseq},"flags":0,"cflags":0,"q":-1,"last_modified":{now_s},"methods":4294967295,"reg_id":0,"server_id":1}}"#
    );
    let number = 0x0a6d_b7ce_784f_0000 + round * 1_000_000 + n as u64 + 100;
    request("usrloc", &format!("{number:016x}-32560@127.0.0.21"), body.as_bytes())
}

fn request(channel: &str, call_id: &str, body: &[u8]) -> Vec<u8> {
    let to = sip_addr(1);
    MessageBuilder::request(b"KDMQ", format!("sip:{channel}@{to}").as_bytes())
        .header("Via", format!("SIP/2.0/UDP {SERVER};branch=z9hG4bK3a91.{call_id}.0"))
        .header("To", format!("<sip:{channel}@{to}>"))
        .header("From", format!("<sip:{channel}@{SERVER}>;tag=7d6d56aac8e1c2a2e3b4a7393705d530-82d85309"))
        .header("CSeq", "10 KDMQ")
        .header("Call-ID", call_id)
        .content_length()
        .header("User-Agent", "kamailio (5.6.3 (x86_64/linux))")
        .header("Max-Forwards", "1")
        .header("Content-Type", "application/json")
        .finish(body)
}

/// A node and when it wants to wake.
struct Member {
    node: Node,
    wake: Mono,
    /// What it wants done, in order.
    out: VecDeque<Output>,
    /// 200s that it has sent.
    answers: usize,
}

impl Member {
    fn new(id: u8) -> Self {
        let node = Node::new(config(id), [id; 32], now(0), Restored::default());
        Self { node, wake: Mono(0), out: VecDeque::new(), answers: 0 }
    }

    /// One round. Frames that it wants to send are taken at once.
    fn handle(&mut self, input: Input<'_>, at: Now) {
        self.node.handle(input, at);
        loop {
            match self.node.poll() {
                Output::Sleep { until, .. } => {
                    self.wake = until;
                    return;
                }
                Output::SipDatagram { bytes, .. } if bytes.starts_with(b"SIP/2.0 200") => self.answers += 1,
                Output::Frame { link, lane, bytes } => {
                    self.out.push_back(Output::Frame { link, lane, bytes });
                    self.node.handle(Input::FramesSent { link, lane, frames: 1 }, at);
                }
                output => self.out.push_back(output),
            }
        }
    }
}

fn now(us: u64) -> Now {
    Now { mono: Mono(us), wall: Wall(START_MS + us / 1_000) }
}

/// Nodes 1 to `members.len()`, all linked with each other, and a server at node 1.
struct World {
    members: Vec<Member>,
    us: u64,
}

impl World {
    fn new(count: u8) -> Self {
        let mut world = Self { members: (1..=count).map(Member::new).collect(), us: 0 };
        for (a, b) in (1..=count).flat_map(|a| (1..a).map(move |b| (a, b))) {
            let at = now(world.us);
            // The number of a link is its other end's at both ends.
            let (up, addr) = (LinkId(u64::from(b)), link_addr(b));
            world.member(a).handle(Input::LinkUp { link: up, addr, dialed: true, subject: None }, at);
            let (up, addr) = (LinkId(u64::from(a)), link_addr(a));
            world.member(b).handle(Input::LinkUp { link: up, addr, dialed: false, subject: None }, at);
        }
        let list = format!("sip:{SERVER};status=active\r\n");
        let hello = request("notification_peer", "0a6db7ce784f0001-32559@127.0.0.21", list.as_bytes());
        world.receive(&hello);
        world.run_ms(5_000);
        let peers = world.members[0].node.peers(now(world.us));
        assert!(peers.iter().any(|p| p.state == "active" && p.owned && p.last_sync.is_some()), "{peers:?}");
        world
    }

    fn member(&mut self, id: u8) -> &mut Member {
        &mut self.members[usize::from(id) - 1]
    }

    /// A datagram of the server.
    fn receive(&mut self, bytes: &[u8]) {
        let (from, at) = (SERVER.parse().expect("an address"), now(self.us));
        self.member(1).handle(Input::SipDatagram { socket: SocketId(0), from, bytes }, at);
    }

    /// Carries what the nodes have said to where it belongs, until they are silent.
    fn deliver(&mut self) {
        while let Some((id, output)) =
            (1..).zip(&mut self.members).find_map(|(id, m)| m.out.pop_front().map(|output| (id, output)))
        {
            let at = now(self.us);
            let back = LinkId(id);
            match output {
                Output::Frame { link, lane, bytes } => {
                    let lane = match lane {
                        starling_node::Lane::Session { id, opened_here } => {
                            starling_node::Lane::Session { id, opened_here: !opened_here }
                        }
                        push => push,
                    };
                    self.member(link.0 as u8).handle(Input::Frame { link: back, lane, bytes: &bytes }, at);
                }
                Output::Datagram { link, bytes } => {
                    self.member(link.0 as u8).handle(Input::Datagram { link: back, bytes: &bytes }, at);
                }
                Output::SipDatagram { bytes, .. } => self.serve(&bytes),
                Output::Log(line) if matches!(line.level, starling_node::Level::Error) => panic!("{}", line.text),
                _ => {}
            }
        }
    }

    /// The server answers a request of the node's: it is there, and has nothing.
    fn serve(&mut self, bytes: &[u8]) {
        let message = sip::parse(bytes).expect("a node sends SIP");
        if message.method().is_none() {
            return;
        }
        let list = format!("sip:{SERVER};status=active\r\nsip:{};status=active\r\n", sip_addr(1));
        let ping = message.uri().is_some_and(|uri| uri.starts_with(b"sip:notification_peer"));
        let body = if ping { list.as_bytes() } else { b"" };
        let answer = MessageBuilder::response_to(&message, sip_addr(1), 200, "OK", Some(b"t")).expect("a Via");
        let answer = answer.header("Server", "kamailio (5.6.3 (x86_64/linux))").finish(body);
        self.receive(&answer);
    }

    fn run_ms(&mut self, ms: u64) {
        let end = self.us + ms * 1_000;
        while self.us < end {
            for at in 0..self.members.len() {
                if self.members[at].wake.0 <= self.us {
                    self.members[at].handle(Input::Tick, now(self.us));
                }
            }
            self.deliver();
            self.us += 1_000;
        }
    }

    /// Gives a message for each of these contacts to node 1; gives back the time on the processor that it took them,
    /// nanoseconds.
    fn take(&mut self, contacts: &[usize], message: impl Fn(usize) -> Vec<u8>) -> u64 {
        let mut spent = 0;
        for burst in contacts.chunks(BURST) {
            let messages: Vec<Vec<u8>> = burst.iter().map(|n| message(*n)).collect();
            let answers = self.members[0].answers;
            let before = on_cpu();
            for message in &messages {
                self.us += STEP_US;
                if self.members[0].wake.0 <= self.us {
                    let at = now(self.us);
                    self.member(1).handle(Input::Tick, at);
                }
                self.receive(message);
            }
            spent += on_cpu() - before;
            assert_eq!(self.members[0].answers - answers, burst.len(), "every update is answered with 200");
            self.us -= 1_000;
            self.run_ms(1);
        }
        spent
    }

    fn now_s(&self) -> u64 {
        (START_MS + self.us / 1_000) / 1_000
    }
}

/// Nanoseconds that this thread ran on a processor; time since the first call where the system does not tell.
fn on_cpu() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    // The figure is brought up to date when the thread lets go of the processor.
    std::thread::yield_now();
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = stat.split(' ').next().and_then(|ns| ns.parse().ok());
    first.unwrap_or_else(|| START.get_or_init(Instant::now).elapsed().as_nanos() as u64)
}

/// Resident memory, bytes; 0 where the system does not tell.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// A permutation of `0..n`, another one for each round.
fn shuffled(n: usize, round: u64) -> impl Iterator<Item = usize> {
    let step = (n / 3 * 2 + 1_000 * round as usize..).find(|step| gcd(*step, n) == 1).unwrap_or(1);
    (0..n).map(move |i| i * step % n)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn times(phone: Phone, what: &str, n: usize) {
    let mut world = World::new(3);
    for round in 0..=ROUNDS {
        let now_s = world.now_s() + round;
        let contacts: Vec<usize> = shuffled(n, round).collect();
        let spent = world.take(&contacts, |i| update(phone, i, round, now_s));
        let (bytes, each) = (update(phone, 0, round, now_s).len(), spent / n as u64);
        let kind = if round == 0 { "new contact" } else { "refresh" };
        println!("{what:<6} {kind:<12} {bytes} bytes: {each:>6} ns each");
    }
    world.run_ms(3_000);
    let at = now(world.us);
    let digests: Vec<u128> = world.members.iter().map(|m| m.node.digest(at).digest).collect();
    assert!(digests.iter().all(|d| *d == digests[0]), "all nodes hold the same");
    assert_eq!(world.members[0].node.status(at).contacts, n as u64);
}

fn memory(phone: Phone, what: &str, n: usize) {
    let mut world = World::new(1);
    let before = resident();
    for round in 0..2 {
        for i in shuffled(n, round) {
            // Slowly: what a transaction remembers for half a minute is not the contact's.
            world.run_ms(1);
            world.receive(&update(phone, i, round, world.now_s()));
            world.members[0].out.clear();
        }
    }
    world.run_ms(60_000);
    let resident = resident().saturating_sub(before) / n;
    let counted = world.members[0].node.status(now(world.us)).memory / n;
    println!("{what:<6} contact: {resident} bytes resident, {counted} as counted, which leaves out the server's book");
}

/// Each part in a process of its own, so that none uses the memory that another has left.
fn main() {
    let mut args = std::env::args().skip(1);
    let n: usize = args.next().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    match args.next().as_deref() {
        Some("plain") => times(Phone::Plain, "plain", n),
        Some("rich") => times(Phone::Rich, "rich", n),
        Some("plain-memory") => memory(Phone::Plain, "plain", 5 * n),
        Some("rich-memory") => memory(Phone::Rich, "rich", 5 * n),
        _ => {
            let this = std::env::current_exe().expect("the path of this program");
            for part in ["plain", "plain-memory", "rich", "rich-memory"] {
                let ended = std::process::Command::new(&this).args([&n.to_string(), part]).status();
                assert!(ended.is_ok_and(|status| status.success()), "{part}");
            }
        }
    }
}
