//! Who speaks and listens for a server that several nodes see (docs/rules.md 12).
//!
//! The nodes that see the server and are linked with this one are the candidates; a rendezvous hash
//! picks the same one at each of them. The others answer 200 and hold what they heard for as long
//! as a fail-over takes; whoever takes over applies what the owner had not passed on, then pulls.
//! In a split each side has its owner: ownership saves work, it does not exclude.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use crdt::{NodeId, Wall};

use super::DataChannel;
use super::peer::PeerId;
use crate::io::Mono;

/// How long a message is held for the owner's fail-over, milliseconds: more than a dead link needs
/// to be noticed.
pub(crate) const HOLD_MS: u64 = 15_000;

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
