//! The real node under a seeded network, clock and disk: one seed is one run, to the byte.
//!
//! A [`Scenario`] and a seed give a [`Script`], a script gives a run ([`run()`]), and a run ends with what came of it
//! ([`Outcome`]). Nothing here reads a clock, draws from the system or starts a thread, but [`sweep`], which runs many
//! seeds at once.
//!
//! # By hand
//!
//! [`Sim`] is the same world for tests of your own: three nodes, a split of a minute, a phone that registers on one side
//! of it, and what everybody knows before and after the split heals. All promises are checked all the time.
//!
//! ```
//! use std::time::Duration;
//!
//! use starling_simulation::{Sim, script::Entry};
//!
//! let mut sim = Sim::builder().nodes(3).seed(7).build();
//! sim.run_for(Duration::from_secs(3));
//! sim.cut(&[0], &[1, 2]);
//! sim.register(Entry::Node(0), "alice", "sip:alice@198.51.100.1", 600);
//! sim.run_for(Duration::from_secs(60));
//! assert!(sim.contacts(1, "alice").is_empty());
//!
//! sim.heal();
//! let took = sim.assert_equal_within(Duration::from_secs(5));
//! assert_eq!(sim.contacts(1, "alice"), ["sip:alice@198.51.100.1"]);
//! println!("equal {took:?} after the heal");
//! ```
//!
//! # Where to find what
//!
//! `world` puts together: `queue` (what happens when), `net` (paths), `quic` and `lanes` (links between nodes), `host`,
//! `step`, `clock` and `disk` (a node's machine), `server` (a server's machine, SIP datagrams), `deeds` (load on its way),
//! `faults` and `hostile` (what goes wrong), `settle` (when everybody is equal), `timeline` and [`coverage`] (what was
//! seen). [`kamailio`] are the servers, [`load`] the phones, [`model`] and [`invariants`] what is promised.
//!
//! **Architecture invariant.** Each participant and each path draws from a stream of its own, so that a script without one
//! of them is the same run for the others, as far as they do not meet.

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
mod tcp;
mod timeline;
pub mod trial;
pub mod view;
mod world;

pub use builder::Sim;
pub use crdt::planted;
pub use invariants::{Invariant, Moment, Violation};
pub use run::{Options, Outcome, run};
pub use scenario::Scenario;
pub use script::Script;
