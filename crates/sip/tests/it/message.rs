//! Parsing whole messages: what is read.

use starling_sip::{Contact, MAX_HEADERS, Name, StartLine, parse, parse_head};

use crate::corpus::{KDMQ_UPDATE, MINIMAL, REGISTER, RESPONSE, crlf};

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

#[test]
fn a_kdmq_request_shows_all_its_parts() {
    let bytes = crlf(KDMQ_UPDATE);
    assert_eq!(bytes.len(), 838);
    let message = parse(&bytes).unwrap();
    assert_eq!(message.method(), Some(&b"KDMQ"[..]));
    assert_eq!(message.code(), None);
    assert_eq!(text(message.uri().unwrap()), "sip:usrloc@192.0.2.20:5070");
    let via = message.via().unwrap();
    assert_eq!(text(via.branch()), "z9hG4bK3a91.ceb51f16000000000000000000000000.0");
    assert_eq!((via.transport, via.host.as_bytes(), via.port), (&b"UDP"[..], &b"192.0.2.11"[..], Some(5061)));
    assert_eq!(text(message.to().unwrap().addr_spec), "sip:usrloc@192.0.2.20:5070");
    assert_eq!(message.to().unwrap().tag(), None);
    assert_eq!(text(message.from().unwrap().tag().unwrap()), "7d6d56aac8e1c2a2e3b4a7393705d530-82d85309");
    assert_eq!(message.cseq(), Ok((10, &b"KDMQ"[..])));
    assert_eq!(text(message.call_id().unwrap()), "0a6db7ce784fec3f-32560@192.0.2.11");
    assert_eq!(message.content_length(), Ok(Some(417)));
    assert_eq!(message.max_forwards(), Ok(Some(1)));
    assert_eq!(text(&message.user_agent().unwrap()), "kamailio (5.6.3 (x86_64/linux))");
    assert_eq!(message.content_type(), Some(&b"application/json"[..]));
    assert!(message.body.starts_with(b"{\"action\":1") && message.body.ends_with(b"}"));
    assert_eq!(message.body.len(), 417);
    assert_eq!(message.validate(), Ok(()));
}

#[test]
fn a_response_shows_its_code_reason_and_server() {
    let bytes = crlf(RESPONSE);
    let message = parse(&bytes).unwrap();
    assert_eq!(message.start, StartLine::Response { code: 200, reason: b"OK" });
    assert_eq!((message.code(), message.method(), message.uri()), (Some(200), None, None));
    assert_eq!(text(&message.server().unwrap()), "kamailio (5.6.3 (x86_64/linux))");
    assert_eq!(message.validate(), Ok(()));
}

#[test]
fn compact_forms_and_any_case_are_the_same_field() {
    let bytes = crlf(REGISTER);
    let message = parse(&bytes).unwrap();
    assert_eq!(message.headers(Name::Via).count(), 2);
    assert_eq!(message.headers(Name::Contact).count(), 2);
    assert_eq!(text(message.call_id().unwrap()), "843817637684230@998sdasdh09");
    assert_eq!(text(message.to().unwrap().addr_spec), "sips:alice@example.org");
    assert_eq!(message.header_named(b"content-LENGTH").unwrap().name, b"l");
    assert_eq!(message.header_named(b"p-empty").unwrap().raw, b"");
    assert!(message.header_named(b"P-Absent").is_none());
    assert_eq!(message.validate(), Ok(()));
}

