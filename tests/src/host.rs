//! Where a process runs: an address that is its own, and perhaps a network namespace.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

/// SIP port of every host here; each host has its own address.
pub const SIP_PORT: u16 = 5060;
/// QUIC port of a node.
pub const QUIC_PORT: u16 = 7946;
/// Admin port of a node.
pub const ADMIN_PORT: u16 = 8070;

/// An IPv4 address and the network namespace in which it lives.
///
/// Every server and node has an address of its own: Kamailio 6 takes two DMQ nodes at one address for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The address.
    pub ip: Ipv4Addr,
    /// The namespace; `None` is that of the thread which starts the process.
    pub netns: Option<String>,
}

impl Host {
    /// A loopback address that no other test uses, in the current namespace.
    ///
    /// # Panics
    /// When 250 addresses have been handed out.
    #[must_use]
    pub fn loopback() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let pid = std::process::id();
        let [_, _, high, low] = pid.to_be_bytes();
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            assert!(n < 250, "no loopback address left");
            // 127.64.0.0/10 is ours; the process id keeps test binaries apart that run at the same time.
            let ip = Ipv4Addr::new(127, 64 | (high & 63), low, n);
            if UdpSocket::bind((ip, SIP_PORT)).is_ok() && UdpSocket::bind((ip, QUIC_PORT)).is_ok() {
                return Self { ip, netns: None };
            }
        }
    }

    /// The SIP address.
    #[must_use]
    pub fn sip(&self) -> SocketAddr {
        self.port(SIP_PORT)
    }

    /// The QUIC address.
    #[must_use]
    pub fn quic(&self) -> SocketAddr {
        self.port(QUIC_PORT)
    }

    /// The admin address.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.port(ADMIN_PORT)
    }

    /// Any port of it.
    #[must_use]
    pub fn port(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.ip), port)
    }

    /// As a DMQ node names itself: `sip:<ip>:<port>`, always with a port, never with `transport=udp`.
    #[must_use]
    pub fn dmq_uri(&self) -> String {
        format!("sip:{}:{SIP_PORT}", self.ip)
    }

    /// A command that runs here.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        match &self.netns {
            None => Command::new(program),
            Some(netns) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", netns, program]);
                command
            }
        }
    }
}
