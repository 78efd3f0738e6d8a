//! What a node with `ack = "disk"` promises before its disk has it: nothing.

use starling_node::config::Ack;
use starling_node::{Command, CommandId, Config, Input};

use crate::world::{World, config};

const A: &str = "sip:alice@192.0.2.1:5060";

fn world(ack: Ack) -> World {
    let mut world = World::new(Config { durable: true, ack, ..config() });
    world.start("127.0.0.11:5060");
    world.run_ms(8_000);
    world
}

fn set() -> Input<'static> {
    let value = starling_node::Value::Int(1);
    let command = Command::HtableSet { table: "plain".into(), key: "k".into(), value, expires_in: None };
    Input::Command { id: CommandId(7), command }
}

#[test]
fn a_command_is_answered_when_the_disk_has_it() {
    let mut world = world(Ack::Disk);
    world.disk_waits = true;
    world.handle(set());
    world.run_ms(1_000);
    assert_eq!(world.done, [], "a crash would lose it now");
    world.let_disk_write();
    assert_eq!(world.done, [CommandId(7)]);
}

#[test]
fn a_command_is_answered_at_once_where_memory_is_enough() {
    let mut world = world(Ack::Memory);
    world.disk_waits = true;
    world.handle(set());
    assert_eq!(world.done, [CommandId(7)]);
}

#[test]
fn a_servers_change_is_answered_when_the_disk_has_it() {
    let mut world = world(Ack::Disk);
    let k1 = "127.0.0.11:5060".parse().unwrap();
    world.disk_waits = true;
    let wall = world.wall_s();
    world.server(k1).register("alice", A, "c1", 1, 900, wall);
    world.run_ms(300);
    assert_eq!(world.shows("alice"), [A], "it has arrived");
    assert_eq!(world.server(k1).unanswered("usrloc"), 1, "a server that hears 200 does not repeat it");
    world.let_disk_write();
    world.run_ms(10);
    assert_eq!(world.server(k1).unanswered("usrloc"), 0);
}
