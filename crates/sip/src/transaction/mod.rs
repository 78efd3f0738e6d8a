//! Non-INVITE transactions (RFC 3261 section 17): requests that are repeated until answered, and
//! answers that are repeated instead of a second execution.
//!
//! Neither side owns a clock or a socket: times come in as milliseconds of any clock that never
//! goes back, and what is to be sent comes out.

mod client;
mod server;

pub use client::{Action, ClientTransactions, Outgoing, Refused, branch, token_of};
pub use server::{Key, Seen, ServerTransactions};

/// Round-trip time estimate, milliseconds (RFC 3261 section 17.1.1.1).
pub const T1: u64 = 500;

/// The longest interval between retransmissions, milliseconds (section 17.1.2.2).
pub const T2: u64 = 4_000;

/// How long a message may stay in the network, milliseconds (section 17.1.2.2).
pub const T4: u64 = 5_000;

/// How long a client waits for a final response, timer F, milliseconds (section 17.1.2.2).
pub const TIMER_F: u64 = 64 * T1;

/// How long a server keeps an answer for retransmissions over an unreliable transport, timer J,
/// milliseconds (section 17.2.2). Over a reliable one it keeps none.
pub const TIMER_J: u64 = 64 * T1;
