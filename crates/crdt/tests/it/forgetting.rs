//! Deadlines and forgetting (R1, R3, R5, R7), and retirement of origins.

use crdt::{Cause, Dot, Merged, NodeId, Origin, Outcome, Replica, Rules, StampRule, TableRules, Wall, Write};

use crate::support::{acquaint, blank, delete, get, live_view, push, put, put_until, replica, sync, sync_both};

const NOW: Wall = Wall(1_000_000_000);

fn rules() -> Rules {
    Rules::new(4, 2_000).table("exp", TableRules::by_time(60)).table("dlg", TableRules::by_birth(100))
}

fn at(secs: u64) -> Wall {
    Wall(NOW.0 + secs * 1_000)
}

fn causes(replica: &mut Replica) -> Vec<Cause> {
    replica.drain_changes().iter().map(|change| change.cause).collect()
}

#[test]
fn a_deadline_that_passes_is_said_once_and_the_cell_stays() {
    let mut a = replica(1, rules());
    put_until(&mut a, NOW, ("exp", "k"), "v", Some(NOW.secs() + 10));
    a.drain_changes();
    assert_eq!(a.next_wakeup(), Some(NOW.secs() + 10));
    assert!(!a.tick(at(9)) && !a.has_changes());
    a.tick(at(10));
    assert_eq!(causes(&mut a), [Cause::Expired]);
    a.tick(at(11));
    assert!(!a.has_changes());
    assert_eq!((a.cells_held(), a.live_cells(at(11))), (1, 0));
}

#[test]
fn a_refresh_only_rewrites_the_deadline() {
    let mut a = replica(1, rules());
    for n in 0..5 {
        put_until(&mut a, at(n), ("exp", "k"), "v", Some(at(n).secs() + 10));
    }
    a.drain_changes();
    a.tick(at(13));
    assert!(!a.has_changes());
    a.tick(at(14));
    assert_eq!(causes(&mut a), [Cause::Expired]);
}

#[test]
fn a_dead_cell_is_forgotten_by_the_time_of_its_write() {
    let mut a = replica(1, rules());
    put_until(&mut a, NOW, ("exp", "short"), "v", Some(NOW.secs() + 1));
    delete(&mut a, NOW, "exp", "deleted");
    a.tick(at(64));
    assert_eq!(a.cells_held(), 2);
    a.tick(at(65));
    assert_eq!(a.cells_held(), 0);
    assert!(a.clock().contains(Dot { origin: a.origin(), seq: 2 }), "the clock goes on covering what was forgotten");
    assert!(a.forgotten().is_empty(), "only what was forgotten by stability is carried by sessions");
}

#[test]
fn a_deadline_is_clamped_to_what_the_table_allows() {
    let mut a = replica(1, rules());
    let slot = put_until(&mut a, NOW, ("exp", "k"), "v", Some(u64::MAX));
    assert_eq!(a.cell(slot).unwrap().deadline, Some(NOW.secs() + 60));
    let (body, deadline) = (Some(&b"v"[..]), Some(u64::MAX));
    let write = Write { table: "dlg", body, deadline, rank: 2, birth: Some(NOW.secs() - 30), ..blank() };
    let Ok(Outcome::Written(slot, _)) = a.write(NOW, write) else { panic!("nothing is held") };
    assert_eq!(a.cell(slot).unwrap().deadline, Some(NOW.secs() + 70));
    let later = Write { rank: 3, birth: Some(NOW.secs()), ..write };
    a.write(NOW, later).unwrap();
    assert_eq!(a.cell(slot).unwrap().birth, Some(NOW.secs() - 30), "a birth is copied unchanged");
}

