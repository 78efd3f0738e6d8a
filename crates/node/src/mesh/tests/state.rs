//! Writing, reading and comparing what the nodes of the virtual network hold.

use crdt::{StampRule, Write};

use super::net::{Net, TIMED};
use super::peer::TestNode;
use crate::io::Input;

impl Net {
    /// Sets a cell at a node.
    pub(super) fn set(&mut self, node: usize, table: &str, key: &str, value: Option<&str>) {
        let now = self.node_now(node);
        let deadline = (table == TIMED && value.is_some()).then_some(now.wall.0 / 1_000 + 600);
        let write = Write {
            table,
            key: key.as_bytes(),
            member: b"",
            rank: 0,
            stamp: StampRule::Now,
            deadline,
            body: value.map(str::as_bytes),
            via: 0,
            birth: None,
        };
        self.nodes[node].replica.write(now.wall, write).expect("a valid write");
        self.input(node, Input::Tick);
    }

    pub(super) fn get(&self, node: usize, table: &str, key: &str) -> Option<String> {
        let now = self.node_now(node).wall;
        let replica = &self.nodes[node].replica;
        let cell = replica.cell(replica.slot(table, key.as_bytes(), b"")?)?;
        cell.body.filter(|_| cell.is_live(now)).map(|body| String::from_utf8_lossy(body).into_owned())
    }

    /// Whether all nodes that are up cover the same writes and have the same live cells.
    pub(super) fn equal(&self) -> bool {
        let up: Vec<&TestNode> = self.nodes.iter().filter(|node| node.up).collect();
        let now = self.wall(0).wall;
        up.windows(2).all(|pair| {
            let (a, b) = (&pair[0].replica, &pair[1].replica);
            a.covers(b.clock()) && b.covers(a.clock()) && a.digest(now) == b.digest(now)
        })
    }

    /// Whether every pair of nodes that are up and not cut apart has exactly one link.
    pub(super) fn meshed(&self) -> bool {
        let up: Vec<usize> = (0..self.nodes.len()).filter(|&n| self.nodes[n].up).collect();
        up.iter().all(|&n| {
            let others = up.iter().filter(|&&m| m != n && !self.is_cut(n, m)).count();
            self.nodes[n].mesh.links() == others
        })
    }

    pub(super) fn wakeups(&self, node: usize) -> u64 {
        self.nodes[node].wakeups
    }
}
