//! Every captured message decodes to the meaning that is noted beside it, and what a server emitted
//! is emitted by our encoders byte for byte.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kdmq::{Channel, DecodeError, Generation, htable, notification, usrloc};
use serde_json::{Map, Value, json};
use tables::location::Contact;

/// A captured message.
struct Case {
    name: String,
    bytes: Vec<u8>,
    expected: Value,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/kdmq")
}

fn cases(version: &str) -> Vec<Case> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory().join(version)).expect("captures") {
        let path = entry.expect("an entry").path();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_owned();
        files.entry(path.with_extension("")).or_insert_with(Vec::new).push(extension);
    }
    let case = |(stem, mut extensions): (PathBuf, Vec<String>)| {
        extensions.sort();
        assert_eq!(extensions, ["json", "sip"], "{} must be a pair", stem.display());
        let json = std::fs::read(stem.with_extension("json")).expect("a meaning");
        Case {
            name: format!("{version}/{}", stem.file_name().expect("a name").display()),
            bytes: std::fs::read(stem.with_extension("sip")).expect("a message"),
            expected: serde_json::from_slice(&json).expect("a meaning in JSON"),
        }
    };
    files.into_iter().map(case).collect()
}

fn all_cases() -> Vec<Case> {
    let all: Vec<_> = ["5.6.3", "master"].into_iter().flat_map(cases).collect();
    assert_eq!(all.len(), 134, "captures added or lost");
    all
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the captures are UTF-8")
}

fn channel<'a>(message: &sip::Message<'a>) -> Channel<'a> {
    assert_eq!(message.method(), Some(b"KDMQ".as_slice()));
    let uri = sip::Uri::parse(message.uri().expect("a request")).expect("an R-URI");
    Channel::from_user(uri.user.expect("a channel"))
}

fn contact_meaning(row: &usrloc::Row<'_>) -> Value {
    let Contact {
        uri,
        received,
        path,
        callid,
        user_agent,
        instance,
        ruid,
        sock,
        sockname,
        q,
        cseq,
        expires,
        last_modified,
        methods,
        flags,
        cflags,
        reg_id,
        server_id,
        xavps,
        unknown,
    } = &row.contact;
    assert_eq!(*unknown, None, "no capture has an unknown field");
    let xavps: Option<Value> = xavps.as_ref().map(|json| serde_json::from_slice(json).expect("JSON"));
    json!({
        "aor": text(&row.aor), "c": text(uri), "received": text(received), "sock": text(sock),
        "sockname": text(sockname), "path": text(path), "callid": text(callid),
        "user_agent": text(user_agent), "instance": text(instance), "ruid": text(ruid),
        "expires": expires, "cseq": cseq, "flags": flags, "cflags": cflags, "q": q,
        "last_modified": last_modified, "methods": methods, "reg_id": reg_id,
        "server_id": server_id, "xavps": xavps,
    })
}

fn usrloc_meaning(batch: &usrloc::Batch<'_>) -> Value {
    assert_eq!((batch.skipped, batch.reason), (0, None));
    let action = |action: &usrloc::Action<'_>| match action {
        usrloc::Action::None => json!("none"),
        usrloc::Action::Update(row) => json!({ "update": contact_meaning(row) }),
        usrloc::Action::Remove(row) => json!({ "remove": contact_meaning(row) }),
        usrloc::Action::Sync => json!("sync"),
    };
    batch.actions.iter().map(action).collect()
}

fn value_meaning(value: &tables::htable::Value<'_>) -> Value {
    match value {
        tables::htable::Value::Int(number) => json!(number),
        tables::htable::Value::Str(string) => json!(text(string)),
    }
}

fn cell_meaning(cell: &htable::Cell<'_>) -> Value {
    json!({
        "table": text(&cell.table), "key": text(&cell.key), "value": value_meaning(&cell.value),
        "expire": cell.expire, "last_modified": cell.last_modified,
    })
}

