//! The node list of a server: who is in the mesh, by hearsay and by answers (docs/kdmq.md 2 and 3).

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use kdmq::notification::{NodeLine, Status, Transport};

use crate::script::Generation;

/// The buffer in which a server builds its list; one that does not fit is never sent.
const LIST_BUFFER: usize = 1_024;

/// Another node of the mesh.
#[derive(Clone, Copy, Debug)]
struct Peer {
    addr: SocketAddr,
    status: Status,
    /// It is a `notification_address` of this server.
    configured: bool,
}

/// A line of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Node(SocketAddr, Option<Status>),
    /// A node of another transport: a server here has one socket, so it could not reach it, and does not name it either.
    Elsewhere,
}

/// What came of reading a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Merged {
    /// So many lines said something new.
    News(usize),
    /// A line that 5.6 hangs on for ever.
    Hangs,
}

/// The node list.
pub(super) struct Peers {
    own: SocketAddr,
    tcp: bool,
    generation: Generation,
    configured: Vec<SocketAddr>,
    /// Newest last; lists are written the other way round.
    peers: Vec<Peer>,
}

impl Peers {
    pub(super) fn new(own: SocketAddr, tcp: bool, generation: Generation, configured: &[SocketAddr]) -> Self {
        let mut this = Self { own, tcp, generation, configured: configured.to_vec(), peers: Vec::new() };
        this.add_configured();
        this
    }

    /// Puts the configured ones into the list, before anybody has reached them.
    pub(super) fn add_configured(&mut self) {
        let status = self.unsaid();
        let new = self.configured.iter().filter(|&&addr| addr != self.own);
        self.peers.extend(new.map(|&addr| Peer { addr, status, configured: true }));
    }

    /// The status of a node of which none was told.
    fn unsaid(&self) -> Status {
        match self.generation {
            Generation::V5 => Status::Pending,
            Generation::V6 => Status::Active,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Everybody, whatever their status: who is pinged.
    pub(super) fn all(&self) -> Vec<SocketAddr> {
        self.peers.iter().map(|peer| peer.addr).collect()
    }

    /// Those who get data.
    pub(super) fn active(&self) -> impl Iterator<Item = SocketAddr> {
        self.peers.iter().filter(|peer| peer.status == Status::Active).map(|peer| peer.addr)
    }

    pub(super) fn contains(&self, addr: SocketAddr) -> bool {
        self.peers.iter().any(|peer| peer.addr == addr)
    }

    /// Their states, in the words of the server.
    pub(super) fn states(&self) -> impl Iterator<Item = (SocketAddr, &'static str)> {
        self.peers.iter().map(|peer| (peer.addr, peer.status.word()))
    }

    /// The list as it is told; `None` if it does not fit the buffer.
    pub(super) fn list(&self) -> Option<String> {
        let mut list = String::with_capacity(256);
        let active: Vec<_> = self.active().collect();
        let param = if self.tcp { ";transport=tcp" } else { "" };
        for addr in active.iter().rev().chain([&self.own]) {
            // Writing to a string cannot fail.
            let _ = write!(list, "sip:{addr}{param};status=active\r\n");
        }
        (list.len() <= LIST_BUFFER).then_some(list)
    }

    /// Takes in a list.
    pub(super) fn merge(&mut self, body: &[u8]) -> Merged {
        let mut news = 0;
        let mut rest = body;
        while !rest.is_empty() {
            let Some(end) = rest.iter().position(|&byte| byte == b'\n') else { return self.broken(news) };
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            rest = &rest[end + 1..];
            match self.understand(line) {
                Some(Line::Node(addr, status)) => news += usize::from(self.take(addr, status)),
                Some(Line::Elsewhere) => {}
                None => return self.broken(news),
            }
        }
        Merged::News(news)
    }

    /// 6 passes over the rest of a list behind a broken line; what it took before stays.
    fn broken(&self, news: usize) -> Merged {
        match self.generation {
            Generation::V5 => Merged::Hangs,
            Generation::V6 => Merged::News(news),
        }
    }

    /// A line as this generation reads it. Hosts are addresses: there is no resolver here.
    fn understand(&self, line: &[u8]) -> Option<Line> {
        let node = NodeLine::parse(line)?;
        let words = match self.generation {
            Generation::V5 => [Status::Active, Status::Disabled, Status::Pending, Status::Timeout].as_slice(),
            Generation::V6 => [Status::Active, Status::Disabled, Status::NotActive].as_slice(),
        };
        if node.status.is_some_and(|status| !words.contains(&status)) {
            return None;
        }
        let host: IpAddr = std::str::from_utf8(node.host).ok()?.trim_matches(['[', ']']).parse().ok()?;
        let tcp = match node.transport {
            None | Some(Transport::Udp) => false,
            Some(Transport::Tcp) => true,
            Some(Transport::Tls | Transport::Sctp) => return Some(Line::Elsewhere),
        };
        if tcp != self.tcp {
            return Some(Line::Elsewhere);
        }
        Some(Line::Node(SocketAddr::new(host, node.port.unwrap_or(5060)), node.status))
    }

    /// Takes in a line; whether it was news.
    fn take(&mut self, addr: SocketAddr, status: Option<Status>) -> bool {
        if addr == self.own {
            return false;
        }
        let same = |peer: &&mut Peer| match self.generation {
            Generation::V5 => peer.addr == addr,
            // 6 takes two nodes with one address for one.
            Generation::V6 => peer.addr == addr || peer.addr.ip() == addr.ip(),
        };
        match self.peers.iter_mut().find(same) {
            None if self.generation == Generation::V6 && addr.ip() == self.own.ip() => false,
            None => {
                let status = status.unwrap_or(self.unsaid());
                let configured = self.configured.contains(&addr);
                self.peers.push(Peer { addr, status, configured });
                true
            }
            Some(peer) => {
                let Some(status) = status.filter(|&status| status != peer.status) else { return false };
                let stays =
                    peer.status == Status::Disabled && (self.generation == Generation::V5 || status != Status::Active);
                if !stays {
                    peer.status = status;
                }
                !stays
            }
        }
    }

    /// A notification to it was answered.
    pub(super) fn answered(&mut self, addr: SocketAddr) {
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.addr == addr) {
            peer.status = Status::Active;
        }
    }

    /// A notification to it was given up.
    pub(super) fn missed(&mut self, addr: SocketAddr) {
        let Some(at) = self.peers.iter().position(|peer| peer.addr == addr) else { return };
        let peer = &mut self.peers[at];
        match (self.generation, peer.configured) {
            (Generation::V5, true) => peer.status = Status::Pending,
            (Generation::V5, false) if peer.status == Status::Disabled => _ = self.peers.remove(at),
            (Generation::V6, true) => peer.status = Status::NotActive,
            (_, false) => peer.status = Status::Disabled,
        }
    }
}
