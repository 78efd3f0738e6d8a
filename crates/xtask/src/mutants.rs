//! Checks the checkers: plants every known bug, one at a time, and sees whether the simulator finds it.
//!
//! The binary is built once, with the feature `planted` and in a directory of its own, so that it is never taken for a
//! release. First it sweeps with nothing planted: where that finds something, finding it again would say nothing. Then it
//! sweeps with each bug. What no sweep finds is given to the tests of the replica and of the node, random runs among them:
//! for bugs in corners that a whole platform does not lead to, or seldom. A bug that neither finds fails the run.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};
use crdt::planted::Bug;
use serde_json::Value as Json;

use crate::run::{cargo, executable};

/// What `cargo xtask mutants` was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Seeds per bug and scenario.
    seeds: u32,
    /// Random runs of the replica's tests per bug and profile.
    runs: u32,
    scenario: String,
    /// The longest that one sweep may take, minutes.
    minutes: u32,
    /// These bugs only; none: all.
    bugs: Vec<Bug>,
}

impl Plan {
    /// Reads the arguments after `mutants`.
    pub(crate) fn read(args: &[String]) -> Option<Self> {
        let mut plan = Self { seeds: 5, runs: 1_000, scenario: "all".to_owned(), minutes: 5, bugs: Vec::new() };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--seeds" => plan.seeds = args.next()?.parse().ok().filter(|n| *n > 0)?,
                "--runs" => plan.runs = args.next()?.parse().ok()?,
                "--minutes" => plan.minutes = args.next()?.parse().ok().filter(|n| *n > 0)?,
                "--scenario" => plan.scenario = args.next()?.clone(),
                name => plan.bugs.push(Bug::by_name(name)?),
            }
        }
        if plan.bugs.is_empty() {
            plan.bugs = Bug::ALL.to_vec();
        }
        Some(plan)
    }
}

/// The exit code of a Rust program that panicked.
const PANICKED: i32 = 101;

/// What found a bug.
#[derive(Debug, PartialEq, Eq)]
struct Catch {
    /// Properties, or a test.
    by: String,
    /// In which scenario; empty outside of the simulator.
    scenario: String,
    /// Runs made until then; 0 where nothing counts them.
    seeds: u64,
}

/// Runs everything; whether every bug was found.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<bool> {
    let binary = build()?;
    eprintln!("xtask: sweeping with nothing planted");
    if let Some(found) = sweep(&binary, None, plan)? {
        bail!("{} is violated in {} with nothing planted: that comes first", found.by, found.scenario);
    }
    let mut missed = Vec::new();
    println!("{}", row(["bug", "rule", "found by", "in", "seeds"]));
    for &bug in &plan.bugs {
        let found = match sweep(&binary, Some(bug), plan)? {
            None if plan.runs > 0 => own_tests(bug, plan.runs)?,
            found => found,
        };
        match &found {
            Some(Catch { by, scenario, seeds }) => {
                let seeds = if *seeds > 0 { seeds.to_string() } else { "-".to_owned() };
                println!("{}", row([bug.name(), bug.rule(), by, scenario, &seeds]));
            }
            None => {
                println!("{}", row([bug.name(), bug.rule(), "NOTHING", "", &format!("> {}", plan.seeds)]));
                missed.push(bug);
            }
        }
        std::io::stdout().flush()?;
    }
    println!("\nxtask: {} bugs planted, {} found", plan.bugs.len(), plan.bugs.len() - missed.len());
    for bug in &missed {
        println!("  not found: {} ({}): {}", bug.name(), bug.rule(), bug.what());
    }
    Ok(missed.is_empty())
}

fn row([bug, rule, by, scenario, seeds]: [&str; 5]) -> String {
    format!("{bug:<28} {rule:<8} {by:<32} {scenario:<18} {seeds:>6}")
}

/// Where builds with the feature go: beside the others, never in their place.
fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/planted")
}

fn build() -> anyhow::Result<PathBuf> {
    eprintln!("xtask: building the simulator with the feature planted");
    let out = cargo()
        .args(["build", "--locked", "--release", "--package", "starling-cli", "--features", "planted"])
        .arg("--message-format=json-render-diagnostics")
        .arg("--target-dir")
        .arg(target())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !out.status.success() {
        bail!("the simulator does not build");
    }
    let text = String::from_utf8_lossy(&out.stdout);
    let path = text.lines().rev().find_map(executable).context("cargo names no executable")?;
    Ok(PathBuf::from(path))
}

