//! What one run is: every participant, every load and every fault, explicit and in a file's form.
//!
//! A scenario and a seed give a script ([`crate::scenario`]); a script gives a run, to the byte. What a seed drew is
//! written out here, and each participant draws from a stream of its own (seed, kind, id): so a shrinker can take one
//! away and the others go on doing what they did. A replay file is a script.
//!
//! All times are virtual milliseconds since the start of the run, unless a name says otherwise.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The number of a node, from 0. It stays the same when a shrinker takes others away.
pub type NodeIx = u16;

/// The number of a simulated Kamailio server, from 0.
pub type ServerIx = u16;

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// The scenario that it was drawn from, or the name of a file.
    pub scenario: String,
    /// Feeds every stream of randomness.
    pub seed: u64,
    /// When load and faults end.
    pub duration_ms: u64,
    /// How long all may take to be equal after `duration_ms`.
    pub settle_ms: u64,
    /// The nodes.
    pub nodes: Vec<NodeSpec>,
    /// The servers.
    #[serde(default)]
    pub servers: Vec<ServerSpec>,
    /// The phones.
    #[serde(default)]
    pub phones: Vec<PhoneSpec>,
    /// Writers of hash tables, and operators.
    #[serde(default)]
    pub writers: Vec<WriterSpec>,
    /// The calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<CallSpec>,
    /// Hash tables, as all nodes and servers declare them.
    #[serde(default)]
    pub htables: BTreeMap<String, TableSpec>,
    /// The network when nothing is wrong.
    pub net: NetSpec,
    /// What goes wrong, by time.
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// Limits that every node is configured with.
    pub limits: Limits,
}

/// What every node of the run is configured with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// R3: the largest tolerated clock offset.
    pub max_skew_ms: u64,
    /// R5: how long an absent node is waited for, seconds.
    pub forget_after_s: u64,
    /// R1: the longest life of a registration cell, seconds.
    pub location_max_ttl_s: u32,
    /// R1: the longest life of a dialog, seconds.
    #[serde(default = "half_a_day")]
    pub dialog_max_life_s: u32,
    /// DMQ mode `mesh` instead of `bridge`.
    #[serde(default)]
    pub mesh: bool,
    /// Wide-area failure detector timing.
    #[serde(default)]
    pub wan: bool,
}

const fn half_a_day() -> u32 {
    43_200
}

/// A node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// Its number, unique.
    pub ix: NodeIx,
    /// The site that it stands in; paths within a site and between sites differ.
    pub site: u16,
    /// Whether it has a disk.
    pub durable: bool,
    /// Whether it answers only what is on disk.
    #[serde(default)]
    pub ack_disk: bool,
    /// When it is started the first time.
    #[serde(default)]
    pub start_ms: u64,
    /// How far its wall clock is off at the start.
    #[serde(default)]
    pub clock_offset_ms: i64,
    /// How much its wall clock gains, parts per million.
    #[serde(default)]
    pub clock_drift_ppm: i32,
    /// The nodes that its configuration names.
    pub join: Vec<NodeIx>,
}

/// A simulated Kamailio server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSpec {
    /// Its number, unique.
    pub ix: ServerIx,
    /// The site that it stands in.
    pub site: u16,
    /// 5.6 or 6.x behaviour.
    pub generation: Generation,
    /// The nodes that it names as DMQ peers.
    #[serde(default)]
    pub nodes: Vec<NodeIx>,
    /// The servers that it names as DMQ peers (plain DMQ, or mode `mesh`).
    #[serde(default)]
    pub peers: Vec<ServerIx>,
    /// When it is started the first time.
    #[serde(default)]
    pub start_ms: u64,
    /// Its shared memory, in contacts; 0 = no limit.
    #[serde(default)]
    pub memory_contacts: u32,
    /// Share of messages, per mille, that a second worker overtakes.
    #[serde(default)]
    pub reorder_permille: u32,
    /// It speaks SIP over TCP, with everybody.
    #[serde(default)]
    pub tcp: bool,
    /// It sends garbage and worse instead of holding data.
    #[serde(default)]
    pub hostile: bool,
}

/// What a simulated server behaves like (docs/kdmq.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Generation {
    /// The last arrival wins.
    #[serde(rename = "5.6")]
    V5,
    /// `last_modified` decides.
    #[serde(rename = "6")]
    V6,
}

