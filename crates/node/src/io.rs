//! What goes into a node and what comes out: the whole surface between the pure core and its shell.
//!
//! The shell owns sockets, QUIC, disk, clock and entropy; the node owns every decision. After each
//! [`Node::handle`](crate::Node::handle) the shell drains [`Node::poll`](crate::Node::poll) until it
//! returns [`Output::Sleep`]. One seed and one list of inputs replay a run exactly.

use std::net::SocketAddr;

use bytes::Bytes;
use crdt::Wall;

/// Monotonic time in microseconds since an arbitrary start; timers only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mono(pub u64);

impl Mono {
    /// The moment `ms` milliseconds after this one.
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1_000)))
    }

    /// So many milliseconds earlier; not before the start.
    pub const fn minus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_sub(ms.saturating_mul(1_000)))
    }

    /// Milliseconds from `earlier` to this moment, 0 if it lies ahead.
    pub const fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000
    }

    /// This moment in whole milliseconds.
    pub const fn ms(self) -> u64 {
        self.0 / 1_000
    }
}

/// The two times of one instant. They are of different types, so they cannot be mixed up.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For timers; never jumps.
    pub mono: Mono,
    /// For `Expires`, stamps and everything that others see; may jump.
    pub wall: Wall,
}

impl Now {
    /// What the wall clock would have shown then by what it shows now; not after now.
    pub(crate) fn wall_at(self, then: Mono) -> Wall {
        Wall(self.wall.0.saturating_sub(self.mono.ms_since(then)))
    }
}

/// A QUIC connection, as numbered by the shell; never reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// An ordered byte lane of a link. A frame is delivered whole or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// The long-lived unidirectional stream, one per direction: hello, pushes, clocks.
    Push,
    /// One bidirectional stream per sync session.
    Session {
        /// Number given by the side that opened it, unique per link and side.
        id: u32,
        /// Whether this side opened it.
        opened_here: bool,
    },
}

/// A local SIP socket (UDP socket or TCP listener), numbered in the order of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u16);

/// A SIP TCP connection. The shell numbers accepted ones from 0 upwards, the node those that it
/// dials from [`ConnId::FIRST_DIALED`] upwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

impl ConnId {
    /// The first number that the node gives to a connection of its own.
    pub const FIRST_DIALED: u64 = 1 << 63;
}

/// Matches a [`Command`](crate::Command) with its [`Output::Done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u64);

/// Something that happened outside.
#[derive(Debug)]
pub enum Input<'a> {
    /// Time passed; nothing else.
    Tick,
    /// A connection with mutual TLS is up.
    LinkUp {
        /// Its number.
        link: LinkId,
        /// Remote address.
        addr: SocketAddr,
        /// Whether this side dialed.
        dialed: bool,
        /// The node name that the peer's certificate proves; `None` without certificates.
        subject: Option<&'a str>,
    },
    /// A connection ended, for whatever reason; nothing more will come from it.
    LinkDown {
        /// Its number.
        link: LinkId,
        /// In words, for the log.
        reason: &'a str,
    },
    /// An [`Output::Dial`] did not succeed.
    DialFailed {
        /// The address that was dialed.
        addr: SocketAddr,
        /// In words, for the log.
        reason: &'a str,
    },
    /// A datagram of a link arrived (unordered, may be lost).
    Datagram {
        /// Where it came in.
        link: LinkId,
        /// Its payload.
        bytes: &'a [u8],
    },
    /// A whole frame arrived on an ordered lane.
    Frame {
        /// Where it came in.
        link: LinkId,
        /// On which lane.
        lane: Lane,
        /// Its payload.
        bytes: &'a [u8],
    },
    /// `frames` earlier [`Output::Frame`]s of this lane were handed to the transport; they are
    /// credit for new ones.
    FramesSent {
        /// Which link.
        link: LinkId,
        /// Which lane.
        lane: Lane,
        /// How many.
        frames: u32,
    },
    /// The peer closed or reset a session lane.
    LaneClosed {
        /// Which link.
        link: LinkId,
        /// Which lane.
        lane: Lane,
    },
    /// A SIP datagram.
    SipDatagram {
        /// The socket it came in on.
        socket: SocketId,
        /// Its source.
        from: SocketAddr,
        /// Its payload, up to 65,535 bytes.
        bytes: &'a [u8],
    },
    /// A SIP TCP connection was accepted, or one that the node dialed is up.
    SipConnected {
        /// Its number.
        conn: ConnId,
        /// The local socket it belongs to.
        socket: SocketId,
        /// The remote address.
        peer: SocketAddr,
    },
    /// Bytes of a SIP TCP connection, cut anywhere.
    SipStream {
        /// Which connection.
        conn: ConnId,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// A SIP TCP connection ended, or could not be made.
    SipClosed {
        /// Which connection.
        conn: ConnId,
        /// Whether the peer ended it in order: everything that it has sent has come.
        whole: bool,
    },
    /// The batch and all before it are on disk, fsynced.
    Persisted {
        /// [`Batch::number`].
        batch: u64,
    },
    /// The batch could not be written; the node offers its content again with the next one.
    PersistFailed {
        /// [`Batch::number`].
        batch: u64,
        /// In words, for the log.
        reason: &'a str,
    },
    /// Somebody wants something written.
    Command {
        /// Matches the [`Output::Done`].
        id: CommandId,
        /// What.
        command: crate::Command,
    },
}

