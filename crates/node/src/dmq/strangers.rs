//! Nodes that may speak for a server as well, though this one is not linked with them (docs/rules.md 12).
//!
//! A server tells each of its peers all; by its own list of them it is known which nodes these are. Of a linked node the mesh tells
//! what it passes on; of one that is not linked nothing is known but that it may have told the server anything. This module only
//! remembers that; what follows from it is decided where words are taken in and told. Invariant: with no such node nothing is left
//! to anybody.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crdt::{Stamp, Wall};

use super::book::fingerprint;
use super::owner::Standing;
use super::peer::{Address, Peer};
use crate::config::{Config, SipTransport, Timing};
use crate::io::{Mono, Now};

/// How long a node leaves a server that it hears for the first time, or again, to another node, milliseconds: more than a link needs to come back once
/// a split is over.
pub(super) const YIELD_MS: u64 = 3_000;

/// A node that speaks for a server has told it what is older than this, milliseconds: more than a link that brings nothing any
/// more takes to end.
const fn told_within_ms(timing: Timing) -> u64 {
    match timing {
        Timing::Lan => 10_000,
        Timing::Wan => 20_000,
    }
}

/// What a server lacks is left to strangers for so long after a linked node has told it, milliseconds. A server over TCP lists a node
/// that is gone for good for ever, and nobody can tell that from one in another part of a split.
const LEFT_MS: u64 = 300_000;

/// Who else may speak for one server.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    /// Where the server tells all to nodes that this one is not linked with.
    listed: BTreeSet<SocketAddr>,
    /// Those that it told no longer in the meantime, so they did not answer it. Servers learn of a node that is gone for good from
    /// each other again and again; were it taken for a stranger each time, nobody would be sure of the server any more.
    dropped: BTreeSet<SocketAddr>,
    /// Whether one of them comes before this node in counting.
    counting: bool,
    /// Up to what stamp a linked node has told it everything, in this life of it.
    tended: Option<Wall>,
    /// Until when what it lacks of that is left to them.
    left_until: Option<Mono>,
    /// Since when the server has been heard all the time.
    heard_since: Option<Mono>,
    /// Until when the server is left to them altogether.
    yields_until: Option<Mono>,
}

/// What a look at who is linked has changed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Turned {
    /// Another one counts now.
    counting: bool,
    /// Nothing is left to any of them any more.
    over: bool,
}

impl Strangers {
    /// Whether there are any.
    pub(crate) fn any(&self) -> bool {
        !self.listed.is_empty()
    }

    /// Whether these are all of so many peers that the server lists, so no server is among them.
    pub(crate) fn are_all(&self, peers: usize) -> bool {
        self.listed.len() == peers
    }

    /// Whether the server's counters are left to one of them: if both counted, each would take for the server's own what the other
    /// tells it.
    pub(crate) const fn are_counting(&self) -> bool {
        self.counting
    }

    /// Whether the server is left to them: it is heard here for the first time, or again. Most likely a split is just over, and another node
    /// has spoken for it all the time. What the server says here now may be what it repeats, and what we have to tell it may be
    /// older than what that node told it.
    pub(crate) fn are_yielded_to(&self) -> bool {
        self.any() && self.yields_until.is_some()
    }

    /// Whether the server has been heard all the time for as long.
    pub(crate) fn is_heard_for(&self, ms: u64, now: Mono) -> bool {
        self.heard_since.is_some_and(|since| now.ms_since(since) >= ms)
    }

    /// Whether the server was told a version by a linked node that spoke for it. If it shows something else now, or nothing, though
    /// it may have heard only from strangers since, then it or they have gone on from there.
    pub(crate) fn follow(&self, version: Stamp) -> bool {
        self.any() && self.tended.is_some_and(|tended| version.time.ms() < tended.0)
    }

    /// Whether they may have removed a version that the server lacks.
    pub(crate) fn may_have_removed(&self, version: Stamp) -> bool {
        self.left_until.is_some() && self.follow(version)
    }

    /// The server is heard for the first time, or again.
    const fn yield_to(&mut self, now: Mono) {
        self.heard_since = Some(now);
        self.yields_until = Some(now.plus_ms(YIELD_MS));
    }

    /// Whether a linked node speaks for the server just now, and how it stands to it.
    pub(crate) fn tended(&mut self, by: Option<Standing>, timing: Timing, now: Now) {
        if by == Some(Standing::Settled) {
            self.tended = Some(Wall(now.wall.0.saturating_sub(told_within_ms(timing))));
            self.left_until = Some(now.mono.plus_ms(LEFT_MS));
        }
    }