#[test]
fn a_birth_that_is_copied_from_another_cell_stays_where_the_wall_clock_is_late() {
    let (mut a, mut b) = (replica(1, rules()), replica(2, rules()));
    let (body, deadline, birth) = (Some(&b"v"[..]), Some(u64::MAX), Some(at(2).secs()));
    let write = Write { table: "dlg", body, deadline, rank: 1, birth, ..blank() };
    let Ok(Outcome::Written(slot, _)) = a.write(at(2), write) else { panic!("nothing is held") };
    let told = a.bytes(slot).unwrap().to_vec();
    assert!(matches!(b.merge_pushed(NOW, &told, 0), Merged::New(_)));
    let child = Write { member: b"child", rank: 0, ..write };
    let Ok(Outcome::Written(slot, _)) = b.write(NOW, child) else { panic!("nothing is held") };
    assert_eq!(b.cell(slot).unwrap().birth, birth);
    // What nobody can have seen is no birth.
    let ahead = Write { key: b"other", birth: Some(at(50).secs()), ..write };
    let Ok(Outcome::Written(slot, _)) = b.write(NOW, ahead) else { panic!("nothing is held") };
    assert_eq!(b.cell(slot).unwrap().birth, birth);
}

#[test]
fn a_dialog_is_forgotten_by_its_birth_whatever_its_rank() {
    let mut a = replica(1, rules());
    let ended = Write { table: "dlg", rank: 5, birth: Some(NOW.secs()), ..blank() };
    a.write(at(90), ended).unwrap();
    a.tick(at(103));
    assert_eq!(a.cells_held(), 1);
    a.tick(at(104));
    assert_eq!(a.cells_held(), 0);
}

#[test]
fn what_is_ended_unseen_is_born_by_the_hybrid_clock_and_beats_what_was_born_before() {
    let (mut a, mut b) = (replica(1, rules()), replica(2, rules()));
    let (body, deadline, birth) = (Some(&b"v"[..]), Some(u64::MAX), Some(NOW.secs()));
    let write = Write { table: "dlg", body, deadline, rank: 4, birth, ..blank() };
    let Ok(Outcome::Written(slot, _)) = a.write(NOW, write) else { panic!("nothing is held") };
    put(&mut a, at(1), "st", "other", "v");
    let told = a.bytes(a.slot("st", b"other", b"").unwrap()).unwrap().to_vec();
    assert!(matches!(b.merge_pushed(at(1), &told, 0), Merged::New(_)));
    // The wall clock of the second one is behind what it has seen.
    let Ok(Outcome::Written(end, _)) = b.write(NOW, Write { table: "dlg", rank: 5, ..blank() }) else {
        panic!("no end")
    };
    assert_eq!(b.cell(end).unwrap().birth, Some(at(1).secs()));
    let live = a.bytes(slot).unwrap().to_vec();
    assert!(matches!(b.merge_pushed(at(2), &live, 0), Merged::Stale));
    b.tick(at(104));
    assert_eq!(b.cells_held(), 2, "what it beat may live until 100 s after its birth");
    b.tick(at(105));
    assert_eq!(b.cells_held(), 1);
}

#[test]
fn what_was_ended_unseen_by_a_clock_that_was_behind_is_ended_again_when_that_is_known() {
    let (mut a, mut b) = (replica(1, rules()), replica(2, rules()));
    let (body, deadline) = (Some(&b"v"[..]), Some(u64::MAX));
    let write = Write { table: "dlg", body, deadline, rank: 4, birth: Some(at(3_600).secs()), ..blank() };
    let Ok(Outcome::Written(slot, _)) = a.write(at(3_600), write) else { panic!("nothing is held") };
    let live = a.bytes(slot).unwrap().to_vec();
    let end = Write { table: "dlg", rank: 5, ..blank() };
    b.write(NOW, end).unwrap();
    b.write(NOW, Write { key: b"known", body, deadline, birth: Some(at(0).secs() - 30), ..end }).unwrap();
    b.write(at(1), Write { key: b"known", rank: 6, ..end }).unwrap();
    put(&mut b, NOW, "st", "other", "v");
    b.set_skewed(true);
    b.tick(at(3_600));
    assert_eq!(b.cells_held(), 3, "nothing is forgotten meanwhile");

    assert_eq!(b.end_again(at(3_600)), 1, "what it had not known");
    b.set_skewed(false);
    b.tick(at(3_600));
    assert_eq!(b.cells_held(), 2, "the other end was dated right");
    assert!(matches!(b.merge_pushed(at(3_600), &live, 0), Merged::Stale));
    let slot = b.slot("dlg", b"k", b"").unwrap();
    assert_eq!(b.cell(slot).map(|cell| (cell.birth, cell.order.rank)), Some((Some(at(3_600).secs()), 5)));
    b.tick(at(3_703));
    assert!(b.slot("dlg", b"k", b"").is_some(), "what it beats may live so long");
    b.tick(at(3_704));
    assert!(b.slot("dlg", b"k", b"").is_none());
}

