//! Calls are what their proxies were told: a call that was ended is over everywhere and for ever, with all that was said of
//! it; one that nobody ended is shown until its lifetime is over, in the furthest state that anybody said, with the last
//! acknowledged value of each variable.
//!
//! While things are in motion: whoever ends a dialog removes the variables and profiles that it sees (docs/rules.md 16), and
//! all versions of a dialog have one birth (R1).
//!
//! As with keys, what may have happened either way obliges nobody: deeds without an answer, writes that died with a process
//! before anybody else knew them (nothing-lost says whether they were allowed to), and calls of which anything was said
//! where a clock was wrong: their births and deadlines say nothing.

use std::collections::BTreeMap;

use crdt::{Clock, Replica, Wall};
use node::view::DialogView;
use tables::dialog::{self, Member};

use super::facts::Facts;
use super::{Invariant, Moment, moment_of};
use crate::ledger::{Deed, Ended, What};
use crate::load;
use crate::model::{CellNo, Model, Shared, WriteNo, Written};
use crate::script::Script;
use crate::view::View;

/// See the module.
pub struct Dialogs {
    model: Shared,
    facts: Facts,
    /// The birth of each dialog, by its key.
    births: BTreeMap<Box<[u8]>, u64>,
}

/// What was said of one call.
#[derive(Default)]
struct Story<'a> {
    deeds: Vec<&'a Deed>,
}

/// What is needed to judge.
struct Court<'a> {
    model: &'a Model,
    world: &'a dyn View,
    /// What the nodes that run cover, all together.
    known: Clock,
    /// The dialogs that each node shows, by key.
    shown: Vec<(u16, BTreeMap<String, DialogView>)>,
}

impl Dialogs {
    /// With the model that `unique_dots` keeps up to date.
    pub fn new(model: Shared, script: &Script) -> Self {
        Self { model, facts: Facts::new(script), births: BTreeMap::new() }
    }

    /// Looks at the writes that a node has just made.
    fn made(&mut self, model: &Model, node: usize, (replica, wall): (&Replica, Wall)) -> Result<(), String> {
        for &write in &model.step().made {
            let Written { cell, order, .. } = model.write(write);
            let id = model.id(*cell);
            if *id.table != *dialog::TABLE {
                continue;
            }
            // An end that is only dated anew (docs/rules.md R1) says nothing of what has come since.
            let again = |(other, written): (WriteNo, &Written)| {
                other != write && written.order.removed && model.owner(written.order.dot.origin) == Some(node)
            };
            if order.removed && id.member.is_empty() && !model.of_cell(*cell).any(again) {
                let left = replica
                    .members(&id.table, &id.key)
                    .find(|(_, cell)| cell.is_live(wall) && dialog::parse_member(cell.member) != Member::Dialog);
                if let Some((_, left)) = left {
                    return Err(format!("node {node} made {} and left {left:?}", model.tell(write)));
                }
            }
            let held = replica.shown_by(order.dot).and_then(|slot| replica.cell(slot));
            let held = held.filter(|held| held.body.is_some());
            if let Some((birth, deadline)) = held.and_then(|held| held.birth.zip(held.deadline)) {
                let latest = birth + u64::from(self.facts.script().limits.dialog_max_life_s);
                if deadline > latest {
                    return Err(format!("node {node} made {}, which may not outlive {latest}", model.tell(write)));
                }
                let first = *self.births.entry(id.key.clone()).or_insert(birth);
                if first != birth {
                    return Err(format!("node {node} made {} with birth {birth}, not {first}", model.tell(write)));
                }
            }
        }
        Ok(())
    }

    fn judge(&self, model: &Model, world: &dyn View) -> Result<(), String> {
        let stories = stories(world);
        if stories.is_empty() {
            return Ok(());
        }
        let court = Court { model, world, known: model.known(world), shown: shown(world) };
        stories.iter().try_for_each(|(call, story)| {
            self.judge_call(*call, story, &court).map_err(|wrong| format!("call {call}: {wrong}"))
        })
    }

