//! One node's replica: the store, its clock, and the rules that keep them honest.
//!
//! **Invariant (coverage):** for every dot in the clock, the replica holds its cell at an order at least as great as that
//! write's, or that version is dead. So a reader sees the maximum, by order, over all writes that the clock covers.

mod digest;
mod forget;
mod merge;
mod meta;
mod origins;
mod repair;
mod roster;
mod session;
mod write;

use std::collections::BTreeMap;

use crate::cell::CellRef;
use crate::change::{Alarms, Cause, Change};
use crate::clock::Clock;
use crate::hlc::{HybridClock, Stamp};
use crate::ids::{Dot, NodeId, Origin, Wall};
use crate::order::Order;
use crate::planted::{self, Bug};
use crate::rules::{Forget, Rules, TableRules};
use crate::store::dots::DotIndex;
use crate::store::ring::Ring;
use crate::store::slots::{Slot, Slots, TableId};
use crate::store::sums::Sums;

pub use digest::Digest;
pub use meta::{Meta, MetaRef, Restored};
pub use origins::Closed;
pub use repair::Repaired;
pub use roster::Member;

/// What is known of a table.
#[derive(Debug)]
struct Table {
    name: Box<str>,
    rules: TableRules,
    /// The greatest stamp that was forgotten here by stability (R7).
    floor: Option<Stamp>,
}

/// The parts of a held cell that the bookkeeping goes by.
#[derive(Clone, Copy, Debug)]
struct Facts {
    table: TableId,
    order: Order,
    birth: Option<u64>,
    deadline: Option<u64>,
}

impl Facts {
    const fn of(table: TableId, cell: &CellRef<'_>) -> Self {
        Self { table, order: cell.order, birth: cell.birth, deadline: cell.deadline }
    }
}

/// A replica of everything. See the crate's docs for what the node owes it.
#[derive(Debug)]
pub struct Replica {
    node: NodeId,
    origin: Origin,
    /// The last sequence that this origin used.
    seq: u64,
    rules: Rules,
    hybrid: HybridClock,
    tables: Vec<Table>,
    table_ids: BTreeMap<Box<str>, TableId>,
    slots: Slots,
    dots: DotIndex,
    ring: Ring,
    sums: Sums,
    clock: Clock,
    /// G: dots forgotten by stability, here or elsewhere (R6).
    forgotten: Clock,
    /// Our clock as it is on disk.
    durable: Clock,
    /// Dots that attached servers have not acknowledged, with counts (R7).
    held_dots: BTreeMap<Dot, u32>,
    changes: Vec<Change>,
    /// Open outgoing sessions.
    pins: usize,
    roster: roster::Roster,
    forgetting: forget::Forgetting,
    closed: BTreeMap<Origin, Closed>,
    /// Origins that left the clock, and how far they were covered.
    retired: BTreeMap<Origin, u64>,
    alarms: Alarms,
    /// Where cells are encoded.
    scratch: Vec<u8>,
}

impl Replica {
    /// An empty replica. `origin` must be fresh: drawn at random at this start, never used before. `seed` keys the hasher,
    /// so that others cannot choose colliding keys.
    pub fn new(node: NodeId, origin: Origin, rules: Rules, seed: u64) -> Self {
        Self {
            node,
            origin,
            seq: 0,
            rules,
            hybrid: HybridClock::default(),
            tables: Vec::new(),
            table_ids: BTreeMap::new(),
            slots: Slots::new(seed),
            dots: DotIndex::default(),
            ring: Ring::default(),
            sums: Sums::default(),
            clock: Clock::new(),
            forgotten: Clock::new(),
            durable: Clock::new(),
            held_dots: BTreeMap::new(),
            changes: Vec::new(),
            pins: 0,
            roster: roster::Roster::default(),
            forgetting: forget::Forgetting::default(),
            closed: BTreeMap::new(),
            retired: BTreeMap::new(),
            alarms: Alarms::default(),
            scratch: Vec::new(),
        }
    }

    /// This node.
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// This process lifetime.
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// The rules it was made with.
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Things that must not happen, counted since the start.
    pub const fn alarms(&self) -> Alarms {
        self.alarms
    }

