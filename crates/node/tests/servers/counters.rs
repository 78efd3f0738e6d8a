//! Tables that count: increments of all servers add up.

use std::net::SocketAddr;

use kdmq::Generation;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use starling_node::config::{DmqConfig, HtableConfig};
use starling_node::{Config, Input};

use crate::world::{Weather, World, config, two};

fn inc(world: &mut World, server: SocketAddr, key: &str) {
    let wall = world.wall_s();
    world.server(server).count(key, 1, wall);
}

#[test]
fn increments_at_both_servers_add_up_at_both() {
    let (mut world, k1, k2) = two();
    for _ in 0..5 {
        inc(&mut world, k1, "c");
        inc(&mut world, k2, "c");
        inc(&mut world, k2, "c");
        world.run_ms(200);
    }
    world.run_ms(1_000);
    assert_eq!(world.entry("calls", "c").as_deref(), Some("15"));
    assert_eq!(world.server(k1).entry("calls", "c").as_deref(), Some("15"));
    assert_eq!(world.server(k2).entry("calls", "c").as_deref(), Some("15"));
}

#[test]
fn increments_of_a_server_that_was_cut_off_count_after_its_return() {
    let (mut world, k1, k2) = two();
    inc(&mut world, k1, "c");
    world.run_ms(1_000);
    world.server(k2).reachable = false;
    world.run_ms(20_000);
    for _ in 0..3 {
        inc(&mut world, k1, "c");
        inc(&mut world, k2, "c");
        world.run_ms(100);
    }
    world.run_ms(20_000);
    world.server(k2).forget_open();
    world.server(k2).reachable = true;
    world.run_ms(15_000);
    assert_eq!(world.entry("calls", "c").as_deref(), Some("7"));
    assert_eq!(world.server(k1).entry("calls", "c").as_deref(), Some("7"));
    assert_eq!(world.server(k2).entry("calls", "c").as_deref(), Some("7"));
}

#[test]
fn a_deleted_counter_starts_anew_everywhere() {
    let (mut world, k1, k2) = two();
    inc(&mut world, k1, "c");
    world.run_ms(500);
    world.server(k1).delete("calls", "c");
    world.run_ms(500);
    assert_eq!(world.server(k2).entry("calls", "c"), None);
    inc(&mut world, k2, "c");
    world.run_ms(500);
    assert_eq!(world.server(k1).entry("calls", "c").as_deref(), Some("1"));
}

#[test]
fn a_counter_that_has_come_back_to_nothing_is_told_to_a_server_that_has_none() {
    for generation in [Generation::V5, Generation::V6] {
        let (mut world, k1, _) = two();
        inc(&mut world, k1, "c");
        world.run_ms(500);
        let wall = world.wall_s();
        world.server(k1).count("c", -1, wall);
        world.run_ms(500);
        let k3 = world.start_as("127.0.0.13:5060", generation);
        world.run_ms(8_000);
        assert_eq!(world.server(k3).entry("calls", "c").as_deref(), Some("0"), "{generation:?}");
    }
}

fn servers(world: &mut World, generations: &[Generation]) -> Vec<SocketAddr> {
    let servers = generations
        .iter()
        .zip(11..)
        .map(|(generation, last)| world.start_as(&format!("127.0.0.{last}:5060"), *generation));
    let servers: Vec<SocketAddr> = servers.collect();
    world.run_ms(8_000);
    servers
}

/// That everybody comes to have it.
#[track_caller]
fn everywhere(world: &mut World, key: &str, sum: i64) {
    world.weather = None;
    let wanted = sum.to_string();
    let is_so = |world: &World| {
        let has = |entry: Option<String>| entry.unwrap_or_else(|| "0".into()) == wanted;
        has(world.entry("calls", key)) && world.servers.values().all(|s| has(s.entry("calls", key)))
    };
    let end = world.now_ms + 20_000;
    while world.now_ms < end && !is_so(world) {
        world.run_ms(100);
    }
    // And that it stays so.
    world.run_ms(10_000);
    let shown: Vec<_> = world.servers.values().map(|s| (s.addr, s.entry("calls", key))).collect();
    assert!(is_so(world), "{sum} wanted: {:?} {shown:?}\n{}", world.entry("calls", key), world.log.join("\n"));
}

