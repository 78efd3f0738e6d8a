//! Prints what parsing, validating, answering and matching a message costs, ns each, best of many
//! rounds. `cargo run --release -p starling-sip --example parse_speed`

#[path = "../tests/it/corpus.rs"]
mod corpus;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use starling_sip::transaction::ServerTransactions;
use starling_sip::{MessageBuilder, parse};

const ROUNDS: usize = 30;
const PER_ROUND: u32 = 20_000;

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

fn main() {
    let source = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 11)), 5061);
    for (name, text) in [
        ("the least request", corpus::MINIMAL),
        ("KDMQ update", corpus::KDMQ_UPDATE),
        ("REGISTER", corpus::REGISTER),
        ("response", corpus::RESPONSE),
    ] {
        let bytes = corpus::crlf(text);
        let length = bytes.len();
        best_ns(&format!("parse {name}, {length} bytes"), || drop(black_box(parse(black_box(&bytes)))));
        best_ns(&format!("parse and validate {name}"), || {
            let message = parse(black_box(&bytes)).expect("the corpus is valid");
            black_box(message.validate()).expect("the corpus is valid");
        });
    }
    let bytes = corpus::crlf(corpus::KDMQ_UPDATE);
    let message = parse(&bytes).expect("the corpus is valid");
    best_ns("answer a KDMQ update", || {
        let answer = MessageBuilder::response_to(black_box(&message), source, 200, "OK", Some(b"tag"));
        black_box(answer.expect("it has a Via").header("Server", "starling").finish(b""));
    });
    let mut seen: ServerTransactions<u16> = ServerTransactions::new(400_000, [1, 2]);
    let _ = seen.on_request(&message, source.ip(), false, 0);
    best_ns("find a retransmission", || {
        let _ = black_box(seen.on_request(black_box(&message), source.ip(), false, 0));
    });
}
