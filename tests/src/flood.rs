//! Many requests to one server, a window of them open at a time: loads and asks for 100,000 contacts.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::sip::token;
use crate::udp;

/// Open requests at a time: enough to keep two workers busy, few enough for a default socket buffer.
const WINDOW: usize = 24;
/// A request without an answer is sent again after this.
const RESEND: Duration = Duration::from_millis(500);

/// Sends requests number `0..count` and returns the status of each.
///
/// `write` makes the request from its number, the local address and a Call-ID which must be used.
///
/// # Errors
/// When some are still unanswered after `timeout`.
pub fn flood(
    server: SocketAddr,
    count: usize,
    timeout: Duration,
    write: impl Fn(usize, SocketAddr, &str) -> Vec<u8>,
) -> anyhow::Result<Vec<u16>> {
    let socket = udp::connected(None, server)?;
    let (local, prefix, start) = (socket.local_addr()?, token(), Instant::now());
    let mut status = vec![0_u16; count];
    let mut open: Vec<(usize, Instant)> = Vec::new();
    let (mut next, mut answered, mut buffer) = (0, 0, vec![0; 65_535]);
    let send = |i: usize| socket.send(&write(i, local, &format!("{prefix}-{i}")));
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    while answered < count {
        if start.elapsed() > timeout {
            bail!("{} of {count} unanswered after {timeout:?}", count - answered);
        }
        while next < count && open.len() < WINDOW {
            send(next).context("cannot send")?;
            open.push((next, Instant::now()));
            next += 1;
        }
        if let Ok(n) = socket.recv(&mut buffer) {
            let Some((i, code)) = answer(&buffer[..n], &prefix) else {
                continue;
            };
            if status.get(i) == Some(&0) {
                status[i] = code;
                answered += 1;
                open.retain(|(o, _)| *o != i);
            }
        } else {
            for (i, at) in &mut open {
                if at.elapsed() > RESEND {
                    send(*i).context("cannot send")?;
                    *at = Instant::now();
                }
            }
        }
    }
    Ok(status)
}

/// The number of the request and the status of a final answer.
fn answer(bytes: &[u8], prefix: &str) -> Option<(usize, u16)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let code: u16 = text.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()?;
    let after = text.split(prefix).nth(1)?.strip_prefix('-')?;
    let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
    (code >= 200).then_some((digits.parse().ok()?, code))
}

/// The AoR (user part) of number `i` of a load.
#[must_use]
pub fn user(i: usize) -> String {
    format!("load{i:06}")
}

/// The contact URI of number `i` of a load.
#[must_use]
pub fn contact(i: usize) -> String {
    format!("sip:{}@10.{}.{}.{}:5066;line={i}", user(i), i / 62_500, i / 250 % 250, i % 250 + 1)
}

/// Registers users number `0..count`, one contact each, by real REGISTERs.
///
/// # Errors
/// When one is refused or unanswered.
pub fn register(server: SocketAddr, count: usize, expires: u32, timeout: Duration) -> anyhow::Result<()> {
    register_some(server, 0..count, expires, timeout)
}

/// Registers the users of these numbers, one contact each, by real REGISTERs.
///
/// # Errors
/// When one is refused or unanswered.
pub fn register_some(server: SocketAddr, users: Range<usize>, expires: u32, timeout: Duration) -> anyhow::Result<()> {
    let status = flood(server, users.len(), timeout, |i, local, call_id| {
        let i = users.start + i;
        let (user, contact, ip) = (user(i), contact(i), server.ip());
        format!(
            "REGISTER sip:{ip} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK{call_id}\r\nMax-Forwards: 70\r\n\
             From: <sip:{user}@{ip}>;tag=t{i}\r\nTo: <sip:{user}@{ip}>\r\nCall-ID: {call_id}\r\nCSeq: 1 REGISTER\r\n\
             Contact: <{contact}>;q=0.7;+sip.instance=\"<urn:uuid:00000000-0000-4000-8000-{i:012}>\";reg-id=1\r\n\
             Expires: {expires}\r\nUser-Agent: load 1.0\r\nContent-Length: 0\r\n\r\n"
        )
        .into_bytes()
    })?;
    let refused: Vec<_> = status.iter().enumerate().filter(|(_, s)| **s != 200).collect();
    match refused.first() {
        None => Ok(()),
        Some((i, code)) => bail!("REGISTER {} was answered {code}; {} refused", users.start + i, refused.len()),
    }
}

/// Which of the users number `0..count` have no contact at that server, asked one by one.
///
/// # Errors
/// When the server does not answer.
pub fn missing(server: SocketAddr, count: usize, timeout: Duration) -> anyhow::Result<Vec<usize>> {
    let status = flood(server, count, timeout, |i, local, call_id| {
        let (user, ip) = (user(i), server.ip());
        format!(
            "MESSAGE sip:op-has@{server} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK{call_id}\r\n\
             Max-Forwards: 70\r\nFrom: <sip:test@{ip}>;tag=t{i}\r\nTo: <sip:test@{ip}>\r\nCall-ID: {call_id}\r\n\
             CSeq: 1 MESSAGE\r\nX-K: {user}\r\nContent-Length: 0\r\n\r\n"
        )
        .into_bytes()
    })?;
    Ok(status.iter().enumerate().filter(|(_, s)| **s != 200).map(|(i, _)| i).collect())
}
