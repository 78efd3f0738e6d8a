//! Repair by ranges, when equal clocks were found to hide unequal cells (R9).
//!
//! The node that noticed asks for the digests of 256 ranges of cell ids, then for the cells of those that differ, one range
//! after the other. It takes what is greater there and issues again what only it has, so that everybody else hears of it; the
//! other side does the same when it notices. This never runs unless something is wrong with our book-keeping.

use super::Mesh;
use super::wire::{Assembler, Blobs, Session, WireError, frames};
use crate::cx::Cx;
use crate::io::{Lane, Level, LinkId, Mono, Output};

/// An audit that brings nothing for so long is given up, milliseconds.
const STALL_MS: u64 = 10_000;

/// A repair under way.
pub(super) struct Audit {
    link: LinkId,
    id: u32,
    assembler: Assembler,
    horizon: u64,
    /// Ranges that differ; `None` before the digests are in.
    ranges: Option<Vec<u8>>,
    progress_at: Mono,
    repaired: u64,
}

impl Audit {
    fn ask(&self, message: &Session<'_>, cx: &mut Cx<'_>) {
        let lane = Lane::Session { id: self.id, opened_here: true };
        for bytes in frames(message.encode()) {
            cx.out.push_back(Output::Frame { link: self.link, lane, bytes });
        }
    }

    fn is(&self, link: LinkId, id: u32) -> bool {
        (self.link, self.id) == (link, id)
    }
}

impl Mesh {
    /// Starts a repair with a peer, unless one is under way.
    pub(super) fn start_audit(&mut self, link: LinkId, horizon: u64, cx: &mut Cx<'_>) {
        let Some(link) = self.links.get_mut(&link).filter(|_| self.audit.is_none()) else { return };
        let id = link.next_session;
        link.next_session = link.next_session.wrapping_add(1);
        let audit = Audit {
            link: link.id,
            id,
            assembler: Assembler::default(),
            horizon,
            ranges: None,
            progress_at: cx.now.mono,
            repaired: 0,
        };
        audit.ask(&Session::AskRanges { horizon }, cx);
        self.audit = Some(audit);
    }

    /// A frame of a lane that no pull knows.
    pub(super) fn audit_frame(&mut self, link: LinkId, id: u32, frame: &[u8], cx: &mut Cx<'_>) {
        let Some(mut audit) = self.audit.take_if(|audit| audit.is(link, id)) else { return };
        audit.progress_at = cx.now.mono;
        let mut assembler = std::mem::take(&mut audit.assembler);
        let more = match assembler.push(frame) {
            Ok(Some(message)) => Session::decode(&message).and_then(|message| audit.take(message, cx)),
            Ok(None) => Ok(true),
            Err(error) => Err(error),
        };
        audit.assembler = assembler;
        match more {
            Ok(true) => self.audit = Some(audit),
            Ok(false) => self.audit_over(&audit, cx),
            Err(error) => {
                self.audit_over(&audit, cx);
                self.malformed(link, error, cx);
            }
        }
    }

    fn audit_over(&mut self, audit: &Audit, cx: &mut Cx<'_>) {
        let lane = Lane::Session { id: audit.id, opened_here: true };
        cx.out.push_back(Output::CloseLane { link: audit.link, lane });
        cx.log(Level::Info, format!("audit over, {} cells repaired", audit.repaired));
    }

    /// Gives up a repair that stalls.
    pub(super) fn audit_tick(&mut self, cx: &mut Cx<'_>) {
        let stalls = |audit: &mut Audit| cx.now.mono.ms_since(audit.progress_at) >= STALL_MS;
        if let Some(audit) = self.audit.take_if(stalls) {
            self.audit_over(&audit, cx);
        }
    }

    /// When [`Mesh::audit_tick`] has something to do.
    pub(super) fn audit_wakeup(&self) -> Option<Mono> {
        self.audit.as_ref().map(|audit| audit.progress_at.plus_ms(STALL_MS))
    }

    /// The peer closed a lane.
    pub(super) fn audit_closed(&mut self, link: LinkId, id: u32) {
        self.audit.take_if(|audit| audit.is(link, id));
    }

    /// A link is gone.
    pub(super) fn audit_lost(&mut self, link: LinkId) {
        self.audit.take_if(|audit| audit.link == link);
    }
}

impl Audit {
    /// Takes an answer and asks on. Gives false when nothing is left to ask.
    fn take(&mut self, message: Session<'_>, cx: &mut Cx<'_>) -> Result<bool, WireError> {
        match (message, &mut self.ranges) {
            (Session::Ranges(theirs), None) => {
                let ours = cx.replica.range_digests(self.horizon);
                let differs = |(range, digest): (u8, &[u8; 16])| {
                    let same = ours.get(usize::from(range)).is_some_and(|ours| *ours == u128::from_le_bytes(*digest));
                    (!same).then_some(range)
                };
                self.ranges = Some((0..=u8::MAX).zip(&theirs).filter_map(differs).collect());
            }
            (Session::RangeCells(cells), Some(ranges)) => {
                let Some(range) = ranges.pop() else { return Err(WireError::OutOfTurn) };
                let cells = Blobs(cells).collect::<Result<Vec<_>, _>>()?;
                let done = cx.replica.repair_range(range, self.horizon, cells, cx.now.wall);
                self.repaired += done.taken + done.reissued;
                cx.stats.ranges_repaired += 1;
            }
            _ => return Ok(false),
        }
        let Some(&range) = self.ranges.as_ref().and_then(|ranges| ranges.last()) else { return Ok(false) };
        self.ask(&Session::AskCells { range }, cx);
        Ok(true)
    }
}
