//! The torture tests of RFC 4475: for each of its sections a message of the kind that it describes, and what is made of it.
//!
//! Only what a parser can know counts here. What the RFC leaves to a transaction or an application (an unknown scheme in To,
//! a Max-Forwards of 0) has to be read without a fault. Where this crate is more lenient than the RFC demands, or finds
//! a fault only when a value is asked for, the case says so.

use starling_sip::{Contact, Message, Name, ParseError, ParseErrorKind as Kind, Uri, parse, parse_head};

use crate::corpus::crlf;

/// A call with nothing wrong.
const INVITE: &str = "\
INVITE sip:user@example.com SIP/2.0
Via: SIP/2.0/UDP caller.example.net:5060;branch=z9hG4bKkdjuw
Max-Forwards: 70
From: Caller <sip:caller@example.net>;tag=i98asj
To: Callee <sip:user@example.com>
Call-ID: torture.0ha0isndaksdj
CSeq: 8 INVITE
Contact: <sip:caller@caller.example.net:5060>
Content-Length: 0

";

/// A registration with nothing wrong.
const REGISTER: &str = "\
REGISTER sip:example.com SIP/2.0
Via: SIP/2.0/TCP phone.example.com;branch=z9hG4bKx923
Max-Forwards: 70
From: <sip:user@example.com>;tag=8
To: <sip:user@example.com>
Call-ID: torture.register
CSeq: 9 REGISTER
Contact: <sip:user@192.0.2.1>
Content-Length: 0

";

/// An answer with nothing wrong.
const ANSWER: &str = "\
SIP/2.0 200 OK
Via: SIP/2.0/UDP 192.0.2.105;branch=z9hG4bK2398ndaoe
From: <sip:user@example.com>;tag=31
To: <sip:user@example.net>;tag=32
Call-ID: torture.answer
CSeq: 35 INVITE
Contact: <sip:user@host105.example.com>
Content-Length: 0

";

/// One of the three above with a change.
fn changed(text: &str, from: &str, to: &str) -> Vec<u8> {
    assert!(text.contains(from), "{from}");
    crlf(&text.replacen(from, to, 1))
}

/// Where a part of a message lies in it.
fn offset_in(bytes: &[u8], part: &[u8]) -> usize {
    part.as_ptr() as usize - bytes.as_ptr() as usize
}

/// Looks at everything that there is to see; the first fault, its offset counted from the start of the message.
fn read(bytes: &[u8]) -> Result<Message<'_>, ParseError> {
    let message = parse(bytes)?;
    message.validate()?;
    let within = |part: &[u8], error: ParseError| ParseError { offset: error.offset + offset_in(bytes, part), ..error };
    if let Some(uri) = message.uri() {
        Uri::parse(uri).map_err(|error| within(uri, error))?;
    }
    message.max_forwards()?;
    message.expires()?;
    message.vias().try_for_each(|via| via.map(drop))?;
    for name in [Name::Route, Name::RecordRoute, Name::Path] {
        message.addresses(name).try_for_each(|address| address.map(drop))?;
    }
    for contact in message.contacts() {
        if let Contact::One(contact) = contact? {
            contact.uri().map_err(|error| within(contact.addr_spec, error))?;
        }
    }
    // Whatever these make of it, they must not panic.
    _ = (message.from()?.uri(), message.to()?.uri(), message.via()?.rport(), message.user_agent());
    _ = message.all_headers().map(|header| header.value().len()).sum::<usize>();
    Ok(message)
}

/// A message, and the fault that is found in it, at the start of this text.
type Case = (&'static str, Vec<u8>, Option<(Kind, &'static str)>);

fn check(cases: Vec<Case>) {
    for (what, bytes, expected) in cases {
        let found = read(&bytes);
        match expected {
            None => assert!(found.is_ok(), "{what}: {}", found.unwrap_err()),
            Some((kind, place)) => {
                let at = bytes.windows(place.len().max(1)).position(|window| window == place.as_bytes());
                let at = if place.is_empty() { bytes.len() } else { at.expect(what) };
                let error = found.expect_err(what);
                assert_eq!((error.kind, error.offset), (kind, at), "{what}: {error}");
            }
        }
        // Cut anywhere it is a fault or a shorter message, and never more than that.
        for end in 0..bytes.len() {
            _ = read(&bytes[..end]);
        }
    }
}

