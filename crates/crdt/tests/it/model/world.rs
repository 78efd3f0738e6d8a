//! Nodes, disks, links and sessions, as far as the rules (docs/rules.md) are about them. What these leave to the node is
//! done here the way they say: hello before data, push streams in order that may be cut, refused pushes, one journal, a
//! roster.

use std::collections::{BTreeMap, VecDeque};

use crdt::{
    Cause, CellRef, Change, Chunk, Clock, Dot, Forget, Hlc, Incoming, Merged, Meta, NodeId, Origin, Outgoing, Replica,
    Rules, Stamp, SyncAborted, SyncRequest, SyncStart, TableRules, Wall,
};

use super::sums::Sums;
use super::truth::Truth;
use crate::support::{CellId, Rng, plant};

/// Milliseconds.
pub(crate) const MAX_SKEW: u32 = 2_000;
/// Seconds: a member that was not seen for so long leaves the roster.
pub(crate) const FORGET_AFTER: u64 = 150;
/// Seconds: life of cells in tables that forget by time.
pub(crate) const TTL: u32 = 60;

pub(crate) fn rules() -> Rules {
    Rules::new(4, MAX_SKEW)
        .table("exp", TableRules::by_time(TTL))
        .table("ctrx", TableRules::by_time(TTL))
        .table("dlg", TableRules::by_birth(TTL))
}

/// What is on a disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    meta: Option<Meta>,
    cells: Vec<Box<[u8]>>,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    /// `None` while the process is down.
    pub(crate) replica: Option<Replica>,
    /// Milliseconds that its clock is off.
    pub(crate) skew: i64,
    /// Its clock is known to be wrong (R3).
    pub(crate) skewed: bool,
    durable: bool,
    disk: Disk,
    flying: Option<Disk>,
    backups: Vec<Disk>,
    /// Peers whose hello has come, with the clock that they showed last.
    peers: BTreeMap<usize, Clock>,
    /// When members of its roster were last seen, true time in ms.
    seen: BTreeMap<NodeId, u64>,
    held: Vec<Dot>,
    /// Its removals that a server has not acknowledged since they were made.
    unacknowledged: Vec<Dot>,
    /// The greatest stamp that its process gave.
    given: Hlc,
    /// The greatest that processes before gave, as far as their disk had room reserved for it (R4).
    pub(crate) kept: Hlc,
}

#[derive(Debug)]
enum Message {
    Hello {
        clock: Clock,
        stability: Clock,
        origin: Origin,
    },
    Clocks {
        clock: Clock,
        stability: Clock,
    },
    /// A cell, and the dots of versions that it overwrote while it waited.
    Push(Vec<u8>, Vec<Dot>),
}

/// One direction of a link: cells to be pushed, and what is on its way.
#[derive(Debug, Default)]
struct Link {
    outbox: BTreeMap<CellId, Vec<Dot>>,
    flight: VecDeque<Message>,
}

#[derive(Debug)]
struct Open {
    outgoing: Outgoing,
    start: Option<SyncStart>,
    incoming: Option<Incoming>,
    flight: VecDeque<Chunk>,
}

#[derive(Debug)]
struct Session {
    sender: usize,
    receiver: usize,
    request: SyncRequest,
    /// `None` until the request has arrived.
    open: Option<Open>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rng: Rng,
    /// True time, ms.
    pub(crate) time: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) truth: Truth,
    pub(crate) sums: Sums,
    links: BTreeMap<(usize, usize), Link>,
    sessions: Vec<Session>,
    /// Bodies are numbered, so that no two writes are alike.
    pub(crate) writes: u64,
    pub(crate) aborted: u64,
    pub(crate) retired: u64,
    /// Full sessions with a receiver that misses something of what was forgotten (R6).
    pub(crate) full: u64,
    /// Nobody leaves a roster.
    pub(crate) keep_rosters: bool,
    /// Clocks may be so wrong that cells are refused.
    pub(crate) clocks_lie: bool,
    /// Removals that somebody forgot while a server did not know of them, though all rosters were complete (R7).
    pub(crate) unacknowledged_forgotten: u64,
}

