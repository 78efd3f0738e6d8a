//! Hash tables of two real servers and three nodes: what a script, an RPC command or an operator does to one
//! is done to all.

use serde_json::json;
use starling_tests::compare::{Value, unix_now};
use starling_tests::kamailio::Kamailio;
use starling_tests::starling::StarlingConfig;
use starling_tests::topology::{Bridge, Plan};
use starling_tests::wait::{PATIENCE, eventually, limited, same, secs, stays};

fn both_ways(bridge: &Bridge, test: impl Fn(&Kamailio, &str)) {
    test(&bridge.k1, "there");
    test(&bridge.k2, "back");
}

/// Waits until an entry expires at this time, within three seconds, at both servers and all nodes.
#[track_caller]
fn wait_expiry(bridge: &Bridge, table: &str, key: &str, at: u64) {
    eventually(PATIENCE, &format!("{table}/{key} expires at {at} everywhere"), || {
        let held = [
            ("k1", bridge.k1.entry(table, key)?),
            ("k2", bridge.k2.entry(table, key)?),
            ("n1", bridge.n1.entry(table, key)?),
            ("n2", bridge.n2.entry(table, key)?),
            ("n3", bridge.n3.entry(table, key)?),
        ];
        for (name, entry) in held {
            let expires = entry.as_ref().and_then(|(_, e)| *e);
            anyhow::ensure!(expires.is_some_and(|e| e.abs_diff(at) <= 3), "{name} has {entry:?}");
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn values_set_by_scripts_and_rpc_are_the_same_at_both_servers_and_all_nodes() {
    limited(secs(180), || {
        let bridge = Bridge::on_loopback(&Plan::default());
        both_ways(&bridge, |here, tag| {
            let key = |name: &str| format!("{name}-{tag}");
            here.script("set-plain", &[("X-K", &key("s")), ("X-V", "hello world")]).unwrap();
            bridge.wait_entry("plain", &key("s"), Some("hello world".into()));
            here.script("seti-plain", &[("X-K", &key("i")), ("X-V", "-42")]).unwrap();
            bridge.wait_entry("plain", &key("i"), Some(Value::Int(-42)));
            // A string over an integer, and the other way round.
            here.set("plain", &key("i"), "forty-two").unwrap();
            bridge.wait_entry("plain", &key("i"), Some("forty-two".into()));
            here.set("plain", &key("s"), 7).unwrap();
            bridge.wait_entry("plain", &key("s"), Some(Value::Int(7)));
            here.script("del-plain", &[("X-K", &key("s"))]).unwrap();
            bridge.wait_entry("plain", &key("s"), None);
            here.delete("plain", &key("i")).unwrap();
            bridge.wait_entry("plain", &key("i"), None);
            // What was deleted can be set again.
            here.set("plain", &key("s"), "again").unwrap();
            bridge.wait_entry("plain", &key("s"), Some("again".into()));
            for n in [i32::MAX, i32::MIN + 1, 0] {
                here.set("plain", &key("limit"), i64::from(n)).unwrap();
                bridge.wait_entry("plain", &key("limit"), Some(Value::Int(i64::from(n))));
            }
            here.script("set-local", &[("X-K", &key("s")), ("X-V", "mine")]).unwrap();
        });
        bridge.wait_converged();
        for node in bridge.nodes() {
            assert_eq!(node.entries("local").unwrap().len(), 0, "a table without dmqreplicate stays where it is");
        }
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn deletion_by_pattern_removes_what_matches_and_nothing_else() {
    limited(secs(180), || {
        let bridge = Bridge::on_loopback(&Plan::default());
        // operation, header, pattern: what it removes of the entries below
        let cases: [(&str, &str, &str, &[&str]); 5] = [
            ("rmname-plain", "X-K", "^call[0-9]+$", &["call1", "call22"]),
            ("rmsw-plain", "X-K", "call", &["call1", "call22", "calling"]),
            ("rmvalue-plain", "X-V", "^re", &["call1", "other"]),
            ("rmvsw-plain", "X-V", "red", &["call1"]),
            ("rmname-plain", "X-K", ".", &["call1", "call22", "calling", "other", "xcall1"]),
        ];
        let entries =
            [("call1", "red"), ("call22", "blue"), ("calling", "green"), ("other", "rest"), ("xcall1", "a red")];
        both_ways(&bridge, |here, _| {
            for (operation, header, pattern, gone) in cases {
                for (key, value) in entries {
                    here.set("plain", key, value).unwrap();
                }
                // An integer is no string: a pattern on values passes it by.
                here.set("plain", "#", 5).unwrap();
                bridge.wait_converged();
                here.script(operation, &[(header, pattern)]).unwrap();
                for (key, value) in entries {
                    let left = (!gone.contains(&key)).then(|| Value::from(value));
                    bridge.wait_entry("plain", key, left);
                }
                let hash_left = (pattern != ".").then_some(Value::Int(5));
                bridge.wait_entry("plain", "#", hash_left);
                bridge.wait_converged();
            }
        });
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn expiry_is_the_same_everywhere_and_what_expired_stays_away() {
    limited(secs(180), || {
        let bridge = Bridge::on_loopback(&Plan::default());
        both_ways(&bridge, |here, tag| {
            let key = |name: &str| format!("{name}-{tag}");
            here.set("exp", &key("default"), "v").unwrap();
            wait_expiry(&bridge, "exp", &key("default"), unix_now() + 3_600);
            here.script("expire-exp", &[("X-K", &key("default")), ("X-E", "77")]).unwrap();
            wait_expiry(&bridge, "exp", &key("default"), unix_now() + 77);
            here.rpc("htable.setex", &json!(["exp", key("default"), 5_000])).unwrap();
            wait_expiry(&bridge, "exp", &key("default"), unix_now() + 5_000);
            // A set starts the table's own time again.
            here.set("exp", &key("default"), "w").unwrap();
            wait_expiry(&bridge, "exp", &key("default"), unix_now() + 3_600);
            here.rpc("htable.setxs", &json!(["exp", key("xs"), "v", 99])).unwrap();
            wait_expiry(&bridge, "exp", &key("xs"), unix_now() + 99);
            here.rpc("htable.setxi", &json!(["exp", key("xi"), 5, 9_999])).unwrap();
            wait_expiry(&bridge, "exp", &key("xi"), unix_now() + 9_999);
            bridge.wait_entry("exp", &key("xi"), Some(Value::Int(5)));
            // Dies by the table's time, and by its own.
            here.set("short", &key("auto"), "v").unwrap();
            bridge.wait_entry("short", &key("auto"), Some("v".into()));
            here.rpc("htable.setxs", &json!(["exp", key("brief"), "v", 3])).unwrap();
            bridge.wait_entry("exp", &key("brief"), Some("v".into()));
            // Zero seconds mean "never" to a 5.6 server, not "now".
            here.script("expire-exp", &[("X-K", &key("xs")), ("X-E", "0")]).unwrap();
            assert_eq!(here.entry("exp", &key("xs")).unwrap(), Some(("v".into(), None)));
            bridge.wait_entry("exp", &key("brief"), None);
            bridge.wait_entry("short", &key("auto"), None);
        });
        stays(secs(7), "the dead stay dead, and what never expires stays", || {
            for tag in ["there", "back"] {
                bridge.ensure_entry("short", &format!("auto-{tag}"), None)?;
                bridge.ensure_entry("exp", &format!("brief-{tag}"), None)?;
                bridge.ensure_entry("exp", &format!("xs-{tag}"), Some(&"v".into()))?;
            }
            Ok(())
        });
        bridge.wait_converged();
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_table_that_keeps_its_expiry_keeps_it_everywhere() {
    limited(secs(120), || {
        let bridge = Bridge::on_loopback(&Plan::default());
        both_ways(&bridge, |here, tag| {
            let key = format!("k-{tag}");
            here.set("fix", &key, "first").unwrap();
            let first = unix_now() + 120;
            bridge.wait_entry("fix", &key, Some("first".into()));
            std::thread::sleep(secs(5));
            here.set("fix", &key, "second").unwrap();
            bridge.wait_entry("fix", &key, Some("second".into()));
            wait_expiry(&bridge, "fix", &key, first);
        });
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn counters_go_on_from_the_same_value_at_either_server() {
    limited(secs(120), || {
        let bridge = Bridge::on_loopback(&Plan::default());
        both_ways(&bridge, |here, tag| {
            let key = format!("c-{tag}");
            let there = if tag == "there" { &bridge.k2 } else { &bridge.k1 };
            for _ in 0..10 {
                here.script("inc-cnt", &[("X-K", &key)]).unwrap();
            }
            bridge.wait_entry("cnt", &key, Some(Value::Int(10)));
            for _ in 0..3 {
                there.script("dec-cnt", &[("X-K", &key)]).unwrap();
            }
            bridge.wait_entry("cnt", &key, Some(Value::Int(7)));
            here.script("seti-cnt", &[("X-K", &key), ("X-V", "100")]).unwrap();
            bridge.wait_entry("cnt", &key, Some(Value::Int(100)));
            there.script("inc-cnt", &[("X-K", &key)]).unwrap();
            bridge.wait_entry("cnt", &key, Some(Value::Int(101)));
        });
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_counting_table_counts_what_both_servers_count_at_once() {
    limited(secs(120), || {
        let mut node = StarlingConfig::default();
        node.more += "\n[htable.cnt]\ncounter = true\n";
        let bridge = Bridge::on_loopback(&Plan { node, ..Plan::default() });
        let steps = [150, 90];
        std::thread::scope(|scope| {
            for (server, steps) in [&bridge.k1, &bridge.k2].into_iter().zip(steps) {
                scope.spawn(move || {
                    for _ in 0..steps {
                        server.script("inc-cnt", &[("X-K", "calls")]).unwrap();
                    }
                });
            }
        });
        bridge.wait_entry("cnt", "calls", Some(Value::Int(240)));
        for node in bridge.nodes() {
            assert!(node.cli(&["htable", "inc", "cnt", "calls", "20"]).status.success());
        }
        bridge.wait_entry("cnt", "calls", Some(Value::Int(300)));
        bridge.k2.script("inc-cnt", &[("X-K", "calls")]).unwrap();
        bridge.wait_entry("cnt", "calls", Some(Value::Int(301)));
        // A deletion starts again from nothing.
        bridge.k1.delete("cnt", "calls").unwrap();
        bridge.wait_entry("cnt", "calls", None);
        bridge.k2.script("inc-cnt", &[("X-K", "calls")]).unwrap();
        bridge.wait_entry("cnt", "calls", Some(Value::Int(1)));
        bridge.wait_converged();
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn the_command_line_tool_on_any_node_writes_to_both_servers() {
    limited(secs(180), || {
        let bridge = Bridge::on_loopback(&Plan::default());
        for node in bridge.nodes() {
            let run = |args: &[&str]| {
                let out = node.cli(args);
                assert!(out.status.success(), "{} {args:?}: {out:?}", node.name);
                String::from_utf8(out.stdout).unwrap()
            };
            let key = |name: &str| format!("{}-{name}", node.name);
            run(&["htable", "set", "plain", &key("s"), "a value"]);
            bridge.wait_entry("plain", &key("s"), Some("a value".into()));
            run(&["htable", "set", "plain", &key("digits"), "42"]);
            bridge.wait_entry("plain", &key("digits"), Some("42".into()));
            run(&["htable", "set", "plain", &key("i"), "42", "--int"]);
            bridge.wait_entry("plain", &key("i"), Some(Value::Int(42)));
            run(&["htable", "inc", "plain", &key("i"), "8"]);
            bridge.wait_entry("plain", &key("i"), Some(Value::Int(50)));
            run(&["htable", "set", "exp", &key("x"), "v", "--expires", "50s"]);
            wait_expiry(&bridge, "exp", &key("x"), unix_now() + 50);
            run(&["htable", "set", "exp", &key("auto"), "v"]);
            wait_expiry(&bridge, "exp", &key("auto"), unix_now() + 3_600);
            let shown: serde_json::Value =
                serde_json::from_str(&run(&["htable", "get", "exp", &key("x"), "--json"])).unwrap();
            assert_eq!((&shown["table"], &shown["value"]), (&json!("exp"), &json!("v")));
            run(&["htable", "del", "plain", &key("s")]);
            bridge.wait_entry("plain", &key("s"), None);
            run(&["htable", "del", "plain", "--prefix", &format!("{}-d", node.name)]);
            bridge.wait_entry("plain", &key("digits"), None);
            run(&["htable", "set", "plain", &key("r"), "red"]);
            bridge.wait_entry("plain", &key("r"), Some("red".into()));
            run(&["htable", "del", "plain", "--regex", "^r.d$", "--values"]);
            bridge.wait_entry("plain", &key("r"), None);
            bridge.wait_entry("plain", &key("i"), Some(Value::Int(50)));
            assert_eq!(node.cli(&["htable", "get", "plain", &key("r")]).status.code(), Some(1));
        }
        bridge.wait_converged();
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn odd_keys_and_values_arrive_unchanged() {
    limited(secs(180), || {
        let bridge = Bridge::on_loopback(&Plan::default());
        let long = "0123456789abcdef".repeat(500);
        let odd = [
            ("with space", "v"),
            ("sl/ash%2Fand?query#x", "a/b"),
            ("quote\"back\\slash", "\"\\ \" {\"json\": [1]}"),
            ("üñí-λ-✆", "grüße ☎ \u{1f4de}"),
            ("a::b=>c", "$var(x) $null"),
            ("empty", ""),
            ("tab\tkey", "tab\tvalue"),
            ("long", &long),
            ("digits", "007"),
        ];
        both_ways(&bridge, |here, tag| {
            for (key, value) in odd {
                let key = format!("{key}-{tag}");
                here.set("plain", &key, value).unwrap_or_else(|e| panic!("{key}: {e}"));
                bridge.wait_entry("plain", &key, Some(value.into()));
            }
        });
        for (key, value) in odd {
            let key = format!("{key}-n3");
            bridge.n3.set("plain", &key, value, None).unwrap_or_else(|e| panic!("{key}: {e}"));
            bridge.wait_entry("plain", &key, Some(value.into()));
        }
        bridge.wait_converged();
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_burst_of_writes_to_few_keys_from_everywhere_ends_with_one_answer() {
    limited(secs(180), || {
        let bridge = Bridge::on_loopback(&Plan::default());
        std::thread::scope(|scope| {
            for (name, server) in [("k1", &bridge.k1), ("k2", &bridge.k2)] {
                scope.spawn(move || {
                    for i in 0..200 {
                        server.set("plain", &format!("hot{}", i % 5), format!("{name}-{i}").as_str()).unwrap();
                        server.set("exp", &format!("own-{name}-{i}"), i).unwrap();
                    }
                });
            }
            scope.spawn(|| {
                for i in 0..100 {
                    bridge.n3.set("plain", &format!("hot{}", i % 5), i, None).unwrap();
                }
            });
        });
        eventually(PATIENCE, "equal", || bridge.ensure_converged());
        same("own entries", bridge.n3.entries("exp").unwrap().len(), 400).unwrap();
        // The last word, from one place, is everybody's.
        bridge.k2.set("plain", "hot0", "last").unwrap();
        bridge.wait_entry("plain", "hot0", Some("last".into()));
        bridge.wait_converged();
    });
}
