//! The shell around the node: sockets, QUIC, HTTP, clock, entropy and disk.
//!
//! The node (see the `node` crate) decides everything and touches nothing. Here is what it cannot have:
//!
//! * one thread owns the node and hands it one input at a time (`core`), from one queue (`inbox`);
//! * links to other nodes are QUIC connections (`links`, `tls`, `certs`), SIP is UDP and TCP (`sip`);
//! * batches go to an embedded store in the data directory (`disk`, `identity`);
//! * people and tools ask over HTTP (`http`, in the shapes of the `admin` crate);
//! * the node's time is read in `clock` and all randomness drawn in `entropy`, nowhere else.
//!
//! Entry points: [`Settings`] reads a configuration, [`Plan`] checks it, [`run`] runs it.
//!
//! **Invariant.** After each input the node's outputs are drained before the next one; nothing else touches the node.

pub mod config;
mod start;

mod banner;
mod clock;
mod core;
mod entropy;
mod inbox;

pub mod certs;
mod tls;

mod disk;
mod http;
mod identity;
mod links;
mod sip;
mod utc;

pub use config::{ConfigError, Plan, Settings};
pub use disk::{Disk, DiskError, FjallDisk};
pub use identity::DataError;
pub use start::{RunError, run};
pub use tls::TlsError;
