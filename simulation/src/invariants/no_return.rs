//! Nothing removed comes back, nothing dead is read, nothing alive is missing from what readers see: within a life a node
//! never goes back to an older version of a cell, and what its interface answers for a key is what lives of that key.
//!
//! Same-writes says the same of the cells; this says it of what was seen before, and of the interface.

use crdt::{Replica, Wall};
use node::view::DialogView;
use tables::location::{self, Member};
use tables::{dialog, htable};

use super::{Invariant, Moment};
use crate::model::{CellNo, Model, Shared, WriteNo};
use crate::script::Script;
use crate::view::{HostView, View};

/// One of so many touched cells is asked for at the interface.
const ASKED: usize = 8;
/// Keys that are asked for per node at the end.
const ASKED_AT_END: usize = 500;

/// See the module.
pub struct NoReturn {
    model: Shared,
    /// By node and cell: the greatest version that it held in this life.
    held: Vec<Vec<Option<WriteNo>>>,
    /// Names of tables that count: their values are no cells.
    counters: Vec<String>,
    turn: usize,
}

impl NoReturn {
    /// With the model that `unique_dots` keeps up to date.
    pub fn new(model: Shared, script: &Script) -> Self {
        let counters = script.htables.iter().filter(|(_, spec)| spec.counter).map(|(name, _)| htable::table(name));
        let held = script.nodes.iter().map(|_| Vec::new()).collect();
        Self { model, held, counters: counters.collect(), turn: 0 }
    }

    /// Whether the version that a node holds is older than one that it held before.
    fn goes_back(
        &mut self,
        model: &Model,
        node: usize,
        cell: CellNo,
        (replica, wall): (&Replica, Wall),
    ) -> Result<(), String> {
        let id = model.id(cell);
        let Some(now) = replica.slot(&id.table, &id.key, &id.member).and_then(|slot| replica.cell(slot)) else {
            return Ok(());
        };
        let held = &mut self.held[node];
        if held.len() <= cell as usize {
            held.resize(cell as usize + 1, None);
        }
        let before = &mut held[cell as usize];
        match before.map(|write| model.write(write).order) {
            // A dead version may come in from afar after the greater one was forgotten, as dead as that.
            Some(order) if order > now.order && !now.is_live(wall) => {}
            Some(order) if order > now.order => {
                let greater = before.map(|write| model.tell(write)).unwrap_or_default();
                return Err(format!("node {node} holds {now:?}, after it had held {greater}"));
            }
            Some(order) if order == now.order => {}
            _ => *before = model.best(node, cell).filter(|&best| model.write(best).order == now.order),
        }
        Ok(())
    }

    /// Whether the interface shows of a key what lives of it.
    fn ask(
        &self,
        model: &Model,
        node: usize,
        cell: CellNo,
        host: &HostView<'_>,
        world: &dyn View,
    ) -> Result<(), String> {
        let Some(running) = host.node else { return Ok(()) };
        let (id, now) = (model.id(cell), host.now(world.now()));
        let live = |cell: CellNo| {
            let best = model.best(node, cell).map(|best| model.write(best))?;
            let replica = running.replica();
            // What was forgotten by a clock that was late once is no concern of the interface.
            (best.is_live(host.wall) && replica.shown_by(best.order.dot).is_some()).then_some(best)
        };
        if let Some(name) = htable::name(&id.table) {
            if self.counters.iter().any(|counter| **counter == *id.table) || !id.member.is_empty() {
                return Ok(());
            }
            let (shown, must) = (running.htable_get(name, &id.key, now), live(cell));
            return match (&shown, must) {
                (None, None) => Ok(()),
                (Some(shown), Some(must)) if shown.expires == must.deadline => Ok(()),
                _ => {
                    let must = must.map(|must| must.order.dot);
                    Err(format!("node {node} answers {shown:?} for {}, but of it lives {must:?}", model.name(cell)))
                }
            };
        }
        if *id.table == *dialog::TABLE {
            let lives = |cell: &CellNo| live(*cell).is_some();
            return ask_dialog(model, cell, &lives, running.dialog(&id.key, now).as_ref())
                .map_err(|wrong| format!("node {node} {wrong}"));
        }
        if *id.table != *location::TABLE {
            return Ok(());
        }
        let is_device = |cell: &CellNo| matches!(location::parse_member(&model.id(*cell).member), Member::Device);
        let lives = model.of_key(&id.table, &id.key).filter(is_device).filter(|&cell| live(cell).is_some()).count();
        let shown = running.location(&id.key, now);
        if shown.len() == lives {
            return Ok(());
        }
        let aor = id.key.escape_ascii();
        let uris: Vec<String> = shown.iter().map(|contact| contact.contact.to_string()).collect();
        Err(format!("node {node} answers {uris:?} for {aor}, of which {lives} contacts live"))
    }
}

