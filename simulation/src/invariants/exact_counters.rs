//! Counters are exact: in the end each is the sum of all increments, wherever they were made.
//!
//! Increments without an answer may count or not. So may those that died with a process before anybody else knew them
//! (nothing-lost says whether they were allowed to), and those of a server that was killed, or whose node was: what such
//! a server has counted is known from its full value only, and no base to it is left (docs/kdmq.md 8). Nor is it known how much of
//! what a server had counted before its node first met others these know already (8.7). What a server with several nodes has may
//! be counted twice (docs/rules.md 12), also what nodes have counted, and one that hears other servers counts theirs: no promise.
//! Nor is there one where a disk has lied about fsync and its node has a 5.6.

use std::collections::BTreeMap;

use crdt::Clock;
use node::{Mono, Value};
use tables::htable;

use super::facts::Facts;
use super::{Invariant, Moment};
use crate::ledger::{Deed, Ended, What};
use crate::model::{Model, Shared};
use crate::script::{Entry, Host, NodeSpec, Script, ServerIx};
use crate::view::View;

/// Within this time after its start a node has met the others, if nothing keeps them apart, milliseconds.
const MEETING_MS: u64 = 3_000;

/// See the module.
pub struct ExactCounters {
    model: Shared,
    facts: Facts,
}

/// What a counter may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bounds {
    least: i64,
    most: i64,
}

impl Bounds {
    fn sure(&mut self, by: i64) {
        self.least += by;
        self.most += by;
    }

    fn perhaps(&mut self, by: i64) {
        self.least += by.min(0);
        self.most += by.max(0);
    }
}

impl ExactCounters {
    /// With the model that `unique_dots` keeps up to date.
    pub fn new(model: Shared, script: &Script) -> Self {
        Self { model, facts: Facts::new(script) }
    }

    fn judge(&self, model: &Model, world: &dyn View) -> Result<(), String> {
        let known = model.known(world);
        let mut deeds: BTreeMap<(&str, &str), Vec<&Deed>> = BTreeMap::new();
        for deed in world.ledger().deeds() {
            let (What::Add { table, key, .. } | What::Set { table, key, .. } | What::Delete { table, key }) =
                &deed.what
            else {
                continue;
            };
            if self.facts.script().htables.get(table).is_some_and(|spec| spec.counter) {
                deeds.entry((table, key)).or_default().push(deed);
            }
        }
        for ((table, key), deeds) in deeds {
            let Some(bounds) = self.bounds(table, key, &deeds, (model, &known), world) else { continue };
            for node in 0..world.nodes() {
                let host = world.node(node);
                let Some(running) = host.node else { continue };
                let entry = running.htable_get(table, key.as_bytes(), host.now(world.now()));
                let Some(Value::Int(value)) = entry.map_or(Some(Value::Int(0)), |entry| Some(entry.value)) else {
                    continue;
                };
                if value < bounds.least || value > bounds.most {
                    let Bounds { least, most } = bounds;
                    let (ix, count) = (host.spec.ix, deeds.len());
                    return Err(format!(
                        "counter {table} [{key}] is {value} at node {ix}, after {count} increments of {least} to {most} \
                         in all"
                    ));
                }
            }
        }
        Ok(())
    }

    /// What a counter may be; `None` if nothing is promised.
    fn bounds(
        &self,
        table: &str,
        key: &str,
        deeds: &[&Deed],
        (model, known): (&Model, &Clock),
        world: &dyn View,
    ) -> Option<Bounds> {
        let once = self.facts.script().servers.iter().all(|server| self.is_counted_once(server.ix));
        let spec = self.facts.script().htables.get(table).filter(|_| once && !self.facts.told_sums_are_lost())?;
        let mut bounds = Bounds::default();
        for deed in deeds {
            // A set or delete discards what it had not seen: which increments that were only the nodes know.
            let What::Add { by, .. } = deed.what else { return None };
            if let Entry::Server(ix) = deed.at
                && self.is_disturbed(ix, world)
            {
                return None;
            }
            match (deed.taken, deed.ended) {
                (None, _) | (_, Some((_, Ended::Refused))) => {}
                (Some(taken), Some((_, Ended::Done)))
                    if !self.may_be_known(deed, deeds)
                        && self.must_count(table, key, deed, taken, (model, known), world) =>
                {
                    bounds.sure(by);
                }
                _ => bounds.perhaps(by),
            }
        }
        // A contribution dies by its own deadline, so increments of long ago may have gone.
        if spec.autoexpire_s > 0 || spec.max_ttl_s > 0 {
            bounds.least = bounds.least.min(0);
        }
        Some(bounds)
    }

    fn is_counted_once(&self, ix: ServerIx) -> bool {
        let script = self.facts.script();
        let heard = script.servers.iter().any(|other| other.peers.contains(&ix));
        let spec = script.servers.iter().find(|spec| spec.ix == ix);
        spec.is_some_and(|spec| spec.nodes.len() == 1 && spec.peers.is_empty() && !heard && !script.limits.mesh)
    }

    /// Whether anything ever kept a server and its nodes apart, delayed what they say or mixed it up. Increments are then
    /// told apart from our own sets by guesses about time (docs/kdmq.md 8.3 and 8.5), which that defeats: a set that arrives
    /// at a 5.6 server whose own messages do not get through wipes out what it has counted.
    fn is_disturbed(&self, ix: ServerIx, world: &dyn View) -> bool {
        let path = &self.facts.script().net.host;
        let mixed = path.loss_permille > 0 || path.reorder_permille > 0 || path.duplicate_permille > 0;
        mixed || self.facts.disturbed(&self.facts.way_of(Entry::Server(ix)), Mono(0), world.now(), 0)
    }

