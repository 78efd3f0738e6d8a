use super::*;
use crate::scenario::Scenario;

/// Breaks when node 1 is cut from anybody while phone 7 registers at a server and writer 10,000 is there.
fn breaks(script: &Script) -> Option<Violation> {
    let one = Host::Node(1);
    let cut = |f: &&crate::script::Fault| match &f.kind {
        FaultKind::Cut { from, to, .. } => from.contains(&one) || to.contains(&one),
        _ => false,
    };
    let fault = script.faults.iter().find(cut)?;
    script.phones.iter().find(|p| p.id == 7)?;
    script.writers.iter().find(|w| w.id == 10_000)?;
    Some(Violation { property: "fake".to_owned(), at_us: fault.at_ms * 1_000 + 5_000_000, what: "it broke".to_owned() })
}

fn broken() -> Script {
    let set = ["swarm=false".to_owned(), "secs=60".to_owned()];
    Scenario::load("everything", &set).expect("ours").draw(2)
}

#[test]
fn what_is_left_is_what_it_takes() {
    let script = broken();
    let violation = breaks(&script).expect("it breaks");
    let shrunk = shrink(script.clone(), violation, &mut breaks, &mut || true);
    let left = &shrunk.script;
    assert!(shrunk.finished && shrunk.runs < 500, "{} runs", shrunk.runs);
    assert_eq!((left.faults.len(), left.phones.len(), left.writers.len()), (1, 1, 1), "{left:?}");
    // The other end of the cut, and where the phone and the writer are.
    assert!(left.nodes.len() <= 3 && left.servers.len() <= 2, "{left:?}");
    assert!(left.duration_ms < script.duration_ms && left.phones[0].at.len() == 1);
    assert_eq!(shrunk.violation, breaks(left).expect("it still breaks"));
    replay::check(left).expect("it makes sense");
}

#[test]
fn another_promise_is_another_story() {
    let script = broken();
    let mut other = |script: &Script| {
        let property = if script.faults.len() > 3 { "fake" } else { "other" };
        breaks(script).map(|v| Violation { property: property.to_owned(), ..v })
    };
    let violation = other(&script).expect("it breaks");
    let shrunk = shrink(script, violation, &mut other, &mut || true);
    assert_eq!((shrunk.script.faults.len(), &*shrunk.violation.property), (4, "fake"));
}

#[test]
fn it_ends_when_it_is_told_to() {
    let script = broken();
    let violation = breaks(&script).expect("it breaks");
    let mut left = 10;
    let mut go_on = || {
        left -= 1;
        left >= 0
    };
    let shrunk = shrink(script, violation, &mut breaks, &mut go_on);
    assert_eq!((shrunk.runs, shrunk.finished), (10, false));
    assert!(breaks(&shrunk.script).is_some());
}

#[test]
fn of_the_calls_the_one_that_it_takes_is_left_and_is_as_plain_as_can_be() {
    let script = broken();
    let wanted = |script: &Script| script.calls.iter().any(|c| c.id == 9);
    let mut run = |script: &Script| breaks(script).filter(|_| wanted(script));
    let violation = run(&script).expect("it breaks");
    let left = shrink(script, violation, &mut run, &mut || true).script;
    let [call] = &left.calls[..] else { panic!("{:?}", left.calls) };
    assert_eq!((call.id, call.vars, call.profile, call.late, call.refreshed), (9, 0, false, false, false));
    replay::check(&left).expect("it makes sense");
}

#[test]
fn calls_of_nodes_that_are_gone_go_as_well() {
    let mut script = broken();
    script.nodes.retain(|n| n.ix != 1);
    prune(&mut script);
    assert!(!script.calls.is_empty() && script.calls.iter().all(|c| c.caller != 1 && c.callee != 1));
    replay::check(&script).expect("it makes sense");
}

#[test]
fn nodes_that_found_together_by_one_that_is_gone_still_do() {
    let mut script = Scenario::load("join-storm", &[]).expect("ours").draw(1);
    script.nodes.retain(|n| ![0, 3, 4].contains(&n.ix));
    prune(&mut script);
    assert!(connected(&script));
    replay::check(&script).expect("it makes sense");
}
