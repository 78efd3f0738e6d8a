//! Servers that were cut off, restarted or silent.

use crate::world::{Weather, World, config, text, two};
use starling_node::{Command, CommandId, Config, Input};
use tables::htable::Value;

const A: &str = "sip:alice@192.0.2.1:5060";
const B: &str = "sip:bob@192.0.2.2:5060";
const C: &str = "sip:carol@192.0.2.3:5060";

/// Alice and a key at the first server, known to everybody, and proven by a dump.
fn settled() -> (World, std::net::SocketAddr, std::net::SocketAddr) {
    let (mut world, k1, k2) = two();
    let wall = world.wall_s();
    world.server(k1).register("alice", A, "c1", 1, 6_000, wall);
    world.server(k1).set("plain", "k", text("old"), wall);
    world.run_ms(40_000);
    (world, k1, k2)
}

#[test]
fn a_contact_whose_last_change_is_older_than_a_cell_can_be_is_known_again_after_a_restart_without_a_disk() {
    for (what, expires_s, modified_s) in [("permanent", None, 30 * 86_400), ("of unknown age", Some(6_000), u64::MAX)] {
        let (mut world, k1, k2) = two();
        let wall = world.wall_s();
        world.server(k1).register("alice", A, "c1", 1, 6_000, wall);
        world.run_ms(40_000);
        for contact in world.server(k1).contacts.values_mut() {
            contact.expires = expires_s.map_or(0, |s| wall + s);
            contact.last_modified = wall.saturating_sub(modified_s);
        }
        world.server(k2).contacts.clear();
        world.restart_node(1_000);
        world.run_ms(30_000);
        assert_eq!(world.shows("alice"), [A], "{what}");
        assert_eq!(world.server(k2).holds("alice"), [A], "{what}");
    }
}

#[test]
fn what_a_cut_off_server_removed_and_what_it_took_in_is_so_everywhere_after_its_return() {
    for (name, cut) in [("the sender", 0), ("a server that was fed", 1)] {
        let (mut world, k1, k2) = settled();
        let (cut, other) = if cut == 0 { (k1, k2) } else { (k2, k1) };
        world.server(cut).reachable = false;
        world.run_ms(20_000);
        let wall = world.wall_s();
        world.server(cut).unregister("alice", A);
        world.server(cut).delete("plain", "k");
        world.server(cut).register("bob", B, "c2", 1, 6_000, wall);
        world.server(other).register("carol", C, "c3", 1, 6_000, wall);
        world.run_ms(40_000);
        assert_eq!(world.shows("alice"), [A], "{name}: nothing is known yet");
        // What the server sent meanwhile is lost, as after its fr_timer.
        world.server(cut).forget_open();
        world.server(cut).reachable = true;
        world.run_ms(15_000);
        for server in [k1, k2] {
            let server = world.server(server);
            assert!(server.holds("alice").is_empty(), "{name}: {}", server.addr);
            assert_eq!(server.holds("bob"), [B], "{name}");
            assert_eq!(server.holds("carol"), [C], "{name}");
            assert_eq!(server.entry("plain", "k"), None, "{name}");
        }
        assert!(world.shows("alice").is_empty(), "{name}");
        assert_eq!((world.shows("bob"), world.shows("carol")), (vec![B.into()], vec![C.into()]), "{name}");
        assert_eq!(world.entry("plain", "k"), None, "{name}");
    }
}

/// Longer than any ping and its answer, shorter than any contact.
const BLACK_HOLE: usize = 560;

#[test]
fn a_way_that_loses_every_large_datagram_removes_nothing() {
    let (mut world, k1, k2) = settled();
    world.server(k1).reachable = false;
    world.run_ms(20_000);
    world.black_hole = Some(BLACK_HOLE);
    world.server(k1).reachable = true;
    let questions = world.server(k1).received.len();
    world.run_ms(50_000);
    let asked = world.server(k1).received[questions..].iter().filter(|(c, _)| c == "usrloc").count();
    assert!(asked > 0, "it was asked for everything");
    assert_eq!(world.shows("alice"), [A], "its dump arrived empty");
    assert_eq!(world.entry("plain", "k").as_deref(), Some("old"));
    assert_eq!(world.server(k2).holds("alice"), [A]);
    assert!(world.log.iter().any(|line| line.contains("arrived with gaps")), "{:?}", world.log);
}