#[test]
fn a_short_tortuous_invite_is_read_with_all_its_parts() {
    // 3.1.1.1: folds, compact forms, odd spacing and case, escaped quotes, unknown fields and parameters, an empty value.
    let bytes = crlf(
        "\
INVITE sip:vivekg@chair-dnrc.example.com;unknownparam SIP/2.0
TO :
 sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n
from   : \"J Rosenberg \\\\\\\"\"       <sip:jdrosen@example.com>
  ;
  tag = 98asjd8
MaX-fOrWaRdS: 0068
Call-ID: wsinv.ndaksdj@192.0.2.1
Content-Length   : 3
cseq: 0009
  INVITE
Via  : SIP  /   2.0
 /UDP
    192.0.2.2;branch=390skdjuw
s :
NewFangledHeader:   newfangled value
 continued newfangled value
UnknownHeaderWithUnusualValue: ;;,,;;,;
Content-Type: application/sdp
Route:
 <sip:services.example.com;lr;unknownwith=value;unknown-no-value>
v:  SIP  / 2.0  / TCP     spindle.example.com   ;
  branch  =   z9hG4bK9ikj8  ,
 SIP  /    2.0   / UDP  192.168.255.111   ; branch=
 z9hG4bK30239
m:\"Quoted string \\\"\\\"\" <sip:jdrosen@example.com> ; newparam =
      newvalue ;
  secondparam ; q = 0.33

v=0",
    );
    let message = read(&bytes).unwrap();
    assert_eq!(message.to().unwrap().tag(), Some(&b"1918181833n"[..]));
    let from = message.from().unwrap();
    assert_eq!(from.display_name().unwrap(), &b"J Rosenberg \\\""[..]);
    assert_eq!(from.tag(), Some(&b"98asjd8"[..]));
    assert_eq!((message.max_forwards(), message.cseq()), (Ok(Some(68)), Ok((9, &b"INVITE"[..]))));
    let branches: Vec<_> = message.vias().map(|via| via.unwrap().branch().to_vec()).collect();
    assert_eq!(branches, [&b"390skdjuw"[..], b"z9hG4bK9ikj8", b"z9hG4bK30239"]);
    let Some(Ok(Contact::One(contact))) = message.contacts().next() else { panic!("no contact") };
    assert_eq!((contact.q(), contact.display_name().unwrap()), (Some(330), (&b"Quoted string \"\""[..]).into()));
    assert_eq!(message.header(Name::Subject).unwrap().raw, b"");
    let new = message.header_named(b"newfangledheader").unwrap();
    assert_eq!(new.value(), &b"newfangled value continued newfangled value"[..]);
    assert_eq!(message.body, b"v=0");
}

