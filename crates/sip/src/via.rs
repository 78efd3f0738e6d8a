//! Via header values (RFC 3261 section 20.42).

use std::net::{IpAddr, SocketAddr};

use nom::Parser;
use nom::bytes::complete::tag_no_case;
use nom::combinator::opt;
use nom::sequence::preceded;

use crate::text::{self, Params, Step};
use crate::uri::{self, Host};
use crate::{Name, ParseError, ParseErrorKind};

/// One `via-parm`: a hop that the message came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via<'a> {
    /// `UDP`, `TCP`, .. as written; compares without case.
    pub transport: &'a [u8],
    /// Host of the sent-by.
    pub host: Host<'a>,
    /// Port of the sent-by, if written.
    pub port: Option<u16>,
    /// Parameters.
    pub params: Params<'a>,
}

impl<'a> Via<'a> {
    /// Parses one value; the whole of `text` must be it.
    ///
    /// # Errors
    /// [`ParseErrorKind::Value`] of [`Name::Via`], offset from the start of `text`.
    pub fn parse(text: &'a [u8]) -> Result<Self, ParseError> {
        let (via, end) = Self::parse_first(text)?;
        if end == text.len() { Ok(via) } else { Err(ParseError::new(end, ParseErrorKind::Value(Name::Via))) }
    }

    /// Parses the first value of a list and tells where it ends: at a comma or at the end.
    pub(crate) fn parse_first(text: &'a [u8]) -> Result<(Self, usize), ParseError> {
        let fail = |left: &[u8]| ParseError::new(text.len() - left.len(), ParseErrorKind::Value(Name::Via));
        let (left, via) = via_parm(text).map_err(|error| match error {
            nom::Err::Error(error) | nom::Err::Failure(error) => fail(error.input),
            nom::Err::Incomplete(_) => fail(&[]),
        })?;
        if left.is_empty() || left.starts_with(b",") { Ok((via, text.len() - left.len())) } else { Err(fail(left)) }
    }

    /// The transaction's name at its client; empty if there is none (RFC 2543).
    pub fn branch(&self) -> &'a [u8] {
        self.params.value("branch").unwrap_or_default()
    }

    /// Where the request came from, if the hop that took it in wrote so (section 18.2.1). Not
    /// checked: brackets may be around an IPv6 address or not.
    pub fn received(&self) -> Option<&'a [u8]> {
        self.params.value("received")
    }

    /// The rport parameter (RFC 3581): `None` if absent, `Some(None)` if it asks for a value.
    pub fn rport(&self) -> Option<Option<u16>> {
        self.params.get("rport").map(|param| param.value.and_then(text::number))
    }

    /// Where a response to a request goes that came in from `source` with this top Via, over an
    /// unreliable transport: the source address, and the source port if rport asks for it, else the
    /// port of sent-by, else 5060 (RFC 3261 section 18.2.2, RFC 3581 section 4).
    ///
    /// `maddr` is not followed: a sender cannot make us send to a third address.
    pub fn response_address(&self, source: SocketAddr) -> SocketAddr {
        let port = if self.rport().is_some() { source.port() } else { self.port.unwrap_or(5060) };
        SocketAddr::new(source.ip(), port)
    }

    /// Whether sent-by says another address than the one the request came from, so that
    /// `received` must be added (section 18.2.1).
    pub(crate) fn hides(&self, source: IpAddr) -> bool {
        self.host.ip().map(|ip| ip.to_canonical()) != Some(source.to_canonical())
    }
}

fn via_parm(input: &[u8]) -> Step<'_, Via<'_>> {
    let protocol = (text::space, tag_no_case("SIP"), text::mark("/"), text::token, text::mark("/"));
    let mut sent_by = (uri::host, opt(preceded(text::mark(":"), uri::port)));
    let (input, transport) = preceded(protocol, text::token).parse(input)?;
    let (input, _) = nom::bytes::complete::take_while1(text::is_space).parse(input)?;
    let (input, (host, port)) = sent_by.parse(input)?;
    let (input, params) = text::params(input)?;
    let (input, _) = text::space(input)?;
    Ok((input, Via { transport, host, port, params }))
}
