//! Hash tables of two servers that share one node.

use std::collections::BTreeMap;

use crate::world::{World, config, text, two};
use kdmq::Generation;
use starling_node::config::HtableConfig;
use starling_node::{Command, CommandId, CommandOk, Config, Input, Pattern};
use tables::htable::Value;

#[test]
fn sets_and_deletes_reach_the_other_server_whatever_their_type() {
    let (mut world, k1, k2) = two();
    let wall = world.wall_s();
    world.server(k1).set("plain", "s", text("hello"), wall);
    world.server(k1).set("plain", "i", Value::Int(-7), wall);
    world.run_ms(50);
    assert_eq!(world.server(k2).entry("plain", "s").as_deref(), Some("hello"));
    assert_eq!(world.server(k2).entry("plain", "i").as_deref(), Some("-7"));
    world.server(k2).delete("plain", "s");
    world.run_ms(50);
    assert_eq!(world.server(k1).entry("plain", "s"), None);
    assert_eq!(world.entry("plain", "s"), None);
    assert_eq!(world.entry("plain", "i").as_deref(), Some("-7"));
}

#[test]
fn a_repeated_set_after_an_unseen_one_elsewhere_counts() {
    let (mut world, k1, k2) = two();
    let wall = world.wall_s();
    world.server(k1).set("plain", "k", text("x"), wall);
    world.run_ms(5_000);
    world.server(k2).set("plain", "k", text("y"), wall);
    world.run_ms(5_000);
    world.server(k1).set("plain", "k", text("x"), wall);
    world.run_ms(50);
    assert_eq!(world.server(k2).entry("plain", "k").as_deref(), Some("x"));
}

#[test]
fn a_value_that_is_set_once_more_begins_its_life_anew() {
    let bans = HtableConfig { autoexpire_s: 600, ..HtableConfig::default() };
    let mut world = World::new(Config { htables: BTreeMap::from([("bans".to_owned(), bans)]), ..config() });
    let servers = ["127.0.0.11:5060", "127.0.0.12:5060"].map(|addr| world.start(addr));
    for server in servers {
        world.server(server).autoexpire.insert("bans".to_owned(), 600);
    }
    world.run_ms(8_000);
    for again in 0..3 {
        let wall = world.wall_s();
        world.server(servers[0]).set("bans", "192.0.2.66", Value::Int(1), wall);
        world.run_ms(400_000);
        for server in servers {
            let held = world.server(server).entry("bans", "192.0.2.66");
            assert_eq!(held.as_deref(), Some("1"), "set {again}, {server}");
        }
        assert_eq!(world.entry("bans", "192.0.2.66").as_deref(), Some("1"), "set {again}");
    }
}

#[test]
fn the_expiry_of_a_table_that_nobody_declared_is_learned() {
    let (mut world, k1, k2) = two();
    let wall = world.wall_s();
    world.server(k1).set("exp", "k", text("v"), wall);
    world.run_ms(4_000);
    let entry = world.node.htable_get("exp", b"k", world.now()).expect("it is there");
    let expires = entry.expires.expect("the dump told when it expires");
    assert!(expires.abs_diff(wall + 3_600) <= 1, "{expires} is not {}", wall + 3_600);
    let wall = world.wall_s();
    world.server(k1).set("exp", "second", text("v"), wall);
    world.run_ms(50);
    let entry = world.node.htable_get("exp", b"second", world.now()).expect("it is there");
    assert!(entry.expires.is_some_and(|e| e.abs_diff(wall + 3_600) <= 2), "known from now on: {entry:?}");
    let wall = world.wall_s();
    world.server(k2).set("exp", "third", text("v"), wall);
    world.run_ms(35_000);
    let entry = world.node.htable_get("exp", b"third", world.now()).expect("it is there");
    assert!(
        entry.expires.is_some_and(|e| e.abs_diff(wall + 3_600) <= 2),
        "the other server's own dump says so: {entry:?}"
    );
}

#[test]
fn a_server_whose_table_expires_makes_no_entry_of_another_one_expire() {
    let (mut world, k1, k2) = two();
    world.server(k1).autoexpire.clear();
    let wall = world.wall_s();
    world.server(k2).set("exp", "theirs", text("v"), wall);
    world.run_ms(40_000);
    let wall = world.wall_s();
    world.server(k1).set("exp", "ours", text("v"), wall);
    world.run_ms(5_000);
    let entry = world.node.htable_get("exp", b"ours", world.now()).expect("it is there");
    assert_eq!(entry.expires, None);
}

#[test]
fn an_operators_entry_expires_at_the_servers_too() {
    let (mut world, k1, _) = two();
    let command = Command::HtableSet {
        table: "exp".into(),
        key: "k".into(),
        value: starling_node::Value::Int(5),
        expires_in: Some(30),
    };
    world.handle(Input::Command { id: CommandId(1), command });
    world.run_ms(100);
    let wall = world.wall_s();
    let expire = world.server(k1).entries[&("exp".to_owned(), "k".to_owned())].1;
    assert!(expire.abs_diff(wall + 30) <= 1);
    world.run_ms(32_000);
    assert_eq!(world.entry("exp", "k"), None);
}

