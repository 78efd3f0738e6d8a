//! The OR-map's membership, with `crdts::Orswot` as an oracle: while stamps are causal, both say the same. They are here:
//! a member is added and refreshed at one node only, so of two versions the later stamped one was written in sight of the
//! other.

use std::collections::BTreeSet;

use crdt::{Replica, Rules, Wall, Write};
use crdts::{CmRDT, CvRDT, Orswot};
use proptest::prelude::*;

use crate::support::{blank, replica, sync_both};

const NOW: Wall = Wall(1_000_000_000);
const AOR: &[u8] = b"alice@example.org";

#[derive(Clone, Debug)]
enum Step {
    /// At the node `member % 3`.
    Add(u8),
    Remove(usize, u8),
    Meet(usize, usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6_u8).prop_map(Step::Add),
        (0..3_usize, 0..6_u8).prop_map(|(node, member)| Step::Remove(node, member)),
        (0..3_usize, 0..3_usize).prop_map(|(a, b)| Step::Meet(a, b)),
    ]
}

fn members(replica: &Replica) -> BTreeSet<u8> {
    replica.members("location", AOR).filter(|(_, cell)| cell.is_live(NOW)).map(|(_, cell)| cell.member[0]).collect()
}

proptest! {
    #[test]
    fn membership_is_that_of_an_observed_remove_set(steps in proptest::collection::vec(any_step(), 1..60)) {
        let mut nodes: Vec<Replica> = (1..4).map(|n| replica(n, Rules::new(4, 2_000))).collect();
        let mut sets: Vec<Orswot<u8, usize>> = (0..3).map(|_| Orswot::new()).collect();
        for step in steps {
            match step {
                Step::Add(member) => {
                    let node = usize::from(member % 3);
                    let write = Write { table: "location", key: AOR, member: &[member], body: Some(b"x"), ..blank() };
                    nodes[node].write(NOW, write).unwrap();
                    let op = sets[node].add(member, sets[node].read_ctx().derive_add_ctx(node));
                    sets[node].apply(op);
                }
                Step::Remove(node, member) => {
                    let slot = nodes[node].slot("location", AOR, &[member]);
                    if let Some(order) = slot.and_then(|slot| nodes[node].cell(slot)).map(|cell| cell.order) {
                        nodes[node].remove_observed(NOW, slot.unwrap(), order, 0);
                    }
                    let op = sets[node].rm(member, sets[node].contains(&member).derive_rm_ctx());
                    sets[node].apply(op);
                }
                Step::Meet(a, b) => if let Ok([x, y]) = nodes.get_disjoint_mut([a, b]) {
                    sync_both(x, y, NOW);
                    let joined = sets[b].clone();
                    sets[a].merge(joined);
                    sets[b] = sets[a].clone();
                },
            }
            for (node, set) in nodes.iter().zip(&sets) {
                prop_assert_eq!(members(node), set.read().val.into_iter().collect::<BTreeSet<u8>>());
            }
        }
    }
}