    /// Everything taken in, except what is of retired origins: compare with [`Replica::covers`].
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// G: what was forgotten by stability, here or elsewhere (R6).
    pub const fn forgotten(&self) -> &Clock {
        &self.forgotten
    }

    /// Whether pushes from a peer that covers `theirs` may be merged (R6). One that does not cover what was forgotten
    /// here may bring versions that lost to it, and has to go through a session first.
    pub fn accepts_pushes(&self, theirs: &Clock) -> bool {
        planted::on(Bug::PushesFromAnybody) || theirs.includes(&self.forgotten)
    }

    /// The slot of a cell, dead or alive.
    pub fn slot(&self, table: &str, key: &[u8], member: &[u8]) -> Option<Slot> {
        let table = *self.table_ids.get(table)?;
        self.slots.find(table, key, member).map(Slot)
    }

    /// The slot whose cell shows this write: `None` if the write is not known here, was overwritten, or was forgotten.
    pub fn shown_by(&self, dot: Dot) -> Option<Slot> {
        self.dots.get(dot).map(Slot)
    }

    /// The cell in a slot; `None` if the slot was freed.
    pub fn cell(&self, slot: Slot) -> Option<CellRef<'_>> {
        let (bytes, entry) = (self.slots.bytes(slot.0)?, self.slots.entry(slot.0)?);
        let table = &self.tables[usize::from(entry.table)].name;
        Some(CellRef::decode_held(bytes, table).expect("held cells are canonical"))
    }

    /// The canonical bytes in a slot; `None` if the slot was freed.
    pub fn bytes(&self, slot: Slot) -> Option<&[u8]> {
        self.slots.bytes(slot.0)
    }

    /// All members of a key, dead ones included, in no meaningful order.
    pub fn members(&self, table: &str, key: &[u8]) -> impl Iterator<Item = (Slot, CellRef<'_>)> {
        let table = self.table_ids.get(table).copied();
        let chain = table.into_iter().flat_map(move |table| self.slots.chain(table, key));
        chain.filter_map(|slot| Some((Slot(slot), self.cell(Slot(slot))?)))
    }

    /// Up to `limit` held cells in slot order, dead ones included: from the start, or after a slot.
    pub fn scan(&self, after: Option<Slot>, limit: usize) -> impl Iterator<Item = (Slot, CellRef<'_>)> {
        let first = after.map_or(0, |slot| slot.0 as usize + 1);
        let cells = (first..self.slots.len()).filter_map(|slot| {
            let slot = slot as u32;
            Some((Slot(slot), self.cell(Slot(slot))?))
        });
        cells.take(limit)
    }

    /// The table of a held cell, without a look at the cell.
    pub fn table_of(&self, slot: Slot) -> Option<&str> {
        self.slots.bytes(slot.0)?;
        Some(&self.tables[usize::from(self.slots.entry(slot.0)?.table)].name)
    }

    /// All held cells of the tables that `wanted` names, in slot order, dead ones included.
    pub fn scan_tables(&self, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = (Slot, CellRef<'_>)> {
        let wanted: Vec<bool> = self.tables.iter().map(|table| wanted(&table.name)).collect();
        (0..self.slots.len() as u32).filter_map(move |slot| {
            let table = self.slots.entry(slot)?.table;
            wanted[usize::from(table)].then_some((Slot(slot), self.cell(Slot(slot))?))
        })
    }

    /// Slots ever used: [`Replica::scan`] goes through so many.
    pub fn slots_len(&self) -> usize {
        self.slots.len()
    }

    /// Cells held, dead ones included.
    pub fn cells_held(&self) -> usize {
        self.slots.held()
    }

    /// Bytes of memory, roughly, without the allocator's own overhead.
    pub fn memory_bytes(&self) -> usize {
        let (blobs, slots) = self.slots.memory();
        blobs + slots + self.dots.memory() + self.ring.memory() + self.sums.memory()
    }

    /// What changed since the last drain, in order. Slots freed until now may be used again afterwards.
    pub fn drain_changes(&mut self) -> Vec<Change> {
        let changes = std::mem::take(&mut self.changes);
        self.recycle();
        changes
    }

    /// Whether [`Replica::drain_changes`] has something.
    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    fn recycle(&mut self) {
        if self.pins == 0 && self.changes.is_empty() {
            self.slots.recycle();
        }
    }

    /// The number of a table, declared on first use; `None` if there are too many.
    fn table_id(&mut self, name: &str) -> Option<TableId> {
        if let Some(&id) = self.table_ids.get(name) {
            return Some(id);
        }
        let id = TableId::try_from(self.tables.len()).ok().filter(|&id| id < TableId::MAX)?;
        self.tables.push(Table { name: name.into(), rules: self.rules.of(name), floor: None });
        self.table_ids.insert(name.into(), id);
        self.sums.grow(self.tables.len());
        Some(id)
    }

    fn table(&self, id: TableId) -> &Table {
        &self.tables[usize::from(id)]
    }

    fn is_stable(&self, table: TableId) -> bool {
        self.table(table).rules.forget == Forget::Stable
    }

    fn facts(&self, slot: u32) -> Option<Facts> {
        let table = self.slots.entry(slot)?.table;
        self.cell(Slot(slot)).map(|cell| Facts::of(table, &cell))
    }

    /// Puts a version in place: over the one that `held` names, or as a new cell. `held` must be what the id has.
    fn put(
        &mut self,
        held: Option<(u32, Facts)>,
        cell: &CellRef<'_>,
        table: TableId,
        blob: Box<[u8]>,
    ) -> (u32, Option<Box<[u8]>>) {
        let facts = Facts::of(table, cell);
        let counts = cell.body.is_some() || planted::on(Bug::DigestOfTheDead);
        let hash = counts.then(|| digest::hash(&blob));
        let (slot, old) = match held {
            None => (self.slots.insert(table, cell.key, blob), None),
            Some((slot, before)) => {
                self.detach(slot, &before);
                (slot, Some(self.slots.replace(slot, blob)))
            }
        };
        self.dots.insert(facts.order.dot, slot);
        if let Some(hash) = hash {
            self.sums.add(table, facts.deadline, hash);
        }
        if let Some(entry) = self.slots.entry_mut(slot) {
            entry.expired = false;
        }
        self.plan(slot, &facts);
        (slot, old)
    }

    /// Takes a version out of the indices; its bytes are still in the slot.
    fn detach(&mut self, slot: u32, facts: &Facts) {
        self.dots.remove(facts.order.dot, slot);
        if (!facts.order.removed || planted::on(Bug::DigestOfTheDead))
            && let Some(bytes) = self.slots.bytes(slot)
        {
            let hash = digest::hash(bytes);
            self.sums.sub(facts.table, facts.deadline, hash);
        }
        self.forgetting.unwait(facts.order.dot);
    }

    fn changed(&mut self, slot: u32, old: Option<Box<[u8]>>, cause: Cause, via: u32) {
        self.changes.push(Change { slot: Slot(slot), old, cause, via });
    }

    /// Stops holding a cell. Its dot stays covered.
    fn free(&mut self, slot: u32, facts: &Facts) {
        self.detach(slot, facts);
        let old = self.slots.remove(slot);
        self.changed(slot, Some(old), Cause::Forgotten, 0);
    }

    /// Whether a live cell may have lost to a version that was forgotten by stability (R6). What is later than the floor of
    /// its table has not, and stays as it is: issued again it would be later than what others have written since.
    fn may_have_lost(&self, slot: u32, now: Wall) -> bool {
        let Some(table) = self.slots.entry(slot).map(|entry| entry.table).filter(|table| self.is_stable(*table)) else {
            return false;
        };
        let live = self.cell(Slot(slot)).filter(|cell| cell.order.rank == 0 && cell.is_live(now));
        live.is_some_and(|cell| self.table(table).floor.is_some_and(|floor| cell.order.stamp <= floor))
    }

    /// Slots of all such cells whose dots a clock does not contain.
    fn may_all_have_lost(&self, now: Wall, seen: &Clock) -> Vec<u32> {
        let unseen = |slot: &u32| self.cell(Slot(*slot)).is_some_and(|cell| !seen.contains(cell.order.dot));
        (0..self.slots.len() as u32).filter(|&slot| self.may_have_lost(slot, now) && unseen(&slot)).collect()
    }
}
