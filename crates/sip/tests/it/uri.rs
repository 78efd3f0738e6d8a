//! URIs and their canonical text.

use starling_sip::{ParseErrorKind, Scheme, Uri, normalised};

fn canonical(text: &str) -> String {
    normalised(text.as_bytes()).escape_ascii().to_string()
}

#[test]
fn a_uri_is_taken_apart() {
    let uri = Uri::parse(b"sips:al;x=1%40:pw@Example.COM:5071;transport=TCP;lr?subject=a&to=b").unwrap();
    assert_eq!(uri.scheme, Scheme::Sips);
    assert_eq!((uri.user, uri.password), (Some(&b"al;x=1%40"[..]), Some(&b"pw"[..])));
    assert_eq!((uri.host.as_bytes(), uri.host.ip(), uri.port), (&b"Example.COM"[..], None, Some(5071)));
    assert_eq!(uri.params.value("Transport"), Some(&b"TCP"[..]));
    assert_eq!(uri.params.get("lr").unwrap().value, None);
    assert!(uri.params.get("ob").is_none());
    assert_eq!(uri.headers, Some(&b"subject=a&to=b"[..]));
}

#[test]
fn a_host_may_be_a_name_or_an_address_of_either_family() {
    let ip = |text: &'static str| Uri::parse(text.as_bytes()).unwrap().host.ip().map(|ip| ip.to_string());
    assert_eq!(ip("sip:192.0.2.4"), Some("192.0.2.4".into()));
    assert_eq!(ip("sip:a@[2001:DB8::1]:5060"), Some("2001:db8::1".into()));
    assert_eq!(ip("sip:a@[::ffff:192.0.2.1];lr"), Some("::ffff:192.0.2.1".into()));
    assert_eq!(ip("sip:a@sip_proxy-1.example.org"), None);
}

#[test]
fn what_is_not_a_sip_uri_is_refused() {
    for (text, offset) in [
        ("", 0),
        ("alice", 0),
        (":a@b", 0),
        ("sip:", 4),
        ("sip:@b", 5),
        ("sip:a@", 6),
        ("sip:a@b:", 7),
        ("sip:a@b:0x1", 9),
        ("sip:a@b:65536", 7),
        ("sip:a@b;", 7),
        ("sip:a@b c", 7),
        ("sip:a@b>", 7),
        ("sip:a@[::1", 6),
        ("sip:a@[1.2.3.4]", 6),
        ("sip:a@b/c", 7),
    ] {
        let error = Uri::parse(text.as_bytes()).expect_err(text);
        assert_eq!((error.kind, error.offset), (ParseErrorKind::Uri, offset), "{text}");
    }
    let error = Uri::parse(b"tel:+1201555").unwrap_err();
    assert_eq!((error.kind, error.status()), (ParseErrorKind::UnknownScheme, 416));
}

#[test]
fn equal_uris_have_the_same_canonical_text() {
    for (a, b) in [
        ("sip:%61lice@atlanta.com;transport=TCP", "SIP:alice@AtLanTa.CoM;Transport=tcp"),
        ("sip:carol@chicago.com;newparam=5;security=on", "sip:carol@chicago.com;security=on;newparam=5"),
        (
            "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
            "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
        ),
        (
            "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
            "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
        ),
        ("sip:a@[2001:db8:0:0::1]", "sip:a@[2001:DB8::1]"),
        ("sip:a%2fb@h", "sip:a%2Fb@h"),
        ("sip:a@h;x=%2f", "sip:a@h;x=%2F"),
        ("sip:a@h;p=a%62", "sip:a@h;p=AB"),
    ] {
        assert_eq!(canonical(a), canonical(b));
    }
}

#[test]
fn different_uris_have_different_canonical_texts() {
    for (a, b) in [
        ("SIP:ALICE@AtLanTa.CoM", "sip:alice@AtLanTa.CoM"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
        ("sip:bob@biloxi.com", "sips:bob@biloxi.com"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
        ("sip:bob@biloxi.com:6000;transport=tcp", "sip:bob@biloxi.com"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
        ("sip:a%3Bb@h", "sip:a;b@h"),
        ("sip:a@h;lr", "sip:a@h;lr="),
        ("sip:a:b@h", "sip:a%3Ab@h"),
    ] {
        assert_ne!(canonical(a), canonical(b));
    }
}

#[test]
fn the_canonical_text_is_spelt_in_one_way() {
    for (text, expected) in [
        ("SIP:%61li%20ce:P%57@EXAMPLE.com:05060;Lr;A=B?Z=1&Y=2", "sip:ali%20ce:PW@example.com:5060;a=b;lr?y=2&z=1"),
        ("sip:10.0.0.1", "sip:10.0.0.1"),
        ("sip:%%330%4@h", "sip:%2530%254@h"),
        ("tel:+1-201;Phone-Context=X", "tel:+1-201;Phone-Context=X"),
        ("URN:service:sos", "urn:service:sos"),
        ("no uri at all", "no uri at all"),
        ("sip:broken host", "sip:broken host"),
        ("", ""),
    ] {
        assert_eq!(canonical(text), expected);
        assert_eq!(canonical(expected), expected, "it is its own canonical text");
    }
    assert_eq!(canonical("sip:caf\u{e9}@h"), "sip:caf%C3%A9@h");
}

#[test]
fn what_is_canonical_at_first_sight_is_so_by_the_long_way_too() {
    for text in [
        "sip:alice@example.com",
        "sip:u1-2@198.51.100.7:5060",
        "sip:a.b_c!~*'()@sip_proxy-1.example.org:1",
        "sip:a@b:05060",
        "sip:a@b:65535",
        "sip:a@b:99999",
        "sip:a@b:",
        "sip:a@",
        "sip:@b",
        "sip:a@b@c",
        "sip:a@Example.com",
        "SIP:a@b",
        "sips:a@b",
        "sip:a%41@b",
        "sip:a:p@b",
        "sip:a+b@c",
        "sip:a@b;lr",
        "sip:a@b?c=d",
        "sip:a@[::1]:5060",
        "sip:example.com",
    ] {
        let Ok(uri) = Uri::parse(text.as_bytes()) else { continue };
        assert_eq!(canonical(text), uri.normalised().escape_ascii().to_string(), "{text}");
    }
}
