//! Simulated Kamailio servers, of 5.6 and of 6.x behaviour, as observed (docs/kdmq.md). No sockets and no clock.
//!
//! They speak the same bytes as real ones, join and lose each other as those do, and let the same things get lost. A
//! message that a real server does not survive ends this one too ([`Kamailio::fallen`]). What they do not do: everything
//! that has no part in replication, and what the sources do with memory that they have freed.
//!
//! One file per part: `sender` (transactions), `peers` (node list), `usrloc`, `htable`, `dump` (answers to sync requests),
//! `answer` (what is done with a message), `local` (what phones do), `hostile`.

mod answer;
mod dump;
mod hostile;
mod htable;
mod local;
mod peers;
mod sender;
mod usrloc;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;

use bstr::BStr;
use bytes::Bytes;
use node::{Mono, Now};
use tables::location::Contact;

use self::dump::{Dumps, Step};
use self::hostile::Hostile;
use self::htable::Htables;
use self::peers::{Merged, Peers};
use self::sender::{About, Process, Request, Sender};
use self::usrloc::Usrloc;
use crate::rng::{Rng, Stream};
use crate::script::{Generation, ServerSpec, TableSpec};

pub use self::local::{Local, Value};

const NOTIFICATION: &str = "notification_peer";
const USRLOC: &str = "usrloc";
const HTABLE: &str = "htable";

/// What an open request costs in shared memory, in contacts.
const REQUEST_COSTS: usize = 10;
/// How many table entries cost as much as one contact.
const ENTRIES_PER_CONTACT: usize = 5;
/// A 5.6 server with full memory dies of so many requests that it could not carry out.
const LAST_GASPS: u32 = 8;

/// What a configuration says about time, and about the size of dumps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// `ping_interval`, milliseconds.
    pub ping_ms: u64,
    /// `fr_timer`: how long a request is repeated, milliseconds.
    pub answer_ms: u64,
    /// How often what has expired is freed, milliseconds.
    pub sweep_ms: u64,
    /// Contacts in one message of a dump; 1 is Kamailio's default.
    pub batch_contacts: usize,
}

impl Default for Timing {
    /// As docs/kamailio.md recommends; what it does not mention as Kamailio's defaults are.
    fn default() -> Self {
        Self { ping_ms: 10_000, answer_ms: 30_000, sweep_ms: 20_000, batch_contacts: 50 }
    }
}

/// A message that waits for its worker: until when, its number, its source, its bytes.
type Waiting = (Mono, u64, SocketAddr, Vec<u8>);

/// One life of a server process.
pub struct Kamailio {
    addr: SocketAddr,
    tcp: bool,
    generation: Generation,
    timing: Timing,
    memory_contacts: usize,
    reorder_permille: u32,
    peers: Peers,
    sender: Sender,
    usrloc: Usrloc,
    htables: Htables,
    dumps: Dumps,
    /// It has asked for everything, once in its life.
    asked: bool,
    /// Messages that wait for a slow worker.
    waiting: BinaryHeap<Reverse<Waiting>>,
    received: u64,
    next_ping: Mono,
    next_sweep: Mono,
    gasps: u32,
    fallen: Option<String>,
    hostile: Option<Hostile>,
    rng: Rng,
}

/// What a server wants sent: a datagram of SIP.
pub struct Send {
    /// Where to.
    pub to: SocketAddr,
    /// The message.
    pub bytes: Bytes,
}

/// A contact that a server holds.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    /// Address of record.
    pub aor: &'a BStr,
    /// The contact, under the ruid that this server knows it by; `uri` and `expires` (unix seconds, 0 = permanent) are
    /// in it.
    pub contact: &'a Contact<'static>,
}

/// A table entry that a server holds.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Table name.
    pub table: &'a str,
    /// Key.
    pub key: &'a BStr,
    /// Value.
    pub value: &'a tables::htable::Value<'static>,
    /// When it expires, unix seconds; 0 = never.
    pub expires: u64,
}

