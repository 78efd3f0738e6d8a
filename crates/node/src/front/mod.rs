//! The SIP front end: bytes to KDMQ requests and responses, and back.
//!
//! It parses, checks who may speak, answers what is no business of ours, keeps transactions so that
//! a retransmission is answered and never executed twice, and frames TCP. It leaves the meaning of
//! a KDMQ body to `dmq`. Invariant: nothing that is refused here changes anything but a counter.

mod render;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use sip::transaction::{Action, ClientTransactions, Key, Outgoing as Transaction, Seen, ServerTransactions};
use sip::{Envelope, Message, StartLine, StreamFramer};

use self::render::{build, mix, render};
use crate::config::{Config, SipTransport};
use crate::cx::Cx;
use crate::dmq::{Address, Ask};
use crate::io::{ConnId, Mono, Output, SocketId};

/// What this software calls itself on the wire.
pub(crate) const AGENT: &str = concat!("starling (", env!("CARGO_PKG_VERSION"), ")");

/// Open requests of ours at most, over all servers.
const CLIENT_MAX: usize = 65_536;

/// Requests remembered for their retransmissions at most: 32 s at 15,000 a second.
const SERVER_MAX: usize = 500_000;

/// Bytes that wait for a TCP connection to come up at most; beyond that the transaction's own
/// time-out has to do.
const TCP_WAITING_MAX: usize = 1 << 20;

/// Methods that we know of and do not serve.
const KNOWN_METHODS: [&[u8]; 12] = [
    b"INVITE",
    b"BYE",
    b"CANCEL",
    b"REGISTER",
    b"SUBSCRIBE",
    b"NOTIFY",
    b"PUBLISH",
    b"MESSAGE",
    b"INFO",
    b"PRACK",
    b"UPDATE",
    b"REFER",
];

/// What a transaction remembers of its answer.
#[derive(Clone, Debug)]
struct Answer {
    code: u16,
    body: Option<Box<[u8]>>,
}

/// The way back to whoever sent something.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Path {
    /// A datagram socket.
    Udp {
        /// Ours.
        socket: SocketId,
    },
    /// A connection.
    Tcp {
        /// Which.
        conn: ConnId,
        /// The socket it belongs to.
        socket: SocketId,
    },
}

impl Path {
    /// The local socket.
    pub(crate) fn socket(self) -> SocketId {
        match self {
            Self::Udp { socket } | Self::Tcp { socket, .. } => socket,
        }
    }
}

/// Something for `dmq`.
#[derive(Debug)]
pub(crate) enum Arrival<'m> {
    /// A new KDMQ request of a trusted address; to be answered by [`Front::answer`].
    Request(Request<'m>),
    /// The final response to a request of ours.
    Response {
        /// What we had asked.
        ask: Ask,
        /// Its status.
        code: u16,
        /// The response.
        message: Message<'m>,
    },
}

/// A KDMQ request that may be executed.
#[derive(Debug)]
pub(crate) struct Request<'m> {
    /// The message.
    pub(crate) message: Message<'m>,
    /// Its parts that every request has.
    pub(crate) envelope: Envelope<'m>,
    /// Where it came from.
    pub(crate) source: SocketAddr,
    /// The way back.
    pub(crate) path: Path,
    key: Key,
}

/// A request of ours.
pub(crate) struct Outgoing<'a> {
    /// Whom to.
    pub(crate) to: &'a Address,
    /// From which socket.
    pub(crate) socket: SocketId,
    /// R-URI user.
    pub(crate) channel: &'a str,
    /// Max-Forwards.
    pub(crate) max_forwards: u32,
    /// Content-Type.
    pub(crate) content_type: &'a str,
    /// Body.
    pub(crate) body: &'a [u8],
    /// Timer F, milliseconds.
    pub(crate) give_up_ms: u64,
    /// Whether timer E runs (over UDP).
    pub(crate) retransmit: bool,
    /// Bytes of padding, in the Via: the answer is longer by as many (RFC 3261 section 8.2.6.2).
    pub(crate) padding: usize,
    /// Comes back with the outcome.
    pub(crate) ask: Ask,
}

#[derive(Clone, Copy, Debug)]
struct Destination {
    socket: SocketId,
    to: SocketAddr,
    transport: SipTransport,
}

