//! The command line, as people type it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{ArgGroup, Args as ClapArgs, Parser, Subcommand, ValueEnum};
use daemon::config::{DmqUri, HostPort, SipAddr, Span};

/// A replicated state store for SIP platforms: nodes that converge, with Kamailio servers attached.
#[derive(Debug, Parser)]
#[command(
    name = "starling",
    version,
    max_term_width = 110,
    after_help = "Start with `starling run`: it says what to do next.\n\
                  Exit codes: 0 done, 1 failed or not found, 2 wrong usage."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node
    Run(Box<Run>),
    /// How the node is
    Status(Query),
    /// The nodes of the cluster
    Members(Query),
    /// The attached Kamailio servers
    Peers(Query),
    /// Digests of the live state; equal on nodes that agree
    Digest(Query),
    /// Changes as they happen, until Ctrl-C
    Watch(Watch),
    /// Registrations
    Location(Location),
    /// Hash tables
    Htable(Htable),
    /// Dialogs
    Dialog(Dialog),
    /// Make certificates for links between hosts
    Cert(Cert),
    /// The simulator: whole clusters with servers and phones, under seeded faults
    Sim(crate::sim::args::Sim),
    /// The version of this program
    Version,
}

/// Which node to ask, and how to print.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Query {
    /// Print the answer as JSON, as the node gives it
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The admin address of the node to ask
    #[arg(long, global = true, value_name = "URL", env = "STARLING_ADMIN", default_value_t = default_admin())]
    pub(crate) admin: String,
}

fn default_admin() -> String {
    format!("http://{}", admin::DEFAULT_ADDRESS)
}

