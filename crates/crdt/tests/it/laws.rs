//! The lattice: any fragments, in any order, any number of times.

use crdt::{NodeId, Origin, Outcome, Replica, Rules, StampRule, TableRules, Wall, Write};
use proptest::prelude::*;

use crate::support::{Rng, live_view, put, replica};

const NOW: Wall = Wall(1_000_000_000);

fn rules() -> Rules {
    Rules::new(4, 2_000).table("exp", TableRules::by_time(60)).table("dlg", TableRules::by_birth(60))
}

/// Versions of a few cells, written by three nodes that sometimes hear of each other.
fn versions(seed: u64) -> Vec<Vec<u8>> {
    let mut rng = Rng(seed);
    let mut nodes: Vec<Replica> = (1..4).map(|n| replica(n, rules())).collect();
    let mut all = Vec::new();
    for n in 0..40_u64 {
        let writer = rng.index(3);
        let body = n.to_be_bytes();
        let table = rng.pick(&["exp", "st", "dlg"]).expect("there are tables");
        let key = [rng.below(2) as u8];
        let (rank, birth) = if table == "dlg" { (u128::from(rng.below(3)), Some(999_990)) } else { (0, None) };
        let stamp = if rng.chance(50) { StampRule::Now } else { StampRule::At(Wall(NOW.0 - rng.below(3) * 1_000)) };
        let body = (!rng.chance(25)).then_some(&body[..]);
        let deadline = Some(NOW.secs() + 30);
        let write = Write { table, key: &key, member: b"", rank, stamp, deadline, body, via: 0, birth };
        if let Ok(Outcome::Written(slot, _)) = nodes[writer].write(NOW, write) {
            let bytes = nodes[writer].bytes(slot).expect("it was just written").to_vec();
            if rng.chance(40) {
                nodes[rng.index(3)].merge_pushed(NOW, &bytes, 0);
            }
            all.push(bytes);
        }
    }
    all
}

fn merged(versions: impl IntoIterator<Item = Vec<u8>>) -> Replica {
    let mut replica = replica(9, rules());
    for bytes in versions {
        replica.merge_pushed(NOW, &bytes, 0);
    }
    replica
}

fn held(replica: &Replica) -> Vec<Vec<u8>> {
    let mut all: Vec<_> =
        replica.scan(None, usize::MAX).filter_map(|(slot, _)| replica.bytes(slot).map(<[u8]>::to_vec)).collect();
    all.sort();
    all
}

proptest! {
    #[test]
    fn any_order_of_fragments_with_duplicates_ends_in_the_same_state(seed: u64, order in any::<u64>()) {
        let versions = versions(seed);
        let mut rng = Rng(order);
        let mut shuffled = versions.clone();
        for at in (1..shuffled.len()).rev() {
            shuffled.swap(at, rng.index(at + 1));
        }
        for _ in 0..10 {
            let again = shuffled[rng.index(shuffled.len())].clone();
            shuffled.insert(rng.index(shuffled.len()), again);
        }
        let (straight, other) = (merged(versions), merged(shuffled));
        prop_assert_eq!(held(&straight), held(&other));
        prop_assert_eq!(straight.clock(), other.clock());
        prop_assert_eq!(straight.digest(NOW), other.digest(NOW));
    }

    #[test]
    fn merging_is_the_maximum_by_order(seed: u64) {
        let versions = versions(seed);
        let replica = merged(versions.clone());
        for bytes in &versions {
            let cell = crdt::CellRef::decode(bytes).unwrap();
            let slot = replica.slot(cell.table, cell.key, cell.member).unwrap();
            prop_assert!(replica.cell(slot).unwrap().order >= cell.order);
        }
        let any = |bytes: &Vec<u8>| versions.contains(bytes);
        prop_assert!(held(&replica).iter().all(any));
    }

    #[test]
    fn what_was_lost_on_the_way_comes_with_a_session(seed: u64, loss in any::<u64>()) {
        let versions = versions(seed);
        let mut rng = Rng(loss);
        let mut whole = merged(versions.clone());
        let mut part = Replica::new(NodeId(8), Origin(80), rules(), 1);
        for bytes in versions.iter().filter(|_| rng.chance(50)) {
            part.merge_pushed(NOW, bytes, 0);
        }
        crate::support::sync(&mut whole, &mut part, NOW).unwrap();
        prop_assert_eq!(part.clock(), whole.clock());
        prop_assert_eq!(live_view(&part, NOW), live_view(&whole, NOW));
    }
}

#[test]
fn a_write_is_shown_by_its_slot_until_another_takes_its_place() {
    let mut replica = replica(1, rules());
    let first = put(&mut replica, NOW, "st", "k", "1");
    let dot = |slot| replica.cell(slot).expect("it was just written").order.dot;
    let dot = dot(first);
    assert_eq!(replica.shown_by(dot), Some(first));
    put(&mut replica, NOW, "st", "k", "2");
    assert_eq!(replica.shown_by(dot), None);
}