impl World {
    pub(crate) fn new(seed: u64, nodes: usize, durable_percent: u64) -> Self {
        plant();
        let mut world = Self {
            rng: Rng(seed),
            time: 1_000_000_000,
            nodes: Vec::new(),
            truth: Truth::default(),
            sums: Sums::default(),
            links: BTreeMap::new(),
            sessions: Vec::new(),
            writes: 0,
            aborted: 0,
            retired: 0,
            full: 0,
            keep_rosters: false,
            clocks_lie: false,
            unacknowledged_forgotten: 0,
        };
        for _ in 0..nodes {
            world.add_node(durable_percent);
        }
        world
    }

    pub(crate) fn add_node(&mut self, durable_percent: u64) {
        let index = self.nodes.len();
        let node = Node {
            id: NodeId(index as u64 + 1),
            replica: None,
            skew: self.rng.below(u64::from(MAX_SKEW)) as i64 - i64::from(MAX_SKEW) / 2,
            skewed: false,
            durable: self.rng.chance(durable_percent),
            disk: Disk::default(),
            flying: None,
            backups: Vec::new(),
            peers: BTreeMap::new(),
            seen: BTreeMap::new(),
            held: Vec::new(),
            unacknowledged: Vec::new(),
            given: Hlc::default(),
            kept: Hlc::default(),
        };
        self.nodes.push(node);
        self.start(index);
    }

    pub(crate) fn now(&self, node: usize) -> Wall {
        Wall(self.time.saturating_add_signed(self.nodes[node].skew))
    }

