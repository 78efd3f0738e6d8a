//! What can be wrong with bytes that claim to be SIP.

use crate::Name;

/// Bytes that are not what they claim to be. The sender's fault; nothing is changed by it.
///
/// A request whose head can still be read by [`crate::parse_head`] is to be answered with
/// [`ParseError::status`]; anything else is dropped and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at byte {offset}")]
pub struct ParseError {
    /// Where, in bytes from the start of what was handed to the parser: the message, or the value
    /// alone where a value is parsed by itself ([`crate::Uri::parse`] and its like).
    pub offset: usize,
    /// What.
    pub kind: ParseErrorKind,
}

impl ParseError {
    pub(crate) const fn new(offset: usize, kind: ParseErrorKind) -> Self {
        Self { offset, kind }
    }

    /// The same error, seen from a text in which this one's starts at `base`.
    pub(crate) const fn within(self, base: usize) -> Self {
        Self { offset: self.offset.saturating_add(base), kind: self.kind }
    }

    /// The status code that a request with this fault is answered with (RFC 3261 section 21.4).
    pub const fn status(&self) -> u16 {
        match self.kind {
            ParseErrorKind::UnknownScheme => 416,
            ParseErrorKind::TooLong | ParseErrorKind::TooManyHeaders => 513,
            ParseErrorKind::Version => 505,
            _ => 400,
        }
    }
}

/// Kinds of [`ParseError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseErrorKind {
    /// Nothing but line ends: a keep-alive (RFC 5626 section 3.5.1), no message and no fault.
    #[error("no message, only line ends")]
    Empty,
    /// More than [`crate::MAX_MESSAGE`] bytes.
    #[error("message too long")]
    TooLong,
    /// Neither `METHOD URI SIP/x.y` nor `SIP/x.y CODE REASON`.
    #[error("bad start line")]
    StartLine,
    /// A SIP version other than 2.0; found by [`crate::Message::validate`] only.
    #[error("SIP version is not 2.0")]
    Version,
    /// A header line without a colon, or whose name is not a token.
    #[error("bad header line")]
    HeaderLine,
    /// A carriage return that no line feed follows.
    #[error("bare carriage return")]
    BareCr,
    /// More than [`crate::MAX_HEADERS`] header fields.
    #[error("too many header fields")]
    TooManyHeaders,
    /// The bytes end before the empty line that ends the head.
    #[error("no end of the header fields")]
    Unterminated,
    /// A header field that a message has at most once is there twice.
    #[error("{} repeated", .0.as_str())]
    Repeated(Name),
    /// A mandatory header field is not there.
    #[error("{} missing", .0.as_str())]
    Missing(Name),
    /// Fewer bytes than Content-Length says.
    #[error("body shorter than Content-Length")]
    BodyCut,
    /// The method of CSeq is not that of the request (RFC 3261 section 8.1.1.5).
    #[error("CSeq names another method")]
    CSeqMethod,
    /// Not a decimal number, or one out of range.
    #[error("bad number")]
    Number,
    /// Not a `sip:` or `sips:` URI in form.
    #[error("bad URI")]
    Uri,
    /// A URI of another scheme.
    #[error("URI scheme is neither sip nor sips")]
    UnknownScheme,
    /// A value that its header's grammar does not allow.
    #[error("bad value of {}", .0.as_str())]
    Value(Name),
}
