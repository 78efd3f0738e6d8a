//! Hash tables: one cell per entry, key = `cname`, member empty.
//!
//! The value is an integer or a string, as in Kamailio's `htable` module. The deadline of an entry
//! (`autoexpire`, `setex`) is the cell's own and not part of the body. Counter tables keep one cell
//! per contribution instead; their bodies belong to `crdt::counter`.

use std::borrow::Cow;

use bstr::BStr;

use crate::codec::{Fields, RowError, put_int};

/// Beginning of every hash table's cell table name.
pub const PREFIX: &str = "htable:";

/// Longest hash table name in bytes; with [`PREFIX`] it fills a cell's table name.
pub const MAX_NAME: usize = crdt::cell::TABLE_MAX - PREFIX.len();

/// Longest entry name (`cname`) in bytes: the longest cell key.
pub const MAX_KEY: usize = crdt::cell::KEY_MAX;

/// Longest string value in bytes: what fits a cell body with its kind byte.
pub const MAX_VALUE: usize = crdt::cell::BODY_MAX - 1;

/// Name of the cell table that holds the entries of hash table `name`.
pub fn table(name: &str) -> String {
    [PREFIX, name].concat()
}

/// The hash table whose entries the cell table `table` holds; `None` if it is no hash table.
pub fn name(table: &str) -> Option<&str> {
    table.strip_prefix(PREFIX)
}

/// The value of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// An integer. Kamailio's are 32 bit signed; ours may grow beyond, and what does not fit is
    /// never sent to a server.
    Int(i64),
    /// A string: any bytes, up to [`MAX_VALUE`].
    Str(Cow<'a, BStr>),
}

const INT: u8 = 0;
const STR: u8 = 1;

impl<'a> Value<'a> {
    /// A string value over borrowed bytes.
    pub fn str(text: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self::Str(Cow::Borrowed(BStr::new(text)))
    }

    /// The cell body for this value: a kind byte, then the number or the text as it is.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Int(number) => {
                let mut body = vec![INT];
                put_int(&mut body, *number);
                body
            }
            Self::Str(text) => {
                let mut body = Vec::with_capacity(1 + text.len());
                body.push(STR);
                body.extend_from_slice(text);
                body
            }
        }
    }

    /// Reads a cell body, borrowing its text.
    ///
    /// # Errors
    /// [`RowError`] if this is not what [`Value::encode`] writes.
    pub fn decode(body: &'a [u8]) -> Result<Self, RowError> {
        let mut fields = Fields(body);
        match fields.byte("kind")? {
            INT => {
                let number = fields.int("value")?;
                fields.end()?;
                Ok(Self::Int(number))
            }
            STR => Ok(Self::str(fields.0)),
            format => Err(RowError::UnknownFormat { format, known: STR }),
        }
    }

    /// The same value, owning its text.
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Self::Int(number) => Value::Int(number),
            Self::Str(text) => Value::Str(Cow::Owned(text.into_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_table_name_is_found_again_in_its_cell_table() {
        assert_eq!(table("plain"), "htable:plain");
        assert_eq!(name("htable:plain"), Some("plain"));
        assert_eq!(name("location"), None);
        assert!(table(&"x".repeat(MAX_NAME)).len() == 64);
    }

    #[test]
    fn a_body_of_an_unknown_kind_or_with_a_tail_is_an_error() {
        assert!(matches!(Value::decode(b""), Err(RowError::Truncated { .. })));
        assert!(matches!(Value::decode(&[7]), Err(RowError::UnknownFormat { format: 7, .. })));
        assert_eq!(Value::decode(&[INT, 2, 9]), Err(RowError::Trailing { count: 1 }));
    }

    proptest! {
        #[test]
        fn integers_survive_the_body(number: i64) {
            let value = Value::Int(number);
            let body = value.encode();
            prop_assert_eq!(Value::decode(&body).unwrap(), value);
        }

        #[test]
        fn any_bytes_survive_the_body(text: Vec<u8>) {
            let value = Value::str(&text);
            let body = value.encode();
            prop_assert_eq!(Value::decode(&body).unwrap(), value);
        }

        #[test]
        fn no_body_makes_decode_panic(body: Vec<u8>) {
            let _ = Value::decode(&body);
        }
    }
}