    /// Whether a server counted before its node had met the others, and had done so before that started: others may be taken to
    /// know it already.
    fn may_be_known(&self, deed: &Deed, deeds: &[&Deed]) -> bool {
        let Entry::Server(ix) = deed.at else { return false };
        let script = self.facts.script();
        let others: Vec<Host> = script.nodes.iter().map(|node| Host::Node(node.ix)).collect();
        let early = |node: &&NodeSpec| {
            let (start, met) = (Mono(0).plus_ms(node.start_ms), Mono(0).plus_ms(node.start_ms + MEETING_MS));
            let before = |deed: &Deed, time: Mono| deed.taken.is_some_and(|taken| taken < time);
            let counted = deeds.iter().any(|other| other.at == deed.at && before(other, start));
            counted && (before(deed, met) || self.facts.disturbed(&others, start, met, 0))
        };
        script.nodes.iter().filter(|node| self.facts.nodes_of(ix).contains(&node.ix)).any(|node| early(&node))
    }

    /// Whether an answered increment must be in the sum.
    fn must_count(
        &self,
        table: &str,
        key: &str,
        deed: &Deed,
        taken: Mono,
        (model, known): (&Model, &Clock),
        world: &dyn View,
    ) -> bool {
        match deed.at {
            Entry::Node(ix) => {
                let node = world.position(ix);
                // Contributions hold all earlier increments of their life: a later one that is known will do.
                model.of_key(&htable::table(table), key.as_bytes()).any(|cell| {
                    let best = model.plainly(known, cell).map(|best| model.write(best).order);
                    model.of_cell(cell).any(|(_, write)| {
                        let this = write.at == taken && model.owner(write.order.dot.origin) == node;
                        this && best.is_some_and(|best| best >= write.order)
                    })
                })
            }
            Entry::Server(ix) => {
                let begun = Mono(taken.0.saturating_sub(1_000_000));
                let killed = |host: &Host| self.facts.killed(*host, begun, world.now());
                let stands = world.server(ix).is_some_and(|server| server.fallen().is_none());
                stands && !self.facts.way_of(Entry::Server(ix)).iter().any(killed)
            }
        }
    }
}

impl Invariant for ExactCounters {
    fn name(&self) -> &'static str {
        "exact-counters"
    }

    fn at(&mut self, moment: Moment, world: &dyn View) -> Result<(), String> {
        match moment {
            Moment::Equal => self.judge(&self.model.borrow(), world),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{World, script};
    use super::*;

    fn add(by: i64) -> What {
        What::Add { table: "c".into(), key: "k".into(), by }
    }

    fn verdict(world: &World) -> Result<(), String> {
        ExactCounters::new(world.model.clone(), &world.script).at(Moment::Equal, world)
    }

    fn unasked(world: &mut World, by: i64) {
        world.command(0, node::Command::HtableInc { table: "c".into(), key: "k".into(), by });
    }

    #[test]
    fn the_sum_of_all_increments_passes() {
        let mut world = World::new(script(1, 0));
        for by in [1, 5, -2] {
            world.deed(0, add(by));
        }
        assert_eq!(verdict(&world), Ok(()));
    }

    #[test]
    fn an_increment_too_many_is_found() {
        let mut world = World::new(script(1, 0));
        world.deed(0, add(1));
        unasked(&mut world, 1);
        let wrong = verdict(&world).unwrap_err();
        assert!(wrong.contains("is 2 at node 0, after 1 increments of 1 to 1"), "{wrong}");
    }

    #[test]
    fn an_increment_that_is_missing_is_found() {
        let mut world = World::new(script(1, 0));
        world.deed(0, add(3));
        unasked(&mut world, -1);
        assert!(verdict(&world).is_err());
    }

    #[test]
    fn an_increment_without_an_answer_counts_or_not() {
        let mut world = World::new(script(1, 0));
        world.deed(0, add(3));
        let deed = world.ledger.begin(add(2), Entry::Node(0), world.now);
        world.ledger.taken(deed, world.now);
        world.ledger.end(deed, Ended::Unknown, world.now);
        assert_eq!(verdict(&world), Ok(()));
        unasked(&mut world, 2);
        assert_eq!(verdict(&world), Ok(()));
        unasked(&mut world, 1);
        assert!(verdict(&world).is_err());
    }

    #[test]
    fn what_a_server_counted_before_its_node_started_may_be_known_and_nothing_later() {
        for (start_ms, known) in [(0, [false, false]), (10_000, [true, false])] {
            let mut world = World::new(script(2, 1));
            let mut script = script(2, 1);
            script.nodes[0].start_ms = start_ms;
            for _ in 0..2 {
                let deed = world.ledger.begin(add(3), Entry::Server(0), world.now);
                world.ledger.taken(deed, world.now);
                world.ledger.end(deed, Ended::Done, world.now);
                world.pass(30_000);
            }
            let checker = ExactCounters::new(world.model.clone(), &script);
            let deeds: Vec<&Deed> = world.ledger.deeds().iter().collect();
            let found: Vec<bool> = deeds.iter().map(|deed| checker.may_be_known(deed, &deeds)).collect();
            assert_eq!(found, known, "started at {start_ms} ms");
        }
    }

    #[test]
    fn an_increment_that_died_with_its_process_counts_or_not() {
        let mut world = World::new(script(1, 0));
        world.deed(0, add(3));
        world.crash(0);
        world.start(0);
        assert_eq!(verdict(&world), Ok(()));
        world.deed(0, add(1));
        assert_eq!(verdict(&world), Ok(()));
        unasked(&mut world, 4);
        assert!(verdict(&world).is_err());
    }
}
