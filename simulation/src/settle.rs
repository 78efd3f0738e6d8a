//! After the faults: when everybody is equal, and the end of the run.

use foldhash::fast::FixedState;
use hashbrown::HashSet;
use std::hash::BuildHasher;

use crdt::{Replica, Wall, counter};
use node::{Mono, Now};
use tables::htable;
use tables::location::{self, Contact, Member};

use crate::clock::true_wall;
use crate::coverage::Sometimes;
use crate::host::{NodeHost, host_now};
use crate::invariants::Moment;
use crate::kamailio::Kamailio;
use crate::queue::{At, Event};
use crate::script::{Host, ServerIx};
use crate::server::{ServerHost, server_addr};
use crate::world::{Phase, World};

/// Between two comparisons, milliseconds: where nodes differ, which is quickly seen, and where servers do, which is not.
const COMPARE_MS: u64 = 100;
const COMPARE_SERVERS_MS: u64 = 500;

/// How long the run goes on once all are equal, milliseconds: so that what is left over shows.
const QUIET_MS: u64 = 3_000;

/// What somebody shows, as sums of hashes that do not depend on an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    contacts: (u64, u64),
    entries: (u64, u64),
}

const HASH: FixedState = FixedState::with_seed(7);

impl Shown {
    fn contact(&mut self, aor: &[u8], uri: &[u8]) {
        add(&mut self.contacts, HASH.hash_one((aor, uri)));
    }

    fn entry(&mut self, table: &str, key: &[u8], value: &htable::Value<'_>) {
        let value = match value {
            htable::Value::Int(int) => HASH.hash_one(int),
            htable::Value::Str(text) => HASH.hash_one(&text[..]),
        };
        add(&mut self.entries, HASH.hash_one((table, key, value)));
    }

    /// What a node shows of what a server can have, of contacts what lives beyond `both`. `counts` says whether a table counts, if
    /// servers have it at all.
    fn of_node(replica: &Replica, now: Wall, both: Wall, counts: impl Fn(&str) -> Option<bool>) -> Self {
        let mut shown = Self::default();
        let mut counted = HashSet::with_hasher(HASH);
        let until = |table: &str| if table == location::TABLE { both } else { now };
        for (_, cell) in replica.scan(None, usize::MAX).filter(|(_, cell)| cell.is_live(until(cell.table))) {
            let Some(body) = cell.body else { continue };
            if cell.table == location::TABLE {
                let device = location::parse_member(cell.member) == Member::Device;
                if let Some(contact) = device.then(|| Contact::decode(body, cell.member).ok()).flatten() {
                    shown.contact(cell.key, &contact.uri);
                }
            } else if let Some((name, counts)) = htable::name(cell.table).and_then(|name| Some((name, counts(name)?))) {
                if !counts {
                    if let Ok(value) = htable::Value::decode(body) {
                        shown.entry(name, cell.key, &value);
                    }
                } else if counted.insert((name.to_owned(), cell.key.to_vec()))
                    && let Some(value) = counter::value(replica, cell.table, cell.key, now).filter(|value| *value != 0)
                {
                    // Servers count in 32 bits, and are told the nearest.
                    let told = value.clamp(i32::MIN.into(), i32::MAX.into());
                    shown.entry(name, cell.key, &htable::Value::Int(told));
                }
            }
        }
        shown
    }

    /// What a server shows, of contacts what lives beyond `both`.
    fn of_server(server: &Kamailio, now: Now, both: Wall, counts: impl Fn(&str) -> Option<bool>) -> Self {
        let mut shown = Self::default();
        for held in server.contacts(Now { wall: both, ..now }) {
            shown.contact(held.aor, &held.contact.uri);
        }
        for entry in server.entries(now) {
            // A counter that nobody has counted and one that is 0 are the same.
            if matches!(entry.value, htable::Value::Int(0)) && counts(entry.table) == Some(true) {
                continue;
            }
            shown.entry(entry.table, entry.key, entry.value);
        }
        shown
    }
}

