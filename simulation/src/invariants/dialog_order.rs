//! What has ranks never goes back: the state of a dialog, the epoch of a counter. Within a life, the rank of what a node
//! shows of a cell never falls, not even when the cell was forgotten in between; nor does the state of a dialog that its
//! interface shows, and one that it knows to have ended is never shown again.

use std::collections::BTreeMap;

use crdt::{Rank, Replica, Wall};
use tables::dialog::{self, State};

use super::{Invariant, Moment};
use crate::model::{CellNo, Model, Shared};
use crate::view::View;

/// See the module.
pub struct DialogOrder {
    model: Shared,
    /// The greatest rank that a node held of a cell in this life; cells without ranks are not here.
    ranks: BTreeMap<(usize, CellNo), Rank>,
    /// The furthest state of a dialog that a node showed in this life.
    states: BTreeMap<(usize, CellNo), u8>,
}

impl DialogOrder {
    /// With the model that `unique_dots` keeps up to date.
    pub const fn new(model: Shared) -> Self {
        Self { model, ranks: BTreeMap::new(), states: BTreeMap::new() }
    }

    fn look(
        &mut self,
        model: &Model,
        node: usize,
        cell: CellNo,
        (replica, wall): (&Replica, Wall),
    ) -> Result<(), String> {
        let id = model.id(cell);
        let held = replica.slot(&id.table, &id.key, &id.member).and_then(|slot| replica.cell(slot));
        // A dead version may come in from afar after a greater one was forgotten, as dead as that.
        let Some(held) = held.filter(|held| held.is_live(wall)) else { return Ok(()) };
        let greatest = self.ranks.entry((node, cell)).or_insert(held.order.rank);
        if held.order.rank < *greatest {
            let (rank, name) = (held.order.rank, model.name(cell));
            return Err(format!("node {node} holds {name} with rank {rank:x}, after it had rank {greatest:x}"));
        }
        *greatest = held.order.rank;
        Ok(())
    }

    /// Looks at the state of a dialog that a node shows; `None`: it shows none.
    fn shows(&mut self, model: &Model, node: usize, cell: CellNo, shown: Option<u8>) -> Result<(), String> {
        let ended = model.best(node, cell).is_some_and(|best| model.write(best).order.removed);
        let Some(state) = shown.or(ended.then_some(State::Deleted.number())) else { return Ok(()) };
        let furthest = self.states.entry((node, cell)).or_insert(state);
        if state < *furthest {
            return Err(format!("node {node} shows {} in state {state}, after state {furthest}", model.name(cell)));
        }
        *furthest = state;
        Ok(())
    }
}

impl Invariant for DialogOrder {
    fn name(&self) -> &'static str {
        "dialog-order"
    }

    fn at(&mut self, moment: Moment, world: &dyn View) -> Result<(), String> {
        let model = self.model.clone();
        let model = model.borrow();
        match moment {
            Moment::Started { node, .. } => {
                self.ranks.retain(|(whose, _), _| *whose != node);
                self.states.retain(|(whose, _), _| *whose != node);
            }
            Moment::Stepped { node, .. } if !model.step().touched.is_empty() => {
                // A cell has ranks in all its versions, or in none: the one that counts will do.
                let ranked = |cell: &&CellNo| {
                    model.best(node, **cell).is_some_and(|best| model.write(best).order.rank != 0)
                        || self.ranks.contains_key(&(node, **cell))
                };
                let touched: Vec<CellNo> = model.step().touched.iter().filter(ranked).copied().collect();
                if touched.is_empty() {
                    return Ok(());
                }
                let host = world.node(node);
                let Some(running) = host.node else { return Ok(()) };
                for cell in touched {
                    self.look(&model, node, cell, (running.replica(), host.wall))?;
                    let id = model.id(cell);
                    if *id.table == *dialog::TABLE && id.member.is_empty() {
                        let shown = running.dialog(&id.key, host.now(world.now())).map(|dialog| dialog.state);
                        self.shows(&model, node, cell, shown)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crdt::{NodeId, Origin, Rules, StampRule, TableRules, Write};
    use node::Mono;

    use super::*;

    const WALL: Wall = Wall(1_800_000_000_000);

    fn dialog(origin: u64, rank: Rank) -> Replica {
        let rules = Rules::new(60, 1_000).table("dialog", TableRules::by_birth(600));
        let mut replica = Replica::new(NodeId(origin), Origin(origin), rules, 1);
        let (stamp, birth, deadline) = (StampRule::Now, Some(WALL.secs()), Some(WALL.secs() + 60));
        let (table, key, member, body) = ("dialog", &b"d"[..], &b""[..], Some(&b"x"[..]));
        let write = Write { table, key, member, rank, stamp, deadline, body, via: 0, birth };
        replica.write(WALL, write).unwrap();
        replica.drain_changes();
        replica
    }

    #[test]
    fn a_rank_that_falls_is_found() {
        let mut model = Model::default();
        let (early, ended) = (dialog(1, 1), dialog(2, 4));
        model.start(0, Origin(1), &early, WALL, Mono(0)).unwrap();
        model.start(1, Origin(2), &ended, WALL, Mono(0)).unwrap();
        let cell = model.find("dialog", b"d", b"").unwrap();
        let mut checker = DialogOrder::new(Model::shared());
        assert_eq!(checker.look(&model, 0, cell, (&early, WALL)), Ok(()));
        assert_eq!(checker.look(&model, 0, cell, (&ended, WALL)), Ok(()));
        let wrong = checker.look(&model, 0, cell, (&early, WALL)).unwrap_err();
        assert!(wrong.contains("with rank 1, after it had rank 4"), "{wrong}");
        assert_eq!(checker.look(&model, 1, cell, (&early, WALL)), Ok(()), "another node knows nothing of it");
    }

    #[test]
    fn a_shown_state_that_falls_and_a_dialog_that_is_shown_after_its_end_are_found() {
        let mut model = Model::default();
        let mut replica = dialog(1, 4);
        model.start(0, Origin(1), &replica, WALL, Mono(0)).unwrap();
        let cell = model.find("dialog", b"d", b"").unwrap();
        let mut checker = DialogOrder::new(Model::shared());
        assert_eq!([Some(2), None, Some(4)].map(|state| checker.shows(&model, 0, cell, state)), [const { Ok(()) }; 3]);
        let wrong = checker.shows(&model, 0, cell, Some(2)).unwrap_err();
        assert!(wrong.contains("in state 2, after state 4"), "{wrong}");
        let (table, key, member, stamp) = ("dialog", &b"d"[..], &b""[..], StampRule::Now);
        let end = Write { table, key, member, rank: 5, stamp, deadline: None, body: None, via: 0, birth: None };
        replica.write(WALL, end).unwrap();
        replica.drain_changes();
        model.stepped(0, &replica, WALL, Mono(1)).unwrap();
        assert_eq!(checker.shows(&model, 0, cell, None), Ok(()));
        assert!(checker.shows(&model, 0, cell, Some(4)).unwrap_err().contains("after state 5"));
    }
}
