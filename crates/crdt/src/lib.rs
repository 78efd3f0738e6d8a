//! Cells, orders, clocks, the store, sync sessions and digests: the lattice everything replicated lives in.
//!
//! Everything replicated is a **cell** ([`CellRef`]), named by table, key and member. Of two versions of a cell the one
//! with the greater [`Order`] wins; no other merge rule exists. A [`Replica`] holds cells and a [`Clock`] of the writes
//! that it has taken in, and keeps the rules under which forgetting, sessions, crashes and wrong clocks do not break that
//! lattice. They are those of docs/rules.md, and called R1 to R9 throughout:
//!
//! - **R1** tables with deadlines forget by the time of the write ([`Forget::ByTime`]),
//! - **R2** a sync session owes what was missing when it began ([`Replica::open_outgoing`]),
//! - **R3** what is too far ahead is refused, and nothing is forgotten by a wrong clock ([`Merged::TooFarAhead`]),
//! - **R4** the dot is part of the order, and the hybrid clock goes on above what it gave before a crash ([`Meta::hlc`]),
//! - **R5** other tables forget by causal stability ([`Forget::Stable`]),
//! - **R6** who was away, restored or joins is put right by one kind of session ([`SyncStart::full`]),
//! - **R7** no write lands at or below what was forgotten (a floor per table; [`Replica::hold`]),
//! - **R8** a counter's contribution belongs to one process lifetime ([`counter`]),
//! - **R9** digests cover live cells only, and repair ignores dots ([`Replica::digest`], [`Replica::repair_range`]).
//!
//! Words: a cell is *dead* when it is removed or past its deadline; it is *forgotten* when it is no longer held at all.
//!
//! The crate is pure: no clock (callers pass [`Wall`]), no randomness (the hasher is seeded), no I/O. It leaves to the
//! node: transport and framing, when to open a session, what to persist, and whom to believe. What the node owes:
//!
//! - exchange [`Rules::fingerprint`], [`Replica::clock`], [`Replica::stability_clock`] and [`Replica::forgotten`] at hello,
//!   and call [`Replica::roster_enter`] before any data moves;
//! - refuse pushes from a peer whose clock does not pass [`Replica::accepts_pushes`];
//! - persist each drained change together with [`Replica::meta`], then call [`Replica::persisted`];
//! - push every change whose cause is [`Cause::Local`], re-issues among them.

pub mod cell;
mod change;
mod clock;
pub mod counter;
mod hlc;
mod ids;
mod order;
mod ranges;
mod replica;
mod rules;
mod session;
mod store;

pub use cell::{CellError, CellRef};
pub use change::{Alarms, Cause, Change, Merged, Outcome, StampRule, Write, WriteError};
pub use clock::{Clock, ClockError, ORIGINS_MAX, RANGES_MAX};
pub use hlc::{Hlc, Stamp};
pub use ids::{Dot, DotRange, NodeId, Origin, ParseIdError, Wall};
pub use order::{Order, Rank};
pub use replica::{Closed, Digest, Member, Meta, Repaired, Replica, Restored};
pub use rules::{Forget, Rules, TableRules};
pub use session::{Chunk, Incoming, Outgoing, SyncAborted, SyncDone, SyncRequest, SyncStart};
pub use store::slots::Slot;
