//! Contacts of two servers that share one node.

use kdmq::Generation;
use starling_node::config::DmqMode;

use crate::world::{World, config, two};

const A: &str = "sip:alice@192.0.2.1:5060";
const B: &str = "sip:alice@192.0.2.2:5060";

#[test]
fn a_registration_at_one_server_reaches_the_other_with_its_ruid() {
    let (mut world, k1, k2) = two();
    let wall = world.wall_s();
    let ruid = world.server(k1).register("alice", A, "c1", 1, 600, wall);
    world.run_ms(50);
    assert_eq!(world.shows("alice"), [A]);
    assert_eq!(world.server(k2).holds("alice"), [A]);
    assert!(world.server(k2).contacts.contains_key(&("alice".into(), ruid)));
}

#[test]
fn one_change_costs_one_request_and_nothing_comes_back() {
    let (mut world, k1, k2) = two();
    let (before1, before2) = (world.server(k1).received.len(), world.server(k2).received.len());
    let wall = world.wall_s();
    world.server(k1).register("alice", A, "c1", 1, 600, wall);
    world.run_ms(200);
    let wall = world.wall_s();
    world.server(k1).register("alice", A, "c1", 2, 600, wall);
    world.run_ms(200);
    assert_eq!(world.server(k2).received.len() - before2, 2);
    assert_eq!(world.server(k1).received.len() - before1, 0);
}

#[test]
fn who_leaves_within_the_millisecond_is_gone_also_where_the_server_has_just_been_heard() {
    let mut world = World::new(config());
    let k1 = world.start("127.0.0.11:5060");
    world.run_ms(1_000);
    let wall = world.wall_s();
    // So many writes within one millisecond that only the counter of the clock tells them apart.
    for aor in ["alice", "bob", "carol"] {
        world.server(k1).register(aor, A, aor, 1, 600, wall);
    }
    for aor in ["alice", "bob", "carol"] {
        world.server(k1).unregister(aor, A);
    }
    world.run_ms(200);
    for aor in ["alice", "bob", "carol"] {
        assert_eq!(world.shows(aor), Vec::<String>::new(), "{aor}");
    }
}

#[test]
fn an_unregister_at_either_server_removes_the_contact_everywhere() {
    for from_first in [true, false] {
        let (mut world, k1, k2) = two();
        let wall = world.wall_s();
        world.server(k1).register("alice", A, "c1", 1, 600, wall);
        world.run_ms(50);
        world.server(if from_first { k1 } else { k2 }).unregister("alice", A);
        world.run_ms(50);
        assert!(world.shows("alice").is_empty());
        assert!(world.server(k1).holds("alice").is_empty());
        assert!(world.server(k2).holds("alice").is_empty());
    }
}

#[test]
fn a_refresh_at_the_other_server_keeps_one_contact_at_each() {
    let (mut world, k1, k2) = two();
    let wall = world.wall_s();
    world.server(k1).register("alice", A, "c1", 1, 600, wall);
    world.run_ms(50);
    let wall = world.wall_s();
    world.server(k2).register("alice", A, "c1", 2, 900, wall);
    world.run_ms(50);
    for server in [k1, k2] {
        let contacts: Vec<_> = world.server(server).contacts.values().cloned().collect();
        assert_eq!(contacts.len(), 1, "{server}");
        assert_eq!((contacts[0].cseq, contacts[0].expires), (2, wall + 900), "{server}");
    }
}

#[test]
fn a_refresh_that_overtook_the_one_before_it_stays() {
    let (mut world, k1, k2) = two();
    let wall = world.wall_s();
    world.server(k1).register("alice", A, "c1", 5, 900, wall);
    world.run_ms(50);
    world.server(k1).register("alice", A, "c1", 4, 300, wall);
    world.run_ms(50);
    let contacts = world.node.location(b"alice", world.now());
    assert_eq!((contacts[0].cseq, contacts[0].expires), (5, wall + 900));
    assert!(world.server(k2).contacts.values().all(|contact| contact.cseq == 5));
}

#[test]
fn a_refresh_elsewhere_reaches_a_server_whose_clock_is_ahead() {
    let mut world = World::new(config());
    let k1 = world.start_as("127.0.0.11:5060", Generation::V6);
    let k2 = world.start("127.0.0.12:5060");
    world.run_ms(1_000);
    let wall = world.wall_s();
    world.server(k1).register("alice", A, "c1", 1, 600, wall + 3_600);
    world.run_ms(50);
    world.server(k2).register("alice", A, "c1", 2, 900, wall);
    world.run_until(60_000, "the refresh is at both", |world| {
        [k1, k2].iter().all(|server| world.server(*server).contacts.values().all(|contact| contact.cseq == 2))
    });
    // Its dump shows a contact without a time, which is no news.
    world.run_ms(60_000);
    let contacts = world.node.location(b"alice", world.now());
    assert_eq!((contacts[0].cseq, contacts[0].last_modified), (2, wall));
}

#[test]
fn a_removal_that_crosses_a_refresh_elsewhere_removes_nothing() {
    for (phone, callid, cseq) in [("the same", "c1", 2), ("one that has restarted", "c2", 1)] {
        let (mut world, k1, k2) = two();
        let wall = world.wall_s();
        world.server(k2).register("alice", A, "c1", 1, 900, wall);
        world.run_ms(5_000);
        let wall = world.wall_s();
        world.server(k1).register("alice", A, callid, cseq, 900, wall);
        // The server has not been told when it says this.
        world.server(k2).unregister("alice", A);
        world.run_ms(500);
        assert_eq!(world.shows("alice"), [A], "{phone}");
        assert_eq!(world.server(k1).holds("alice"), [A], "{phone}");
        assert_eq!(world.server(k2).holds("alice"), [A], "{phone}: it is told what it did not know");
    }
}

