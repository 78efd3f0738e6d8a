//! The pull reader.

use std::borrow::Cow;

use bstr::{BStr, BString, ByteVec};

/// How deep values may be nested. Servers nest three levels.
const MAX_DEPTH: u32 = 32;

/// Not JSON, at this byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Syntax {
    pub(crate) offset: usize,
    pub(crate) reason: &'static str,
}

/// A value that is not taken apart further.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scalar<'a> {
    Text(Cow<'a, BStr>),
    /// An integer, or what is left of another number when its fraction is cut off.
    Number(i64),
    /// `true`, `false`, `null`, an object or an array; passed over.
    Other,
}

/// A place in a JSON text.
pub(crate) struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

/// The members of an object, or the elements of an array, as they come.
pub(crate) struct Object {
    close: u8,
    first: bool,
}

/// What comes next in an [`Object`].
pub(crate) enum Member<'a> {
    /// A member of this name; empty for an array element. Its value must be read next.
    Named(Cow<'a, BStr>),
    /// There is none left.
    End,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    fn fail<T>(&self, reason: &'static str) -> Result<T, Syntax> {
        Err(Syntax { offset: self.at, reason })
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// The next byte that is not white space; servers take every control byte but NUL for it.
    fn token(&mut self) -> Option<u8> {
        while let Some(byte) = self.peek() {
            if !(1..=b' ').contains(&byte) {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// Enters an object, or an array if `arrays`; `None`, and nothing read, if the next value is
    /// something else.
    pub(crate) fn open(&mut self, arrays: bool) -> Option<Object> {
        let close = match self.token()? {
            b'{' => b'}',
            b'[' if arrays => b']',
            _ => return None,
        };
        self.at += 1;
        Some(Object { close, first: true })
    }

    /// The next member of `object`, whose values so far have all been read.
    #[inline]
    pub(crate) fn member(&mut self, object: &mut Object) -> Result<Member<'a>, Syntax> {
        let mut next = self.token();
        if next == Some(object.close) {
            self.at += 1;
            return Ok(Member::End);
        }
        if !object.first {
            if next != Some(b',') {
                return self.fail("expected a comma or the end");
            }
            self.at += 1;
            next = self.token();
        }
        object.first = false;
        if object.close == b']' {
            return Ok(Member::Named(Cow::Borrowed(BStr::new(b""))));
        }
        if next != Some(b'"') {
            return self.fail("expected a member name");
        }
        let name = self.string()?;
        if self.token() != Some(b':') {
            return self.fail("expected a colon");
        }
        self.at += 1;
        Ok(Member::Named(name))
    }

    /// Reads the next value, whatever it is.
    #[inline]
    pub(crate) fn scalar(&mut self) -> Result<Scalar<'a>, Syntax> {
        match self.token() {
            Some(b'"') => self.string().map(Scalar::Text),
            Some(b'-' | b'0'..=b'9') => self.number().map(Scalar::Number),
            _ => self.value(None, 0).map(|()| Scalar::Other),
        }
    }

    /// Passes over the next value.
    pub(crate) fn skip(&mut self) -> Result<(), Syntax> {
        self.value(None, 0)
    }

    /// Passes over the next value and appends it, compact and strict, to `out`. Members that are
    /// `null` are left out: some servers do not survive them.
    pub(crate) fn copy(&mut self, out: &mut Vec<u8>) -> Result<(), Syntax> {
        self.value(Some(out), 0)
    }

    #[inline]
    fn string(&mut self) -> Result<Cow<'a, BStr>, Syntax> {
        let start = self.at + 1;
        let rest = self.text.get(start..).unwrap_or_default();
        match memchr::memchr3(b'"', b'\\', 0, rest) {
            Some(len) if rest[len] == b'"' => {
                self.at = start + len + 1;
                Ok(Cow::Borrowed(BStr::new(&rest[..len])))
            }
            Some(len) => self.escaped(start, len).map(Cow::Owned),
            None => self.fail("string without an end"),
        }
    }

    /// A string whose first special byte is `plain` bytes after `start`.
    #[cold]
    fn escaped(&mut self, start: usize, mut plain: usize) -> Result<BString, Syntax> {
        let mut text = Vec::new();
        self.at = start;
        loop {
            text.extend_from_slice(&self.text[self.at..self.at + plain]);
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(BString::from(text));
                }
                Some(b'\\') => self.escape(&mut text)?,
                _ => return self.fail("NUL byte in a string"),
            }
            let Some(len) = memchr::memchr3(b'"', b'\\', 0, &self.text[self.at..]) else {
                return self.fail("string without an end");
            };
            plain = len;
        }
    }

    /// One escape; `self.at` is at its backslash.
    fn escape(&mut self, text: &mut Vec<u8>) -> Result<(), Syntax> {
        let Some(&kind) = self.text.get(self.at + 1) else {
            return self.fail("escape without an end");
        };
        if kind == b'u' {
            return self.unicode(text);
        }
        text.push(match kind {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            0 => return self.fail("NUL byte in a string"),
            // Quote, backslash and slash; and like servers do, any other byte for itself.
            other => other,
        });
        self.at += 2;
        Ok(())
    }

    /// `\uXXXX`, alone or with the second half of a pair. NUL and a half without its other half
    /// stand for nothing.
    fn unicode(&mut self, text: &mut Vec<u8>) -> Result<(), Syntax> {
        let Some(unit) = self.hex_unit() else {
            return self.fail("bad \\u escape");
        };
        self.at += 6;
        let code = match unit {
            0xd800..=0xdbff => match self.hex_unit() {
                Some(low @ 0xdc00..=0xdfff) => {
                    self.at += 6;
                    0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
                }
                _ => return Ok(()),
            },
            unit => unit,
        };
        if let Some(character) = char::from_u32(code).filter(|&character| character != '\0') {
            text.push_char(character);
        }
        Ok(())
    }

    /// The value of a `\uXXXX` at this place.
    fn hex_unit(&self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 6)?.strip_prefix(b"\\u")?;
        digits.iter().try_fold(0, |unit, &digit| Some(unit << 4 | char::from(digit).to_digit(16)?))
    }

    /// Where the number at this place ends.
    fn number_end(&self) -> usize {
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let len = self.text[self.at..].iter().take_while(|byte| is_part(byte)).count();
        self.at + len
    }

    #[inline]
    fn number(&mut self) -> Result<i64, Syntax> {
        let negative = self.peek() == Some(b'-');
        let mut at = self.at + usize::from(negative);
        let first = at;
        let mut value = 0i64;
        while let Some(digit @ b'0'..=b'9') = self.text.get(at) {
            value = value.wrapping_mul(10).wrapping_add(i64::from(digit - b'0'));
            at += 1;
        }
        let plain = !matches!(self.text.get(at), Some(b'.' | b'e' | b'E' | b'+' | b'-'));
        if plain && (1..=18).contains(&(at - first)) {
            self.at = at;
            return Ok(if negative { -value } else { value });
        }
        self.float().map(|number| number as i64)
    }

    #[cold]
    fn float(&mut self) -> Result<f64, Syntax> {
        let end = self.number_end();
        let number = std::str::from_utf8(&self.text[self.at..end]).ok().and_then(|text| text.parse().ok());
        match number {
            Some(number) => {
                self.at = end;
                Ok(number)
            }
            None => self.fail("bad number"),
        }
    }

    /// Reads a value of any kind, copying it where somebody wants it.
    fn value(&mut self, out: Option<&mut Vec<u8>>, depth: u32) -> Result<(), Syntax> {
        let Some(first) = self.token() else {
            return self.fail("expected a value");
        };
        match first {
            b'"' => {
                let text = self.string()?;
                if let Some(out) = out {
                    super::write::string(out, &text);
                }
                Ok(())
            }
            b'-' | b'0'..=b'9' => self.any_number(out),
            b'{' | b'[' if depth < MAX_DEPTH => self.container(out, depth),
            b'{' | b'[' => self.fail("nested too deep"),
            _ => self.word(out),
        }
    }

    fn any_number(&mut self, out: Option<&mut Vec<u8>>) -> Result<(), Syntax> {
        let number = self.float()?;
        if let Some(out) = out {
            let size = number.abs();
            // Servers hold numbers as doubles: what one cannot tell apart is not worth more digits.
            let text = match size {
                _ if size == 0.0 || !size.is_finite() => "0".to_owned(),
                1e-5..9e15 => number.to_string(),
                _ => format!("{number:e}"),
            };
            out.extend_from_slice(text.as_bytes());
        }
        Ok(())
    }

    fn word(&mut self, out: Option<&mut Vec<u8>>) -> Result<(), Syntax> {
        const WORDS: [&[u8]; 3] = [b"true", b"false", b"null"];
        let rest = &self.text[self.at..];
        match WORDS.iter().find(|word| rest.starts_with(word)) {
            Some(word) => {
                self.at += word.len();
                if let Some(out) = out {
                    out.extend_from_slice(word);
                }
                Ok(())
            }
            None => self.fail("expected a value"),
        }
    }

    fn container(&mut self, mut out: Option<&mut Vec<u8>>, depth: u32) -> Result<(), Syntax> {
        let Some(mut object) = self.open(true) else {
            return self.fail("expected a value");
        };
        let is_array = object.close == b']';
        if let Some(out) = out.as_deref_mut() {
            out.push(if is_array { b'[' } else { b'{' });
        }
        let start = out.as_deref().map_or(0, Vec::len);
        while let Member::Named(name) = self.member(&mut object)? {
            let null = !is_array && self.token() == Some(b'n');
            let Some(out) = out.as_deref_mut().filter(|_| !null) else {
                self.value(None, depth + 1)?;
                continue;
            };
            if out.len() > start {
                out.push(b',');
            }
            if !is_array {
                super::write::string(out, &name);
                out.push(b':');
            }
            self.value(Some(out), depth + 1)?;
        }
        if let Some(out) = out {
            out.push(object.close);
        }
        Ok(())
    }
}
