//! The `htable` channel: hash tables (Kamailio module `htable`).
//!
//! A body is one action object, or `{"cells":[..]}`, which answers a sync request.
//!
//! # What is lenient
//!
//! As on [`usrloc`](crate::usrloc): order, duplicates, unknown members, `cells` in any position. The
//! `type` decides between `strval` and `intval`; without it, whichever is there. An integer beyond 32 bit is
//! refused: no server has one, and none could be told of it.
//!
//! # What is strict
//!
//! No member that 5.x does not know, unless a time stamp is asked for: it answers 400 and does
//! nothing. Integers beyond 32 bit are refused. `cells` cannot be made at all.

mod decode;
mod encode;

use std::borrow::Cow;

use bstr::BStr;
use tables::htable::Value;

use crate::DecodeError;

pub use decode::decode;
pub use encode::{encode_delete, encode_expire, encode_set};

/// The body that asks a server for all its replicated cells. Send it once: every copy starts
/// another dump.
pub const SYNC: &[u8] = b"{\"action\":1}";

pub(crate) const CHANNEL: &str = "htable";

/// What a message asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Nothing.
    None,
    /// Send all cells.
    Sync {
        /// Only of this table (6.x); `None`: of all.
        table: Option<Cow<'a, BStr>>,
    },
    /// Set an entry. In a table with `autoexpire` this restarts its life (`updateexpire=1`).
    Set {
        /// Hash table.
        table: Cow<'a, BStr>,
        /// Entry.
        key: Cow<'a, BStr>,
        /// Its new value; of a counter the full value too.
        value: Value<'a>,
        /// When, unix milliseconds by the sender's clock; 6.x only.
        last_modified: Option<u64>,
    },
    /// Change when an entry expires.
    Expire {
        /// Hash table.
        table: Cow<'a, BStr>,
        /// Entry.
        key: Cow<'a, BStr>,
        /// From now, in seconds; 0 or less: at once.
        seconds: i64,
    },
    /// Delete an entry.
    Delete {
        /// Hash table.
        table: Cow<'a, BStr>,
        /// Entry.
        key: Cow<'a, BStr>,
    },
    /// Delete every entry that matches.
    RemoveMatching {
        /// Hash table.
        table: Cow<'a, BStr>,
        /// How `pattern` is to be understood.
        how: How,
        /// What it is held against.
        on: On,
        /// The pattern.
        pattern: Cow<'a, BStr>,
    },
    /// Part of a sync answer. It may be empty: a server always answers.
    Cells(Cells<'a>),
}

/// Part of a sync answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cells<'a> {
    /// The cells that could be understood.
    pub cells: Vec<Cell<'a>>,
    /// How many could not.
    pub skipped: u32,
    /// What was wrong with the first of these.
    pub reason: Option<DecodeError>,
}

/// A cell of a sync answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell<'a> {
    /// Hash table.
    pub table: Cow<'a, BStr>,
    /// Entry.
    pub key: Cow<'a, BStr>,
    /// Its value.
    pub value: Value<'a>,
    /// When it expires, unix seconds; 0: the table has no `autoexpire`.
    pub expire: u64,
    /// When it was set, unix milliseconds; 6.x only.
    pub last_modified: Option<u64>,
}

/// How a pattern is to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A POSIX extended regular expression, found anywhere.
    Regex,
    /// The beginning.
    Prefix,
}

/// What a pattern is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// The names of entries.
    Names,
    /// The values of entries that are strings.
    Values,
}
