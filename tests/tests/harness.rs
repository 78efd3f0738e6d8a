//! The support library against plain Kamailio: what the other tests rely on, without a node.
//!
//! Servers that replicate to each other by DMQ itself give every helper something to show.

use std::time::Duration;

use starling_tests::compare::{Value, same_contacts};
use starling_tests::flood;
use starling_tests::host::Host;
use starling_tests::kamailio::{Kamailio, KamailioConfig};
use starling_tests::net::Net;
use starling_tests::peer::FakePeer;
use starling_tests::phone::{Contact, Phone};
use starling_tests::wait::{PATIENCE, eventually, limited, same, secs};

/// Two servers that know each other.
fn pair(a: &Host, b: &Host) -> (Kamailio, Kamailio) {
    let first = Kamailio::start("k1", a, KamailioConfig::knowing(b));
    let second = Kamailio::start("k2", b, KamailioConfig { server_id: 2, ..KamailioConfig::knowing(a) });
    for (server, other) in [(&first, b), (&second, a)] {
        eventually(PATIENCE, "the servers see each other", || server.ensure_active(other));
    }
    (first, second)
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_registration_with_everything_is_read_back_from_both_of_two_plain_servers() {
    limited(secs(60), || {
        let (k1, k2) = pair(&Host::loopback(), &Host::loopback());
        let mut phone = Phone::new("alice", k1.sip()).path("<sip:edge.example.org;lr>").behind_nat();
        let contact = Contact::new("sip:alice@192.0.2.7:5062;ob").q("0.5").instance("urn:uuid:1", 2);
        phone.register(&[contact.methods("INVITE, BYE, ACK")], 600).unwrap();
        let held = k1.contacts().unwrap();
        let row = &held["alice"][0];
        assert_eq!(row.contact, "sip:alice@192.0.2.7:5062;ob");
        assert_eq!(row.received, format!("sip:{}", phone.address()));
        assert_eq!(row.path, "<sip:edge.example.org;lr>");
        assert_eq!((row.q, row.reg_id, row.instance.as_str()), (500, 2, "<urn:uuid:1>"));
        assert_eq!(row.methods, 1 + 4 + 8);
        assert_eq!((row.callid.as_str(), row.cseq), (phone.call_id(), 1));
        eventually(PATIENCE, "DMQ brings it over", || same_contacts("k1", &held, "k2", &k2.contacts()?));
        k2.ul_rm("alice").unwrap();
        eventually(PATIENCE, "removed", || same("contacts", k1.contacts_of("alice")?.len(), 0));
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn every_operation_of_the_configuration_script_does_what_its_name_says() {
    limited(secs(60), || {
        let k = Kamailio::start("k", &Host::loopback(), KamailioConfig::default());
        let value = |table: &str, key: &str| k.entry(table, key).unwrap().map(|(v, _)| v);
        for table in ["plain", "exp", "fix", "short", "local"] {
            k.script(&format!("set-{table}"), &[("X-K", "k"), ("X-V", "v")]).unwrap();
            assert_eq!(value(table, "k"), Some(Value::from("v")), "{table}");
        }
        for table in ["plain", "exp", "cnt"] {
            k.script(&format!("seti-{table}"), &[("X-K", "n"), ("X-V", "7")]).unwrap();
            assert_eq!(value(table, "n"), Some(Value::Int(7)), "{table}");
        }
        k.script("inc-cnt", &[("X-K", "n")]).unwrap();
        k.script("inc-cnt", &[("X-K", "n")]).unwrap();
        k.script("dec-cnt", &[("X-K", "n")]).unwrap();
        assert_eq!(value("cnt", "n"), Some(Value::Int(8)));
        k.script("expire-exp", &[("X-K", "n"), ("X-E", "90")]).unwrap();
        let (_, expires) = k.entry("exp", "n").unwrap().unwrap();
        assert!(expires.unwrap().abs_diff(starling_tests::compare::unix_now() + 90) <= 2);
        k.script("del-plain", &[("X-K", "n")]).unwrap();
        k.script("del-exp", &[("X-K", "n")]).unwrap();
        assert_eq!((value("plain", "n"), value("exp", "n")), (None, None));
        for (operation, header, pattern, doomed, kept) in [
            ("rmname-plain", "X-K", "^a.*z$", ("abz", "1"), ("abzy", "1")),
            ("rmvalue-plain", "X-V", "^red", ("b1", "red2"), ("b2", "dark red")),
            ("rmsw-plain", "X-K", "pre", ("pre.1", "x"), ("apre", "x")),
            ("rmvsw-plain", "X-V", "blu", ("c1", "blue"), ("c2", "dark blue")),
        ] {
            k.set("plain", doomed.0, doomed.1).unwrap();
            k.set("plain", kept.0, kept.1).unwrap();
            k.script(operation, &[(header, pattern)]).unwrap();
            assert_eq!(value("plain", doomed.0), None, "{operation}");
            assert_eq!(value("plain", kept.0), Some(Value::from(kept.1)), "{operation}");
        }
        k.script("has-plain", &[("X-K", "apre")]).unwrap();
        assert!(k.script("has-plain", &[("X-K", "nothing")]).is_err());
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn two_plain_servers_that_are_cut_apart_stay_different_after_the_heal() {
    limited(secs(120), || {
        Net::run(|net| {
            let (left, right) = (net.site(), net.site());
            let (a, b) = (left.host(), right.host());
            let (k1, k2) = pair(&a, &b);
            k1.set("plain", "both", "before").unwrap();
            eventually(PATIENCE, "DMQ works", || same("value", k2.entry("plain", "both")?.is_some(), true));
            net.cut(&left, &right);
            k1.set("plain", "lost", "left").unwrap();
            // Until the request has been given up: fr_timer is 3 s here.
            eventually(PATIENCE, "noticed", || same("state", k1.ensure_active(&b).is_err(), true));
            assert_eq!(k2.entry("plain", "lost").unwrap(), None);
            net.heal();
            for (server, other) in [(&k1, &b), (&k2, &a)] {
                eventually(PATIENCE, "the servers see each other", || server.ensure_active(other));
            }
            k1.set("plain", "after", "left").unwrap();
            eventually(PATIENCE, "DMQ works", || same("value", k2.entry("plain", "after")?.is_some(), true));
            assert_eq!(k2.entry("plain", "lost").unwrap(), None, "plain DMQ repairs nothing");
        });
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn the_kernel_counts_requests_of_one_channel_and_direction() {
    limited(secs(60), || {
        Net::run(|net| {
            let site = net.site();
            let (a, b) = (site.host(), site.host());
            let (k1, k2) = pair(&a, &b);
            let out = site.count_kdmq("htable", &a, &b);
            let back = site.count_kdmq("htable", &b, &a);
            let contacts = site.count_kdmq("usrloc", &a, &b);
            for i in 0..20 {
                k1.set("plain", &format!("k{i}"), i).unwrap();
            }
            eventually(PATIENCE, "all there", || same("entries", k2.entries("plain")?.len(), 20));
            assert_eq!((out.requests(), back.requests(), contacts.requests()), (20, 0, 0));
        });
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_server_that_is_cut_from_its_neighbour_in_the_same_site_is_still_reached_by_the_test() {
    limited(secs(60), || {
        Net::run(|net| {
            let site = net.site();
            let (a, b) = (site.host(), site.host());
            let (k1, k2) = pair(&a, &b);
            site.cut(&a, &b);
            k1.set("plain", "k", "v").unwrap();
            eventually(PATIENCE, "noticed", || same("state", k1.ensure_active(&b).is_err(), true));
            assert_eq!(k2.entries("plain").unwrap().len(), 0);
            site.heal(&a, &b);
            eventually(PATIENCE, "seen again", || k1.ensure_active(&b));
            k1.set("plain", "k2", "v").unwrap();
            eventually(PATIENCE, "there", || same("entries", k2.entry("plain", "k2")?.is_some(), true));
        });
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_scripted_peer_joins_a_server_and_sees_each_change_once() {
    limited(secs(60), || {
        let (server, me) = (Host::loopback(), Host::loopback());
        let k = Kamailio::start("k", &server, KamailioConfig::default());
        let peer = FakePeer::start(&me);
        let list = peer.join(server.sip()).unwrap();
        assert!(list.text().contains(&format!("{};status=active", server.dmq_uri())), "{}", list.text());
        eventually(PATIENCE, "joined", || k.ensure_active(&me));
        k.set("plain", "k", "v").unwrap();
        let set = eventually(PATIENCE, "told", || {
            let mut sets = peer.requests("htable").into_iter().filter(|m| m.text().contains("\"action\":2"));
            sets.next_back().ok_or_else(|| anyhow::anyhow!("nothing"))
        });
        assert_eq!(set.json().unwrap()["cname"], "k");
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn ten_thousand_registrations_are_loaded_and_looked_for_one_by_one() {
    limited(secs(120), || {
        let k = Kamailio::start("k", &Host::loopback(), KamailioConfig::default());
        flood::register(k.sip(), 10_000, 3_600, secs(60)).unwrap();
        assert_eq!(k.contact_count().unwrap(), 10_000);
        assert_eq!(flood::missing(k.sip(), 10_000, secs(60)).unwrap(), Vec::<usize>::new());
        k.ul_rm(&flood::user(4_321)).unwrap();
        eventually(PATIENCE, "one is missing", || {
            same("missing", flood::missing(k.sip(), 10_000, secs(60))?, vec![4_321])
        });
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_frozen_server_goes_on_where_it_was_and_a_restarted_one_is_empty() {
    limited(secs(90), || {
        let mut k = Kamailio::start("k", &Host::loopback(), KamailioConfig::default());
        k.set("plain", "k", "v").unwrap();
        k.freeze();
        assert!(k.script("has-plain", &[("X-K", "k")]).is_err());
        k.thaw();
        eventually(Duration::from_secs(20), "it answers", || k.script("has-plain", &[("X-K", "k")]).map(|_| ()));
        k.restart();
        assert_eq!(k.entries("plain").unwrap().len(), 0);
        k.set("plain", "k", "v").unwrap();
        k.kill9();
        k.start_again();
        assert_eq!(k.entries("plain").unwrap().len(), 0);
    });
}
