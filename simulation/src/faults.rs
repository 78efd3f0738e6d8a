//! What goes wrong: each fault of the script begins and ends at its times, and takes back exactly what it did.

use node::Mono;

use crate::coverage::Sometimes;
use crate::hostile::Hostile;
use crate::queue::{At, Event};
use crate::rng::{Rng, Stream};
use crate::script::{DiskLoss, FaultKind, Host, NodeIx};
use crate::world::World;

/// A stranger's message is under way for so long, microseconds.
const STRANGE_US: u64 = 500;

impl World {
    /// A fault of the script begins.
    pub(crate) fn fault_begins(&mut self, index: u32) {
        let fault = self.script.faults[index as usize].clone();
        self.active[index as usize] = true;
        if self.options.log {
            self.line("fault".to_owned(), format!("{index} begins: {:?}", fault.kind));
        }
        self.apply(index, &fault.kind);
        if fault.until_ms <= fault.at_ms {
            self.fault_ends(index);
        } else if !self.is_for_good(index) {
            self.queue.post(Mono(0).plus_ms(fault.until_ms), Event::FaultOver(index));
        }
    }

    /// Whether it is a process that never comes back.
    fn is_for_good(&self, index: u32) -> bool {
        let fault = &self.script.faults[index as usize];
        matches!(fault.kind, FaultKind::Kill { .. }) && fault.until_ms > self.script.duration_ms
    }

    /// A fault of the script is over, if it goes on.
    pub(crate) fn fault_ends(&mut self, index: u32) {
        if !std::mem::take(&mut self.active[index as usize]) {
            return;
        }
        let kind = self.script.faults[index as usize].kind.clone();
        if self.options.log {
            self.line("fault".to_owned(), format!("{index} is over"));
        }
        self.revert(index, &kind);
    }

    /// Ends all faults but a process that never comes back.
    pub(crate) fn end_all_faults(&mut self) {
        for index in 0..self.active.len() as u32 {
            if !self.is_for_good(index) {
                self.fault_ends(index);
            }
        }
    }

    /// Does what a fault does, under a number.
    pub(crate) fn apply(&mut self, number: u32, kind: &FaultKind) {
        match kind {
            FaultKind::Cut { from, to, both } => self.each_pair(from, to, *both, |net, from, to| net.cut(from, to)),
            FaultKind::Path { a, b, path } => {
                let (from, to) = ([*a], [*b]);
                self.each_pair(&from, &to, true, |net, from, to| net.change(from, to, number, *path));
            }
            FaultKind::Break { a, b } => {
                if let (Some(a), Some(b)) = (self.at(*a), self.at(*b)) {
                    if self.is_node(a) && self.is_node(b) {
                        self.break_sessions(a, b);
                    }
                    self.tcp_break(a, b);
                }
            }
            FaultKind::Kill { host, disk, new_identity } => self.kill(number, *host, *disk, *new_identity),
            FaultKind::Pause { host } => self.pause(number, *host),
            FaultKind::Slow { node, us } => self.node_of(*node, |host| host.slow.push((number, *us))),
            FaultKind::ClockJump { node, by_ms } => self.jump(*node, *by_ms),
            FaultKind::DiskFails { node } => self.node_of(*node, |host| host.disk.failing += 1),
            FaultKind::DiskSlow { node, ms } => self.node_of(*node, |host| host.disk.slow.push((number, *ms))),
            FaultKind::OtherVersion { node } => self.node_of(*node, |host| host.other_version += 1),
            FaultKind::Hostile { .. } => {
                let rng = Rng::stream(self.script.seed, Stream::Hostile, u64::from(number));
                self.strangers.insert(number, Hostile::new(rng));
                self.queue.post(self.now, Event::Hostile(number));
            }
        }
    }

    /// Takes back what a fault did.
    pub(crate) fn revert(&mut self, number: u32, kind: &FaultKind) {
        match kind {
            FaultKind::Cut { from, to, both } => self.each_pair(from, to, *both, |net, from, to| net.mend(from, to)),
            FaultKind::Path { a, b, .. } => {
                let (from, to) = ([*a], [*b]);
                self.each_pair(&from, &to, true, |net, from, to| net.restore(from, to, number));
            }
            FaultKind::Break { .. } => {}
            FaultKind::Kill { host, .. } => self.revive(number, *host),
            FaultKind::Pause { host } => self.resume(number, *host),
            FaultKind::Slow { node, .. } => self.node_of(*node, |host| host.slow.retain(|(by, _)| *by != number)),
            FaultKind::ClockJump { node, by_ms } => self.jump(*node, -by_ms),
            FaultKind::DiskFails { node } => self.node_of(*node, |host| host.disk.failing -= 1),
            FaultKind::DiskSlow { node, .. } => {
                self.node_of(*node, |host| host.disk.slow.retain(|(by, _)| *by != number));
            }
            FaultKind::OtherVersion { node } => self.node_of(*node, |host| host.other_version -= 1),
            FaultKind::Hostile { .. } => drop(self.strangers.remove(&number)),
        }
    }

