//! Links to other nodes: QUIC connections with mutual TLS.
//!
//! A link has datagrams (membership), one unidirectional stream per direction ([`Lane::Push`], of higher
//! priority) and a bidirectional stream per session. Frames are prefixed with their length (u32, big
//! endian); a session stream begins with its id (u32, big endian), a push stream with a byte that says that the
//! link is up. A peer that breaks this is cut off.
//!
//! In TLS 1.3 a client is done before the server has looked at its certificate. So a dialer takes a link for up
//! only when that byte has come, and whom the other side refuses learns why.
//!
//! What to dial, what to send and what it means is the node's business.

mod lane;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use node::config::Timing;
use node::{Lane, LinkId};
use quinn::{
    Connection, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, RecvStream, TokioRuntime, TransportConfig,
    VarInt,
};
use rustls_pki_types::CertificateDer;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use crate::certs::NODE_SAN;
use crate::inbox::{Event, Inbox};
use crate::tls::{self, LinkTls};

/// What is asked of the kernel for the socket's buffers, bytes.
const SOCKET_BUFFER: usize = 8 << 20;

/// Handshakes that may be going on at once, from strangers.
const MAX_HANDSHAKES: usize = 64;

/// A handshake that others began may take so long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Sessions that a peer may have open at once.
const MAX_SESSIONS: u32 = 64;

/// What a peer may send ahead of us, and we ahead of it, bytes.
const WINDOW: u32 = 16 << 20;

/// Why a link is cut; told to the peer.
const CODE: VarInt = VarInt::from_u32(1);

/// Sends frames on one lane. Dropping it ends the lane after what was sent.
pub(crate) struct LaneHandle(mpsc::UnboundedSender<Bytes>);

/// The node's end of a link.
pub(crate) struct LinkHandle {
    id: LinkId,
    connection: Connection,
    lanes: BTreeMap<Lane, LaneHandle>,
    endpoint: Arc<Links>,
}

impl LinkHandle {
    /// Sends a datagram now or never.
    pub(crate) fn datagram(&self, bytes: Bytes) {
        // Too large, not supported, gone, no room: all mean that it does not leave, which membership bears.
        let _ = self.connection.send_datagram(bytes);
    }

    /// Queues a frame; the node keeps to its window, so queues are short. The first frame of a session
    /// opened here opens its stream.
    pub(crate) fn frame(&mut self, lane: Lane, bytes: Bytes) {
        if !self.lanes.contains_key(&lane) {
            let Lane::Session { id, opened_here: true } = lane else { return };
            let handle = lane::open_session(&self.endpoint, self.id, &self.connection, id);
            self.lanes.insert(lane, handle);
        }
        if let Some(LaneHandle(sender)) = self.lanes.get(&lane) {
            // A lane whose stream broke says so by itself.
            let _ = sender.send(bytes);
        }
    }

    /// A session that the peer opened.
    pub(crate) fn add(&mut self, lane: Lane, handle: LaneHandle) {
        self.lanes.insert(lane, handle);
    }

    /// Ends a lane after what was sent.
    pub(crate) fn close_lane(&mut self, lane: Lane) {
        self.lanes.remove(&lane);
    }

    /// Cuts the link.
    pub(crate) fn close(&self, reason: &str) {
        self.connection.close(CODE, reason.as_bytes());
    }
}

/// The QUIC endpoint.
pub(crate) struct Links {
    endpoint: Endpoint,
    inbox: Inbox,
    runtime: Handle,
    next: AtomicU64,
    dial_timeout: Duration,
    authenticated: bool,
}

impl Links {
    /// Opens the endpoint on a bound socket. Call within the runtime.
    pub(crate) fn open(
        socket: std::net::UdpSocket,
        tls: &LinkTls,
        timing: Timing,
        dial_timeout: Duration,
        inbox: Inbox,
    ) -> std::io::Result<Arc<Self>> {
        let transport = Arc::new(transport(timing));
        let mut server = quinn::ServerConfig::with_crypto(tls.server.clone());
        server.transport_config(transport.clone());
        let mut client = quinn::ClientConfig::new(tls.client.clone());
        client.transport_config(transport);
        let mut endpoint = Endpoint::new(EndpointConfig::default(), Some(server), socket, Arc::new(TokioRuntime))?;
        endpoint.set_default_client_config(client);
        let links = Arc::new(Self {
            endpoint,
            inbox,
            runtime: Handle::current(),
            next: AtomicU64::new(0),
            dial_timeout,
            authenticated: tls.name.is_some(),
        });
        links.runtime.spawn(links.clone().accept());
        Ok(links)
    }

