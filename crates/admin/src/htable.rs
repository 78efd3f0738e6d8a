//! Hash tables.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A row of `GET /v1/htable`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Htable {
    /// Name.
    pub table: String,
    /// Live entries.
    pub entries: u64,
    /// Configured or learned `autoexpire` in seconds; 0 = none known.
    pub autoexpire: u32,
    /// Whether increments are counted exactly over all sites.
    pub counter: bool,
}

/// A live entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Table.
    pub table: String,
    /// Key (`cname`).
    pub key: String,
    /// Value.
    pub value: Value,
    /// Unix seconds; null = never.
    pub expires: Option<u64>,
}

/// A value: a JSON string or integer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a value is a JSON string or an integer of at most 64 bits")]
pub enum Value {
    /// An integer; Kamailio's are 32 bits wide.
    Int(i64),
    /// A string.
    Str(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(n) => n.fmt(f),
            Self::Str(s) => s.fmt(f),
        }
    }
}

/// `PUT /v1/htable/NAME/KEY`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntrySet {
    /// String or integer.
    pub value: Value,
    /// Seconds until it expires; unless given, the table's `autoexpire`, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u32>,
}

/// `POST /v1/htable/NAME/KEY/inc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryInc {
    /// What to add; may be negative. 1 unless given.
    #[serde(default = "one")]
    pub by: i64,
}

const fn one() -> i64 {
    1
}

/// The answer to an increment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incremented {
    /// The new value.
    pub value: i64,
}

/// `POST /v1/htable/NAME/delete-matching`: exactly one of `prefix` and `regex`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteMatching {
    /// What the name or value begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// A regular expression, found anywhere in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// What is looked at; names unless given.
    #[serde(default)]
    pub on: MatchOn,
}

/// What a pattern is held against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MatchOn {
    /// Keys.
    #[default]
    Names,
    /// Values.
    Values,
}

/// The answer to a deletion by pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// How many entries matched.
    pub deleted: u64,
}
