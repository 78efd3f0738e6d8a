//! Who has been met: names and addresses, kept on disk so that a node that restarts alone finds the others again.
//!
//! This is the address book. Which clocks a member has shown, and what forgetting waits for (R5), is the replica's roster;
//! both let a node go at the same time, `forget_after` after it was last linked.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use crdt::NodeId;
use serde::{Deserialize, Serialize};

/// What is remembered of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    /// Name.
    pub name: String,
    /// Advertised QUIC address.
    pub addr: SocketAddr,
    /// SIP sockets; empty while it is known by hearsay only.
    pub sip: Vec<SocketAddr>,
    /// When a link to it was last up, unix seconds.
    pub seen: u64,
}

/// The address book.
#[derive(Debug, Default)]
pub(super) struct Roster {
    nodes: BTreeMap<NodeId, Known>,
    /// [`Known::seen`] as it is on disk.
    saved: BTreeMap<NodeId, u64>,
    unsaved: Vec<(Vec<u8>, Option<Bytes>)>,
}

/// Keys of `Tree::Meta` that belong to the roster start with this.
const PREFIX: &[u8] = b"node/";

/// How old the saved `seen` may be, seconds.
const SAVE_EVERY_S: u64 = 3_600;

impl Roster {
    /// Takes in an entry that was found on disk. Gives false if it makes no sense, or is not the roster's.
    pub(super) fn restore(&mut self, key: &[u8], value: &[u8]) -> bool {
        let Some(id) = key.strip_prefix(PREFIX).and_then(|id| id.try_into().ok()) else { return false };
        match postcard::from_bytes::<Known>(value) {
            Ok(known) => {
                let node = NodeId(u64::from_be_bytes(id));
                self.saved.insert(node, known.seen);
                self.nodes.insert(node, known);
                true
            }
            Err(_) => false,
        }
    }

    /// Whether a key of `Tree::Meta` belongs to the roster.
    pub(super) fn owns(key: &[u8]) -> bool {
        key.starts_with(PREFIX)
    }

    /// Enters a node, or changes what is known of it. Gives the nodes that were known at its address before: a node
    /// without a disk has another id after each start, so they are gone.
    pub(super) fn enter(&mut self, node: NodeId, known: Known) -> Vec<NodeId> {
        let at_its_address = |(id, other): (&NodeId, &Known)| (*id != node && other.addr == known.addr).then_some(*id);
        let replaced: Vec<NodeId> = self.nodes.iter().filter_map(at_its_address).collect();
        for &id in &replaced {
            self.remove(id);
        }
        let before = self.nodes.insert(node, known.clone());
        let same = before.is_some_and(|before| Known { seen: known.seen, ..before } == known);
        if !same || self.is_outdated(node, known.seen) {
            self.save(node, &known);
        }
        replaced
    }

    /// The node is linked, or was until now.
    pub(super) fn seen(&mut self, node: NodeId, now_s: u64) {
        let Some(known) = self.nodes.get_mut(&node) else { return };
        known.seen = now_s;
        let known = known.clone();
        if self.is_outdated(node, now_s) {
            self.save(node, &known);
        }
    }

    /// Whether what is on disk of a node is too old.
    fn is_outdated(&self, node: NodeId, seen: u64) -> bool {
        self.saved.get(&node).is_none_or(|saved| saved.abs_diff(seen) >= SAVE_EVERY_S)
    }

    /// Nodes that were last seen before `horizon_s`.
    pub(super) fn seen_before(&self, horizon_s: u64) -> Vec<NodeId> {
        let old = |(id, known): (&NodeId, &Known)| (known.seen < horizon_s).then_some(*id);
        self.nodes.iter().filter_map(old).collect()
    }

    /// Forgets a node.
    pub(super) fn remove(&mut self, node: NodeId) {
        if self.nodes.remove(&node).is_some() {
            self.saved.remove(&node);
            self.unsaved.push((key(node), None));
        }
    }

    /// What is known of a node.
    pub(super) fn get(&self, node: NodeId) -> Option<&Known> {
        self.nodes.get(&node)
    }

    /// Everybody, by id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, &Known)> {
        self.nodes.iter().map(|(&id, known)| (id, known))
    }

    /// What is to be written to disk since the last call.
    pub(super) fn take_unsaved(&mut self) -> Vec<(Vec<u8>, Option<Bytes>)> {
        std::mem::take(&mut self.unsaved)
    }

    fn save(&mut self, node: NodeId, known: &Known) {
        let bytes = postcard::to_stdvec(known).expect("a roster entry serialises");
        self.saved.insert(node, known.seen);
        self.unsaved.push((key(node), Some(bytes.into())));
    }
}

fn key(node: NodeId) -> Vec<u8> {
    [PREFIX, &node.0.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(port: u16, seen: u64) -> Known {
        Known { name: "a".into(), addr: ([127, 0, 0, 1], port).into(), sip: Vec::new(), seen }
    }

    #[test]
    fn an_entry_survives_the_disk() {
        let mut roster = Roster::default();
        roster.enter(NodeId(7), known(1, 5));
        let saved = roster.take_unsaved();
        let mut again = Roster::default();
        let (key, value) = &saved[0];
        assert!(again.restore(key, value.as_ref().unwrap()));
        assert_eq!(again.get(NodeId(7)), Some(&known(1, 5)));
    }

    #[test]
    fn an_unchanged_entry_is_saved_once_an_hour() {
        let mut roster = Roster::default();
        roster.enter(NodeId(7), known(1, 5));
        roster.enter(NodeId(7), known(1, 6));
        assert_eq!(roster.take_unsaved().len(), 1);
        roster.seen(NodeId(7), 5 + SAVE_EVERY_S);
        assert_eq!(roster.take_unsaved().len(), 1);
    }

    #[test]
    fn a_node_that_is_linked_is_seen_now_whatever_the_disk_says() {
        let mut roster = Roster::default();
        roster.enter(NodeId(7), known(1, 5));
        for now_s in [6, SAVE_EVERY_S] {
            roster.seen(NodeId(7), now_s);
            assert_eq!(roster.seen_before(now_s), []);
        }
        assert_eq!(roster.take_unsaved().len(), 1);
        assert_eq!(roster.seen_before(SAVE_EVERY_S + 1), [NodeId(7)]);
    }

    #[test]
    fn a_node_at_the_address_of_another_replaces_it() {
        let mut roster = Roster::default();
        roster.enter(NodeId(7), known(1, 5));
        assert_eq!(roster.enter(NodeId(8), known(1, 6)), [NodeId(7)]);
        assert_eq!(roster.iter().map(|(id, _)| id).collect::<Vec<_>>(), [NodeId(8)]);
        let saved = roster.take_unsaved();
        assert!(saved.contains(&(key(NodeId(7)), None)), "{saved:?}");
    }
}
