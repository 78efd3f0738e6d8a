//! The line splitter: from bytes to a [`Message`], in one pass and without allocation for messages
//! of ordinary length.
//!
//! Lenient where real senders are (leading line ends, line feeds alone, white space before the
//! colon), strict where leniency would make two readers see two messages: a carriage return alone
//! ends nothing here and something elsewhere, so it is refused.

use crate::message::{Field, Fields, Message, StartLine};
use crate::text;
use crate::{Name, ParseError, ParseErrorKind};

/// The longest message that is taken in, head and body, bytes: the most that a UDP datagram or an
/// IP packet can carry. Offsets are held in 16 bits because of it.
pub const MAX_MESSAGE: usize = 65_535;

/// The most header fields that a message may have.
pub const MAX_HEADERS: usize = 256;

/// Parses one whole message: a datagram, or what [`crate::StreamFramer`] cut out of a stream.
///
/// With a Content-Length the body is that long and what follows is ignored (RFC 3261 section 18.3);
/// without one it is all that follows the head. Header values are not looked into; see
/// [`Message::validate`].
///
/// # Errors
/// See [`ParseErrorKind`]. Never panics, whatever the bytes. Errors that still leave a readable head
/// (wrong or repeated length, repeated fields) can be answered by means of [`parse_head`].
pub fn parse(bytes: &[u8]) -> Result<Message<'_>, ParseError> {
    let mut message = parse_head(bytes)?;
    let mut seen = 0u64;
    for field in message.fields.iter() {
        let bit = 1u64 << (field.id as u8);
        if seen & bit != 0 && field.id.is_single() {
            return Err(ParseError::new(field.value.0.into(), ParseErrorKind::Repeated(field.id)));
        }
        seen |= bit;
    }
    if seen & 1 << (Name::ContentLength as u8) != 0
        && let Some(length) = message.content_length()?
    {
        message.body = message.body.get(..length).ok_or(ParseError::new(bytes.len(), ParseErrorKind::BodyCut))?;
    }
    Ok(message)
}

/// Parses the start line and the header fields; the body is all that follows, whatever
/// Content-Length says.
///
/// # Errors
/// As [`parse`], but for what concerns the body and repeated fields.
pub fn parse_head(bytes: &[u8]) -> Result<Message<'_>, ParseError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(ParseError::new(MAX_MESSAGE, ParseErrorKind::TooLong));
    }
    let start_at = bytes.iter().position(|&byte| byte != b'\r' && byte != b'\n');
    let start_at = start_at.ok_or(ParseError::new(0, ParseErrorKind::Empty))?;
    let (line_end, mut at) = line(bytes, start_at)?;
    let start = start_line(bytes.get(start_at..line_end).unwrap_or_default())
        .ok_or(ParseError::new(start_at, ParseErrorKind::StartLine))?;
    let mut fields = Fields::new();
    loop {
        let (end, next) = line(bytes, at)?;
        match bytes.get(at..end) {
            None | Some([]) => {
                at = next;
                break;
            }
            Some([b' ' | b'\t', ..]) => {
                let field = fields.last_mut().ok_or(ParseError::new(at, ParseErrorKind::HeaderLine))?;
                field.value = extend(bytes, field.value.0, end);
            }
            Some(line) => {
                if fields.len() == MAX_HEADERS {
                    return Err(ParseError::new(at, ParseErrorKind::TooManyHeaders));
                }
                fields.push(header_line(line, at)?);
            }
        }
        at = next;
    }
    Ok(Message { bytes, start, fields, body: bytes.get(at..).unwrap_or_default() })
}

/// The line at `at`: where it ends and where the next one starts.
fn line(bytes: &[u8], at: usize) -> Result<(usize, usize), ParseError> {
    let rest = bytes.get(at..).unwrap_or_default();
    let found = memchr::memchr2(b'\n', b'\r', rest);
    let end = at + found.ok_or(ParseError::new(bytes.len(), ParseErrorKind::Unterminated))?;
    if bytes.get(end) == Some(&b'\n') {
        return Ok((end, end + 1));
    }
    match bytes.get(end + 1) {
        Some(b'\n') => Ok((end, end + 2)),
        Some(_) => Err(ParseError::new(end, ParseErrorKind::BareCr)),
        None => Err(ParseError::new(bytes.len(), ParseErrorKind::Unterminated)),
    }
}

fn start_line(line: &[u8]) -> Option<StartLine<'_>> {
    let line = line.trim_ascii_end();
    let (first, rest) = split_at_space(line)?;
    if is_version(first) {
        let (code, reason) = split_at_space(rest).unwrap_or((rest, &[]));
        let code = (code.len() == 3).then(|| text::number::<u16>(code)).flatten()?;
        return (100..700).contains(&code).then_some(StartLine::Response { code, reason });
    }
    let (uri, version) = split_at_space(rest)?;
    let well_formed = !first.is_empty() && first.iter().copied().all(text::is_token) && !uri.is_empty();
    (well_formed && is_version(version)).then_some(StartLine::Request { method: first, uri, version })
}

fn split_at_space(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = memchr::memchr(b' ', text)?;
    Some((text.get(..space)?, text.get(space + 1..)?))
}

/// `SIP/x.y`, in any case (RFC 3261 section 7.1).
fn is_version(text: &[u8]) -> bool {
    let Some((start, digits)) = text.split_first_chunk::<4>() else {
        return false;
    };
    let mut parts = digits.splitn(2, |&byte| byte == b'.');
    let mut number_follows = || parts.next().is_some_and(|part| text::number::<u32>(part).is_some());
    start.eq_ignore_ascii_case(b"SIP/") && number_follows() && number_follows()
}

fn header_line(line: &[u8], at: usize) -> Result<Field, ParseError> {
    let fail = |offset: usize| ParseError::new(at + offset, ParseErrorKind::HeaderLine);
    let name_end = line.iter().position(|&byte| !text::is_token(byte)).ok_or(fail(line.len()))?;
    let mut colon = name_end;
    while matches!(line.get(colon), Some(b' ' | b'\t')) {
        colon += 1;
    }
    if name_end == 0 || line.get(colon) != Some(&b':') {
        return Err(fail(colon));
    }
    let name = line.get(..name_end).unwrap_or_default();
    let mut start = colon + 1;
    while matches!(line.get(start), Some(b' ' | b'\t')) {
        start += 1;
    }
    let mut end = line.len();
    while end > start && matches!(line.get(end - 1), Some(b' ' | b'\t')) {
        end -= 1;
    }
    Ok(Field {
        id: Name::of(name),
        name: (short(at), short(at + name_end)),
        value: (short(at + start), short(at + end)),
    })
}

/// The value from `from` to `end`, over several lines, without white space at its ends.
fn extend(bytes: &[u8], from: u16, end: usize) -> (u16, u16) {
    let value = bytes.get(usize::from(from)..end).unwrap_or_default();
    let lead = value.iter().position(|&byte| !text::is_space(byte)).unwrap_or(value.len());
    let start = usize::from(from) + lead;
    (short(start), short(start + text::trim(value).len()))
}

/// An offset into a message; [`MAX_MESSAGE`] was checked before.
fn short(offset: usize) -> u16 {
    u16::try_from(offset).unwrap_or(u16::MAX)
}