#[test]
fn a_node_sleeps_while_a_server_has_not_answered_as_many_requests_as_may_be_open() {
    let base = config();
    let mut world = World::new(Config { dmq: DmqConfig { window: 1, ..base.dmq.clone() }, ..base });
    let [k1, k2] = ["127.0.0.11:5060", "127.0.0.12:5060"].map(|addr| world.start(addr));
    world.run_ms(8_000);
    world.server(k2).reachable = false;
    for key in ["a", "b", "c"] {
        inc(&mut world, k1, key);
    }
    for _ in 0..20 {
        world.run_ms(100);
        world.handle(Input::Tick);
        assert!(world.sleeps(), "it would be woken at once, again and again, until the server answers");
    }
}

#[test]
fn two_servers_that_stamp_count_at_once_and_sets_that_come_too_late_are_kept_out() {
    let mut world = World::new(config());
    let both = servers(&mut world, &[Generation::V6, Generation::V6]);
    world.weather = Some(Weather { seed: 9, delay_ms: 3, lost: 0 });
    for _ in 0..2_000 {
        for server in &both {
            inc(&mut world, *server, "c");
        }
        world.run_ms(1);
    }
    let kept_out: u64 = both.iter().map(|server| world.server(*server).kept_out).sum();
    assert!(kept_out > 50, "{kept_out}");
    everywhere(&mut world, "c", 4_000);
}

#[test]
fn a_server_that_counts_all_the_time_is_told_the_sum_without_a_quiet_moment() {
    let mut world = World::new(config());
    let both = servers(&mut world, &[Generation::V6, Generation::V6]);
    for _ in 0..7 {
        inc(&mut world, both[1], "c");
    }
    for _ in 0..200 {
        inc(&mut world, both[0], "c");
        world.run_ms(5);
    }
    assert_eq!(world.server(both[0]).entry("calls", "c").as_deref(), Some("207"));
    everywhere(&mut world, "c", 207);
}

#[test]
fn answers_and_messages_that_are_lost_change_no_sum() {
    let mut world = World::new(config());
    let both = servers(&mut world, &[Generation::V6, Generation::V6]);
    world.weather = Some(Weather { seed: 77, delay_ms: 4, lost: 10 });
    for round in 0..1_500 {
        inc(&mut world, both[0], "c");
        if round % 5 == 0 {
            (0..3).for_each(|_| inc(&mut world, both[1], "c"));
        }
        world.run_ms(3);
    }
    everywhere(&mut world, "c", 2_400);
}

#[test]
fn servers_of_both_generations_count_together() {
    let mut world = World::new(config());
    let all = servers(&mut world, &[Generation::V5, Generation::V6, Generation::V6]);
    for _ in 0..20 {
        inc(&mut world, all[0], "c");
        for _ in 0..100 {
            inc(&mut world, all[1], "c");
            inc(&mut world, all[2], "c");
            world.run_ms(2);
        }
    }
    everywhere(&mut world, "c", 4_020);
}

#[test]
fn a_node_that_was_dead_asks_for_the_stamps_and_goes_on() {
    for live_first in [true, false] {
        let mut world = World::new(Config { durable: true, ..config() });
        let both = servers(&mut world, &[Generation::V6, Generation::V6]);
        for _ in 0..10 {
            inc(&mut world, both[0], "c");
            inc(&mut world, both[1], "c");
            world.run_ms(50);
        }
        world.run_ms(2_000);
        inc(&mut world, both[0], "c");
        world.server(both[0]).forget_open();
        world.restart_node(10_000);
        if live_first {
            inc(&mut world, both[0], "c");
        }
        world.run_ms(10_000);
        inc(&mut world, both[1], "c");
        everywhere(&mut world, "c", if live_first { 23 } else { 22 });
    }
}

