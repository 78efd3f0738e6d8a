//! Connections between nodes: a handshake of four packets, and every way to end.
//!
//! A side that hears nothing for the idle time is told that its link ended, on its own: the other side learns in its own
//! time. What a node does with links, and what passes at all, is not decided here; what links carry is in [`crate::lanes`].

use std::collections::BTreeMap;
use std::net::SocketAddr;

use node::{Lane, LinkId, Mono};

use crate::coverage::Sometimes;
use crate::lanes::LaneQueue;
use crate::queue::{At, ConnIx, Event, Side};
use crate::rng::{Rng, Stream};
use crate::step::Arrival;
use crate::world::World;

/// Between two keep-alives, milliseconds: what was last heard is at most so old.
const KEEP_ALIVE_MS: u64 = 1_000;

/// The packets of a handshake: the dialer's first, the answer, the dialer's proof, and the byte that says it is up.
const LEGS: u8 = 4;

/// What a side of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The handshake goes on.
    Opening,
    /// Its node was told that it is up.
    Up,
    /// Over for this side.
    Closed,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub ends: [At; 2],
    lives: [u32; 2],
    state: [State; 2],
    pub lanes: [BTreeMap<Lane, LaneQueue>; 2],
    /// Whether the first frame of each side has arrived.
    pub greeted: [bool; 2],
    /// Whether each side hears the other, and how often that has changed.
    hears: [bool; 2],
    epoch: [u32; 2],
    /// When each side stopped hearing the other.
    deaf: [Mono; 2],
    /// What the transport takes ahead of its arrival, bytes per lane.
    pub window: usize,
    rng: Rng,
}

/// All connections.
#[derive(Debug, Default)]
pub(crate) struct Conns {
    all: Vec<Option<Box<Conn>>>,
    by_pair: BTreeMap<(At, At), Vec<ConnIx>>,
}

impl Conns {
    pub(crate) fn get(&self, conn: ConnIx) -> Option<&Conn> {
        self.all.get(conn as usize)?.as_deref()
    }

    pub(crate) fn get_mut(&mut self, conn: ConnIx) -> Option<&mut Conn> {
        self.all.get_mut(conn as usize)?.as_deref_mut()
    }

    /// The connections between two hosts.
    fn between(&self, a: At, b: At) -> Vec<ConnIx> {
        self.by_pair.get(&pair(a, b)).cloned().unwrap_or_default()
    }

    /// The connections of a host.
    fn of(&self, host: At) -> Vec<ConnIx> {
        let pairs = self.by_pair.iter().filter(|((a, b), _)| *a == host || *b == host);
        pairs.flat_map(|(_, conns)| conns.iter().copied()).collect()
    }

    fn remove(&mut self, conn: ConnIx) {
        let Some(gone) = self.all.get_mut(conn as usize).and_then(Option::take) else { return };
        let pair = pair(gone.ends[0], gone.ends[1]);
        if let Some(conns) = self.by_pair.get_mut(&pair) {
            conns.retain(|other| *other != conn);
            if conns.is_empty() {
                self.by_pair.remove(&pair);
            }
        }
    }
}

const fn pair(a: At, b: At) -> (At, At) {
    if a < b { (a, b) } else { (b, a) }
}

pub(crate) const fn link(conn: ConnIx, side: Side) -> LinkId {
    LinkId(conn as u64 * 2 + side as u64)
}

pub(crate) const fn conn_of(link: LinkId) -> (ConnIx, Side) {
    ((link.0 / 2) as ConnIx, (link.0 % 2) as Side)
}

impl Conn {
    pub(crate) fn end(&self, side: Side) -> At {
        self.ends[usize::from(side)]
    }

    /// Whether a side's node has been told that it is up, and not that it is over.
    pub(crate) fn is_up(&self, side: Side) -> bool {
        self.is(side, State::Up)
    }

    fn is(&self, side: Side, state: State) -> bool {
        self.state[usize::from(side)] == state
    }

