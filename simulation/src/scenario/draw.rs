//! A seed makes a script of a scenario: who takes part. What goes wrong is drawn in [`super::faults`].

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash};

use foldhash::fast::FixedState;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::sizes::{Generations, Where};
use super::{Scenario, faults};
use crate::Script;
use crate::script::{
    Bye, CallSpec, Entry, Fault, FaultKind, Generation, Host, Job, Leave, NodeIx, NodeSpec, PhoneSpec, ServerIx,
    ServerSpec, WriterSpec,
};

/// The first AoR of phones that share one lies above all others.
const SHARED_AORS: u32 = 10_000_000;

/// A stream of randomness for one section, whatever else is drawn.
pub(super) fn stream(seed: u64, section: impl Hash) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(FixedState::with_seed(seed).hash_one(section))
}

/// Milliseconds of virtual time.
pub(super) fn ms(secs: f64) -> u64 {
    (secs * 1_000.0) as u64
}

/// Draws a script.
pub(super) fn script(scenario: &Scenario, seed: u64) -> Script {
    let mut htables = scenario.htables.clone();
    for own in 0..scenario.writers.own {
        htables.entry(format!("own{own}")).or_default();
    }
    let mut script = Script {
        scenario: scenario.name.clone(),
        seed,
        duration_ms: ms(scenario.secs),
        settle_ms: ms(scenario.settle_secs),
        nodes: nodes(scenario, seed),
        servers: servers(scenario, seed),
        phones: Vec::new(),
        writers: Vec::new(),
        calls: calls(scenario, seed),
        htables,
        net: scenario.net.clone(),
        faults: Vec::new(),
        limits: scenario.limits.clone(),
    };
    script.phones = phones(scenario, &script, seed);
    script.writers = writers(scenario, &script, seed);
    script.faults = faults::draw(scenario, &script, seed);
    if script.faults.iter().any(|fault| loses_node(fault, script.duration_ms)) {
        script.settle_ms += AWAITED_MS;
    }
    script
}

/// A node without a past waits so long for one that is gone before it tells what its servers count, milliseconds.
const AWAITED_MS: u64 = 600_000;

/// Whether a node does not come back.
fn loses_node(fault: &Fault, duration_ms: u64) -> bool {
    matches!(fault.kind, FaultKind::Kill { host: Host::Node(_), .. }) && fault.until_ms > duration_ms
}

fn nodes(scenario: &Scenario, seed: u64) -> Vec<NodeSpec> {
    let sizes = &scenario.nodes;
    let early = sizes.count - sizes.late;
    let mut all = Vec::with_capacity(usize::from(sizes.count));
    for ix in 0..sizes.count {
        let mut rng = stream(seed, ("node", ix));
        let durable = rng.random_bool(sizes.durable);
        let (offset, drift) = (i64::from(sizes.offset_ms), sizes.drift_ppm as i32);
        let start_ms = match ix < early {
            // Nobody starts ten processes in one millisecond.
            true => rng.random_range(0..1_000),
            false => ms(sizes.late_from_secs) + rng.random_range(0..=ms(sizes.late_secs)),
        };
        all.push(NodeSpec {
            ix,
            site: ix % sizes.sites,
            durable,
            ack_disk: durable && rng.random_bool(sizes.ack_disk),
            start_ms: start_ms.min(ms(scenario.secs) / 2),
            clock_offset_ms: rng.random_range(-offset..=offset),
            clock_drift_ppm: rng.random_range(-drift..=drift),
            join: joins(&mut rng, ix, sizes.count),
        });
    }
    all
}

/// The nodes that one names: in small clusters all others, in large ones three and the first. Whoever follows the
/// names from any node comes to the first one.
fn joins(rng: &mut ChaCha8Rng, ix: NodeIx, count: u16) -> Vec<NodeIx> {
    if count <= 5 {
        return (0..count).filter(|other| *other != ix).collect();
    }
    let mut some: Vec<_> = (0..3).map(|_| rng.random_range(0..count)).chain([0]).filter(|other| *other != ix).collect();
    if ix == 0 {
        some.push(1);
    }
    some.sort_unstable();
    some.dedup();
    some
}

fn servers(scenario: &Scenario, seed: u64) -> Vec<ServerSpec> {
    let sizes = &scenario.servers;
    let (nodes, sites) = (scenario.nodes.count, scenario.nodes.sites);
    let all = sizes.count + sizes.hostile;
    let server = |ix: ServerIx| {
        let mut rng = stream(seed, ("server", ix));
        let beside = ix % nodes;
        let hostile = ix >= sizes.count;
        let generation = match sizes.generation {
            Generations::V5 => Generation::V5,
            Generations::V6 => Generation::V6,
            Generations::Mixed => [Generation::V5, Generation::V6][rng.random_range(0..2)],
        };
        let start_ms = rng.random_range(0..2_000);
        let mut alike = stream(seed, "servers");
        let tcp = if sizes.meshed { &mut alike } else { &mut rng }.random_bool(sizes.tcp);
        ServerSpec {
            ix,
            site: beside % sites,
            generation,
            nodes: (0..sizes.nodes_each).map(|n| (beside + n) % nodes).collect(),
            peers: (0..all).filter(|peer| sizes.meshed && *peer != ix).collect(),
            start_ms,
            memory_contacts: sizes.memory_contacts,
            reorder_permille: sizes.reorder_permille,
            tcp: tcp && !hostile,
            hostile,
        }
    };
    (0..all).map(server).collect()
}

