//! The JSON of the admin interface: one definition of each shape, for the node that answers and the tools that ask.
//!
//! What is here is data only. Paths and their meaning:
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/members` | `[`[`Member`]`]` |
//! | `GET /v1/peers` | `[`[`Peer`]`]` |
//! | `GET /v1/digest` | [`Digest`] |
//! | `GET /v1/location?after=&limit=` | `[`[`Location`]`]`, by AoR |
//! | `GET /v1/location/AOR` | [`Location`], 404 if it has no contact |
//! | `PUT /v1/location/AOR` with [`LocationAdd`] | [`Done`] |
//! | `DELETE /v1/location/AOR[?contact=URI]` | [`Done`], 404 if there is none |
//! | `GET /v1/htable` | `[`[`Htable`]`]` |
//! | `GET /v1/htable/NAME?after=&limit=` | `[`[`Entry`]`]`, by key |
//! | `GET /v1/htable/NAME/KEY` | [`Entry`], 404 if absent |
//! | `PUT /v1/htable/NAME/KEY` with [`EntrySet`] | [`Done`] |
//! | `POST /v1/htable/NAME/KEY/inc` with [`EntryInc`] | [`Incremented`] |
//! | `DELETE /v1/htable/NAME/KEY` | [`Done`], 404 if absent |
//! | `POST /v1/htable/NAME/delete-matching` with [`DeleteMatching`] | [`Deleted`] |
//! | `GET /v1/dialog?after=&limit=` | `[`[`Dialog`]`]`, by ID |
//! | `GET /v1/dialog/ID` | [`Dialog`], 404 if there is none that lives |
//! | `PUT /v1/dialog/ID` with [`DialogSet`] | [`Done`], 404 if it is unknown and not made by this, 409 if it has ended or got further |
//! | `DELETE /v1/dialog/ID` | [`Done`], known or not |
//! | `PUT /v1/dialog/ID/var/NAME` with [`VarSet`], `DELETE` | [`Done`], 404 if there is none, 409 if the dialog has ended |
//! | `PUT /v1/dialog/ID/profile/NAME` with [`ProfileSet`], `DELETE` | [`Done`], as there |
//! | `GET /v1/watch` | server-sent events, each with a [`Change`] as its data |
//! | `POST /rpc` | JSON-RPC with Kamailio's names, see [`rpc`] |
//! | `GET /metrics` | Prometheus text |
//! | `GET /healthz`, `GET /readyz` | 200 or 503, one line of text |
//!
//! Anything that fails answers with an [`Error`] and a status of 4xx (the request's fault) or 5xx (the node's).
//! Keys, AoRs and dialogs in a path are percent-encoded bytes; a dialog is `CALLID;FROMTAG`. Lists are cut at `limit` ([`DEFAULT_LIMIT`] unless
//! given, at most [`MAX_LIMIT`]); when there is more, a `Link: <path>; rel="next"` header names the next part.
//!
//! Text from SIP is bytes and need not be UTF-8; JSON shows what is not as U+FFFD. Nothing here is used to
//! carry data between nodes.

mod dialog;
mod htable;
mod location;
mod node;
pub mod percent;
pub mod rpc;

pub use dialog::{Dialog, DialogProfile, DialogSet, ProfileSet, VarSet};
pub use htable::{DeleteMatching, Deleted, Entry, EntryInc, EntrySet, Htable, Incremented, MatchOn, Value};
pub use location::{Contact, Location, LocationAdd};
pub use node::{Change, ChangeKind, Digest, Member, MemberState, Peer, Status, TableDigest};

use serde::{Deserialize, Serialize};

/// Rows in one answer unless `limit` says otherwise.
pub const DEFAULT_LIMIT: usize = 1_000;

/// The most rows that one answer holds, whatever `limit` says.
pub const MAX_LIMIT: usize = 10_000;

/// The address that a node serves this interface at, and that tools ask, unless told otherwise.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:8070";

/// The answer to a request that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// What, where and what to do, in a sentence.
    pub error: String,
}

/// The answer to a write that has nothing more to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Always true: what is not ok is an [`Error`].
    pub ok: bool,
}

impl Done {
    /// The one value that is ever sent.
    pub const OK: Self = Self { ok: true };
}