fn htable_meaning(action: &htable::Action<'_>) -> Value {
    use htable::{Action, How, On};
    match action {
        Action::None => json!("none"),
        Action::Sync { table: None } => json!("sync"),
        Action::Sync { table: Some(table) } => json!({ "sync": text(table) }),
        Action::Set { table, key, value, last_modified } => json!({ "set": {
            "table": text(table), "key": text(key), "value": value_meaning(value),
            "last_modified": last_modified,
        } }),
        Action::Expire { table, key, seconds } => {
            json!({ "expire": { "table": text(table), "key": text(key), "seconds": seconds } })
        }
        Action::Delete { table, key } => {
            json!({ "delete": { "table": text(table), "key": text(key) } })
        }
        Action::RemoveMatching { table, how, on, pattern } => json!({ "remove_matching": {
            "table": text(table), "pattern": text(pattern),
            "how": match how { How::Regex => "regex", How::Prefix => "prefix" },
            "on": match on { On::Names => "names", On::Values => "values" },
        } }),
        Action::Cells(cells) => {
            assert_eq!((cells.skipped, cells.reason), (0, None));
            json!({ "cells": cells.cells.iter().map(cell_meaning).collect::<Vec<_>>() })
        }
    }
}

fn nodes_meaning(body: &[u8]) -> Value {
    let (nodes, bad) = notification::decode(body);
    assert_eq!(bad, 0);
    let node = |node: &notification::NodeLine<'_>| {
        json!({
            "host": text(node.host), "port": node.port,
            "transport": node.transport.map(|transport| transport.word()),
            "status": node.status.map(|status| status.word()),
        })
    };
    nodes.iter().map(node).collect()
}

fn refused(meaning: &mut Map<String, Value>, error: DecodeError) {
    let debug = format!("{error:?}");
    let name = debug.split(' ').next().unwrap_or_default();
    meaning.insert("refused".into(), error.status().into());
    meaning.insert("refused_as".into(), name.into());
}

/// What our decoders make of a message, in the form of the notes.
fn meaning(bytes: &[u8]) -> Value {
    let message = sip::parse(bytes).expect("a SIP message");
    let agent = message.user_agent().or_else(|| message.server()).unwrap_or_default();
    let generation = match Generation::from_agent(&agent) {
        Generation::V5 => 5,
        Generation::V6 => 6,
    };
    let mut meaning = Map::from_iter([("generation".to_owned(), generation.into())]);
    if let Some(code) = message.code() {
        meaning.insert("response".into(), code.into());
        let to = message.to().expect("To").addr_spec;
        if text(to).contains("notification_peer@") {
            meaning.insert("nodes".into(), nodes_meaning(message.body));
        }
        return meaning.into();
    }
    let channel = channel(&message);
    meaning.insert("channel".into(), channel.name().to_string().into());
    let decoded = match channel {
        Channel::Notification => Ok(("nodes", nodes_meaning(message.body))),
        Channel::Usrloc => usrloc::decode(message.body).map(|b| ("actions", usrloc_meaning(&b))),
        Channel::Htable => htable::decode(message.body).map(|a| ("action", htable_meaning(&a))),
        other => panic!("no captures of {other:?} yet"),
    };
    match decoded {
        Ok((name, value)) => _ = meaning.insert(name.into(), value),
        Err(error) => refused(&mut meaning, error),
    }
    meaning.into()
}

#[test]
fn every_capture_decodes_to_the_meaning_beside_it() {
    for case in all_cases() {
        let found = meaning(&case.bytes);
        assert_eq!(found, case.expected, "{}", case.name);
    }
}

#[test]
fn what_we_refuse_a_real_server_refused_with_the_same_status() {
    let mut refused = 0;
    for case in all_cases().iter().filter(|case| case.expected.get("refused").is_some()) {
        let answer = directory().join(case.name.replace("-req", "-rsp") + ".sip");
        let answer = std::fs::read(&answer).unwrap_or_else(|_| panic!("no {}", answer.display()));
        let answer = sip::parse(&answer).expect("a SIP message");
        assert_eq!(json!(answer.code()), case.expected["refused"], "{}", case.name);
        refused += 1;
    }
    assert_eq!(refused, 10);
}

