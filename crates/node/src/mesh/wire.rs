//! What nodes say to each other, as bytes.
//!
//! A message is a tag byte and a body: postcard for the small ones, length-prefixed blobs for those that carry cells,
//! so that a cell's canonical bytes are copied once and never re-encoded. A message longer than a frame may be is cut
//! into several; the first byte of each frame says whether more follows ([`frames`], [`Assembler`]).
//!
//! Limits: [`MESSAGE_MAX`] bytes for a message, [`TEXT_MAX`] for a name, [`LIST_MAX`] entries of a list. Whatever breaks
//! them, or leaves bytes over, is a [`WireError`]; nothing here panics on foreign bytes. An unknown version is refused at
//! the first frame, before anything else of it is read.

use std::net::SocketAddr;

use bytes::Bytes;
use crdt::{Chunk, Clock, Dot, NodeId, Origin, SyncRequest, SyncStart};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::dmq::Standing;
use crate::io::MAX_FRAME;

/// The version of this protocol. There is no negotiation: nodes of another version are refused.
pub(crate) const VERSION: u16 = 2;

/// The longest message, bytes. Clocks grow with the holes in them, so the limit is far above what a healthy cluster shows.
pub(crate) const MESSAGE_MAX: usize = 16 << 20;

/// The longest name of a node or cluster, bytes.
pub(crate) const TEXT_MAX: usize = 64;

/// The longest list of links, addresses or servers.
pub(crate) const LIST_MAX: usize = 4096;

/// Bytes that are no message of ours. The peer is at fault (or of another make); nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum WireError {
    /// The bytes end early, go on too long, or do not decode.
    #[error("malformed message with tag {0}")]
    Malformed(u8),
    /// A message that does not belong on this lane.
    #[error("unknown message with tag {0}")]
    UnknownTag(u8),
    /// A message that does not belong at this point.
    #[error("a message out of turn")]
    OutOfTurn,
    /// The peer speaks another version of the protocol.
    #[error("protocol version {0}, this node speaks {VERSION}")]
    Version(u16),
    /// A list, name or message exceeds its limit.
    #[error("message over a limit")]
    TooLong,
    /// A frame without a first byte, or with an unknown one.
    #[error("frame without a marker")]
    Frame,
}

/// A Kamailio server that a node sees: input of ownership.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct ServerNote {
    /// Its URI.
    pub uri: Vec<u8>,
    /// How the node stands to it.
    pub standing: Standing,
}

/// The first message in each direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// Cluster name; must be equal.
    pub cluster: String,
    /// Stable id.
    pub node: NodeId,
    /// Process lifetime.
    pub origin: Origin,
    /// Name; the certificate's, if there is one.
    pub name: String,
    /// QUIC address that others reach it at.
    pub advertise: SocketAddr,
    /// Its SIP sockets.
    pub sip: Vec<SocketAddr>,
    /// Fingerprint of the rules of forgetting; must be equal (R1).
    pub rules: u64,
    /// Its wall clock, unix milliseconds (R3).
    pub wall: u64,
    /// Its membership generation.
    pub generation: u64,
    /// Nodes it has links to.
    pub links: Vec<NodeId>,
    /// Servers it sees.
    pub servers: Vec<ServerNote>,
    /// What it has.
    pub clocks: Clocks,
}

/// What a node has, as of one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Clocks {
    /// Everything taken in.
    pub clock: Clock,
    /// What is on disk and acknowledged by its servers (R5, R7).
    pub stability: Clock,
    /// What it forgot by stability (R6); `None`: as last shown.
    pub forgotten: Option<Clock>,
    /// Unix seconds; the digest covers live cells with a later deadline, or none.
    pub horizon: u64,
    /// Sum over those cells (R9), little endian.
    pub digest: [u8; 16],
    /// How many they are.
    pub cells: u64,
}

