//! `starling sim`: the simulator on the command line.
//!
//! JSON holds no figure of a clock on the wall: two runs of a seed print the same bytes.

pub(crate) mod args;
mod broken;
mod compare;
mod show;
mod sweep;

use std::path::Path;

use serde_json::json;
use simulation::planted::{self, Bug};
use simulation::replay::Replay;
use simulation::scenario::{self, Scenario};
use simulation::{Options, Outcome, Script, report, trial};

use self::args::{Action, Run, Show, Sim, Which};
use crate::output::{self, Failure};

/// What ends a command whose run broke a promise, after it was told.
fn violated(property: &str) -> Failure {
    Failure::said(format!("a promise was broken: {property}"))
}

pub(crate) fn sim(sim: &Sim) -> output::Outcome {
    plant(sim.plant.as_deref())?;
    match &sim.action {
        Action::List { json } => list(*json),
        Action::Run(args) => run(args),
        Action::Sweep(args) => sweep::sweep(args),
        Action::Replay(args) => replay(args),
        Action::Shrink(args) => broken::shrink_file(args),
        Action::Compare(args) => compare::compare(args),
    }
}

/// Plants a known bug in every node of this process.
fn plant(name: Option<&str>) -> output::Outcome {
    let Some(name) = name else { return Ok(()) };
    let bug = Bug::by_name(name).ok_or_else(|| Failure::usage(format!("no bug is called {name}")))?;
    if planted::choose(Some(bug)) {
        Ok(())
    } else {
        Err(Failure::usage(format!("{name} cannot be planted: this program was built without the feature planted")))
    }
}

fn list(json: bool) -> output::Outcome {
    let mut rows = Vec::new();
    for name in scenario::embedded() {
        rows.push((name, load_plain(name)?.title));
    }
    if json {
        return output::print_json(
            &rows.iter().map(|(name, title)| json!({ "name": name, "title": title })).collect::<Vec<_>>(),
        );
    }
    output::print(&rows.iter().map(|(name, title)| format!("{name:<16} {title}\n")).collect::<String>())
}

/// The scenario that is asked for.
fn load(which: &Which) -> Result<Scenario, Failure> {
    Scenario::load(&which.scenario, &changes(which)).map_err(|e| Failure::usage(e.to_string()))
}

fn load_plain(name: &str) -> Result<Scenario, Failure> {
    Scenario::load(name, &[]).map_err(|e| Failure::usage(e.to_string()))
}

fn changes(which: &Which) -> Vec<String> {
    which.nodes.map(|n| format!("nodes.count={n}")).into_iter().chain(which.set.iter().cloned()).collect()
}

/// The line that does this run again.
fn again(which: &Which, scenario: &str, seed: u64) -> String {
    let mut line = format!("starling sim run {} --seed {seed}", quoted(scenario));
    if let Some(nodes) = which.nodes {
        line.push_str(&format!(" --nodes {nodes}"));
    }
    for change in &which.set {
        line.push_str(&format!(" --set {}", quoted(change)));
    }
    if let Some(bug) = planted::chosen() {
        line.push_str(&format!(" --plant {}", bug.name()));
    }
    line
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-=/,+:@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn run(args: &Run) -> output::Outcome {
    let script = load(&args.which)?.draw(args.seed);
    let line = again(&args.which, &args.which.scenario, args.seed);
    let outcome = show(&script, &args.show, &line)?;
    let Some(violation) = outcome.violation else { return Ok(()) };
    output::talk(&format!("do it again: {line}"));
    broken::shrink(script, violation.clone(), &args.smaller);
    Err(violated(&violation.property))
}

fn replay(args: &args::Replay) -> output::Outcome {
    let replay = Replay::load(&args.file).map_err(|e| Failure::usage(e.to_string()))?;
    plant(replay.planted.as_deref())?;
    let line = format!("starling sim replay {}", quoted(&args.file.to_string_lossy()));
    let outcome = show(&replay.script, &args.show, &line)?;
    outcome.violation.map_or(Ok(()), |v| Err(violated(&v.property)))
}

/// Runs a script and shows what came of it in the ways that were asked for.
fn show(script: &Script, how: &Show, again: &str) -> Result<Outcome, Failure> {
    how.report.as_deref().map_or(Ok(()), writable)?;
    if !how.json {
        output::print(&show::sizes(script))?;
    }
    let options = Options { log: how.log, timeline: false, check: true };
    let outcome = match &how.report {
        Some(file) => {
            let story = report::watch(script, how.key.as_deref(), options);
            write(file, &report::page(&story, again))?;
            story.outcome
        }
        None => trial::attempt(script, options),
    };
    if how.json {
        output::print_json(&show::json(script, &outcome))?;
        return Ok(outcome);
    }
    for line in &outcome.log {
        output::print(&show::log_line(line))?;
    }
    output::print(&show::outcome(&outcome))?;
    Ok(outcome)
}

/// A file that cannot be written is no broken promise.
fn write(file: &Path, text: &str) -> output::Outcome {
    std::fs::write(file, text).map_err(|e| Failure::usage(format!("{}: {e}", file.display())))
}

/// Whether a file can be written: told before a long run, not after it.
fn writable(file: &Path) -> output::Outcome {
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
    opened.map(drop).map_err(|e| Failure::usage(format!("{}: {e}", file.display())))
}
