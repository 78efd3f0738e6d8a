//! The `usrloc` channel: contacts (Kamailio module `dmq_usrloc`).
//!
//! A body is one action object, or `{"multi":{"1":{..},"2":{..}}}` with several, applied in order.
//!
//! # What is lenient
//!
//! Members in any order, `multi` in any position and as an array, duplicate members (the last one
//! counts), unknown members (kept, see [`Contact::unknown`]), numbers with a fraction, negative
//! spellings of 32 bit masks, text after the root object. A member of the wrong type is an error of
//! its action only; within `multi` the other actions stand.
//!
//! # What is strict
//!
//! Every update carries every field, since servers reuse freed memory for absent ones. `ruid`, `c`
//! and `aor` are never empty. The older generation gets neither fields that it does not know nor
//! `sock`, which 5.6 copies into its own socket structures.

mod decode;
mod encode;

use std::borrow::Cow;

use bstr::BStr;
use tables::location::Contact;

use crate::{DecodeError, Generation};

pub use decode::decode;
pub use encode::{Element, Multi, encode_remove, encode_update};

/// The body that asks a server for all its contacts. Send it once: every copy starts another dump.
pub const SYNC: &[u8] = b"{\"action\":3}";

pub(crate) const CHANNEL: &str = "usrloc";

/// A contact under its AoR.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row<'a> {
    /// Address of record as the server stores it: with a domain only if it has `use_domain`.
    pub aor: Cow<'a, BStr>,
    /// The contact, with the server's own [`Contact::ruid`]. In a removal only `ruid` is certain to
    /// be there; a real server sends all fields of the version that it removed.
    pub contact: Contact<'a>,
}

/// What a message asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Nothing.
    None,
    /// Insert or refresh.
    Update(Row<'a>),
    /// Remove the contact that this server knows under `contact.ruid`.
    Remove(Row<'a>),
    /// Send all contacts.
    Sync,
}

/// A decoded body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch<'a> {
    /// The actions in the order in which they are to be applied; one, unless it was `multi`.
    pub actions: Vec<Action<'a>>,
    /// How many elements of `multi` could not be understood and are not among the actions.
    pub skipped: u32,
    /// What was wrong with the first of these.
    pub reason: Option<DecodeError>,
}

/// Which of the fields that not every server understands a message may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// `sock`, where the contact has one. Never for a 5.x server, and never towards a server that
    /// listens on that very socket.
    pub sock: bool,
    /// What 6.x added: `sockname`, `xavps`, and members that this version does not know.
    pub newer: bool,
}

impl From<Generation> for Form {
    fn from(generation: Generation) -> Self {
        let newer = generation >= Generation::V6;
        Self { sock: newer, newer }
    }
}