impl Kamailio {
    /// Starts a server: `addr` is its SIP address, `peers` the DMQ addresses in its configuration (those of `spec.nodes`
    /// first), `tables` the hash tables in it, `life` counts its starts.
    pub fn start(
        spec: &ServerSpec,
        addr: SocketAddr,
        peers: &[SocketAddr],
        tables: &BTreeMap<String, TableSpec>,
        life: u32,
        seed: u64,
        now: Now,
    ) -> Self {
        let id = u64::from(spec.ix) << 32 | u64::from(life);
        let mut rng = Rng::stream(seed, Stream::Server, id);
        // 63 bit, as real ones begin.
        let start = rng.next() >> 1;
        let pid = usrloc::first_pid(addr, life);
        let server_id = u32::from(spec.ix) + 1;
        // Half of all servers dump as Kamailio does by default, half as docs/kamailio.md recommends.
        let batch_contacts = if spec.ix.is_multiple_of(2) { Timing::default().batch_contacts } else { 1 };
        let timing = Timing { batch_contacts, ..Timing::default() };
        // The first of the peers are nodes.
        let nodes = &peers[..spec.nodes.len().min(peers.len())];
        let names = || tables.keys().cloned().collect();
        let hostile = spec.hostile.then(|| Hostile::new(nodes, names(), rng.permille(500), now.mono));
        let mut this = Self {
            addr,
            tcp: spec.tcp,
            generation: spec.generation,
            timing,
            memory_contacts: spec.memory_contacts as usize,
            reorder_permille: spec.reorder_permille,
            peers: Peers::new(addr, spec.tcp, spec.generation, peers),
            sender: Sender::new(addr, spec.tcp, usrloc::agent(spec.generation), start, pid),
            usrloc: Usrloc::new(spec.generation, server_id, now.wall.0 / 1_000, pid),
            htables: Htables::new(spec.generation, tables),
            dumps: Dumps::default(),
            asked: false,
            waiting: BinaryHeap::new(),
            received: 0,
            next_ping: now.mono.plus_ms(timing.ping_ms),
            next_sweep: now.mono.plus_ms(timing.sweep_ms),
            gasps: 0,
            fallen: None,
            hostile,
            rng,
        };
        this.notify(&this.peers.all(), 2, now.mono);
        this
    }

    /// The same server with other times in its configuration. Only right after its start.
    #[must_use]
    pub fn with_timing(mut self, timing: Timing, now: Now) -> Self {
        self.next_ping = now.mono.plus_ms(timing.ping_ms);
        self.next_sweep = now.mono.plus_ms(timing.sweep_ms);
        self.timing = timing;
        self
    }

    /// Why its process ended or hangs for ever, if it does: a message that a real server does not survive, or full
    /// memory. It then does nothing until somebody starts it anew.
    pub fn fallen(&self) -> Option<&str> {
        self.fallen.as_deref()
    }

    /// Whether what ended it was a message, which then nobody may ever send to a server.
    pub fn poisoned(&self) -> bool {
        self.fallen.is_some() && !self.starved()
    }