#[test]
fn header_fields_keep_their_order_and_spelling() {
    let bytes = crlf(REGISTER);
    let names: Vec<String> = parse(&bytes).unwrap().all_headers().map(|header| text(header.name)).collect();
    let expected = [
        "Via",
        "v",
        "Max-Forwards",
        "f",
        "TO",
        "i",
        "CSeq",
        "m",
        "Contact",
        "Path",
        "Supported",
        "X-Odd-.!%*+`\\'~",
        "User-Agent",
        "Expires",
        "Allow",
        "P-Empty",
        "l",
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_folded_value_reads_as_one_line() {
    let bytes = crlf(REGISTER);
    let message = parse(&bytes).unwrap();
    assert_eq!(text(&message.user_agent().unwrap()), "Desk Phone 4 (2.0)");
    assert_eq!(text(&message.header_named(b"x-odd-.!%*+`'~").unwrap().value()), "one two three");
}

#[test]
fn a_value_that_starts_on_its_second_line_is_read() {
    let bytes = crlf(&MINIMAL.replace("Call-ID: c", "Call-ID:\n  c").replace("To: ", "To: \n\t"));
    let message = parse(&bytes).unwrap();
    assert_eq!(message.call_id(), Ok(&b"c"[..]));
    assert_eq!(message.validate(), Ok(()));
}

#[test]
fn every_hop_is_found_in_lists_and_repeated_fields_alike() {
    let bytes = crlf(REGISTER);
    let message = parse(&bytes).unwrap();
    let vias: Vec<_> = message.vias().map(Result::unwrap).collect();
    let hosts: Vec<String> = vias.iter().map(|via| text(via.host.as_bytes())).collect();
    assert_eq!(hosts, ["edge.example.net", "[2001:db8::9:1]", "203.0.113.4"]);
    assert_eq!(vias.iter().map(|via| via.port).collect::<Vec<_>>(), [Some(5061), Some(5060), None]);
    let rports: Vec<_> = vias.iter().map(starling_sip::Via::rport).collect();
    assert_eq!(rports, [Some(Some(5061)), Some(None), None]);
    assert_eq!(vias[0].received(), Some(&b"198.51.100.1"[..]));
    assert_eq!(
        vias.iter().map(|via| text(via.branch())).collect::<Vec<_>>(),
        ["z9hG4bK87asdks7", "z9hG4bKnashds7", ""]
    );
}

#[test]
fn every_contact_is_found_in_lists_and_repeated_fields_alike() {
    let bytes = crlf(REGISTER);
    let message = parse(&bytes).unwrap();
    let contacts: Vec<_> = message
        .contacts()
        .map(|contact| match contact.unwrap() {
            Contact::One(contact) => contact,
            Contact::All => panic!("no star in this message"),
        })
        .collect();
    assert_eq!(contacts.len(), 3);
    assert_eq!(text(contacts[0].addr_spec), "sip:alice@203.0.113.4:5062;ob");
    assert_eq!((contacts[0].q(), contacts[0].expires(), contacts[0].reg_id()), (Some(700), Some(600), Some(1)));
    assert_eq!(text(&contacts[0].instance().unwrap()), "<urn:uuid:00000000-0000-1000-8000-000A95A0E128>");
    assert_eq!(text(&contacts[1].display_name().unwrap()), "Mr, Watson");
    assert_eq!(contacts[1].q(), Some(1000));
    // Without angle brackets the parameter is the contact's, not the URI's.
    assert_eq!(text(contacts[2].addr_spec), "sip:+1-212-555-1212:pw@gw.example.com");
    assert_eq!((contacts[2].expires(), contacts[2].q(), contacts[2].instance()), (Some(60), None, None));
}

#[test]
fn a_star_contact_stands_for_all() {
    let bytes = crlf(&MINIMAL.replace("CSeq", "Contact: *\nExpires: 0\nCSeq"));
    let message = parse(&bytes).unwrap();
    assert_eq!(message.contacts().collect::<Vec<_>>(), [Ok(Contact::All)]);
    assert_eq!(message.expires(), Ok(Some(0)));
}

#[test]
fn path_values_are_read_as_addresses() {
    let bytes = crlf(REGISTER);
    let message = parse(&bytes).unwrap();
    let hops: Vec<_> = message.addresses(Name::Path).map(|hop| text(hop.unwrap().addr_spec)).collect();
    assert_eq!(hops, ["sip:p1.example.net;lr", "sip:p2.example.net;lr"]);
}

#[test]
fn text_that_is_not_utf8_is_kept_byte_for_byte() {
    let mut bytes = crlf(&MINIMAL.replace("CSeq", "User-Agent: XX\nCSeq"));
    let at = bytes.windows(2).position(|pair| pair == b"XX").unwrap();
    bytes[at..at + 2].copy_from_slice(b"\xe9\xff");
    assert_eq!(parse(&bytes).unwrap().user_agent().unwrap().as_ref(), b"\xe9\xff");
}

#[test]
fn line_feeds_alone_and_leading_line_ends_are_tolerated() {
    let bare = MINIMAL.as_bytes();
    assert_eq!(parse(bare).unwrap().validate(), Ok(()));
    let bytes = [b"\r\n\r\n\n".as_slice(), bare, b"body"].concat();
    let message = parse(&bytes).unwrap();
    assert_eq!(message.validate(), Ok(()));
    assert_eq!(message.body, b"body");
}

#[test]
fn the_body_is_as_long_as_content_length_says_and_the_rest_is_ignored() {
    let bytes = crlf(&MINIMAL.replace("CSeq", "Content-Length: 3\nCSeq").replace("\n\n", "\n\nabcdef"));
    assert_eq!(parse(&bytes).unwrap().body, b"abc");
    assert_eq!(parse_head(&bytes).unwrap().body, b"abcdef");
}

#[test]
fn without_content_length_the_body_is_the_rest() {
    let bytes = crlf(&MINIMAL.replace("\n\n", "\n\nabc"));
    assert_eq!(parse(&bytes).unwrap().body, b"abc");
    assert_eq!(parse(&bytes).unwrap().content_length(), Ok(None));
}

#[test]
fn any_token_is_a_method() {
    let method = "!interesting-Method0123456789_*+`.%~'";
    let bytes = crlf(&MINIMAL.replace("OPTIONS", method));
    let message = parse(&bytes).unwrap();
    assert_eq!(text(message.method().unwrap()), method.replace('\'', "\\'"));
    assert_eq!(message.validate(), Ok(()));
}

#[test]
fn many_header_fields_are_kept_in_order() {
    let extra: String = (0..MAX_HEADERS - 5).map(|i| format!("X-{i}: {i}\n")).collect();
    let bytes = crlf(&MINIMAL.replace("\n\n", &format!("\n{extra}\n")));
    let message = parse(&bytes).unwrap();
    assert_eq!(message.all_headers().count(), MAX_HEADERS);
    let last = message.all_headers().last().unwrap();
    assert_eq!(last.raw, (MAX_HEADERS - 6).to_string().as_bytes());
}
