//! Makes a run smaller that breaks a promise, as long as it goes on breaking the same one.
//!
//! Everything in a script is explicit, and each participant draws from a stream of its own: so whatever is taken away,
//! the others go on doing what they did. Taken away are, in turn, faults, writers, calls, phones, servers, nodes and time; each
//! list by delta debugging (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002): halves,
//! quarters and so on, until no single one can go. All of that again, until nothing changes any more.
//!
//! **Invariant:** what is returned breaks the property that it was asked about, and makes sense ([`crate::replay::check`]).

use std::collections::BTreeSet;

use crate::replay::hosts;
use crate::script::{Entry, FaultKind, Host, NodeIx, Script, ServerIx};
use crate::{Violation, replay};

/// Runs a script and says which promise it broke.
pub type Runner<'a> = &'a mut dyn FnMut(&Script) -> Option<Violation>;

/// What is left.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The smallest script found.
    pub script: Script,
    /// What it breaks.
    pub violation: Violation,
    /// How many runs were made.
    pub runs: u64,
    /// Whether there was time to try everything.
    pub finished: bool,
}

/// Shrinks `script`, which breaks `violation`. `go_on` is asked before every run, and ends it all by answering false.
pub fn shrink(script: Script, violation: Violation, run: Runner<'_>, go_on: &mut dyn FnMut() -> bool) -> Shrunk {
    let mut hunt = Hunt { best: script, violation, runs: 0, out_of_time: false, run, go_on };
    hunt.cut_the_end();
    loop {
        let before = hunt.best.clone();
        hunt.faults();
        hunt.writers();
        hunt.calls();
        hunt.phones();
        hunt.servers();
        hunt.nodes();
        hunt.shorter_faults();
        hunt.cut_the_end();
        hunt.plainer();
        if hunt.out_of_time || hunt.best == before {
            let finished = !hunt.out_of_time;
            return Shrunk { script: hunt.best, violation: hunt.violation, runs: hunt.runs, finished };
        }
    }
}

struct Hunt<'a> {
    best: Script,
    violation: Violation,
    runs: u64,
    out_of_time: bool,
    run: Runner<'a>,
    go_on: &'a mut dyn FnMut() -> bool,
}

impl Hunt<'_> {
    /// Takes a smaller script if it breaks the same promise.
    fn take(&mut self, mut script: Script) -> bool {
        prune(&mut script);
        if script == self.best || self.out_of_time || replay::check(&script).is_err() {
            return false;
        }
        if !(self.go_on)() {
            self.out_of_time = true;
            return false;
        }
        self.runs += 1;
        match (self.run)(&script) {
            Some(violation) if violation.property == self.violation.property => {
                self.best = script;
                self.violation = violation;
                true
            }
            _ => false,
        }
    }

    /// Takes away what can go of one list: first all of it, then halves, quarters, at last one by one.
    fn list<T: Clone>(&mut self, of: fn(&mut Script) -> &mut Vec<T>) {
        let mut all = of(&mut self.best).clone();
        let mut part = all.len();
        while part > 0 && !self.out_of_time {
            let mut from = 0;
            while from < all.len() {
                let to = (from + part).min(all.len());
                let mut script = self.best.clone();
                let rest: Vec<T> = all[..from].iter().chain(&all[to..]).cloned().collect();
                rest.clone_into(of(&mut script));
                if self.take(script) {
                    // Without these, others may have lost their place and gone as well.
                    all.clone_from(of(&mut self.best));
                } else {
                    from = to;
                }
            }
            part /= 2;
        }
    }

    fn faults(&mut self) {
        self.list(|s| &mut s.faults);
    }

    fn writers(&mut self) {
        self.list(|s| &mut s.writers);
    }

    fn calls(&mut self) {
        self.list(|s| &mut s.calls);
    }

    fn phones(&mut self) {
        self.list(|s| &mut s.phones);
    }

    fn servers(&mut self) {
        self.list(|s| &mut s.servers);
    }

    fn nodes(&mut self) {
        self.list(|s| &mut s.nodes);
    }

    /// Nothing that comes after the violation can have caused it, unless it is one of the end.
    fn cut_the_end(&mut self) {
        let at_ms = self.violation.at_us / 1_000;
        let longest = self.best.duration_ms;
        for end in [at_ms + 1, at_ms + 1_000, longest / 8, longest / 4, longest / 2, longest * 3 / 4, longest * 7 / 8] {
            if (1_000..longest).contains(&end) && self.ends_at(end) {
                return;
            }
        }
    }

    fn ends_at(&mut self, end: u64) -> bool {
        let mut script = self.best.clone();
        let longest = script.duration_ms;
        script.duration_ms = end;
        for phone in &mut script.phones {
            phone.stop_ms = phone.stop_ms.map(|stop| stop.min(end));
        }
        script.phones.retain(|p| p.start_ms < end);
        for writer in &mut script.writers {
            writer.stop_ms = writer.stop_ms.min(end);
        }
        script.writers.retain(|w| w.start_ms < w.stop_ms);
        script.calls.retain(|c| c.start_ms < end);
        script.faults.retain(|f| f.at_ms + 1 < end);
        for fault in &mut script.faults {
            // What never comes back goes on not to.
            fault.until_ms = if fault.until_ms > longest { end + 1 } else { fault.until_ms.min(end - 1) };
        }
        self.take(script)
    }

    fn shorter_faults(&mut self) {
        for position in 0..self.best.faults.len() {
            loop {
                let mut script = self.best.clone();
                let ends = script.duration_ms;
                let Some(fault) = script.faults.get_mut(position).filter(|f| f.until_ms <= ends) else { break };
                fault.until_ms = fault.at_ms + (fault.until_ms - fault.at_ms) / 2;
                if fault.until_ms == fault.at_ms || !self.take(script) {
                    break;
                }
            }
        }
    }

    /// Takes away what makes single participants less simple.
    fn plainer(&mut self) {
        let changes: [fn(&mut Script); 12] = [
            |s| s.nodes.iter_mut().for_each(|n| n.clock_drift_ppm = 0),
            |s| s.nodes.iter_mut().for_each(|n| n.clock_offset_ms = 0),
            |s| s.nodes.iter_mut().for_each(|n| n.ack_disk = false),
            |s| s.nodes.iter_mut().for_each(|n| n.site = 0),
            |s| s.servers.iter_mut().for_each(|k| k.reorder_permille = 0),
            |s| s.calls.iter_mut().for_each(|c| c.refreshed = false),
            |s| s.calls.iter_mut().for_each(|c| c.vars = 0),
            |s| s.calls.iter_mut().for_each(|c| c.profile = false),
            |s| s.calls.iter_mut().for_each(|c| c.late = false),
            |s| s.phones.iter_mut().for_each(|p| p.outbound = false),
            |s| s.phones.iter_mut().for_each(|p| p.at.truncate(1)),
            |s| {
                let used: BTreeSet<_> = s.writers.iter().filter_map(|w| w.job.table()).cloned().collect();
                s.htables.retain(|name, _| used.contains(name));
            },
        ];
        for change in changes {
            let mut script = self.best.clone();
            change(&mut script);
            self.take(script);
        }
    }
}

