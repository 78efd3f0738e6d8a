//! What a script says about who was disturbed when: the grounds of every exemption.

use node::Mono;

use crate::script::{DiskLoss, Entry, FaultKind, Generation, Host, NodeIx, Script, ServerIx, ServerSpec};

/// Faults, looked up by whom they concern.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    script: Script,
}

impl Facts {
    pub(super) fn new(script: &Script) -> Self {
        Self { script: script.clone() }
    }

    pub(super) const fn script(&self) -> &Script {
        &self.script
    }

    /// Whether a host's process was killed after `from` and not after `to`.
    pub(super) fn killed(&self, host: Host, from: Mono, to: Mono) -> bool {
        self.script.faults.iter().any(|fault| {
            let at = Mono(0).plus_ms(fault.at_ms);
            matches!(fault.kind, FaultKind::Kill { host: whom, .. } if whom == host) && from <= at && at <= to
        })
    }

    /// Whether the kill that is going on at a node means that its disk comes back worse than the node was told, or not
    /// at all. Overlapping kills are one: the worst of them counts.
    pub(super) fn disk_is_harmed(&self, node: NodeIx, now: Mono) -> bool {
        let down = |at_ms: u64, until_ms: u64| Mono(0).plus_ms(at_ms) <= now && now <= Mono(0).plus_ms(until_ms);
        self.script.faults.iter().any(|fault| match fault.kind {
            FaultKind::Kill { host: Host::Node(whom), disk, new_identity } if whom == node => {
                let harm = !matches!(disk, DiskLoss::None | DiskLoss::Tail);
                (harm || new_identity) && down(fault.at_ms, fault.until_ms)
            }
            _ => false,
        })
    }

    /// Whether a node with a 5.6 came back with a disk that lacks what was called fsynced. The last sums that it has told the
    /// server are then not known to be its own: a 5.6 says nothing of when its values were set (docs/kdmq.md 8.3).
    pub(super) fn told_sums_are_lost(&self) -> bool {
        self.script.faults.iter().any(|fault| match fault.kind {
            FaultKind::Kill { host: Host::Node(node), disk, .. } => {
                let quiet = |spec: &ServerSpec| spec.generation == Generation::V5 && spec.nodes.contains(&node);
                matches!(disk, DiskLoss::LostFsync | DiskLoss::Backup | DiskLoss::Torn)
                    && self.script.servers.iter().any(quiet)
            }
            _ => false,
        })
    }

    /// Whether a node of the server of a deed was down at a moment, and came back without what it knew of the server: then it
    /// cannot tell what the server wrote meanwhile from what it never had (docs/operation.md, memory only).
    pub(super) fn node_forgot(&self, at: Entry, when: Mono) -> bool {
        let Entry::Server(server) = at else { return false };
        let nodes = self.nodes_of(server);
        self.script.faults.iter().any(|fault| match fault.kind {
            FaultKind::Kill { host: Host::Node(node), disk, new_identity } if nodes.contains(&node) => {
                let durable = self.script.nodes.iter().any(|spec| spec.ix == node && spec.durable);
                let keeps = durable && matches!(disk, DiskLoss::None | DiskLoss::Tail) && !new_identity;
                let down = Mono(0).plus_ms(fault.at_ms) <= when && when <= Mono(0).plus_ms(fault.until_ms);
                down && !keeps
            }
            _ => false,
        })
    }

    /// Whether any fault that names one of these hosts was active between two moments, or ended up to `after_ms` before.
    pub(super) fn disturbed(&self, hosts: &[Host], from: Mono, to: Mono, after_ms: u64) -> bool {
        self.script.faults.iter().any(|fault| {
            let overlaps = Mono(0).plus_ms(fault.at_ms) <= to && from <= Mono(0).plus_ms(fault.until_ms + after_ms);
            overlaps && hosts.iter().any(|&host| concerns(&fault.kind, host))
        })
    }

    /// How long what a server says over TCP at a moment may take, milliseconds: what does not get through is repeated after longer
    /// and longer pauses, so once more when a fault has been over for as long as it lasted.
    pub(super) fn held_up_ms(&self, server: ServerIx, then: Mono) -> u64 {
        const LONGEST_PAUSE_MS: u64 = 120_000;
        let active = self.script.faults.iter().filter(|fault| {
            concerns(&fault.kind, Host::Server(server)) && fault.at_ms <= then.ms() && then.ms() <= fault.until_ms
        });
        let over = active.map(|fault| fault.until_ms + (fault.until_ms - fault.at_ms).min(LONGEST_PAUSE_MS));
        over.max().map_or(0, |over| over - then.ms())
    }

    /// Whether a node's wall clock may have been off by more than half of the largest tolerated offset at some time between
    /// two moments. Two clocks that both keep to half of it never differ by more than all of it.
    pub(super) fn clock_was_wrong(&self, node: NodeIx, from: Mono, to: Mono) -> bool {
        let Some(spec) = self.script.nodes.iter().find(|spec| spec.ix == node) else { return true };
        let drift_ms = (to.ms() as i64).saturating_mul(i64::from(spec.clock_drift_ppm)) / 1_000_000;
        let jumps = self.script.faults.iter().filter_map(|fault| match fault.kind {
            FaultKind::ClockJump { node: whom, by_ms } if whom == node => {
                // The hybrid clock stays as far ahead as the wall clock was, until that has caught up.
                let until_ms = fault.until_ms.saturating_add_signed(by_ms.max(0));
                let overlaps = Mono(0).plus_ms(fault.at_ms) <= to && from <= Mono(0).plus_ms(until_ms);
                overlaps.then_some(by_ms.unsigned_abs())
            }
            _ => None,
        });
        let most = spec.clock_offset_ms.unsigned_abs() + drift_ms.unsigned_abs() + jumps.sum::<u64>();
        most > self.script.limits.max_skew_ms / 2
    }