#[test]
fn the_least_stamp_keeps_the_deadline() {
    let mut a = replica(1, rules());
    let (body, deadline) = (Some(&b"v"[..]), Some(NOW.secs() + 20));
    let write = Write { table: "exp", stamp: StampRule::Least, body, deadline, ..blank() };
    let Ok(Outcome::Written(slot, _)) = a.write(NOW, write) else { panic!("nothing is held") };
    let cell = a.cell(slot).unwrap();
    assert_eq!((cell.deadline, cell.order.stamp.time.secs()), (deadline, NOW.secs() - 40));
}

#[test]
fn nothing_is_forgotten_while_the_clock_is_skewed() {
    let mut a = replica(1, rules());
    delete(&mut a, NOW, "exp", "k");
    delete(&mut a, NOW, "st", "k");
    a.set_skewed(true);
    let clock = a.clock().clone();
    a.persisted(&clock);
    a.tick(at(1_000));
    assert_eq!(a.cells_held(), 2);
    a.set_skewed(false);
    a.tick(at(1_000));
    assert_eq!(a.cells_held(), 0);
}

#[test]
fn what_expired_by_a_clock_that_was_ahead_is_not_forgotten_when_it_is_right_again() {
    let mut a = replica(1, rules());
    put_until(&mut a, NOW, ("st", "k"), "v", Some(NOW.secs() + 60));
    let clock = a.clock().clone();
    a.persisted(&clock);
    a.set_skewed(true);
    a.tick(at(1_000));
    a.set_skewed(false);
    a.tick(at(1));
    assert_eq!(get(&a, at(1), "st", "k").as_deref(), Some("v"));
    a.tick(at(60));
    assert_eq!((a.cells_held(), get(&a, at(60), "st", "k")), (1, None), "dead here, not yet by every clock");
    a.tick(at(70));
    assert_eq!(a.cells_held(), 0);
}

#[test]
fn a_tombstone_waits_until_every_member_showed_it_as_fsynced() {
    let (mut a, mut b) = (replica(1, rules()), replica(2, rules()));
    acquaint(&mut a, &mut b);
    let slot = delete(&mut a, NOW, "st", "k");
    let dot = a.cell(slot).unwrap().order.dot;
    a.tick(NOW);
    assert_eq!(a.cells_held(), 1, "not on our own disk");
    let clock = a.clock().clone();
    a.persisted(&clock);
    a.tick(NOW);
    assert_eq!(a.cells_held(), 1, "not at the member");
    push(&a, slot, &mut b, NOW);
    a.roster_show(NodeId(2), &b.stability_clock());
    a.tick(NOW);
    assert_eq!(a.cells_held(), 1, "not on the member's disk");
    let clock = b.clock().clone();
    b.persisted(&clock);
    put(&mut b, NOW, "st", "other", "that a does not have");
    let clock = b.clock().clone();
    b.persisted(&clock);
    a.roster_show(NodeId(2), &b.stability_clock());
    a.tick(NOW);
    assert_eq!(a.cells_held(), 1, "our clock does not include what the member showed");
    sync(&mut b, &mut a, NOW).unwrap();
    a.tick(NOW);
    assert_eq!((a.slot("st", b"k", b""), a.forgotten().contains(dot)), (None, true));
}

