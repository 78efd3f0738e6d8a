//! What goes wrong in a scenario: how often, for how long, and whom it hits.
//!
//! Each kind of fault has a stream of randomness of its own. What would hit a process that is down or stands still
//! already is left out; cuts may overlap as they like.

mod hits;

use std::collections::BTreeMap;

use rand::RngExt;
use rand::rngs::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use self::hits::Hits;
use super::Scenario;
use super::draw::{ms, stream};
use crate::Script;
use crate::script::{DiskLoss, Fault};

/// A kind of fault, as scenarios name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultName {
    /// Two groups of hosts are cut off from each other; servers go with the node beside them.
    Partition,
    /// Nothing passes from one group to another; back it does.
    OneWay,
    /// The path between two nodes is cut, in one direction or both.
    Link,
    /// The path between a server and a node of its is cut.
    ServerLink,
    /// The path between two nodes is cut and restored again and again.
    Flap,
    /// All paths of a node are cut one by one, and restored in another order.
    Swizzle,
    /// The paths between two hosts lose, double, reorder and delay.
    Loss,
    /// The path between two nodes loses all datagrams that are not small.
    BlackHole,
    /// The sessions between two nodes break, at whatever byte.
    Break,
    /// A node is killed and starts again.
    Crash,
    /// A node is killed, and its disk is not what it was when it starts again.
    CrashDisk,
    /// A node is killed, and another one with an empty disk takes its place.
    Replace,
    /// A node is killed and never comes back: at most one in three, not the first one, and no server's only one.
    Gone,
    /// All nodes are killed and started, one after the other.
    Rolling,
    /// A server is killed and starts empty.
    ServerCrash,
    /// A node stands still.
    Pause,
    /// A server stands still.
    ServerPause,
    /// A node is slow.
    Slow,
    /// A wall clock jumps, and later back.
    ClockJump,
    /// Writing to disk fails.
    DiskFails,
    /// Writing to disk is slow.
    DiskSlow,
    /// A stranger sends what it likes.
    Hostile,
    /// The connections between a server and a node of its break, at whatever byte.
    ServerBreak,
    /// All nodes are killed and started, one after the other, and speak another version of the protocol from then on. Now and
    /// then it is broken off, and those that have it go back.
    Upgrade,
}

impl FaultName {
    /// As a scenario names it.
    fn word(self) -> String {
        let word = toml::Value::try_from(self).ok();
        word.and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// How a partition divides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// The first half, by number, from the second.
    Halves,
    /// One node, with the servers beside it, from all others.
    Isolate,
    /// One server from all others.
    Server,
    /// One site from all others.
    Site,
    /// Each node to a side by chance.
    Random,
    /// As `random`, but one node sees both sides.
    Bridge,
}

/// How often a kind of fault happens, and what it is like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plan {
    /// It happens at these seconds, with every seed.
    pub at: Vec<f64>,
    /// It happens so often a minute beside that, on average.
    pub rate: f64,
    /// It lasts so long, seconds; instead of the next two.
    pub secs: Option<f64>,
    /// It lasts at least so long, seconds.
    pub min_secs: f64,
    /// It lasts at most so long, seconds. Short ones are as frequent as long ones, by magnitude.
    pub max_secs: f64,
    /// How it divides (`partition`, `one-way`); drawn unless given.
    pub shape: Option<Shape>,
    /// How far a clock jumps forward at most, seconds (`clock-jump`).
    pub ahead_secs: f64,
    /// How far a clock jumps backward at most, seconds (`clock-jump`).
    pub back_secs: f64,
    /// What may have become of the disk (`crash-disk`).
    pub losses: Vec<DiskLoss>,
    /// Longest delay that it adds: per input (`slow`, a thousandth of it), per batch (`disk-slow`), per datagram (`loss`),
    /// milliseconds.
    pub delay_ms: u32,
    /// Messages a second at most (`hostile`).
    pub per_second: u32,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            at: Vec::new(),
            rate: 0.0,
            secs: None,
            min_secs: 0.5,
            max_secs: 30.0,
            shape: None,
            ahead_secs: 4.0,
            back_secs: 4.0,
            losses: vec![DiskLoss::Tail, DiskLoss::LostFsync, DiskLoss::Torn, DiskLoss::Backup, DiskLoss::Wiped],
            delay_ms: 200,
            per_second: 50,
        }
    }
}

