//! What a node that has just started can tell only when it has what the other nodes have: which of a server's entries are news,
//! and what of its counters is known elsewhere. Invariant: see [`super::counters`] and [`super::htable_in`].

use super::{Dmq, counters};
use crate::cx::Cx;

impl Dmq {
    /// This node has got what the other nodes have, or there are none.
    pub(crate) fn join(&mut self) {
        if std::mem::replace(&mut self.joined, true) {
            return;
        }
        self.quiet = None;
        for peer in self.peers.values_mut() {
            peer.joined = true;
            // Entries that nobody here knew were passed over.
            if peer.pull.has_finished() || peer.pull.is_open() {
                peer.missed();
            }
        }
    }

    /// This node has what the others have of counters: what servers say of them from now on it can tell from that.
    pub(crate) fn know_counters(&mut self) {
        if !std::mem::replace(&mut self.counters_known, true) {
            self.peers.values_mut().for_each(|peer| peer.counters.know_others());
        }
    }

    /// What servers had of counters before that is compared with what the others know.
    pub(crate) fn settle_counters(&mut self, cx: &mut Cx<'_>) {
        if counters::settle_unknown(&mut self.peers, cx) {
            self.quiet = None;
        }
    }
}
