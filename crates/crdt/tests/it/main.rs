//! The replica as a whole: laws, sessions, forgetting, counters, repair, and random runs against the rules.
//!
//! In a build with the feature `planted`, `STARLING_PLANT` names a bug that some of these tests have to find.
#![allow(missing_docs)]

extern crate starling_crdt as crdt;

mod counters;
mod forgetting;
mod laws;
mod model;
mod orswot;
mod repair;
mod sessions;
mod support;
