//! Phones keep SIP's habits, writers write what they are told to, and each draws from a stream of its own.

use std::collections::{BTreeMap, BTreeSet};

use node::Mono;
use starling_simulation::Script;
use starling_simulation::ledger::{Ended, Ledger, What};
use starling_simulation::load::{Ask, Load};
use starling_simulation::script::{Bye, CallSpec, Entry, Job, Leave, Limits, NetSpec, PathSpec, PhoneSpec, WriterSpec};

fn script(phones: Vec<PhoneSpec>, writers: Vec<WriterSpec>) -> Script {
    let path = PathSpec {
        delay_us: 0,
        jitter_us: 0,
        loss_permille: 0,
        duplicate_permille: 0,
        reorder_permille: 0,
        bytes_per_s: 0,
        mtu: 0,
    };
    Script {
        scenario: "test".to_owned(),
        seed: 7,
        duration_ms: 600_000,
        settle_ms: 0,
        nodes: Vec::new(),
        servers: Vec::new(),
        phones,
        writers,
        calls: Vec::new(),
        htables: BTreeMap::new(),
        net: NetSpec { site: path, wan: path, host: path },
        faults: Vec::new(),
        limits: Limits {
            max_skew_ms: 0,
            forget_after_s: 0,
            location_max_ttl_s: 0,
            dialog_max_life_s: 0,
            mesh: false,
            wan: false,
        },
    }
}

fn phone(id: u32, at: &[Entry]) -> PhoneSpec {
    PhoneSpec {
        id,
        aor: id,
        at: at.to_vec(),
        expires_s: 60,
        outbound: false,
        start_ms: u64::from(id) * 10,
        stop_ms: None,
        leave: Leave::Silent,
    }
}

const HERE: Entry = Entry::Server(0);
const THERE: Entry = Entry::Node(1);

/// Runs all load; `answer` says how an ask ends, and after how many milliseconds; `None`: never.
fn play(script: &Script, mut answer: impl FnMut(u64, &Ask) -> Option<(u64, Ended)>) -> (Ledger, Vec<(u64, Ask)>) {
    let (mut load, mut ledger, mut asked) = (Load::new(script), Ledger::default(), Vec::new());
    let mut ends: BTreeMap<(u64, u32), Ended> = BTreeMap::new();
    for ms in 0..script.duration_ms + 60_000 {
        let now = Mono(ms * 1_000);
        while let Some((&(at, deed), &how)) = ends.first_key_value()
            && at <= ms
        {
            ends.remove(&(at, deed));
            ledger.end(deed, how, now);
            load.ended(deed, &ledger.deed(deed).clone(), how, now);
        }
        if load.wakeup() > now {
            continue;
        }
        for ask in load.due(now, &mut ledger) {
            if let Some((after, how)) = answer(ms, &ask) {
                ends.insert((ms + after, ask.deed), how);
            }
            asked.push((ms, ask));
        }
    }
    (ledger, asked)
}

fn done(_: u64, _: &Ask) -> Option<(u64, Ended)> {
    Some((5, Ended::Done))
}

#[test]
fn a_phone_refreshes_at_about_half_time_with_growing_cseq() {
    let (ledger, asked) = play(&script(vec![phone(3, &[HERE, THERE])], vec![]), done);
    assert!((19..=24).contains(&asked.len()), "{}", asked.len());
    assert_eq!(asked[0].0, 30, "it starts when the script says");
    let mut last: Option<(u64, String, u32)> = None;
    for (ms, ask) in &asked {
        let words = ask.phone.as_ref().unwrap();
        let What::Register { aor, uri, cseq, .. } = &ask.what else { panic!("{:?}", ask.what) };
        assert_eq!((aor.as_str(), uri.as_str()), ("u3@sim.example", "sip:u3-3@198.51.0.4:5060"));
        assert_eq!((ask.at, *cseq), (HERE, words.cseq));
        if let Some((before, callid, cseq)) = last {
            assert!((23_000..=30_100).contains(&(ms - before)), "{}", ms - before);
            assert!(callid != words.callid || words.cseq == cseq + 1);
        }
        last = Some((*ms, words.callid.clone(), words.cseq));
    }
    assert!(ledger.deeds().iter().all(|deed| deed.ended.is_some()));
    assert!(asked.last().unwrap().0 < 600_000, "nothing is begun after the end");
}