    fn judge_call(&self, call: u32, story: &Story<'_>, court: &Court<'_>) -> Result<(), String> {
        let now = court.world.now();
        let key = load::dialog_key(call);
        let cell = court.model.find(dialog::TABLE, key.as_bytes(), b"");
        let ends = |write: &&Written| write.order.removed;
        let end = cell.and_then(|cell| court.writes(cell).map(|(_, write)| write).find(ends));
        let byes = story.done().filter(|deed| matches!(deed.what, What::Bye { .. }));
        if let (Some(bye), None) = (byes.last(), end) {
            return Err(format!("{}, and no node wrote its end", tell(bye)));
        }
        if story.deeds.iter().any(|deed| self.facts.wrong_clock_on_the_way(deed.at, deed.begun, now)) {
            return Ok(());
        }
        let Some(cell) = cell else {
            return story.done().next().map_or(Ok(()), |deed| Err(format!("{}, and no node wrote it", tell(deed))));
        };
        if let Some((write, _)) = court.known_writes(cell).find(|(_, write)| write.order.removed) {
            let showing = court.shown.iter().find(|(_, dialogs)| dialogs.contains_key(&key));
            return showing.map_or(Ok(()), |(node, dialogs)| {
                let (dialog, end) = (&dialogs[&key], court.model.tell(write));
                Err(format!("node {node} shows {dialog:?}, though it was ended by {end}"))
            });
        }
        self.must_live(story, (&key, cell), end.is_some(), court)
    }

