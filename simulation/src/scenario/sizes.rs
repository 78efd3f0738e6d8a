//! How many of whom, and what they are like: every section of a scenario but its faults, with its defaults.

use serde::{Deserialize, Serialize};

use super::Scenario;
use crate::net::QUIC_MTU;
use crate::script::{Limits, NetSpec, PathSpec};

/// `[nodes]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nodes {
    /// How many, 1 to 200.
    pub count: u16,
    /// Over how many sites they are spread, one after the other.
    pub sites: u16,
    /// Share of them that have a disk, 0 to 1.
    pub durable: f64,
    /// Share of those with a disk that answer only what is on it, 0 to 1.
    pub ack_disk: f64,
    /// Clocks are off by up to this, milliseconds, to either side.
    pub offset_ms: u32,
    /// Clocks gain up to this, parts per million, to either side.
    pub drift_ppm: u32,
    /// How many of them, the last ones, are not there at the start.
    pub late: u16,
    /// Within how many seconds those come, from `late_from_secs` on.
    pub late_secs: f64,
    /// When the first of them may come, seconds.
    pub late_from_secs: f64,
}

impl Default for Nodes {
    fn default() -> Self {
        Self {
            count: 3,
            sites: 1,
            durable: 1.0,
            ack_disk: 0.0,
            offset_ms: 500,
            drift_ppm: 50,
            late: 0,
            late_secs: 10.0,
            late_from_secs: 10.0,
        }
    }
}

/// What the servers are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Generations {
    /// All of 5.6.
    #[default]
    #[serde(rename = "5.6")]
    V5,
    /// All of 6.x.
    #[serde(rename = "6")]
    V6,
    /// Drawn one by one.
    #[serde(rename = "mixed")]
    Mixed,
}

/// `[servers]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Servers {
    /// How many. The first stands beside the first node, and so on, round and round.
    pub count: u16,
    /// What they are.
    pub generation: Generations,
    /// How many nodes each names as DMQ peers: the one beside it, and those after that.
    pub nodes_each: u16,
    /// Whether they name each other too.
    pub meshed: bool,
    /// Shared memory, in contacts; 0 = no limit.
    pub memory_contacts: u32,
    /// Share of messages, per mille, that a second worker overtakes.
    pub reorder_permille: u32,
    /// Share of them that speak SIP over TCP, 0 to 1; if they are meshed, of runs in which all do.
    pub tcp: f64,
    /// How many more there are that send garbage.
    pub hostile: u16,
}

impl Default for Servers {
    fn default() -> Self {
        Self {
            count: 0,
            generation: Generations::V5,
            nodes_each: 1,
            meshed: false,
            memory_contacts: 0,
            reorder_permille: 0,
            tcp: 0.0,
            hostile: 0,
        }
    }
}

/// Where load enters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Where {
    /// At servers if there are any, else at nodes.
    #[default]
    Servers,
    /// At the interface of nodes.
    Nodes,
    /// At either.
    Both,
}

/// `[phones]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Phones {
    /// How many.
    pub count: u32,
    /// Share of them that share their address of record with another one, 0 to 1.
    pub shared: f64,
    /// Where they register.
    pub at: Where,
    /// How many places each knows; it goes to the next when one does not answer.
    pub places: usize,
    /// `Expires`, seconds: from here.
    pub min_expires_secs: u32,
    /// `Expires`, seconds: to here.
    pub max_expires_secs: u32,
    /// Share that names an instance (RFC 5626), 0 to 1.
    pub outbound: f64,
    /// Their first REGISTERs are spread over this, seconds.
    pub start_secs: f64,
    /// Share that goes before the end, 0 to 1: a third without a word, a third with `Expires: 0`, a third with `*`.
    pub leaving: f64,
}

impl Default for Phones {
    fn default() -> Self {
        Self {
            count: 100,
            shared: 0.2,
            at: Where::Servers,
            places: 2,
            min_expires_secs: 120,
            max_expires_secs: 3_600,
            outbound: 0.2,
            start_secs: 20.0,
            leaving: 0.3,
        }
    }
}

/// `[writers]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Writers {
    /// How many set and delete keys of the tables that do not count, and meet there.
    pub keys: u32,
    /// How many do so in a table of their own, `own0` and so on: there the last acknowledged write is known.
    pub own: u32,
    /// How many increment counters of the tables that count.
    pub counts: u32,
    /// How many operators remove contacts.
    pub operators: u32,
    /// Where they write.
    pub at: Where,
    /// Mean seconds between two writes of one writer.
    pub every_secs: f64,
    /// Mean seconds between two removals of one operator.
    pub operator_secs: f64,
    /// Keys of a table.
    pub size: u32,
    /// Share of deletes, per mille.
    pub delete_permille: u32,
}