    fn set(&mut self, side: Side, state: State) {
        self.state[usize::from(side)] = state;
    }

    /// Whether a session is under way.
    fn in_session(&self) -> bool {
        let lanes = self.lanes.iter().flat_map(BTreeMap::keys);
        lanes.into_iter().any(|lane| matches!(lane, Lane::Session { .. }))
    }

    fn has_frames(&self) -> bool {
        self.lanes.iter().flat_map(BTreeMap::values).any(LaneQueue::has_frames)
    }
}

impl World {
    /// A node wants a connection.
    pub(crate) fn dial(&mut self, from: At, addr: SocketAddr) {
        let Some(to) = self.node_by_quic(addr).filter(|to| *to != from) else {
            // Nobody is there. The timeout needs no connection, only an address that nobody has.
            return self.dial_nobody(from, addr);
        };
        let conn = self.conns.all.len() as ConnIx;
        let mut rng = Rng::stream(self.script.seed, Stream::Link, u64::from(conn));
        let window = if rng.permille(250) { 32 << 10 } else { 4 << 20 };
        self.conns.all.push(Some(Box::new(Conn {
            ends: [from, to],
            lives: [self.nodes[usize::from(from)].lives, 0],
            state: [State::Opening; 2],
            lanes: Default::default(),
            greeted: [false; 2],
            hears: [true; 2],
            epoch: [0; 2],
            deaf: [self.now; 2],
            window,
            rng,
        })));
        self.conns.by_pair.entry(pair(from, to)).or_default().push(conn);
        if self.net.is_cut(from, to) != self.net.is_cut(to, from) {
            self.saw(Sometimes::DialOneWay);
        }
        let timeout = self.dial_timeout_ms();
        self.queue.post(self.now.plus_ms(timeout), Event::DialTimeout(conn));
        self.leg_sent(conn, 0, 0);
    }

    /// Whether a side's process is the one that the connection belongs to, and runs.
    fn lives(&self, conn: &Conn, side: Side) -> bool {
        let host = &self.nodes[usize::from(conn.end(side))];
        host.node.is_some() && (host.lives == conn.lives[usize::from(side)])
    }

    /// Whether nothing of a session passes from one node to another.
    pub(crate) fn blocked(&self, from: At, to: At) -> bool {
        let still = |host: At| {
            let host = &self.nodes[usize::from(host)];
            host.node.is_none() || host.is_paused()
        };
        self.net.blocks_quic(from, to) || still(from) || still(to)
    }

    /// A packet of a handshake leaves.
    pub(crate) fn leg_sent(&mut self, ix: ConnIx, leg: u8, again: u8) {
        let Some(conn) = self.conns.get(ix) else { return };
        let sender = leg % 2;
        let (from, to) = (conn.end(sender), conn.end(1 - sender));
        if !conn.is(0, State::Opening) || !self.lives(conn, sender) {
            return;
        }
        let arrives = if self.blocked(from, to) { None } else { self.net.packet(from, to, self.now) };
        match arrives {
            Some(at) => self.queue.post(at, Event::Leg { conn: ix, leg, again }),
            None => self.leg_again(ix, leg, again),
        }
    }

    /// A packet of a handshake was lost: the sender repeats it when its timer says so.
    fn leg_again(&mut self, conn: ConnIx, leg: u8, again: u8) {
        let Some(Conn { ends: [a, b], .. }) = self.conns.get(conn) else { return };
        let timer = if leg == 0 { 1_000_000 } else { 3 * self.net.round_trip_us(*a, *b) + 25_000 };
        let at = Mono(self.now.0 + (timer << again.min(6)));
        self.queue.post(at, Event::LegSent { conn, leg, again: again.saturating_add(1) });
    }

