//! Scenarios and sweeps as their users have them: every file is one of the list, parses, and some runs of it hold.

use std::collections::BTreeSet;
use std::path::Path;

use starling_simulation::scenario::{self, Scenario};
use starling_simulation::sweep::{Plan, sweep};

fn files() -> BTreeSet<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let stem = |path: std::path::PathBuf| path.file_stem().map(|s| s.to_string_lossy().into_owned());
    let files = std::fs::read_dir(dir).expect("scenarios/");
    files.filter_map(|f| stem(f.expect("a file").path())).collect()
}

#[test]
fn every_file_is_one_of_the_list_and_says_what_it_shows() {
    let listed: BTreeSet<String> = scenario::embedded().map(str::to_owned).collect();
    assert_eq!(files(), listed);
    for name in &listed {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(format!("{name}.toml"));
        let text = std::fs::read_to_string(&path).expect("a scenario");
        assert!(text.starts_with("# "), "{name} begins with what it shows");
        let by_path = Scenario::load(&path.to_string_lossy(), &[]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(by_path, Scenario::load(name, &[]).expect("ours"), "{name}: by path and by name it is the same");
    }
}

#[test]
fn a_calm_platform_and_a_split_one_hold_for_a_few_seeds() {
    let small = ["phones.count=30".to_owned()];
    let load = |name| Scenario::load(name, &small).expect("ours");
    let plan = Plan { scenarios: vec![load("calm"), load("split-brain")], first: 1, seeds: 3, jobs: 2 };
    let summary = sweep(&plan, &|_| true);
    assert_eq!((summary.runs, summary.violations), (6, Vec::new()));
}
