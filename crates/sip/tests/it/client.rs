//! Client transactions: timers E and F, provisional and final responses.

use bytes::Bytes;
use starling_sip::transaction::{Action, ClientTransactions, Outgoing, Refused, T1, T2, TIMER_F, branch, token_of};
use starling_sip::{Message, parse};

type Transactions = ClientTransactions<&'static str, &'static str>;

fn outgoing(token: u64) -> Outgoing<&'static str, &'static str> {
    Outgoing {
        token,
        request: Bytes::from(format!("KDMQ sip:a SIP/2.0\r\nVia: SIP/2.0/UDP h;branch={}\r\n\r\n", branch(token))),
        destination: "peer",
        retransmit: true,
        give_up_ms: TIMER_F,
        tag: "tag",
    }
}

fn response(token: u64, code: u16, method: &str) -> Vec<u8> {
    format!("SIP/2.0 {code} x\r\nVia: SIP/2.0/UDP h;branch={}\r\nCSeq: 10 {method}\r\n\r\n", branch(token)).into_bytes()
}

fn answer(transactions: &mut Transactions, bytes: &[u8], now_ms: u64) -> Option<(&'static str, u16)> {
    let message: Message<'_> = parse(bytes).unwrap();
    transactions.on_response(&message, now_ms)
}

/// Runs the clock from deadline to deadline and notes what happens when.
fn run(transactions: &mut Transactions) -> Vec<(u64, &'static str)> {
    let mut out = Vec::new();
    while let Some(now) = transactions.next_deadline() {
        while let Some(action) = transactions.poll(now) {
            out.push((
                now,
                match action {
                    Action::Retransmit { destination, .. } => destination,
                    Action::TimedOut(_) => "timed out",
                },
            ));
        }
    }
    out
}

#[test]
fn a_request_without_answer_is_sent_at_doubling_intervals_up_to_t2_until_timer_f() {
    let mut transactions = Transactions::new(10);
    transactions.start(outgoing(1), 0).unwrap();
    let resends = [500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500];
    let mut expected: Vec<_> = resends.into_iter().map(|at| (at, "peer")).collect();
    expected.push((64 * T1, "timed out"));
    assert_eq!(run(&mut transactions), expected);
    assert!(transactions.is_empty());
}

#[test]
fn a_retransmission_carries_the_request_as_it_was() {
    let mut transactions = Transactions::new(10);
    transactions.start(outgoing(1), 0).unwrap();
    assert_eq!(transactions.poll(T1 - 1), None);
    let expected = Action::Retransmit { destination: "peer", request: outgoing(1).request };
    assert_eq!(transactions.poll(T1), Some(expected));
    assert_eq!(transactions.poll(T1), None);
}

#[test]
fn a_request_that_must_not_arrive_twice_is_never_sent_again() {
    let mut transactions = Transactions::new(10);
    transactions.start(Outgoing { retransmit: false, give_up_ms: 5_000, ..outgoing(1) }, 100).unwrap();
    assert_eq!(transactions.next_deadline(), Some(5_100));
    assert_eq!(run(&mut transactions), [(5_100, "timed out")]);
}

#[test]
fn a_final_response_ends_the_transaction_and_a_second_one_is_absorbed() {
    let mut transactions = Transactions::new(10);
    transactions.start(outgoing(7), 0).unwrap();
    assert_eq!(answer(&mut transactions, &response(7, 404, "KDMQ"), 10), Some(("tag", 404)));
    assert_eq!(answer(&mut transactions, &response(7, 200, "KDMQ"), 20), None);
    assert_eq!((transactions.len(), transactions.next_deadline()), (0, None));
}

#[test]
fn a_provisional_response_slows_retransmissions_to_t2_but_not_timer_f() {
    let mut transactions = Transactions::new(10);
    transactions.start(outgoing(7), 0).unwrap();
    assert_eq!(answer(&mut transactions, &response(7, 100, "KDMQ"), 100), None);
    let mut expected: Vec<_> = (1..=7).map(|times| (100 + times * T2, "peer")).collect();
    expected.push((TIMER_F, "timed out"));
    assert_eq!(run(&mut transactions), expected);
}

#[test]
fn a_provisional_response_starts_no_retransmission_where_there_is_none() {
    let mut transactions = Transactions::new(10);
    transactions.start(Outgoing { retransmit: false, ..outgoing(7) }, 0).unwrap();
    assert_eq!(answer(&mut transactions, &response(7, 100, "KDMQ"), 100), None);
    assert_eq!(run(&mut transactions), [(TIMER_F, "timed out")]);
}

#[test]
fn a_response_that_matches_no_open_transaction_changes_nothing() {
    let mut transactions = Transactions::new(10);
    transactions.start(outgoing(7), 0).unwrap();
    let foreign = b"SIP/2.0 200 x\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKfoo\r\nCSeq: 10 KDMQ\r\n\r\n";
    for stray in [&response(8, 200, "KDMQ")[..], &response(7, 200, "OPTIONS"), foreign, b"SIP/2.0 200 x\r\n\r\n"] {
        assert_eq!(answer(&mut transactions, stray, 10), None);
    }
    let request = outgoing(7).request;
    assert_eq!(answer(&mut transactions, &request, 10), None, "a request is no response");
    assert_eq!((transactions.len(), transactions.next_deadline()), (1, Some(T1)));
}

#[test]
fn a_late_poll_gives_up_without_another_retransmission() {
    let mut transactions = Transactions::new(10);
    transactions.start(outgoing(1), 0).unwrap();
    assert_eq!(transactions.poll(TIMER_F + 1_000), Some(Action::TimedOut("tag")));
    assert_eq!(transactions.poll(TIMER_F + 1_000), None);
}

#[test]
fn no_more_than_the_limit_are_open_and_no_token_twice() {
    let mut transactions = Transactions::new(2);
    transactions.start(outgoing(1), 0).unwrap();
    assert_eq!(transactions.start(outgoing(1), 0), Err(Refused::TokenInUse));
    transactions.start(outgoing(2), 0).unwrap();
    assert_eq!(transactions.start(outgoing(3), 0), Err(Refused::Full));
    assert_eq!(transactions.close(1), Some("tag"));
    assert_eq!(transactions.start(outgoing(3), 0), Ok(()));
}

#[test]
fn transactions_can_be_closed_by_their_data() {
    let mut transactions = Transactions::new(10);
    for (token, tag) in [(3, "gone"), (1, "stays"), (2, "gone")] {
        transactions.start(Outgoing { tag, ..outgoing(token) }, 0).unwrap();
    }
    assert_eq!(transactions.close_where(|tag| *tag == "gone"), ["gone", "gone"]);
    assert_eq!(transactions.len(), 1);
    assert_eq!(answer(&mut transactions, &response(1, 200, "KDMQ"), 0), Some(("stays", 200)));
    assert_eq!(transactions.next_deadline(), None);
}

#[test]
fn a_branch_names_its_token_and_nothing_else_does() {
    for token in [0, 1, 0xdead_beef, u64::MAX] {
        assert_eq!(token_of(branch(token).as_bytes()), Some(token));
    }
    for foreign in ["", "z9hG4bK", "z9hG4bK1", "z9hG4bK00000000000000FF", "z9hG4bK+0000000000000ff", "00000000000000ff"]
    {
        assert_eq!(token_of(foreign.as_bytes()), None, "{foreign}");
    }
}
