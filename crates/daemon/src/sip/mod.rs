//! SIP sockets: UDP with a reader thread each, TCP with a task per connection.
//!
//! A Kamailio sends a sync answer as an unpaced burst. So a UDP reader does nothing but move datagrams into the
//! queue, and the socket gets the largest receive buffer that the kernel grants.

mod tcp;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use node::SocketId;
use rustix::net::RecvFlags;
use socket2::{Domain, Protocol, Socket, Type};

pub(crate) use tcp::{ConnHandle, Connections};

use crate::inbox::{Event, Inbox};

/// What is asked of the kernel for a SIP socket's buffers, bytes.
const SOCKET_BUFFER: usize = 32 << 20;

/// The largest UDP payload.
const MAX_DATAGRAM: usize = 65_535;

/// How many datagrams are handed over at a time: one wake-up for as many as came together.
const BURST: usize = 32;

/// A send that the kernel does not take within this time is a lost datagram.
const SEND_TIMEOUT: Duration = Duration::from_millis(20);

/// A UDP socket bound to `addr`, with buffers of `buffer` bytes or whatever less the kernel grants.
pub(crate) fn udp_socket(addr: SocketAddr, buffer: usize) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Beyond net.core.rmem_max only a privileged process gets what it asks; both are best effort.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, buffer).is_err() {
        let _ = socket.set_recv_buffer_size(buffer);
    }
    let _ = socket.set_send_buffer_size(buffer);
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// A bound UDP socket with its figures.
pub(crate) struct Udp {
    socket: UdpSocket,
    counts: Arc<UdpCounts>,
}

/// What happened on a UDP socket.
#[derive(Debug, Default)]
pub(crate) struct UdpCounts {
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) send_errors: AtomicU64,
}

impl Udp {
    /// Binds it.
    pub(crate) fn bind(addr: SocketAddr) -> io::Result<Self> {
        let socket = udp_socket(addr, SOCKET_BUFFER)?;
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        Ok(Self { socket, counts: Arc::default() })
    }

    /// Where it is bound.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Its figures.
    pub(crate) fn counts(&self) -> Arc<UdpCounts> {
        self.counts.clone()
    }

    /// The receive buffer that the kernel granted, bytes.
    pub(crate) fn receive_buffer(&self) -> usize {
        socket2::SockRef::from(&self.socket).recv_buffer_size().unwrap_or(0)
    }

    /// Sends, or counts that it could not.
    pub(crate) fn send(&self, to: SocketAddr, bytes: &[u8]) {
        let count = match self.socket.send_to(bytes, to) {
            Ok(_) => &self.counts.sent,
            Err(error) => {
                tracing::debug!("cannot send {} bytes to {to}: {error}", bytes.len());
                &self.counts.send_errors
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Starts the thread that reads it, until the process ends.
    pub(crate) fn spawn_reader(&self, id: SocketId, inbox: Inbox) -> io::Result<()> {
        let (socket, counts) = (self.socket.try_clone()?, self.counts.clone());
        let name = format!("udp{}", id.0);
        std::thread::Builder::new().name(name).spawn(move || {
            let mut buffer = vec![0; MAX_DATAGRAM];
            let mut burst = Vec::with_capacity(BURST);
            loop {
                match socket.recv_from(&mut buffer) {
                    Ok(first) => {
                        let mut next = Some(first);
                        while let Some((size, from)) = next {
                            let bytes = Bytes::copy_from_slice(buffer.get(..size).unwrap_or_default());
                            burst.push((Event::SipDatagram { socket: id, from, bytes }, size));
                            next = if burst.len() < BURST { already_there(&socket, &mut buffer) } else { None };
                        }
                        counts.received.fetch_add(burst.len() as u64, Ordering::Relaxed);
                        if !inbox.push_blocking(burst.drain(..)) {
                            return;
                        }
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        tracing::warn!("cannot read SIP socket {}: {error}", id.0);
                        std::thread::sleep(Duration::from_millis(100));
                    }
                }
            }
        })?;
        Ok(())
    }
}

/// A datagram that need not be waited for. Whatever else is the matter shows when one is waited for.
fn already_there(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    let (size, _, from) = rustix::net::recvfrom(socket, buffer, RecvFlags::DONTWAIT).ok()?;
    Some((size, from?.try_into().ok()?))
}
