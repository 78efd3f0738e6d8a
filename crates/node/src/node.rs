//! The node itself: one input in, outputs out.
//!
//! Every input goes to the half it concerns; then what changed in the state goes to the journal, to
//! the other nodes, to the servers and to watchers, until nothing changes any more. No half calls
//! the other: they meet in the replica.

use std::collections::VecDeque;

use crdt::planted::{self, Bug};
use crdt::{Cause, Change, NodeId, Replica};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use crate::command::{Event, EventKind};
use crate::config::{Ack, Config};
use crate::cx::{Cx, Stats};
use crate::dmq::{Dmq, Ended, Standing};
use crate::execute;
use crate::front::{Arrival, Front, Path};
use crate::io::{CommandId, ConnId, Input, Level, LogLine, Mono, Now, Output, Restored, Tree};
use crate::journal::Journal;
use crate::mesh::{Jumps, Mesh, ServerNote};
use crate::{Command, CommandError, CommandOk};

/// How often the node looks at the clock for the store's sake while something can expire, milliseconds.
const STORE_TICK_MS: u64 = 250;

/// How often the node looks who speaks for which server, milliseconds, besides when a server comes or goes.
const OWN_MS: u64 = 200;

/// A Starling node without its shell.
pub struct Node {
    pub(crate) config: Config,
    pub(crate) replica: Replica,
    pub(crate) mesh: Mesh,
    pub(crate) dmq: Dmq,
    pub(crate) journal: Journal,
    pub(crate) stats: Stats,
    front: Front,
    out: VecDeque<Output>,
    /// Commands whose result waits for the disk.
    waiting: VecDeque<(u64, CommandId, Result<CommandOk, CommandError>)>,
    watched: bool,
    pub(crate) started: Now,
    store_tick_at: Mono,
    jumps: Jumps,
    own_at: Mono,
    /// The moment of the last input, for [`Output::Sleep`].
    now: Mono,
}

impl Node {
    /// A node with what the disk held. `seed` feeds every random choice.
    pub fn new(config: Config, seed: [u8; 32], now: Now, restored: Restored) -> Self {
        let mut rng = ChaCha8Rng::from_seed(seed);
        let found = Journal::sort(restored);
        let mut journal = Journal::new(config.durable);
        let mut stats = Stats { journal_unreadable: found.unreadable, ..Stats::default() };
        let mut replica = Replica::new(config.node, config.origin, execute::rules(&config), rng.random());
        if let Some(meta) = found.meta {
            let damaged = replica.restore(meta, found.cells).damaged;
            stats.journal_unreadable += damaged.len() as u64;
            damaged.into_iter().for_each(|place| journal.discard(found.keys[place].clone()));
        }
        let mut out = VecDeque::new();
        if stats.journal_unreadable > 0 {
            let text = format!("{} entries on disk could not be read and were left out", stats.journal_unreadable);
            out.push_back(Output::Log(LogLine { level: Level::Error, text }));
        }
        // Also in the first hello.
        replica.set_settling(true);
        let mut dmq = Dmq::new(&config, now.mono);
        dmq.restore(&found.puts, &config, &mut replica, now);
        Self {
            mesh: Mesh::new(&config, rng.random(), now, &found.puts),
            dmq,
            journal,
            front: Front::new([rng.random(), rng.random(), rng.random()]),
            config,
            replica,
            stats,
            out,
            waiting: VecDeque::new(),
            watched: false,
            started: now,
            store_tick_at: now.mono,
            jumps: Jumps::new(now),
            own_at: now.mono,
            now: now.mono,
        }
    }

