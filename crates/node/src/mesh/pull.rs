//! The asking end of a sync session: gets what this node lacks from one peer.
//!
//! There is one session at a time per node. It starts at once after a hello that shows something new, and otherwise when a
//! peer has shown something for a while that pushes have not brought. A session that breaks off
//! or stalls has kept what it brought (every cell covers its own dot); the next one, perhaps with another peer, goes on
//! from there.

use crdt::{Incoming, SyncRequest};
use rand::seq::IndexedRandom;

use super::Mesh;
use super::link::Peer;
use super::wire::{Assembler, Session, WireError, frames};
use crate::cx::Cx;
use crate::io::{Lane, Level, LinkId, Mono, Output};

/// A session that brings nothing for so long is given up, milliseconds.
const STALL_MS: u64 = 10_000;
/// The longest wait after sessions in a row that failed or were in vain, milliseconds.
const BACKOFF_MAX_MS: u64 = 8_000;

/// A session under way.
pub(super) struct Pull {
    link: LinkId,
    id: u32,
    assembler: Assembler,
    request: Option<SyncRequest>,
    incoming: Option<Incoming>,
    /// When something came last.
    progress_at: Mono,
    cells: u64,
}

impl Pull {
    fn lane(&self) -> Lane {
        Lane::Session { id: self.id, opened_here: true }
    }
}

/// How far a message brought a session.
enum Step {
    On,
    Finished,
    /// In words, for the log.
    Failed(String),
}

impl Mesh {
    /// Starts a session if one is due, and gives up one that stalls.
    pub(super) fn pull_tick(&mut self, cx: &mut Cx<'_>) {
        let now = cx.now.mono;
        if self.pull.as_ref().is_some_and(|pull| now.ms_since(pull.progress_at) >= STALL_MS) {
            self.pull_failed("stalled", cx);
        }
        if self.pull.is_some() {
            return;
        }
        let due: Vec<LinkId> = self.behind().filter(|&(_, at)| at <= now).map(|(link, _)| link).collect();
        if due.is_empty() {
            return;
        }
        // A push may have brought it meanwhile.
        due.iter().for_each(|&link| self.judge(link, false, cx));
        let still: Vec<LinkId> = self.behind().filter(|&(_, at)| at <= now).map(|(link, _)| link).collect();
        if let Some(&link) = still.choose(&mut self.rng) {
            self.start_pull(link, cx);
        }
    }

    /// When [`Mesh::pull_tick`] has something to do.
    pub(super) fn pull_wakeup(&self) -> Option<Mono> {
        match &self.pull {
            Some(pull) => Some(pull.progress_at.plus_ms(STALL_MS)),
            None => self.behind().map(|(_, at)| at).min(),
        }
    }

    /// Links whose peers have shown something that we lack, and from when on we ask.
    pub(super) fn behind(&self) -> impl Iterator<Item = (LinkId, Mono)> {
        self.links.values().filter_map(|link| {
            let peer = link.peer.as_ref().filter(|peer| peer.trusted())?;
            Some((link.id, peer.ask_at?.max(peer.pull_after)))
        })
    }

    fn start_pull(&mut self, link: LinkId, cx: &mut Cx<'_>) {
        let Some(link) = self.links.get_mut(&link) else { return };
        let id = link.next_session;
        link.next_session = link.next_session.wrapping_add(1);
        let request = cx.replica.request();
        let message = Session::Pull(Box::new(request.clone())).encode();
        let pull = Pull {
            link: link.id,
            id,
            assembler: Assembler::default(),
            request: Some(request),
            incoming: None,
            progress_at: cx.now.mono,
            cells: 0,
        };
        for bytes in frames(message) {
            cx.out.push_back(Output::Frame { link: link.id, lane: pull.lane(), bytes });
        }
        cx.stats.sync_pulls += 1;
        self.pull = Some(pull);
    }

    /// A frame on a session lane that this node opened: an answer to a pull or an audit.
    pub(super) fn answer_frame(&mut self, link: LinkId, id: u32, frame: &[u8], cx: &mut Cx<'_>) {
        if self.pull.as_ref().is_none_or(|pull| (pull.link, pull.id) != (link, id)) {
            return self.audit_frame(link, id, frame, cx);
        }
        let Some(mut pull) = self.pull.take() else { return };
        pull.progress_at = cx.now.mono;
        let mut assembler = std::mem::take(&mut pull.assembler);
        let step = match assembler.push(frame) {
            Ok(Some(message)) => Session::decode(&message).and_then(|message| pull.take(message, cx)),
            Ok(None) => Ok(Step::On),
            Err(error) => Err(error),
        };
        pull.assembler = assembler;
        let lane = pull.lane();
        self.pull = Some(pull);
        match step {
            Ok(Step::On) => {}
            Ok(Step::Failed(why)) => self.pull_failed(&why, cx),
            Ok(Step::Finished) => {
                cx.out.push_back(Output::CloseLane { link, lane });
                self.pull_finished(cx);
            }
            Err(error) => {
                self.pull_failed("malformed answer", cx);
                self.malformed(link, error, cx);
            }
        }
    }

