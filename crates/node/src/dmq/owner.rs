//! Who speaks and listens for a server that several nodes see (docs/rules.md 12).
//!
//! The nodes that see the server and are linked with this one are the candidates. Whoever speaks for it goes on to while it hears
//! it; among those with the same [`Standing`] a rendezvous hash picks the same one at each of them. The others answer 200 and hold
//! what they heard for as long as a fail-over takes; whoever takes over applies what the owner had not passed on, then pulls.
//! In a split each side has its owner: ownership saves work, it does not exclude (`strangers`).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use crdt::planted::{self, Bug};
use crdt::{NodeId, Wall};
use serde::{Deserialize, Serialize};

use super::peer::{Peer, PeerId, Phase};
use super::strangers::YIELD_MS;
use super::{DataChannel, Dmq, How, requests};
use crate::config::SipTransport;
use crate::cx::Cx;
use crate::io::{Level, Mono};

/// How long a message is held for the owner's fail-over, milliseconds: more than a dead link needs
/// to be noticed.
pub(crate) const HOLD_MS: u64 = 15_000;

/// Messages held per server at most; beyond that the oldest go, and the pull at take-over has to do.
const HOLD_MAX: usize = 20_000;

/// How a node stands to a server that it hears. The greater one has the better claim to speak for it: each change of the owner costs
/// a dump, and what a server says to one that hears it anew may be a repetition, which only who has heard it all the time can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Standing {
    /// It only hears it, for the first time, or again, since a moment.
    Hears,
    /// It spoke for it, and knows what it was told, but hears it no more.
    Keeps,
    /// It only hears it, and not just since a moment.
    HearsStill,
    /// It speaks for it, and hears it for the first time, or again, since a moment.
    SpeaksAnew,
    /// It only hears it, but has done so for a while.
    HearsLong,
    /// It speaks for it.
    Speaks,
    /// It speaks for it, has had a whole dump of it since anything may have been lost, and has told it then what it lacked. That
    /// comes and goes, so it is no better claim: two nodes that see it at different times would both give way.
    Settled,
}

impl Standing {
    /// Whether the node speaks for the server.
    pub(super) const fn speaks(self) -> bool {
        matches!(self, Self::SpeaksAnew | Self::Speaks | Self::Settled)
    }
}

/// A node that does not speak for a server has heard it for a while after this, milliseconds. Where all have just heard it for the
/// first time that is longer than they are apart, so the first owner stays.
const LONG_MS: u64 = 10_000;

/// Whether `me` is the owner among the nodes that see the server.
fn is_owner(me: (NodeId, Standing), others: &[(NodeId, Standing)], uri: &str) -> bool {
    let weight = |(node, standing): (NodeId, Standing)| {
        let mut text = node.0.to_be_bytes().to_vec();
        text.extend_from_slice(uri.as_bytes());
        (standing.min(Standing::Speaks), super::book::fingerprint(&text), node)
    };
    let mine = weight(me);
    others.iter().all(|other| weight(*other) <= mine)
}

impl Dmq {
    /// Takes in what servers said before this node attended to them, of those for which it spoke in its last life already.
    pub(crate) fn take_held(&mut self, cx: &mut Cx<'_>) {
        self.quiet = None;
        for peer in self.peers.values_mut().filter(|p| p.owned) {
            peer.counters.verify(cx.replica);
            let held = self.holding.take(peer.id, cx.now.mono);
            requests::replay(peer, held, &mut self.facts, cx);
        }
    }

