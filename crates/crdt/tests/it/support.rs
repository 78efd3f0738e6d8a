//! What the tests share: a seeded generator, and short names for long calls.

use crdt::{Merged, NodeId, Origin, Outcome, Replica, Rules, Slot, StampRule, SyncAborted, SyncDone, Wall, Write};

/// A seeded generator (SplitMix64, Steele et al. 2014): one seed replays a run.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True in `percent` of cases.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.index(of.len())])
    }
}

/// The id of a cell: table, key, member.
pub(crate) type CellId = (String, Vec<u8>, Vec<u8>);

/// What a reader sees: the canonical bytes of all live cells.
pub(crate) fn live_view(replica: &Replica, now: Wall) -> std::collections::BTreeMap<CellId, Vec<u8>> {
    let live = replica.scan(None, usize::MAX).filter(|(_, cell)| cell.is_live(now));
    live.map(|(slot, cell)| {
        let id = (cell.table.to_owned(), cell.key.to_vec(), cell.member.to_vec());
        (id, replica.bytes(slot).expect("a scanned cell has bytes").to_vec())
    })
    .collect()
}

/// Plants the bug that the environment names. To be called before the first replica of a test is made.
pub(crate) fn plant() {
    #[cfg(feature = "planted")]
    if let Ok(name) = std::env::var("STARLING_PLANT") {
        let bug = crdt::planted::Bug::by_name(&name).expect("STARLING_PLANT names a bug");
        assert!(crdt::planted::choose(Some(bug)));
    }
}

/// A replica of node `n`, in its first life.
pub(crate) fn replica(n: u64, rules: Rules) -> Replica {
    plant();
    Replica::new(NodeId(n), Origin(n * 10), rules, 1)
}

/// One whole session: everything that `receiver` lacks comes from `sender`.
pub(crate) fn sync(sender: &mut Replica, receiver: &mut Replica, now: Wall) -> Result<SyncDone, SyncAborted> {
    let request = receiver.request();
    let (mut outgoing, start) = sender.open_outgoing(&request);
    let mut incoming = receiver.open_incoming(start, request);
    let result = loop {
        if incoming.is_complete() {
            break receiver.finish(incoming, now);
        }
        let chunk = sender.next_chunk(&mut outgoing, 300);
        if let Err(error) = chunk.and_then(|chunk| receiver.apply_chunk(&mut incoming, chunk, now)) {
            break Err(error);
        }
    };
    sender.close_outgoing(outgoing);
    result
}

/// Each gets what it lacks of the other.
pub(crate) fn sync_both(a: &mut Replica, b: &mut Replica, now: Wall) {
    sync(a, b, now).expect("the session ends well");
    sync(b, a, now).expect("the session ends well");
}

/// A live value in a table without ranks, written now, where writes of now always win.
pub(crate) fn put(replica: &mut Replica, now: Wall, table: &str, key: &str, body: &str) -> Slot {
    put_until(replica, now, (table, key), body, None)
}

/// As [`put`], with a deadline.
pub(crate) fn put_until(
    replica: &mut Replica,
    now: Wall,
    (table, key): (&str, &str),
    body: &str,
    deadline: Option<u64>,
) -> Slot {
    let body = Some(body.as_bytes());
    let write = Write { table, key: key.as_bytes(), deadline, body, ..blank() };
    match replica.write(now, write) {
        Ok(Outcome::Written(slot, _)) => slot,
        other => panic!("a write of now wins: {other:?}"),
    }
}

/// A tombstone written in time.
pub(crate) fn delete(replica: &mut Replica, now: Wall, table: &str, key: &str) -> Slot {
    match replica.write(now, Write { table, key: key.as_bytes(), ..blank() }) {
        Ok(Outcome::Written(slot, _)) => slot,
        other => panic!("a write of now wins: {other:?}"),
    }
}

/// A write to fill in.
pub(crate) const fn blank() -> Write<'static> {
    let (deadline, body, birth, stamp) = (None, None, None, StampRule::Now);
    Write { table: "st", key: b"k", member: b"", rank: 0, stamp, deadline, body, via: 0, birth }
}

/// What a reader gets.
pub(crate) fn get(replica: &Replica, now: Wall, table: &str, key: &str) -> Option<String> {
    let cell = replica.cell(replica.slot(table, key.as_bytes(), b"")?)?;
    let body = cell.body.filter(|_| cell.is_live(now))?;
    Some(String::from_utf8_lossy(body).into_owned())
}

/// Pushes the cell in a slot.
pub(crate) fn push(from: &Replica, slot: Slot, to: &mut Replica, now: Wall) -> Merged {
    let bytes = from.bytes(slot).expect("the slot holds a cell").to_vec();
    to.merge_pushed(now, &bytes, 0)
}

/// Both know each other, and each other's state as it is now; all of it is on disk.
pub(crate) fn acquaint(a: &mut Replica, b: &mut Replica) {
    for replica in [&mut *a, &mut *b] {
        let clock = replica.clock().clone();
        replica.persisted(&clock);
    }
    a.roster_enter(b.node(), b.origin(), &b.stability_clock());
    b.roster_enter(a.node(), a.origin(), &a.stability_clock());
}