fn add((sum, number): &mut (u64, u64), hash: u64) {
    *sum = sum.wrapping_add(hash);
    *number += 1;
}

impl World {
    /// Load and faults are over.
    pub(crate) fn calm(&mut self) {
        self.phase = Phase::Calm;
        self.end_all_faults();
        self.servers.iter_mut().filter_map(|host| host.process.as_mut()).for_each(Kamailio::calm);
        if self.options.log {
            self.line("world".to_owned(), "load and faults are over".to_owned());
        }
        self.tell(Moment::Calm);
        self.end_at = self.now.plus_ms(self.script.settle_ms);
        self.queue.post(self.end_at, Event::End);
        self.queue.post(self.now.plus_ms(COMPARE_MS), Event::Compare);
    }

    /// Looks whether everybody is equal.
    pub(crate) fn compare(&mut self) {
        if self.phase != Phase::Calm {
            return;
        }
        if self.nodes_differ().is_some() {
            return self.queue.post(self.now.plus_ms(COMPARE_MS), Event::Compare);
        }
        if self.servers_differ().is_some() {
            return self.queue.post(self.now.plus_ms(COMPARE_SERVERS_MS), Event::Compare);
        }
        let after = self.now.ms() - self.script.duration_ms;
        self.phase = Phase::Equal;
        self.equal_after_ms = Some(after);
        if self.options.log {
            self.line("world".to_owned(), format!("everybody is equal after {after} ms"));
        }
        if !self.script.faults.is_empty() {
            self.saw(Sometimes::EqualAfterCalm);
        }
        self.tell(Moment::Equal);
        self.end_at = self.now.plus_ms(QUIET_MS);
        self.queue.post(self.end_at, Event::End);
    }

    /// The run is over, unless somebody has something to say once more: a server may still be repeating what was lost.
    pub(crate) fn end(&mut self) {
        if self.now < self.end_at {
            return;
        }
        let different = self.difference();
        let limit = Mono(0).plus_ms(self.script.duration_ms + self.script.settle_ms);
        if self.phase == Phase::Equal && different.is_some() && self.now < limit {
            self.end_at = self.now.plus_ms(COMPARE_SERVERS_MS);
            return self.queue.post(self.end_at, Event::End);
        }
        let equal = self.phase == Phase::Equal && different.is_none();
        if self.options.log
            && let Some(what) = different
        {
            self.line("world".to_owned(), what);
        }
        self.tell(Moment::End { equal });
        self.phase = Phase::Over;
    }

    /// Whether all nodes that run hold the same, and their servers with them.
    pub(crate) fn all_equal(&self) -> bool {
        self.difference().is_none()
    }

    /// Who differs from whom, in words; the first that is found.
    pub(crate) fn difference(&self) -> Option<String> {
        self.nodes_differ().or_else(|| self.servers_differ())
    }

    /// What ends by some clocks and not by others is left out.
    fn nodes_differ(&self) -> Option<String> {
        let running = || self.nodes.iter().filter_map(|host| Some((host, host.node.as_ref()?)));
        let latest = running().map(|(host, _)| host.clock.wall(self.now).secs()).max()?;
        let sums: Vec<_> = running().map(|(host, node)| (&host.name, node.replica().digest_beyond(latest))).collect();
        let pair = sums.windows(2).find(|pair| pair[0].1 != pair[1].1)?;
        let [(one, (_, a)), (other, (_, b))] = [pair[0], pair[1]];
        Some(format!("{one} holds {a} live cells, {other} {b}, and they are not the same"))
    }

