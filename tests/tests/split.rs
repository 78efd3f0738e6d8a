//! Splits between sites, longer than the failure detector needs, with changes on both sides: afterwards
//! everybody holds the same, and it is what the rules say.

use std::time::{Duration, Instant};

use starling_tests::compare::{Value, unix_now};
use starling_tests::flood;
use starling_tests::kamailio::{Kamailio, KamailioConfig};
use starling_tests::net::Net;
use starling_tests::phone::{Contact, Phone};
use starling_tests::starling::{StarlingConfig, equal_digests};
use starling_tests::topology::{Bridge, Plan, Sites};
use starling_tests::wait::{PATIENCE, eventually, limited, same, secs, stays};

/// Equal digests are due so soon after a heal.
const HEALED: Duration = secs(5);

/// How a site is cut off and brought back.
type Cut = fn(&Net, &Sites);

/// The second site alone, by dropped packets.
fn cut_second(net: &Net, sites: &Sites) {
    net.cut(&sites.first, &sites.second);
    net.cut(&sites.third, &sites.second);
}

/// Everybody alone.
fn cut_all(net: &Net, sites: &Sites) {
    cut_second(net, sites);
    net.cut(&sites.first, &sites.third);
}

/// The second site alone, its cable pulled.
fn pull_second(_: &Net, sites: &Sites) {
    sites.second.unplug();
}

fn heal(net: &Net, sites: &Sites) {
    net.heal();
    sites.second.plug();
}

/// After a heal: equal digests in time, then servers that hold what the nodes hold.
#[track_caller]
fn check_healed(bridge: &Bridge, healed: Instant) {
    let left = HEALED.saturating_sub(healed.elapsed());
    eventually(left, "digests are equal after the heal", || equal_digests(&bridge.nodes()));
    eventually(PATIENCE, "the servers hold what the nodes hold", || bridge.ensure_converged());
}

/// One phone per case, and what the contact must be in the end.
struct Phones {
    left: Vec<Phone>,
    right: Vec<Phone>,
}

const CASES: [&str; 9] = [
    "untouched",
    "removed-left",
    "removed-right",
    "removed-left-refreshed-right",
    "refreshed-left-removed-right",
    "refreshed-both",
    "star-left-added-right",
    "moved-both",
    "brief",
];

fn uri(case: &str) -> String {
    format!("sip:{case}@192.0.2.1:5060")
}

/// Registers every case at the first server, and gives each side a phone with the same Call-ID state.
fn before(bridge: &Bridge) -> Phones {
    let register = |case: &&str| {
        let mut phone = Phone::new(case, bridge.k1.sip());
        let seconds = if *case == "brief" { 12 } else { 3_600 };
        let mut contact = Contact::new(&uri(case));
        if *case == "moved-both" {
            contact = contact.instance("urn:uuid:99999999-0000-4000-8000-000000000001", 1);
        }
        phone.register(&[contact], seconds).unwrap();
        phone
    };
    let left = CASES.iter().map(register).collect();
    // Another device of the user at the other server: its own Call-ID.
    let right = CASES.iter().map(|case| Phone::new(case, bridge.k2.sip())).collect();
    for case in CASES {
        bridge.wait_contacts(case, &[&uri(case)]);
    }
    for (key, value) in [("both", "old"), ("deleted-left", "old"), ("deleted-both", "old"), ("set-then-deleted", "old")]
    {
        bridge.k1.set("plain", key, value).unwrap();
    }
    for i in 0..30 {
        bridge.k1.set("plain", &format!("pattern-{i}"), i).unwrap();
    }
    bridge.k2.set("exp", "both", "old").unwrap();
    bridge.wait_converged();
    Phones { left, right }
}