    /// Takes something in. Drain [`Node::poll`] afterwards.
    pub fn handle(&mut self, input: Input<'_>, now: Now) {
        self.now = now.mono;
        let mut cx =
            Cx { now, config: &self.config, replica: &mut self.replica, out: &mut self.out, stats: &mut self.stats };
        if let Some(by_ms) = self.jumps.look(now) {
            self.mesh.clock_jumped(by_ms, &mut cx);
            let right = self.mesh.is_clock_right(cx.config.max_skew_ms);
            self.dmq.clock_jumped(by_ms, right, &cx);
        }
        match input {
            Input::Tick => {}
            Input::LinkUp { link, addr, dialed, subject } => {
                self.mesh.link_up(link, addr, dialed, subject, &mut cx);
            }
            Input::LinkDown { link, reason } => self.mesh.link_down(link, reason, &mut cx),
            Input::DialFailed { addr, reason } => self.mesh.dial_failed(addr, reason, &mut cx),
            Input::Datagram { link, bytes } => self.mesh.datagram(link, bytes, &mut cx),
            Input::Frame { link, lane, bytes } => self.mesh.frame(link, lane, bytes, &mut cx),
            Input::FramesSent { link, lane, frames } => {
                self.mesh.frames_sent(link, lane, frames, &mut cx);
            }
            Input::LaneClosed { link, lane } => self.mesh.lane_closed(link, lane, &mut cx),
            Input::SipDatagram { socket, from, bytes } => {
                let arrival = self.front.datagram(socket, from, bytes, &mut cx);
                arrived(arrival, &mut self.dmq, &mut self.front, &mut self.journal, &mut cx);
            }
            Input::SipConnected { conn, socket, peer } => {
                self.front.connected(conn, socket, peer, &mut cx);
            }
            Input::SipStream { conn, bytes } => {
                let parts = (&mut self.dmq, &mut self.front, &mut self.journal);
                streamed(conn, bytes, parts, &mut cx);
            }
            Input::SipClosed { conn, whole } => {
                let whole = self.front.closed(conn, whole);
                self.dmq.stream_closed(conn, whole);
            }
            Input::Persisted { batch } => {
                if self.journal.persisted(batch, &mut cx) {
                    self.mesh.persisted();
                }
            }
            Input::PersistFailed { batch, reason } => self.journal.persist_failed(batch, reason, &mut cx),
            Input::Command { id, command } => self.command(id, command, now),
        }
        self.settle(now);
    }

    fn command(&mut self, id: CommandId, command: Command, now: Now) {
        let mut cx =
            Cx { now, config: &self.config, replica: &mut self.replica, out: &mut self.out, stats: &mut self.stats };
        let result = execute::execute(command, self.dmq.facts(), &mut cx);
        match (self.config.ack, &result) {
            (Ack::Disk, Ok(_)) if !planted::on(Bug::AckBeforeDisk) => {
                self.waiting.push_back((self.journal.wait(), id, result))
            }
            _ => self.out.push_back(Output::Done { id, result }),
        }
    }

    /// Runs timers, then hands on whatever changed, until nothing does.
    fn settle(&mut self, now: Now) {
        let mut cx =
            Cx { now, config: &self.config, replica: &mut self.replica, out: &mut self.out, stats: &mut self.stats };
        let ticks = now.mono >= self.store_tick_at;
        if ticks {
            cx.replica.set_settling(self.dmq.is_settling(&self.config, now.mono));
            let more = cx.replica.tick(now.wall);
            self.store_tick_at = if more { now.mono } else { now.mono.plus_ms(STORE_TICK_MS) };
        }
        self.mesh.tick(&mut cx);
        while let Some(ask) = self.front.timed_out(&mut cx) {
            self.dmq.ended(ask, Ended::TimedOut, &mut self.front, &mut cx);
        }
        if self.dmq.has_news() || now.mono >= self.own_at {
            self.own_at = now.mono.plus_ms(OWN_MS);
            own(&mut self.dmq, &mut self.mesh, &mut cx);
        }
        self.dmq.tick(&mut self.front, &mut cx);
        loop {
            let changes = cx.replica.drain_changes();
            if changes.is_empty() {
                break;
            }
            self.journal.on_changes(&changes, &mut cx);
            self.mesh.on_changes(&changes, &mut cx);
            self.dmq.on_changes(&changes, &mut cx);
            if self.watched {
                tell_watchers(&changes, &mut cx);
            }
        }
        if ticks && !self.config.durable {
            // What is in memory is all that there is; others may rely on it as they would on a disk. Not before it is known which
            // removals servers here have to be told.
            let clock = cx.replica.clock().clone();
            cx.replica.persisted(&clock);
        }
        self.dmq.pump(&mut self.front, &mut cx);
        for (tree, key, value) in self.mesh.take_puts() {
            self.journal.put(tree, key, value);
        }
        if self.config.durable {
            for (key, value) in self.dmq.take_puts(cx.replica) {
                self.journal.put(Tree::Books, key, value);
            }
            if self.dmq.wants_ticket() {
                self.dmq.ticket(self.journal.wait());
            }
        } else {
            self.dmq.drop_puts();
        }
        self.journal.flush(&mut cx);
        let journal = &self.journal;
        self.front.persisted(|ticket| journal.done(ticket), &mut cx);
        self.dmq.kept(&|ticket| journal.done(ticket));
        while self.waiting.front().is_some_and(|(ticket, ..)| self.journal.done(*ticket)) {
            if let Some((_, id, result)) = self.waiting.pop_front() {
                self.out.push_back(Output::Done { id, result });
            }
        }
    }