#[test]
fn a_tombstone_waits_at_every_member_for_one_that_does_not_know_what_its_servers_have() {
    let (mut a, mut b) = (replica(1, rules()), replica(2, rules()));
    acquaint(&mut a, &mut b);
    let slot = delete(&mut a, NOW, "st", "k");
    push(&a, slot, &mut b, NOW);
    for replica in [&mut a, &mut b] {
        let clock = replica.clock().clone();
        replica.persisted(&clock);
    }
    for (settling, held) in [(true, 1), (false, 0)] {
        b.set_settling(settling);
        a.roster_show(NodeId(2), &b.stability_clock());
        a.tick(NOW);
        assert_eq!(a.cells_held(), held);
    }
    b.roster_show(NodeId(1), &a.stability_clock());
    b.tick(NOW);
    assert_eq!(b.cells_held(), 0, "and there as soon as it knows");
}

#[test]
fn a_tombstone_waits_for_servers_that_have_not_acknowledged_it() {
    let mut a = replica(1, rules());
    let slot = delete(&mut a, NOW, "st", "k");
    let dot = a.cell(slot).unwrap().order.dot;
    for _ in 0..2 {
        a.hold(dot);
    }
    let clock = a.clock().clone();
    a.persisted(&clock);
    assert!(!a.stability_clock().contains(dot));
    a.release(dot);
    a.tick(NOW);
    assert_eq!(a.cells_held(), 1);
    a.release(dot);
    a.tick(NOW);
    assert_eq!(a.cells_held(), 0);
}

#[test]
fn a_member_whose_disk_went_back_holds_up_forgetting() {
    let (mut a, mut b) = (replica(1, rules()), replica(2, rules()));
    let old = b.stability_clock();
    let slot = delete(&mut a, NOW, "st", "k");
    push(&a, slot, &mut b, NOW);
    acquaint(&mut a, &mut b);
    a.roster_show(NodeId(2), &old);
    a.tick(NOW);
    assert_eq!(a.cells_held(), 1);
}

#[test]
fn no_write_lands_at_or_below_what_was_forgotten() {
    let mut a = replica(1, rules());
    let slot = delete(&mut a, NOW, "st", "k");
    let forgotten = a.cell(slot).unwrap().order;
    let clock = a.clock().clone();
    a.persisted(&clock);
    a.tick(NOW);
    assert_eq!(a.cells_held(), 0);
    for (key, stamp) in [(b"k", StampRule::Least), (b"l", StampRule::At(Wall(5)))] {
        let write = Write { key, stamp, body: Some(b"v"), ..blank() };
        let Ok(Outcome::Written(slot, _)) = a.write(NOW, write) else { panic!("nothing is held") };
        assert!(a.cell(slot).unwrap().order > forgotten);
    }
}

#[test]
fn a_version_that_lost_to_what_was_forgotten_is_not_taken_again() {
    let mut a = replica(1, rules());
    let mut writer = replica(2, rules());
    let slot = put(&mut writer, NOW, "st", "k", "v");
    let bytes = writer.bytes(slot).unwrap().to_vec();
    a.merge_pushed(NOW, &bytes, 0);
    delete(&mut a, NOW, "st", "k");
    let clock = a.clock().clone();
    a.persisted(&clock);
    a.tick(NOW);
    assert_eq!(a.cells_held(), 0);
    assert_eq!(a.merge_pushed(NOW, &bytes, 0), crdt::Merged::Stale);
    assert_eq!(get(&a, NOW, "st", "k"), None);
}

#[test]
fn an_expired_cell_of_a_stable_table_is_forgotten_like_a_tombstone() {
    let mut a = replica(1, rules());
    put_until(&mut a, NOW, ("st", "k"), "v", Some(NOW.secs() + 5));
    let clock = a.clock().clone();
    a.persisted(&clock);
    a.tick(at(8));
    assert_eq!(a.cells_held(), 1);
    a.tick(at(9));
    assert_eq!((a.cells_held(), a.forgotten().is_empty()), (0, false));
}