/// Something that the shell shall do.
#[derive(Debug)]
pub enum Output {
    /// Connect to this node address.
    Dial {
        /// QUIC address.
        addr: SocketAddr,
    },
    /// Close a link.
    CloseLink {
        /// Which.
        link: LinkId,
        /// Told to the peer.
        reason: &'static str,
    },
    /// Send a datagram on a link, or drop it if it cannot leave at once.
    Datagram {
        /// Which link.
        link: LinkId,
        /// At most 1,100 bytes.
        bytes: Bytes,
    },
    /// Send a frame on an ordered lane; answered by [`Input::FramesSent`].
    Frame {
        /// Which link.
        link: LinkId,
        /// Which lane; the first frame of a session lane opened here opens the stream.
        lane: Lane,
        /// At most [`MAX_FRAME`] bytes.
        bytes: Bytes,
    },
    /// No more frames will be sent on this session lane; what was sent is still delivered.
    CloseLane {
        /// Which link.
        link: LinkId,
        /// Which lane.
        lane: Lane,
    },
    /// Send a SIP datagram.
    SipDatagram {
        /// From which socket.
        socket: SocketId,
        /// Where to.
        to: SocketAddr,
        /// The message.
        bytes: Bytes,
    },
    /// Open a SIP TCP connection; answered by `SipConnected` or `SipClosed`.
    SipConnect {
        /// The number it shall have.
        conn: ConnId,
        /// The local socket whose address it shall use (its port is free).
        socket: SocketId,
        /// Where to.
        to: SocketAddr,
    },
    /// Send bytes on a SIP TCP connection.
    SipStream {
        /// Which.
        conn: ConnId,
        /// Whole messages.
        bytes: Bytes,
    },
    /// Close a SIP TCP connection.
    SipClose {
        /// Which.
        conn: ConnId,
        /// Whether what its peer has not acknowledged yet is not to be sent any more.
        at_once: bool,
    },
    /// Write a batch; at most one is out at a time.
    Persist(Batch),
    /// A command was carried out (and is on disk, where `ack = "disk"`), or refused.
    Done {
        /// Of [`Input::Command`].
        id: CommandId,
        /// The result.
        result: Result<crate::CommandOk, crate::CommandError>,
    },
    /// Something that watchers want to know; only while [`Node::watch`](crate::Node::watch) is on.
    Event(crate::Event),
    /// Something worth a line in the log.
    Log(LogLine),
    /// Nothing more to do before `until`, unless something comes in. Ends a round of `poll`.
    Sleep {
        /// Call [`Node::handle`](crate::Node::handle) with [`Input::Tick`] then.
        until: Mono,
        /// Who wants to wake, for finding a node that spins.
        reason: &'static str,
    },
}

/// The largest frame on a lane, bytes.
pub const MAX_FRAME: usize = 1 << 20;

/// How many frames may be out unacknowledged (see [`Input::FramesSent`]) per lane.
pub const LANE_WINDOW: u32 = 4;

/// A log line with its weight by consequence.
#[derive(Clone, Debug)]
pub struct LogLine {
    /// How much it matters.
    pub level: Level,
    /// The sentence.
    pub text: String,
}

/// Log levels by consequence: `Warn` may wake someone, `Info` tells a change of state, `Debug` a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Our bug, or data in danger.
    Error,
    /// May wake someone.
    Warn,
    /// A change of state.
    Info,
    /// A step.
    Debug,
}

/// What goes to disk together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Counts up by one.
    pub number: u64,
    /// Writes in the named trees; `None` deletes.
    pub puts: Vec<(Tree, Vec<u8>, Option<Bytes>)>,
}

/// A named ordered map on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tree {
    /// Canonical cells by cell id.
    Cells,
    /// Clock, forgotten dots, floors, roster and the like, by name.
    Meta,
    /// What attached servers are known to hold, by server and cell id.
    Books,
}

impl Tree {
    /// All trees.
    pub const ALL: [Self; 3] = [Self::Cells, Self::Meta, Self::Books];

    /// Its name on disk.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cells => "cells",
            Self::Meta => "meta",
            Self::Books => "books",
        }
    }
}

/// What the disk held when the process started, in no order.
#[derive(Debug, Default)]
pub struct Restored {
    /// Every entry of every tree.
    pub entries: Vec<(Tree, Vec<u8>, Vec<u8>)>,
}