/// Where load enters the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Entry {
    /// A node's admin API.
    Node(NodeIx),
    /// A server: a SIP request or its own configuration script.
    Server(ServerIx),
}

/// A phone: registers, refreshes at half time, fails over, goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhoneSpec {
    /// Its number, unique; its address of record is derived from `aor`.
    pub id: u32,
    /// The number of its address of record; several phones may share one.
    pub aor: u32,
    /// Where it registers, in the order of its preference.
    pub at: Vec<Entry>,
    /// `Expires` that it asks for, seconds.
    pub expires_s: u32,
    /// Whether it names an instance and reg-id (RFC 5626).
    #[serde(default)]
    pub outbound: bool,
    /// Its first REGISTER.
    pub start_ms: u64,
    /// When it goes, if it goes before the end.
    #[serde(default)]
    pub stop_ms: Option<u64>,
    /// How it goes.
    #[serde(default)]
    pub leave: Leave,
}

/// How a phone goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Leave {
    /// Its battery is empty: it just stops.
    #[default]
    Silent,
    /// `Expires: 0` for its contact.
    Unregister,
    /// `Contact: *`.
    Star,
}

/// Somebody who writes at intervals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriterSpec {
    /// Its number, unique.
    pub id: u32,
    /// Where it writes.
    pub at: Entry,
    /// What it does.
    pub job: Job,
    /// Mean time between two writes.
    pub every_ms: u64,
    /// Its first write.
    pub start_ms: u64,
    /// Its last write is before this.
    pub stop_ms: u64,
}

/// What a writer does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Job {
    /// Sets and deletes keys of a table; few keys are hot ones.
    Keys {
        /// Table name.
        table: String,
        /// Number of keys.
        keys: u32,
        /// Share of deletes, per mille.
        delete_permille: u32,
    },
    /// Increments counters.
    Count {
        /// Table name; it must count.
        table: String,
        /// Number of keys.
        keys: u32,
    },
    /// An operator removes contacts of these addresses of record.
    Operator {
        /// Number of addresses of record.
        aors: u32,
    },
}

impl Job {
    /// The table that it writes; an operator writes none.
    pub fn table(&self) -> Option<&String> {
        match self {
            Self::Keys { table, .. } | Self::Count { table, .. } => Some(table),
            Self::Operator { .. } => None,
        }
    }
}

/// A call between two sides, each of which has a node. Only nodes hold dialogs, so no server takes part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallSpec {
    /// Its number, unique; Call-ID and tags are derived from it.
    pub id: u32,
    /// The node of the caller's proxy.
    pub caller: NodeIx,
    /// The node of the callee's proxy.
    pub callee: NodeIx,
    /// Its INVITE, at the caller's.
    pub start_ms: u64,
    /// How long after that it is answered; half way it rings.
    pub answer_ms: u64,
    /// How long after the answer the BYE comes; never, if whoever was to send it died.
    #[serde(default)]
    pub talk_ms: Option<u64>,
    /// When it ends if nobody ends it, seconds after its INVITE or its refresh.
    pub lifetime_s: u32,
    /// Whether it is refreshed half way (RFC 4028), and then lives for so long from there.
    #[serde(default)]
    pub refreshed: bool,
    /// How often a variable is set while it lasts, by either side.
    #[serde(default)]
    pub vars: u32,
    /// Whether it counts in a profile.
    #[serde(default)]
    pub profile: bool,
    /// Who ends it.
    #[serde(default)]
    pub bye: Bye,
    /// Whether something is said of it after its BYE, at the node that has not heard that.
    #[serde(default)]
    pub late: bool,
}

/// Who ends a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bye {
    /// The caller, at its node.
    #[default]
    Caller,
    /// The callee, at its node.
    Callee,
    /// Both at about the same time, each at its node.
    Twice,
}

/// A hash table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSpec {
    /// `autoexpire`, seconds; 0 = none.
    #[serde(default)]
    pub autoexpire_s: u32,
    /// `updateexpire=0`: a set does not restart the expiry.
    #[serde(default)]
    pub keep_expire: bool,
    /// Counts exactly (R8).
    #[serde(default)]
    pub counter: bool,
    /// Longest life of a cell, seconds; 0 = unbounded: forgets by stability (R5).
    #[serde(default)]
    pub max_ttl_s: u32,
}

