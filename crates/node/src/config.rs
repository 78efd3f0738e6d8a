//! What a node is told at its start. All defaults are usable.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crdt::{NodeId, Origin};
use ipnet::IpNet;

/// Everything a node is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The stable id, drawn once and kept on disk.
    pub node: NodeId,
    /// The id of this process lifetime, drawn at each start.
    pub origin: Origin,
    /// The name people use; with certificates, the certificate's.
    pub name: String,
    /// Nodes of different clusters refuse each other at hello.
    pub cluster: String,
    /// The QUIC address that others reach this node at.
    pub advertise: SocketAddr,
    /// QUIC addresses of nodes to join.
    pub join: Vec<SocketAddr>,
    /// When a write counts as taken.
    pub ack: Ack,
    /// Whether there is a disk. Without one nothing is persisted and [`crate::Output::Persist`] never comes.
    pub durable: bool,
    /// Largest tolerated clock offset to a peer, milliseconds (R3).
    pub max_skew_ms: u64,
    /// How long a node that is away stays a member whom forgetting waits for, seconds (docs/rules.md R5 and 18).
    pub forget_after_s: u64,
    /// Failure detector timing.
    pub timing: Timing,
    /// Longest life of a registration cell, seconds; a longer or permanent contact is held as a lease.
    pub location_max_ttl_s: u32,
    /// Longest life of a dialog, seconds. The same on all nodes.
    pub dialog_max_life_s: u32,
    /// Hash tables that need more than the defaults, by name.
    pub htables: BTreeMap<String, HtableConfig>,
    /// Local SIP sockets, in the order of [`crate::SocketId`].
    pub sip: Vec<SipSocket>,
    /// KDMQ.
    pub dmq: DmqConfig,
}

/// When a SIP 200 or an admin answer may leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// At once. A crash loses what was not yet on disk: at most the batch being written and the one behind it.
    #[default]
    Memory,
    /// When it is on disk, fsynced.
    Disk,
}

/// Failure detector timing, by the kind of network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timing {
    /// One site.
    #[default]
    Lan,
    /// Several sites.
    Wan,
}

/// A local SIP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SipSocket {
    /// UDP or TCP.
    pub transport: SipTransport,
    /// The bound address; its IP and port are the node's DMQ identity towards servers.
    pub addr: SocketAddr,
}

/// SIP transports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SipTransport {
    /// RFC 3261 18, unreliable.
    Udp,
    /// RFC 3261 18, stream.
    Tcp,
}

/// A hash table as the Kamailio servers declare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HtableConfig {
    /// `autoexpire`, seconds; 0 = none (or learned from a server's dump).
    pub autoexpire_s: u32,
    /// `updateexpire`: whether a set restarts the expiry.
    pub updateexpire: bool,
    /// Exact counting of `$shtinc` over all sites (R8).
    pub counter: bool,
    /// Longest life of a cell, seconds; 0 = unbounded: the table forgets by stability (R5).
    pub max_ttl_s: u32,
}

impl Default for HtableConfig {
    fn default() -> Self {
        Self { autoexpire_s: 0, updateexpire: true, counter: false, max_ttl_s: 0 }
    }
}

/// The KDMQ side.
#[derive(Clone, Debug)]
pub struct DmqConfig {
    /// Kamailio servers to greet at start (`host`, `port`, transport), besides those that come by themselves.
    pub peers: Vec<DmqPeer>,
    /// What the node list says.
    pub mode: DmqMode,
    /// Source addresses whose requests are taken; all others get 403 and change nothing.
    pub trusted: Vec<IpNet>,
    /// Ping interval, milliseconds.
    pub ping_interval_ms: u64,
    /// Open requests per server at a time.
    pub window: usize,
    /// How many contacts a server is fed at most; 0 = no limit. A contact costs a server some 1.1 kB of shared memory.
    pub feed_limit: usize,
    /// Contacts in one `multi` request while a queue is long.
    pub multi: usize,
}

/// A Kamailio server's DMQ address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DmqPeer {
    /// Address (names are resolved by the shell before).
    pub addr: SocketAddr,
    /// UDP or TCP.
    pub transport: SipTransport,
}

/// What the node list says (docs/kdmq.md 2.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DmqMode {
    /// Only this node: sites meet over QUIC.
    #[default]
    Bridge,
    /// All DMQ nodes, as Kamailio does.
    Mesh,
}
