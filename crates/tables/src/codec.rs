//! The few primitives that row bodies are made of: variable-length integers and counted text.

use bstr::BStr;
use thiserror::Error;

/// A cell body or member that no node of this version writes.
///
/// Bodies come from other nodes and from disk. The cell stays in the store and goes on being
/// replicated, since its order does not depend on its body; only the reader does without it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RowError {
    /// The body ends before the field does.
    #[error("row body ends within {field}")]
    Truncated {
        /// Which field.
        field: &'static str,
    },
    /// The body was written by a version that this one does not know.
    #[error("row body has format {format}, known is {known}")]
    UnknownFormat {
        /// The format byte found.
        format: u8,
        /// The one that this version reads and writes.
        known: u8,
    },
    /// A number does not fit its type.
    #[error("row field {field} is out of range")]
    OutOfRange {
        /// Which field.
        field: &'static str,
    },
    /// Bytes are left after the last field.
    #[error("row body has {count} bytes too many")]
    Trailing {
        /// How many.
        count: usize,
    },
    /// The member is none of the kinds that [`crate::location`] defines.
    #[error("cell member is of no known kind")]
    UnknownMember,
}

/// Appends `value` in base 128, least significant group first.
pub(crate) fn put_uint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed number so that small magnitudes are short.
pub(crate) fn put_int(out: &mut Vec<u8>, value: i64) {
    put_uint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends the length of `text` and `text` itself.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_uint(out, text.len() as u64);
    out.extend_from_slice(text);
}

/// Reads what the `put_*` functions wrote.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn byte(&mut self, field: &'static str) -> Result<u8, RowError> {
        let (&first, rest) = self.0.split_first().ok_or(RowError::Truncated { field })?;
        self.0 = rest;
        Ok(first)
    }

    pub(crate) fn uint(&mut self, field: &'static str) -> Result<u64, RowError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(field)?;
            let group = u64::from(byte & 0x7f);
            if shift == 63 && group > 1 {
                return Err(RowError::OutOfRange { field });
            }
            value |= group << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(RowError::OutOfRange { field })
    }

    pub(crate) fn uint32(&mut self, field: &'static str) -> Result<u32, RowError> {
        u32::try_from(self.uint(field)?).map_err(|_| RowError::OutOfRange { field })
    }

    pub(crate) fn int(&mut self, field: &'static str) -> Result<i64, RowError> {
        let folded = self.uint(field)?;
        Ok((folded >> 1) as i64 ^ -((folded & 1) as i64))
    }

    pub(crate) fn text(&mut self, field: &'static str) -> Result<&'a BStr, RowError> {
        let len = usize::try_from(self.uint(field)?).map_err(|_| RowError::OutOfRange { field })?;
        if len > self.0.len() {
            return Err(RowError::Truncated { field });
        }
        let (text, rest) = self.0.split_at(len);
        self.0 = rest;
        Ok(BStr::new(text))
    }

    pub(crate) fn end(self) -> Result<(), RowError> {
        match self.0.len() {
            0 => Ok(()),
            count => Err(RowError::Trailing { count }),
        }
    }
}