#[test]
fn a_phone_whose_server_fails_goes_to_the_next_and_comes_back_some_day() {
    let script = script(vec![phone(0, &[HERE, THERE])], vec![]);
    let down = |ms: u64, ask: &Ask| match ask.at {
        HERE if ms < 100_000 => Some((2_000, Ended::Unknown)),
        _ => Some((5, Ended::Done)),
    };
    let (_, asked) = play(&script, down);
    assert_eq!((asked[0].1.at, asked[1].1.at), (HERE, THERE));
    assert!((4_000..=7_000).contains(&asked[1].0), "{}", asked[1].0);
    let callids: BTreeSet<_> = asked[..2].iter().map(|(_, ask)| ask.phone.as_ref().unwrap().callid.clone()).collect();
    assert_eq!(callids.len(), 1, "it is the same phone, with the next CSeq");
    assert!(asked.iter().skip(2).any(|(ms, ask)| ask.at == HERE && *ms > 100_000));
    // Without any answer its patience ends, and a late one is nobody's.
    let (_, asked) = play(&script, |_, ask| (ask.at == THERE).then_some((20_000, Ended::Done)));
    assert!(asked.len() > 20 && asked.windows(2).all(|pair| pair[0].1.at != pair[1].1.at));
}

#[test]
fn a_phone_leaves_as_it_is_told() {
    for (leave, goodbyes) in [(Leave::Silent, 0), (Leave::Unregister, 1), (Leave::Star, 1)] {
        let mut spec = phone(1, &[HERE]);
        (spec.stop_ms, spec.leave) = (Some(100_000), leave);
        let (_, asked) = play(&script(vec![spec.clone()], vec![]), done);
        let registers = asked.iter().filter(|(_, ask)| matches!(ask.what, What::Register { .. })).count();
        assert_eq!(asked.len() - registers, goodbyes, "{leave:?}");
        let (ms, last) = asked.last().unwrap();
        match leave {
            Leave::Silent => assert!(*ms < 100_000),
            Leave::Unregister => assert!(*ms == 100_000 && matches!(last.what, What::Unregister { .. })),
            Leave::Star => assert!(matches!(&last.what, What::RemoveAll { operator: false, .. })),
        }
        // It tries a few times, and then its battery is empty.
        let refused = |_: u64, ask: &Ask| {
            let how = if matches!(ask.what, What::Register { .. }) { Ended::Done } else { Ended::Refused };
            Some((5, how))
        };
        let (_, asked) = play(&script(vec![spec], vec![]), refused);
        assert!(asked.last().unwrap().0 < 120_000);
    }
}

#[test]
fn an_outbound_phone_names_its_instance() {
    let mut spec = phone(2, &[HERE]);
    spec.outbound = true;
    let (_, asked) = play(&script(vec![spec], vec![]), done);
    let words = asked[0].1.phone.as_ref().unwrap();
    assert_eq!((words.instance.as_str(), words.reg_id), ("<urn:uuid:00000002-0000-4000-8000-000000000001>", 1));
}

fn writer(id: u32, job: Job) -> WriterSpec {
    WriterSpec { id, at: HERE, job, every_ms: 500, start_ms: 1_000, stop_ms: 301_000 }
}

#[test]
fn half_of_all_writes_go_to_few_keys_that_everybody_writes() {
    let keys = |id| writer(id, Job::Keys { table: "t".to_owned(), keys: 40, delete_permille: 200 });
    let (_, asked) = play(&script(vec![], vec![keys(1), keys(2)]), done);
    assert!((1_000..1_400).contains(&asked.len()), "{}", asked.len());
    let (mut by_key, mut values, mut deletes) = (BTreeMap::<String, BTreeSet<u64>>::new(), BTreeSet::new(), 0);
    for (ms, ask) in &asked {
        assert!((1_000..301_000).contains(ms));
        let key = match &ask.what {
            What::Set { key, value, .. } => {
                assert!(values.insert(value.clone()), "each value is another");
                key
            }
            What::Delete { key, .. } => {
                deletes += 1;
                key
            }
            other => panic!("{other:?}"),
        };
        by_key.entry(key.clone()).or_default().insert(u64::from(ask.deed));
    }
    let hot: usize = by_key.iter().filter(|(key, _)| key.starts_with("hot")).map(|(_, deeds)| deeds.len()).sum();
    assert!((hot * 2).abs_diff(asked.len()) < 150, "{hot} of {}", asked.len());
    assert!((deletes * 5usize).abs_diff(asked.len()) < 300, "{deletes}");
    assert!(by_key.keys().any(|key| key.starts_with("w1-")) && by_key.keys().any(|key| key.starts_with("w2-")));
}