#[derive(Debug)]
struct Conn {
    socket: SocketId,
    peer: SocketAddr,
    framer: StreamFramer,
    /// What waits for it to come up; `None` once it is.
    waiting: Option<Vec<Bytes>>,
}

/// Answers that wait for the disk.
#[derive(Debug)]
struct Pending {
    ticket: u64,
    path: Path,
    to: SocketAddr,
    key: Key,
    answer: Answer,
    bytes: Bytes,
}

/// The front end.
#[derive(Debug)]
pub(crate) struct Front {
    server: ServerTransactions<Answer>,
    client: ClientTransactions<Destination, Ask>,
    conns: BTreeMap<ConnId, Conn>,
    dialed: BTreeMap<SocketAddr, ConnId>,
    next_conn: u64,
    /// Drives tokens: unique, and not to be guessed without the secret.
    secret: u64,
    sent: u64,
    pending: VecDeque<Pending>,
    /// Requests that could not be sent; they end as if nobody had answered.
    unsent: VecDeque<Ask>,
    expire_at: Mono,
}

impl Front {
    /// An empty one; `secret` comes from the seed.
    pub(crate) fn new(secret: [u64; 3]) -> Self {
        Self {
            server: ServerTransactions::new(SERVER_MAX, [secret[0], secret[1]]),
            client: ClientTransactions::new(CLIENT_MAX),
            conns: BTreeMap::new(),
            dialed: BTreeMap::new(),
            next_conn: ConnId::FIRST_DIALED,
            secret: secret[2],
            sent: 0,
            pending: VecDeque::new(),
            unsent: VecDeque::new(),
            expire_at: Mono(0),
        }
    }