    /// Connects to a node; the answer is `LinkUp` or `DialFailed`.
    pub(crate) fn dial(self: &Arc<Self>, addr: SocketAddr) {
        let links = self.clone();
        self.runtime.spawn(async move {
            let failed = match links.connect(addr).await {
                Ok((connection, push)) => return links.up(connection, Some(push)).await,
                Err(reason) => reason,
            };
            links.inbox.push_urgent(Event::DialFailed { addr, reason: failed });
        });
    }

    async fn connect(&self, addr: SocketAddr) -> Result<(Connection, RecvStream), String> {
        let connecting = self.endpoint.connect(addr, NODE_SAN).map_err(|e| e.to_string())?;
        let connected = async {
            let connection = connecting.await?;
            let push = connection.accept_uni().await?;
            Ok((connection, push))
        };
        match tokio::time::timeout(self.dial_timeout, connected).await {
            Ok(connected) => connected.map_err(|error| self.explain(&error)),
            Err(_) => Err("no answer".to_owned()),
        }
    }

    /// Takes connections until the endpoint is closed.
    async fn accept(self: Arc<Self>) {
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        let mut refused = Refusals::default();
        let (told, mut refusals) = mpsc::channel::<(SocketAddr, String)>(MAX_HANDSHAKES);
        loop {
            let incoming = tokio::select! {
                incoming = self.endpoint.accept() => incoming,
                Some((addr, reason)) = refusals.recv() => {
                    refused.tell(addr, &reason);
                    continue;
                }
            };
            let Some(incoming) = incoming else { return };
            let Ok(permit) = handshakes.clone().try_acquire_owned() else {
                incoming.refuse();
                continue;
            };
            let (links, told) = (self.clone(), told.clone());
            self.runtime.spawn(async move {
                let addr = incoming.remote_address();
                let result = tokio::time::timeout(HANDSHAKE_TIMEOUT, incoming).await;
                drop(permit);
                let reason = match result {
                    Ok(Ok(connection)) => return links.up(connection, None).await,
                    // We found fault with it, or it with us.
                    Ok(Err(error)) if tls_fault(&error) => links.explain(&error),
                    // It gave up, or its packets were lost: it will come again.
                    Ok(Err(error)) => return tracing::debug!("no link from {addr}: {error}"),
                    Err(_) => return tracing::debug!("no link from {addr}: the handshake took too long"),
                };
                // A full channel means that enough is being told.
                let _ = told.try_send((addr, reason));
            });
        }
    }

    /// Serves a connection until it ends. One that was dialed comes with the peer's push stream.
    async fn up(self: Arc<Self>, connection: Connection, push: Option<RecvStream>) {
        let dialed = push.is_some();
        let link = LinkId(self.next.fetch_add(1, Ordering::Relaxed));
        let addr = connection.remote_address();
        let subject = if self.authenticated { peer_name(&connection) } else { None };
        if self.authenticated && subject.is_none() {
            connection.close(CODE, b"your certificate carries no node name");
            let reason = "its certificate carries no node name".to_owned();
            if dialed {
                self.inbox.push_urgent(Event::DialFailed { addr, reason });
            }
            return;
        }
        let lanes = BTreeMap::from([(Lane::Push, lane::open_push(&self, link, &connection))]);
        let handle = LinkHandle { id: link, connection: connection.clone(), lanes, endpoint: self.clone() };
        self.inbox.push_urgent(Event::LinkUp { link, handle, addr, dialed, subject });
        self.runtime.spawn(lane::read_push(self.clone(), link, connection.clone(), push));
        self.runtime.spawn(lane::accept_sessions(self.clone(), link, connection.clone()));
        let ended = loop {
            match connection.read_datagram().await {
                Ok(bytes) => self.inbox.push_urgent(Event::Datagram { link, bytes }),
                Err(ended) => break ended,
            }
        };
        let reason = self.explain(&ended);
        self.inbox.push_behind(Event::LinkDown { link, reason });
    }

