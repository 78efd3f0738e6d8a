//! Registrations of two real servers, each with a node, and a third node between: what a phone does at one is
//! true everywhere, with all its attributes.

use std::time::Instant;

use anyhow::Context;
use serde_json::json;
use starling_tests::compare::{Contact as Row, Contacts, same_contacts, unix_now};
use starling_tests::host::Host;
use starling_tests::kamailio::{Kamailio, KamailioConfig};
use starling_tests::peer::FakePeer;
use starling_tests::phone::{Contact, Phone};
use starling_tests::starling::{PROMPTLY, Starling};
use starling_tests::topology::{Bridge, Plan};
use starling_tests::wait::{PATIENCE, eventually, limited, same, secs, stays};

/// Runs a test twice on fresh processes' state: from the first server to the second, and back.
fn both_ways(bridge: &Bridge, test: impl Fn(&Kamailio, &Kamailio, &str)) {
    test(&bridge.k1, &bridge.k2, "there");
    test(&bridge.k2, &bridge.k1, "back");
}

fn one_aor(aor: &str, rows: Vec<Row>) -> Contacts {
    Contacts::from([(aor.to_owned(), rows)])
}

/// A contact with every attribute that a server keeps.
fn register_with_everything(phone: &mut Phone, uri: &str) {
    let contact = Contact::new(uri).q("0.25").instance("urn:uuid:7f2e8a10-0000-4000-8000-00000000a11c", 3);
    phone.register(&[contact.methods("INVITE, ACK, BYE, CANCEL, OPTIONS, MESSAGE")], 900).unwrap();
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_registration_is_at_the_other_server_and_on_three_nodes_within_a_second_with_all_attributes() {
    limited(secs(120), || {
        let bridge = Bridge::on_loopback(&Plan::default());
        both_ways(&bridge, |here, there, tag| {
            let (aor, uri) = (format!("alice-{tag}"), "sip:alice@192.0.2.10:5062;transport=udp;ob");
            let phone = Phone::new(&aor, here.sip()).path("<sip:edge1.example.org;lr>, <sip:edge2.example.org;lr>");
            let mut phone = phone.behind_nat().user_agent("Acme Fön 9000 \"Pro\" \\ 1.0");
            register_with_everything(&mut phone, uri);
            let done = Instant::now();
            eventually(PROMPTLY, "the contact is at the other server", || {
                same("contacts", there.contacts_of(&aor)?.len(), 1)
            });
            for node in bridge.nodes() {
                let left = PROMPTLY.saturating_sub(done.elapsed());
                eventually(left, "the contact is on every node", || same("contacts", node.contacts_of(&aor)?.len(), 1));
            }
            check_everything(&bridge, here, &phone, &aor, uri);
        });
        bridge.wait_converged();
    });
}

fn check_everything(bridge: &Bridge, here: &Kamailio, phone: &Phone, aor: &str, uri: &str) {
    let row = Row {
        contact: uri.to_owned(),
        received: format!("sip:{}", phone.address()),
        path: "<sip:edge1.example.org;lr>, <sip:edge2.example.org;lr>".to_owned(),
        q: 250,
        user_agent: "Acme Fön 9000 \"Pro\" \\ 1.0".to_owned(),
        instance: "<urn:uuid:7f2e8a10-0000-4000-8000-00000000a11c>".to_owned(),
        reg_id: 3,
        // INVITE, CANCEL, ACK, BYE, MESSAGE, OPTIONS in Kamailio's bits.
        methods: 1 + 2 + 4 + 8 + 256 + 512,
        callid: phone.call_id().to_owned(),
        cseq: phone.cseq(),
        expires: unix_now() + 900,
        ruids: Vec::new(),
    };
    let expected = one_aor(aor, vec![row]);
    for (name, server) in [("k1", &bridge.k1), ("k2", &bridge.k2)] {
        let held = one_aor(aor, server.contacts_of(aor).unwrap());
        same_contacts("the phone", &expected, name, &held).unwrap();
    }
    let ruid = here.contacts_of(aor).unwrap()[0].ruids[0].clone();
    for node in bridge.nodes() {
        let shown = node.cli_contacts_of(aor).unwrap();
        assert!(shown[0].ruids.contains(&ruid), "{}: {shown:?}", node.name);
        same_contacts("the phone", &expected, &node.name, &one_aor(aor, shown)).unwrap();
    }
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn refreshes_and_removals_follow_the_phone_to_whichever_server_it_talks_to() {
    limited(secs(180), || {
        let bridge = Bridge::on_loopback(&Plan::default());
        both_ways(&bridge, |here, there, tag| {
            let (aor, uri) = (format!("roam-{tag}"), "sip:roam@192.0.2.20:5060");
            let mut phone = Phone::new(&aor, here.sip());
            phone.register(&[Contact::new(uri).q("0.1")], 600).unwrap();
            bridge.wait_contacts(&aor, &[uri]);
            phone.register(&[Contact::new(uri).q("0.9")], 1_200).unwrap();
            wait_refreshed(&bridge, &aor, 2, 900, 1_200);
            // The other server holds it under the same ruid or one of its own: a refresh there is one too.
            phone.move_to(there.sip());
            phone.register(&[Contact::new(uri).q("0.4")], 300).unwrap();
            wait_refreshed(&bridge, &aor, 3, 400, 300);
            phone.move_to(here.sip());
            phone.register(&[Contact::new(uri).q("0.3")], 700).unwrap();
            wait_refreshed(&bridge, &aor, 4, 300, 700);
            phone.move_to(there.sip());
            phone.unregister(uri).unwrap();
            bridge.wait_contacts(&aor, &[]);
            phone.move_to(here.sip());
            phone.register(&[Contact::new(uri)], 600).unwrap();
            bridge.wait_contacts(&aor, &[uri]);
            phone.unregister(uri).unwrap();
            bridge.wait_contacts(&aor, &[]);
        });
        stays(secs(3), "nothing comes back", || bridge.ensure_converged());
    });
}

/// Waits until every server and node has one contact, of this CSeq, q and expiry.
#[track_caller]
fn wait_refreshed(bridge: &Bridge, aor: &str, cseq: u32, q: i32, expires: u64) {
    let wanted = unix_now() + expires;
    eventually(PATIENCE, &format!("{aor} has CSeq {cseq} everywhere"), || {
        for server in [&bridge.k1, &bridge.k2] {
            check_refreshed(&server.contacts_of(aor)?, cseq, q, wanted)?;
        }
        bridge.nodes().iter().try_for_each(|node| check_refreshed(&node.contacts_of(aor)?, cseq, q, wanted))
    });
}

fn check_refreshed(contacts: &[Row], cseq: u32, q: i32, expires: u64) -> anyhow::Result<()> {
    anyhow::ensure!(contacts.len() == 1, "{contacts:?}");
    same("CSeq and q", (contacts[0].cseq, contacts[0].q), (cseq, q))?;
    anyhow::ensure!(contacts[0].expires.abs_diff(expires) <= 3, "expires {} not {expires}", contacts[0].expires);
    Ok(())
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn several_contacts_come_and_go_alone_and_a_star_removes_those_of_both_servers() {
    limited(secs(180), || {
        let bridge = Bridge::on_loopback(&Plan::default());
        both_ways(&bridge, |here, there, tag| {
            let aor = format!("many-{tag}");
            let uris: Vec<String> = (1..=4).map(|i| format!("sip:many@192.0.2.{i}:5060")).collect();
            let mut desk = Phone::new(&aor, here.sip());
            let contacts = [Contact::new(&uris[0]).q("0.1"), Contact::new(&uris[1]).q("0.2").expires(400)];
            desk.register(&contacts, 600).unwrap();
            let mut mobile = Phone::new(&aor, there.sip());
            mobile.register(&[Contact::new(&uris[2]), Contact::new(&uris[3])], 600).unwrap();
            bridge.wait_contacts(&aor, &[&uris[0], &uris[1], &uris[2], &uris[3]]);
            desk.unregister(&uris[1]).unwrap();
            bridge.wait_contacts(&aor, &[&uris[0], &uris[2], &uris[3]]);
            mobile.unregister(&uris[3]).unwrap();
            bridge.wait_contacts(&aor, &[&uris[0], &uris[2]]);
            bridge.wait_converged();
            mobile.unregister_all().unwrap();
            bridge.wait_contacts(&aor, &[]);
            // The next registration is a new one, not a ghost.
            desk.register(&[Contact::new(&uris[0])], 600).unwrap();
            bridge.wait_contacts(&aor, &[&uris[0]]);
        });
        bridge.wait_converged();
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_registration_that_is_not_refreshed_dies_everywhere_and_stays_dead() {
    limited(secs(120), || {
        let bridge = Bridge::on_loopback(&Plan::default());
        both_ways(&bridge, |here, _, tag| {
            let (brief, long) = (format!("brief-{tag}"), format!("long-{tag}"));
            let mut phone = Phone::new(&brief, here.sip());
            phone.register(&[Contact::new("sip:brief@192.0.2.30:5060")], 4).unwrap();
            let mut other = Phone::new(&long, here.sip());
            other.register(&[Contact::new("sip:long@192.0.2.31:5060")], 3_600).unwrap();
            bridge.wait_contacts(&brief, &["sip:brief@192.0.2.30:5060"]);
            bridge.wait_contacts(&long, &["sip:long@192.0.2.31:5060"]);
            // Shortened by a refresh: the new expiry counts, not the longer one.
            other.register(&[Contact::new("sip:long@192.0.2.31:5060")], 5).unwrap();
            bridge.wait_contacts(&brief, &[]);
            bridge.wait_contacts(&long, &[]);
        });
        stays(secs(5), "the dead stay dead", || {
            for tag in ["there", "back"] {
                bridge.ensure_contacts(&format!("brief-{tag}"), &[])?;
                bridge.ensure_contacts(&format!("long-{tag}"), &[])?;
            }
            Ok(())
        });
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_device_that_registers_at_both_servers_is_one_contact_and_leaves_both() {
    limited(secs(180), || {
        let bridge = Bridge::on_loopback(&Plan::default());
        both_ways(&bridge, |here, there, tag| {
            // Same URI, without instance, at both at almost the same time: each server mints a ruid.
            let (aor, uri) = (format!("twice-{tag}"), "sip:twice@192.0.2.40:5060");
            let mut first = Phone::new(&aor, here.sip());
            let mut second = Phone::new(&aor, there.sip());
            std::thread::scope(|scope| {
                scope.spawn(|| first.register(&[Contact::new(uri)], 600).unwrap());
                scope.spawn(|| second.register(&[Contact::new(uri)], 600).unwrap());
            });
            bridge.wait_contacts(&aor, &[uri]);
            bridge.wait_converged();
            first.unregister(uri).unwrap();
            bridge.wait_contacts(&aor, &[]);
            // An instance that comes back under another URI at the other server: one row, the new URI.
            let (aor, old, new) = (format!("moved-{tag}"), "sip:m@192.0.2.41:5060", "sip:m@198.51.100.9:6060");
            let instance = "urn:uuid:11111111-2222-4333-8444-555555555555";
            let mut phone = Phone::new(&aor, here.sip());
            phone.register(&[Contact::new(old).instance(instance, 1)], 600).unwrap();
            bridge.wait_contacts(&aor, &[old]);
            phone.move_to(there.sip());
            phone.register(&[Contact::new(new).instance(instance, 1)], 600).unwrap();
            bridge.wait_contacts(&aor, &[new]);
            phone.move_to(here.sip());
            phone.unregister_all().unwrap();
            bridge.wait_contacts(&aor, &[]);
        });
        bridge.wait_converged();
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn an_operator_adds_and_removes_contacts_at_servers_and_nodes_alike() {
    limited(secs(120), || {
        let bridge = Bridge::on_loopback(&Plan::default());
        both_ways(&bridge, |here, there, tag| {
            let (aor, uris) = (format!("ops-{tag}"), ["sip:ops@192.0.2.50:5060", "sip:ops@192.0.2.51:5060"]);
            let mut phone = Phone::new(&aor, here.sip());
            phone.register(&[Contact::new(uris[0]), Contact::new(uris[1])], 600).unwrap();
            bridge.wait_contacts(&aor, &uris);
            there.ul_rm(&aor).unwrap();
            bridge.wait_contacts(&aor, &[]);
            // By RPC, permanent: a lease that does not run out under the test.
            let add = json!(["location", aor, "sip:static@192.0.2.52:5060", 0, 0.5, "", 0, 0, 4_294_967_295_u32]);
            here.rpc("ul.add", &add).unwrap();
            bridge.wait_contacts(&aor, &["sip:static@192.0.2.52:5060"]);
            here.ul_rm(&aor).unwrap();
            bridge.wait_contacts(&aor, &[]);
        });
        operator_at_a_node(&bridge, &bridge.n3, "from-n3");
        operator_at_a_node(&bridge, &bridge.n1, "from-n1");
        bridge.wait_converged();
    });
}

fn operator_at_a_node(bridge: &Bridge, node: &Starling, aor: &str) {
    let (first, second) = ("sip:a@192.0.2.60:5060", "sip:b@192.0.2.61:5060");
    let run = |args: &[&str]| {
        let out = node.cli(args);
        assert!(out.status.success(), "{args:?}: {out:?}");
    };
    run(&["location", "add", aor, first, "--expires", "1h", "--q", "0.5"]);
    run(&["location", "add", aor, second, "--expires", "30m"]);
    bridge.wait_contacts(aor, &[first, second]);
    let row = bridge.k2.contacts_of(aor).unwrap().into_iter().find(|c| c.contact == first).unwrap();
    assert_eq!(row.q, 500);
    assert!(row.expires.abs_diff(unix_now() + 3_600) <= 5, "{row:?}");
    run(&["location", "rm", aor, first]);
    bridge.wait_contacts(aor, &[second]);
    run(&["location", "rm", aor]);
    bridge.wait_contacts(aor, &[]);
    assert_eq!(node.cli(&["location", "show", aor]).status.code(), Some(1), "an AoR without contacts is not found");
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn odd_but_legal_registrations_arrive_unchanged() {
    limited(secs(120), || {
        let server = KamailioConfig { use_domain: true, ..KamailioConfig::default() };
        let bridge = Bridge::on_loopback(&Plan { server, ..Plan::default() });
        both_ways(&bridge, |here, _, tag| {
            let uris = [
                "sip:%61lice%20x@192.0.2.70",
                "sip:+15551234;ext=22@192.0.2.71:5060;user=phone",
                "sips:bob@host.example.org:5061",
                "sip:x@[2001:db8::7]:5060;lr;x=%22q%22?Subject=a%2Cb",
                "tel:+15551234",
                "sip:192.0.2.72:5060",
            ];
            for (i, uri) in uris.iter().enumerate() {
                let aor = format!("odd{i}-{tag}@example.org");
                let mut phone = Phone::new(&aor, here.sip()).user_agent("λ/1 \u{7}tab\there {\"json\":[1]}");
                phone.register(&[Contact::new(uri)], 600).unwrap_or_else(|e| panic!("{uri}: {e}"));
                bridge.wait_contacts(&aor, &[uri]);
            }
        });
        bridge.wait_converged();
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn bytes_that_are_no_utf8_arrive_as_they_were() {
    limited(secs(120), || {
        let bridge = Bridge::on_loopback(&Plan::default());
        // A third server, in a way: what the third node tells its servers can be read byte by byte.
        let peer = FakePeer::start(&Host::loopback());
        peer.join(bridge.n3.sip()).unwrap();
        both_ways(&bridge, |here, _, tag| {
            let (aor, uri) = (format!("latin-{tag}"), "sip:latin@192.0.2.75:5060");
            let mut phone = Phone::new(&aor, here.sip()).user_agent("F#n 9").with_bytes("F#n", b"F\xf6n \xff\xfe");
            phone.register(&[Contact::new(uri)], 600).unwrap();
            bridge.wait_contacts(&aor, &[uri]);
            let told = eventually(PATIENCE, "the third server is told", || {
                let mut told = peer.requests("usrloc");
                told.retain(|m| m.text().contains(&aor));
                told.pop().context("nothing")
            });
            let needle = b"F\xf6n \xff\xfe 9";
            assert!(told.body.windows(needle.len()).any(|w| w == needle), "{}", told.text());
        });
        bridge.wait_converged();
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn hundreds_of_phones_that_register_refresh_and_leave_at_once_end_equal_everywhere() {
    limited(secs(180), || {
        let bridge = Bridge::on_loopback(&Plan::default());
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let bridge = &bridge;
                scope.spawn(move || {
                    for i in 0..75 {
                        let (home, away) = if i % 2 == 0 { (&bridge.k1, &bridge.k2) } else { (&bridge.k2, &bridge.k1) };
                        // Three AoRs of four are shared by two workers.
                        let aor = format!("crowd-{}-{i}", if i % 4 == 0 { worker } else { worker % 2 });
                        let uri = format!("sip:c{worker}@192.0.2.80:{}", 5_000 + i);
                        let mut phone = Phone::new(&aor, home.sip());
                        phone.register(&[Contact::new(&uri)], 600).unwrap();
                        // A server that has not heard of a contact cannot take its leave: leave at home.
                        if i % 5 == 0 {
                            phone.unregister(&uri).unwrap();
                            continue;
                        }
                        if i % 3 == 0 {
                            phone.move_to(away.sip());
                        }
                        phone.register(&[Contact::new(&uri).q("0.5")], 700).unwrap();
                    }
                });
            }
        });
        bridge.wait_converged();
        let held = bridge.n3.contacts().unwrap().values().map(Vec::len).sum::<usize>();
        assert_eq!(held, 4 * 60, "one in five of 300 phones has left");
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn servers_that_speak_dmq_over_tcp_are_served_alike() {
    limited(secs(120), || {
        let server = KamailioConfig { tcp: true, ..KamailioConfig::default() };
        let bridge = Bridge::on_loopback(&Plan { server, ..Plan::default() });
        both_ways(&bridge, |here, _, tag| {
            let (aor, uri) = (format!("tcp-{tag}"), "sip:tcp@192.0.2.90:5060");
            let mut phone = Phone::new(&aor, here.sip());
            phone.register(&[Contact::new(uri)], 600).unwrap();
            bridge.wait_contacts(&aor, &[uri]);
            phone.unregister(uri).unwrap();
            bridge.wait_contacts(&aor, &[]);
            here.set("plain", &aor, "v").unwrap();
            bridge.wait_entry("plain", &aor, Some("v".into()));
        });
        bridge.wait_converged();
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn what_is_lost_with_tcp_connections_is_asked_for_and_nothing_is_removed_for_it() {
    limited(secs(180), || {
        let server = KamailioConfig { tcp: true, ..KamailioConfig::default() };
        let bridge = Bridge::on_loopback(&Plan { server, ..Plan::default() });
        let mut broken = 0;
        for i in 0..120 {
            let mut phone = Phone::new(&format!("kept-{i}"), bridge.k1.sip());
            phone.register(&[Contact::new(&format!("sip:kept{i}@192.0.2.91:5060"))], 600).unwrap();
            // Now and then what the server says of it has no connection to arrive by, nor has the dump that is asked for.
            broken += if i % 4 == 0 { break_connections(&bridge.n1.host) } else { 0 };
        }
        assert!(broken >= 10, "{broken} connections were broken");
        bridge.wait_converged();
        let kept = |i: u32| bridge.n3.contacts().unwrap().contains_key(&format!("kept-{i}"));
        assert_eq!((0..120).filter(|i| !kept(*i)).collect::<Vec<_>>(), Vec::<u32>::new());
    });
}

/// Ends the TCP connections that others have opened to a host's SIP port, as the kernel ends them for an administrator;
/// returns how many there were.
fn break_connections(to: &Host) -> usize {
    let (ip, port) = (to.sip().ip().to_string(), to.sip().port().to_string());
    let out = to.command("ss").args(["-K", "-t", "-H", "dst", &ip, "dport", "=", &port]).output().expect("ss runs");
    String::from_utf8_lossy(&out.stdout).lines().filter(|line| line.contains("ESTAB")).count()
}
