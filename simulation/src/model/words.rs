//! Cells and writes in words, for violations.

use super::{CellId, CellNo, Model, WriteNo, Written};
use crate::invariants::moment_of;

impl Model {
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
            moment_of(*at),
        )
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
