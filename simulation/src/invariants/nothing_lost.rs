//! Nothing acknowledged is lost, apart from what the configured `ack` allows: what a node answered from its disk, or
//! showed others as being on its disk, is there after a restart; and a write is gone in the end only if it was covered,
//! when a process died, by nobody else and by no disk.

use std::collections::VecDeque;

use crdt::{Clock, Dot};
use node::{Mono, Origin};

use super::facts::Facts;
use super::{Invariant, Kind, Moment};
use crate::ledger::{DeedId, Ended};
use crate::model::{Model, Shared};
use crate::script::{Entry, Script};
use crate::view::View;

/// Commands that wait this long for their end are not looked for any more, milliseconds.
const REMEMBERED_MS: u64 = 120_000;

/// See the module.
pub struct NothingLost {
    model: Shared,
    facts: Facts,
    nodes: Vec<OfNode>,
    /// What died with a process while nobody else had it: it may be gone, or have been on its way to somebody.
    at_risk: Clock,
}

#[derive(Debug, Default)]
struct OfNode {
    /// When commands were carried out in this life, and the last sequence that was used then.
    commands: VecDeque<(Mono, u64)>,
    /// The last sequence of this life that was answered as being on disk.
    answered: u64,
    origin: Origin,
    /// What its disk must hold; only while it is down.
    disk: Option<Clock>,
}

impl NothingLost {
    /// With the model that `unique_dots` keeps up to date.
    pub fn new(model: Shared, script: &Script) -> Self {
        let nodes = script.nodes.iter().map(|_| OfNode::default()).collect();
        Self { model, facts: Facts::new(script), nodes, at_risk: Clock::new() }
    }

    /// What everybody but one node has: those that run, and the disks of those that do not.
    fn others(&self, model: &Model, node: usize, world: &dyn View) -> Clock {
        let mut all = Clock::new();
        for (other, known) in self.nodes.iter().enumerate().filter(|(other, _)| *other != node) {
            match (world.node(other).node, model.life(other), &known.disk) {
                (Some(_), Some(life), _) => all.join(&life.covered),
                (None, _, Some(disk)) => all.join(disk),
                _ => {}
            }
        }
        all
    }

    fn crashing(&mut self, model: &Model, node: usize, world: &dyn View) {
        let host = world.node(node);
        let (Some(running), Some(life)) = (host.node, model.life(node)) else { return };
        // Removals that a server has not acknowledged are left out of what is shown (R7); they are on disk all the same,
        // but then nobody was told so.
        let disk = if host.spec.durable { running.replica().stability_clock() } else { Clock::new() };
        let mut safe = self.others(model, node, world);
        safe.join(&disk);
        self.risk(&life.covered, &safe);
        self.nodes[node].disk = Some(disk);
    }

    fn risk(&mut self, had: &Clock, safe: &Clock) {
        for (origin, seqs) in had.difference(safe) {
            self.at_risk.insert_range(origin, seqs);
        }
    }

    fn started(&mut self, model: &Model, node: usize, world: &dyn View) -> Result<(), String> {
        let host = world.node(node);
        let Some(life) = model.life(node) else { return Ok(()) };
        let before = std::mem::replace(&mut self.nodes[node], OfNode { origin: life.origin, ..OfNode::default() });
        let Some(disk) = before.disk else { return Ok(()) };
        if self.facts.disk_is_harmed(host.spec.ix, world.now()) {
            let mut safe = self.others(model, node, world);
            safe.join(&life.covered);
            self.risk(&disk, &safe);
            return Ok(());
        }
        if let Some((origin, seqs)) = disk.difference(&life.covered).next() {
            let dot = Dot { origin, seq: *seqs.start() };
            return Err(format!("node {node} had shown {} as being on its disk, and lacks it", tell(model, dot)));
        }
        let answered = (1..=before.answered).map(|seq| Dot { origin: before.origin, seq });
        match answered.into_iter().find(|&dot| !life.covered.contains(dot)) {
            Some(dot) => Err(format!("node {node} had answered {} from its disk, and lacks it", tell(model, dot))),
            None => Ok(()),
        }
    }

    fn ended(&mut self, deed: DeedId, world: &dyn View) {
        let deed = world.ledger().deed(deed);
        let (Entry::Node(ix), Some((_, Ended::Done)), Some(taken)) = (deed.at, deed.ended, deed.taken) else { return };
        let Some(node) = world.position(ix) else { return };
        let spec = world.node(node).spec;
        if !spec.ack_disk || !spec.durable {
            return;
        }
        let known = &mut self.nodes[node];
        // Of several commands in one moment the first counts: the others may have been answered later.
        if let Some(&(_, seq)) = known.commands.iter().find(|(at, _)| *at == taken) {
            known.answered = known.answered.max(seq);
        }
    }

    /// Whatever was ever issued is covered by somebody, on the disk of somebody who is down, or was at risk.
    fn complete(&self, model: &Model, world: &dyn View) -> Result<(), String> {
        let mut known = self.others(model, usize::MAX, world);
        known.join(&self.at_risk);
        match model.issued().difference(&known).next() {
            Some((origin, seqs)) => {
                let dot = Dot { origin, seq: *seqs.start() };
                Err(format!("nobody has {} any more, and no crash explains it", tell(model, dot)))
            }
            None => Ok(()),
        }
    }
}

