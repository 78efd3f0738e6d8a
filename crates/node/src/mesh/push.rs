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
        self.order.push_back(slot);
        self.bytes += len;
        true
    }

    /// The slot's cell is forgotten, the slot may be used for another.
    pub(super) fn forget(&mut self, slot: Slot) {
        if self.items.remove(&slot).is_some() {
            self.order.retain(|&other| other != slot);
        }
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
        let slot = self.order.pop_front()?;
        self.items.remove(&slot).map(|item| (slot, item))
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
