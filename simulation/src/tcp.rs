//! SIP over TCP: connections between hosts, as their kernels keep them.
//!
//! Who has something to say opens one; answers go back on the connection that brought the question. Bytes keep their order,
//! arrive in pieces of any size, and are repeated, with longer and longer pauses, until they get through or the connection
//! breaks, at whatever byte that is. What a node makes of the bytes is its own business; a server reads whole messages here.
//!
//! Invariant: at most one arrival per direction is in the world's queue, that of the first item.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use bytes::Bytes;
use node::{ConnId, Mono};
use sip::StreamFramer;

use crate::coverage::Sometimes;
use crate::queue::{At, Event, Side};
use crate::rng::{Rng, Stream};
use crate::step::Arrival;
use crate::world::World;

/// A connection, as the world numbers them.
pub(crate) type TcpIx = u32;

/// How long connecting may take, milliseconds: the daemon's limit for a node; a server waits no longer here.
const CONNECT_MS: u64 = 5_000;

/// The first pause before a packet is repeated, and the longest, milliseconds. The one that opens a connection begins with more.
const REPEAT_MS: u64 = 200;
const OPEN_REPEAT_MS: u64 = 1_000;
const LONGEST_MS: u64 = 120_000;

/// A server closes a connection on which a longer message comes (docs/kdmq.md 3.8), bytes.
const SERVER_BUFFER: usize = 16_384;

/// A connection that a fault breaks does so before so many more bytes have passed.
const SOON: u64 = 4_000;

/// One read takes no more than this, bytes.
const READ: usize = 16_384;

/// What TCP and IP add to a packet, bytes.
const OVERHEAD: usize = 52;

/// What is under way in one direction.
#[derive(Debug)]
enum Item {
    /// The first packet, or its answer.
    Open,
    Bytes(Bytes),
    /// Nothing more comes; whether all that was sent has.
    End {
        whole: bool,
    },
}

#[derive(Debug, Default)]
struct Way {
    items: VecDeque<(Mono, Item)>,
    /// Whether the arrival of the first item is in the world's queue.
    moving: bool,
    /// How often the first item was repeated.
    tries: u32,
}

/// A connection. Side 0 has opened it.
#[derive(Debug)]
struct Tcp {
    ends: [At; 2],
    lives: [u32; 2],
    /// By what a node knows it.
    ids: [ConnId; 2],
    /// The address of each side, as the other one sees it.
    addrs: [SocketAddr; 2],
    /// Whether each side may write, and has not been told of its end.
    open: [bool; 2],
    /// Whether its opener knows that it is up.
    up: bool,
    ways: [Way; 2],
    /// What a server has read and not understood yet.
    framers: [StreamFramer; 2],
    unread: [usize; 2],
    /// It breaks after so many more bytes.
    doomed: Option<usize>,
    rng: Rng,
}

/// All connections.
#[derive(Debug, Default)]
pub(crate) struct Tcps {
    all: Vec<Option<Box<Tcp>>>,
    by_id: BTreeMap<(At, ConnId), (TcpIx, Side)>,
    by_remote: BTreeMap<(At, SocketAddr), (TcpIx, Side)>,
}

impl Tcps {
    fn get_mut(&mut self, ix: TcpIx) -> Option<&mut Tcp> {
        self.all.get_mut(ix as usize)?.as_deref_mut()
    }

    /// The connections of a host, and which side it is.
    fn of(&self, host: At) -> Vec<(TcpIx, Side)> {
        let all = self.all.iter().enumerate().filter_map(|(ix, tcp)| Some((ix as TcpIx, tcp.as_ref()?)));
        all.filter_map(|(ix, tcp)| Some((ix, tcp.ends.iter().position(|end| *end == host)? as Side))).collect()
    }

    /// A side has no more to do with it.
    fn forget(&mut self, ix: TcpIx, side: Side) {
        let Some(tcp) = self.get_mut(ix) else { return };
        let side = usize::from(side);
        tcp.open[side] = false;
        let (at, id, remote) = (tcp.ends[side], tcp.ids[side], tcp.addrs[1 - side]);
        if self.by_id.get(&(at, id)).is_some_and(|(of, _)| *of == ix) {
            self.by_id.remove(&(at, id));
        }
        if self.by_remote.get(&(at, remote)).is_some_and(|(of, _)| *of == ix) {
            self.by_remote.remove(&(at, remote));
        }
    }
}

