//! What goes into a replica one by one, and what it says happened.

use thiserror::Error;

use crate::cell::CellError;
use crate::hlc::Stamp;
use crate::ids::{Dot, Wall};
use crate::order::Rank;
use crate::store::slots::Slot;

/// A local write.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// Table name.
    pub table: &'a str,
    /// Key in the table.
    pub key: &'a [u8],
    /// Member of the key; empty where a key has one value.
    pub member: &'a [u8],
    /// 0, unless the table has births or the member starts with this origin's 8 bytes ([`WriteError::ForeignRank`]).
    pub rank: Rank,
    /// How the write is stamped.
    pub stamp: StampRule,
    /// Unix seconds. Clamped to what the table's rules allow (R1); needed with a body in tables that forget by time.
    pub deadline: Option<u64>,
    /// What the version says; `None` writes a tombstone in time.
    pub body: Option<&'a [u8]>,
    /// Carried to the [`Change`]; not part of the cell.
    pub via: u32,
    /// Unix seconds; needed in tables with births, ignored in others. A held version's birth goes before it, and the
    /// hybrid clock's time is the latest that it can be: at or after the birth of whatever was seen, also where the wall
    /// clock is late. For a removal of what is not held it may be left out, and is that time.
    pub birth: Option<u64>,
}

/// When a write happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StampRule {
    /// Now, and above the held version.
    Now,
    /// Then; now, if that lies ahead.
    At(Wall),
    /// Just above that stamp, but not ahead of the hybrid clock.
    Above(Stamp),
    /// Nothing is known of its age: the least stamp that its table allows, with the deadline as given.
    Least,
}

/// What became of a local write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The cell in this slot is the new version, under this dot.
    Written(Slot, Dot),
    /// The version in this slot is greater. No dot was used, nothing changed.
    Lost(Slot),
}

/// Why a local write was not made. The caller is at fault; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WriteError {
    /// A field breaks a limit.
    #[error(transparent)]
    Cell(#[from] CellError),
    /// The table forgets by time, and the version has no deadline. Hold it as a lease with a deadline and renew it.
    #[error("a version in a table that forgets by time needs a deadline")]
    MissingDeadline,
    /// The table forgets by birth, and the write names none.
    #[error("a version in a table that forgets by birth needs a birth")]
    MissingBirth,
    /// A rank in a table without births, for a member that does not start with this origin's 8 bytes. Two writers with ranks would let a
    /// forgotten winner's loser outlive it (R1, R8).
    #[error("a rank in a table without births needs a member of this origin")]
    ForeignRank,
    /// There are more tables than a replica can number (65,535).
    #[error("too many tables")]
    TooManyTables,
}

/// What became of a cell from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// It won; it is in this slot.
    New(Slot),
    /// Its dot was covered before, or its order is lower than the held version's. Its dot is covered now.
    Stale,
    /// Its stamp or birth lies too far ahead (R3). Dropped; its dot is not covered, so it will be offered again.
    TooFarAhead,
    /// It is no cell, or one table too many. Dropped; its dot is not covered.
    Malformed(CellError),
    /// Its dot is known to name another version. Not taken; counted in [`Alarms::dot_reuse`]. Somebody's bug, or an attack.
    DotReuse,
}

/// Why a cell changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A write of this replica, re-issues (R6, R9) included: it has to be pushed.
    Local,
    /// Pushed by a peer.
    Pushed,
    /// Taken in by a sync session.
    Synced,
    /// Taken in by a repair (R9).
    Repaired,
    /// Its deadline passed. The cell is still held, and nothing of it changed.
    Expired,
    /// It is not held any more: [`Change::old`] is the last version, the slot is free after the drain. It was dead, unless
    /// a session showed that the cluster had removed it while this node was away (R2, R6).
    Forgotten,
}

/// One change since the last drain. The new version is read through the slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub slot: Slot,
    /// The canonical bytes that were replaced or forgotten; `None` for a new cell and for [`Cause::Expired`].
    pub old: Option<Box<[u8]>>,
    /// Why.
    pub cause: Cause,
    /// The tag of the write or merge; 0 if it had none.
    pub via: u32,
}

/// Things that must not happen, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    /// Cells offered under a dot that names another version.
    pub dot_reuse: u64,
    /// Cells too far ahead (R3).
    pub too_far_ahead: u64,
    /// Bytes that are no cells.
    pub malformed: u64,
    /// Cells under dots of retired origins.
    pub retired: u64,
    /// Cells whose deadline exceeds the table's rules (R1): `max_ttl` was lowered while they lived.
    pub beyond_rules: u64,
}
