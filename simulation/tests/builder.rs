//! Runs by hand, and what the world does to them.
#![allow(missing_docs)]

extern crate starling_simulation as simulation;

use std::time::Duration;

use simulation::builder::NotSo;
use simulation::script::{DiskLoss, Entry, Fault, FaultKind, Host, PathSpec, Script};
use simulation::{Options, Outcome, Sim, run};

const SECOND: Duration = Duration::from_secs(1);

fn started(nodes: u16, seed: u64) -> Sim {
    let mut sim = Sim::builder().nodes(nodes).seed(seed).build();
    sim.run_for(3 * SECOND);
    sim
}

fn linked(sim: &Sim, node: u16) -> usize {
    sim.node(node).status(sim.node_now(node)).links
}

#[test]
fn a_write_is_everywhere_within_milliseconds_and_behind_a_cut_not_before_it_heals() {
    let mut sim = started(3, 1);
    sim.register(Entry::Node(0), "alice", "sip:alice@198.51.100.1", 600);
    let everywhere = sim.run_until(SECOND, |world| {
        (0..3).all(|at| {
            world.node(at).node.is_some_and(|node| !node.location(b"alice", world.node(at).now(world.now())).is_empty())
        })
    });
    assert!(everywhere.expect("pushed") < Duration::from_millis(10));
    sim.cut(&[0], &[1, 2]);
    sim.register(Entry::Node(0), "bob", "sip:bob@198.51.100.2", 600);
    sim.run_for(20 * SECOND);
    assert_eq!((sim.contacts(0, "bob").len(), sim.contacts(1, "bob").len()), (1, 0));
    assert_eq!((linked(&sim, 0), linked(&sim, 1)), (0, 1));
    sim.heal();
    let took = sim.assert_equal_within(5 * SECOND);
    assert!(took > Duration::from_millis(10));
    assert_eq!(sim.contacts(1, "bob"), ["sip:bob@198.51.100.2"]);
}

#[test]
fn a_short_cut_breaks_no_link_and_what_it_held_up_arrives_after_it() {
    let mut sim = started(2, 2);
    sim.cut(&[0], &[1]);
    sim.set(Entry::Node(0), "t", "k", "v");
    sim.run_for(2 * SECOND);
    assert_eq!((linked(&sim, 0), sim.is_equal()), (1, false));
    sim.heal();
    sim.assert_equal_within(2 * SECOND);
    assert_eq!(linked(&sim, 0), 1);
}

#[test]
fn a_one_way_cut_ends_the_link_on_both_sides_one_after_the_other() {
    let mut sim = started(2, 3);
    sim.cut_one_way(&[0], &[1]);
    let first = sim.run_until(8 * SECOND, |world| {
        world.node(1).node.is_some_and(|node| node.status(world.node(1).now(world.now())).links == 0)
    });
    assert!(first.expect("node 1 hears nothing") >= 4 * SECOND);
    assert_eq!(linked(&sim, 0), 1);
    sim.run_for(6 * SECOND);
    assert_eq!(linked(&sim, 0), 0);
    sim.heal();
    sim.run_for(4 * SECOND);
    assert_eq!((linked(&sim, 0), linked(&sim, 1)), (1, 1));
}

#[test]
fn a_killed_node_finds_on_its_disk_what_was_written_and_asks_for_the_rest() {
    let mut sim = started(2, 4);
    sim.set(Entry::Node(1), "t", "before", "1");
    sim.run_for(SECOND);
    sim.kill(1);
    sim.set(Entry::Node(0), "t", "meanwhile", "2");
    sim.run_for(SECOND);
    sim.cut(&[0], &[1]);
    sim.start(1);
    sim.run_for(SECOND);
    let has = |sim: &Sim, key: &str| sim.node(1).htable_get("t", key.as_bytes(), sim.node_now(1)).is_some();
    assert!(has(&sim, "before") && !has(&sim, "meanwhile"));
    sim.heal();
    sim.assert_equal_within(5 * SECOND);
    assert!(has(&sim, "meanwhile"));
}

