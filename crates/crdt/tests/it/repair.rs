//! Digests and repair (R9).

use crdt::{Cause, CellRef, Replica, Rules, TableRules, Wall};

use crate::support::{delete, live_view, put, put_until, replica, sync_both};

const NOW: Wall = Wall(1_000_000_000);
const HORIZON: u64 = NOW.0 / 1_000 + 2;

fn rules() -> Rules {
    Rules::new(4, 2_000).table("exp", TableRules::by_time(60))
}

/// Two replicas with equal clocks, of which `b` lost or mangled cells, as only a bug could.
fn with_a_bug(mangle: impl Fn(&CellRef<'_>) -> Option<Vec<u8>>) -> (Replica, Replica) {
    let mut a = replica(1, rules());
    for n in 0..50 {
        put(&mut a, NOW, "st", &n.to_string(), "v");
        put_until(&mut a, NOW, ("exp", &n.to_string()), "v", Some(NOW.secs() + 30));
    }
    for n in 40..50 {
        delete(&mut a, NOW, "st", &n.to_string());
    }
    let cells = a.scan(None, usize::MAX).filter_map(|(_, cell)| mangle(&cell).map(Vec::into_boxed_slice));
    let mut b = replica(2, rules());
    let meta = a.meta();
    b.restore(meta, cells.collect::<Vec<_>>());
    assert!(b.clock().includes(a.clock()));
    (a, b)
}

fn repair(a: &mut Replica, b: &mut Replica) -> (crdt::Repaired, crdt::Repaired) {
    let mut sums = (crdt::Repaired::default(), crdt::Repaired::default());
    let differs = a.range_digests(HORIZON).into_iter().zip(b.range_digests(HORIZON));
    let differing: Vec<u8> = differs.enumerate().filter(|(_, (x, y))| x != y).map(|(range, _)| range as u8).collect();
    for range in differing {
        let of_a: Vec<Vec<u8>> = a.range_cells(range).map(<[u8]>::to_vec).collect();
        let of_b: Vec<Vec<u8>> = b.range_cells(range).map(<[u8]>::to_vec).collect();
        for (sum, done) in [
            (&mut sums.0, a.repair_range(range, HORIZON, of_b.iter().map(|c| &c[..]), NOW)),
            (&mut sums.1, b.repair_range(range, HORIZON, of_a.iter().map(|c| &c[..]), NOW)),
        ] {
            sum.taken += done.taken;
            sum.reissued += done.reissued;
            sum.refused += done.refused;
        }
    }
    sums
}

fn assert_equal(a: &mut Replica, b: &mut Replica) {
    sync_both(a, b, NOW);
    assert_eq!(a.digest(NOW), b.digest(NOW));
    assert_eq!(live_view(a, NOW), live_view(b, NOW));
}

#[test]
fn lost_cells_are_issued_again_by_who_has_them() {
    let lost = |cell: &CellRef<'_>| (cell.key != b"7").then(|| cell.encode());
    let (mut a, mut b) = with_a_bug(lost);
    assert_ne!(a.digest_beyond(HORIZON), b.digest_beyond(HORIZON));
    a.drain_changes();
    let (at_a, at_b) = repair(&mut a, &mut b);
    assert_eq!((at_a.reissued, at_b.taken), (2, 0));
    assert!(a.drain_changes().iter().all(|change| change.cause == Cause::Local), "re-issues are pushed");
    assert_equal(&mut a, &mut b);
}

#[test]
fn an_older_version_gives_way_to_the_greater_though_its_dot_is_covered() {
    let older = |cell: &CellRef<'_>| {
        let mut cell = *cell;
        if cell.key == b"9" && cell.table == "st" {
            cell.order.stamp.time = crdt::Hlc::from_ms(5);
            cell.order.dot.origin = crdt::Origin(77);
            cell.body = Some(b"stale");
        }
        Some(cell.encode())
    };
    let (mut a, mut b) = with_a_bug(older);
    b.drain_changes();
    // b took in one dot more, that of its stale version.
    sync_both(&mut a, &mut b, NOW);
    assert_ne!(a.digest_beyond(HORIZON), b.digest_beyond(HORIZON));
    b.drain_changes();
    let (at_a, at_b) = repair(&mut a, &mut b);
    assert_eq!((at_a.taken, at_b.taken, at_b.refused), (0, 1, 0));
    assert!(b.drain_changes().iter().any(|change| change.cause == Cause::Repaired));
    assert_equal(&mut a, &mut b);
}

#[test]
fn a_tombstone_that_one_side_lost_beats_the_version_that_it_removed() {
    let revived = |cell: &CellRef<'_>| {
        let mut cell = *cell;
        if cell.key == b"45" && cell.table == "st" {
            cell.order.removed = false;
            cell.order.stamp.time = crdt::Hlc::from_ms(5);
            cell.order.dot.origin = crdt::Origin(77);
            cell.body = Some(b"a zombie");
        }
        Some(cell.encode())
    };
    let (mut a, mut b) = with_a_bug(revived);
    sync_both(&mut a, &mut b, NOW);
    let (_, at_b) = repair(&mut a, &mut b);
    assert_eq!((at_b.taken, at_b.reissued), (1, 0));
    assert_equal(&mut a, &mut b);
}

#[test]
fn one_dot_with_two_bodies_ends_in_the_same_body() {
    let mangled = |cell: &CellRef<'_>| {
        let mut cell = *cell;
        if cell.key == b"3" && cell.table == "st" {
            cell.body = Some(b"w");
        }
        Some(cell.encode())
    };
    let (mut a, mut b) = with_a_bug(mangled);
    repair(&mut a, &mut b);
    assert_equal(&mut a, &mut b);
}

#[test]
fn equal_replicas_have_nothing_to_repair() {
    let (mut a, mut b) = with_a_bug(|cell| Some(cell.encode()));
    assert_eq!(a.digest(NOW), b.digest(NOW));
    assert_eq!(a.range_digests(HORIZON), b.range_digests(HORIZON));
    let idle = crdt::Repaired::default();
    assert_eq!(repair(&mut a, &mut b), (idle, idle));
}

#[test]
fn a_digest_names_tables_and_leaves_the_dead_out() {
    let (a, _) = with_a_bug(|cell| Some(cell.encode()));
    let digest = a.digest(NOW);
    assert_eq!(digest.cells, 90);
    assert_eq!((digest.tables["st"].1, digest.tables["exp"].1), (40, 50));
    let later = a.digest(Wall::from_secs(NOW.secs() + 30));
    assert_eq!((later.cells, later.tables.contains_key("exp")), (40, false));
    assert_eq!(a.digest_beyond(HORIZON), (digest.total, digest.cells));
}