#[test]
fn what_was_forgotten_never_makes_more_than_a_bounded_number_of_ranges() {
    let mut a = replica(1, rules());
    for n in 0..5_000_u32 {
        put(&mut a, NOW, "st", &format!("live{n}"), "v");
        delete(&mut a, NOW, "st", &format!("dead{n}"));
    }
    let clock = a.clock().clone();
    a.persisted(&clock);
    while a.tick(NOW) {}
    assert_eq!(a.cells_held(), 5_000);
    assert!(a.forgotten().holes() <= 1_024, "{} holes", a.forgotten().holes());
    assert!(a.clock().includes(a.forgotten()));
}

#[test]
fn work_per_tick_is_bounded() {
    let mut a = replica(1, rules());
    for n in 0..10_000_u32 {
        put_until(&mut a, NOW, ("exp", &n.to_string()), "v", Some(NOW.secs() + 5));
    }
    a.drain_changes();
    assert!(a.tick(at(5)));
    let first = a.drain_changes().len();
    assert!(first > 0 && first < 10_000);
    while a.tick(at(5)) {}
    assert_eq!(first + a.drain_changes().len(), 10_000);
}

#[test]
fn a_closed_origin_leaves_the_clock_and_is_not_taken_up_again() {
    let (mut a, mut old) = (replica(1, rules()), replica(2, rules()));
    let slot = put_until(&mut old, NOW, ("exp", "k"), "v", Some(NOW.secs() + 5));
    let bytes = old.bytes(slot).unwrap().to_vec();
    sync_both(&mut old, &mut a, NOW);
    let mut new = Replica::new(NodeId(2), Origin(21), rules(), 1);
    new.restore(old.meta(), [Box::from(&bytes[..])]);
    acquaint(&mut a, &mut new);
    a.tick(at(200));
    assert_eq!(a.retire_origins(at(200), 100), 0);
    assert_eq!(a.retire_origins(at(399), 100), 0, "too early");
    assert_eq!(a.retire_origins(at(400), 100), 1);
    assert!(a.clock().is_empty());
    assert!(matches!(a.merge_pushed(at(400), &bytes, 0), crdt::Merged::Stale));
    assert!(a.covers(new.clock()), "who did not retire it yet has nothing for us");
    sync(&mut new, &mut a, at(400)).unwrap();
    assert!(a.clock().is_empty());
    let mut again = Replica::new(NodeId(1), Origin(11), rules(), 1);
    again.restore(a.meta(), []);
    assert!(again.covers(new.clock()));
}

#[test]
fn an_origin_that_a_cell_shows_or_that_was_forgotten_by_stability_is_not_retired() {
    let mut a = replica(1, rules());
    for (n, delete_it) in [(2, false), (3, true)] {
        let mut gone = replica(n, rules());
        put(&mut gone, NOW, "st", &n.to_string(), "v");
        if delete_it {
            delete(&mut gone, NOW, "st", &n.to_string());
        }
        sync(&mut gone, &mut a, NOW).unwrap();
    }
    let clock = a.clock().clone();
    a.persisted(&clock);
    a.tick(NOW);
    a.retire_origins(NOW, 100);
    assert_eq!(a.retire_origins(at(1_000), 100), 0);
}

#[test]
fn a_process_that_was_away_for_so_long_is_heard_again() {
    let (mut a, mut b) = (replica(1, rules()), replica(2, rules()));
    put_until(&mut b, NOW, ("exp", "k"), "v", Some(NOW.secs() + 5));
    sync_both(&mut a, &mut b, NOW);
    let clock = a.clock().clone();
    a.persisted(&clock);
    a.tick(at(200));
    a.retire_origins(NOW, 100);
    assert_eq!(a.retire_origins(at(500), 100), 1);
    b.tick(at(500));
    let slot = put(&mut b, at(500), "st", "news", "written while away");
    push(&b, slot, &mut a, at(500));
    sync_both(&mut a, &mut b, at(500));
    assert!(a.covers(b.clock()));
    assert_eq!(live_view(&a, at(500)), live_view(&b, at(500)));
    assert_eq!(get(&a, at(500), "st", "news").as_deref(), Some("written while away"));
}
