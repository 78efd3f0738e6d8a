//! Scenarios: what is run, as a file that people write, and how often what goes wrong.
//!
//! A scenario is a TOML file. It names sizes, shares and rates; a seed decides the rest ([`Scenario::draw`]) and gives a
//! [`Script`], in which nothing is left to chance but what participants draw from their own streams. The files that
//! come with the program are part of it ([`embedded`]); any other one is given by its path.
//!
//! **Invariant:** the same scenario, with the same changes and the same seed, gives the same script; and what is drawn
//! for one section or one kind of fault does not depend on the others, so that a change of one leaves the others alone.

mod draw;
mod faults;
mod set;
mod sizes;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Script;
use crate::script::{Limits, NetSpec, TableSpec};

pub use faults::{FaultName, Plan, Shape};
pub use sizes::{Calls, Generations, Nodes, Phones, Servers, Where, Writers};

/// The scenarios that are part of the program: name and text, in the order in which they are shown.
const EMBEDDED: &[(&str, &str)] = &[
    ("standard", include_str!("../../scenarios/standard.toml")),
    ("calm", include_str!("../../scenarios/calm.toml")),
    ("split-brain", include_str!("../../scenarios/split-brain.toml")),
    ("one-way", include_str!("../../scenarios/one-way.toml")),
    ("flapping", include_str!("../../scenarios/flapping.toml")),
    ("swizzle", include_str!("../../scenarios/swizzle.toml")),
    ("rolling-restart", include_str!("../../scenarios/rolling-restart.toml")),
    ("rolling-upgrade", include_str!("../../scenarios/rolling-upgrade.toml")),
    ("clock-havoc", include_str!("../../scenarios/clock-havoc.toml")),
    ("disk-havoc", include_str!("../../scenarios/disk-havoc.toml")),
    ("wan-3-sites", include_str!("../../scenarios/wan-3-sites.toml")),
    ("kamailio-bridge", include_str!("../../scenarios/kamailio-bridge.toml")),
    ("kamailio-tcp", include_str!("../../scenarios/kamailio-tcp.toml")),
    ("kamailio-mesh", include_str!("../../scenarios/kamailio-mesh.toml")),
    ("counter-split", include_str!("../../scenarios/counter-split.toml")),
    ("long-absence", include_str!("../../scenarios/long-absence.toml")),
    ("join-storm", include_str!("../../scenarios/join-storm.toml")),
    ("everything", include_str!("../../scenarios/everything.toml")),
];

/// A scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name; the file's, without its ending.
    #[serde(skip)]
    pub name: String,
    /// What it shows, in a line.
    pub title: String,
    /// How long load and faults go on, seconds.
    pub secs: f64,
    /// How long all may take to be equal after that, seconds.
    #[serde(default = "sizes::settle_secs")]
    pub settle_secs: f64,
    /// Whether each kind of fault is on or off, and how often it happens, is drawn per seed.
    #[serde(default)]
    pub swarm: bool,
    /// The nodes.
    #[serde(default)]
    pub nodes: Nodes,
    /// The servers.
    #[serde(default)]
    pub servers: Servers,
    /// The phones.
    #[serde(default)]
    pub phones: Phones,
    /// Who writes hash tables, and operators.
    #[serde(default)]
    pub writers: Writers,
    /// The calls.
    #[serde(default)]
    pub calls: Calls,
    /// Hash tables, as all nodes and servers declare them.
    #[serde(default)]
    pub htables: BTreeMap<String, TableSpec>,
    /// The network when nothing is wrong.
    pub net: NetSpec,
    /// Limits that every node is configured with.
    pub limits: Limits,
    /// What goes wrong.
    #[serde(default)]
    pub faults: BTreeMap<FaultName, Plan>,
}

/// Why there is no scenario.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is neither one of ours nor a file that can be read.
    #[error("no scenario `{name}`: not one of `starling sim list`, and as a file: {error}")]
    NotFound {
        /// What was asked for.
        name: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file, or what was set on the command line, makes no sense.
    #[error("{name}: {why}")]
    Bad {
        /// Which scenario.
        name: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The names of the scenarios that are part of the program.
pub fn embedded() -> impl Iterator<Item = &'static str> {
    EMBEDDED.iter().map(|(name, _)| *name)
}

impl Scenario {
    /// A scenario by its name, or a file by its path. `set` holds changes, `a.b=value` each; the first part may be the
    /// name of a fault.
    ///
    /// # Errors
    /// There is none, it makes no sense, or a change does not fit.
    pub fn load(name_or_path: &str, set: &[String]) -> Result<Self, Error> {
        match EMBEDDED.iter().find(|(name, _)| *name == name_or_path) {
            Some((name, text)) => Self::parse(name, text, set),
            None => {
                let text = std::fs::read_to_string(name_or_path)
                    .map_err(|error| Error::NotFound { name: name_or_path.to_owned(), error })?;
                let stem = Path::new(name_or_path).file_stem().map(|s| s.to_string_lossy().into_owned());
                Self::parse(&stem.unwrap_or_default(), &text, set)
            }
        }
    }

    /// A scenario from its text.
    ///
    /// # Errors
    /// It makes no sense, or a change does not fit.
    pub fn parse(name: &str, text: &str, set: &[String]) -> Result<Self, Error> {
        let bad = |why: String| Error::Bad { name: name.to_owned(), why };
        let mut tree: toml::Table = toml::from_str(text).map_err(|e| bad(e.to_string()))?;
        set::defaults(&mut tree, "net", &sizes::net()).map_err(bad)?;
        set::defaults(&mut tree, "limits", &sizes::limits()).map_err(bad)?;
        for change in set {
            set::apply(&mut tree, change).map_err(bad)?;
        }
        let mut scenario: Self = tree.try_into().map_err(|e: toml::de::Error| bad(e.message().to_owned()))?;
        name.clone_into(&mut scenario.name);
        scenario.check().map_err(bad)?;
        Ok(scenario)
    }

    /// The run that a seed gives.
    pub fn draw(&self, seed: u64) -> Script {
        draw::script(self, seed)
    }

    fn check(&self) -> Result<(), String> {
        sizes::check(self)?;
        self.faults.iter().try_for_each(|(name, plan)| plan.check(*name))
    }
}

#[cfg(test)]
mod tests;
