//! The mesh under a virtual network: what nodes end up with, how soon, and at what cost.

mod chaos;
mod dialogs;
mod net;
mod peer;
mod state;

use std::collections::BTreeMap;

use crdt::{Clock, Dot, NodeId, Origin, Rules, TableRules};
use rand::RngExt;

use self::net::{Net, STABLE, TIMED, addr, rules};
use crate::config::{Ack, Config, DmqConfig, DmqMode, Timing};
use crate::io::{Input, Lane, LinkId, Tree};

pub(crate) fn config(index: usize, durable: bool) -> Config {
    let id = index as u64 + 1;
    Config {
        node: NodeId(id),
        origin: Origin(id * 1_000),
        name: format!("n{id}"),
        cluster: "test".into(),
        advertise: addr(index),
        join: Vec::new(),
        ack: Ack::Memory,
        durable,
        max_skew_ms: 2_000,
        forget_after_s: 200_000,
        timing: Timing::Lan,
        location_max_ttl_s: 3_600,
        dialog_max_life_s: 3_600,
        htables: BTreeMap::new(),
        sip: Vec::new(),
        dmq: DmqConfig {
            peers: Vec::new(),
            mode: DmqMode::Bridge,
            trusted: Vec::new(),
            ping_interval_ms: 60_000,
            window: 8,
            feed_limit: 0,
            multi: 8,
        },
    }
}

/// `n` nodes that all join the first one, linked and equal.
fn cluster(seed: u64, n: usize, durable: bool) -> Net {
    let mut net = Net::new(seed);
    for node in 0..n {
        net.add(durable, if node == 0 { &[] } else { &[0] });
    }
    net.until(5_000, "all linked", Net::meshed);
    net
}

#[test]
fn a_node_that_joins_gets_everything_and_its_writes_reach_the_others_at_once() {
    let mut net = Net::new(1);
    net.add(false, &[]);
    for i in 0..100 {
        net.set(0, TIMED, &format!("k{i}"), Some("v"));
    }
    net.add(false, &[0]);
    net.until(100, "linked and equal", |net| net.meshed() && net.equal());
    assert_eq!(net.get(1, TIMED, "k99").as_deref(), Some("v"));
    net.set(1, STABLE, "x", Some("y"));
    let ms = net.until(1_000, "pushed", |net| net.get(0, STABLE, "x").is_some());
    assert!(ms <= 5, "{ms} ms");
}

#[test]
fn nodes_that_join_one_find_all_others_and_keep_one_link_to_each() {
    let mut net = cluster(2, 5, false);
    net.run(10_000);
    assert!(net.meshed());
    let members: Vec<_> = net.nodes[4].mesh.members(&net.nodes[4].config).into_iter().map(|m| m.name).collect();
    assert_eq!(members, ["n1", "n2", "n3", "n4", "n5"]);
}

#[test]
fn nodes_that_dial_each_other_at_the_same_time_end_with_one_link() {
    for seed in 0..20 {
        let mut net = Net::new(seed);
        net.add(false, &[1]);
        net.add(false, &[0]);
        net.until(3_000, "linked", Net::meshed);
        net.set(0, TIMED, "a", Some("1"));
        net.set(1, TIMED, "b", Some("2"));
        net.run(3_000);
        assert!(net.meshed() && net.equal());
        let closed: u64 = net.nodes.iter().map(|n| n.stats.links_duplicate).sum();
        assert!(closed <= 4, "{closed} links closed");
    }
}

#[test]
fn a_write_is_pushed_once_over_each_link_of_a_full_mesh() {
    let mut net = cluster(3, 4, false);
    net.run(2_000);
    for i in 0..50 {
        net.set(i % 4, TIMED, &format!("k{i}"), Some("v"));
        net.run(20);
    }
    assert!(net.equal());
    let pushed: u64 = net.nodes.iter().map(|n| n.stats.push_cells_in).sum();
    assert_eq!(pushed, 50 * 3);
    assert_eq!(net.nodes.iter().map(|n| n.stats.sync_pulls).sum::<u64>(), pulls(&net));
}

fn pulls(net: &Net) -> u64 {
    net.nodes.iter().map(|n| n.stats.sync_pulls_done).sum()
}

