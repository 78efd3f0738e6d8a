//! The one queue in front of the node.
//!
//! It has two lanes. *Urgent* is what must not wait behind data: membership, credit, the disk's answers,
//! questions of the admin interface; each is bounded by its nature. *Bulk* is data, bounded in bytes: who
//! brings more waits, a socket reader as a thread, a QUIC or TCP reader as a task, so that the pressure
//! reaches the kernel or the peer.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use node::{Command, CommandError, CommandOk, ConnId, Lane, LinkId, Node, Now, SocketId};
use tokio::sync::{Semaphore, oneshot};

use crate::links::{LaneHandle, LinkHandle};
use crate::sip::ConnHandle;

/// Looks at the node between two of its inputs.
pub(crate) type Look = Box<dyn FnOnce(&mut Node, Now) + Send>;

/// Something for the thread that owns the node.
pub(crate) enum Event {
    /// See [`node::Input::LinkUp`].
    LinkUp { link: LinkId, handle: LinkHandle, addr: SocketAddr, dialed: bool, subject: Option<String> },
    /// See [`node::Input::LinkDown`].
    LinkDown { link: LinkId, reason: String },
    /// See [`node::Input::DialFailed`].
    DialFailed { addr: SocketAddr, reason: String },
    /// See [`node::Input::Datagram`].
    Datagram { link: LinkId, bytes: Bytes },
    /// The peer opened a session lane; frames follow.
    LaneOpened { link: LinkId, lane: Lane, handle: LaneHandle },
    /// See [`node::Input::Frame`].
    Frame { link: LinkId, lane: Lane, bytes: Bytes },
    /// See [`node::Input::FramesSent`].
    FramesSent { link: LinkId, lane: Lane, frames: u32 },
    /// See [`node::Input::LaneClosed`].
    LaneClosed { link: LinkId, lane: Lane },
    /// See [`node::Input::SipDatagram`].
    SipDatagram { socket: SocketId, from: SocketAddr, bytes: Bytes },
    /// A SIP TCP connection was accepted (with its handle), or one that the node dialed is up.
    SipConnected { conn: ConnId, socket: SocketId, peer: SocketAddr, handle: Option<ConnHandle> },
    /// See [`node::Input::SipStream`].
    SipStream { conn: ConnId, bytes: Bytes },
    /// See [`node::Input::SipClosed`].
    SipClosed { conn: ConnId, whole: bool },
    /// The disk is done with a batch.
    Persisted { batch: u64, result: Result<(), String> },
    /// Somebody wants something written and told.
    Command { command: Command, reply: oneshot::Sender<Result<CommandOk, CommandError>> },
    /// Somebody wants to look at the node.
    Query(Look),
    /// Stop taking in, flush the disk, end.
    Shutdown,
}

/// Bytes of data that may wait: some seconds of the fastest burst that a server can send.
const BULK_BYTES: usize = 64 << 20;

/// What an event costs besides its payload.
const OVERHEAD: usize = 256;

/// Async producers pay in units of this many bytes.
const UNIT: usize = 1 << 10;

/// How much data is taken at a time, so that urgent events get their turn in between.
const BULK_AT_A_TIME: usize = 256;

/// A handle of the queue; clones share it.
#[derive(Clone)]
pub(crate) struct Inbox(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    ready: Condvar,
    room: Condvar,
    units: Semaphore,
}

#[derive(Default)]
struct State {
    urgent: VecDeque<Event>,
    bulk: VecDeque<(Event, Cost)>,
    /// Bytes brought by threads.
    waiting: usize,
    /// The taker waits, and nobody has woken it yet: waking costs a system call.
    asleep: bool,
    closed: bool,
}

/// What is given back when the event is taken.
#[derive(Clone, Copy)]
enum Cost {
    Thread(usize),
    Task(usize),
}