    fn servers_differ(&self) -> Option<String> {
        let compared: Vec<(&ServerHost, At)> =
            self.servers.iter().filter_map(|host| self.compared_with(host)).collect();
        // Hostile servers are told as well, if they answer; what they show is their affair.
        if let Some(host) = self.nodes.iter().find(|host| self.feeds(host)) {
            return Some(format!("{} still has something to tell its servers", host.name));
        }
        if let Some((host, server)) = self.nodes.iter().find_map(|host| Some((host, self.misses(host, &compared)?))) {
            return Some(format!("{} hears nothing of k{server}", host.name));
        }
        let mut by_node: Vec<(At, Shown)> = Vec::new();
        compared.iter().find_map(|(host, at)| self.server_differs(host, *at, &mut by_node))
    }

    fn server_differs(&self, host: &ServerHost, at: At, by_node: &mut Vec<(At, Shown)>) -> Option<String> {
        let now = Now { mono: self.now, wall: true_wall(self.now) };
        let both = now.wall.max(self.nodes[usize::from(at)].clock.wall(self.now));
        let known = by_node.iter().find(|(of, _)| *of == at).map(|(_, shown)| *shown);
        let node = known.unwrap_or_else(|| self.shown_by(at, both));
        if known.is_none() {
            by_node.push((at, node));
        }
        let full = host.spec.memory_contacts > 0 && node.contacts.1 >= u64::from(host.spec.memory_contacts);
        let counts = |table: &str| self.script.htables.get(table).map(|spec| spec.counter);
        let server = Shown::of_server(host.process.as_ref()?, now, both, counts);
        (!full && server != node).then(|| {
            let (name, ix) = (&self.nodes[usize::from(at)].name, host.spec.ix);
            let [(_, a), (_, b), (_, c), (_, d)] = [node.contacts, server.contacts, node.entries, server.entries];
            format!("{name} shows {a} contacts and {c} entries, k{ix} {b} and {d}, and they are not the same")
        })
    }

    /// The node that a server is compared with: the first that runs of those that it names.
    fn compared_with<'a>(&self, host: &'a ServerHost) -> Option<(&'a ServerHost, At)> {
        if host.process.is_none() || host.spec.hostile {
            return None;
        }
        let mut nodes = host.spec.nodes.iter().filter_map(|&ix| self.at(Host::Node(ix)));
        nodes.find(|at| self.nodes[usize::from(*at)].node.is_some()).map(|at| (host, at))
    }

    /// Whether a node still has something to tell a server that answers.
    fn feeds(&self, host: &NodeHost) -> bool {
        let peers = host.node.as_ref().map(|node| node.peers(host_now(host, self.now))).unwrap_or_default();
        peers.iter().any(|peer| peer.owned && peer.state == "active" && (peer.queued > 0 || peer.open > 0))
    }

    /// The server that a node does not hear, of those that run.
    fn misses(&self, host: &NodeHost, running: &[(&ServerHost, At)]) -> Option<ServerIx> {
        let peers = host.node.as_ref().map(|node| node.peers(host_now(host, self.now))).unwrap_or_default();
        let silent = peers.iter().filter(|peer| peer.owned && peer.state == "silent");
        let addrs: Vec<String> = silent.map(|peer| peer.uri.to_string()).collect();
        let missed = |ix: ServerIx| addrs.iter().any(|uri| uri.contains(&server_addr(ix).to_string()));
        running.iter().map(|(server, _)| server.spec.ix).find(|&ix| missed(ix))
    }

    fn shown_by(&self, at: At, both: Wall) -> Shown {
        let host = &self.nodes[usize::from(at)];
        let counts = |table: &str| self.script.htables.get(table).map(|spec| spec.counter);
        let now = host.clock.wall(self.now);
        host.node.as_ref().map_or_else(Shown::default, |node| Shown::of_node(node.replica(), now, both, counts))
    }

    /// When a run that is planned ends at the latest.
    pub(crate) fn last_moment(&self) -> Mono {
        Mono(0).plus_ms(self.script.duration_ms + self.script.settle_ms + QUIET_MS + 1)
    }
}
