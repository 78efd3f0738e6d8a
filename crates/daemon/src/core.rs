//! The thread that owns the node: events in, outputs out, nothing shared.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use node::{
    Batch, CommandError, CommandId, CommandOk, ConnId, Event as Change, Input, Lane, Level, LinkId, LogLine, Mono,
    Node, Now, Output,
};
use tokio::sync::{broadcast, oneshot};

use crate::clock::Clock;
use crate::inbox::{Event, Inbox};
use crate::links::{LinkHandle, Links};
use crate::sip::{Connections, Udp};

/// How long the disk may take to write what is left when the process is to end.
const FLUSH: Duration = Duration::from_secs(10);

/// Everything that the node's outputs reach.
pub(crate) struct Core {
    pub(crate) node: Node,
    pub(crate) clock: Clock,
    pub(crate) inbox: Inbox,
    pub(crate) links: Arc<Links>,
    /// UDP sockets by number; `None` where the number is a TCP listener's.
    pub(crate) udp: Vec<Option<Udp>>,
    pub(crate) tcp: Connections,
    pub(crate) disk: Option<SyncSender<Batch>>,
    pub(crate) changes: broadcast::Sender<Change>,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Everything is on disk, or there is none.
    Clean,
    /// The disk did not take what was left.
    Unflushed,
}

type Reply = oneshot::Sender<Result<CommandOk, CommandError>>;

struct Run {
    core: Core,
    connected: HashMap<LinkId, LinkHandle>,
    replies: HashMap<CommandId, Reply>,
    next_command: u64,
    until: Mono,
    /// Whether the disk is writing a batch.
    writing: bool,
    /// Since when the process is to end, and whether a batch failed since.
    stopping: Option<Now>,
    failed: bool,
}

impl Core {
    /// Runs until [`Event::Shutdown`] and everything is on disk.
    pub(crate) fn run(self) -> Ending {
        let mut run = Run {
            core: self,
            connected: HashMap::new(),
            replies: HashMap::new(),
            next_command: 0,
            until: Mono::default(),
            writing: false,
            stopping: None,
            failed: false,
        };
        run.drain();
        let mut events = VecDeque::new();
        loop {
            let until = run.core.clock.instant(run.deadline());
            run.core.inbox.take(&mut events, until);
            while let Some(event) = events.pop_front() {
                run.event(event);
            }
            run.tick_if_due();
            if let Some(ending) = run.ended() {
                run.core.inbox.close();
                return ending;
            }
        }
    }
}

impl Run {
    fn deadline(&self) -> Mono {
        match self.stopping {
            Some(since) => self.until.min(since.mono.plus_ms(u64::try_from(FLUSH.as_millis()).unwrap_or(u64::MAX))),
            None => self.until,
        }
    }

    fn ended(&self) -> Option<Ending> {
        let since = self.stopping?;
        let now = self.core.clock.now();
        let flushed = !self.writing && self.core.node.status(now).durable != Some(false);
        let patience = u128::from(now.mono.ms_since(since.mono)) < FLUSH.as_millis();
        match (flushed, self.failed || !patience) {
            (true, _) => Some(Ending::Clean),
            (false, true) => Some(Ending::Unflushed),
            (false, false) => None,
        }
    }

    fn tick_if_due(&mut self) {
        let now = self.core.clock.now();
        if now.mono >= self.until {
            self.input(Input::Tick, now);
        }
    }

    fn input(&mut self, input: Input<'_>, now: Now) {
        self.core.node.handle(input, now);
        self.drain();
    }

    /// Hands one event to the node and does what it wants done, so that each input's outputs follow it at once.
    fn event(&mut self, event: Event) {
        let now = self.core.clock.now();
        if now.mono >= self.until {
            self.input(Input::Tick, now);
        }
        if self.stopping.is_some() && !matches!(event, Event::Persisted { .. } | Event::Query(_)) {
            return;
        }
        match event {
            Event::SipDatagram { socket, from, bytes } => {
                self.input(Input::SipDatagram { socket, from, bytes: &bytes }, now);
            }
            Event::SipConnected { .. } | Event::SipStream { .. } | Event::SipClosed { .. } => self.sip_tcp(event, now),
            Event::Persisted { batch, result } => self.persisted(batch, result, now),
            Event::Command { command, reply } => {
                let id = CommandId(self.next_command);
                self.next_command += 1;
                self.replies.insert(id, reply);
                self.input(Input::Command { id, command }, now);
            }
            Event::Query(look) => {
                look(&mut self.core.node, now);
                self.drain();
            }
            Event::Shutdown => {
                tracing::info!("stopping: nothing more is taken in");
                self.stopping = Some(now);
            }
            link => self.link(link, now),
        }
    }

