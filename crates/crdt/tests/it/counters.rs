//! Counters (R8), with `crdts::PNCounter` as an oracle.

use crdt::{Replica, Rules, TableRules, Wall, counter};
use crdts::{CmRDT, CvRDT, PNCounter};
use proptest::prelude::*;

use crate::support::{replica, sync_both};

const NOW: Wall = Wall(1_000_000_000);
const ID: (&str, &[u8]) = ("ctr", b"calls");

fn rules() -> Rules {
    Rules::new(4, 2_000).table("ctrx", TableRules::by_time(60))
}

fn value(replica: &Replica) -> Option<i64> {
    counter::value(replica, ID.0, ID.1, NOW)
}

fn add(replica: &mut Replica, by: i64) -> i64 {
    counter::add(replica, NOW, ID, by, None, 0).unwrap()
}

proptest! {
    #[test]
    fn increments_on_all_sides_of_splits_add_up(
        steps in proptest::collection::vec((0..3_usize, 0..3_usize, -5..9_i64), 1..60)
    ) {
        let mut nodes: Vec<Replica> = (1..4).map(|n| replica(n, rules())).collect();
        let mut oracle: Vec<PNCounter<u64>> = (0..3).map(|_| PNCounter::new()).collect();
        for (a, b, by) in steps {
            if a == b {
                add(&mut nodes[a], by);
                let times = by.unsigned_abs();
                let op = if by < 0 { oracle[a].dec_many(a as u64, times) } else { oracle[a].inc_many(a as u64, times) };
                oracle[a].apply(op);
            } else {
                let [x, y] = nodes.get_disjoint_mut([a, b]).unwrap();
                sync_both(x, y, NOW);
                let joined = oracle[b].clone();
                oracle[a].merge(joined);
                oracle[b] = oracle[a].clone();
            }
            for (node, oracle) in nodes.iter().zip(&oracle) {
                let expected = i64::try_from(oracle.read()).unwrap();
                prop_assert_eq!(value(node).unwrap_or(0), expected);
            }
        }
    }
}

#[test]
fn a_set_discards_increments_that_it_had_not_seen_and_keeps_later_ones() {
    let (mut a, mut b) = (replica(1, rules()), replica(2, rules()));
    add(&mut a, 5);
    sync_both(&mut a, &mut b, NOW);
    add(&mut b, 2);
    counter::set(&mut a, NOW, ID, 100, None, 0).unwrap();
    sync_both(&mut a, &mut b, NOW);
    assert_eq!((value(&a), value(&b)), (Some(100), Some(100)));
    assert!(counter::drop_outdated(&mut b, NOW, ID, 0));
    assert_eq!(add(&mut b, 3), 103);
    assert_eq!(add(&mut a, -1), 99);
    sync_both(&mut a, &mut b, NOW);
    assert_eq!((value(&a), value(&b)), (Some(102), Some(102)));
}

#[test]
fn of_two_concurrent_sets_one_wins_everywhere() {
    let (mut a, mut b) = (replica(1, rules()), replica(2, rules()));
    counter::set(&mut a, NOW, ID, 1, None, 0).unwrap();
    counter::set(&mut b, NOW, ID, 2, None, 0).unwrap();
    sync_both(&mut a, &mut b, NOW);
    assert_eq!((value(&a), value(&b)), (Some(2), Some(2)));
}

#[test]
fn a_delete_beats_increments_that_it_had_not_seen() {
    let (mut a, mut b) = (replica(1, rules()), replica(2, rules()));
    add(&mut a, 5);
    sync_both(&mut a, &mut b, NOW);
    add(&mut b, 2);
    assert_eq!(counter::delete(&mut a, NOW, ID, 0), Ok(true));
    assert_eq!(value(&a), None);
    sync_both(&mut a, &mut b, NOW);
    assert_eq!((value(&a), value(&b)), (None, None));
    assert_eq!(counter::delete(&mut b, NOW, ID, 0), Ok(false), "it is known to be deleted");
    assert_eq!(add(&mut b, 1), 1);
    sync_both(&mut a, &mut b, NOW);
    assert_eq!(value(&a), Some(1));
}

#[test]
fn a_later_process_never_resumes_a_contribution() {
    let (mut a, mut b) = (replica(1, rules()), replica(2, rules()));
    add(&mut a, 5);
    let cells: Vec<Box<[u8]>> = a.scan(None, 9).filter_map(|(slot, _)| a.bytes(slot).map(Box::from)).collect();
    let meta = a.meta();
    // Seen elsewhere, lost here.
    add(&mut a, 7);
    sync_both(&mut a, &mut b, NOW);
    let mut again = Replica::new(a.node(), crdt::Origin(11), rules(), 1);
    again.restore(meta, cells);
    assert_eq!(add(&mut again, 1), 6);
    sync_both(&mut again, &mut b, NOW);
    assert_eq!((value(&again), value(&b)), (Some(13), Some(13)));
}

#[test]
fn a_contribution_dies_by_its_own_deadline() {
    let (mut a, mut b) = (replica(1, rules()), replica(2, rules()));
    let id = ("ctrx", ID.1);
    counter::add(&mut a, NOW, id, 5, Some(NOW.secs() + 10), 0).unwrap();
    counter::add(&mut b, NOW, id, 2, Some(NOW.secs() + 20), 0).unwrap();
    sync_both(&mut a, &mut b, NOW);
    let at = |secs| counter::value(&a, id.0, id.1, Wall::from_secs(NOW.secs() + secs));
    assert_eq!((at(9), at(10), at(20)), (Some(7), Some(2), None));
}

#[test]
fn a_value_beyond_its_type_stops_at_the_limit() {
    let mut a = replica(1, rules());
    add(&mut a, i64::MAX);
    assert_eq!(add(&mut a, i64::MAX), i64::MAX);
    counter::set(&mut a, NOW, ID, i64::MIN, None, 0).unwrap();
    assert_eq!(add(&mut a, i64::MIN), i64::MIN);
}