/// A message on the push lane.
#[derive(Debug)]
pub(crate) enum Push<'a> {
    /// Who is there. First, and only once.
    Hello(Box<Hello>),
    /// Current versions of cells: items for [`PushedCells`].
    Cells(&'a [u8]),
    /// What the node has now.
    Clocks(Box<Clocks>),
    /// Asks for a [`Push::Pong`].
    Ping {
        /// The sender's monotonic time, microseconds; comes back.
        sent: u64,
    },
    /// Answers a [`Push::Ping`].
    Pong {
        /// Of the ping.
        sent: u64,
        /// The answering node's wall clock, unix milliseconds.
        wall: u64,
    },
    /// The nodes that the sender has links to.
    Links(Vec<NodeId>),
    /// The servers that the sender sees.
    Servers(Vec<ServerNote>),
}

/// A message on a session lane.
#[derive(Debug)]
pub(crate) enum Session<'a> {
    /// Asks for what is missing.
    Pull(Box<SyncRequest>),
    /// Answers it.
    Start(Box<SyncStart>),
    /// Some of what is owed.
    Chunk(Box<Chunk>),
    /// The session cannot go on (R2); try again.
    Abort,
    /// Asks for the digests of all ranges of cell ids (R9).
    AskRanges {
        /// As in [`Clocks::horizon`].
        horizon: u64,
    },
    /// Answers it.
    Ranges(Vec<[u8; 16]>),
    /// Asks for the cells of one range.
    AskCells {
        /// Which range.
        range: u8,
    },
    /// Answers it: length-prefixed canonical cells.
    RangeCells(&'a [u8]),
}

mod tag {
    pub(super) const HELLO: u8 = 1;
    pub(super) const CELLS: u8 = 2;
    pub(super) const CLOCKS: u8 = 3;
    pub(super) const PING: u8 = 4;
    pub(super) const PONG: u8 = 5;
    pub(super) const LINKS: u8 = 6;
    pub(super) const SERVERS: u8 = 7;
    pub(super) const PULL: u8 = 16;
    pub(super) const START: u8 = 17;
    pub(super) const CHUNK: u8 = 18;
    pub(super) const ABORT: u8 = 19;
    pub(super) const ASK_RANGES: u8 = 20;
    pub(super) const RANGES: u8 = 21;
    pub(super) const ASK_CELLS: u8 = 22;
    pub(super) const RANGE_CELLS: u8 = 23;
}

impl Push<'_> {
    /// The message as bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello(hello) => {
                let mut out = vec![tag::HELLO];
                out.extend_from_slice(&VERSION.to_le_bytes());
                append(out, hello)
            }
            Self::Cells(items) => [&[tag::CELLS], *items].concat(),
            Self::Clocks(clocks) => {
                let mut out = Vec::with_capacity(512);
                out.push(tag::CLOCKS);
                append(out, clocks)
            }
            Self::Ping { sent } => append(vec![tag::PING], sent),
            Self::Pong { sent, wall } => append(vec![tag::PONG], &(sent, wall)),
            Self::Links(links) => append(vec![tag::LINKS], links),
            Self::Servers(servers) => append(vec![tag::SERVERS], servers),
        }
    }
}

impl<'a> Push<'a> {
    /// Reads a message of the push lane.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (&tag, body) = bytes.split_first().ok_or(WireError::Frame)?;
        Ok(match tag {
            tag::HELLO => {
                let (version, body) = body.split_first_chunk().ok_or(WireError::Malformed(tag))?;
                let version = u16::from_le_bytes(*version);
                if version != VERSION {
                    return Err(WireError::Version(version));
                }
                let hello: Box<Hello> = read(tag, body)?;
                hello.check()?;
                Self::Hello(hello)
            }
            tag::CELLS => Self::Cells(body),
            tag::CLOCKS => Self::Clocks(read(tag, body)?),
            tag::PING => Self::Ping { sent: read(tag, body)? },
            tag::PONG => {
                let (sent, wall) = read(tag, body)?;
                Self::Pong { sent, wall }
            }
            tag::LINKS => Self::Links(bounded(read(tag, body)?)?),
            tag::SERVERS => Self::Servers(bounded(read(tag, body)?)?),
            other => return Err(WireError::UnknownTag(other)),
        })
    }
}

