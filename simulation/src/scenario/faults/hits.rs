//! Whom a fault hits, and what it is then.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::rngs::ChaCha8Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::{FaultName, Plan, Shape};
use crate::Script;
use crate::script::{DiskLoss, Fault, FaultKind, Host, NodeIx, PathSpec, ServerIx};

/// A path that passes small datagrams only: pings do, data do not.
const BLACK_HOLE_MTU: u32 = 600;

/// The faults of a run as they come together.
pub(super) struct Hits<'a> {
    script: &'a Script,
    faults: Vec<Fault>,
    /// How many nodes never come back.
    gone: usize,
    /// When a process is down or stands still.
    down: BTreeMap<Host, Vec<(u64, u64)>>,
}

impl<'a> Hits<'a> {
    pub(super) fn new(script: &'a Script) -> Self {
        Self { script, faults: Vec::new(), gone: 0, down: BTreeMap::new() }
    }

    /// In the order of time.
    pub(super) fn faults(mut self) -> Vec<Fault> {
        self.faults.sort_by_key(|f| (f.at_ms, f.until_ms));
        self.faults
    }

    /// Draws one of this kind; none, if there is nobody whom it could hit.
    pub(super) fn add(&mut self, name: FaultName, plan: &Plan, at: u64, until: u64, rng: &mut ChaCha8Rng) {
        let _nobody_to_hit: Option<()> = match name {
            FaultName::Partition => self.divide(plan, at, until, true, rng),
            FaultName::OneWay => self.divide(plan, at, until, false, rng),
            FaultName::Link => self.link(at, until, rng),
            FaultName::ServerLink => self.server_link(at, until, rng),
            FaultName::Flap => self.flap(at, until, rng),
            FaultName::Swizzle => self.swizzle(at, until, rng),
            FaultName::Loss | FaultName::BlackHole => self.path(name, plan, at, until, rng),
            FaultName::Break => self.two_nodes(rng).map(|(a, b)| self.push(at, at, FaultKind::Break { a, b })),
            FaultName::ServerBreak => self.attached(rng).map(|(a, b)| self.push(at, at, FaultKind::Break { a, b })),
            FaultName::Crash | FaultName::CrashDisk | FaultName::Replace => self.crash(name, plan, at, until, rng),
            FaultName::Gone => self.gone(at, rng),
            FaultName::Rolling => self.rolling(plan, at, rng),
            FaultName::Upgrade => self.upgrade(plan, at, rng),
            FaultName::ServerCrash => self.a_server(rng).and_then(|host| self.kill(host, at, until, DiskLoss::None)),
            FaultName::Pause => self.a_node(rng).and_then(|ix| self.pause(Host::Node(ix), at, until)),
            FaultName::ServerPause => self.a_server(rng).and_then(|host| self.pause(host, at, until)),
            FaultName::Slow => self.a_node(rng).map(|node| {
                let us = rng.random_range(1..=u64::from(plan.delay_ms).max(1));
                self.push(at, until, FaultKind::Slow { node, us });
            }),
            FaultName::ClockJump => self.jump(plan, at, until, rng),
            FaultName::DiskFails => {
                self.a_durable_node(rng).map(|node| self.push(at, until, FaultKind::DiskFails { node }))
            }
            FaultName::DiskSlow => self.a_durable_node(rng).map(|node| {
                let ms = rng.random_range(1..=u64::from(plan.delay_ms).max(1));
                self.push(at, until, FaultKind::DiskSlow { node, ms });
            }),
            FaultName::Hostile => self.a_node(rng).map(|node| {
                let per_s = rng.random_range(1..=plan.per_second.max(1));
                self.push(at, until, FaultKind::Hostile { node, per_s });
            }),
        };
    }

    fn push(&mut self, at_ms: u64, until_ms: u64, kind: FaultKind) {
        self.faults.push(Fault { at_ms, until_ms, kind });
    }

    fn a_node(&self, rng: &mut ChaCha8Rng) -> Option<NodeIx> {
        self.script.nodes.choose(rng).map(|n| n.ix)
    }

    fn a_durable_node(&self, rng: &mut ChaCha8Rng) -> Option<NodeIx> {
        let durable: Vec<_> = self.script.nodes.iter().filter(|n| n.durable).map(|n| n.ix).collect();
        durable.choose(rng).copied()
    }