/// Whether what is shown of a dialog is what lives of it: nothing unless the dialog itself lives, else all of it.
fn ask_dialog(
    model: &Model,
    cell: CellNo,
    lives: &dyn Fn(&CellNo) -> bool,
    shown: Option<&DialogView>,
) -> Result<(), String> {
    let id = model.id(cell);
    let is_main = |cell: &CellNo| model.id(*cell).member.is_empty();
    let living: Vec<CellNo> = model.of_key(&id.table, &id.key).filter(lives).collect();
    let must = if living.iter().any(is_main) { living.len() } else { 0 };
    let cells = shown.map_or(0, |dialog| 1 + dialog.vars.len() + dialog.profiles.len());
    if cells == must {
        return Ok(());
    }
    let living: Vec<String> = living.iter().map(|&cell| model.name(cell)).collect();
    Err(format!("answers {shown:?} for {}, of which {living:?} live", id.key.escape_ascii()))
}

impl Invariant for NoReturn {
    fn name(&self) -> &'static str {
        "no-return"
    }

    fn at(&mut self, moment: Moment, world: &dyn View) -> Result<(), String> {
        let model = self.model.clone();
        let model = model.borrow();
        match moment {
            Moment::Started { node, .. } => self.held[node].clear(),
            Moment::Stepped { node, .. } => {
                let touched = &model.step().touched;
                if touched.is_empty() {
                    return Ok(());
                }
                let host = world.node(node);
                let Some(running) = host.node else { return Ok(()) };
                for &cell in touched {
                    self.goes_back(&model, node, cell, (running.replica(), host.wall))?;
                    self.turn += 1;
                    if self.turn.is_multiple_of(ASKED) {
                        self.ask(&model, node, cell, &host, world)?;
                    }
                }
            }
            Moment::End { .. } => {
                let stride = (model.cells() / ASKED_AT_END).max(1);
                for node in 0..world.nodes() {
                    let host = world.node(node);
                    for cell in (0..model.cells() as CellNo).step_by(stride) {
                        self.ask(&model, node, cell, &host, world)?;
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
    use super::super::fake::{World, script};
    use super::*;
    use crate::invariants::Kind;
    use crate::ledger::What;
    use crate::model::tests::{Pair, WALL};

    #[test]
    fn a_node_that_goes_on_to_newer_versions_passes() {
        let mut world = World::new(script(1, 0));
        let mut checker = NoReturn::new(world.model.clone(), &world.script);
        for value in ["1", "2"] {
            let what = What::Set { table: "t".into(), key: "k".into(), value: value.into() };
            world.deed(0, what);
            let (aor, uri) = ("a".to_owned(), format!("sip:a{value}@h"));
            world.deed(0, What::Register { phone: 0, aor, uri, expires_s: 60, cseq: 1 });
            checker.at(Moment::Stepped { node: 0, input: Kind::Command }, &world).unwrap();
        }
        assert_eq!(checker.at(Moment::End { equal: true }, &world), Ok(()));
        world.pass(61_000);
        assert_eq!(checker.at(Moment::End { equal: true }, &world), Ok(()));
    }

    #[test]
    fn a_node_that_goes_back_is_found() {
        let mut pair = Pair::new();
        let mut checker = NoReturn::new(Model::shared(), &script(2, 0));
        pair.set(0, b"k", b"1");
        pair.push(0, 1, b"k");
        pair.set(0, b"k", b"2");
        let cell = pair.model.find("htable:t", b"k", b"").unwrap();
        checker.goes_back(&pair.model, 0, cell, (pair.replica(0), WALL)).unwrap();
        let wrong = checker.goes_back(&pair.model, 0, cell, (pair.replica(1), WALL)).unwrap_err();
        assert!(wrong.contains("after it had held the version"), "{wrong}");
    }

    #[test]
    fn an_answer_that_is_not_what_lives_is_found() {
        let mut world = World::new(script(2, 0));
        let checker = NoReturn::new(world.model.clone(), &world.script);
        world.deed(0, What::Set { table: "t".into(), key: "k".into(), value: "1".into() });
        world.deed(0, What::Register { phone: 0, aor: "a".into(), uri: "sip:a@h".into(), expires_s: 60, cseq: 1 });
        let model = world.model.borrow();
        for (table, key) in [("htable:t", "k"), ("location", "a")] {
            let cell = model.of_key(table, key.as_bytes()).next().unwrap();
            checker.ask(&model, 0, cell, &world.node(0), &world).unwrap();
            // Another node's answer: it has nothing, and is asked as if it were the first.
            let other = HostView { node: world.nodes[1].as_ref(), ..world.node(0) };
            assert_eq!(checker.ask(&model, 0, cell, &other, &world), Ok(()), "it does not hold it");
        }
        drop(model);
        world.deed(0, What::Delete { table: "t".into(), key: "k".into() });
        let model = world.model.borrow();
        let cell = model.find("htable:t", b"k", b"").unwrap();
        // The second node never heard of the removal.
        drop(model);
        world.deed(1, What::Set { table: "t".into(), key: "k".into(), value: "1".into() });
        let model = world.model.borrow();
        let other = HostView { node: world.nodes[1].as_ref(), ..world.node(0) };
        let wrong = checker.ask(&model, 0, cell, &other, &world).unwrap_err();
        assert!(wrong.contains("but of it lives None"), "{wrong}");
    }
}