/// Changes on both sides, in this order of time: left, then right, then left again.
fn during(bridge: &Bridge, phones: &mut Phones) {
    let of = |case: &str| CASES.iter().position(|c| *c == case).expect("a case");
    let left = &mut phones.left;
    left[of("removed-left")].unregister(&uri("removed-left")).unwrap();
    left[of("removed-left-refreshed-right")].unregister(&uri("removed-left-refreshed-right")).unwrap();
    left[of("refreshed-left-removed-right")]
        .register(&[Contact::new(&uri("refreshed-left-removed-right"))], 1_000)
        .unwrap();
    left[of("refreshed-both")].register(&[Contact::new(&uri("refreshed-both")).q("0.1")], 2_000).unwrap();
    left[of("star-left-added-right")].unregister_all().unwrap();
    let instance = "urn:uuid:99999999-0000-4000-8000-000000000001";
    left[of("moved-both")].register(&[Contact::new("sip:left@192.0.2.2:5060").instance(instance, 1)], 900).unwrap();
    bridge.k1.set("plain", "both", "left").unwrap();
    bridge.k1.set("exp", "both", "left").unwrap();
    bridge.k1.delete("plain", "deleted-left").unwrap();
    bridge.k1.delete("plain", "deleted-both").unwrap();
    bridge.k1.set("plain", "set-then-deleted", "left").unwrap();
    bridge.k1.script("rmsw-plain", &[("X-K", "pattern-")]).unwrap();
    // Stamps are milliseconds, contacts of a 5.6 server seconds: what comes later is clearly later.
    std::thread::sleep(secs(2));
    let right = &mut phones.right;
    right[of("removed-right")].unregister(&uri("removed-right")).unwrap();
    right[of("removed-left-refreshed-right")]
        .register(&[Contact::new(&uri("removed-left-refreshed-right"))], 1_000)
        .unwrap();
    right[of("refreshed-left-removed-right")].unregister(&uri("refreshed-left-removed-right")).unwrap();
    right[of("refreshed-both")].register(&[Contact::new(&uri("refreshed-both")).q("0.9")], 3_000).unwrap();
    right[of("star-left-added-right")].register(&[Contact::new("sip:added@192.0.2.3:5060")], 900).unwrap();
    right[of("moved-both")].register(&[Contact::new("sip:right@192.0.2.4:5060").instance(instance, 1)], 900).unwrap();
    bridge.k2.set("plain", "both", 7).unwrap();
    bridge.k2.set("exp", "both", "right").unwrap();
    bridge.k2.delete("plain", "deleted-both").unwrap();
    bridge.k2.delete("plain", "set-then-deleted").unwrap();
    bridge.k2.set("plain", "pattern-new", "right").unwrap();
    // Many that only one side has.
    for i in 0..50 {
        for (server, side) in [(&bridge.k1, "left"), (&bridge.k2, "right")] {
            let aor = format!("new-{side}-{i}");
            Phone::new(&aor, server.sip()).register(&[Contact::new(&uri(&aor))], 3_600).unwrap();
            server.set("plain", &aor, i).unwrap();
        }
    }
}

fn after(bridge: &Bridge) {
    bridge.ensure_contacts("untouched", &[&uri("untouched")]).unwrap();
    bridge.ensure_contacts("removed-left", &[]).unwrap();
    bridge.ensure_contacts("removed-right", &[]).unwrap();
    bridge.ensure_contacts("removed-left-refreshed-right", &[&uri("removed-left-refreshed-right")]).unwrap();
    bridge.ensure_contacts("refreshed-left-removed-right", &[]).unwrap();
    bridge.ensure_contacts("refreshed-both", &[&uri("refreshed-both")]).unwrap();
    assert_eq!(bridge.n3.contacts_of("refreshed-both").unwrap()[0].q, 900, "the later refresh wins");
    bridge.ensure_contacts("star-left-added-right", &["sip:added@192.0.2.3:5060"]).unwrap();
    bridge.ensure_contacts("moved-both", &["sip:right@192.0.2.4:5060"]).unwrap();
    bridge.ensure_contacts("brief", &[]).unwrap();
    bridge.ensure_entry("plain", "both", Some(&Value::Int(7))).unwrap();
    bridge.ensure_entry("exp", "both", Some(&"right".into())).unwrap();
    for key in ["deleted-left", "deleted-both", "set-then-deleted"] {
        bridge.ensure_entry("plain", key, None).unwrap();
    }
    for i in 0..30 {
        bridge.ensure_entry("plain", &format!("pattern-{i}"), None).unwrap();
    }
    bridge.ensure_entry("plain", "pattern-new", Some(&"right".into())).unwrap();
    for i in 0..50 {
        for side in ["left", "right"] {
            let aor = format!("new-{side}-{i}");
            bridge.ensure_contacts(&aor, &[&uri(&aor)]).unwrap();
            bridge.ensure_entry("plain", &aor, Some(&Value::Int(i))).unwrap();
        }
    }
}

