//! A row per virtual second for the report: who differs from what is best known anywhere, and by how much.
//!
//! It looks at every cell of every node, so it is for runs that somebody wants to see.

use std::collections::{BTreeMap, BTreeSet};

use crdt::{NodeId, Order, Wall};
use node::Now;
use tables::htable;
use tables::location::{self, Contact, Member};

use crate::clock::true_wall;
use crate::host::host_now;
use crate::run::Row;
use crate::world::World;

/// A cell's version, as far as it matters here.
#[derive(Clone, Copy)]
struct Version {
    order: Order,
    live: bool,
}

type Versions = BTreeMap<Vec<u8>, Version>;

/// What a server shows, and what it should: contacts by AoR and URI, entries by table and key with their value.
type Facts = BTreeSet<(Vec<u8>, Vec<u8>, Vec<u8>)>;

impl World {
    /// Adds the row of the second that has passed.
    pub(crate) fn add_row(&mut self) {
        let now = self.now;
        let wall = true_wall(now);
        let versions: Vec<Option<Versions>> =
            self.nodes.iter().map(|host| versions(host.node.as_ref()?, wall)).collect();
        let mut best = Versions::new();
        for (id, version) in versions.iter().flatten().flatten() {
            let known = best.entry(id.clone()).or_insert(*version);
            if known.order < version.order {
                *known = *version;
            }
        }
        let diverged = versions.iter().map(|held| held.as_ref().map(|held| differing(held, &best))).collect();
        let truth = self.best_facts(&best, wall);
        let servers_diverged = self.servers.iter().map(|host| {
            let server = host.process.as_ref()?;
            let facts = server_facts(server, Now { mono: now, wall });
            Some(facts.symmetric_difference(&truth).count() as u64)
        });
        let servers_diverged = servers_diverged.collect();
        let before = self.told.clone();
        self.told = self.traffic.clone();
        let faults = self.active.iter().enumerate().filter(|(_, active)| **active).map(|(index, _)| index as u32);
        self.timeline.push(Row {
            second: now.ms() / 1_000,
            diverged,
            servers_diverged,
            cells: self.nodes.iter().map(|host| Some(host.node.as_ref()?.replica().live_cells(wall))).collect(),
            links: self.links(),
            node_bytes: self.traffic.node_bytes - before.node_bytes,
            sip_bytes: self.traffic.sip_bytes - before.sip_bytes,
            faults: faults.collect(),
        });
    }

    /// Links that carry data, as pairs of positions, the lower one first.
    fn links(&self) -> Vec<(u16, u16)> {
        let ids: BTreeMap<NodeId, u16> = self
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(at, host)| Some((host.node.as_ref()?.replica().node(), at as u16)))
            .collect();
        let mut links = BTreeSet::new();
        for (at, host) in self.nodes.iter().enumerate() {
            let Some(node) = &host.node else { continue };
            for member in node.members(host_now(host, self.now)).iter().filter(|member| member.linked) {
                if let Some(&other) = ids.get(&member.id) {
                    links.insert(((at as u16).min(other), (at as u16).max(other)));
                }
            }
        }
        links.into_iter().collect()
    }

    /// What servers should show: of each cell the best version that any node has.
    fn best_facts(&self, best: &Versions, wall: Wall) -> Facts {
        let mut facts = Facts::new();
        for node in self.nodes.iter().filter_map(|host| host.node.as_ref()) {
            for (_, cell) in node.replica().scan(None, usize::MAX).filter(|(_, cell)| cell.is_live(wall)) {
                let Some(body) = cell.body else { continue };
                if best.get(&id(&cell)).is_none_or(|best| best.order != cell.order) {
                    continue;
                }
                if cell.table == location::TABLE {
                    let device = location::parse_member(cell.member) == Member::Device;
                    if let Some(contact) = device.then(|| Contact::decode(body, cell.member).ok()).flatten() {
                        facts.insert((b"location".to_vec(), cell.key.to_vec(), contact.uri.to_vec()));
                    }
                } else if let Some(name) = htable::name(cell.table)
                    && let Ok(value) = htable::Value::decode(body)
                    && !self.script.htables.get(name).is_some_and(|spec| spec.counter)
                {
                    facts.insert((name.into(), cell.key.to_vec(), value_text(&value)));
                }
            }
        }
        facts.extend(self.counters(wall));
        facts
    }

    /// The value of each counter at the node that knows the most of it.
    fn counters(&self, wall: Wall) -> Facts {
        let mut best: BTreeMap<(String, Vec<u8>), i64> = BTreeMap::new();
        for node in self.nodes.iter().filter_map(|host| host.node.as_ref()) {
            for (_, cell) in node.replica().scan(None, usize::MAX).filter(|(_, cell)| cell.is_live(wall)) {
                let Some(name) = htable::name(cell.table) else { continue };
                if !self.script.htables.get(name).is_some_and(|spec| spec.counter) {
                    continue;
                }
                if let Some(value) = crdt::counter::value(node.replica(), cell.table, cell.key, wall) {
                    let known = best.entry((name.to_owned(), cell.key.to_vec())).or_insert(value);
                    *known = value.max(*known);
                }
            }
        }
        let text =
            |((table, key), value): ((String, Vec<u8>), i64)| (table.into_bytes(), key, value.to_string().into());
        best.into_iter().map(text).collect()
    }
}

fn id(cell: &crdt::CellRef<'_>) -> Vec<u8> {
    let mut id = cell.table.as_bytes().to_vec();
    id.push(0);
    id.extend_from_slice(&(cell.key.len() as u32).to_be_bytes());
    id.extend_from_slice(cell.key);
    id.extend_from_slice(cell.member);
    id
}

fn versions(node: &node::Node, wall: Wall) -> Option<Versions> {
    let cells = node.replica().scan(None, usize::MAX);
    Some(cells.map(|(_, cell)| (id(&cell), Version { order: cell.order, live: cell.is_live(wall) })).collect())
}

/// Cells that are alive here or at their best, and are not the best here.
fn differing(held: &Versions, best: &Versions) -> u64 {
    let differs = best.iter().filter(|(id, best)| match held.get(*id) {
        Some(held) => held.order != best.order && (held.live || best.live),
        None => best.live,
    });
    differs.count() as u64
}

fn server_facts(server: &crate::kamailio::Kamailio, now: Now) -> Facts {
    let contacts =
        server.contacts(now).map(|held| (b"location".to_vec(), held.aor.to_vec(), held.contact.uri.to_vec()));
    let entries = server.entries(now).map(|entry| (entry.table.into(), entry.key.to_vec(), value_text(entry.value)));
    contacts.chain(entries).collect()
}

fn value_text(value: &htable::Value<'_>) -> Vec<u8> {
    match value {
        htable::Value::Int(int) => int.to_string().into(),
        htable::Value::Str(text) => text.to_vec(),
    }
}