#[test]
fn a_dump_that_has_grown_too_long_for_its_way_removes_nothing() {
    for batch in [1, 50] {
        let (mut world, k1, k2) = two();
        world.server(k1).batch = batch;
        world.black_hole = Some(1_400);
        world.run_ms(8_000);
        for number in 0..40 {
            let wall = world.wall_s();
            let (aor, uri) = (format!("aor{number}"), format!("sip:{number}@192.0.2.1:5060"));
            world.server(k1).register(&aor, &uri, &format!("c{number}"), 1, 6_000, wall);
            world.server(k1).set("plain", &format!("k{number}"), text("v"), wall);
            world.run_ms(1_000);
        }
        // Whatever makes it look at what that server holds.
        for _ in 0..5 {
            world.server(k1).reachable = false;
            world.run_ms(20_000);
            world.server(k1).reachable = true;
            world.run_ms(70_000);
        }
        for number in 0..40 {
            assert_eq!(world.shows(&format!("aor{number}")).len(), 1, "contact {number}, {batch} in a message");
            assert_eq!(world.entry("plain", &format!("k{number}")).as_deref(), Some("v"), "{number}");
            assert_eq!(world.server(k2).holds(&format!("aor{number}")).len(), 1, "contact {number}");
        }
    }
}

#[test]
fn a_server_whose_dumps_are_lost_is_told_what_it_missed_all_the_same() {
    let (mut world, k1, k2) = two();
    world.server(k1).dumps_are_lost = true;
    world.run_ms(8_000);
    for round in 0..3 {
        world.server(k1).reachable = false;
        world.run_ms(20_000);
        let wall = world.wall_s();
        for number in 0..40 {
            world.server(k2).set("plain", &format!("k{number}"), Value::Int(round), wall);
        }
        world.run_ms(1_000);
        world.server(k1).reachable = true;
        world.run_ms(15_000);
        for number in 0..40 {
            let held = world.server(k1).entry("plain", &format!("k{number}"));
            assert_eq!(held, Some(round.to_string()), "k{number}, round {round}");
        }
    }
}

#[test]
fn what_such_a_way_lost_is_not_missing_when_it_gets_better_before_the_dump_is_judged() {
    for ms in (0..6_000).step_by(100) {
        let (mut world, k1, k2) = settled();
        world.server(k1).reachable = false;
        world.run_ms(20_000);
        world.black_hole = Some(BLACK_HOLE);
        world.server(k1).reachable = true;
        world.run_ms(ms);
        world.black_hole = None;
        for _ in 0..30 {
            world.run_ms(500);
            assert_eq!(world.shows("alice"), [A], "after {ms} ms");
            assert_eq!(world.entry("plain", "k").as_deref(), Some("old"), "after {ms} ms");
        }
        assert_eq!(world.server(k2).holds("alice"), [A], "after {ms} ms");
    }
}

#[test]
fn a_removal_counts_as_soon_as_large_datagrams_arrive_again() {
    let (mut world, k1, k2) = settled();
    world.server(k1).reachable = false;
    world.run_ms(20_000);
    world.server(k1).unregister("alice", A);
    world.server(k1).forget_open();
    world.black_hole = Some(BLACK_HOLE);
    world.server(k1).reachable = true;
    world.run_ms(50_000);
    assert_eq!(world.shows("alice"), [A], "its emptiness is not proven");
    world.black_hole = None;
    world.run_until(70_000, "the next dump is believed", |w| w.shows("alice").is_empty());
    world.run_ms(2_000);
    assert!(world.server(k2).holds("alice").is_empty());
}

#[test]
fn a_dump_whose_only_message_is_lost_twice_removes_nothing() {
    for seed in 1..=40 {
        let (mut world, k1, k2) = settled();
        world.server(k1).reachable = false;
        world.run_ms(20_000);
        world.weather = Some(Weather { seed, delay_ms: 5, lost: 40 });
        world.server(k1).reachable = true;
        for _ in 0..60 {
            world.run_ms(500);
            assert_eq!(world.shows("alice"), [A], "seed {seed}");
        }
        assert_eq!(world.server(k2).holds("alice"), [A], "seed {seed}");
    }
}