#[test]
fn a_sum_that_was_told_into_the_silence_is_not_taken_for_the_servers_own() {
    for generation in [Generation::V5, Generation::V6] {
        let mut world = World::new(config());
        let both = servers(&mut world, &[generation, generation]);
        inc(&mut world, both[0], "c");
        world.run_ms(1_000);
        world.server(both[1]).reachable = false;
        // Told before anybody knows that the server is cut off.
        inc(&mut world, both[0], "c");
        world.run_ms(1_000);
        (0..5).for_each(|_| inc(&mut world, both[1], "c"));
        inc(&mut world, both[0], "c");
        world.run_ms(60_000);
        world.server(both[1]).forget_open();
        world.server(both[1]).reachable = true;
        everywhere(&mut world, "c", 8);
    }
}

#[test]
fn a_counter_that_ended_everywhere_begins_at_nothing() {
    for generation in [Generation::V5, Generation::V6] {
        let mut config = config();
        let table = HtableConfig { counter: true, autoexpire_s: 60, ..HtableConfig::default() };
        config.htables.insert("calls".to_owned(), table);
        let mut world = World::new(config);
        let both = servers(&mut world, &[generation, generation]);
        for server in &both {
            world.server(*server).autoexpire.insert("calls".to_owned(), 60);
            for _ in 0..5 {
                inc(&mut world, *server, "c");
            }
        }
        everywhere(&mut world, "c", 10);
        world.run_ms(100_000);
        assert_eq!(world.entry("calls", "c"), None);
        inc(&mut world, both[0], "c");
        everywhere(&mut world, "c", 1);
    }
}

#[test]
fn a_delete_that_crosses_a_set_is_told_again() {
    for generation in [Generation::V5, Generation::V6] {
        let mut world = World::new(config());
        let both = servers(&mut world, &[generation, generation]);
        inc(&mut world, both[0], "c");
        everywhere(&mut world, "c", 1);
        world.weather = Some(Weather { seed: 5, delay_ms: 0, lost: 0 });
        inc(&mut world, both[1], "c");
        world.run_ms(49);
        // The sum is on its way when the first server drops the counter.
        world.weather = Some(Weather { seed: 5, delay_ms: 30, lost: 0 });
        world.run_ms(5);
        world.server(both[0]).delete("calls", "c");
        world.run_ms(2_000);
        assert_eq!(world.entry("calls", "c"), None);
        for server in &both {
            assert_eq!(world.server(*server).entry("calls", "c"), None);
        }
    }
}

#[test]
fn a_delete_that_has_arrived_without_an_answer_leaves_nothing_at_the_server() {
    for (generation, counted) in [(Generation::V5, 0), (Generation::V5, 2), (Generation::V6, 0), (Generation::V6, 2)] {
        let mut world = World::new(config());
        let both = servers(&mut world, &[generation, generation]);
        for _ in 0..5 {
            inc(&mut world, both[0], "c");
        }
        everywhere(&mut world, "c", 5);
        world.server(both[1]).reachable = false;
        world.server(both[0]).delete("calls", "c");
        world.run_ms(20_000);
        world.server(both[1]).delete("calls", "c");
        for _ in 0..counted {
            inc(&mut world, both[1], "c");
        }
        world.server(both[1]).forget_open();
        // As many as before, so that the sum is what the server had.
        for _ in counted..5 {
            inc(&mut world, both[0], "c");
        }
        world.run_ms(1_000);
        world.server(both[1]).reachable = true;
        world.run_ms(15_000);
        everywhere(&mut world, "c", 5);
    }
}

#[test]
fn a_counter_that_a_dump_does_not_show_is_told_again() {
    for generation in [Generation::V5, Generation::V6] {
        let mut world = World::new(config());
        let [k1, k2] = servers(&mut world, &[generation; 2])[..] else { panic!("two servers") };
        inc(&mut world, k1, "c");
        world.run_ms(1_000);
        assert_eq!(world.server(k2).entry("calls", "c").as_deref(), Some("1"));
        world.server(k2).reachable = false;
        world.run_ms(20_000);
        world.server(k2).entries.clear();
        world.server(k2).reachable = true;
        world.run_ms(20_000);
        assert_eq!(world.server(k2).entry("calls", "c").as_deref(), Some("1"), "{generation:?}");
        inc(&mut world, k2, "c");
        world.run_ms(1_000);
        assert_eq!(world.entry("calls", "c").as_deref(), Some("2"), "{generation:?}");
    }
}

