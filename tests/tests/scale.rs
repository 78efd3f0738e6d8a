//! Many contacts: syncs in which nothing is missing, and servers that stop answering.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::ensure;
use serde_json::json;
use starling_tests::compare::{Contacts, same_contacts};
use starling_tests::flood;
use starling_tests::host::Host;
use starling_tests::kamailio::{Kamailio, KamailioConfig};
use starling_tests::peer::{FakePeer, Manners};
use starling_tests::starling::{Starling, StarlingConfig, equal_digests, meet};
use starling_tests::topology::{Bridge, Plan};
use starling_tests::wait::{PATIENCE, eventually, limited, same, secs, stays};

/// A filled server, two fresh nodes, an empty server: what arrives at each.
fn fill(contacts: usize, first: KamailioConfig, second: KamailioConfig) {
    let [k1, k2, n1, n2] = [(); 4].map(|()| Host::loopback());
    let notification = |node: &Host| vec![node.dmq_uri()];
    let first = KamailioConfig { notification_addresses: notification(&n1), ..first };
    let mut k1 = Kamailio::start("k1", &k1, first);
    flood::register(k1.sip(), contacts, 7_200, secs(120)).unwrap();
    same("contacts in k1", k1.contact_count().unwrap(), contacts).unwrap();

    let start = Instant::now();
    let n1 = Starling::start("n1", &n1, &StarlingConfig::new(&[&k1.host], &[&n2]));
    let n2 = Starling::start("n2", &n2, &StarlingConfig::new(&[&k2], &[&n1.host]));
    meet(&[&n1, &n2]);
    eventually(secs(180), "the fresh node has taken all in", || has(&n1, contacts));
    eprintln!("{contacts} contacts: k1 to n1 within {:?}", start.elapsed());
    eventually(secs(60), "and the other node", || has(&n2, contacts).and_then(|()| equal_digests(&[&n1, &n2])));
    eprintln!("n2 within {:?}", start.elapsed());

    let start = Instant::now();
    let second = KamailioConfig { notification_addresses: notification(&n2.host), server_id: 2, ..second };
    let mut k2 = Kamailio::start("k2", &k2, second);
    eventually(secs(180), "the empty server is full", || same("contacts", k2.contact_count()?, contacts));
    eprintln!("n2 to k2 within {:?}; k2 uses {} MB", start.elapsed(), k2.shared_memory_used().unwrap() >> 20);
    let missing = flood::missing(k2.sip(), contacts, secs(120)).unwrap();
    assert!(missing.is_empty(), "{} are missing in k2, first {:?}", missing.len(), missing.first());
    check_samples(contacts, &[("k1", &k1), ("k2", &k2)], &[&n1, &n2]);
    // Whatever a node does to be sure that the server holds them, it must leave it the memory to live.
    stays(secs(10), "the full server is left alone", || {
        same("contacts", k2.contact_count()?, contacts)?;
        ensure!(!k2.log().contains("could not allocate"), "it has run out of memory");
        Ok(())
    });
    k1.ensure_running().unwrap();
    k2.ensure_running().unwrap();
}

fn has(node: &Starling, contacts: usize) -> anyhow::Result<()> {
    same("contacts", node.get("/v1/status")?["contacts"].as_u64(), Some(contacts as u64))
}