#[test]
fn removals_of_what_is_not_held_are_writes() {
    let (mut world, k1, _) = two();
    let contact = r#"{"action":2,"aor":"alice","ruid":"r1","c":"sip:alice@192.0.2.1:5060","callid":"c1","cseq":1}"#;
    world.server(k1).request("usrloc", contact.into(), 1, "sip");
    world.server(k1).request("htable", r#"{"action":4,"htname":"t","cname":"k","mode":0}"#.into(), 1, "sip");
    world.run_ms(50);
    let replica = world.node.replica();
    assert_eq!(replica.members("location", b"alice").filter(|(_, cell)| cell.order.removed).count(), 1);
    assert!(replica.slot("htable:t", b"k", b"").is_some_and(|slot| replica.cell(slot).unwrap().order.removed));
}

#[test]
fn an_aor_keeps_the_contacts_of_both_servers_apart() {
    let (mut world, k1, k2) = two();
    let wall = world.wall_s();
    world.server(k1).register("alice", A, "c1", 1, 600, wall);
    world.server(k2).register("alice", B, "c2", 1, 600, wall);
    world.run_ms(50);
    assert_eq!(world.shows("alice"), [A, B]);
    world.server(k1).unregister("alice", A);
    world.run_ms(50);
    assert_eq!(world.shows("alice"), [B]);
    assert_eq!(world.server(k1).holds("alice"), [B]);
    assert_eq!(world.server(k2).holds("alice"), [B]);
}

#[test]
fn an_expired_contact_is_shown_no_more_and_costs_no_request() {
    let (mut world, k1, k2) = two();
    let wall = world.wall_s();
    world.server(k1).register("alice", A, "c1", 1, 5, wall);
    world.run_ms(4_000);
    assert_eq!(world.shows("alice"), [A]);
    let before = world.server(k2).received.iter().filter(|(c, b)| c == "usrloc" && b.len() > 20).count();
    world.run_ms(2_500);
    assert!(world.shows("alice").is_empty());
    let after = world.server(k2).received.iter().filter(|(c, b)| c == "usrloc" && b.len() > 20).count();
    assert_eq!(after, before);
}

#[test]
fn the_same_contact_registered_at_both_servers_at_once_is_removed_at_both_under_their_own_ruids() {
    let (mut world, k1, k2) = two();
    let wall = world.wall_s();
    let r1 = world.server(k1).register("alice", A, "c1", 1, 600, wall);
    let r2 = world.server(k2).register("alice", A, "c2", 1, 600, wall);
    assert_ne!(r1, r2);
    world.run_ms(300);
    let contacts = world.node.location(b"alice", world.now());
    assert_eq!(contacts.len(), 1);
    assert_eq!(contacts[0].ruids.len(), 2, "both ruids are known");
    world.server(k1).unregister("alice", A);
    world.run_ms(300);
    assert!(world.server(k1).holds("alice").is_empty());
    assert!(world.server(k2).holds("alice").is_empty());
    assert!(world.shows("alice").is_empty());
}

#[test]
fn a_set_that_a_servers_worker_applies_behind_the_removal_that_another_server_told_it_is_removed_again() {
    let (mut world, k1, k2) = two();
    world.server(k1).knows = vec![k2];
    world.server(k2).knows = vec![k1];
    world.run_ms(12_000);
    let wall = world.wall_s();
    let ruid = world.server(k2).register("alice", A, "c1", 1, 600, wall);
    let late = world.server(k2).contacts[&("alice".to_owned(), ruid)].clone();
    world.run_ms(5);
    world.server(k2).unregister("alice", A);
    world.run_ms(300);
    world.server(k1).store("alice".into(), late);
    world.run_ms(1_000);
    assert!(world.server(k1).holds("alice").is_empty());
    assert!(world.shows("alice").is_empty());
}

#[test]
fn a_server_is_told_the_winner_over_what_a_process_of_another_one_said_that_may_have_been_dumping() {
    let mut config = config();
    config.dmq.mode = DmqMode::Mesh;
    let mut world = World::new(config);
    let k2 = world.start("127.0.0.12:5060");
    world.run_ms(8_000);
    let wall = world.wall_s();
    world.server(k2).register("bob", B, "c", 1, 600, wall);
    let k1 = world.start("127.0.0.11:5060");
    world.server(k1).knows = vec![k2];
    world.server(k2).knows = vec![k1];
    world.run_ms(100);
    for (round, server) in [k2, k1, k2].into_iter().enumerate() {
        let wall = world.wall_s();
        world.server(server).register("alice", A, &format!("{server}-{round}"), 1, 600, wall);
        world.run_ms(1);
    }
    // The one has applied the other's last word behind its own.
    let late = world.server(k1).contacts.values().find(|c| *c.uri == A).unwrap().clone();
    world.server(k2).store("alice".into(), late);
    world.run_ms(20_000);
    let winner = world.node.location(b"alice", world.now())[0].callid.to_string();
    for server in [k1, k2] {
        let held = world.server(server).contacts.values().find(|c| *c.uri == A).unwrap();
        assert_eq!(held.callid.to_string(), winner, "{server}");
    }
}
