//! Values that entries had in the mesh lately, and that another node may have told a server which this one speaks for now.
//!
//! What a server was told by this node its book and its feed know. What another node told it is not known here, and may wait in a
//! server that stands still for as long as it does: then it sets that when it goes on, with a new life. So for a server that several
//! nodes hear it is kept which values the mesh has gone on from. It leaves to `htable_in` what follows from that. Invariant: a value
//! counts only while another node's word may still be on its way.

use std::collections::VecDeque;

use crdt::{Slot, SlotMap};

use super::owner::Standing;
use crate::io::Mono;

/// So long a value counts after the mesh has gone on from it, and after another node has spoken for the server, milliseconds: a
/// process that stands still for longer is mostly killed.
const FORMER_MS: u64 = 180_000;

/// Values kept for a server at most; beyond that the oldest go.
const FORMER_MAX: usize = 20_000;

/// What another node may have told a server.
#[derive(Debug, Default)]
pub(crate) struct Former {
    /// When another node was last seen to hear or to keep the server.
    shared: Option<Mono>,
    /// When another node last spoke for it, or kept it, as far as is known here.
    spoken: Option<Mono>,
    values: SlotMap<VecDeque<(u64, Mono)>>,
    /// The entries in the order in which they were left.
    order: VecDeque<(Mono, Slot)>,
}

impl Former {
    /// How the other nodes stand to the server now; `None`: one that is not linked, which may do anything.
    pub(super) fn look(&mut self, others: impl Iterator<Item = Option<Standing>>, now: Mono) {
        for theirs in others {
            self.shared = Some(now);
            if theirs.is_none_or(|theirs| theirs.speaks() || theirs == Standing::Keeps) {
                self.spoken = Some(now);
            }
        }
    }

    /// Whether another node has heard the server lately, so that it matters what the mesh goes on from.
    pub(super) fn is_shared(&self, now: Mono) -> bool {
        self.shared.is_some_and(|at| !is_over(at, now))
    }

    /// The mesh has gone on from a value.
    pub(super) fn left(&mut self, slot: Slot, value: u64, now: Mono) {
        while self.order.front().is_some_and(|(at, _)| self.order.len() >= FORMER_MAX || is_over(*at, now)) {
            if let Some((at, oldest)) = self.order.pop_front() {
                self.drop_until(oldest, at);
            }
        }
        if !self.is_shared(now) {
            return;
        }
        if self.values.get(slot).is_none() {
            self.values.insert(slot, VecDeque::new());
        }
        let Some(values) = self.values.get_mut(slot) else { return };
        values.push_back((value, now));
        self.order.push_back((now, slot));
    }

    fn drop_until(&mut self, slot: Slot, until: Mono) {
        let Some(values) = self.values.get_mut(slot) else { return };
        while values.front().is_some_and(|(_, at)| *at <= until) {
            values.pop_front();
        }
        if values.is_empty() {
            self.values.remove(slot);
        }
    }

    /// Whether another node may have told the server this value of an entry, so that it is no word of its own.
    pub(super) fn had(&self, slot: Slot, value: u64, now: Mono) -> bool {
        let lately = |at: Mono| !is_over(at, now);
        let values = || self.values.get(slot).into_iter().flatten();
        self.spoken.is_some_and(lately) && values().any(|(had, at)| *had == value && lately(*at))
    }

    /// The cell is held no more.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.values.remove(slot);
    }

    /// The server restarted: nothing that it was told before is on its way.
    pub(super) fn restarted(&mut self) {
        self.spoken = None;
    }
}

fn is_over(at: Mono, now: Mono) -> bool {
    now.ms_since(at) > FORMER_MS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dmq::book::tests::slot;

    fn at(ms: u64) -> Mono {
        Mono(ms * 1_000)
    }

    #[test]
    fn a_value_counts_where_another_node_spoke_for_the_server_and_nowhere_else() {
        let linked = |theirs| vec![Some(theirs)];
        for (theirs, counts) in [
            (Vec::new(), false),
            (linked(Standing::Hears), false),
            (linked(Standing::Keeps), true),
            (linked(Standing::Speaks), true),
            (vec![None], true),
        ] {
            let mut former = Former::default();
            former.look(theirs.iter().copied(), at(0));
            former.left(slot(), 1, at(10));
            assert_eq!(former.had(slot(), 1, at(20)), counts, "{theirs:?}");
            assert!(!former.had(slot(), 2, at(20)));
        }
    }

    #[test]
    fn a_value_counts_for_a_while_and_not_behind_a_restart() {
        let mut former = Former::default();
        former.look([Some(Standing::Speaks)].into_iter(), at(0));
        former.left(slot(), 1, at(0));
        assert!(former.had(slot(), 1, at(FORMER_MS)) && !former.had(slot(), 1, at(FORMER_MS + 1)));
        former.restarted();
        assert!(!former.had(slot(), 1, at(1)));
    }

    #[test]
    fn no_more_values_are_kept_than_there_may_be_and_the_oldest_go() {
        let slot = slot();
        let mut former = Former::default();
        former.look([Some(Standing::Speaks)].into_iter(), at(0));
        for value in 0..FORMER_MAX as u64 + 5 {
            former.left(slot, value, at(value / 1_000));
        }
        assert_eq!(former.order.len(), FORMER_MAX);
        assert!(!former.had(slot, 0, at(20)) && former.had(slot, FORMER_MAX as u64, at(20)));
        former.look([Some(Standing::Speaks)].into_iter(), at(FORMER_MS + 21));
        former.left(slot, 1, at(FORMER_MS + 21));
        assert_eq!(former.order.len(), 1, "what is over is dropped");
    }
}
