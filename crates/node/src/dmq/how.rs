//! How news of a server come, and so what they are worth. Invariant: nothing counts as said later than it came.

use crdt::{StampRule, Wall};

use super::peer::LIVELY_MS;

/// How a statement of a server reached us, which decides how it is stamped (docs/rules.md 14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// Just now.
    Live,
    /// In a dump: old news.
    Dump,
    /// Live, but held until now: here for the owner, and it arrived then; or on its way, and it was said then or later.
    Held(Wall),
}

impl How {
    /// The stamp of what does not say itself when it was written.
    pub(super) fn stamp(self) -> StampRule {
        match self {
            Self::Held(then) => StampRule::At(then),
            Self::Live | Self::Dump => StampRule::Now,
        }
    }

    /// Whether a dump that is asked for now may be older: a server replicates a write before it applies it.
    pub(super) fn is_news(self, now: Wall) -> bool {
        match self {
            Self::Live => true,
            Self::Dump => false,
            Self::Held(since) => now.0.saturating_sub(since.0) < LIVELY_MS,
        }
    }

    /// The same for what says itself when that was, unix milliseconds.
    pub(super) fn said_at(self, stamp: Option<u64>, now: Wall) -> Self {
        match (self, stamp) {
            (Self::Held(since), Some(ms)) => Self::Held(Wall(ms.max(since.0).min(now.0))),
            (how, _) => how,
        }
    }
}