    fn a_server(&self, rng: &mut ChaCha8Rng) -> Option<Host> {
        self.script.servers.choose(rng).map(|s| Host::Server(s.ix))
    }

    fn two_nodes(&self, rng: &mut ChaCha8Rng) -> Option<(Host, Host)> {
        let a = self.a_node(rng)?;
        let others: Vec<_> = self.script.nodes.iter().map(|n| n.ix).filter(|ix| *ix != a).collect();
        others.choose(rng).map(|b| (Host::Node(a), Host::Node(*b)))
    }

    /// A server and a node that it names.
    fn attached(&self, rng: &mut ChaCha8Rng) -> Option<(Host, Host)> {
        let server = self.script.servers.choose(rng)?;
        server.nodes.choose(rng).map(|node| (Host::Server(server.ix), Host::Node(*node)))
    }

    /// The nodes of one side with the servers beside them.
    fn with_servers(&self, side: &[NodeIx]) -> Vec<Host> {
        let count = self.script.nodes.len() as ServerIx;
        let beside = self.script.servers.iter().map(|s| s.ix).filter(|ix| side.contains(&(ix % count)));
        side.iter().map(|ix| Host::Node(*ix)).chain(beside.map(Host::Server)).collect()
    }

    fn divide(&mut self, plan: &Plan, at: u64, until: u64, both: bool, rng: &mut ChaCha8Rng) -> Option<()> {
        let all: Vec<NodeIx> = self.script.nodes.iter().map(|n| n.ix).collect();
        let drawn = [Shape::Halves, Shape::Isolate, Shape::Random, Shape::Bridge, Shape::Site].choose(rng).copied();
        let shape = plan.shape.or(drawn)?;
        let (from, to) = match shape {
            Shape::Server => {
                let Some(Host::Server(one)) = self.a_server(rng) else { return None };
                let others = self.script.servers.iter().map(|s| s.ix).filter(|ix| *ix != one).map(Host::Server);
                (vec![Host::Server(one)], others.chain(all.iter().map(|ix| Host::Node(*ix))).collect())
            }
            _ => {
                let (one, other) = self.sides(shape, &all, rng)?;
                (self.with_servers(&one), self.with_servers(&other))
            }
        };
        let (from, to) = if rng.random_bool(0.5) { (from, to) } else { (to, from) };
        self.push(at, until, FaultKind::Cut { from, to, both });
        Some(())
    }

    fn sides(&self, shape: Shape, all: &[NodeIx], rng: &mut ChaCha8Rng) -> Option<(Vec<NodeIx>, Vec<NodeIx>)> {
        let sites: Vec<u16> = self.script.nodes.iter().map(|n| n.site).collect();
        let site = *sites.choose(rng)?;
        let alone = *all.choose(rng)?;
        let mut order = all.to_vec();
        order.shuffle(rng);
        let middle = if shape == Shape::Bridge { order.pop() } else { None };
        let part = rng.random_range(1..order.len().max(2)).min(order.len());
        let one: Vec<NodeIx> = match shape {
            Shape::Halves => all[..all.len() / 2].to_vec(),
            Shape::Isolate | Shape::Server => vec![alone],
            Shape::Site => self.script.nodes.iter().filter(|n| n.site == site).map(|n| n.ix).collect(),
            Shape::Random | Shape::Bridge => order[..part].to_vec(),
        };
        let other: Vec<_> = all.iter().copied().filter(|ix| !one.contains(ix) && Some(*ix) != middle).collect();
        (!one.is_empty() && !other.is_empty()).then_some((one, other))
    }

    fn link(&mut self, at: u64, until: u64, rng: &mut ChaCha8Rng) -> Option<()> {
        let (a, b) = self.two_nodes(rng)?;
        let both = rng.random_bool(0.6);
        self.push(at, until, FaultKind::Cut { from: vec![a], to: vec![b], both });
        Some(())
    }

    fn server_link(&mut self, at: u64, until: u64, rng: &mut ChaCha8Rng) -> Option<()> {
        let (server, node) = self.attached(rng)?;
        let (from, to) = if rng.random_bool(0.5) { (server, node) } else { (node, server) };
        let both = rng.random_bool(0.6);
        self.push(at, until, FaultKind::Cut { from: vec![from], to: vec![to], both });
        Some(())
    }

