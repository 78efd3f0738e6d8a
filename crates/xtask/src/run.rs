//! Runs cargo, passes on what it prints as it comes, and counts.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::packages::Root;

/// What a run of `cargo test` said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Names of tests that passed.
    passed: Vec<String>,
    /// Names of tests that failed.
    failed: Vec<String>,
    /// Names of tests that were left out.
    ignored: Vec<String>,
    /// cargo's own lines.
    results: Vec<String>,
    /// Whether cargo itself was content.
    success: bool,
}

/// cargo, in the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).stdin(Stdio::null());
    command
}

/// Builds the binary, in the profile of the tests, so that it is built once; where it is.
pub(crate) fn build_node() -> anyhow::Result<PathBuf> {
    eprintln!("xtask: building the node");
    let out = cargo()
        .args(["build", "--locked", "--package", "starling-cli", "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !out.status.success() {
        bail!("the node does not build");
    }
    let text = String::from_utf8_lossy(&out.stdout);
    let path = text.lines().rev().find_map(executable).context("cargo names no executable")?;
    Ok(PathBuf::from(path))
}

/// The path in a line of cargo's JSON messages, if it names an executable.
pub(crate) fn executable(line: &str) -> Option<String> {
    let path = line.split("\"executable\":\"").nth(1)?.split('"').next()?;
    Some(path.replace("\\\\", "\\"))
}

/// Runs tests, and tells what became of each.
pub(crate) fn cargo_test(
    what: &[&str],
    how: &[&str],
    filter: Option<&str>,
    binary: &Path,
    root: Root,
) -> anyhow::Result<Outcome> {
    let mut command = cargo();
    command.args(["test", "--locked", "--no-fail-fast"]).args(what).arg("--").args(how).args(filter);
    command.env("STARLING_BIN", binary).stdout(Stdio::piped());
    if root == Root::Sudo {
        command.env(format!("CARGO_TARGET_{}_RUNNER", host()?.to_uppercase().replace('-', "_")), "sudo -n -E");
    }
    let mut child = command.spawn().context("cannot run cargo")?;
    let mut stdout = child.stdout.take().context("no output of cargo")?;
    let (mut text, mut buffer) = (Vec::new(), [0; 4_096]);
    loop {
        // As it comes, and not line by line: a test that runs for a minute is named while it runs.
        let n = stdout.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        std::io::stdout().write_all(&buffer[..n])?;
        std::io::stdout().flush()?;
        text.extend_from_slice(&buffer[..n]);
    }
    let success = child.wait()?.success();
    Ok(Outcome { success, ..read(&String::from_utf8_lossy(&text)) })
}

fn host() -> anyhow::Result<String> {
    let out = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    Ok(text.lines().find_map(|l| l.strip_prefix("host: ")).context("rustc names no host")?.to_owned())
}

/// Understands the output of test binaries.
fn read(text: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for line in text.lines() {
        if line.starts_with("test result: ") {
            outcome.results.push(line.to_owned());
            continue;
        }
        let Some((name, end)) = line.strip_prefix("test ").and_then(|l| l.split_once(" ... ")) else { continue };
        let name = name.trim_end_matches(" - should panic").to_owned();
        // What a test prints past its capture may stand between its name and its end.
        if end == "ok" || end.ends_with(" ok") {
            outcome.passed.push(name);
        } else if end.starts_with("ignored") {
            outcome.ignored.push(name);
        } else if end.contains("FAILED") {
            outcome.failed.push(name);
        }
    }
    outcome
}

/// Prints what ran, what failed and what was left out; whether all is well.
pub(crate) fn report(plain: &Outcome, real: &Outcome) -> bool {
    println!("\nxtask: cargo test's own words");
    for line in plain.results.iter().chain(&real.results).filter(|l| !l.contains(" 0 passed; 0 failed; 0 ignored;")) {
        println!("{line}");
    }
    let ran: BTreeSet<_> = real.passed.iter().chain(&real.failed).collect();
    let left_out: Vec<_> = plain.ignored.iter().filter(|name| !ran.contains(name)).collect();
    let failed: Vec<_> = plain.failed.iter().chain(&real.failed).collect();
    println!(
        "\nxtask: {} passed without Kamailio, {} with Kamailio; {} failed; {} left out",
        plain.passed.len(),
        real.passed.len(),
        failed.len(),
        left_out.len()
    );
    for name in &failed {
        println!("  failed: {name}");
    }
    for name in &left_out {
        println!("  left out: {name}");
    }
    let any = plain.passed.len() + real.passed.len() > 0;
    if !any {
        println!("  nothing ran: no test has such a name");
    }
    plain.success && real.success && failed.is_empty() && any
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\nrunning 4 tests\ntest a ... ok\ntest b::c ... FAILED\n\
                          test d ... ignored, needs Kamailio 5.6: run cargo xtask test\n\
                          test e - should panic ... ok\n\ntest result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured\n";

    #[test]
    fn the_output_of_a_test_binary_is_counted_by_name() {
        let outcome = read(OUTPUT);
        assert_eq!(outcome.passed, ["a", "e"]);
        assert_eq!(outcome.failed, ["b::c"]);
        assert_eq!(outcome.ignored, ["d"]);
        assert_eq!(outcome.results.len(), 1);
    }

    #[test]
    fn a_failure_or_an_unhappy_cargo_is_no_success() {
        let good = || Outcome { success: true, passed: vec!["a".to_owned()], ..Outcome::default() };
        assert!(report(&good(), &good()));
        let nothing = || Outcome { success: true, ..Outcome::default() };
        assert!(!report(&nothing(), &nothing()), "a filter that fits nothing shows nothing");
        assert!(!report(&good(), &Outcome { success: false, ..good() }));
        assert!(!report(&good(), &Outcome { failed: vec!["x".to_owned()], ..good() }));
    }

    #[test]
    fn cargo_names_the_executable_that_it_built() {
        let line = r#"{"reason":"compiler-artifact","target":{"name":"starling"},"executable":"/x/target/debug/starling","fresh":true}"#;
        assert_eq!(executable(line).as_deref(), Some("/x/target/debug/starling"));
        assert_eq!(executable(r#"{"reason":"build-finished","executable":null}"#), None);
    }
}
