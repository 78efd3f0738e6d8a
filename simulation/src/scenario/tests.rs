use std::collections::BTreeSet;

use super::*;
use crate::replay;
use crate::script::FaultKind;

fn all() -> Vec<Scenario> {
    embedded().map(|name| Scenario::load(name, &[]).unwrap_or_else(|e| panic!("{e}"))).collect()
}

#[test]
fn every_scenario_has_a_title_and_gives_scripts_that_make_sense() {
    for scenario in all() {
        assert!(!scenario.title.is_empty(), "{}", scenario.name);
        for seed in 0..20 {
            let script = scenario.draw(seed);
            replay::check(&script).unwrap_or_else(|why| panic!("{} {seed}: {why}", scenario.name));
        }
    }
}

#[test]
fn a_seed_gives_one_script_and_another_seed_another() {
    for scenario in all() {
        assert_eq!(scenario.draw(7), scenario.draw(7), "{}", scenario.name);
        assert_ne!(scenario.draw(7).nodes, scenario.draw(8).nodes, "{}", scenario.name);
    }
}

#[test]
fn what_one_section_says_does_not_change_what_others_draw() {
    let plain = Scenario::load("everything", &[]).expect("ours").draw(3);
    let more = ["phones.count=121".to_owned(), "faults.break.rate=0".to_owned()];
    let changed = Scenario::load("everything", &more).expect("good changes").draw(3);
    assert_eq!(plain.nodes, changed.nodes);
    assert_eq!(plain.phones[..], changed.phones[..120]);
    assert_eq!(plain.writers.len(), changed.writers.len());
    let others = |script: &Script| -> Vec<_> {
        script.faults.iter().filter(|f| !matches!(f.kind, FaultKind::Break { .. })).cloned().collect()
    };
    assert_eq!(others(&plain), others(&changed));
}

#[test]
fn more_calls_leave_everybody_else_and_the_calls_before_them_alone() {
    let plain = Scenario::load("everything", &[]).expect("ours").draw(3);
    let more = Scenario::load("everything", &["calls.count=50".to_owned()]).expect("a good change").draw(3);
    assert_eq!((plain.calls.len(), more.calls.len()), (40, 50));
    assert_eq!(plain.calls[..], more.calls[..40]);
    let without = |script: &Script| Script { calls: Vec::new(), ..script.clone() };
    assert_eq!(without(&plain), without(&more));
}

#[test]
fn a_swarm_has_seeds_without_any_fault_seeds_with_one_kind_and_seeds_with_many() {
    let scenario = Scenario::load("everything", &[]).expect("ours");
    let kinds = |seed| -> usize {
        let faults = scenario.draw(seed).faults;
        faults.iter().map(|f| std::mem::discriminant(&f.kind)).collect::<std::collections::HashSet<_>>().len()
    };
    let seen: BTreeSet<usize> = (0..60).map(kinds).collect();
    assert!(seen.contains(&0) && seen.contains(&1) && seen.iter().any(|n| *n >= 6), "{seen:?}");
}

#[test]
fn the_split_is_there_when_and_as_long_as_it_says() {
    let script = Scenario::load("split-brain", &["partition.secs=10".to_owned()]).expect("a good change").draw(1);
    let [fault] = &script.faults[..] else { panic!("{:?}", script.faults) };
    assert_eq!((fault.at_ms, fault.until_ms), (60_000, 70_000));
    assert!(matches!(&fault.kind, FaultKind::Cut { from, to, both: true } if from.len() == 2 && to.len() == 2));
}

#[test]
fn what_makes_no_sense_is_refused_with_the_name_of_the_value() {
    for (change, named) in [
        ("nodes.count=0", "nodes.count"),
        ("nodes.durable=2", "nodes.durable"),
        ("nodes.no_such=1", "no_such"),
        ("calls.late=1.5", "calls.late"),
        ("calls.min_lifetime_secs=0", "calls.min_lifetime_secs"),
        ("limits.dialog_max_life_s=604800", "forget_after_s"),
        ("partition.shape=star", "star"),
        ("partition.min_secs=-1", "faults.partition:"),
        ("one-way.secs=-1", "faults.one-way:"),
        ("net.wan.loss_permille=501", "net.wan.loss_permille"),
        ("net.host.reorder_permille=1001", "net.host.reorder_permille"),
        ("net.site.mtu=1199", "net.site.mtu"),
        ("servers.meshed=true", "limits.mesh"),
        ("limits.mesh=true", "servers.hostile"),
        ("limits.forget_after_s=10", "forget_after_s"),
        ("secs=nan", "secs"),
        ("no-such-fault.rate=1", "no-such-fault"),
    ] {
        let error = Scenario::load("everything", &[change.to_owned()]).expect_err(change).to_string();
        assert!(error.contains(named), "{change}: {error}");
    }
    assert!(Scenario::load("no such scenario", &[]).expect_err("none").to_string().contains("sim list"));
}

#[test]
fn a_script_is_the_same_after_a_replay_file() {
    for scenario in all() {
        let script = scenario.draw(5);
        let text = toml::to_string(&script).unwrap_or_else(|e| panic!("{}: {e}", scenario.name));
        assert_eq!(toml::from_str::<Script>(&text).expect("our own"), script, "{}", scenario.name);
    }
}
