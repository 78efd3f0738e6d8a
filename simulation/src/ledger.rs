//! What load asked for and what it was told: the truth that no node and no server knows as a whole.
//!
//! Load writes here; invariants read. A deed is what a phone, a writer or an operator did; the ledger says where it
//! entered, when (in true virtual time, no clock's), and whether and when it was acknowledged.

use node::Mono;

use crate::script::{Entry, NodeIx};

/// The number of a deed, in the order in which they were begun.
pub type DeedId = u32;

/// One thing that somebody did.
#[derive(Clone, Debug, PartialEq)]
pub struct Deed {
    /// What.
    pub what: What,
    /// Where it entered.
    pub at: Entry,
    /// When it reached the node or server that took it, in true time; `None` while it has not.
    pub taken: Option<Mono>,
    /// When it was begun.
    pub begun: Mono,
    /// How it ended for whoever did it; `None` while open.
    pub ended: Option<(Mono, Ended)>,
}

impl Deed {
    /// The node where it entered; `None` if it entered at a server.
    pub const fn node(&self) -> Option<NodeIx> {
        match self.at {
            Entry::Node(ix) => Some(ix),
            Entry::Server(_) => None,
        }
    }
}

/// How a deed ended for whoever did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Acknowledged: 200 to the phone, `Ok` to the command.
    Done,
    /// Refused, by a final answer.
    Refused,
    /// No answer: it may or may not have happened.
    Unknown,
}

/// What was done.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A phone registered or refreshed.
    Register {
        /// Phone number.
        phone: u32,
        /// Address of record.
        aor: String,
        /// Contact URI.
        uri: String,
        /// Seconds.
        expires_s: u32,
        /// CSeq number.
        cseq: u32,
    },
    /// A phone removed its contact.
    Unregister {
        /// Phone number.
        phone: u32,
        /// Address of record.
        aor: String,
        /// Contact URI.
        uri: String,
    },
    /// All contacts of an address of record were removed: `Contact: *`, or an operator.
    RemoveAll {
        /// Address of record.
        aor: String,
        /// Whether it was an operator.
        operator: bool,
    },
    /// A key was set.
    Set {
        /// Table.
        table: String,
        /// Key.
        key: String,
        /// Value.
        value: String,
    },
    /// A key was deleted.
    Delete {
        /// Table.
        table: String,
        /// Key.
        key: String,
    },
    /// A counter was incremented.
    Add {
        /// Table.
        table: String,
        /// Key.
        key: String,
        /// By how much.
        by: i64,
    },
    /// A proxy said how far a call has got; its INVITE makes the dialog.
    Call {
        /// Call number.
        call: u32,
        /// The dialog's state, 1 to 4.
        state: u8,
        /// Seconds until it ends by itself; `None` leaves that as it is.
        lifetime_s: Option<u32>,
    },
    /// A variable of a call was set.
    CallVar {
        /// Call number.
        call: u32,
        /// Name.
        name: String,
        /// Value.
        value: String,
    },
    /// A call came to count in a profile.
    CallProfile {
        /// Call number.
        call: u32,
        /// The profile's name.
        name: String,
    },
    /// A call was ended.
    Bye {
        /// Call number.
        call: u32,
    },
}

/// All deeds of a run.
#[derive(Debug, Default)]
pub struct Ledger {
    deeds: Vec<Deed>,
}

impl Ledger {
    /// Notes that a deed was begun.
    pub fn begin(&mut self, what: What, at: Entry, now: Mono) -> DeedId {
        self.deeds.push(Deed { what, at, taken: None, begun: now, ended: None });
        (self.deeds.len() - 1) as DeedId
    }

    /// Notes that the node or server took it.
    pub fn taken(&mut self, deed: DeedId, now: Mono) {
        self.deeds[deed as usize].taken.get_or_insert(now);
    }

    /// Notes how it ended.
    pub fn end(&mut self, deed: DeedId, ended: Ended, now: Mono) {
        self.deeds[deed as usize].ended.get_or_insert((now, ended));
    }

    /// A deed.
    pub fn deed(&self, id: DeedId) -> &Deed {
        &self.deeds[id as usize]
    }

    /// All deeds, in the order in which they were begun.
    pub fn deeds(&self) -> &[Deed] {
        &self.deeds
    }
}
