//! Registrations.

use serde::{Deserialize, Serialize};

/// An address of record with its live contacts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Location {
    /// Address of record as the servers store it.
    pub aor: String,
    /// Its contacts, at least one.
    pub contacts: Vec<Contact>,
}

/// A live contact. Strings are empty where the device or server gave none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contact {
    /// Contact URI.
    pub contact: String,
    /// Source URI as the registrar saw it.
    pub received: String,
    /// `Path` values.
    pub path: String,
    /// q value, 0 to 1; null if none.
    pub q: Option<f64>,
    /// Unix seconds; 0 = permanent.
    pub expires: u64,
    /// Call-ID of the REGISTER.
    pub callid: String,
    /// CSeq of the REGISTER.
    pub cseq: u32,
    /// User agent.
    pub user_agent: String,
    /// `+sip.instance`, with angle brackets.
    pub instance: String,
    /// Outbound reg-id; 0 = none.
    pub reg_id: u32,
    /// Bit mask of methods, as Kamailio numbers them.
    pub methods: u32,
    /// Every ruid that some server has for it.
    pub ruids: Vec<String>,
    /// Unix seconds.
    pub last_modified: u64,
}

/// `PUT /v1/location/AOR`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocationAdd {
    /// Contact URI, `sip:alice@192.0.2.1:5060`.
    pub contact: String,
    /// Seconds until it expires; 0 = permanent. An hour unless given.
    #[serde(default = "an_hour")]
    pub expires_in: u32,
    /// q value, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q: Option<f64>,
    /// `+sip.instance`, with angle brackets.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// Outbound reg-id; 0 = none.
    #[serde(default)]
    pub reg_id: u32,
    /// `Path` values.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Source URI.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub received: String,
    /// User agent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user_agent: String,
}

const fn an_hour() -> u32 {
    3_600
}
