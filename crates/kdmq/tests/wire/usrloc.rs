use kdmq::usrloc::{Action, Batch, Form, Multi, Row, decode, encode_remove, encode_update};
use kdmq::{DecodeError, EncodeError, Generation, MAX_BODY};
use tables::location::{Contact, MAX_JSON};

use crate::{strict, text};

const UPDATE: &str = r#"{"action":1,"aor":"alice","ruid":"r-1","c":"sip:alice@h","received":"","path":"","callid":"c","user_agent":"n/a","instance":"","expires":1795417914,"cseq":1,"flags":0,"cflags":0,"q":-1,"last_modified":1795417314,"methods":4294967295,"reg_id":0,"server_id":1}"#;

fn alice() -> Row<'static> {
    Row {
        aor: text("alice"),
        contact: Contact {
            uri: text("sip:alice@h"),
            ruid: text("r-1"),
            callid: text("c"),
            expires: 1_795_417_914,
            cseq: 1,
            last_modified: 1_795_417_314,
            server_id: 1,
            ..Contact::default()
        },
    }
}

/// The one action of a body.
fn one(body: &str) -> Action<'_> {
    let Batch { mut actions, skipped, .. } = decode(body.as_bytes()).unwrap_or_else(|e| panic!("{e}: {body}"));
    assert_eq!((actions.len(), skipped), (1, 0), "{body}");
    actions.remove(0)
}

fn update(body: &str) -> Row<'_> {
    match one(body) {
        Action::Update(row) => row,
        other => panic!("{other:?}"),
    }
}

fn error(body: &str) -> DecodeError {
    decode(body.as_bytes()).expect_err(body)
}

#[test]
fn members_in_any_order_with_white_space_and_a_tail_mean_the_same() {
    let pretty = serde_json::to_string_pretty(&strict(UPDATE.as_bytes())).unwrap();
    assert_eq!(update(&pretty), alice());
    assert_eq!(update(&format!("\r\n\t{UPDATE} trailing {{")), alice());
    assert_eq!(update(&format!("{UPDATE}\0\0")), alice());
}