/// Takes away what named somebody who is not there any more.
pub(crate) fn prune(script: &mut Script) {
    let nodes: BTreeSet<_> = script.nodes.iter().map(|n| n.ix).collect();
    script.nodes.iter_mut().for_each(|n| n.join.retain(|ix| nodes.contains(ix)));
    if !connected(script) {
        let first = script.nodes.first().map(|n| n.ix);
        for node in script.nodes.iter_mut().skip(1) {
            node.join.extend(first.filter(|ix| !node.join.contains(ix)));
        }
    }
    // A server on its own would keep for itself what it is told.
    script.servers.retain(|s| s.nodes.is_empty() || s.nodes.iter().any(|ix| nodes.contains(ix)));
    let servers: BTreeSet<_> = script.servers.iter().map(|s| s.ix).collect();
    for server in &mut script.servers {
        server.nodes.retain(|ix| nodes.contains(ix));
        server.peers.retain(|ix| servers.contains(ix));
    }
    names(script, &nodes, &servers);
}

/// Whether the nodes find together by the names that they know.
fn connected(script: &Script) -> bool {
    let mut found: BTreeSet<NodeIx> = script.nodes.iter().take(1).map(|n| n.ix).collect();
    loop {
        let before = found.len();
        for node in &script.nodes {
            if found.contains(&node.ix) || node.join.iter().any(|ix| found.contains(ix)) {
                found.extend(node.join.iter().chain([&node.ix]));
            }
        }
        if found.len() == before {
            return before == script.nodes.len();
        }
    }
}

/// Takes away load and faults that name others than these.
fn names(script: &mut Script, nodes: &BTreeSet<NodeIx>, servers: &BTreeSet<ServerIx>) {
    let there = |host: &Host| match host {
        Host::Node(ix) => nodes.contains(ix),
        Host::Server(ix) => servers.contains(ix),
    };
    let enters = |at: &Entry| match at {
        Entry::Node(ix) => nodes.contains(ix),
        Entry::Server(ix) => servers.contains(ix),
    };
    script.phones.iter_mut().for_each(|p| p.at.retain(enters));
    script.phones.retain(|p| !p.at.is_empty());
    script.writers.retain(|w| enters(&w.at));
    script.calls.retain(|c| nodes.contains(&c.caller) && nodes.contains(&c.callee));
    for fault in &mut script.faults {
        if let FaultKind::Cut { from, to, .. } = &mut fault.kind {
            from.retain(there);
            to.retain(there);
        }
    }
    script.faults.retain(|fault| match &fault.kind {
        FaultKind::Cut { from, to, .. } => !from.is_empty() && !to.is_empty(),
        other => hosts(other).iter().all(there),
    });
}

#[cfg(test)]
mod tests;
