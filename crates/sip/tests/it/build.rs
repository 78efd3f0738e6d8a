//! Written messages: their bytes, and that they read back.

use std::net::SocketAddr;

use proptest::prelude::*;
use starling_sip::{MessageBuilder, Name, ParseErrorKind, parse, parse_head, reason_phrase};

use crate::corpus::{KDMQ_UPDATE, REGISTER, crlf};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn lines(bytes: &[u8]) -> Vec<String> {
    bytes.split(|&byte| byte == b'\n').map(|line| line.trim_ascii_end().escape_ascii().to_string()).collect()
}

#[test]
fn a_kdmq_request_is_written_in_the_order_of_its_fields() {
    let written = MessageBuilder::request(b"KDMQ", b"sip:usrloc@192.0.2.20:5070")
        .header("Via", "SIP/2.0/UDP 192.0.2.11:5061;branch=z9hG4bK3a91.ceb51f16000000000000000000000000.0")
        .header("To", "<sip:usrloc@192.0.2.20:5070>")
        .header("From", "<sip:usrloc@192.0.2.11:5061>;tag=7d6d56aac8e1c2a2e3b4a7393705d530-82d85309")
        .header("CSeq", "10 KDMQ")
        .header("Call-ID", "0a6db7ce784fec3f-32560@192.0.2.11")
        .content_length()
        .header("User-Agent", "kamailio (5.6.3 (x86_64/linux))")
        .header("Max-Forwards", "1")
        .header("Content-Type", "application/json");
    let expected = crlf(KDMQ_UPDATE);
    let body = &expected[expected.len() - 417..];
    assert_eq!(written.finish(body), expected);
}

#[test]
fn content_length_comes_last_unless_it_was_given_a_place() {
    let written = MessageBuilder::response(404, "Not Found").header("X", "y").finish(b"abc");
    assert_eq!(written, b"SIP/2.0 404 Not Found\r\nX: y\r\nContent-Length: 3\r\n\r\nabc");
}

#[test]
fn an_answer_copies_what_names_the_transaction_in_kamailios_order() {
    let bytes = crlf(KDMQ_UPDATE);
    let request = parse(&bytes).unwrap();
    let answer = MessageBuilder::response_to(&request, at("192.0.2.11:5061"), 200, "OK", Some(b"t1"));
    assert_eq!(
        lines(&answer.unwrap().header("Server", "starling").finish(b"")),
        [
            "SIP/2.0 200 OK",
            "Via: SIP/2.0/UDP 192.0.2.11:5061;branch=z9hG4bK3a91.ceb51f16000000000000000000000000.0",
            "To: <sip:usrloc@192.0.2.20:5070>;tag=t1",
            "From: <sip:usrloc@192.0.2.11:5061>;tag=7d6d56aac8e1c2a2e3b4a7393705d530-82d85309",
            "CSeq: 10 KDMQ",
            "Call-ID: 0a6db7ce784fec3f-32560@192.0.2.11",
            "Server: starling",
            "Content-Length: 0",
            "",
            "",
        ]
    );
}

#[test]
fn an_answer_copies_every_hop_and_writes_where_the_request_came_from() {
    let bytes = crlf(REGISTER);
    let request = parse(&bytes).unwrap();
    let answer = MessageBuilder::response_to(&request, at("198.51.100.7:40001"), 403, "Forbidden", None).unwrap();
    let answer = answer.finish(b"");
    assert_eq!(
        lines(&answer)[1..3],
        [
            "Via: SIP/2.0/TLS edge.example.net:5061;branch=z9hG4bK87asdks7;received=198.51.100.7;rport=40001, \
             SIP/2.0/UDP  [2001:db8::9:1]:5060 ; branch = z9hG4bKnashds7 ;rport",
            "Via: SIP/2.0/UDP 203.0.113.4",
        ]
    );
    let answer = parse(&answer).unwrap();
    assert_eq!(answer.validate(), Ok(()));
    assert_eq!(answer.from(), request.from());
    assert_eq!(answer.to().unwrap().tag(), None);
    assert_eq!(answer.vias().count(), 3);
}

