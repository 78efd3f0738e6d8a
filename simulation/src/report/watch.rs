//! Looking at a run while it goes on: a row a second, and what everybody shows for one key.

use std::collections::BTreeMap;
use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use node::view::DialogView;
use node::{Mono, Node, Now, Value};
use tables::location::{self, Member};
use tables::{dialog, htable, location::TABLE};

use crate::clock::true_wall;
use crate::kamailio::Kamailio;
use crate::run::{Options, Outcome};
use crate::view::View;
use crate::world::{Phase, World};
use crate::{Script, trial};

/// Keys that are looked at when the most disputed one is searched for.
const KEYS_MAX: usize = 20_000;

/// A run, as the page needs it.
#[derive(Clone, Debug)]
pub struct Story {
    /// What was run.
    pub script: Script,
    /// What came of it, with its timeline.
    pub outcome: Outcome,
    /// What everybody showed for one key; `None` if nothing was ever written.
    pub seen: Option<Seen>,
}

/// What everybody showed for a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The key: `TABLE/KEY`, or an address of record.
    pub key: String,
    /// Per participant, nodes first, in the order of the script: from which virtual second on what was shown.
    pub by: Vec<Vec<(u64, Shown)>>,
}

/// What one shows for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It is down.
    Down,
    /// Nothing.
    Nothing,
    /// A value, or contacts one after the other.
    This(String),
}

/// A moment that matters.
pub(super) struct Mark {
    /// When.
    pub(super) at_ms: u64,
    /// Its name.
    pub(super) name: &'static str,
    /// How its line looks; with a space before it.
    pub(super) class: &'static str,
}

impl Story {
    /// The one fault of the run, if there is only one and it ends before load does.
    fn split(&self) -> Option<(u64, u64)> {
        match &self.script.faults[..] {
            [fault] if fault.until_ms + 1_000 < self.script.duration_ms => Some((fault.at_ms, fault.until_ms)),
            _ => None,
        }
    }

    /// After which moment everybody was equal, when that was, and what it was, milliseconds: the heal of a single
    /// split, else the end of load and faults.
    pub(super) fn equality(&self) -> (u64, Option<u64>) {
        let calm = self.script.duration_ms;
        let Some((_, heal)) = self.split() else {
            return (calm, self.outcome.equal_after_ms.map(|after| calm + after));
        };
        let hostile = |at: usize| self.script.servers.get(at).is_some_and(|s| s.hostile);
        let mut later = self.outcome.timeline.iter().filter(|row| row.second * 1_000 > heal);
        let equal = later.find(|row| {
            let servers = row.servers_diverged.iter().enumerate().filter(|(at, _)| !hostile(*at)).map(|(_, n)| n);
            row.diverged.iter().chain(servers).flatten().all(|differ| *differ == 0)
        });
        (heal, equal.map(|row| row.second * 1_000))
    }

    /// The moments that matter.
    pub(super) fn marks(&self) -> Vec<Mark> {
        let mark = |at_ms, name, class| Mark { at_ms, name, class };
        let mut marks = vec![mark(self.script.duration_ms, "calm", "")];
        if let Some((split, heal)) = self.split() {
            marks.extend([mark(split, "split", ""), mark(heal, "heal", "")]);
        }
        marks.extend(self.equality().1.map(|at| mark(at, "equal", " equal")));
        marks.extend(self.outcome.violation.as_ref().map(|v| mark(v.at_us / 1_000, "broken", " bad")));
        marks
    }

    /// How many seconds the run had, as far as it went.
    pub(super) fn seconds(&self) -> u64 {
        let planned = self.script.duration_ms / 1_000;
        let seen = self.outcome.timeline.last().map_or(0, |row| row.second);
        let broken = self.outcome.violation.as_ref().map(|v| v.at_us / 1_000_000);
        broken.map_or(planned.max(seen), |at| at.max(seen)).max(1)
    }
}

/// Runs a script and looks at it. Without a `key`, it is the one that the nodes disagreed on for longest, which takes
/// another run to find.
pub fn watch(script: &Script, key: Option<&str>, options: Options) -> Story {
    let key = key.map(str::to_owned).or_else(|| disputed(script));
    let mut seen = key.map(|key| Seen { by: vec![Vec::new(); script.nodes.len() + script.servers.len()], key });
    let options = Options { timeline: true, ..options };
    let outcome = each_second(script, options, |world, second| {
        if let Some(seen) = &mut seen {
            look(world, second, seen);
        }
    });
    Story { script: script.clone(), outcome, seen }
}

/// Runs a script to its end and looks at it every virtual second.
fn each_second(script: &Script, options: Options, mut look: impl FnMut(&World, u64)) -> Outcome {
    trial::guarded(|| {
        let mut world = World::new(script.clone(), options);
        world.plan_end();
        let end = world.last_moment();
        let mut second = 0;
        while world.violation.is_none() && world.phase != Phase::Over && world.now < end {
            second += 1;
            world.run_until(Mono(0).plus_ms(second * 1_000).min(end));
            look(&world, second);
        }
        world.outcome()
    })
}

