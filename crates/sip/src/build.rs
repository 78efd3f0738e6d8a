//! Writing messages: header fields come out in the order in which they are put in.

use std::net::SocketAddr;

use crate::{Message, Name, ParseError, StartLine, Via};
use crate::{text, write};

/// Writes one message, request or response, field after field.
///
/// What is put in is written as it is, but for line ends, which become spaces: no value can smuggle
/// in a field of its own.
#[derive(Clone, Debug)]
pub struct MessageBuilder {
    out: Vec<u8>,
    /// Where the number of Content-Length goes, if its place was given.
    length_at: Option<usize>,
}

impl MessageBuilder {
    /// Starts a request.
    pub fn request(method: &[u8], uri: &[u8]) -> Self {
        let mut this = Self { out: Vec::with_capacity(1024), length_at: None };
        this.put(method);
        this.out.push(b' ');
        this.put(uri);
        this.out.extend_from_slice(b" SIP/2.0\r\n");
        this
    }

    /// Starts a response. Codes outside of 100 to 699 are the caller's bug.
    pub fn response(code: u16, reason: &str) -> Self {
        debug_assert!((100..700).contains(&code), "status code {code}");
        let mut this = Self { out: Vec::with_capacity(512), length_at: None };
        this.out.extend_from_slice(b"SIP/2.0 ");
        write::number(&mut this.out, u64::from(code));
        this.out.push(b' ');
        this.put(reason.as_bytes());
        this.out.extend_from_slice(b"\r\n");
        this
    }

    /// Starts the response to a request that came from `source`: all its Via fields, To, From,
    /// CSeq and Call-ID are copied (RFC 3261 section 8.2.6.2), in the order that Kamailio writes.
    ///
    /// The topmost Via gets `received` where sent-by is not the source, or where rport asks for it,
    /// and the source port in rport (section 18.2.1, RFC 3581 section 4); what the sender wrote
    /// there itself is replaced. `to_tag` is added to a To without tag.
    ///
    /// # Errors
    /// A request without a readable Via cannot be answered. Other faulty fields are copied as they
    /// are, missing ones left out, so that a 400 can be sent.
    pub fn response_to(
        request: &Message<'_>,
        source: SocketAddr,
        code: u16,
        reason: &str,
        to_tag: Option<&[u8]>,
    ) -> Result<Self, ParseError> {
        let (top, others) = request.top_via()?;
        let mut this = Self::response(code, reason);
        this.out.extend_from_slice(b"Via: ");
        this.put_top_via(&top, source);
        this.put(others);
        this.out.extend_from_slice(b"\r\n");
        for header in request.headers(Name::Via).skip(1) {
            this = this.header("Via", header.raw);
        }
        if let Some(to) = request.header(Name::To) {
            this.out.extend_from_slice(b"To: ");
            this.put(to.raw);
            if let Some(tag) = to_tag
                && request.to().is_ok_and(|to| to.tag().is_none())
            {
                this.out.extend_from_slice(b";tag=");
                this.put(tag);
            }
            this.out.extend_from_slice(b"\r\n");
        }
        for name in [Name::From, Name::CSeq, Name::CallId] {
            if let Some(header) = request.header(name) {
                this = this.header(name.as_str(), header.raw);
            }
        }
        Ok(this)
    }

    fn put_top_via(&mut self, via: &Via<'_>, source: SocketAddr) {
        self.out.extend_from_slice(b"SIP/2.0/");
        self.put(via.transport);
        self.out.push(b' ');
        self.put(via.host.as_bytes());
        if let Some(port) = via.port {
            self.out.push(b':');
            write::number(&mut self.out, u64::from(port));
        }
        let mut wants_port = false;
        for param in via.params.iter() {
            if param.name.eq_ignore_ascii_case(b"rport") {
                wants_port = true;
            } else if !param.name.eq_ignore_ascii_case(b"received") {
                self.out.push(b';');
                self.put(param.name);
                if let Some(value) = param.value {
                    self.out.push(b'=');
                    self.put(value);
                }
            }
        }
        if wants_port || via.hides(source.ip()) {
            self.out.extend_from_slice(b";received=");
            write::ip(&mut self.out, source.ip());
        }
        if wants_port {
            self.out.extend_from_slice(b";rport=");
            write::number(&mut self.out, u64::from(source.port()));
        }
    }

    /// Adds a header field.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.put(name.as_bytes());
        self.out.extend_from_slice(b": ");
        self.put(value.as_ref());
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// Gives Content-Length its place, here; without this it comes last.
    #[must_use]
    pub fn content_length(mut self) -> Self {
        debug_assert!(self.length_at.is_none(), "Content-Length has one place");
        self.out.extend_from_slice(b"Content-Length: ");
        self.length_at = Some(self.out.len());
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// The message with this body, which may be empty.
    pub fn finish(mut self, body: &[u8]) -> Vec<u8> {
        if self.length_at.is_none() {
            self = self.content_length();
        }
        let at = self.length_at.unwrap_or(self.out.len());
        let end = self.out.len();
        write::number(&mut self.out, body.len() as u64);
        let digits = self.out.len() - end;
        // The number was written last; it belongs where its field is.
        self.out[at..].rotate_right(digits);
        self.out.extend_from_slice(b"\r\n");
        self.out.extend_from_slice(body);
        self.out
    }

    /// Appends text of one line.
    fn put(&mut self, text: &[u8]) {
        self.out.extend_from_slice(&text::unfold(text));
    }
}

/// The usual reason phrase of a status code, as Kamailio writes it where it has one of its own
/// (RFC 3261 section 21).
pub const fn reason_phrase(code: u16) -> &'static str {
    match code {
        100 => "Trying",
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Request Entity Too Large",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        481 => "Call/Transaction Does Not Exist",
        483 => "Too Many Hops",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        _ => "Unknown",
    }
}

impl StartLine<'_> {
    /// Whether this is the line of an ACK, which is never answered (RFC 3261 section 17.1.1.3).
    pub fn is_ack(&self) -> bool {
        matches!(self, Self::Request { method: b"ACK", .. })
    }
}
