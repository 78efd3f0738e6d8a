//! How Kamailio says it: the bodies of DMQ messages, one module per channel.
//!
//! A DMQ message is a SIP request with method `KDMQ` whose R-URI user names a *channel*. This crate
//! turns such bodies into typed actions and back. It leaves to others: the SIP envelope (`sip`),
//! which peer gets what and when (`node`), and what an action does to our state (`node`, `crdt`).
//!
//! **Lenient on input**: what real servers send, whatever its form, decodes to its meaning; what
//! cannot be understood is a [`DecodeError`] with the SIP status that a Kamailio would answer. No
//! input panics or allocates more than a small multiple of its own size.
//!
//! **Strict on output**: bytes that are known to hurt a server are never made, whatever our own
//! state contains; the encoders return an [`EncodeError`] instead. `cells` of the hash table channel
//! has no encoder at all: servers apply it without a lock, and die of it.

mod channel;
mod error;
mod fields;
mod generation;
pub mod htable;
mod json;
pub mod life;
pub mod notification;
pub mod usrloc;

pub use channel::{CHANNELS, Channel, ChannelKind};
pub use error::{DecodeError, EncodeError};
pub use generation::Generation;

/// Longest body that the encoders make, bytes. Kamailio 5.8 and later silently drop every message
/// of 32,767 bytes or more, SIP headers included; these leave room for ours.
pub const MAX_BODY: usize = 32_000;
