//! Messages that the tests share, written out with LF line ends; [`crlf`] makes them wire bytes.

/// A contact update as a Kamailio server sends it: 838 bytes on the wire.
pub(crate) const KDMQ_UPDATE: &str = include_str!("corpus/kdmq-update.txt");

/// A registration with many fields, folded lines and several hops.
pub(crate) const REGISTER: &str = include_str!("corpus/register.txt");

/// The answer to a notification, with a body.
pub(crate) const RESPONSE: &str = include_str!("corpus/response.txt");

/// The least that a request must have.
pub(crate) const MINIMAL: &str = "\
OPTIONS sip:b@example.com SIP/2.0
Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1
From: <sip:a@example.com>;tag=1
To: <sip:b@example.com>
Call-ID: c
CSeq: 1 OPTIONS

";

/// Text with LF line ends as wire bytes: head and blank line with CRLF, the body as it is.
pub(crate) fn crlf(text: &str) -> Vec<u8> {
    let (head, body) = text.split_once("\n\n").expect("the text has a head");
    let mut out = head.replace('\n', "\r\n").into_bytes();
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(body.strip_suffix('\n').unwrap_or(body).as_bytes());
    out
}