/// The key that nodes disagreed on for longest.
fn disputed(script: &Script) -> Option<String> {
    let mut seconds: BTreeMap<String, u64> = BTreeMap::new();
    each_second(script, Options::default(), |world, _| {
        let nodes: Vec<_> = (0..world.nodes()).filter_map(|at| world.node(at).node).collect();
        let held: Vec<_> = nodes.iter().map(|node| sums(node, world)).collect();
        let Some((first, others)) = held.split_first() else { return };
        for key in held.iter().flat_map(BTreeMap::keys) {
            if seconds.len() < KEYS_MAX || seconds.contains_key(key) {
                let differs = others.iter().any(|other| other.get(key) != first.get(key));
                *seconds.entry(key.clone()).or_default() += u64::from(differs);
            }
        }
    });
    // The first of those that were disputed for equally long.
    let longest = seconds.values().copied().max()?;
    seconds.into_iter().find(|(_, count)| *count == longest).map(|(key, _)| key)
}

/// A number per key that is equal where the same versions are held.
fn sums(node: &Node, world: &World) -> BTreeMap<String, u64> {
    let wall = true_wall(world.now);
    let hash = FixedState::with_seed(0);
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for (_, cell) in node.replica().scan(None, usize::MAX).filter(|(_, cell)| cell.is_live(wall)) {
        let key = String::from_utf8_lossy(cell.key);
        let name = match htable::name(cell.table) {
            // Counters change too often to be looked at.
            Some(table) if world.script.htables.get(table).is_some_and(|spec| spec.counter) => continue,
            Some(table) => format!("{table}/{key}"),
            None if cell.table == dialog::TABLE => format!("{}/{key}", dialog::TABLE),
            None if cell.table == TABLE && location::parse_member(cell.member) == Member::Device => key.into_owned(),
            None => continue,
        };
        let sum = sums.entry(name).or_default();
        *sum = sum.wrapping_add(hash.hash_one((cell.member, cell.order)));
    }
    sums
}

fn look(world: &World, second: u64, seen: &mut Seen) {
    let now = Now { mono: world.now, wall: true_wall(world.now) };
    let nodes = (0..world.nodes()).map(|at| {
        let host = world.node(at);
        host.node.map_or(Shown::Down, |node| of_node(node, &seen.key, host.now(world.now)))
    });
    let servers = world.script.servers.iter().map(|spec| match world.server(spec.ix) {
        Some(server) => of_server(server, &seen.key, now),
        None => Shown::Down,
    });
    for (row, shown) in seen.by.iter_mut().zip(nodes.chain(servers)) {
        if row.last().is_none_or(|(_, last)| *last != shown) {
            row.push((second, shown));
        }
    }
}

fn contacts(uris: impl Iterator<Item = String>) -> Shown {
    let mut uris: Vec<_> = uris.collect();
    uris.sort();
    uris.dedup();
    if uris.is_empty() { Shown::Nothing } else { Shown::This(uris.join(" ")) }
}

fn of_node(node: &Node, key: &str, now: Now) -> Shown {
    let Some((table, key)) = key.split_once('/') else {
        return contacts(node.location(key.as_bytes(), now).into_iter().map(|row| row.contact.to_string()));
    };
    if table == dialog::TABLE {
        return node.dialog(key.as_bytes(), now).map_or(Shown::Nothing, |dialog| Shown::This(of_dialog(&dialog)));
    }
    match node.htable_get(table, key.as_bytes(), now).map(|entry| entry.value) {
        Some(Value::Int(value)) => Shown::This(value.to_string()),
        Some(Value::Str(value)) => Shown::This(value.to_string()),
        None => Shown::Nothing,
    }
}

/// A dialog in a line: its state, its variables, its profiles.
fn of_dialog(dialog: &DialogView) -> String {
    let vars = dialog.vars.iter().map(|(name, value)| format!(" {name}={value}"));
    let profiles = dialog.profiles.iter().map(|profile| format!(" +{}", profile.name));
    format!("state {}{}", dialog.state, vars.chain(profiles).collect::<String>())
}

fn of_server(server: &Kamailio, key: &str, now: Now) -> Shown {
    let Some((table, key)) = key.split_once('/') else {
        return contacts(server.lookup(key, now).map(|held| held.contact.uri.to_string()));
    };
    match server.entry(table, key, now).map(|entry| entry.value) {
        Some(htable::Value::Int(value)) => Shown::This(value.to_string()),
        Some(htable::Value::Str(value)) => Shown::This(value.to_string()),
        None => Shown::Nothing,
    }
}
