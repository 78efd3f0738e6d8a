//! `POST /rpc`: JSON-RPC with the names and shapes of Kamailio 5.6, so that its tools work on a node too.
//!
//! Differences that remain: a hash table that does not exist is made by writing to it, and answers list
//! entries in order of their keys, not of a server's hash.

use admin::rpc::{CoreUptime, DmqNode, Fault, HtBucket, HtEntry, HtItem, HtSlot, HtTable, Request, Response as Reply};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bstr::BString;
use node::config::SipTransport;
use node::view::EntryView;
use node::{Command, CommandError, Value};
use serde::Serialize;
use serde_json::Value as JsonValue;
use serde_json::value::{RawValue, to_raw_value};

use super::{App, Failure, rpc_usrloc, show};
use crate::clock;
use crate::config::{DmqUri, SipAddr, transport_word};
use crate::utc::Utc;

/// Every method that is answered.
const METHODS: [&str; 16] = [
    "core.uptime",
    "core.version",
    "dmq.list_nodes",
    "htable.delete",
    "htable.dump",
    "htable.get",
    "htable.listTables",
    "htable.seti",
    "htable.setex",
    "htable.sets",
    "system.listMethods",
    "ul.add",
    "ul.dump",
    "ul.lookup",
    "ul.rm",
    "ul.rm_contact",
];

/// Rows asked of the node at a time, so that a long list does not hold it up.
pub(super) const ROWS: usize = 1_000;

pub(super) type Outcome = Result<Box<RawValue>, Fault>;

pub(super) async fn rpc(State(app): State<App>, body: Bytes) -> Response {
    let request: Request = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => {
            let fault = fault(400, format!("not a JSON-RPC request: {error}"));
            return reply(Err(fault), None);
        }
    };
    let outcome = call(&app, &request.method, &Params(request.params)).await;
    reply(outcome, request.id)
}

/// Kamailio gives the code of a fault as the HTTP status, too.
fn reply(outcome: Outcome, id: Option<JsonValue>) -> Response {
    let (result, error) = match outcome {
        Ok(result) => (Some(result), None),
        Err(fault) => (None, Some(fault)),
    };
    let code = error.as_ref().map_or(200, |fault| fault.code);
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(Reply { jsonrpc: "2.0".to_owned(), result, error, id })).into_response()
}

pub(super) fn fault(code: u16, message: impl Into<String>) -> Fault {
    Fault { code, message: message.into() }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        fault(failure.0.as_u16(), failure.1)
    }
}

pub(super) fn json(rows: impl Serialize) -> Outcome {
    to_raw_value(&rows).map_err(|e| fault(500, e.to_string()))
}

async fn call(app: &App, method: &str, params: &Params) -> Outcome {
    match method {
        "core.uptime" => uptime(app),
        "core.version" => {
            let (version, arch, os) = (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH, std::env::consts::OS);
            json(format!("starling {version} ({arch}/{os})"))
        }
        "dmq.list_nodes" => list_nodes(app).await,
        "htable.delete" => delete(app, params).await,
        "htable.dump" => dump(app, params).await,
        "htable.get" => get(app, params).await,
        "htable.listTables" => list_tables(app).await,
        "htable.seti" | "htable.sets" => set(app, params, method == "htable.seti").await,
        "htable.setex" => set_expiry(app, params).await,
        "system.listMethods" => json(METHODS),
        "ul.add" => rpc_usrloc::add(app, params).await,
        "ul.dump" => rpc_usrloc::dump(app, params).await,
        "ul.lookup" => rpc_usrloc::lookup(app, params).await,
        "ul.rm" => rpc_usrloc::remove(app, params).await,
        "ul.rm_contact" => rpc_usrloc::remove_contact(app, params).await,
        _ => Err(fault(500, "Method Not Found")),
    }
}

/// Positional parameters; Kamailio takes numbers for text and the other way round.
pub(super) struct Params(pub(super) Vec<JsonValue>);

impl Params {
    /// The text at a place, or a fault that says what belongs there.
    pub(super) fn text(&self, index: usize, what: &str) -> Result<String, Fault> {
        match self.0.get(index) {
            Some(JsonValue::String(text)) => Ok(text.clone()),
            Some(JsonValue::Number(number)) => Ok(number.to_string()),
            _ => Err(fault(500, format!("Not enough parameters: {what} is missing at place {}", index + 1))),
        }
    }

    /// The number at a place.
    pub(super) fn number(&self, index: usize, what: &str) -> Result<i64, Fault> {
        let number = match self.0.get(index) {
            Some(JsonValue::Number(number)) => number.as_i64(),
            Some(JsonValue::String(text)) => text.trim().parse().ok(),
            _ => None,
        };
        number.ok_or_else(|| {
            fault(500, format!("Not enough parameters: {what}, a number, is missing at place {}", index + 1))
        })
    }

    /// The fraction at a place.
    pub(super) fn fraction(&self, index: usize, what: &str) -> Result<f64, Fault> {
        let number = match self.0.get(index) {
            Some(JsonValue::Number(number)) => number.as_f64(),
            Some(JsonValue::String(text)) => text.trim().parse().ok(),
            _ => None,
        };
        number.ok_or_else(|| {
            fault(500, format!("Not enough parameters: {what}, a number, is missing at place {}", index + 1))
        })
    }
}

/// Has a command carried out; `absent` is the fault where there is nothing to do it to.
pub(super) async fn carry_out(app: &App, command: Command, absent: Fault) -> Result<(), Fault> {
    match app.command(command).await? {
        Ok(_) => Ok(()),
        Err(CommandError::NotFound) => Err(absent),
        Err(other) => Err(fault(500, other.to_string())),
    }
}