impl Plan {
    /// Whether the numbers make sense.
    pub(super) fn check(&self, name: FaultName) -> Result<(), String> {
        let (min, max) = self.lasts();
        let positive = [self.rate, min, max, self.ahead_secs, self.back_secs];
        let fits = |v: &f64| v.is_finite() && *v >= 0.0;
        if !positive.iter().chain(&self.at).all(fits) || min > max || self.rate > 60_000.0 {
            return Err(format!(
                "faults.{}: times and rates are not negative, and min_secs is at most max_secs",
                name.word()
            ));
        }
        if name == FaultName::CrashDisk && self.losses.is_empty() {
            return Err("faults.crash-disk: losses is empty".to_owned());
        }
        Ok(())
    }

    fn lasts(&self) -> (f64, f64) {
        self.secs.map_or((self.min_secs, self.max_secs), |secs| (secs, secs))
    }

    /// How long one lasts, milliseconds.
    fn draw_ms(&self, rng: &mut ChaCha8Rng) -> u64 {
        let (min, max) = self.lasts();
        if min == max {
            return ms(min).max(1);
        }
        let (low, high) = (min.max(0.001).ln(), max.max(0.001).ln());
        ms((low + (high - low) * rng.random::<f64>()).exp()).max(1)
    }
}

/// Draws all that goes wrong, in the order of time.
pub(super) fn draw(scenario: &Scenario, script: &Script, seed: u64) -> Vec<Fault> {
    let rates = rates(scenario, seed);
    let mut hits = Hits::new(script);
    for (name, plan) in &scenario.faults {
        let mut rng = stream(seed, ("fault", *name));
        let mut times: Vec<u64> = plan.at.iter().map(|secs| ms(*secs)).collect();
        let planned = times.len();
        times.extend(arrivals(&mut rng, rates[name], script.duration_ms));
        times[planned..].sort_unstable();
        for at in times.into_iter().filter(|at| *at + 1 < script.duration_ms) {
            let until = (at + plan.draw_ms(&mut rng)).min(script.duration_ms - 1);
            hits.add(*name, plan, at, until, &mut rng);
        }
    }
    hits.faults()
}

/// How often each kind happens with this seed, per minute. With `swarm` a kind is on or off and more or less frequent:
/// a bug that needs one kind often is hidden by a little of everything.
fn rates(scenario: &Scenario, seed: u64) -> BTreeMap<FaultName, f64> {
    let mut rng = stream(seed, "swarm");
    let only = rng.random_range(0..8);
    let one = rng.random_range(0..scenario.faults.len().max(1));
    let rate = |(position, (name, plan)): (usize, (&FaultName, &Plan))| {
        let mut own = stream(seed, ("swarm", *name));
        let on = match only {
            0 => false,
            1 => position == one,
            _ => own.random_bool(0.5),
        };
        let factor = (own.random_range(-1.2..=1.2_f64)).exp();
        let rate = match (scenario.swarm, on) {
            (false, _) => plan.rate,
            (true, true) => plan.rate * factor,
            (true, false) => 0.0,
        };
        (*name, rate)
    };
    scenario.faults.iter().enumerate().map(rate).collect()
}

/// Moments at which something happens by chance, so many a minute, milliseconds.
fn arrivals(rng: &mut ChaCha8Rng, per_minute: f64, duration_ms: u64) -> Vec<u64> {
    let mut out = Vec::new();
    if per_minute <= 0.0 {
        return out;
    }
    let mut at = 0.0;
    loop {
        // The time between two such events is exponential.
        at += -(1.0 - rng.random::<f64>()).ln() * 60_000.0 / per_minute;
        if at >= duration_ms as f64 {
            return out;
        }
        out.push(at as u64);
    }
}
