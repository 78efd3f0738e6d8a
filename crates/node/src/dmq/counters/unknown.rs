//! Counters of a server of which nothing is known: what of their values is counted already?
//!
//! A node that has what the other nodes have can say: what the mesh has of it. One that has just started without a past and has
//! met nobody cannot; until it has, such a value is kept beside the counter. Invariant: nothing of what is unknown is told, saved
//! or counted before that.

use std::collections::BTreeMap;

use crdt::counter;

use super::{How, Key, VALUE_MAX, deadline, value};
use crate::cx::Cx;
use crate::dmq::peer::{Peer, PeerId};

/// What of a value is counted already, of a server of which nothing was known about this key; and whether that is a guess.
/// `shown`: but that a dump, perhaps an old one, has shown the key.
pub(super) fn first_base(
    peer: &mut Peer,
    at: (&str, &[u8]),
    (said, shown): (i64, bool),
    how: How,
    cx: &Cx<'_>,
) -> (i64, bool) {
    // What it has after a restart that happened here was told by nodes that are known, or counted since.
    if !peer.counters.others_known && !peer.comeback.has_restarted() {
        let before = said - i64::from(how != How::Dump);
        peer.counters.unknown.insert((at.0.to_owned(), at.1.to_vec()), before);
        return (before, how != How::Dump);
    }
    match value(cx.replica, at, cx.now.wall) {
        // Its dump would have shown the key, so it has none of the sum.
        Some(_) if how != How::Dump && !peer.gap && !shown => (0, false),
        // It may have counted before we listened: what it has more than the mesh is its own, and a live message says
        // that it has just counted.
        Some(sum) => (sum.min(said - i64::from(how != How::Dump)), true),
        None => (0, false),
    }
}

/// This node has got what the others have, for the first time since its start. Of what its servers had of counters before that,
/// whatever is more than the others know was counted there and by nobody else. Says whether there was anything.
pub(crate) fn settle_unknown(peers: &mut BTreeMap<PeerId, Peer>, cx: &mut Cx<'_>) -> bool {
    // Two servers of ours had the same sum, or parts of it.
    let mut known: BTreeMap<Key, Option<i64>> = BTreeMap::new();
    for peer in peers.values_mut() {
        for (key, before) in std::mem::take(&mut peer.counters.unknown) {
            let at = (&*key.0, &*key.1);
            let others = counter::value_of_others(cx.replica, at.0, at.1, cx.now.wall);
            let known = known.entry(key.clone()).or_insert(others.map(|sum| sum.clamp(-VALUE_MAX, VALUE_MAX)));
            let more = before - known.unwrap_or(0).min(before);
            if more != 0 || known.is_none() {
                *known = Some(known.unwrap_or(0) + more);
                let deadline = deadline(at.0, cx.config, cx.now.wall);
                if counter::add(cx.replica, cx.now.wall, at, more, deadline, peer.tag).is_err() {
                    cx.stats.dmq_rows_refused += 1;
                }
            }
            peer.counters.touch(key);
        }
    }
    !known.is_empty()
}
