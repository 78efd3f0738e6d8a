//! A parsed message: views into the bytes that it came in, nothing copied.

use std::borrow::Cow;
use std::fmt;

use crate::address::{Contact, NameAddr};
use crate::text;
use crate::{Name, ParseError, ParseErrorKind, Via};

/// The first line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum StartLine<'a> {
    /// `METHOD URI SIP/2.0`
    Request {
        /// Any token; compares with case.
        method: &'a [u8],
        /// The Request-URI as written, not checked.
        uri: &'a [u8],
        /// `SIP/2.0`, or what stands there.
        version: &'a [u8],
    },
    /// `SIP/2.0 CODE REASON`
    Response {
        /// 100 to 699.
        code: u16,
        /// May be empty.
        reason: &'a [u8],
    },
}

/// Where a header field lies in its message. Offsets fit 16 bits by [`crate::MAX_MESSAGE`].
#[derive(Clone, Copy)]
pub(crate) struct Field {
    pub(crate) id: Name,
    pub(crate) name: (u16, u16),
    pub(crate) value: (u16, u16),
}

const INLINE: usize = 24;

/// Header fields in order; a message with few of them costs no allocation.
#[derive(Clone)]
pub(crate) struct Fields {
    inline: [Field; INLINE],
    len: usize,
    more: Vec<Field>,
}

impl Fields {
    pub(crate) const fn new() -> Self {
        const NONE: Field = Field { id: Name::Other, name: (0, 0), value: (0, 0) };
        Self { inline: [NONE; INLINE], len: 0, more: Vec::new() }
    }

    pub(crate) fn push(&mut self, field: Field) {
        match self.inline.get_mut(self.len) {
            Some(place) => *place = field,
            None => self.more.push(field),
        }
        self.len += 1;
    }

    pub(crate) fn last_mut(&mut self) -> Option<&mut Field> {
        if self.len > INLINE { self.more.last_mut() } else { self.inline.get_mut(self.len.checked_sub(1)?) }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Field> {
        self.inline.iter().take(self.len).chain(&self.more)
    }
}

/// A header field.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// Which one, if known.
    pub id: Name,
    /// Its name as written.
    pub name: &'a [u8],
    /// Its value as written, without white space at its ends; folded lines are still folded.
    pub raw: &'a [u8],
    offset: usize,
}

impl<'a> Header<'a> {
    /// The value on one line: each fold is one space (RFC 3261 section 7.3.1).
    pub fn value(&self) -> Cow<'a, [u8]> {
        text::unfold(self.raw)
    }
}

/// A request or response, borrowed from the bytes of one datagram or one framed stretch of a stream.
///
/// The header fields keep their order, spelling and number. Only the head's form was checked:
/// values are parsed when asked for, each accessor with its own error. A field that is there twice
/// answers with its first value.
#[derive(Clone)]
pub struct Message<'a> {
    pub(crate) bytes: &'a [u8],
    /// The first line.
    pub start: StartLine<'a>,
    pub(crate) fields: Fields,
    /// The body: as many bytes as Content-Length says, or all that follow the head without one.
    pub body: &'a [u8],
}

/// The fields that every message has, parsed.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// The topmost Via.
    pub via: Via<'a>,
    /// From.
    pub from: NameAddr<'a>,
    /// To.
    pub to: NameAddr<'a>,
    /// Call-ID, as written.
    pub call_id: &'a [u8],
    /// The number of CSeq.
    pub cseq: u32,
}

