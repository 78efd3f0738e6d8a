//! `starling sim` as people use it: what it prints, what it leaves, how it ends.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use starling_tests::process::fresh_dir;
use starling_tests::starling::binary;

/// A split that takes a moment.
const SMALL: [&str; 8] =
    ["--set", "phones.count=10", "--set", "secs=40", "--set", "partition.at=[10]", "--set", "partition.secs=15"];

/// Nobody looks whether all are equal so early: whatever goes on, it is too late.
const TOO_SHORT: [&str; 4] = ["--set", "secs=60", "--set", "settle_secs=0.05"];

/// `starling sim` in a directory of its own.
fn sim_in(dir: &PathBuf, args: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.current_dir(dir).arg("sim").args(args).stdin(Stdio::null());
    command.output().expect("the starling binary runs")
}

fn sim(args: &[&str]) -> Output {
    sim_in(&std::env::temp_dir(), args)
}

fn stdout(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn with<'a>(first: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [first, more].concat()
}

#[test]
fn the_list_has_names_and_titles_for_people_and_for_machines() {
    let text = stdout(&sim(&["list"]));
    let json: Value = serde_json::from_str(&stdout(&sim(&["list", "--json"]))).expect("JSON");
    let rows = json.as_array().expect("an array");
    for name in
        ["calm", "split-brain", "one-way", "flapping", "swizzle", "rolling-restart", "clock-havoc", "disk-havoc"]
    {
        assert!(text.contains(name) && rows.iter().any(|row| row["name"] == name), "{name}");
    }
    assert!(rows.len() >= 15 && rows.iter().all(|row| row["title"].as_str().is_some_and(|t| t.len() > 10)), "{json}");
}

#[test]
fn two_runs_of_a_seed_print_the_same_bytes_and_another_seed_does_not() {
    let one = |seed| sim(&with(&["run", "split-brain", "--json", "--seed", seed], &SMALL));
    let (first, again, other) = (one("7"), one("7"), one("8"));
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    assert_eq!(first.stdout, again.stdout);
    assert_ne!(first.stdout, other.stdout);
    let json: Value = serde_json::from_str(&stdout(&first)).expect("JSON");
    assert_eq!((&json["held"], &json["seed"], &json["violation"]), (&Value::Bool(true), &7.into(), &Value::Null));
    assert!(json["equal_after_ms"].is_u64() && json["steps"].as_u64() > Some(100), "{json}");
}

#[test]
fn wrong_usage_is_2_with_a_sentence_that_names_it() {
    for (args, named) in [
        (&["run", "no-such-scenario"][..], "no-such-scenario"),
        (&["run", "calm", "--set", "nodes.cuont=3"], "cuont"),
        (&["run", "calm", "--nodes", "0"], "nodes.count"),
        (&["run", "calm", "--seed", "x"], "--seed"),
        (&["sweep", "calm", "--set", "x"], "a.b=value"),
        (&["replay", "/no/such/file.toml"], "/no/such/file.toml"),
        (&["compare", "calm", "--set", "servers.count=1"], "fewer than two servers"),
        (&["sweep", "calm", "--seeds", "0"], "--seeds"),
        (&["run", "calm", "--report", "/no/such/directory/page.html"], "/no/such/directory/page.html"),
        (&["compare", "split-brain", "--report", "/no/such/directory/page.html"], "/no/such/directory/page.html"),
        (&["frobnicate"], "frobnicate"),
    ] {
        let out = sim(args);
        assert_eq!((out.status.code(), stdout(&out)), (Some(2), String::new()), "{args:?}: {out:?}");
        assert!(stderr(&out).contains(named), "{args:?}: {}", stderr(&out));
    }
}

#[test]
fn a_broken_promise_is_1_with_the_line_that_repeats_it_and_a_file_that_does_too() {
    let dir = fresh_dir("sim-broken");
    let out = sim_in(&dir, &with(&["run", "split-brain", "--seed", "3", "--shrink-secs", "20"], &TOO_SHORT));
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let said = stderr(&out);
    assert!(stdout(&out).contains("equal-in-time"), "{}", stdout(&out));
    assert!(said.contains("starling sim run split-brain --seed 3 --set secs=60"), "{said}");
    assert!(said.contains("starling sim replay split-brain-3.toml"), "{said}");

    let again = sim_in(&dir, &["replay", "split-brain-3.toml", "--log"]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert!(stdout(&again).contains("equal-in-time") && stdout(&again).lines().count() > 3, "{}", stdout(&again));

    let shrunk = sim_in(&dir, &["shrink", "split-brain-3.toml", "--secs", "5", "--out", "smaller.toml"]);
    assert_eq!(shrunk.status.code(), Some(1), "{shrunk:?}");
    assert_eq!(sim_in(&dir, &["replay", "smaller.toml"]).status.code(), Some(1));
}

#[test]
fn a_sweep_counts_runs_and_events_and_its_json_has_no_clock_on_the_wall() {
    let one = || sim(&with(&["sweep", "split-brain", "--seeds", "3", "--jobs", "2", "--json"], &SMALL));
    let (first, again) = (one(), one());
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    assert_eq!(first.stdout, again.stdout);
    let json: Value = serde_json::from_str(&stdout(&first)).expect("JSON");
    assert_eq!((&json["runs"], &json["violated"]), (&3.into(), &0.into()), "{json}");
    assert!(json["coverage"].is_object() && json["never"].is_array(), "{json}");
    let text = stdout(&sim(&with(&["sweep", "split-brain", "--seeds", "1"], &SMALL)));
    assert!(text.contains("1 runs") && text.contains("A sync session was cut half way."), "{text}");
}

#[test]
fn a_report_is_one_file_that_loads_nothing() {
    let dir = fresh_dir("sim-report");
    let run = with(&["run", "split-brain", "--report", "run.html"], &SMALL);
    assert_eq!(sim_in(&dir, &run).status.code(), Some(0));
    let compare = with(&["compare", "split-brain", "--report", "compare.html"], &SMALL);
    let out = sim_in(&dir, &compare);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert!(stdout(&out).contains("with Starling") && stdout(&out).contains("never"), "{}", stdout(&out));
    for name in ["run.html", "compare.html"] {
        let page = std::fs::read_to_string(dir.join(name)).expect("a page");
        assert!(page.starts_with("<!doctype html>") && page.contains("<svg"), "{name}");
        for word in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(word), "{name} has {word}");
        }
    }
}

#[test]
fn a_scenario_of_ones_own_is_a_file() {
    let dir = fresh_dir("sim-own");
    let text = "title = \"mine\"\nsecs = 20\n[nodes]\ncount = 3\n[phones]\ncount = 5\n[faults]\nlink = { at = [5], secs = 5 }\n";
    std::fs::write(dir.join("mine.toml"), text).expect("a file");
    let out = sim_in(&dir, &["run", "mine.toml"]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert!(stdout(&out).starts_with("mine, seed 1: 3 nodes, 0 servers, 5 phones"), "{}", stdout(&out));
}
