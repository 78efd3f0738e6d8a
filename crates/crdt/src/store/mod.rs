//! The memory layout: one blob per cell (its canonical bytes), a slot entry of 32 bytes, and three indices over slots:
//! by key ([`slots`]), by dot ([`dots`]), by the second in which something is due ([`ring`]). Sums for digests are kept
//! beside them ([`sums`]); notes of others about many cells have a map of their own ([`slot_map`]). Nothing here knows a rule of convergence.

pub(crate) mod dots;
pub(crate) mod ring;
pub(crate) mod slot_map;
pub(crate) mod slots;
pub(crate) mod sums;
