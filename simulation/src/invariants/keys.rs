//! What writers of hash tables were told holds in the end: of the writes of a key that nodes heard of in time, none is
//! beaten by one that was clearly earlier.
//!
//! As with phones, what may have happened either way obliges nobody: deeds without an answer, what crossed within the
//! tolerance of clocks, what a 5.6 server said late (it gives no time, docs/rules.md 13), what died with its server.

use std::collections::BTreeMap;

use crdt::Clock;
use node::{Mono, Value};
use tables::htable;

use super::facts::Facts;
use super::{Invariant, Moment, moment_of};
use crate::ledger::{Deed, Ended, What};
use crate::model::{Model, Shared, WriteNo, Written};
use crate::script::{Entry, Generation, Script};
use crate::view::View;

/// A node that hears of a write at once hears of it within this time, milliseconds.
const AT_ONCE_MS: u64 = 2_000;
/// A message of a server whose first copies were lost arrives this late at most, milliseconds (RFC 3261, timer F, and
/// what a slow path adds).
const LATE_MS: u64 = 35_000;
/// In mode `mesh` another server may have taken that message in, which no node can prevent or see; its node finds what came of
/// it with the next dump, this much later at most, milliseconds: it gathers doubts for a minute, and then asks twice.
const FOUND_MS: u64 = 70_000;

/// A key by table and name.
type Key = (String, String);

/// See the module.
pub struct Keys {
    model: Shared,
    facts: Facts,
    /// What was written of each key, in order: `None` removed it.
    told: BTreeMap<Key, Vec<(WriteNo, Option<String>)>>,
}

impl Keys {
    /// With the model that `unique_dots` keeps up to date.
    pub fn new(model: Shared, script: &Script) -> Self {
        Self { model, facts: Facts::new(script), told: BTreeMap::new() }
    }

    fn note(&mut self, model: &Model, node: usize, world: &dyn View) {
        let host = world.node(node);
        let Some(running) = host.node else { return };
        for &write in &model.step().made {
            let Written { cell, order, .. } = model.write(write);
            let id = model.id(*cell);
            let Some(table) = htable::name(&id.table) else { continue };
            let counts = self.facts.script().htables.get(table).is_none_or(|spec| spec.counter);
            let (false, Ok(key)) = (counts, std::str::from_utf8(&id.key)) else { continue };
            let replica = running.replica();
            let held = replica.shown_by(order.dot).and_then(|slot| replica.cell(slot));
            let body = held.and_then(|held| held.body).and_then(|body| htable::Value::decode(body).ok());
            let value = body.map(|body| match body {
                htable::Value::Int(int) => int.to_string(),
                htable::Value::Str(text) => String::from_utf8_lossy(&text).into_owned(),
            });
            self.told.entry((table.to_owned(), key.to_owned())).or_default().push((write, value));
        }
    }

    fn judge(&self, model: &Model, world: &dyn View) -> Result<(), String> {
        let known = model.known(world);
        let mut deeds: BTreeMap<Key, Vec<&Deed>> = BTreeMap::new();
        for deed in world.ledger().deeds() {
            if let What::Set { table, key, .. } | What::Delete { table, key } = &deed.what {
                deeds.entry((table.clone(), key.clone())).or_default().push(deed);
            }
        }
        deeds.iter().try_for_each(|(key, deeds)| self.judge_key(key, deeds, (model, &known), world))
    }

