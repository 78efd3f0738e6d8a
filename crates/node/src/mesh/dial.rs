//! Whom to connect to, and when.
//!
//! Every address that was configured or learned is dialed while no link to its node is up. A round takes 1 to 2 s from
//! the start of one attempt to the start of the next (jittered, so that two nodes do not stay in step), so that a link is
//! back within about 2 s of a healed network; an attempt that took longer is followed at once. A learned address that
//! nobody answered at for [`RECENT_MS`] is tried every 10 s, and so is one whose node refused us.
//!
//! Invariant: an address that turned out to be our own is never dialed again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crdt::NodeId;
use crdt::planted::{self, Bug};
use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use crate::io::Mono;

/// Between the starts of two attempts, milliseconds.
const ROUND_MS: std::ops::Range<u64> = 1_000..2_000;
/// Between the end of a slow attempt and the next one, milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 50..250;
/// A link that ended before this age was not wanted by the other side, or not possible, milliseconds.
const SHORT_LIFE_MS: u64 = 5_000;
/// As [`ROUND_MS`], for addresses that were silent for long.
const SLOW_MS: std::ops::Range<u64> = 9_000..10_000;
/// For how long a learned address counts as recently seen, milliseconds.
const RECENT_MS: u64 = 600_000;
/// After this an attempt whose end nobody reported counts as failed, milliseconds.
const LOST_MS: u64 = 15_000;
/// After so many connections without a hello the node there is taken for one that refuses us.
const FRUITLESS_MAX: u32 = 5;
/// Attempts under way at a time.
const AT_ONCE: usize = 16;

#[derive(Debug)]
struct Target {
    configured: bool,
    node: Option<NodeId>,
    linked: bool,
    refused: bool,
    /// Connections in a row that never came to a hello.
    fruitless: u32,
    /// When it was last learned or linked.
    seen: Mono,
    started: Option<Mono>,
    next: Mono,
}

/// The addresses and their timers.
#[derive(Debug, Default)]
pub(super) struct Dialer {
    targets: BTreeMap<SocketAddr, Target>,
    ours: BTreeSet<SocketAddr>,
}

impl Dialer {
    /// Adds an address, or refreshes what is known of it. `after_ms` delays the first attempt.
    pub(super) fn learn(&mut self, addr: SocketAddr, node: Option<NodeId>, now: Mono, after_ms: u64) {
        if self.ours.contains(&addr) {
            return;
        }
        let target = self.targets.entry(addr).or_insert(Target {
            configured: false,
            node: None,
            linked: false,
            refused: false,
            fruitless: 0,
            seen: now,
            started: None,
            next: now.plus_ms(after_ms),
        });
        target.seen = now;
        if node.is_some() {
            target.node = node;
        }
    }

    /// Adds an address that is never given up.
    pub(super) fn configure(&mut self, addr: SocketAddr, now: Mono) {
        self.learn(addr, None, now, 0);
        if let Some(target) = self.targets.get_mut(&addr) {
            target.configured = true;
        }
    }

    /// The address is this node's own.
    pub(super) fn ours(&mut self, addr: SocketAddr) {
        self.targets.remove(&addr);
        self.ours.insert(addr);
    }

