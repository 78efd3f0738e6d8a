//! A run in a file: a script, and the promise that it broke when the file was made.
//!
//! What a shrinker leaves is written as one, people may write their own, and `simulation/regressions/` keeps those whose
//! bugs are gone. **Invariant:** what is read back is what was written, so that a file gives the same run for ever.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::script::{Entry, FaultKind, Host, Job, Script};

/// A replay file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    /// The property that was broken when the file was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broke: Option<String>,
    /// What was wrong then, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
    /// The bug that was planted then, by its name ([`crate::planted::Bug`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planted: Option<String>,
    /// The run.
    pub script: Script,
}

/// Why there is nothing to replay.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// Where.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// It is no replay file, or its script makes no sense.
    #[error("{path}: {why}")]
    Bad {
        /// Where.
        path: String,
        /// What is wrong.
        why: String,
    },
}

impl Replay {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, is no replay file, or its script makes no sense.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let name = || path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| Error::File { path: name(), error })?;
        let replay: Self = toml::from_str(&text).map_err(|e| Error::Bad { path: name(), why: e.to_string() })?;
        check(&replay.script).map_err(|why| Error::Bad { path: name(), why })?;
        Ok(replay)
    }

    /// Writes a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let name = || path.display().to_string();
        let text = self.text().map_err(|why| Error::Bad { path: name(), why })?;
        std::fs::write(path, text).map_err(|error| Error::File { path: name(), error })
    }

    /// The file's text.
    ///
    /// # Errors
    /// A number that TOML cannot say.
    pub fn text(&self) -> Result<String, String> {
        let body = toml::to_string(self).map_err(|e| e.to_string())?;
        Ok(format!("# One run of Starling's simulator: starling sim replay FILE --log\n\n{body}"))
    }
}

/// Whether a script makes sense: numbers are unique, whoever is named exists, times lie within the run.
///
/// # Errors
/// What does not, in a sentence.
pub fn check(script: &Script) -> Result<(), String> {
    let nodes = unique(script.nodes.iter().map(|n| u32::from(n.ix)), "node")?;
    let servers = unique(script.servers.iter().map(|s| u32::from(s.ix)), "server")?;
    unique(script.phones.iter().map(|p| p.id), "phone")?;
    unique(script.writers.iter().map(|w| w.id), "writer")?;
    unique(script.calls.iter().map(|c| c.id), "call")?;
    let known = |host: &Host| {
        let found = match host {
            Host::Node(ix) => nodes.contains(&u32::from(*ix)),
            Host::Server(ix) => servers.contains(&u32::from(*ix)),
        };
        if found { Ok(()) } else { Err(format!("{host:?} is named and does not exist")) }
    };
    let entry = |at: &Entry| match at {
        Entry::Node(ix) => known(&Host::Node(*ix)),
        Entry::Server(ix) => known(&Host::Server(*ix)),
    };
    for node in &script.nodes {
        node.join.iter().try_for_each(|ix| known(&Host::Node(*ix)))?;
    }
    for server in &script.servers {
        server.nodes.iter().try_for_each(|ix| known(&Host::Node(*ix)))?;
        server.peers.iter().try_for_each(|ix| known(&Host::Server(*ix)))?;
    }
    for phone in &script.phones {
        phone.at.iter().try_for_each(entry)?;
        if phone.at.is_empty() || phone.expires_s == 0 {
            return Err(format!("phone {} has nowhere to register, or for no time", phone.id));
        }
    }
    for writer in &script.writers {
        entry(&writer.at)?;
        let (Job::Keys { keys: size, .. } | Job::Count { keys: size, .. } | Job::Operator { aors: size }) = &writer.job;
        let declared = writer.job.table().is_none_or(|table| script.htables.contains_key(table));
        if writer.every_ms == 0 || *size == 0 || !declared {
            return Err(format!("writer {} has no table, no keys or no time between its writes", writer.id));
        }
    }
    for call in &script.calls {
        [call.caller, call.callee].iter().try_for_each(|ix| known(&Host::Node(*ix)))?;
        if call.lifetime_s == 0 || call.answer_ms == 0 {
            return Err(format!("call {} lives for no time, or is answered before it rings", call.id));
        }
    }
    faults(script, &known)
}

fn unique(all: impl Iterator<Item = u32>, what: &str) -> Result<BTreeSet<u32>, String> {
    let mut seen = BTreeSet::new();
    for one in all {
        if !seen.insert(one) {
            return Err(format!("there are two of {what} {one}"));
        }
    }
    Ok(seen)
}

fn faults(script: &Script, known: &dyn Fn(&Host) -> Result<(), String>) -> Result<(), String> {
    for fault in &script.faults {
        let may_outlast = matches!(fault.kind, FaultKind::Kill { .. });
        if fault.at_ms > fault.until_ms || (fault.until_ms > script.duration_ms && !may_outlast) {
            return Err(format!("a fault lasts from {} to {} ms, outside of the run", fault.at_ms, fault.until_ms));
        }
        hosts(&fault.kind).iter().try_for_each(known)?;
    }
    Ok(())
}

/// Everybody whom a fault names.
pub(crate) fn hosts(kind: &FaultKind) -> Vec<Host> {
    match kind {
        FaultKind::Cut { from, to, .. } => from.iter().chain(to).copied().collect(),
        FaultKind::Path { a, b, .. } | FaultKind::Break { a, b } => vec![*a, *b],
        FaultKind::Kill { host, .. } | FaultKind::Pause { host } => vec![*host],
        FaultKind::Slow { node, .. }
        | FaultKind::ClockJump { node, .. }
        | FaultKind::DiskFails { node }
        | FaultKind::DiskSlow { node, .. }
        | FaultKind::OtherVersion { node }
        | FaultKind::Hostile { node, .. } => vec![Host::Node(*node)],
    }
}
