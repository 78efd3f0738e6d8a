//! Memory returns to what is alive: when all is over, queues are empty, sessions are closed, nothing dead is kept beyond
//! its time, and clocks name no more origins than there were lives.

use std::collections::BTreeSet;

use crdt::{CellRef, Dot, Forget, Replica, Wall};

use super::{Invariant, Moment};
use crate::server::server_addr;
use crate::view::{HostView, View};

/// How late a node may be with forgetting, seconds.
const LATE_S: u64 = 5;
/// A node that has just started waits for its servers before it forgets removals, and others for theirs (R7), milliseconds.
const SETTLES_MS: u64 = 120_000;

/// See the module.
#[derive(Default)]
pub struct Memory {
    /// By position: removals that could be forgotten when everybody was equal. What becomes ripe only after that has the time
    /// of a run that ends too soon.
    ripe: Vec<BTreeSet<Dot>>,
}

impl Invariant for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn at(&mut self, moment: Moment, world: &dyn View) -> Result<(), String> {
        match moment {
            Moment::Equal => {
                self.ripe = (0..world.nodes()).map(|node| ripe(&world.node(node), world)).collect();
                Ok(())
            }
            Moment::End { equal: true } => self.end(world),
            _ => Ok(()),
        }
    }
}

impl Memory {
    fn end(&self, world: &dyn View) -> Result<(), String> {
        let lives: u32 = (0..world.nodes()).map(|node| world.node(node).lives).sum();
        (0..world.nodes()).try_for_each(|node| {
            let host = world.node(node);
            let wrong = host.node.map_or(Ok(()), |running| {
                is_idle(&host, running, world)?;
                is_bounded(running.replica(), lives)?;
                keeps_nothing(running.replica(), host.wall, self.ripe.get(node).unwrap_or(&BTreeSet::new()))
            });
            wrong.map_err(|wrong| format!("node {} {wrong}", host.spec.ix))
        })
    }
}

/// The removals that a node holds and may forget (R7).
fn ripe(host: &HostView<'_>, world: &dyn View) -> BTreeSet<Dot> {
    let Some(running) = host.node else { return BTreeSet::new() };
    let young = world.now().ms_since(host.started) <= SETTLES_MS;
    if young || running.status(host.now(world.now())).settling {
        return BTreeSet::new();
    }
    stable(running.replica(), host.wall)
}

fn is_idle(host: &HostView<'_>, running: &node::Node, world: &dyn View) -> Result<(), String> {
    let now = host.now(world.now());
    if let Some(member) = running.members(now).into_iter().find(|member| member.linked && member.queued > 0) {
        return Err(format!("still has {} cells to push to {}", member.queued, member.name));
    }
    // A server that is silent is told when it is back; one that another node speaks for is not told by this one. A hostile one
    // comes and goes as it likes, and is given everything each time.
    let hostile = |peer: &node::view::PeerView| {
        let mut specs = world.script().servers.iter().filter(|spec| spec.hostile);
        specs.any(|spec| peer.uri.contains(&server_addr(spec.ix).to_string()))
    };
    let waits = |peer: &node::view::PeerView| peer.owned && peer.state == "active" && peer.queued > 0 && !hostile(peer);
    if let Some(peer) = running.peers(now).into_iter().find(waits) {
        return Err(format!("still has {} cells to tell {}", peer.queued, peer.uri));
    }
    let metrics = running.metrics(now);
    let figure = |name: &str| metrics.iter().find(|metric| metric.name == name).map_or(0, |metric| metric.value);
    let ended = figure("sync_pulls_done_total") + figure("sync_pulls_aborted_total");
    match figure("sync_pulls_total").saturating_sub(ended) {
        // One may have begun just now.
        0 | 1 => Ok(()),
        open => Err(format!("has {open} sync sessions open")),
    }
}

/// A process is an origin, and nothing else is.
fn is_bounded(replica: &Replica, lives: u32) -> Result<(), String> {
    let origins = replica.clock().origins().count();
    if origins as u64 <= u64::from(lives) {
        return Ok(());
    }
    Err(format!("names {origins} origins in its clock, after {lives} lives of all nodes"))
}