    /// What is held now equals or exceeds what the peer had: says so to everybody at once, which lets pushes flow again (R6).
    fn pull_finished(&mut self, cx: &mut Cx<'_>) {
        let Some(pull) = self.pull.take() else { return };
        cx.stats.sync_pulls_done += 1;
        self.pulled = true;
        if let Some(peer) = self.peer_mut(pull.link) {
            let text = format!("synced with {}: {} cells", peer.name, pull.cells);
            cx.log(if pull.cells > 0 { Level::Info } else { Level::Debug }, text);
        }
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            self.judge(id, false, cx);
            if let Some(link) = self.links.get_mut(&id) {
                link.shown_at = Mono(0);
                link.show = true;
            }
        }
        if let Some(peer) = self.peer_mut(pull.link) {
            // One that has brought nothing, from a peer that still shows more, is not repeated at once: whatever the reason
            // is, the next may bring nothing either.
            if pull.cells == 0 && peer.ask_at.is_some() {
                peer.rest(cx.now.mono);
            } else {
                peer.pull_failures = 0;
            }
        }
        self.pull_tick(cx);
    }

    fn pull_failed(&mut self, why: &str, cx: &mut Cx<'_>) {
        let Some(pull) = self.pull.take() else { return };
        cx.stats.sync_pulls_aborted += 1;
        cx.out.push_back(Output::CloseLane { link: pull.link, lane: pull.lane() });
        let now = cx.now.mono;
        if let Some(peer) = self.peer_mut(pull.link) {
            peer.rest(now);
            let text = format!("sync with {} broke off after {} cells: {why}", peer.name, pull.cells);
            cx.log(Level::Info, text);
        }
    }

    /// The peer closed a session lane that this node opened.
    pub(super) fn answer_closed(&mut self, link: LinkId, id: u32, cx: &mut Cx<'_>) {
        if self.pull.as_ref().is_some_and(|pull| (pull.link, pull.id) == (link, id)) {
            self.pull_failed("the other side closed it", cx);
        }
        self.audit_closed(link, id);
    }

    /// A link is gone.
    pub(super) fn pull_lost(&mut self, link: LinkId, cx: &mut Cx<'_>) {
        if self.pull.as_ref().is_some_and(|pull| pull.link == link) {
            self.pull = None;
            cx.stats.sync_pulls_aborted += 1;
        }
    }
}

impl Peer {
    /// The peer is not asked for a while, the longer the more often in a row this was called.
    fn rest(&mut self, now: Mono) {
        let backoff = 250u64.saturating_mul(1 << self.pull_failures.min(5)).min(BACKOFF_MAX_MS);
        self.pull_failures += 1;
        self.pull_after = now.plus_ms(backoff);
    }
}

impl Pull {
    fn take(&mut self, message: Session<'_>, cx: &mut Cx<'_>) -> Result<Step, WireError> {
        match message {
            Session::Start(start) => {
                let Some(request) = self.request.take() else { return Err(WireError::OutOfTurn) };
                self.incoming = Some(cx.replica.open_incoming(*start, request));
                Ok(Step::On)
            }
            Session::Chunk(chunk) => {
                let Some(incoming) = self.incoming.as_mut() else { return Err(WireError::OutOfTurn) };
                let last = chunk.last;
                cx.stats.sync_bytes_in += chunk.cells.len() as u64;
                match cx.replica.apply_chunk(incoming, *chunk, cx.now.wall) {
                    Ok(taken) => {
                        cx.stats.sync_cells_in += taken;
                        self.cells += taken;
                    }
                    Err(aborted) => return Ok(Step::Failed(aborted.to_string())),
                }
                if !last {
                    return Ok(Step::On);
                }
                match self.incoming.take().map(|incoming| cx.replica.finish(incoming, cx.now.wall)) {
                    Some(Err(aborted)) => Ok(Step::Failed(aborted.to_string())),
                    _ => Ok(Step::Finished),
                }
            }
            Session::Abort => Ok(Step::Failed("the other side could not go on".into())),
            _ => Err(WireError::OutOfTurn),
        }
    }
}
