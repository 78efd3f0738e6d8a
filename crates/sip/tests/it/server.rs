//! Server transactions: what is a retransmission, how long it is known, and what it costs.

use std::net::{IpAddr, Ipv4Addr};

use starling_sip::transaction::{Key, Seen, ServerTransactions, TIMER_J};
use starling_sip::{ParseErrorKind, parse};

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// A request of RFC 3261, unless `branch` lacks the cookie.
fn request(branch: &str) -> String {
    format!(
        "KDMQ sip:usrloc@h SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch={branch}\nFrom: <sip:a@h>;tag=f\n\
         To: <sip:b@h>\nCall-ID: c\nCSeq: 10 KDMQ\n\n"
    )
}

fn new(transactions: &mut ServerTransactions<u16>, text: &str, now_ms: u64) -> Option<Key> {
    let message = parse(text.as_bytes()).unwrap();
    match transactions.on_request(&message, SOURCE, false, now_ms).unwrap() {
        Seen::New(key) => Some(key),
        Seen::Retransmission { .. } => None,
    }
}

fn answer_of(transactions: &mut ServerTransactions<u16>, text: &str, now_ms: u64) -> Option<Option<u16>> {
    let message = parse(text.as_bytes()).unwrap();
    match transactions.on_request(&message, SOURCE, false, now_ms).unwrap() {
        Seen::New(_) => None,
        Seen::Retransmission { answer } => Some(answer.copied()),
    }
}

#[test]
fn a_retransmission_has_no_answer_before_the_first_and_that_one_after() {
    let mut transactions = ServerTransactions::new(10, [1, 2]);
    let key = new(&mut transactions, &request("z9hG4bK1"), 0).unwrap();
    assert_eq!(answer_of(&mut transactions, &request("z9hG4bK1"), 500), Some(None));
    transactions.complete(key, 404, 700);
    assert_eq!(answer_of(&mut transactions, &request("z9hG4bK1"), 1_500), Some(Some(404)));
}

#[test]
fn an_answer_is_kept_for_timer_j_from_when_it_was_given() {
    let mut transactions = ServerTransactions::new(10, [1, 2]);
    let key = new(&mut transactions, &request("z9hG4bK1"), 1_234).unwrap();
    transactions.complete(key, 200, 9_876);
    assert_eq!(answer_of(&mut transactions, &request("z9hG4bK1"), 9_876 + TIMER_J), Some(Some(200)));
    transactions.expire(9_876 + TIMER_J + 1_000);
    assert!(transactions.is_empty());
    assert!(new(&mut transactions, &request("z9hG4bK1"), 9_876 + TIMER_J + 1_000).is_some());
}

#[test]
fn a_request_that_is_never_answered_is_forgotten_too() {
    let mut transactions: ServerTransactions<u16> = ServerTransactions::new(10, [1, 2]);
    new(&mut transactions, &request("z9hG4bK1"), 5_000).unwrap();
    transactions.expire(5_000 + TIMER_J - 1);
    assert_eq!(transactions.len(), 1);
    transactions.expire(5_000 + TIMER_J);
    assert_eq!(transactions.len(), 0);
}

#[test]
fn an_answer_after_its_request_was_forgotten_changes_nothing() {
    let mut transactions = ServerTransactions::new(10, [1, 2]);
    let key = new(&mut transactions, &request("z9hG4bK1"), 0).unwrap();
    transactions.expire(TIMER_J + 1_000);
    transactions.complete(key, 200, TIMER_J + 1_000);
    assert!(transactions.is_empty());
}

#[test]
fn what_makes_another_transaction_is_branch_sent_by_method_and_source() {
    let mut transactions = ServerTransactions::new(100, [1, 2]);
    let first = request("z9hG4bK1");
    assert!(new(&mut transactions, &first, 0).is_some());
    for other in [
        request("z9hG4bK2"),
        first.replace("192.0.2.1:5060", "192.0.2.1:5061"),
        first.replace("192.0.2.1:5060", "192.0.2.1"),
        first.replace("192.0.2.1:5060", "192.0.2.2:5060"),
        first.replace("KDMQ", "OPTIONS"),
    ] {
        assert!(new(&mut transactions, &other, 0).is_some(), "{other}");
        assert!(new(&mut transactions, &other, 0).is_none(), "{other}");
    }
    let message = parse(first.as_bytes()).unwrap();
    let elsewhere = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));
    assert!(matches!(transactions.on_request(&message, elsewhere, false, 0), Ok(Seen::New(_))));
    // With the branch of RFC 3261 nothing else counts.
    assert!(new(&mut transactions, &first.replace("Call-ID: c", "Call-ID: d"), 0).is_none());
}

