//! Addresses as people write them: `host:port`, `udp:ip:port`, `sip:host:port;transport=tcp`.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use node::config::SipTransport;
use serde::Deserialize;

/// An address that cannot be read or found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not `host:port`.
    #[error("{0:?} is not an address: write \"HOST:PORT\", like \"192.0.2.1:7946\" or \"[2001:db8::1]:7946\"")]
    HostPort(String),
    /// Not `udp:ip:port`.
    #[error("{0:?} is not a SIP socket: write \"udp:IP:PORT\" or \"tcp:IP:PORT\", like \"udp:127.0.0.1:5070\"")]
    Sip(String),
    /// Not a SIP URI of a server.
    #[error("{0:?} is not a DMQ address: write \"sip:HOST[:PORT][;transport=tcp]\", like \"sip:192.0.2.1:5060\"")]
    Dmq(String),
    /// The resolver does not know the name.
    #[error("cannot find the address of {name:?}: {reason}")]
    Resolve {
        /// The name.
        name: String,
        /// The resolver's words.
        reason: String,
    },
}

/// A host name or IP address with a port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HostPort(String);

impl HostPort {
    /// Its address now; of several, the first IPv4 one.
    pub fn resolve(&self) -> Result<SocketAddr, AddressError> {
        let failed = |reason: String| AddressError::Resolve { name: self.0.clone(), reason };
        let found: Vec<SocketAddr> = self.0.to_socket_addrs().map_err(|e| failed(e.to_string()))?.collect();
        let v4 = found.iter().find(|a| a.is_ipv4());
        v4.or(found.first()).copied().ok_or_else(|| failed("it has none".to_owned()))
    }
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let bad = || AddressError::HostPort(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let v6 = host.starts_with('[') && host.ends_with(']');
        if host.is_empty() || (host.contains(':') && !v6) || port.parse::<u16>().is_err() {
            return Err(bad());
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for HostPort {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<SocketAddr> for HostPort {
    fn from(addr: SocketAddr) -> Self {
        Self(addr.to_string())
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A local SIP socket, `udp:IP:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SipAddr {
    /// UDP or TCP.
    pub transport: SipTransport,
    /// Where to bind.
    pub addr: SocketAddr,
}

impl SipAddr {
    /// A UDP socket.
    pub const fn udp(addr: SocketAddr) -> Self {
        Self { transport: SipTransport::Udp, addr }
    }

    /// A TCP listener.
    pub const fn tcp(addr: SocketAddr) -> Self {
        Self { transport: SipTransport::Tcp, addr }
    }
}

/// The word for a transport in URIs and configuration.
pub const fn transport_word(transport: SipTransport) -> &'static str {
    match transport {
        SipTransport::Udp => "udp",
        SipTransport::Tcp => "tcp",
    }
}

fn transport_named(word: &str) -> Option<SipTransport> {
    [SipTransport::Udp, SipTransport::Tcp].into_iter().find(|t| transport_word(*t).eq_ignore_ascii_case(word))
}

impl FromStr for SipAddr {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let bad = || AddressError::Sip(text.to_owned());
        let (transport, addr) = text.split_once(':').ok_or_else(bad)?;
        Ok(Self { transport: transport_named(transport).ok_or_else(bad)?, addr: addr.parse().map_err(|_| bad())? })
    }
}

impl TryFrom<String> for SipAddr {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl fmt::Display for SipAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", transport_word(self.transport), self.addr)
    }
}

/// The DMQ address of a Kamailio server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct DmqUri {
    /// Host and port.
    pub host: HostPort,
    /// UDP unless `;transport=tcp`.
    pub transport: SipTransport,
}

impl FromStr for DmqUri {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let bad = || AddressError::Dmq(text.to_owned());
        let rest = text.strip_prefix("sip:").ok_or_else(bad)?;
        let mut parts = rest.split(';');
        let host = parts.next().unwrap_or_default();
        let host = host.parse().or_else(|_| format!("{host}:5060").parse()).map_err(|_: AddressError| bad())?;
        if rest.contains('@') {
            return Err(bad());
        }
        let mut transport = SipTransport::Udp;
        for parameter in parts {
            if let Some(word) = parameter.strip_prefix("transport=") {
                transport = transport_named(word).ok_or_else(bad)?;
            }
        }
        Ok(Self { host, transport })
    }
}

impl TryFrom<String> for DmqUri {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl fmt::Display for DmqUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sip:{}", self.host)?;
        match self.transport {
            SipTransport::Udp => Ok(()),
            SipTransport::Tcp => f.write_str(";transport=tcp"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dmq_uri_without_a_port_means_5060() {
        let uri: DmqUri = "sip:192.0.2.1".parse().expect("valid");
        assert_eq!(uri.to_string(), "sip:192.0.2.1:5060");
        assert_eq!(uri.host.resolve(), Ok(SocketAddr::from(([192, 0, 2, 1], 5060))));
    }

    #[test]
    fn a_dmq_uri_keeps_its_transport() {
        let uri: DmqUri = "sip:k1.example.org:5062;transport=TCP".parse().expect("valid");
        assert_eq!(uri.to_string(), "sip:k1.example.org:5062;transport=tcp");
        assert!("sip:k1;transport=tls".parse::<DmqUri>().is_err());
        assert!("192.0.2.1:5060".parse::<DmqUri>().is_err());
        assert!("sip:alice@192.0.2.1".parse::<DmqUri>().is_err());
    }

    #[test]
    fn a_sip_socket_names_its_transport() {
        let addr: SipAddr = "tcp:[::1]:5070".parse().expect("valid");
        assert_eq!(addr.to_string(), "tcp:[::1]:5070");
        for text in ["127.0.0.1:5070", "sctp:127.0.0.1:5070", "udp:localhost:5070", "udp:127.0.0.1"] {
            assert!(text.parse::<SipAddr>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_host_needs_a_port() {
        for text in ["", "host", ":7946", "host:", "host:x", "2001:db8::1:7946"] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
        assert!("n1.example.org:7946".parse::<HostPort>().is_ok());
        assert!("[2001:db8::1]:7946".parse::<HostPort>().is_ok());
    }
}
