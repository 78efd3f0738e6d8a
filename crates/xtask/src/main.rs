//! Project chores: `cargo xtask test` runs everything, on a machine that may have nothing yet.
//!
//! It installs the Debian or Ubuntu packages that the tests need (or names them and fails), builds the node
//! once, runs `cargo test --workspace`, then the tests that need real Kamailio servers, one at a time. At the
//! end it says how many ran, and names what failed and what was left out: no test passes by being skipped.
//!
//! `cargo xtask mutants` checks the checkers: known bugs are planted one at a time, and the simulator has to find each.

mod mutants;
mod packages;
mod run;

use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask test [--no-install] [FILTER]
       cargo xtask mutants [--seeds N] [--minutes N] [--runs N] [--scenario NAME] [BUG]...

  test            unit, property, golden, black-box and Kamailio tests
  --no-install    never install packages: name those that are missing, and fail
  FILTER          only tests whose name contains this

  mutants         plants known bugs, one at a time: the simulator has to find each
  --seeds N       seeds per bug and scenario, 5 unless told
  --minutes N     the longest that the sweep of one bug in one scenario may take, 5 unless told
  --runs N        random runs of the replica's tests for what no seed finds, 1000 unless told
  --scenario NAME only this scenario
  BUG             only these bugs

Exit code: 0 everything passed, 1 something failed or is missing, 2 wrong usage.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.split_first() {
        Some((chore, rest)) if chore == "mutants" => mutants::Plan::read(rest).map(|plan| mutants::run(&plan)),
        _ => plan(&args).map(|plan| test(&plan)),
    };
    let Some(done) = done else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What `cargo xtask test` was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    install: bool,
    filter: Option<String>,
}

fn plan(args: &[String]) -> Option<Plan> {
    let (first, rest) = args.split_first()?;
    let mut plan = Plan { install: true, filter: None };
    for arg in rest {
        match arg.as_str() {
            "--no-install" => plan.install = false,
            word if !word.starts_with('-') && plan.filter.is_none() => plan.filter = Some(word.to_owned()),
            _ => return None,
        }
    }
    (first == "test").then_some(plan)
}

fn test(plan: &Plan) -> anyhow::Result<bool> {
    let root = packages::Root::find();
    packages::provide(plan.install, root)?;
    let binary = run::build_node()?;
    let filter = plan.filter.as_deref();

    eprintln!("\nxtask: tests that need no Kamailio");
    let plain = run::cargo_test(&["--workspace"], &[], filter, &binary, packages::Root::Is)?;
    eprintln!("\nxtask: tests with real Kamailio servers, one at a time");
    // Doc tests are left out of this run: "ignore" says of them that they shall not be compiled.
    let real = run::cargo_test(&["--workspace", "--tests"], &["--ignored", "--test-threads=1"], filter, &binary, root)?;
    Ok(run::report(&plain, &real))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Option<Plan> {
        plan(&args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_command_line_is_understood_or_refused() {
        assert_eq!(parsed(&["test"]), Some(Plan { install: true, filter: None }));
        let filtered = Plan { install: false, filter: Some("split".to_owned()) };
        assert_eq!(parsed(&["test", "--no-install", "split"]), Some(filtered));
        for wrong in [&[][..], &["build"], &["test", "--what"], &["test", "a", "b"]] {
            assert_eq!(parsed(wrong), None, "{wrong:?}");
        }
    }
}