#[test]
fn deleting_by_pattern_reaches_the_servers_entry_by_entry() {
    let (mut world, k1, k2) = two();
    let wall = world.wall_s();
    for key in ["user:1", "user:2", "other"] {
        world.server(k1).set("plain", key, text("v"), wall);
    }
    world.run_ms(100);
    let command = Command::HtableDeleteMatching {
        table: "plain".into(),
        pattern: Pattern::Prefix("user:".into()),
        on_values: false,
    };
    world.handle(Input::Command { id: CommandId(1), command });
    world.run_ms(100);
    for server in [k1, k2] {
        assert_eq!(world.server(server).entry("plain", "user:1"), None);
        assert_eq!(world.server(server).entry("plain", "user:2"), None);
        assert_eq!(world.server(server).entry("plain", "other").as_deref(), Some("v"));
    }
    let removed = br#"{"action":5,"htname":"plain","type":2,"strval":"^oth","mode":0}"#;
    world.server(k1).entries.retain(|(_, key), _| !key.starts_with("oth"));
    world.server(k1).request("htable", removed.to_vec(), 1, "sip");
    world.run_ms(100);
    assert_eq!(world.server(k2).entry("plain", "other"), None);
}

#[test]
fn a_value_that_no_server_can_hold_is_refused() {
    let mut world = World::new(config());
    let command = Command::HtableSet {
        table: "plain".into(),
        key: "k".into(),
        value: starling_node::Value::Int(1 << 40),
        expires_in: None,
    };
    world.node.handle(Input::Command { id: CommandId(9), command }, world.now());
    let refused = std::iter::from_fn(|| match world.node.poll() {
        starling_node::Output::Sleep { .. } => None,
        output => Some(output),
    })
    .any(|output| matches!(output, starling_node::Output::Done { id: CommandId(9), result: Err(_) }));
    assert!(refused);
    let _ = CommandOk::Done;
}

#[test]
fn what_a_dump_shows_before_the_server_could_say_it_is_not_taken_back() {
    let (mut world, k1, k2) = two();
    let wall = world.wall_s();
    world.server(k1).set("plain", "k", text("old"), wall);
    world.run_ms(40_000);
    world.server(k1).delete("plain", "k");
    world.run_ms(5_000);
    let before = world.server(k1).received.len();
    // Its message is lost at first, and the set of an unknown table makes the node ask for a dump.
    world.server(k1).entries.insert(("plain".to_owned(), "k".to_owned()), (text("new"), 0));
    world.server(k1).set("unknown", "x", text("1"), wall);
    world.run_ms(450);
    let received = &world.server(k1).received[before..];
    let asked = received.iter().any(|(_, body)| body.starts_with(br#"{"action":1"#));
    assert!(asked, "{received:?}");
    world.server(k1).set("plain", "k", text("new"), wall);
    world.run_ms(20_000);
    let received = &world.server(k1).received[before..];
    let deletes = received.iter().filter(|(_, body)| body.starts_with(br#"{"action":4"#)).count();
    assert_eq!(deletes, 0, "{received:?}");
    assert_eq!(world.server(k1).entry("plain", "k").as_deref(), Some("new"));
    assert_eq!(world.server(k2).entry("plain", "k").as_deref(), Some("new"));
}

#[test]
fn what_dumps_show_again_and_again_though_it_was_deleted_is_deleted_there() {
    let (mut world, k1, k2) = two();
    let wall = world.wall_s();
    world.server(k1).set("plain", "k", text("old"), wall);
    world.run_ms(40_000);
    world.server(k2).delete("plain", "k");
    world.run_ms(5_000);
    world.server(k1).entries.insert(("plain".to_owned(), "k".to_owned()), (text("old"), 0));
    world.server(k1).set("unknown", "x", text("1"), wall);
    world.run_ms(30_000);
    assert_eq!(world.server(k1).entry("plain", "k"), None);
    assert_eq!(world.server(k2).entry("plain", "k"), None);
}

#[test]
fn what_a_server_sets_where_it_has_deleted_or_was_told_to_counts_also_if_its_word_is_lost() {
    for by_itself in [true, false] {
        let (mut world, k1, k2) = two();
        let wall = world.wall_s();
        world.server(k1).set("plain", "k", text("old"), wall);
        world.run_ms(40_000);
        world.server(if by_itself { k1 } else { k2 }).delete("plain", "k");
        world.run_ms(5_000);
        world.server(k1).entries.insert(("plain".to_owned(), "k".to_owned()), (text("new"), 0));
        world.server(k1).set("unknown", "x", text("1"), wall);
        world.run_ms(30_000);
        for server in [k1, k2] {
            assert_eq!(world.server(server).entry("plain", "k").as_deref(), Some("new"), "{by_itself}");
        }
    }
}

#[test]
fn what_a_server_with_another_clock_sets_just_after_something_else_counts() {
    let mut world = World::new(config());
    let (k1, k2) = (world.start_as("127.0.0.11:5060", Generation::V6), world.start("127.0.0.12:5060"));
    world.server(k1).behind_ms = 2_000;
    world.run_ms(20_000);
    for (value, wait_ms) in [("a", 600), ("b", 600), ("c", 20_000)] {
        let wall = world.wall_s();
        world.server(k1).set("plain", "k", text(value), wall);
        world.run_ms(wait_ms);
    }
    assert_eq!(world.server(k2).entry("plain", "k").as_deref(), Some("c"));
}
