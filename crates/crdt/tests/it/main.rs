//! The replica as a whole: laws, sessions, forgetting, counters, repair, and random runs against the rules.
#![allow(missing_docs)]

extern crate starling_crdt as crdt;

mod model;
mod support;
