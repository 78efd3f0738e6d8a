//! Prints what reading and writing bodies costs, ns each, best of many rounds.
//! `cargo run --release -p starling-kdmq --example codec_speed`

use std::hint::black_box;
use std::time::Instant;

use starling_kdmq::usrloc::Action;
use starling_kdmq::{Channel, Generation, htable, usrloc};
use tables::location::Contact;

const ROUNDS: usize = 30;
const PER_ROUND: u32 = 20_000;

const UPDATE: &[u8] = include_bytes!("../../../tests/golden/kdmq/5.6.3/usrloc-path-received.sip");
const MULTI: &[u8] = include_bytes!("../../../tests/golden/kdmq/5.6.3/usrloc-multi-1.sip");
const SET: &[u8] = include_bytes!("../../../tests/golden/kdmq/5.6.3/htable-set-str.sip");
const CELLS: &[u8] = include_bytes!("../../../tests/golden/kdmq/master/htable-sync-cells.sip");

fn best_ns(what: &str, mut work: impl FnMut()) {
    let mut best = u128::MAX;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        for _ in 0..PER_ROUND {
            work();
        }
        best = best.min(started.elapsed().as_nanos() / u128::from(PER_ROUND));
    }
    println!("{best:6} ns  {what}");
}

/// A message of a server, as its channel and its actions.
fn take_in(bytes: &[u8]) -> usize {
    let message = sip::parse(bytes).expect("a SIP message");
    let uri = sip::Uri::parse(message.uri().expect("a request")).expect("an R-URI");
    match Channel::from_user(uri.user.expect("a channel")) {
        Channel::Usrloc => usrloc::decode(message.body).expect("actions").actions.len(),
        Channel::Htable => usize::from(htable::decode(message.body).is_ok()),
        _ => 0,
    }
}

fn main() {
    for (what, bytes) in
        [("usrloc update", UPDATE), ("usrloc multi of 3", MULTI), ("htable set", SET), ("17 cells", CELLS)]
    {
        let length = bytes.len();
        best_ns(&format!("SIP and JSON of {what}, {length} bytes, to typed actions"), || {
            black_box(take_in(black_box(bytes)));
        });
    }
    let message = sip::parse(UPDATE).expect("a SIP message");
    let body = message.body;
    best_ns(&format!("JSON of usrloc update alone, {} bytes", body.len()), || {
        drop(black_box(usrloc::decode(black_box(body))));
    });
    let batch = usrloc::decode(body).expect("actions");
    let [Action::Update(row)] = batch.actions.as_slice() else { panic!("one update") };
    let contact = &row.contact;
    best_ns("contact to usrloc update", || {
        let body = usrloc::encode_update(&row.aor, black_box(contact), &contact.ruid, Generation::V5);
        drop(black_box(body));
    });
    best_ns("contact to cell member", || drop(black_box(black_box(contact).member())));
    let member = contact.member();
    best_ns("contact to cell body", || drop(black_box(black_box(contact).encode(&member))));
    let cell = contact.encode(&member);
    best_ns(&format!("cell body of {} bytes to contact", cell.len()), || {
        drop(black_box(Contact::decode(black_box(&cell), &member)));
    });
}
