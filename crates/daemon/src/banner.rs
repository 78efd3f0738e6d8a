//! What a node says at its start: who it is, and what to type next.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use node::Config;
use node::config::{Ack, SipTransport};

use crate::clock;
use crate::config::{Plan, SipAddr, TlsFiles};
use crate::http::Info;
use crate::sip::{Udp, UdpCounts};

/// Below this a burst of a server's sync answers may be lost in the kernel and has to be asked for again.
const GOOD_BUFFER: usize = 4 << 20;

/// What there is to say about a started node.
pub(crate) struct Facts {
    name: String,
    id: String,
    cluster: String,
    advertise: SocketAddr,
    tls: Option<TlsFiles>,
    sip: Vec<SipAddr>,
    admin: SocketAddr,
    data: Option<String>,
    ack: &'static str,
    join: Vec<SocketAddr>,
    servers: Vec<SocketAddr>,
    restored: usize,
}

impl Facts {
    pub(crate) fn new(plan: &Plan, config: &Config, sip: &[SipAddr], admin: SocketAddr, restored: usize) -> Self {
        Self {
            name: config.name.clone(),
            id: config.node.to_string(),
            cluster: config.cluster.clone(),
            advertise: config.advertise,
            tls: plan.tls.clone(),
            sip: sip.to_vec(),
            admin,
            data: plan.data.as_ref().map(|path| path.display().to_string()),
            ack: match plan.ack {
                Ack::Memory => "memory",
                Ack::Disk => "disk",
            },
            join: plan.join.clone(),
            servers: plan.dmq.peers.iter().map(|peer| peer.addr).collect(),
            restored,
        }
    }

    /// What the admin interface tells besides what the node knows.
    pub(crate) fn info(&self, udp: Vec<(String, Arc<UdpCounts>)>) -> Info {
        Info {
            tls: self.tls.is_some(),
            sip: self.sip.iter().map(SipAddr::to_string).collect(),
            admin: self.admin,
            data: self.data.clone(),
            ack: self.ack,
            started: clock::wall().secs(),
            udp,
        }
    }
}

/// Prints it all on standard error.
pub(crate) fn print(facts: &Facts, program: &str) {
    say(&text(facts, program));
    if !facts.admin.ip().is_loopback() {
        tracing::warn!(
            "the admin interface at {} is open to other hosts and has no authentication: anybody there can change the state",
            facts.admin
        );
    }
}

/// Writes on standard error. Whoever closed it does not want to hear, which is no reason to end.
pub(crate) fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Warns where the kernel gave a SIP socket less than a burst needs.
pub(crate) fn warn_small_buffer(udp: &Udp) {
    let granted = udp.receive_buffer();
    if granted < GOOD_BUFFER {
        tracing::warn!(
            "the kernel gives a SIP socket a receive buffer of only {} KiB, so a large server's sync may lose messages \
             and take longer; allow more with: sysctl -w net.core.rmem_max=33554432",
            granted >> 10
        );
    }
}

fn text(facts: &Facts, program: &str) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "\nStarling {}, node {} ({}), cluster {}\n\n{}\n{}\n{}\n{}",
        env!("CARGO_PKG_VERSION"),
        facts.name,
        facts.id,
        facts.cluster,
        addresses(facts),
        attach(facts),
        second_node(facts, program),
        ask(facts, program),
    );
    out
}

fn addresses(facts: &Facts) -> String {
    let sip: Vec<String> = facts.sip.iter().map(SipAddr::to_string).collect();
    let tls = match &facts.tls {
        Some(_) => "mutual TLS",
        None => "no certificates, so this host only",
    };
    let data = match &facts.data {
        Some(data) => {
            format!("{data} ({} entries restored; writes are acknowledged from {})", facts.restored, facts.ack)
        }
        None => "memory only: with this process the state is gone; --data DIR keeps it".to_owned(),
    };
    let mut out = format!(
        "  links  {} (QUIC, {tls})\n  SIP    {}\n  admin  http://{}\n  data   {data}\n",
        facts.advertise,
        if sip.is_empty() { "none".to_owned() } else { sip.join(" ") },
        facts.admin,
    );
    if !facts.join.is_empty() {
        let _ = writeln!(out, "  joins  {}", joined(&facts.join));
    }
    if !facts.servers.is_empty() {
        let _ = writeln!(out, "  greets {}", joined(&facts.servers));
    }
    out
}

