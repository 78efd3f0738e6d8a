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
//! - open a session where [`Replica::covers`] says no, one at a time;
//! - persist each drained change together with [`Replica::meta`], then call [`Replica::persisted`];
//! - push every change whose cause is [`Cause::Local`], re-issues among them;
//! - exchange no data with a peer whose clock is off by more than `max_skew`, and call [`Replica::set_skewed`] meanwhile;
//! - call [`Replica::tick`] when [`Replica::next_wakeup`] says, and [`Replica::retire_origins`] now and then.
//!
//! # Decisions
//!
//! Where the rules leave a choice, or a plain reading of them does not hold, this is what was chosen, and why.
//!
//! - A cell carries its **birth**: in tables with ranks others have to know it to forget in time (R1).
//! - R6 **re-issues** cells of tables that forget by stability only. In others nothing is carried in G, so there is nothing
//!   that a cell could come back from under, and a new stamp would beat newer writes for no reason.
//! - **Ranks** in tables without births are for members of one's own origin only ([`WriteError::ForeignRank`]). With one
//!   writer per cell neither R1 nor R7 is at stake. In tables that forget by stability such a cell is forgotten only when its
//!   owner ended it, and no hole in our clock can hide an older version.
//! - A **contribution** to a counter is a cell named by its origin and a number: one that died is not taken up again.
//! - A **floor** (R7) also holds over a dead cell: it may be less than one that was forgotten.
//! - **G** is widened to all that every member is known to have when it gets too many holes: members cover it anyway.
//! - A cell is **too far ahead** from twice `max_skew` on: its stamp may have come through a peer that is ahead of us from
//!   one that is ahead of that. Forgetting does not depend on this bound.
//! - A **retired origin** leaves the clocks but not the coverage: a note stays (see [`Replica::retire_origins`]). An origin
//!   stays in the clock, 11 bytes, while G names it.
//! - Lowering a table's `max_ttl` while cells live is the one change of rules that can bring a loser back. Deadlines beyond
//!   the rules are taken in, kept until they pass, and counted ([`Alarms::beyond_rules`]).
//!
//! # Limits
//!
//! Keys are expected to have tens of members: a lookup walks them. Full sessions, the end of a session, and repair look at
//! all cells in one call. 65,534 tables, 2^32 cells.

pub mod cell;
mod change;
mod clock;
pub mod counter;
mod hlc;
mod ids;
mod order;
pub mod planted;
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
pub use replica::{Closed, Digest, Member, Meta, MetaRef, Repaired, Replica, Restored};
pub use rules::{Forget, Rules, TableRules};
pub use session::{Chunk, Incoming, Outgoing, SyncAborted, SyncDone, SyncRequest, SyncStart};
pub use store::slot_map::SlotMap;
pub use store::slots::Slot;
