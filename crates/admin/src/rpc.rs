//! JSON-RPC as Kamailio 5.6 speaks it over HTTP, for the methods that a node has an answer to.
//!
//! Field names and their order are Kamailio's. A node has no process table, no HashIDs and no sockets of
//! phones, so such fields hold what Kamailio shows when it does not know either.

use serde::{Deserialize, Serialize};

/// A request. `id` is given back as it came; one without gets an answer without.
#[derive(Clone, Debug, Deserialize)]
pub struct Request {
    /// Kamailio's name, `ul.dump`.
    pub method: String,
    /// Positional.
    #[serde(default)]
    pub params: Vec<serde_json::Value>,
    /// Anything.
    #[serde(default)]
    pub id: Option<serde_json::Value>,
}

/// An answer: either `result` or `error`.
#[derive(Clone, Debug, Serialize)]
pub struct Response {
    /// `2.0`.
    pub jsonrpc: String,
    /// What was asked for; raw, so that fields keep their order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<serde_json::value::RawValue>>,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
    /// The request's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<serde_json::Value>,
}

/// A failure; `code` is also the HTTP status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Kamailio uses SIP-like codes: 404, 500.
    pub code: u16,
    /// In words.
    pub message: String,
}

/// `ul.dump`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UlDump {
    /// One per usrloc domain.
    pub domains: Vec<UlDomainItem>,
}

/// Kamailio wraps each domain in an object.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UlDomainItem {
    /// The domain.
    pub domain: UlDomain,
}

/// A usrloc domain.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UlDomain {
    /// Name, `location`.
    pub domain: String,
    /// Hash slots of a Kamailio; here the number of AoRs.
    pub size: u64,
    /// Full rows, or `{"AoR": ..}` only where `brief` was asked for.
    #[serde(rename = "AoRs")]
    pub aors: Vec<UlAor>,
    /// Totals.
    pub stats: UlStats,
}

/// An AoR of `ul.dump`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum UlAor {
    /// With contacts.
    Full {
        /// The row.
        #[serde(rename = "Info")]
        info: UlInfo,
    },
    /// `ul.dump brief`.
    Brief {
        /// Address of record.
        #[serde(rename = "AoR")]
        aor: String,
    },
}

/// A full AoR row of `ul.dump`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UlInfo {
    /// Address of record.
    #[serde(rename = "AoR")]
    pub aor: String,
    /// Always 0 here.
    #[serde(rename = "HashID")]
    pub hash_id: u32,
    /// Its contacts.
    #[serde(rename = "Contacts")]
    pub contacts: Vec<UlContactItem>,
}

/// `ul.lookup`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UlLookup {
    /// Address of record.
    #[serde(rename = "AoR")]
    pub aor: String,
    /// Its contacts.
    #[serde(rename = "Contacts")]
    pub contacts: Vec<UlContactItem>,
}

/// Totals of a domain.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UlStats {
    /// AoRs.
    pub records: u64,
    /// Contacts of the largest AoR.
    #[serde(rename = "Max-Slots")]
    pub max_slots: u64,
}

/// Kamailio wraps each contact in an object.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UlContactItem {
    /// The contact.
    pub contact: UlContact,
}

/// A contact. Absent text is `[not set]`, as there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UlContact {
    /// Contact URI.
    pub address: String,
    /// Seconds left, or `permanent`.
    pub expires: serde_json::Value,
    /// q value; -1 if none.
    pub q: serde_json::Value,
    /// Call-ID.
    #[serde(rename = "Call-ID")]
    pub call_id: String,
    /// CSeq.
    #[serde(rename = "CSeq")]
    pub cseq: u32,
    /// User agent.
    #[serde(rename = "User-Agent")]
    pub user_agent: String,
    /// Source URI.
    pub received: String,
    /// Path.
    pub path: String,
    /// Database state of a Kamailio; always `CS_NEW`.
    pub state: String,
    /// 0.
    pub flags: u32,
    /// 0.
    #[serde(rename = "CFlags")]
    pub cflags: u32,
    /// `[not set]`: a node has no socket towards phones.
    pub socket: String,
    /// Bit mask of methods.
    pub methods: u32,
    /// The first of the ruids.
    pub ruid: String,
    /// `+sip.instance`.
    pub instance: String,
    /// Outbound reg-id.
    #[serde(rename = "Reg-Id")]
    pub reg_id: u32,
    /// 0.
    #[serde(rename = "Server-Id")]
    pub server_id: u32,
    /// -1.
    #[serde(rename = "Tcpconn-Id")]
    pub tcpconn_id: i32,
    /// 0.
    pub keepalive: u32,
    /// Unix seconds.
    #[serde(rename = "Last-Keepalive")]
    pub last_keepalive: u64,
    /// 0.
    #[serde(rename = "KA-Roundtrip")]
    pub ka_roundtrip: u32,
    /// Unix seconds.
    #[serde(rename = "Last-Modified")]
    pub last_modified: u64,
}

/// `htable.get`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HtItem {
    /// The entry.
    pub item: HtEntry,
}

/// An entry of `htable.get`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HtEntry {
    /// Key.
    pub name: String,
    /// Value.
    pub value: crate::Value,
    /// 2 for a string, 0 for an integer.
    pub flags: u32,
    /// `NEVER`, or a time in UTC, `2026-11-23 13:46:14`.
    pub expire: String,
}

/// A bucket of `htable.dump`; a node answers with one entry per bucket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HtBucket {
    /// Its number.
    pub entry: u64,
    /// Entries in it.
    pub size: u64,
    /// The entries.
    pub slot: Vec<HtSlot>,
}

/// An entry of `htable.dump`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HtSlot {
    /// Key.
    pub name: String,
    /// Value.
    pub value: crate::Value,
    /// `str` or `int`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// A row of `htable.listTables`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HtTable {
    /// Name.
    pub name: String,
    /// Empty: no database.
    pub dbtable: String,
    /// 0.
    pub dbmode: u32,
    /// `autoexpire`, seconds.
    pub expire: u32,
    /// 0 or 1.
    pub updateexpire: u32,
    /// Entries.
    pub size: u64,
    /// 1.
    pub dmqreplicate: u32,
}

/// A row of `dmq.list_nodes`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DmqNode {
    /// Host of the DMQ URI.
    pub host: String,
    /// Port, as text.
    pub port: String,
    /// `udp`, `tcp`, or `*` if the URI does not say.
    pub proto: String,
    /// Address.
    pub resolved_ip: String,
    /// `active`, `timeout` or `pending`.
    pub status: String,
    /// 0, as in 5.6.
    pub last_notification: u64,
    /// 1 for the node that answers.
    pub local: u32,
}

/// `core.uptime`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CoreUptime {
    /// In UTC, `Mon Nov 23 12:45:40 2026`.
    pub now: String,
    /// Likewise.
    pub up_since: String,
    /// Seconds.
    pub uptime: u64,
}
