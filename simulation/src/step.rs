//! One step of a node: something comes in, and all that the node then wants is carried out before anything else.
//!
//! What arrives while the process stands still or is busy waits, in order.

use std::net::SocketAddr;

use bytes::Bytes;
use node::{Batch, Command, CommandId, ConnId, Input, Lane, LinkId, Mono, Output, SocketId};

use crate::coverage::Sometimes;
use crate::host::host_now;
use crate::invariants::{Kind, Moment};
use crate::ledger::{DeedId, Ended};
use crate::queue::{At, Event};
use crate::world::World;

/// So many datagrams wait for a process that does not read; more are dropped, as by a kernel.
const BUFFER: usize = 4_000;

/// A node's sockets: the second one takes connections.
const UDP: SocketId = SocketId(0);
const TCP: SocketId = SocketId(1);

/// A node that wants to be called at once is called after this, microseconds: work takes time.
const AT_ONCE_US: u64 = 20;

/// Something on its way into a node.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// See [`Input::LinkUp`].
    LinkUp { link: LinkId, peer: At, dialed: bool },
    /// See [`Input::LinkDown`].
    LinkDown { link: LinkId, why: &'static str },
    /// See [`Input::DialFailed`].
    DialFailed { addr: SocketAddr },
    /// See [`Input::Datagram`].
    Datagram { link: LinkId, bytes: Bytes },
    /// See [`Input::Frame`].
    Frame { link: LinkId, lane: Lane, bytes: Bytes },
    /// See [`Input::FramesSent`].
    FramesSent { link: LinkId, lane: Lane, frames: u32 },
    /// See [`Input::LaneClosed`].
    LaneClosed { link: LinkId, lane: Lane },
    /// A SIP datagram, and whether a stranger sent it or a server that cannot be trusted.
    Sip { from: SocketAddr, bytes: Bytes, hostile: bool },
    /// See [`Input::SipConnected`].
    SipConnected { conn: ConnId, peer: SocketAddr },
    /// See [`Input::SipStream`].
    SipStream { conn: ConnId, bytes: Bytes },
    /// See [`Input::SipClosed`].
    SipClosed { conn: ConnId, whole: bool },
    /// A batch is on disk, or was refused.
    Disk { batch: u64, written: bool },
    /// Somebody wants something written; `None` once it was given to the node.
    Command { deed: DeedId, command: Option<Box<Command>> },
    /// Time.
    Tick,
}

fn kind_of(arrival: &Arrival) -> Kind {
    match arrival {
        Arrival::Tick => Kind::Tick,
        Arrival::Sip { hostile: true, .. } => Kind::Hostile,
        Arrival::Sip { .. } | Arrival::SipStream { .. } => Kind::Server,
        Arrival::Disk { .. } => Kind::Disk,
        Arrival::Command { .. } => Kind::Command,
        _ => Kind::Mesh,
    }
}

/// What comes in as the node takes it; `peer` is the one of a new link. `None` for a command that was taken already.
fn input<'a>(arrival: &'a mut Arrival, peer: Option<&'a (SocketAddr, String)>) -> Option<Input<'a>> {
    Some(match arrival {
        Arrival::LinkUp { link, dialed, .. } => {
            let (addr, name) = peer?;
            Input::LinkUp { link: *link, addr: *addr, dialed: *dialed, subject: Some(name) }
        }
        Arrival::LinkDown { link, why } => Input::LinkDown { link: *link, reason: why },
        Arrival::DialFailed { addr } => Input::DialFailed { addr: *addr, reason: "no answer" },
        Arrival::Datagram { link, bytes } => Input::Datagram { link: *link, bytes },
        Arrival::Frame { link, lane, bytes } => Input::Frame { link: *link, lane: *lane, bytes },
        Arrival::FramesSent { link, lane, frames } => Input::FramesSent { link: *link, lane: *lane, frames: *frames },
        Arrival::LaneClosed { link, lane } => Input::LaneClosed { link: *link, lane: *lane },
        Arrival::Sip { from, bytes, .. } => Input::SipDatagram { socket: UDP, from: *from, bytes },
        Arrival::SipConnected { conn, peer } => Input::SipConnected { conn: *conn, socket: TCP, peer: *peer },
        Arrival::SipStream { conn, bytes } => Input::SipStream { conn: *conn, bytes },
        Arrival::SipClosed { conn, whole } => Input::SipClosed { conn: *conn, whole: *whole },
        Arrival::Disk { batch, written: true } => Input::Persisted { batch: *batch },
        Arrival::Disk { batch, written: false } => Input::PersistFailed { batch: *batch, reason: "disk full" },
        Arrival::Command { deed, command } => {
            Input::Command { id: CommandId(u64::from(*deed)), command: *command.take()? }
        }
        Arrival::Tick => Input::Tick,
    })
}

