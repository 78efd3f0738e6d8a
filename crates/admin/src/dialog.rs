//! Dialogs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A live dialog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialog {
    /// Call-ID and caller's tag with a `;` between them: what names it in a path.
    pub id: String,
    /// Call-ID.
    pub callid: String,
    /// The caller's tag.
    pub from_tag: String,
    /// The callee's tag; empty while unknown.
    pub to_tag: String,
    /// 1 unconfirmed, 2 early, 3 confirmed without an ACK, 4 confirmed, as Kamailio numbers them.
    pub state: u8,
    /// From URI.
    pub from_uri: String,
    /// To URI.
    pub to_uri: String,
    /// When it began, unix seconds.
    pub start: u64,
    /// When it was answered, unix seconds; null = not yet.
    pub answered: Option<u64>,
    /// Seconds from its start until it ends by itself.
    pub lifetime: u64,
    /// When that is, unix seconds.
    pub expires: u64,
    /// Variables by name.
    pub vars: BTreeMap<String, String>,
    /// The profiles that it counts in, by name.
    pub profiles: Vec<DialogProfile>,
}

impl Dialog {
    /// The name of a state.
    pub const fn state_word(&self) -> &'static str {
        match self.state {
            1 => "unconfirmed",
            2 => "early",
            3 => "unacknowledged",
            4 => "confirmed",
            _ => "unknown",
        }
    }
}

/// A profile that a dialog counts in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DialogProfile {
    /// Its name.
    pub name: String,
    /// The value in it; null if it has none.
    pub value: Option<String>,
}

/// `PUT /v1/dialog/ID`. What is left out stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DialogSet {
    /// 1 to 4; lower than what it has got to is refused with 409.
    pub state: u8,
    /// The callee's tag.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub to_tag: String,
    /// From URI; needed for a dialog that the node does not know.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub from_uri: String,
    /// To URI; needed for a dialog that the node does not know.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub to_uri: String,
    /// Seconds from now until it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<u32>,
    /// When it began, unix seconds. A dialog that the node does not know, and that is beyond state 1, is made only if this
    /// is given; give the same wherever you say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
}

/// `PUT /v1/dialog/ID/var/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VarSet {
    /// Its value.
    pub value: String,
}

/// `PUT /v1/dialog/ID/profile/NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileSet {
    /// A value in the profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}