/// The optional fields that the capture itself has, so that bytes can be compared.
fn form(version: &str) -> usrloc::Form {
    usrloc::Form { sock: true, newer: version == "master" }
}

fn encode_usrloc(batch: &usrloc::Batch<'_>, is_multi: bool, form: usrloc::Form) -> Option<Vec<u8>> {
    if let ([usrloc::Action::Update(row)], false) = (batch.actions.as_slice(), is_multi) {
        let body = usrloc::encode_update(&row.aor, &row.contact, &row.contact.ruid, form);
        return Some(body.expect("a contact of a server"));
    }
    let mut multi = usrloc::Multi::new(form);
    for action in &batch.actions {
        match action {
            usrloc::Action::Update(row) if is_multi => {
                multi.push_update(&row.aor, &row.contact, &row.contact.ruid).expect("a contact");
            }
            usrloc::Action::Sync => return Some(usrloc::SYNC.to_vec()),
            // Ours are shorter: a server looks at nothing but AoR and ruid.
            _ => return None,
        }
    }
    Some(multi.finish().expect("not empty"))
}

fn encode_htable(action: &htable::Action<'_>) -> Option<Vec<u8>> {
    use htable::Action;
    let body = match action {
        Action::Sync { table: None } => Ok(htable::SYNC.to_vec()),
        Action::Set { table, key, value, last_modified } => htable::encode_set(table, key, value, *last_modified),
        Action::Expire { table, key, seconds } => {
            htable::encode_expire(table, key, u32::try_from(*seconds).expect("positive"))
        }
        Action::Delete { table, key } => htable::encode_delete(table, key),
        _ => return None,
    };
    Some(body.expect("an action of a server"))
}

#[test]
fn what_a_server_emitted_we_emit_byte_for_byte() {
    let mut same = BTreeMap::new();
    for case in all_cases() {
        let (version, _) = case.name.split_once('/').expect("a version");
        let message = sip::parse(&case.bytes).expect("a SIP message");
        let by_server = message.user_agent().is_some_and(|agent| agent.starts_with(b"kamailio"));
        if message.code().is_some() || !by_server {
            continue;
        }
        let channel = channel(&message);
        let encoded = match channel {
            Channel::Notification => {
                let (nodes, _) = notification::decode(message.body);
                Some(notification::encode(&nodes).expect("a list of a server"))
            }
            Channel::Usrloc => {
                let batch = usrloc::decode(message.body).expect("a body of a server");
                encode_usrloc(&batch, message.body.starts_with(b"{\"multi\""), form(version))
            }
            _ => encode_htable(&htable::decode(message.body).expect("a body of a server")),
        };
        if let Some(encoded) = encoded {
            assert_eq!(bstr::BStr::new(&encoded), bstr::BStr::new(message.body), "{}", case.name);
            *same.entry((version.to_owned(), channel.name().to_string())).or_insert(0) += 1;
        }
    }
    let count = |version: &str, channel: &str| same[&(version.to_owned(), channel.to_owned())];
    for version in ["5.6.3", "master"] {
        assert_eq!(count(version, "notification_peer"), 3, "{version}");
        assert_eq!(count(version, "usrloc"), 14, "{version}");
        assert_eq!(count(version, "htable"), 15, "{version}");
    }
}

#[test]
fn the_older_generation_gets_neither_sock_nor_anything_newer() {
    for case in cases("master").iter().chain(&cases("5.6.3")) {
        let message = sip::parse(&case.bytes).expect("a SIP message");
        if message.code().is_some() || channel(&message) != Channel::Usrloc {
            continue;
        }
        let Ok(batch) = usrloc::decode(message.body) else {
            continue;
        };
        for action in &batch.actions {
            let usrloc::Action::Update(row) = action else {
                continue;
            };
            let body = usrloc::encode_update(&row.aor, &row.contact, b"r", Generation::V5);
            let body: Value = serde_json::from_slice(&body.expect("a contact")).expect("JSON");
            for field in ["sock", "sockname", "xavps"] {
                assert_eq!(body.get(field), None, "{}", case.name);
            }
        }
    }
}
