//! Cells and their canonical bytes: what is held in memory, sent, logged and hashed. A relay never re-encodes.
//!
//! The bytes are what postcard makes of
//!
//! ```text
//! version: u8 (= 1), table: str, key: bytes, member: bytes, rank: u128, time: [u8; 8], node: [u8; 8],
//! origin: [u8; 8], seq: u64, birth: Option<u64>, deadline: Option<u64>, body: Option<bytes>
//! ```
//!
//! with ids and the hybrid time as 8 big-endian bytes and all other numbers as postcard's varints. `removed` is not
//! written: a tombstone is a cell without a body. The codec is written by hand because postcard accepts overlong varints.
//!
//! **Invariant:** equal cells have equal bytes and equal bytes are equal cells; [`CellRef::decode`] refuses all else.

use std::fmt;

use thiserror::Error;

use crate::hlc::{Hlc, Stamp};
use crate::ids::{Dot, NodeId, Origin, Wall};
use crate::order::Order;

/// The longest table name, bytes.
pub const TABLE_MAX: usize = 64;
/// The longest key, bytes.
pub const KEY_MAX: usize = 1024;
/// The longest member, bytes.
pub const MEMBER_MAX: usize = 1024;
/// The longest body, bytes.
pub const BODY_MAX: usize = 60 * 1024;

/// First byte of the canonical form.
const VERSION: u8 = 1;

/// Bytes that are not the canonical form of a cell. Whoever made them is at fault; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CellError {
    /// The bytes end within a field.
    #[error("a cell ends within a field")]
    Truncated,
    /// Bytes follow after the last field.
    #[error("bytes follow after a cell")]
    Trailing,
    /// The version byte is not ours.
    #[error("cell format {0}, this node knows {VERSION}")]
    Version(u8),
    /// A number is not in its shortest form, or an option is neither absent nor present.
    #[error("a cell is not in canonical form")]
    NotCanonical,
    /// A number exceeds its type.
    #[error("a number in a cell is out of range")]
    OutOfRange,
    /// The table name is empty or not UTF-8.
    #[error("a cell's table name is not text")]
    Table,
    /// The sequence is 0; sequences count from 1.
    #[error("a cell's dot has sequence 0")]
    Dot,
    /// A field exceeds its limit.
    #[error("a cell's {field} has {len} bytes, the limit is {max}")]
    TooLong {
        /// Which.
        field: &'static str,
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
}

/// A cell, borrowed from its canonical bytes (or from whoever makes one).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CellRef<'a> {
    /// The table, at most [`TABLE_MAX`] bytes, not empty.
    pub table: &'a str,
    /// The key in the table, at most [`KEY_MAX`] bytes.
    pub key: &'a [u8],
    /// The member of the key, at most [`MEMBER_MAX`] bytes.
    pub member: &'a [u8],
    /// Which of two versions wins. `removed` is true exactly if there is no body.
    pub order: Order,
    /// Unix seconds of the birth that forgetting goes by in tables with ranks (R1); the same in all versions.
    pub birth: Option<u64>,
    /// Unix seconds from which on the version is dead; `None`: it does not die by itself.
    pub deadline: Option<u64>,
    /// What the version says, at most [`BODY_MAX`] bytes; `None`: it is a tombstone.
    pub body: Option<&'a [u8]>,
}

impl fmt::Debug for CellRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CellRef")
            .field("table", &self.table)
            .field("key", &String::from_utf8_lossy(self.key))
            .field("member", &String::from_utf8_lossy(self.member))
            .field("order", &self.order)
            .field("birth", &self.birth)
            .field("deadline", &self.deadline)
            .field("body", &self.body.map(<[u8]>::len))
            .finish()
    }
}

