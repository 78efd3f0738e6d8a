//! Two nodes that have merged the same writes show the same bytes, also while things are in motion: after every step each
//! node's live view is the maximum, by order, over all writes that its clock covers.
//!
//! Looked at are the cells of newly covered writes after every step, sums over whole nodes once a second, and everything,
//! cell by cell, after a start and at the end.

use crdt::{CellRef, Replica, Wall};

use super::{Invariant, Moment, moment_of};
use crate::model::{CellNo, Model, Shared, Sum, WriteNo, hash};
use crate::view::View;

/// Nodes that are compared as a whole in one second.
const PER_SECOND: usize = 8;
/// How many cells are compared with the model's slow form at the end.
const PLAINLY: usize = 100_000;

/// See the module.
pub struct SameWrites {
    model: Shared,
    /// The node that is next to be compared as a whole.
    next: usize,
}

impl SameWrites {
    /// With the model that `unique_dots` keeps up to date.
    pub const fn new(model: Shared) -> Self {
        Self { model, next: 0 }
    }
}

impl Invariant for SameWrites {
    fn name(&self) -> &'static str {
        "same-writes"
    }

    fn at(&mut self, moment: Moment, world: &dyn View) -> Result<(), String> {
        let model = &*self.model.borrow();
        match moment {
            Moment::Started { node, .. } | Moment::Stepped { node, .. } => {
                let touched = &model.step().touched;
                if touched.is_empty() {
                    return Ok(());
                }
                let host = world.node(node);
                let Some(running) = host.node else { return Ok(()) };
                touched.iter().try_for_each(|&cell| shows(model, node, cell, running.replica(), host.wall))
            }
            Moment::Second => {
                equal_clocks(model, world)?;
                for _ in 0..world.nodes().min(PER_SECOND) {
                    self.next = (self.next + 1) % world.nodes();
                    let host = world.node(self.next);
                    let Some(running) = host.node else { continue };
                    whole(model, self.next, running.replica(), host.wall)?;
                }
                Ok(())
            }
            Moment::End { .. } => (0..world.nodes()).try_for_each(|node| {
                let host = world.node(node);
                let Some(running) = host.node else { return Ok(()) };
                whole(model, node, running.replica(), host.wall)?;
                every_cell(model, node, running.replica(), host.wall)?;
                plainly(model, node)
            }),
            _ => Ok(()),
        }
    }
}

/// Whether a node shows of a cell what it must.
pub(super) fn shows(model: &Model, node: usize, cell: CellNo, replica: &Replica, wall: Wall) -> Result<(), String> {
    let best = model.best(node, cell);
    let held = || {
        let id = model.id(cell);
        replica.slot(&id.table, &id.key, &id.member).and_then(|slot| replica.cell(slot))
    };
    let Some(best) = best.filter(|&best| model.write(best).is_live(wall)) else {
        return match held().filter(|held| held.is_live(wall)) {
            Some(held) => Err(format!("node {node} shows {held:?}, but covers {}", told(model, best))),
            None => Ok(()),
        };
    };
    let write = model.write(best);
    match replica.shown_by(write.order.dot).and_then(|slot| replica.bytes(slot)) {
        Some(bytes) if hash(bytes) == write.hash => Ok(()),
        Some(bytes) => {
            let other = CellRef::decode(bytes).map(|cell| format!("{cell:?}")).unwrap_or_default();
            Err(format!("node {node} shows {other} under the dot of {}", model.tell(best)))
        }
        None if held().is_none() && may_have_forgotten(model, node, write.deadline, replica) => Ok(()),
        None => {
            let shown = held().map_or("nothing".to_owned(), |held| format!("{held:?}"));
            Err(format!("node {node} covers {}, and shows {shown}", model.tell(best)))
        }
    }
}

fn told(model: &Model, best: Option<WriteNo>) -> String {
    best.map_or("no write of it".to_owned(), |best| model.tell(best))
}

/// Whether a node's own wall clock was so late once that the version was dead, and past its grace, by it. What was
/// forgotten then seems alive again when the clock goes back: the one way to lose a live version without a bug of the
/// merge. No version is forgotten before its deadline and the grace have passed on the clock of the node that forgets.
fn may_have_forgotten(model: &Model, node: usize, deadline: Option<u64>, replica: &Replica) -> bool {
    deadline.is_some_and(|deadline| deadline + u64::from(replica.rules().grace()) <= model.latest(node).secs())
}

/// The unix second beyond which a node cannot have forgotten what is alive: see [`may_have_forgotten`].
fn horizon(model: &Model, node: usize, replica: &Replica, wall: Wall) -> u64 {
    wall.secs().max(model.latest(node).secs().saturating_sub(u64::from(replica.rules().grace())))
}

/// Compares a node as a whole.
pub(super) fn whole(model: &Model, node: usize, replica: &Replica, wall: Wall) -> Result<(), String> {
    let horizon = horizon(model, node, replica, wall);
    let (hash, cells) = replica.digest_beyond(horizon);
    let expected = model.expected(node, horizon);
    if expected == (Sum { hash, cells }) {
        return Ok(());
    }
    every_cell(model, node, replica, wall)?;
    Err(format!(
        "node {node} says that it shows {cells} cells beyond {horizon} with digest {hash:x}, but its cells, which are as \
         they must be, are {} with digest {:x}",
        expected.cells, expected.hash
    ))
}

