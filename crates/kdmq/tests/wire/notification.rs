use kdmq::EncodeError;
use kdmq::notification::{MAX_LIST, MAX_NODES, NodeLine, Status, Transport, decode, encode};

fn node(line: &str) -> NodeLine<'_> {
    NodeLine::parse(line.as_bytes()).unwrap_or_else(|| panic!("{line}"))
}

#[test]
fn a_line_keeps_what_makes_a_node_another_node() {
    let plain = node("sip:127.0.0.11:5061;status=active");
    assert_eq!(
        (plain.host, plain.port, plain.transport, plain.status),
        ("127.0.0.11".into(), Some(5061), None, Some(Status::Active))
    );
    assert_eq!(node("sip:h;status=active").port, None);
    assert_eq!(node("sip:H:5060;transport=udp;status=active").transport, Some(Transport::Udp));
    assert_eq!(node("sip:H:5060").host, "H");
    assert_eq!(node("sip:h:1").status, None);
    let v6 = node("sip:[2001:db8::1]:5060;transport=TCP;weight=5;status=disabled");
    assert_eq!(
        (v6.host, v6.port, v6.transport, v6.status),
        ("[2001:db8::1]".into(), Some(5060), Some(Transport::Tcp), Some(Status::Disabled))
    );
    assert_eq!(node("SIP:dmq@h:5060;STATUS=not_active").status, Some(Status::NotActive));
}

#[test]
fn every_status_of_both_generations_is_understood() {
    for (word, status) in [
        ("active", Status::Active),
        ("pending", Status::Pending),
        ("timeout", Status::Timeout),
        ("not_active", Status::NotActive),
        ("disabled", Status::Disabled),
    ] {
        assert_eq!(node(&format!("sip:h:1;status={word}")).status, Some(status));
        assert_eq!(status.word(), word);
    }
}

#[test]
fn what_is_no_node_is_no_node() {
    for line in [
        "garbage",
        "sip:",
        "sip::5060",
        "sip:h:",
        "sip:h:0",
        "sip:h:65536",
        "sip:h:+5",
        "sip:h h:5060",
        "sip:[::1:5060",
        "sip:[]:5060",
        "sip:[zz]:5060",
        "sip:h:5060;status=activ",
        "sip:h:5060;status=",
        "sip:h:5060;transport=carrier-pigeon",
        "tel:5060",
        "sips",
        "sip:h\0:5060",
        "sip:h?x:5060",
    ] {
        assert_eq!(NodeLine::parse(line.as_bytes()), None, "{line}");
    }
}

#[test]
fn a_bad_line_costs_itself_only() {
    let body = b"sip:a:1;status=active\n\r\n  \r\njunk\r\nsip:b:2;status=what\r\nsip:c:3;status=active";
    let (nodes, bad) = decode(body);
    assert_eq!(nodes.iter().map(|node| node.host).collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(bad, 2);
    assert_eq!(nodes[1].raw, "sip:c:3;status=active");
    assert_eq!(decode(b""), (vec![], 0));
}

#[test]
fn lines_beyond_the_limit_are_counted_not_taken() {
    let body = "sip:a:1;status=active\r\n".repeat(2_000);
    let (nodes, bad) = decode(body.as_bytes());
    assert_eq!((nodes.len(), bad), (512, 1_488));
}

#[test]
fn a_list_ends_every_line_and_names_every_port() {
    let list = [
        NodeLine::new("127.0.0.20", 5070, Transport::Udp, Status::Active),
        NodeLine::new("127.0.0.21", 5060, Transport::Tcp, Status::Disabled),
    ];
    let body = encode(&list).unwrap();
    let expected = b"sip:127.0.0.20:5070;status=active\r\nsip:127.0.0.21:5060;transport=tcp;status=disabled\r\n";
    assert_eq!(body, expected);
    assert_eq!(encode(&[]).unwrap(), b"");
}

#[test]
fn a_line_that_hangs_an_older_server_is_not_encoded() {
    let good = NodeLine::new("10.0.0.1", 5060, Transport::Udp, Status::Active);
    let refused = |node| encode(&[good, node]).expect_err("a bad line");
    assert_eq!(refused(NodeLine { port: None, ..good }), EncodeError::NodeLine { field: "port" });
    assert_eq!(refused(NodeLine { port: Some(0), ..good }), EncodeError::NodeLine { field: "port" });
    for status in [None, Some(Status::NotActive), Some(Status::Pending), Some(Status::Timeout)] {
        assert_eq!(refused(NodeLine { status, ..good }), EncodeError::NodeLine { field: "status" });
    }
    for host in
        ["", "h", "kam.example.org", "1.2.3", "[::1]", "[zz]", "a b", "a\r\nb", "::1", "[]", "a;b", "a@b", "h:5"]
    {
        assert_eq!(refused(NodeLine { host: host.into(), ..good }), EncodeError::NodeLine { field: "host" }, "{host}");
    }
}

#[test]
fn a_list_never_outgrows_the_buffer_of_a_server() {
    let long = "[2001:db8:1234:5678:1234:5678:255.255.255.255]";
    let long = NodeLine::new(long, 65_535, Transport::Sctp, Status::Disabled);
    assert!(encode(&[long; 11]).is_ok_and(|body| body.len() <= MAX_LIST));
    assert!(matches!(encode(&[long; 12]), Err(EncodeError::TooLong { max: MAX_LIST, .. })));
    let short = NodeLine::new("1.2.3.4", 1, Transport::Udp, Status::Active);
    assert!(encode(&[short; MAX_NODES]).is_ok());
    assert!(encode(&[short; MAX_NODES + 1]).is_err());
}

#[test]
fn ipv6_addresses_are_named_only_to_a_server_that_reaches_us_at_one() {
    let v4 = NodeLine::new("10.0.0.1", 5060, Transport::Udp, Status::Active);
    let v6 = NodeLine::new("[2001:db8::1]", 5060, Transport::Udp, Status::Active);
    assert!(encode(&[v6, v4, v6]).is_ok());
    assert_eq!(encode(&[v4, v6]), Err(EncodeError::NodeLine { field: "host" }));
}
