//! Two replicas and a model that looks on.

use crdt::{Dot, NodeId, Origin, Outcome, Replica, Rules, StampRule, TableRules, Wall, Write};

use super::*;

/// The time of day.
pub(crate) const WALL: Wall = Wall(1_800_000_000_000);

/// Two replicas without a node around them, so that a test can bend them.
pub(crate) struct Pair {
    pub(crate) model: Model,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) at: Mono,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let rules = || Rules::new(60, 1_000).table("location", TableRules::by_time(600));
        let replica = |n: u64| Replica::new(NodeId(n), Origin(n + 10), rules(), n);
        let mut pair = Self { model: Model::default(), replicas: vec![replica(0), replica(1)], at: Mono(0) };
        for node in 0..2 {
            pair.model.start(node, Origin(node as u64 + 10), &pair.replicas[node], WALL, Mono(0)).unwrap();
        }
        pair
    }

    pub(crate) fn replica(&self, node: usize) -> &Replica {
        &self.replicas[node]
    }

    pub(crate) fn replica_mut(&mut self, node: usize) -> &mut Replica {
        &mut self.replicas[node]
    }

    pub(crate) fn try_step(&mut self, node: usize) -> Result<(), String> {
        self.replicas[node].drain_changes();
        self.at = self.at.plus_ms(1);
        self.model.stepped(node, &self.replicas[node], WALL, self.at)
    }

    pub(crate) fn step(&mut self, node: usize) {
        self.try_step(node).unwrap();
    }

    fn write(&mut self, node: usize, table: &str, key: &[u8], deadline: Option<u64>, body: Option<&[u8]>) {
        let (stamp, member) = (StampRule::Now, &b""[..]);
        let write = Write { table, key, member, rank: 0, stamp, deadline, body, via: 0, birth: None };
        let outcome = self.replicas[node].write(WALL, write).unwrap();
        assert!(matches!(outcome, Outcome::Written(..)));
        self.step(node);
    }

    pub(crate) fn set(&mut self, node: usize, key: &[u8], body: &[u8]) {
        self.write(node, "htable:t", key, None, Some(body));
    }

    pub(crate) fn delete(&mut self, node: usize, key: &[u8]) {
        self.write(node, "htable:t", key, None, None);
    }

    /// A cell that lives for some seconds.
    pub(crate) fn lease(&mut self, node: usize, key: &[u8], secs: u64) {
        self.write(node, "location", key, Some(WALL.secs() + secs), Some(b"x"));
    }

    /// The last dot of a node.
    pub(crate) fn dot(&self, node: usize) -> Dot {
        let origin = self.replicas[node].origin();
        Dot { origin, seq: self.replicas[node].clock().max(origin) }
    }

    /// Pushes a cell.
    pub(crate) fn push(&mut self, from: usize, to: usize, key: &[u8]) {
        let slot = self.replicas[from].slot("htable:t", key, b"").unwrap();
        let bytes = self.replicas[from].bytes(slot).unwrap().to_vec();
        self.replicas[to].merge_pushed(WALL, &bytes, 0);
        self.step(to);
    }
}

#[test]
fn the_greatest_covered_write_counts() {
    let mut pair = Pair::new();
    pair.set(0, b"k", b"1");
    pair.set(1, b"k", b"2");
    let cell = pair.model.find("htable:t", b"k", b"").unwrap();
    let dots = [pair.dot(0), pair.dot(1)];
    let best = |pair: &Pair, node| pair.model.write(pair.model.best(node, cell).unwrap()).order.dot;
    assert_eq!([best(&pair, 0), best(&pair, 1)], dots);
    pair.push(1, 0, b"k");
    pair.push(0, 1, b"k");
    assert_eq!([best(&pair, 0), best(&pair, 1)], [dots[1], dots[1]], "same stamp, greater node");
    for node in 0..2 {
        let life = pair.model.life(node).unwrap();
        assert_eq!(pair.model.plainly(&life.covered, cell), life.best(cell));
        let (hash, cells) = pair.replica(node).digest_beyond(WALL.secs());
        assert_eq!(pair.model.expected(node, WALL.secs()), Sum { hash, cells });
    }
}

