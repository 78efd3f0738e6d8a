//! What a node does for its servers, in virtual time.

mod counters;
mod durability;
mod registrations;
mod repair;
mod scripted;
mod tables;
mod world;
