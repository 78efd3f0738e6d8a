//! The command line of the simulator.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

/// Seeds are numbers that a TOML file can hold.
const SEED_MAX: i64 = i64::MAX;

#[derive(Debug, ClapArgs)]
#[command(after_help = "Exit codes: 0 every promise held, 1 one was broken, 2 wrong usage.")]
pub(crate) struct Sim {
    #[command(subcommand)]
    pub(crate) action: Action,
    /// Plant a known bug in every node; only builds with the feature `planted` have any
    #[arg(long, value_name = "NAME", global = true, hide = true)]
    pub(crate) plant: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// The scenarios that are part of this program
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Run a scenario once
    Run(Run),
    /// Run many seeds of a scenario, or of all
    Sweep(Sweep),
    /// Run what a file holds: what `run` and `sweep` leave when a promise is broken
    Replay(Replay),
    /// Make a file that breaks a promise smaller, as long as it breaks the same one
    Shrink(Shrink),
    /// The same phones and the same faults with servers alone, and with Starling between them
    Compare(Compare),
}

/// Which scenario, and what is different about it.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Which {
    /// A scenario of `sim list`, or the path of a file
    pub(crate) scenario: String,
    /// How many nodes
    #[arg(long, value_name = "N")]
    pub(crate) nodes: Option<u16>,
    /// Change a value of the scenario, such as `partition.secs=120`; may be repeated
    #[arg(long, value_name = "A.B=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) which: Which,
    /// The seed
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(..=SEED_MAX as u64))]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) show: Show,
    #[command(flatten)]
    pub(crate) smaller: Smaller,
}

/// What is shown of a run.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Show {
    /// Write a page that shows the run
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,
    /// In the page: what each side saw of this cell, `TABLE/KEY` or an address of record [default: one that was changed
    /// while something was wrong]
    #[arg(long, value_name = "KEY", requires = "report")]
    pub(crate) key: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print a line for everything that happens
    #[arg(long, conflicts_with = "json")]
    pub(crate) log: bool,
}

/// What is done about a broken promise.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Smaller {
    /// Do not look for a smaller run that breaks the same promise
    #[arg(long)]
    pub(crate) no_shrink: bool,
    /// Seconds that looking for it may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) shrink_secs: u64,
    /// Where to write it [default: SCENARIO-SEED.toml]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Sweep {
    /// `all` for all scenarios
    #[command(flatten)]
    pub(crate) which: Which,
    /// How many seeds of each scenario
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seeds: u64,
    /// The first seed
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(..=SEED_MAX as u64 / 2))]
    pub(crate) first: u64,
    /// How many threads [default: one per core]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// Begin no run after so many minutes
    #[arg(long, value_name = "M")]
    pub(crate) minutes: Option<f64>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) smaller: Smaller,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Replay {
    /// The file
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) show: Show,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Shrink {
    /// The file
    pub(crate) file: PathBuf,
    /// Seconds that it may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) secs: u64,
    /// Where to write what is left [default: FILE]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Compare {
    #[command(flatten)]
    pub(crate) which: Which,
    /// The seed
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(..=SEED_MAX as u64))]
    pub(crate) seed: u64,
    /// Write a page with a chart
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