/// Compares a node cell by cell.
fn every_cell(model: &Model, node: usize, replica: &Replica, wall: Wall) -> Result<(), String> {
    (0..model.cells() as CellNo).try_for_each(|cell| shows(model, node, cell, replica, wall))?;
    for (_, cell) in replica.scan(None, usize::MAX).filter(|(_, cell)| cell.is_live(wall)) {
        if model.find(cell.table, cell.key, cell.member).is_none() {
            return Err(format!("node {node} shows {cell:?}, which nobody has written"));
        }
    }
    Ok(())
}

/// The model itself: what it keeps up to date is what it finds from scratch.
fn plainly(model: &Model, node: usize) -> Result<(), String> {
    let Some(life) = model.life(node) else { return Ok(()) };
    let stride = (model.cells() / PLAINLY).max(1);
    for cell in (0..model.cells() as CellNo).step_by(stride) {
        if model.plainly(&life.covered, cell) != life.best(cell) {
            return Err(format!("the model is wrong about {} at node {node}", model.name(cell)));
        }
    }
    Ok(())
}

/// Nodes with equal clocks have equal digests of what lives beyond the reach of any of their clocks (R9).
fn equal_clocks(model: &Model, world: &dyn View) -> Result<(), String> {
    let mut nodes: Vec<(u64, usize)> = Vec::new();
    for node in (0..world.nodes()).filter(|&node| world.node(node).node.is_some()) {
        let Some(life) = model.life(node) else { continue };
        let sum = life.clock().ranges().fold(0_u64, |sum, (origin, seqs)| {
            sum.rotate_left(7) ^ origin.0.wrapping_mul(seqs.end() * 2 + 1) ^ seqs.start()
        });
        nodes.push((sum, node));
    }
    nodes.sort_unstable();
    for pair in nodes.windows(2) {
        let [(a_sum, a), (b_sum, b)] = [pair[0], pair[1]];
        let (Some(a_life), Some(b_life)) = (model.life(a), model.life(b)) else { continue };
        if a_sum != b_sum || a_life.clock() != b_life.clock() {
            continue;
        }
        let (a_host, b_host) = (world.node(a), world.node(b));
        let (Some(a_node), Some(b_node)) = (a_host.node, b_host.node) else { continue };
        let skew = u64::from(a_node.replica().rules().max_skew()).div_ceil(1_000);
        let latest =
            horizon(model, a, a_node.replica(), a_host.wall).max(horizon(model, b, b_node.replica(), b_host.wall));
        let (ours, theirs) =
            (a_node.replica().digest_beyond(latest + skew), b_node.replica().digest_beyond(latest + skew));
        if ours != theirs {
            return Err(format!(
                "nodes {a} and {b} have equal clocks at {} and unequal digests: {} and {} cells",
                moment_of(world.now()),
                ours.1,
                theirs.1
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crdt::Wall;

    use super::*;
    use crate::model::tests::{Pair, WALL};

    #[test]
    fn a_node_that_shows_the_greatest_write_passes() {
        let mut pair = Pair::new();
        pair.set(0, b"k", b"1");
        pair.push(0, 1, b"k");
        pair.set(1, b"k", b"2");
        pair.push(1, 0, b"k");
        for node in 0..2 {
            assert_eq!(whole(&pair.model, node, pair.replica(node), WALL), Ok(()));
            assert_eq!(plainly(&pair.model, node), Ok(()));
        }
    }

    #[test]
    fn a_node_that_covers_a_write_and_shows_an_older_one_is_found() {
        let mut pair = Pair::new();
        pair.set(0, b"k", b"1");
        pair.push(0, 1, b"k");
        pair.set(0, b"k", b"2");
        let dot = pair.dot(0);
        pair.replica_mut(1).cover_overwritten([dot]);
        pair.step(1);
        let cell = pair.model.step().touched[0];
        let wrong = shows(&pair.model, 1, cell, pair.replica(1), WALL).unwrap_err();
        assert!(wrong.contains("node 1 covers the version") && wrong.contains("and shows CellRef"), "{wrong}");
        assert!(whole(&pair.model, 1, pair.replica(1), WALL).is_err());
    }

    #[test]
    fn a_node_that_shows_what_it_knows_to_be_removed_is_found() {
        let mut pair = Pair::new();
        pair.set(0, b"k", b"1");
        pair.push(0, 1, b"k");
        pair.delete(0, b"k");
        let dot = pair.dot(0);
        pair.replica_mut(1).cover_overwritten([dot]);
        pair.step(1);
        let wrong = whole(&pair.model, 1, pair.replica(1), WALL).unwrap_err();
        assert!(wrong.contains("but covers the removal"), "{wrong}");
    }

    #[test]
    fn what_a_node_forgot_by_a_clock_that_was_ahead_is_no_fault_of_the_merge() {
        let mut pair = Pair::new();
        pair.lease(0, b"a", 100);
        let late = Wall(WALL.0 + 1_000_000);
        let model = &mut pair.model;
        model.stepped(0, &pair.replicas[0], late, node::Mono(0)).unwrap();
        assert!(pair.replicas[0].tick(late) || pair.replicas[0].cells_held() == 0);
        pair.step(0);
        let cell = pair.model.find("location", b"a", b"").unwrap();
        assert_eq!(shows(&pair.model, 0, cell, pair.replica(0), WALL), Ok(()));
        assert_eq!(whole(&pair.model, 0, pair.replica(0), WALL), Ok(()));
        // The other node's clock was never wrong.
        let (cells, bytes) = (pair.replicas[0].cells_held(), pair.dot(0));
        assert_eq!(cells, 0);
        pair.replica_mut(1).cover_overwritten([bytes]);
        pair.step(1);
        assert!(shows(&pair.model, 1, cell, pair.replica(1), WALL).is_err());
    }
}