#[test]
fn what_does_not_happen_in_time_is_an_error() {
    let mut sim = started(2, 5);
    assert_eq!(sim.run_until(SECOND, |_| false), Err(NotSo::InTime(SECOND)));
    assert_eq!(sim.now(), 4 * SECOND);
}

#[test]
fn phones_at_servers_are_known_to_every_node_and_every_server() {
    let mut sim = Sim::builder().nodes(3).servers(3).phones(30).seed(6).build();
    sim.run_for(15 * SECOND);
    sim.assert_equal_within(5 * SECOND);
    let contacts: Vec<u64> = (0..3).map(|node| sim.node(node).status(sim.node_now(node)).contacts).collect();
    assert_eq!(contacts, [30, 30, 30]);
}

/// The nodes that speak for their only server now.
fn speak(sim: &Sim, nodes: u16) -> Vec<u16> {
    let speaks = |node: &u16| sim.node(*node).peers(sim.node_now(*node)).iter().any(|peer| peer.owned);
    (0..nodes).filter(speaks).collect()
}

#[test]
fn a_node_that_hears_a_server_again_leaves_it_to_the_one_that_heard_it_all_the_time() {
    let cut = |node, at_s, until_s| {
        let (from, to) = (vec![Host::Node(node)], vec![Host::Server(0)]);
        fault(at_s, until_s, FaultKind::Cut { from, to, both: true })
    };
    let faults = vec![cut(0, 60, 90), cut(1, 150, 180)];
    let attach = |script: &mut Script| {
        script.servers[0].nodes = vec![0, 1];
        script.faults = faults;
    };
    let mut sim = Sim::builder().nodes(2).servers(1).seed(8).change(attach).build();
    sim.run_for(30 * SECOND);
    assert_eq!(speak(&sim, 2).len(), 1);
    for (until_s, owner) in [(85, 1), (100, 1), (145, 1), (175, 0), (190, 0)] {
        sim.run_for(Duration::from_secs(until_s) - sim.now());
        assert_eq!(speak(&sim, 2), [owner], "after {until_s} s");
    }
}

/// A script of three nodes with a disk, three servers and some phones, for a minute, with these faults.
fn script(seed: u64, faults: Vec<Fault>) -> Script {
    let mut script = None;
    let _ = Sim::builder().nodes(3).servers(3).phones(60).seed(seed).change(|made| {
        made.duration_ms = 60_000;
        made.settle_ms = 60_000;
        made.faults = faults;
        script = Some(made.clone());
    });
    script.expect("it was made")
}

fn fault(at_s: u64, until_s: u64, kind: FaultKind) -> Fault {
    Fault { at_ms: at_s * 1_000, until_ms: until_s * 1_000, kind }
}

fn outcome(script: &Script) -> Outcome {
    let outcome = run(script, Options { log: true, timeline: true, check: true });
    let log: Vec<String> =
        outcome.log.iter().map(|line| format!("{} {} {}", line.at_us, line.who, line.what)).collect();
    assert_eq!(outcome.violation, None, "{}", log.join("\n"));
    assert!(outcome.equal_after_ms.is_some(), "{}", log.join("\n"));
    outcome
}

#[test]
fn a_run_without_faults_is_equal_at_once() {
    let outcome = outcome(&script(1, Vec::new()));
    assert!(outcome.equal_after_ms.expect("equal") <= 1_000);
    assert_eq!(outcome.timeline.last().map(|row| row.diverged.clone()), Some(vec![Some(0); 3]));
    assert_eq!(outcome.coverage["equal-after-calm"], 0);
}

#[test]
fn every_way_to_lose_a_disk_is_survived_and_counted() {
    let losses = [
        (DiskLoss::Tail, "crash-while-writing"),
        (DiskLoss::LostFsync, "lost-fsync"),
        (DiskLoss::Torn, "torn-entry"),
        (DiskLoss::Backup, "backup"),
        (DiskLoss::Wiped, "wiped"),
    ];
    for (seed, (disk, seen)) in losses.into_iter().enumerate() {
        let kill = FaultKind::Kill { host: Host::Node(1), disk, new_identity: false };
        let outcome = outcome(&script(seed as u64, vec![fault(40, 45, kill)]));
        // Whether a batch is being written at that moment is a matter of luck.
        assert!(outcome.coverage[seen] > 0 || disk == DiskLoss::Tail, "{disk:?}");
    }
}

