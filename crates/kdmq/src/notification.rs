//! The `notification_peer` channel: the list of nodes in the mesh.
//!
//! One line per node, `sip:<host>:<port>[;transport=..];status=<status>` and CRLF, in requests and in
//! their 200 replies; the sender lists itself too. A body of length 0 is valid: it only asks.
//!
//! # What is lenient
//!
//! Each line stands alone: blank ones are passed over, others that cannot be understood are counted.
//! LF without CR, a last line without either, unknown parameters, a user part, letter case.
//!
//! # What is strict
//!
//! A single bad line makes 5.6 hang for good, and a host that it cannot resolve is one: a name, or an
//! IPv6 address where the server has no IPv6 socket. So hosts are addresses, IPv6 ones only beside our
//! own; every line ends with CRLF and has a port; only `active` and `disabled` are ever said; and the
//! list stays below the buffer in which servers build their own.

use std::net::{Ipv4Addr, Ipv6Addr};

use bstr::BStr;
use memchr::memchr;

use crate::EncodeError;

/// Longest list that is sent, bytes. Servers build theirs, which includes ours, in 1,024.
pub const MAX_LIST: usize = 1000;

/// Most nodes in a list that is sent.
pub const MAX_NODES: usize = 25;

/// Most lines of a received list that are looked at.
pub const MAX_LINES: usize = 512;

/// What a line says of a node's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Answers, and gets everything.
    Active,
    /// Not reached yet (5.x).
    Pending,
    /// Did not answer (5.x).
    Timeout,
    /// Did not answer (6.x).
    NotActive,
    /// Said that it leaves, or did not answer for long.
    Disabled,
}

impl Status {
    const ALL: [Self; 5] = [Self::Active, Self::Pending, Self::Timeout, Self::NotActive, Self::Disabled];

    /// The word on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pending => "pending",
            Self::Timeout => "timeout",
            Self::NotActive => "not_active",
            Self::Disabled => "disabled",
        }
    }
}

/// A transport that a DMQ node may be reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// SCTP.
    Sctp,
}

impl Transport {
    const ALL: [Self; 4] = [Self::Udp, Self::Tcp, Self::Tls, Self::Sctp];

    /// The parameter value on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Sctp => "sctp",
        }
    }
}

/// A node of a list.
///
/// Servers compare nodes as text: `host` by its bytes, a missing port is another node than 5060, and
/// a missing transport another than `udp`. So both stay what they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLine<'a> {
    /// Host name or address; IPv6 in brackets.
    pub host: &'a BStr,
    /// Port, if one was given.
    pub port: Option<u16>,
    /// Transport, if one was given.
    pub transport: Option<Transport>,
    /// State, if one was given; receivers differ in what they assume.
    pub status: Option<Status>,
    /// The line as it came, without its end; empty in a line of our own.
    pub raw: &'a BStr,
}

impl<'a> NodeLine<'a> {
    /// A line of our own, for [`encode`].
    pub fn new(host: &'a (impl AsRef<[u8]> + ?Sized), port: u16, transport: Transport, status: Status) -> Self {
        Self {
            host: BStr::new(host),
            port: Some(port),
            transport: Some(transport).filter(|&transport| transport != Transport::Udp),
            status: Some(status),
            raw: BStr::new(b""),
        }
    }

    /// Reads one line without its end; `None` if it is no node.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let uri = strip_prefix_ignore_case(line, b"sip:")?;
        let (address, params) = cut(uri, b';');
        let address = memchr(b'@', address).map_or(address, |at| &address[at + 1..]);
        let (host, port) = match address.first() {
            Some(b'[') => address.split_at_checked(memchr(b']', address)? + 1)?,
            _ => address.split_at(memchr(b':', address).unwrap_or(address.len())),
        };
        let port = match port {
            b"" => None,
            port => Some(number(port.strip_prefix(b":")?)?),
        };
        if !is_host(host) {
            return None;
        }
        let mut node = Self { host: BStr::new(host), port, transport: None, status: None, raw: BStr::new(line) };
        for param in params.split(|&byte| byte == b';') {
            let (name, value) = cut(param, b'=');
            if name.eq_ignore_ascii_case(b"status") {
                let known = Status::ALL.into_iter().find(|status| value == status.word().as_bytes());
                node.status = Some(known?);
            } else if name.eq_ignore_ascii_case(b"transport") {
                let is_it = |t: &Transport| value.eq_ignore_ascii_case(t.word().as_bytes());
                node.transport = Some(Transport::ALL.into_iter().find(is_it)?);
            }
        }
        Some(node)
    }
}