    /// The server restarted: it has nothing of what it was told.
    pub(crate) const fn restarted(&mut self) {
        (self.tended, self.left_until, self.yields_until) = (None, None, None);
    }

    /// `unlinked` are the nodes without a link now, of which the server tells some all (`listed`). `own` is where it hears this
    /// node. Of all of them one counts for the server `uri`, the same in the eyes of each.
    fn settle(
        &mut self,
        own: Option<SocketAddr>,
        unlinked: &[SocketAddr],
        listed: impl Fn(&SocketAddr) -> bool,
        uri: &str,
        now: Mono,
    ) -> Turned {
        let before = std::mem::take(&mut self.listed);
        self.dropped.retain(|addr| unlinked.contains(addr));
        for addr in unlinked {
            if !listed(addr) {
                if before.contains(addr) {
                    self.dropped.insert(*addr);
                }
            } else if !self.dropped.contains(addr) {
                self.listed.insert(*addr);
            }
        }
        let weight = |addr: SocketAddr| fingerprint(format!("{addr} {uri}").as_bytes());
        let own = own.map(weight);
        let counting = self.listed.iter().any(|stranger| own.is_none_or(|own| own <= weight(*stranger)));
        let counted = std::mem::replace(&mut self.counting, counting);
        self.yields_until = self.yields_until.filter(|until| now < *until);
        let late = self.left_until.take_if(|until| *until <= now).is_some() && self.any();
        let gone = !before.is_empty() && self.listed.is_empty();
        Turned { counting: counted != counting, over: gone || late }
    }
}

impl Peer {
    /// It is heard for the first time, or again after a silence. `unlinked`: the SIP addresses of nodes without a link.
    pub(super) fn is_heard(&mut self, unlinked: &[SocketAddr], config: &Config, now: Mono) {
        self.strangers.yield_to(now);
        self.settle_strangers(unlinked, config, now);
    }

    /// Sees who else may speak for it.
    pub(super) fn settle_strangers(&mut self, unlinked: &[SocketAddr], config: &Config, now: Mono) {
        let Self { strangers, lists, uri, socket, .. } = self;
        let own = config.sip.get(usize::from(socket.0)).map(|socket| socket.addr);
        let listed = |addr: &SocketAddr| {
            let at = |transport| lists.contains(&Address { addr: *addr, transport }.uri());
            at(SipTransport::Udp) || at(SipTransport::Tcp)
        };
        let turned = strangers.settle(own, unlinked, listed, uri, now);
        if turned.counting {
            // Whoever counted has counted on from something else.
            self.counters.reset();
        }
        if turned.over {
            // What it was not told because of them has to be told now, if they have not. Nothing that it said itself was lost.
            self.relied_in_vain();
        }
    }
}

#[cfg(test)]
mod tests {
    use crdt::{Hlc, NodeId};

    use super::*;

    const URI: &str = "sip:127.0.0.11:5060";
    const NOW: Mono = Mono(60_000_000);
    const SETTLED_AT_MS: u64 = 75_000;

