//! What phones were told holds in the end, everywhere: who registered last and was answered is reachable at every node
//! and every attached server, who left and was answered is reachable nowhere.
//!
//! Judged when all are equal, by the ledger alone; the model only tells whether a node ever heard of something that a
//! server took. What may have happened either way obliges nobody: deeds without an answer, what crossed within the
//! tolerance of clocks, what a server took to its grave before a node heard of it (docs/operation.md, "What is kept").

use std::collections::{BTreeMap, BTreeSet};

use crdt::{Clock, Wall};
use node::Mono;
use tables::location::{self, Contact, Member};

use super::facts::Facts;
use super::{Invariant, Moment};
use crate::ledger::{Deed, Ended, What};
use crate::model::{CellNo, Model, Shared, Written};
use crate::script::{Entry, Host, Script};
use crate::view::View;

/// A message of a server whose first copies were lost arrives this late at most, milliseconds (RFC 3261, timer F, and
/// what a slow path adds).
const LATE_MS: u64 = 35_000;

/// See the module.
pub struct Phones {
    model: Shared,
    facts: Facts,
    /// The cells of each contact URI.
    cells: BTreeMap<String, BTreeSet<CellNo>>,
}

/// What one phone did.
#[derive(Default)]
struct Story<'a> {
    aor: &'a str,
    uri: &'a str,
    registers: Vec<&'a Deed>,
    /// Its own removals, and those of everything under its address of record.
    removals: Vec<&'a Deed>,
}

/// What is needed to judge.
struct Court<'a> {
    model: &'a Model,
    world: &'a dyn View,
    /// What the nodes that run cover, all together.
    known: Clock,
    /// Who is asked, with what is shown there.
    shown: Vec<(String, BTreeSet<String>)>,
}

impl Phones {
    /// With the model that `unique_dots` keeps up to date.
    pub fn new(model: Shared, script: &Script) -> Self {
        Self { model, facts: Facts::new(script), cells: BTreeMap::new() }
    }

    /// Notes whose cell a new write is.
    fn note(&mut self, model: &Model, node: usize, world: &dyn View) {
        let host = world.node(node);
        let Some(running) = host.node else { return };
        for &write in &model.step().made {
            let Written { cell, order, .. } = model.write(write);
            if order.removed || *model.id(*cell).table != *location::TABLE {
                continue;
            }
            let replica = running.replica();
            let held = replica.shown_by(order.dot).and_then(|slot| replica.cell(slot));
            let Some(held) = held.filter(|held| location::parse_member(held.member) == Member::Device) else {
                continue;
            };
            let contact = held.body.and_then(|body| Contact::decode(body, held.member).ok());
            if let Some(uri) = contact.and_then(|contact| String::from_utf8(contact.uri.to_vec()).ok()) {
                self.cells.entry(uri).or_default().insert(*cell);
            }
        }
    }

    fn judge(&self, model: &Model, world: &dyn View) -> Result<(), String> {
        let known = model.known(world);
        let court = Court { model, world, known, shown: shown(world) };
        for (phone, story) in stories(world) {
            self.must_be_shown(&story, &court).map_err(|wrong| format!("phone {phone}: {wrong}"))?;
            self.must_be_gone(&story, &court).map_err(|wrong| format!("phone {phone}: {wrong}"))?;
        }
        Ok(())
    }