/// Nothing dead is held for longer than the rules of its table say; of removals that were ripe when all were equal, nothing.
fn keeps_nothing(replica: &Replica, wall: Wall, ripe: &BTreeSet<Dot>) -> Result<(), String> {
    let stable: BTreeSet<Dot> = stable(replica, wall).intersection(ripe).copied().collect();
    let too_long = |cell: &CellRef<'_>| match replica.rules().of(cell.table).forget {
        Forget::ByTime { max_ttl } => {
            let written = cell.order.stamp.time.secs() + 1 + u64::from(max_ttl);
            let dead = cell.birth.unwrap_or(0).max(written).max(cell.deadline.unwrap_or(0));
            wall.secs() > dead + u64::from(replica.rules().grace()) + LATE_S
        }
        Forget::Stable => stable.contains(&cell.order.dot),
    };
    let kept = replica.scan(None, usize::MAX).find(|(_, cell)| !cell.is_live(wall) && too_long(cell));
    kept.map_or(Ok(()), |(_, cell)| Err(format!("still keeps {cell:?}, which is dead and may be forgotten")))
}

/// The dead cells that may be forgotten by stability, and could have been for a while.
fn stable(replica: &Replica, wall: Wall) -> BTreeSet<Dot> {
    let stability = replica.stability_clock();
    let is_stable = |cell: &CellRef<'_>| {
        let due = cell.deadline.is_none_or(|end| wall.secs() > end + u64::from(replica.rules().grace()) + LATE_S);
        // Ranked ones wait for their owner as well (R8).
        let old = cell.order.rank == 0 && wall.secs() > cell.order.stamp.time.secs() + LATE_S;
        let dot = cell.order.dot;
        let shown = |(_, member): (_, &crdt::Member)| member.shown.as_ref().is_some_and(|clock| clock.contains(dot));
        let by_stability = matches!(replica.rules().of(cell.table).forget, Forget::Stable);
        by_stability && due && old && stability.contains(dot) && replica.roster().all(shown)
    };
    let dead = replica.scan(None, usize::MAX).filter(|(_, cell)| !cell.is_live(wall));
    dead.filter(|(_, cell)| is_stable(cell)).map(|(_, cell)| cell.order.dot).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fake::{World, script};
    use super::*;
    use crate::ledger::What;
    use crate::model::tests::{Pair, WALL};

    #[test]
    fn a_node_at_rest_passes() {
        let mut world = World::new(script(2, 0));
        world.deed(0, What::Set { table: "t".into(), key: "k".into(), value: "1".into() });
        assert_eq!(Memory::default().at(Moment::End { equal: true }, &world), Ok(()));
    }

    #[test]
    fn what_has_been_dead_for_too_long_is_found() {
        let mut pair = Pair::new();
        pair.lease(0, b"a", 100);
        let (at, none) = (|secs: u64| Wall(WALL.0 + secs * 1_000), BTreeSet::new());
        assert_eq!(keeps_nothing(pair.replica(0), at(660), &none), Ok(()), "kept for max_ttl and the grace");
        assert!(keeps_nothing(pair.replica(0), at(670), &none).unwrap_err().contains("still keeps"));
        pair.replica_mut(0).tick(at(670));
        assert_eq!(keeps_nothing(pair.replica(0), at(670), &none), Ok(()));
    }

    #[test]
    fn a_removal_that_everybody_has_seen_and_is_kept_is_found() {
        let mut pair = Pair::new();
        pair.set(0, b"k", b"1");
        pair.delete(0, b"k");
        let clock = pair.replica(0).clock().clone();
        let late = Wall(WALL.0 + 60_000);
        assert_eq!(stable(pair.replica(0), late), BTreeSet::new(), "not on disk");
        pair.replica_mut(0).persisted(&clock);
        let ripe = stable(pair.replica(0), late);
        assert_eq!(ripe.len(), 1);
        assert!(keeps_nothing(pair.replica(0), late, &ripe).is_err());
        assert_eq!(keeps_nothing(pair.replica(0), late, &BTreeSet::new()), Ok(()), "it could not be forgotten before");
        pair.replica_mut(0).tick(late);
        assert_eq!(keeps_nothing(pair.replica(0), late, &ripe), Ok(()));
    }

    #[test]
    fn more_origins_than_lives_are_found() {
        let mut pair = Pair::new();
        pair.set(0, b"k", b"1");
        assert_eq!(is_bounded(pair.replica(0), 1), Ok(()));
        assert!(is_bounded(pair.replica(0), 0).is_err());
    }
}