    fn flap(&mut self, at: u64, until: u64, rng: &mut ChaCha8Rng) -> Option<()> {
        let (a, b) = self.two_nodes(rng)?;
        let longest = rng.random_range(20..=5_000_u64);
        let mut down = at;
        while down < until {
            let up = (down + rng.random_range(1..=longest)).min(until);
            let both = rng.random_bool(0.7);
            self.push(down, up, FaultKind::Cut { from: vec![a], to: vec![b], both });
            down = up + rng.random_range(1..=longest);
        }
        Some(())
    }

    fn swizzle(&mut self, at: u64, until: u64, rng: &mut ChaCha8Rng) -> Option<()> {
        let node = self.a_node(rng)?;
        let others = self.script.nodes.iter().map(|n| Host::Node(n.ix)).filter(|h| *h != Host::Node(node));
        let servers = self.script.servers.iter().filter(|s| s.nodes.contains(&node)).map(|s| Host::Server(s.ix));
        let mut others: Vec<Host> = others.chain(servers).collect();
        others.shuffle(rng);
        let count = others.len() as u64;
        let cuts: Vec<u64> = (0..count).map(|n| at + (until - at) / 3 * n / count.max(1)).collect();
        let mut restores: Vec<u64> = (0..count).map(|n| until - (until - at) / 3 * n / count.max(1)).collect();
        restores.shuffle(rng);
        for ((other, cut), restored) in others.into_iter().zip(cuts).zip(restores) {
            let kind = FaultKind::Cut { from: vec![Host::Node(node)], to: vec![other], both: true };
            self.push(cut, restored, kind);
        }
        Some(())
    }

    fn path(&mut self, name: FaultName, plan: &Plan, at: u64, until: u64, rng: &mut ChaCha8Rng) -> Option<()> {
        let (a, b) = if rng.random_bool(0.3) { self.attached(rng) } else { None }.or_else(|| self.two_nodes(rng))?;
        let nothing = PathSpec {
            delay_us: 1_000,
            jitter_us: 500,
            loss_permille: 0,
            duplicate_permille: 0,
            reorder_permille: 0,
            bytes_per_s: 0,
            mtu: 0,
        };
        let path = match name {
            FaultName::BlackHole => PathSpec { mtu: BLACK_HOLE_MTU, ..nothing },
            _ => PathSpec {
                delay_us: rng.random_range(100..=u64::from(plan.delay_ms) * 1_000 + 100),
                jitter_us: rng.random_range(0..=u64::from(plan.delay_ms) * 500),
                loss_permille: rng.random_range(0..=400),
                duplicate_permille: rng.random_range(0..=200),
                reorder_permille: rng.random_range(0..=300),
                bytes_per_s: if rng.random_bool(0.2) { rng.random_range(20_000..=1_000_000) } else { 0 },
                mtu: 0,
            },
        };
        self.push(at, until, FaultKind::Path { a, b, path });
        Some(())
    }

    fn crash(&mut self, name: FaultName, plan: &Plan, at: u64, until: u64, rng: &mut ChaCha8Rng) -> Option<()> {
        let ix = if name == FaultName::CrashDisk { self.a_durable_node(rng)? } else { self.a_node(rng)? };
        let disk = match name {
            FaultName::CrashDisk => *plan.losses.choose(rng)?,
            FaultName::Replace => DiskLoss::Wiped,
            _ => DiskLoss::None,
        };
        let durable = self.script.nodes.iter().any(|n| n.ix == ix && n.durable);
        let disk = if durable { disk } else { DiskLoss::None };
        // Without a disk there is nothing to remember an identity with.
        let new_identity = name == FaultName::Replace || !durable;
        self.free(Host::Node(ix), at, until)?;
        self.push(at, until, FaultKind::Kill { host: Host::Node(ix), disk, new_identity });
        Some(())
    }

    fn gone(&mut self, at: u64, rng: &mut ChaCha8Rng) -> Option<()> {
        // A server without any node would keep for itself what it is told.
        let only = |ix: NodeIx| self.script.servers.iter().any(|s| s.nodes == [ix]);
        let others: Vec<_> = self.script.nodes.iter().skip(1).map(|n| n.ix).filter(|ix| !only(*ix)).collect();
        let host = Host::Node(*others.choose(rng)?);
        // Beyond the end there is nothing that it could come back for.
        let never = self.script.duration_ms + 1;
        if self.gone >= self.script.nodes.len() / 3 {
            return None;
        }
        self.free(host, at, never)?;
        self.gone += 1;
        self.push(at, never, FaultKind::Kill { host, disk: DiskLoss::None, new_identity: false });
        Some(())
    }