    /// The node has left the roster: its addresses are dialed no more, unless they are configured.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.targets.retain(|_, target| target.configured || target.node != Some(node));
    }

    /// An attempt led to a connection.
    pub(super) fn connected(&mut self, addr: SocketAddr, now: Mono, rng: &mut ChaCha8Rng) {
        if let Some(target) = self.targets.get_mut(&addr) {
            target.fruitless = target.fruitless.saturating_add(1);
        }
        self.ended(addr, now, rng);
    }

    /// An attempt failed.
    pub(super) fn failed(&mut self, addr: SocketAddr, now: Mono, rng: &mut ChaCha8Rng) {
        self.ended(addr, now, rng);
    }

    fn ended(&mut self, addr: SocketAddr, now: Mono, rng: &mut ChaCha8Rng) {
        let Some(target) = self.targets.get_mut(&addr) else { return };
        let Some(started) = target.started.take() else { return };
        let round = if target.slow(now) { SLOW_MS } else { ROUND_MS };
        let next = started.plus_ms(rng.random_range(round));
        target.next = next.max(now.plus_ms(rng.random_range(PAUSE_MS)));
    }

    /// The node at this address does not want us (another cluster, other rules).
    pub(super) fn refused(&mut self, addr: SocketAddr, now: Mono, rng: &mut ChaCha8Rng) {
        if let Some(target) = self.targets.get_mut(&addr) {
            target.refused = true;
            target.next = now.plus_ms(rng.random_range(SLOW_MS));
        }
    }

    /// A link to the node carries data; `addrs` are where it was reached and where it says it is.
    pub(super) fn linked(&mut self, node: NodeId, addrs: [Option<SocketAddr>; 2], now: Mono) {
        for addr in addrs.into_iter().flatten() {
            self.learn(addr, Some(node), now, 0);
        }
        for target in self.targets.values_mut().filter(|target| target.node == Some(node)) {
            target.linked = true;
            target.refused = false;
            target.fruitless = 0;
            target.seen = now;
        }
    }

    /// The last link to the node is gone; it had been up since `up_at`. One that did not live long is not redialed at once:
    /// its node may have closed it.
    pub(super) fn unlinked(&mut self, node: NodeId, up_at: Mono, now: Mono, rng: &mut ChaCha8Rng) {
        let wait = if now.ms_since(up_at) < SHORT_LIFE_MS { ROUND_MS } else { PAUSE_MS };
        for target in self.targets.values_mut().filter(|target| target.node == Some(node)) {
            target.linked = planted::on(Bug::NoRedial);
            target.seen = now;
            target.next = now.plus_ms(rng.random_range(wait.clone()));
        }
    }

    /// The addresses to dial now.
    pub(super) fn due(&mut self, now: Mono) -> Vec<SocketAddr> {
        let mut under_way = self.targets.values().filter(|target| target.started.is_some()).count();
        let mut due = Vec::new();
        for (addr, target) in &mut self.targets {
            if under_way >= AT_ONCE || target.wakes().is_none_or(|at| at > now) {
                continue;
            }
            target.started = Some(now);
            under_way += 1;
            due.push(*addr);
        }
        due
    }

    /// When [`Dialer::due`] has something next.
    pub(super) fn next(&self) -> Option<Mono> {
        self.targets.values().filter_map(Target::wakes).min()
    }
}

impl Target {
    fn slow(&self, now: Mono) -> bool {
        self.refused || self.fruitless >= FRUITLESS_MAX || (!self.configured && now.ms_since(self.seen) > RECENT_MS)
    }

    fn wakes(&self) -> Option<Mono> {
        match self.started {
            _ if self.linked => None,
            Some(started) => Some(started.plus_ms(LOST_MS)),
            None => Some(self.next),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_configured_address_is_dialed_at_once_and_again_within_two_seconds() {
        let mut rng = ChaCha8Rng::from_seed([1; 32]);
        let mut dialer = Dialer::default();
        dialer.configure(addr(1), Mono(0));
        assert_eq!(dialer.due(Mono(0)), [addr(1)]);
        assert!(dialer.due(Mono(1)).is_empty(), "an attempt is under way");
        dialer.failed(addr(1), Mono(1_000), &mut rng);
        let next = dialer.next().unwrap();
        assert!(next >= Mono(1_000_000) && next <= Mono(2_000_000), "{next:?}");
        assert_eq!(dialer.due(next), [addr(1)]);
    }

    #[test]
    fn an_attempt_that_timed_out_is_followed_at_once() {
        let mut rng = ChaCha8Rng::from_seed([1; 32]);
        let mut dialer = Dialer::default();
        dialer.configure(addr(1), Mono(0));
        dialer.due(Mono(0));
        dialer.failed(addr(1), Mono(2_000_000), &mut rng);
        assert!(dialer.next().unwrap() <= Mono(2_250_000));
    }

    #[test]
    fn a_linked_node_is_not_dialed_under_any_of_its_addresses() {
        let mut rng = ChaCha8Rng::from_seed([1; 32]);
        let mut dialer = Dialer::default();
        let node = NodeId(7);
        dialer.configure(addr(1), Mono(0));
        dialer.due(Mono(0));
        dialer.connected(addr(1), Mono(0), &mut rng);
        dialer.linked(node, [Some(addr(1)), Some(addr(2))], Mono(0));
        assert_eq!(dialer.next(), None);
        let down = Mono(60_000_000);
        dialer.unlinked(node, Mono(0), down, &mut rng);
        assert_eq!(dialer.due(down.plus_ms(250)), [addr(1), addr(2)]);
    }

    #[test]
    fn our_own_address_is_never_dialed_again() {
        let mut dialer = Dialer::default();
        dialer.configure(addr(1), Mono(0));
        dialer.ours(addr(1));
        dialer.configure(addr(1), Mono(0));
        assert_eq!(dialer.next(), None);
    }

    #[test]
    fn a_learned_address_that_was_silent_for_long_is_tried_slowly() {
        let mut rng = ChaCha8Rng::from_seed([1; 32]);
        let mut dialer = Dialer::default();
        dialer.learn(addr(1), None, Mono(0), 0);
        let late = Mono(0).plus_ms(RECENT_MS + 1);
        dialer.due(late);
        dialer.failed(addr(1), late, &mut rng);
        assert!(dialer.next().unwrap() >= late.plus_ms(9_000));
    }
}
