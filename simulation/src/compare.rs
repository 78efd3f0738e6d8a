//! One script three ways: servers of 5.6 in a full mesh of their own, servers of 6.x likewise, and Starling between them.
//!
//! The same phones and writers do the same at the same servers, and the same cuts divide them. What is counted is what
//! the platform's users meet: contacts and table entries that are not the same on all servers. Nothing is assumed about
//! what is right; only whether all say the same.

use std::collections::BTreeMap;

use node::{Mono, Now};
use serde::Serialize;

use crate::clock::true_wall;
use crate::run::{Options, TrafficRow};
use crate::script::{Entry, Generation, Script};
use crate::view::View;
use crate::world::World;
use crate::{Violation, shrink};

/// How often servers are compared once all faults are over, milliseconds of virtual time.
const LOOK_MS: u64 = 100;

/// What servers hold, compared with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Differing {
    /// Pairs of address of record and contact that are not on all servers.
    pub contacts: u64,
    /// All such pairs on any server.
    pub contacts_of: u64,
    /// Table keys whose value is not the same on all servers.
    pub keys: u64,
    /// All table keys on any server.
    pub keys_of: u64,
}

impl Differing {
    fn is_equal(self) -> bool {
        self.contacts == 0 && self.keys == 0
    }
}

/// One of the three ways.
#[derive(Clone, Debug, Serialize)]
pub struct Way {
    /// What it is, in words.
    pub title: &'static str,
    /// When the last fault was over.
    pub at_heal: Differing,
    /// At the end of the run.
    pub at_end: Differing,
    /// When all servers were equal first after the last fault, virtual milliseconds after it; `None`: never.
    pub equal_after_ms: Option<u64>,
    /// Traffic.
    pub traffic: TrafficRow,
    /// A broken promise; only with Starling are there any.
    pub violation: Option<Violation>,
    /// Every virtual second.
    pub seconds: Vec<Differing>,
}

/// The three ways of one script.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The scenario.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// When the first fault begins, virtual milliseconds; `None` without any.
    pub split_ms: Option<u64>,
    /// When the last one is over, virtual milliseconds.
    pub heal_ms: u64,
    /// When load ends, virtual milliseconds.
    pub duration_ms: u64,
    /// The ways.
    pub ways: Vec<Way>,
}

/// Compares.
///
/// # Errors
/// The script has fewer than two servers, so that there is nothing to compare.
pub fn compare(script: &Script) -> Result<Comparison, String> {
    let with = with_starling(script);
    if with.servers.len() < 2 {
        return Err("there is nothing to compare: the scenario has fewer than two servers".to_owned());
    }
    let heal_ms = with.faults.iter().map(|f| f.until_ms).max().unwrap_or(0).min(script.duration_ms);
    Ok(Comparison {
        scenario: script.scenario.clone(),
        seed: script.seed,
        split_ms: with.faults.iter().map(|f| f.at_ms).min(),
        heal_ms,
        duration_ms: script.duration_ms,
        ways: vec![
            way("Kamailio 5.6, DMQ alone", alone(&with, Generation::V5), heal_ms),
            way("Kamailio 6.x, DMQ alone", alone(&with, Generation::V6), heal_ms),
            way("Kamailio 5.6 with Starling", with, heal_ms),
        ],
    })
}

/// The script with Starling: all load at servers, which know their nodes only.
fn with_starling(script: &Script) -> Script {
    let mut with = script.clone();
    with.servers.retain(|s| !s.hostile && !s.nodes.is_empty());
    for server in &mut with.servers {
        server.generation = Generation::V5;
        server.peers.clear();
    }
    with.limits.mesh = false;
    let at_server = |at: &Entry| matches!(at, Entry::Server(_));
    with.phones.iter_mut().for_each(|p| p.at.retain(at_server));
    with.writers.retain(|w| at_server(&w.at));
    with.calls.clear();
    shrink::prune(&mut with);
    with
}

/// The same without nodes: servers name each other.
fn alone(with: &Script, generation: Generation) -> Script {
    let mut alone = with.clone();
    let all: Vec<_> = alone.servers.iter().map(|s| s.ix).collect();
    for server in &mut alone.servers {
        server.generation = generation;
        server.nodes.clear();
        server.peers = all.iter().copied().filter(|ix| *ix != server.ix).collect();
    }
    alone.nodes.clear();
    shrink::prune(&mut alone);
    alone
}

fn way(title: &'static str, script: Script, heal_ms: u64) -> Way {
    let end_ms = script.duration_ms + script.settle_ms;
    let check = !script.nodes.is_empty();
    let mut world = World::new(script, Options { check, ..Options::default() });
    let mut way = Way {
        title,
        at_heal: Differing::default(),
        at_end: Differing::default(),
        equal_after_ms: None,
        traffic: TrafficRow::default(),
        violation: None,
        seconds: Vec::new(),
    };
    let mut now_ms = 0;
    while now_ms < end_ms {
        let step = if now_ms >= heal_ms && way.equal_after_ms.is_none() { LOOK_MS } else { 1_000 };
        let next = now_ms - now_ms % step + step;
        // One look at the very moment of the heal.
        now_ms = if now_ms < heal_ms { next.min(heal_ms) } else { next };
        world.run_until(Mono(0).plus_ms(now_ms));
        let differing = differing(&world);
        if now_ms.is_multiple_of(1_000) {
            way.seconds.push(differing);
        }
        if now_ms <= heal_ms {
            way.at_heal = differing;
        } else if way.equal_after_ms.is_none() && differing.is_equal() {
            way.equal_after_ms = Some(now_ms - heal_ms);
        }
        way.at_end = differing;
    }
    let outcome = world.outcome();
    way.traffic = outcome.traffic;
    way.violation = outcome.violation;
    way
}

/// What the servers hold now, compared with each other. One that is down holds nothing.
fn differing(world: &World) -> Differing {
    let now = Now { mono: world.now, wall: true_wall(world.now) };
    let mut contacts: BTreeMap<(Vec<u8>, Vec<u8>), u64> = BTreeMap::new();
    let mut keys: BTreeMap<(String, Vec<u8>), (String, u64)> = BTreeMap::new();
    let servers: Vec<_> = world.script.servers.iter().map(|s| world.server(s.ix)).collect();
    for server in servers.iter().flatten() {
        for held in server.contacts(now) {
            *contacts.entry((held.aor.to_vec(), held.contact.uri.to_vec())).or_default() += 1;
        }
        for entry in server.entries(now) {
            let value = format!("{:?}", entry.value);
            let (first, alike) =
                keys.entry((entry.table.to_owned(), entry.key.to_vec())).or_insert_with(|| (value.clone(), 0));
            *alike += u64::from(*first == value);
        }
    }
    let all = servers.len() as u64;
    Differing {
        contacts: contacts.values().filter(|on| **on != all).count() as u64,
        contacts_of: contacts.len() as u64,
        keys: keys.values().filter(|(_, alike)| *alike != all).count() as u64,
        keys_of: keys.len() as u64,
    }
}