    fn judge_key(
        &self,
        key: &Key,
        deeds: &[&Deed],
        (model, known): (&Model, &Clock),
        world: &dyn View,
    ) -> Result<(), String> {
        let counts = self.facts.script().htables.get(&key.0).is_none_or(|spec| spec.counter);
        let wrong = |deed: &&&Deed| self.facts.wrong_clock_on_the_way(deed.at, deed.begun, world.now());
        if counts || deeds.iter().any(|deed| wrong(&deed)) || self.facts.somebody_was_given_up() {
            return Ok(());
        }
        // The last deed that a node heard of at once, and whose write is still known.
        let told = self.told.get(key).map_or(&[][..], Vec::as_slice);
        let heard = deeds.iter().filter(|deed| matches!(deed.ended, Some((_, Ended::Done)))).filter_map(|deed| {
            let taken = deed.taken.filter(|&taken| !self.facts.node_forgot(deed.at, taken))?;
            let wanted = value_of(deed);
            let fits = |(write, value): &&(WriteNo, Option<String>)| {
                let write = model.write(*write);
                let at_once = write.at >= taken && write.at.ms_since(taken) <= AT_ONCE_MS;
                at_once && value.as_deref() == wanted && known.contains(write.order.dot)
            };
            told.iter().find(fits).map(|(write, _)| (*deed, taken, *write))
        });
        let Some((last, taken, write)) = heard.max_by_key(|(_, taken, _)| *taken) else { return Ok(()) };
        if deeds.iter().any(|deed| deed.taken.is_some_and(|at| at >= taken && self.may_go_back(deed.at, at))) {
            return Ok(());
        }
        let node = (0..world.nodes()).find(|&node| world.node(node).node.is_some());
        let Some(host) = node.map(|node| world.node(node)) else { return Ok(()) };
        let shown = host.node.and_then(|node| node.htable_get(&key.0, key.1.as_bytes(), host.now(world.now())));
        let shown = shown.map(|entry| match entry.value {
            Value::Int(int) => int.to_string(),
            Value::Str(text) => text.to_string(),
        });
        // A node whose clock is wrong tells its servers wrong times to expire, and what they then show counts as of that time.
        let expires = self.facts.script().htables.get(&key.0).is_some_and(|spec| spec.autoexpire_s > 0);
        if expires && self.facts.wrong_clock_at_servers(world.now()) {
            return Ok(());
        }
        // A hostile server is believed in what it shows of a table: that its entries expire, say.
        if shown.is_none() && self.facts.believes_hostile(last.at) {
            return Ok(());
        }
        if shown.as_deref() == value_of(last) || self.may_show(key, shown.as_deref(), taken, deeds, model, world) {
            return Ok(());
        }
        Err(format!(
            "{} [{}] is {shown:?}, though {:?} was answered at {:?}, taken at {} and written as {}",
            key.0,
            key.1,
            last.what,
            last.at,
            moment_of(taken),
            model.tell(write)
        ))
    }

    /// Whether a 5.6 may be given an old value back that it has changed then, which counts as news when its next dump shows it
    /// (docs/operation.md, memory only).
    fn may_go_back(&self, at: Entry, when: Mono) -> bool {
        let Entry::Server(ix) = at else { return false };
        let spec = self.facts.script().servers.iter().find(|spec| spec.ix == ix);
        spec.is_some_and(|spec| spec.generation == Generation::V5) && self.facts.node_forgot(at, when)
    }

    /// Whether a value may beat a deed that a node took at once at `taken`.
    fn may_show(
        &self,
        key: &Key,
        shown: Option<&str>,
        taken: Mono,
        deeds: &[&Deed],
        model: &Model,
        world: &dyn View,
    ) -> bool {
        let tolerance = self.facts.tolerance_ms();
        if shown.is_none() && self.may_have_expired(key, taken, world.now()) {
            return true;
        }
        let told = self.told.get(key).map_or(&[][..], Vec::as_slice);
        let may_beat = |deed: &Deed| {
            let refused = matches!(deed.ended, Some((_, Ended::Refused)));
            let Some(at) = deed.taken.filter(|_| !refused) else { return false };
            // Its message may have been on its way for a while, and then counts from its arrival.
            let value = value_of(deed);
            let late =
                told.iter().filter(|(_, told)| told.as_deref() == value).map(|(write, _)| model.write(*write).at);
            let late_ms = self.late_ms(deed.at, at);
            let heard = late.filter(|&heard| heard >= at && heard.ms_since(at) <= late_ms).max();
            at.max(heard.unwrap_or(at)).plus_ms(tolerance) >= taken
        };
        // What came after it at the same place beats whatever that beats. Only values tell whose write was late.
        let is_set = |deed: &Deed| value_of(deed).is_some();
        let follows = |deed: &Deed, first: &Deed| is_set(first) && first.at == deed.at && first.taken <= deed.taken;
        deeds
            .iter()
            .filter(|deed| value_of(deed) == shown)
            .any(|deed| may_beat(deed) || deeds.iter().any(|first| follows(deed, first) && may_beat(first)))
    }