#[test]
fn a_chain_without_one_link_relays_at_once() {
    let mut net = Net::new(4);
    net.add(false, &[]);
    net.add(false, &[0]);
    net.cut(0, 2);
    net.add(false, &[1]);
    net.until(5_000, "linked as far as possible", Net::meshed);
    net.run(3_000);
    for i in 0..20 {
        net.set(0, TIMED, &format!("a{i}"), Some("v"));
        net.set(2, STABLE, &format!("c{i}"), Some("v"));
        let ms = net.until(1_000, "relayed", |net| {
            net.get(2, TIMED, &format!("a{i}")).is_some() && net.get(0, STABLE, &format!("c{i}")).is_some()
        });
        assert!(ms <= 15, "{ms} ms");
    }
    net.run(3_000);
    assert!(net.equal());
}

#[test]
fn a_chain_of_five_nodes_passes_on_what_its_ends_missed() {
    let mut net = Net::new(21);
    for node in 0..5 {
        (0..node).filter(|other| node - other > 1).for_each(|other| net.cut(node, other));
        let join: Vec<usize> = node.checked_sub(1).into_iter().collect();
        net.add(node % 2 == 0, &join);
    }
    net.until(5_000, "neighbours linked", Net::meshed);
    net.cut(1, 2);
    net.run(20_000);
    for i in 0..200 {
        net.set(i % 5, TIMED, &format!("k{i}"), Some("v"));
        net.set(i % 5, STABLE, &format!("k{}", i % 20), (i % 3 > 0).then_some("w"));
    }
    net.run(2_000);
    net.heal(1, 2);
    let ms = net.until(2_100, "linked again", Net::meshed) + net.until(4_000, "equal", Net::equal);
    assert!(ms <= 5_000, "{ms} ms");
    let before = net.frames;
    net.run(10_000);
    assert!(net.equal() && net.frames - before < 4 * 10 * 6, "{} frames", net.frames - before);
}

#[test]
fn a_healed_split_has_links_within_two_seconds_and_equal_state_within_five() {
    for seed in 0..12 {
        let mut net = cluster(seed, 3, false);
        net.run(1_000);
        net.loss = 10;
        net.cut_groups(&[0], &[1, 2]);
        let long = [800, 3_000, 4_900, 5_500, 20_000, 70_000][seed as usize % 6];
        let long = long + net.rng.random_range(0..2_000);
        for i in 0..40 {
            let node = net.rng.random_range(0..3);
            net.set(
                node,
                if i % 2 == 0 { TIMED } else { STABLE },
                &format!("k{}", i % 13),
                Some(&format!("{seed}.{i}")),
            );
            if i % 5 == 0 {
                net.set(node, STABLE, &format!("k{}", i % 7), None);
            }
            net.run(long / 40);
        }
        net.heal_all();
        let linked = net.until(2_100, "linked again", Net::meshed);
        let equal = net.until(5_000 - linked, "equal again", Net::equal);
        println!("split {long} ms: linked after {linked} ms, equal {equal} ms later");
    }
}

#[test]
fn a_long_split_of_seven_nodes_heals_in_time() {
    let mut net = cluster(5, 7, false);
    net.run(2_000);
    net.cut_groups(&[0, 1, 2], &[3, 4, 5, 6]);
    net.run(100_000);
    for node in 0..7 {
        net.set(node, TIMED, &format!("k{node}"), Some("v"));
    }
    net.heal_all();
    let ms = net.until(2_500, "linked again", Net::meshed) + net.until(2_500, "equal again", Net::equal);
    println!("healed in {ms} ms");
}

#[test]
fn what_the_disk_acknowledged_survives_a_crash_of_all_nodes() {
    let mut net = cluster(6, 3, true);
    let mut acknowledged = Vec::new();
    for i in 0..60 {
        let node = i % 3;
        net.set(node, if i % 2 == 0 { TIMED } else { STABLE }, &format!("k{i}"), Some("v"));
        let ticket = net.nodes[node].journal.wait();
        net.input(node, Input::Tick);
        net.run(3);
        if net.nodes[node].journal.done(ticket) {
            acknowledged.push(i);
        }
    }
    assert!(acknowledged.len() > 20, "{acknowledged:?}");
    (0..3).for_each(|node| net.crash(node));
    net.run(1_000);
    (0..3).for_each(|node| net.restart(node));
    net.until(6_000, "linked and equal", |net| net.meshed() && net.equal());
    for i in acknowledged {
        let table = if i % 2 == 0 { TIMED } else { STABLE };
        assert!((0..3).all(|node| net.get(node, table, &format!("k{i}")).is_some()), "k{i} is lost");
    }
}

