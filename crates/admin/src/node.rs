//! The node itself: status, members, servers, digests, changes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the node.
    pub name: String,
    /// Stable id, 16 hex digits.
    pub id: String,
    /// Id of this process lifetime, 16 hex digits.
    pub origin: String,
    /// Version of the program.
    pub version: String,
    /// Cluster name; nodes of different clusters refuse each other.
    pub cluster: String,
    /// QUIC address that other nodes reach this one at.
    pub advertise: String,
    /// Whether links are authenticated by certificates of an own CA.
    pub tls: bool,
    /// SIP addresses, `udp:127.0.0.1:5070`.
    pub sip: Vec<String>,
    /// Address of this interface.
    pub admin: String,
    /// Seconds since the process started.
    pub uptime: u64,
    /// Live cells of all tables.
    pub cells: u64,
    /// Live contacts.
    pub contacts: u64,
    /// Links to other nodes that carry data.
    pub links: usize,
    /// Attached Kamailio servers that answer.
    pub servers: usize,
    /// Data directory; null: memory only.
    pub data: Option<String>,
    /// Whether everything up to now is on disk; null without a disk.
    pub durable: Option<bool>,
    /// When a write is acknowledged: `memory` or `disk`.
    pub ack: String,
    /// Bytes of state in memory, estimated.
    pub memory: usize,
    /// Whether this node's clock differs too much from another's, so that no data is exchanged with that one.
    pub skewed: bool,
    /// Whether the node is still taking in its first full session.
    pub joining: bool,
}

/// A row of `GET /v1/members`: another node of the cluster, or this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Name.
    pub name: String,
    /// Stable id, 16 hex digits.
    pub id: String,
    /// QUIC address.
    pub addr: String,
    /// Failure detector's opinion.
    pub state: MemberState,
    /// Whether a link carries data.
    pub linked: bool,
    /// Clock offset in milliseconds (theirs minus ours), if measured.
    pub offset_ms: Option<i64>,
    /// Cells that wait to be pushed there.
    pub queued: usize,
}

/// SWIM states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// Answers.
    Alive,
    /// Missed a probe.
    Suspect,
    /// Gone; kept until `forget_after` has passed.
    Down,
}

impl MemberState {
    /// The word in JSON and tables.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Down => "down",
        }
    }
}

/// A row of `GET /v1/peers`: a Kamailio server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// DMQ address, `sip:host:port[;transport=tcp]`.
    pub uri: String,
    /// `new`, `active`, `silent` or `left`.
    pub state: String,
    /// DMQ dialect: `5.6` or `6`.
    pub generation: String,
    /// Open requests.
    pub open: usize,
    /// Cells that wait to be sent.
    pub queued: usize,
    /// Cells that it is not known to hold in their current version.
    pub lag_cells: usize,
    /// Cells that it was told and has not yet shown to hold.
    pub unproven: usize,
    /// Winners sent back because it held something else.
    pub corrections: u64,
    /// When the last dump of it that was complete, and could be judged, was asked for, unix seconds.
    pub last_sync: Option<u64>,
    /// Whether this node speaks for it.
    pub owned: bool,
    /// How often it was seen to have restarted.
    pub restarts: u64,
    /// Requests received from it.
    pub requests_in: u64,
    /// Requests sent to it, retransmissions not counted.
    pub requests_out: u64,
}

/// `GET /v1/digest`. Nodes that hold the same live state have equal digests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Over all live cells, 32 hex digits.
    pub digest: String,
    /// Live cells.
    pub cells: u64,
    /// By table name.
    pub tables: BTreeMap<String, TableDigest>,
    /// Highest sequence by origin (16 hex digits).
    pub clock: BTreeMap<String, u64>,
}

/// The part of a [`Digest`] that is about one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDigest {
    /// Over its live cells, 32 hex digits.
    pub digest: String,
    /// Its live cells.
    pub cells: u64,
}

/// A change, as `GET /v1/watch` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Table.
    pub table: String,
    /// Key: AoR or hash-table key.
    pub key: String,
    /// Member: contact identity; empty for hash tables.
    pub member: String,
    /// What happened.
    pub what: ChangeKind,
    /// Id of the node that wrote it, 16 hex digits.
    pub node: String,
    /// When, in unix milliseconds by the writer's clock.
    pub time_ms: u64,
}

/// What happened to a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It has a new live version.
    Set,
    /// It was removed.
    Removed,
    /// Its deadline passed.
    Expired,
}

impl ChangeKind {
    /// The word in JSON and tables.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Removed => "removed",
            Self::Expired => "expired",
        }
    }
}