impl World {
    /// A node opens a connection.
    pub(crate) fn tcp_connect(&mut self, from: At, id: ConnId, to: SocketAddr) {
        match self.host_by_sip(to) {
            Some(to) => drop(self.tcp_open(from, to, id)),
            None => self.arrive(from, Arrival::SipClosed { conn: id, whole: false }),
        }
    }

    /// A node writes.
    pub(crate) fn tcp_write_as(&mut self, from: At, id: ConnId, bytes: Bytes) {
        if let Some((ix, side)) = self.tcps.by_id.get(&(from, id)).copied() {
            self.tcp_write(ix, side, bytes);
        }
    }

    /// A node closes a connection. It is not told of its end.
    pub(crate) fn tcp_close_as(&mut self, from: At, id: ConnId, at_once: bool) {
        if let Some((ix, side)) = self.tcps.by_id.get(&(from, id)).copied() {
            if let Some(tcp) = self.tcps.get_mut(ix).filter(|_| at_once) {
                tcp.ways[usize::from(side)].items.clear();
            }
            self.tcp_close(ix, side, !at_once);
        }
    }

    /// A server sends a message: on the connection with that remote address, or on a new one.
    pub(crate) fn tcp_send(&mut self, from: At, to: SocketAddr, bytes: Bytes) {
        self.traffic.sip_messages += 1;
        self.traffic.sip_bytes += bytes.len() as u64;
        let known = self.tcps.by_remote.get(&(from, to)).copied();
        let Some((ix, side)) = known.or_else(|| {
            let to = self.host_by_sip(to)?;
            Some((self.tcp_open(from, to, ConnId(0)), 0))
        }) else {
            return;
        };
        self.tcp_write(ix, side, bytes);
    }

    fn tcp_life(&self, at: At) -> Option<u32> {
        match self.nodes.get(usize::from(at)) {
            Some(host) => host.node.as_ref().map(|_| host.lives),
            None => {
                let host = &self.servers[usize::from(at) - self.nodes.len()];
                host.process.as_ref().map(|_| host.lives)
            }
        }
    }

    fn tcp_open(&mut self, from: At, to: At, id: ConnId) -> TcpIx {
        let ix = self.tcps.all.len() as TcpIx;
        let mut opener = self.sip_of(from);
        opener.set_port(10_000 + (ix % 50_000) as u16);
        let addrs = [opener, self.sip_of(to)];
        self.tcps.all.push(Some(Box::new(Tcp {
            ends: [from, to],
            lives: [self.tcp_life(from).unwrap_or(0), 0],
            ids: [id, ConnId(u64::from(ix))],
            addrs,
            open: [true, false],
            up: false,
            ways: Default::default(),
            framers: Default::default(),
            unread: [0; 2],
            doomed: None,
            rng: Rng::stream(self.script.seed, Stream::Tcp, u64::from(ix)),
        })));
        self.tcps.by_remote.insert((from, addrs[1]), (ix, 0));
        if self.is_node(from) {
            self.tcps.by_id.insert((from, id), (ix, 0));
        }
        self.tcp_post(ix, 0, Item::Open);
        self.queue.post(self.now.plus_ms(CONNECT_MS), Event::TcpTimeout(ix));
        ix
    }