/// The network when nothing is wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetSpec {
    /// Paths within a site.
    pub site: PathSpec,
    /// Paths between sites.
    pub wan: PathSpec,
    /// Paths to and from a node on the same host: its server.
    pub host: PathSpec,
}

/// One direction of a path.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathSpec {
    /// Least one-way delay, microseconds.
    pub delay_us: u64,
    /// Mean of what comes on top (exponential), microseconds.
    pub jitter_us: u64,
    /// Datagrams lost, per mille.
    #[serde(default)]
    pub loss_permille: u32,
    /// Datagrams that arrive twice, per mille.
    #[serde(default)]
    pub duplicate_permille: u32,
    /// Datagrams held back so that later ones overtake them, per mille.
    #[serde(default)]
    pub reorder_permille: u32,
    /// Bytes per second; 0 = no limit.
    #[serde(default)]
    pub bytes_per_s: u64,
    /// Datagrams beyond this many bytes vanish; 0 = no limit.
    #[serde(default)]
    pub mtu: u32,
}

/// Something that goes wrong at a time, and for how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When it begins.
    pub at_ms: u64,
    /// When it is over; equal to `at_ms` where it has no duration. At most `duration_ms` of the script, when all faults
    /// end; beyond it only for a process that never comes back.
    pub until_ms: u64,
    /// What.
    pub kind: FaultKind,
}

/// One end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Host {
    /// A node.
    Node(NodeIx),
    /// A server.
    Server(ServerIx),
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum FaultKind {
    /// Nothing passes from any of `from` to any of `to`; with `both`, nor back.
    Cut {
        /// Senders.
        from: Vec<Host>,
        /// Receivers.
        to: Vec<Host>,
        /// Both directions.
        both: bool,
    },
    /// The paths between these two are as told, in both directions.
    Path {
        /// One end.
        a: Host,
        /// The other.
        b: Host,
        /// What the paths are like meanwhile.
        path: PathSpec,
    },
    /// Every session (QUIC, TCP) between these two breaks, at whatever byte it is.
    Break {
        /// One end.
        a: Host,
        /// The other.
        b: Host,
    },
    /// The process is killed; it starts again at `until_ms` (never, if that is beyond the script's end).
    Kill {
        /// Which.
        host: Host,
        /// What happens to its disk meanwhile.
        #[serde(default)]
        disk: DiskLoss,
        /// It comes back under a new identity (a node), or as a new machine.
        #[serde(default)]
        new_identity: bool,
    },
    /// The process stands still (SIGSTOP): nothing is read, no timer runs; time goes on.
    Pause {
        /// Which.
        host: Host,
    },
    /// Each input takes this long, microseconds.
    Slow {
        /// Which.
        node: NodeIx,
        /// Per input.
        us: u64,
    },
    /// The wall clock jumps by so much at the start, and back at the end.
    ClockJump {
        /// Whose.
        node: NodeIx,
        /// Signed milliseconds.
        by_ms: i64,
    },
    /// Writing fails: full disk, failing fsync.
    DiskFails {
        /// Whose.
        node: NodeIx,
    },
    /// Writing takes this long per batch, milliseconds.
    DiskSlow {
        /// Whose.
        node: NodeIx,
        /// Per batch.
        ms: u64,
    },
    /// The node speaks another version of the protocol between nodes than those that this does not name: they refuse each
    /// other's links. Links that are up when it begins or ends stay as they are.
    OtherVersion {
        /// Which.
        node: NodeIx,
    },
    /// A stranger sends what it likes to a node's SIP socket, so many messages a second.
    Hostile {
        /// To whom.
        node: NodeIx,
        /// Per second.
        per_s: u32,
    },
}

/// What a crash does to a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskLoss {
    /// All that was fsynced is there, nothing else.
    #[default]
    None,
    /// Some of the batch under way was written as well (batches are atomic: the whole of it).
    Tail,
    /// Some of what was called fsynced is gone: the last batches.
    LostFsync,
    /// An entry cannot be read.
    Torn,
    /// The state of some minutes ago is restored.
    Backup,
    /// Everything is gone.
    Wiped,
}