#[test]
fn what_is_expected_dies_with_its_deadline() {
    let mut pair = Pair::new();
    pair.lease(0, b"a", 100);
    pair.lease(0, b"b", 200);
    pair.set(0, b"k", b"1");
    pair.delete(0, b"k");
    let cells = |secs| pair.model.expected(0, WALL.secs() + secs).cells;
    assert_eq!([cells(0), cells(99), cells(100), cells(200)], [2, 2, 1, 0]);
}

#[test]
fn a_write_that_was_overwritten_within_its_step_is_no_write() {
    let mut pair = Pair::new();
    let write = |replica: &mut Replica, body: &[u8]| {
        let (table, key, member, body) = ("htable:t", &b"k"[..], &b""[..], Some(body));
        let stamp = StampRule::Now;
        let write = Write { table, key, member, rank: 0, stamp, deadline: None, body, via: 0, birth: None };
        replica.write(WALL, write).unwrap();
    };
    write(&mut pair.replicas[0], b"1");
    let early = pair.replicas[0].bytes(pair.replicas[0].slot("htable:t", b"k", b"").unwrap()).unwrap().to_vec();
    write(&mut pair.replicas[0], b"2");
    pair.step(0);
    assert_eq!(pair.model.step().made.len(), 1);
    assert_eq!(pair.model.made_by(Origin(10)), 2);
    assert!(pair.model.named(Dot { origin: Origin(10), seq: 1 }).is_none());
    // It is entered when somebody shows it after all.
    pair.replicas[1].merge_pushed(WALL, &early, 0);
    pair.step(1);
    assert!(pair.model.named(Dot { origin: Origin(10), seq: 1 }).is_some());
    let cell = pair.model.find("htable:t", b"k", b"").unwrap();
    let best = |node| pair.model.write(pair.model.best(node, cell).unwrap()).order.dot.seq;
    assert_eq!([best(0), best(1)], [2, 1]);
}

#[test]
fn a_dot_with_other_bytes_than_where_it_was_made_is_found() {
    let mut pair = Pair::new();
    pair.set(0, b"k", b"1");
    let slot = pair.replica(0).slot("htable:t", b"k", b"").unwrap();
    let mut cell = pair.replica(0).cell(slot).unwrap();
    cell.body = Some(b"2");
    let forged = cell.encode();
    pair.replica_mut(1).merge_pushed(WALL, &forged, 0);
    let wrong = pair.try_step(1).unwrap_err();
    assert!(wrong.contains("is the version") && wrong.contains("and at node 1"), "{wrong}");
}

#[test]
fn a_dot_that_nobody_issued_is_found() {
    let mut pair = Pair::new();
    pair.replica_mut(1).cover_overwritten([Dot { origin: Origin(10), seq: 1 }]);
    let wrong = pair.try_step(1).unwrap_err();
    assert!(wrong.contains("nobody has issued"), "{wrong}");
}

#[test]
fn an_origin_that_is_used_twice_is_found() {
    let mut pair = Pair::new();
    let again = Replica::new(NodeId(0), Origin(10), Rules::new(60, 1_000), 0);
    assert!(pair.model.start(0, Origin(10), &again, WALL, Mono(5)).is_err());
}

#[test]
fn a_clock_that_covers_less_than_before_is_found() {
    let mut pair = Pair::new();
    pair.set(0, b"k", b"1");
    pair.push(0, 1, b"k");
    let rules = Rules::new(60, 1_000).table("location", TableRules::by_time(600));
    pair.replicas[1] = Replica::new(NodeId(1), Origin(11), rules, 1);
    let wrong = pair.try_step(1).unwrap_err();
    assert!(wrong.contains("does not any more"), "{wrong}");
}

