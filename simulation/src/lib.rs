//! The real node under a seeded network, clock and disk: one seed is one run, to the byte.
//!
//! A [`Scenario`](scenario) and a seed give a [`Script`], a script gives a run ([`run::run`]), and a run ends with what
//! came of it ([`run::Outcome`]). Nothing here reads a clock, draws from the system or starts a thread, but
//! [`sweep`], which runs many seeds at once.

pub mod invariants;
pub mod kamailio;
pub mod ledger;
pub mod load;
pub mod model;
pub mod replay;
pub mod run;
pub mod scenario;
pub mod script;
pub mod shrink;
mod stream;
pub mod sweep;
pub mod trial;
pub mod view;

pub use invariants::{Invariant, Moment, Violation};
pub use run::{Options, Outcome, run};
pub use scenario::Scenario;
pub use script::Script;