fn uptime(app: &App) -> Outcome {
    let now = clock::wall().secs();
    let started = app.info.started;
    json(CoreUptime {
        now: Utc::from_unix(now).ctime(),
        up_since: Utc::from_unix(started).ctime(),
        uptime: now.saturating_sub(started),
    })
}

async fn list_nodes(app: &App) -> Outcome {
    let peers = app.look(|node, now| node.peers(now)).await?;
    let own = app.info.sip.iter().filter_map(|addr| addr.parse::<SipAddr>().ok()).next();
    let own = own.map(|own| dmq_node(&own.addr.to_string(), own.transport, "active", 1));
    let servers = peers.into_iter().map(|peer| {
        let status = match peer.state {
            "active" => "active",
            "silent" => "timeout",
            _ => "pending",
        };
        match peer.uri.parse::<DmqUri>() {
            Ok(uri) => dmq_node(&uri.host.to_string(), uri.transport, status, 0),
            Err(_) => dmq_node(&peer.uri, SipTransport::Udp, status, 0),
        }
    });
    json(servers.chain(own).collect::<Vec<_>>())
}

fn dmq_node(host_port: &str, transport: SipTransport, status: &str, local: u32) -> DmqNode {
    let (host, port) = host_port.rsplit_once(':').unwrap_or((host_port, "5060"));
    DmqNode {
        host: host.to_owned(),
        port: port.to_owned(),
        proto: transport_word(transport).to_owned(),
        resolved_ip: host.to_owned(),
        status: status.to_owned(),
        last_notification: 0,
        local,
    }
}

fn no_table() -> Fault {
    fault(500, "No such htable")
}

fn table_and_key(params: &Params) -> Result<(String, BString), Fault> {
    Ok((params.text(0, "the table")?, params.text(1, "the key")?.into()))
}

async fn table_exists(app: &App, table: &str) -> Result<bool, Fault> {
    let tables = app.look(|node, now| node.htables(now)).await?;
    Ok(tables.iter().any(|known| known.name == table))
}

async fn entry(app: &App, table: &str, key: &BString) -> Result<EntryView, Fault> {
    let (wanted_table, wanted_key) = (table.to_owned(), key.clone());
    let found = app.look(move |node, now| node.htable_get(&wanted_table, &wanted_key, now)).await?;
    match found {
        Some(entry) => Ok(entry),
        None if table_exists(app, table).await? => Err(fault(500, format!("There is no key {key} in the htable"))),
        None => Err(no_table()),
    }
}

async fn get(app: &App, params: &Params) -> Outcome {
    let (table, key) = table_and_key(params)?;
    let entry = entry(app, &table, &key).await?;
    let flags = if matches!(entry.value, Value::Str(_)) { 2 } else { 0 };
    let expire = entry.expires.map_or_else(|| "NEVER".to_owned(), |at| Utc::from_unix(at).date_time());
    json(HtItem { item: HtEntry { name: show::text(&entry.key), value: show::value(entry.value), flags, expire } })
}

async fn dump(app: &App, params: &Params) -> Outcome {
    let table = params.text(0, "the table")?;
    if !table_exists(app, &table).await? {
        return Err(no_table());
    }
    let mut buckets: Vec<HtBucket> = Vec::new();
    let mut after: Option<BString> = None;
    loop {
        let (name, from) = (table.clone(), after.take());
        let rows = app.look(move |node, now| node.htable_list(&name, from.as_ref().map(|a| &a[..]), ROWS, now)).await?;
        let full = rows.len() >= ROWS;
        after = rows.last().map(|row| row.key.clone()).filter(|_| full);
        for row in rows {
            let kind = if matches!(row.value, Value::Str(_)) { "str" } else { "int" };
            let slot = HtSlot { name: show::text(&row.key), value: show::value(row.value), kind: kind.to_owned() };
            let entry = u64::try_from(buckets.len()).unwrap_or(u64::MAX);
            buckets.push(HtBucket { entry, size: 1, slot: vec![slot] });
        }
        if after.is_none() {
            return json(buckets);
        }
    }
}

async fn list_tables(app: &App) -> Outcome {
    let tables = app.look(|node, now| node.htables(now)).await?;
    let rows = tables.into_iter().map(|table| HtTable {
        name: table.name,
        dbtable: String::new(),
        dbmode: 0,
        expire: table.autoexpire_s,
        updateexpire: 1,
        size: table.entries,
        dmqreplicate: 1,
    });
    json(rows.collect::<Vec<_>>())
}

async fn set(app: &App, params: &Params, integer: bool) -> Outcome {
    let (table, key) = table_and_key(params)?;
    let value = if integer {
        Value::Int(params.number(2, "the value")?)
    } else {
        Value::Str(params.text(2, "the value")?.into())
    };
    carry_out(app, Command::HtableSet { table, key, value, expires_in: None }, no_table()).await?;
    json("Ok. Key set to new value.")
}

async fn set_expiry(app: &App, params: &Params) -> Outcome {
    let (table, key) = table_and_key(params)?;
    let seconds = params.number(2, "the expiry")?;
    let seconds = u32::try_from(seconds).map_err(|_| fault(500, format!("{seconds} is no number of seconds")))?;
    let value = entry(app, &table, &key).await?.value;
    carry_out(app, Command::HtableSet { table, key, value, expires_in: Some(seconds) }, no_table()).await?;
    json("Ok")
}

async fn delete(app: &App, params: &Params) -> Outcome {
    let (table, key) = table_and_key(params)?;
    let absent = if table_exists(app, &table).await? { fault(404, "Key not found in htable.") } else { no_table() };
    carry_out(app, Command::HtableDelete { table, key }, absent).await?;
    json("Ok. Key deleted.")
}