impl Default for Writers {
    fn default() -> Self {
        Self {
            keys: 0,
            own: 0,
            counts: 0,
            operators: 0,
            at: Where::Servers,
            every_secs: 1.0,
            operator_secs: 20.0,
            size: 20,
            delete_permille: 150,
        }
    }
}

/// `[calls]`. They enter at nodes: no server tells of dialogs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Calls {
    /// How many, spread over the run.
    pub count: u32,
    /// They are answered within this, seconds.
    pub ring_secs: f64,
    /// From answer to BYE, seconds: from here.
    pub min_secs: f64,
    /// From answer to BYE, seconds: to here.
    pub max_secs: f64,
    /// When they end by themselves, seconds after INVITE or refresh: from here.
    pub min_lifetime_secs: u32,
    /// When they end by themselves, seconds after INVITE or refresh: to here.
    pub max_lifetime_secs: u32,
    /// Share whose two sides are at different nodes, 0 to 1.
    pub far: f64,
    /// Share that is refreshed half way, 0 to 1.
    pub refreshed: f64,
    /// Share with variables, 0 to 1.
    pub vars: f64,
    /// Share that counts in a profile, 0 to 1.
    pub profiles: f64,
    /// Share that nobody ends, 0 to 1.
    pub lost: f64,
    /// Share whose BYE comes from both sides, 0 to 1.
    pub twice: f64,
    /// Share of which something is said after the BYE, 0 to 1.
    pub late: f64,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            count: 0,
            ring_secs: 8.0,
            min_secs: 1.0,
            max_secs: 120.0,
            min_lifetime_secs: 60,
            max_lifetime_secs: 1_800,
            far: 0.8,
            refreshed: 0.3,
            vars: 0.5,
            profiles: 0.3,
            lost: 0.15,
            twice: 0.15,
            late: 0.3,
        }
    }
}

pub(super) fn settle_secs() -> f64 {
    120.0
}

/// A switched network within a site, 20 ms between sites, loopback to the server on the same host.
pub(super) fn net() -> NetSpec {
    let path = |delay_us, jitter_us| PathSpec {
        delay_us,
        jitter_us,
        loss_permille: 0,
        duplicate_permille: 0,
        reorder_permille: 0,
        bytes_per_s: 0,
        mtu: 0,
    };
    NetSpec { site: path(200, 100), wan: path(20_000, 1_000), host: path(30, 20) }
}

/// The defaults of a node (docs/operation.md).
pub(super) fn limits() -> Limits {
    Limits {
        max_skew_ms: 5_000,
        forget_after_s: 604_800,
        location_max_ttl_s: 86_400,
        dialog_max_life_s: 43_200,
        mesh: false,
        wan: false,
    }
}

