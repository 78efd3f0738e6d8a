//! The answering end of sync sessions and audits.
//!
//! A peer opens a lane and asks; what it lacks leaves in chunks of [`CHUNK_BYTES`], one per input, as far as the lane's
//! window allows, so that a bulk load never holds up live work for longer than a chunk takes.

use crdt::Outgoing;

use super::Mesh;
use super::wire::{Assembler, Session, append_blob, frames};
use crate::cx::Cx;
use crate::io::{LANE_WINDOW, Lane, LinkId, Mono, Output};

/// Bytes of cells in one chunk.
const CHUNK_BYTES: usize = 64 << 10;
/// Session lanes that one link may have open.
const LANES_MAX: usize = 8;
/// A lane that takes nothing for so long is closed, milliseconds.
const STALL_MS: u64 = 30_000;

/// A session lane that a peer opened.
#[derive(Default)]
pub(super) struct Serve {
    assembler: Assembler,
    /// What is still owed.
    outgoing: Option<Outgoing>,
    /// Frames that the transport has not taken yet.
    unsent: u32,
    moved_at: Mono,
}

impl Serve {
    fn ready(&self) -> bool {
        self.outgoing.is_some() && self.unsent < LANE_WINDOW
    }

    fn send(&mut self, link: LinkId, id: u32, message: &Session<'_>, cx: &mut Cx<'_>) {
        for bytes in frames(message.encode()) {
            self.unsent += 1;
            cx.out.push_back(Output::Frame { link, lane: lane(id), bytes });
        }
    }
}

const fn lane(id: u32) -> Lane {
    Lane::Session { id, opened_here: false }
}

impl Mesh {
    /// A frame on a session lane that the peer opened.
    pub(super) fn serve_frame(&mut self, link: LinkId, id: u32, frame: &[u8], cx: &mut Cx<'_>) {
        let open = self.serves.range((link, 0)..=(link, u32::MAX)).count();
        if open >= LANES_MAX && !self.serves.contains_key(&(link, id)) {
            return self.misbehaved(link, "too many sessions", cx);
        }
        let mut serve = self.serves.remove(&(link, id)).unwrap_or_default();
        serve.moved_at = cx.now.mono;
        let mut assembler = std::mem::take(&mut serve.assembler);
        let taken = match assembler.push(frame) {
            Ok(Some(message)) => {
                Session::decode(&message).map(|message| self.serve_message(link, id, &mut serve, message, cx))
            }
            Ok(None) => Ok(true),
            Err(error) => Err(error),
        };
        serve.assembler = assembler;
        self.serves.insert((link, id), serve);
        match taken {
            Ok(true) => {}
            Ok(false) => self.misbehaved(link, "unexpected message in a session", cx),
            Err(error) => self.malformed(link, error, cx),
        }
    }

    /// Answers a session that cannot be served yet; the peer tries again.
    pub(super) fn decline(&mut self, link: LinkId, lane: Lane, cx: &mut Cx<'_>) {
        if self.links.contains_key(&link) && matches!(lane, Lane::Session { opened_here: false, .. }) {
            for bytes in frames(Session::Abort.encode()) {
                cx.out.push_back(Output::Frame { link, lane, bytes });
            }
            cx.out.push_back(Output::CloseLane { link, lane });
        }
    }

    /// Answers. Gives false if the message does not belong here.
    fn serve_message(
        &mut self,
        link: LinkId,
        id: u32,
        serve: &mut Serve,
        message: Session<'_>,
        cx: &mut Cx<'_>,
    ) -> bool {
        let trusted = self.peer(link).is_some_and(|peer| peer.trusted());
        match message {
            Session::Pull(_) | Session::AskRanges { .. } | Session::AskCells { .. } if !trusted => {
                serve.send(link, id, &Session::Abort, cx);
            }
            Session::Pull(request) if serve.outgoing.is_none() => {
                cx.stats.sync_served += 1;
                let (outgoing, start) = cx.replica.open_outgoing(&request);
                serve.outgoing = Some(outgoing);
                serve.send(link, id, &Session::Start(Box::new(start)), cx);
            }
            Session::AskRanges { horizon } => {
                let digests = cx.replica.range_digests(horizon).into_iter().map(u128::to_le_bytes).collect();
                serve.send(link, id, &Session::Ranges(digests), cx);
            }
            Session::AskCells { range } => {
                let mut cells = Vec::new();
                cx.replica.range_cells(range).for_each(|cell| append_blob(&mut cells, cell));
                serve.send(link, id, &Session::RangeCells(&cells), cx);
            }
            _ => return false,
        }
        true
    }