    /// A packet of a handshake arrives.
    pub(crate) fn leg(&mut self, ix: ConnIx, leg: u8, again: u8) {
        let Some(conn) = self.conns.get(ix) else { return };
        let (sender, receiver) = (leg % 2, 1 - leg % 2);
        let (from, to) = (conn.end(sender), conn.end(receiver));
        if self.blocked(from, to) {
            return self.leg_again(ix, leg, again);
        }
        let life = self.nodes[usize::from(to)].lives;
        let Some(conn) = self.conns.get_mut(ix) else { return };
        if leg == 0 {
            conn.lives[1] = life;
        } else if conn.lives[usize::from(receiver)] != life {
            return;
        }
        match leg {
            2 if conn.is(1, State::Opening) => self.side_up(ix, 1),
            3 if conn.is(0, State::Opening) => self.side_up(ix, 0),
            _ => {}
        }
        if leg + 1 < LEGS {
            self.leg_sent(ix, leg + 1, 0);
        }
    }

    fn side_up(&mut self, ix: ConnIx, side: Side) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(ix) else { return };
        conn.set(side, State::Up);
        conn.lanes[usize::from(side)].insert(Lane::Push, LaneQueue::default());
        conn.deaf[usize::from(side)] = now;
        let (at, peer) = (conn.end(side), conn.end(1 - side));
        let up = Arrival::LinkUp { link: link(ix, side), peer, dialed: side == 0 };
        self.arrive(at, up);
        self.listen(ix);
        self.move_lanes(ix, 1 - side, 0);
    }

    /// The dialer gives up, unless it is connected.
    pub(crate) fn dial_timeout(&mut self, ix: ConnIx) {
        let Some(conn) = self.conns.get_mut(ix) else { return };
        if !conn.is(0, State::Opening) {
            return;
        }
        let [from, to] = conn.ends;
        conn.set(0, State::Closed);
        let life = conn.lives[0];
        if self.nodes[usize::from(from)].lives == life {
            let addr = self.nodes[usize::from(to)].quic;
            self.arrive(from, Arrival::DialFailed { addr });
        }
        self.part(ix, 0, "the other side gave up");
    }

    /// One side has closed: the other one learns it if a packet gets through, else by silence.
    fn part(&mut self, ix: ConnIx, side: Side, why: &'static str) {
        let Some(conn) = self.conns.get_mut(ix) else { return };
        conn.lanes[usize::from(side)].clear();
        if conn.is(1 - side, State::Closed) {
            return self.conns.remove(ix);
        }
        if side == 0 && conn.is(1, State::Opening) {
            return self.conns.remove(ix);
        }
        let (from, to) = (conn.end(side), conn.end(1 - side));
        if let Some(at) = self.net.packet(from, to, self.now) {
            self.queue.post(at, Event::Ended { conn: ix, side: 1 - side, why });
        }
        self.listen(ix);
    }

    /// The node closes a link.
    pub(crate) fn close_link(&mut self, id: LinkId, why: &'static str) {
        let (ix, side) = conn_of(id);
        let Some(conn) = self.conns.get_mut(ix).filter(|conn| conn.is(side, State::Up)) else { return };
        conn.set(side, State::Closed);
        let at = conn.end(side);
        // The shell tells the node of the end of every link, also of one that it closed itself.
        self.arrive(at, Arrival::LinkDown { link: id, why: "closed here" });
        self.part(ix, side, why);
    }

    /// A side learns that its connection ended.
    pub(crate) fn ended(&mut self, ix: ConnIx, side: Side, why: &'static str) {
        let Some(conn) = self.conns.get_mut(ix) else { return };
        let was_up = conn.is(side, State::Up);
        conn.set(side, State::Closed);
        conn.lanes[usize::from(side)].clear();
        let (at, other_closed) = (conn.end(side), conn.is(1 - side, State::Closed));
        let same_life = self.conns.get(ix).is_some_and(|conn| self.lives(conn, side));
        if other_closed {
            self.conns.remove(ix);
        } else {
            self.listen(ix);
        }
        if was_up && same_life {
            self.arrive(at, Arrival::LinkDown { link: link(ix, side), why });
        }
    }

    /// Nothing was heard for the idle time.
    pub(crate) fn idle(&mut self, ix: ConnIx, side: Side, epoch: u32) {
        let Some(conn) = self.conns.get(ix) else { return };
        let silent = conn.epoch[usize::from(side)] == epoch && !conn.hears[usize::from(side)];
        if silent && conn.is(side, State::Up) {
            self.saw_loss(ix);
            self.ended(ix, side, "silence");
        }
    }

    /// Every session between two hosts breaks, and each side learns it in its own time.
    pub(crate) fn break_sessions(&mut self, a: At, b: At) {
        for ix in self.conns.between(a, b) {
            self.saw_loss(ix);
            let now = self.now;
            let Some(conn) = self.conns.get_mut(ix) else { continue };
            conn.lanes.iter_mut().flat_map(BTreeMap::values_mut).for_each(LaneQueue::clear);
            for side in 0..2 {
                let late = conn.rng.below(if side == 0 { 100_000 } else { 3_000_000 });
                self.queue.post(Mono(now.0 + late), Event::Ended { conn: ix, side, why: "broken" });
            }
        }
    }

    fn saw_loss(&mut self, ix: ConnIx) {
        let Some(conn) = self.conns.get(ix) else { return };
        let (mid_frame, mid_session) = (conn.has_frames(), conn.in_session());
        if mid_frame {
            self.saw(Sometimes::BrokenMidFrame);
        }
        if mid_session {
            self.saw(Sometimes::SessionCut);
        }
    }

    /// A node's process is gone.
    pub(crate) fn links_die(&mut self, host: At) {
        for ix in self.conns.of(host) {
            self.saw_loss(ix);
            let Some(conn) = self.conns.get_mut(ix) else { continue };
            let side = Side::from(conn.ends[1] == host);
            conn.set(side, State::Closed);
            conn.lanes[usize::from(side)].clear();
            if conn.is(1 - side, State::Closed) || (side == 0 && conn.is(1, State::Opening)) {
                self.conns.remove(ix);
            } else {
                self.listen(ix);
            }
        }
    }

    /// Paths between two hosts have changed, or one of them has stopped or goes on.
    pub(crate) fn paths_changed(&mut self, a: At, b: At) {
        for ix in self.conns.between(a, b) {
            self.listen(ix);
        }
    }

    /// As [`World::paths_changed`], for all paths of a host.
    pub(crate) fn host_changed(&mut self, host: At) {
        for ix in self.conns.of(host) {
            self.listen(ix);
        }
    }

    /// Looks who hears whom now, and lets lanes go on that can.
    fn listen(&mut self, ix: ConnIx) {
        let Some(conn) = self.conns.get(ix) else { return };
        let hears = [0, 1].map(|side: Side| {
            let other = 1 - side;
            let speaks = !conn.is(other, State::Closed) && self.lives(conn, other);
            speaks && !self.blocked(conn.end(other), conn.end(side))
        });
        let (now, idle) = (self.now, self.idle_ms());
        let Some(conn) = self.conns.get_mut(ix) else { return };
        let before = std::mem::replace(&mut conn.hears, hears);
        for side in [0, 1].into_iter().filter(|&side| before[side] != hears[side]) {
            let Some(conn) = self.conns.get_mut(ix) else { return };
            conn.epoch[side] += 1;
            let epoch = conn.epoch[side];
            if hears[side] {
                // What was sent meanwhile is repeated, the later the longer nothing came through.
                let silence = now.0.saturating_sub(conn.deaf[side].0).min(1_000_000);
                let backoff = 1_000 + conn.rng.below(silence + 1);
                self.move_lanes(ix, 1 - side as Side, backoff);
            } else {
                conn.deaf[side] = now;
                let heard = conn.rng.below(KEEP_ALIVE_MS * 1_000);
                let at = Mono((now.0 + idle * 1_000).saturating_sub(heard));
                self.queue.post(at, Event::Idle { conn: ix, side: side as Side, epoch });
            }
        }
    }
}