#[test]
fn counters_are_only_counted_up_and_operators_remove() {
    let count = writer(1, Job::Count { table: "c".to_owned(), keys: 5 });
    let operator = writer(2, Job::Operator { aors: 3 });
    let (_, asked) = play(&script(vec![], vec![count, operator]), done);
    let mut sums = BTreeMap::<String, i64>::new();
    let mut removed = BTreeSet::new();
    for (_, ask) in asked {
        match ask.what {
            What::Add { key, by, .. } => {
                assert!((1..=5).contains(&by));
                *sums.entry(key).or_default() += by;
            }
            What::RemoveAll { aor, operator: true } => _ = removed.insert(aor),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((sums.len(), removed.len()), (5, 3));
}

#[test]
fn one_phone_less_leaves_the_others_as_they_were() {
    let all: Vec<_> = (0..20).map(|id| phone(id, &[HERE, THERE])).collect();
    let flaky = |ms: u64, ask: &Ask| {
        let how = if (ms + u64::from(ask.phone.as_ref().unwrap().cseq)).is_multiple_of(3) {
            Ended::Refused
        } else {
            Ended::Done
        };
        Some((5, how))
    };
    let story = |without: u32| {
        let phones = all.iter().filter(|phone| phone.id != without).cloned().collect();
        let (_, asked) = play(&script(phones, vec![]), flaky);
        let others = asked.into_iter().filter(|(_, ask)| !matches!(ask.what, What::Register { phone: 7, .. }));
        others.map(|(ms, ask)| (ms, ask.at, ask.what, ask.phone)).collect::<Vec<_>>()
    };
    let sorted = |mut all: Vec<_>| {
        all.sort_by_key(|(ms, _, what, _): &(u64, Entry, What, _)| (*ms, format!("{what:?}")));
        all
    };
    assert_eq!(sorted(story(7)), sorted(story(99)));
}

fn call(id: u32) -> CallSpec {
    CallSpec {
        id,
        caller: 0,
        callee: 1,
        start_ms: 1_000,
        answer_ms: 4_000,
        talk_ms: Some(60_000),
        lifetime_s: 600,
        refreshed: true,
        vars: 3,
        profile: true,
        bye: Bye::Twice,
        late: true,
    }
}

fn call_script(calls: Vec<CallSpec>) -> Script {
    Script { calls, ..script(vec![], vec![]) }
}

#[test]
fn a_call_is_made_rings_is_answered_and_ends_in_this_order_at_the_nodes_of_its_two_sides() {
    let (_, asked) = play(&call_script(vec![call(3)]), done);
    let at = |wanted: &dyn Fn(&What) -> bool| -> Vec<u64> {
        asked.iter().filter(|(_, ask)| wanted(&ask.what)).map(|(ms, _)| *ms).collect()
    };
    let state = |wanted: u8| at(&|what| matches!(what, What::Call { call: 3, state, .. } if *state == wanted))[0];
    assert_eq!([state(1), state(2), state(4)], [1_000, 3_000, 5_000]);
    let byes = at(&|what| matches!(what, What::Bye { call: 3 }));
    assert!(byes.len() == 2 && byes[0] == 65_000, "{byes:?}");
    let refreshed = at(&|what| matches!(what, What::Call { state: 4, lifetime_s: Some(600), .. }));
    assert_eq!(refreshed, [35_000]);
    assert_eq!(asked.len(), 3 + 1 + 3 + 1 + 2 + 1);
    assert!(asked.last().is_some_and(|(ms, _)| *ms > 65_000), "something is said after the end");
    assert_eq!(asked[0].1.at, Entry::Node(0));
    assert!(asked.iter().any(|(_, ask)| ask.at == Entry::Node(1)));
}

#[test]
fn a_call_whose_invite_gets_no_answer_is_given_up() {
    let (ledger, asked) = play(&call_script(vec![call(3)]), |_, _| None);
    assert_eq!((asked.len(), ledger.deeds().len()), (1, 1));
    let (_, asked) = play(&call_script(vec![call(3)]), |_, _| Some((3, Ended::Refused)));
    assert_eq!(asked.len(), 1);
}

#[test]
fn a_call_does_the_same_whoever_else_calls() {
    let of = |calls: Vec<CallSpec>| -> Vec<(u64, What)> {
        let (_, asked) = play(&call_script(calls), done);
        let ours = asked.into_iter().filter(|(_, ask)| matches!(&ask.what, What::CallVar { call: 3, .. }));
        ours.map(|(ms, ask)| (ms, ask.what)).collect()
    };
    assert_eq!(of(vec![call(3)]), of(vec![call(1), call(2), call(3)]));
}
