//! Two servers and two nodes in one site, where everybody knows everybody: the same end as with a server per
//! node, without echo or storm. The kernel counts the requests.

use starling_tests::compare::{Contacts, Entries, same_contacts, same_entries};
use starling_tests::host::Host;
use starling_tests::kamailio::{Kamailio, KamailioConfig};
use starling_tests::net::{Count, Net, Site};
use starling_tests::phone::{Contact, Phone};
use starling_tests::starling::{Authority, Starling, StarlingConfig, equal_digests, meet};
use starling_tests::topology::{Bridge, Plan, TABLES};
use starling_tests::wait::{PATIENCE, eventually, limited, same, secs};

/// Everybody in one site.
struct Mesh {
    k1: Kamailio,
    k2: Kamailio,
    n1: Starling,
    n2: Starling,
}

impl Mesh {
    fn start(site: &Site) -> Self {
        let authority = Authority::new();
        let [k1, k2, n1, n2] = [(); 4].map(|()| site.host());
        let node = |name: &str, host: &Host, server: &Host, other: &Host| {
            let certificates = Some(authority.issue(name, host));
            // A server that is met by hearsay must be trusted beforehand.
            let trusted = Some(vec!["10.0.0.0/8".to_owned(), "127.0.0.0/8".to_owned()]);
            let config =
                StarlingConfig { mesh: true, certificates, trusted, ..StarlingConfig::new(&[server], &[other]) };
            Starling::start(name, host, &config)
        };
        let (n1, n2) = (node("n1", &n1, &k1, &n2), node("n2", &n2, &k2, &n1));
        // Both servers are told of the first node only: the rest is hearsay.
        let k1 = Kamailio::start("k1", &k1, KamailioConfig::knowing(&n1.host));
        let k2 = Kamailio::start("k2", &k2, KamailioConfig { server_id: 2, ..KamailioConfig::knowing(&n1.host) });
        let mesh = Self { k1, k2, n1, n2 };
        mesh.wait_attached();
        mesh
    }

    fn wait_attached(&self) {
        meet(&[&self.n1, &self.n2]);
        for (server, other) in [(&self.k1, &self.k2), (&self.k2, &self.k1)] {
            for host in [&self.n1.host, &self.n2.host, &other.host] {
                eventually(PATIENCE, "everybody knows everybody", || server.ensure_active(host));
            }
            for node in [&self.n1, &self.n2] {
                eventually(PATIENCE, "the nodes know the server", || {
                    same("state", node.peer(&server.host)?["state"].as_str(), Some("active"))
                });
            }
            eventually(PATIENCE, "a node has asked the server what it has", || {
                let peers = [self.n1.peer(&server.host)?, self.n2.peer(&server.host)?];
                same("asked", peers.iter().any(|p| p["owned"] == true && !p["last_sync"].is_null()), true)
            });
        }
    }

    fn ensure_converged(&self) -> anyhow::Result<()> {
        equal_digests(&[&self.n1, &self.n2])?;
        let contacts = self.n1.contacts()?;
        same_contacts("n1", &contacts, "k1", &self.k1.contacts()?)?;
        same_contacts("n1", &contacts, "k2", &self.k2.contacts()?)?;
        for table in TABLES {
            let entries = self.n2.entries(table)?;
            same_entries(table, &entries, "k1", &self.k1.entries(table)?)?;
            same_entries(table, &entries, "k2", &self.k2.entries(table)?)?;
        }
        Ok(())
    }
}

