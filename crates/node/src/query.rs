//! What can be asked of a node. Reads never wait and never change anything.

pub(crate) mod dialog;

use std::collections::BTreeMap;

use bstr::BString;
use crdt::planted::{self, Bug};
use crdt::{CellRef, counter};
use tables::htable;
use tables::location::{self, Member};

use crate::command::Value;
use crate::dmq::{Expiry, contact_of, is_counter};
use crate::io::Now;
use crate::node::Node;
use crate::view::{ContactView, DigestView, EntryView, HtableView, MemberView, Metric, PeerView, StatusView};

impl Node {
    /// How the node is.
    pub fn status(&self, now: Now) -> StatusView {
        let digest = self.replica.digest(now.wall);
        StatusView {
            name: self.config.name.clone(),
            node: self.config.node,
            origin: self.config.origin,
            cluster: self.config.cluster.clone(),
            advertise: self.config.advertise,
            uptime_s: now.mono.ms_since(self.started.mono) / 1_000,
            cells: digest.cells,
            contacts: digest.tables.get(location::TABLE).map_or(0, |(_, cells)| *cells),
            links: self.mesh.links(),
            servers: self.dmq.active(),
            durable: self.journal.clean(),
            memory: self.replica.memory_bytes(),
            skewed: self.mesh.skewed(self.config.max_skew_ms),
            joining: self.mesh.joining(),
            settling: self.dmq.is_settling(&self.config, now.mono),
        }
    }

    /// The other nodes, and this one.
    pub fn members(&self, _now: Now) -> Vec<MemberView> {
        self.mesh.members(&self.config)
    }

    /// The Kamailio servers.
    pub fn peers(&self, _now: Now) -> Vec<PeerView> {
        self.dmq.views()
    }

    /// Digests of what is alive. Nodes that hold the same show the same.
    pub fn digest(&self, now: Now) -> DigestView {
        let digest = self.replica.digest(now.wall);
        let clock = self.replica.clock();
        DigestView {
            digest: digest.total,
            cells: digest.cells,
            tables: digest.tables,
            clock: clock.origins().map(|origin| (origin, clock.max(origin))).collect(),
        }
    }

    /// The live contacts of an AoR, in the order of their identities.
    pub fn location(&self, aor: &[u8], now: Now) -> Vec<ContactView> {
        let cells: Vec<CellRef<'_>> = self
            .replica
            .members(location::TABLE, aor)
            .map(|(_, cell)| cell)
            .filter(|cell| is_shown(cell, now))
            .collect();
        let mut contacts: Vec<(&[u8], ContactView)> =
            cells.iter().filter_map(|cell| Some((cell.member, contact_view(cell, &cells)?))).collect();
        contacts.sort_by_key(|(member, _)| *member);
        contacts.into_iter().map(|(_, contact)| contact).collect()
    }

    /// AoRs with live contacts in byte order, beyond `after`. Looks at every cell once.
    pub fn location_list(&self, after: Option<&[u8]>, limit: usize, now: Now) -> Vec<(BString, Vec<ContactView>)> {
        let is_contact =
            |cell: &CellRef<'_>| cell.table == location::TABLE && location::parse_member(cell.member) == Member::Device;
        let keys = self.page(is_contact, after, limit, now);
        keys.into_iter().map(|aor| (aor.clone().into(), self.location(&aor, now))).collect()
    }

    /// The hash tables that are configured or hold something.
    pub fn htables(&self, now: Now) -> Vec<HtableView> {
        let held = self.replica.digest(now.wall).tables;
        let mut tables: BTreeMap<String, u64> = self.config.htables.keys().map(|n| (n.clone(), 0)).collect();
        for (table, (_, cells)) in &held {
            if let Some(name) = htable::name(table) {
                *tables.entry(name.to_owned()).or_default() += cells;
            }
        }
        tables.into_iter().map(|(name, entries)| self.htable_view(name, entries)).collect()
    }

    fn htable_view(&self, name: String, entries: u64) -> HtableView {
        let autoexpire_s = match self.dmq.facts().common(&self.config, &name) {
            Expiry::After(seconds) => seconds,
            Expiry::Never | Expiry::Unknown => 0,
        };
        HtableView { counter: is_counter(&self.config, &name), name, entries, autoexpire_s }
    }

