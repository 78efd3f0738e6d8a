//! Sync sessions: what is owed (R2), and full sessions (R6).

use super::Replica;
use crate::change::{Cause, Merged};
use crate::clock::{Clock, RANGES_MAX};
use crate::ids::{Dot, DotRange, Wall};
use crate::planted::{self, Bug};
use crate::session::{
    Chunk, Incoming, Outgoing, SyncAborted, SyncDone, SyncRequest, SyncStart, blobs, push_blob, push_dot, seqs,
};

/// What one range of shown dots counts for in the size of a chunk, bytes.
const RANGE_BYTES: usize = 24;

impl Replica {
    /// Asks for what we lack.
    pub fn request(&self) -> SyncRequest {
        SyncRequest { clock: self.clock_to_show() }
    }

    /// Our clock, with at most as many holes as others take in. Less is safe: as S it asks for more, as F it promises less.
    fn clock_to_show(&self) -> Clock {
        let mut clock = self.clock.clone();
        clock.truncate(RANGES_MAX / 2);
        clock
    }

    /// Opens a session for a peer: everything that it lacks is owed as of this moment (R2). Costs the cells that are owed;
    /// all that are held, if the session is full.
    pub fn open_outgoing(&mut self, request: &SyncRequest) -> (Outgoing, SyncStart) {
        let mut clock = self.clock_to_show();
        clock.join(&self.retired_of(&request.clock));
        let start = SyncStart {
            clock,
            forgotten: self.forgotten.clone(),
            full: !request.clock.includes(&self.forgotten) && !planted::on(Bug::NeverFull),
            floors: self.tables.iter().filter_map(|t| Some((t.name.to_string(), t.floor?))).collect(),
        };
        let owed = start.clock.difference(&request.clock).flat_map(|(origin, range)| self.dots.range(origin, range));
        let owed = owed.map(|(_, slot)| slot).collect();
        let mut shown = Vec::new();
        if start.full {
            let known = self.dots.iter().filter(|(dot, _)| request.clock.contains(*dot));
            known.for_each(|(dot, _)| push_dot(&mut shown, dot));
        }
        self.pins += 1;
        let session = Outgoing {
            owed,
            sent: 0,
            shown,
            shown_sent: 0,
            #[cfg(feature = "planted")]
            promised: start.clock.clone(),
        };
        (session, start)
    }

    /// The next part, of about `max_bytes` (more if a single cell is larger). A cell that was overwritten goes in its
    /// current version; one that R1 forgot is dead everywhere and is left out (R2).
    pub fn next_chunk(&mut self, session: &mut Outgoing, max_bytes: usize) -> Result<Chunk, SyncAborted> {
        let mut chunk = Chunk::default();
        while let Some(&range) = session.shown.get(session.shown_sent) {
            if !chunk.shown.is_empty() && (chunk.shown.len() + 1) * RANGE_BYTES > max_bytes {
                return Ok(chunk);
            }
            chunk.shown.push(range);
            session.shown_sent += 1;
        }
        let room = max_bytes.saturating_sub(chunk.shown.len() * RANGE_BYTES);
        while let Some(&slot) = session.owed.get(session.sent) {
            match self.slots.bytes(slot) {
                #[cfg(feature = "planted")]
                Some(_) if planted::on(Bug::OverwrittenNotSent) && !self.is_promised(session, slot) => {}
                Some(bytes) if !chunk.cells.is_empty() && chunk.cells.len() + bytes.len() + 4 > room => {
                    return Ok(chunk);
                }
                Some(bytes) => push_blob(&mut chunk.cells, bytes),
                None if planted::on(Bug::VoidSessionGoesOn) => {}
                None if self.slots.entry(slot).is_some_and(|entry| self.is_stable(entry.table)) => {
                    return Err(SyncAborted::Forgotten);
                }
                None => {}
            }
            session.sent += 1;
        }
        chunk.last = true;
        if planted::on(Bug::ClockOfTheEnd) && session.shown.is_empty() {
            let all = self.clock.ranges();
            chunk.shown = all.map(|(origin, s)| DotRange { origin, first: *s.start(), last: *s.end() }).collect();
        }
        Ok(chunk)
    }

    /// Whether a slot still holds what it held when the session began.
    #[cfg(feature = "planted")]
    fn is_promised(&self, session: &Outgoing, slot: u32) -> bool {
        self.slots.cell(slot).is_some_and(|cell| session.promised.contains(cell.order.dot))
    }

    /// Ends a session on the sender's side, however it went.
    pub fn close_outgoing(&mut self, session: Outgoing) {
        drop(session);
        self.pins = self.pins.saturating_sub(1);
        self.recycle();
    }