impl Hello {
    /// Whether it keeps the limits.
    pub(crate) fn check(&self) -> Result<(), WireError> {
        let texts = [&self.cluster, &self.name];
        let lists = [self.sip.len(), self.links.len(), self.servers.len()];
        let fits = texts.iter().all(|text| text.len() <= TEXT_MAX) && lists.iter().all(|&n| n <= LIST_MAX);
        if fits { Ok(()) } else { Err(WireError::TooLong) }
    }
}

impl Session<'_> {
    /// The message as bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Pull(request) => append(vec![tag::PULL], request),
            Self::Start(start) => append(vec![tag::START], start),
            Self::Chunk(chunk) => {
                let mut out = Vec::with_capacity(chunk.cells.len() + 64);
                out.push(tag::CHUNK);
                append(out, chunk)
            }
            Self::Abort => vec![tag::ABORT],
            Self::AskRanges { horizon } => append(vec![tag::ASK_RANGES], horizon),
            Self::Ranges(digests) => append(vec![tag::RANGES], digests),
            Self::AskCells { range } => append(vec![tag::ASK_CELLS], range),
            Self::RangeCells(cells) => [&[tag::RANGE_CELLS], *cells].concat(),
        }
    }
}

impl<'a> Session<'a> {
    /// Reads a message of a session lane.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (&tag, body) = bytes.split_first().ok_or(WireError::Frame)?;
        Ok(match tag {
            tag::PULL => Self::Pull(read(tag, body)?),
            tag::START => Self::Start(read(tag, body)?),
            tag::CHUNK => Self::Chunk(read(tag, body)?),
            tag::ABORT => Self::Abort,
            tag::ASK_RANGES => Self::AskRanges { horizon: read(tag, body)? },
            tag::RANGES => Self::Ranges(bounded(read(tag, body)?)?),
            tag::ASK_CELLS => Self::AskCells { range: read(tag, body)? },
            tag::RANGE_CELLS => Self::RangeCells(body),
            other => return Err(WireError::UnknownTag(other)),
        })
    }
}

fn append(out: Vec<u8>, value: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(value, out).expect("a vector grows and our types serialise")
}

fn read<'a, T: Deserialize<'a>>(tag: u8, body: &'a [u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(WireError::Malformed(tag)),
    }
}

fn bounded<T>(list: Vec<T>) -> Result<Vec<T>, WireError> {
    if list.len() <= LIST_MAX { Ok(list) } else { Err(WireError::TooLong) }
}

/// One pushed cell: where it came in, which dots it overwrote on the way, and its canonical bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PushedCell<'a> {
    /// The tag under which the pushing node took it in (see `crdt::Change::via`).
    pub via: u32,
    /// Dots of versions of the same cell that this one overwrote before they were pushed: dead, and covered by it.
    pub covers: Vec<Dot>,
    /// Canonical bytes.
    pub bytes: &'a [u8],
}

/// Appends an item of [`Push::Cells`].
pub(crate) fn append_pushed(out: &mut Vec<u8>, via: u32, covers: &[Dot], bytes: &[u8]) {
    let grown = postcard::to_extend(&(via, covers), std::mem::take(out));
    *out = grown.expect("a vector grows and our types serialise");
    append_blob(out, bytes);
}

/// Appends a blob with its length, a varint.
pub(crate) fn append_blob(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut left = bytes.len();
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
    out.extend_from_slice(bytes);
}

/// Walks the items of [`Push::Cells`]; ends after the first malformed one.
pub(crate) struct PushedCells<'a>(pub &'a [u8]);

impl<'a> Iterator for PushedCells<'a> {
    type Item = Result<PushedCell<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let item = take_pushed(self.0);
        self.0 = item.as_ref().map_or(&[], |(_, rest)| rest);
        Some(item.map(|(cell, _)| cell))
    }
}

fn take_pushed(bytes: &[u8]) -> Result<(PushedCell<'_>, &[u8]), WireError> {
    let malformed = WireError::Malformed(tag::CELLS);
    let ((via, covers), rest) = postcard::take_from_bytes(bytes).map_err(|_| malformed)?;
    let (bytes, rest) = take_blob(rest).ok_or(malformed)?;
    Ok((PushedCell { via, covers, bytes }, rest))
}

