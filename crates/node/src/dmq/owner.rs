//! Who speaks and listens for a server that several nodes see (docs/rules.md 12).
//!
//! The nodes that see the server and are linked with this one are the candidates; a rendezvous hash
//! picks the same one at each of them. The others answer 200 and hold what they heard for as long
//! as a fail-over takes; whoever takes over applies what the owner had not passed on, then pulls.
//! In a split each side has its owner: ownership saves work, it does not exclude.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use bytes::Bytes;
use crdt::{NodeId, Stamp, Wall};

use super::DataChannel;
use super::peer::{Address, Peer, PeerId};
use crate::config::{Config, SipTransport, Timing};
use crate::io::Mono;

/// How long a message is held for the owner's fail-over, milliseconds: more than a dead link needs
/// to be noticed.
pub(crate) const HOLD_MS: u64 = 15_000;

/// How long a node leaves a server that it hears again to another node, milliseconds: more than a link needs to come back once
/// a split is over.
pub(crate) const YIELD_MS: u64 = 3_000;

/// A node that speaks for a server has told it what is older than this, milliseconds: more than a link that brings nothing any
/// more takes to end.
pub(super) const fn told_within_ms(timing: Timing) -> u64 {
    match timing {
        Timing::Lan => 10_000,
        Timing::Wan => 20_000,
    }
}

/// Messages held per server at most; beyond that the oldest go, and the pull at take-over has to do.
const HOLD_MAX: usize = 20_000;

/// Whether `me` is the owner among the nodes that see the server.
pub(crate) fn is_owner(me: NodeId, others: impl Iterator<Item = NodeId>, uri: &str) -> bool {
    let weight = |node: NodeId| {
        let mut text = node.0.to_be_bytes().to_vec();
        text.extend_from_slice(uri.as_bytes());
        (super::book::fingerprint(&text), node)
    };
    let mine = weight(me);
    others.map(weight).all(|other| other <= mine)
}

impl Peer {
    /// Whether this node leaves a server to another one that it is not linked with: the server was not heard here and is again,
    /// and it tells that node all. Most likely a split is just over, and the other has spoken for the server all the time. What
    /// the server says here now may be what it repeats, and what we have to tell it may be older than what that node told it.
    pub(crate) const fn yields(&self) -> bool {
        self.yields_until.is_some()
    }

    /// Whether it was told a version by a linked node that spoke for it. If it shows something else now, or nothing, though it may
    /// have heard only from nodes that are not linked since, then it or they have gone on from there.
    pub(crate) fn was_told(&self, version: Stamp) -> bool {
        self.has_strangers && self.tended.is_some_and(|tended| version.time.ms() < tended.0)
    }

    /// Sees whether another node may speak for it that this one is not linked with, which of the two counts, and whether it has
    /// to be left to that one altogether any longer. `unlinked`: the SIP addresses of nodes without a link.
    pub(super) fn settle_strangers(&mut self, unlinked: &[SocketAddr], config: &Config, now: Mono) {
        let own = config.sip.get(usize::from(self.socket.0)).map(|socket| socket.addr);
        let weight = |addr: SocketAddr| super::book::fingerprint(format!("{addr} {}", self.uri).as_bytes());
        let listed = |addr: &&SocketAddr| {
            let at = |transport| self.lists.contains(&Address { addr: **addr, transport }.uri());
            at(SipTransport::Udp) || at(SipTransport::Tcp)
        };
        let strangers = unlinked.iter().filter(listed);
        let (mut some, mut first) = (false, true);
        for stranger in strangers {
            some = true;
            first &= own.is_some_and(|own| weight(own) > weight(*stranger));
        }
        let had = std::mem::replace(&mut self.has_strangers, some);
        if std::mem::replace(&mut self.is_counted_elsewhere, !first) == first {
            // Whoever counted has counted on from something else.
            self.counters.reset();
        }
        if had && !some {
            // What it was not told because of them has to be told now, if they have not.
            self.missed();
        }
        self.yields_until = self.yields_until.filter(|until| now < *until && self.has_strangers);
    }
}

/// A message that the owner should have got as well.
#[derive(Debug)]
pub(crate) struct HeldMessage {
    /// When it came, for forgetting it.
    at: Mono,
    /// When it came, or was said if that is known to be earlier, for its stamp.
    pub(crate) arrival: Wall,
    /// Its channel.
    pub(crate) channel: DataChannel,
    /// Its body.
    pub(crate) body: Bytes,
}

/// What is held, by server.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    messages: BTreeMap<PeerId, VecDeque<HeldMessage>>,
}

impl Holding {
    /// Holds a message.
    pub(crate) fn hold(&mut self, peer: PeerId, at: Mono, arrival: Wall, channel: DataChannel, body: Bytes) {
        let queue = self.messages.entry(peer).or_default();
        while queue.len() >= HOLD_MAX || queue.front().is_some_and(|m| at.ms_since(m.at) > HOLD_MS) {
            queue.pop_front();
        }
        queue.push_back(HeldMessage { at, arrival, channel, body });
    }

    /// Everything that is still within the fail-over time, oldest first.
    pub(crate) fn take(&mut self, peer: PeerId, now: Mono) -> Vec<HeldMessage> {
        let queue = self.messages.remove(&peer).unwrap_or_default();
        queue.into_iter().filter(|m| now.ms_since(m.at) <= HOLD_MS).collect()
    }

    /// Messages held for all servers.
    pub(crate) fn len(&self) -> usize {
        self.messages.values().map(VecDeque::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_of_the_nodes_that_see_a_server_owns_it() {
        let nodes: Vec<NodeId> = (1..=7).map(|n| NodeId(n * 0x1234_5678_9abc)).collect();
        for server in 0..50 {
            let uri = format!("sip:10.0.0.{server}:5060");
            let owners =
                nodes.iter().filter(|me| is_owner(**me, nodes.iter().copied().filter(|n| n != *me), &uri)).count();
            assert_eq!(owners, 1, "{uri}");
        }
    }

    #[test]
    fn a_held_message_is_dropped_after_the_fail_over_time() {
        let mut holding = Holding::default();
        let peer = PeerId(1);
        for (ms, body) in [(0u64, "old"), (20_000, "new")] {
            let at = Mono(ms * 1_000);
            holding.hold(peer, at, Wall(ms), DataChannel::Usrloc, Bytes::from_static(body.as_bytes()));
        }
        let held = holding.take(peer, Mono(21_000_000));
        assert_eq!(held.iter().map(|m| &m.body[..]).collect::<Vec<_>>(), [b"new"]);
        assert_eq!(holding.len(), 0);
    }
}
