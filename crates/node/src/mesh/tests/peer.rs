//! A node of the virtual network: everything but the SIP half, in the order in which the real one does it.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use crdt::{Replica, Rules};

use crate::config::Config;
use crate::cx::{Cx, Stats};
use crate::io::{Input, Mono, Now, Output, Restored, Tree};
use crate::journal::Journal;
use crate::mesh::Mesh;

/// A node without its shell and its servers.
pub(super) struct TestNode {
    pub config: Config,
    pub replica: Replica,
    pub mesh: Mesh,
    pub journal: Journal,
    pub stats: Stats,
    pub up: bool,
    /// Milliseconds that its wall clock is ahead.
    pub ahead: i64,
    pub disk: BTreeMap<(Tree, Vec<u8>), Bytes>,
    pub logs: Vec<String>,
    pub out: VecDeque<Output>,
    /// How often it was started before.
    pub life: u64,
    /// When the network will wake it.
    pub wake: Option<Mono>,
    pub wakeups: u64,
}

impl TestNode {
    pub(super) fn start(
        config: Config,
        disk: BTreeMap<(Tree, Vec<u8>), Bytes>,
        rules: Rules,
        now: Now,
        life: u64,
    ) -> Self {
        let entries = disk.iter().map(|((tree, key), value)| (*tree, key.clone(), value.to_vec())).collect();
        let found = Journal::sort(Restored { entries });
        assert_eq!(found.unreadable, 0);
        let mut replica = Replica::new(config.node, config.origin, rules, 1);
        if let Some(meta) = found.meta {
            replica.restore(meta, found.cells);
        }
        let seed = [config.node.0 as u8 ^ life as u8; 32];
        let mesh = Mesh::new(&config, seed, now, &found.puts);
        Self {
            journal: Journal::new(config.durable),
            replica,
            mesh,
            config,
            stats: Stats::default(),
            up: true,
            ahead: 0,
            disk,
            logs: Vec::new(),
            out: VecDeque::new(),
            life,
            wake: None,
            wakeups: 0,
        }
    }

    pub(super) fn next_wakeup(&self) -> (Mono, &'static str) {
        let mesh = self.mesh.next_wakeup();
        match self.journal.next_wakeup() {
            Some(at) if at < mesh.0 => (at, "journal"),
            _ => mesh,
        }
    }

    pub(super) fn handle(&mut self, input: Input<'_>, now: Now) {
        let Self { config, replica, out, stats, mesh, journal, .. } = self;
        let mut cx = Cx { now, config, replica, out, stats };
        let cx = &mut cx;
        match input {
            Input::Tick => {}
            Input::LinkUp { link, addr, dialed, subject } => mesh.link_up(link, addr, dialed, subject, cx),
            Input::LinkDown { link, reason } => mesh.link_down(link, reason, cx),
            Input::DialFailed { addr, reason } => mesh.dial_failed(addr, reason, cx),
            Input::Datagram { link, bytes } => mesh.datagram(link, bytes, cx),
            Input::Frame { link, lane, bytes } => mesh.frame(link, lane, bytes, cx),
            Input::FramesSent { link, lane, frames } => mesh.frames_sent(link, lane, frames, cx),
            Input::LaneClosed { link, lane } => mesh.lane_closed(link, lane, cx),
            Input::Persisted { batch } => {
                assert!(journal.persisted(batch, cx));
                mesh.persisted();
            }
            Input::PersistFailed { batch, reason } => journal.persist_failed(batch, reason, cx),
            other => panic!("unexpected {other:?}"),
        }
        cx.replica.tick(now.wall);
        mesh.tick(cx);
        while cx.replica.has_changes() {
            let changes = cx.replica.drain_changes();
            journal.on_changes(&changes, cx);
            mesh.on_changes(&changes, cx);
        }
        for (tree, key, value) in mesh.take_puts() {
            journal.put(tree, key, value);
        }
        journal.flush(cx);
    }
}
