//! How the model follows the nodes: what they newly cover, and what they write.

use crdt::{CellRef, Dot, Order, Origin, Replica, Wall};
use node::Mono;

use super::{CellId, CellNo, Life, Model, NONE, WriteNo, Written, hash};
use crate::invariants::Moment;
use crate::view::View;

impl Model {
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
        self.owners.insert(origin, node);
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
        let Some(mut life) = self.lives[node].take_if(|life| life.seen != *replica.clock()) else { return Ok(()) };
        let done = self.catch_up(node, &mut life, replica, now);
        self.lives[node] = Some(life);
        done
    }

    fn catch_up(&mut self, node: usize, life: &mut Life, replica: &Replica, now: Mono) -> Result<(), String> {
        let origin = life.origin;
        let own = replica.clock().max(origin);
        let mut forgotten = Vec::new();
        for seq in self.dots[&origin].len() as u64 + 1..=own {
            let dot = Dot { origin, seq };
            let write = self.sight(dot, replica, now)?;
            self.dots.entry(origin).or_default().push(write);
            if write != NONE {
                self.step.made.push(write);
            } else if replica.forgotten().contains(dot) {
                forgotten.push(dot);
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
        if !forgotten.is_empty() {
            self.guess(life, &forgotten, replica, now);
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

    /// Enters removals that were forgotten in the step that made them, as a node does that has met nobody. What they were
    /// about shows in what is gone; at least the stamp of that they must have had.
    fn guess(&mut self, life: &mut Life, forgotten: &[Dot], replica: &Replica, at: Mono) {
        let gone = |cell: &CellNo| {
            let best = life.best(*cell).map(|best| &self.writes[best as usize]);
            let Some(best) = best.filter(|best| !best.order.removed && best.deadline.is_none()) else { return false };
            let CellId { table, key, member } = &self.cells[*cell as usize].id;
            replica.shown_by(best.order.dot).is_none() && replica.slot(table, key, member).is_none()
        };
        let gone: Vec<CellNo> = (0..self.cells.len() as CellNo).filter(gone).collect();
        for (&cell, &dot) in gone.iter().zip(forgotten) {
            let Some(best) = life.best(cell) else { continue };
            let order = Order { removed: true, dot, ..self.writes[best as usize].order };
            let write = self.writes.len() as WriteNo;
            let before = std::mem::replace(&mut self.cells[cell as usize].last, write);
            self.writes.push(Written { cell, order, deadline: None, hash: 0, at, before });
            self.dots.entry(dot.origin).or_default()[(dot.seq - 1) as usize] = write;
            life.take(write, &self.writes);
            self.step.made.push(write);
            self.step.touched.push(cell);
        }
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
}
