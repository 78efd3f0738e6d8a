//! Name-addr values, parameters, Via values.

use std::net::SocketAddr;

use starling_sip::{NameAddr, Via};

#[test]
fn a_display_name_may_be_quoted_or_words_or_missing() {
    for (text, display, name) in [
        ("<sip:a@b>", None, None),
        ("\"\" <sip:a@b>", Some("\"\""), Some("")),
        ("Alice B <sip:a@b>", Some("Alice B"), Some("Alice B")),
        ("\"A \\\"x\\\" \\\\ <y>\"<sip:a@b>", Some("\"A \\\"x\\\" \\\\ <y>\""), Some("A \"x\" \\ <y>")),
        ("\"A\r\n \\\"B\" <sip:a@b>", Some("\"A\r\n \\\"B\""), Some("A \"B")),
        ("Alice's.phone<sip:a@b>", Some("Alice's.phone"), Some("Alice's.phone")),
    ] {
        let value = NameAddr::parse(text.as_bytes()).expect(text);
        assert_eq!(value.display, display.map(str::as_bytes), "{text}");
        assert_eq!(value.display_name().as_deref(), name.map(str::as_bytes), "{text}");
        assert_eq!(value.addr_spec, b"sip:a@b", "{text}");
    }
}

#[test]
fn an_address_may_have_a_uri_of_any_scheme() {
    let value = NameAddr::parse(b"<tel:+1201;phone-context=x>;tag=9").unwrap();
    assert_eq!(value.addr_spec, b"tel:+1201;phone-context=x");
    assert_eq!(value.tag(), Some(&b"9"[..]));
    assert!(value.uri().is_err());
}

#[test]
fn parameters_are_found_behind_quoted_text_that_looks_like_some() {
    let value = NameAddr::parse(b"<sip:a@b>;x=\";tag=no, \\\" \"; TAG = yes ;flag").unwrap();
    assert_eq!(value.tag(), Some(&b"yes"[..]));
    assert_eq!(value.params.get("x").unwrap().text().as_ref(), b";tag=no, \" ");
    let names: Vec<_> = value.params.iter().map(|param| param.name).collect();
    assert_eq!(names, [&b"x"[..], b"TAG", b"flag"]);
    assert_eq!(value.params.get("flag").unwrap().text().as_ref(), b"");
}

#[test]
fn a_q_value_is_read_in_thousandths() {
    for (text, q) in [
        ("0", Some(0)),
        ("1", Some(1000)),
        ("1.0", Some(1000)),
        ("0.5", Some(500)),
        ("0.125", Some(125)),
        (".3", Some(300)),
        ("1.001", None),
        ("2", None),
        ("0.1234", None),
        ("-1", None),
        ("99999999", None),
        ("x", None),
        (".", None),
    ] {
        let value = format!("<sip:a@b>;q={text}");
        assert_eq!(NameAddr::parse(value.as_bytes()).unwrap().q(), q, "{text}");
    }
}

#[test]
fn a_via_may_be_written_with_white_space_everywhere() {
    let via =
        Via::parse(b"SIP  / 2.0 /\t UDP   first.example.com : 4000\r\n ;ttl=16 ; maddr=192.0.2.128 ;Branch = z9hG4bK1")
            .unwrap();
    assert_eq!((via.transport, via.host.as_bytes(), via.port), (&b"UDP"[..], &b"first.example.com"[..], Some(4000)));
    assert_eq!(via.branch(), b"z9hG4bK1");
}

#[test]
fn a_response_goes_to_the_source_and_the_port_that_was_asked_for() {
    let source: SocketAddr = "198.51.100.7:40001".parse().unwrap();
    for (via, to) in [
        ("SIP/2.0/UDP 192.0.2.1:5066;branch=z", "198.51.100.7:5066"),
        ("SIP/2.0/UDP 192.0.2.1;branch=z", "198.51.100.7:5060"),
        ("SIP/2.0/UDP 192.0.2.1:5066;rport;branch=z", "198.51.100.7:40001"),
        ("SIP/2.0/UDP 192.0.2.1:5066;maddr=203.0.113.9;received=203.0.113.9", "198.51.100.7:5066"),
    ] {
        let via = Via::parse(via.as_bytes()).unwrap();
        assert_eq!(via.response_address(source), to.parse().unwrap());
    }
}
