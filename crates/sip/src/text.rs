//! The small grammar that all header values share (RFC 3261 section 25.1): tokens, quoted strings,
//! white space, parameters.

use std::borrow::Cow;

use nom::branch::alt;
use nom::bytes::complete::{tag, take_while, take_while1};
use nom::character::complete::char;
use nom::combinator::recognize;
use nom::multi::many0_count;
use nom::sequence::{delimited, preceded};
use nom::{IResult, Parser};

/// A step of a grammar: what is left, what was taken.
pub(crate) type Step<'a, T> = IResult<&'a [u8], T>;

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0usize;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"-.!%*_+`'~";
    let mut i = 0;
    while i < marks.len() {
        table[marks[i] as usize] = true;
        i += 1;
    }
    table
};

/// Whether a byte may be part of a token.
pub(crate) const fn is_token(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// Whether a byte may be part of linear white space; line ends count, because a raw header value
/// holds only those of folded lines.
pub(crate) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// `[LWS]`.
pub(crate) fn space(input: &[u8]) -> Step<'_, &[u8]> {
    take_while(is_space)(input)
}

/// `token`.
pub(crate) fn token(input: &[u8]) -> Step<'_, &[u8]> {
    take_while1(is_token)(input)
}

/// `quoted-string`, with its quotes and escapes as written.
pub(crate) fn quoted(input: &[u8]) -> Step<'_, &[u8]> {
    let pair = recognize(preceded(char('\\'), nom::bytes::complete::take(1usize)));
    let plain = take_while1(|byte| byte != b'"' && byte != b'\\');
    recognize(delimited(char('"'), many0_count(alt((plain, pair))), char('"'))).parse(input)
}

/// `SWS mark SWS`.
pub(crate) fn mark<'a>(
    mark: &'static str,
) -> impl Parser<&'a [u8], Output = &'a [u8], Error = nom::error::Error<&'a [u8]>> {
    delimited(space, tag(mark), space)
}

/// The decimal number that the whole of `text` is.
pub(crate) fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    // FromStr would take a sign too.
    if !text.first().is_some_and(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The number that exactly 16 hexadecimal digits in lower case are.
pub(crate) fn number_hex(text: &[u8]) -> Option<u64> {
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != 16 || !text.iter().all(is_digit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

/// `text` without white space at its ends.
pub(crate) fn trim(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|&byte| !is_space(byte)).unwrap_or(text.len());
    let text = text.get(start..).unwrap_or_default();
    let end = text.iter().rposition(|&byte| !is_space(byte)).map_or(0, |last| last + 1);
    text.get(..end).unwrap_or_default()
}

/// `text` with every line fold (line end and following white space) made one space.
pub(crate) fn unfold(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'\n', b'\r', text).is_none() {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(end) = memchr::memchr2(b'\n', b'\r', rest) {
        let (line, tail) = rest.split_at(end);
        let line = line.trim_ascii_end();
        out.extend_from_slice(line);
        out.push(b' ');
        rest = tail.trim_ascii_start();
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

/// What a quoted string says; any other text is returned as it is.
pub(crate) fn unquote(text: &[u8]) -> Cow<'_, [u8]> {
    let Some(inner) = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")) else {
        return Cow::Borrowed(text);
    };
    let inner = unfold(inner);
    if memchr::memchr(b'\\', &inner).is_none() {
        return inner;
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied();
    while let Some(byte) = bytes.next() {
        out.extend(if byte == b'\\' { bytes.next() } else { Some(byte) });
    }
    Cow::Owned(out)
}

/// A `;name[=value]` parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param<'a> {
    /// As written; compares without case.
    pub name: &'a [u8],
    /// As written, with its quotes if it is a quoted string; `None` if there is no `=`.
    pub value: Option<&'a [u8]>,
}

impl<'a> Param<'a> {
    /// The value without quotes and escapes; empty if there is none.
    pub fn text(&self) -> Cow<'a, [u8]> {
        unquote(self.value.unwrap_or_default())
    }
}

/// A list of `;name[=value]` parameters, checked for form when it was parsed, in the order written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params<'a> {
    /// From the first `;` on, as written; empty if there is none.
    pub raw: &'a [u8],
}

impl<'a> Params<'a> {
    /// The parameters, in the order written.
    pub fn iter(&self) -> impl Iterator<Item = Param<'a>> + use<'a> {
        let mut rest = self.raw;
        std::iter::from_fn(move || {
            let (tail, param) = param(rest).ok()?;
            rest = tail;
            Some(param)
        })
    }

    /// The first parameter of this name, in any case.
    pub fn get(&self, name: &str) -> Option<Param<'a>> {
        self.iter().find(|param| param.name.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// The value of the first parameter of this name, as written; `None` also if it has none.
    pub fn value(&self, name: &str) -> Option<&'a [u8]> {
        self.get(name)?.value
    }
}

/// Bytes of an unquoted parameter value. Wider than `token / host` so that what real devices send
/// passes: only what would end the value, or open something, is left out.
const VALUE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0usize;
    while byte < 256 {
        table[byte] = !is_space(byte as u8) && !matches!(byte as u8, b';' | b',' | b'"' | b'<' | b'>' | b'?');
        byte += 1;
    }
    table
};

/// `SWS mark SWS`: what follows it.
fn after_mark(input: &[u8], mark: u8) -> Option<&[u8]> {
    let at = input.iter().position(|&byte| !is_space(byte))?;
    let rest = input.get(at..)?.strip_prefix(&[mark])?;
    let at = rest.iter().position(|&byte| !is_space(byte)).unwrap_or(rest.len());
    rest.get(at..)
}

/// `SEMI generic-param`; by hand, because every request has many of them.
fn param(input: &[u8]) -> Step<'_, Param<'_>> {
    let fail = || nom::Err::Error(nom::error::Error::new(input, nom::error::ErrorKind::Tag));
    let rest = after_mark(input, b';').ok_or_else(fail)?;
    let end = rest.iter().position(|&byte| !VALUE[usize::from(byte)] || byte == b'=').unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    if name.is_empty() {
        return Err(fail());
    }
    let Some(value) = after_mark(rest, b'=') else { return Ok((rest, Param { name, value: None })) };
    let (rest, value) = quoted(value).or_else(|_: nom::Err<_>| {
        let end = value.iter().position(|&byte| !VALUE[usize::from(byte)]).unwrap_or(value.len());
        let (value, rest) = value.split_at(end);
        Ok::<_, nom::Err<nom::error::Error<&[u8]>>>((rest, value))
    })?;
    Ok((rest, Param { name, value: Some(value) }))
}

/// `*( SEMI generic-param )`.
pub(crate) fn params(input: &[u8]) -> Step<'_, Params<'_>> {
    let (rest, raw) = recognize(many0_count(param)).parse(input)?;
    Ok((rest, Params { raw }))
}