/// One sweep; what it found.
fn sweep(binary: &Path, bug: Option<Bug>, plan: &Plan) -> anyhow::Result<Option<Catch>> {
    let mut command = Command::new(binary);
    command.args(["sim", "sweep", &plan.scenario, "--seeds", &plan.seeds.to_string()]);
    command.args(["--minutes", &plan.minutes.to_string(), "--json", "--no-shrink"]);
    command.arg("--out").arg(target().join("broken.toml"));
    if let Some(bug) = bug {
        command.args(["--plant", bug.name()]);
    }
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    let whole = || format!("{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    match out.status.code() {
        Some(0) => Ok(None),
        Some(1) => catch(&out.stdout).with_context(whole).map(Some),
        Some(PANICKED) if bug.is_some() => {
            Ok(Some(Catch { by: "a panic".to_owned(), scenario: String::new(), seeds: 0 }))
        }
        _ => bail!(whole()),
    }
}

/// Reads what a sweep found: all properties that it saw violated, the scenario and seeds of the first.
fn catch(json: &[u8]) -> anyhow::Result<Catch> {
    let json: Json = serde_json::from_slice(json).context("a sweep prints JSON")?;
    let violations = json["violations"].as_array().filter(|all| !all.is_empty()).context("a sweep names violations")?;
    let properties: BTreeSet<&str> = violations.iter().filter_map(|v| v["property"].as_str()).collect();
    Ok(Catch {
        by: properties.into_iter().collect::<Vec<_>>().join(", "),
        scenario: violations[0]["scenario"].as_str().unwrap_or_default().to_owned(),
        seeds: json["runs"].as_u64().context("a sweep counts its runs")?,
    })
}

/// The tests of the replica and of the node, random runs among them.
fn own_tests(bug: Bug, runs: u32) -> anyhow::Result<Option<Catch>> {
    let mut command = cargo();
    command
        .args(["test", "--locked", "--no-fail-fast", "--tests", "--features", "starling-node/planted"])
        .args(["--package", "starling-crdt", "--package", "starling-node"])
        .arg("--target-dir")
        .arg(target())
        .env("STARLING_PLANT", bug.name())
        .env("STARLING_MODEL_RUNS", runs.to_string())
        // What fails with a bug planted is no regression to be kept.
        .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
    let Output { status, stdout, .. } = command.stderr(Stdio::null()).output().context("cannot run cargo")?;
    let text = String::from_utf8_lossy(&stdout);
    if !text.lines().any(|line| line.starts_with("test result: ")) {
        bail!("the tests do not run");
    }
    if status.success() {
        return Ok(None);
    }
    let test = text.lines().find_map(failed_test).unwrap_or("?");
    Ok(Some(Catch { by: format!("test: {test}"), scenario: String::new(), seeds: 0 }))
}

/// The last part of a test's name, if the line says that it failed.
fn failed_test(line: &str) -> Option<&str> {
    let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
    name.rsplit("::").next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Option<Plan> {
        Plan::read(&args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_command_line_names_bugs_or_means_all() {
        assert_eq!(read(&[]).map(|plan| plan.bugs), Some(Bug::ALL.to_vec()));
        let plan = read(&["no-floor", "--seeds", "7", "--runs", "0", "--scenario", "everything"]);
        let wanted =
            Plan { seeds: 7, runs: 0, scenario: "everything".to_owned(), minutes: 5, bugs: vec![Bug::NoFloor] };
        assert_eq!(plan, Some(wanted));
        for wrong in [&["no-such-bug"][..], &["--seeds"], &["--seeds", "0"], &["--seeds", "x"]] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_sweep_that_ends_well_found_nothing_and_one_that_fails_has_to_say_what() {
        let plan = read(&["no-floor"]).unwrap();
        assert_eq!(sweep(Path::new("true"), Some(Bug::NoFloor), &plan).unwrap(), None);
        assert!(sweep(Path::new("false"), Some(Bug::NoFloor), &plan).is_err());
    }

    #[test]
    fn what_a_sweep_found_is_read_from_its_json() {
        let json = br#"{"violations": [{"seed": 4, "scenario": "flapping", "property": "nothing-lost"},
            {"seed": 5, "scenario": "calm", "property": "costs"}], "runs": 12}"#;
        let wanted = Catch { by: "costs, nothing-lost".to_owned(), scenario: "flapping".to_owned(), seeds: 12 };
        assert_eq!(catch(json).unwrap(), wanted);
        for wrong in [&b"x"[..], b"{}", br#"{"violations": [], "runs": 1}"#] {
            assert!(catch(wrong).is_err());
        }
    }

    #[test]
    fn a_failed_test_gives_its_name() {
        assert_eq!(failed_test("test model::nodes_converge ... FAILED"), Some("nodes_converge"));
        assert_eq!(failed_test("test model::nodes_converge ... ok"), None);
    }
}
