//! One script is one run, to the byte.
#![allow(missing_docs)]

extern crate starling_simulation as simulation;

use std::time::Duration;

use simulation::Sim;
use simulation::script::Entry;

fn busy(seed: u64) -> (u64, u64) {
    let mut sim = Sim::builder().nodes(3).seed(seed).build();
    sim.run_for(Duration::from_secs(2));
    for round in 0..20 {
        let at = Entry::Node(round % 3);
        sim.register(at, &format!("u{round}"), &format!("sip:u{round}@198.51.100.1"), 600);
        sim.run_for(Duration::from_millis(37));
        if round == 8 {
            sim.cut(&[0], &[1, 2]);
        }
        if round == 12 {
            sim.kill(2);
        }
        if round == 15 {
            sim.heal();
            sim.start(2);
        }
    }
    sim.assert_equal_within(Duration::from_secs(10));
    assert_eq!(sim.contacts(2, "u19"), ["sip:u19@198.51.100.1"]);
    let trace = sim.trace();
    (trace, sim.finish().steps)
}

#[test]
fn one_seed_is_one_run_and_another_seed_another() {
    assert_eq!(busy(1), busy(1));
    assert_ne!(busy(1).0, busy(2).0);
}