impl World {
    /// Something arrives at a node: it takes it in, or it waits.
    pub(crate) fn arrive(&mut self, at: At, arrival: Arrival) {
        let now = self.now;
        let host = &mut self.nodes[usize::from(at)];
        if host.node.is_none() {
            return;
        }
        let busy = self.stepping || host.busy_until > now;
        if !busy && !host.is_paused() && host.waiting.is_empty() {
            return self.step(at, arrival);
        }
        let droppable = matches!(arrival, Arrival::Sip { .. } | Arrival::Datagram { .. });
        if droppable && host.waiting.len() >= BUFFER {
            return;
        }
        host.waiting.push_back(arrival);
        if !host.ready && !host.is_paused() {
            host.ready = true;
            let ready_at = host.busy_until.max(now);
            self.queue.post(ready_at, Event::Ready(at));
        }
    }

    /// A host takes the next thing that waited.
    pub(crate) fn ready(&mut self, at: At) {
        let now = self.now;
        let host = &mut self.nodes[usize::from(at)];
        host.ready = false;
        if host.is_paused() || host.node.is_none() {
            return;
        }
        if let Some(arrival) = host.waiting.pop_front() {
            self.step(at, arrival);
        }
        let host = &mut self.nodes[usize::from(at)];
        if !host.waiting.is_empty() && !host.ready {
            host.ready = true;
            let ready_at = host.busy_until.max(now);
            self.queue.post(ready_at, Event::Ready(at));
        }
    }

    /// The world's queue has a tick for a node.
    pub(crate) fn wake(&mut self, at: At) {
        let now = self.now;
        let host = &mut self.nodes[usize::from(at)];
        if host.wake != Some(now) {
            return;
        }
        host.wake = None;
        if host.node.is_none() {
            return;
        }
        if host.until > now {
            host.wake = Some(host.until);
            let until = host.until;
            return self.queue.post(until, Event::Wake(at));
        }
        self.arrive(at, Arrival::Tick);
    }

    /// One step of a node. As the shell does, timers that are due go first.
    fn step(&mut self, at: At, arrival: Arrival) {
        if self.nodes[usize::from(at)].until <= self.now && !matches!(arrival, Arrival::Tick) {
            self.one_step(at, Arrival::Tick);
        }
        self.one_step(at, arrival);
    }

    fn one_step(&mut self, at: At, mut arrival: Arrival) {
        let (index, now) = (usize::from(at), self.now);
        self.steps += 1;
        self.trace(at, &arrival);
        self.log_arrival(at, &arrival);
        let mut kind = kind_of(&arrival);
        let deed = match arrival {
            Arrival::Command { deed, .. } => Some(deed),
            _ => None,
        };
        let mut peer = None;
        if let Arrival::LinkUp { peer: other, .. } = arrival {
            self.saw_link(at, other);
            let other = &self.nodes[usize::from(other)];
            peer = Some((other.quic, other.name.clone()));
        }
        let host = &mut self.nodes[index];
        host.busy_until = Mono(now.0 + host.slow_us());
        let own_now = host_now(host, now);
        let Some(node) = &mut host.node else { return };
        let Some(input) = input(&mut arrival, peer.as_ref()) else { return };
        self.stepping = true;
        node.handle(input, own_now);
        if let Some(deed) = deed {
            host.open.push(deed);
            self.ledger.taken(deed, now);
        }
        let ended = self.outputs(at);
        self.stepping = false;
        if ended.iter().any(|(of, how)| Some(*of) == deed && *how == Ended::Refused) {
            kind = Kind::Refused;
            self.saw(Sometimes::CommandRefused);
        }
        if kind == Kind::Hostile {
            self.saw(Sometimes::HostileRefused);
        }
        self.tell(Moment::Stepped { node: index, input: kind });
        for (deed, how) in ended {
            self.nodes[index].open.retain(|open| *open != deed);
            self.deed_ended(deed, how);
        }
    }

    /// Adds what comes in to the hash of everything.
    fn trace(&mut self, at: At, arrival: &Arrival) {
        match arrival {
            Arrival::Tick => self.hash(at, 0, 0, b""),
            Arrival::LinkUp { link, peer, dialed } => self.hash(at, 1, link.0, &[*peer as u8, u8::from(*dialed)]),
            Arrival::LinkDown { link, why } => self.hash(at, 2, link.0, why.as_bytes()),
            Arrival::DialFailed { addr } => self.hash(at, 3, u64::from(addr.port()), b""),
            Arrival::Datagram { link, bytes } => self.hash(at, 4, link.0, bytes),
            Arrival::Frame { link, bytes, .. } => self.hash(at, 5, link.0, bytes),
            Arrival::FramesSent { link, frames, .. } => self.hash(at, 6, link.0, &frames.to_be_bytes()),
            Arrival::LaneClosed { link, .. } => self.hash(at, 7, link.0, b""),
            Arrival::Sip { bytes, .. } => self.hash(at, 8, 0, bytes),
            Arrival::SipConnected { conn, .. } => self.hash(at, 11, conn.0, b""),
            Arrival::SipStream { conn, bytes } => self.hash(at, 12, conn.0, bytes),
            Arrival::SipClosed { conn, whole } => self.hash(at, 13, conn.0, &[u8::from(*whole)]),
            Arrival::Disk { batch, written } => self.hash(at, 9, *batch, &[u8::from(*written)]),
            Arrival::Command { deed, command } => {
                self.hash(at, 10, u64::from(*deed), format!("{command:?}").as_bytes());
            }
        }
    }