/// Whether the sizes make sense together.
pub(super) fn check(scenario: &Scenario) -> Result<(), String> {
    let (nodes, servers, phones) = (&scenario.nodes, &scenario.servers, &scenario.phones);
    let calls = &scenario.calls;
    let shares = [
        ("nodes.durable", nodes.durable),
        ("nodes.ack_disk", nodes.ack_disk),
        ("servers.tcp", servers.tcp),
        ("phones.shared", phones.shared),
        ("phones.outbound", phones.outbound),
        ("phones.leaving", phones.leaving),
        ("calls.far", calls.far),
        ("calls.refreshed", calls.refreshed),
        ("calls.vars", calls.vars),
        ("calls.profiles", calls.profiles),
        ("calls.lost", calls.lost),
        ("calls.twice", calls.twice),
        ("calls.late", calls.late),
    ];
    if let Some((name, share)) = shares.iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
        return Err(format!("{name} is a share, from 0 to 1, not {share}"));
    }
    let month = 31.0 * 86_400.0;
    let ranges = [
        ("secs", scenario.secs, 1.0, month),
        ("settle_secs", scenario.settle_secs, 0.01, month),
        ("nodes.count", f64::from(nodes.count), 1.0, 200.0),
        ("nodes.sites", f64::from(nodes.sites), 1.0, f64::from(nodes.count)),
        ("nodes.late", f64::from(nodes.late), 0.0, f64::from(nodes.count) - 1.0),
        ("nodes.late_secs", nodes.late_secs, 0.0, month),
        ("nodes.late_from_secs", nodes.late_from_secs, 0.0, month),
        ("nodes.offset_ms", f64::from(nodes.offset_ms), 0.0, 1e9),
        ("nodes.drift_ppm", f64::from(nodes.drift_ppm), 0.0, 100_000.0),
        ("servers.count", f64::from(servers.count) + f64::from(servers.hostile), 0.0, 1_000.0),
        ("servers.nodes_each", f64::from(servers.nodes_each), 0.0, f64::from(nodes.count)),
        ("servers.reorder_permille", f64::from(servers.reorder_permille), 0.0, 1_000.0),
        ("phones.count", f64::from(phones.count), 0.0, 1e6),
        ("phones.places", phones.places as f64, 1.0, 1_000.0),
        ("phones.start_secs", phones.start_secs, 0.0, month),
        ("phones.min_expires_secs", f64::from(phones.min_expires_secs), 10.0, f64::from(phones.max_expires_secs)),
        ("calls.count", f64::from(calls.count), 0.0, 1e6),
        ("calls.ring_secs", calls.ring_secs, 0.1, 600.0),
        ("calls.max_secs", calls.max_secs, 0.0, month),
        ("calls.min_secs", calls.min_secs, 0.0, calls.max_secs),
        ("calls.min_lifetime_secs", f64::from(calls.min_lifetime_secs), 1.0, f64::from(calls.max_lifetime_secs)),
        ("limits.dialog_max_life_s", f64::from(scenario.limits.dialog_max_life_s), 1.0, month),
        ("writers.every_secs", scenario.writers.every_secs, 0.001, month),
        ("writers.operator_secs", scenario.writers.operator_secs, 0.001, month),
        ("writers.size", f64::from(scenario.writers.size), 1.0, 1e6),
        ("writers.delete_permille", f64::from(scenario.writers.delete_permille), 0.0, 1_000.0),
    ];
    // Not a number is in no range.
    if let Some((name, value, from, to)) = ranges.iter().find(|(_, value, from, to)| !(*from..=*to).contains(value)) {
        return Err(format!("{name} goes from {from} to {to}, and is {value}"));
    }
    paths(&scenario.net)?;
    if servers.meshed && !scenario.limits.mesh {
        return Err("servers.meshed needs limits.mesh: nodes in mode `bridge` are not told of other servers".to_owned());
    }
    if servers.hostile > 0 && scenario.limits.mesh {
        return Err("servers.hostile and limits.mesh: whoever is in a mesh is believed, so nothing would be promised"
            .to_owned());
    }
    tables(scenario)
}

/// A network that loses more is down, whatever is promised of one that is whole; what is to be cut off is a fault.
const LOSS_MOST: f64 = 500.0;

/// An hour, in microseconds: nothing waits for longer.
const DELAY_MOST: f64 = 3.6e9;

fn paths(net: &NetSpec) -> Result<(), String> {
    for (name, path) in [("site", &net.site), ("wan", &net.wan), ("host", &net.host)] {
        let ranges = [
            ("delay_us", path.delay_us as f64, DELAY_MOST),
            ("jitter_us", path.jitter_us as f64, DELAY_MOST),
            ("loss_permille", f64::from(path.loss_permille), LOSS_MOST),
            ("duplicate_permille", f64::from(path.duplicate_permille), 1_000.0),
            ("reorder_permille", f64::from(path.reorder_permille), 1_000.0),
        ];
        if let Some((key, value, to)) = ranges.iter().find(|(_, value, to)| value > to) {
            return Err(format!("net.{name}.{key} goes from 0 to {to}, and is {value}"));
        }
        if (1..QUIC_MTU).contains(&path.mtu) {
            return Err(format!("net.{name}.mtu is 0 (no limit) or at least {QUIC_MTU}, and is {}", path.mtu));
        }
    }
    Ok(())
}

fn tables(scenario: &Scenario) -> Result<(), String> {
    let limits = &scenario.limits;
    // Where there are no calls no dialog has to be forgotten.
    let dialogs = if scenario.calls.count > 0 { limits.dialog_max_life_s } else { 0 };
    let longest = scenario.htables.values().map(|t| t.max_ttl_s).chain([limits.location_max_ttl_s, dialogs]).max();
    if u64::from(longest.unwrap_or(0)) >= limits.forget_after_s {
        return Err("limits.forget_after_s must be longer than every max_ttl_s and max_life_s (rule 18)".to_owned());
    }
    let counting = scenario.htables.values().filter(|t| t.counter).count();
    if scenario.writers.counts > 0 && counting == 0 {
        return Err("writers.counts needs a table with `counter = true`".to_owned());
    }
    if scenario.writers.keys > 0 && counting == scenario.htables.len() {
        return Err("writers.keys needs a table that does not count".to_owned());
    }
    Ok(())
}
