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

    /// What servers had of counters until now is compared with what the others know: this node has that.
    pub(crate) fn settle_counters(&mut self, cx: &mut Cx<'_>) {
        self.counters_known = true;
        self.peers.values_mut().for_each(|peer| peer.counters.know_others());
        if counters::settle_unknown(&mut self.peers, cx) {
            self.quiet = None;
        }
    }
}