    /// Carries out everything that a node wants; gives the deeds that it has answered.
    fn outputs(&mut self, at: At) -> Vec<(DeedId, Ended)> {
        let mut ended = Vec::new();
        loop {
            let Some(node) = &mut self.nodes[usize::from(at)].node else { return ended };
            match node.poll() {
                Output::Sleep { until, .. } => {
                    self.sleep(at, until);
                    return ended;
                }
                Output::SipDatagram { to, bytes, .. } => self.send_sip(at, to, bytes),
                Output::Frame { link, lane, bytes } => self.send_frame(link, lane, Some(bytes)),
                Output::Datagram { link, bytes } => self.send_datagram(link, bytes),
                Output::CloseLane { link, lane } => self.send_frame(link, lane, None),
                Output::Persist(batch) => self.persist(at, batch),
                Output::Done { id, result } => {
                    let how = if result.is_ok() { Ended::Done } else { Ended::Refused };
                    ended.push((id.0 as DeedId, how));
                }
                Output::Dial { addr } => self.dial(at, addr),
                Output::CloseLink { link, reason } => self.close_link(link, reason),
                Output::Log(line) => self.note(at, || format!("{:?}: {}", line.level, line.text)),
                Output::SipConnect { conn, to, .. } => self.tcp_connect(at, conn, to),
                Output::SipStream { conn, bytes } => {
                    self.traffic.sip_messages += 1;
                    self.traffic.sip_bytes += bytes.len() as u64;
                    self.tcp_write_as(at, conn, bytes);
                }
                Output::SipClose { conn, at_once } => self.tcp_close_as(at, conn, at_once),
                // Nobody watches.
                Output::Event(_) => {}
            }
        }
    }

    fn sleep(&mut self, at: At, until: Mono) {
        let at_least = Mono(self.now.0 + AT_ONCE_US);
        let host = &mut self.nodes[usize::from(at)];
        host.until = until.max(at_least);
        let until = host.until;
        if host.wake.is_none_or(|wake| wake > until) {
            host.wake = Some(until);
            self.queue.post(until, Event::Wake(at));
        }
    }

    fn persist(&mut self, at: At, batch: Batch) {
        let now = self.now;
        let host = &mut self.nodes[usize::from(at)];
        let done = Mono(now.0 + host.disk.write_us());
        let number = batch.number;
        host.disk.flying = Some(batch);
        let life = host.lives;
        self.queue.post(done, Event::Disk { at, life, batch: number });
    }

    /// The batch under way has had its time.
    pub(crate) fn disk_done(&mut self, at: At, life: u32, number: u64) {
        let now = self.now;
        let host = &mut self.nodes[usize::from(at)];
        if host.lives != life || host.node.is_none() {
            return;
        }
        let Some(batch) = host.disk.flying.take_if(|batch| batch.number == number) else { return };
        let written = host.disk.finish(batch, now);
        self.arrive(at, Arrival::Disk { batch: number, written });
    }

    /// A dial to an address that nobody has.
    pub(crate) fn dial_nobody(&mut self, from: At, addr: SocketAddr) {
        let life = self.nodes[usize::from(from)].lives;
        let at = self.now.plus_ms(self.dial_timeout_ms());
        self.queue.post(at, Event::DialFailed { at: from, life, addr });
    }

    /// How long connecting may take, as in the daemon.
    pub(crate) fn dial_timeout_ms(&self) -> u64 {
        if self.script.limits.wan { 5_000 } else { 2_000 }
    }

    /// How long a link may be silent, as in the daemon.
    pub(crate) fn idle_ms(&self) -> u64 {
        if self.script.limits.wan { 15_000 } else { 5_000 }
    }

    fn saw_link(&mut self, at: At, peer: At) {
        let [Some(one), Some(other)] = [at, peer].map(|at| self.nodes[usize::from(at)].node.as_ref()) else { return };
        let (one, other) = (one.replica(), other.replica());
        if !one.accepts_pushes(other.clock()) || !other.accepts_pushes(one.clock()) {
            self.saw(Sometimes::LateWrite);
        }
    }

    fn log_arrival(&mut self, at: At, arrival: &Arrival) {
        if !self.options.log {
            return;
        }
        let what = match arrival {
            Arrival::LinkUp { link, peer, dialed } => {
                let how = if *dialed { "dialed" } else { "taken" };
                format!("link {} to {} is up, {how}", link.0, self.nodes[usize::from(*peer)].name)
            }
            Arrival::LinkDown { link, why } => format!("link {} is down: {why}", link.0),
            Arrival::Disk { written: false, .. } => "the disk refuses a batch".to_owned(),
            _ => return,
        };
        self.note(at, || what);
    }
}