    pub(crate) fn up(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&i| self.nodes[i].replica.is_some()).collect()
    }

    pub(crate) fn down(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&i| self.nodes[i].replica.is_none()).collect()
    }

    pub(crate) fn replica(&mut self, node: usize) -> &mut Replica {
        self.nodes[node].replica.as_mut().expect("the node is up")
    }

    /// Starts a process on what its disk holds.
    pub(crate) fn start(&mut self, node: usize) {
        let (origin, seed) = (Origin(self.rng.next()), self.rng.next());
        let now = self.time;
        let Node { id, replica, disk, seen, durable, skewed, given, kept, .. } = &mut self.nodes[node];
        *kept = Hlc::default();
        let mut fresh = Replica::new(*id, origin, rules(), seed);
        if let Some(meta) = disk.meta.clone().filter(|_| *durable) {
            *kept = (*given).min(meta.hlc);
            let restored = fresh.restore(meta, disk.cells.iter().cloned());
            assert!(restored.damaged.is_empty(), "the disk is sound");
        }
        *given = *kept;
        fresh.set_skewed(*skewed);
        *seen = fresh.roster().map(|(member, _)| (member, now)).collect();
        *replica = Some(fresh);
        self.settle(node);
    }

    /// The node's clock is off by so much from now on, and nobody has noticed yet.
    pub(crate) fn leap(&mut self, node: usize, ms: i64) {
        self.nodes[node].skew = ms;
    }

    /// Delivers everything that a node has to push.
    pub(crate) fn send_all(&mut self, node: usize) {
        for link in self.link_keys().into_iter().filter(|link| link.0 == node) {
            self.flush(link, 0);
            while self.deliver(link) {}
        }
    }

    /// The node's clock is off by so much from now on. Beyond the limit no data is exchanged with it.
    pub(crate) fn skew(&mut self, node: usize, ms: i64) {
        if ms.unsigned_abs() > u64::from(MAX_SKEW) / 2 {
            self.isolate(node);
        }
        let Node { replica, skew, skewed, .. } = &mut self.nodes[node];
        *skew = ms;
        *skewed = ms.unsigned_abs() > u64::from(MAX_SKEW) / 2;
        if let Some(replica) = replica {
            replica.set_skewed(*skewed);
        }
    }

    pub(crate) fn crash(&mut self, node: usize) {
        self.isolate(node);
        let Node { replica, flying, held, unacknowledged, .. } = &mut self.nodes[node];
        *replica = None;
        *flying = None;
        held.clear();
        unacknowledged.clear();
    }

    /// Puts an older state of the disk back; the node must be down.
    pub(crate) fn restore_backup(&mut self, node: usize) {
        let backups = self.nodes[node].backups.len();
        if backups > 0 {
            let at = self.rng.index(backups);
            self.nodes[node].disk = self.nodes[node].backups[at].clone();
            self.nodes[node].backups.truncate(at + 1);
        }
    }

    /// Hands the state to the disk; it is there with [`World::fsync`].
    pub(crate) fn write_out(&mut self, node: usize) {
        let Node { replica, flying, durable, .. } = &mut self.nodes[node];
        if let Some(replica) = replica.as_ref().filter(|_| *durable && flying.is_none()) {
            let cells = replica.scan(None, usize::MAX).filter_map(|(slot, _)| replica.bytes(slot).map(Box::from));
            *flying = Some(Disk { meta: Some(replica.meta()), cells: cells.collect() });
        }
    }

    pub(crate) fn fsync(&mut self, node: usize) {
        let Node { replica, flying, disk, backups, .. } = &mut self.nodes[node];
        if let (Some(replica), Some(flown)) = (replica, flying.take()) {
            replica.persisted(&flown.meta.as_ref().expect("it has metadata").clock);
            *disk = flown;
            backups.push(disk.clone());
        }
    }

    // Links

    pub(crate) fn is_linked(&self, a: usize, b: usize) -> bool {
        self.links.contains_key(&(a, b))
    }

    pub(crate) fn connect(&mut self, a: usize, b: usize) {
        let wrong = self.nodes[a].skewed || self.nodes[b].skewed;
        if a == b || wrong || self.is_linked(a, b) {
            return;
        }
        for (from, to) in [(a, b), (b, a)] {
            let replica = self.replica(from);
            let (clock, stability) = (replica.clock().clone(), replica.stability_clock());
            let hello = Message::Hello { clock, stability, origin: replica.origin() };
            self.links.insert((from, to), Link { outbox: BTreeMap::new(), flight: VecDeque::from([hello]) });
        }
    }

    pub(crate) fn disconnect(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            self.links.remove(&(from, to));
            self.nodes[from].peers.remove(&to);
            let (id, time) = (self.nodes[to].id, self.time);
            self.nodes[from].seen.entry(id).and_modify(|seen| *seen = time);
        }
        let (cut, kept) = std::mem::take(&mut self.sessions)
            .into_iter()
            .partition(|s| [(a, b), (b, a)].contains(&(s.sender, s.receiver)));
        self.sessions = kept;
        self.close(cut);
    }

    pub(crate) fn isolate(&mut self, node: usize) {
        for other in 0..self.nodes.len() {
            self.disconnect(node, other);
        }
    }

    fn close(&mut self, sessions: Vec<Session>) {
        for session in sessions {
            if let (Some(open), Some(replica)) = (session.open, self.nodes[session.sender].replica.as_mut()) {
                replica.close_outgoing(open.outgoing);
            }
        }
    }

    pub(crate) fn link_keys(&self) -> Vec<(usize, usize)> {
        self.links.keys().copied().collect()
    }

    /// Puts what waits to be pushed on its way: the current versions of what is still held. Some are lost to overflow.
    pub(crate) fn flush(&mut self, link: (usize, usize), loss_percent: u64) {
        let Some(Link { outbox, flight }) = self.links.get_mut(&link) else { return };
        let Some(replica) = &self.nodes[link.0].replica else { return };
        for ((table, key, member), covers) in std::mem::take(outbox) {
            let bytes = replica.slot(&table, &key, &member).and_then(|slot| replica.bytes(slot));
            if let Some(bytes) = bytes.filter(|_| !self.rng.chance(loss_percent)) {
                flight.push_back(Message::Push(bytes.to_vec(), covers));
            }
        }
    }

    /// Shows clocks to the other side.
    pub(crate) fn show(&mut self, link: (usize, usize)) {
        let Some(replica) = &self.nodes[link.0].replica else { return };
        let message = Message::Clocks { clock: replica.clock().clone(), stability: replica.stability_clock() };
        if let Some(link) = self.links.get_mut(&link) {
            link.flight.push_back(message);
        }
    }

    /// Delivers one message; says whether there was one.
    pub(crate) fn deliver(&mut self, link: (usize, usize)) -> bool {
        let Some(message) = self.links.get_mut(&link).and_then(|link| link.flight.pop_front()) else { return false };
        let (from, to) = link;
        let (now, time) = (self.now(to), self.time);
        let peer = self.nodes[from].id;
        let Node { replica, peers, seen, .. } = &mut self.nodes[to];
        let Some(replica) = replica else { return true };
        match message {
            Message::Hello { clock, stability, origin } => {
                replica.roster_enter(peer, origin, &stability);
                peers.insert(from, clock);
                seen.insert(peer, time);
            }
            Message::Clocks { clock, stability } => {
                replica.roster_show(peer, &stability);
                peers.insert(from, clock);
            }
            Message::Push(bytes, covers) => {
                if replica.accepts_pushes(&peers[&from])
                    && matches!(replica.merge_pushed(now, &bytes, 0), Merged::New(_) | Merged::Stale)
                {
                    replica.cover_overwritten(covers);
                }
            }
        }
        self.settle(to);
        true
    }

    // Sessions

    /// Lets a node ask a peer for what it lacks; both must have the other's hello.
    pub(crate) fn request(&mut self, receiver: usize, sender: usize) {
        let known = |a: usize, b: usize| self.nodes[a].peers.contains_key(&b);
        let busy = self.sessions.iter().any(|s| s.receiver == receiver);
        if !busy && known(receiver, sender) && known(sender, receiver) {
            let request = self.replica(receiver).request();
            self.sessions.push(Session { sender, receiver, request, open: None });
        }
    }

    pub(crate) const fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Moves a session on by one step; says whether it goes on.
    pub(crate) fn advance(&mut self, at: usize) -> bool {
        let mut session = self.sessions.swap_remove(at);
        let result = self.step(&mut session);
        match result {
            Ok(true) => self.sessions.push(session),
            Ok(false) => self.close(vec![session]),
            Err(_) => {
                self.aborted += 1;
                self.close(vec![session]);
            }
        }
        result == Ok(true)
    }

    fn step(&mut self, session: &mut Session) -> Result<bool, SyncAborted> {
        let (sender, receiver, now) = (session.sender, session.receiver, self.now(session.receiver));
        let Some(Open { outgoing, start, incoming, flight }) = &mut session.open else {
            let (outgoing, start) = self.replica(sender).open_outgoing(&session.request);
            // A request that waited for long may have been overtaken; what counts is what the receiver misses by now.
            let misses = !self.replica(receiver).clock().includes(&start.forgotten);
            self.full += u64::from(start.full && misses);
            let (start, flight) = (Some(start), VecDeque::new());
            session.open = Some(Open { outgoing, start, incoming: None, flight });
            return Ok(true);
        };
        if let Some(start) = start.take() {
            *incoming = Some(self.replica(receiver).open_incoming(start, session.request.clone()));
            return Ok(true);
        }
        if let Some(incoming) = incoming.take_if(|incoming| incoming.is_complete()) {
            let finished = self.replica(receiver).finish(incoming, now);
            self.settle(receiver);
            return finished.map(|_| false);
        }
        let all_sent = flight.back().is_some_and(|chunk| chunk.last);
        if !all_sent && (flight.is_empty() || self.rng.chance(50)) {
            let size = 40 + self.rng.index(200);
            flight.push_back(self.replica(sender).next_chunk(outgoing, size)?);
        } else if let (Some(chunk), Some(incoming)) = (flight.pop_front(), incoming.as_mut()) {
            let applied = self.replica(receiver).apply_chunk(incoming, chunk, now);
            self.settle(receiver);
            applied?;
        }
        Ok(true)
    }

    pub(crate) fn cut_session(&mut self, at: usize) {
        let session = self.sessions.swap_remove(at);
        self.close(vec![session]);
    }

    // After each step

    /// Lets time pass at a node: deadlines, forgetting, members that are away for too long.
    pub(crate) fn tick(&mut self, node: usize) {
        let (now, time) = (self.now(node), self.time);
        let linked: Vec<NodeId> = self.nodes[node].peers.keys().map(|&peer| self.nodes[peer].id).collect();
        let Node { replica, seen, .. } = &mut self.nodes[node];
        let Some(replica) = replica else { return };
        for id in linked {
            seen.insert(id, time);
        }
        let away: Vec<NodeId> =
            seen.iter().filter(|(_, at)| **at + FORGET_AFTER * 1_000 < time).map(|e| *e.0).collect();
        for id in away.into_iter().filter(|_| !self.keep_rosters) {
            replica.roster_remove(id);
            seen.remove(&id);
        }
        while replica.tick(now) {}
        self.retired += replica.retire_origins(now, FORGET_AFTER);
        self.settle(node);
    }

    /// Takes up what changed at a node: records its writes, offers them to its peers.
    pub(crate) fn settle(&mut self, node: usize) {
        let Node { id, replica, durable, held, unacknowledged, given, .. } = &mut self.nodes[node];
        let Some(replica) = replica else { return };
        let changes = replica.drain_changes();
        for (at, change) in changes.iter().enumerate() {
            if change.cause == Cause::Local {
                let bytes = after(replica, &changes, at);
                self.truth.record(bytes);
                let cell = CellRef::decode(bytes).expect("a replica writes canonical cells");
                let Stamp { time, node } = cell.order.stamp;
                *given = (*given).max(if node == *id { time } else { Hlc::default() });
                let (dot, stable) = (cell.order.dot, rules().of(cell.table).forget == Forget::Stable);
                if stable && cell.order.removed && self.keep_rosters && self.rng.chance(20) {
                    replica.hold(dot);
                    held.push(dot);
                    unacknowledged.push(dot);
                }
            }
        }
        if !*durable {
            let clock = replica.clock().clone();
            replica.persisted(&clock);
        }
        for change in &changes {
            self.offer(node, change);
        }
        if changes.iter().any(|change| change.cause == Cause::Forgotten) {
            let forgotten = self.nodes[node].replica.as_ref().map(Replica::forgotten);
            let waits = self.nodes.iter().flat_map(|node| &node.unacknowledged);
            let early = waits.filter(|dot| forgotten.is_some_and(|clock| clock.contains(**dot))).count();
            self.unacknowledged_forgotten += early as u64;
        }
    }

    fn offer(&mut self, node: usize, change: &Change) {
        let percent = match change.cause {
            Cause::Local => 100,
            Cause::Pushed => 50,
            Cause::Synced => 20,
            _ => 0,
        };
        let replica = self.nodes[node].replica.as_ref().expect("the node is up");
        let Some(cell) = replica.cell(change.slot) else { return };
        let id = (cell.table.to_owned(), cell.key.to_vec(), cell.member.to_vec());
        let old = change.old.as_deref().map(|old| CellRef::decode(old).expect("it was held").order.dot);
        for (_, link) in self.links.range_mut((node, 0)..(node + 1, 0)) {
            if let Some(covers) = link.outbox.get_mut(&id) {
                covers.extend(old);
            } else if self.rng.chance(percent) {
                link.outbox.insert(id.clone(), Vec::new());
            }
        }
    }

    /// All attached servers have acknowledged everything; says whether there was anything to acknowledge.
    pub(crate) fn release_all(&mut self, node: usize) -> bool {
        let Node { replica, held, unacknowledged, .. } = &mut self.nodes[node];
        let had = !held.is_empty();
        unacknowledged.clear();
        if let Some(replica) = replica {
            held.drain(..).for_each(|dot| replica.release(dot));
        }
        had
    }

    /// R7: a dot that an attached server has not acknowledged; released some time later.
    pub(crate) fn hold_or_release(&mut self, node: usize) {
        let release = self.rng.chance(60);
        let Node { replica, held, unacknowledged, .. } = &mut self.nodes[node];
        let Some(replica) = replica else { return };
        if release {
            unacknowledged.clear();
            held.drain(..).for_each(|dot| replica.release(dot));
        } else if let Some((_, cell)) = replica.scan(None, usize::MAX).last() {
            let dot = cell.order.dot;
            replica.hold(dot);
            held.push(dot);
        }
    }
}

/// The bytes that a change put in place: what a later one replaced there, or what is there now.
fn after<'a>(replica: &'a Replica, changes: &'a [Change], at: usize) -> &'a [u8] {
    let later = changes[at + 1..].iter().find(|c| c.slot == changes[at].slot && c.cause != Cause::Expired);
    match later {
        Some(later) => later.old.as_deref().expect("a version was replaced"),
        None => replica.bytes(changes[at].slot).expect("a write is held"),
    }
}
