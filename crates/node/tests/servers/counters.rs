//! Tables that count: increments of both servers add up.

use crate::world::{World, config};
use tables::htable::Value;

fn inc(world: &mut World, server: std::net::SocketAddr, key: &str) {
    let wall = world.wall_s();
    let before: i64 = world.server(server).entry("calls", key).map_or(0, |v| v.parse().unwrap());
    world.server(server).set("calls", key, Value::Int(before + 1), wall);
}

#[test]
fn increments_at_both_servers_add_up_at_both() {
    let mut world = World::new(config());
    let k1 = world.start("127.0.0.11:5060");
    let k2 = world.start("127.0.0.12:5060");
    world.run_ms(8_000);
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
    let mut world = World::new(config());
    let k1 = world.start("127.0.0.11:5060");
    let k2 = world.start("127.0.0.12:5060");
    world.run_ms(8_000);
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
    let mut world = World::new(config());
    let k1 = world.start("127.0.0.11:5060");
    let k2 = world.start("127.0.0.12:5060");
    world.run_ms(8_000);
    inc(&mut world, k1, "c");
    world.run_ms(500);
    world.server(k1).delete("calls", "c");
    world.run_ms(500);
    assert_eq!(world.server(k2).entry("calls", "c"), None);
    inc(&mut world, k2, "c");
    world.run_ms(500);
    assert_eq!(world.server(k1).entry("calls", "c").as_deref(), Some("1"));
}