fn joined(addrs: &[SocketAddr]) -> String {
    addrs.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(" ")
}

/// The lines for a Kamailio's configuration file.
fn attach(facts: &Facts) -> String {
    let udp = facts.sip.iter().find(|sip| sip.transport == SipTransport::Udp);
    let Some(sip) = udp.or(facts.sip.first()) else {
        return "No SIP socket, so no Kamailio can attach; --sip udp:IP:PORT opens one.\n".to_owned();
    };
    let transport = if sip.transport == SipTransport::Tcp { ";transport=tcp" } else { "" };
    let elsewhere = if sip.addr.ip().is_loopback() {
        "A Kamailio on another host: start this node with --sip udp:IP:5070 and --dmq-peer sip:ITS_IP:5060."
    } else {
        "A Kamailio on another host: start this node with --dmq-peer sip:ITS_IP:5060, so that it is trusted."
    };
    format!(
        r#"Attach a Kamailio: add this to kamailio.cfg, with its own address in the first line, and restart it

  modparam("dmq", "server_address", "sip:127.0.0.1:5060")
  modparam("dmq", "notification_address", "sip:{}{transport}")
  modparam("dmq_usrloc", "enable", 1)
  modparam("dmq_usrloc", "sync", 1)
  modparam("htable", "enable_dmq", 1)
  modparam("htable", "dmq_init_sync", 1)

  with loadmodule "dmq.so" before usrloc, htable and dmq_usrloc, ";dmqreplicate=1" at the hash tables to share,
  and as the first lines of request_route:  if ($rm == "KDMQ") {{ dmq_handle_message(); exit; }}
  {elsewhere}
"#,
        sip.addr
    )
}

fn second_node(facts: &Facts, program: &str) -> String {
    let next = |addr: SocketAddr| SocketAddr::new(addr.ip(), addr.port().checked_add(1).unwrap_or(0));
    let mut line = format!("{program} run");
    match &facts.tls {
        None => {
            let _ = write!(line, " --name {}-2", facts.name);
        }
        Some(files) => {
            let ca = files.ca.display();
            let _ = write!(line, " --tls-ca {ca} --tls-cert OTHER.pem --tls-key OTHER.key");
        }
    }
    let _ = write!(line, " --listen {} --join {}", next(facts.advertise), facts.advertise);
    for sip in &facts.sip {
        let _ = write!(line, " --sip {}", SipAddr { addr: next(sip.addr), ..*sip });
    }
    let _ = write!(line, " --admin {}", next(facts.admin));
    let elsewhere = match &facts.tls {
        None => format!(
            "On another host: nodes then need certificates:  {program} cert ca --out ca;  {program} cert node --ca ca --name NAME --out NAME"
        ),
        Some(_) => format!(
            "It needs a certificate of its own: {program} cert node --ca DIR --name OTHER --out DIR\n  \
             On another host: the same, with --listen IP:7946 there"
        ),
    };
    format!("Start a second node on this host\n\n  {line}\n\n  {elsewhere}\n")
}

fn ask(facts: &Facts, program: &str) -> String {
    let admin = if facts.admin.to_string() == admin::DEFAULT_ADDRESS {
        String::new()
    } else {
        format!(" --admin http://{}", facts.admin)
    };
    format!("Ask this node\n\n  {program} status{admin}\n  {program} --help\n\nCtrl-C stops it.\n\n")
}
