//! `sip:` and `sips:` URIs (RFC 3261 section 19.1) and their canonical text.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nom::Parser;
use nom::branch::alt;
use nom::bytes::complete::{take_till, take_while1};
use nom::character::complete::{char, digit1};
use nom::combinator::{map_opt, opt, recognize, rest};
use nom::sequence::{delimited, preceded, terminated};

use crate::text::{self, Params, Step};
use crate::write;
use crate::{ParseError, ParseErrorKind};

/// The two schemes of SIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `sip:`
    Sip,
    /// `sips:`
    Sips,
}

impl Scheme {
    /// Without the colon.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sip => "sip",
            Self::Sips => "sips",
        }
    }
}

/// A host as written: a domain name, an IPv4 address, or an IPv6 address in brackets.
///
/// Compares byte for byte, as DMQ compares hosts; [`Host::ip`] tells addresses apart from names.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Host<'a>(&'a [u8]);

impl<'a> Host<'a> {
    /// As written, brackets included.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// The address, unless it is a domain name.
    pub fn ip(&self) -> Option<IpAddr> {
        let text = std::str::from_utf8(self.0).ok()?;
        match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        }
    }
}

impl fmt::Debug for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({})", self.0.escape_ascii())
    }
}

/// Host names by RFC 1123, and underscores, which real names have.
fn name(input: &[u8]) -> Step<'_, &[u8]> {
    take_while1(|byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')).parse(input)
}

fn ipv6(input: &[u8]) -> Step<'_, &[u8]> {
    let inner = take_while1(|byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'));
    recognize(map_opt(delimited(char('['), inner, char(']')), |text: &[u8]| {
        std::str::from_utf8(text).ok()?.parse::<Ipv6Addr>().ok()
    }))
    .parse(input)
}

/// `host`.
pub(crate) fn host(input: &[u8]) -> Step<'_, Host<'_>> {
    alt((ipv6, name)).map(Host).parse(input)
}

/// `port`: a number up to 65,535.
pub(crate) fn port(input: &[u8]) -> Step<'_, u16> {
    map_opt(digit1, text::number).parse(input)
}

/// A SIP or SIPS URI, borrowed from the text that it was parsed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uri<'a> {
    /// `sip` or `sips`.
    pub scheme: Scheme,
    /// The user part as written, escapes included; `None` without an `@`.
    pub user: Option<&'a [u8]>,
    /// The password as written.
    pub password: Option<&'a [u8]>,
    /// The host.
    pub host: Host<'a>,
    /// The port; `None` if none is written, which is not the same as 5060 (RFC 3261 section 19.1.4).
    pub port: Option<u16>,
    /// `;name=value` parameters.
    pub params: Params<'a>,
    /// What follows the `?`, as written.
    pub headers: Option<&'a [u8]>,
}

impl<'a> Uri<'a> {
    /// Parses a URI without angle brackets; the whole of `text` must be one.
    ///
    /// # Errors
    /// [`ParseErrorKind::UnknownScheme`] for a URI of another scheme, else [`ParseErrorKind::Uri`].
    /// Offsets count from the start of `text`.
    pub fn parse(text: &'a [u8]) -> Result<Self, ParseError> {
        let fail = |at: usize| ParseError::new(at, ParseErrorKind::Uri);
        if let Some(at) = text.iter().position(|&byte| text::is_space(byte) || matches!(byte, b'<' | b'>' | b'"')) {
            return Err(fail(at));
        }
        let colon = memchr::memchr(b':', text).ok_or(fail(0))?;
        let (scheme, after) = text.split_at(colon);
        let scheme = match scheme {
            _ if scheme.eq_ignore_ascii_case(b"sip") => Scheme::Sip,
            _ if scheme.eq_ignore_ascii_case(b"sips") => Scheme::Sips,
            [first, others @ ..] if first.is_ascii_alphabetic() && others.iter().copied().all(text::is_token) => {
                return Err(ParseError::new(0, ParseErrorKind::UnknownScheme));
            }
            _ => return Err(fail(0)),
        };
        let after = after.get(1..).unwrap_or_default();
        match hier_part(scheme, after) {
            Ok(([], uri)) => Ok(uri),
            Ok((left, _)) => Err(fail(text.len() - left.len())),
            Err(nom::Err::Error(error) | nom::Err::Failure(error)) => Err(fail(text.len() - error.input.len())),
            Err(nom::Err::Incomplete(_)) => Err(fail(text.len())),
        }
    }

    /// The canonical text of this URI: two URIs with the same one are equal by RFC 3261 section
    /// 19.1.4. See [`normalised`] for what it does.
    pub fn normalised(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(self.scheme.as_str().as_bytes());
        out.push(b':');
        if let Some(user) = self.user {
            escape_canonically(user, &mut out);
            if let Some(password) = self.password {
                out.push(b':');
                escape_canonically(password, &mut out);
            }
            out.push(b'@');
        }
        match self.host.ip() {
            Some(IpAddr::V6(ip)) => out.extend_from_slice(format!("[{ip}]").as_bytes()),
            _ => out.extend(self.host.0.iter().map(u8::to_ascii_lowercase)),
        }
        if let Some(port) = self.port {
            out.push(b':');
            write::number(&mut out, u64::from(port));
        }
        for (name, value) in sorted(self.params.iter().map(|param| (param.name, param.value)), true) {
            push_pair(b';', &name, value.as_deref(), &mut out);
        }
        let headers = self.headers.into_iter().flat_map(|text| text.split(|&byte| byte == b'&')).map(|header| {
            let mut parts = header.splitn(2, |&byte| byte == b'=');
            (parts.next().unwrap_or_default(), parts.next())
        });
        for (at, (name, value)) in sorted(headers, false).into_iter().enumerate() {
            push_pair(if at == 0 { b'?' } else { b'&' }, &name, value.as_deref(), &mut out);
        }
        out
    }
}