    /// What happens on links. Whatever comes after the end of a link is too late.
    fn link(&mut self, event: Event, now: Now) {
        match event {
            Event::LinkUp { link, handle, addr, dialed, subject } => {
                self.connected.insert(link, handle);
                self.input(Input::LinkUp { link, addr, dialed, subject: subject.as_deref() }, now);
            }
            Event::LinkDown { link, reason } if self.connected.remove(&link).is_some() => {
                self.input(Input::LinkDown { link, reason: &reason }, now);
            }
            Event::DialFailed { addr, reason } => self.input(Input::DialFailed { addr, reason: &reason }, now),
            Event::Datagram { link, bytes } if self.connected.contains_key(&link) => {
                self.input(Input::Datagram { link, bytes: &bytes }, now);
            }
            Event::LaneOpened { link, lane, handle } => {
                if let Some(known) = self.connected.get_mut(&link) {
                    known.add(lane, handle);
                }
            }
            Event::Frame { link, lane, bytes } if self.connected.contains_key(&link) => {
                self.input(Input::Frame { link, lane, bytes: &bytes }, now);
            }
            Event::FramesSent { link, lane, frames } if self.connected.contains_key(&link) => {
                self.input(Input::FramesSent { link, lane, frames }, now);
            }
            Event::LaneClosed { link, lane } if self.connected.contains_key(&link) => {
                self.input(Input::LaneClosed { link, lane }, now);
                if matches!(lane, Lane::Session { opened_here: true, .. }) {
                    // Nobody answers there any more, so nothing is left to ask.
                    self.link_output(Output::CloseLane { link, lane });
                }
            }
            _ => {}
        }
    }

    fn sip_tcp(&mut self, event: Event, now: Now) {
        match event {
            Event::SipConnected { conn, socket, peer, handle } => {
                if let Some(handle) = handle {
                    self.core.tcp.add(conn, handle);
                }
                if self.core.tcp.has(conn) {
                    self.input(Input::SipConnected { conn, socket, peer }, now);
                }
            }
            Event::SipStream { conn, bytes } if self.core.tcp.has(conn) => {
                self.input(Input::SipStream { conn, bytes: &bytes }, now);
            }
            Event::SipClosed { conn, whole } if self.core.tcp.has(conn) => self.sip_closed(conn, whole, now),
            _ => {}
        }
    }

    fn sip_closed(&mut self, conn: ConnId, whole: bool, now: Now) {
        self.core.tcp.close(conn, false);
        self.input(Input::SipClosed { conn, whole }, now);
    }

    fn persisted(&mut self, batch: u64, result: Result<(), String>, now: Now) {
        self.writing = false;
        match result {
            Ok(()) => self.input(Input::Persisted { batch }, now),
            Err(reason) => {
                self.failed = true;
                self.input(Input::PersistFailed { batch, reason: &reason }, now);
            }
        }
        // A failure only counts while the process ends: until then the node tries again.
        self.failed &= self.stopping.is_some();
    }

    fn drain(&mut self) {
        loop {
            match self.core.node.poll() {
                Output::Sleep { until, reason } => {
                    tracing::trace!("next wake-up for {reason}");
                    self.until = until;
                    return;
                }
                output => self.output(output),
            }
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::SipDatagram { socket, to, bytes } => match self.core.udp.get(usize::from(socket.0)) {
                Some(Some(udp)) => udp.send(to, &bytes),
                _ => tracing::error!("the node wants to send a datagram on socket {}, which is not UDP", socket.0),
            },
            Output::SipConnect { conn, socket, to } => self.core.tcp.connect(conn, socket, to),
            Output::SipStream { conn, bytes } => self.core.tcp.send(conn, bytes),
            Output::SipClose { conn, at_once } => self.core.tcp.close(conn, at_once),
            Output::Persist(batch) => self.persist(batch),
            Output::Done { id, result } => {
                // Nobody listens any more when the asking connection is gone.
                let _ = self.replies.remove(&id).map(|reply| reply.send(result));
            }
            Output::Event(change) => {
                if self.core.changes.send(change).is_err() {
                    self.core.node.watch(false);
                }
            }
            Output::Log(line) => log(&line),
            Output::Dial { addr } => self.core.links.dial(addr),
            link => self.link_output(link),
        }
    }

    fn link_output(&mut self, output: Output) {
        match output {
            Output::CloseLink { link, reason } => {
                if let Some(handle) = self.connected.get(&link) {
                    handle.close(reason);
                }
            }
            Output::Datagram { link, bytes } => {
                if let Some(handle) = self.connected.get(&link) {
                    handle.datagram(bytes);
                }
            }
            Output::Frame { link, lane, bytes } => {
                if let Some(handle) = self.connected.get_mut(&link) {
                    handle.frame(lane, bytes);
                }
            }
            Output::CloseLane { link, lane } => {
                if let Some(handle) = self.connected.get_mut(&link) {
                    handle.close_lane(lane);
                }
            }
            _ => {}
        }
    }

    fn persist(&mut self, batch: Batch) {
        let number = batch.number;
        if self.core.disk.as_ref().is_some_and(|disk| disk.try_send(batch).is_ok()) {
            self.writing = true;
        } else {
            let result = Err("the disk takes no batch now".to_owned());
            self.core.inbox.push_urgent(Event::Persisted { batch: number, result });
        }
    }
}

fn log(line: &LogLine) {
    match line.level {
        Level::Error => tracing::error!("{}", line.text),
        Level::Warn => tracing::warn!("{}", line.text),
        Level::Info => tracing::info!("{}", line.text),
        Level::Debug => tracing::debug!("{}", line.text),
    }
}