    /// Judges a call of whose end nothing is known any more, if anything ever was (`ended`).
    fn must_live(
        &self,
        story: &Story<'_>,
        (key, cell): (&str, CellNo),
        ended: bool,
        court: &Court<'_>,
    ) -> Result<(), String> {
        // The furthest state that is known; how long it lives was said with the INVITE, and by a refresh once more.
        let said = story.deeds.iter().filter_map(|deed| match deed.what {
            What::Call { state, lifetime_s, .. } => Some((*deed, state, lifetime_s)),
            _ => None,
        });
        let mut lives = said.clone().filter_map(|(deed, _, lifetime_s)| Some((deed, deed.taken?, lifetime_s?)));
        let Some((_, began, lifetime_s)) = lives.next() else { return Ok(()) };
        let refresh = lives.rfind(|(deed, ..)| court.is_known(deed, cell));
        let lasts_ms = refresh.map_or(0, |(_, at, _)| at.ms_since(began)) + u64::from(lifetime_s) * 1_000;
        let furthest = said.filter(|(deed, ..)| court.is_known(deed, cell)).max_by_key(|(_, state, _)| *state);
        let Some((deed, state, _)) = furthest else { return Ok(()) };
        let lives_ms = lasts_ms.min(u64::from(self.facts.script().limits.dialog_max_life_s) * 1_000);
        let (now, tolerance) = (court.world.now(), self.facts.tolerance_ms());
        for (node, dialogs) in &court.shown {
            match dialogs.get(key) {
                Some(dialog) if now > began.plus_ms(lives_ms + tolerance) => {
                    let began = moment_of(began);
                    return Err(format!(
                        "node {node} shows {dialog:?}, which began at {began} and lives {lives_ms} ms"
                    ));
                }
                Some(dialog) if dialog.state != state => {
                    return Err(format!("node {node} shows {dialog:?}, though {}", tell(deed)));
                }
                Some(dialog) if !ended => self.judge_words(story, (key, dialog), *node, court)?,
                Some(_) => {}
                None if now < began.plus_ms(lives_ms.saturating_sub(tolerance)) => {
                    return Err(format!("node {node} does not show it, though {} and nobody ended it", tell(deed)));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Judges variables and profiles of a call that was never ended.
    fn judge_words(
        &self,
        story: &Story<'_>,
        (key, dialog): (&str, &DialogView),
        node: u16,
        court: &Court<'_>,
    ) -> Result<(), String> {
        let cell = |member: Result<Vec<u8>, _>| court.model.find(dialog::TABLE, key.as_bytes(), &member.ok()?);
        let mut vars: BTreeMap<&str, Vec<(&Deed, &str)>> = BTreeMap::new();
        for deed in &story.deeds {
            match &deed.what {
                What::CallVar { name, value, .. } => vars.entry(name).or_default().push((deed, value)),
                What::CallProfile { name, .. } if is_done(deed) => {
                    let kept = cell(dialog::profile_member(name.as_bytes())).is_some_and(|c| court.is_known(deed, c));
                    if kept && !dialog.profiles.iter().any(|profile| profile.name == name.as_bytes()) {
                        return Err(format!("node {node} shows {dialog:?}, though {}", tell(deed)));
                    }
                }
                _ => {}
            }
        }
        for (name, set) in vars {
            let Some(cell) = cell(dialog::var_member(name.as_bytes())) else { continue };
            let kept = set.iter().filter(|(deed, _)| is_done(deed) && court.is_known(deed, cell));
            let Some((last, _)) = kept.max_by_key(|(deed, _)| deed.taken) else { continue };
            let value = dialog.vars.get(name.as_bytes()).map(ToString::to_string);
            // Of what was said at about the same time either may be the later one, by somebody's clock.
            let tolerance = self.facts.tolerance_ms();
            let may = |(deed, set): &(&Deed, &str)| {
                let late = deed.taken.is_some_and(|at| Some(at.plus_ms(tolerance)) >= last.taken);
                Some(*set) == value.as_deref() && !is_refused(deed) && late
            };
            if !set.iter().any(may) {
                return Err(format!("node {node} shows {name} as {value:?}, though {}", tell(last)));
            }
        }
        Ok(())
    }
}

impl<'a> Court<'a> {
    fn writes(&self, cell: CellNo) -> impl Iterator<Item = (WriteNo, &'a Written)> {
        self.model.of_cell(cell)
    }

    /// Those that a node which runs covers.
    fn known_writes(&self, cell: CellNo) -> impl Iterator<Item = (WriteNo, &'a Written)> {
        self.writes(cell).filter(|(_, write)| self.known.contains(write.order.dot))
    }

    /// Whether a deed was written, and is covered by a node that runs.
    fn is_known(&self, deed: &Deed, cell: CellNo) -> bool {
        let Some(owner) = deed.node().and_then(|ix| self.world.position(ix)) else { return false };
        let made_there = |write: &Written| self.model.owner(write.order.dot.origin) == Some(owner);
        self.known_writes(cell).any(|(_, write)| {
            Some(write.at) == deed.taken && !write.order.removed && made_there(write) && !is_refused(deed)
        })
    }
}

impl<'a> Story<'a> {
    fn done(&self) -> impl Iterator<Item = &'a Deed> {
        self.deeds.iter().copied().filter(|deed| is_done(deed))
    }
}

fn is_done(deed: &Deed) -> bool {
    matches!(deed.ended, Some((_, Ended::Done)))
}

fn is_refused(deed: &Deed) -> bool {
    matches!(deed.ended, Some((_, Ended::Refused)))
}

fn tell(deed: &Deed) -> String {
    let at = deed.taken.map_or("never".to_owned(), moment_of);
    format!("{:?} was taken at {:?} at {at}", deed.what, deed.at)
}

fn stories(world: &dyn View) -> BTreeMap<u32, Story<'_>> {
    let mut stories: BTreeMap<u32, Story<'_>> = BTreeMap::new();
    for deed in world.ledger().deeds() {
        if let What::Call { call, .. }
        | What::CallVar { call, .. }
        | What::CallProfile { call, .. }
        | What::Bye { call } = deed.what
        {
            stories.entry(call).or_default().deeds.push(deed);
        }
    }
    stories
}

/// What every node that runs shows.
fn shown(world: &dyn View) -> Vec<(u16, BTreeMap<String, DialogView>)> {
    let mut shown = Vec::new();
    for node in 0..world.nodes() {
        let host = world.node(node);
        let Some(running) = host.node else { continue };
        let listed = running.dialogs(None, usize::MAX, host.now(world.now()));
        let by_key = listed.into_iter().map(|dialog| (format!("{};{}", dialog.callid, dialog.from_tag), dialog));
        shown.push((host.spec.ix, by_key.collect()));
    }
    shown
}

impl Invariant for Dialogs {
    fn name(&self) -> &'static str {
        "dialogs"
    }

    fn at(&mut self, moment: Moment, world: &dyn View) -> Result<(), String> {
        let model = self.model.clone();
        let model = model.borrow();
        match moment {
            Moment::Stepped { node, .. } if !model.step().made.is_empty() => {
                let host = world.node(node);
                let Some(running) = host.node else { return Ok(()) };
                self.made(&model, node, (running.replica(), host.wall))
            }
            Moment::Equal => self.judge(&model, world),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crdt::{NodeId, Origin, Rank, Rules, StampRule, TableRules, Write};
    use node::Mono;

    use super::super::fake::{World, script};
    use super::*;
    use crate::invariants::Kind;
    use crate::script::{DiskLoss, Entry, Fault, FaultKind, Host, Limits};

    const CALL: u32 = 7;

    fn state(state: u8) -> What {
        What::Call { call: CALL, state, lifetime_s: (state == 1).then_some(600) }
    }

    fn var(value: &str) -> What {
        What::CallVar { call: CALL, name: "a".into(), value: value.into() }
    }

    fn profile() -> What {
        What::CallProfile { call: CALL, name: "active".into() }
    }

    const BYE: What = What::Bye { call: CALL };

    struct Case {
        world: World,
        checker: Dialogs,
    }

    impl Case {
        /// A call that was answered, at the first of so many nodes.
        fn new(nodes: u16) -> Self {
            let world = World::new(script(nodes, 0));
            let checker = Dialogs::new(world.model.clone(), &world.script);
            let mut case = Self { world, checker };
            case.deed(state(1));
            case.deed(state(4));
            case
        }

        fn deed(&mut self, what: What) {
            self.world.deed(0, what);
            self.checker.at(Moment::Stepped { node: 0, input: Kind::Command }, &self.world).unwrap();
            self.world.pass(20_000);
        }

        /// Something that no deed of this moment did.
        fn stray(&mut self, what: &What) {
            assert!(self.world.command(0, load::command(what).unwrap()));
        }

        /// A deed of which it is only claimed that it was done.
        fn claim(&mut self, what: What) {
            let deed = self.world.ledger.begin(what, Entry::Node(0), self.world.now);
            self.world.ledger.taken(deed, self.world.now);
            self.world.ledger.end(deed, Ended::Done, self.world.now);
        }

        fn verdict(&mut self) -> Result<(), String> {
            self.checker.at(Moment::Equal, &self.world)
        }
    }

    #[test]
    fn a_call_that_goes_as_calls_go_passes_at_each_of_its_stages() {
        let mut case = Case::new(1);
        assert_eq!(case.verdict(), Ok(()));
        for what in [var("1"), profile(), var("2"), state(2), BYE, BYE, state(4), var("3")] {
            case.deed(what);
            assert_eq!(case.verdict(), Ok(()));
        }
    }

    #[test]
    fn a_call_that_ends_by_itself_passes_and_one_that_ends_early_is_found() {
        let mut case = Case::new(1);
        case.world.pass(600_000);
        assert_eq!(case.verdict(), Ok(()));
        let mut case = Case::new(1);
        case.stray(&What::Call { call: CALL, state: 4, lifetime_s: Some(5) });
        case.world.pass(6_000);
        assert!(case.verdict().unwrap_err().contains("does not show it"));
    }

    #[test]
    fn a_call_that_outlives_its_lifetime_is_found() {
        let mut case = Case::new(1);
        case.stray(&What::Call { call: CALL, state: 4, lifetime_s: Some(1_200) });
        case.world.pass(700_000);
        let wrong = case.verdict().unwrap_err();
        assert!(wrong.contains("call 7: node 0 shows") && wrong.contains("lives 600000 ms"), "{wrong}");
    }

    #[test]
    fn a_call_that_was_refreshed_lives_from_there() {
        let mut case = Case::new(1);
        case.world.pass(300_000);
        case.deed(What::Call { call: CALL, state: 4, lifetime_s: Some(600) });
        for _ in 0..2 {
            assert_eq!(case.verdict(), Ok(()));
            case.world.pass(350_000);
        }
        assert_eq!(case.verdict(), Ok(()), "it has ended by itself");
    }

    #[test]
    fn a_call_that_is_not_shown_everywhere_is_found_live_and_ended() {
        // The second node hears nothing of the first.
        let mut case = Case::new(2);
        let wrong = case.verdict().unwrap_err();
        assert!(wrong.contains("node 1 does not show it"), "{wrong}");
        let mut case = Case::new(2);
        case.world.command(1, load::command(&state(1)).unwrap());
        case.deed(BYE);
        let wrong = case.verdict().unwrap_err();
        assert!(wrong.contains("node 1 shows") && wrong.contains("though it was ended by the removal"), "{wrong}");
    }

    #[test]
    fn a_state_variable_or_profile_that_is_not_the_acknowledged_one_is_found() {
        let mut case = Case::new(1);
        case.deed(var("1"));
        case.world.pass(60_000);
        case.deed(var("2"));
        case.stray(&var("1"));
        assert!(case.verdict().unwrap_err().contains("shows a as Some(\"1\"), though CallVar"));
        let mut case = Case::new(1);
        case.deed(profile());
        let (id, name) = (load::dialog_id(CALL), "active".into());
        case.world.command(0, node::Command::DialogProfile { id, name, value: None, counts: false });
        assert!(case.verdict().unwrap_err().contains("though CallProfile"));
    }

    #[test]
    fn an_end_that_nobody_wrote_is_found() {
        let mut case = Case::new(1);
        case.claim(BYE);
        assert!(case.verdict().unwrap_err().contains("no node wrote its end"));
    }

    /// A replica without a node around it, so that a test can bend it, and a checker that looks on.
    struct Bare {
        replica: Replica,
        model: Model,
        checker: Dialogs,
    }

    const WALL: Wall = Wall(1_800_000_000_000);

    impl Bare {
        fn new() -> Self {
            let rules = Rules::new(60, 1_000).table("dialog", TableRules::by_birth(600));
            let replica = Replica::new(NodeId(1), Origin(1), rules, 1);
            let mut model = Model::default();
            model.start(0, Origin(1), &replica, WALL, Mono(0)).unwrap();
            Self { replica, model, checker: Dialogs::new(Model::shared(), &script(1, 0)) }
        }

        fn write(&mut self, member: &[u8], rank: Rank, body: Option<&[u8]>, birth: u64) -> Result<(), String> {
            let (table, key, stamp, deadline) = ("dialog", &b"c;t"[..], StampRule::Now, Some(u64::MAX));
            let birth = Some(birth);
            self.replica.write(WALL, Write { table, key, member, rank, stamp, deadline, body, via: 0, birth }).unwrap();
            self.replica.drain_changes();
            self.model.stepped(0, &self.replica, WALL, Mono(1)).unwrap();
            self.checker.made(&self.model, 0, (&self.replica, WALL))
        }
    }

    #[test]
    fn an_end_that_leaves_a_variable_is_found() {
        let mut bare = Bare::new();
        let birth = WALL.secs() - 5;
        assert_eq!(bare.write(b"", 4, Some(b"x"), birth), Ok(()));
        assert_eq!(bare.write(b"var/a", 0, Some(b"x"), birth), Ok(()));
        let wrong = bare.write(b"", 5, None, birth).unwrap_err();
        assert!(wrong.contains("made the removal") && wrong.contains("and left"), "{wrong}");
    }

    #[test]
    fn an_end_that_is_dated_anew_may_leave_what_has_come_since() {
        let mut bare = Bare::new();
        let birth = WALL.secs() - 5;
        assert_eq!(bare.write(b"", 5, None, birth), Ok(()));
        assert_eq!(bare.write(b"var/a", 0, Some(b"x"), birth), Ok(()));
        assert_eq!(bare.write(b"", 5, None, birth + 1), Ok(()));
    }

    #[test]
    fn a_version_that_outlives_what_its_birth_allows_is_found() {
        let mut bare = Bare::new();
        // Its table would let it live for 600 s, the script for 300.
        bare.checker.facts =
            Facts::new(&Script { limits: Limits { dialog_max_life_s: 300, ..script(1, 0).limits }, ..script(1, 0) });
        let wrong = bare.write(b"", 4, Some(b"x"), WALL.secs() - 5).unwrap_err();
        assert!(wrong.contains("which may not outlive 1800000295"), "{wrong}");
    }

    #[test]
    fn a_version_with_a_birth_of_its_own_is_found() {
        let mut bare = Bare::new();
        assert_eq!(bare.write(b"", 4, Some(b"x"), WALL.secs() - 5), Ok(()));
        let wrong = bare.write(b"var/a", 0, Some(b"x"), WALL.secs() - 4).unwrap_err();
        assert!(wrong.contains("with birth 1799999996, not 1799999995"), "{wrong}");
    }

    #[test]
    fn a_crash_that_took_the_end_obliges_nobody() {
        let mut case = Case::new(1);
        let kind = FaultKind::Kill { host: Host::Node(0), disk: DiskLoss::Wiped, new_identity: false };
        case.world.script.faults.push(Fault { at_ms: 1, until_ms: 2, kind });
        case.deed(BYE);
        case.world.crash(0);
        case.world.start(0);
        assert_eq!(case.verdict(), Ok(()));
    }
}
