//! The configuration file: one struct per section, every key with a default.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;

use super::address::{DmqUri, HostPort, SipAddr};
use super::span::Span;

/// Everything that a configuration file or a flag can say. A key that is not here is an error.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The name that people use; the certificate's, or else the host's, unless given.
    pub name: Option<String>,
    /// Data directory; none: memory only.
    pub data: Option<PathBuf>,
    /// When a write is acknowledged.
    pub ack: Ack,
    /// Links to other nodes.
    pub link: Link,
    /// Certificates.
    pub tls: Tls,
    /// SIP sockets.
    pub sip: Sip,
    /// Kamailio servers.
    pub dmq: Dmq,
    /// Registrations.
    pub location: Location,
    /// Dialogs.
    pub dialog: Dialog,
    /// Hash tables that need more than the defaults, by name.
    pub htable: BTreeMap<String, Htable>,
    /// The admin interface.
    pub admin: Admin,
    /// Logging.
    pub log: Log,
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// At once.
    #[default]
    Memory,
    /// When it is on disk, fsynced.
    Disk,
}

/// `[link]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    /// QUIC (UDP) address to listen on.
    pub listen: SocketAddr,
    /// The address that others reach this node at; the listening one unless given.
    pub advertise: Option<HostPort>,
    /// Nodes to join.
    pub join: Vec<HostPort>,
    /// Failure detector timing.
    pub timing: Timing,
    /// Largest tolerated clock offset to another node.
    pub max_skew: Span,
    /// How long a node that is away stays a member.
    pub forget_after: Span,
    /// Nodes of different clusters refuse each other.
    pub cluster: String,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7946)),
            advertise: None,
            join: Vec::new(),
            timing: Timing::Lan,
            max_skew: Span::from_secs(5),
            forget_after: Span::from_secs(7 * 86_400),
            cluster: "starling".to_owned(),
        }
    }
}

/// Failure detector timing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Timing {
    /// One site.
    #[default]
    Lan,
    /// Several sites.
    Wan,
}

/// `[tls]`: all of it or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Certificate of the authority that all nodes share, PEM.
    pub ca: Option<PathBuf>,
    /// This node's certificate, PEM.
    pub cert: Option<PathBuf>,
    /// Its private key, PEM.
    pub key: Option<PathBuf>,
}

/// `[sip]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sip {
    /// Sockets, `udp:IP:PORT` or `tcp:IP:PORT`.
    pub listen: Vec<SipAddr>,
    /// The IP address that servers know this node by; needed where a socket listens on all addresses.
    pub advertise: Option<IpAddr>,
}

impl Default for Sip {
    fn default() -> Self {
        let addr = SocketAddr::from(([127, 0, 0, 1], 5070));
        Self { listen: vec![SipAddr::udp(addr), SipAddr::tcp(addr)], advertise: None }
    }
}

/// `[dmq]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dmq {
    /// Servers to greet at start, `sip:HOST[:PORT][;transport=tcp]`.
    pub peers: Vec<DmqUri>,
    /// What the node list says.
    pub mode: Mode,
    /// Source networks whose requests are taken; loopback and the peers' addresses unless given.
    pub trusted: Option<Vec<Net>>,
    /// How often a server is pinged.
    pub ping_interval: Span,
    /// Open requests per server at a time.
    pub window: usize,
    /// How many contacts a server is fed at most; 0 = no limit.
    pub feed_limit: usize,
    /// Contacts in one request while a queue is long.
    pub multi: usize,
}

impl Default for Dmq {
    fn default() -> Self {
        Self {
            peers: Vec::new(),
            mode: Mode::Bridge,
            trusted: None,
            ping_interval: Span::from_secs(5),
            window: 64,
            feed_limit: 0,
            multi: 3,
        }
    }
}

/// What the DMQ node list says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Only this node.
    #[default]
    Bridge,
    /// All DMQ nodes.
    Mesh,
}

/// A network, `192.0.2.0/24`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Net(pub IpNet);

impl TryFrom<String> for Net {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let host = text.parse::<IpAddr>().map(IpNet::from);
        host.or_else(|_| text.parse::<IpNet>())
            .map(Self)
            .map_err(|_| format!("{text:?} is not a network: write \"192.0.2.0/24\" or \"192.0.2.1\""))
    }
}

/// `[location]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Location {
    /// Longest life of a registration. The same on all nodes.
    pub max_ttl: Span,
}

impl Default for Location {
    fn default() -> Self {
        Self { max_ttl: Span::from_secs(86_400) }
    }
}

/// `[dialog]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dialog {
    /// Longest life of a dialog. The same on all nodes.
    pub max_life: Span,
}

impl Default for Dialog {
    fn default() -> Self {
        Self { max_life: Span::from_secs(43_200) }
    }
}

/// `[htable.NAME]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Htable {
    /// As in Kamailio's `htable` parameter; 0 = none.
    pub autoexpire: Span,
    /// As in Kamailio's `htable` parameter.
    pub updateexpire: bool,
    /// Exact counting of `$shtinc` over all sites.
    pub counter: bool,
    /// Longest life of an entry; 0 = unbounded.
    pub max_ttl: Span,
}

impl Default for Htable {
    fn default() -> Self {
        Self { autoexpire: Span::default(), updateexpire: true, counter: false, max_ttl: Span::default() }
    }
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// HTTP address.
    pub listen: SocketAddr,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8070)) }
    }
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: Level,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: Level::Info }
    }
}

/// Log levels by consequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Our bug, or data in danger.
    Error,
    /// May wake someone.
    Warn,
    /// Changes of state.
    Info,
    /// Steps.
    Debug,
    /// Single packets.
    Trace,
}

impl Level {
    /// The word in the file.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}