/// Fifty AoRs, spread over all: every attribute is everywhere what it was in the REGISTER.
fn check_samples(contacts: usize, servers: &[(&str, &Kamailio)], nodes: &[&Starling]) {
    for i in (0..contacts).step_by((contacts / 50).max(1)) {
        let aor = flood::user(i);
        let at_first: Contacts = [(aor.clone(), servers[0].1.contacts_of(&aor).unwrap())].into();
        assert_eq!(at_first[&aor][0].contact, flood::contact(i));
        for (name, server) in servers {
            let held = [(aor.clone(), server.contacts_of(&aor).unwrap())].into();
            same_contacts("k1", &at_first, name, &held).unwrap();
        }
        for node in nodes {
            let held = [(aor.clone(), node.contacts_of(&aor).unwrap())].into();
            same_contacts("k1", &at_first, &node.name, &held).unwrap();
        }
    }
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_hundred_thousand_contacts_reach_a_fresh_node_its_neighbour_and_a_fresh_server() {
    limited(secs(600), || {
        // The server sends one contact per message, unpaced: it needs the memory for that itself.
        let first = KamailioConfig { shm_mb: 2_048, ..KamailioConfig::default() };
        let second = KamailioConfig { shm_mb: 512, ..KamailioConfig::default() };
        fill(100_000, first, second);
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn thirty_thousand_contacts_fill_a_server_with_debians_default_memory() {
    limited(secs(400), || {
        let first = KamailioConfig { shm_mb: 1_024, ..KamailioConfig::default() };
        let second = KamailioConfig { shm_mb: 64, pkg_mb: 8, fr_timer_ms: 30_000, ..KamailioConfig::default() };
        fill(30_000, first, second);
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn twenty_thousand_contacts_leave_a_server_with_debians_default_memory_in_batches() {
    limited(secs(400), || {
        // Its dump costs the server half a kB for each contact, for 5 s: with 30,000 of them in 64 MB it has
        // nothing left for its own RPC.
        let small = KamailioConfig { shm_mb: 64, pkg_mb: 8, fr_timer_ms: 30_000, ..KamailioConfig::default() };
        let first = KamailioConfig { batch_msg_contacts: 50, ..small.clone() };
        fill(20_000, first, small);
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_server_that_stops_answering_costs_its_node_a_bounded_queue_and_nobody_else_anything() {
    limited(secs(300), || {
        const USERS: usize = 3_000;
        let server = KamailioConfig { shm_mb: 256, ..KamailioConfig::default() };
        let mut bridge = Bridge::on_loopback(&Plan { server, ..Plan::default() });
        flood::register(bridge.k1.sip(), USERS, 3_600, secs(60)).unwrap();
        eventually(PATIENCE, "all have them", || {
            same("k2", bridge.k2.contact_count()?, USERS)?;
            has(&bridge.n3, USERS)
        });
        let memory_before = bridge.n2.process().resident_bytes().unwrap();
        bridge.k2.freeze();
        // Everybody re-registers, four times over: 12,000 changes of 3,000 cells.
        for _ in 0..4 {
            flood::register(bridge.k1.sip(), USERS, 3_600, secs(60)).unwrap();
        }
        let digests = |bridge: &Bridge| equal_digests(&bridge.nodes());
        eventually(PATIENCE, "the nodes go on", || digests(&bridge));
        let peer = bridge.n2.peer(&bridge.k2.host).unwrap();
        let (queued, open) = (peer["queued"].as_u64().unwrap(), peer["open"].as_u64().unwrap());
        assert!(queued + open <= 2 * USERS as u64, "more than one entry per cell and alias: {peer}");
        assert!(open <= 64, "{peer}");
        let memory = bridge.n2.process().resident_bytes().unwrap();
        assert!(memory < memory_before + (64 << 20), "{memory} bytes after {memory_before}");
        // The other server has not noticed anything: its node answers at once.
        bridge.k1.set("plain", "k", "v").unwrap();
        for node in bridge.nodes() {
            eventually(PATIENCE, "the change is on every node", || {
                same("entry", node.entry("plain", "k")?.is_some(), true)
            });
        }
        assert!(bridge.k1.shared_memory_used().unwrap() < 200 << 20, "transactions pile up in the healthy server");
        bridge.k1.ensure_active(&bridge.n1.host).unwrap();
        bridge.k2.thaw();
        eventually(secs(120), "the server that is back is made equal", || bridge.ensure_converged());
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_server_is_not_fed_beyond_its_limit() {
    limited(secs(120), || {
        let [k1, k2, n] = [(); 3].map(|()| Host::loopback());
        let mut config = StarlingConfig::new(&[&k1, &k2], &[]);
        config.dmq.push("feed_limit = 200".to_owned());
        let node = Starling::start("n", &n, &config);
        let k1 = Kamailio::start("k1", &k1, KamailioConfig::knowing(&n));
        eventually(PATIENCE, "attached", || node.ensure_served(&k1.host));
        flood::register(k1.sip(), 500, 3_600, secs(30)).unwrap();
        eventually(PATIENCE, "taken", || has(&node, 500));
        let k2 = Kamailio::start("k2", &k2, KamailioConfig { server_id: 2, ..KamailioConfig::knowing(&n) });
        eventually(PATIENCE, "fed", || {
            ensure!(k2.contact_count()? >= 200, "{}", k2.contact_count()?);
            Ok(())
        });
        std::thread::sleep(secs(5));
        assert_eq!(k2.contact_count().unwrap(), 200);
        assert_eq!(k1.contact_count().unwrap(), 500, "what it registered itself is its own");
        let row = node.peer(&k2.host).unwrap();
        assert!(row["lag_cells"].as_u64().unwrap() >= 300, "what it lacks is not told: {row}");
    });
}

#[test]
fn a_peer_that_died_is_sent_few_requests_and_queued_once_per_cell() {
    limited(secs(120), || {
        let (host, peer_host) = (Host::loopback(), Host::loopback());
        let peer = FakePeer::start(&peer_host);
        let mut config = StarlingConfig::new(&[&peer_host], &[]);
        config.dmq.push("ping_interval = \"2s\"".to_owned());
        let node = Starling::start("n", &host, &config);
        peer.join(node.sip()).unwrap();
        eventually(PATIENCE, "attached", || same("state", node.peer(&peer_host)?["state"].as_str(), Some("active")));
        node.set("plain", "first", 1, None).unwrap();
        eventually(PATIENCE, "fed", || same("sets", sets(&peer).len(), 1));
        peer.behave(Manners::Silent);
        for round in 0..3 {
            for i in 0..1_000 {
                node.set("plain", &format!("k{i}"), i + round, None).unwrap();
            }
        }
        let row = node.peer(&peer_host).unwrap();
        assert!(row["queued"].as_u64().unwrap() <= 1_001, "{row}");
        let distinct: BTreeSet<_> = sets(&peer).iter().filter_map(|m| m.header("call-id").map(str::to_owned)).collect();
        assert!(distinct.len() <= 65, "{} requests to a peer that answers none", distinct.len());
        // It is back: it gets the last value of each, and no other.
        peer.behave(Manners::Polite);
        let before = sets(&peer).len();
        peer.join(node.sip()).unwrap();
        eventually(secs(60), "made equal", || same("lag", node.peer(&peer_host)?["lag_cells"].as_u64(), Some(0)));
        let after = &sets(&peer)[before..];
        assert!(after.iter().any(|m| m.json().unwrap()
            == json!({"action": 2, "htname": "plain", "cname": "k7", "type": 0, "intval": 9, "mode": 1})));
        assert!(after.len() <= 1_100, "{} requests for 1,000 cells", after.len());
    });
}

/// Requests that set a cell.
fn sets(peer: &FakePeer) -> Vec<starling_tests::sip::Message> {
    let mut all = peer.requests("htable");
    all.retain(|m| m.json().is_ok_and(|j| j["action"] == 2));
    all
}
