//! Messages cut out of a stream, wherever it was cut before.

use proptest::prelude::*;
use starling_sip::{FrameError, MAX_MESSAGE, ParseErrorKind, StreamFramer};

use crate::corpus::{KDMQ_UPDATE, REGISTER, RESPONSE, crlf};

fn drain(framer: &mut StreamFramer) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| framer.next_message()).map(|message| message.unwrap().to_vec()).collect()
}

fn corpus() -> Vec<Vec<u8>> {
    vec![crlf(KDMQ_UPDATE), crlf(REGISTER), crlf(RESPONSE)]
}

#[test]
fn a_message_comes_out_wherever_the_stream_was_cut() {
    let messages = corpus();
    let stream = messages.concat();
    for cut in 0..=stream.len() {
        let mut framer = StreamFramer::new();
        framer.push(&stream[..cut]);
        let mut out = drain(&mut framer);
        framer.push(&stream[cut..]);
        out.extend(drain(&mut framer));
        assert_eq!(out, messages, "cut at {cut}");
    }
}

#[test]
fn a_stream_may_come_byte_by_byte() {
    let messages = corpus();
    let mut framer = StreamFramer::new();
    let mut out = Vec::new();
    for byte in messages.concat() {
        framer.push(&[byte]);
        out.extend(drain(&mut framer));
    }
    assert_eq!(out, messages);
}

#[test]
fn keep_alives_between_messages_are_skipped() {
    let mut framer = StreamFramer::new();
    framer.push(b"\r\n\r\n");
    assert_eq!(framer.next_message(), None);
    framer.push(b"\r\n");
    framer.push(&crlf(KDMQ_UPDATE));
    framer.push(b"\r\n\r\n\r");
    assert_eq!(drain(&mut framer), [crlf(KDMQ_UPDATE)]);
    framer.push(b"\n");
    framer.push(&crlf(RESPONSE));
    assert_eq!(drain(&mut framer), [crlf(RESPONSE)]);
}

#[test]
fn line_feeds_alone_end_lines_in_a_stream_too() {
    let mut framer = StreamFramer::new();
    framer.push(b"A sip:a SIP/2.0\nContent-Length: 2\n\nabB sip:b SIP/2.0\r\nl:0\n\r\n");
    assert_eq!(drain(&mut framer), [&b"A sip:a SIP/2.0\nContent-Length: 2\n\nab"[..], b"B sip:b SIP/2.0\r\nl:0\n\r\n"]);
}

#[test]
fn a_message_without_length_ends_the_stream_for_good() {
    let mut framer = StreamFramer::new();
    framer.push(b"A sip:a SIP/2.0\r\nX: y\r\n\r\n");
    assert_eq!(framer.next_message(), Some(Err(FrameError::NoLength)));
    framer.push(&crlf(KDMQ_UPDATE));
    assert_eq!(framer.next_message(), Some(Err(FrameError::NoLength)));
}

#[test]
fn a_head_that_is_no_sip_ends_the_stream() {
    let mut framer = StreamFramer::new();
    framer.push(&crlf(KDMQ_UPDATE));
    framer.push(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(framer.next_message().unwrap().unwrap(), crlf(KDMQ_UPDATE));
    let Some(Err(FrameError::Head(error))) = framer.next_message() else { panic!("it is no SIP") };
    assert_eq!(error.kind, ParseErrorKind::StartLine);
}

#[test]
fn a_message_up_to_the_limit_passes_and_a_longer_one_ends_the_stream() {
    let head = "A sip:a SIP/2.0\r\nContent-Length: 65000\r\n\r\n";
    let mut framer = StreamFramer::new();
    framer.push(head.as_bytes());
    framer.push(&[b'x'; 65_000]);
    assert_eq!(drain(&mut framer)[0].len(), head.len() + 65_000);
    for length in ["65535", "4294967295", "18446744073709551615"] {
        framer = StreamFramer::new();
        framer.push(head.replace("65000", length).as_bytes());
        assert_eq!(framer.next_message(), Some(Err(FrameError::TooLong)), "{length}");
    }
}

#[test]
fn a_head_that_never_ends_is_given_up_at_the_limit() {
    let mut framer = StreamFramer::new();
    let line = b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n";
    let mut taken = 0;
    let error = loop {
        framer.push(line);
        taken += line.len();
        if let Some(result) = framer.next_message() {
            break result;
        }
    };
    assert_eq!(error, Err(FrameError::TooLong));
    assert!(taken > MAX_MESSAGE && taken <= MAX_MESSAGE + line.len());
}

proptest! {
    #[test]
    fn any_cuts_give_the_same_messages(cuts in proptest::collection::vec(0usize..2200, 0..40)) {
        let messages = corpus();
        let stream = messages.concat();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).chain([0, stream.len()]).collect();
        cuts.sort_unstable();
        let mut framer = StreamFramer::new();
        let mut out = Vec::new();
        for pair in cuts.windows(2) {
            framer.push(&stream[pair[0]..pair[1]]);
            out.extend(drain(&mut framer));
        }
        prop_assert_eq!(out, messages);
    }

    #[test]
    fn any_bytes_in_any_pieces_do_no_harm(pieces in proptest::collection::vec("[A-Z :/.0-9\r\n]{0,40}", 0..60)) {
        let mut framer = StreamFramer::new();
        for piece in pieces {
            framer.push(piece.as_bytes());
            while let Some(Ok(_)) = framer.next_message() {}
        }
    }
}
