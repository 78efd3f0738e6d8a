//! Parsing whole messages: which fault is found, and where.

use starling_sip::{MAX_HEADERS, MAX_MESSAGE, Name, ParseErrorKind, parse, parse_head};

use crate::corpus::{KDMQ_UPDATE, MINIMAL, crlf};

#[test]
fn a_fault_is_named_with_its_place_and_status() {
    use ParseErrorKind as Kind;
    let with = |from: &str, to: &str| crlf(&MINIMAL.replace(from, to));
    // What is wrong; the text at whose start the fault lies (or the end of the input); the kind.
    let cases: Vec<(&str, Vec<u8>, &str, Kind, u16)> = vec![
        ("empty", b"".to_vec(), "", Kind::Empty, 400),
        ("keep-alive", b"\r\n\r\n".to_vec(), "\r\n\r\n", Kind::Empty, 400),
        ("one word", b"OPTIONS\r\n\r\n".to_vec(), "OPTIONS", Kind::StartLine, 400),
        ("no version", with(" SIP/2.0\n", "\n"), "OPTIONS", Kind::StartLine, 400),
        ("bad version", with("SIP/2.0\n", "SIP/two\n"), "OPTIONS", Kind::StartLine, 400),
        ("spaces in the URI", with("sip:b@example.com SIP", "sip:b@ex ample.com SIP"), "OPTIONS", Kind::StartLine, 400),
        ("two spaces", with("OPTIONS sip", "OPTIONS  sip"), "OPTIONS", Kind::StartLine, 400),
        ("method is no token", with("OPTIONS sip", "OPT@IONS sip"), "OPT@IONS", Kind::StartLine, 400),
        (
            "code too large",
            with("OPTIONS sip:b@example.com SIP/2.0", "SIP/2.0 4294967301 x"),
            "SIP",
            Kind::StartLine,
            400,
        ),
        ("code of two digits", with("OPTIONS sip:b@example.com SIP/2.0", "SIP/2.0 20 x"), "SIP", Kind::StartLine, 400),
        ("no colon", with("Call-ID: c", "Call-ID c"), "c\r\nCSeq", Kind::HeaderLine, 400),
        ("name of two words", with("Call-ID: c", "Call ID: c"), "ID: c", Kind::HeaderLine, 400),
        ("no name", with("Call-ID: c", ": c"), ": c\r\nCSeq", Kind::HeaderLine, 400),
        ("fold of nothing", with("Via:", " Via:"), " Via:", Kind::HeaderLine, 400),
        ("carriage return alone", with("Call-ID: c", "Call-ID: c\rX: y"), "\rX: y", Kind::BareCr, 400),
        ("length not a number", with("CSeq", "Content-Length: x\nCSeq"), "x\r\nCSeq", Kind::Number, 400),
        ("length negative", with("CSeq", "Content-Length: -1\nCSeq"), "-1", Kind::Number, 400),
        ("length with a sign", with("CSeq", "Content-Length: +1\nCSeq"), "+1", Kind::Number, 400),
        (
            "length beyond all numbers",
            with("CSeq", "Content-Length: 99999999999999999999\nCSeq"),
            "99999999999999999999",
            Kind::Number,
            400,
        ),
        (
            "two lengths",
            with("CSeq", "Content-Length: 0\nl: 1\nCSeq"),
            "1\r\nCSeq",
            Kind::Repeated(Name::ContentLength),
            400,
        ),
        ("two Call-IDs", with("CSeq", "i: d\nCSeq"), "d\r\nCSeq", Kind::Repeated(Name::CallId), 400),
    ];
    for (what, bytes, place, kind, status) in cases {
        let error = parse(&bytes).expect_err(what);
        let offset = bytes.windows(place.len().max(1)).position(|window| window == place.as_bytes());
        assert_eq!(error.kind, kind, "{what}");
        assert_eq!(error.offset, offset.unwrap_or(0), "{what}: {}", bytes.escape_ascii());
        assert_eq!(error.status(), status, "{what}");
    }
}

#[test]
fn a_message_that_is_cut_is_a_fault_wherever_it_is_cut() {
    let bytes = crlf(KDMQ_UPDATE);
    let head = bytes.len() - 417;
    for end in 0..bytes.len() {
        let error = parse(&bytes[..end]).expect_err("cut");
        let expected = match end {
            0 => ParseErrorKind::Empty,
            _ if end < head => ParseErrorKind::Unterminated,
            _ => ParseErrorKind::BodyCut,
        };
        assert_eq!((error.kind, error.offset), (expected, end));
    }
}

