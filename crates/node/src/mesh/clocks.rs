//! What a node shows of itself, and what it concludes from what others show.
//!
//! Clocks go out at most once a second, after everything that was waiting to be pushed, so that a peer that has read them
//! has read the pushes they stand for; when nothing changes they go out every [`AUDIT_MS`] for the sake of the digest.
//! From them follow three judgements: whether the peer has something that we lack (then a session is asked for, after
//! [`GRACE_MS`] for what is still under way on other links), whether pushes may flow (R6), and whether equal clocks mean
//! equal cells (R9).

use crdt::planted::{self, Bug};
use crdt::{Merged, Wall};

use super::Mesh;
use super::link::Link;
use super::wire::{Clocks, Push, PushedCells};
use crate::cx::Cx;
use crate::io::{Level, LinkId, Mono};

/// Clocks are shown at most once in this time, milliseconds.
const SHOW_MS: u64 = 1_000;
/// And at least once in this time.
const AUDIT_MS: u64 = 10_000;
/// How long something that a peer has may be under way to us on other links, milliseconds.
const GRACE_MS: u64 = 300;
/// Between two pings, milliseconds.
const PING_MS: u64 = 2_000;
/// Seconds that a digest's horizon lies beyond what skew asks for: time under way.
const HORIZON_MARGIN_S: u64 = 5;

/// The deadline beyond which cells are compared now: everybody's clock, and the message's way, are within it (R9).
pub(super) fn horizon(cx: &Cx<'_>) -> u64 {
    (cx.now.wall.0 + 2 * cx.config.max_skew_ms).div_ceil(1_000) + HORIZON_MARGIN_S
}

impl Link {
    /// Measures the clock offset.
    pub(super) fn ping(&mut self, cx: &mut Cx<'_>) {
        if self.peer.is_some() && self.ping_at <= cx.now.mono {
            self.ping_at = cx.now.mono.plus_ms(PING_MS);
            self.send_or_drop(&Push::Ping { sent: cx.now.mono.0 }, cx);
        }
    }

    /// When clocks are to be shown.
    pub(super) fn show_due(&self) -> Option<Mono> {
        let every = if self.show { SHOW_MS } else { AUDIT_MS };
        let shows = self.peer.is_some() && !planted::on(Bug::ClocksShownOnce);
        shows.then(|| self.shown_at.plus_ms(every))
    }

    /// Shows our clocks if it is time and everything that waited has been pushed.
    pub(super) fn show_if_due(&mut self, cx: &mut Cx<'_>) {
        let due = self.show_due().is_some_and(|at| at <= cx.now.mono);
        if due && self.has_credit() && self.queue.is_empty() {
            let clocks = self.clocks(false, cx);
            self.send(&Push::Clocks(Box::new(clocks)), cx);
        }
    }
}

impl Mesh {
    /// Cells that a peer pushed.
    pub(super) fn take_cells(&mut self, id: LinkId, items: &[u8], cx: &mut Cx<'_>) {
        if !self.links.get(&id).is_some_and(Link::open) {
            self.judge(id, false, cx);
        }
        let open = self.links.get(&id).is_some_and(Link::open);
        for item in PushedCells(items) {
            let item = match item {
                Ok(item) => item,
                Err(error) => return self.malformed(id, error, cx),
            };
            if !open {
                cx.stats.push_cells_refused += 1;
                continue;
            }
            cx.stats.push_cells_in += 1;
            let merged = cx.replica.merge_pushed(cx.now.wall, item.bytes, item.via);
            match merged {
                Merged::New(_) | Merged::Stale => {
                    cx.stats.push_cells_new += u64::from(matches!(merged, Merged::New(_)));
                    cx.replica.cover_overwritten(item.covers);
                }
                Merged::TooFarAhead => cx.stats.cells_too_far_ahead += 1,
                Merged::Malformed(error) => {
                    cx.stats.cells_malformed += 1;
                    cx.log(Level::Warn, format!("a pushed cell does not decode: {error}"));
                    return self.misbehaved(id, "malformed cell", cx);
                }
                Merged::DotReuse => {
                    cx.stats.dots_reused += 1;
                    cx.log(Level::Error, "two different writes share a dot: a pushed cell was not taken");
                }
            }
        }
    }