    /// Puts right who owns which server. `others` tells which linked nodes see a server, and how they stand to it.
    pub(crate) fn settle_owners(
        &mut self,
        me: NodeId,
        others: &dyn Fn(&str) -> Vec<(NodeId, Standing)>,
        cx: &mut Cx<'_>,
    ) {
        for peer in self.peers.values_mut() {
            let yielded = peer.strangers.are_yielded_to();
            if yielded {
                self.quiet = None;
            }
            let (before, unspoken) = (peer.standing, peer.unspoken);
            peer.settle_strangers(&self.unlinked, cx.config, cx.now.mono);
            let mut others = others(&peer.uri);
            let unlinked = peer.strangers.any().then_some(None);
            peer.former.look(others.iter().map(|(_, theirs)| Some(*theirs)).chain(unlinked), cx.now.mono);
            let mine = peer.is_ours(me, &others, cx.now.mono);
            if peer.unspoken != unspoken {
                self.quiet = None;
            }
            others.retain(|(_, theirs)| *theirs != Standing::Keeps);
            // Another node that speaks for it in its own part of a split has told it what had won there.
            peer.settled = mine && !peer.gap && !peer.ask_first && (peer.settled || peer.feed.is_idle());
            peer.standing = peer.standing_if(mine, cx.now.mono);
            self.notes_changed |= before != peer.standing;
            let shared = others.iter().any(|(node, _)| !peer.shared.contains(node));
            let theirs = others.iter().map(|(_, theirs)| *theirs).max();
            peer.shared = others.into_iter().map(|(node, _)| node).collect();
            let theirs = theirs.filter(|_| !mine);
            peer.strangers.tended(theirs, cx.config.timing, cx.now);
            if mine && shared {
                self.quiet = None;
                peer.doubts.doubt_all(cx.now.mono);
                // What its next dump shows may be that node's word, and no later than its own.
                peer.forget_repeated();
            }
            if mine == peer.owned {
                if mine && yielded && !peer.strangers.are_yielded_to() {
                    // Of contacts it has said when that was; what entries have become its dump shows.
                    let mut held = self.holding.take(peer.id, cx.now.mono);
                    held.retain(|message| matches!(message.channel, DataChannel::Usrloc));
                    requests::replay(peer, held, &mut self.facts, cx);
                }
                continue;
            }
            self.quiet = None;
            peer.owned = mine;
            peer.hand_over(cx.replica);
            if mine {
                let mut held = self.holding.take(peer.id, cx.now.mono);
                if planted::on(Bug::HeldMessagesDropped) {
                    held.clear();
                }
                requests::replay(peer, held, &mut self.facts, cx);
            }
            let whose = if mine { "this node now speaks for it" } else { "another node speaks for it" };
            let text = format!("server {}: {whose}", peer.uri);
            cx.log(Level::Info, text);
        }
    }

    /// Keeps a message that the owner should have got as well; `said`: when what it tells happened, at the latest. What a server
    /// repeats after a silence, or what was held up, is none: the owner may have had it long ago, and in another order.
    pub(super) fn hold(
        &mut self,
        (id, live): (PeerId, How),
        channel: DataChannel,
        body: &[u8],
        said: Wall,
        cx: &Cx<'_>,
    ) {
        let repeats = |peer: &Peer| match peer.address.transport {
            SipTransport::Udp => peer.comeback.look_at.is_some(),
            SipTransport::Tcp => live != How::Live,
        };
        // What is kept of a server that is ours is for the moment when it is no longer left to a stranger; contacts tell their time.
        let yielded = |peer: &Peer| peer.owned && matches!(channel, DataChannel::Usrloc);
        if self.attending && self.peers.get(&id).is_some_and(|peer| repeats(peer) && !yielded(peer)) {
            return;
        }
        let body = Bytes::copy_from_slice(body);
        self.holding.hold(id, cx.now.mono, said, channel, body);
    }
}

impl Peer {
    /// Whether this node speaks for it from now on.
    fn is_ours(&mut self, me: NodeId, others: &[(NodeId, Standing)], now: Mono) -> bool {
        let spoken = others.iter().any(|(_, theirs)| theirs.speaks());
        if spoken {
            self.unspoken = None;
        } else if self.unspoken.is_none() {
            self.unspoken = Some(now);
            self.ping_now(now);
        }
        let standing = self.standing_if(self.owned, now);
        let wins = is_owner((me, standing), others, &self.uri);
        match self.phase {
            // Whoever spoke for it may have found it silent, and so may we in a moment. Then what it was told waits with it, and only
            // that node knows what that is.
            Phase::Active => wins && (self.owned || self.heard >= self.unspoken),
            // It was ours before a restart, and will be when it is heard: what is known of it is not given up in between.
            Phase::New => self.owned && wins,
            // A server that is silent here stays ours, with all that is known of it, until another node speaks for it: somebody has to
            // keep the removals that it has to be told (R7).
            Phase::Silent | Phase::Left => self.owned && !spoken,
        }
    }

    /// How this node stands to it if it speaks for it, or not.
    fn standing_if(&self, speaks: bool, now: Mono) -> Standing {
        let heard = |ms| self.phase == Phase::Active && self.strangers.is_heard_for(ms, now);
        match speaks {
            true if self.phase != Phase::Active => Standing::Keeps,
            true if heard(YIELD_MS) && self.settled => Standing::Settled,
            true if heard(YIELD_MS) => Standing::Speaks,
            true => Standing::SpeaksAnew,
            false if heard(LONG_MS) => Standing::HearsLong,
            false if heard(YIELD_MS) => Standing::HearsStill,
            false => Standing::Hears,
        }
    }
}

/// A message that the owner should have got as well.
#[derive(Debug)]
pub(crate) struct HeldMessage {
    /// When it came, for forgetting it.
    at: Mono,
    /// When it came, or was said if that is known to be earlier, for its stamp.
    pub(crate) arrival: Wall,
    /// Its channel.
    pub(crate) channel: DataChannel,
    /// Its body.
    pub(crate) body: Bytes,
    /// Whether the server has restarted since, and so has nothing of it.
    pub(crate) past: bool,
}