    /// Whether a node was away for so long that others stopped waiting for it (R5). What was removed meanwhile is then
    /// forgotten, and a server behind that node that still has it brings it back as something new (R7).
    pub(super) fn somebody_was_given_up(&self) -> bool {
        self.script.faults.iter().any(|fault| {
            let away = matches!(fault.kind, FaultKind::Kill { .. } | FaultKind::Pause { .. } | FaultKind::Cut { .. });
            away && fault.until_ms.saturating_sub(fault.at_ms) >= self.script.limits.forget_after_s * 1_000
        })
    }

    /// The nodes that a server names.
    pub(super) fn nodes_of(&self, server: ServerIx) -> &[NodeIx] {
        self.script.servers.iter().find(|spec| spec.ix == server).map_or(&[], |spec| &spec.nodes)
    }

    /// Whether a deed enters at a node that a hostile server is attached to.
    pub(super) fn believes_hostile(&self, at: Entry) -> bool {
        let mut hostile = self.script.servers.iter().filter(|spec| spec.hostile);
        matches!(at, Entry::Node(node) if hostile.any(|spec| spec.nodes.contains(&node)))
    }

    /// The hosts that a deed passes: the node, or the server and its nodes.
    pub(super) fn way_of(&self, at: Entry) -> Vec<Host> {
        match at {
            Entry::Node(node) => vec![Host::Node(node)],
            Entry::Server(server) => {
                let nodes = self.nodes_of(server).iter().map(|&node| Host::Node(node));
                [Host::Server(server)].into_iter().chain(nodes).collect()
            }
        }
    }

    /// Whether any clock on the way of a deed may have been wrong.
    pub(super) fn wrong_clock_on_the_way(&self, at: Entry, from: Mono, to: Mono) -> bool {
        self.way_of(at).into_iter().any(|host| match host {
            Host::Node(node) => self.clock_was_wrong(node, from, to),
            Host::Server(_) => false,
        })
    }

    /// Whether any clock of a node that a server is attached to was wrong until now.
    pub(super) fn wrong_clock_at_servers(&self, now: Mono) -> bool {
        let mut nodes = self.script.servers.iter().flat_map(|spec| &spec.nodes);
        nodes.any(|&node| self.clock_was_wrong(node, Mono(0), now))
    }

    /// The largest tolerated offset of two clocks, and what rounding to seconds on both sides may add, milliseconds.
    pub(super) const fn tolerance_ms(&self) -> u64 {
        self.script.limits.max_skew_ms + 3_000
    }
}

fn concerns(kind: &FaultKind, host: Host) -> bool {
    match kind {
        FaultKind::Cut { from, to, .. } => from.contains(&host) || to.contains(&host),
        FaultKind::Path { a, b, .. } | FaultKind::Break { a, b } => *a == host || *b == host,
        FaultKind::Kill { host: whom, .. } | FaultKind::Pause { host: whom } => *whom == host,
        FaultKind::Slow { node, .. }
        | FaultKind::ClockJump { node, .. }
        | FaultKind::DiskFails { node }
        | FaultKind::DiskSlow { node, .. }
        | FaultKind::OtherVersion { node }
        | FaultKind::Hostile { node, .. } => Host::Node(*node) == host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::fake::script;
    use crate::script::Fault;

    fn fault(at_ms: u64, until_ms: u64, kind: FaultKind) -> Fault {
        Fault { at_ms, until_ms, kind }
    }

    #[test]
    fn faults_are_found_by_whom_they_concern() {
        let mut script = script(2, 1);
        let kill = FaultKind::Kill { host: Host::Node(1), disk: DiskLoss::Torn, new_identity: false };
        script.faults = vec![
            fault(1_000, 2_000, kill),
            fault(5_000, 6_000, FaultKind::Cut { from: vec![Host::Server(0)], to: vec![Host::Node(0)], both: false }),
            fault(7_000, 8_000, FaultKind::ClockJump { node: 0, by_ms: -60_000 }),
        ];
        let facts = Facts::new(&script);
        let at = |ms| Mono(0).plus_ms(ms);
        assert!(facts.killed(Host::Node(1), at(500), at(1_500)) && !facts.killed(Host::Node(1), at(1_001), at(9_000)));
        assert!(!facts.killed(Host::Node(0), at(0), at(9_000)));
        assert!(!facts.somebody_was_given_up());
        assert!(facts.disk_is_harmed(1, at(1_000)) && !facts.disk_is_harmed(1, at(2_001)));
        assert!(!facts.node_forgot(Entry::Node(1), at(1_500)) && !facts.node_forgot(Entry::Server(0), at(1_500)));
        assert!(facts.disturbed(&[Host::Server(0)], at(6_500), at(6_600), 1_000));
        assert!(!facts.disturbed(&[Host::Server(0)], at(6_500), at(6_600), 0));
        assert!(facts.clock_was_wrong(0, at(7_500), at(7_600)) && !facts.clock_was_wrong(0, at(8_001), at(9_000)));
        assert!(facts.wrong_clock_on_the_way(Entry::Server(0), at(0), at(9_000)));
    }
}
