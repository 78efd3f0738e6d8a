//! What operators and embedders ask a node to write, and what it answers.

use bstr::BString;
use thiserror::Error;

/// A write, asked for over the admin API.
#[derive(Clone, Debug)]
pub enum Command {
    /// Adds or refreshes a contact.
    LocationAdd(Box<NewContact>),
    /// Removes one contact of an AoR, or all of them. An operator's removal: it wins over what this
    /// node has seen and loses to a refresh that it has not.
    LocationRemove {
        /// Address of record as servers store it.
        aor: BString,
        /// Contact URI; `None` removes every contact.
        contact: Option<BString>,
    },
    /// Sets an entry.
    HtableSet {
        /// Hash table.
        table: String,
        /// Key (`cname`), at most 1,024 bytes.
        key: BString,
        /// Value.
        value: Value,
        /// Seconds until it expires; `None`: the table's `autoexpire`, if it has one.
        expires_in: Option<u32>,
    },
    /// Adds to an integer entry, which starts at 0 if absent.
    HtableInc {
        /// Hash table.
        table: String,
        /// Key.
        key: BString,
        /// May be negative.
        by: i64,
    },
    /// Deletes an entry.
    HtableDelete {
        /// Hash table.
        table: String,
        /// Key.
        key: BString,
    },
    /// Deletes every entry that matches.
    HtableDeleteMatching {
        /// Hash table.
        table: String,
        /// How.
        pattern: Pattern,
        /// Whether values are looked at instead of keys.
        on_values: bool,
    },
}

/// A value of a hash-table entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// An integer; Kamailio's are 32 bits wide.
    Int(i64),
    /// A string.
    Str(BString),
}

/// What [`Command::HtableDeleteMatching`] looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// A regular expression, found anywhere.
    Regex(String),
    /// A prefix.
    Prefix(BString),
}

/// A contact as an operator gives it.
#[derive(Clone, Debug, Default)]
pub struct NewContact {
    /// Address of record as servers store it.
    pub aor: BString,
    /// Contact URI.
    pub contact: BString,
    /// Seconds until it expires; 0 = permanent.
    pub expires_in: u32,
    /// q value times 1,000; -1 = not given.
    pub q: Option<i32>,
    /// `+sip.instance`, with angle brackets.
    pub instance: BString,
    /// Outbound reg-id; 0 = none.
    pub reg_id: u32,
    /// `Path` values.
    pub path: BString,
    /// Source URI.
    pub received: BString,
    /// User agent.
    pub user_agent: BString,
}

/// A command was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandOk {
    /// Done.
    Done,
    /// The new value.
    Value(i64),
    /// So many entries.
    Count(u64),
}

/// A command was refused; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommandError {
    /// There is no such AoR, contact or entry.
    #[error("not found")]
    NotFound,
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
}

/// A change that watchers see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Table.
    pub table: String,
    /// Key: AoR, `cname`.
    pub key: BString,
    /// Member: contact identity; empty for hash tables.
    pub member: BString,
    /// What happened.
    pub what: EventKind,
    /// Where it was written.
    pub node: crdt::NodeId,
    /// When, unix milliseconds, by the writer's hybrid clock.
    pub time_ms: u64,
}

/// What happened to a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It has a new live version.
    Set,
    /// It was removed.
    Removed,
    /// Its deadline passed.
    Expired,
}