    /// Writes of a phone's cell that were made at or after a moment.
    fn writes<'a>(
        &'a self,
        model: &'a Model,
        uri: &str,
        since: Mono,
        removed: bool,
    ) -> impl Iterator<Item = &'a Written> {
        let cells = self.cells.get(uri).into_iter().flatten();
        let writes = cells.flat_map(|&cell| model.of_cell(cell)).map(|(_, write)| write);
        writes.filter(move |write| write.at >= since && write.order.removed == removed)
    }

    fn must_be_shown(&self, story: &Story<'_>, court: &Court<'_>) -> Result<(), String> {
        let now = court.world.now();
        let Some((last, taken)) = last_done(&story.registers) else { return Ok(()) };
        let What::Register { expires_s, .. } = last.what else { return Ok(()) };
        let tolerance = self.facts.tolerance_ms();
        // A contact that lives longer than a cell is a lease that its node has to renew; that is another promise.
        let lives_s = u64::from(expires_s.min(self.facts.script().limits.location_max_ttl_s));
        let lives_ms = (lives_s * 1_000).saturating_sub(tolerance);
        if taken.plus_ms(lives_ms) <= now {
            return Ok(());
        }
        // A removal that may have been the later event, by somebody's clock.
        let removed = |removal: &&&Deed| when(removal).is_some_and(|at| at.plus_ms(tolerance) >= taken);
        if story.removals.iter().find(removed).is_some() || self.has_wrong_clocks(story, now) {
            return Ok(());
        }
        let end = self.end_s(taken, lives_s, court.world);
        let mut writes = self.writes(court.model, story.uri, taken, false);
        let heard = |write: &Written| write.deadline.is_none_or(|deadline| deadline + tolerance / 1_000 >= end);
        let kept = writes.find(|write| heard(write) && court.known.contains(write.order.dot));
        if kept.is_none() && !self.must_be_heard(story, last, taken, court)? {
            return Ok(());
        }
        let lacking = court.shown.iter().find(|(_, uris)| !uris.contains(story.uri));
        let Some((who, _)) = lacking else { return Ok(()) };
        let counts = self.what_counts(story, court);
        Err(format!("{} is not shown at {who}, though {}; {counts}", story.uri, tell(last)))
    }

    /// Whether a node must know of a registration of which no write is left.
    fn must_be_heard(&self, story: &Story<'_>, last: &Deed, taken: Mono, court: &Court<'_>) -> Result<bool, String> {
        match last.at {
            Entry::Node(_) => {
                // Written and gone: nothing-lost knows whether it may be.
                let written = self.writes(court.model, story.uri, taken, false).next().is_some();
                if written { Ok(false) } else { Err(format!("no node wrote anything, though {}", tell(last))) }
            }
            Entry::Server(ix) => {
                let spec = self.facts.script().servers.iter().find(|spec| spec.ix == ix);
                let Some(spec) = spec else { return Ok(false) };
                let served = !spec.nodes.is_empty() && spec.memory_contacts == 0 && !spec.hostile;
                let killed = self.facts.killed(Host::Server(ix), taken, court.world.now());
                let stands = court.world.server(ix).is_some_and(|server| server.fallen().is_none());
                Ok(served && stands && !killed)
            }
        }
    }

    fn must_be_gone(&self, story: &Story<'_>, court: &Court<'_>) -> Result<(), String> {
        let Some((last, taken)) = last_done(&story.removals) else { return Ok(()) };
        let tolerance = self.facts.tolerance_ms();
        // A registration that may have been the later event: by somebody's clock, or because its message came late.
        let later = |register: &&&Deed| {
            let late = if register.at == last.at { tolerance } else { tolerance.max(LATE_MS) };
            when(register).is_some_and(|at| at.plus_ms(late) >= taken)
        };
        if story.registers.iter().find(later).is_some() || self.has_wrong_clocks(story, court.world.now()) {
            return Ok(());
        }
        if !self.was_removed(story, last, taken, court) {
            return Ok(());
        }
        let showing = court.shown.iter().find(|(_, uris)| uris.contains(story.uri));
        let Some((who, _)) = showing else { return Ok(()) };
        let counts = self.what_counts(story, court);
        Err(format!("{} is shown at {who}, though {}; {counts}", story.uri, tell(last)))
    }

    /// Whether a removal that was answered must have taken effect in the mesh: it took away what was registered at the
    /// same place, and a node heard of it, or must have.
    ///
    /// It need not where it was asked for at another place than the registration: a server answers 200 to the removal of
    /// what it does not have, and an operator's removal loses to what its node had not seen.
    fn was_removed(&self, story: &Story<'_>, last: &Deed, taken: Mono, court: &Court<'_>) -> bool {
        let same_place = last_done(&story.registers).is_some_and(|(register, _)| register.at == last.at);
        let once = story.registers.iter().all(|register| register.at == last.at);
        // Of what it took away: what a node finds absent, after it lost what it knew of that, may be an older version.
        let since = last_done(&story.registers).map_or(taken, |(_, at)| at);
        let taken_away = self.writes(court.model, story.uri, since, false).filter(|write| write.at <= taken);
        let greatest = taken_away.map(|write| write.order).max();
        let removals = self.writes(court.model, story.uri, taken, true).map(|write| write.order);
        let heard = removals.filter(|order| Some(*order) > greatest).any(|order| court.known.contains(order.dot));
        match last.at {
            // Whatever else was registered elsewhere may not have been seen by the node.
            Entry::Node(_) => once && heard,
            Entry::Server(_) if heard => same_place,
            Entry::Server(ix) => {
                // The server has told nobody: it was cut off, or it and its node went down. What such a server removes is
                // given back to it where the node cannot know better (docs/kamailio.md).
                let way = self.facts.way_of(last.at);
                let (before, after) = (Mono(taken.0.saturating_sub(LATE_MS * 1_000)), taken.plus_ms(LATE_MS));
                let stands = court.world.server(ix).is_some_and(|server| server.fallen().is_none());
                let served = !self.facts.nodes_of(ix).is_empty();
                same_place && served && stands && !self.facts.disturbed(&way, before, after, LATE_MS)
            }
        }
    }

    /// Whether a clock beyond the tolerated offset may have stamped anything about this phone: such stamps say nothing
    /// about what was later.
    fn has_wrong_clocks(&self, story: &Story<'_>, now: Mono) -> bool {
        let mut all = story.registers.iter().chain(&story.removals);
        all.any(|deed| self.facts.wrong_clock_on_the_way(deed.at, deed.begun, now))
    }

    fn end_s(&self, taken: Mono, lives_s: u64, world: &dyn View) -> u64 {
        let ago_ms = world.now().ms_since(taken);
        Wall(world.true_wall().0.saturating_sub(ago_ms)).secs() + lives_s
    }

    fn what_counts(&self, story: &Story<'_>, court: &Court<'_>) -> String {
        let cells = self.cells.get(story.uri).into_iter().flatten();
        let best = cells.filter_map(|&cell| court.model.plainly(&court.known, cell));
        let told: Vec<String> = best.map(|write| court.model.tell(write)).collect();
        if told.is_empty() {
            "nothing was ever written of it".into()
        } else {
            format!("what counts is {}", told.join(", "))
        }
    }
}