#[test]
fn a_node_that_restarts_alone_finds_the_others_by_its_roster() {
    let mut net = cluster(7, 3, true);
    net.run(2_000);
    net.crash(1);
    net.run(1_000);
    net.nodes[1].config.join.clear();
    net.restart(1);
    net.until(5_000, "linked", |net| net.nodes[1].mesh.links() == 2);
}

#[test]
fn a_memory_only_node_that_restarts_replaces_itself_and_gets_everything_back() {
    let mut net = cluster(8, 3, false);
    net.set(0, STABLE, "k", Some("v"));
    net.run(1_000);
    net.crash(2);
    net.run(500);
    net.restart(2);
    net.until(5_000, "linked and equal", |net| net.meshed() && net.equal());
    assert_eq!(net.get(2, STABLE, "k").as_deref(), Some("v"));
    net.run(10_000);
    let members = net.nodes[0].mesh.members(&net.nodes[0].config);
    assert_eq!(members.len(), 3, "{members:?}");
}

#[test]
fn a_disk_that_refuses_is_offered_the_same_again() {
    let mut net = cluster(9, 2, true);
    net.run(1_000);
    net.disk_fails = true;
    net.set(0, STABLE, "k", Some("v"));
    let ticket = net.nodes[0].journal.wait();
    net.run(3_500);
    assert!(!net.nodes[0].journal.done(ticket));
    let failures = net.nodes[0].stats.journal_failures;
    assert!((3..=5).contains(&failures), "{failures}");
    net.disk_fails = false;
    net.until(2_000, "on disk", |net| net.nodes[0].journal.clean() == Some(true));
    assert!(net.nodes[0].journal.done(ticket));
    net.crash(0);
    net.crash(1);
    net.restart(0);
    assert_eq!(net.get(0, STABLE, "k").as_deref(), Some("v"));
}

#[test]
fn a_peer_that_shows_what_it_cannot_give_is_asked_again_and_again_but_seldom() {
    let mut net = cluster(12, 2, true);
    net.run(1_000);
    net.crash(1);
    let unknown: Clock = [Dot { origin: Origin(77), seq: 1 }].into_iter().collect();
    let forgotten = postcard::to_stdvec(&unknown).unwrap();
    net.nodes[1].disk.insert((Tree::Meta, b"replica/forgotten".to_vec()), forgotten.into());
    net.restart(1);
    net.until(5_000, "linked", Net::meshed);
    let before = net.nodes[0].stats.sync_pulls_done;
    net.run(60_000);
    let vain = net.nodes[0].stats.sync_pulls_done - before;
    assert!((5..20).contains(&vain), "{vain}");
    net.set(1, STABLE, "k", Some("v"));
    net.until(10_000, "a write comes with the next", |net| net.get(0, STABLE, "k").is_some());
}

#[test]
fn a_node_with_a_wrong_clock_gets_no_data_until_it_is_put_right() {
    let mut net = cluster(10, 2, false);
    net.run(1_000);
    net.nodes[1].ahead = 60_000;
    net.run(5_000);
    assert!(net.nodes[0].mesh.skewed(2_000) && net.nodes[1].mesh.skewed(2_000));
    net.set(1, TIMED, "k", Some("from the future"));
    net.run(5_000);
    assert_eq!(net.get(0, TIMED, "k"), None);
    assert_eq!(net.nodes[0].stats.skew_alarms, 1);
    net.nodes[1].ahead = 0;
    net.run(3_000);
    assert!(!net.nodes[0].mesh.skewed(2_000));
    net.set(0, TIMED, "other", Some("v"));
    net.until(1_000, "pushed", |net| net.get(1, TIMED, "other").is_some());
    net.until(70_000, "the write from the future is no more", Net::equal);
}