#[test]
fn a_table_that_a_server_lacks_is_not_told_for_ever() {
    let mut world = World::new(config());
    let both = servers(&mut world, &[Generation::V6, Generation::V6]);
    world.server(both[1]).lacks.insert("calls".to_owned());
    inc(&mut world, both[0], "c");
    world.run_ms(5_000);
    let told = world.server(both[1]).received.iter().filter(|(_, body)| body.starts_with(b"{\"action\":2")).count();
    assert_eq!(told, 1);
}

#[test]
fn numbers_that_no_counter_has_are_refused_and_break_nothing() {
    let mut world = World::new(config());
    let all = servers(&mut world, &[Generation::V5, Generation::V6]);
    for server in all {
        inc(&mut world, server, "c");
        for value in [i64::MIN, i64::MAX, i64::MIN + 1, 1 << 61] {
            for stamp in ["", r#","last_modified":18446744073709551615"#, r#","last_modified":9223372036854775807"#] {
                let body =
                    format!(r#"{{"action":2,"htname":"calls","cname":"c","type":0,"intval":{value},"mode":1{stamp}}}"#);
                world.server(server).request("htable", body.into_bytes(), 1, "sip");
                let dump = format!(
                    r#"{{"cells":[{{"htname":"exp","cname":"k","type":0,"intval":1,"expire":18446744073709551615}},
                    {{"htname":"calls","cname":"c","type":0,"intval":{value},"expire":0{stamp}}}]}}"#
                );
                world.server(server).request("htable", dump.into_bytes(), 1, "dmq");
                world.run_ms(200);
            }
        }
    }
    everywhere(&mut world, "c", 2);
}

#[test]
fn what_a_server_counts_while_its_node_is_down_counts_once_after_the_restart() {
    for generation in [Generation::V5, Generation::V6] {
        for lost in [false, true] {
            let mut world = World::new(Config { durable: true, ..config() });
            let both = servers(&mut world, &[generation; 2]);
            (0..5).for_each(|_| inc(&mut world, both[0], "c"));
            (0..3).for_each(|_| inc(&mut world, both[1], "c"));
            everywhere(&mut world, "c", 8);
            let wall = world.wall_s();
            for (server, times) in [(both[0], 4), (both[1], 2)] {
                (0..times).for_each(|_| world.server(server).count("c", 1, wall));
                // Else it goes on repeating what it said while the node was down.
                if lost {
                    world.server(server).forget_open();
                }
            }
            world.restart_node(3_000);
            everywhere(&mut world, "c", 14);
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Count { server: usize, key: usize, times: u8, down: bool },
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..3usize, 0..2usize, 1..6u8, any::<bool>())
            .prop_map(|(server, key, times, down)| Step::Count { server, key, times, down }),
        2 => (0..40u16).prop_map(Step::Wait),
        1 => (0..1_200u16).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60, failure_persistence: None, rng_seed: RngSeed::Fixed(6), ..ProptestConfig::default() })]

    /// Three servers, two counters, one of which also goes down.
    #[test]
    fn no_increment_is_lost_or_counted_twice_whatever_crosses_what(
        seed in 1u64..,
        delay_ms in 0u64..30,
        lost in 0u64..4,
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new(config());
        let all = servers(&mut world, &[Generation::V6; 3]);
        world.weather = Some(Weather { seed, delay_ms, lost });
        let mut sums = [0, 0];
        for step in steps {
            match step {
                Step::Wait(ms) => world.run_ms(u64::from(ms)),
                Step::Count { server, key, times, down } => {
                    let by = if key == 1 && down { -1 } else { 1 };
                    for _ in 0..times {
                        let wall = world.wall_s();
                        world.server(all[server]).count(["up", "both"][key], by, wall);
                        sums[key] += by;
                    }
                }
            }
        }
        everywhere(&mut world, "up", sums[0]);
        everywhere(&mut world, "both", sums[1]);
    }
}
