//! What the checkers may look at: everything, and change nothing.

use node::{Mono, Node, Now, Origin, Wall};

use crate::kamailio::Kamailio;
use crate::ledger::Ledger;
use crate::script::{NodeIx, NodeSpec, Script, ServerIx};

/// A node as the world knows it.
pub struct HostView<'a> {
    /// Its part of the script.
    pub spec: &'a NodeSpec,
    /// The node; `None` while its process is down.
    pub node: Option<&'a Node>,
    /// The origin of its current or last life.
    pub origin: Origin,
    /// How often it was started; 0 = never.
    pub lives: u32,
    /// Whether it stands still (SIGSTOP).
    pub paused: bool,
    /// Its own wall clock now.
    pub wall: Wall,
    /// The world's moment when its process started.
    pub started: Mono,
}

impl HostView<'_> {
    /// The two times as this node sees them. `mono` is the world's.
    pub fn now(&self, mono: Mono) -> Now {
        Now { mono, wall: self.wall }
    }
}

/// The world at a moment.
pub trait View {
    /// Virtual time since the start of the run.
    fn now(&self) -> Mono;
    /// The right time of day, which no participant knows.
    fn true_wall(&self) -> Wall;
    /// What is being run.
    fn script(&self) -> &Script;
    /// How many nodes there are, down ones included; their positions are those of `script().nodes`.
    fn nodes(&self) -> usize;
    /// A node, by position (not by [`NodeIx`]).
    fn node(&self, position: usize) -> HostView<'_>;
    /// The node at a position, while its process runs.
    fn running(&self, position: usize) -> Option<&Node>;
    /// The position of a node.
    fn position(&self, ix: NodeIx) -> Option<usize>;
    /// A server, `None` while its process is down.
    fn server(&self, ix: ServerIx) -> Option<&Kamailio>;
    /// What load has done.
    fn ledger(&self) -> &Ledger;
    /// Whether any fault is active.
    fn faulty(&self) -> bool;
    /// Traffic so far.
    fn traffic(&self) -> &Traffic;
}

/// What went over the network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Bytes between nodes.
    pub node_bytes: u64,
    /// Frames on lanes between nodes.
    pub frames: u64,
    /// Datagrams between nodes.
    pub datagrams: u64,
    /// Bytes of sync sessions between nodes (all lanes but push).
    pub session_bytes: u64,
    /// SIP bytes, both ways.
    pub sip_bytes: u64,
    /// SIP messages, both ways.
    pub sip_messages: u64,
}
