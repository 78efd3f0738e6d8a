//! Servers that are cut off or start again, and nodes that are killed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;
use starling_tests::compare::Value;
use starling_tests::flood;
use starling_tests::host::Host;
use starling_tests::kamailio::{Kamailio, KamailioConfig};
use starling_tests::net::Net;
use starling_tests::peer::FakePeer;
use starling_tests::phone::{Contact, Phone};
use starling_tests::starling::{Authority, Starling, StarlingConfig, meet};
use starling_tests::topology::{Bridge, Plan};
use starling_tests::wait::{PATIENCE, eventually, limited, same, secs, stays};

fn uri(aor: &str) -> String {
    format!("sip:{aor}@192.0.2.1:5060")
}

fn register(server: &Kamailio, aor: &str) -> Phone {
    let mut phone = Phone::new(aor, server.sip());
    phone.register(&[Contact::new(&uri(aor))], 3_600).unwrap();
    phone
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_server_cut_off_for_a_minute_and_the_mesh_each_get_what_they_missed() {
    limited(secs(240), || {
        Net::run(|net| {
            let (bridge, sites) = Bridge::in_sites(net, &Plan::default());
            let names = ["kept", "removed-here", "removed-there", "refreshed-there", "removed-here-refreshed-there"];
            let mut phones: BTreeMap<&str, Phone> = names.map(|n| (n, register(&bridge.k1, n))).into();
            for name in names {
                bridge.wait_contacts(name, &[&uri(name)]);
            }
            // Absence is a removal only of what the server was seen holding: here, what it sent itself.
            for key in ["deleted-here", "deleted-there", "changed-here", "changed-there", "changed-both"] {
                bridge.k1.set("plain", key, "before").unwrap();
                bridge.k1.set("exp", key, "before").unwrap();
            }
            bridge.wait_converged();
            sites.first.cut(&bridge.k1.host, &bridge.n1.host);
            let cut = Instant::now();
            changes_while_cut_off(&bridge, &mut phones);
            eventually(secs(60), "the server has given its node up", || {
                same("active", bridge.k1.ensure_active(&bridge.n1.host).is_ok(), false)
            });
            std::thread::sleep(secs(60).saturating_sub(cut.elapsed()));
            sites.first.heal(&bridge.k1.host, &bridge.n1.host);
            eventually(secs(60), "server and mesh are equal again", || bridge.ensure_converged());
            check_after_cut_off(&bridge);
            stays(secs(8), "nothing comes back", || bridge.ensure_converged());
            check_after_cut_off(&bridge);
        });
    });
}

/// "Here" is the server that is cut off.
fn changes_while_cut_off(bridge: &Bridge, phones: &mut BTreeMap<&str, Phone>) {
    let at = |phones: &mut BTreeMap<&str, Phone>, name: &str| phones.remove(name).expect("a phone");
    at(phones, "removed-here").unregister(&uri("removed-here")).unwrap();
    let mut undecided = at(phones, "removed-here-refreshed-there");
    undecided.unregister(&uri("removed-here-refreshed-there")).unwrap();
    register(&bridge.k1, "new-here");
    bridge.k1.delete("plain", "deleted-here").unwrap();
    bridge.k1.delete("exp", "deleted-here").unwrap();
    for table in ["plain", "exp"] {
        bridge.k1.set(table, "changed-here", "here").unwrap();
        bridge.k1.set(table, "new-here", "here").unwrap();
    }
    bridge.k1.set("exp", "changed-both", "here").unwrap();
    std::thread::sleep(secs(3));
    let mut removed = at(phones, "removed-there");
    removed.move_to(bridge.k2.sip());
    removed.unregister(&uri("removed-there")).unwrap();
    undecided.move_to(bridge.k2.sip());
    undecided.register(&[Contact::new(&uri("removed-here-refreshed-there"))], 2_000).unwrap();
    let mut refreshed = at(phones, "refreshed-there");
    refreshed.move_to(bridge.k2.sip());
    refreshed.register(&[Contact::new(&uri("refreshed-there")).q("0.7")], 1_000).unwrap();
    register(&bridge.k2, "new-there");
    for table in ["plain", "exp"] {
        bridge.k2.delete(table, "deleted-there").unwrap();
        bridge.k2.set(table, "changed-there", "there").unwrap();
        bridge.k2.set(table, "new-there", "there").unwrap();
    }
    bridge.k2.set("exp", "changed-both", "there").unwrap();
}

fn check_after_cut_off(bridge: &Bridge) {
    for kept in ["kept", "refreshed-there", "removed-here-refreshed-there", "new-here", "new-there"] {
        bridge.ensure_contacts(kept, &[&uri(kept)]).unwrap();
    }
    assert_eq!(bridge.k1.contacts_of("refreshed-there").unwrap()[0].q, 700);
    for gone in ["removed-here", "removed-there"] {
        bridge.ensure_contacts(gone, &[]).unwrap();
    }
    for table in ["plain", "exp"] {
        for (key, value) in [
            ("deleted-here", None),
            ("deleted-there", None),
            ("changed-here", Some("here")),
            ("changed-there", Some("there")),
            ("new-here", Some("here")),
            ("new-there", Some("there")),
        ] {
            bridge
                .ensure_entry(table, key, value.map(Value::from).as_ref())
                .unwrap_or_else(|e| panic!("{table}/{key}: {e}"));
        }
    }
    // The write time of a cell of this table can be told from its expiry: the later one wins.
    bridge.ensure_entry("exp", "changed-both", Some(&"there".into())).unwrap();
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn nothing_is_lost_between_a_server_and_its_node_that_lose_one_packet_in_ten() {
    limited(secs(300), || {
        Net::run(|net| {
            let (bridge, sites) = Bridge::in_sites(net, &Plan::default());
            sites.first.lose(&bridge.k1.host, &bridge.n1.host, 0.1);
            sites.second.lose(&bridge.k2.host, &bridge.n2.host, 0.1);
            let mut phones: Vec<_> = (0..120)
                .map(|i| register(if i % 2 == 0 { &bridge.k1 } else { &bridge.k2 }, &format!("u{i}")))
                .collect();
            for i in 0..120 {
                bridge.k1.set("plain", &format!("one-{i}"), i).unwrap();
                bridge.k2.set("exp", &format!("two-{i}"), i).unwrap();
            }
            // A dump that arrives with gaps is asked for again after a minute.
            eventually(secs(130), "equal", || bridge.ensure_converged());
            for (i, phone) in phones.iter_mut().enumerate().filter(|(i, _)| i % 3 == 0) {
                phone.unregister(&uri(&format!("u{i}"))).unwrap();
                bridge.k1.delete("plain", &format!("one-{i}")).unwrap();
            }
            eventually(secs(130), "equal", || {
                same("contacts", bridge.n3.contacts()?.len(), 80)?;
                same("entries", bridge.n3.entries("plain")?.len(), 80)?;
                bridge.ensure_converged()
            });
        });
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_node_that_stood_still_takes_up_what_it_missed() {
    limited(secs(240), || {
        let bridge = Bridge::on_loopback(&Plan::default());
        let mut phones: Vec<Phone> = (0..50).map(|i| register(&bridge.k1, &format!("u{i}"))).collect();
        for i in 0..50 {
            bridge.k1.set("plain", &format!("k{i}"), i).unwrap();
        }
        bridge.wait_converged();
        bridge.n1.freeze();
        // Longer than the server repeats its requests, and more than sockets hold.
        for phone in &mut phones[..25] {
            phone.unregister_all().unwrap();
        }
        for i in 0..25 {
            bridge.k1.delete("plain", &format!("k{i}")).unwrap();
            bridge.k2.set("plain", &format!("there-{i}"), i).unwrap();
        }
        flood::register(bridge.k1.sip(), 5_000, 3_600, secs(60)).unwrap();
        eventually(secs(60), "given up", || same("active", bridge.k1.ensure_active(&bridge.n1.host).is_ok(), false));
        bridge.n1.thaw();
        eventually(secs(90), "equal", || {
            same("contacts", bridge.n3.contacts()?.len(), 5_025)?;
            same("entries", bridge.n3.entries("plain")?.len(), 50)?;
            bridge.ensure_converged()
        });
        stays(secs(5), "it stays equal", || bridge.ensure_converged());
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_server_that_was_emptied_while_it_was_cut_off_empties_the_mesh_of_what_was_its_own() {
    limited(secs(240), || {
        Net::run(|net| {
            let (bridge, sites) = Bridge::in_sites(net, &Plan::default());
            let mut phones: Vec<Phone> = (0..80).map(|i| register(&bridge.k1, &format!("own-{i}"))).collect();
            for i in 0..80 {
                bridge.k1.set("plain", &format!("own-{i}"), i).unwrap();
            }
            bridge.wait_converged();
            sites.first.cut(&bridge.k1.host, &bridge.n1.host);
            eventually(secs(60), "given up", || {
                same("active", bridge.k1.ensure_active(&bridge.n1.host).is_ok(), false)
            });
            for phone in &mut phones {
                phone.unregister_all().unwrap();
            }
            bridge.k1.script("rmsw-plain", &[("X-K", "own-")]).unwrap();
            // What comes up elsewhere meanwhile was never at that server: its absence there says nothing.
            register(&bridge.k2, "elsewhere");
            bridge.k2.set("plain", "elsewhere", 1).unwrap();
            sites.first.heal(&bridge.k1.host, &bridge.n1.host);
            eventually(secs(90), "all of it is gone, and nothing else", || {
                same("contacts", bridge.n3.contacts()?.len(), 1)?;
                same("entries", bridge.n3.entries("plain")?.len(), 1)?;
                bridge.ensure_converged()
            });
        });
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_dump_that_a_server_had_no_memory_for_removes_nothing() {
    limited(secs(240), || {
        const USERS: usize = 12_000;
        Net::run(|net| {
            let site = net.site();
            let hosts = [(); 2].map(|()| site.host());
            let certificates = Some(Authority::new().issue("n", &hosts[1]));
            let config = StarlingConfig { certificates, ..StarlingConfig::new(&[&hosts[0]], &[]) };
            let node = Starling::start("n", &hosts[1], &config);
            // Debian's default. Every message costs 10 kB until 5 s after its answer: 12,000 do not fit at once.
            let config = KamailioConfig { shm_mb: 64, pkg_mb: 8, ..KamailioConfig::knowing(&hosts[1]) };
            let server = Kamailio::start("k", &hosts[0], config);
            eventually(PATIENCE, "attached", || node.ensure_served(&hosts[0]));
            for part in 0..6 {
                flood::register_some(server.sip(), part * 2_000..(part + 1) * 2_000, 7_200, secs(60)).unwrap();
                std::thread::sleep(secs(6));
            }
            let taken =
                |node: &Starling| same("contacts", node.get("/v1/status")?["contacts"].as_u64(), Some(USERS as u64));
            eventually(PATIENCE, "the node has them", || taken(&node));
            site.cut(&hosts[0], &hosts[1]);
            eventually(PATIENCE, "silent", || same("state", node.peer(&hosts[0])?["state"].as_str(), Some("silent")));
            site.heal(&hosts[0], &hosts[1]);
            stays(secs(45), "no dump, however short, takes away what the server still has", || taken(&node));
            assert_eq!(server.contact_count().unwrap(), USERS);
        });
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_restarted_server_is_filled_again_and_its_emptiness_removes_nothing() {
    limited(secs(300), || {
        // With and without the questions that a server asks at its first contact.
        for init_sync in [true, false] {
            let server = KamailioConfig { init_sync, ..KamailioConfig::default() };
            let mut bridge = Bridge::on_loopback(&Plan { server, ..Plan::default() });
            let mut phones: Vec<Phone> = (0..60).map(|i| register(&bridge.k1, &format!("old-{i}"))).collect();
            for i in 0..60 {
                bridge.k1.set("plain", &format!("k{i}"), i).unwrap();
                bridge.k1.set("exp", &format!("k{i}"), "v").unwrap();
            }
            bridge.wait_converged();
            let (digest, cells) = bridge.n2.digest().unwrap();
            bridge.k1.stop();
            bridge.k1.start_again();
            // Taken at once, before the node may have noticed.
            register(&bridge.k1, "early-bird");
            bridge.wait_contacts("early-bird", &[&uri("early-bird")]);
            eventually(secs(60), "the server is full again", || bridge.ensure_converged());
            assert!(bridge.n2.digest().unwrap().1 > cells, "{digest}: nothing was removed");
            assert_eq!(bridge.k1.contacts().unwrap().len(), 61);
            // Crashed this time, and changed meanwhile from the other side.
            bridge.k1.kill9();
            phones[0].move_to(bridge.k2.sip());
            phones[0].unregister(&uri("old-0")).unwrap();
            bridge.k2.delete("plain", "k0").unwrap();
            bridge.k2.set("plain", "k1", "changed").unwrap();
            bridge.k1.start_again();
            eventually(secs(60), "the server is full again", || bridge.ensure_converged());
            bridge.ensure_contacts("old-0", &[]).unwrap();
            assert_eq!(bridge.k1.contacts().unwrap().len(), 60);
            // The refilled contacts are whole ones: their phones can leave.
            phones[5].unregister(&uri("old-5")).unwrap();
            bridge.wait_contacts("old-5", &[]);
        }
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_server_that_does_not_know_its_node_is_found_again_after_its_restart() {
    limited(secs(180), || {
        let (k, n) = (Host::loopback(), Host::loopback());
        let node = Starling::start("n", &n, &StarlingConfig::new(&[&k], &[]));
        let config = KamailioConfig { init_sync: false, ..KamailioConfig::default() };
        let mut server = Kamailio::start("k", &k, config);
        eventually(PATIENCE, "attached", || node.ensure_served(&k).and_then(|()| server.ensure_active(&n)));
        for i in 0..20 {
            register(&server, &format!("u{i}"));
        }
        eventually(PATIENCE, "taken", || same("contacts", node.contacts()?.len(), 20));
        server.kill9();
        server.start_again();
        eventually(secs(60), "refilled", || same("contacts", server.contacts()?.len(), 20));
        same("contacts", node.contacts().unwrap().len(), 20).unwrap();
        assert!(node.peer(&k).unwrap()["restarts"].as_u64().unwrap() >= 1);
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_killed_node_comes_back_whole_and_its_server_with_it() {
    limited(secs(240), || {
        for durable in [false, true] {
            let node = StarlingConfig { durable, ..StarlingConfig::default() };
            let mut bridge = Bridge::on_loopback(&Plan { node, ..Plan::default() });
            let mut phones: Vec<Phone> = (0..40).map(|i| register(&bridge.k1, &format!("u{i}"))).collect();
            for i in 0..40 {
                bridge.k2.set("plain", &format!("k{i}"), i).unwrap();
                bridge.k2.set("exp", &format!("k{i}"), "v").unwrap();
            }
            bridge.wait_converged();
            bridge.n1.kill9();
            // Changes that the dead node cannot see, at its own server and elsewhere.
            phones[0].unregister(&uri("u0")).unwrap();
            phones[1].move_to(bridge.k2.sip());
            phones[1].unregister(&uri("u1")).unwrap();
            register(&bridge.k1, "meanwhile-here");
            register(&bridge.k2, "meanwhile-there");
            bridge.k1.set("plain", "here", 1).unwrap();
            bridge.k2.delete("plain", "k0").unwrap();
            bridge.k2.set("exp", "k1", "changed").unwrap();
            bridge.n1.start_again();
            eventually(secs(60), &format!("all equal (durable: {durable})"), || bridge.ensure_converged());
            bridge.ensure_contacts("u1", &[]).unwrap();
            bridge.ensure_entry("plain", "k0", None).unwrap();
            bridge.ensure_entry("exp", "k1", Some(&"changed".into())).unwrap();
            bridge.ensure_contacts("meanwhile-here", &[&uri("meanwhile-here")]).unwrap();
            bridge.ensure_contacts("meanwhile-there", &[&uri("meanwhile-there")]).unwrap();
            if durable {
                // Only a node that remembers can tell a removal from a contact that never arrived.
                bridge.ensure_contacts("u0", &[]).unwrap();
            }
        }
    });
}

/// Three durable nodes without servers: nothing but their disks can bring anything back.
fn three_durable_nodes(ack_disk: bool) -> Vec<Starling> {
    let hosts = [(); 3].map(|()| Host::loopback());
    let others = |i: usize| hosts.iter().enumerate().filter(move |(j, _)| *j != i).map(|(_, h)| h).collect::<Vec<_>>();
    let node = |(i, host): (usize, &Host)| {
        let config = StarlingConfig { durable: true, ack_disk, ..StarlingConfig::new(&[], &others(i)) };
        Starling::start(&format!("n{}", i + 1), host, &config)
    };
    let nodes: Vec<Starling> = hosts.iter().enumerate().map(node).collect();
    meet(&nodes.iter().collect::<Vec<_>>());
    nodes
}

/// Writes through the admin API of each node until `deadline` kills them all; what was acknowledged, and when.
fn write_until_killed(nodes: &mut [Starling], run: Duration) -> BTreeMap<String, (i64, Instant)> {
    let start = Instant::now();
    let acknowledged: Vec<BTreeMap<String, (i64, Instant)>> = std::thread::scope(|scope| {
        let writers: Vec<_> = nodes
            .iter()
            .map(|node| {
                scope.spawn(move || {
                    let mut taken = BTreeMap::new();
                    for i in 0.. {
                        // Some keys are written again and again, others once.
                        let key = if i % 2 == 0 {
                            format!("{}-{i}", node.name)
                        } else {
                            format!("{}-hot{}", node.name, i % 7)
                        };
                        if node.set("plain", &key, i, None).is_err() || start.elapsed() > run + secs(5) {
                            break;
                        }
                        taken.insert(key, (i, Instant::now()));
                    }
                    taken
                })
            })
            .collect();
        std::thread::sleep(run);
        for node in nodes.iter() {
            let pid = rustix::process::Pid::from_raw(node.pid()).expect("a process id");
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
        }
        writers.into_iter().map(|w| w.join().expect("a writer")).collect()
    });
    acknowledged.into_iter().flatten().collect()
}

#[test]
fn nothing_acknowledged_with_ack_disk_is_lost_when_all_nodes_are_killed_at_once() {
    limited(secs(180), || {
        let mut nodes = three_durable_nodes(true);
        for round in 0..3 {
            let acknowledged = write_until_killed(&mut nodes, Duration::from_millis(1_500 + 700 * round));
            assert!(acknowledged.len() > 20, "too few writes to mean anything: {}", acknowledged.len());
            restart_all(&mut nodes);
            for node in &nodes {
                let held = node.entries("plain").unwrap();
                for (key, (value, _)) in &acknowledged {
                    // A write that was under way when the power went may be there too.
                    let newer = matches!(held.get(key), Some(Value::Int(n)) if n >= value);
                    assert!(newer, "{}: {key} is {:?}, {value} was acknowledged", node.name, held.get(key));
                }
            }
        }
    });
}

#[test]
fn with_ack_memory_only_the_last_moments_are_lost_when_all_nodes_are_killed_at_once() {
    limited(secs(180), || {
        let mut nodes = three_durable_nodes(false);
        let acknowledged = write_until_killed(&mut nodes, secs(6));
        let last = acknowledged.values().map(|(_, at)| *at).max().expect("writes");
        restart_all(&mut nodes);
        let held = nodes[0].entries("plain").unwrap();
        let lost: Vec<_> = acknowledged
            .iter()
            .filter(|(key, (value, _))| !matches!(held.get(*key), Some(Value::Int(n)) if n >= value))
            .collect();
        for (key, (value, at)) in &lost {
            // The batch being written and the one behind it: far less than two seconds, on any disk.
            assert!(last - *at < secs(2), "{key} = {value} was acknowledged {:?} before the end", last - *at);
        }
        eprintln!("{} of {} acknowledged writes lost", lost.len(), acknowledged.len());
    });
}

fn restart_all(nodes: &mut [Starling]) {
    for node in nodes.iter_mut() {
        node.kill9();
        node.start_again();
    }
    let all: Vec<&Starling> = nodes.iter().collect();
    meet(&all);
    eventually(PATIENCE, "equal", || starling_tests::starling::equal_digests(&all));
}

#[test]
fn a_kdmq_200_with_ack_disk_means_on_disk() {
    limited(secs(120), || {
        let host = Host::loopback();
        let config = StarlingConfig { durable: true, ack_disk: true, ..StarlingConfig::new(&[], &[]) };
        let mut node = Starling::start("n", &host, &config);
        let peer = FakePeer::start(&Host::loopback());
        peer.join(node.sip()).unwrap();
        for round in 0..5 {
            let mut acknowledged = Vec::new();
            for i in 0..20 {
                let key = format!("r{round}-{i}");
                let body = json!({"action": 2, "htname": "plain", "cname": key, "type": 2, "strval": "v", "mode": 1});
                let request = peer.request(node.sip(), "htable", body.to_string().as_bytes());
                if peer.send(node.sip(), &request).unwrap().status() == Some(200) {
                    acknowledged.push(key);
                }
            }
            node.kill9();
            node.start_again();
            assert_eq!(acknowledged.len(), 20);
            for key in acknowledged {
                assert!(node.entry("plain", &key).unwrap().is_some(), "{key} was answered 200 and is gone");
            }
        }
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn everything_killed_at_once_comes_back_from_the_disks_of_the_nodes() {
    limited(secs(180), || {
        let node = StarlingConfig { durable: true, ack_disk: true, ..StarlingConfig::default() };
        let mut bridge = Bridge::on_loopback(&Plan { node, ..Plan::default() });
        flood::register(bridge.k1.sip(), 500, 3_600, secs(30)).unwrap();
        for i in 0..100 {
            bridge.k2.set("exp", &format!("k{i}"), i).unwrap();
        }
        bridge.wait_converged();
        let before = bridge.n1.contacts().unwrap();
        bridge.k1.kill9();
        bridge.k2.kill9();
        bridge.n1.kill9();
        bridge.n2.kill9();
        bridge.n3.kill9();
        bridge.n1.start_again();
        bridge.n2.start_again();
        bridge.n3.start_again();
        bridge.k1.start_again();
        bridge.k2.start_again();
        bridge.wait_attached();
        eventually(secs(60), "both servers are full again", || bridge.ensure_converged());
        starling_tests::compare::same_contacts("before", &before, "after", &bridge.k2.contacts().unwrap()).unwrap();
        assert_eq!(bridge.k2.entries("exp").unwrap().len(), 100);
    });
}

#[test]
fn a_node_ends_by_itself_at_sigterm_and_keeps_everything() {
    limited(secs(60), || {
        let host = Host::loopback();
        let config = StarlingConfig { durable: true, ..StarlingConfig::new(&[], &[]) };
        let mut node = Starling::start("n", &host, &config);
        for i in 0..200 {
            node.set("plain", &format!("k{i}"), i, None).unwrap();
        }
        node.terminate().unwrap();
        node.start_again();
        assert_eq!(node.entries("plain").unwrap().len(), 200);
    });
}