/// Decodes a list: its nodes, and how many lines were none.
pub fn decode(body: &[u8]) -> (Vec<NodeLine<'_>>, u32) {
    let mut nodes = Vec::new();
    let mut bad = 0;
    for (count, line) in body.split(|&byte| byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        match NodeLine::parse(line) {
            _ if line.is_empty() => {}
            Some(node) if count < MAX_LINES => nodes.push(node),
            _ => bad += 1,
        }
    }
    (nodes, bad)
}

/// Encodes a list that every server survives. Its first line is the sender's own: a server that
/// talks to an IPv6 address has IPv6, and then others may stand in the list too.
///
/// # Errors
/// [`EncodeError::NodeLine`] if a line lacks a port, a status of `active` or `disabled`, or a host
/// that is an address which the server understands; [`EncodeError::TooLong`] beyond [`MAX_NODES`]
/// lines or [`MAX_LIST`] bytes.
pub fn encode(nodes: &[NodeLine<'_>]) -> Result<Vec<u8>, EncodeError> {
    let mut body = Vec::with_capacity(MAX_LIST);
    if nodes.len() > MAX_NODES {
        return Err(EncodeError::TooLong { len: nodes.len(), max: MAX_NODES });
    }
    let has_v6 = nodes.first().is_some_and(|own| own.host.starts_with(b"["));
    for node in nodes {
        let port = node.port.filter(|&port| port != 0);
        let port = port.ok_or(EncodeError::NodeLine { field: "port" })?;
        let status = node.status.filter(|status| matches!(status, Status::Active | Status::Disabled));
        let status = status.ok_or(EncodeError::NodeLine { field: "status" })?;
        if !is_address(node.host, has_v6) {
            return Err(EncodeError::NodeLine { field: "host" });
        }
        body.extend_from_slice(b"sip:");
        body.extend_from_slice(node.host);
        body.extend_from_slice(format!(":{port}").as_bytes());
        if let Some(transport) = node.transport.filter(|&transport| transport != Transport::Udp) {
            body.extend_from_slice(format!(";transport={}", transport.word()).as_bytes());
        }
        body.extend_from_slice(format!(";status={}\r\n", status.word()).as_bytes());
    }
    match body.len() {
        ..=MAX_LIST => Ok(body),
        len => Err(EncodeError::TooLong { len, max: MAX_LIST }),
    }
}

/// A name or an IPv4 address, or an IPv6 address in brackets.
fn is_host(host: &[u8]) -> bool {
    let inner = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]"));
    match inner {
        Some(v6) => v6.contains(&b':') && v6.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.')),
        None => {
            let is_part = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
            !host.is_empty() && host.len() <= 255 && host.iter().all(is_part)
        }
    }
}

/// An IPv4 address, or an IPv6 address in brackets if those are allowed.
fn is_address(host: &[u8], has_v6: bool) -> bool {
    let text = std::str::from_utf8(host).unwrap_or_default();
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    match inner {
        Some(v6) => has_v6 && v6.parse::<Ipv6Addr>().is_ok(),
        None => text.parse::<Ipv4Addr>().is_ok(),
    }
}

fn number(digits: &[u8]) -> Option<u16> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|&port| port != 0)
}

fn cut(text: &[u8], separator: u8) -> (&[u8], &[u8]) {
    match memchr(separator, text) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, b""),
    }
}

fn strip_prefix_ignore_case<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}