    /// The next thing to do; [`Output::Sleep`] ends the round.
    pub fn poll(&mut self) -> Output {
        if let Some(output) = self.out.pop_front() {
            return output;
        }
        let (mut until, mut reason) = self.mesh.next_wakeup();
        let mut earlier = |at: Option<Mono>, why| {
            if let Some(at) = at.filter(|at| *at < until) {
                (until, reason) = (at, why);
            }
        };
        earlier(Some(self.dmq.next_wakeup(&self.config.dmq)), "dmq");
        earlier(Some(self.front.next_wakeup()), "sip");
        earlier(Some(self.own_at), "owner");
        earlier(self.journal.next_wakeup(), "journal");
        let expires = self.replica.next_wakeup().map(|_| self.store_tick_at);
        earlier(expires, "store");
        Output::Sleep { until: until.max(self.now), reason }
    }

    /// The replicated state, for whoever checks a node: reading only.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Turns [`Output::Event`] on or off.
    pub fn watch(&mut self, on: bool) {
        self.watched = on;
    }
}

/// How long each of several nodes that meet at once leaves it to the one before to count what their servers have, milliseconds,
/// and of how many at most: what the first has counted the others know then.
const SETTLE_TURN_MS: u64 = 1_000;
const SETTLE_TURNS: u64 = 10;

/// Brings the two halves together on who speaks for which server.
fn own(dmq: &mut Dmq, mesh: &mut Mesh, cx: &mut Cx<'_>) {
    dmq.set_nodes(mesh.sip_addrs().collect(), mesh.unlinked_sip_addrs().collect());
    if !mesh.catch_up(cx.config, cx.now.mono) {
        return;
    }
    let first = dmq.attend();
    if let Some(since) = mesh.level_since(cx.config, cx.now.mono) {
        dmq.join();
        // One that cannot be reached may have counted what is unknown here.
        if mesh.knows_everything(cx.config, cx.now.mono) {
            dmq.know_counters();
            let turn = SETTLE_TURN_MS * mesh.nodes_before(cx.config).min(SETTLE_TURNS);
            if cx.now.mono.ms_since(since) >= turn {
                dmq.settle_counters(cx);
            }
        }
    }
    let others = |uri: &str| -> Vec<(NodeId, Standing)> {
        let standing = |notes: &[ServerNote]| notes.iter().find(|note| note.uri == uri.as_bytes()).map(|n| n.standing);
        mesh.peer_servers().filter_map(|(node, notes)| Some((node, standing(notes)?))).collect()
    };
    dmq.settle_owners(cx.config.node, &others, cx);
    if let Some(notes) = dmq.take_notes() {
        let note = |(uri, standing): (String, _)| ServerNote { uri: uri.into_bytes(), standing };
        mesh.set_servers(notes.into_iter().map(note).collect(), cx);
    }
    if first {
        dmq.take_held(cx);
    }
}

fn streamed(conn: ConnId, bytes: &[u8], (dmq, front, journal): (&mut Dmq, &mut Front, &mut Journal), cx: &mut Cx<'_>) {
    front.stream(conn, bytes);
    while let Some((message, peer, path)) = front.next_of_stream(conn, cx) {
        let path: Path = path;
        let arrival = front.message(&message, peer, path, cx);
        arrived(arrival, dmq, front, journal, cx);
    }
    if !front.has(conn) {
        dmq.stream_closed(conn, false);
    }
}

fn arrived(arrival: Option<Arrival<'_>>, dmq: &mut Dmq, front: &mut Front, journal: &mut Journal, cx: &mut Cx<'_>) {
    match arrival {
        None => {}
        Some(Arrival::Response { ask, code, message }) => {
            let server = message.server();
            let how = Ended::Answered { code, server: server.as_deref(), body: message.body, size: message.size() };
            dmq.ended(ask, how, front, cx);
        }
        Some(Arrival::Request(request)) => {
            let reply = dmq.on_request(&request, front, cx);
            let waits = reply.promises && cx.config.ack == Ack::Disk && !planted::on(Bug::AckBeforeDisk);
            let ticket = waits.then(|| journal.wait());
            front.answer(&request, reply.code, reply.body, ticket, cx);
        }
    }
}

fn tell_watchers(changes: &[Change], cx: &mut Cx<'_>) {
    for change in changes {
        let Some(cell) = cx.replica.cell(change.slot) else { continue };
        let what = match change.cause {
            Cause::Forgotten => continue,
            Cause::Expired => EventKind::Expired,
            _ if cell.body.is_none() => EventKind::Removed,
            _ => EventKind::Set,
        };
        let event = Event {
            table: cell.table.to_owned(),
            key: cell.key.into(),
            member: cell.member.into(),
            what,
            node: cell.order.stamp.node,
            time_ms: cell.order.stamp.time.ms(),
        };
        cx.out.push_back(Output::Event(event));
    }
}
