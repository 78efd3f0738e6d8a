//! Runs that broke a promise once, and what the checkers owe to everybody else.

use starling_simulation::{Options, Outcome, Scenario, run};

fn outcome(scenario: &str, seed: u64, check: bool) -> Outcome {
    let script = Scenario::load(scenario, &[]).expect("the scenario is there").draw(seed);
    run(&script, Options { check, ..Options::default() })
}

#[test]
fn a_run_is_the_same_with_and_without_checks() {
    let (with, without) = (outcome("calm", 3, true), outcome("calm", 3, false));
    assert_eq!((with.trace, with.steps, with.violation), (without.trace, without.steps, None));
}

/// A process of a server that spoke first during a dump was taken for a dumping one ever after.
#[test]
fn refreshes_of_every_process_of_a_server_reach_the_mesh() {
    assert_eq!(outcome("calm", 1, true).violation, None);
}