    /// A live entry.
    pub fn htable_get(&self, name: &str, key: &[u8], now: Now) -> Option<EntryView> {
        let table = htable::table(name);
        if is_counter(&self.config, name) {
            let value = counter::value(&self.replica, &table, key, now.wall)?;
            return Some(EntryView { key: key.into(), value: Value::Int(value), expires: None });
        }
        let cell = self.replica.cell(self.replica.slot(&table, key, b"")?)?;
        if !is_shown(&cell, now) {
            return None;
        }
        let value = match htable::Value::decode(cell.body?).ok()? {
            htable::Value::Int(int) => Value::Int(int),
            htable::Value::Str(text) => Value::Str(text.into_owned()),
        };
        Some(EntryView { key: key.into(), value, expires: cell.deadline })
    }

    /// Live entries in byte order of their keys, beyond `after`. Looks at every cell once.
    pub fn htable_list(&self, name: &str, after: Option<&[u8]>, limit: usize, now: Now) -> Vec<EntryView> {
        let table = htable::table(name);
        let keys = self.page(|cell| cell.table == table, after, limit, now);
        keys.iter().filter_map(|key| self.htable_get(name, key, now)).collect()
    }

    /// The first `limit` keys beyond `after`, in byte order, of live cells that are wanted.
    fn page(
        &self,
        wanted: impl Fn(&CellRef<'_>) -> bool,
        after: Option<&[u8]>,
        limit: usize,
        now: Now,
    ) -> Vec<Vec<u8>> {
        let mut keys = std::collections::BTreeSet::new();
        for (_, cell) in self.replica.scan(None, usize::MAX) {
            let beyond = after.is_none_or(|after| cell.key > after);
            let full = keys.len() >= limit;
            let late = full && keys.last().is_none_or(|last: &Vec<u8>| cell.key >= last.as_slice());
            if !beyond || late || !wanted(&cell) || !cell.is_live(now.wall) {
                continue;
            }
            keys.insert(cell.key.to_vec());
            if keys.len() > limit {
                keys.pop_last();
            }
        }
        keys.into_iter().collect()
    }

    /// Every figure for `/metrics`, in a fixed order.
    pub fn metrics(&self, now: Now) -> Vec<Metric> {
        let status = self.status(now);
        let gauge = |name, help, value| Metric { name, help, labels: Vec::new(), value };
        let mut metrics = vec![
            gauge("cells", "Live cells.", status.cells),
            gauge("contacts", "Live cells of registrations.", status.contacts),
            gauge("links", "Links to other nodes that carry data.", status.links as u64),
            gauge("servers", "Kamailio servers that answer.", status.servers as u64),
            gauge("memory_bytes", "State in memory, estimated.", status.memory as u64),
            gauge("skewed", "Whether another node's clock differs too much.", u64::from(status.skewed)),
            gauge("uptime_seconds", "Since the start.", status.uptime_s),
        ];
        metrics.extend(self.dmq.metrics());
        metrics.extend(self.stats.metrics());
        metrics
    }
}

/// Whether a reader sees a cell.
fn is_shown(cell: &CellRef<'_>, now: Now) -> bool {
    cell.is_live(now.wall) || (planted::on(Bug::ReadsShowTheDead) && cell.body.is_some())
}

fn contact_view(cell: &CellRef<'_>, all: &[CellRef<'_>]) -> Option<ContactView> {
    if location::parse_member(cell.member) != Member::Device {
        return None;
    }
    let (_, contact) = contact_of(cell)?;
    let mut ruids: Vec<BString> = vec![contact.ruid.clone().into_owned()];
    for alias in all.iter().filter(|a| a.body == Some(cell.member)) {
        if let Member::Ruid(ruid) = location::parse_member(alias.member)
            && !ruids.iter().any(|known| *known == ruid)
        {
            ruids.push(ruid.into());
        }
    }
    Some(ContactView {
        contact: contact.uri.into_owned(),
        received: contact.received.into_owned(),
        path: contact.path.into_owned(),
        q: contact.q,
        expires: contact.expires,
        callid: contact.callid.into_owned(),
        cseq: contact.cseq,
        user_agent: contact.user_agent.into_owned(),
        instance: contact.instance.into_owned(),
        reg_id: contact.reg_id,
        methods: contact.methods,
        ruids,
        last_modified: contact.last_modified,
    })
}