    /// Does something to the paths between each of `from` and each of `to`, and to the sessions on them.
    fn each_pair(&mut self, from: &[Host], to: &[Host], both: bool, act: impl Fn(&mut crate::net::Net, At, At)) {
        for &from in from {
            for &to in to {
                let (Some(from), Some(to)) = (self.at(from), self.at(to)) else { continue };
                if from == to {
                    continue;
                }
                act(&mut self.net, from, to);
                if both {
                    act(&mut self.net, to, from);
                }
                if self.is_node(from) && self.is_node(to) {
                    self.paths_changed(from, to);
                }
            }
        }
    }

    fn node_of(&mut self, ix: NodeIx, act: impl FnOnce(&mut crate::host::NodeHost)) {
        if let Some(at) = self.at(Host::Node(ix)) {
            act(&mut self.nodes[usize::from(at)]);
        }
    }

    fn jump(&mut self, ix: NodeIx, by_ms: i64) {
        if by_ms < 0 {
            self.saw(Sometimes::ClockBack);
        }
        self.node_of(ix, |host| host.clock.jump_ms = host.clock.jump_ms.saturating_add(by_ms));
    }

    fn kill(&mut self, number: u32, host: Host, disk: DiskLoss, new_identity: bool) {
        let Some(at) = self.at(host) else { return };
        if self.is_node(at) {
            self.nodes[usize::from(at)].killed.push(number);
            self.kill_node(at, disk, new_identity);
        } else {
            let first = self.nodes.len();
            self.servers[usize::from(at) - first].killed.push(number);
            self.kill_server(at);
        }
    }

    fn revive(&mut self, number: u32, host: Host) {
        let Some(at) = self.at(host) else { return };
        let now = self.now;
        if self.is_node(at) {
            let host = &mut self.nodes[usize::from(at)];
            host.killed.retain(|by| *by != number);
            if host.lives > 0 || now.ms() >= host.spec.start_ms {
                self.start_node(at);
            }
        } else {
            let first = self.nodes.len();
            let host = &mut self.servers[usize::from(at) - first];
            host.killed.retain(|by| *by != number);
            if host.lives > 0 || now.ms() >= host.spec.start_ms {
                self.start_server(at);
            }
        }
    }

    fn pause(&mut self, number: u32, host: Host) {
        let Some(at) = self.at(host) else { return };
        let now = self.now;
        if !self.is_node(at) {
            let first = self.nodes.len();
            let host = &mut self.servers[usize::from(at) - first];
            if host.process.is_some() {
                host.paused.push(number);
            }
            return;
        }
        let host = &mut self.nodes[usize::from(at)];
        if host.node.is_none() {
            return;
        }
        if host.paused.is_empty() {
            host.paused_at = now;
        }
        host.paused.push(number);
        self.host_changed(at);
    }

    fn resume(&mut self, number: u32, host: Host) {
        let Some(at) = self.at(host) else { return };
        let (now, idle) = (self.now, self.idle_ms());
        let first = self.nodes.len();
        let is_node = self.is_node(at);
        let paused = match is_node {
            true => &mut self.nodes[usize::from(at)].paused,
            false => &mut self.servers[usize::from(at) - first].paused,
        };
        let before = paused.len();
        paused.retain(|by| *by != number);
        if paused.len() == before || !paused.is_empty() {
            return;
        }
        if is_node {
            let host = &mut self.nodes[usize::from(at)];
            host.ready = true;
            if now.ms_since(host.paused_at) > idle {
                self.saw(Sometimes::Paused);
            }
            self.host_changed(at);
        }
        self.queue.post(now, Event::Ready(at));
    }

    /// A hostile sender acts, and plans its next message.
    pub(crate) fn hostile(&mut self, number: u32) {
        let Some(FaultKind::Hostile { node, per_s }) =
            self.script.faults.get(number as usize).map(|fault| fault.kind.clone())
        else {
            return;
        };
        let (Some(to), now) = (self.at(Host::Node(node)), self.now) else { return };
        let target = self.sip_of(to);
        let Some(stranger) = self.strangers.get_mut(&number) else { return };
        let (from, bytes) = stranger.message(target);
        self.queue.post(Mono(now.0 + STRANGE_US), Event::Strange { from, to, bytes });
        self.queue.post(Mono(now.0 + 1_000_000 / u64::from(per_s.max(1))), Event::Hostile(number));
    }
}