/// Changes at two servers, and how many KDMQ requests each server makes of them on each channel.
fn workload(k1: &Kamailio, k2: &Kamailio, settle: impl Fn(&str)) -> Changes {
    let mut done = Changes::default();
    for (server, other, tag) in [(k1, k2, "one"), (k2, k1, "two")] {
        let mine = if tag == "one" { 0 } else { 1 };
        for i in 0..25 {
            let (aor, uri) = (format!("{tag}-{i}"), format!("sip:{tag}{i}@192.0.2.1:5060"));
            let mut phone = Phone::new(&aor, server.sip());
            phone.register(&[Contact::new(&uri)], 3_600).unwrap();
            done.contacts[mine] += 1;
            if i % 5 == 1 {
                phone.register(&[Contact::new(&uri).q("0.5")], 3_600).unwrap();
                done.contacts[mine] += 1;
            }
            if i % 5 == 2 {
                phone.unregister(&uri).unwrap();
                done.contacts[mine] += 1;
            }
            if i % 5 == 3 {
                settle(&aor);
                phone.move_to(other.sip());
                phone.unregister(&uri).unwrap();
                done.contacts[1 - mine] += 1;
            }
            server.set("plain", &aor, i).unwrap();
            server.set("plain", &format!("shared-{i}"), tag).unwrap();
            done.entries[mine] += 2;
            if i % 5 == 4 {
                server.delete("plain", &aor).unwrap();
                done.entries[mine] += 1;
            }
        }
        settle("shared");
    }
    done
}

/// Requests that each of two servers sent to each other DMQ node.
#[derive(Debug, Default)]
struct Changes {
    contacts: [u64; 2],
    entries: [u64; 2],
}

/// Counters of one channel: in from each server to each node, out from each node to each server.
struct Counters {
    inward: [[Count; 2]; 2],
    outward: [[Count; 2]; 2],
}

impl Counters {
    fn start(site: &Site, mesh: &Mesh, channel: &str) -> Self {
        let servers = [&mesh.k1.host, &mesh.k2.host];
        let nodes = [&mesh.n1.host, &mesh.n2.host];
        Self {
            inward: servers.map(|k| nodes.map(|n| site.count_kdmq(channel, k, n))),
            outward: servers.map(|k| nodes.map(|n| site.count_kdmq(channel, n, k))),
        }
    }

    fn check(&self, channel: &str, changes: [u64; 2]) {
        for (server, changed) in changes.into_iter().enumerate() {
            let inward = self.inward[server].each_ref().map(Count::requests);
            let outward: u64 = self.outward[server].iter().map(Count::requests).sum();
            let all = changes[0] + changes[1];
            eprintln!(
                "{channel}, server {}: {changed} changes, in {inward:?}, out {outward} of at most {all}",
                server + 1
            );
            for count in inward {
                assert!(
                    count <= changed,
                    "{channel}: {count} requests from server {} for {changed} changes",
                    server + 1
                );
            }
            assert!(outward <= all, "{channel}: {outward} requests to server {} for {all} changes", server + 1);
        }
    }