#[test]
fn what_was_forgotten_while_a_node_was_away_does_not_come_back_with_it() {
    let mut net = cluster(11, 3, true);
    for i in 0..10 {
        net.set(0, STABLE, &format!("k{i}"), Some("v"));
    }
    net.run(3_000);
    net.crash(2);
    net.nodes[0].config.forget_after_s = 60;
    net.nodes[1].config.forget_after_s = 60;
    net.run(200_000);
    for i in 0..5 {
        net.set(1, STABLE, &format!("k{i}"), None);
    }
    net.run(30_000);
    let held = |net: &Net, node: usize| net.nodes[node].replica.slot(STABLE, b"k0", b"").is_some();
    assert!(!held(&net, 0) && !held(&net, 1), "the tombstone is stable and forgotten");
    net.restart(2);
    net.set(2, STABLE, "late", Some("v"));
    net.until(8_000, "linked and equal", |net| net.meshed() && net.equal());
    for node in 0..3 {
        assert_eq!(net.get(node, STABLE, "k0"), None);
        assert_eq!(net.get(node, STABLE, "k9").as_deref(), Some("v"));
        assert_eq!(net.get(node, STABLE, "late").as_deref(), Some("v"));
    }
}

#[test]
fn tombstones_are_forgotten_once_all_members_have_them() {
    let mut net = cluster(12, 3, true);
    net.set(0, STABLE, "k", Some("v"));
    net.run(2_000);
    net.set(1, STABLE, "k", None);
    net.run(20_000);
    for node in &net.nodes {
        assert!(node.replica.slot(STABLE, b"k", b"").is_none(), "still held by {}", node.config.name);
    }
    assert!(net.equal());
    assert!(net.nodes.iter().all(|node| node.stats.sync_pulls <= 4));
}

#[test]
fn equal_clocks_with_unequal_cells_are_noticed_and_repaired() {
    let mut net = cluster(13, 2, false);
    for i in 0..30 {
        net.set(0, STABLE, &format!("k{i}"), Some("v"));
    }
    net.run(2_000);
    let next = net.nodes[0].replica.clock().max(Origin(1_000)) + 1;
    net.nodes[1].replica.cover_overwritten([Dot { origin: Origin(1_000), seq: next }]);
    net.set(0, STABLE, "swallowed", Some("v"));
    net.run(100);
    assert_eq!(net.get(1, STABLE, "swallowed"), None, "the planted bug works");
    net.until(40_000, "repaired", |net| net.get(1, STABLE, "swallowed").is_some());
    net.run(25_000);
    assert!(net.equal());
    assert!(net.nodes.iter().map(|n| n.stats.digest_mismatches).sum::<u64>() >= 1);
    let before: u64 = net.nodes.iter().map(|n| n.stats.digest_mismatches).sum();
    net.run(60_000);
    assert_eq!(net.nodes.iter().map(|n| n.stats.digest_mismatches).sum::<u64>(), before);
}

#[test]
fn a_bulk_join_comes_in_chunks_and_does_not_hold_up_live_writes() {
    let mut net = Net::new(14);
    net.add(false, &[]);
    let value = "v".repeat(300);
    for i in 0..10_000 {
        net.set(0, TIMED, &format!("k{i}"), Some(&value));
    }
    net.sent_us = 10_000;
    net.add(false, &[0]);
    net.until(2_000, "the session is under way", |net| net.nodes[1].stats.sync_cells_in > 0);
    assert!(net.nodes[1].mesh.joining());
    net.set(0, TIMED, "live", Some("v"));
    let ms = net.until(1_000, "pushed beside the session", |net| net.get(1, TIMED, "live").is_some());
    assert!(ms <= 15, "{ms} ms");
    assert!(net.nodes[1].mesh.joining());
    net.until(5_000, "equal", Net::equal);
    let stats = &net.nodes[1].stats;
    assert_eq!(stats.sync_pulls, 1);
    assert!(stats.sync_cells_in <= 10_000 + 1);
    assert!(!net.nodes[1].mesh.joining());
}

