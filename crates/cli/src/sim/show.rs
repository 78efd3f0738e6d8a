//! What came of a run, for people and for machines.

use serde_json::{Value, json};
use simulation::run::LogLine;
use simulation::{Outcome, Script};

use crate::output::{plain, size};

/// Who takes part, in a line; the seed is in it.
pub(super) fn sizes(script: &Script) -> String {
    let counted = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    format!(
        "{}, seed {}: {}, {}, {}, {}, {}, {}, {}\n",
        script.scenario,
        script.seed,
        counted(script.nodes.len(), "node"),
        counted(script.servers.len(), "server"),
        counted(script.phones.len(), "phone"),
        counted(script.writers.len(), "writer"),
        counted(script.calls.len(), "call"),
        counted(script.faults.len(), "fault"),
        seconds(script.duration_ms * 1_000),
    )
}

/// Virtual microseconds as seconds.
pub(super) fn seconds(us: u64) -> String {
    let ms = us / 1_000;
    if ms.is_multiple_of(1_000) { format!("{} s", ms / 1_000) } else { format!("{}.{:03} s", ms / 1_000, ms % 1_000) }
}

/// A line of the log.
pub(super) fn log_line(line: &LogLine) -> String {
    let (secs, us) = (line.at_us / 1_000_000, line.at_us % 1_000_000);
    format!("{secs:>6}.{us:06} {:<10} {}\n", plain(&line.who), plain(&line.what))
}

/// What came of it, in a few lines.
pub(super) fn outcome(outcome: &Outcome) -> String {
    let mut out = match (&outcome.violation, outcome.equal_after_ms) {
        (Some(v), _) => format!("BROKEN at {}: {}\n  {}\n", seconds(v.at_us), v.property, plain(&v.what)),
        (None, Some(ms)) => format!("held; all equal {} after the end of load and faults\n", seconds(ms * 1_000)),
        (None, None) => "held\n".to_owned(),
    };
    let traffic = &outcome.traffic;
    out.push_str(&format!(
        "  {} steps; between nodes {} in {} frames and {} datagrams; SIP {} in {} messages; trace {:016x}\n",
        outcome.steps,
        size(traffic.node_bytes as usize),
        traffic.frames,
        traffic.datagrams,
        size(traffic.sip_bytes as usize),
        traffic.sip_messages,
        outcome.trace,
    ));
    out
}

/// What came of it, for machines.
pub(super) fn json(script: &Script, outcome: &Outcome) -> Value {
    json!({
        "scenario": script.scenario,
        "seed": script.seed,
        "nodes": script.nodes.len(),
        "servers": script.servers.len(),
        "phones": script.phones.len(),
        "writers": script.writers.len(),
        "calls": script.calls.len(),
        "faults": script.faults.len(),
        "duration_ms": script.duration_ms,
        "held": outcome.violation.is_none(),
        "violation": outcome.violation,
        "equal_after_ms": outcome.equal_after_ms,
        "trace": format!("{:016x}", outcome.trace),
        "steps": outcome.steps,
        "traffic": outcome.traffic,
        "coverage": outcome.coverage,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_with_as_many_digits_as_they_need() {
        assert_eq!([0, 1_500_000, 60_000_000].map(seconds), ["0 s", "1.500 s", "60 s"]);
    }
}