#[test]
fn a_new_life_covers_what_its_disk_held() {
    let mut pair = Pair::new();
    pair.set(0, b"k", b"1");
    let (meta, slot) = (pair.replica(0).meta(), pair.replica(0).slot("htable:t", b"k", b"").unwrap());
    let blob: Box<[u8]> = pair.replica(0).bytes(slot).unwrap().into();
    pair.set(0, b"k", b"2");
    let rules = Rules::new(60, 1_000).table("location", TableRules::by_time(600));
    let mut again = Replica::new(NodeId(0), Origin(20), rules, 0);
    again.restore(meta, [blob]);
    pair.model.start(0, Origin(20), &again, WALL, Mono(9)).unwrap();
    let cell = pair.model.find("htable:t", b"k", b"").unwrap();
    assert_eq!(pair.model.write(pair.model.best(0, cell).unwrap()).order.dot.seq, 1);
    assert_eq!(pair.model.step().touched, [cell]);
}

#[test]
fn a_removal_that_was_forgotten_at_once_is_a_removal() {
    let mut pair = Pair::new();
    pair.set(0, b"k", b"1");
    let clock = pair.replica(0).clock().clone();
    pair.replicas[0].persisted(&clock);
    let (table, key, member, stamp) = ("htable:t", &b"k"[..], &b""[..], StampRule::Now);
    let write = Write { table, key, member, rank: 0, stamp, deadline: None, body: None, via: 0, birth: None };
    pair.replicas[0].write(WALL, write).unwrap();
    let clock = pair.replica(0).clock().clone();
    pair.replicas[0].persisted(&clock);
    pair.replicas[0].tick(WALL);
    assert_eq!(pair.replicas[0].cells_held(), 0);
    pair.step(0);
    assert_eq!(pair.model.step().made.len(), 1);
    assert_eq!(pair.model.expected(0, WALL.secs()), Sum::default());
}

/// A replica that has dialogs.
fn with_dialogs(origin: u64) -> Replica {
    let rules = Rules::new(60, 1_000).table("dialog", TableRules::by_birth(600));
    Replica::new(NodeId(origin), Origin(origin), rules, origin)
}

fn say(replica: &mut Replica, wall: Wall, rank: crdt::Rank, body: Option<&[u8]>) {
    let (table, key, member, stamp, birth) = ("dialog", &b"d"[..], &b""[..], StampRule::Now, Some(WALL.secs()));
    let write = Write { table, key, member, rank, stamp, deadline: Some(u64::MAX), body, via: 0, birth };
    replica.write(wall, write).unwrap();
    replica.drain_changes();
}

#[test]
fn of_ranked_versions_the_greater_rank_counts_whatever_the_stamps_and_dies_by_its_birth() {
    let at = |secs: u64| Wall(WALL.0 + secs * 1_000);
    let (mut one, mut two) = (with_dialogs(1), with_dialogs(2));
    let mut model = Model::default();
    model.start(0, Origin(1), &one, WALL, Mono(0)).unwrap();
    model.start(1, Origin(2), &two, WALL, Mono(0)).unwrap();
    say(&mut one, WALL, 4, Some(b"confirmed"));
    say(&mut two, at(100), 2, Some(b"early"));
    model.stepped(0, &one, at(100), Mono(1)).unwrap();
    model.stepped(1, &two, at(100), Mono(2)).unwrap();
    let cell = model.find("dialog", b"d", b"").unwrap();
    let bytes = |replica: &Replica| replica.bytes(replica.slot("dialog", b"d", b"").unwrap()).unwrap().to_vec();
    let (early, confirmed) = (bytes(&two), bytes(&one));
    one.merge_pushed(at(100), &early, 0);
    two.merge_pushed(at(100), &confirmed, 0);
    model.stepped(0, &one, at(100), Mono(3)).unwrap();
    model.stepped(1, &two, at(100), Mono(4)).unwrap();
    for node in 0..2 {
        assert_eq!(model.write(model.best(node, cell).unwrap()).order.rank, 4);
        let cells = |secs| model.expected(node, WALL.secs() + secs).cells;
        assert_eq!([cells(100), cells(599), cells(600)], [1, 1, 0], "the deadline is the birth and the longest life");
    }
    say(&mut two, at(101), 5, None);
    model.stepped(1, &two, at(101), Mono(5)).unwrap();
    assert_eq!([model.expected(0, at(101).secs()).cells, model.expected(1, at(101).secs()).cells], [1, 0]);
}
