//! One run: a script in, an outcome out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::invariants::Violation;
use crate::view::Traffic;
use crate::world::World;

/// What a run is told beside its script.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Keep a readable line for everything that happened ([`Outcome::log`]).
    pub log: bool,
    /// Keep a row per virtual second for the report ([`Outcome::timeline`]).
    pub timeline: bool,
    /// Check the promises.
    pub check: bool,
}

/// What came of a run. Two runs of one script give equal outcomes.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The first promise that was broken.
    pub violation: Option<Violation>,
    /// A hash of everything that every participant took in, in order.
    pub trace: u64,
    /// When all were equal after the end of the faults, virtual milliseconds after `duration_ms`.
    pub equal_after_ms: Option<u64>,
    /// Steps of nodes.
    pub steps: u64,
    /// "Sometimes" events with how often they happened ([`crate::coverage`]).
    pub coverage: BTreeMap<&'static str, u64>,
    /// Traffic.
    pub traffic: TrafficRow,
    /// The log, if asked for.
    pub log: Vec<LogLine>,
    /// Rows per second, if asked for.
    pub timeline: Vec<Row>,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Virtual microseconds.
    pub at_us: u64,
    /// Who: `n0`, `k1`, `phone 7`, `fault`.
    pub who: String,
    /// What.
    pub what: String,
}

/// The world in one second, for the report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Virtual second.
    pub second: u64,
    /// Per node (position in the script): cells in which it differs from what is best known anywhere; `None`: down.
    pub diverged: Vec<Option<u64>>,
    /// Per server: contacts and entries in which it differs from what is best known anywhere; `None`: down.
    pub servers_diverged: Vec<Option<u64>>,
    /// Live cells per node.
    pub cells: Vec<Option<u64>>,
    /// Links between nodes that carry data, as pairs of positions.
    pub links: Vec<(u16, u16)>,
    /// Bytes between nodes in this second.
    pub node_bytes: u64,
    /// SIP bytes in this second.
    pub sip_bytes: u64,
    /// Faults active, by position in `script.faults`.
    pub faults: Vec<u32>,
}

/// As [`Traffic`], to be written out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficRow {
    /// See [`Traffic::node_bytes`].
    pub node_bytes: u64,
    /// See [`Traffic::session_bytes`].
    pub session_bytes: u64,
    /// See [`Traffic::frames`].
    pub frames: u64,
    /// See [`Traffic::datagrams`].
    pub datagrams: u64,
    /// See [`Traffic::sip_bytes`].
    pub sip_bytes: u64,
    /// See [`Traffic::sip_messages`].
    pub sip_messages: u64,
}

impl From<&Traffic> for TrafficRow {
    fn from(traffic: &Traffic) -> Self {
        Self {
            node_bytes: traffic.node_bytes,
            session_bytes: traffic.session_bytes,
            frames: traffic.frames,
            datagrams: traffic.datagrams,
            sip_bytes: traffic.sip_bytes,
            sip_messages: traffic.sip_messages,
        }
    }
}

/// Runs a script.
pub fn run(script: &crate::Script, options: Options) -> Outcome {
    let mut world = World::new(script.clone(), options);
    world.plan_end();
    let end = world.last_moment();
    world.run_until(end);
    world.outcome()
}