#[test]
fn a_dump_from_whose_middle_a_message_is_lost_for_good_removes_nothing() {
    let (mut world, k1, k2) = settled();
    let wall = world.wall_s();
    world.server(k1).register("aaron", C, "c3", 1, 6_000, wall);
    world.server(k1).register("bob", B, "c2", 1, 6_000, wall);
    world.run_ms(40_000);
    world.server(k1).reachable = false;
    world.run_ms(20_000);
    world.server(k1).forget_open();
    // Everything else arrives, also what is as long.
    world.lost = Some(r#""aor":"alice""#);
    world.server(k1).reachable = true;
    for _ in 0..120 {
        world.run_ms(500);
        assert_eq!(world.shows("alice"), [A]);
    }
    assert_eq!(world.server(k2).holds("alice"), [A]);
    let mut others = [world.shows("aaron"), world.shows("bob")].concat();
    others.sort();
    assert_eq!(others, [B, C]);
    assert!(world.log.iter().any(|line| line.contains("arrived with gaps")), "{:?}", world.log);
}

#[test]
fn a_server_that_was_silent_for_hours_and_greets_nobody_is_greeted() {
    let (mut world, k1, k2) = settled();
    world.server(k2).reachable = false;
    world.run_ms(60_000);
    // It has dropped the node meanwhile, as a server does after missed pings, and knows no other.
    world.server(k2).forget_node();
    world.run_ms(2 * 3_600_000);
    let wall = world.wall_s();
    world.server(k1).register("carol", C, "c3", 1, 6_000, wall);
    world.server(k2).reachable = true;
    world.run_until(60_000, "it is told", |w| w.server(k2).holds("carol") == [C]);
}

#[test]
fn a_refresh_elsewhere_outlives_the_removal_at_a_cut_off_server() {
    let (mut world, k1, k2) = settled();
    world.server(k1).reachable = false;
    world.run_ms(20_000);
    world.server(k1).unregister("alice", A);
    world.run_ms(5_000);
    let wall = world.wall_s();
    world.server(k2).register("alice", A, "c1", 2, 6_000, wall);
    world.run_ms(20_000);
    world.server(k1).forget_open();
    world.server(k1).reachable = true;
    world.run_ms(15_000);
    assert_eq!(world.shows("alice"), [A]);
    assert_eq!(world.server(k1).holds("alice"), [A]);
}

#[test]
fn a_restarted_server_gets_everything_back_and_removes_nothing() {
    let (mut world, k1, k2) = settled();
    world.start("127.0.0.11:5060");
    world.run_ms(8_000);
    assert_eq!(world.server(k1).holds("alice"), [A]);
    assert_eq!(world.server(k1).entry("plain", "k").as_deref(), Some("old"));
    assert_eq!(world.shows("alice"), [A]);
    assert_eq!(world.server(k2).holds("alice"), [A]);
    assert_eq!(world.node.peers(world.now())[0].restarts, 1);
}

#[test]
fn a_server_that_restarted_unheard_removes_nothing_either() {
    let (mut world, k1, _) = settled();
    world.server(k1).reachable = false;
    world.run_ms(20_000);
    world.start("127.0.0.11:5060");
    world.run_ms(10_000);
    assert_eq!(world.shows("alice"), [A]);
    assert_eq!(world.server(k1).holds("alice"), [A]);
}

#[test]
fn what_changed_elsewhere_while_a_server_was_cut_off_is_told_once_it_is_back() {
    let (mut world, k1, k2) = settled();
    world.server(k2).reachable = false;
    world.run_ms(20_000);
    let wall = world.wall_s();
    for round in 0..20 {
        world.server(k1).set("plain", "k", text(["a", "b"][round % 2]), wall);
        world.run_ms(100);
    }
    world.server(k1).unregister("alice", A);
    world.run_ms(1_000);
    let before = world.server(k2).received.len();
    world.server(k2).reachable = true;
    world.run_ms(12_000);
    assert!(world.server(k2).holds("alice").is_empty());
    assert_eq!(world.server(k2).entry("plain", "k").as_deref(), Some("b"));
    let sets = world.server(k2).received[before..].iter().filter(|(_, b)| b.starts_with(b"{\"action\":2")).count();
    assert!(sets <= 4, "twenty writes are told as one: {sets}");
}

#[test]
fn a_server_whose_phones_never_rest_is_fed_all_the_same() {
    let (mut world, _, _) = settled();
    let k3 = world.start("127.0.0.13:5060");
    for cseq in 1..=150 {
        let wall = world.wall_s();
        // From its start on, so that nobody knows yet which of its processes sends dumps.
        world.server(k3).register("bob", B, "c2", cseq, 6_000, wall);
        world.run_ms(100);
    }
    assert_eq!(world.server(k3).holds("alice"), [A]);
    assert_eq!(world.server(k3).entry("plain", "k").as_deref(), Some("old"));
}

#[test]
fn a_node_that_stood_still_while_a_dump_was_open_asks_for_another_one() {
    let (mut world, k1, k2) = settled();
    let wall = world.wall_s();
    // A table that nobody knows: its dump is asked for.
    world.server(k1).set("new", "k", text("v"), wall);
    world.run_ms(5);
    world.stop_node(60_000);
    let wall = world.wall_s();
    world.server(k1).register("bob", B, "c2", 1, 6_000, wall);
    world.stop_node(40_000);
    for server in [k1, k2] {
        world.server(server).forget_open();
        // It was heard just before it is looked at.
        let list = format!("sip:{server};status=active\r\n");
        world.server(server).request("notification_peer", list.into_bytes(), 1, "main");
    }
    world.run_ms(15_000);
    assert_eq!(world.shows("bob"), [B]);
    assert_eq!(world.server(k2).holds("bob"), [B]);
}

/// A contact that was registered while the way was bad is told late.
#[test]
fn a_server_that_says_late_what_we_had_it_forget_meanwhile_is_told_again() {
    let (mut world, k1, k2) = settled();
    world.weather = Some(Weather { seed: 1, delay_ms: 0, lost: 100 });
    let wall = world.wall_s();
    world.server(k1).register("alice", A, "c1", 2, 6_000, wall);
    world.run_ms(2_000);
    // A removal that was on its way to it.
    world.server(k1).contacts.clear();
    world.run_ms(2_000);
    world.weather = None;
    world.run_ms(10_000);
    assert_eq!(world.shows("alice"), [A]);
    assert_eq!(world.server(k2).holds("alice"), [A]);
    assert_eq!(world.server(k1).holds("alice"), [A], "its own contact is told back to it");
}

#[test]
fn a_silent_server_costs_one_waiting_entry_per_cell_and_nobody_else_anything() {
    let (mut world, k1, k2) = settled();
    world.server(k2).reachable = false;
    for round in 0..50 {
        let wall = world.wall_s();
        world.server(k1).set("plain", "k", text(["a", "b"][round % 2]), wall);
        world.server(k1).register("alice", A, "c1", round as u32 + 2, 6_000, wall);
        world.run_ms(1_000);
    }
    let peers = world.node.peers(world.now());
    let silent = peers.iter().find(|p| p.uri.ends_with("12:5060")).unwrap();
    assert_eq!(silent.state, "silent");
    assert!(silent.queued <= 2, "{silent:?}");
    assert_eq!(silent.open, 0);
    let fine = peers.iter().find(|p| p.uri.ends_with("11:5060")).unwrap();
    assert_eq!((fine.state, fine.queued), ("active", 0));
}

#[test]
fn a_server_that_starts_with_contacts_fills_the_mesh_and_an_empty_one_is_filled() {
    let mut world = World::new(config());
    let k1 = world.start("127.0.0.11:5060");
    let wall = world.wall_s();
    for n in 0..2_000 {
        let (aor, uri) = (format!("u{n}"), format!("sip:u{n}@192.0.2.9:5060"));
        world.server(k1).register(&aor, &uri, &format!("c{n}"), 1, 6_000, wall);
    }
    world.run_until(30_000, "the node takes them all in", |w| w.node.status(w.now()).contacts == 2_000);
    let k2 = world.start("127.0.0.12:5060");
    world.run_until(60_000, "the fresh server is filled", |w| w.server(k2).contacts.len() == 2_000);
    let requests = world.server(k2).received.iter().filter(|(_, b)| b.starts_with(b"{\"multi\"")).count();
    assert!(requests >= 600, "several contacts go together: {requests}");
}

#[test]
fn a_node_that_was_dead_knows_from_its_disk_what_its_server_has_removed_meanwhile() {
    let mut world = World::new(Config { durable: true, ..config() });
    let k1 = world.start("127.0.0.11:5060");
    world.run_ms(8_000);
    let wall = world.wall_s();
    world.server(k1).register("alice", A, "c1", 1, 6_000, wall);
    world.server(k1).register("bob", B, "c2", 1, 6_000, wall);
    world.server(k1).set("plain", "k", text("old"), wall);
    world.run_ms(10_000);
    world.server(k1).unregister("alice", A);
    world.server(k1).delete("plain", "k");
    world.server(k1).forget_open();
    world.restart_node(30_000);
    world.run_ms(25_000);
    assert!(world.shows("alice").is_empty(), "{}", world.log.join("\n"));
    assert_eq!(world.entry("plain", "k"), None);
    assert_eq!(world.shows("bob"), [B]);
    assert_eq!(world.server(k1).holds("bob"), [B]);
    assert!(world.server(k1).holds("alice").is_empty());
}

#[test]
fn a_node_that_was_dead_while_its_server_restarted_gives_it_everything_back() {
    let mut world = World::new(Config { durable: true, ..config() });
    let k1 = world.start("127.0.0.11:5060");
    world.run_ms(8_000);
    let wall = world.wall_s();
    world.server(k1).register("alice", A, "c1", 1, 6_000, wall);
    world.run_ms(10_000);
    world.start("127.0.0.11:5060");
    world.restart_node(30_000);
    world.run_ms(25_000);
    assert_eq!(world.shows("alice"), [A], "{}", world.log.join("\n"));
    assert_eq!(world.server(k1).holds("alice"), [A]);
}

#[test]
fn what_a_server_took_in_while_it_still_took_a_returned_node_for_gone_arrives() {
    let (mut world, k1, _) = settled();
    world.restart_node(4_500);
    world.run_ms(1_400);
    let wall = world.wall_s();
    // The ping that it sent while the node was down ends without an answer.
    world.server(k1).pending = true;
    world.server(k1).register("alice", B, "c2", 1, 6_000, wall);
    world.server(k1).unregister("alice", A);
    world.server(k1).set("plain", "k", text("new"), wall);
    world.run_until(13_000, "the node asks once more", |w| {
        w.shows("alice") == [B] && w.entry("plain", "k").as_deref() == Some("new")
    });
}

#[test]
fn a_removal_by_pattern_that_was_held_spares_what_was_written_after_it() {
    let nobody = "127.0.0.1:9".parse().unwrap();
    let mut world = World::new(Config { join: vec![nobody], ..config() });
    let k1 = world.start("127.0.0.11:5060");
    set_here(&mut world, "before", 1);
    world.run_ms(1_000);
    let body = br#"{"action":5,"htname":"plain","type":2,"strval":"e","mode":0}"#;
    world.server(k1).request("htable", body.to_vec(), 1, "sip");
    world.run_ms(500);
    assert_eq!(world.entry("plain", "before").as_deref(), Some("1"), "it waits for the other node");
    set_here(&mut world, "after", 2);
    world.run_ms(5_000);
    let shown = ["before", "after"].map(|key| world.entry("plain", key));
    assert_eq!(shown, [None, Some("2".to_owned())]);
}

/// An operator sets an entry at the node.
fn set_here(world: &mut World, key: &str, value: i64) {
    let value = starling_node::Value::Int(value);
    let command = Command::HtableSet { table: "plain".into(), key: key.into(), value, expires_in: None };
    world.handle(Input::Command { id: CommandId(1), command });
}
