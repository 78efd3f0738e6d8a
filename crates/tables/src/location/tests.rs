use std::borrow::Cow;

use bstr::{BStr, BString};
use proptest::prelude::*;

use super::*;
use crate::RowError;

fn text(text: &str) -> Cow<'_, BStr> {
    Cow::Borrowed(BStr::new(text))
}

fn phone() -> Contact<'static> {
    Contact {
        uri: text("sip:alice@192.0.2.7:5060"),
        callid: text("c-1@phone"),
        ruid: text("uloc-1-6b03e4c9-7f2f-1"),
        cseq: 4,
        expires: 1_795_417_914,
        last_modified: 1_795_417_314,
        server_id: 1,
        ..Contact::default()
    }
}

#[test]
fn spellings_of_one_uri_are_one_device() {
    let member = identity(b"sip:alice@Example.ORG:5060", b"", 0);
    assert_eq!(member, identity(b"SIP:alice@example.org:5060", b"", 0));
    assert_ne!(member, identity(b"sip:Alice@example.org:5060", b"", 0));
    assert_ne!(member, identity(b"sip:alice@example.org", b"", 0));
}

#[test]
fn an_instance_is_the_device_whatever_its_uri() {
    let instance = b"<urn:uuid:0-1>";
    assert_eq!(identity(b"sip:a@1.2.3.4", instance, 1), identity(b"sip:a@5.6.7.8", instance, 1));
    assert_ne!(identity(b"sip:a@1.2.3.4", instance, 1), identity(b"sip:a@1.2.3.4", instance, 2));
}

#[test]
fn devices_and_ruid_aliases_never_share_a_member() {
    assert_eq!(parse_member(&alias_member(b"uloc-1")), Member::Ruid(b"uloc-1"));
    assert_eq!(parse_member(&identity(b"r:x", b"", 0)), Member::Device);
    assert_eq!(parse_member(&identity(b"", b"r:", 0)), Member::Device);
}

#[test]
fn a_uri_whose_normal_form_is_too_long_for_a_member_is_kept_as_written() {
    let uri = format!("sip:{}@h", "\u{e9}".repeat(490));
    let member = identity(uri.as_bytes(), b"", 0);
    assert!(member.len() <= 1024);
    assert_eq!(member[2..], *uri.as_bytes());
}

#[test]
fn a_usual_contact_is_small_and_does_not_repeat_its_member() {
    let contact = phone();
    let body = contact.encode(&contact.member());
    assert!(!body.windows(5).any(|part| part == b"alice"), "URI said twice");
    assert!(body.len() <= 56, "{} bytes", body.len());
}

#[test]
fn a_uri_in_another_spelling_than_its_member_survives() {
    let contact = Contact { uri: text("SIP:alice@Example.org"), ..phone() };
    let member = contact.member();
    assert_eq!(Contact::decode(&contact.encode(&member), &member).unwrap(), contact);
}

#[test]
fn bodies_of_other_versions_and_members_of_other_kinds_are_errors() {
    let member = phone().member();
    let mut body = phone().encode(&member);
    assert_eq!(Contact::decode(&body, b"x:1"), Err(RowError::UnknownMember));
    assert_eq!(Contact::decode(&body, &alias_member(b"r")), Err(RowError::UnknownMember));
    body.push(0);
    assert_eq!(Contact::decode(&body, &member), Err(RowError::Trailing { count: 1 }));
    body[2] |= 0x80;
    assert_eq!(Contact::decode(&body, &member), Err(RowError::OutOfRange { field: "mask" }));
    body[0] = 9;
    assert_eq!(Contact::decode(&body, &member), Err(RowError::UnknownFormat { format: 9, known: 1 }));
}

#[test]
fn every_prefix_of_a_body_is_an_error() {
    let contact = Contact { q: 500, methods: 527, path: text("<sip:e;lr>"), ..phone() };
    let member = contact.member();
    let body = contact.encode(&member);
    for len in 0..body.len() {
        assert!(Contact::decode(&body[..len], &member).is_err(), "{len} of {}", body.len());
    }
}

