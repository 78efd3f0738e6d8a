//! Hosts of simulated servers, and the SIP datagrams between all hosts.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::Bytes;
use node::{Mono, Now};

use crate::clock::true_wall;
use crate::coverage::Sometimes;
use crate::host::sip_addr;
use crate::kamailio::{Kamailio, Local};
use crate::queue::{At, Event};
use crate::rng::{Rng, Stream};
use crate::script::{ServerIx, ServerSpec};
use crate::step::Arrival;
use crate::world::{Phase, World};

/// So many datagrams wait for a server that does not read.
const BUFFER: usize = 4_000;

/// Whoever watches over a server that went down starts it again after this, milliseconds.
const REVIVE_MS: u64 = 5_000;

/// Bytes that UDP and IP add to a datagram.
const OVERHEAD: usize = 28;

/// So many bytes of a body are in the log.
const LINE: usize = 300;

/// A server's host.
pub(crate) struct ServerHost {
    /// Its part of the script.
    pub spec: ServerSpec,
    /// Its SIP address.
    pub addr: SocketAddr,
    /// The process; `None` while it is down.
    pub process: Option<Kamailio>,
    /// How often it was started.
    pub lives: u32,
    /// The faults that keep it down.
    pub killed: Vec<u32>,
    /// The faults that make it stand still.
    pub paused: Vec<u32>,
    waiting: VecDeque<(SocketAddr, Bytes)>,
    /// When the world's queue has the next tick for it.
    wake: Option<Mono>,
}

/// The SIP address of a server.
pub(crate) fn server_addr(ix: ServerIx) -> SocketAddr {
    SocketAddr::from(([10, 1, (ix / 200) as u8, (ix % 200) as u8 + 1], 5060))
}

impl ServerHost {
    /// A host whose server was never started.
    pub(crate) fn new(spec: &ServerSpec) -> Self {
        Self {
            spec: spec.clone(),
            addr: server_addr(spec.ix),
            process: None,
            lives: 0,
            killed: Vec::new(),
            paused: Vec::new(),
            waiting: VecDeque::new(),
            wake: None,
        }
    }
}

impl World {
    fn server(&mut self, at: At) -> &mut ServerHost {
        let first = self.nodes.len();
        &mut self.servers[usize::from(at) - first]
    }

    fn server_now(&self) -> Now {
        Now { mono: self.now, wall: true_wall(self.now) }
    }

    /// Starts a server, if it is down and nothing keeps it down.
    pub(crate) fn start_server(&mut self, at: At) {
        let (now, seed) = (self.server_now(), self.script.seed);
        let first = self.nodes.len();
        let host = &mut self.servers[usize::from(at) - first];
        if host.process.is_some() || !host.killed.is_empty() {
            return;
        }
        host.lives += 1;
        let nodes = host.spec.nodes.iter().map(|&ix| sip_addr(ix));
        let peers: Vec<SocketAddr> = nodes.chain(host.spec.peers.iter().map(|&ix| server_addr(ix))).collect();
        let seed = Rng::stream(seed, Stream::Server, u64::from(host.spec.ix)).next();
        let tables = &self.script.htables;
        let mut process = Kamailio::start(&host.spec, host.addr, &peers, tables, host.lives, seed, now);
        if self.phase != Phase::Going {
            process.calm();
        }
        host.process = Some(process);
        let restarted = host.lives > 1;
        self.note(at, || "starts, empty".to_owned());
        if restarted {
            self.saw(Sometimes::ServerRestarted);
            let spec = &self.servers[usize::from(at) - first].spec;
            let down = |ix| {
                self.at(crate::script::Host::Node(ix)).is_some_and(|at| self.nodes[usize::from(at)].node.is_none())
            };
            if spec.nodes.iter().any(|&ix| down(ix)) {
                self.saw(Sometimes::ServerWhileNodeDown);
            }
        }
        self.server_sends(at);
    }

    /// Ends a server's process; all that it held is gone.
    pub(crate) fn kill_server(&mut self, at: At) {
        let host = self.server(at);
        if host.process.take().is_some() {
            host.paused.clear();
            host.waiting.clear();
            host.wake = None;
            self.tcp_dies(at);
            self.note(at, || "is killed".to_owned());
        }
    }

    /// A SIP datagram arrives at a host of the script.
    pub(crate) fn sip_arrives(&mut self, from: At, to: At, bytes: Bytes) {
        // What was under way when the path was cut is lost.
        if self.net.is_cut(from, to) {
            return self.saw(Sometimes::DatagramLost);
        }
        let source = self.sip_of(from);
        if self.is_node(to) {
            if self.options.log {
                self.note_sip(from, to, &bytes);
            }
            let hostile = !self.is_node(from) && self.server(from).spec.hostile;
            return self.arrive(to, Arrival::Sip { from: source, bytes, hostile });
        }
        self.sip_message_arrives(from, to, source, bytes);
    }

