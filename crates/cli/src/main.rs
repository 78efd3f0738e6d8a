//! The one binary, `starling`.
//!
//! `run` is a node, `sim` the simulator; everything else asks a running node over HTTP, or makes certificates. Results go
//! to standard output, talk to standard error. Exit codes: 0 done, 1 failed or false, 2 wrong usage.

mod args;
mod ask;
mod cert;
mod client;
mod dialog;
mod htable;
mod location;
mod output;
mod run;
mod sim;
mod table;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Command};
use crate::output::Failure;

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.command {
        Command::Run(run) => run::run(run),
        Command::Status(query) => ask::status(query),
        Command::Members(query) => ask::members(query),
        Command::Peers(query) => ask::peers(query),
        Command::Digest(query) => ask::digest(query),
        Command::Watch(watch) => watch::watch(watch),
        Command::Location(location) => location::location(location),
        Command::Htable(htable) => htable::htable(htable),
        Command::Dialog(dialog) => dialog::dialog(dialog),
        Command::Cert(cert) => cert::cert(cert),
        Command::Sim(sim) => sim::sim(sim),
        Command::Version => output::print(&format!("starling {}\n", env!("CARGO_PKG_VERSION"))),
    };
    match done {
        // Whoever reads us has seen enough, as `head` does.
        Ok(()) | Err(Failure::BrokenPipe) => ExitCode::SUCCESS,
        Err(Failure::Said(text)) => {
            output::talk(&format!("starling: {text}"));
            ExitCode::FAILURE
        }
        Err(Failure::Usage(text)) => {
            output::talk(&format!("starling: {text}"));
            ExitCode::from(2)
        }
    }
}
