//! What connections carry: lanes that hand over their frames in order, each whole, and datagrams that may be lost.
//!
//! What a cut holds up is repeated after it. The transport takes frames ahead of their arrival up to a window, and says so
//! ([`node::Input::FramesSent`]). Invariant: at most one arrival per direction of a lane is in the world's queue, that of the
//! first frame, so that no draw can change their order.

use std::collections::VecDeque;

use bytes::Bytes;
use node::{Lane, LinkId, Mono};

use crate::coverage::Sometimes;
use crate::queue::{At, ConnIx, Event, Side};
use crate::quic::{conn_of, link};
use crate::step::Arrival;
use crate::world::World;

/// How long the transport takes to take a frame, microseconds.
const TAKE_US: u64 = 30;

/// What QUIC, UDP and IP add to a datagram, bytes.
const OVERHEAD: usize = 60;

/// What waits in a lane: a frame, or its end.
#[derive(Debug)]
struct Item {
    at: Mono,
    bytes: Option<Bytes>,
}

/// One direction of a lane.
#[derive(Debug, Default)]
pub(crate) struct LaneQueue {
    items: VecDeque<Item>,
    /// Whether the arrival of the first item is in the world's queue.
    moving: bool,
    /// Whether its end has been sent.
    ended: bool,
    /// Bytes that the transport took and that have not arrived.
    taken: usize,
    /// Frames that it has not taken yet, by their length.
    waiting: VecDeque<usize>,
    /// Frames to give credit for; while there are any, a [`Event::Credit`] is in the world's queue.
    owed: u32,
}

impl LaneQueue {
    /// Whether a frame is under way.
    pub(crate) fn has_frames(&self) -> bool {
        self.items.iter().any(|item| item.bytes.is_some())
    }

    /// Loses what is under way.
    pub(crate) fn clear(&mut self) {
        self.items.clear();
        self.waiting.clear();
    }

    /// The transport takes what it has room for; says whether the first credit is owed now.
    fn take(&mut self, window: usize) -> bool {
        let before = self.owed;
        while let Some(&len) = self.waiting.front() {
            if self.taken > 0 && self.taken + len > window {
                break;
            }
            self.waiting.pop_front();
            self.taken += len;
            self.owed += 1;
        }
        before == 0 && self.owed > 0
    }
}

/// The lane as the other side names it.
const fn mirrored(lane: Lane) -> Lane {
    match lane {
        Lane::Push => Lane::Push,
        Lane::Session { id, opened_here } => Lane::Session { id, opened_here: !opened_here },
    }
}

impl World {
    /// A node sends a frame, or ends a lane.
    pub(crate) fn send_frame(&mut self, id: LinkId, lane: Lane, bytes: Option<Bytes>) {
        let now = self.now;
        let (ix, side) = conn_of(id);
        let Some(conn) = self.conns.get_mut(ix).filter(|conn| conn.is_up(side)) else { return };
        let (from, to, window) = (conn.end(side), conn.end(1 - side), conn.window);
        let lanes = &mut conn.lanes[usize::from(side)];
        let opens = bytes.is_some() && matches!(lane, Lane::Session { opened_here: true, .. });
        if opens {
            lanes.entry(lane).or_default();
        }
        let Some(queue) = lanes.get_mut(&lane).filter(|queue| !queue.ended) else { return };
        let len = bytes.as_ref().map_or(0, Bytes::len);
        let at = self.net.reliable(from, to, len + OVERHEAD, now);
        if bytes.is_some() {
            self.traffic.frames += 1;
            self.traffic.node_bytes += len as u64;
            if lane != Lane::Push {
                self.traffic.session_bytes += len as u64;
            }
            queue.waiting.push_back(len);
            if queue.take(window) {
                self.queue.post(Mono(now.0 + TAKE_US), Event::Credit { conn: ix, side, lane });
            }
        } else {
            queue.ended = true;
        }
        queue.items.push_back(Item { at, bytes });
        if !queue.moving {
            queue.moving = true;
            self.queue.post(at, Event::Lane { conn: ix, side, lane });
        }
    }

