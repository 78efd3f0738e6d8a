//! Random runs: whatever happens, nodes that can talk again become equal.

use std::collections::BTreeMap;

use crdt::{Rules, TableRules};
use rand::RngExt;

use super::net::{IDLE_MS, Net, STABLE, TIMED};
use crate::config::Config;

#[test]
fn whatever_happens_nodes_that_can_talk_again_become_equal() {
    for seed in 100..112 {
        chaos(seed);
    }
}

#[test]
fn one_seed_replays_a_run_exactly() {
    let (a, b) = (chaos(7), chaos(7));
    let traces = |net: &Net| net.nodes.iter().map(|node| node.logs.clone()).collect::<Vec<_>>();
    assert_eq!(traces(&a), traces(&b));
    assert_eq!((a.frames, a.datagrams, a.bytes), (b.frames, b.datagrams, b.bytes));
    assert_ne!(a.bytes, chaos(11).bytes);
}

/// Three to six nodes, one of them without a disk, under writes, cuts, crashes, restarts (some with a disk from long
/// before) and wrong clocks; then everything heals.
fn chaos(seed: u64) -> Net {
    let mut net = Net::new(seed);
    let n = 3 + seed as usize % 4;
    // In a third of the runs everything is short-lived: cells, the memory of members, origins.
    let short = seed.is_multiple_of(3);
    for node in 0..n {
        let ttl = if short { 20 } else { 3_600 };
        let rules = Rules::new(5, 2_000).table(TIMED, TableRules::by_time(ttl));
        let forget = |config: &mut Config| config.forget_after_s = if short { 60 } else { 200_000 };
        net.add_with(node != n - 1, if node == 0 { &[1] } else { &[0] }, forget, rules);
    }
    net.loss = 50;
    let mut backups = vec![BTreeMap::new(); n];
    for step in 0..200 {
        let (a, b) = (net.rng.random_range(0..n), net.rng.random_range(0..n));
        match net.rng.random_range(0..24) {
            0..=1 if a != b => net.cut(a, b),
            2..=3 if a != b => net.heal(a, b),
            4 if net.nodes[a].up && net.nodes.iter().filter(|n| n.up).count() > 2 => net.crash(a),
            5..=6 if !net.nodes[a].up => net.restart(a),
            7 => backups[a] = net.nodes[a].disk.clone(),
            8 if !net.nodes[a].up && seed.is_multiple_of(2) => {
                net.nodes[a].disk = backups[a].clone();
                net.restart(a);
            }
            9 if step % 10 == 0 => net.nodes[a].ahead = 5_000,
            10 => net.nodes[a].ahead = 0,
            11..=22 if net.nodes[a].up => {
                let table = if net.rng.random() { TIMED } else { STABLE };
                let value = (step % 4 > 0).then(|| format!("{step}"));
                let key = format!("k{}", net.rng.random_range(0..12));
                net.set(a, table, &key, value.as_deref());
            }
            _ => {}
        }
        let pauses = [1, 5, 100, 1_000, 4_000, 15_000, if short { 70_000 } else { 50 }];
        let ms = pauses[net.rng.random_range(0..7)];
        net.run(ms);
    }
    (0..n).for_each(|node| net.nodes[node].ahead = 0);
    // Stamps from a clock that was ahead are taken once their time has come.
    net.run(5_000);
    net.heal_all();
    (0..n).filter(|&node| !net.nodes[node].up).collect::<Vec<_>>().into_iter().for_each(|node| net.restart(node));
    net.until(3_000 + IDLE_MS, "linked", Net::meshed);
    net.until(5_000, "equal", Net::equal);
    let mismatches: u64 = net.nodes.iter().map(|n| n.stats.digest_mismatches).sum();
    assert_eq!(mismatches, 0, "our bug");
    net
}
