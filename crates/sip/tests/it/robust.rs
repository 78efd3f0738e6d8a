//! Bytes from outside never panic, whatever they are and whatever is asked of them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use proptest::prelude::*;
use starling_sip::transaction::{ClientTransactions, ServerTransactions};
use starling_sip::{MessageBuilder, Name, NameAddr, Uri, Via, normalised, parse, parse_head};

use crate::corpus::{KDMQ_UPDATE, REGISTER, RESPONSE, crlf};

/// Asks everything of a message that can be asked, and checks what must hold for any.
fn exercise(bytes: &[u8]) {
    let source = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5060);
    for message in [parse(bytes), parse_head(bytes)] {
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                assert!(error.offset <= bytes.len(), "{error}");
                continue;
            }
        };
        let _ = format!("{message:?}");
        for header in message.all_headers() {
            let value = header.value();
            assert!(!value.contains(&b'\n') && !value.contains(&b'\r'));
            assert_eq!(message.header_named(header.name).map(|found| found.id), Some(header.id));
            let _ = (Via::parse(header.raw), NameAddr::parse(header.raw), normalised(header.raw));
        }
        if let Err(error) = message.validate() {
            assert!(error.offset <= bytes.len(), "{error}");
        }
        let _ = (message.content_length(), message.max_forwards(), message.expires());
        let _ = (message.user_agent(), message.server(), message.content_type(), message.uri().map(Uri::parse));
        let count = message.vias().count() + message.contacts().count() + message.addresses(Name::Path).count();
        assert!(count <= bytes.len());
        let _ = ServerTransactions::<u16>::new(1, [0, 0]).on_request(&message, source.ip(), false, 0);
        let _ = ClientTransactions::<(), ()>::new(1).on_response(&message, 0);
        if let Ok(answer) = MessageBuilder::response_to(&message, source, 200, "OK", Some(b"t")) {
            let answer = answer.finish(b"x");
            let answer = parse_head(&answer).expect("an answer is a message");
            assert_eq!(answer.via().expect("it has the Via").branch(), message.via().expect("as above").branch());
        }
    }
}

fn corpus() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(crlf(KDMQ_UPDATE)), Just(crlf(REGISTER)), Just(crlf(RESPONSE))]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        exercise(&bytes);
    }

    #[test]
    fn a_message_with_bytes_changed_does_no_harm(
        mut bytes in corpus(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..12),
    ) {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        exercise(&bytes);
    }

    #[test]
    fn a_message_with_a_piece_cut_out_or_doubled_does_no_harm(
        bytes in corpus(),
        from in any::<proptest::sample::Index>(),
        to in any::<proptest::sample::Index>(),
    ) {
        let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
        exercise(&[&bytes[..from], &bytes[to..]].concat());
    }

    #[test]
    fn values_of_odd_marks_do_no_harm(text in "[ \t\r\n\"\\\\<>;,=:/@%?&\\[\\]*a0]{0,40}") {
        let text = text.as_bytes();
        let _ = (Uri::parse(text), NameAddr::parse(text), Via::parse(text));
        let once = normalised(text);
        prop_assert_eq!(normalised(&once), once, "the canonical text is its own");
        exercise(&[b"A b SIP/2.0\r\nVia: SIP/2.0/UDP h;", text, b"\r\nContact: ", text, b"\r\n\r\n"].concat());
    }

    #[test]
    fn canonical_texts_of_uris_are_their_own(text in "sips?:([a-zA-Z%0-9:;]{1,9}@)?[a-zA-Z0-9.]{1,9}(:[0-9]{1,4})?(;[a-zA-Z%0-9]{1,4}(=[a-zA-Z%0-9]{0,4})?){0,3}(\\?[a-zA-Z%0-9]{1,4}=[a-zA-Z%0-9]{0,4}){0,1}") {
        let once = normalised(text.as_bytes());
        prop_assert_eq!(normalised(&once), once.clone());
        prop_assert_eq!(Uri::parse(text.as_bytes()).is_ok(), Uri::parse(&once).is_ok());
    }
}
