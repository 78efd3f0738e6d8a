use bstr::{BStr, ByteSlice};
use proptest::prelude::*;

use super::*;

/// The first member's value.
fn first(json: &[u8]) -> Result<Scalar<'_>, Syntax> {
    let mut reader = Reader::new(json);
    let mut object = reader.open(false).expect("an object");
    match reader.member(&mut object)? {
        Member::Named(_) => reader.scalar(),
        Member::End => Ok(Scalar::Other),
    }
}

fn text(json: &[u8]) -> Vec<u8> {
    match first(json) {
        Ok(Scalar::Text(text)) => text.to_vec(),
        other => panic!("{:?} of {}", other, json.as_bstr()),
    }
}

fn number(json: &[u8]) -> i64 {
    match first(json) {
        Ok(Scalar::Number(number)) => number,
        other => panic!("{:?} of {}", other, json.as_bstr()),
    }
}

#[test]
fn escapes_are_undone_as_servers_undo_them() {
    for (json, meaning) in [
        (br#"{"a":"x\"\\\/\b\f\n\r\ty"}"#.as_slice(), b"x\"\\/\x08\x0c\n\r\ty".as_slice()),
        (br#"{"a":"\u00e9\u20ac"}"#, "é€".as_bytes()),
        (br#"{"a":"\ud83d\udd11"}"#, "🔑".as_bytes()),
        (br#"{"a":"1\u00002\u00003"}"#, b"123"),
        (br#"{"a":"1\ud83d2"}"#, b"12"),
        (br#"{"a":"1\udd112"}"#, b"12"),
        (br#"{"a":"1\ud83d\u0041"}"#, b"1A"),
        (br#"{"a":"1\ud83d\ud83d\udd11"}"#, "1🔑".as_bytes()),
        (br#"{"a":"\q"}"#, b"q"),
        (b"{\"a\":\"\xe9\xff\x01\x7f\"}", b"\xe9\xff\x01\x7f"),
    ] {
        assert_eq!(text(json).as_bstr(), meaning.as_bstr(), "{}", json.as_bstr());
    }
}

#[test]
fn numbers_lose_their_fraction_and_saturate() {
    for (json, value) in [
        (r#"{"a":0}"#, 0),
        (r#"{"a":-1}"#, -1),
        (r#"{"a":007}"#, 7),
        (r#"{"a":4294967295}"#, 4_294_967_295),
        (r#"{"a":1795417914.9}"#, 1_795_417_914),
        (r#"{"a":-0.5}"#, 0),
        (r#"{"a":1.5e3}"#, 1500),
        (r#"{"a":1E2}"#, 100),
        (r#"{"a":1e999}"#, i64::MAX),
        (r#"{"a":99999999999999999999}"#, i64::MAX),
        (r#"{"a":-99999999999999999999}"#, i64::MIN),
    ] {
        assert_eq!(number(json.as_bytes()), value, "{json}");
    }
}

#[test]
fn text_that_is_not_json_tells_where() {
    for (json, offset) in [
        (r#"{"#, 1),
        (r#"{"a"#, 1),
        (r#"{"a""#, 4),
        (r#"{"a":"#, 5),
        (r#"{"a":"x"#, 5),
        (r#"{"a":"x\"#, 7),
        (r#"{"a":"\u12"}"#, 6),
        (r#"{"a":-}"#, 5),
        (r#"{"a":1-2}"#, 5),
        (r#"{"a":tru}"#, 5),
        (r#"{a:1}"#, 1),
        (r#"{"a":[1,]}"#, 8),
        (r#"{"a":[1 2]}"#, 8),
        ("{\"a\":\"x\0\"}", 7),
        ("{\"a\":\"\\\\x\0\"}", 9),
        ("{\"a\":\0}", 5),
    ] {
        assert_eq!(first(json.as_bytes()).map_err(|e| e.offset), Err(offset), "{json}");
    }
}

#[test]
fn a_comma_before_the_end_is_refused() {
    let mut reader = Reader::new(br#"{"a":1,}"#);
    let mut object = reader.open(false).unwrap();
    reader.member(&mut object).unwrap();
    reader.skip().unwrap();
    assert!(reader.member(&mut object).is_err());
}

#[test]
fn values_nested_beyond_the_limit_are_refused_without_deep_recursion() {
    let deep = |n: usize| [r#"{"a":"#.to_owned(), "[".repeat(n), "]".repeat(n), "}".to_owned()].concat();
    assert!(first(deep(32).as_bytes()).is_ok());
    assert!(first(deep(33).as_bytes()).is_err());
    assert!(first([r#"{"a":"#, &"[".repeat(60_000)].concat().as_bytes()).is_err());
}

#[test]
fn copied_values_are_compact_and_without_null_members() {
    let mut out = Vec::new();
    let json = b"{ \"a\" : [ 1.50 , 1e2, null, true ] ,\t\"n\" : null, \"s\\u0041\":\"\\u00e9\\/\" , \"o\":{} }";
    Reader::new(json).copy(&mut out).unwrap();
    assert_eq!(out.as_bstr(), "{\"a\":[1.5,100,null,true],\"sA\":\"é/\",\"o\":{}}");
}

fn written(put: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut out = Vec::new();
    let mut object = Writer::new(&mut out);
    put(&mut object);
    object.end();
    out
}

proptest! {
    #[test]
    fn any_text_without_nul_survives(text in prop::collection::vec(1u8.., 0..64)) {
        let json = written(|object| _ = object.text("a", &text));
        match first(&json) {
            Ok(Scalar::Text(read)) => prop_assert_eq!(read.as_ref(), BStr::new(&text)),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn a_strict_parser_reads_what_is_written(name in "[a-z]{1,8}", text: String, number: i64) {
        let json = written(|object| _ = object.int("n", number).text(&name, text.as_bytes()));
        let read: serde_json::Value = serde_json::from_slice(&json).unwrap();
        prop_assert_eq!(&read[&name], &text);
        prop_assert!(name == "n" || read["n"] == number);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(tail: Vec<u8>) {
        let json = [b"{\"a\":".as_slice(), &tail].concat();
        let _ = first(&json);
        let _ = Reader::new(&tail).copy(&mut Vec::new());
    }

    #[test]
    fn what_is_copied_is_strict_and_stays_as_it_is(json in json()) {
        let mut once = Vec::new();
        Reader::new(json.as_bytes()).copy(&mut once).unwrap();
        let _: serde_json::Value = serde_json::from_slice(&once).unwrap();
        let mut twice = Vec::new();
        Reader::new(&once).copy(&mut twice).unwrap();
        prop_assert_eq!(twice.as_bstr(), once.as_bstr());
    }
}

/// Any JSON value, with some white space.
fn json() -> impl Strategy<Value = String> {
    let string = any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap());
    let float = any::<f64>().prop_map(|number| serde_json::to_string(&number).unwrap());
    let word = prop::sample::select(vec!["null", "true", "false", "0", "-7"]).prop_map(str::to_owned);
    let leaf = prop_oneof![string.clone(), float, any::<i64>().prop_map(|n| n.to_string()), word];
    leaf.prop_recursive(4, 32, 4, move |inner| {
        let members = prop::collection::vec((string.clone(), inner.clone()), 0..4);
        let object = members.prop_map(|members| {
            let members: Vec<_> = members.iter().map(|(name, value)| format!("{name} :{value}")).collect();
            format!("{{{}}}", members.join(" ,"))
        });
        let array = prop::collection::vec(inner, 0..4).prop_map(|all| format!("[ {} ]", all.join(", ")));
        prop_oneof![object, array]
    })
}
