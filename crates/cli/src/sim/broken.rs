//! A promise was broken: a smaller run that breaks it is looked for, and kept in a file.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use simulation::planted;
use simulation::replay::Replay;
use simulation::shrink::Shrunk;
use simulation::{Options, Script, Violation, trial};

use super::args::{Shrink, Smaller};
use super::{show, violated};
use crate::output::{self, Failure, talk};

/// Looks for a smaller run, says where it is, and never fails: what matters has been told.
pub(super) fn shrink(script: Script, violation: Violation, how: &Smaller) {
    let default = || PathBuf::from(format!("{}-{}.toml", script.scenario, script.seed));
    let file = how.out.clone().unwrap_or_else(default);
    if how.no_shrink {
        keep(&file, script, &violation);
        return;
    }
    talk(&format!("looking for a smaller run that breaks it, for up to {} s ..", how.shrink_secs));
    let shrunk = smaller(script, violation, how.shrink_secs);
    talk(&said(&shrunk));
    keep(&file, shrunk.script, &shrunk.violation);
}

/// `starling sim shrink`.
pub(super) fn shrink_file(args: &Shrink) -> output::Outcome {
    let Replay { script, planted, .. } = Replay::load(&args.file).map_err(|e| Failure::usage(e.to_string()))?;
    super::plant(planted.as_deref())?;
    let Some(violation) = trial::attempt(&script, checked()).violation else {
        return output::print("it breaks no promise: nothing to shrink\n");
    };
    let shrunk = smaller(script, violation, args.secs);
    output::print(&format!("{}\n{}", said(&shrunk), show::sizes(&shrunk.script)))?;
    keep(args.out.as_deref().unwrap_or(&args.file), shrunk.script, &shrunk.violation);
    Err(violated(&shrunk.violation.property))
}

fn checked() -> Options {
    Options { check: true, ..Options::default() }
}

fn smaller(script: Script, violation: Violation, secs: u64) -> Shrunk {
    let end = Instant::now() + Duration::from_secs(secs);
    // What differs from run to run is only seen by running twice.
    let run = if violation.property == trial::SAME_RUN { trial::attempt_twice } else { trial::attempt };
    simulation::shrink::shrink(script, violation, &mut |script| run(script, checked()).violation, &mut || {
        Instant::now() < end
    })
}

fn said(shrunk: &Shrunk) -> String {
    let finished = if shrunk.finished { "" } else { ", and time was up" };
    let what = output::plain(&shrunk.violation.what);
    format!("{} runs{finished}; it still breaks {}:\n  {what}", shrunk.runs, shrunk.violation.property)
}

fn keep(file: &Path, script: Script, violation: &Violation) {
    let sizes = show::sizes(&script);
    let replay = Replay {
        broke: Some(violation.property.clone()),
        what: Some(violation.what.clone()),
        planted: planted::chosen().map(|bug| bug.name().to_owned()),
        script,
    };
    match replay.save(file) {
        Ok(()) => talk(&format!("kept: {sizes}starling sim replay {} --log", super::quoted(&file.to_string_lossy()))),
        Err(error) => talk(&format!("cannot keep it: {error}")),
    }
}
