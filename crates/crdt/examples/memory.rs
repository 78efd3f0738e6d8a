//! Prints bytes per contact and nanoseconds per merge for 100,000 contacts (or as many as the first argument says), after
//! each was refreshed once in random order: of plain ones (a short AoR and user agent, known by their URI) and of rich ones
//! (with instance, path and received address). Times are those on the processor, so that a busy machine can be borne.
//!
//! `cargo run --release -p starling-crdt --example memory`

use std::fs;
use std::hint::black_box;
use std::time::Instant;

use starling_crdt::{
    CellRef, Dot, Hlc, Merged, NodeId, Order, Origin, Replica, Rules, Stamp, StampRule, TableRules, Wall, Write,
};

const NOW: Wall = Wall(1_764_000_000_000);
/// A kind of contacts.
struct Kind {
    name: &'static str,
    /// What follows the user in the AoR.
    domain: &'static str,
    /// What stands around the number in the member.
    member: (&'static str, &'static str),
    /// What the attributes take, packed.
    body: &'static [u8],
}

const KINDS: [Kind; 2] = [
    Kind { name: "plain", domain: "", member: ("u:sip:u", "@127.0.0.99:20001"), body: &[b'x'; 70] },
    Kind { name: "rich", domain: "@sip.example.org", member: ("<urn:uuid:00000000-", ">"), body: &[b'x'; 190] },
];

impl Kind {
    fn id(&self, n: u64) -> (String, String) {
        let (before, after) = self.member;
        (format!("user{n:07}{}", self.domain), format!("{before}{n:012x}{after}"))
    }
}

fn rules() -> Rules {
    Rules::new(10, 2_000).table("location", TableRules::by_time(7_200))
}

/// Resident memory, bytes; 0 where the system does not tell.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// A contact's cell as the wire has it.
fn contact(kind: &Kind, n: u64, seq: u64, ms: u64) -> Vec<u8> {
    let (key, member) = kind.id(n);
    let order = Order {
        rank: 0,
        stamp: Stamp { time: Hlc::from_ms(NOW.0 + ms), node: NodeId(1) },
        removed: false,
        dot: Dot { origin: Origin(11), seq },
    };
    let deadline = Some(NOW.secs() + 3_600 + n % 600);
    let (key, member) = (key.as_bytes(), member.as_bytes());
    CellRef { table: "location", key, member, order, birth: None, deadline, body: Some(kind.body) }.encode()
}

/// A permutation of `0..n`, by a multiplier that is prime to it.
fn shuffled(n: u64) -> impl Iterator<Item = u64> {
    let step = (n / 3 * 2..).find(|step| gcd(*step, n) == 1).unwrap_or(1);
    (0..n).map(move |i| i * step % n)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Nanoseconds that this thread ran on a processor; time since `start` where the system does not tell.
fn on_cpu(start: Instant) -> u64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = stat.split(' ').next().and_then(|ns| ns.parse().ok());
    first.unwrap_or_else(|| start.elapsed().as_nanos() as u64)
}

fn timed(what: &str, n: u64, overhead: u64, mut work: impl FnMut()) -> u64 {
    let start = Instant::now();
    let before = on_cpu(start);
    work();
    let spent = on_cpu(start) - before;
    println!("{what:<52} {:>8} ns each", spent.saturating_sub(overhead) / n);
    spent
}

/// Each kind in a process of its own, so that none uses the memory that another has left.
fn main() {
    let mut args = std::env::args().skip(1);
    let n: u64 = args.next().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let wanted = args.next();
    for kind in &KINDS {
        if wanted.as_deref() == Some(kind.name) {
            measure(kind, n);
        } else if wanted.is_none() {
            println!("{} contacts", kind.name);
            let this = std::env::current_exe().expect("the path of this program");
            let ended = std::process::Command::new(this).args([&n.to_string(), kind.name]).status();
            assert!(ended.is_ok_and(|status| status.success()), "{}", kind.name);
        }
    }
}

