//! What Starling replicates, as rows of cells: registrations, hash tables and dialogs.
//!
//! A table kind says three things: what the key and the member of a cell are, how its value is
//! written into the cell's body, and by which rule its dead cells are forgotten. It knows nothing
//! of how a server tells it (that is `kdmq`) and nothing of merging (that is `crdt`).
//!
//! **Invariant.** A body is a pure function of the row: equal rows give equal bytes, so that equal
//! state is equal byte for byte. Text is bytes and never re-encoded; what a device sent as latin-1
//! stays latin-1.

mod codec;
pub mod dialog;
pub mod htable;
mod kinds;
pub mod location;

pub use codec::RowError;
pub use kinds::{Forgetting, TABLES, TableKind, kind_of};
