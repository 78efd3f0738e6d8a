//! The total order of all versions ever written: the only thing a merge looks at.

use serde::{Deserialize, Serialize};

use crate::hlc::Stamp;
use crate::ids::Dot;

/// What outweighs time: a dialog's state, a counter's epoch. 0 where tables have no ranks.
pub type Rank = u128;

/// The order of a version, compared field by field from the top (R4). The dot is part of it and is never issued twice,
/// so no two versions are equal in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Order {
    /// Outweighs time.
    pub rank: Rank,
    /// When and where it was written.
    pub stamp: Stamp,
    /// Whether the version is a tombstone: of two versions with one stamp, the removal wins.
    pub removed: bool,
    /// Names the write.
    pub dot: Dot,
}