impl<'a> CellRef<'a> {
    /// Reads canonical bytes. Borrows, allocates nothing, and never panics.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, CellError> {
        let mut reader = Reader { rest: bytes };
        let (table, key, member) = reader.id()?;
        Self::decode_rest((table, key, member), reader)
    }

    /// As [`CellRef::decode`], of bytes that are held as a cell of this table.
    pub(crate) fn decode_held(bytes: &'a [u8], table: &'a str) -> Result<Self, CellError> {
        // The version, and the length of a name, which is below 128.
        let mut reader = Reader { rest: bytes.get(2 + table.len()..).ok_or(CellError::Truncated)? };
        let (key, member) = (reader.bytes("key", KEY_MAX)?, reader.bytes("member", MEMBER_MAX)?);
        Self::decode_rest((table, key, member), reader)
    }

    #[inline]
    fn decode_rest(
        (table, key, member): (&'a str, &'a [u8], &'a [u8]),
        mut reader: Reader<'a>,
    ) -> Result<Self, CellError> {
        let rank = reader.varint::<128>()?;
        let time = Hlc::from_bits(reader.fixed()?);
        let node = NodeId(reader.fixed()?);
        let origin = Origin(reader.fixed()?);
        let seq = reader.u64()?;
        let birth = reader.option(Reader::u64)?;
        let deadline = reader.option(Reader::u64)?;
        let body = reader.option(|r| r.bytes("body", BODY_MAX))?;
        if !reader.rest.is_empty() {
            return Err(CellError::Trailing);
        }
        if seq == 0 {
            return Err(CellError::Dot);
        }
        let order = Order { rank, stamp: Stamp { time, node }, removed: body.is_none(), dot: Dot { origin, seq } };
        Ok(Self { table, key, member, order, birth, deadline, body })
    }

    /// The canonical bytes. The limits are the caller's to keep ([`CellRef::check`]); bytes beyond them do not decode.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    /// As [`CellRef::encode`], to the end of `out`.
    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) {
        let body = self.body.map_or(0, <[u8]>::len);
        out.reserve(64 + self.table.len() + self.key.len() + self.member.len() + body);
        out.push(VERSION);
        put_bytes(out, self.table.as_bytes());
        put_bytes(out, self.key);
        put_bytes(out, self.member);
        put_varint(out, self.order.rank);
        out.extend_from_slice(&self.order.stamp.time.bits().to_be_bytes());
        out.extend_from_slice(&self.order.stamp.node.0.to_be_bytes());
        out.extend_from_slice(&self.order.dot.origin.0.to_be_bytes());
        put_varint(out, u128::from(self.order.dot.seq));
        for number in [self.birth, self.deadline] {
            out.push(u8::from(number.is_some()));
            if let Some(number) = number {
                put_varint(out, u128::from(number));
            }
        }
        out.push(u8::from(self.body.is_some()));
        if let Some(body) = self.body {
            put_bytes(out, body);
        }
    }

    /// Whether every field is within its limit, so that the encoded cell decodes to itself.
    pub fn check(&self) -> Result<(), CellError> {
        if self.table.is_empty() {
            return Err(CellError::Table);
        }
        if self.order.dot.seq == 0 {
            return Err(CellError::Dot);
        }
        if self.order.removed != self.body.is_none() {
            return Err(CellError::NotCanonical);
        }
        within("table", self.table.len(), TABLE_MAX)?;
        within("key", self.key.len(), KEY_MAX)?;
        within("member", self.member.len(), MEMBER_MAX)?;
        within("body", self.body.map_or(0, <[u8]>::len), BODY_MAX)
    }

    /// Whether a reader sees the cell at `now`: it is no tombstone, and its deadline lies ahead.
    pub fn is_live(&self, now: Wall) -> bool {
        self.is_live_at(now.secs())
    }

    /// As [`CellRef::is_live`], at a unix second.
    pub(crate) fn is_live_at(&self, secs: u64) -> bool {
        self.body.is_some() && self.deadline.is_none_or(|deadline| deadline > secs)
    }
}

/// The part of canonical bytes that tells which cell it is: table, key and member, each with its length.
///
/// Two cells have the same id exactly if these bytes are equal. Only this part is checked.
pub fn id_bytes(bytes: &[u8]) -> Result<&[u8], CellError> {
    let mut reader = Reader { rest: bytes };
    reader.id()?;
    let end = bytes.len() - reader.rest.len();
    Ok(&bytes[1..end])
}

