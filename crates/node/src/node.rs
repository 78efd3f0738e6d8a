//! The node itself: one input in, outputs out.

use std::collections::VecDeque;

use crate::config::Config;
use crate::io::{Input, Now, Output, Restored};
use crate::view::{ContactView, DigestView, EntryView, HtableView, MemberView, Metric, PeerView, StatusView};

/// A Starling node without its shell.
pub struct Node {
    config: Config,
    out: VecDeque<Output>,
}

impl Node {
    /// A node with what the disk held. `seed` feeds every random choice.
    pub fn new(config: Config, seed: [u8; 32], now: Now, restored: Restored) -> Self {
        let _ = (seed, now, restored);
        Self { config, out: VecDeque::new() }
    }

    /// Takes something in. Drain [`Node::poll`] afterwards.
    pub fn handle(&mut self, input: Input<'_>, now: Now) {
        let _ = (input, now);
    }

    /// The next thing to do; [`Output::Sleep`] ends the round.
    pub fn poll(&mut self) -> Output {
        self.out.pop_front().unwrap_or(Output::Sleep { until: crate::Mono(u64::MAX), reason: "idle" })
    }

    /// Turns [`Output::Event`] on or off.
    pub fn watch(&mut self, on: bool) {
        let _ = on;
    }

    /// How the node is.
    pub fn status(&self, now: Now) -> StatusView {
        let _ = now;
        unreachable!("{}", self.config.name)
    }

    /// The other nodes, and this one.
    pub fn members(&self, now: Now) -> Vec<MemberView> {
        let _ = now;
        Vec::new()
    }

    /// The Kamailio servers.
    pub fn peers(&self, now: Now) -> Vec<PeerView> {
        let _ = now;
        Vec::new()
    }

    /// Digests of what is alive.
    pub fn digest(&self, now: Now) -> DigestView {
        let _ = now;
        unreachable!("{}", self.config.name)
    }

    /// The live contacts of an AoR, in a fixed order.
    pub fn location(&self, aor: &[u8], now: Now) -> Vec<ContactView> {
        let _ = (aor, now);
        Vec::new()
    }

    /// AoRs with live contacts in byte order, beyond `after`.
    pub fn location_list(&self, after: Option<&[u8]>, limit: usize, now: Now) -> Vec<(bstr::BString, Vec<ContactView>)> {
        let _ = (after, limit, now);
        Vec::new()
    }

    /// The hash tables that are configured or hold something.
    pub fn htables(&self, now: Now) -> Vec<HtableView> {
        let _ = now;
        Vec::new()
    }

    /// A live entry.
    pub fn htable_get(&self, table: &str, key: &[u8], now: Now) -> Option<EntryView> {
        let _ = (table, key, now);
        None
    }

    /// Live entries in byte order of their keys, beyond `after`.
    pub fn htable_list(&self, table: &str, after: Option<&[u8]>, limit: usize, now: Now) -> Vec<EntryView> {
        let _ = (table, after, limit, now);
        Vec::new()
    }

    /// Every figure for `/metrics`, in a fixed order.
    pub fn metrics(&self, now: Now) -> Vec<Metric> {
        let _ = now;
        Vec::new()
    }
}