    /// Its SIP address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it behaves like.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The contacts that it would use now, by address of record.
    pub fn contacts(&self, now: Now) -> impl Iterator<Item = Held<'_>> {
        self.usrloc.live(seconds(now))
    }

    /// The contacts of one address of record that it would use now.
    pub fn lookup(&self, aor: &str, now: Now) -> impl Iterator<Item = Held<'_>> {
        self.usrloc.lookup(aor, seconds(now))
    }

    /// The table entries that it would show now, by table and key.
    pub fn entries(&self, now: Now) -> impl Iterator<Item = Entry<'_>> {
        self.htables.live(seconds(now))
    }

    /// One entry, if it would show it now.
    pub fn entry(&self, table: &str, key: &str, now: Now) -> Option<Entry<'_>> {
        self.htables.get(table, key, seconds(now))
    }

    /// The other nodes in its list, with its word for their state.
    pub fn peers(&self) -> impl Iterator<Item = (SocketAddr, &'static str)> {
        self.peers.states()
    }

    /// Time passed; call no later than [`Kamailio::wakeup`] says.
    pub fn tick(&mut self, now: Now) {
        if self.fallen.is_some() {
            return;
        }
        self.sender.tick(now.mono);
        for about in self.sender.given_up() {
            // On data channels nobody looks.
            if let About::Node(addr) = about {
                self.peers.missed(addr);
            }
        }
        while let Some(Reverse((due, ..))) = self.waiting.peek()
            && *due <= now.mono
            && let Some(Reverse((_, _, from, bytes))) = self.waiting.pop()
        {
            self.carry_out(from, &bytes, now);
        }
        self.go_on_dumping(now);
        if self.next_ping <= now.mono {
            self.next_ping = now.mono.plus_ms(self.timing.ping_ms);
            if self.peers.is_empty() {
                // Alone: as after a start.
                self.asked = false;
                self.peers.add_configured();
            }
            self.notify(&self.peers.all(), 1, now.mono);
        }
        if self.next_sweep <= now.mono {
            self.next_sweep = now.mono.plus_ms(self.timing.sweep_ms);
            self.usrloc.sweep(seconds(now));
            self.htables.sweep(seconds(now));
        }
        self.be_hostile(now);
    }

    /// When it wants to be called again, if nothing comes before.
    pub fn wakeup(&self) -> Mono {
        if self.fallen.is_some() {
            return Mono(u64::MAX);
        }
        let waiting = self.waiting.peek().map(|Reverse((due, ..))| *due);
        let hostile = self.hostile.as_ref().map(Hostile::wakeup);
        let others = [self.sender.wakeup(), self.dumps.wakeup(), waiting, hostile];
        others.into_iter().flatten().fold(self.next_ping.min(self.next_sweep), Mono::min)
    }

    /// The next datagram to send.
    pub fn poll(&mut self) -> Option<Send> {
        self.sender.poll()
    }

    /// Whether there is memory for so many more contacts.
    fn has_room(&self, contacts: usize, now: Mono) -> bool {
        if self.memory_contacts == 0 {
            return true;
        }
        let entries = self.htables.count() / ENTRIES_PER_CONTACT;
        let used = self.usrloc.count() + entries + self.sender.in_memory(now) * REQUEST_COSTS;
        used + contacts <= self.memory_contacts
    }

    /// Whether it has died of full memory.
    fn starved(&self) -> bool {
        self.gasps >= LAST_GASPS
    }

    /// Tells all active peers what happened here.
    fn tell(&mut self, channel: &'static str, bodies: impl IntoIterator<Item = Vec<u8>>, now: Now) {
        let to: Vec<_> = self.peers.active().collect();
        for body in bodies {
            let process = self.phones_process();
            self.send(channel, &body, &to, process, now.mono);
        }
    }

    /// The process that takes the next request of a phone.
    fn phones_process(&mut self) -> Process {
        Process::Sip(self.rng.below(2) as u8)
    }

    /// Sends data, some of it late: another worker overtakes.
    fn send(&mut self, channel: &'static str, body: &[u8], to: &[SocketAddr], process: Process, now: Mono) {
        for &to in to {
            let delay_ms = self.lateness();
            let full = !self.has_room(REQUEST_COSTS, now);
            let request = Request { to, channel, body, max_forwards: 1, process, about: About::Data };
            self.sender.request(&request, delay_ms, full, &self.timing, now);
        }
    }

    /// By how much the worker that has got the next message is slower than the others.
    fn lateness(&mut self) -> u64 {
        match self.reorder_permille {
            0 => 0,
            permille if self.rng.permille(permille) => self.rng.between(1, 20),
            _ => 0,
        }
    }

    /// Sends the own list to these nodes.
    fn notify(&mut self, to: &[SocketAddr], max_forwards: u8, now: Mono) {
        let Some(list) = self.peers.list() else { return };
        let full = !self.has_room(REQUEST_COSTS, now);
        for &to in to {
            let request = Request {
                to,
                channel: NOTIFICATION,
                body: list.as_bytes(),
                max_forwards,
                process: Process::Timer,
                about: About::Node(to),
            };
            self.sender.request(&request, 0, full, &self.timing, now);
        }
    }

    fn go_on_dumping(&mut self, now: Now) {
        for step in self.dumps.tick(&self.usrloc, &self.timing, now.mono, seconds(now)) {
            match step {
                Step::Say { channel, body, to, worker } => {
                    self.send(channel, &body, &to, Process::Dmq(worker), now.mono);
                }
                Step::Answer(to, bytes) => self.sender.push(to, bytes),
            }
        }
    }

    /// Takes in a node list; how many lines were news. After the first one of its life it asks everybody for all they
    /// have.
    fn take_list(&mut self, body: &[u8], now: Now) -> usize {
        let news = match self.peers.merge(body) {
            Merged::News(news) => news,
            Merged::Hangs => {
                self.fallen = Some(format!("hangs on a node list: {}", BStr::new(body)));
                return 0;
            }
        };
        if !self.asked {
            self.asked = true;
            let to: Vec<_> = self.peers.active().collect();
            let process = Process::Dmq(self.rng.below(2) as u8);
            self.send(USRLOC, kdmq::usrloc::SYNC, &to, process, now.mono);
            self.send(HTABLE, kdmq::htable::SYNC, &to, process, now.mono);
        }
        news
    }
}

fn seconds(now: Now) -> u64 {
    now.wall.0 / 1_000
}