#[test]
fn received_is_added_where_sent_by_hides_the_source() {
    for (sent_by, source, added) in [
        ("192.0.2.1:5060", "192.0.2.1:9", ""),
        ("192.0.2.1", "[::ffff:192.0.2.1]:9", ""),
        ("192.0.2.1", "192.0.2.2:9", ";received=192.0.2.2"),
        ("host.example", "192.0.2.1:9", ";received=192.0.2.1"),
        ("[2001:db8:0::1]", "[2001:db8::1]:9", ""),
        ("[2001:db8::2]", "[2001:db8::1]:9", ";received=2001:db8::1"),
        ("192.0.2.1;rport", "192.0.2.1:9", ";received=192.0.2.1;rport=9"),
        ("192.0.2.1;received=6.6.6.6", "192.0.2.1:9", ""),
        ("192.0.2.1;rport=1;received=6.6.6.6", "192.0.2.1:9", ";received=192.0.2.1;rport=9"),
    ] {
        let request = format!("X sip:a SIP/2.0\r\nVia: SIP/2.0/UDP {sent_by};branch=z9hG4bK1\r\n\r\n");
        let request = parse(request.as_bytes()).unwrap();
        let answer = MessageBuilder::response_to(&request, at(source), 200, "OK", None).unwrap().finish(b"");
        let host = sent_by.split(';').next().unwrap();
        let expected = format!("Via: SIP/2.0/UDP {host};branch=z9hG4bK1{added}");
        assert_eq!(lines(&answer)[1], expected, "{sent_by} from {source}");
    }
}

#[test]
fn a_to_with_a_tag_keeps_it() {
    let request = b"X sip:a SIP/2.0\r\nVia: SIP/2.0/UDP h\r\nTo: <sip:b>;tag=mine\r\n\r\n";
    let request = parse(request).unwrap();
    let answer = MessageBuilder::response_to(&request, at("192.0.2.1:9"), 200, "OK", Some(b"other")).unwrap();
    assert_eq!(parse(&answer.finish(b"")).unwrap().to().unwrap().tag(), Some(&b"mine"[..]));
}

#[test]
fn a_request_without_a_readable_via_cannot_be_answered() {
    for (via, kind) in [("", ParseErrorKind::Missing(Name::Via)), ("Via: x\r\n", ParseErrorKind::Value(Name::Via))] {
        let request = format!("X sip:a SIP/2.0\r\n{via}\r\n");
        let request = parse(request.as_bytes()).unwrap();
        let error = MessageBuilder::response_to(&request, at("192.0.2.1:9"), 400, "Bad Request", None).unwrap_err();
        assert_eq!(error.kind, kind);
    }
}

#[test]
fn a_faulty_request_can_be_answered_with_what_it_has() {
    let request = b"X sip:a SIP/2.0\r\nVia: SIP/2.0/UDP h:1\r\nTo: <<\r\nContent-Length: 9\r\n\r\n";
    let error = parse(request).unwrap_err();
    let head = parse_head(request).unwrap();
    let reason = reason_phrase(error.status());
    let answer = MessageBuilder::response_to(&head, at("192.0.2.1:9"), error.status(), reason, Some(b"t")).unwrap();
    assert_eq!(
        lines(&answer.finish(b""))[0..3],
        ["SIP/2.0 400 Bad Request", "Via: SIP/2.0/UDP h:1;received=192.0.2.1", "To: <<",]
    );
}

#[test]
fn no_value_can_smuggle_in_a_field_of_its_own() {
    let written = MessageBuilder::request(b"X", b"sip:a\r\nEvil: 1")
        .header("A", "1\r\nEvil: 2")
        .header("B", "1\nEvil: 3\r\r\n\r\n")
        .finish(b"");
    let names: Vec<_> = lines(&written).iter().map(|line| line.split(':').next().unwrap().to_owned()).collect();
    assert_eq!(names, ["X sip", "A", "B", "Content-Length", "", ""]);
}

proptest! {
    #[test]
    fn a_built_request_reads_back(
        method in "[A-Z]{1,12}",
        values in proptest::collection::vec("[!-~]([ -~]{0,60}[!-~])?", 0..40),
        body in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut builder = MessageBuilder::request(method.as_bytes(), b"sip:a@b");
        for value in &values {
            builder = builder.header("X-Value", value);
        }
        let bytes = builder.finish(&body);
        let message = parse(&bytes).unwrap();
        prop_assert_eq!(message.method(), Some(method.as_bytes()));
        prop_assert_eq!(message.body, &body[..]);
        let read: Vec<_> = message.headers(Name::Other).map(|header| header.raw.to_vec()).collect();
        let written: Vec<_> = values.iter().map(|value| value.clone().into_bytes()).collect();
        prop_assert_eq!(read, written);
    }
}
