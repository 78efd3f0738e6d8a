//! What a node does for its servers, in virtual time.

mod counters;
mod registrations;
mod repair;
mod tables;
mod world;
