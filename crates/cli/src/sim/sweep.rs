//! `starling sim sweep`: many seeds, with a line on a terminal that says how far it is.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::json;
use simulation::coverage;
use simulation::planted;
use simulation::scenario;
use simulation::sweep::{Plan, Summary};

use super::args::{Sweep, Which};
use super::{again, broken, load, show, violated};
use crate::output::{self, Failure, talk};

/// How often the line is renewed.
const SHOWN_EVERY: Duration = Duration::from_millis(200);

pub(super) fn sweep(args: &Sweep) -> output::Outcome {
    let plan = plan(args)?;
    let began = Instant::now();
    let limit = args.minutes.map(|m| Duration::try_from_secs_f64(m * 60.0).unwrap_or(Duration::MAX));
    let bar = Bar::new(plan.scenarios.len() as u64 * plan.seeds, began);
    let watch = |summary: &Summary| {
        bar.show(summary);
        // Of a planted bug it is enough to know that it is found, and how soon.
        let found = planted::chosen().is_some() && summary.violated > 0;
        !found && limit.is_none_or(|limit| began.elapsed() < limit)
    };
    let summary = simulation::sweep::sweep(&plan, &watch);
    bar.end();
    tell(args, &plan, &summary, began.elapsed())?;
    let Some(first) = summary.violations.first() else { return Ok(()) };
    if let Some(scenario) = plan.scenarios.iter().find(|s| s.name == first.scenario) {
        let violation =
            simulation::Violation { property: first.property.clone(), at_us: first.at_us, what: first.what.clone() };
        broken::shrink(scenario.draw(first.seed), violation, &args.smaller);
    }
    Err(violated(&first.property))
}

fn plan(args: &Sweep) -> Result<Plan, Failure> {
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let names: Vec<String> = match args.which.scenario.as_str() {
        "all" => scenario::embedded().map(str::to_owned).collect(),
        one => vec![one.to_owned()],
    };
    let one = |name: String| load(&Which { scenario: name, ..args.which.clone() });
    let scenarios = names.into_iter().map(one).collect::<Result<_, _>>()?;
    Ok(Plan { scenarios, first: args.first, seeds: args.seeds, jobs })
}

/// The name by which a scenario is asked for again: a file's is its path.
fn asked<'a>(args: &'a Sweep, name: &'a str) -> &'a str {
    if args.which.scenario == "all" { name } else { &args.which.scenario }
}

/// The "sometimes" events that no run had.
fn never(summary: &Summary) -> Vec<&'static str> {
    let seen = |name: &str| summary.coverage.get(name).is_some_and(|runs| *runs > 0);
    coverage::ALL.iter().map(|(name, _)| *name).filter(|name| !seen(name)).collect()
}

fn tell(args: &Sweep, plan: &Plan, summary: &Summary, took: Duration) -> output::Outcome {
    let missing = never(summary);
    let lines: Vec<String> =
        summary.violations.iter().map(|v| again(&args.which, asked(args, &v.scenario), v.seed)).collect();
    if args.json {
        let names: Vec<_> = plan.scenarios.iter().map(|s| &s.name).collect();
        let more = json!({ "scenarios": names, "first": plan.first, "seeds": plan.seeds, "never": missing });
        let mut all = serde_json::to_value(summary).map_err(|e| Failure::said(e.to_string()))?;
        if let (Some(all), Some(more)) = (all.as_object_mut(), more.as_object()) {
            all.extend(more.clone());
        }
        lines.iter().take(1).for_each(|line| talk(&format!("do it again: {line}")));
        return output::print_json(&all);
    }
    let mut out = String::new();
    for (violation, line) in summary.violations.iter().zip(&lines) {
        let (at, what) = (show::seconds(violation.at_us), output::plain(&violation.what));
        out.push_str(&format!("BROKEN at {at}: {}\n  {what}\n  do it again: {line}\n", violation.property));
    }
    for (property, runs) in &summary.properties {
        out.push_str(&format!("{runs:>8} runs broke {property}\n"));
    }
    for (name, title) in coverage::ALL {
        let runs = summary.coverage.get(*name).copied().unwrap_or(0);
        let runs = if runs == 0 { "never".to_owned() } else { runs.to_string() };
        out.push_str(&format!("{runs:>8} {title}\n"));
    }
    let secs = took.as_secs_f64();
    out.push_str(&format!(
        "{} runs ({} of them twice), {} broke a promise; all equal at most {} after the end of load and faults; {secs:.0} s, {:.2} runs/s\n",
        summary.runs,
        summary.twice,
        summary.violated,
        show::seconds(summary.equal_after_ms_max * 1_000),
        summary.runs as f64 / secs.max(0.001),
    ));
    output::print(&out)
}

/// A line on a terminal that is written over and over.
struct Bar {
    all: u64,
    began: Instant,
    terminal: bool,
    shown: Mutex<Option<Instant>>,
}

impl Bar {
    fn new(all: u64, began: Instant) -> Self {
        Self { all, began, terminal: std::io::stderr().is_terminal(), shown: Mutex::new(None) }
    }

    fn show(&self, summary: &Summary) {
        let Ok(mut shown) = self.shown.lock() else { return };
        if !self.terminal || shown.is_some_and(|at| at.elapsed() < SHOWN_EVERY) {
            return;
        }
        *shown = Some(Instant::now());
        let secs = self.began.elapsed().as_secs_f64();
        let filled = (summary.runs * 30 / self.all.max(1)) as usize;
        let never = never(summary).len();
        let _ = write!(
            std::io::stderr(),
            "\r[{}{}] {} of {}, {:.1}/s, {} broken, {never} events never seen \x1b[K",
            "#".repeat(filled),
            " ".repeat(30 - filled),
            summary.runs,
            self.all,
            summary.runs as f64 / secs.max(0.001),
            summary.violated,
        );
    }

    fn end(&self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
