//! Messages and state of sync sessions (R2, R6). The machines are methods of [`Replica`](crate::Replica).
//!
//! ```text
//! receiver                              sender
//! request() ------- SyncRequest ------> open_outgoing()
//! open_incoming() <---- SyncStart -----
//! apply_chunk() <-------- Chunk ------- next_chunk()      until last
//! finish()                              close_outgoing()
//! ```

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::cell::CellError;
use crate::clock::Clock;
use crate::hlc::Stamp;
use crate::ids::{Dot, DotRange, Origin};

/// The receiver's side of the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SyncRequest {
    /// S: what the receiver covers.
    pub clock: Clock,
}

/// The sender's side of the start, as of the moment when the session was opened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SyncStart {
    /// F: what the sender covers. The receiver takes it at the end.
    pub clock: Clock,
    /// G: what the sender knows to be forgotten by stability (R6).
    pub forgotten: Clock,
    /// Whether S does not include G: the sender shows all its dots, the receiver drops what is not shown (R6).
    pub full: bool,
    /// Floors of tables that forget by stability (R7).
    pub floors: Vec<(String, Stamp)>,
}

/// Part of a session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Chunk {
    /// Canonical cells, each after its length as 4 bytes, little endian.
    #[serde(with = "as_bytes")]
    pub cells: Vec<u8>,
    /// Dots that the sender shows without sending their cells, because the receiver covers them. Only in full sessions.
    pub shown: Vec<DotRange>,
    /// Nothing follows.
    pub last: bool,
}

/// What a finished session did beside taking cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncDone {
    /// Cells dropped, because the sender covers their dots and did not show them.
    pub dropped: u64,
    /// Cells issued again under new dots (R6).
    pub reissued: u64,
}

/// Why a session ended early. What was merged until then stays and is covered; F was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SyncAborted {
    /// An owed cell was forgotten by stability meanwhile (R2). Nobody's fault: open a new session.
    #[error("an owed cell was forgotten while the session went on")]
    Forgotten,
    /// A cell is too far ahead (R3). A clock is wrong somewhere: try again later.
    #[error("a cell is too far ahead of this node's clock")]
    TooFarAhead,
    /// The peer sent bytes that are no cell.
    #[error("the peer sent a malformed cell: {0}")]
    Malformed(CellError),
    /// The peer sent a chunk that does not split into cells, or a chunk after the last one.
    #[error("the peer sent a malformed chunk")]
    Framing,
    /// The session was to be finished before its last chunk had come.
    #[error("the session was cut before its end")]
    Unfinished,
}

/// The sender's state. Give it back to [`Replica::close_outgoing`](crate::Replica::close_outgoing), however it ended:
/// until then no freed slot is used again.
#[derive(Debug)]
#[must_use]
pub struct Outgoing {
    /// Slots whose cells are owed, in the order of the dots that they showed at the start.
    pub(crate) owed: Vec<u32>,
    /// How many of them were sent.
    pub(crate) sent: usize,
    /// What is shown without cells.
    pub(crate) shown: Vec<DotRange>,
    /// How many of these were sent.
    pub(crate) shown_sent: usize,
    /// F, for a planted bug.
    #[cfg(feature = "planted")]
    pub(crate) promised: Clock,
}

impl Outgoing {
    /// Cells that are still to be sent.
    pub fn owed(&self) -> usize {
        self.owed.len() - self.sent
    }
}

/// The receiver's state.
#[derive(Debug)]
pub struct Incoming {
    /// S.
    pub(crate) mine: Clock,
    pub(crate) start: SyncStart,
    /// Dots that came with cells, and such that were shown without.
    pub(crate) shown: Clock,
    pub(crate) last: bool,
    pub(crate) done: SyncDone,
}

impl Incoming {
    /// Whether all chunks have come: time to finish.
    pub const fn is_complete(&self) -> bool {
        self.last
    }

    /// Whether the sender shows everything (R6).
    pub const fn is_full(&self) -> bool {
        self.start.full
    }
}

/// Splits a chunk's cells; `Err` for a part that does not split.
pub(crate) fn blobs(mut rest: &[u8]) -> impl Iterator<Item = Result<&[u8], SyncAborted>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (len, after) = rest.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
        let split = after.split_at_checked(u32::from_le_bytes(*len) as usize).filter(|(blob, _)| !blob.is_empty());
        rest = split.map_or(&[], |(_, after)| after);
        Some(split.map(|(blob, _)| blob).ok_or(SyncAborted::Framing))
    })
}

/// Appends a cell to a chunk.
pub(crate) fn push_blob(cells: &mut Vec<u8>, blob: &[u8]) {
    cells.extend_from_slice(&(blob.len() as u32).to_le_bytes());
    cells.extend_from_slice(blob);
}

/// Collects single dots, ascending within an origin, into ranges.
pub(crate) fn push_dot(ranges: &mut Vec<DotRange>, dot: Dot) {
    match ranges.last_mut() {
        Some(range) if range.origin == dot.origin && range.last + 1 == dot.seq => range.last = dot.seq,
        _ => ranges.push(DotRange { origin: dot.origin, first: dot.seq, last: dot.seq }),
    }
}

/// A range as clocks take it.
pub(crate) fn seqs(range: &DotRange) -> (Origin, RangeInclusive<u64>) {
    (range.origin, range.first..=range.last)
}

/// Bytes as bytes: serde takes a `Vec<u8>` element by element.
mod as_bytes {
    use std::fmt;

    use serde::de::{Deserializer, Error, SeqAccess, Visitor};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;

        impl<'de> Visitor<'de> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u8>, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = seq.next_element()? {
                    bytes.push(byte);
                }
                Ok(bytes)
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_splits_into_the_cells_that_it_was_made_of() {
        let mut cells = Vec::new();
        for blob in [&b"a"[..], b"bcd"] {
            push_blob(&mut cells, blob);
        }
        let split: Vec<_> = blobs(&cells).collect();
        assert_eq!(split, [Ok(&b"a"[..]), Ok(b"bcd")]);
    }

    #[test]
    fn a_chunk_that_does_not_split_ends_in_one_error() {
        for bytes in [&[1][..], &[2, 0, 0, 0, 7], &[0, 0, 0, 0], &[255; 9]] {
            assert_eq!(blobs(bytes).collect::<Vec<_>>(), [Err(SyncAborted::Framing)], "{bytes:?}");
        }
    }

    #[test]
    fn a_chunk_survives_the_wire() {
        let range = DotRange { origin: Origin(3), first: 1, last: 9 };
        let chunk = Chunk { cells: vec![1, 2, 3], shown: vec![range], last: true };
        let bytes = postcard::to_stdvec(&chunk).unwrap();
        assert_eq!(postcard::from_bytes::<Chunk>(&bytes), Ok(chunk));
    }
}