    /// Writes bytes, in pieces of any size.
    fn tcp_write(&mut self, ix: TcpIx, side: Side, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let Some(tcp) = self.tcps.get_mut(ix).filter(|tcp| tcp.open[usize::from(side)]) else { return };
            let len = match tcp.rng.permille(250) {
                true => tcp.rng.between(1, bytes.len() as u64) as usize,
                false => bytes.len(),
            };
            self.tcp_post(ix, side, Item::Bytes(bytes.split_to(len)));
        }
    }

    fn tcp_post(&mut self, ix: TcpIx, side: Side, item: Item) {
        let now = self.now;
        let Some(tcp) = self.tcps.get_mut(ix) else { return };
        let (from, to) = (tcp.ends[usize::from(side)], tcp.ends[1 - usize::from(side)]);
        let len = if let Item::Bytes(bytes) = &item { bytes.len() } else { 0 };
        let at = self.net.reliable(from, to, len + OVERHEAD, now);
        let Some(tcp) = self.tcps.get_mut(ix) else { return };
        let way = &mut tcp.ways[usize::from(side)];
        way.items.push_back((at, item));
        if !way.moving {
            way.moving = true;
            self.queue.post(at, Event::Tcp { conn: ix, side });
        }
    }

    /// The first of what a side has sent arrives, if it gets through.
    pub(crate) fn tcp_arrives(&mut self, ix: TcpIx, side: Side) {
        let (from_side, to_side) = (usize::from(side), 1 - usize::from(side));
        let now = self.now;
        let Some(tcp) = self.tcps.get_mut(ix) else { return };
        let (from, to, life) = (tcp.ends[from_side], tcp.ends[to_side], tcp.lives[to_side]);
        let cut = self.net.is_cut(from, to);
        let there = self.tcp_life(to);
        let Some(tcp) = self.tcps.get_mut(ix) else { return };
        let way = &mut tcp.ways[from_side];
        if cut {
            let first = if matches!(way.items.front(), Some((_, Item::Open))) { OPEN_REPEAT_MS } else { REPEAT_MS };
            let pause = (first << way.tries.min(10)).min(LONGEST_MS);
            way.tries += 1;
            return self.queue.post(now.plus_ms(pause), Event::Tcp { conn: ix, side });
        }
        way.tries = 0;
        way.moving = false;
        let Some((_, item)) = way.items.pop_front() else { return };
        let item = match item {
            Item::Bytes(first) => Item::Bytes(read_on(way, first, now)),
            item => item,
        };
        if let Some((at, _)) = way.items.front() {
            way.moving = true;
            self.queue.post((*at).max(now), Event::Tcp { conn: ix, side });
        }
        match item {
            Item::Open if side == 0 => match there {
                Some(life) => self.tcp_taken(ix, life),
                None => self.tcp_refused(ix, 1),
            },
            Item::Open => self.tcp_up(ix),
            Item::Bytes(_) | Item::End { .. } if there != Some(life) => self.tcp_refused(ix, to_side as Side),
            Item::Bytes(mut bytes) => {
                let breaks = self.tcp_counts(ix, &mut bytes);
                self.tcp_read(ix, to_side as Side, bytes);
                if breaks {
                    self.tcp_breaks(ix);
                }
            }
            Item::End { whole } => self.tcp_ended(ix, to_side as Side, whole),
        }
    }

    /// The other side's kernel takes a connection.
    fn tcp_taken(&mut self, ix: TcpIx, life: u32) {
        let Some(tcp) = self.tcps.get_mut(ix) else { return };
        tcp.lives[1] = life;
        tcp.open[1] = true;
        let (at, id, remote) = (tcp.ends[1], tcp.ids[1], tcp.addrs[0]);
        self.tcps.by_remote.insert((at, remote), (ix, 1));
        if self.is_node(at) {
            self.tcps.by_id.insert((at, id), (ix, 1));
            self.arrive(at, Arrival::SipConnected { conn: id, peer: remote });
        }
        self.tcp_post(ix, 1, Item::Open);
    }

    /// The one who opened it hears that it is up.
    fn tcp_up(&mut self, ix: TcpIx) {
        let Some(tcp) = self.tcps.get_mut(ix) else { return };
        tcp.up = true;
        let (at, id, remote, life) = (tcp.ends[0], tcp.ids[0], tcp.addrs[1], tcp.lives[0]);
        if self.is_node(at) && self.tcp_life(at) == Some(life) {
            self.arrive(at, Arrival::SipConnected { conn: id, peer: remote });
        }
    }

    /// It takes too long to connect.
    pub(crate) fn tcp_timeout(&mut self, ix: TcpIx) {
        if self.tcps.get_mut(ix).is_some_and(|tcp| !tcp.up && tcp.open[0]) {
            self.tcp_ended(ix, 0, false);
        }
    }

    /// Nobody is there for what has arrived: the sender is told.
    fn tcp_refused(&mut self, ix: TcpIx, side: Side) {
        let Some(tcp) = self.tcps.get_mut(ix) else { return };
        tcp.ways[usize::from(side)].items.retain(|(_, item)| matches!(item, Item::End { .. }));
        if tcp.ways[usize::from(side)].items.is_empty() {
            self.tcp_post(ix, side, Item::End { whole: false });
        }
    }

    /// A side reads.
    fn tcp_read(&mut self, ix: TcpIx, side: Side, bytes: Bytes) {
        let Some(tcp) = self.tcps.get_mut(ix) else { return };
        let (to, id) = (tcp.ends[usize::from(side)], tcp.ids[usize::from(side)]);
        if !tcp.open[usize::from(side)] {
            return self.tcp_refused(ix, side);
        }
        if self.is_node(to) {
            return self.arrive(to, Arrival::SipStream { conn: id, bytes });
        }
        let Some(tcp) = self.tcps.get_mut(ix) else { return };
        let (from, source) = (tcp.ends[1 - usize::from(side)], tcp.addrs[1 - usize::from(side)]);
        let (framer, unread) = (&mut tcp.framers[usize::from(side)], &mut tcp.unread[usize::from(side)]);
        *unread += bytes.len();
        framer.push(&bytes);
        let mut messages = Vec::new();
        let mut broken = false;
        while let Some(next) = framer.next_message() {
            let Ok(message) = next else {
                broken = true;
                break;
            };
            *unread = unread.saturating_sub(message.len());
            broken |= message.len() > SERVER_BUFFER;
            if broken {
                break;
            }
            messages.push(message);
        }
        if broken || *unread > SERVER_BUFFER {
            self.saw(Sometimes::StreamRefused);
            self.tcp_close(ix, side, true);
        }
        for message in messages {
            self.sip_message_arrives(from, to, source, message);
        }
    }

    /// A side closes it: what it has written still arrives.
    fn tcp_close(&mut self, ix: TcpIx, side: Side, whole: bool) {
        self.tcps.forget(ix, side);
        self.tcp_post(ix, side, Item::End { whole });
    }

    /// A side learns that it is over.
    fn tcp_ended(&mut self, ix: TcpIx, side: Side, whole: bool) {
        let Some(tcp) = self.tcps.get_mut(ix) else { return };
        let (at, id, was_open) = (tcp.ends[usize::from(side)], tcp.ids[usize::from(side)], tcp.open[usize::from(side)]);
        let life = tcp.lives[usize::from(side)];
        let other_open = tcp.open[1 - usize::from(side)];
        self.tcps.forget(ix, side);
        if other_open {
            self.tcp_refused(ix, side);
        } else {
            self.tcps.all[ix as usize] = None;
        }
        if was_open && self.is_node(at) && self.tcp_life(at) == Some(life) {
            self.arrive(at, Arrival::SipClosed { conn: id, whole });
        }
    }

    /// Every connection between two hosts is going to break, a few bytes from now.
    pub(crate) fn tcp_break(&mut self, a: At, b: At) {
        for (ix, side) in self.tcps.of(a) {
            if let Some(tcp) = self.tcps.get_mut(ix).filter(|tcp| tcp.ends[1 - usize::from(side)] == b) {
                tcp.doomed = Some(tcp.rng.below(SOON) as usize);
            }
        }
    }

    /// Whether it breaks with these bytes; those behind the break are lost.
    fn tcp_counts(&mut self, ix: TcpIx, bytes: &mut Bytes) -> bool {
        let Some(tcp) = self.tcps.get_mut(ix) else { return false };
        let Some(left) = &mut tcp.doomed else { return false };
        let breaks = bytes.len() > *left;
        bytes.truncate(*left);
        *left -= bytes.len();
        breaks
    }

    /// It breaks; each side learns it in its own time.
    fn tcp_breaks(&mut self, ix: TcpIx) {
        self.saw(Sometimes::StreamBroken);
        let Some(tcp) = self.tcps.get_mut(ix) else { return };
        tcp.doomed = None;
        for way in &mut tcp.ways {
            way.items.clear();
        }
        self.tcp_post(ix, 0, Item::End { whole: false });
        self.tcp_post(ix, 1, Item::End { whole: false });
    }

    /// A host's process is gone: its kernel ends its connections.
    pub(crate) fn tcp_dies(&mut self, host: At) {
        for (ix, side) in self.tcps.of(host) {
            let Some(tcp) = self.tcps.get_mut(ix) else { continue };
            tcp.ways[usize::from(side)].items.clear();
            self.tcp_close(ix, side, false);
        }
    }
}

/// What one read takes: what has arrived by now, as far as it goes.
fn read_on(way: &mut Way, first: Bytes, now: Mono) -> Bytes {
    let more = |way: &Way, len: usize| match way.items.front() {
        Some((at, Item::Bytes(next))) => *at <= now && len + next.len() <= READ,
        _ => false,
    };
    if !more(way, first.len()) {
        return first;
    }
    let mut all = first.to_vec();
    while more(way, all.len())
        && let Some((_, Item::Bytes(next))) = way.items.pop_front()
    {
        all.extend_from_slice(&next);
    }
    all.into()
}