    /// A datagram came in.
    pub(crate) fn datagram<'m>(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        bytes: &'m [u8],
        cx: &mut Cx<'_>,
    ) -> Option<Arrival<'m>> {
        if bytes.iter().all(|b| matches!(b, b'\r' | b'\n' | 0)) {
            // A keep-alive.
            return None;
        }
        self.message(bytes, from, Path::Udp { socket }, cx)
    }

    /// A connection is up.
    pub(crate) fn connected(&mut self, id: ConnId, socket: SocketId, peer: SocketAddr, cx: &mut Cx<'_>) {
        let waiting = match self.conns.get_mut(&id) {
            Some(conn) => conn.waiting.take().unwrap_or_default(),
            None => {
                let conn = Conn { socket, peer, framer: StreamFramer::new(), waiting: None };
                self.conns.insert(id, conn);
                Vec::new()
            }
        };
        for bytes in waiting {
            cx.out.push_back(Output::SipStream { conn: id, bytes });
        }
    }

    /// Bytes of a connection; [`Front::next_of_stream`] gives the messages.
    pub(crate) fn stream(&mut self, id: ConnId, bytes: &[u8]) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.framer.push(bytes);
        }
    }

    /// The next whole message of a connection, and what to parse it with.
    pub(crate) fn next_of_stream(&mut self, id: ConnId, cx: &mut Cx<'_>) -> Option<(Bytes, SocketAddr, Path)> {
        let conn = self.conns.get_mut(&id)?;
        match conn.framer.next_message()? {
            Ok(bytes) => Some((bytes, conn.peer, Path::Tcp { conn: id, socket: conn.socket })),
            Err(_) => {
                cx.stats.sip_malformed += 1;
                self.closed(id, false);
                cx.out.push_back(Output::SipClose { conn: id, at_once: false });
                None
            }
        }
    }

    /// Whether a connection can be used.
    pub(crate) fn has(&self, id: ConnId) -> bool {
        self.conns.contains_key(&id)
    }

    /// A connection is gone; `whole` if the peer has ended it in order. Returns whether all messages on it have come.
    pub(crate) fn closed(&mut self, id: ConnId, whole: bool) -> bool {
        let Some(conn) = self.conns.remove(&id) else { return whole };
        if self.dialed.get(&conn.peer) == Some(&id) {
            self.dialed.remove(&conn.peer);
        }
        whole && conn.framer.is_empty()
    }

    /// One whole message.
    pub(crate) fn message<'m>(
        &mut self,
        bytes: &'m [u8],
        source: SocketAddr,
        path: Path,
        cx: &mut Cx<'_>,
    ) -> Option<Arrival<'m>> {
        let message = match sip::parse(bytes) {
            Ok(message) => message,
            Err(_) => {
                cx.stats.sip_malformed += 1;
                return None;
            }
        };
        match message.start {
            StartLine::Response { .. } => self.response(message, cx),
            StartLine::Request { method, .. } => self.request(message, method, source, path, cx),
        }
    }

    fn response<'m>(&mut self, message: Message<'m>, cx: &mut Cx<'_>) -> Option<Arrival<'m>> {
        cx.stats.sip_responses_in += 1;
        let (ask, code) = self.client.on_response(&message, cx.now.mono.ms())?;
        Some(Arrival::Response { ask, code, message })
    }

    fn request<'m>(
        &mut self,
        message: Message<'m>,
        method: &[u8],
        source: SocketAddr,
        path: Path,
        cx: &mut Cx<'_>,
    ) -> Option<Arrival<'m>> {
        cx.stats.sip_requests_in += 1;
        if method == b"ACK" {
            return None;
        }
        let envelope = match message.envelope() {
            Err(error) => Err(error.status()),
            Ok(_) if method != b"KDMQ" => Err(other_method(method)),
            Ok(_) if !is_trusted(cx.config, source.ip()) => Err(403),
            Ok(envelope) => Ok(envelope),
        };
        let envelope = match envelope {
            Ok(envelope) => envelope,
            Err(code) => {
                cx.stats.sip_refused += u64::from(code != 200);
                cx.stats.dmq_untrusted += u64::from(code == 403);
                self.reply_statelessly(&message, source, path, code, cx);
                return None;
            }
        };
        let reliable = matches!(path, Path::Tcp { .. });
        let via = &envelope.via;
        match self.server.on_request_of(&message, via, source.ip(), reliable, cx.now.mono.ms()) {
            Ok(Seen::New(key)) => Some(Arrival::Request(Request { message, envelope, source, path, key })),
            Ok(Seen::Retransmission { answer }) => {
                cx.stats.sip_retransmissions_in += 1;
                let answer = answer.cloned()?;
                if let Some((to, bytes)) = render(&message, via, source, &answer) {
                    self.transmit(path, to, bytes, cx);
                }
                None
            }
            Err(error) => {
                cx.stats.sip_refused += 1;
                self.reply_statelessly(&message, source, path, error.status(), cx);
                None
            }
        }
    }

    fn reply_statelessly(&self, message: &Message<'_>, source: SocketAddr, path: Path, code: u16, cx: &mut Cx<'_>) {
        let Ok(via) = message.via() else { return };
        if let Some((to, bytes)) = render(message, &via, source, &Answer { code, body: None }) {
            self.transmit(path, to, bytes, cx);
        }
    }

    /// Answers a request, at once or when `ticket` is on disk.
    pub(crate) fn answer(
        &mut self,
        request: &Request<'_>,
        code: u16,
        body: Option<Vec<u8>>,
        ticket: Option<u64>,
        cx: &mut Cx<'_>,
    ) {
        let answer = Answer { code, body: body.map(Vec::into_boxed_slice) };
        let Some((to, bytes)) = render(&request.message, &request.envelope.via, request.source, &answer) else {
            return;
        };
        match ticket {
            None => {
                self.server.complete(request.key, answer, cx.now.mono.ms());
                self.transmit(request.path, to, bytes, cx);
            }
            Some(ticket) => {
                let (path, key) = (request.path, request.key);
                self.pending.push_back(Pending { ticket, path, to, key, answer, bytes });
            }
        }
    }

    /// Sends the answers that waited for this ticket or an earlier one.
    pub(crate) fn persisted(&mut self, done: impl Fn(u64) -> bool, cx: &mut Cx<'_>) {
        while self.pending.front().is_some_and(|p| done(p.ticket)) {
            let Some(pending) = self.pending.pop_front() else { return };
            self.server.complete(pending.key, pending.answer, cx.now.mono.ms());
            self.transmit(pending.path, pending.to, pending.bytes, cx);
        }
    }

    fn transmit(&self, path: Path, to: SocketAddr, bytes: Bytes, cx: &mut Cx<'_>) {
        cx.out.push_back(match path {
            Path::Udp { socket } => Output::SipDatagram { socket, to, bytes },
            Path::Tcp { conn, .. } => Output::SipStream { conn, bytes },
        });
    }

    /// Sends a request in a transaction of its own.
    pub(crate) fn send(&mut self, outgoing: Outgoing<'_>, cx: &mut Cx<'_>) {
        self.sent += 1;
        let token = mix(self.secret, self.sent);
        let destination =
            Destination { socket: outgoing.socket, to: outgoing.to.addr, transport: outgoing.to.transport };
        let Some(request) = build(&outgoing, token, cx.config) else {
            self.unsent.push_back(outgoing.ask);
            return;
        };
        let ask = outgoing.ask;
        let transaction = Transaction {
            token,
            request: request.clone(),
            destination,
            retransmit: outgoing.retransmit && destination.transport == SipTransport::Udp,
            give_up_ms: outgoing.give_up_ms,
            tag: ask.clone(),
        };
        if self.client.start(transaction, cx.now.mono.ms()).is_err() {
            cx.stats.sip_transactions_refused += 1;
            self.unsent.push_back(ask);
            return;
        }
        self.dispatch(destination, request, cx);
    }

    fn dispatch(&mut self, destination: Destination, bytes: Bytes, cx: &mut Cx<'_>) {
        let Destination { socket, to, transport } = destination;
        if transport == SipTransport::Udp {
            cx.out.push_back(Output::SipDatagram { socket, to, bytes });
            return;
        }
        if let Some(id) = self.dialed.get(&to).copied()
            && let Some(conn) = self.conns.get_mut(&id)
        {
            match &mut conn.waiting {
                None => cx.out.push_back(Output::SipStream { conn: id, bytes }),
                Some(waiting) if waiting.iter().map(Bytes::len).sum::<usize>() < TCP_WAITING_MAX => {
                    waiting.push(bytes);
                }
                Some(_) => {}
            }
            return;
        }
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        let conn = Conn { socket, peer: to, framer: StreamFramer::new(), waiting: Some(vec![bytes]) };
        self.conns.insert(id, conn);
        self.dialed.insert(to, id);
        cx.out.push_back(Output::SipConnect { conn: id, socket, to });
    }

    /// Cuts off the connection to a server: what waits there would arrive behind what it is told later.
    pub(crate) fn cut_off(&mut self, to: SocketAddr, cx: &mut Cx<'_>) {
        if let Some(conn) = self.dialed.remove(&to) {
            self.conns.remove(&conn);
            cx.out.push_back(Output::SipClose { conn, at_once: true });
        }
    }

    /// Ends the open requests that are chosen, without an outcome.
    pub(crate) fn drop_requests(&mut self, chosen: impl Fn(&Ask) -> bool) {
        self.client.close_where(chosen);
    }

    /// Timers: retransmissions are sent; the next request that got no answer is returned.
    pub(crate) fn timed_out(&mut self, cx: &mut Cx<'_>) -> Option<Ask> {
        const EXPIRE_EVERY_MS: u64 = 1_000;
        if cx.now.mono >= self.expire_at {
            self.server.expire(cx.now.mono.ms());
            self.expire_at = cx.now.mono.plus_ms(EXPIRE_EVERY_MS);
        }
        if let Some(ask) = self.unsent.pop_front() {
            return Some(ask);
        }
        while let Some(action) = self.client.poll(cx.now.mono.ms()) {
            match action {
                Action::Retransmit { destination, request } => {
                    cx.stats.sip_retransmissions_out += 1;
                    self.dispatch(destination, request, cx);
                }
                Action::TimedOut(ask) => return Some(ask),
            }
        }
        None
    }

    /// When [`Front::timed_out`] has something to do.
    pub(crate) fn next_wakeup(&self) -> Mono {
        let transactions = self.client.next_deadline().map_or(u64::MAX, |ms| ms.saturating_mul(1_000));
        let expiry = if self.server.is_empty() { u64::MAX } else { self.expire_at.0 };
        let unsent = if self.unsent.is_empty() { u64::MAX } else { 0 };
        Mono(transactions.min(expiry).min(unsent))
    }
}

/// The code for a request that is no KDMQ.
fn other_method(method: &[u8]) -> u16 {
    match method {
        b"OPTIONS" => 200,
        b"CANCEL" => 481,
        known if KNOWN_METHODS.contains(&known) => 405,
        _ => 501,
    }
}

/// Whether DMQ requests of this address are taken.
pub(crate) fn is_trusted(config: &Config, ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    config.dmq.trusted.iter().any(|net| net.contains(&ip))
}