fn tell(model: &Model, dot: Dot) -> String {
    let known = model.named(dot).map(|write| model.name(write.cell));
    known.map_or_else(|| format!("write {dot}"), |cell| format!("write {dot} of {cell}"))
}

impl Invariant for NothingLost {
    fn name(&self) -> &'static str {
        "nothing-lost"
    }

    fn at(&mut self, moment: Moment, world: &dyn View) -> Result<(), String> {
        let model = self.model.clone();
        let model = model.borrow();
        match moment {
            Moment::Stepped { node, input: Kind::Command } => {
                let spec = world.node(node).spec;
                if spec.ack_disk && spec.durable {
                    let now = world.now();
                    let commands = &mut self.nodes[node].commands;
                    while commands.front().is_some_and(|(at, _)| now.ms_since(*at) > REMEMBERED_MS) {
                        commands.pop_front();
                    }
                    commands.push_back((now, model.life(node).map_or(0, |life| model.made_by(life.origin))));
                }
            }
            Moment::Ended { deed } => self.ended(deed, world),
            Moment::Crashing { node } => self.crashing(&model, node, world),
            Moment::Started { node, .. } => self.started(&model, node, world)?,
            Moment::Equal | Moment::End { equal: true } => self.complete(&model, world)?,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{World, script};
    use super::*;
    use crate::ledger::What;
    use crate::script::{DiskLoss, Fault, FaultKind, Host};

    fn set() -> What {
        What::Set { table: "t".into(), key: "k".into(), value: "v".into() }
    }

    fn checker(world: &World) -> NothingLost {
        let mut checker = NothingLost::new(world.model.clone(), &world.script);
        for node in 0..world.nodes.len() {
            checker.at(Moment::Started { node, origin: world.origin(node) }, world).unwrap();
        }
        checker
    }

    #[test]
    fn a_write_that_nobody_else_had_dies_with_its_process() {
        let mut script = script(2, 0);
        script.nodes[0].durable = false;
        let mut world = World::new(script);
        let mut checker = checker(&world);
        world.deed(0, set());
        checker.at(Moment::Stepped { node: 0, input: Kind::Command }, &world).unwrap();
        checker.at(Moment::Crashing { node: 0 }, &world).unwrap();
        world.crash(0);
        world.start(0);
        assert_eq!(checker.at(Moment::Started { node: 0, origin: world.origin(0) }, &world), Ok(()));
        assert_eq!(checker.at(Moment::Equal, &world), Ok(()));
    }

    #[test]
    fn a_write_that_vanishes_without_a_crash_is_found() {
        let mut world = World::new(script(2, 0));
        let mut checker = checker(&world);
        world.deed(0, set());
        // The process is exchanged without a word.
        world.crash(0);
        world.start(0);
        let wrong = checker.at(Moment::Equal, &world).unwrap_err();
        assert!(wrong.contains("nobody has write") && wrong.contains("htable:t [k]"), "{wrong}");
    }

    #[test]
    fn what_was_shown_as_being_on_disk_has_to_be_there() {
        // Nodes of the fake world have no disk: they show their clock as it is, and come back empty.
        let mut world = World::new(script(2, 0));
        let mut checker = checker(&world);
        // Nor do they show anything before they know that no server has more to tell.
        world.pass(60_000);
        world.deed(0, set());
        world.pass(1_000);
        world.deed(0, set());
        checker.at(Moment::Crashing { node: 0 }, &world).unwrap();
        world.crash(0);
        world.start(0);
        let wrong = checker.at(Moment::Started { node: 0, origin: world.origin(0) }, &world).unwrap_err();
        assert!(wrong.contains("had shown") && wrong.contains("lacks it"), "{wrong}");
    }

    #[test]
    fn what_was_answered_from_disk_has_to_be_there() {
        let mut world = World::new(script(1, 0));
        let mut checker = checker(&world);
        let deed = world.deed(0, set());
        checker.at(Moment::Stepped { node: 0, input: Kind::Command }, &world).unwrap();
        checker.at(Moment::Ended { deed }, &world).unwrap();
        checker.nodes[0].disk = Some(Clock::new());
        world.crash(0);
        world.start(0);
        let wrong = checker.at(Moment::Started { node: 0, origin: world.origin(0) }, &world).unwrap_err();
        assert!(wrong.contains("had answered"), "{wrong}");
    }

    #[test]
    fn a_disk_that_is_wiped_excuses_what_it_held() {
        let mut script = script(2, 0);
        let kind = FaultKind::Kill { host: Host::Node(0), disk: DiskLoss::Wiped, new_identity: false };
        script.faults.push(Fault { at_ms: 0, until_ms: 60_000, kind });
        let mut world = World::new(script);
        let mut checker = checker(&world);
        let deed = world.deed(0, set());
        checker.at(Moment::Stepped { node: 0, input: Kind::Command }, &world).unwrap();
        checker.at(Moment::Ended { deed }, &world).unwrap();
        world.pass(1_000);
        world.deed(0, set());
        checker.at(Moment::Crashing { node: 0 }, &world).unwrap();
        world.crash(0);
        world.start(0);
        assert_eq!(checker.at(Moment::Started { node: 0, origin: world.origin(0) }, &world), Ok(()));
        assert_eq!(checker.at(Moment::Equal, &world), Ok(()));
    }
}