    /// The transport took frames of a session.
    pub(super) fn serve_credit(&mut self, link: LinkId, id: u32, frames: u32, cx: &mut Cx<'_>) {
        if let Some(serve) = self.serves.get_mut(&(link, id)) {
            serve.unsent = serve.unsent.saturating_sub(frames);
            serve.moved_at = cx.now.mono;
        }
    }

    /// Sends one chunk of the session that waits most for one, and closes those that stall.
    pub(super) fn serve_tick(&mut self, cx: &mut Cx<'_>) {
        let least = |(_, serve): &(&(LinkId, u32), &mut Serve)| serve.unsent;
        let ready = self.serves.iter_mut().filter(|(_, serve)| serve.ready());
        if let Some((&(link, id), serve)) = ready.min_by_key(least) {
            serve.chunk(link, id, cx);
        }
        let stalled = |(_, serve): &(&(LinkId, u32), &Serve)| cx.now.mono.ms_since(serve.moved_at) >= STALL_MS;
        let ids: Vec<(LinkId, u32)> = self.serves.iter().filter(stalled).map(|(&key, _)| key).collect();
        for (link, id) in ids {
            self.serve_closed(link, id, cx);
        }
    }

    /// When [`Mesh::serve_tick`] has something to do.
    pub(super) fn serve_wakeup(&self) -> Option<Mono> {
        let wakes = |serve: &Serve| if serve.ready() { Mono(0) } else { serve.moved_at.plus_ms(STALL_MS) };
        self.serves.values().map(wakes).min()
    }

    /// The peer closed a session lane: closes it from here as well.
    pub(super) fn serve_closed(&mut self, link: LinkId, id: u32, cx: &mut Cx<'_>) {
        if let Some(serve) = self.serves.remove(&(link, id)) {
            cx.out.push_back(Output::CloseLane { link, lane: lane(id) });
            serve.end(cx);
        }
    }

    /// A link is gone.
    pub(super) fn serves_lost(&mut self, link: LinkId, cx: &mut Cx<'_>) {
        let ids: Vec<u32> = self.serves.range((link, 0)..=(link, u32::MAX)).map(|(&(_, id), _)| id).collect();
        for id in ids {
            if let Some(serve) = self.serves.remove(&(link, id)) {
                serve.end(cx);
            }
        }
    }
}

impl Serve {
    /// Gives back what was pinned for it.
    fn end(self, cx: &mut Cx<'_>) {
        if let Some(outgoing) = self.outgoing {
            cx.stats.sync_served_aborted += 1;
            cx.replica.close_outgoing(outgoing);
        }
    }

    /// Sends one chunk, if there is one to send and the lane takes it.
    fn chunk(&mut self, link: LinkId, id: u32, cx: &mut Cx<'_>) {
        if self.unsent >= LANE_WINDOW {
            return;
        }
        let Some(mut outgoing) = self.outgoing.take() else { return };
        match cx.replica.next_chunk(&mut outgoing, CHUNK_BYTES) {
            Ok(chunk) => {
                cx.stats.sync_bytes_out += chunk.cells.len() as u64;
                let last = chunk.last;
                self.send(link, id, &Session::Chunk(Box::new(chunk)), cx);
                if last {
                    cx.replica.close_outgoing(outgoing);
                } else {
                    self.outgoing = Some(outgoing);
                }
            }
            Err(_) => {
                cx.stats.sync_served_aborted += 1;
                cx.replica.close_outgoing(outgoing);
                self.send(link, id, &Session::Abort, cx);
            }
        }
    }
}
