//! The real node under a seeded network, clock and disk: one seed is one run, to the byte.
//!
//! A [`Scenario`](scenario) and a seed give a [`Script`], a script gives a run ([`run::run`]), and a run ends with what
//! came of it ([`run::Outcome`]). Nothing here reads a clock, draws from the system or starts a thread, but
//! [`sweep`], which runs many seeds at once.

pub mod builder;
pub mod clock;
pub mod compare;
pub mod coverage;
mod deeds;
mod disk;
mod faults;
mod host;
mod hostile;
pub mod invariants;
pub mod kamailio;
mod lanes;
pub mod ledger;
pub mod load;
pub mod model;
mod net;
mod queue;
mod quic;
pub mod replay;
pub mod report;
mod rng;
pub mod run;
pub mod scenario;
pub mod script;
mod server;
mod settle;
pub mod shrink;
mod step;
pub mod sweep;
mod timeline;
pub mod trial;
pub mod view;
mod world;

pub use builder::Sim;
pub use invariants::{Invariant, Moment, Violation};
pub use run::{Options, Outcome, run};
pub use scenario::Scenario;
pub use script::Script;