    /// How late a node may find what was said at a place then, milliseconds.
    fn late_ms(&self, at: Entry, then: Mono) -> u64 {
        let script = self.facts.script();
        match at {
            Entry::Server(ix) if script.limits.mesh => {
                let tcp = script.servers.iter().any(|spec| spec.ix == ix && spec.tcp);
                FOUND_MS + if tcp { LATE_MS.max(self.facts.held_up_ms(ix, then)) } else { LATE_MS }
            }
            _ => LATE_MS,
        }
    }

    /// Entries of a table with an expiry die by it; the first after the last deed, in tables where a set does not renew.
    fn may_have_expired(&self, key: &Key, taken: Mono, now: Mono) -> bool {
        let Some(spec) = self.facts.script().htables.get(&key.0) else { return true };
        let lives = [spec.autoexpire_s, spec.max_ttl_s].into_iter().filter(|&secs| secs > 0).min();
        lives.is_some_and(|secs| {
            let ms = (u64::from(secs) * 1_000).saturating_sub(self.facts.tolerance_ms());
            spec.keep_expire || taken.plus_ms(ms) <= now
        })
    }
}

fn value_of(deed: &Deed) -> Option<&str> {
    match &deed.what {
        What::Set { value, .. } => Some(value),
        _ => None,
    }
}