    /// The first item of a lane arrives, if the other side can take it.
    pub(crate) fn lane_arrives(&mut self, ix: ConnIx, side: Side, lane: Lane) {
        let Some(conn) = self.conns.get(ix) else { return };
        let (from, to) = (conn.end(side), conn.end(1 - side));
        let (waits, held_up) = (!conn.is_up(1 - side), self.blocked(from, to));
        let now = self.now;
        let Some(conn) = self.conns.get_mut(ix) else { return };
        let window = conn.window;
        let Some(queue) = conn.lanes[usize::from(side)].get_mut(&lane) else { return };
        queue.moving = false;
        if waits || held_up {
            if held_up && queue.has_frames() {
                self.saw(Sometimes::FrameStalled);
            }
            return;
        }
        let Some(item) = queue.items.pop_front() else { return };
        queue.taken = queue.taken.saturating_sub(item.bytes.as_ref().map_or(0, Bytes::len));
        if queue.take(window) {
            self.queue.post(Mono(now.0 + TAKE_US), Event::Credit { conn: ix, side, lane });
        }
        if let Some(next) = queue.items.front() {
            queue.moving = true;
            self.queue.post(next.at.max(now), Event::Lane { conn: ix, side, lane });
        }
        let there = mirrored(lane);
        let Some(bytes) = item.bytes else { return self.lane_ends(ix, side, lane) };
        if let Lane::Session { opened_here: false, .. } = there {
            // With the first frame the other side has a stream to answer on.
            conn.lanes[usize::from(1 - side)].entry(there).or_default();
        }
        let first = !std::mem::replace(&mut conn.greeted[usize::from(side)], true);
        let bytes = if first { self.greeting(from, to, bytes) } else { bytes };
        self.arrive(to, Arrival::Frame { link: link(ix, 1 - side), lane: there, bytes });
    }

    /// The end of a lane has arrived.
    fn lane_ends(&mut self, ix: ConnIx, side: Side, lane: Lane) {
        let Some(conn) = self.conns.get_mut(ix) else { return };
        conn.lanes[usize::from(side)].remove(&lane);
        let (to, there, id) = (conn.end(1 - side), mirrored(lane), link(ix, 1 - side));
        self.arrive(to, Arrival::LaneClosed { link: id, lane: there });
        if matches!(there, Lane::Session { opened_here: true, .. }) {
            // As the shell does: nobody answers there any more, so nothing is left to ask.
            self.send_frame(id, there, None);
        }
    }

    /// The first frame between two nodes, as the other one reads it: from a node of another version it names another version.
    fn greeting(&mut self, from: At, to: At, bytes: Bytes) -> Bytes {
        /// Where the version stands: behind the frame's mark and the message's tag.
        const VERSION_AT: usize = 2;
        let other = |at: At| self.nodes[usize::from(at)].other_version > 0;
        if other(from) == other(to) || bytes.len() <= VERSION_AT {
            return bytes;
        }
        self.saw(Sometimes::OtherVersion);
        let mut bytes = bytes.to_vec();
        bytes[VERSION_AT] = bytes[VERSION_AT].wrapping_add(1);
        bytes.into()
    }

    /// Lets lanes of a side go on that wait for the other one.
    pub(crate) fn move_lanes(&mut self, ix: ConnIx, side: Side, after_us: u64) {
        let at = Mono(self.now.0 + after_us);
        let Some(conn) = self.conns.get_mut(ix) else { return };
        for (&lane, queue) in &mut conn.lanes[usize::from(side)] {
            if let Some(first) = queue.items.front().filter(|_| !queue.moving) {
                queue.moving = true;
                self.queue.post(first.at.max(at), Event::Lane { conn: ix, side, lane });
            }
        }
    }

    /// The transport tells the node what it took.
    pub(crate) fn credit(&mut self, ix: ConnIx, side: Side, lane: Lane) {
        let Some(conn) = self.conns.get_mut(ix).filter(|conn| conn.is_up(side)) else { return };
        let at = conn.end(side);
        let Some(queue) = conn.lanes[usize::from(side)].get_mut(&lane) else { return };
        let frames = std::mem::take(&mut queue.owed);
        self.arrive(at, Arrival::FramesSent { link: link(ix, side), lane, frames });
    }

    /// A node sends a datagram on a link, now or never.
    pub(crate) fn send_datagram(&mut self, id: LinkId, bytes: Bytes) {
        let (ix, side) = conn_of(id);
        let Some(conn) = self.conns.get(ix).filter(|conn| conn.is_up(side)) else { return };
        let (from, to) = (conn.end(side), conn.end(1 - side));
        self.traffic.datagrams += 1;
        self.traffic.node_bytes += bytes.len() as u64;
        if self.net.blocks_quic(from, to) {
            return;
        }
        // QUIC delivers no packet twice.
        if let [Some(at), _] = self.net.datagram(from, to, bytes.len() + OVERHEAD, self.now) {
            self.queue.post(at, Event::Datagram { conn: ix, side: 1 - side, bytes });
        }
    }

    /// A datagram of a link arrives.
    pub(crate) fn datagram_arrives(&mut self, ix: ConnIx, side: Side, bytes: Bytes) {
        let Some(conn) = self.conns.get(ix).filter(|conn| conn.is_up(side)) else { return };
        let (from, to) = (conn.end(1 - side), conn.end(side));
        if !self.net.is_cut(from, to) {
            self.arrive(to, Arrival::Datagram { link: link(ix, side), bytes });
        }
    }
}