/// What follows the scheme. An `@` anywhere ends a user part: elsewhere in a URI it must be escaped.
fn hier_part(scheme: Scheme, input: &[u8]) -> Step<'_, Uri<'_>> {
    let user_part = terminated(
        (take_till(|byte| byte == b':' || byte == b'@'), opt(preceded(char(':'), take_till(|byte| byte == b'@')))),
        char('@'),
    );
    let user_part =
        if memchr::memchr(b'@', input).is_some() { user_part.map(Some).parse(input) } else { Ok((input, None)) };
    let (input, user_part) = user_part?;
    if user_part.is_some_and(|(user, _): (&[u8], _)| user.is_empty()) {
        return Err(nom::Err::Error(nom::error::Error::new(input, nom::error::ErrorKind::Verify)));
    }
    let (input, (host, port, params, headers)) =
        (host, opt(preceded(char(':'), port)), text::params, opt(preceded(char('?'), rest))).parse(input)?;
    let (user, password) = user_part.map_or((None, None), |(user, password)| (Some(user), password));
    Ok((input, Uri { scheme, user, password, host, port, params, headers }))
}

/// The canonical text of any URI; never fails, so that whatever a device calls itself has one.
///
/// For SIP URIs, by RFC 3261 section 19.1.4: scheme and host in lower case, IPv6 addresses in their
/// shortest form, escapes only where needed and in upper case, parameters (names and values in
/// lower case) and headers sorted by name, user part with its case, port as written (none is not
/// 5060). Finer than the RFC in one respect: there, a parameter that only one of two URIs has is
/// mostly ignored, which is no equivalence (a = b and b = c, yet not a = c) and so has no
/// canonical text; here it counts.
///
/// Any other text: the scheme in lower case, the rest as it is.
pub fn normalised(uri: &[u8]) -> Vec<u8> {
    if is_normal(uri) {
        return uri.to_vec();
    }
    if let Ok(uri) = Uri::parse(uri) {
        return uri.normalised();
    }
    let colon = memchr::memchr(b':', uri).unwrap_or(0);
    let (scheme, after) = uri.split_at(colon);
    let mut out = scheme.to_ascii_lowercase();
    out.extend_from_slice(after);
    out
}

/// Whether a URI is canonical at first sight: `sip:user@host` or `sip:user@host:port`, and nothing in it that could be spelled
/// in another way. Most are.
fn is_normal(uri: &[u8]) -> bool {
    let Some(rest) = uri.strip_prefix(b"sip:") else { return false };
    let Some(at) = rest.iter().position(|&byte| !is_unreserved(byte)) else { return false };
    let (user, Some(host)) = (&rest[..at], rest[at..].strip_prefix(b"@")) else { return false };
    let is_host = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_');
    let end = host.iter().position(|byte| !is_host(byte)).unwrap_or(host.len());
    let is_port =
        |port: &[u8]| matches!(port, [b'1'..=b'9', rest @ ..] if rest.len() < 4 && rest.iter().all(u8::is_ascii_digit));
    !user.is_empty() && end > 0 && (end == host.len() || host[end..].strip_prefix(b":").is_some_and(is_port))
}

type Pair = (Vec<u8>, Option<Vec<u8>>);

/// Pairs with their names in lower case (and values, if `fold_values`), sorted by name; those of
/// one name keep their order.
fn sorted<'a>(pairs: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>, fold_values: bool) -> Vec<Pair> {
    let canonical = |text: &[u8], fold: bool| {
        let mut out = Vec::with_capacity(text.len());
        escape_canonically(text, &mut out);
        if fold {
            lower_unescaped(&mut out)
        }
        out
    };
    let mut pairs: Vec<Pair> =
        pairs.map(|(name, value)| (canonical(name, true), value.map(|value| canonical(value, fold_values)))).collect();
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    pairs
}

/// Lower case for everything but the two digits of an escape, which stay as they are.
fn lower_unescaped(text: &mut [u8]) {
    let mut digits_left = 0;
    for byte in text {
        match (digits_left, *byte) {
            (0, b'%') => digits_left = 2,
            (0, _) => byte.make_ascii_lowercase(),
            _ => digits_left -= 1,
        }
    }
}

fn push_pair(mark: u8, name: &[u8], value: Option<&[u8]>, out: &mut Vec<u8>) {
    out.push(mark);
    out.extend_from_slice(name);
    if let Some(value) = value {
        out.push(b'=');
        out.extend_from_slice(value);
    }
}

/// Appends `text` with the one spelling that each of its characters has: unreserved ones plain,
/// reserved ones as written (an escaped one differs from a plain one), all others escaped, also a
/// percent sign that escapes nothing.
fn escape_canonically(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        let byte = escaped.unwrap_or(first);
        if is_unreserved(byte) || escaped.is_none() && is_reserved(byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        rest = if escaped.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
}

const DIGITS: &[u8; 16] = b"0123456789ABCDEF";

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'!' | b'~' | b'*' | b'\'' | b'(' | b')')
}

/// Reserved characters, and the brackets that URI parameters may hold.
const fn is_reserved(byte: u8) -> bool {
    matches!(byte, b';' | b'/' | b'?' | b':' | b'@' | b'&' | b'=' | b'+' | b'$' | b',' | b'[' | b']')
}