    /// A message arrives at a server, by whatever way; `source` is where it sees it come from.
    pub(crate) fn sip_message_arrives(&mut self, from: At, to: At, source: SocketAddr, bytes: Bytes) {
        if self.options.log {
            self.note_sip(from, to, &bytes);
        }
        self.hash(to, u8::MAX, u64::from(from), &bytes);
        let now = self.server_now();
        let host = self.server(to);
        let Some(process) = &mut host.process else { return };
        if !host.paused.is_empty() {
            if host.waiting.len() < BUFFER {
                host.waiting.push_back((source, bytes));
            }
            return;
        }
        process.receive(source, &bytes, now);
        self.server_sends(to);
    }

    /// Keeps a line about a SIP message that arrives: what it says, or how it is refused.
    fn note_sip(&mut self, from: At, to: At, bytes: &Bytes) {
        let Ok(message) = sip::parse(bytes) else { return };
        let sender = match self.nodes.get(usize::from(from)) {
            Some(node) => node.name.clone(),
            None => format!("k{}", self.server(from).spec.ix),
        };
        match message.code() {
            Some(200) => {}
            Some(code) => self.note(to, || format!("<- {sender}: {code}")),
            None => {
                let channel = message.uri().and_then(|uri| uri.split(|b| matches!(b, b':' | b'@')).nth(1));
                let channel = String::from_utf8_lossy(channel.unwrap_or_default()).into_owned();
                let body = String::from_utf8_lossy(&message.body[..message.body.len().min(LINE)]).into_owned();
                let len = message.body.len();
                self.note(to, || format!("<- {sender}: {channel} ({len} bytes) {}", body.trim_end()));
            }
        }
    }

    /// A host sends a SIP datagram. Addresses that no host has swallow it.
    pub(crate) fn send_sip(&mut self, from: At, to: SocketAddr, bytes: Bytes) {
        self.traffic.sip_messages += 1;
        self.traffic.sip_bytes += bytes.len() as u64;
        let Some(to) = self.host_by_sip(to) else { return };
        let arrivals = self.net.datagram(from, to, bytes.len() + OVERHEAD, self.now);
        if arrivals[1].is_some() {
            self.saw(Sometimes::DatagramTwice);
        }
        let [Some(first), second] = arrivals else { return self.saw(Sometimes::DatagramLost) };
        if let Some(second) = second {
            self.queue.post(second, Event::Sip { from, to, bytes: bytes.clone() });
        }
        self.queue.post(first, Event::Sip { from, to, bytes });
    }

    /// The world's queue has a tick for a server.
    pub(crate) fn server_wake(&mut self, at: At) {
        let (mono, now) = (self.now, self.server_now());
        let host = self.server(at);
        if host.wake != Some(mono) {
            return;
        }
        host.wake = None;
        let Some(process) = host.process.as_mut().filter(|_| host.paused.is_empty()) else { return };
        if process.wakeup() <= mono {
            process.tick(now);
        }
        self.server_sends(at);
    }

    /// A server goes on after it stood still.
    pub(crate) fn server_ready(&mut self, at: At) {
        let now = self.server_now();
        let host = self.server(at);
        let Some(process) = host.process.as_mut().filter(|_| host.paused.is_empty()) else { return };
        for (source, bytes) in std::mem::take(&mut host.waiting) {
            process.receive(source, &bytes, now);
        }
        process.tick(now);
        self.server_sends(at);
    }

    /// A phone or a script does something at a server; `None` if nobody is there.
    pub(crate) fn server_local(&mut self, at: At, what: &Local<'_>) -> Option<bool> {
        let now = self.server_now();
        let host = self.server(at);
        let process = host.process.as_mut().filter(|process| host.paused.is_empty() && process.fallen().is_none())?;
        let taken = process.local(what, now);
        self.server_sends(at);
        Some(taken)
    }

    /// Sends what a server wants sent, and sees to its next tick.
    fn server_sends(&mut self, at: At) {
        let tcp = self.server(at).spec.tcp;
        while let Some(send) = self.server(at).process.as_mut().and_then(Kamailio::poll) {
            match tcp {
                true => self.tcp_send(at, send.to, send.bytes),
                false => self.send_sip(at, send.to, send.bytes),
            }
        }
        let now = self.now;
        let host = self.server(at);
        let Some(process) = &host.process else { return };
        if let Some(why) = process.fallen() {
            let why = why.to_owned();
            host.process = None;
            host.waiting.clear();
            host.paused.clear();
            host.wake = None;
            self.tcp_dies(at);
            self.saw(Sometimes::ServerFell);
            self.note(at, || format!("falls: {why}"));
            return self.queue.post(now.plus_ms(REVIVE_MS), Event::Start(at));
        }
        let wake = process.wakeup().max(Mono(now.0 + 1));
        if wake.0 < u64::MAX && host.wake.is_none_or(|posted| posted > wake) {
            host.wake = Some(wake);
            self.queue.post(wake, Event::ServerWake(at));
        }
    }
}
