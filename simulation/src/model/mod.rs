//! The reference model: every write of a run, seen at birth, and what each node must show of them.
//!
//! The rule is that of docs/convergence.md and nothing else: of all writes of a cell that a node's clock covers, the one
//! with the greatest order counts, and it is shown if it is alive. The model never merges, forgets, syncs or repairs, and
//! knows no message: it reads a node's clock after each step, and a write's bytes where they were made.
//!
//! What a node must show is kept up to date write by write, so that a step costs what it changed; [`Model::plainly`] says
//! the same from scratch. Sums over what must be shown make a whole node comparable in one go ([`Model::expected`]).
//!
//! **Invariant:** a write is entered once, and what is known of it never changes.

mod follow;
mod life;
mod sums;
mod words;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::rc::Rc;

use crdt::{CellRef, Clock, Dot, Order, Origin, Wall};
use foldhash::quality::FixedState;
use hashbrown::HashTable;
use node::Mono;

pub use life::Life;
pub use sums::Sum;

use crate::view::View;

/// The number of a cell, in the order of first sight.
pub type CellNo = u32;
/// The number of a write, in the order of first sight.
pub type WriteNo = u32;

/// No write.
const NONE: u32 = u32::MAX;

/// The model, as the checkers of one run share it. The first of them keeps it up to date.
pub type Shared = Rc<RefCell<Model>>;

/// One write.
#[derive(Clone, Debug)]
pub struct Written {
    /// Of which cell.
    pub cell: CellNo,
    /// Its order; the dot is in it.
    pub order: Order,
    /// Unix seconds.
    pub deadline: Option<u64>,
    /// Of its canonical bytes.
    pub hash: u128,
    /// When it was made; when it was first seen, if it did not outlive its own step.
    pub at: Mono,
    /// The write of the same cell that was entered before it.
    before: WriteNo,
}

impl Written {
    /// Whether a node with this wall clock must show it, if nothing beats it.
    pub fn is_live(&self, now: Wall) -> bool {
        !self.order.removed && self.deadline.is_none_or(|deadline| deadline > now.secs())
    }
}

/// Which cell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CellId {
    /// Table.
    pub table: Rc<str>,
    /// Key.
    pub key: Box<[u8]>,
    /// Member.
    pub member: Box<[u8]>,
}

#[derive(Debug)]
struct Cell {
    id: CellId,
    last: WriteNo,
    /// Another cell of the same key, of those that were entered before.
    sibling: CellNo,
}

/// What the last observed step of a node did.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Writes that the node made.
    pub made: Vec<WriteNo>,
    /// Cells with a write that the node covers since this step; a cell may be named twice.
    pub touched: Vec<CellNo>,
}

/// Every write of a run. See the module.
pub struct Model {
    writes: Vec<Written>,
    cells: Vec<Cell>,
    ids: HashTable<CellNo>,
    /// The cell of each key that was entered last.
    keys: HashTable<CellNo>,
    hasher: FixedState,
    tables: BTreeMap<String, Rc<str>>,
    /// Whose life an origin is, by position.
    owners: BTreeMap<Origin, usize>,
    /// By origin and sequence; [`NONE`]: made and overwritten within one step, and not seen since.
    dots: BTreeMap<Origin, Vec<WriteNo>>,
    lives: Vec<Option<Life>>,
    /// The latest that each node's wall clock was, over all its lives: what it may have forgotten by.
    latest: Vec<Wall>,
    step: Step,
    bytes: u64,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            writes: Vec::new(),
            cells: Vec::new(),
            ids: HashTable::new(),
            keys: HashTable::new(),
            hasher: FixedState::with_seed(0x5741_524c),
            tables: BTreeMap::new(),
            owners: BTreeMap::new(),
            dots: BTreeMap::new(),
            lives: Vec::new(),
            latest: Vec::new(),
            step: Step::default(),
            bytes: 0,
        }
    }
}

/// The hash that digests are made of.
pub(crate) fn hash(bytes: &[u8]) -> u128 {
    twox_hash::XxHash3_128::oneshot(bytes)
}

impl Model {
    /// A model without writes, for the checkers of one run.
    pub fn shared() -> Shared {
        Rc::new(RefCell::new(Self::default()))
    }

    fn hash_id(&self, table: &str, key: &[u8], member: &[u8]) -> u64 {
        self.hasher.hash_one((table, key, member))
    }

    fn cell_of(&mut self, cell: &CellRef<'_>) -> CellNo {
        if let Some(number) = self.find(cell.table, cell.key, cell.member) {
            return number;
        }
        let table = self.tables.entry(cell.table.to_owned()).or_insert_with(|| cell.table.into()).clone();
        let id = CellId { table, key: cell.key.into(), member: cell.member.into() };
        let number = self.cells.len() as CellNo;
        let sibling = self.last_of_key(cell.table, cell.key);
        self.cells.push(Cell { id, last: NONE, sibling: sibling.unwrap_or(NONE) });
        let hash = self.hash_id(cell.table, cell.key, cell.member);
        let (cells, hasher) = (&self.cells, &self.hasher);
        self.ids.insert_unique(hash, number, |&other| {
            let CellId { table, key, member } = &cells[other as usize].id;
            hasher.hash_one((&**table, &**key, &**member))
        });
        let hash_key = |other: CellNo| {
            let CellId { table, key, .. } = &cells[other as usize].id;
            hasher.hash_one((&**table, &**key))
        };
        match sibling {
            None => drop(self.keys.insert_unique(hash_key(number), number, |&other| hash_key(other))),
            Some(before) => {
                let entry = self.keys.find_mut(hash_key(number), |&other| other == before);
                *entry.expect("it was just found") = number;
            }
        }
        number
    }