fn take_blob(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = postcard::take_from_bytes::<u32>(bytes).ok()?;
    rest.split_at_checked(len as usize)
}

/// Walks length-prefixed blobs; ends after the first malformed one.
pub(crate) struct Blobs<'a>(pub &'a [u8]);

impl<'a> Iterator for Blobs<'a> {
    type Item = Result<&'a [u8], WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let taken = take_blob(self.0);
        self.0 = taken.map_or(&[], |(_, rest)| rest);
        Some(taken.map(|(blob, _)| blob).ok_or(WireError::Malformed(tag::RANGE_CELLS)))
    }
}

const LAST: u8 = 0;
const MORE: u8 = 1;

/// Cuts a message into frames. A message over [`MESSAGE_MAX`] would be refused by the peer: it yields nothing.
pub(crate) fn frames(message: Vec<u8>) -> Vec<Bytes> {
    if message.len() > MESSAGE_MAX {
        return Vec::new();
    }
    let parts = message.chunks(MAX_FRAME - 1);
    let last = parts.len().saturating_sub(1);
    let frame = |(i, part): (usize, &[u8])| {
        let marker = if i == last { LAST } else { MORE };
        Bytes::from([&[marker], part].concat())
    };
    parts.enumerate().map(frame).collect()
}

/// Puts the frames of one lane together again.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    held: Vec<u8>,
}

impl Assembler {
    /// Takes a frame; gives the message that it completes. After an error the lane is to be closed.
    pub(crate) fn push<'a>(&'a mut self, frame: &'a [u8]) -> Result<Option<std::borrow::Cow<'a, [u8]>>, WireError> {
        let (&marker, part) = frame.split_first().ok_or(WireError::Frame)?;
        if self.held.len() + part.len() > MESSAGE_MAX {
            return Err(WireError::TooLong);
        }
        match marker {
            LAST if self.held.is_empty() => Ok(Some(part.into())),
            LAST => {
                self.held.extend_from_slice(part);
                Ok(Some(std::mem::take(&mut self.held).into()))
            }
            MORE => {
                self.held.extend_from_slice(part);
                Ok(None)
            }
            _ => Err(WireError::Frame),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clocks() -> Clocks {
        let mut clock = Clock::default();
        clock.insert_range(Origin(7), 1..=9);
        clock.insert_range(Origin(8), 3..=4);
        Clocks { clock: clock.clone(), stability: clock, forgotten: None, horizon: 99, digest: [3; 16], cells: 5 }
    }

    fn hello() -> Hello {
        Hello {
            cluster: "c".into(),
            node: NodeId(1),
            origin: Origin(2),
            name: "n1".into(),
            advertise: ([127, 0, 0, 1], 7_946).into(),
            sip: vec![([127, 0, 0, 1], 5_070).into()],
            rules: 42,
            wall: 1_700_000_000_000,
            generation: 6,
            links: vec![NodeId(3)],
            servers: vec![ServerNote { uri: b"sip:127.0.0.1:5060".to_vec(), standing: Standing::SpeaksAnew }],
            clocks: clocks(),
        }
    }

    fn pushes() -> Vec<Push<'static>> {
        vec![
            Push::Hello(Box::new(hello())),
            Push::Cells(b"items"),
            Push::Clocks(Box::new(clocks())),
            Push::Ping { sent: 5 },
            Push::Pong { sent: 5, wall: 9 },
            Push::Links(vec![NodeId(1), NodeId(2)]),
            Push::Servers(hello().servers),
        ]
    }

    fn sessions() -> Vec<Session<'static>> {
        let request = SyncRequest { clock: clocks().clock };
        let chunk = Chunk { cells: vec![1, 2, 3], shown: Vec::new(), last: true };
        vec![
            Session::Pull(Box::new(request)),
            Session::Start(Box::new(SyncStart { clock: clocks().clock, ..SyncStart::default() })),
            Session::Chunk(Box::new(chunk)),
            Session::Abort,
            Session::AskRanges { horizon: 4 },
            Session::Ranges(vec![[9; 16]; 256]),
            Session::AskCells { range: 200 },
            Session::RangeCells(b"cells"),
        ]
    }