/// When a deed happened, if it may have happened.
fn when(deed: &Deed) -> Option<Mono> {
    let refused = matches!(deed.ended, Some((_, Ended::Refused)));
    deed.taken.filter(|_| !refused)
}

/// The deed that was taken last of those that were answered.
fn last_done<'a>(deeds: &[&'a Deed]) -> Option<(&'a Deed, Mono)> {
    let done = deeds.iter().filter(|deed| matches!(deed.ended, Some((_, Ended::Done))));
    done.filter_map(|deed| Some((*deed, deed.taken?))).max_by_key(|(_, taken)| *taken)
}

fn tell(deed: &Deed) -> String {
    let what = match &deed.what {
        What::Register { expires_s, cseq, .. } => format!("a registration (CSeq {cseq}, {expires_s} s)"),
        What::Unregister { .. } => "its removal".to_owned(),
        _ => "the removal of all contacts".to_owned(),
    };
    let at = deed.taken.map_or("never".to_owned(), super::moment_of);
    format!("{what} was answered at {:?}, taken at {at}", deed.at)
}

fn stories(world: &dyn View) -> BTreeMap<u32, Story<'_>> {
    let mut stories: BTreeMap<u32, Story<'_>> = BTreeMap::new();
    let mut all: BTreeMap<&str, Vec<&Deed>> = BTreeMap::new();
    for deed in world.ledger().deeds() {
        match &deed.what {
            What::Register { phone, aor, uri, .. } => {
                let story = stories.entry(*phone).or_default();
                (story.aor, story.uri) = (aor, uri);
                story.registers.push(deed);
            }
            What::Unregister { phone, .. } => stories.entry(*phone).or_default().removals.push(deed),
            What::RemoveAll { aor, .. } => all.entry(aor).or_default().push(deed),
            _ => {}
        }
    }
    for story in stories.values_mut() {
        story.removals.extend(all.get(story.aor).into_iter().flatten());
    }
    stories.retain(|_, story| !story.uri.is_empty());
    stories
}

/// Everybody who must show the same contacts, with the URIs that are shown there.
fn shown(world: &dyn View) -> Vec<(String, BTreeSet<String>)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut shown = Vec::new();
    for node in 0..world.nodes() {
        let host = world.node(node);
        let Some(running) = host.node else { continue };
        let listed = running.location_list(None, usize::MAX, host.now(world.now()));
        let uris = listed.into_iter().flat_map(|(_, contacts)| contacts).map(|contact| text(&contact.contact));
        shown.push((format!("node {}", host.spec.ix), uris.collect()));
    }
    let now = node::Now { mono: world.now(), wall: world.true_wall() };
    for spec in &world.script().servers {
        // One that may be full is not given everything.
        let counts = !spec.hostile && spec.memory_contacts == 0 && !spec.nodes.is_empty();
        let Some(server) = world.server(spec.ix).filter(|server| counts && server.fallen().is_none()) else { continue };
        let uris = server.contacts(now).map(|held| text(&held.contact.uri));
        shown.push((format!("server {}", spec.ix), uris.collect()));
    }
    shown
}

