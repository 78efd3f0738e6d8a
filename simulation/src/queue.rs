//! What is going to happen, by time.
//!
//! Two things of one moment happen in the order in which they were posted. The heap holds small keys, the events lie
//! beside it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;

use bytes::Bytes;
use node::{Lane, Mono};

use crate::ledger::DeedId;
use crate::tcp::TcpIx;

/// A host, by its place: the nodes of the script first, then its servers.
pub(crate) type At = u16;

/// A connection between two nodes, as the world numbers them.
pub(crate) type ConnIx = u32;

/// One of the two sides of a connection: 0 dialed.
pub(crate) type Side = u8;

/// Something that is going to happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// A host is started the first time, or by whoever watches over it.
    Start(At),
    /// A node wants a tick.
    Wake(At),
    /// A slow or resumed host takes the next of what has been waiting for it.
    Ready(At),
    /// A server wants a tick.
    ServerWake(At),
    /// Somebody of the load wants to act.
    Load,
    /// Whoever did this has waited long enough for an answer.
    Patience(DeedId),
    /// SIP from a host of the script.
    Sip { from: At, to: At, bytes: Bytes },
    /// SIP from a stranger.
    Strange { from: SocketAddr, to: At, bytes: Bytes },
    /// A hostile sender acts.
    Hostile(u32),
    /// A batch has been written or refused.
    Disk { at: At, life: u32, batch: u64 },
    /// Nobody answered a dial to an address that no host has.
    DialFailed { at: At, life: u32, addr: SocketAddr },
    /// A packet of a handshake is sent: which one, and for the how many-th time.
    LegSent { conn: ConnIx, leg: u8, again: u8 },
    /// A packet of a handshake arrives.
    Leg { conn: ConnIx, leg: u8, again: u8 },
    /// A dial has taken long enough.
    DialTimeout(ConnIx),
    /// The first of what waits in a lane arrives; `side` sent it.
    Lane { conn: ConnIx, side: Side, lane: Lane },
    /// The transport has taken frames.
    Credit { conn: ConnIx, side: Side, lane: Lane },
    /// A QUIC datagram arrives at `side`.
    Datagram { conn: ConnIx, side: Side, bytes: Bytes },
    /// A side has heard nothing for the idle time.
    Idle { conn: ConnIx, side: Side, epoch: u32 },
    /// A side learns that its connection ended.
    Ended { conn: ConnIx, side: Side, why: &'static str },
    /// The first of what a side of a TCP connection has sent arrives.
    Tcp { conn: TcpIx, side: Side },
    /// A TCP connection has had its time to come up.
    TcpTimeout(TcpIx),
    /// A fault begins.
    Fault(u32),
    /// A fault is over.
    FaultOver(u32),
    /// A second has passed.
    Second,
    /// Load and faults are over.
    Calm,
    /// Time to compare everybody.
    Compare,
    /// The run is over.
    End,
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Time, number and place, from the upper bits to the lower.
    heap: BinaryHeap<Reverse<u128>>,
    slots: Vec<Option<Event>>,
    free: Vec<u32>,
    number: u64,
}

/// Bits of a key for the place, and for the number.
const PLACE: u32 = 24;
const NUMBER: u32 = 40;

impl Queue {
    /// Posts an event.
    pub(crate) fn post(&mut self, at: Mono, event: Event) {
        let place = match self.free.pop() {
            Some(place) => {
                self.slots[place as usize] = Some(event);
                place
            }
            None => {
                self.slots.push(Some(event));
                (self.slots.len() - 1) as u32
            }
        };
        assert!(place < 1 << PLACE, "too many events at once");
        self.number += 1;
        let key = u128::from(at.0) << 64 | u128::from(self.number & ((1 << NUMBER) - 1)) << PLACE | u128::from(place);
        self.heap.push(Reverse(key));
    }

    /// When the next event happens.
    pub(crate) fn next_at(&self) -> Option<Mono> {
        self.heap.peek().map(|Reverse(key)| Mono((key >> 64) as u64))
    }

    /// The next event, if it happens no later than `end`.
    pub(crate) fn pop(&mut self, end: Mono) -> Option<(Mono, Event)> {
        let at = self.next_at().filter(|at| *at <= end)?;
        let Reverse(key) = self.heap.pop()?;
        let place = key as u32 & ((1 << PLACE) - 1);
        self.free.push(place);
        Some((at, self.slots[place as usize].take()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_happen_by_time_and_then_in_the_order_in_which_they_were_posted() {
        let mut queue = Queue::default();
        for (at, who) in [(5, 1), (3, 2), (5, 3), (3, 4)] {
            queue.post(Mono(at), Event::Wake(who));
        }
        let mut order = Vec::new();
        while let Some((at, Event::Wake(who))) = queue.pop(Mono(4)) {
            order.push((at.0, who));
        }
        assert_eq!((order.as_slice(), queue.next_at()), ([(3, 2), (3, 4)].as_slice(), Some(Mono(5))));
        queue.post(Mono(5), Event::Wake(5));
        while let Some((at, Event::Wake(who))) = queue.pop(Mono(9)) {
            order.push((at.0, who));
        }
        assert_eq!(order[2..], [(5, 1), (5, 3), (5, 5)]);
    }
}
