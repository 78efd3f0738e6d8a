//! One request, one answer: a client transaction over UDP, and raw datagrams and streams.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::sip::Message;

/// A UDP socket connected to one server, so that its local address is known.
///
/// # Errors
/// When the system has no socket or no route.
pub fn connected(from: Option<Ipv4Addr>, to: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind((from.unwrap_or(Ipv4Addr::UNSPECIFIED), 0))?;
    socket.connect(to).with_context(|| format!("no way to {to}"))?;
    Ok(socket)
}

/// Sends a request until its final answer is there, with the retransmissions of RFC 3261 17.1.2.2 (timer E:
/// 0.5, 1, 2, 4 s), for at most `timeout`. Answers to other Call-IDs and provisional ones are skipped.
///
/// # Errors
/// When no final answer came.
pub fn transact(socket: &UdpSocket, request: &[u8], timeout: Duration) -> anyhow::Result<Message> {
    let sent = Message::parse(request)?;
    let (start, mut interval) = (Instant::now(), Duration::from_millis(500));
    let mut buffer = vec![0; 65_535];
    while start.elapsed() < timeout {
        let end = Instant::now() + interval;
        // A refused port is an answer that has not come yet: the server may be starting.
        let _ = socket.send(request);
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
            socket.set_read_timeout(Some(left))?;
            let Ok(n) = socket.recv(&mut buffer) else {
                continue;
            };
            let Ok(answer) = Message::parse(&buffer[..n]) else {
                continue;
            };
            if answer.status().is_some_and(|s| s >= 200) && answer.header("call-id") == sent.header("call-id") {
                return Ok(answer);
            }
        }
        interval = (interval * 2).min(Duration::from_secs(4));
    }
    bail!("no answer to {} within {timeout:?}", sent.start)
}

/// Sends one datagram, once, and returns what comes back first, if anything does.
///
/// # Panics
/// When there is no socket.
#[must_use]
pub fn datagram(from: Ipv4Addr, to: SocketAddr, bytes: &[u8], wait: Duration) -> Option<Vec<u8>> {
    let socket = connected(Some(from), to).expect("a UDP socket");
    socket.set_read_timeout(Some(wait)).expect("a timeout");
    socket.send(bytes).expect("a datagram sent");
    let mut buffer = vec![0; 65_535];
    socket.recv(&mut buffer).ok().map(|n| buffer[..n].to_vec())
}

/// Writes bytes into a new TCP connection, in pieces of `piece` bytes, and returns what comes back until the
/// other side closes, `wait` passes in silence, or `enough` says so; and whether the other side closed.
///
/// # Errors
/// When there is no connection.
pub fn stream(
    to: SocketAddr,
    bytes: &[u8],
    piece: usize,
    wait: Duration,
    enough: impl Fn(&[u8]) -> bool,
) -> anyhow::Result<(Vec<u8>, bool)> {
    let mut tcp = TcpStream::connect_timeout(&to, wait.max(Duration::from_secs(1)))?;
    tcp.set_nodelay(true)?;
    for part in bytes.chunks(piece.max(1)) {
        if tcp.write_all(part).is_err() {
            break; // closed in the middle: what it said before is still to be read
        }
    }
    tcp.set_read_timeout(Some(wait))?;
    let (mut got, mut buffer) = (Vec::new(), vec![0; 65_536]);
    while !enough(&got) {
        match tcp.read(&mut buffer) {
            Ok(0) => return Ok((got, true)),
            Ok(n) => got.extend_from_slice(&buffer[..n]),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                break;
            }
            Err(_) => return Ok((got, true)),
        }
    }
    Ok((got, false))
}
