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

mod life;
mod sums;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::rc::Rc;

use crdt::{CellRef, Clock, Dot, Order, Origin, Replica, Wall};
use foldhash::quality::FixedState;
use hashbrown::HashTable;
use node::Mono;

pub use life::Life;
pub use sums::Sum;

use crate::invariants::Moment;
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

    /// Follows the nodes.
    ///
    /// # Errors
    /// What cannot be: a dot that names two writes, a dot that nobody issued, a clock that covers less than before.
    pub fn observe(&mut self, moment: Moment, world: &dyn View) -> Result<(), String> {
        match moment {
            Moment::Started { node, origin } => {
                let host = world.node(node);
                let Some(running) = host.node else { return Ok(()) };
                self.start(node, origin, running.replica(), host.wall, world.now())
            }
            Moment::Stepped { node, .. } => {
                let host = world.node(node);
                let Some(running) = host.node else { return Ok(()) };
                self.stepped(node, running.replica(), host.wall, world.now())
            }
            Moment::Crashing { node } => {
                if let Some(life) = self.lives.get_mut(node).and_then(Option::as_mut) {
                    life.over = true;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A node's process has started with what its disk held.
    pub(crate) fn start(
        &mut self,
        node: usize,
        origin: Origin,
        replica: &Replica,
        wall: Wall,
        now: Mono,
    ) -> Result<(), String> {
        if self.dots.contains_key(&origin) {
            return Err(format!("node {node} starts under origin {origin}, which was used before"));
        }
        if self.lives.len() <= node {
            self.lives.resize_with(node + 1, || None);
            self.latest.resize(node + 1, Wall(0));
        }
        self.dots.insert(origin, Vec::new());
        let mut life = Life::new(origin);
        // Retired origins are covered, though the clock does not name them.
        for (&origin, writes) in self.dots.iter().filter(|(origin, _)| !replica.clock().names(**origin)) {
            let retired = (1..=writes.len() as u64).take_while(|&seq| replica.covers_dot(Dot { origin, seq }));
            if let Some(through) = retired.last() {
                life.covered.insert_range(origin, 1..=through);
            }
        }
        let restored: Vec<_> = life.covered.ranges().collect();
        for (origin, seqs) in restored {
            for &write in &self.dots[&origin][(seqs.start() - 1) as usize..*seqs.end() as usize] {
                if write != NONE {
                    life.take(write, &self.writes);
                }
            }
        }
        self.lives[node] = Some(life);
        self.stepped(node, replica, wall, now)
    }

    /// A node has taken a step.
    pub(crate) fn stepped(&mut self, node: usize, replica: &Replica, wall: Wall, now: Mono) -> Result<(), String> {
        self.step.made.clear();
        self.step.touched.clear();
        self.latest[node] = self.latest[node].max(wall);
        let Some(mut life) = self.lives[node].take() else { return Ok(()) };
        let done = match *replica.clock() == life.seen {
            true => Ok(()),
            false => self.catch_up(node, &mut life, replica, now),
        };
        self.lives[node] = Some(life);
        done
    }

    fn catch_up(&mut self, node: usize, life: &mut Life, replica: &Replica, now: Mono) -> Result<(), String> {
        let origin = life.origin;
        let own = replica.clock().max(origin);
        for seq in self.dots[&origin].len() as u64 + 1..=own {
            let write = self.sight(Dot { origin, seq }, replica, now)?;
            self.dots.entry(origin).or_default().push(write);
            if write != NONE {
                self.step.made.push(write);
            }
        }
        for (origin, seqs) in replica.clock().difference(&life.seen) {
            life.seen.insert_range(origin, seqs.clone());
            let known = self.dots.get(&origin).map_or(0, |writes| writes.len() as u64);
            if *seqs.end() > known {
                let dot = Dot { origin, seq: *seqs.end() };
                return Err(format!("node {node} covers dot {dot}, which nobody has issued"));
            }
            for seq in seqs {
                self.cover(node, life, Dot { origin, seq }, replica, now)?;
            }
        }
        if life.seen != *replica.clock() {
            self.check_shrunk(node, life, replica)?;
            life.seen = replica.clock().clone();
        }
        Ok(())
    }

    fn cover(&mut self, node: usize, life: &mut Life, dot: Dot, replica: &Replica, now: Mono) -> Result<(), String> {
        if !life.covered.insert(dot) {
            return Ok(());
        }
        let at = (dot.seq - 1) as usize;
        let mut write = self.dots[&dot.origin][at];
        if write == NONE {
            write = self.sight(dot, replica, now)?;
            if write == NONE {
                return Ok(());
            }
            // Seen late: others may have covered it before anybody could see what it was.
            self.dots.entry(dot.origin).or_default()[at] = write;
            for other in self.lives.iter_mut().flatten().filter(|other| other.covered.contains(dot)) {
                other.take(write, &self.writes);
            }
        } else if let Some(bytes) = replica.shown_by(dot).and_then(|slot| replica.bytes(slot))
            && hash(bytes) != self.writes[write as usize].hash
        {
            let other = CellRef::decode(bytes).map(|cell| format!("{cell:?}")).unwrap_or_default();
            return Err(format!("dot {dot} is {} where it was made, and at node {node} {other}", self.tell(write)));
        }
        life.take(write, &self.writes);
        self.step.touched.push(self.writes[write as usize].cell);
        Ok(())
    }

    /// A clock may name fewer dots than before only where an origin was retired.
    fn check_shrunk(&self, node: usize, life: &Life, replica: &Replica) -> Result<(), String> {
        for (origin, seqs) in life.seen.difference(replica.clock()) {
            for seq in [*seqs.start(), *seqs.end()] {
                let dot = Dot { origin, seq };
                if !replica.covers_dot(dot) {
                    return Err(format!("node {node} covered dot {dot}, and does not any more"));
                }
            }
        }
        Ok(())
    }

    /// Enters the write that a node shows under a dot; [`NONE`] if it does not.
    fn sight(&mut self, dot: Dot, replica: &Replica, at: Mono) -> Result<WriteNo, String> {
        let Some(bytes) = replica.shown_by(dot).and_then(|slot| replica.bytes(slot)) else { return Ok(NONE) };
        let cell = CellRef::decode(bytes).map_err(|error| format!("under dot {dot}: {error}"))?;
        if cell.order.dot != dot {
            return Err(format!("dot {dot} is said to show {cell:?}"));
        }
        let number = self.cell_of(&cell);
        let before = std::mem::replace(&mut self.cells[number as usize].last, self.writes.len() as WriteNo);
        self.bytes += bytes.len() as u64;
        let (order, deadline) = (cell.order, cell.deadline);
        self.writes.push(Written { cell: number, order, deadline, hash: hash(bytes), at, before });
        Ok(self.writes.len() as WriteNo - 1)
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

    /// A cell in words.
    pub fn name(&self, cell: CellNo) -> String {
        let CellId { table, key, member } = self.id(cell);
        let key = key.escape_ascii();
        match table.strip_prefix("htable:") {
            _ if member.is_empty() => format!("{table} [{key}]"),
            // Contributions to counters: the origin and a number.
            Some(_) => format!("{table} [{key}] member {}", hex(member)),
            None => format!("{table} [{key}] member {}", member.escape_ascii()),
        }
    }

    /// A write in words.
    pub fn tell(&self, write: WriteNo) -> String {
        let Written { cell, order, deadline, at, .. } = self.write(write);
        let what = if order.removed { "removal" } else { "version" };
        let until = deadline.map_or(String::new(), |deadline| format!(", until {deadline}"));
        let rank = if order.rank == 0 { String::new() } else { format!(", rank {:x}", order.rank) };
        format!(
            "the {what} {} of {} (stamp {}.{}{rank}{until}, made at {})",
            order.dot,
            self.name(*cell),
            order.stamp.time.ms(),
            order.stamp.time.bits() as u16,
            crate::invariants::moment_of(*at),
        )
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub(crate) mod tests;