/// The whole course: state, split, changes, heal, and what must be true then.
fn split_and_heal(cut: Cut, missed_by_n1: usize) {
    Net::run(|net| {
        let (bridge, sites) = Bridge::in_sites(net, &Plan::default());
        let mut phones = before(&bridge);
        let brief_until = unix_now() + 12;
        cut(net, &sites);
        let cut_at = Instant::now();
        bridge.wait_noticed(&bridge.n1, missed_by_n1);
        bridge.wait_noticed(&bridge.n2, 2);
        during(&bridge, &mut phones);
        // Long enough for the contact of 12 seconds to die on both sides, and for SIP to give up.
        std::thread::sleep(Duration::from_secs(brief_until.saturating_sub(unix_now()) + 2));
        eprintln!("cut for {:?}", cut_at.elapsed());
        assert!(equal_digests(&bridge.nodes()).is_err(), "the cut let everything through");
        heal(net, &sites);
        check_healed(&bridge, Instant::now());
        after(&bridge);
        stays(secs(5), "it stays equal", || bridge.ensure_converged());
        after(&bridge);
        // And it works on.
        phones.left[0].unregister(&uri("untouched")).unwrap();
        bridge.wait_contacts("untouched", &[]);
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn one_site_is_cut_from_the_other_two_and_all_agree_after_the_heal() {
    limited(secs(240), || split_and_heal(cut_second, 1));
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn one_site_has_its_cable_pulled_and_all_agree_when_it_is_back() {
    limited(secs(240), || split_and_heal(pull_second, 1));
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn three_sites_are_all_cut_apart_and_agree_after_the_heal() {
    limited(secs(240), || split_and_heal(cut_all, 2));
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_change_goes_round_by_the_third_node_when_two_cannot_talk() {
    limited(secs(240), || {
        Net::run(|net| {
            let (bridge, sites) = Bridge::in_sites(net, &Plan::default());
            net.cut(&sites.first, &sites.second);
            // Before anybody has noticed, while it is noticed, and when it is old news.
            for (i, pause) in [0, 1, 3, 10].into_iter().enumerate() {
                std::thread::sleep(secs(pause));
                let aor = format!("round-{i}");
                Phone::new(&aor, bridge.k1.sip()).register(&[Contact::new(&uri(&aor))], 600).unwrap();
                bridge.k2.set("plain", &aor, "back").unwrap();
                bridge.wait_contacts(&aor, &[&uri(&aor)]);
                bridge.wait_entry("plain", &aor, Some("back".into()));
            }
            bridge.k2.ul_rm("round-0").unwrap();
            bridge.wait_contacts("round-0", &[]);
            bridge.wait_converged();
            net.heal();
            check_healed(&bridge, Instant::now());
        });
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_link_that_carries_one_way_only_ends_equal_after_the_heal() {
    limited(secs(240), || {
        Net::run(|net| {
            let (bridge, sites) = Bridge::in_sites(net, &Plan::default());
            for to in [&sites.first, &sites.third] {
                net.cut_one_way(&sites.second, to);
            }
            for i in 0..20 {
                for (server, side) in [(&bridge.k1, "left"), (&bridge.k2, "right")] {
                    let aor = format!("{side}-{i}");
                    Phone::new(&aor, server.sip()).register(&[Contact::new(&uri(&aor))], 600).unwrap();
                    server.set("plain", "contested", format!("{side}-{i}").as_str()).unwrap();
                }
                std::thread::sleep(Duration::from_millis(500));
            }
            net.heal();
            check_healed(&bridge, Instant::now());
            bridge.ensure_entry("plain", "contested", Some(&"right-19".into())).unwrap();
            assert_eq!(bridge.n3.contacts().unwrap().len(), 40);
        });
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn short_cuts_and_lossy_links_under_load_lose_nothing() {
    limited(secs(300), || {
        Net::run(|net| {
            let (bridge, sites) = Bridge::in_sites(net, &Plan::default());
            net.lose(&sites.first, &sites.second, 0.1);
            net.lose(&sites.third, &sites.second, 0.1);
            for round in 0..8 {
                let mut removed = Vec::new();
                for i in 0..20 {
                    let aor = format!("r{round}-{i}");
                    let (home, key) = if i % 2 == 0 { (&bridge.k1, "even") } else { (&bridge.k2, "odd") };
                    let mut phone = Phone::new(&aor, home.sip());
                    phone.register(&[Contact::new(&uri(&aor))], 3_600).unwrap();
                    home.set("plain", &format!("{key}-{}", i % 4), round * 100 + i).unwrap();
                    if i % 5 == 0 {
                        phone.unregister(&uri(&aor)).unwrap();
                        removed.push(aor);
                    }
                }
                assert_eq!(removed.len(), 4);
                // Shorter than, about as long as, and longer than any timer of the links.
                cut_second(net, &sites);
                std::thread::sleep(Duration::from_millis(300 * (round + 1).unsigned_abs()));
                net.heal();
            }
            check_healed(&bridge, Instant::now());
            assert_eq!(bridge.n3.contacts().unwrap().len(), 8 * 16);
        });
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn an_operators_removal_loses_to_a_refresh_that_it_had_not_seen() {
    limited(secs(240), || {
        Net::run(|net| {
            let (bridge, sites) = Bridge::in_sites(net, &Plan::default());
            let mut unseen = Phone::new("unseen", bridge.k2.sip());
            let mut seen = Phone::new("seen", bridge.k2.sip());
            unseen.register(&[Contact::new(&uri("unseen"))], 3_600).unwrap();
            seen.register(&[Contact::new(&uri("seen"))], 3_600).unwrap();
            bridge.wait_contacts("unseen", &[&uri("unseen")]);
            bridge.wait_contacts("seen", &[&uri("seen")]);
            cut_second(net, &sites);
            bridge.wait_noticed(&bridge.n1, 1);
            unseen.register(&[Contact::new(&uri("unseen"))], 1_000).unwrap();
            std::thread::sleep(secs(2));
            // Later than the refresh, but blind to it: add wins.
            assert!(bridge.n1.cli(&["location", "rm", "unseen"]).status.success());
            assert!(bridge.n3.cli(&["location", "rm", "seen"]).status.success());
            eventually(PATIENCE, "removed on that side", || {
                same("contacts", bridge.k1.contacts_of("unseen")?.len(), 0)
            });
            net.heal();
            check_healed(&bridge, Instant::now());
            bridge.wait_contacts("unseen", &[&uri("unseen")]);
            bridge.wait_contacts("seen", &[]);
        });
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_counting_table_counts_on_both_sides_of_a_split() {
    limited(secs(240), || {
        Net::run(|net| {
            let mut node = StarlingConfig::default();
            node.more += "\n[htable.cnt]\ncounter = true\n";
            let (bridge, sites) = Bridge::in_sites(net, &Plan { node, ..Plan::default() });
            let count = |server: &Kamailio, steps: usize| {
                (0..steps).for_each(|_| drop(server.script("inc-cnt", &[("X-K", "calls")]).unwrap()));
            };
            count(&bridge.k1, 10);
            bridge.wait_entry("cnt", "calls", Some(Value::Int(10)));
            cut_second(net, &sites);
            bridge.wait_noticed(&bridge.n1, 1);
            count(&bridge.k1, 25);
            count(&bridge.k2, 17);
            eventually(PATIENCE, "each side counts alone", || {
                same("left", bridge.n3.entry("cnt", "calls")?.map(|(v, _)| v), Some(Value::Int(35)))?;
                same("right", bridge.n2.entry("cnt", "calls")?.map(|(v, _)| v), Some(Value::Int(27)))
            });
            net.heal();
            check_healed(&bridge, Instant::now());
            bridge.wait_entry("cnt", "calls", Some(Value::Int(52)));
            count(&bridge.k2, 1);
            bridge.wait_entry("cnt", "calls", Some(Value::Int(53)));
        });
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn thousands_of_changes_on_both_sides_are_equal_in_time() {
    limited(secs(300), || {
        const EACH: usize = 3_000;
        Net::run(|net| {
            let server = KamailioConfig { shm_mb: 512, pkg_mb: 256, ..KamailioConfig::default() };
            let (bridge, sites) = Bridge::in_sites(net, &Plan { server, ..Plan::default() });
            flood::register(bridge.k1.sip(), EACH, 3_600, secs(60)).unwrap();
            bridge.wait_converged();
            cut_second(net, &sites);
            bridge.wait_noticed(&bridge.n1, 1);
            bridge.wait_noticed(&bridge.n2, 2);
            // The same users on both sides: on the left one contact each is refreshed, on the right replaced.
            flood::register(bridge.k1.sip(), EACH, 1_800, secs(60)).unwrap();
            flood::register(bridge.k2.sip(), EACH, 7_200, secs(60)).unwrap();
            for i in 0..200 {
                bridge.k1.set("plain", &format!("left-{i}"), i).unwrap();
                bridge.k2.set("plain", &format!("right-{i}"), i).unwrap();
            }
            net.heal();
            check_healed(&bridge, Instant::now());
            let expires = bridge.k1.contacts_of(&flood::user(7)).unwrap()[0].expires;
            assert!(expires > unix_now() + 6_000, "the later registrations have won");
            let held = bridge.n3.entries("plain").unwrap();
            let keys = ["left", "right"].iter().flat_map(|side| (0..200).map(move |i| format!("{side}-{i}")));
            let lost: Vec<_> = keys.filter(|key| !held.contains_key(key)).collect();
            assert!(lost.is_empty(), "lost everywhere: {lost:?}");
        });
    });
}