    fn last_of_key(&self, table: &str, key: &[u8]) -> Option<CellNo> {
        let same = |&number: &CellNo| {
            let id = &self.cells[number as usize].id;
            *id.table == *table && *id.key == *key
        };
        self.keys.find(self.hasher.hash_one((table, key)), same).copied()
    }

    /// All cells of a key that were ever written, the latest entry first.
    pub fn of_key(&self, table: &str, key: &[u8]) -> impl Iterator<Item = CellNo> {
        let sibling = |&number: &CellNo| Some(self.cells[number as usize].sibling).filter(|&other| other != NONE);
        std::iter::successors(self.last_of_key(table, key), sibling)
    }

    /// The number of a cell that was ever written.
    pub fn find(&self, table: &str, key: &[u8], member: &[u8]) -> Option<CellNo> {
        let same = |&number: &CellNo| {
            let id = &self.cells[number as usize].id;
            *id.table == *table && *id.key == *key && *id.member == *member
        };
        self.ids.find(self.hash_id(table, key, member), same).copied()
    }

    /// A write.
    pub fn write(&self, number: WriteNo) -> &Written {
        &self.writes[number as usize]
    }

    /// The write that a dot names; `None` if it did not outlive its own step, or was not made.
    pub fn named(&self, dot: Dot) -> Option<&Written> {
        let write = *self.dots.get(&dot.origin)?.get((dot.seq - 1) as usize)?;
        (write != NONE).then(|| self.write(write))
    }

    /// The node, by position, that an origin was a life of.
    pub fn owner(&self, origin: Origin) -> Option<usize> {
        self.owners.get(&origin).copied()
    }

    /// How many writes an origin has made.
    pub fn made_by(&self, origin: Origin) -> u64 {
        self.dots.get(&origin).map_or(0, |writes| writes.len() as u64)
    }

    /// Every dot that was ever issued.
    pub fn issued(&self) -> Clock {
        let mut clock = Clock::new();
        for (&origin, writes) in &self.dots {
            clock.insert_range(origin, 1..=writes.len() as u64);
        }
        clock
    }

    /// Every dot that a node of this moment covers.
    pub fn known(&self, world: &dyn View) -> Clock {
        let mut known = Clock::new();
        for node in (0..world.nodes()).filter(|&node| world.node(node).node.is_some()) {
            self.life(node).into_iter().for_each(|life| known.join(&life.covered));
        }
        known
    }

    /// How many writes there are.
    pub fn writes(&self) -> usize {
        self.writes.len()
    }

    /// Bytes of all writes in canonical form.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many cells were ever written.
    pub fn cells(&self) -> usize {
        self.cells.len()
    }

    /// Which cell a number stands for.
    pub fn id(&self, cell: CellNo) -> &CellId {
        &self.cells[cell as usize].id
    }

    /// All writes of a cell, latest entry first.
    pub fn of_cell(&self, cell: CellNo) -> impl Iterator<Item = (WriteNo, &Written)> {
        let some = |number: WriteNo| (number != NONE).then_some(number);
        let first = some(self.cells[cell as usize].last);
        let numbers = std::iter::successors(first, move |&number| some(self.writes[number as usize].before));
        numbers.map(|number| (number, &self.writes[number as usize]))
    }

    /// The current life of a node, or its last one.
    pub fn life(&self, node: usize) -> Option<&Life> {
        self.lives.get(node)?.as_ref()
    }

    /// The latest that a node's wall clock was.
    pub fn latest(&self, node: usize) -> Wall {
        self.latest.get(node).copied().unwrap_or_default()
    }

    /// What the step that was observed last did.
    pub const fn step(&self) -> &Step {
        &self.step
    }

    /// The write that counts for a cell at a node: the greatest that its clock covers.
    pub fn best(&self, node: usize, cell: CellNo) -> Option<WriteNo> {
        self.life(node)?.best(cell)
    }

    /// The same, found by looking at every write of the cell.
    pub fn plainly(&self, covered: &Clock, cell: CellNo) -> Option<WriteNo> {
        let covered = self.of_cell(cell).filter(|(_, write)| covered.contains(write.order.dot));
        covered.max_by_key(|(_, write)| write.order).map(|(number, _)| number)
    }

    /// Sum and number of the cells that a node must show whose deadline lies after the unix second `horizon`.
    pub fn expected(&self, node: usize, horizon: u64) -> Sum {
        self.life(node).map(|life| life.sums.beyond(horizon)).unwrap_or_default()
    }
}

#[cfg(test)]
pub(crate) mod tests;