/// Where load may enter.
fn entries(script: &Script, at: Where) -> Vec<Entry> {
    let servers: Vec<_> = script.servers.iter().filter(|s| !s.hostile).map(|s| Entry::Server(s.ix)).collect();
    let nodes: Vec<_> = script.nodes.iter().map(|n| Entry::Node(n.ix)).collect();
    match at {
        Where::Servers if !servers.is_empty() => servers,
        Where::Servers | Where::Nodes => nodes,
        Where::Both => servers.into_iter().chain(nodes).collect(),
    }
}

fn phones(scenario: &Scenario, script: &Script, seed: u64) -> Vec<PhoneSpec> {
    let sizes = &scenario.phones;
    let entries = entries(script, sizes.at);
    let end = script.duration_ms;
    let phone = |id: u32| {
        let mut rng = stream(seed, ("phone", id));
        let places = sizes.places.min(entries.len());
        let first = rng.random_range(0..entries.len());
        let shared = rng.random_bool(sizes.shared);
        let start_ms = rng.random_range(0..=ms(sizes.start_secs)).min(end / 2);
        let stays = rng.random_range(start_ms..=end);
        let leave = [Leave::Silent, Leave::Unregister, Leave::Star][rng.random_range(0..3)];
        let leaves = rng.random_bool(sizes.leaving);
        PhoneSpec {
            id,
            aor: if shared { SHARED_AORS + id / 8 } else { id },
            at: (0..places).map(|n| entries[(first + n) % entries.len()]).collect(),
            expires_s: rng.random_range(sizes.min_expires_secs..=sizes.max_expires_secs),
            outbound: rng.random_bool(sizes.outbound),
            start_ms,
            stop_ms: leaves.then_some(stays),
            leave: if leaves { leave } else { Leave::Silent },
        }
    };
    (0..sizes.count).map(phone).collect()
}

fn calls(scenario: &Scenario, seed: u64) -> Vec<CallSpec> {
    let (sizes, nodes) = (&scenario.calls, scenario.nodes.count);
    let call = |id: u32| {
        let mut rng = stream(seed, ("call", id));
        let caller = rng.random_range(0..nodes);
        let other = (caller + rng.random_range(1..nodes.max(2))) % nodes;
        let far = rng.random_bool(sizes.far);
        let talk_ms = rng.random_range(ms(sizes.min_secs)..=ms(sizes.max_secs));
        let lost = rng.random_bool(sizes.lost);
        let twice = rng.random_bool(sizes.twice);
        let bye = if rng.random_bool(0.5) { Bye::Caller } else { Bye::Callee };
        let vars = rng.random_range(1..=4);
        CallSpec {
            id,
            caller,
            callee: if far { other } else { caller },
            start_ms: rng.random_range(0..=ms(scenario.secs) * 9 / 10),
            answer_ms: rng.random_range(100..=ms(sizes.ring_secs).max(100)),
            talk_ms: (!lost).then_some(talk_ms),
            lifetime_s: rng.random_range(sizes.min_lifetime_secs..=sizes.max_lifetime_secs),
            refreshed: rng.random_bool(sizes.refreshed),
            vars: if rng.random_bool(sizes.vars) { vars } else { 0 },
            profile: rng.random_bool(sizes.profiles),
            bye: if twice { Bye::Twice } else { bye },
            late: rng.random_bool(sizes.late),
        }
    };
    (0..sizes.count).map(call).collect()
}

fn writers(scenario: &Scenario, script: &Script, seed: u64) -> Vec<WriterSpec> {
    let sizes = &scenario.writers;
    let entries = entries(script, sizes.at);
    let tables = |counter: bool| -> Vec<&String> {
        scenario.htables.iter().filter(|(_, spec)| spec.counter == counter).map(|(name, _)| name).collect()
    };
    let (plain, counting) = (tables(false), tables(true));
    let keys = |table: String| Job::Keys { table, keys: sizes.size, delete_permille: sizes.delete_permille };
    let mut jobs = BTreeMap::new();
    // A writer keeps its number when there are more or fewer of another job.
    for n in 0..sizes.keys {
        jobs.insert(n, keys(plain[n as usize % plain.len()].clone()));
    }
    for n in 0..sizes.own {
        jobs.insert(10_000 + n, keys(format!("own{n}")));
    }
    for n in 0..sizes.counts {
        let table = counting[n as usize % counting.len()].clone();
        jobs.insert(20_000 + n, Job::Count { table, keys: sizes.size.min(5) });
    }
    for n in 0..sizes.operators {
        jobs.insert(30_000 + n, Job::Operator { aors: scenario.phones.count.max(1) });
    }
    let writer = |(id, job): (u32, Job)| {
        let mut rng = stream(seed, ("writer", id));
        let at = entries[rng.random_range(0..entries.len())];
        // What two servers have counted before a node first met them cannot be told apart (docs/kdmq.md 8.7).
        let met_ms = if matches!((&job, at), (Job::Count { .. }, Entry::Server(_))) { 5_000 } else { 0 };
        let every = if matches!(job, Job::Operator { .. }) { sizes.operator_secs } else { sizes.every_secs };
        WriterSpec {
            id,
            at,
            job,
            every_ms: ms(every).max(1),
            start_ms: met_ms + rng.random_range(0..5_000.min(script.duration_ms)),
            stop_ms: script.duration_ms,
        }
    };
    jobs.into_iter().map(writer).collect()
}