    /// Clocks that a peer shows.
    pub(super) fn take_clocks(&mut self, id: LinkId, clocks: Clocks, cx: &mut Cx<'_>) {
        let Some(peer) = self.peer_mut(id) else { return };
        let node = peer.node;
        peer.clock = clocks.clock;
        if let Some(forgotten) = clocks.forgotten {
            peer.forgotten = forgotten;
        }
        cx.replica.roster_show(node, &clocks.stability);
        self.judge(id, false, cx);
        self.judge_digest(id, clocks.horizon, u128::from_le_bytes(clocks.digest), clocks.cells, cx);
    }

    /// The answer to a ping.
    pub(super) fn take_pong(&mut self, id: LinkId, sent: u64, wall: u64, cx: &mut Cx<'_>) {
        let max_ms = cx.config.max_skew_ms;
        let now = cx.now;
        if let Some(peer) = self.peer_mut(id) {
            peer.offset.measure(wall, sent, now, max_ms);
            if peer.offset.ms().is_some() && !peer.offset.skewed() {
                let was_behind = std::mem::take(&mut self.jumped_ms) > i64::try_from(max_ms).unwrap_or(i64::MAX);
                // Before anything is forgotten: R1.
                if was_behind {
                    cx.replica.end_again(now.wall);
                }
            }
            self.judge_skew(id, cx);
        }
    }

    /// Whether the peer's wall clock allows data (R3); says so when it does not.
    pub(super) fn judge_skew(&mut self, id: LinkId, cx: &mut Cx<'_>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(peer) = &link.peer else { return };
        let (trusted, ms, name, addr) =
            (peer.trusted(), peer.offset.ms().unwrap_or(0), peer.name.clone(), peer.advertise);
        cx.replica.set_skewed(self.skewed(cx.config.max_skew_ms));
        if trusted {
            return;
        }
        if let Some(link) = self.links.get_mut(&id) {
            link.queue.clear();
        }
        let text = || format!("the clock of {name} is {ms} ms from ours: no data is exchanged until that is put right");
        let before = cx.out.len();
        self.complain(addr, "skew", Level::Warn, text, cx);
        cx.stats.skew_alarms += u64::from(cx.out.len() > before);
    }

    /// Whether pushes may flow (R6), and whether the peer has something that we lack. `at_once` skips the grace.
    pub(super) fn judge(&mut self, id: LinkId, at_once: bool, cx: &mut Cx<'_>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(peer) = link.peer.as_mut() else { return };
        let put_right = cx.replica.covers(&peer.forgotten) && peer.clock.includes(cx.replica.forgotten());
        peer.open = put_right || planted::on(Bug::PushesFromAnybody);
        if !peer.open {
            link.queue.clear();
        }
        // What it forgot may name an origin that was retired here too early: a session puts that right.
        if cx.replica.covers(&peer.clock) && cx.replica.clock().includes(&peer.forgotten) {
            peer.ask_at = None;
        } else if peer.ask_at.is_none() || at_once {
            peer.ask_at = Some(cx.now.mono.plus_ms(if at_once { 0 } else { GRACE_MS }));
        }
    }

    /// Equal clocks must mean equal live cells (R9). Seen unequal twice in a row it is our bug: says so and repairs.
    fn judge_digest(&mut self, id: LinkId, horizon: u64, digest: u128, cells: u64, cx: &mut Cx<'_>) {
        let Some(peer) = self.peer_mut(id) else { return };
        let Wall(now_ms) = cx.now.wall;
        let comparable = peer.trusted()
            && peer.clock == *cx.replica.clock()
            && horizon.saturating_mul(1_000) >= now_ms.saturating_add(cx.config.max_skew_ms);
        if !comparable {
            return;
        }
        let ours = cx.replica.digest_beyond(horizon);
        if ours == (digest, cells) {
            peer.mismatches = 0;
            return;
        }
        peer.mismatches += 1;
        if peer.mismatches < 2 {
            return;
        }
        peer.mismatches = 0;
        let (name, node) = (peer.name.clone(), peer.node);
        cx.stats.digest_mismatches += 1;
        let text = format!(
            "equal clocks but unequal cells with {name} ({node}): {} here, {cells} there; repairing. This is a bug",
            ours.1
        );
        cx.log(Level::Error, text);
        self.start_audit(id, horizon, cx);
    }
}