fn measure(kind: &Kind, n: u64) {
    let before = resident();
    let mut replica = Replica::new(NodeId(2), Origin(22), rules(), 7);
    let making = timed("(making a contact's bytes)", n, 0, || {
        shuffled(n).for_each(|id| drop(black_box(contact(kind, id, 1 + id, 0))));
    });
    for (what, first, ms) in [("merge of a new contact", 1, 0), ("merge of a refresh", n + 1, 1_000)] {
        timed(what, n, making, || {
            for (seq, id) in (first..).zip(shuffled(n)) {
                assert!(matches!(replica.merge_pushed(NOW, &contact(kind, id, seq, ms), 0), Merged::New(_)));
                if seq % 64 == 0 {
                    drop(replica.drain_changes());
                }
            }
            drop(replica.drain_changes());
        });
    }
    timed("merge of a cell whose dot is covered", n, 0, || {
        let bytes = contact(kind, 0, n + 1, 1_000);
        (0..n).for_each(|_| assert_eq!(replica.merge_pushed(NOW, &bytes, 0), Merged::Stale));
    });
    let (resident, counted) = (resident().saturating_sub(before), replica.memory_bytes());
    let blob = contact(kind, 0, n + 1, 1_000).len();
    println!("contacts: {n}, canonical bytes of one: {blob}");
    println!("resident bytes per contact: {}", resident as u64 / n);
    println!(
        "bytes per contact as counted: {}, beside the blob: {}",
        counted as u64 / n,
        counted as u64 / n - blob as u64
    );

    timed("local refresh", n / 10, 0, || {
        for id in shuffled(n).take(n as usize / 10) {
            let (key, member) = kind.id(id);
            let (key, member) = (key.as_bytes(), member.as_bytes());
            let (stamp, deadline) = (StampRule::Now, Some(NOW.secs() + 3_600));
            let (table, body) = ("location", Some(kind.body));
            let write = Write { table, key, member, rank: 0, stamp, deadline, body, via: 0, birth: None };
            black_box(replica.write(NOW, write)).expect("the write keeps the rules");
        }
        drop(replica.drain_changes());
    });
    timed("lookup", n, 0, || {
        for id in shuffled(n) {
            let (key, member) = kind.id(id);
            black_box(replica.slot("location", key.as_bytes(), member.as_bytes()));
        }
    });
    timed("digest", 1_000, 0, || (0..1_000).for_each(|_| drop(black_box(replica.digest(NOW)))));
    join_and_expire(n, &mut replica);
}

/// Fills a second replica from the first in one session, and lets everything die there.
fn join_and_expire(n: u64, replica: &mut Replica) {
    let mut whole = None;
    let mut joiner = Replica::new(NodeId(3), Origin(33), rules(), 7);
    timed("cold join of all of them in one session", n, 0, || {
        let request = joiner.request();
        let (mut outgoing, start) = replica.open_outgoing(&request);
        let mut incoming = joiner.open_incoming(start, request);
        while !incoming.is_complete() {
            let chunk = replica.next_chunk(&mut outgoing, 64 << 10).expect("nothing is forgotten meanwhile");
            joiner.apply_chunk(&mut incoming, chunk, NOW).expect("the chunk is sound");
            drop(joiner.drain_changes());
        }
        replica.close_outgoing(outgoing);
        whole = Some(incoming);
    });
    timed("end of that session, in one call", n, 0, || {
        let incoming = whole.take().expect("the session was opened");
        joiner.finish(incoming, NOW).expect("the session is whole");
    });
    timed("expiry and forgetting of all of them", n, 0, || {
        for secs in [3_600, 4_300, 7_300] {
            while joiner.tick(Wall(NOW.0 + secs * 1_000)) {
                drop(joiner.drain_changes());
            }
        }
    });
    assert_eq!(joiner.live_cells(Wall(NOW.0 + 7_300_000)), 0);
}
