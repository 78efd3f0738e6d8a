//! `starling sim compare`: one script with servers alone and with Starling between them.

use serde_json::Value;
use simulation::compare::{Comparison, Differing, Way};
use simulation::report;

use super::args::Compare;
use super::{again, load, show, violated};
use crate::output::{self, Failure, plain};

pub(super) fn compare(args: &Compare) -> output::Outcome {
    let script = load(&args.which)?.draw(args.seed);
    args.report.as_deref().map_or(Ok(()), super::writable)?;
    let found = simulation::compare::compare(&script).map_err(Failure::usage)?;
    if let Some(file) = &args.report {
        let line = again(&args.which, &args.which.scenario, args.seed).replacen("sim run", "sim compare", 1);
        super::write(file, &report::comparison(&found, &line))?;
    }
    if args.json {
        output::print_json(&json(&found)?)?;
    } else {
        output::print(&table(&found))?;
    }
    let broken = found.ways.iter().find_map(|way| way.violation.as_ref());
    broken.map_or(Ok(()), |violation| {
        output::talk(&plain(&violation.what));
        Err(violated(&violation.property))
    })
}

/// What was found, without the row of every second: that is for the page.
fn json(found: &Comparison) -> Result<Value, Failure> {
    let mut value = serde_json::to_value(found).map_err(|e| Failure::said(e.to_string()))?;
    for way in value["ways"].as_array_mut().into_iter().flatten() {
        way.as_object_mut().map(|way| way.remove("seconds"));
    }
    Ok(value)
}

fn table(found: &Comparison) -> String {
    let when = |ms: u64| show::seconds(ms * 1_000);
    let mut out = format!("{}, seed {}: ", found.scenario, found.seed);
    match found.split_ms {
        Some(split) => {
            out.push_str(&format!("first fault at {}, last one over at {}\n\n", when(split), when(found.heal_ms)))
        }
        None => out.push_str("no fault\n\n"),
    }
    out.push_str(&format!(
        "{:<28}{:>22}{:>22}{:>14}{:>10}\n",
        "not the same on all servers", "contacts", "table keys", "all equal", "SIP"
    ));
    for way in &found.ways {
        out.push_str(&row(way.title, "", way.at_heal, None));
        let equal = way.equal_after_ms.map_or("never".to_owned(), |ms| format!("after {}", when(ms)));
        out.push_str(&row("", "at the end", way.at_end, Some((way, equal))));
    }
    out
}

fn row(title: &str, when: &str, differing: Differing, end: Option<(&Way, String)>) -> String {
    let of = |differ: u64, all: u64| format!("{differ} of {all}");
    let name = if title.is_empty() { format!("  {when}") } else { title.to_owned() };
    let (contacts, keys) = (of(differing.contacts, differing.contacts_of), of(differing.keys, differing.keys_of));
    let mut out = format!("{name:<28}{contacts:>22}{keys:>22}");
    if let Some((way, equal)) = end {
        out.push_str(&format!("{equal:>14}{:>10}", way.traffic.sip_messages));
    }
    out.push('\n');
    out
}
