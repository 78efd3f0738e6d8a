//! Many seeds at once: the one place with threads. Each run is alone in its thread and knows of no other.
//!
//! **Invariant:** the summary of a sweep that was not stopped depends on scenarios and seeds, not on the number of threads
//! or on which came first.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;

use crate::scenario::Scenario;
use crate::{Options, Outcome, Violation, trial};

/// Every so-manieth seed of a scenario is run twice, and both runs must be the same.
pub const TWICE: u64 = 50;
/// So many violations are kept; beyond that they are counted.
const KEPT: usize = 1_000;

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The scenarios; seeds go round all of them.
    pub scenarios: Vec<Scenario>,
    /// The first seed.
    pub first: u64,
    /// How many seeds of each scenario.
    pub seeds: u64,
    /// How many threads.
    pub jobs: usize,
}

/// A run that broke a promise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Found {
    /// The scenario's name.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// The property.
    pub property: String,
    /// When, virtual microseconds.
    pub at_us: u64,
    /// What is wrong, in a sentence.
    pub what: String,
}

/// What came of a sweep.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Runs that were made.
    pub runs: u64,
    /// How many of them were made twice, to compare them.
    pub twice: u64,
    /// Runs that broke a promise.
    pub violated: u64,
    /// Those runs, by scenario and seed.
    pub violations: Vec<Found>,
    /// How many runs broke which property.
    pub properties: BTreeMap<String, u64>,
    /// Runs in which each "sometimes" event happened.
    pub coverage: BTreeMap<String, u64>,
    /// Steps of nodes.
    pub steps: u64,
    /// The longest time until all were equal, virtual milliseconds.
    pub equal_after_ms_max: u64,
}

impl Summary {
    fn take(&mut self, scenario: &str, seed: u64, twice: bool, outcome: Outcome) {
        self.runs += 1;
        self.twice += u64::from(twice);
        self.steps += outcome.steps;
        self.equal_after_ms_max = self.equal_after_ms_max.max(outcome.equal_after_ms.unwrap_or(0));
        for (name, times) in &outcome.coverage {
            *self.coverage.entry((*name).to_owned()).or_default() += u64::from(*times > 0);
        }
        if let Some(Violation { property, at_us, what }) = outcome.violation {
            self.violated += 1;
            *self.properties.entry(property.clone()).or_default() += 1;
            if self.violations.len() < KEPT {
                self.violations.push(Found { scenario: scenario.to_owned(), seed, property, at_us, what });
            }
        }
    }
}

/// Runs them all. `watch` is told the summary so far after every run, by whichever thread made it, and stops the sweep by
/// answering false.
pub fn sweep(plan: &Plan, watch: &(dyn Fn(&Summary) -> bool + Sync)) -> Summary {
    let many = plan.scenarios.len() as u64;
    let all = many * plan.seeds;
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let summary = Mutex::new(Summary::default());
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let one = next.fetch_add(1, Ordering::Relaxed);
            if one >= all {
                break;
            }
            let scenario = &plan.scenarios[(one % many) as usize];
            let seed = plan.first.wrapping_add(one / many);
            let twice = (one / many).is_multiple_of(TWICE);
            let script = scenario.draw(seed);
            let options = Options { check: true, ..Options::default() };
            let outcome = if twice { trial::attempt_twice(&script, options) } else { trial::attempt(&script, options) };
            let Ok(mut summary) = summary.lock() else { break };
            summary.take(&scenario.name, seed, twice, outcome);
            if !watch(&summary) {
                stop.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            // A run needs no deep stack, but the default of a thread is smaller than that of a process.
            if std::thread::Builder::new().stack_size(8 << 20).spawn_scoped(scope, work).is_err() {
                work();
            }
        }
    });
    let mut summary = summary.into_inner().unwrap_or_default();
    summary.violations.sort();
    summary
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(jobs: usize) -> Plan {
        let set = ["phones.count=3".to_owned(), "secs=5".to_owned(), "settle_secs=20".to_owned()];
        let load = |name| Scenario::load(name, &set).expect("ours");
        Plan { scenarios: vec![load("calm"), load("flapping")], first: 5, seeds: 3, jobs }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let (one, two) = (sweep(&plan(1), &|_| true), sweep(&plan(2), &|_| true));
        assert_eq!(one, two);
        assert_eq!((one.runs, one.twice), (6, 2));
    }

    #[test]
    fn who_watches_can_stop_it() {
        assert_eq!(sweep(&plan(1), &|so_far| so_far.runs < 4).runs, 4);
    }
}