    fn kill(&mut self, host: Host, at: u64, until: u64, disk: DiskLoss) -> Option<()> {
        self.free(host, at, until)?;
        self.push(at, until, FaultKind::Kill { host, disk, new_identity: false });
        Some(())
    }

    fn rolling(&mut self, plan: &Plan, at: u64, rng: &mut ChaCha8Rng) -> Option<()> {
        let all: Vec<NodeIx> = self.script.nodes.iter().map(|n| n.ix).collect();
        self.restart_each(&all, plan, at, rng);
        Some(())
    }

    /// Restarts nodes one after the other; which of them were, and when, and when all was over.
    fn restart_each(
        &mut self,
        nodes: &[NodeIx],
        plan: &Plan,
        at: u64,
        rng: &mut ChaCha8Rng,
    ) -> (Vec<(NodeIx, u64)>, u64) {
        let (mut from, mut restarted) = (at, Vec::new());
        for ix in nodes {
            let until = from + plan.draw_ms(rng);
            let host = Host::Node(*ix);
            if until < self.script.duration_ms && self.free(host, from, until).is_some() {
                let durable = self.script.nodes.iter().any(|n| n.ix == *ix && n.durable);
                self.push(from, until, FaultKind::Kill { host, disk: DiskLoss::None, new_identity: !durable });
                restarted.push((*ix, from));
            }
            // The next one when this one is ready again, as docs/operation.md asks for.
            from = until + rng.random_range(2_000..5_000);
        }
        (restarted, from)
    }

    fn upgrade(&mut self, plan: &Plan, at: u64, rng: &mut ChaCha8Rng) -> Option<()> {
        let all: Vec<NodeIx> = self.script.nodes.iter().map(|n| n.ix).collect();
        let so_far = if rng.random_bool(0.7) { all.len() } else { rng.random_range(1..=all.len()) };
        let (mut upgraded, mut over) = self.restart_each(&all[..so_far], plan, at, rng);
        let mut back = BTreeMap::new();
        if upgraded.len() < all.len() {
            let nodes: Vec<NodeIx> = upgraded.iter().map(|(ix, _)| *ix).collect();
            let (again, end) = self.restart_each(&nodes, plan, over, rng);
            (back, over) = (again.into_iter().collect(), end);
        }
        let last = self.script.duration_ms - 1;
        for (node, from) in upgraded.drain(..) {
            let until = back.get(&node).copied().unwrap_or(over).min(last);
            self.push(from, until, FaultKind::OtherVersion { node });
        }
        Some(())
    }

    fn pause(&mut self, host: Host, at: u64, until: u64) -> Option<()> {
        self.free(host, at, until)?;
        self.push(at, until, FaultKind::Pause { host });
        Some(())
    }

    fn jump(&mut self, plan: &Plan, at: u64, until: u64, rng: &mut ChaCha8Rng) -> Option<()> {
        let node = self.a_node(rng)?;
        let forward = rng.random_bool(0.5);
        let most = if forward { plan.ahead_secs } else { plan.back_secs };
        // By magnitude: what matters is on both sides of the tolerated offset.
        let by = ((most * 1_000.0).max(1.0).ln() * rng.random::<f64>()).exp() as i64;
        self.push(at, until, FaultKind::ClockJump { node, by_ms: if forward { by } else { -by } });
        Some(())
    }

    /// Takes a process for this time, with a second between two such faults; `None` if it is taken, or not there yet.
    fn free(&mut self, host: Host, at: u64, until: u64) -> Option<()> {
        let started = match host {
            Host::Node(ix) => self.script.nodes.iter().find(|n| n.ix == ix).map(|n| n.start_ms),
            Host::Server(ix) => self.script.servers.iter().find(|s| s.ix == ix).map(|s| s.start_ms),
        };
        if at <= started? {
            return None;
        }
        let taken = self.down.entry(host).or_default();
        if taken.iter().any(|(from, to)| at <= *to + 1_000 && *from <= until + 1_000) {
            return None;
        }
        taken.push((at, until));
        Some(())
    }
}
