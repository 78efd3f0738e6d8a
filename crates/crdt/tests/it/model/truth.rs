//! Every write that was ever made, and what a node must see of them.

use std::collections::BTreeMap;

use crdt::{CellRef, Dot, Replica, Wall};

use crate::support::{CellId, live_view};

/// All writes, by cell.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    cells: BTreeMap<CellId, BTreeMap<Dot, Vec<u8>>>,
}

impl Truth {
    /// Records a write.
    pub(crate) fn record(&mut self, bytes: &[u8]) {
        let cell = CellRef::decode(bytes).expect("a replica writes canonical cells");
        let id = (cell.table.to_owned(), cell.key.to_vec(), cell.member.to_vec());
        let before = self.cells.entry(id).or_default().insert(cell.order.dot, bytes.to_vec());
        assert_eq!(before, None, "dot {} was used twice", cell.order.dot);
    }

    /// Compares what a node sees with the maximum, by order, over all writes that its clock covers.
    pub(crate) fn check(&self, replica: &Replica, now: Wall) -> Result<(), String> {
        let mut view = live_view(replica, now);
        for (id, writes) in &self.cells {
            let covered = writes.iter().filter(|(dot, _)| replica.covers_dot(**dot));
            let cells = covered.map(|(_, bytes)| (CellRef::decode(bytes).expect("recorded"), bytes));
            let greatest = cells.max_by_key(|(cell, _)| cell.order).filter(|(cell, _)| cell.is_live(now));
            let seen = view.remove(id);
            if seen.as_ref() != greatest.map(|(_, bytes)| bytes) {
                let seen = seen.as_deref().map(|bytes| CellRef::decode(bytes).expect("held"));
                return Err(format!("of {id:?} it must see {:?}, but sees {seen:?}", greatest.map(|(cell, _)| cell)));
            }
        }
        if view.is_empty() { Ok(()) } else { Err(format!("it sees cells that nobody wrote: {view:?}")) }
    }
}
