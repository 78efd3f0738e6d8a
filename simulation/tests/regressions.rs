//! Every run in `regressions/` broke a promise once. None may now.

use std::path::{Path, PathBuf};

use starling_simulation::replay::Replay;
use starling_simulation::{Options, trial};

fn files() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let all = std::fs::read_dir(dir).expect("regressions/").map(|f| f.expect("a file").path());
    let mut files: Vec<_> = all.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    files.sort();
    files
}

#[test]
fn what_was_broken_once_holds() {
    let mut broken = Vec::new();
    for file in files() {
        let replay = Replay::load(&file).unwrap_or_else(|e| panic!("{e}"));
        assert!(replay.broke.is_some(), "{} does not say what it broke", file.display());
        let outcome = trial::attempt(&replay.script, Options { check: true, ..Options::default() });
        broken.extend(outcome.violation.map(|v| format!("{}: {}: {}", file.display(), v.property, v.what)));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
