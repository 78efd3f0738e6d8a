//! Push: a write goes at once to every node that a link leads to.
//!
//! Per link there is a queue with one entry per cell, so a cell that changes faster than the link takes it costs one entry.
//! What leaves is the version that is current at that moment, with the dots that it overwrote while it waited. The first
//! write after a pause leaves at once, those that follow within [`COALESCE_MS`] leave together. A full queue drops: what it
//! dropped shows up in the clocks, and a sync session repairs it.
//!
//! What came from a node is pushed on only to nodes that have no link to it (relay), so in a full mesh nothing is sent
//! twice, and a chain of nodes without all links still hears at once. What came in a session is
//! not pushed on at all: it may be very much, and our clocks show it. Pushing to everybody costs one copy per node: meant
//! for some tens of nodes.

use std::collections::{BTreeMap, VecDeque};

use crdt::{CellRef, Change, Dot, NodeId, Slot};

use super::link::Link;
use super::wire::{Push, append_pushed};
use crate::cx::Cx;
use crate::io::Mono;

/// Entries of a queue.
const QUEUE_MAX: usize = 65_536;
/// Bytes of cells in one frame, roughly.
const FRAME_BYTES: usize = 64 << 10;
/// How long a write may wait for others, milliseconds.
const COALESCE_MS: u64 = 2;
/// Overwritten dots that one entry remembers; what is beyond is found by sync.
const COVERS_MAX: usize = 256;

#[derive(Debug, Default)]
struct Item {
    via: u32,
    covers: Vec<Dot>,
}

/// Cells that wait for their link.
#[derive(Debug, Default)]
pub(super) struct PushQueue {
    /// In the order of entry; slots without an item were forgotten.
    order: VecDeque<Slot>,
    items: BTreeMap<Slot, Item>,
    bytes: usize,
    flushed_at: Mono,
}

impl PushQueue {
    /// Enters a changed cell of `len` bytes; `old` is the version it replaced. Gives false if the queue is full.
    pub(super) fn enter(&mut self, slot: Slot, len: usize, old: Option<&[u8]>, via: u32) -> bool {
        if let Some(item) = self.items.get_mut(&slot) {
            item.via = via;
            let dot = old.and_then(|old| CellRef::decode(old).ok()).map(|cell| cell.order.dot);
            item.covers.extend(dot.filter(|_| item.covers.len() < COVERS_MAX));
            return true;
        }
        if self.items.len() >= QUEUE_MAX {
            return false;
        }
        self.items.insert(slot, Item { via, covers: Vec::new() });
        if self.order.len() >= 2 * QUEUE_MAX {
            self.order.retain(|other| self.items.contains_key(other));
        }
        self.order.push_back(slot);
        self.bytes += len;
        true
    }

    /// The slot's cell is forgotten, the slot may be used for another.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.items.remove(&slot);
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.order.clear();
        self.items.clear();
        self.bytes = 0;
    }

    /// Cells that wait.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// When what waits shall leave, if the link takes it.
    pub(super) fn due(&self) -> Option<Mono> {
        match self.bytes {
            _ if self.is_empty() => None,
            FRAME_BYTES.. => Some(Mono(0)),
            _ => Some(self.flushed_at.plus_ms(COALESCE_MS)),
        }
    }

    fn take(&mut self) -> Option<(Slot, Item)> {
        loop {
            let slot = self.order.pop_front()?;
            if let Some(item) = self.items.remove(&slot) {
                return Some((slot, item));
            }
        }
    }
}

impl Link {
    /// Enters a change in the queue if the peer shall hear of it from this node; `source` is the node it came from.
    /// Until the peer's hello is in, everything is kept for it.
    pub(super) fn enter(&mut self, change: &Change, source: Option<NodeId>, cx: &mut Cx<'_>) {
        let wanted = match (&self.peer, source) {
            (None, _) => true,
            (Some(_), None) => self.open(),
            (Some(peer), Some(source)) => self.open() && peer.node != source && !peer.links.contains(&source),
        };
        let Some(len) = cx.replica.bytes(change.slot).filter(|_| wanted).map(<[u8]>::len) else { return };
        if !self.queue.enter(change.slot, len, change.old.as_deref(), change.via) {
            cx.stats.push_cells_dropped += 1;
        }
    }

    /// Pushes what is due, as far as the lane takes it.
    pub(super) fn flush(&mut self, cx: &mut Cx<'_>) {
        while self.has_credit() && self.queue.due().is_some_and(|at| at <= cx.now.mono) {
            let mut items = Vec::new();
            while items.len() < FRAME_BYTES
                && let Some((slot, item)) = self.queue.take()
            {
                let Some(bytes) = cx.replica.bytes(slot) else { continue };
                self.queue.bytes = self.queue.bytes.saturating_sub(bytes.len());
                append_pushed(&mut items, item.via, &item.covers, bytes);
                cx.stats.push_cells_out += 1;
            }
            if self.queue.is_empty() {
                self.queue.bytes = 0;
                self.queue.flushed_at = cx.now.mono;
            }
            if !items.is_empty() {
                self.send(&Push::Cells(&items), cx);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(n: usize) -> Vec<Slot> {
        let rules = crdt::Rules::new(1, 1);
        let mut replica = crdt::Replica::new(NodeId(1), crdt::Origin(1), rules, 1);
        for i in 0..n {
            let write = crdt::Write {
                table: "t",
                key: &i.to_be_bytes(),
                member: b"",
                rank: 0,
                stamp: crdt::StampRule::Now,
                deadline: None,
                body: Some(b"v"),
                via: 0,
                birth: None,
            };
            replica.write(crdt::Wall(1), write).unwrap();
        }
        replica.drain_changes().into_iter().map(|change| change.slot).collect()
    }

    #[test]
    fn a_full_queue_drops_new_cells_and_keeps_those_that_wait() {
        let slots = slots(QUEUE_MAX + 1);
        let mut queue = PushQueue::default();
        for &slot in &slots[..QUEUE_MAX] {
            assert!(queue.enter(slot, 100, None, 0));
        }
        assert!(!queue.enter(slots[QUEUE_MAX], 100, None, 0));
        assert!(queue.enter(slots[0], 100, None, 7), "a cell that waits already needs no room");
        assert_eq!(queue.len(), QUEUE_MAX);
        assert_eq!(queue.take().map(|(slot, item)| (slot, item.via)), Some((slots[0], 7)));
    }

    #[test]
    fn a_forgotten_cell_is_not_sent_and_its_slot_may_come_again() {
        let slots = slots(2);
        let mut queue = PushQueue::default();
        queue.enter(slots[0], 1, None, 1);
        queue.enter(slots[1], 1, None, 1);
        queue.forget(slots[0]);
        queue.enter(slots[0], 1, None, 2);
        let sent: Vec<_> = std::iter::from_fn(|| queue.take()).map(|(slot, item)| (slot, item.via)).collect();
        assert_eq!(sent, [(slots[0], 2), (slots[1], 1)]);
    }

    #[test]
    fn what_waits_leaves_after_a_moment_or_when_there_is_a_frame_of_it() {
        let slots = slots(2);
        let mut queue = PushQueue { flushed_at: Mono(5_000), ..PushQueue::default() };
        assert_eq!(queue.due(), None);
        queue.enter(slots[0], 100, None, 0);
        assert_eq!(queue.due(), Some(Mono(7_000)));
        queue.enter(slots[1], FRAME_BYTES, None, 0);
        assert_eq!(queue.due(), Some(Mono(0)));
    }
}
