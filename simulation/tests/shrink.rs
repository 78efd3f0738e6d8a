//! A broken promise from the seed to the file: found, made smaller, written, read, and broken again.

use starling_simulation::replay::Replay;
use starling_simulation::scenario::Scenario;
use starling_simulation::script::{FaultKind, Script};
use starling_simulation::shrink::shrink;
use starling_simulation::{Options, Violation, trial};

/// What really happens in a run: somebody got no answer after a server had been killed.
fn breaks(script: &Script) -> Option<Violation> {
    let kill = script.faults.iter().find(|f| matches!(f.kind, FaultKind::Kill { .. }))?;
    let outcome = trial::attempt(script, Options::default());
    let unanswered = outcome.coverage.get("deed-unknown").copied().unwrap_or(0);
    (unanswered > 0 && outcome.coverage["server-restarted"] > 0).then(|| Violation {
        property: "every-request-is-answered".to_owned(),
        at_us: kill.until_ms * 1_000,
        what: format!("{unanswered} were not"),
    })
}

#[test]
fn a_failure_becomes_a_small_file_that_fails_in_the_same_way() {
    let set = ["phones.count=10", "secs=60", "settle_secs=30", "swarm=false", "server-crash.rate=4"];
    let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    let script = Scenario::load("everything", &set).expect("good changes").draw(1);
    let violation = breaks(&script).expect("such a request");
    let shrunk = shrink(script.clone(), violation, &mut breaks, &mut || true);
    let left = &shrunk.script;
    assert!(shrunk.finished && left.faults.len() == 1 && left.servers.len() == 1, "{left:?}");
    assert!(left.phones.len() + left.writers.len() <= 1 && left.nodes.len() <= 1, "{left:?}");

    let file = std::env::temp_dir().join(format!("starling-shrunk-{}.toml", std::process::id()));
    let replay = Replay {
        planted: None,
        broke: Some(shrunk.violation.property.clone()),
        what: Some(shrunk.violation.what.clone()),
        script: shrunk.script,
    };
    replay.save(&file).expect("a temporary file");
    let read = Replay::load(&file);
    std::fs::remove_file(&file).expect("it is there");
    let read = read.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(read, replay);
    assert_eq!(breaks(&read.script), Some(shrunk.violation));
}