#[test]
fn a_link_that_takes_nothing_costs_a_bounded_queue_and_sync_sends_the_rest() {
    let mut net = cluster(15, 2, false);
    net.run(1_000);
    net.cut(0, 1);
    for i in 0..70_000 {
        net.set(0, TIMED, &format!("k{i}"), Some("v"));
    }
    assert!(net.nodes[0].stats.push_cells_dropped > 0);
    let members = net.nodes[0].mesh.members(&net.nodes[0].config);
    assert!(members.iter().all(|member| member.queued <= 65_536));
    net.heal(0, 1);
    net.until(5_000, "equal", Net::equal);
}

#[test]
fn a_cell_that_changes_faster_than_the_link_costs_one_entry_and_no_session() {
    let mut net = cluster(16, 2, false);
    net.run(2_000);
    let before = pulls(&net);
    for round in 0..50 {
        for i in 0..20 {
            net.set(0, TIMED, "counter", Some(&format!("{round}.{i}")));
        }
        net.run(50);
    }
    net.run(3_000);
    assert!(net.equal());
    assert!(net.nodes[1].stats.push_cells_in < 200, "{}", net.nodes[1].stats.push_cells_in);
    assert_eq!(pulls(&net), before, "overwritten dots are covered by the push");
}

#[test]
fn an_idle_mesh_is_quiet() {
    let mut net = cluster(17, 3, true);
    net.set(0, STABLE, "k", Some("v"));
    net.run(20_000);
    let (frames, datagrams, wakeups) = (net.frames, net.datagrams, net.wakeups(0));
    net.run(60_000);
    let (frames, datagrams) = (net.frames - frames, net.datagrams - datagrams);
    // Per node and second: a ping and its answer to each of two others every 2 s, clocks every 10 s; SWIM probes.
    assert!(frames <= 3 * 60 * 3, "{frames} frames");
    assert!(datagrams <= 3 * 60 * 8, "{datagrams} datagrams");
    assert!(net.wakeups(0) - wakeups <= 60 * 20, "{} wake-ups", net.wakeups(0) - wakeups);
}

#[test]
fn nodes_of_another_cluster_or_with_other_rules_are_refused_without_a_storm() {
    let mut net = Net::new(18);
    net.add(false, &[]);
    net.add_with(false, &[0], |config| config.cluster = "other".into(), rules());
    let shorter = Rules::new(10, 2_000).table(TIMED, TableRules::by_time(60));
    net.add_with(false, &[0], |_| {}, shorter);
    net.set(0, TIMED, "secret", Some("v"));
    net.run(30_000);
    for node in 1..3 {
        assert_eq!(net.get(node, TIMED, "secret"), None);
        assert!(net.nodes[node].stats.dials <= 20, "{} dials", net.nodes[node].stats.dials);
        let warnings = net.nodes[node].logs.iter().filter(|line| line.contains("Warn")).count();
        assert!(warnings <= 2, "{:?}", net.nodes[node].logs);
    }
}

#[test]
fn a_node_that_joins_itself_notices_and_stops() {
    let mut net = Net::new(19);
    net.add(false, &[0]);
    net.run(20_000);
    assert_eq!(net.nodes[0].mesh.links(), 0);
    assert!(net.nodes[0].stats.dials <= 1);
}

#[test]
fn foreign_bytes_close_the_link_and_change_nothing() {
    let mut net = cluster(20, 2, false);
    net.set(0, TIMED, "k", Some("v"));
    net.run(1_000);
    for round in 0..2_000u64 {
        let len = net.rng.random_range(0..60);
        let mut bytes: Vec<u8> = (0..len).map(|_| net.rng.random()).collect();
        // Half of them look like a whole message with a known tag.
        if round % 2 == 0 && bytes.len() > 1 {
            bytes[0] = 0;
            bytes[1] = [1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23][round as usize % 15];
        }
        let link = LinkId(1_000_000 + round);
        let lane = if round % 3 == 0 { Lane::Session { id: 1, opened_here: round % 2 == 0 } } else { Lane::Push };
        let node = &net.nodes[1].config.name.clone();
        net.input(0, Input::LinkUp { link, addr: addr(9), dialed: false, subject: Some(node) });
        net.input(0, Input::Datagram { link, bytes: &bytes });
        net.input(0, Input::Frame { link, lane, bytes: &bytes });
        net.input(0, Input::LinkDown { link, reason: "test" });
    }
    assert_eq!(net.get(0, TIMED, "k").as_deref(), Some("v"));
    assert!(net.meshed() && net.equal());
}
