use kdmq::htable::{Action, How, On, decode, encode_delete, encode_expire, encode_set};
use kdmq::{DecodeError, EncodeError, MAX_BODY};
use tables::htable::Value;

use crate::{strict, text};

fn set(value: Value<'_>) -> Action<'_> {
    Action::Set { table: text("t"), key: text("k"), value, last_modified: None }
}

fn one(body: &str) -> Action<'_> {
    decode(body.as_bytes()).unwrap_or_else(|error| panic!("{error}: {body}"))
}

fn error(body: &str) -> DecodeError {
    decode(body.as_bytes()).expect_err(body)
}

#[test]
fn each_action_decodes() {
    assert_eq!(one(r#"{"action":1}"#), Action::Sync { table: None });
    assert_eq!(one(r#"{"action":1,"htname":"t"}"#), Action::Sync { table: Some(text("t")) });
    assert_eq!(one(r#"{"action":2,"htname":"t","cname":"k","type":2,"strval":"v","mode":1}"#), set(Value::str("v")));
    assert_eq!(one(r#"{"action":2,"htname":"t","cname":"k","type":0,"intval":-7,"mode":1}"#), set(Value::Int(-7)));
    let expire = Action::Expire { table: text("t"), key: text("k"), seconds: 77 };
    assert_eq!(one(r#"{"action":3,"htname":"t","cname":"k","type":0,"intval":77,"mode":0}"#), expire);
    let delete = Action::Delete { table: text("t"), key: text("k") };
    assert_eq!(one(r#"{"action":4,"htname":"t","cname":"k","mode":0}"#), delete);
    for (action, mode, how, on) in [
        (5, 0, How::Regex, On::Names),
        (5, 1, How::Regex, On::Values),
        (6, 0, How::Prefix, On::Names),
        (6, 1, How::Prefix, On::Values),
    ] {
        let body = format!(r#"{{"action":{action},"htname":"t","type":2,"strval":"^u","mode":{mode}}}"#);
        let expected = Action::RemoveMatching { table: text("t"), how, on, pattern: text("^u") };
        assert_eq!(one(&body), expected);
    }
}

#[test]
fn order_duplicates_unknown_members_and_a_tail_do_not_matter() {
    let body = r#" { "extra" : {"a":[null]} , "mode":1, "strval" : "old", "strval":"v", "type":2,"cname":"k", "htname":"t","action":2 } tail"#;
    assert_eq!(one(body), set(Value::str("v")));
}

#[test]
fn the_type_decides_and_without_it_what_is_there() {
    assert_eq!(one(r#"{"action":2,"htname":"t","cname":"k","type":2,"intval":1,"strval":"v"}"#), set(Value::str("v")));
    assert_eq!(one(r#"{"action":2,"htname":"t","cname":"k","type":0,"intval":1,"strval":"v"}"#), set(Value::Int(1)));
    assert_eq!(one(r#"{"action":2,"htname":"t","cname":"k","strval":""}"#), set(Value::str("")));
    assert_eq!(one(r#"{"action":2,"htname":"t","cname":"k","intval":1.9}"#), set(Value::Int(1)));
}

#[test]
fn a_time_stamp_is_milliseconds_and_zero_is_none() {
    let stamp = |body| match one(body) {
        Action::Set { last_modified, .. } => last_modified,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        stamp(r#"{"action":2,"htname":"t","cname":"k","intval":1,"last_modified":1795417392455}"#),
        Some(1_795_417_392_455)
    );
    assert_eq!(stamp(r#"{"action":2,"htname":"t","cname":"k","intval":1,"last_modified":0}"#), None);
}

#[test]
fn every_error_has_the_status_of_a_server() {
    for (body, status) in [
        ("", 400),
        ("{}", 400),
        ("[]", 400),
        (r#"{"action":"#, 400),
        (r#"{"action":77,"htname":"t","cname":"k"}"#, 500),
        (r#"{"action":2,"cname":"k","intval":1}"#, 500),
        (r#"{"action":2,"htname":"t","intval":1}"#, 500),
        (r#"{"action":2,"htname":"t","cname":"k"}"#, 400),
        (r#"{"action":2,"htname":"t","cname":"k","type":2,"intval":1}"#, 400),
        (r#"{"action":2,"htname":"t","cname":"k","type":2,"strval":7}"#, 400),
        (r#"{"action":2,"htname":"t","cname":"k","type":0,"intval":"7"}"#, 400),
        // Integers of servers have 32 bit.
        (r#"{"action":2,"htname":"t","cname":"k","type":0,"intval":2147483648}"#, 400),
        (r#"{"action":2,"htname":"t","cname":"k","type":0,"intval":-1e300}"#, 400),
        (r#"{"action":3,"htname":"t","cname":"k"}"#, 400),
        (r#"{"action":5,"htname":"t"}"#, 400),
        (r#"{"action":2,"htname":"t","cname":"","intval":1}"#, 200),
    ] {
        assert_eq!(error(body).status(), status, "{body}");
    }
    assert_eq!(one(r#"{"action":0}"#), Action::None);
    assert_eq!(one(r#"{"action":"2","htname":"t"}"#), Action::None);
}

#[test]
fn cells_are_found_in_any_position_and_the_rest_is_ignored() {
    for body in [
        r#"{"cells":[{"htname":"t","cname":"k","type":0,"intval":2,"expire":9,"last_modified":5}]}"#,
        r#"{"action":77,"htname":3,"cells":{"1":{"htname":"t","cname":"k","type":0,"intval":2,"expire":9,"last_modified":5,"x":1}}}"#,
    ] {
        let Action::Cells(cells) = one(body) else { panic!("{body}") };
        let [cell] = cells.cells.as_slice() else { panic!("{cells:?}") };
        assert_eq!((&cell.table, &cell.key, &cell.value), (&text("t"), &text("k"), &Value::Int(2)));
        assert_eq!((cell.expire, cell.last_modified, cells.skipped), (9, Some(5), 0));
    }
    let Action::Cells(none) = one(r#"{"cells":[]}"#) else { panic!() };
    assert!(none.cells.is_empty());
}

#[test]
fn a_bad_cell_is_counted_and_inherits_nothing() {
    let body = r#"{"cells":[{"htname":"t","cname":"k","intval":2},{"cname":"x","intval":1},{"htname":"t","cname":"y"},7,{"htname":"t","cname":"z","type":2,"strval":""}]}"#;
    let Action::Cells(cells) = one(body) else { panic!() };
    assert_eq!(cells.cells.iter().map(|cell| cell.key.to_string()).collect::<Vec<_>>(), ["k", "z"]);
    assert_eq!(cells.skipped, 3);
    assert_eq!(cells.reason, Some(DecodeError::Missing { channel: "htable", field: "htname" }));
}

#[test]
fn a_set_has_the_lock_and_only_fields_that_every_server_knows() {
    let body = encode_set(b"t", b"k", &Value::str("v"), None).unwrap();
    assert_eq!(body, br#"{"action":2,"htname":"t","cname":"k","type":2,"strval":"v","mode":1}"#);
    let body = encode_set(b"t", b"k", &Value::Int(-1), Some(1_795_417_392_455)).unwrap();
    assert_eq!(
        body,
        br#"{"action":2,"htname":"t","cname":"k","type":0,"intval":-1,"last_modified":1795417392455,"mode":1}"#
    );
}

#[test]
fn what_a_server_cannot_hold_is_not_encoded() {
    let value = Value::Int(1);
    assert_eq!(encode_set(b"", b"k", &value, None), Err(EncodeError::Empty { field: "htname" }));
    assert_eq!(encode_set(b"t", b"", &value, None), Err(EncodeError::Empty { field: "cname" }));
    assert_eq!(encode_set(b"t", b"k", &Value::str("a\0"), None), Err(EncodeError::Nul { field: "strval" }));
    assert_eq!(encode_delete(b"t", b"\0"), Err(EncodeError::Nul { field: "cname" }));
    for number in [i64::from(i32::MAX) + 1, i64::MIN] {
        let expected = EncodeError::OutOfRange { field: "intval", value: number };
        assert_eq!(encode_set(b"t", b"k", &Value::Int(number), None), Err(expected));
    }
    let huge = "x".repeat(MAX_BODY);
    assert!(matches!(encode_set(b"t", b"k", &Value::str(&huge), None), Err(EncodeError::TooLong { .. })));
}

#[test]
fn an_expiry_never_turns_negative() {
    let json = strict(&encode_expire(b"t", b"k", u32::MAX).unwrap());
    assert_eq!(json["intval"], i32::MAX);
    assert_eq!(
        encode_expire(b"exp", b"k", 77).unwrap(),
        br#"{"action":3,"htname":"exp","cname":"k","type":0,"intval":77,"mode":0}"#
    );
}