    fn total(&self) -> u64 {
        self.inward.iter().chain(&self.outward).flatten().map(Count::requests).sum()
    }
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn in_a_full_mesh_each_change_costs_one_request_per_server_and_direction() {
    limited(secs(240), || {
        let (contacts, entries) = Net::run(|net| {
            let site = net.site();
            let mesh = Mesh::start(&site);
            let settle = |what: &str| {
                eventually(PATIENCE, &format!("equal after {what}"), || mesh.ensure_converged());
            };
            // A node asks a server once what it has in a table that is new to it; that is no change.
            mesh.k1.set("plain", "first", 1).unwrap();
            mesh.k2.set("plain", "second", 1).unwrap();
            settle("the first writes");
            std::thread::sleep(secs(5));
            let counters = ["usrloc", "htable"].map(|channel| Counters::start(&site, &mesh, channel));
            let changes = workload(&mesh.k1, &mesh.k2, settle);
            settle("everything");
            std::thread::sleep(secs(3));
            counters[0].check("usrloc", changes.contacts);
            counters[1].check("htable", changes.entries);
            let before = counters.each_ref().map(Counters::total);
            std::thread::sleep(secs(8));
            assert_eq!(counters.each_ref().map(Counters::total), before, "requests although nothing changes");
            (mesh.k1.contacts().unwrap(), mesh.k1.entries("plain").unwrap())
        });
        check_same_as_bridge(&contacts, &entries);
    });
}

/// The same work with a server per node ends in the same state.
fn check_same_as_bridge(contacts: &Contacts, entries: &Entries) {
    let bridge = Bridge::on_loopback(&Plan::default());
    bridge.k1.set("plain", "first", 1).unwrap();
    bridge.k2.set("plain", "second", 1).unwrap();
    workload(&bridge.k1, &bridge.k2, |_| bridge.wait_converged());
    bridge.wait_converged();
    let uris = |contacts: &Contacts| {
        let rows =
            contacts.iter().flat_map(|(aor, list)| list.iter().map(move |c| (aor.clone(), c.contact.clone(), c.q)));
        rows.collect::<Vec<_>>()
    };
    assert_eq!(uris(&bridge.k2.contacts().unwrap()), uris(contacts));
    same_entries("bridge", &bridge.k2.entries("plain").unwrap(), "mesh", entries).unwrap();
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn when_the_node_that_speaks_for_the_servers_dies_the_other_takes_over() {
    limited(secs(240), || {
        Net::run(|net| {
            let site = net.site();
            let mut mesh = Mesh::start(&site);
            for i in 0..30 {
                let aor = format!("u{i}");
                let mut phone = Phone::new(&aor, mesh.k1.sip());
                phone.register(&[Contact::new(&format!("sip:{aor}@192.0.2.1:5060"))], 3_600).unwrap();
                mesh.k2.set("exp", &aor, i).unwrap();
            }
            eventually(PATIENCE, "equal", || mesh.ensure_converged());
            // Whoever it is that speaks for a server: each dies once.
            for round in 0..2 {
                let (dead, left) = if round == 0 { (&mut mesh.n1, &mesh.n2) } else { (&mut mesh.n2, &mesh.n1) };
                dead.kill9();
                for server in [&mesh.k1, &mesh.k2] {
                    server.set("plain", "round", round).unwrap();
                    eventually(secs(60), "the other node owns both", || {
                        same("owned", left.peer(&server.host)?["owned"].as_bool(), Some(true))
                    });
                }
                mesh.k2.kill9();
                mesh.k2.start_again();
                eventually(secs(60), "the emptied server is filled by the other node", || {
                    same_contacts("node", &left.contacts()?, "k2", &mesh.k2.contacts()?)?;
                    same_entries("node", &left.entries("exp")?, "k2", &mesh.k2.entries("exp")?)
                });
                assert_eq!(mesh.k2.contacts().unwrap().len(), 30);
                let dead = if round == 0 { &mut mesh.n1 } else { &mut mesh.n2 };
                dead.start_again();
                mesh.wait_attached();
                eventually(secs(60), "equal", || mesh.ensure_converged());
            }
        });
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn both_servers_changing_one_key_and_one_contact_at_once_ends_without_a_storm() {
    limited(secs(180), || {
        Net::run(|net| {
            let site = net.site();
            let mesh = Mesh::start(&site);
            let counters = ["usrloc", "htable"].map(|channel| Counters::start(&site, &mesh, channel));
            for round in 0..20 {
                std::thread::scope(|scope| {
                    for (name, server) in [("k1", &mesh.k1), ("k2", &mesh.k2)] {
                        scope.spawn(move || {
                            server.set("plain", "contested", format!("{name}-{round}").as_str()).unwrap();
                            let mut phone = Phone::new("contested", server.sip());
                            phone.register(&[Contact::new("sip:contested@192.0.2.1:5060")], 600).unwrap();
                        });
                    }
                });
            }
            eventually(PATIENCE, "equal", || mesh.ensure_converged());
            // A contest of which the other node has not told the outcome is settled after its fail-over time, 15 s.
            let total = || counters.each_ref().map(Counters::total);
            let ended = eventually(secs(40), "no more requests, as nothing changes", || {
                let before = total();
                std::thread::sleep(secs(6));
                same("requests", total(), before)?;
                Ok(before)
            });
            // 20 rounds of two writers: corrections come on top, but no more than a few per write.
            assert!(ended.iter().all(|n| *n < 20 * 2 * 2 * 6), "{ended:?} requests");
            mesh.ensure_converged().unwrap();
        });
    });
}