    /// Tells every peer and waits, but not long, until they know.
    pub(crate) async fn close(&self, reason: &str) {
        self.endpoint.close(VarInt::from_u32(0), reason.as_bytes());
        let _ = tokio::time::timeout(Duration::from_millis(500), self.endpoint.wait_idle()).await;
    }

    /// Why a connection failed or ended, as an operator can use it.
    fn explain(&self, error: &ConnectionError) -> String {
        let ours = if self.authenticated { "ours" } else { "and this one has none" };
        match error {
            ConnectionError::ApplicationClosed(close) => {
                format!("the other side closed it: {}", String::from_utf8_lossy(&close.reason))
            }
            ConnectionError::ConnectionClosed(close) => match tls_alert(close.error_code.into()) {
                Some(42 | 46 | 48 | 51) => {
                    "the other side does not take our certificate; is it from the same authority (CA)?".to_owned()
                }
                Some(45) => "the other side says that our certificate has expired".to_owned(),
                Some(116) => format!("the other side wants a certificate, {ours}; see `starling cert`"),
                Some(120) => "the other side speaks another version of the protocol".to_owned(),
                _ => format!("the other side closed it: {close}"),
            },
            ConnectionError::TransportError(error) => match tls_alert(error.code.into()) {
                Some(42 | 46 | 48 | 51) => "its certificate is not from our authority (CA)".to_owned(),
                Some(45) => "its certificate has expired".to_owned(),
                Some(116) => "it has no certificate".to_owned(),
                Some(120) => "it speaks another protocol, or another version of it".to_owned(),
                _ => error.to_string(),
            },
            ConnectionError::TimedOut => "silence".to_owned(),
            ConnectionError::LocallyClosed => "closed here".to_owned(),
            ConnectionError::Reset => "the other side knows nothing of it; it restarted".to_owned(),
            other => other.to_string(),
        }
    }
}

fn tls_fault(error: &ConnectionError) -> bool {
    match error {
        ConnectionError::ConnectionClosed(close) => tls_alert(close.error_code.into()).is_some(),
        ConnectionError::TransportError(error) => tls_alert(error.code.into()).is_some(),
        _ => false,
    }
}

/// The TLS alert in a QUIC error code (RFC 9001 section 4.8). Of those in RFC 8446 section 6.2, 42, 46, 48 and 51 come of
/// a certificate by another authority (51 if that one bears the same name), 45 of one that has expired, 116 of none,
/// 120 of another application protocol.
fn tls_alert(code: u64) -> Option<u8> {
    (0x100..0x200).contains(&code).then(|| u8::try_from(code & 0xff).unwrap_or(0))
}

/// The node name in the peer's certificate.
fn peer_name(connection: &Connection) -> Option<String> {
    let identity = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    tls::node_name(identity.first()?)
}

fn transport(timing: Timing) -> TransportConfig {
    let (idle, keep_alive) = match timing {
        Timing::Lan => (5_000, 1),
        Timing::Wan => (15_000, 3),
    };
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle))))
        .keep_alive_interval(Some(Duration::from_secs(keep_alive)))
        .max_concurrent_uni_streams(VarInt::from_u32(1))
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_SESSIONS))
        .stream_receive_window(VarInt::from_u32(WINDOW / 4))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(u64::from(WINDOW))
        .datagram_receive_buffer_size(Some(256 << 10))
        .datagram_send_buffer_size(64 << 10);
    config
}

/// Binds the UDP socket of the endpoint.
pub(crate) fn bind(addr: SocketAddr) -> std::io::Result<std::net::UdpSocket> {
    let socket = crate::sip::udp_socket(addr, SOCKET_BUFFER)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Tells of refused strangers without letting them fill the log: once a minute, with a count.
#[derive(Default)]
struct Refusals {
    last: Option<std::time::Instant>,
    untold: u64,
}

impl Refusals {
    fn tell(&mut self, addr: SocketAddr, reason: &str) {
        if self.last.is_some_and(|at| at.elapsed() < Duration::from_secs(60)) {
            self.untold += 1;
            tracing::debug!("refused a link from {addr}: {reason}");
            return;
        }
        match self.untold {
            0 => tracing::warn!("refused a link from {addr}: {reason}"),
            n => tracing::warn!("refused a link from {addr}: {reason}; {n} more were refused since the last such line"),
        }
        (self.last, self.untold) = (Some(std::time::Instant::now()), 0);
    }
}