#[test]
fn a_permanent_contact_is_a_lease_and_none_outlives_the_table() {
    assert_eq!(deadline(0, 1_000, 600), 1_600);
    assert_eq!(deadline(1_100, 1_000, 600), 1_100);
    assert_eq!(deadline(u64::MAX, 1_000, 600), 1_600);
    assert_eq!(deadline(900, 1_000, 600), 900, "one that has ended has ended");
}

#[test]
fn within_one_call_id_the_cseq_decides() {
    let held = phone();
    let at = |cseq| Contact { cseq, ..phone() };
    assert_eq!(compare_events(&held, &at(4)), Event::Same);
    assert_eq!(compare_events(&held, &at(3)), Event::Stale);
    assert_eq!(compare_events(&held, &at(5)), Event::Newer);
}

#[test]
fn equal_cseqs_with_other_times_and_other_call_ids_are_not_ordered_by_sip() {
    let held = phone();
    let moved = Contact { last_modified: held.last_modified + 1, ..phone() };
    assert_eq!(compare_events(&held, &moved), Event::Unordered);
    assert_eq!(compare_events(&held, &Contact { last_modified: 0, ..phone() }), Event::Same, "it does not say");
    let other = Contact { callid: text("c-2@phone"), cseq: 1, ..phone() };
    assert_eq!(compare_events(&held, &other), Event::Unordered);
    let none = Contact { callid: text(""), ..phone() };
    assert_eq!(compare_events(&none, &none), Event::Unordered, "no Call-ID is nobody's");
}

fn bytes() -> impl Strategy<Value = Cow<'static, BStr>> {
    let odd = prop::collection::vec(any::<u8>(), 0..24);
    let usual = prop::sample::select(vec!["", "n/a", "sip:alice@h:5060", "SIP:a@H", "<urn:uuid:1>"]);
    let usual = usual.prop_map(|text| text.as_bytes().to_vec());
    prop_oneof![odd, usual].prop_map(|text| Cow::Owned(BString::from(text)))
}

fn number() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(1), Just(u32::MAX), any::<u32>()]
}

prop_compose! {
    fn contact()(
        texts in prop::collection::vec(bytes(), 9),
        numbers in prop::collection::vec(number(), 6),
        q in prop_oneof![Just(NO_Q), any::<i32>()],
        times in any::<(u64, u64)>(),
        json in any::<(bool, bool)>(),
    ) -> Contact<'static> {
        let mut texts = texts.into_iter();
        let mut text = move || texts.next().unwrap();
        Contact {
            uri: text(), received: text(), path: text(), callid: text(), user_agent: text(),
            instance: text(), ruid: text(), sock: text(), sockname: text(), q,
            cseq: numbers[0], expires: times.0, last_modified: times.1, methods: numbers[1],
            flags: numbers[2], cflags: numbers[3], reg_id: numbers[4], server_id: numbers[5],
            xavps: json.0.then(|| Cow::Borrowed(BStr::new("{\"a\":1}"))),
            unknown: json.1.then(|| Cow::Borrowed(BStr::new("\"b\":2"))),
        }
    }
}

proptest! {
    #[test]
    fn any_contact_survives_its_body(contact in contact()) {
        let member = contact.member();
        let body = contact.encode(&member);
        let read = Contact::decode(&body, &member).unwrap();
        prop_assert_eq!(&read, &contact);
        prop_assert_eq!(read.encode(&member), body, "equal rows, equal bytes");
    }

    #[test]
    fn any_contact_survives_under_another_devices_member(contact in contact(), other in contact()) {
        let member = other.member();
        let body = contact.encode(&member);
        prop_assert_eq!(Contact::decode(&body, &member).unwrap(), contact);
    }

    #[test]
    fn no_bytes_make_decode_panic(body: Vec<u8>, member: Vec<u8>) {
        let _ = Contact::decode(&body, &member);
        let _ = Contact::decode(&body, b"u:sip:a@h");
    }

    #[test]
    fn no_changed_byte_makes_decode_panic(contact in contact(), at: prop::sample::Index, to: u8) {
        let member = contact.member();
        let mut body = contact.encode(&member);
        let at = at.index(body.len());
        body[at] = to;
        let _ = Contact::decode(&body, &member);
    }
}
