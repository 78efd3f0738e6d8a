//! The sans-IO node: membership, anti-entropy, the SIP front end and KDMQ peers.
//!
//! [`Node`] takes [`Input`]s and gives [`Output`]s; it has no socket, clock, randomness, thread or file.

pub mod command;
pub mod config;
pub mod io;
mod node;
pub mod view;

pub use command::{Command, CommandError, CommandOk, Event, EventKind, NewContact, Pattern, Value};
pub use config::Config;
pub use io::*;
pub use node::Node;
