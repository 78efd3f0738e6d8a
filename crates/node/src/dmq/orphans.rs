//! What a server holds and nobody else knows any more.
//!
//! A node that was away for longer than it was waited for, or that the others had not met, is told by a full session (docs/rules.md
//! R6) what they have removed and forgotten meanwhile, and drops it. Its server was away with it and was told nothing. Invariant: what is
//! dropped here while a server holds it becomes a tombstone, until that server has been told.

use crdt::{CellRef, Change, Forget, Outcome, Rules, StampRule, Wall, Write};

use super::Dmq;
use super::book::Entry;
use super::peer::PeerId;
use super::usrloc_in::contact_of;
use crate::cx::Cx;

impl Dmq {
    /// A session showed that the others have removed and forgotten what this node and some of its servers still held: the
    /// servers have to be told, or their next dump would bring it back as news.
    pub(super) fn bury(&mut self, change: &Change, orphans: Vec<(PeerId, Entry)>, cx: &mut Cx<'_>) {
        let Some(old) = change.old.as_deref().and_then(|old| CellRef::decode(old).ok()) else { return };
        let tombstone = Write {
            table: old.table,
            key: old.key,
            member: old.member,
            rank: 0,
            // It is no removal of now: what was written since wins.
            stamp: StampRule::Above(old.order.stamp),
            deadline: None,
            body: None,
            via: 0,
            birth: None,
        };
        let Ok(Outcome::Written(slot, _)) = cx.replica.write(cx.now.wall, tombstone) else { return };
        let ruid = contact_of(&old).map(|(_, contact)| contact.ruid.to_vec().into_boxed_slice());
        for (id, mut entry) in orphans {
            entry.ruid = entry.ruid.or_else(|| ruid.clone());
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.book.restore(slot, entry);
                peer.feed.enqueue(slot);
            }
        }
    }
}

/// Whether a server that still has it has to be told: what was forgotten would still be shown, or is a removal that others need not
/// keep for a server that they do not know.
pub(super) fn matters(change: &Change, rules: &Rules, now: Wall) -> bool {
    let old = change.old.as_deref().and_then(|old| CellRef::decode(old).ok());
    let removal = |old: &CellRef<'_>| old.body.is_none() && rules.of(old.table).forget == Forget::Stable;
    old.is_some_and(|old| old.order.rank == 0 && (old.is_live(now) || removal(&old)))
}
