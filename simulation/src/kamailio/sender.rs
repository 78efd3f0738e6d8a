//! The transaction layer of a server: requests that are repeated until they are answered or given up.
//!
//! One clock and one table for all processes of the server; each process numbers its Call-IDs (docs/kdmq.md 10.1).
//! Every request that is open costs shared memory, and for a while after its answer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io::Write as _;
use std::net::SocketAddr;

use bytes::Bytes;
use node::Mono;

use super::{Send, Timing};

/// First pause before a repetition, milliseconds; it doubles up to [`T2_MS`].
const T1_MS: u64 = 500;
/// Longest pause.
const T2_MS: u64 = 4_000;
/// How long an answered request still takes memory (`wt_timer`).
const LINGER_MS: u64 = 5_000;
/// The longest datagram.
const MAX_DATAGRAM: usize = 65_507;

/// A process of a server, as it shows in Call-IDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Process {
    /// One of two that take SIP requests of phones.
    Sip(u8),
    /// One of two that carry out what came by DMQ.
    Dmq(u8),
    /// The one with the timer of the pings.
    Timer,
}

impl Process {
    const COUNT: usize = 5;

    fn index(self) -> usize {
        match self {
            Self::Sip(n) => usize::from(n & 1),
            Self::Dmq(n) => 2 + usize::from(n & 1),
            Self::Timer => 4,
        }
    }
}

/// What a request is about, for whoever hears of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// A notification to this node: its answer matters.
    Node(SocketAddr),
    /// Data: nobody looks at the answer.
    Data,
}

/// A request to be sent.
pub(super) struct Request<'a> {
    pub(super) to: SocketAddr,
    pub(super) channel: &'a str,
    pub(super) body: &'a [u8],
    pub(super) max_forwards: u8,
    pub(super) process: Process,
    pub(super) about: About,
}

struct Open {
    to: SocketAddr,
    bytes: Bytes,
    about: About,
    wait_ms: u64,
    give_up: Mono,
}

impl Open {
    /// When it is repeated or given up.
    fn next(&self, tcp: bool, now: Mono) -> Mono {
        if tcp { self.give_up } else { now.plus_ms(self.wait_ms).min(self.give_up) }
    }
}

/// The open requests of a server.
pub(super) struct Sender {
    /// The own address, as it is written into every message.
    addr: String,
    ip: String,
    /// Over TCP nothing is repeated.
    tcp: bool,
    agent: &'static str,
    /// What tells this life's branches from those of another.
    life: u32,
    counters: [u64; Process::COUNT],
    first_pid: u32,
    next: u64,
    open: BTreeMap<u64, Open>,
    timers: BinaryHeap<Reverse<(Mono, u64)>>,
    settled: VecDeque<Mono>,
    out: VecDeque<Send>,
    given_up: Vec<About>,
}

impl Sender {
    /// `start` is where the Call-IDs of this life begin.
    pub(super) fn new(addr: SocketAddr, tcp: bool, agent: &'static str, start: u64, first_pid: u32) -> Self {
        Self {
            addr: addr.to_string(),
            ip: addr.ip().to_string(),
            tcp,
            agent,
            life: (start >> 31) as u32,
            counters: [start; Process::COUNT],
            first_pid,
            next: 0,
            open: BTreeMap::new(),
            timers: BinaryHeap::new(),
            settled: VecDeque::new(),
            out: VecDeque::new(),
            given_up: Vec::new(),
        }
    }

    /// Sends a request, `delay_ms` from now. A server whose memory is `full` loses it, and its Call-ID with it.
    pub(super) fn request(&mut self, request: &Request<'_>, delay_ms: u64, full: bool, timing: &Timing, now: Mono) {
        let counter = &mut self.counters[request.process.index()];
        *counter += 1;
        let counter = *counter;
        if full {
            return;
        }
        self.next += 1;
        let bytes = self.write(request, counter);
        if !self.tcp && bytes.len() > MAX_DATAGRAM {
            return;
        }
        let (number, first) = (self.next, now.plus_ms(delay_ms));
        let mut open = Open {
            to: request.to,
            bytes: bytes.into(),
            about: request.about,
            wait_ms: T1_MS,
            give_up: now.plus_ms(timing.answer_ms),
        };
        if delay_ms == 0 {
            self.out.push_back(Send { to: open.to, bytes: open.bytes.clone() });
            self.timers.push(Reverse((open.next(self.tcp, now), number)));
            open.wait_ms = T1_MS * 2;
        } else {
            self.timers.push(Reverse((first, number)));
        }
        self.open.insert(number, open);
    }

