//! The command line as a stranger uses it: every subcommand against a real node, and what errors say.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use starling_tests::host::Host;
use starling_tests::process::{Process, fresh_dir};
use starling_tests::starling::{Starling, StarlingConfig, binary};
use starling_tests::wait::{PATIENCE, eventually, limited, secs};

/// A node with nothing attached.
fn node(name: &str) -> Starling {
    Starling::start(name, &Host::loopback(), &StarlingConfig { more: String::new(), ..StarlingConfig::default() })
}

fn stdout(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// Runs the tool where a node answers; it must succeed.
#[track_caller]
fn done(node: &Starling, args: &[&str]) -> String {
    let out = node.cli(args);
    assert!(out.status.success(), "{args:?}: {out:?}");
    stdout(&out)
}

/// Runs the tool; it must fail with 1, say why on standard error and print nothing.
#[track_caller]
fn failed(node: &Starling, args: &[&str]) -> String {
    let out = node.cli(args);
    assert_eq!(out.status.code(), Some(1), "{args:?}: {out:?}");
    assert_eq!(stdout(&out), "", "{args:?}");
    stderr(&out)
}

#[track_caller]
fn json_of(node: &Starling, args: &[&str]) -> Value {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    serde_json::from_str(&done(node, &args)).expect("JSON on standard output")
}

/// The tool without a node.
fn tool(args: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(args).env_remove("STARLING_ADMIN").stdin(Stdio::null());
    command.output().expect("the starling binary runs")
}

#[test]
fn every_query_answers_in_tables_and_in_the_json_of_the_interface() {
    limited(secs(60), || {
        let node = node("n1");
        let status = json_of(&node, &["status"]);
        for field in ["name", "id", "origin", "cluster", "advertise", "uptime", "cells", "contacts", "links", "servers"]
        {
            assert!(!status[field].is_null(), "{field} in {status}");
        }
        assert_eq!((&status["name"], &status["durable"]), (&json!("n1"), &Value::Null));
        assert!(done(&node, &["status"]).contains("memory only"));
        let members = json_of(&node, &["members"]);
        assert_eq!(members[0]["name"], "n1");
        assert_eq!(members[0]["state"], "alive");
        assert!(done(&node, &["members"]).starts_with("NAME"));
        assert_eq!(json_of(&node, &["peers"]), json!([]));
        assert!(done(&node, &["peers"]).starts_with("SERVER"));
        let digest = json_of(&node, &["digest"]);
        assert_eq!(digest["digest"].as_str().map(str::len), Some(32), "{digest}");
        assert!(digest["clock"].is_object() && digest["tables"].is_object() && digest["cells"].is_u64(), "{digest}");
        assert!(done(&node, &["digest"]).contains("all"));
        let version = tool(&["version"]);
        assert!(version.status.success() && stdout(&version).starts_with("starling "), "{version:?}");
    });
}

#[test]
fn a_contact_is_added_shown_listed_and_removed() {
    limited(secs(60), || {
        let node = node("n1");
        let (aor, uri) = ("alice/ä@example.org", "sip:alice@192.0.2.7:5062;ob");
        done(
            &node,
            &["location", "add", aor, uri, "--expires", "10m", "--q", "0.5", "--user-agent", "ua 1", "--reg-id", "3"],
        );
        done(&node, &["location", "add", aor, "sip:alice@192.0.2.8", "--expires", "0"]);
        let row = json_of(&node, &["location", "show", aor]);
        assert_eq!(row["aor"], aor);
        let contacts = row["contacts"].as_array().expect("contacts");
        let one = contacts.iter().find(|c| c["contact"] == uri).expect("the contact");
        assert_eq!((&one["q"], &one["user_agent"], &one["reg_id"]), (&json!(0.5), &json!("ua 1"), &json!(3)));
        assert!(contacts.iter().any(|c| c["expires"] == 0), "a permanent contact: {row}");
        let shown = done(&node, &["location", "show", aor]);
        assert!(shown.contains(uri) && shown.contains("ua 1") && shown.contains("expires     in "), "{shown}");
        assert!(done(&node, &["location", "list"]).contains(uri));
        assert_eq!(json_of(&node, &["location", "list"]).as_array().map(Vec::len), Some(1));
        assert!(failed(&node, &["location", "rm", aor, "sip:nobody@192.0.2.1"]).contains("sip:nobody"));
        done(&node, &["location", "rm", aor, uri]);
        assert_eq!(json_of(&node, &["location", "show", aor])["contacts"].as_array().map(Vec::len), Some(1));
        done(&node, &["location", "rm", aor]);
        assert!(failed(&node, &["location", "show", aor]).contains("no contact"));
        assert!(failed(&node, &["location", "rm", aor]).contains("no contact"));
        assert!(failed(&node, &["location", "add", aor, uri, "--q", "2"]).contains("from 0 to 1"));
    });
}

#[test]
fn an_entry_is_set_counted_dumped_and_deleted() {
    limited(secs(60), || {
        let node = node("n1");
        done(&node, &["htable", "set", "t", "a/b c", "-v 1"]);
        assert_eq!(done(&node, &["htable", "get", "t", "a/b c"]), "-v 1\n");
        done(&node, &["htable", "set", "t", "n", "-5", "--int", "--expires", "30s"]);
        let entry = json_of(&node, &["htable", "get", "t", "n"]);
        assert_eq!((&entry["table"], &entry["key"], &entry["value"]), (&json!("t"), &json!("n"), &json!(-5)));
        assert!(entry["expires"].is_u64(), "{entry}");
        assert!(done(&node, &["htable", "dump", "t"]).contains("n      int   in "), "an expiry is shown");
        assert_eq!(done(&node, &["htable", "inc", "t", "n"]), "-4\n");
        assert_eq!(done(&node, &["htable", "inc", "t", "n", "-6"]), "-10\n");
        assert_eq!(json_of(&node, &["htable", "inc", "t", "new", "7"]), json!({ "value": 7 }));
        assert!(failed(&node, &["htable", "inc", "t", "a/b c"]).len() > "starling: ".len());
        let dump = done(&node, &["htable", "dump", "t"]);
        assert!(dump.contains("a/b c") && dump.contains("-10"), "{dump}");
        assert_eq!(json_of(&node, &["htable", "dump", "t"]).as_array().map(Vec::len), Some(3));
        assert!(done(&node, &["htable", "list"]).contains('t'));
        assert_eq!(json_of(&node, &["htable", "list"])[0]["entries"], 3);
        done(&node, &["htable", "del", "t", "n"]);
        assert!(failed(&node, &["htable", "del", "t", "n"]).contains("no n in table t"));
        assert!(failed(&node, &["htable", "get", "t", "n"]).contains("no n in table t"));
        assert!(failed(&node, &["htable", "dump", "no such"]).contains("no such"));
        assert!(failed(&node, &["htable", "set", "t", "n", "x", "--int"]).contains("not an integer"));
    });
}

#[test]
fn entries_are_deleted_by_prefix_by_regular_expression_and_by_value() {
    limited(secs(60), || {
        let node = node("n1");
        for (key, value) in [("a1", "x"), ("a2", "y"), ("b1", "x"), ("b2", "yes"), ("c", "z")] {
            done(&node, &["htable", "set", "t", key, value]);
        }
        assert_eq!(done(&node, &["htable", "del", "t", "--prefix", "a"]), "2 deleted\n");
        assert_eq!(done(&node, &["htable", "del", "t", "--regex", "^y.*s$", "--values"]), "1 deleted\n");
        assert_eq!(json_of(&node, &["htable", "del", "t", "--regex", "[0-9]"]), json!({ "deleted": 1 }));
        assert!(failed(&node, &["htable", "del", "t", "--regex", "("]).len() > "starling: ".len());
        assert_eq!(done(&node, &["htable", "get", "t", "c"]), "z\n");
    });
}

#[test]
fn lists_longer_than_a_page_are_whole() {
    limited(secs(60), || {
        let node = node("n1");
        for n in 0..7 {
            node.set("t", &format!("k{n}"), n, None).expect("set");
        }
        let first = node.ask("GET", "/v1/htable/t?limit=3", None).expect("an answer");
        let keys = |page: &Value| page.as_array().into_iter().flatten().map(|e| e["key"].clone()).collect::<Vec<_>>();
        assert_eq!(keys(&first.json), ["k0", "k1", "k2"]);
        let next = node.get("/v1/htable/t?limit=10&after=k2").expect("the rest");
        assert_eq!(keys(&next), ["k3", "k4", "k5", "k6"]);
        assert_eq!(node.ask("GET", "/v1/htable/t?limit=x", None).expect("an answer").status, 400);
    });
}

#[test]
fn watching_tells_each_change_until_nobody_reads() {
    limited(secs(60), || {
        let node = node("n1");
        let dir = fresh_dir("watch");
        let mut command = Command::new(binary());
        command.args(["watch", "--table", "htable:t", "--json", "--admin", &node.admin_url()]);
        let watcher = Process::spawn(command, "watch", &dir).expect("started");
        eventually(PATIENCE, "the watcher watches", || {
            ensure!(watcher.log().contains("watching"), "not yet");
            Ok(())
        });
        done(&node, &["htable", "set", "other", "k", "v"]);
        done(&node, &["htable", "set", "t", "k", "v"]);
        done(&node, &["htable", "del", "t", "k"]);
        eventually(PATIENCE, "both changes are told", || {
            let log = watcher.log();
            let changes = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect::<Vec<_>>();
            let what: Vec<_> = changes.iter().map(|c| (c["key"].as_str(), c["what"].as_str())).collect();
            ensure!(what == [(Some("k"), Some("set")), (Some("k"), Some("removed"))], "{log}");
            Ok(())
        });
    });
}

#[test]
fn wrong_usage_is_2_and_an_unreachable_node_is_1_with_a_way_on() {
    for args in [&["nope"][..], &["htable", "del", "t"], &["location", "show"], &["status", "--nope"], &[]] {
        assert_eq!(tool(args).status.code(), Some(2), "{args:?}");
    }
    let out = tool(&["status", "--admin", "http://127.0.0.1:9"]);
    assert_eq!(out.status.code(), Some(1));
    let said = stderr(&out);
    assert!(said.contains("127.0.0.1:9") && said.contains("starling run") && said.contains("STARLING_ADMIN"), "{said}");
    let out = tool(&["status", "--admin", "https://127.0.0.1:9"]);
    assert!(stderr(&out).contains("http://"), "{out:?}");
}

#[test]
fn the_address_of_the_node_comes_from_the_environment_too() {
    limited(secs(60), || {
        let node = node("n1");
        let mut command = Command::new(binary());
        let out = command.args(["status", "--json"]).env("STARLING_ADMIN", node.host.admin().to_string()).output();
        let out = out.expect("the starling binary runs");
        assert!(out.status.success() && stdout(&out).contains("\"n1\""), "{out:?}");
    });
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    limited(secs(60), || {
        let node = node("n1");
        // More than a pipe holds.
        let value = "v".repeat(16_000);
        for n in 0..10 {
            node.set("t", &format!("k{n}"), value.as_str(), None).expect("set");
        }
        let mut command = Command::new(binary());
        command
            .args(["htable", "dump", "t", "--admin", &node.admin_url()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("started");
        drop(child.stdout.take());
        let out = child.wait_with_output().expect("ended");
        assert_eq!((out.status.code(), stderr(&out)), (Some(0), String::new()));
    });
}

#[test]
fn an_answer_that_fails_is_json_with_the_reason() {
    limited(secs(60), || {
        let node = node("n1");
        let error = |method: &str, path: &str, body: Option<&Value>, status: u16| {
            let answer = node.ask(method, path, body).expect("an answer");
            assert_eq!(answer.status, status, "{method} {path}: {}", answer.text);
            answer.json["error"].as_str().unwrap_or_else(|| panic!("{method} {path}: {}", answer.text)).to_owned()
        };
        error("GET", "/v1/nothing", None, 404);
        error("POST", "/v1/status", None, 405);
        error("POST", "/v1/htable/t/k", None, 405);
        error("GET", "/v1/location/nobody", None, 404);
        error("GET", "/v1/htable/t/k", None, 404);
        let fraction = json!({ "value": 1.5 });
        assert!(error("PUT", "/v1/htable/t/k", Some(&fraction), 400).contains("integer"));
        assert!(error("PUT", "/v1/htable/t/k", Some(&json!({ "valu": 1 })), 400).contains("valu"));
        error("PUT", "/v1/location/alice", Some(&json!({ "contact": "" })), 400);
        error("POST", "/v1/htable/t/delete-matching", Some(&json!({})), 400);
        // A key of that name is a key like any other.
        node.set("t", "delete-matching", 1, None).expect("set");
        assert_eq!(node.get("/v1/htable/t/delete-matching").expect("there")["value"], 1);
    });
}

#[test]
fn keys_are_bytes_and_survive_the_interface() {
    limited(secs(60), || {
        let node = node("n1");
        let put = node.ask("PUT", "/v1/htable/t/%FF%01%2F", Some(&json!({ "value": "v" }))).expect("an answer");
        assert_eq!(put.status, 200, "{}", put.text);
        assert_eq!(node.get("/v1/htable/t/%FF%01%2F").expect("there")["value"], "v");
        assert_eq!(node.ask("GET", "/v1/htable/t/%FE%01%2F", None).expect("an answer").status, 404);
    });
}

#[test]
fn kamailios_rpc_names_and_shapes_work() {
    limited(secs(60), || {
        let node = node("n1");
        let call = |method: &str, params: Value| {
            let body = json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": 7 });
            let answer = node.ask("POST", "/rpc", Some(&body)).expect("an answer");
            assert_eq!((&answer.json["jsonrpc"], &answer.json["id"]), (&json!("2.0"), &json!(7)), "{}", answer.text);
            assert_eq!(answer.json["error"].is_null(), answer.status == 200, "{}", answer.text);
            answer.json
        };
        let added = call("ul.add", json!(["location", "carol", "sip:carol@192.0.2.3", 3600, 0.5, "0", 0, 0, 0]));
        assert_eq!(added["result"], json!({}));
        let found = call("ul.lookup", json!(["location", "carol"]));
        let contact = &found["result"]["Contacts"][0]["Contact"];
        assert_eq!((&contact["Address"], &contact["Q"]), (&json!("sip:carol@192.0.2.3"), &json!(0.5)));
        let dump = call("ul.dump", json!([]));
        assert_eq!(dump["result"]["Domains"][0]["Domain"]["AoRs"][0]["Info"]["AoR"], "carol");
        let brief = call("ul.dump", json!(["brief"]));
        assert_eq!(brief["result"]["Domains"][0]["Domain"]["AoRs"], json!([{ "AoR": "carol" }]));
        assert_eq!(call("ul.rm_contact", json!(["location", "carol", "sip:x@y"]))["error"]["code"], 404);
        assert_eq!(call("ul.rm", json!(["location", "carol"]))["result"], json!({}));
        assert_eq!(call("ul.lookup", json!(["location", "carol"]))["error"]["code"], 500);
        call("htable.sets", json!(["t", "k", "v"]));
        call("htable.seti", json!(["t", "n", 5]));
        let item = call("htable.get", json!(["t", "k"]));
        assert_eq!(item["result"]["item"], json!({ "name": "k", "value": "v", "flags": 2, "expire": "NEVER" }));
        let buckets = call("htable.dump", json!(["t"]));
        assert_eq!(buckets["result"][1]["slot"], json!([{ "name": "n", "value": 5, "type": "int" }]));
        assert_eq!(call("htable.listTables", json!([]))["result"][0]["name"], "t");
        assert_eq!(call("htable.delete", json!(["t", "k"]))["result"], "Ok. Key deleted.");
        assert_eq!(call("htable.delete", json!(["t", "k"]))["error"]["code"], 404);
        assert_eq!(call("dmq.list_nodes", json!([]))["result"][0]["local"], 1);
        assert!(call("core.version", json!([]))["result"].as_str().is_some_and(|v| v.starts_with("starling")));
        assert!(call("core.uptime", json!([]))["result"]["uptime"].is_u64());
        assert_eq!(call("no.such", json!([]))["error"]["message"], "Method Not Found");
    });
}

#[test]
fn metrics_are_prometheus_text_with_one_type_per_name() {
    limited(secs(60), || {
        let node = node("n1");
        assert!(node.metrics().expect("parsed").contains_key("starling_build_info"));
        let text = node.ask("GET", "/metrics", None).expect("an answer").text;
        let mut types: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")).collect();
        let all = types.len();
        types.dedup();
        assert_eq!(types.len(), all, "{text}");
        assert_eq!(node.ask("GET", "/healthz", None).expect("an answer").status, 200);
    });
}

/// A node started by hand with these arguments, and its log when it has said all that it says at its start.
fn started(args: &[&str]) -> (Process, String) {
    let mut command = Command::new(binary());
    command.arg("run").args(args);
    let process = Process::spawn(command, "node", &fresh_dir("run")).expect("started");
    let log = eventually(PATIENCE, "the node says what to do next", || {
        let log = process.log();
        ensure!(log.contains("Ctrl-C stops it"), "{log}");
        Ok(log)
    });
    (process, log)
}

/// A `run` that must refuse to start with exit code 1: what it says.
fn refused(args: &[&str]) -> String {
    let out = tool(&[&["run"], args].concat());
    assert_eq!(out.status.code(), Some(1), "{args:?}: {out:?}");
    stderr(&out)
}

/// Free ports on an address of our own, as flags.
fn own_addresses() -> (SocketAddr, Vec<String>) {
    let host = Host::loopback();
    let flags = [("--listen", host.quic().to_string()), ("--admin", host.admin().to_string())];
    let mut flags: Vec<String> = flags.into_iter().flat_map(|(flag, addr)| [flag.to_owned(), addr]).collect();
    flags.extend(["--sip".to_owned(), format!("udp:{}", host.sip())]);
    (host.admin(), flags)
}

#[test]
fn what_a_node_prints_at_its_start_is_enough_to_go_on() {
    limited(secs(60), || {
        let (_, flags) = own_addresses();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let (_first, log) = started(&flags);
        assert!(log.contains("memory only"), "{log}");
        let sip = flags[5].strip_prefix("udp:").expect("a UDP socket");
        assert!(log.contains(&format!("modparam(\"dmq\", \"notification_address\", \"sip:{sip}\")")), "{log}");
        // The line for a second node is one that can be pasted: it starts one that finds the first.
        let line = log.lines().find(|line| line.contains(" --join ")).expect("a line for a second node").trim();
        let mut words = line.split_whitespace();
        assert_eq!(words.next(), Some(binary().to_str().expect("text")));
        let args: Vec<&str> = words.skip(1).collect();
        let (_second, log) = started(&args);
        let ask = log.lines().find(|line| line.contains(" status --admin ")).expect("a line to ask it").trim();
        let ask: Vec<&str> = ask.split_whitespace().skip(1).collect();
        eventually(PATIENCE, "they meet", || {
            let out = tool(&[&ask[..], &["--json"]].concat());
            let status: Value = serde_json::from_slice(&out.stdout).with_context(|| format!("{out:?}"))?;
            ensure!(status["links"] == 1, "{status}");
            Ok(())
        });
    });
}

/// A socket that was just closed may be held for a moment by a process that another test starts, until that runs its program.
fn bound<T>(mut bind: impl FnMut() -> std::io::Result<T>) -> T {
    eventually(PATIENCE, "the address is free", || Ok(bind()?))
}

#[test]
fn a_port_in_use_is_named_with_the_flag_that_chooses_another() {
    limited(secs(60), || {
        let (admin, flags) = own_addresses();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        {
            let _taken = bound(|| UdpSocket::bind(flags[1]));
            let said = refused(&flags);
            assert!(said.contains(flags[1]) && said.contains("--listen") && said.contains("in use"), "{said}");
        }
        {
            let _taken = bound(|| TcpListener::bind(admin));
            let said = refused(&flags);
            assert!(said.contains(flags[3]) && said.contains("--admin") && said.contains("in use"), "{said}");
        }
        let _taken = bound(|| UdpSocket::bind(flags[5].trim_start_matches("udp:")));
        let said = refused(&flags);
        assert!(said.contains(flags[5]) && said.contains("--sip") && said.contains("in use"), "{said}");
    });
}

#[test]
fn a_configuration_that_cannot_work_is_refused_with_the_key_and_a_way_on() {
    let file = fresh_dir("config").join("starling.toml");
    let config = file.to_str().expect("text");
    std::fs::write(&file, "[link]\nlissen = \"127.0.0.1:7946\"\n").expect("written");
    let said = refused(&["--config", config]);
    assert!(said.contains("lissen") && said.contains(config) && said.contains("line 2"), "{said}");
    assert!(refused(&["--config", "/nowhere/starling.toml"]).contains("/nowhere/starling.toml"));
    assert!(refused(&["--listen", "0.0.0.0:0"]).contains("starling cert ca"));
    assert!(refused(&["--join", "no-such-host.invalid:7946"]).contains("no-such-host.invalid"));
    assert!(refused(&["--join", "192.0.2.1:7946"]).contains("another host"));
    assert!(refused(&["--ack", "disk"]).contains("--data"));
    assert!(refused(&["--tls-ca", "ca.pem"]).contains("cert and key"));
    assert!(refused(&["--data", "/proc/nothing"]).contains("/proc/nothing"));
    assert_eq!(tool(&["run", "--sip", "127.0.0.1:5070"]).status.code(), Some(2));
}

#[test]
fn the_printed_configuration_is_one_that_works() {
    limited(secs(60), || {
        let (_, flags) = own_addresses();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let printed = tool(&[&["run", "--print-config", "--name", "printed"], &flags[..]].concat());
        assert!(printed.status.success(), "{printed:?}");
        let file: PathBuf = fresh_dir("printed").join("starling.toml");
        std::fs::write(&file, &printed.stdout).expect("written");
        let config = file.to_str().expect("text");
        let again = tool(&["run", "--print-config", "--config", config]);
        assert_eq!(stdout(&again), stdout(&printed));
        let (_node, log) = started(&["--config", config]);
        assert!(log.contains("node printed") && log.contains(flags[1]), "{log}");
    });
}

#[test]
fn certificates_are_not_overwritten_and_the_printed_lines_are_a_configuration() {
    let (ca, out) = (fresh_dir("ca"), fresh_dir("out"));
    let (ca, out) = (ca.to_str().expect("text"), out.to_str().expect("text"));
    assert!(tool(&["cert", "ca", "--out", ca]).status.success());
    let again = tool(&["cert", "ca", "--out", ca]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("--force"), "{again:?}");
    let made = tool(&["cert", "node", "--ca", ca, "--name", "n1", "--out", out, "--host", "192.0.2.1"]);
    assert!(made.status.success(), "{made:?}");
    let lines = stdout(&made);
    assert!(lines.starts_with("[tls]\nca = ") && lines.contains("n1.pem") && lines.contains("n1.key"), "{lines}");
    let wrong = tool(&["cert", "node", "--ca", "/nowhere", "--name", "n1", "--out", out, "--force"]);
    assert!(stderr(&wrong).contains("/nowhere"), "{wrong:?}");
}
