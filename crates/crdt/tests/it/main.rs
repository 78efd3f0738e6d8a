//! The replica as a whole: laws, sessions, forgetting, counters, repair, and random runs against the rules.
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
