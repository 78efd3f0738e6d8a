//! Paths between hosts: what gets through, when, how often.
//!
//! A path is one direction between two hosts. It knows nothing of what it carries; sessions are [`crate::quic`]'s.
//! Each has a stream of randomness of its own.

use std::collections::BTreeMap;

use node::Mono;

use crate::queue::At;
use crate::rng::{Rng, Stream};
use crate::script::PathSpec;

/// A datagram that would have to wait longer than this for the bandwidth of its path is dropped, microseconds.
const QUEUE_US: u64 = 500_000;

/// The smallest packet that QUIC needs to get through, bytes.
pub(crate) const QUIC_MTU: u32 = 1_200;

/// What a packet carries at most, bytes.
const PACKET: usize = 1_200;

/// One direction between two hosts.
#[derive(Clone, Debug)]
struct Path {
    spec: PathSpec,
    /// How many faults cut it now.
    cuts: u16,
    /// Until when its bandwidth is spoken for.
    busy: Mono,
    rng: Rng,
}

/// All paths of a run.
#[derive(Debug)]
pub(crate) struct Net {
    hosts: usize,
    paths: Vec<Path>,
    /// Specs that faults have put in place, by the number of the fault; the last one counts, below them the usual one.
    changed: BTreeMap<(At, At), Vec<Layer>>,
}

/// What a path is like by the fault with a number, or without any.
type Layer = (Option<u32>, PathSpec);

/// When the copies of a datagram arrive; none: it is lost.
pub(crate) type Arrivals = [Option<Mono>; 2];

impl Net {
    /// Paths between so many hosts, each as `spec` says.
    pub(crate) fn new(hosts: usize, seed: u64, spec: impl Fn(At, At) -> PathSpec) -> Self {
        let pairs = (0..hosts * hosts).map(|pair| ((pair / hosts) as At, (pair % hosts) as At));
        let paths = pairs.map(|(from, to)| Path {
            spec: spec(from, to),
            cuts: 0,
            busy: Mono(0),
            rng: Rng::stream(seed, Stream::Path, u64::from(from) << 16 | u64::from(to)),
        });
        Self { hosts, paths: paths.collect(), changed: BTreeMap::new() }
    }

    fn path(&self, from: At, to: At) -> &Path {
        &self.paths[usize::from(from) * self.hosts + usize::from(to)]
    }

    fn path_mut(&mut self, from: At, to: At) -> &mut Path {
        &mut self.paths[usize::from(from) * self.hosts + usize::from(to)]
    }

    /// Whether nothing passes.
    pub(crate) fn is_cut(&self, from: At, to: At) -> bool {
        self.path(from, to).cuts > 0
    }

    /// Whether no session can live on it: cut, or its packets are too large.
    pub(crate) fn blocks_quic(&self, from: At, to: At) -> bool {
        let path = self.path(from, to);
        path.cuts > 0 || (1..QUIC_MTU).contains(&path.spec.mtu)
    }

    /// Cuts it, once more.
    pub(crate) fn cut(&mut self, from: At, to: At) {
        self.path_mut(from, to).cuts += 1;
    }

    /// Takes back one cut.
    pub(crate) fn mend(&mut self, from: At, to: At) {
        let path = self.path_mut(from, to);
        path.cuts = path.cuts.saturating_sub(1);
    }

    /// A fault makes it otherwise.
    pub(crate) fn change(&mut self, from: At, to: At, fault: u32, spec: PathSpec) {
        let usual = self.path(from, to).spec;
        self.changed.entry((from, to)).or_insert_with(|| vec![(None, usual)]).push((Some(fault), spec));
        self.path_mut(from, to).spec = spec;
    }

    /// The fault is over.
    pub(crate) fn restore(&mut self, from: At, to: At, fault: u32) {
        let Some(specs) = self.changed.get_mut(&(from, to)) else { return };
        specs.retain(|(by, _)| *by != Some(fault));
        if let Some(&(_, spec)) = specs.last() {
            self.path_mut(from, to).spec = spec;
        }
    }

    /// One way and back, without what comes on top, microseconds.
    pub(crate) fn round_trip_us(&self, from: At, to: At) -> u64 {
        self.path(from, to).spec.delay_us + self.path(to, from).spec.delay_us
    }

    /// Sends a datagram. It may be lost, held back, or arrive twice.
    pub(crate) fn datagram(&mut self, from: At, to: At, len: usize, now: Mono) -> Arrivals {
        let path = self.path_mut(from, to);
        let spec = path.spec;
        if path.cuts > 0 || (spec.mtu > 0 && len > spec.mtu as usize) {
            return [None, None];
        }
        let Some(sent) = path.transmit(len, now, QUEUE_US) else { return [None, None] };
        if path.rng.permille(spec.loss_permille) {
            return [None, None];
        }
        let mut first = sent.0 + path.delay();
        if path.rng.permille(spec.reorder_permille) {
            first += 1_000 + path.rng.below(20_000);
        }
        let again = path.rng.permille(spec.duplicate_permille);
        let second = again.then(|| Mono(sent.0 + path.delay() + path.rng.below(5_000)));
        [Some(Mono(first)), second]
    }