    fn node(number: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, number], 5_070))
    }

    fn settle(strangers: &mut Strangers, theirs: &[u8], now: Mono) -> Turned {
        let theirs: Vec<SocketAddr> = theirs.iter().map(|number| node(*number)).collect();
        strangers.settle(Some(node(1)), &theirs, |_| true, URI, now)
    }

    #[test]
    fn a_server_that_is_heard_again_is_left_to_a_stranger_for_a_while_and_to_nobody_without_one() {
        for (theirs, yielded) in [(&[2][..], true), (&[], false)] {
            let mut strangers = Strangers::default();
            settle(&mut strangers, theirs, NOW);
            assert!(!strangers.are_yielded_to(), "it was heard all the time");
            strangers.yield_to(NOW);
            for (ms, over) in [(0, false), (YIELD_MS - 1, false), (YIELD_MS, true)] {
                settle(&mut strangers, theirs, NOW.plus_ms(ms));
                assert_eq!(strangers.are_yielded_to(), yielded && !over, "{theirs:?}, after {ms} ms");
            }
        }
    }

    #[test]
    fn a_stranger_that_becomes_linked_is_yielded_to_no_longer() {
        let mut strangers = Strangers::default();
        strangers.yield_to(NOW);
        settle(&mut strangers, &[2], NOW);
        assert!(strangers.are_yielded_to());
        assert!(settle(&mut strangers, &[], NOW).over);
        assert!(!strangers.are_yielded_to());
        assert_eq!(settle(&mut strangers, &[], NOW), Turned::default(), "once");
    }

    #[test]
    fn of_nodes_that_are_strangers_to_each_other_exactly_one_counts_for_a_server() {
        let nodes: Vec<SocketAddr> = (1..=5).map(node).collect();
        for server in 0..50 {
            let uri = format!("sip:10.0.1.{server}:5060");
            let counts = |own: &&SocketAddr| {
                let mut strangers = Strangers::default();
                let others: Vec<SocketAddr> = nodes.iter().copied().filter(|addr| addr != *own).collect();
                strangers.settle(Some(**own), &others, |_| true, &uri, NOW);
                !strangers.are_counting()
            };
            assert_eq!(nodes.iter().filter(counts).count(), 1, "{uri}");
        }
    }

    #[test]
    fn a_turn_in_counting_is_told_once_each_time() {
        let mut strangers = Strangers::default();
        let before = (2..=20).find(|number| settle(&mut Strangers::default(), &[*number], NOW).counting);
        let before = before.expect("one comes before node 1");
        for (theirs, turned) in [(&[before][..], true), (&[before], false), (&[], true), (&[], false)] {
            assert_eq!(settle(&mut strangers, theirs, NOW).counting, turned, "{theirs:?}");
        }
    }

    #[test]
    fn what_a_linked_node_has_told_is_followed_by_what_a_server_with_strangers_shows_then() {
        let at = |ms| Stamp { time: Hlc::from_ms(ms), node: NodeId(1) };
        let mut strangers = Strangers::default();
        let now = |ms| Now { mono: NOW.plus_ms(ms), wall: Wall(10_000 + ms) };
        strangers.tended(Some(Standing::Settled), Timing::Lan, now(SETTLED_AT_MS));
        let (told, late) = (at(SETTLED_AT_MS - 1), at(SETTLED_AT_MS));
        assert!(!strangers.follow(told), "there are none");
        settle(&mut strangers, &[2], NOW);
        assert!(strangers.follow(told));
        assert!(!strangers.follow(late), "it may not have been told that yet");
        strangers.restarted();
        assert!(!strangers.follow(told), "it has lost it");
    }

    #[test]
    fn a_node_that_has_just_begun_to_speak_for_a_server_has_not_told_it_what_is_old() {
        let mut strangers = Strangers::default();
        settle(&mut strangers, &[2], NOW);
        let now = Now { mono: NOW, wall: Wall(1_000_000) };
        let old = Stamp { time: Hlc::from_ms(1), node: NodeId(1) };
        for (by, follows) in [(None, false), (Some(Standing::Speaks), false), (Some(Standing::Settled), true)] {
            strangers.tended(by, Timing::Lan, now);
            assert_eq!(strangers.follow(old), follows, "{by:?}");
        }
    }

    #[test]
    fn a_node_that_its_server_has_dropped_is_no_stranger_until_it_was_linked_again() {
        let mut strangers = Strangers::default();
        let unlinked = [node(2)];
        let mut look = |listed: bool, linked: bool| {
            let unlinked = if linked { &[][..] } else { &unlinked };
            strangers.settle(Some(node(1)), unlinked, |_| listed, URI, NOW);
            strangers.any()
        };
        for (listed, linked, is_one) in [
            (false, false, false),
            (true, false, true),
            (true, false, true),
            (false, false, false),
            (true, false, false),
            (true, true, false),
            (true, false, true),
        ] {
            assert_eq!(look(listed, linked), is_one, "listed {listed}, linked {linked}");
        }
    }

    #[test]
    fn what_a_server_lacks_is_left_to_a_stranger_for_a_while_after_a_linked_node_told_it() {
        let now = |ms: u64| Now { mono: NOW.plus_ms(ms), wall: Wall(1_000_000 + ms) };
        let old = Stamp { time: Hlc::from_ms(980_000), node: NodeId(1) };
        let mut strangers = Strangers::default();
        settle(&mut strangers, &[2], NOW);
        strangers.tended(Some(Standing::Settled), Timing::Lan, now(0));
        assert!(strangers.follow(old) && strangers.may_have_removed(old));
        assert!(!settle(&mut strangers, &[2], NOW.plus_ms(LEFT_MS - 1)).over);
        assert!(settle(&mut strangers, &[2], NOW.plus_ms(LEFT_MS)).over);
        assert!(strangers.follow(old) && !strangers.may_have_removed(old));
        assert!(!settle(&mut strangers, &[2], NOW.plus_ms(LEFT_MS + 1)).over, "once");
    }
}