/// Every flag overrides its key in the file.
#[derive(Debug, ClapArgs)]
pub(crate) struct Run {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print the effective configuration with comments, and do not start
    #[arg(long)]
    pub(crate) print_config: bool,
    /// The node's name [default: the certificate's, or else the host's]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Keep the state in this directory [default: memory only]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// When a write is acknowledged [default: memory]
    #[arg(long)]
    pub(crate) ack: Option<Ack>,
    /// Listen here for links to other nodes [default: 127.0.0.1:7946]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// The address that other nodes reach this one at [default: the listening one]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<HostPort>,
    /// A node to join; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) join: Vec<HostPort>,
    /// Nodes of different clusters refuse each other [default: starling]
    #[arg(long)]
    pub(crate) cluster: Option<String>,
    /// Certificate of the authority that all nodes share
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// This node's certificate
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// A SIP socket for Kamailio servers; may be repeated [default: udp:127.0.0.1:5070 and tcp:127.0.0.1:5070]
    #[arg(long, value_name = "udp:IP:PORT")]
    pub(crate) sip: Vec<SipAddr>,
    /// The IP address that servers know this node by [default: the one in --sip]
    #[arg(long, value_name = "IP")]
    pub(crate) sip_advertise: Option<IpAddr>,
    /// A Kamailio server to greet at start; may be repeated
    #[arg(long, value_name = "sip:HOST:PORT")]
    pub(crate) dmq_peer: Vec<DmqUri>,
    /// What servers are told about others [default: bridge]
    #[arg(long)]
    pub(crate) dmq_mode: Option<Mode>,
    /// Where to answer `starling status` and the like [default: 127.0.0.1:8070]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) admin: Option<SocketAddr>,
    /// What to log [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log: Option<Log>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Ack {
    /// At once
    Memory,
    /// When it is on disk
    Disk,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Mode {
    /// Only of this node
    Bridge,
    /// Of all DMQ nodes
    Mesh,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Log {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Watch {
    /// Only changes of this table
    #[arg(long, value_name = "NAME")]
    pub(crate) table: Option<String>,
    #[command(flatten)]
    pub(crate) query: Query,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Location {
    #[command(subcommand)]
    pub(crate) action: LocationAction,
    #[command(flatten)]
    pub(crate) query: Query,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LocationAction {
    /// All addresses of record with their contacts
    List,
    /// The contacts of an address of record; exit code 1 if it has none
    Show {
        /// Address of record, as the servers store it
        aor: String,
    },
    /// Add or refresh a contact
    Add(Box<LocationAdd>),
    /// Remove a contact, or all contacts of an address of record
    Rm {
        /// Address of record
        aor: String,
        /// Contact URI; without it every contact is removed
        contact: Option<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct LocationAdd {
    /// Address of record
    pub(crate) aor: String,
    /// Contact URI
    pub(crate) contact: String,
    /// How long it lives; 0 = permanent
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(crate) expires: Span,
    /// Priority, 0 to 1
    #[arg(long)]
    pub(crate) q: Option<f64>,
    /// +sip.instance, with angle brackets
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) instance: String,
    /// Outbound reg-id
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub(crate) reg_id: u32,
    /// Path values
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) path: String,
    /// Source URI
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) received: String,
    /// User agent
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) user_agent: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Htable {
    #[command(subcommand)]
    pub(crate) action: HtableAction,
    #[command(flatten)]
    pub(crate) query: Query,
}

#[derive(Debug, Subcommand)]
pub(crate) enum HtableAction {
    /// All hash tables
    List,
    /// All entries of a table
    Dump {
        /// Table
        name: String,
    },
    /// An entry's value; exit code 1 if it is absent
    Get {
        /// Table
        name: String,
        /// Key
        key: String,
    },
    /// Set an entry
    Set {
        /// Table
        name: String,
        /// Key
        key: String,
        /// Value
        #[arg(allow_hyphen_values = true)]
        value: String,
        /// The value is an integer
        #[arg(long)]
        int: bool,
        /// How long it lives [default: the table's autoexpire, if it has one]
        #[arg(long, value_name = "TIME")]
        expires: Option<Span>,
    },
    /// Add to an integer, which starts at 0; prints the new value
    Inc {
        /// Table
        name: String,
        /// Key
        key: String,
        /// What to add
        #[arg(default_value_t = 1, allow_hyphen_values = true)]
        by: i64,
    },
    /// Delete an entry, or all that match a pattern; exit code 1 if KEY is absent
    Del(HtableDel),
}

#[derive(Debug, ClapArgs)]
#[command(group(ArgGroup::new("what").required(true).args(["key", "prefix", "regex"])))]
pub(crate) struct HtableDel {
    /// Table
    pub(crate) name: String,
    /// Key
    pub(crate) key: Option<String>,
    /// Delete what begins with this
    #[arg(long)]
    pub(crate) prefix: Option<String>,
    /// Delete what matches this regular expression, anywhere in it
    #[arg(long)]
    pub(crate) regex: Option<String>,
    /// Look at values instead of keys
    #[arg(long, conflicts_with = "key")]
    pub(crate) values: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Dialog {
    #[command(subcommand)]
    pub(crate) action: DialogAction,
    #[command(flatten)]
    pub(crate) query: Query,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DialogAction {
    /// All live dialogs
    List,
    /// A dialog with its variables and profiles; exit code 1 if there is none
    Show {
        /// Call-ID and From tag with a ; between them, as `list` prints it
        id: String,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Cert {
    #[command(subcommand)]
    pub(crate) action: CertAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertAction {
    /// Make an authority: once for all nodes
    Ca {
        /// Directory of ca.pem and ca.key
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Its name
        #[arg(long, default_value = "starling")]
        name: String,
        /// Days until it expires
        #[arg(long, default_value_t = 7_300, value_parser = clap::value_parser!(u32).range(1..))]
        days: u32,
        /// Replace what is there
        #[arg(long)]
        force: bool,
    },
    /// Make a node's certificate
    Node {
        /// Directory of ca.pem and ca.key
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// The node's name
        #[arg(long)]
        name: String,
        /// Directory of NAME.pem, NAME.key and a copy of ca.pem
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// A host name or IP address of the node, for other tools; may be repeated
        #[arg(long, value_name = "HOST")]
        host: Vec<String>,
        /// Days until it expires
        #[arg(long, default_value_t = 3_650, value_parser = clap::value_parser!(u32).range(1..))]
        days: u32,
        /// Replace what is there
        #[arg(long)]
        force: bool,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
