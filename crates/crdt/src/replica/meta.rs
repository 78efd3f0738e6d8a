//! What outlives the process beside the cells.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Facts, Replica};
use crate::cell::CellRef;
use crate::clock::Clock;
use crate::hlc::{Hlc, HybridClock, Stamp};
use crate::ids::{NodeId, Origin};
use crate::planted::{self, Bug};
use crate::replica::origins::Closed;
use crate::replica::roster::Member;

/// The persistent part of a replica beside its cells. Goes to disk together with the cells that changed, or not at all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Whose it is.
    pub node: NodeId,
    /// The process lifetime that wrote it.
    pub origin: Origin,
    /// Everything taken in.
    pub clock: Clock,
    /// G (R6).
    pub forgotten: Clock,
    /// Floors by table (R7).
    pub floors: BTreeMap<String, Stamp>,
    /// No stamp above this was given before the next meta is due (R4). It lies ahead by up to a quarter of `max_skew`, in
    /// coarse steps, so that it seldom changes.
    pub hlc: Hlc,
    /// The roster (R5).
    pub roster: BTreeMap<NodeId, Member>,
    /// Origins that belong to no member.
    pub closed: BTreeMap<Origin, Closed>,
    /// Origins that left the clock, and how far they were covered.
    pub retired: BTreeMap<Origin, u64>,
}

/// [`Meta`] without copies of what a replica holds: for whoever looks what has changed.
#[derive(Clone, Debug)]
pub struct MetaRef<'a> {
    /// See [`Meta::node`].
    pub node: NodeId,
    /// See [`Meta::origin`].
    pub origin: Origin,
    /// See [`Meta::clock`].
    pub clock: &'a Clock,
    /// See [`Meta::forgotten`].
    pub forgotten: &'a Clock,
    /// See [`Meta::floors`]; in the order of tables.
    pub floors: Vec<(&'a str, Stamp)>,
    /// See [`Meta::hlc`].
    pub hlc: Hlc,
    /// See [`Meta::roster`].
    pub roster: &'a BTreeMap<NodeId, Member>,
    /// See [`Meta::closed`].
    pub closed: &'a BTreeMap<Origin, Closed>,
    /// See [`Meta::retired`].
    pub retired: &'a BTreeMap<Origin, u64>,
}

impl MetaRef<'_> {
    /// [`MetaRef::floors`] as they are in [`Meta`].
    pub fn floors(&self) -> BTreeMap<String, Stamp> {
        self.floors.iter().map(|(table, floor)| ((*table).to_owned(), *floor)).collect()
    }
}

impl From<MetaRef<'_>> for Meta {
    fn from(meta: MetaRef<'_>) -> Self {
        Self {
            node: meta.node,
            origin: meta.origin,
            clock: meta.clock.clone(),
            forgotten: meta.forgotten.clone(),
            floors: meta.floors(),
            hlc: meta.hlc,
            roster: meta.roster.clone(),
            closed: meta.closed.clone(),
            retired: meta.retired.clone(),
        }
    }
}

/// What was found on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Cells that are held now.
    pub cells: u64,
    /// Entries that are no cells, or use a dot for the second time, by their place in what was given. With any of these the
    /// disk lost data: the clock then covers only what is held, and the peers are asked for everything else. Until they are
    /// taken off the disk, each start finds them anew.
    pub damaged: Vec<usize>,
}

impl Replica {
    /// The persistent part as of now.
    pub fn meta(&self) -> Meta {
        self.meta_ref().into()
    }

    /// As [`Replica::meta`], borrowed.
    pub fn meta_ref(&self) -> MetaRef<'_> {
        let step = (u64::from(self.rules.max_skew()) / 8).max(1);
        let bound = (self.hybrid.last().ms() / step + 2).saturating_mul(step);
        let mut floors: Vec<_> = self.tables.iter().filter_map(|table| Some((&*table.name, table.floor?))).collect();
        floors.sort_unstable();
        MetaRef {
            node: self.node,
            origin: self.origin,
            clock: &self.clock,
            forgotten: &self.forgotten,
            floors,
            hlc: Hlc::from_ms(bound),
            roster: &self.roster.members,
            closed: &self.closed,
            retired: &self.retired,
        }
    }

    /// Takes up what an earlier process of this node left on disk. For a replica that is still empty. Makes no changes
    /// for [`Replica::drain_changes`]. Our own last process is closed now; the new origin starts its own sequence.
    pub fn restore(&mut self, meta: Meta, cells: impl IntoIterator<Item = Box<[u8]>>) -> Restored {
        let mut restored = Restored::default();
        if !planted::on(Bug::HybridRestartsBelow) {
            self.hybrid = HybridClock::above(meta.hlc);
        }
        self.clock = meta.clock;
        if !planted::on(Bug::ForgottenNotKept) {
            self.forgotten = meta.forgotten;
        }
        self.roster.members = meta.roster;
        self.closed = meta.closed;
        self.retired = meta.retired;
        for (name, floor) in meta.floors {
            self.raise_floor(&name, floor);
        }
        for (place, blob) in cells.into_iter().enumerate() {
            if self.restore_cell(blob) {
                restored.cells += 1;
            } else {
                restored.damaged.push(place);
            }
        }
        let held: Clock = self.dots.iter().map(|(dot, _)| dot).collect();
        if !restored.damaged.is_empty() {
            self.clock = Clock::new();
            self.retired = BTreeMap::new();
            // G must be within the clock: nobody could ever cover what its owner does not.
            self.forgotten = Clock::new();
        }
        self.clock.join(&held);
        if planted::on(Bug::OriginReused) {
            self.origin = meta.origin;
            self.seq = self.clock.max(self.origin);
        }
        self.durable = self.clock.clone();
        self.forgetting.stale = true;
        restored
    }

    fn restore_cell(&mut self, blob: Box<[u8]>) -> bool {
        let bytes = blob.clone();
        let Ok(cell) = CellRef::decode(&bytes) else { return false };
        let Some(table) = self.table_id(cell.table) else { return false };
        if self.dots.get(cell.order.dot).is_some() {
            return false;
        }
        let held = self.find(table, &cell);
        let wins = |(_, facts): &(u32, Facts)| super::merge::offered_wins(facts.order, cell.order);
        if held.as_ref().is_none_or(wins) {
            self.put(held, &cell, table, blob);
            self.hybrid.observe(cell.order.stamp.time);
        }
        true
    }

    pub(super) fn raise_floor(&mut self, table: &str, floor: Stamp) {
        if let Some(id) = self.table_id(table) {
            let held = &mut self.tables[usize::from(id)].floor;
            *held = (*held).max(Some(floor));
        }
    }
}