impl Inbox {
    /// An empty queue.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            ready: Condvar::new(),
            room: Condvar::new(),
            units: Semaphore::new(BULK_BYTES / UNIT),
        }))
    }

    /// A panic anywhere ends the process, so a poisoned lock guards a queue that is still whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds something that must not wait.
    pub(crate) fn push_urgent(&self, event: Event) {
        let mut state = self.state();
        state.urgent.push_back(event);
        self.wake(state);
    }

    /// Lets the queue go, and wakes the taker if it sleeps.
    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let asleep = std::mem::take(&mut state.asleep);
        drop(state);
        if asleep {
            self.0.ready.notify_one();
        }
    }

    /// Adds data from a thread, each with its bytes, waiting for room. False: the node has ended.
    pub(crate) fn push_blocking(&self, events: impl IntoIterator<Item = (Event, usize)>) -> bool {
        let mut state = self.state();
        while state.waiting >= BULK_BYTES && !state.closed {
            state = self.0.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        for (event, bytes) in events {
            let cost = bytes + OVERHEAD;
            state.waiting += cost;
            state.bulk.push_back((event, Cost::Thread(cost)));
        }
        let open = !state.closed;
        self.wake(state);
        open
    }

    /// Adds data from a task, waiting for room.
    pub(crate) async fn push(&self, event: Event, bytes: usize) {
        let units = ((bytes + OVERHEAD) / UNIT + 1).min(BULK_BYTES / UNIT);
        // The semaphore is never closed, and a payload is far below u32.
        if let Ok(permit) = self.0.units.acquire_many(u32::try_from(units).unwrap_or(u32::MAX)).await {
            permit.forget();
        }
        let mut state = self.state();
        state.bulk.push_back((event, Cost::Task(units)));
        self.wake(state);
    }

    /// Adds to the data something small that must not overtake what its source brought before, without waiting.
    pub(crate) fn push_behind(&self, event: Event) {
        let mut state = self.state();
        state.bulk.push_back((event, Cost::Task(0)));
        self.wake(state);
    }

    /// Moves the next events into `into`, urgent ones first, waiting until there are some or `until` has come.
    pub(crate) fn take(&self, into: &mut VecDeque<Event>, until: Instant) {
        let mut state = self.state();
        while state.urgent.is_empty() && state.bulk.is_empty() {
            let wait = until.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return;
            }
            state.asleep = true;
            state = self.0.ready.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
            state.asleep = false;
        }
        into.append(&mut state.urgent);
        let bulk = state.bulk.len().min(BULK_AT_A_TIME);
        let (mut bytes, mut units) = (0, 0);
        for (event, cost) in state.bulk.drain(..bulk) {
            match cost {
                Cost::Thread(cost) => bytes += cost,
                Cost::Task(cost) => units += cost,
            }
            into.push_back(event);
        }
        let full = state.waiting >= BULK_BYTES;
        state.waiting -= bytes;
        drop(state);
        if full {
            self.0.room.notify_all();
        }
        if units > 0 {
            self.0.units.add_permits(units);
        }
    }

    /// Lets waiting threads go; what is brought from now on is not taken.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.0.room.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};
    use std::time::Duration;

    use super::*;

    fn closed(conn: u64) -> Event {
        Event::SipClosed { conn: ConnId(conn), whole: true }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[test]
    fn urgent_events_come_before_data_that_was_there_first() {
        let inbox = Inbox::new();
        assert!(inbox.push_blocking([(closed(1), 0)]));
        inbox.push_urgent(Event::Shutdown);
        let mut events = VecDeque::new();
        inbox.take(&mut events, soon());
        assert!(matches!(events.pop_front(), Some(Event::Shutdown)));
        assert!(matches!(events.pop_front(), Some(Event::SipClosed { .. })));
    }

    #[test]
    fn whoever_waits_is_woken_by_every_kind_of_push() {
        let pushes: [fn(&Inbox); 3] = [
            |inbox| inbox.push_urgent(closed(1)),
            |inbox| inbox.push_behind(closed(1)),
            |inbox| assert!(inbox.push_blocking([(closed(1), 0)])),
        ];
        for push in pushes {
            let inbox = Inbox::new();
            let taker = std::thread::spawn({
                let inbox = inbox.clone();
                move || {
                    let mut events = VecDeque::new();
                    inbox.take(&mut events, Instant::now() + Duration::from_secs(3_600));
                    events.len()
                }
            });
            while !inbox.state().asleep {
                std::thread::yield_now();
            }
            push(&inbox);
            assert_eq!(taker.join().expect("no panic"), 1);
        }
    }

    #[test]
    fn data_is_taken_in_portions() {
        let inbox = Inbox::new();
        for n in 0..BULK_AT_A_TIME as u64 + 1 {
            assert!(inbox.push_blocking([(closed(n), 0)]));
        }
        let mut events = VecDeque::new();
        inbox.take(&mut events, soon());
        assert_eq!(events.len(), BULK_AT_A_TIME);
        events.clear();
        inbox.take(&mut events, soon());
        assert_eq!(events.len(), 1);
    }

    #[test]
    fn a_thread_with_too_much_data_waits_until_some_is_taken() {
        let inbox = Inbox::new();
        assert!(inbox.push_blocking([(closed(1), BULK_BYTES)]));
        let producer = std::thread::spawn({
            let inbox = inbox.clone();
            move || inbox.push_blocking([(closed(2), 0)])
        });
        let mut taken = VecDeque::new();
        while taken.len() < 2 {
            inbox.take(&mut taken, soon());
        }
        assert!(producer.join().expect("no panic"));
    }

    #[test]
    fn closing_frees_a_waiting_thread() {
        let inbox = Inbox::new();
        assert!(inbox.push_blocking([(closed(1), BULK_BYTES)]));
        let producer = std::thread::spawn({
            let inbox = inbox.clone();
            move || inbox.push_blocking([(closed(2), 0)])
        });
        inbox.close();
        assert!(!producer.join().expect("no panic"));
    }

    #[tokio::test]
    async fn a_task_with_too_much_data_waits_until_some_is_taken() {
        let inbox = Inbox::new();
        inbox.push(closed(1), BULK_BYTES).await;
        let mut second = Box::pin(inbox.push(closed(2), BULK_BYTES));
        assert!(second.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        inbox.take(&mut VecDeque::new(), soon());
        second.await;
    }
}