    fn write(&self, request: &Request<'_>, counter: u64) -> Vec<u8> {
        let Request { to, channel, body, max_forwards, process, .. } = request;
        let (addr, ip, to) = (&self.addr, &self.ip, to.to_string());
        let (transport, param) = if self.tcp { ("TCP", ";transport=tcp") } else { ("UDP", "") };
        let pid = self.first_pid + process.index() as u32;
        let content_type = if *channel == super::NOTIFICATION { "text/plain" } else { "application/json" };
        let mut out = Vec::with_capacity(512 + body.len());
        // Writing to a vector cannot fail.
        let _ = write!(
            out,
            "KDMQ sip:{channel}@{to}{param} SIP/2.0\r\n\
             Via: SIP/2.0/{transport} {addr};branch=z9hG4bK{:08x}.{:08x}000000000000000000000000.0\r\n\
             To: <sip:{channel}@{to}{param}>\r\n\
             From: <sip:{channel}@{addr}{param}>;tag=7d6d56aac8e1c2a2e3b4a7393705d530-{:08x}\r\n\
             CSeq: 10 KDMQ\r\n\
             Call-ID: {counter:016x}-{pid}@{ip}\r\n\
             Content-Length: {}\r\n\
             User-Agent: {}\r\n\
             Max-Forwards: {max_forwards}\r\n\
             Content-Type: {content_type}\r\n\r\n",
            self.next,
            self.life,
            self.next,
            body.len(),
            self.agent,
        );
        out.extend_from_slice(body);
        out
    }

    /// A final answer arrived. Returns what its request was about, once.
    pub(super) fn answered(&mut self, branch: &[u8], now: Mono) -> Option<About> {
        let (number, rest) = branch.strip_prefix(b"z9hG4bK")?.split_at_checked(8)?;
        let life = rest.strip_prefix(b".")?.get(..8)?;
        let hex = |text: &[u8]| u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok();
        if hex(life)? != u64::from(self.life) {
            return None;
        }
        let open = self.open.remove(&hex(number)?)?;
        self.settled.push_back(now.plus_ms(LINGER_MS));
        self.drop_idle_timers();
        Some(open.about)
    }

    /// Goes on with other Call-IDs, as a new life would.
    pub(super) fn jump(&mut self, start: u64) {
        self.counters = [start; Process::COUNT];
    }

    /// A datagram that is no request of the transaction layer.
    pub(super) fn push(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        self.out.push_back(Send { to, bytes: bytes.into() });
    }

    /// Repeats what is due, gives up what nobody answered ([`Sender::given_up`]).
    pub(super) fn tick(&mut self, now: Mono) {
        while self.settled.front().is_some_and(|&until| until <= now) {
            self.settled.pop_front();
        }
        while let Some(&Reverse((due, number))) = self.timers.peek()
            && due <= now
        {
            self.timers.pop();
            let Some(open) = self.open.get_mut(&number) else { continue };
            if open.give_up <= now {
                self.given_up.push(open.about);
                self.open.remove(&number);
                self.settled.push_back(now.plus_ms(LINGER_MS));
                continue;
            }
            self.out.push_back(Send { to: open.to, bytes: open.bytes.clone() });
            self.timers.push(Reverse((open.next(self.tcp, now), number)));
            open.wait_ms = (open.wait_ms * 2).min(T2_MS);
        }
        self.drop_idle_timers();
    }

    /// Forgets the next timers as long as their requests are closed, so that nobody wakes up for them.
    fn drop_idle_timers(&mut self) {
        while let Some(Reverse((_, number))) = self.timers.peek()
            && !self.open.contains_key(number)
        {
            self.timers.pop();
        }
    }

    /// The requests that were given up since the last call.
    pub(super) fn given_up(&mut self) -> Vec<About> {
        std::mem::take(&mut self.given_up)
    }

    /// When [`Sender::tick`] has something to do.
    pub(super) fn wakeup(&self) -> Option<Mono> {
        self.timers.peek().map(|Reverse((due, _))| *due)
    }

    /// Requests that take memory now.
    pub(super) fn in_memory(&self, now: Mono) -> usize {
        self.open.len() + self.settled.len() - self.settled.partition_point(|&until| until <= now)
    }

    /// The next datagram.
    pub(super) fn poll(&mut self) -> Option<Send> {
        self.out.pop_front()
    }
}
