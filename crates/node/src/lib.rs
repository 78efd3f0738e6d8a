//! The sans-IO node: membership, anti-entropy, the SIP front end and KDMQ peers.
//!
//! [`Node`] takes [`Input`]s and gives [`Output`]s; it has no socket, clock, randomness, thread or file.
//!
//! R1 to R9 in comments are the rules of docs/rules.md.

pub mod command;
pub mod config;
mod cx;
mod dmq;
mod execute;
mod front;
pub mod io;
mod journal;
mod mesh;
mod node;
mod query;
pub mod view;

pub use command::{
    Command, CommandError, CommandOk, DialogId, DialogState, DialogUpdate, Event, EventKind, NewContact, Pattern, Value,
};
pub use config::Config;
pub use crdt::{NodeId, Origin, Wall};
pub use io::*;
pub use node::Node;
