//! What a node shows: plain rows, which the shell turns into its own formats.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bstr::BString;
use crdt::{NodeId, Origin};

use crate::command::Value;

/// `GET /v1/status`.
#[derive(Clone, Debug)]
pub struct StatusView {
    /// Name.
    pub name: String,
    /// Stable id.
    pub node: NodeId,
    /// Process lifetime.
    pub origin: Origin,
    /// Cluster name.
    pub cluster: String,
    /// QUIC address.
    pub advertise: SocketAddr,
    /// Seconds since start.
    pub uptime_s: u64,
    /// Live cells.
    pub cells: u64,
    /// Live contacts.
    pub contacts: u64,
    /// Other nodes with a link that carries data.
    pub links: usize,
    /// Attached Kamailio servers that answer.
    pub servers: usize,
    /// Whether everything up to now is on disk; `None` without a disk.
    pub durable: Option<bool>,
    /// Bytes of state in memory, estimated.
    pub memory: usize,
    /// Whether the clock differs too much from another node's (R3).
    pub skewed: bool,
    /// Whether this node is still taking in its first full session.
    pub joining: bool,
    /// Whether no removal is forgotten, because a server has not said yet what it holds (R7).
    pub settling: bool,
}

/// A row of `GET /v1/members`.
#[derive(Clone, Debug)]
pub struct MemberView {
    /// Name.
    pub name: String,
    /// Stable id.
    pub id: NodeId,
    /// QUIC address.
    pub addr: SocketAddr,
    /// Failure detector's opinion.
    pub state: MemberState,
    /// Whether a link carries data.
    pub linked: bool,
    /// Clock offset, milliseconds (theirs minus ours), if measured.
    pub offset_ms: Option<i64>,
    /// Cells waiting to be pushed there.
    pub queued: usize,
}

/// SWIM states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// Answers.
    Alive,
    /// Missed a probe.
    Suspect,
    /// Gone, kept in the roster until `forget_after`.
    Down,
}

/// A row of `GET /v1/peers`: a Kamailio server.
#[derive(Clone, Debug)]
pub struct PeerView {
    /// `sip:host:port[;transport=tcp]`.
    pub uri: String,
    /// `new`, `active`, `silent` or `left`.
    pub state: &'static str,
    /// `5.6` or `6`.
    pub generation: &'static str,
    /// Open requests.
    pub open: usize,
    /// Cells waiting.
    pub queued: usize,
    /// Cells that the server is not known to hold in their current version.
    pub lag_cells: usize,
    /// Cells that it was told and has not yet shown to hold: an absence of one of these proves nothing.
    pub unproven: usize,
    /// Winners sent back because the server held something else.
    pub corrections: u64,
    /// When the last dump of it that was complete, and could be judged, was asked for, unix seconds.
    pub last_sync: Option<u64>,
    /// Whether this node speaks for it (ownership).
    pub owned: bool,
    /// Times that it was seen to have restarted.
    pub restarts: u64,
    /// Requests received from it.
    pub requests_in: u64,
    /// Requests sent to it (retransmissions not counted).
    pub requests_out: u64,
}

/// `GET /v1/digest`.
#[derive(Clone, Debug)]
pub struct DigestView {
    /// Over all live cells.
    pub digest: u128,
    /// Live cells.
    pub cells: u64,
    /// By table.
    pub tables: BTreeMap<String, (u128, u64)>,
    /// Highest sequence per origin.
    pub clock: BTreeMap<Origin, u64>,
}

/// A live contact.
#[derive(Clone, Debug)]
pub struct ContactView {
    /// Contact URI.
    pub contact: BString,
    /// Source URI, empty if none.
    pub received: BString,
    /// Path, empty if none.
    pub path: BString,
    /// q times 1,000, -1 if none.
    pub q: i32,
    /// Unix seconds, 0 = permanent.
    pub expires: u64,
    /// Call-ID.
    pub callid: BString,
    /// CSeq.
    pub cseq: u32,
    /// User agent.
    pub user_agent: BString,
    /// `+sip.instance`.
    pub instance: BString,
    /// Outbound reg-id.
    pub reg_id: u32,
    /// Bit mask of methods.
    pub methods: u32,
    /// Every ruid that some server has for it.
    pub ruids: Vec<BString>,
    /// Unix seconds.
    pub last_modified: u64,
}

/// A live dialog.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DialogView {
    /// Call-ID.
    pub callid: BString,
    /// The caller's tag.
    pub from_tag: BString,
    /// The callee's tag, empty while unknown.
    pub to_tag: BString,
    /// 1 unconfirmed, 2 early, 3 confirmed without an ACK, 4 confirmed.
    pub state: u8,
    /// From URI.
    pub from_uri: BString,
    /// To URI.
    pub to_uri: BString,
    /// When it began, unix seconds.
    pub start: u64,
    /// When it was answered, unix seconds; 0 = not yet.
    pub answered: u64,
    /// When it ends by itself, unix seconds.
    pub expires: u64,
    /// Variables by name.
    pub vars: BTreeMap<BString, BString>,
    /// The profiles that it counts in, by name.
    pub profiles: Vec<ProfileView>,
}

/// A profile that a dialog counts in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProfileView {
    /// Its name.
    pub name: BString,
    /// The value in it, if any.
    pub value: Option<BString>,
}

/// A hash table.
#[derive(Clone, Debug)]
pub struct HtableView {
    /// Name.
    pub name: String,
    /// Live entries.
    pub entries: u64,
    /// Configured or learned `autoexpire`, seconds; 0 = none known.
    pub autoexpire_s: u32,
    /// Whether it counts exactly.
    pub counter: bool,
}

/// A live hash-table entry.
#[derive(Clone, Debug)]
pub struct EntryView {
    /// Key.
    pub key: BString,
    /// Value.
    pub value: Value,
    /// Unix seconds.
    pub expires: Option<u64>,
}

/// A figure for `/metrics`.
#[derive(Clone, Debug)]
pub struct Metric {
    /// Without the prefix `starling_`; ends in `_total` if it only grows.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Label name and value pairs.
    pub labels: Vec<(&'static str, String)>,
    /// The figure.
    pub value: u64,
}