#[test]
fn of_duplicate_members_the_last_counts() {
    let body = UPDATE.replace(r#""c":"#, r#""c":"sip:old@h","aor":"bob","aor":"alice","c":"#);
    assert_eq!(update(&body), alice());
}

#[test]
fn absent_fields_have_their_defaults() {
    let row = update(r#"{"action":1,"aor":"a","ruid":"r","c":"sip:a@h"}"#);
    let expected = Contact { uri: text("sip:a@h"), ruid: text("r"), ..Contact::default() };
    assert_eq!(row, Row { aor: text("a"), contact: expected });
}

#[test]
fn odd_numbers_are_understood_as_servers_print_them() {
    let row = update(
        r#"{"action":1.0,"aor":"a","ruid":"r","c":"c","expires":1795417914.75,"cseq":-1,"methods":-1,"flags":4294967295,"q":5000}"#,
    );
    let contact = row.contact;
    assert_eq!((contact.expires, contact.cseq, contact.methods), (1_795_417_914, u32::MAX, u32::MAX));
    assert_eq!((contact.flags, contact.q), (u32::MAX, -1));
}

#[test]
fn text_that_is_not_utf8_is_kept_as_bytes() {
    let body = [b"{\"action\":2,\"aor\":\"j\xf6rg\",\"ruid\":\"r\xff\"}".as_slice()].concat();
    let batch = decode(&body).unwrap();
    let [Action::Remove(row)] = batch.actions.as_slice() else { panic!("{batch:?}") };
    assert_eq!((row.aor.as_ref(), row.contact.ruid.as_ref()), (b"j\xf6rg".into(), b"r\xff".into()));
}

#[test]
fn a_removal_needs_aor_and_ruid_only() {
    let Action::Remove(row) = one(r#"{"action":2,"aor":"bob","ruid":"r"}"#) else { panic!() };
    assert_eq!((row.aor, row.contact.ruid), (text("bob"), text("r")));
}

#[test]
fn what_asks_for_nothing_is_nothing() {
    for body in [r#"{"action":0}"#, r#"{"action":"1","aor":"a"}"#, r#"{"action":null}"#, r#"{"aor":"a"}"#] {
        assert_eq!(one(body), Action::None, "{body}");
    }
    assert_eq!(one(r#"{"action":3}"#), Action::Sync);
}

#[test]
fn what_kills_a_server_is_refused() {
    for body in ["{}", "[1]", "[]", "\"x\"", "7", "null", "{ }"] {
        assert_eq!(error(body), DecodeError::NotAnObject { channel: "usrloc" }, "{body}");
    }
    for value in ["7", "null", "true", "{}", "[]"] {
        let body = UPDATE.replace("\"alice\"", value);
        assert_eq!(error(&body), DecodeError::WrongType { channel: "usrloc", field: "aor" }, "{body}");
    }
}

#[test]
fn every_error_has_the_status_of_a_server() {
    for (body, status) in [
        ("", 400),
        ("{}", 400),
        (r#"{"action":1,"#, 400),
        (r#"{"action":9}"#, 400),
        (r#"{"action":-1}"#, 400),
        (r#"{"action":1}"#, 400),
        (r#"{"action":2,"aor":"a"}"#, 400),
        (r#"{"action":1,"aor":1,"ruid":"r","c":"c"}"#, 400),
        (r#"{"action":1,"aor":"a","ruid":"r","c":"c","expires":"1"}"#, 400),
        (r#"{"action":1,"aor":"a","ruid":"r","c":"c","expires":-1}"#, 400),
        (r#"{"action":1,"aor":"a","ruid":"r","c":"c","cseq":5000000000}"#, 400),
        (r#"{"action":1,"aor":"a","ruid":"","c":"c"}"#, 200),
        (r#"{"action":1,"aor":"a","ruid":"r","c":""}"#, 200),
    ] {
        assert_eq!(error(body).status(), status, "{body}");
        assert_eq!(error(body).channel(), "usrloc");
    }
}

#[test]
fn a_text_longer_than_a_cell_can_hold_is_refused_and_named() {
    let body = UPDATE.replace("\"alice\"", &format!("\"{}\"", "a".repeat(1025)));
    let expected = DecodeError::TooLong { channel: "usrloc", field: "aor", len: 1025, max: 1024 };
    assert_eq!(error(&body), expected);
}

#[test]
fn multi_is_found_in_any_position_and_form() {
    let two = UPDATE.replace("alice", "bob");
    for body in [
        format!(r#"{{"multi":{{"1":{UPDATE},"2":{two}}}}}"#),
        format!(r#"{{"multi":[{UPDATE},{two}]}}"#),
        format!(r#"{{"action":1,"x":[1],"multi":{{"b":{UPDATE},"a":{two}}},"aor":7}}"#),
    ] {
        let batch = decode(body.as_bytes()).unwrap();
        assert_eq!(batch.actions.len(), 2, "{body}");
        assert_eq!(batch.actions[0], Action::Update(alice()));
    }
    assert_eq!(decode(br#"{"multi":{}}"#).unwrap(), Batch::default());
}

#[test]
fn a_bad_element_of_multi_is_counted_and_the_others_stand() {
    let body = format!(r#"{{"multi":{{"1":{{"action":9}},"2":{UPDATE},"3":{{"action":1,"aor":1}},"4":7,"5":{{}}}}}}"#);
    let batch = decode(body.as_bytes()).unwrap();
    assert_eq!(batch.actions, [Action::Update(alice())]);
    assert_eq!(batch.skipped, 3, "an element without an action asks for nothing");
    assert_eq!(batch.reason, Some(DecodeError::UnknownAction { channel: "usrloc", action: 9 }));
}

#[test]
fn a_broken_text_after_good_elements_refuses_all_of_them() {
    let body = format!(r#"{{"multi":{{"1":{UPDATE},"2":{{"action":}}"#);
    assert!(matches!(error(&body), DecodeError::Syntax { .. }));
}

#[test]
fn batches_do_not_nest() {
    let body = format!(r#"{{"multi":{{"1":{{"multi":{{"1":{UPDATE}}}}}}}}}"#);
    assert_eq!(decode(body.as_bytes()).unwrap().actions, []);
}

#[test]
fn extended_attributes_and_unknown_members_go_back_to_newer_servers_only() {
    let body = UPDATE.replace(
        r#""server_id":1"#,
        r#""server_id":1,"xavps":{ "ulattrs": {"a": "x\/y", "gone": null} },"future": {"n": [1, 2]},"word":true,"nothing":null"#,
    );
    let row = update(&body);
    assert_eq!(row.contact.xavps, Some(text(r#"{"ulattrs":{"a":"x/y"}}"#)));
    assert_eq!(row.contact.unknown, Some(text(r#""future":{"n":[1,2]},"word":true"#)));

    let newer = encode_update(&row.aor, &row.contact, b"r-1", Generation::V6).unwrap();
    assert_eq!(decode(&newer).unwrap().actions, [Action::Update(row.clone())]);
    let older = encode_update(&row.aor, &row.contact, b"r-1", Generation::V5).unwrap();
    assert_eq!(decode(&older).unwrap().actions, [Action::Update(alice())]);
    assert_eq!(older, UPDATE.as_bytes());
}

#[test]
fn unknown_members_beyond_the_limit_are_dropped_and_the_contact_stands() {
    let body = UPDATE.replace("{\"action\"", &format!("{{\"big\":\"{}\",\"action\"", "x".repeat(MAX_JSON)));
    assert_eq!(update(&body), alice());
    let many: String = (0..1000).map(|n| format!("\"f{n}\":1,")).collect();
    let body = UPDATE.replace("{\"action\"", &format!("{{{many}\"action\""));
    assert_eq!(update(&body).contact.unknown.unwrap().split(|&b| b == b',').count(), 32);
}

#[test]
fn a_contact_that_a_server_would_misunderstand_is_not_encoded() {
    let row = alice();
    let with = |change: fn(&mut Contact<'static>)| {
        let mut contact = row.contact.clone();
        change(&mut contact);
        encode_update(b"alice", &contact, b"r", Generation::V5)
    };
    let contact = &row.contact;
    assert_eq!(encode_update(b"", contact, b"r", Generation::V5), Err(EncodeError::Empty { field: "aor" }));
    assert_eq!(encode_update(b"a", contact, b"", Generation::V5), Err(EncodeError::Empty { field: "ruid" }));
    assert_eq!(with(|c| c.uri = text("")), Err(EncodeError::Empty { field: "c" }));
    assert_eq!(with(|c| c.callid = text("a\0b")), Err(EncodeError::Nul { field: "callid" }));
    assert_eq!(encode_remove(b"a", b""), Err(EncodeError::Empty { field: "ruid" }));
    assert_eq!(encode_remove(b"a\0", b"r"), Err(EncodeError::Nul { field: "aor" }));
    let huge =
        encode_update(b"a", &Contact { path: text(&"p".repeat(MAX_BODY)), ..contact.clone() }, b"r", Generation::V5);
    assert!(matches!(huge, Err(EncodeError::TooLong { max: MAX_BODY, .. })));
}

#[test]
fn numbers_stay_within_what_servers_convert() {
    let contact =
        Contact { expires: u64::MAX, last_modified: u64::MAX, cseq: u32::MAX, flags: 1 << 31, ..alice().contact };
    let json = strict(&encode_update(b"a", &contact, b"r", Generation::V5).unwrap());
    assert_eq!(json["expires"], 2_147_483_647);
    assert_eq!(json["last_modified"], 2_147_483_647);
    assert_eq!(json["cseq"], -1);
    assert_eq!(json["flags"], -2_147_483_648i64);
    assert_eq!(json["methods"], 4_294_967_295u32);
}

#[test]
fn an_empty_user_agent_is_said_as_servers_say_it() {
    let contact = Contact { user_agent: text(""), ..alice().contact };
    assert_eq!(encode_update(b"alice", &contact, b"r-1", Generation::V5).unwrap(), UPDATE.as_bytes());
}

#[test]
fn sock_goes_only_where_it_is_asked_for() {
    let contact = Contact { sock: text("udp:127.0.0.1:5060"), sockname: text("n"), ..alice().contact };
    let encode = |form| strict(&encode_update(b"a", &contact, b"r", form).unwrap());
    let asked = encode(Form { sock: true, newer: false });
    assert_eq!((&asked["sock"], asked.get("sockname")), (&"udp:127.0.0.1:5060".into(), None));
    let newer = encode(Form { sock: false, newer: true });
    assert_eq!((newer.get("sock"), &newer["sockname"]), (None, &"n".into()));
}

#[test]
fn a_batch_is_one_body_that_knows_its_length() {
    let mut multi = Multi::new(Generation::V5);
    assert!(multi.is_empty());
    multi.push_remove(b"alice", b"r-0").unwrap();
    multi.push_update(b"alice", &alice().contact, b"r-1").unwrap();
    let len = multi.len_bytes();
    let body = multi.finish().unwrap();
    assert_eq!(body.len(), len);
    let expected = format!(r#"{{"multi":{{"1":{{"action":2,"aor":"alice","ruid":"r-0"}},"2":{UPDATE}}}}}"#);
    assert_eq!(body, expected.as_bytes());
}

#[test]
fn a_failed_push_leaves_the_batch_as_it_was() {
    let mut multi = Multi::new(Generation::V6);
    multi.push_update(b"a", &alice().contact, b"r").unwrap();
    let before = multi.clone().finish().unwrap();
    multi.push_update(b"a", &alice().contact, b"").unwrap_err();
    multi.push_remove(b"a", b"r\0").unwrap_err();
    multi.push_remove(&[b'a'; MAX_BODY], b"r").unwrap_err();
    assert_eq!((multi.count(), multi.finish().unwrap()), (1, before));
}

#[test]
fn a_full_batch_refuses_more_and_can_be_sent() {
    let mut multi = Multi::new(Generation::V5);
    let full = loop {
        match multi.push_update(b"a", &alice().contact, b"r") {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(full, EncodeError::TooLong { .. }));
    let count = multi.count();
    let body = multi.finish().unwrap();
    assert!(body.len() <= MAX_BODY && body.len() > MAX_BODY - 300);
    assert_eq!(decode(&body).unwrap().actions.len(), count);
}

#[test]
fn an_empty_batch_is_never_sent() {
    assert_eq!(Multi::new(Generation::V5).finish(), Err(EncodeError::EmptyBatch));
}