    /// Takes up a session that answers `request`.
    pub fn open_incoming(&mut self, start: SyncStart, request: SyncRequest) -> Incoming {
        Incoming { mine: request.clock, start, shown: Clock::new(), last: false, done: SyncDone::default() }
    }

    /// Merges a part; every cell's dot is covered at once, so a session that is cut has not been in vain. Returns how
    /// many cells came.
    pub fn apply_chunk(&mut self, session: &mut Incoming, chunk: Chunk, now: Wall) -> Result<u64, SyncAborted> {
        if session.last {
            return Err(SyncAborted::Framing);
        }
        // The sender lacks something that was forgotten here: what wins may have lost to that elsewhere (R6).
        let suspect = !session.start.clock.includes(&self.forgotten);
        let mut cells = 0;
        for blob in blobs(&chunk.cells) {
            self.apply_cell(session, blob?, now, suspect)?;
            cells += 1;
        }
        if planted::on(Bug::ClockPerChunk) {
            for origin in session.shown.origins() {
                self.clock.insert_range(origin, 1..=session.shown.max(origin));
            }
        }
        for range in &chunk.shown {
            let (origin, seqs) = seqs(range);
            if planted::on(Bug::ClockOfTheEnd) && chunk.last && !session.start.full {
                session.start.clock.insert_range(origin, seqs);
            } else {
                session.shown.insert_range(origin, seqs);
            }
        }
        session.last = chunk.last;
        Ok(cells)
    }

    fn apply_cell(&mut self, session: &mut Incoming, blob: &[u8], now: Wall, suspect: bool) -> Result<(), SyncAborted> {
        let merged = self.merge(now, blob, Cause::Synced, 0);
        if let Ok(cell) = crate::CellRef::decode(blob) {
            session.shown.insert(cell.order.dot);
        }
        match merged {
            Merged::TooFarAhead => return Err(SyncAborted::TooFarAhead),
            Merged::Malformed(error) => return Err(SyncAborted::Malformed(error)),
            Merged::New(slot) if suspect => {
                if self.may_have_lost(slot.0, now) && !planted::on(Bug::SuspectTaken) {
                    session.done.reissued += u64::from(self.reissue(slot.0));
                }
            }
            Merged::New(_) | Merged::Stale | Merged::DotReuse => {}
        }
        Ok(())
    }

    /// Ends a session on the receiver's side: drops what the sender covers and did not show, takes F, joins G (R2, R6).
    pub fn finish(&mut self, session: Incoming, now: Wall) -> Result<SyncDone, SyncAborted> {
        let Incoming { mine, start, shown, last, mut done } = session;
        if !last {
            return Err(SyncAborted::Unfinished);
        }
        let latest = self.rules.latest_ms(now);
        if start.floors.iter().any(|(_, floor)| floor.time.ms() > latest) {
            return Err(SyncAborted::TooFarAhead);
        }
        for (table, floor) in &start.floors {
            self.raise_floor(table, *floor);
            self.hybrid.observe(floor.time);
        }
        let base = if start.full { Clock::new() } else { mine };
        let suspects = start.clock.difference(&base).flat_map(|(origin, seqs)| {
            let dots = self.dots.range(origin, seqs);
            dots.map(move |(seq, slot)| (Dot { origin, seq }, slot))
        });
        let mut unshown: Vec<u32> = suspects.filter(|(dot, _)| !shown.contains(*dot)).map(|(_, slot)| slot).collect();
        if planted::on(Bug::FullKeepsUnshown) && start.full {
            unshown.clear();
        } else if planted::on(Bug::FullTakesOver) && start.full {
            unshown = self.dots.iter().filter(|(dot, _)| !shown.contains(*dot)).map(|(_, slot)| slot).collect();
        }
        for slot in unshown {
            if let Some(facts) = self.facts(slot) {
                self.free(slot, &facts);
                done.dropped += 1;
            }
        }
        self.unretire(&start.forgotten);
        self.clock.join(&self.acceptable(&start.clock));
        self.forgotten.join(&start.forgotten);
        if start.full && !planted::on(Bug::FullReissuesNothing) {
            for slot in self.may_all_have_lost(now, &start.clock) {
                done.reissued += u64::from(self.reissue(slot));
            }
        }
        Ok(done)
    }
}

impl FromIterator<Dot> for Clock {
    fn from_iter<I: IntoIterator<Item = Dot>>(dots: I) -> Self {
        dots.into_iter().map(|dot| DotRange { origin: dot.origin, first: dot.seq, last: dot.seq }).collect()
    }
}