impl Invariant for Keys {
    fn name(&self) -> &'static str {
        "keys"
    }

    fn at(&mut self, moment: Moment, world: &dyn View) -> Result<(), String> {
        let model = self.model.clone();
        let model = model.borrow();
        match moment {
            Moment::Stepped { node, .. } if !model.step().made.is_empty() => {
                self.note(&model, node, world);
                Ok(())
            }
            Moment::Equal => self.judge(&model, world),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{World, script};
    use super::*;
    use crate::invariants::Kind;
    use crate::script::{DiskLoss, Entry, Fault, FaultKind, Host};

    fn set(value: &str) -> What {
        What::Set { table: "t".into(), key: "k".into(), value: value.into() }
    }

    struct Case {
        world: World,
        checker: Keys,
    }

    impl Case {
        fn new() -> Self {
            let world = World::new(script(1, 0));
            let checker = Keys::new(world.model.clone(), &world.script);
            Self { world, checker }
        }

        fn deed(&mut self, what: What) {
            self.world.deed(0, what);
            self.stepped();
        }

        fn stepped(&mut self) {
            self.checker.at(Moment::Stepped { node: 0, input: Kind::Command }, &self.world).unwrap();
            self.world.pass(20_000);
        }

        /// A value that no deed of this moment set.
        fn stray(&mut self, value: &str) {
            let (table, key, expires_in) = ("t".to_owned(), "k".into(), None);
            let value = Value::Str(value.into());
            self.world.command(0, node::Command::HtableSet { table, key, value, expires_in });
            self.stepped();
        }

        fn verdict(&mut self) -> Result<(), String> {
            self.checker.at(Moment::Equal, &self.world)
        }
    }

    #[test]
    fn the_last_deed_counts() {
        let mut case = Case::new();
        case.deed(set("1"));
        case.deed(set("2"));
        assert_eq!(case.verdict(), Ok(()));
        case.deed(What::Delete { table: "t".into(), key: "k".into() });
        assert_eq!(case.verdict(), Ok(()));
    }

    #[test]
    fn an_old_value_that_comes_back_is_found() {
        let mut case = Case::new();
        case.deed(set("1"));
        case.world.pass(60_000);
        case.deed(set("2"));
        case.stray("1");
        let wrong = case.verdict().unwrap_err();
        assert!(wrong.contains("is Some(\"1\"), though Set"), "{wrong}");
    }

    #[test]
    fn a_deleted_key_that_comes_back_is_found() {
        let mut case = Case::new();
        case.deed(set("1"));
        case.world.pass(60_000);
        case.deed(What::Delete { table: "t".into(), key: "k".into() });
        case.stray("1");
        assert!(case.verdict().unwrap_err().contains("though Delete"));
    }

    #[test]
    fn a_value_that_nobody_set_is_found() {
        let mut case = Case::new();
        case.deed(set("1"));
        case.stray("evil");
        assert!(case.verdict().is_err());
    }

    #[test]
    fn deeds_that_crossed_may_end_either_way() {
        let mut case = Case::new();
        let early = case.world.ledger.begin(set("1"), Entry::Server(0), case.world.now);
        case.world.ledger.taken(early, case.world.now);
        case.world.ledger.end(early, Ended::Done, case.world.now);
        case.deed(set("2"));
        case.stray("1");
        assert_eq!(case.verdict(), Ok(()), "a server's message may come late");
    }

    #[test]
    fn what_follows_a_late_word_at_the_same_server_may_win_as_that_may() {
        for (at, holds) in [(Entry::Server(0), true), (Entry::Server(1), false)] {
            let mut case = Case::new();
            for (value, at) in [("a", Entry::Server(0)), ("b", at)] {
                let early = case.world.ledger.begin(set(value), at, case.world.now);
                case.world.ledger.taken(early, case.world.now);
                case.world.ledger.end(early, Ended::Done, case.world.now);
            }
            case.world.pass(14_000);
            case.deed(set("2"));
            case.stray("a");
            case.stray("b");
            assert_eq!(case.verdict().is_ok(), holds, "{at:?}");
        }
    }

    /// What a server says before a node takes something else; the node finds it again `later_ms` after it was said.
    fn said_and_found(mesh: bool, tcp: bool, later_ms: u64) -> Result<(), String> {
        let mut case = Case::new();
        let mut script = script(1, 1);
        script.limits.mesh = mesh;
        script.servers[0].tcp = tcp;
        let kind = FaultKind::Cut { from: vec![Host::Server(0)], to: vec![Host::Server(1)], both: true };
        let said_ms = case.world.now.ms();
        script.faults.push(Fault { at_ms: said_ms, until_ms: said_ms + 90_000, kind });
        case.checker = Keys::new(case.world.model.clone(), &script);
        let early = case.world.ledger.begin(set("1"), Entry::Server(0), case.world.now);
        case.world.ledger.taken(early, case.world.now);
        case.world.ledger.end(early, Ended::Done, case.world.now);
        case.world.pass(20_000);
        case.deed(set("2"));
        case.world.pass(later_ms - 40_000);
        case.stray("1");
        case.verdict()
    }

    #[test]
    fn in_a_mesh_a_late_word_may_have_been_taken_in_by_another_server() {
        for (mesh, tcp, later_ms, holds) in [
            (false, false, 60_000, false),
            (true, false, 60_000, true),
            (true, false, LATE_MS + FOUND_MS + 1, false),
            // Over TCP it waits for the end of a cut, and for the next time that it is repeated.
            (true, true, LATE_MS + FOUND_MS + 1, true),
            (true, true, 2 * 90_000 + FOUND_MS + 1, false),
            (false, true, 60_000, false),
        ] {
            assert_eq!(said_and_found(mesh, tcp, later_ms).is_ok(), holds, "mesh {mesh}, TCP {tcp}, {later_ms} ms");
        }
    }

    #[test]
    fn a_5_6_that_changed_an_entry_while_a_node_without_a_disk_was_down_may_be_given_the_old_value_back() {
        for (durable, holds) in [(false, true), (true, false)] {
            let mut case = Case::new();
            let mut script = script(1, 1);
            script.nodes[0].durable = durable;
            let kind = FaultKind::Kill { host: Host::Node(0), disk: DiskLoss::None, new_identity: false };
            script.faults.push(Fault { at_ms: 80_000, until_ms: 200_000, kind });
            case.checker = Keys::new(case.world.model.clone(), &script);
            case.deed(set("1"));
            case.world.pass(40_000);
            case.deed(set("2"));
            let unheard = case.world.ledger.begin(set("3"), Entry::Server(0), case.world.now);
            case.world.ledger.taken(unheard, case.world.now);
            case.world.ledger.end(unheard, Ended::Done, case.world.now);
            case.stray("1");
            assert_eq!(case.verdict().is_ok(), holds, "durable: {durable}");
        }
    }

    #[test]
    fn a_crash_that_took_the_write_obliges_nobody() {
        let mut case = Case::new();
        let kind = FaultKind::Kill { host: Host::Node(0), disk: DiskLoss::Wiped, new_identity: false };
        case.world.script.faults.push(Fault { at_ms: 1, until_ms: 2, kind });
        case.deed(set("1"));
        case.world.crash(0);
        case.world.start(0);
        assert_eq!(case.verdict(), Ok(()));
    }
}