/// What is held, by server.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    messages: BTreeMap<PeerId, VecDeque<HeldMessage>>,
}

impl Holding {
    /// Holds a message.
    pub(crate) fn hold(&mut self, peer: PeerId, at: Mono, arrival: Wall, channel: DataChannel, body: Bytes) {
        let queue = self.messages.entry(peer).or_default();
        while queue.len() >= HOLD_MAX || queue.front().is_some_and(|m| at.ms_since(m.at) > HOLD_MS) {
            queue.pop_front();
        }
        queue.push_back(HeldMessage { at, arrival, channel, body, past: false });
    }

    /// The server has restarted.
    pub(crate) fn restarted(&mut self, peer: PeerId) {
        self.messages.get_mut(&peer).into_iter().flatten().for_each(|message| message.past = true);
    }

    /// Everything that is still within the fail-over time, oldest first.
    pub(crate) fn take(&mut self, peer: PeerId, now: Mono) -> Vec<HeldMessage> {
        let queue = self.messages.remove(&peer).unwrap_or_default();
        queue.into_iter().filter(|m| now.ms_since(m.at) <= HOLD_MS).collect()
    }

    /// Messages held for all servers.
    pub(crate) fn len(&self) -> usize {
        self.messages.values().map(VecDeque::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(nodes: &[(NodeId, Standing)], uri: &str) -> Vec<NodeId> {
        let owns = |me: &&(NodeId, Standing)| {
            let others: Vec<_> = nodes.iter().copied().filter(|(node, _)| *node != me.0).collect();
            is_owner(**me, &others, uri)
        };
        nodes.iter().filter(owns).map(|(node, _)| *node).collect()
    }

    #[test]
    fn who_speaks_for_a_server_goes_on_and_who_hears_it_anew_comes_after_who_hears_it_for_long() {
        use Standing::{Hears, HearsLong, HearsStill, Keeps, Settled, Speaks, SpeaksAnew};
        for server in 0..50 {
            let uri = format!("sip:10.0.0.{server}:5060");
            let order = [Speaks, HearsLong, SpeaksAnew, HearsStill, Keeps, Hears];
            let pairs = order.iter().zip(&order[1..]).chain([(&Settled, &HearsLong)]);
            for (&first, &then) in pairs {
                assert_eq!(owners(&[(NodeId(1), first), (NodeId(2), then)], &uri), [NodeId(1)], "{first:?} {then:?}");
                assert_eq!(owners(&[(NodeId(1), then), (NodeId(2), first)], &uri), [NodeId(2)], "{first:?} {then:?}");
            }
        }
    }

    #[test]
    fn exactly_one_of_the_nodes_that_see_a_server_owns_it() {
        let nodes: Vec<NodeId> = (1..=7).map(|n| NodeId(n * 0x1234_5678_9abc)).collect();
        for server in 0..50 {
            let uri = format!("sip:10.0.0.{server}:5060");
            for equal in [[Standing::Hears; 2], [Standing::Speaks, Standing::Settled]] {
                let standings = nodes.iter().copied().zip(equal.into_iter().cycle());
                assert_eq!(owners(&standings.collect::<Vec<_>>(), &uri).len(), 1, "{uri} {equal:?}");
            }
        }
    }

    #[test]
    fn a_held_message_is_dropped_after_the_fail_over_time() {
        let mut holding = Holding::default();
        let peer = PeerId(1);
        for (ms, body) in [(0u64, "old"), (20_000, "new")] {
            let at = Mono(ms * 1_000);
            holding.hold(peer, at, Wall(ms), DataChannel::Usrloc, Bytes::from_static(body.as_bytes()));
        }
        let held = holding.take(peer, Mono(21_000_000));
        assert_eq!(held.iter().map(|m| &m.body[..]).collect::<Vec<_>>(), [b"new"]);
        assert_eq!(holding.len(), 0);
    }

    #[test]
    fn what_a_server_said_before_its_restart_is_held_as_past() {
        let mut holding = Holding::default();
        let hold = |holding: &mut Holding, peer| {
            holding.hold(PeerId(peer), Mono(0), Wall(0), DataChannel::Usrloc, Bytes::new());
        };
        hold(&mut holding, 1);
        hold(&mut holding, 2);
        holding.restarted(PeerId(1));
        hold(&mut holding, 1);
        let mut past = |peer| holding.take(PeerId(peer), Mono(0)).iter().map(|m| m.past).collect::<Vec<_>>();
        assert_eq!((past(1), past(2)), (vec![true, false], vec![false]));
    }
}