#[test]
fn limits_are_refused_beyond_and_kept_up_to() {
    let headers: String = (0..MAX_HEADERS - 4).map(|i| format!("X-{i}: {i}\n")).collect();
    let bytes = crlf(&MINIMAL.replace("\n\n", &format!("\n{headers}\n")));
    let error = parse(&bytes).unwrap_err();
    assert_eq!((error.kind, error.status()), (ParseErrorKind::TooManyHeaders, 513));
    let mut bytes = crlf(MINIMAL);
    bytes.resize(MAX_MESSAGE, b'x');
    assert_eq!(parse(&bytes).unwrap().body.len(), MAX_MESSAGE - crlf(MINIMAL).len());
    bytes.push(b'x');
    let error = parse(&bytes).unwrap_err();
    assert_eq!((error.kind, error.status()), (ParseErrorKind::TooLong, 513));
}

#[test]
fn a_head_is_readable_where_only_body_or_repetition_is_at_fault() {
    let bytes = crlf(&MINIMAL.replace("CSeq", "i: d\nContent-Length: 1000\nCSeq"));
    assert!(parse(&bytes).is_err());
    let head = parse_head(&bytes).unwrap();
    assert_eq!(head.call_id(), Ok(&b"c"[..]));
    assert_eq!(head.validate(), Ok(()));
}

#[test]
fn validation_finds_what_is_missing_or_malformed() {
    use ParseErrorKind as Kind;
    let cases = [
        ("SIP/2.0\n", "SIP/7.0\n", Kind::Version, 505),
        ("Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\n", "", Kind::Missing(Name::Via), 400),
        ("From: <sip:a@example.com>;tag=1\n", "", Kind::Missing(Name::From), 400),
        ("To: <sip:b@example.com>\n", "", Kind::Missing(Name::To), 400),
        ("Call-ID: c\n", "", Kind::Missing(Name::CallId), 400),
        ("CSeq: 1 OPTIONS\n", "", Kind::Missing(Name::CSeq), 400),
        ("SIP/2.0/UDP 192.0.2.1", "SIP/2.0/UDP", Kind::Value(Name::Via), 400),
        ("SIP/2.0/UDP 192.0.2.1", "SIP/2.0/UDP 192.0.2.1:99999", Kind::Value(Name::Via), 400),
        ("SIP/2.0/UDP 192.0.2.1", "SIP/2.0/UDP [2001:db8::x]", Kind::Value(Name::Via), 400),
        ("SIP/2.0/UDP 192.0.2.1", "SIP/2.0/UDP 2001:db8::1", Kind::Value(Name::Via), 400),
        ("<sip:a@example.com>;tag=1", "<sip:a@example.com;tag=1", Kind::Value(Name::From), 400),
        ("<sip:a@example.com>;tag=1", "\"a <sip:a@example.com>;tag=1", Kind::Value(Name::From), 400),
        ("<sip:b@example.com>", "<sip:b@example.com> b", Kind::Value(Name::To), 400),
        ("Call-ID: c", "Call-ID: c d", Kind::Value(Name::CallId), 400),
        ("Call-ID: c", "Call-ID:", Kind::Value(Name::CallId), 400),
        ("CSeq: 1 OPTIONS", "CSeq: OPTIONS", Kind::Value(Name::CSeq), 400),
        ("CSeq: 1 OPTIONS", "CSeq: 4294967296 OPTIONS", Kind::Value(Name::CSeq), 400),
        ("CSeq: 1 OPTIONS", "CSeq: 1 OPT IONS", Kind::Value(Name::CSeq), 400),
        ("CSeq: 1 OPTIONS", "CSeq: 1 INVITE", Kind::CSeqMethod, 400),
    ];
    for (from, to, kind, status) in cases {
        let bytes = crlf(&MINIMAL.replace(from, to));
        let error = parse(&bytes).expect(to).validate().expect_err(to);
        assert_eq!((error.kind, error.status()), (kind, status), "{from:?} -> {to:?}");
        assert!(error.offset <= bytes.len());
    }
}

#[test]
fn an_error_in_a_value_points_into_the_message() {
    let bytes = crlf(&MINIMAL.replace("192.0.2.1;branch", "192.0.2.1;branch=z;;x"));
    let error = parse(&bytes).unwrap().via().unwrap_err();
    let at = bytes.windows(2).position(|pair| pair == b";;").unwrap();
    assert_eq!(error.offset, at);
    assert_eq!(error.to_string(), format!("bad value of Via at byte {at}"));
}