impl Invariant for Phones {
    fn name(&self) -> &'static str {
        "phones"
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

    const URI: &str = "sip:u1-1@198.51.0.2:5060";

    fn register(expires_s: u32) -> What {
        What::Register { phone: 1, aor: "u1@sim.example".into(), uri: URI.into(), expires_s, cseq: 1 }
    }

    fn unregister() -> What {
        What::Unregister { phone: 1, aor: "u1@sim.example".into(), uri: URI.into() }
    }

    struct Case {
        world: World,
        checker: Phones,
    }

    impl Case {
        fn new(nodes: u16) -> Self {
            let world = World::new(script(nodes, 0));
            let checker = Phones::new(world.model.clone(), &world.script);
            Self { world, checker }
        }

        fn deed(&mut self, what: What) -> u32 {
            let deed = self.world.deed(0, what);
            self.checker.at(Moment::Stepped { node: 0, input: Kind::Command }, &self.world).unwrap();
            self.world.pass(20_000);
            deed
        }

        fn verdict(&mut self) -> Result<(), String> {
            self.checker.at(Moment::Equal, &self.world)
        }
    }

    #[test]
    fn who_is_shown_as_the_ledger_says_passes() {
        let mut case = Case::new(1);
        case.deed(register(600));
        assert_eq!(case.verdict(), Ok(()));
        case.deed(unregister());
        assert_eq!(case.verdict(), Ok(()));
        case.deed(register(60));
        case.world.pass(60_000);
        assert_eq!(case.verdict(), Ok(()), "it has expired");
    }

    #[test]
    fn a_registered_phone_that_is_not_shown_everywhere_is_found() {
        let mut case = Case::new(2);
        case.deed(register(600));
        let wrong = case.verdict().unwrap_err();
        assert!(wrong.contains("phone 1") && wrong.contains("is not shown at node 1"), "{wrong}");
    }

    #[test]
    fn a_phone_that_left_and_is_shown_is_found() {
        let mut case = Case::new(1);
        case.deed(register(600));
        case.deed(unregister());
        // It comes back, though nobody registers.
        let aor = "u1@sim.example".into();
        let contact = node::NewContact { aor, contact: URI.into(), expires_in: 600, ..node::NewContact::default() };
        assert!(case.world.command(0, node::Command::LocationAdd(Box::new(contact))));
        let wrong = case.verdict().unwrap_err();
        assert!(wrong.contains("is shown at node 0, though its removal was answered"), "{wrong}");
    }

    #[test]
    fn an_answer_without_a_write_is_found() {
        let mut case = Case::new(1);
        let at = Entry::Node(0);
        let deed = case.world.ledger.begin(register(600), at, case.world.now);
        case.world.ledger.taken(deed, case.world.now);
        case.world.ledger.end(deed, Ended::Done, case.world.now);
        let wrong = case.verdict().unwrap_err();
        assert!(wrong.contains("no node wrote anything"), "{wrong}");
    }

    #[test]
    fn a_removal_without_an_answer_obliges_nobody() {
        let mut case = Case::new(2);
        case.deed(register(600));
        let deed = case.world.ledger.begin(unregister(), Entry::Node(1), case.world.now);
        case.world.ledger.taken(deed, case.world.now);
        case.world.ledger.end(deed, Ended::Unknown, case.world.now);
        assert_eq!(case.verdict(), Ok(()));
    }

    #[test]
    fn what_a_server_took_to_its_grave_obliges_nobody() {
        let mut world = World::new(script(1, 1));
        let mut checker = Phones::new(world.model.clone(), &world.script);
        let deed = world.ledger.begin(register(600), Entry::Server(0), world.now);
        world.ledger.taken(deed, world.now);
        world.ledger.end(deed, Ended::Done, world.now);
        // The fake world's server is down.
        assert_eq!(checker.at(Moment::Equal, &world), Ok(()));
    }
}
