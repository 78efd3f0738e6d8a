//! Addresses in From, To, Contact, Path and Route values (RFC 3261 section 20.10).

use std::borrow::Cow;

use nom::Parser;
use nom::branch::alt;
use nom::bytes::complete::{take_till, take_till1};
use nom::character::complete::char;
use nom::combinator::opt;
use nom::sequence::delimited;

use crate::text::{self, Params, Step};
use crate::{Name, ParseError, ParseErrorKind, Uri};

/// `[display-name] <addr-spec> *(;params)`, or an `addr-spec` alone with parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// The display name as written, with its quotes if it has any; `None` if there is none.
    pub display: Option<&'a [u8]>,
    /// The URI as written, without angle brackets, of any scheme and not checked.
    pub addr_spec: &'a [u8],
    /// The parameters of the header. Without angle brackets every parameter is the header's
    /// (RFC 3261 section 20).
    pub params: Params<'a>,
}

impl<'a> NameAddr<'a> {
    /// Parses one value; the whole of `text` must be it.
    ///
    /// # Errors
    /// [`ParseErrorKind::Value`] of [`Name::Other`], offset from the start of `text`.
    pub fn parse(text: &'a [u8]) -> Result<Self, ParseError> {
        Self::parse_as(text, Name::Other)
    }

    /// As [`NameAddr::parse`]; errors name the header.
    pub(crate) fn parse_as(text: &'a [u8], name: Name) -> Result<Self, ParseError> {
        let (value, end) = Self::parse_first(text, name)?;
        if end == text.len() { Ok(value) } else { Err(ParseError::new(end, ParseErrorKind::Value(name))) }
    }

    /// Parses the first value of a list and tells where it ends: at a comma or at the end.
    pub(crate) fn parse_first(text: &'a [u8], name: Name) -> Result<(Self, usize), ParseError> {
        let fail = |left: &[u8]| ParseError::new(text.len() - left.len(), ParseErrorKind::Value(name));
        let (left, value) = name_addr(text).map_err(|error| match error {
            nom::Err::Error(error) | nom::Err::Failure(error) => fail(error.input),
            nom::Err::Incomplete(_) => fail(&[]),
        })?;
        if left.is_empty() || left.starts_with(b",") { Ok((value, text.len() - left.len())) } else { Err(fail(left)) }
    }

    /// The URI.
    ///
    /// # Errors
    /// As [`Uri::parse`].
    pub fn uri(&self) -> Result<Uri<'a>, ParseError> {
        Uri::parse(self.addr_spec)
    }

    /// The display name without quotes and escapes.
    pub fn display_name(&self) -> Option<Cow<'a, [u8]>> {
        self.display.map(text::unquote)
    }

    /// The tag parameter of From and To.
    pub fn tag(&self) -> Option<&'a [u8]> {
        self.params.value("tag")
    }

    /// The q parameter of a contact in thousandths, 0 to 1000 (section 20.10); `None` if absent or
    /// not of the form `0.123` or `.123`.
    pub fn q(&self) -> Option<u16> {
        let text = self.params.value("q")?;
        let mut parts = text.splitn(2, |&byte| byte == b'.');
        let whole = parts.next().unwrap_or_default();
        let fraction = parts.next().unwrap_or_default();
        let whole: u16 = if whole.is_empty() && !fraction.is_empty() { 0 } else { text::number(whole)? };
        if fraction.len() > 3 || !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let digits = fraction.iter().chain(b"000").take(3);
        let thousandths = digits.fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
        let q = whole.checked_mul(1000)?.checked_add(thousandths)?;
        (q <= 1000).then_some(q)
    }

    /// The expires parameter of a contact, seconds.
    pub fn expires(&self) -> Option<u32> {
        text::number(self.params.value("expires")?)
    }

    /// The `+sip.instance` of a contact (RFC 5626 section 4.1), without quotes, with angle brackets.
    pub fn instance(&self) -> Option<Cow<'a, [u8]>> {
        self.params.get("+sip.instance").map(|param| param.text())
    }

    /// The `reg-id` of a contact (RFC 5626 section 4.2).
    pub fn reg_id(&self) -> Option<u32> {
        text::number(self.params.value("reg-id")?)
    }
}

/// A value of a Contact header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact<'a> {
    /// `*`: all contacts of the address-of-record.
    All,
    /// One contact.
    One(NameAddr<'a>),
}

fn name_addr(input: &[u8]) -> Step<'_, NameAddr<'_>> {
    let (input, _) = text::space(input)?;
    let (input, (display, addr_spec)) = alt((bracketed, bare)).parse(input)?;
    let (input, params) = text::params(input)?;
    let (input, _) = text::space(input)?;
    Ok((input, NameAddr { display, addr_spec, params }))
}

fn bracketed(input: &[u8]) -> Step<'_, (Option<&[u8]>, &[u8])> {
    // A display name without quotes may hold more than tokens here: devices write what they like.
    let words = take_till1(|byte| matches!(byte, b'<' | b'"' | b',' | b';' | b'>'));
    let (input, display) = opt(alt((text::quoted, words))).parse(input)?;
    let (input, _) = text::space(input)?;
    let (input, addr_spec) =
        delimited(char('<'), take_till(|byte| matches!(byte, b'<' | b'>')), char('>')).parse(input)?;
    let display = display.map(text::trim).filter(|display| !display.is_empty());
    Ok((input, (display, text::trim(addr_spec))))
}

fn bare(input: &[u8]) -> Step<'_, (Option<&[u8]>, &[u8])> {
    let end = |byte| text::is_space(byte) || matches!(byte, b';' | b',' | b'<' | b'>' | b'"');
    take_till1(end).map(|uri| (None, uri)).parse(input)
}