/// Key and member of bytes that are known to be canonical: what a lookup compares, without looking at the rest.
pub(crate) fn key_and_member(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = Reader { rest: bytes.get(1..)? };
    reader.bytes("table", TABLE_MAX).ok()?;
    Some((reader.bytes("key", KEY_MAX).ok()?, reader.bytes("member", MEMBER_MAX).ok()?))
}

fn within(field: &'static str, len: usize, max: usize) -> Result<(), CellError> {
    if len <= max { Ok(()) } else { Err(CellError::TooLong { field, len, max }) }
}

fn put_varint(out: &mut Vec<u8>, mut number: u128) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u128);
    out.extend_from_slice(bytes);
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    fn id(&mut self) -> Result<(&'a str, &'a [u8], &'a [u8]), CellError> {
        let version = self.byte()?;
        if version != VERSION {
            return Err(CellError::Version(version));
        }
        let table = self.bytes("table", TABLE_MAX)?;
        let table = std::str::from_utf8(table).ok().filter(|t| !t.is_empty()).ok_or(CellError::Table)?;
        Ok((table, self.bytes("key", KEY_MAX)?, self.bytes("member", MEMBER_MAX)?))
    }

    #[inline(always)]
    fn byte(&mut self) -> Result<u8, CellError> {
        let (&first, rest) = self.rest.split_first().ok_or(CellError::Truncated)?;
        self.rest = rest;
        Ok(first)
    }

    fn varint<const BITS: u32>(&mut self) -> Result<u128, CellError> {
        let first = self.byte()?;
        if first < 0x80 {
            return Ok(u128::from(first));
        }
        let (mut number, mut shift) = (u128::from(first & 0x7f), 7);
        loop {
            let byte = self.byte()?;
            let bits = u128::from(byte & 0x7f);
            if shift >= BITS || (BITS - shift < 7 && bits >> (BITS - shift) != 0) {
                return Err(CellError::OutOfRange);
            }
            number |= bits << shift;
            if byte < 0x80 {
                return if byte == 0 { Err(CellError::NotCanonical) } else { Ok(number) };
            }
            shift += 7;
        }
    }

    #[inline(always)]
    fn u64(&mut self) -> Result<u64, CellError> {
        match self.rest {
            [byte @ ..0x80, rest @ ..] => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => self.long(),
        }
    }

    /// A number of several bytes, as `varint::<64>`, which does the rare cases.
    fn long(&mut self) -> Result<u64, CellError> {
        // Up to 8 bytes are 56 bits, which always fit.
        let mut number = 0;
        for (at, &byte) in self.rest.iter().take(8).enumerate() {
            number |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                if byte == 0 && at > 0 {
                    return Err(CellError::NotCanonical);
                }
                self.rest = &self.rest[at + 1..];
                return Ok(number);
            }
        }
        self.varint::<64>().map(|number| number as u64)
    }

    #[inline(always)]
    fn fixed(&mut self) -> Result<u64, CellError> {
        let (bytes, rest) = self.rest.split_first_chunk::<8>().ok_or(CellError::Truncated)?;
        self.rest = rest;
        Ok(u64::from_be_bytes(*bytes))
    }

    #[inline(always)]
    fn bytes(&mut self, field: &'static str, max: usize) -> Result<&'a [u8], CellError> {
        let len = usize::try_from(self.u64()?).map_err(|_| CellError::OutOfRange)?;
        within(field, len, max)?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(CellError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, CellError>) -> Result<Option<T>, CellError> {
        match self.byte()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(CellError::NotCanonical),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Serialize;

    use super::*;

    /// What the module docs say the bytes are, for postcard to encode.
    #[derive(Serialize)]
    struct AsDocumented<'a>(
        u8,
        &'a str,
        &'a [u8],
        &'a [u8],
        u128,
        [u8; 8],
        [u8; 8],
        [u8; 8],
        u64,
        Option<u64>,
        Option<u64>,
        Option<&'a [u8]>,
    );

    fn any_cell() -> impl Strategy<Value = Vec<u8>> {
        let bytes = |max| proptest::collection::vec(any::<u8>(), 0..max);
        let id = ("[a-z:]{1,12}", bytes(40), bytes(40));
        let order = (prop_oneof![Just(0), any::<u128>()], any::<u64>(), any::<u64>(), any::<u64>(), 1..=u64::MAX);
        let rest = (any::<Option<u64>>(), any::<Option<u64>>(), proptest::option::of(bytes(200)));
        (id, order, rest).prop_map(
            |((table, key, member), (rank, time, node, origin, seq), (birth, deadline, body))| {
                let order = Order {
                    rank,
                    stamp: Stamp { time: Hlc::from_bits(time), node: NodeId(node) },
                    removed: body.is_none(),
                    dot: Dot { origin: Origin(origin), seq },
                };
                let (table, key, member, body) = (&*table, &*key, &*member, body.as_deref());
                CellRef { table, key, member, order, birth, deadline, body }.encode()
            },
        )
    }

    proptest! {
        #[test]
        fn canonical_bytes_are_what_postcard_makes_of_the_documented_fields(bytes in any_cell()) {
            let cell = CellRef::decode(&bytes).unwrap();
            let Order { rank, stamp, dot, .. } = cell.order;
            let documented = AsDocumented(
                VERSION, cell.table, cell.key, cell.member, rank, stamp.time.bits().to_be_bytes(),
                stamp.node.0.to_be_bytes(), dot.origin.0.to_be_bytes(), dot.seq, cell.birth, cell.deadline, cell.body,
            );
            prop_assert_eq!(postcard::to_stdvec(&documented).unwrap(), bytes);
        }

        #[test]
        fn a_decoded_cell_encodes_to_the_same_bytes(bytes in any_cell()) {
            prop_assert_eq!(CellRef::decode(&bytes).unwrap().encode(), bytes);
        }

        #[test]
        fn mangled_bytes_are_refused_or_are_another_cell_in_canonical_form(
            bytes in any_cell(), at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<bool>()
        ) {
            let mut mangled = bytes.clone();
            let at = at.index(bytes.len());
            if cut { mangled.truncate(at) } else { mangled[at] = with }
            if let Ok(cell) = CellRef::decode(&mangled) {
                prop_assert_eq!(cell.encode(), mangled);
            }
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = CellRef::decode(&bytes);
            let _ = id_bytes(&bytes);
        }

        #[test]
        fn the_id_is_the_same_for_all_versions_of_a_cell(a in any_cell(), seq in 1..u64::MAX) {
            let mut cell = CellRef::decode(&a).unwrap();
            cell.order.dot.seq = seq;
            let other = cell.encode();
            prop_assert_eq!(id_bytes(&other), id_bytes(&a));
        }
    }

    #[test]
    fn an_overlong_number_is_refused() {
        let mut reader = Reader { rest: &[0x80, 0x00] };
        assert_eq!(reader.u64(), Err(CellError::NotCanonical));
        let mut reader = Reader { rest: &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02] };
        assert_eq!(reader.u64(), Err(CellError::OutOfRange));
        let mut reader = Reader { rest: &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01] };
        assert_eq!(reader.u64(), Ok(u64::MAX));
    }

    #[test]
    fn a_field_over_its_limit_is_refused() {
        let dot = Dot { origin: Origin(1), seq: 1 };
        let order = Order { rank: 0, stamp: Stamp::default(), removed: false, dot };
        let key = vec![0; KEY_MAX + 1];
        let cell = CellRef { table: "t", key: &key, member: b"", order, birth: None, deadline: None, body: Some(b"") };
        let error = CellError::TooLong { field: "key", len: KEY_MAX + 1, max: KEY_MAX };
        assert_eq!(cell.check(), Err(error));
        assert_eq!(CellRef::decode(&cell.encode()), Err(error));
    }

    #[test]
    fn a_cell_dies_with_the_second_of_its_deadline() {
        let dot = Dot { origin: Origin(1), seq: 1 };
        let order = Order { rank: 0, stamp: Stamp::default(), removed: false, dot };
        let cell =
            CellRef { table: "t", key: b"", member: b"", order, birth: None, deadline: Some(10), body: Some(b"") };
        assert!(cell.is_live(Wall(9_999)));
        assert!(!cell.is_live(Wall(10_000)));
        let tombstone = CellRef { deadline: None, body: None, ..cell };
        assert!(!tombstone.is_live(Wall(0)));
    }
}