#[test]
fn without_the_cookie_the_fields_of_rfc_2543_count() {
    let mut transactions = ServerTransactions::new(100, [1, 2]);
    let first = request("1");
    assert!(new(&mut transactions, &first, 0).is_some());
    assert!(new(&mut transactions, &first, 0).is_none());
    for (from, to) in [
        ("sip:usrloc@h", "sip:htable@h"),
        ("Call-ID: c", "Call-ID: d"),
        ("CSeq: 10", "CSeq: 11"),
        ("tag=f", "tag=g"),
        ("<sip:b@h>", "<sip:b@h>;tag=x"),
        ("branch=1", "branch=2"),
    ] {
        assert!(new(&mut transactions, &first.replace(from, to), 0).is_some(), "{to}");
    }
    assert!(new(&mut transactions, &first.replace("\n\n", "\nX: y\n\n"), 0).is_none());
}

#[test]
fn over_a_reliable_transport_nothing_is_remembered() {
    let mut transactions: ServerTransactions<u16> = ServerTransactions::new(10, [1, 2]);
    let text = request("z9hG4bK1");
    let message = parse(text.as_bytes()).unwrap();
    for _ in 0..2 {
        let Ok(Seen::New(key)) = transactions.on_request(&message, SOURCE, true, 0) else { panic!("it is new") };
        transactions.complete(key, 200, 0);
    }
    assert!(transactions.is_empty());
}

#[test]
fn a_request_that_cannot_be_told_from_others_is_refused() {
    let mut transactions: ServerTransactions<u16> = ServerTransactions::new(10, [1, 2]);
    for (text, kind) in [
        (request("z9hG4bK1").replace("Via", "X"), ParseErrorKind::Missing(starling_sip::Name::Via)),
        (request("1").replace("Call-ID", "X"), ParseErrorKind::Missing(starling_sip::Name::CallId)),
    ] {
        let message = parse(text.as_bytes()).unwrap();
        assert_eq!(transactions.on_request(&message, SOURCE, false, 0).unwrap_err().kind, kind);
    }
    assert!(transactions.is_empty());
}

#[test]
fn at_the_limit_the_oldest_is_forgotten() {
    let mut transactions = ServerTransactions::new(3, [1, 2]);
    for at in 0..5u64 {
        let key = new(&mut transactions, &request(&format!("z9hG4bK{at}")), at * 1_000).unwrap();
        transactions.complete(key, 200, at * 1_000);
    }
    assert_eq!(transactions.len(), 3);
    let known: Vec<_> =
        (0..5u64).rev().map(|at| answer_of(&mut transactions, &request(&format!("z9hG4bK{at}")), 5_000)).collect();
    // Asking for a forgotten one remembers it, at the cost of the next oldest.
    assert_eq!(known[..3], [Some(Some(200)); 3]);
    assert_eq!(known[3..], [None; 2]);
}

#[test]
fn the_clock_may_stand_still_or_leap() {
    let mut transactions = ServerTransactions::new(1_000, [1, 2]);
    let leap = 1u64 << 40;
    for (round, now) in [0, 0, leap, leap, 2 * leap].into_iter().enumerate() {
        assert!(new(&mut transactions, &request(&format!("z9hG4bK{round}")), now).is_some());
    }
    assert_eq!(transactions.len(), 1);
}

#[test]
fn many_requests_a_second_are_known_for_timer_j_and_then_leave_nothing_behind() {
    let mut transactions = ServerTransactions::new(100_000, [1, 2]);
    for at in 0..50_000u64 {
        let now = at / 4;
        let key = new(&mut transactions, &request(&format!("z9hG4bK{at}")), now).unwrap();
        if at % 3 != 0 {
            transactions.complete(key, 200, now + 2_000);
        }
    }
    assert_eq!(transactions.len(), 50_000);
    assert_eq!(answer_of(&mut transactions, &request("z9hG4bK1"), 12_500), Some(Some(200)));
    transactions.expire(12_500 + 2_000 + TIMER_J + 1_000);
    assert!(transactions.is_empty());
}