#[test]
fn any_character_that_the_grammar_allows_is_read() {
    // 3.1.1.2: every mark of a token in the method, marks and escapes in the user part, text beyond ASCII in quotes.
    let bytes = crlf(
        "\
!interesting-Method0123456789_*+`.%indeed'~ sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com SIP/2.0
Via: SIP/2.0/TCP host1.example.com;branch=z9hG4bK-.!%66*_+`'~
To: \"BEL:\\\u{7} NUL:\\\u{0} DEL:\\\u{7f}\" <sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*@example.com>
From: token1~` token2'+_ token3*%!.- <sip:mundane@example.com>;fromParam''~+*_!.-%=\"\u{440}\u{430}\u{431}\u{43e}\";tag=_token~1'+`*%!-.
Call-ID: intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{
CSeq: 139122385 !interesting-Method0123456789_*+`.%indeed'~
Max-Forwards: 255
extensionHeader-!.%*+_`'~: \u{fe}\u{20ac} text
Content-Length: 0

",
    );
    let message = read(&bytes).unwrap();
    let method = &b"!interesting-Method0123456789_*+`.%indeed'~"[..];
    assert_eq!((message.method(), message.cseq()), (Some(method), Ok((139_122_385, method))));
    let uri = Uri::parse(message.uri().unwrap()).unwrap();
    assert_eq!(uri.user, Some(&b"1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"[..]));
    assert_eq!(uri.password, Some(&b"&it+has=1,weird!*pas$wo~d_too.(doesn't-it)"[..]));
    assert_eq!(message.to().unwrap().display_name().unwrap(), &b"BEL:\x07 NUL:\0 DEL:\x7f"[..]);
    assert_eq!(message.from().unwrap().tag(), Some(&b"_token~1'+`*%!-."[..]));
}

#[test]
fn valid_messages_are_read() {
    let mut long =
        INVITE.replace("Caller <", &format!("\"I have a user name of {} proportion\" <", "extreme".repeat(60)));
    long = long.replace("user@example.com SIP", &format!("user@example.com;lr{};x SIP", "=long".repeat(100)));
    long =
        long.replace("Content-Length", &format!("Unknown-{}: {}\nContent-Length", "Long".repeat(40), "v".repeat(900)));
    for hop in 0..34 {
        long = long.replacen("Max-", &format!("Via: SIP/2.0/TCP sip{hop}.example.com\nMax-"), 1);
    }
    let parts = "\
--7a9cbec02ceef655\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: binary\r\n\r\nHello\r\n\
--7a9cbec02ceef655\r\nContent-Type: application/octet-stream\r\n\r\n\0\r\n--7a9cbec02ceef655--";
    let multipart = INVITE.replace(
        "Content-Length: 0\n\n",
        &format!("Content-Type: multipart/mixed;boundary=7a9cbec02ceef655\nContent-Length: {}\n\n{parts}", parts.len()),
    );
    let two = [crlf(REGISTER), crlf(INVITE)].concat();
    check(vec![
        (
            "3.1.1.3 escapes in URIs",
            changed(INVITE, "sip:user@example.com SIP", "sip:sips%3Auser%40example.com@example.net SIP"),
            None,
        ),
        ("3.1.1.4 escaped NUL", changed(REGISTER, "<sip:user@192.0.2.1>", "<sip:%00@host>, <sip:%00%00@host>"), None),
        ("3.1.1.5 % that is no escape, in a display name", changed(INVITE, "Caller <", "%Z%45 <"), None),
        ("3.1.1.6 no space before <", changed(INVITE, "Caller <", "caller<"), None),
        ("3.1.1.7 long values", crlf(&long), None),
        ("3.1.1.8 what follows the message in a datagram", two, None),
        (
            "3.1.1.9 semicolons in the user part",
            changed(INVITE, "sip:user@example.com SIP", "sip:user;par=u%40example.net@example.com SIP"),
            None,
        ),
        (
            "3.1.1.10 known and unknown transports",
            changed(
                INVITE,
                "Max-",
                "Via: SIP/2.0/SCTP a.example.com\nVia: SIP/2.0/TLS b.example.com\nVia: SIP/2.0/UNKNOWN c.example.com\nMax-",
            ),
            None,
        ),
        ("3.1.1.11 several parts, one with a NUL", crlf(&multipart), None),
        (
            "3.1.1.12 reason beyond ASCII",
            changed(ANSWER, "200 OK", "200 = 2**3 * 5**2 \u{43d}\u{43e} \u{442}\u{43e}"),
            None,
        ),
        ("3.1.1.13 reason empty", changed(ANSWER, "200 OK", "100 "), None),
    ]);
    let two = [crlf(REGISTER), crlf(INVITE)].concat();
    assert_eq!(read(&two).unwrap().method(), Some(&b"REGISTER"[..]));
    let escaped = changed(INVITE, "sip:user@example.com SIP", "sip:sips%3Auser%40example.com@example.net SIP");
    let uri = read(&escaped).unwrap().uri().unwrap();
    assert_eq!(Uri::parse(uri).unwrap().user, Some(&b"sips%3Auser%40example.com"[..]));
}

#[test]
fn the_method_and_its_cseq_are_compared_with_their_percent_signs() {
    // 3.1.1.5: RE%47IST%45R is not REGISTER.
    let text = REGISTER.replace("REGISTER sip", "RE%47IST%45R sip").replace("9 REGISTER", "9 RE%47IST%45R");
    assert_eq!(read(&crlf(&text)).unwrap().method(), Some(&b"RE%47IST%45R"[..]));
}

#[test]
fn invalid_messages_are_refused_at_the_place_of_the_fault() {
    check(vec![
        (
            "3.1.2.1 separators too many: Via",
            changed(INVITE, ";branch=z9hG4bKkdjuw", ";;,;,,"),
            Some((Kind::Value(Name::Via), ";;,;,,")),
        ),
        (
            "3.1.2.1 separators too many: Contact",
            changed(INVITE, "5060>\n", "5060>;;;;\n"),
            Some((Kind::Value(Name::Contact), ";;;;")),
        ),
        ("3.1.2.2 length beyond the message", changed(INVITE, "Length: 0", "Length: 9999"), Some((Kind::BodyCut, ""))),
        ("3.1.2.3 length negative", changed(INVITE, "Length: 0", "Length: -999"), Some((Kind::Number, "-999"))),
        (
            "3.1.2.4 CSeq too large",
            changed(REGISTER, "CSeq: 9", "CSeq: 36893488147419103232"),
            Some((Kind::Value(Name::CSeq), "36893488147419103232")),
        ),
        (
            "3.1.2.4 Max-Forwards too large",
            changed(REGISTER, "Forwards: 70", "Forwards: 4294967296"),
            Some((Kind::Number, "4294967296")),
        ),
        (
            "3.1.2.4 Expires too large",
            changed(REGISTER, "Content-L", "Expires: 10000000000000000000000000000000000000000000\nContent-L"),
            Some((Kind::Number, "1000000000000")),
        ),
        (
            "3.1.2.5 CSeq of an answer too large",
            changed(ANSWER, "CSeq: 35", "CSeq: 9292394834772304023312"),
            Some((Kind::Value(Name::CSeq), "9292394834772304023312")),
        ),
        (
            "3.1.2.6 quotes that do not end",
            changed(INVITE, "To: Callee", "To: \"Mr. J. User"),
            Some((Kind::Value(Name::To), "\"Mr. J. User")),
        ),
        (
            "3.1.2.7 URI in <>",
            changed(INVITE, "sip:user@example.com SIP", "<sip:user@example.com> SIP"),
            Some((Kind::Uri, "<sip:user@example.com> SIP")),
        ),
        (
            "3.1.2.8 space in the URI",
            changed(INVITE, "example.com SIP", "example.com; lr SIP"),
            Some((Kind::StartLine, "INVITE sip")),
        ),
        ("3.1.2.9 two spaces", changed(INVITE, "INVITE sip", "INVITE  sip"), Some((Kind::StartLine, "INVITE  sip"))),
        (
            "3.1.2.14 spaces in an addr-spec",
            changed(REGISTER, "<sip:user@192.0.2.1>", "\"Watson, Thomas\" < sip:t.wat son@example.org >"),
            Some((Kind::Uri, " son@example.org")),
        ),
        (
            "3.1.2.15 a comma in a display name",
            changed(INVITE, "Caller <", "Bell, Alexander <"),
            Some((Kind::Value(Name::From), ", Alexander")),
        ),
        ("3.1.2.16 version 7.0", changed(INVITE, "com SIP/2.0", "com SIP/7.0"), Some((Kind::Version, "INVITE sip"))),
        (
            "3.1.2.17 CSeq of another method",
            changed(INVITE, "8 INVITE", "8 OPTIONS"),
            Some((Kind::CSeqMethod, "8 OPT")),
        ),
        (
            "3.1.2.18 unknown method, CSeq of another",
            changed(INVITE, "INVITE sip", "NEWMETHOD sip"),
            Some((Kind::CSeqMethod, "8 INVITE")),
        ),
        (
            "3.1.2.19 code too large",
            changed(ANSWER, "200 OK", "4294967301 better not break the receiver"),
            Some((Kind::StartLine, "SIP/2.0 4294967301")),
        ),
    ]);
}

#[test]
fn what_the_rfc_lets_be_rejected_and_is_read_here() {
    check(vec![
        // Nothing is lost by not looking at what follows the version.
        ("3.1.2.10 spaces after the version", changed(INVITE, "com SIP/2.0", "com SIP/2.0  "), None),
        // What a header field in a Request-URI would mean is the affair of whoever follows it; nobody does here.
        (
            "3.1.2.11 header fields in the Request-URI",
            changed(INVITE, "com SIP", "com?Route=%3Csip:example.com%3E SIP"),
            None,
        ),
        // Date is not interpreted.
        (
            "3.1.2.12 a Date with another time zone",
            changed(INVITE, "Content-L", "Date: Fri, 01 Jan 2010 16:00:00 EST\nContent-L"),
            None,
        ),
        // Whether the header fields belong to the contact or to its URI is all the same to who stores it as it is.
        (
            "3.1.2.13 a contact with header fields and without <>",
            changed(REGISTER, "<sip:user@192.0.2.1>", "sip:user@example.com?Route=%3Csip:sip.example.com%3E"),
            None,
        ),
        // Devices write what they like before the bracket.
        ("3.1.2.15 a dot and a slash in a display name", changed(INVITE, "Caller <", "A. G/Bell <"), None),
    ]);
}

#[test]
fn what_is_for_a_transaction_or_an_application_to_judge_is_read() {
    check(vec![
        ("3.2.1 nothing after the magic cookie", changed(INVITE, "z9hG4bKkdjuw", "z9hG4bK"), None),
        (
            "3.3.1 From, To and Call-ID missing",
            crlf(
                "INVITE sip:user@example.com SIP/2.0\nCSeq: 193942 INVITE\nVia: SIP/2.0/UDP 192.0.2.95;branch=z9hG4bKkdj.insuf\n\n",
            ),
            Some((Kind::Missing(Name::From), "")),
        ),
        (
            "3.3.2 unknown scheme",
            changed(INVITE, "sip:user@example.com SIP", "nobodyKnowsThisScheme:totallyopaquecontent SIP"),
            Some((Kind::UnknownScheme, "nobodyKnowsThisScheme")),
        ),
        (
            "3.3.3 known scheme that is not sip",
            changed(INVITE, "sip:user@example.com SIP", "soap.beep://192.0.2.103:3002 SIP"),
            Some((Kind::UnknownScheme, "soap.beep")),
        ),
        ("3.3.4 unknown scheme in To and From", changed(INVITE, "<sip:user@example.com>", "<isbn:2983792873>"), None),
        (
            "3.3.5 Require and Proxy-Require of the unknown",
            changed(
                INVITE,
                "Content-L",
                "Require: nothingSupportsThis\nProxy-Require: norDoAnyProxiesSupportThis\nContent-L",
            ),
            None,
        ),
        (
            "3.3.6 unknown Content-Type",
            changed(INVITE, "Content-L", "Content-Type: application/unknownformat\nContent-L"),
            None,
        ),
        (
            "3.3.7 unknown authorization",
            changed(REGISTER, "Content-L", "Authorization: NoOneKnowsThisScheme opaque-data=here\nContent-L"),
            None,
        ),
        (
            "3.3.8 two of what there is one of",
            changed(INVITE, "CSeq: 8", "CSeq: 5 INVITE\nCSeq: 8"),
            Some((Kind::Repeated(Name::CSeq), "8 INVITE")),
        ),
        (
            "3.3.9 two lengths",
            changed(INVITE, "Content-L", "Content-Length: 13\nContent-L"),
            Some((Kind::Repeated(Name::ContentLength), "0\r\n\r\n")),
        ),
        (
            "3.3.10 an answer whose Via names a broadcast address",
            changed(ANSWER, "CSeq", "Via: SIP/2.0/UDP 255.255.255.255;branch=z9hG4bK1saber23\nCSeq"),
            None,
        ),
        ("3.3.11 Max-Forwards 0", changed(INVITE, "Forwards: 70", "Forwards: 0"), None),
        ("3.3.12 a parameter of the contact", changed(REGISTER, "192.0.2.1>", "192.0.2.1>;unknownparam"), None),
        ("3.3.13 a parameter of the contact's URI", changed(REGISTER, "192.0.2.1>", "192.0.2.1;unknownparam>"), None),
        (
            "3.3.14 header fields in a contact",
            changed(REGISTER, "192.0.2.1>", "192.0.2.1?Route=%3Csip:sip.example.com%3E>"),
            None,
        ),
        (
            "3.3.15 an Accept without what is sent",
            changed(INVITE, "Content-L", "Accept: text/nobodyKnowsThis\nContent-L"),
            None,
        ),
        (
            "3.4.1 an INVITE of RFC 2543: no branch, no tag, no Max-Forwards",
            crlf(
                "\
INVITE sip:UserB@example.com SIP/2.0
Via: SIP/2.0/UDP iftgw.example.com
From: <sip:+13035551111@ift.client.example.net;user=phone>
Record-Route: <sip:UserB@example.com;maddr=ss1.example.com>
To: sip:+16505552222@ss1.example.net;user=phone
Call-ID: inv2543.1717@ift.client.example.com
CSeq: 56 INVITE
Content-Type: application/sdp

v=0
",
            ),
            None,
        ),
    ]);
}

#[test]
fn faults_that_need_an_answer_leave_a_readable_head_and_their_status() {
    for (bytes, status) in [
        (changed(INVITE, "Length: 0", "Length: -999"), 400),
        (changed(INVITE, "Length: 0", "Length: 9999"), 400),
        (changed(INVITE, "com SIP/2.0", "com SIP/7.0"), 505),
        (changed(INVITE, "sip:user@example.com SIP", "nobodyKnowsThisScheme:totallyopaquecontent SIP"), 416),
        (changed(INVITE, "8 INVITE", "8 OPTIONS"), 400),
    ] {
        let head = parse_head(&bytes).expect("a head");
        assert!(head.via().is_ok() && head.call_id().is_ok());
        assert_eq!(read(&bytes).unwrap_err().status(), status);
    }
}