    /// Sends bytes that a transport repeats until they arrive. Says when they do.
    pub(crate) fn reliable(&mut self, from: At, to: At, len: usize, now: Mono) -> Mono {
        let round_trip = self.round_trip_us(from, to);
        let path = self.path_mut(from, to);
        let sent = path.transmit(len, now, u64::MAX).unwrap_or(now);
        let mut at = sent.0 + path.delay();
        if path.spec.loss_permille > 0 {
            let loss = path.spec.loss_permille.min(900);
            for _ in 0..len.div_ceil(PACKET).max(1) {
                while path.rng.permille(loss) {
                    // Later packets show a loss after a round trip; the loss of the last one shows only by a timer.
                    let timer = if path.rng.permille(300) { 3 * round_trip + 25_000 } else { 0 };
                    at += round_trip * 9 / 8 + timer;
                }
            }
        }
        Mono(at)
    }

    /// How long one packet takes; `None` if it is lost or cut off.
    pub(crate) fn packet(&mut self, from: At, to: At, now: Mono) -> Option<Mono> {
        let path = self.path_mut(from, to);
        let lost = path.rng.permille(path.spec.loss_permille);
        let at = Mono(now.0 + path.delay());
        (!lost && !self.blocks_quic(from, to)).then_some(at)
    }
}

impl Path {
    fn delay(&mut self) -> u64 {
        self.spec.delay_us + self.rng.exponential(self.spec.jitter_us)
    }

    /// When the last byte has left; `None` if that takes too long.
    fn transmit(&mut self, len: usize, now: Mono, patience_us: u64) -> Option<Mono> {
        if self.spec.bytes_per_s == 0 {
            return Some(now);
        }
        let start = self.busy.max(now);
        if start.0 - now.0 > patience_us {
            return None;
        }
        let us = (len as u128 * 1_000_000 / u128::from(self.spec.bytes_per_s)) as u64;
        self.busy = Mono(start.0 + us);
        Some(self.busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: PathSpec = PathSpec {
        delay_us: 1_000,
        jitter_us: 0,
        loss_permille: 0,
        duplicate_permille: 0,
        reorder_permille: 0,
        bytes_per_s: 0,
        mtu: 0,
    };

    fn net(spec: PathSpec) -> Net {
        Net::new(2, 7, |_, _| spec)
    }

    #[test]
    fn a_good_path_delivers_each_datagram_once() {
        assert_eq!(net(SPEC).datagram(0, 1, 100, Mono(5)), [Some(Mono(1_005)), None]);
    }

    #[test]
    fn a_cut_holds_until_every_fault_that_made_it_is_over() {
        let mut net = net(SPEC);
        net.cut(0, 1);
        net.cut(0, 1);
        net.mend(0, 1);
        assert!(net.is_cut(0, 1) && !net.is_cut(1, 0));
        assert_eq!(net.datagram(0, 1, 100, Mono(0)), [None, None]);
        net.mend(0, 1);
        assert!(!net.is_cut(0, 1));
    }

    #[test]
    fn a_path_that_loses_and_repeats_does_so_at_its_rates() {
        let mut net = net(PathSpec { loss_permille: 200, duplicate_permille: 100, ..SPEC });
        let copies: Vec<Arrivals> = (0..10_000).map(|_| net.datagram(0, 1, 100, Mono(0))).collect();
        let lost = copies.iter().filter(|copies| copies[0].is_none()).count();
        let twice = copies.iter().filter(|copies| copies[1].is_some()).count();
        assert!((1_800..2_200).contains(&lost) && (700..900).contains(&twice), "{lost} {twice}");
    }

    #[test]
    fn a_narrow_path_makes_bytes_wait_and_drops_datagrams_that_would_wait_too_long() {
        let mut net = net(PathSpec { bytes_per_s: 10_000, ..SPEC });
        assert_eq!(net.reliable(0, 1, 1_000, Mono(0)), Mono(101_000));
        assert_eq!(net.datagram(0, 1, 1_000, Mono(0))[0], Some(Mono(201_000)));
        net.reliable(0, 1, 10_000, Mono(0));
        assert_eq!(net.datagram(0, 1, 1_000, Mono(0)), [None, None]);
    }

    #[test]
    fn large_datagrams_vanish_in_a_black_hole_and_no_session_lives_in_a_small_one() {
        let mut net = net(PathSpec { mtu: 600, ..SPEC });
        assert!(net.datagram(0, 1, 600, Mono(0))[0].is_some());
        assert_eq!(net.datagram(0, 1, 601, Mono(0)), [None, None]);
        assert!(net.blocks_quic(0, 1));
    }

    #[test]
    fn of_two_changes_of_a_path_the_later_one_counts_until_it_is_over() {
        let mut net = net(SPEC);
        net.change(0, 1, 1, PathSpec { delay_us: 2_000, ..SPEC });
        net.change(0, 1, 2, PathSpec { delay_us: 3_000, ..SPEC });
        net.restore(0, 1, 1);
        assert_eq!(net.round_trip_us(0, 1), 4_000);
        net.restore(0, 1, 2);
        assert_eq!(net.round_trip_us(0, 1), 2_000);
    }
}