#[test]
fn a_script_with_every_kind_of_fault_ends_equal() {
    let (a, b) = (Host::Node(0), Host::Node(1));
    let bad = PathSpec {
        delay_us: 20_000,
        jitter_us: 30_000,
        loss_permille: 200,
        duplicate_permille: 100,
        reorder_permille: 100,
        bytes_per_s: 100_000,
        mtu: 0,
    };
    let server = Host::Server(2);
    let kill = |host| FaultKind::Kill { host, disk: DiskLoss::None, new_identity: false };
    let faults = vec![
        fault(5, 12, FaultKind::Cut { from: vec![a], to: vec![b, Host::Node(2)], both: true }),
        fault(8, 20, FaultKind::Cut { from: vec![b], to: vec![Host::Node(2)], both: false }),
        fault(13, 25, FaultKind::Path { a, b: Host::Node(2), path: bad }),
        fault(13, 30, FaultKind::Path { a: Host::Node(2), b: server, path: bad }),
        fault(26, 26, FaultKind::Break { a, b }),
        fault(27, 40, kill(server)),
        fault(28, 36, FaultKind::Pause { host: a }),
        fault(28, 36, FaultKind::Slow { node: 1, us: 3_000 }),
        fault(34, 44, FaultKind::ClockJump { node: 2, by_ms: -3_600_000 }),
        fault(35, 50, FaultKind::DiskFails { node: 0 }),
        fault(35, 55, FaultKind::DiskSlow { node: 1, ms: 300 }),
        fault(30, 59, FaultKind::Hostile { node: 0, per_s: 50 }),
        fault(45, 50, FaultKind::Pause { host: Host::Server(0) }),
        fault(46, 61, kill(Host::Node(1))),
    ];
    for seed in 0..3 {
        let outcome = outcome(&script(seed, faults.clone()));
        for seen in ["hostile-refused", "paused", "server-restarted", "datagram-lost", "clock-back", "disk-refused"] {
            assert!(outcome.coverage[seen] > 0, "{seen}");
        }
        let last = outcome.timeline.last().expect("rows");
        assert_eq!(last.cells[1], None, "a process that outlasts the script never comes back");
    }
}

fn many_nodes(nodes: u16) {
    let mut sim = Sim::builder().nodes(nodes).seed(1).build();
    sim.run_for(10 * SECOND);
    for node in 0..nodes {
        sim.set(Entry::Node(node), "t", &format!("k{node}"), "v");
    }
    sim.assert_equal_within(20 * SECOND);
    assert_eq!(sim.node(nodes - 1).status(sim.node_now(nodes - 1)).cells, u64::from(nodes));
}

#[test]
fn forty_nodes_become_one() {
    many_nodes(40);
}

#[test]
#[ignore = "40,000 links between nodes cost minutes"]
fn two_hundred_nodes_become_one() {
    many_nodes(200);
}

#[test]
#[ignore = "a million cells cost a minute and some gigabytes"]
fn a_million_cells_are_held_and_handed_over() {
    const CELLS: u32 = 1_000_000;
    let mut sim = Sim::builder().nodes(3).seed(1).build();
    sim.run_for(3 * SECOND);
    sim.cut(&[0, 1], &[2]);
    for first in (0..CELLS).step_by(1_000) {
        for cell in first..first + 1_000 {
            sim.set(Entry::Node((cell % 2) as u16), "t", &format!("k{cell}"), "v");
        }
        sim.run_for(Duration::from_millis(20));
    }
    sim.heal();
    sim.assert_equal_within(120 * SECOND);
    assert_eq!(sim.node(2).status(sim.node_now(2)).cells, u64::from(CELLS));
}