    #[test]
    fn every_message_survives_the_wire() {
        for message in pushes() {
            let bytes = message.encode();
            assert_eq!(format!("{:?}", Push::decode(&bytes).unwrap()), format!("{message:?}"));
        }
        for message in sessions() {
            let bytes = message.encode();
            assert_eq!(format!("{:?}", Session::decode(&bytes).unwrap()), format!("{message:?}"));
        }
    }

    #[test]
    fn a_truncated_or_longer_message_is_refused() {
        let raw = |message: &[u8]| matches!(message.first(), Some(&(tag::CELLS | tag::RANGE_CELLS)));
        for bytes in pushes().iter().map(Push::encode).filter(|bytes| !raw(bytes)) {
            (0..bytes.len()).for_each(|end| assert!(Push::decode(&bytes[..end]).is_err(), "{bytes:?} to {end}"));
            assert!(Push::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
        for bytes in sessions().iter().map(Session::encode).filter(|bytes| !raw(bytes) && bytes.len() > 1) {
            (0..bytes.len()).for_each(|end| assert!(Session::decode(&bytes[..end]).is_err(), "{bytes:?} to {end}"));
            assert!(Session::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
    }

    #[test]
    fn another_version_is_refused_whatever_follows_it() {
        let bytes = [tag::HELLO, 1, 0, 0xff, 0xff];
        assert_eq!(Push::decode(&bytes).err(), Some(WireError::Version(1)));
    }

    #[test]
    fn a_hello_with_a_long_name_or_list_is_refused() {
        let long = Hello { name: "x".repeat(TEXT_MAX + 1), ..hello() };
        let many = Hello { links: vec![NodeId(1); LIST_MAX + 1], ..hello() };
        for hello in [long, many] {
            let bytes = Push::Hello(Box::new(hello)).encode();
            assert_eq!(Push::decode(&bytes).err(), Some(WireError::TooLong));
        }
    }

    #[test]
    fn pushed_cells_keep_their_tags_and_what_they_cover() {
        let dots = [Dot { origin: Origin(7), seq: 3 }];
        let mut items = Vec::new();
        append_pushed(&mut items, 9, &dots, b"one");
        append_pushed(&mut items, 0, &[], &[b'x'; 300]);
        let read: Vec<_> = PushedCells(&items).collect::<Result<_, _>>().unwrap();
        assert_eq!(read[0], PushedCell { via: 9, covers: dots.to_vec(), bytes: b"one" });
        assert_eq!((read[1].via, read[1].bytes.len()), (0, 300));
        let cut: Vec<_> = PushedCells(&items[..items.len() - 1]).collect();
        assert_eq!((cut.len(), cut[1].is_err()), (2, true));
    }

    #[test]
    fn a_message_longer_than_a_frame_is_put_together_again() {
        let message: Vec<u8> = (0..3 * MAX_FRAME as u32).map(|i| i as u8).collect();
        let frames = frames(message.clone());
        assert_eq!(frames.len(), 4);
        assert!(frames.iter().all(|frame| frame.len() <= MAX_FRAME));
        let mut assembler = Assembler::default();
        for frame in &frames[..3] {
            assert_eq!(assembler.push(frame), Ok(None));
        }
        assert_eq!(assembler.push(&frames[3]).unwrap().unwrap(), message);
    }

    #[test]
    fn a_message_without_end_is_refused_at_the_limit() {
        let frame = vec![MORE; MAX_FRAME];
        let mut assembler = Assembler::default();
        let refused = (0..20).find_map(|_| assembler.push(&frame).err());
        assert_eq!(refused, Some(WireError::TooLong));
        assert_eq!(Assembler::default().push(&[]).err(), Some(WireError::Frame));
        assert_eq!(Assembler::default().push(&[7, 7]).err(), Some(WireError::Frame));
    }
}