impl<'a> Message<'a> {
    /// How long it is on the wire, bytes.
    pub const fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The method of a request.
    pub const fn method(&self) -> Option<&'a [u8]> {
        match self.start {
            StartLine::Request { method, .. } => Some(method),
            StartLine::Response { .. } => None,
        }
    }

    /// The Request-URI of a request, as written; [`crate::Uri::parse`] takes it apart.
    pub const fn uri(&self) -> Option<&'a [u8]> {
        match self.start {
            StartLine::Request { uri, .. } => Some(uri),
            StartLine::Response { .. } => None,
        }
    }

    /// The status code of a response.
    pub const fn code(&self) -> Option<u16> {
        match self.start {
            StartLine::Request { .. } => None,
            StartLine::Response { code, .. } => Some(code),
        }
    }

    /// All header fields, in order.
    pub fn all_headers(&self) -> impl Iterator<Item = Header<'a>> {
        self.fields.iter().map(|field| self.view(field))
    }

    /// The header fields of this name, in order. Not for [`Name::Other`]: see
    /// [`Message::header_named`].
    pub fn headers(&self, name: Name) -> impl Iterator<Item = Header<'a>> {
        self.fields.iter().filter(move |field| field.id == name).map(|field| self.view(field))
    }

    /// The first header field of this name.
    pub fn header(&self, name: Name) -> Option<Header<'a>> {
        self.headers(name).next()
    }

    /// The first header field of this name, known or not, in any case.
    pub fn header_named(&self, name: &[u8]) -> Option<Header<'a>> {
        match Name::of(name) {
            Name::Other => self.headers(Name::Other).find(|header| header.name.eq_ignore_ascii_case(name)),
            known => self.header(known),
        }
    }

    /// The topmost Via: the hop that the message comes from.
    ///
    /// # Errors
    /// Missing or malformed.
    pub fn via(&self) -> Result<Via<'a>, ParseError> {
        self.top_via().map(|(via, _)| via)
    }

    /// The topmost Via, and what follows it in its field.
    pub(crate) fn top_via(&self) -> Result<(Via<'a>, &'a [u8]), ParseError> {
        let header = self.required(Name::Via)?;
        let (via, end) = Via::parse_first(header.raw).map_err(|error| error.within(header.offset))?;
        Ok((via, header.raw.get(end..).unwrap_or_default()))
    }

    /// From.
    ///
    /// # Errors
    /// Missing or malformed.
    pub fn from(&self) -> Result<NameAddr<'a>, ParseError> {
        self.address(Name::From)
    }

    /// To.
    ///
    /// # Errors
    /// Missing or malformed.
    pub fn to(&self) -> Result<NameAddr<'a>, ParseError> {
        self.address(Name::To)
    }

    fn address(&self, name: Name) -> Result<NameAddr<'a>, ParseError> {
        let header = self.required(name)?;
        NameAddr::parse_as(header.raw, name).map_err(|error| error.within(header.offset))
    }

    /// CSeq: its number and its method.
    ///
    /// # Errors
    /// Missing or malformed.
    pub fn cseq(&self) -> Result<(u32, &'a [u8]), ParseError> {
        let header = self.required(Name::CSeq)?;
        let fail = ParseError::new(header.offset, ParseErrorKind::Value(Name::CSeq));
        let space = header.raw.iter().position(|&byte| text::is_space(byte)).ok_or(fail)?;
        let (number, method) = header.raw.split_at(space);
        let method = text::trim(method);
        if !method.iter().copied().all(text::is_token) {
            return Err(fail);
        }
        Ok((text::number(number).ok_or(fail)?, method))
    }

    /// Call-ID, as written; compares with case.
    ///
    /// # Errors
    /// Missing, empty, or more than one word.
    pub fn call_id(&self) -> Result<&'a [u8], ParseError> {
        let header = self.required(Name::CallId)?;
        if header.raw.is_empty() || header.raw.iter().copied().any(text::is_space) {
            return Err(ParseError::new(header.offset, ParseErrorKind::Value(Name::CallId)));
        }
        Ok(header.raw)
    }

    /// Content-Length.
    ///
    /// # Errors
    /// Not a number, or two that differ.
    pub fn content_length(&self) -> Result<Option<usize>, ParseError> {
        let mut found = None;
        for header in self.headers(Name::ContentLength) {
            let number = self.number(header)?;
            if found.is_some_and(|found| found != number) {
                return Err(ParseError::new(header.offset, ParseErrorKind::Repeated(Name::ContentLength)));
            }
            found = Some(number);
        }
        Ok(found)
    }

    /// Max-Forwards.
    ///
    /// # Errors
    /// Not a number up to 2^32 - 1.
    pub fn max_forwards(&self) -> Result<Option<u32>, ParseError> {
        self.header(Name::MaxForwards).map(|header| self.number(header)).transpose()
    }

    /// Expires, seconds.
    ///
    /// # Errors
    /// Not a number up to 2^32 - 1.
    pub fn expires(&self) -> Result<Option<u32>, ParseError> {
        self.header(Name::Expires).map(|header| self.number(header)).transpose()
    }

    /// User-Agent, on one line.
    pub fn user_agent(&self) -> Option<Cow<'a, [u8]>> {
        self.header(Name::UserAgent).map(|header| header.value())
    }

    /// Server, on one line: what the sender of a response calls itself.
    pub fn server(&self) -> Option<Cow<'a, [u8]>> {
        self.header(Name::Server).map(|header| header.value())
    }

    /// Content-Type as written, parameters included.
    pub fn content_type(&self) -> Option<&'a [u8]> {
        self.header(Name::ContentType).map(|header| header.raw)
    }

    /// The values of all Via fields, topmost first. Ends after the first malformed one.
    pub fn vias(&self) -> impl Iterator<Item = Result<Via<'a>, ParseError>> {
        self.values(Name::Via, Via::parse_first)
    }

    /// The values of all fields of this name (Path, Route, Record-Route ..) as addresses, in order.
    /// Each field ends after its first malformed value.
    pub fn addresses(&self, name: Name) -> impl Iterator<Item = Result<NameAddr<'a>, ParseError>> {
        self.values(name, move |text| NameAddr::parse_first(text, name))
    }

    /// The values of all Contact fields, in order.
    pub fn contacts(&self) -> impl Iterator<Item = Result<Contact<'a>, ParseError>> {
        self.values(Name::Contact, |text| {
            if text == b"*" {
                return Ok((Contact::All, text.len()));
            }
            NameAddr::parse_first(text, Name::Contact).map(|(value, end)| (Contact::One(value), end))
        })
    }

    /// Whether everything is there, once and well formed, that every request or response needs:
    /// see [`Message::envelope`].
    ///
    /// # Errors
    /// The first fault; [`ParseError::status`] says how to answer a request with it.
    pub fn validate(&self) -> Result<(), ParseError> {
        self.envelope().map(drop)
    }

    /// What every request or response needs, each once and well formed: version 2.0, Via, From, To,
    /// Call-ID and CSeq with the request's own method (RFC 3261 sections 8.1.1 and 8.2.2.3 ff.).
    ///
    /// # Errors
    /// The first fault; [`ParseError::status`] says how to answer a request with it.
    pub fn envelope(&self) -> Result<Envelope<'a>, ParseError> {
        if let StartLine::Request { version, .. } = self.start
            && !version.eq_ignore_ascii_case(b"SIP/2.0")
        {
            return Err(ParseError::new(0, ParseErrorKind::Version));
        }
        let (via, from, to, call_id) = (self.via()?, self.from()?, self.to()?, self.call_id()?);
        let (cseq, method) = self.cseq()?;
        if self.method().is_some_and(|of_request| of_request != method) {
            let at = self.required(Name::CSeq)?.offset;
            return Err(ParseError::new(at, ParseErrorKind::CSeqMethod));
        }
        Ok(Envelope { via, from, to, call_id, cseq })
    }

    /// The values of comma-separated lists, over all fields of a name.
    fn values<T>(
        &self,
        name: Name,
        first: impl Fn(&'a [u8]) -> Result<(T, usize), ParseError>,
    ) -> impl Iterator<Item = Result<T, ParseError>> {
        self.headers(name).flat_map(move |header| {
            let mut values = Vec::with_capacity(1);
            let mut at = 0;
            while let Some(text) = header.raw.get(at..) {
                match first(text) {
                    Ok((value, end)) => {
                        values.push(Ok(value));
                        if end == text.len() {
                            break;
                        }
                        at += end + 1;
                    }
                    Err(error) => {
                        values.push(Err(error.within(header.offset + at)));
                        break;
                    }
                }
            }
            values
        })
    }

    fn number<T: std::str::FromStr>(&self, header: Header<'a>) -> Result<T, ParseError> {
        text::number(header.raw).ok_or(ParseError::new(header.offset, ParseErrorKind::Number))
    }

    pub(crate) fn required(&self, name: Name) -> Result<Header<'a>, ParseError> {
        let end = self.bytes.len() - self.body.len();
        self.header(name).ok_or(ParseError::new(end, ParseErrorKind::Missing(name)))
    }

    fn view(&self, field: &Field) -> Header<'a> {
        let slice = |(from, to): (u16, u16)| self.bytes.get(usize::from(from)..usize::from(to)).unwrap_or_default();
        Header { id: field.id, name: slice(field.name), raw: slice(field.value), offset: usize::from(field.value.0) }
    }
}

impl fmt::Debug for StartLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request { method, uri, version } => {
                write!(f, "{} {} {}", method.escape_ascii(), uri.escape_ascii(), version.escape_ascii())
            }
            Self::Response { code, reason } => {
                write!(f, "SIP/2.0 {code} {}", reason.escape_ascii())
            }
        }
    }
}

impl fmt::Debug for Header<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name.escape_ascii(), self.raw.escape_ascii())
    }
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.all_headers().collect();
        f.debug_struct("Message")
            .field("start", &self.start)
            .field("headers", &headers)
            .field("body_len", &self.body.len())
            .finish()
    }
}
