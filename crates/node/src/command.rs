//! What operators and embedders ask a node to write, and what it answers.

use bstr::BString;
use thiserror::Error;

pub use tables::dialog::State as DialogState;

/// A write, asked for over the admin API.
#[derive(Clone, Debug)]
pub enum Command {
    /// Adds or refreshes a contact.
    LocationAdd(Box<NewContact>),
    /// Removes one contact of an AoR, or all of them. An operator's removal: it wins over what this
    /// node has seen and loses to a refresh that it has not.
    LocationRemove {
        /// Address of record as servers store it.
        aor: BString,
        /// Contact URI; `None` removes every contact.
        contact: Option<BString>,
    },
    /// Sets an entry.
    HtableSet {
        /// Hash table.
        table: String,
        /// Key (`cname`), at most 1,024 bytes.
        key: BString,
        /// Value.
        value: Value,
        /// Seconds until it expires; `None`: the table's `autoexpire`, if it has one.
        expires_in: Option<u32>,
    },
    /// Adds to an integer entry, which starts at 0 if absent.
    HtableInc {
        /// Hash table.
        table: String,
        /// Key.
        key: BString,
        /// May be negative.
        by: i64,
    },
    /// Deletes an entry.
    HtableDelete {
        /// Hash table.
        table: String,
        /// Key.
        key: BString,
    },
    /// Deletes every entry that matches.
    HtableDeleteMatching {
        /// Hash table.
        table: String,
        /// How.
        pattern: Pattern,
        /// Whether values are looked at instead of keys.
        on_values: bool,
    },
    /// Makes a dialog, or takes it further.
    DialogSet(Box<DialogUpdate>),
    /// Sets a variable of a dialog.
    DialogVar {
        /// Which dialog.
        id: DialogId,
        /// Name, at most 128 bytes.
        name: BString,
        /// Value, at most 4,096 bytes; `None` takes the variable away.
        value: Option<BString>,
    },
    /// Counts a dialog in a profile, or no longer.
    DialogProfile {
        /// Which dialog.
        id: DialogId,
        /// The profile's name, at most 128 bytes.
        name: BString,
        /// A value in it, at most 4,096 bytes.
        value: Option<BString>,
        /// Whether it counts.
        counts: bool,
    },
    /// Ends a dialog, known here or not. Answered with [`CommandOk::Count`] of what lived here.
    DialogEnd(DialogId),
}

/// What names a dialog.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DialogId {
    /// Call-ID, at most 512 bytes, without `;`.
    pub callid: BString,
    /// The caller's tag, at most 256 bytes, without `;`.
    pub from_tag: BString,
}

/// What somebody has seen of a dialog.
#[derive(Clone, Debug)]
pub struct DialogUpdate {
    /// Which dialog.
    pub id: DialogId,
    /// How far it has got. A lower state than the held one is refused ([`CommandError::StateGoesBack`]).
    pub state: DialogState,
    /// The callee's tag; empty leaves it as it is.
    pub to_tag: BString,
    /// From URI; empty leaves it as it is.
    pub from_uri: BString,
    /// To URI; empty leaves it as it is.
    pub to_uri: BString,
    /// Seconds from now until it ends by itself; `None` leaves that as it is. Never beyond its start and `dialog_max_life_s`.
    pub lifetime_s: Option<u32>,
    /// When it began, unix seconds. A dialog that the node does not know is made in any state if this is given; it must be
    /// the same wherever the dialog is made. Without it only [`DialogState::Unconfirmed`] makes one, which begins now.
    pub start: Option<u64>,
}

/// A value of a hash-table entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// An integer; Kamailio's are 32 bits wide.
    Int(i64),
    /// A string.
    Str(BString),
}

/// What [`Command::HtableDeleteMatching`] looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// A regular expression, found anywhere.
    Regex(String),
    /// A prefix.
    Prefix(BString),
}

/// A contact as an operator gives it.
#[derive(Clone, Debug, Default)]
pub struct NewContact {
    /// Address of record as servers store it.
    pub aor: BString,
    /// Contact URI.
    pub contact: BString,
    /// Seconds until it expires; 0 = permanent.
    pub expires_in: u32,
    /// q value times 1,000; -1 = not given.
    pub q: Option<i32>,
    /// `+sip.instance`, with angle brackets.
    pub instance: BString,
    /// Outbound reg-id; 0 = none.
    pub reg_id: u32,
    /// `Path` values.
    pub path: BString,
    /// Source URI.
    pub received: BString,
    /// User agent.
    pub user_agent: BString,
}

/// A command was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandOk {
    /// Done.
    Done,
    /// The new value.
    Value(i64),
    /// So many entries, contacts or dialogs.
    Count(u64),
}

/// A command was refused; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommandError {
    /// There is no such AoR, contact, entry or dialog.
    #[error("not found")]
    NotFound,
    /// The dialog has ended, or its lifetime is over: nothing can be said of it any more.
    #[error("the dialog has ended")]
    DialogEnded,
    /// The dialog has got further already: what was said is old.
    #[error("the dialog is in state {held}, and does not go back to {asked}")]
    StateGoesBack {
        /// Its state here.
        held: u8,
        /// The one that was said.
        asked: u8,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
}

/// A change that watchers see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Table.
    pub table: String,
    /// Key: AoR, `cname`, dialog.
    pub key: BString,
    /// Member: contact identity, a dialog's variable or profile; empty for hash tables and dialogs themselves.
    pub member: BString,
    /// What happened.
    pub what: EventKind,
    /// Where it was written.
    pub node: crdt::NodeId,
    /// When, unix milliseconds, by the writer's hybrid clock.
    pub time_ms: u64,
}

/// What happened to a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It has a new live version.
    Set,
    /// It was removed.
    Removed,
    /// Its deadline passed.
    Expired,
}
