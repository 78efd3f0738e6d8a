//! Sessions: what is owed, what is dropped, who is put right (R2, R6), and what is refused (R3).

use crdt::{
    Cause, CellRef, Merged, NodeId, Origin, Outcome, Replica, Rules, StampRule, SyncAborted, TableRules, Wall, Write,
    WriteError,
};

use crate::support::{acquaint, blank, delete, get, live_view, push, put, put_until, replica, sync, sync_both};

const NOW: Wall = Wall(1_000_000_000);
const LATER: Wall = Wall(NOW.0 + 5_000);

fn rules() -> Rules {
    Rules::new(4, 2_000).table("exp", TableRules::by_time(60))
}

fn pair() -> (Replica, Replica) {
    (replica(1, rules()), replica(2, rules()))
}

#[test]
fn a_session_sends_exactly_what_is_missing() {
    let (mut a, mut b) = pair();
    for key in ["x", "y", "z"] {
        let slot = put(&mut a, NOW, "st", key, key);
        if key == "x" {
            assert!(matches!(push(&a, slot, &mut b, NOW), Merged::New(_)));
        }
    }
    put(&mut a, NOW, "st", "y", "again");
    let request = b.request();
    let (outgoing, start) = a.open_outgoing(&request);
    assert_eq!((outgoing.owed(), start.full), (2, false));
    a.close_outgoing(outgoing);
    sync(&mut a, &mut b, NOW).unwrap();
    assert_eq!(live_view(&a, NOW), live_view(&b, NOW));
    assert_eq!(a.clock(), b.clock());
    let (outgoing, _) = a.open_outgoing(&b.request());
    assert_eq!(outgoing.owed(), 0);
    a.close_outgoing(outgoing);
}

#[test]
fn a_cell_overwritten_before_it_was_sent_goes_in_its_current_version() {
    let (mut a, mut b) = pair();
    put(&mut a, NOW, "st", "k", "old");
    let request = b.request();
    let (mut outgoing, start) = a.open_outgoing(&request);
    put(&mut a, NOW, "st", "k", "new");
    let mut incoming = b.open_incoming(start, request);
    let chunk = a.next_chunk(&mut outgoing, 1_000).unwrap();
    assert!(chunk.last);
    b.apply_chunk(&mut incoming, chunk, NOW).unwrap();
    b.finish(incoming, NOW).unwrap();
    a.close_outgoing(outgoing);
    assert_eq!(get(&b, NOW, "st", "k").as_deref(), Some("new"));
}

#[test]
fn a_cut_session_has_not_been_in_vain() {
    let (mut a, mut b) = pair();
    for n in 0..20 {
        put(&mut a, NOW, "st", &format!("k{n}"), "v");
    }
    let request = b.request();
    let (mut outgoing, start) = a.open_outgoing(&request);
    let mut incoming = b.open_incoming(start, request);
    let chunk = a.next_chunk(&mut outgoing, 300).unwrap();
    let came = b.apply_chunk(&mut incoming, chunk, NOW).unwrap() as usize;
    a.close_outgoing(outgoing);
    assert_eq!(b.finish(incoming, NOW), Err(SyncAborted::Unfinished));
    assert!(came > 0 && !b.clock().includes(a.clock()));
    let (outgoing, _) = a.open_outgoing(&b.request());
    assert_eq!(outgoing.owed(), 20 - came);
    a.close_outgoing(outgoing);
}

#[test]
fn an_owed_cell_that_was_forgotten_by_stability_aborts_the_session() {
    let (mut a, mut b) = pair();
    delete(&mut a, NOW, "st", "k");
    let clock = a.clock().clone();
    let request = b.request();
    let (mut outgoing, _) = a.open_outgoing(&request);
    a.persisted(&clock);
    a.tick(NOW);
    assert_eq!(a.cells_held(), 0);
    a.drain_changes();
    put(&mut a, NOW, "st", "other", "must not take the slot");
    assert_eq!(a.next_chunk(&mut outgoing, 1_000), Err(SyncAborted::Forgotten));
    a.close_outgoing(outgoing);
    sync(&mut a, &mut b, NOW).unwrap();
    assert_eq!(b.clock(), a.clock());
}

#[test]
fn a_pushed_cell_that_the_sender_had_overwritten_and_forgotten_is_dropped_at_the_end() {
    let (mut a, mut b) = pair();
    let mut c = replica(3, rules());
    let old = put_until(&mut a, NOW, ("exp", "k"), "old", Some(NOW.secs() + 50));
    push(&a, old, &mut c, NOW);
    put_until(&mut a, NOW, ("exp", "k"), "short", Some(NOW.secs() + 1));
    let request = b.request();
    let (mut outgoing, start) = a.open_outgoing(&request);
    // While the session is open, the loser comes from somebody who never saw the winner.
    let slot = c.slot("exp", b"k", b"").unwrap();
    push(&c, slot, &mut b, NOW);
    let mut incoming = b.open_incoming(start, request);
    let chunk = a.next_chunk(&mut outgoing, 1_000).unwrap();
    b.apply_chunk(&mut incoming, chunk, NOW).unwrap();
    b.finish(incoming, NOW).unwrap();
    a.close_outgoing(outgoing);
    assert_eq!(get(&b, LATER, "exp", "k"), None);
    assert_eq!(a.clock(), b.clock());
}

#[test]
fn who_was_away_while_something_was_forgotten_gets_a_full_session_and_drops_it() {
    let (mut a, mut b) = pair();
    put(&mut a, NOW, "st", "gone", "v");
    put(&mut a, NOW, "st", "stays", "v");
    sync_both(&mut a, &mut b, NOW);
    // b is in nobody's roster: it was away for longer than forget_after.
    delete_and_forget(&mut a, LATER, "gone");
    assert!(!a.accepts_pushes(b.clock()));
    put(&mut b, NOW, "st", "news", "written while away");
    b.drain_changes();
    let done = sync(&mut a, &mut b, LATER).unwrap();
    assert_eq!((done.dropped, done.reissued), (1, 1));
    assert_eq!(get(&b, LATER, "st", "gone"), None);
    assert!(a.accepts_pushes(b.clock()));
    let changes = b.drain_changes();
    assert!(changes.iter().any(|c| c.cause == Cause::Forgotten && c.old.is_some()));
    assert!(changes.iter().any(|c| c.cause == Cause::Local), "what it wrote while away is pushed again");
    sync_both(&mut a, &mut b, LATER);
    assert_eq!(live_view(&a, LATER), live_view(&b, LATER));
    assert_eq!(live_view(&a, LATER).len(), 2);
}

#[test]
fn what_is_later_than_all_that_was_forgotten_is_not_issued_again() {
    let (mut a, mut b) = pair();
    delete_and_forget(&mut a, NOW, "gone");
    let slot = put(&mut b, LATER, "st", "k", "later");
    let written = b.cell(slot).unwrap().order;
    let done = sync(&mut a, &mut b, LATER).unwrap();
    assert_eq!(done.reissued, 0);
    assert_eq!(b.cell(slot).unwrap().order, written);
    sync_both(&mut a, &mut b, LATER);
    assert_eq!(get(&a, LATER, "st", "k").as_deref(), Some("later"));
}

#[test]
fn what_is_issued_again_loses_to_what_was_written_since() {
    let (mut a, mut b) = pair();
    let mut c = replica(3, rules());
    put(&mut b, NOW, "st", "k", "old");
    sync_both(&mut b, &mut c, NOW);
    delete_and_forget(&mut a, LATER, "gone");
    let since = Wall(LATER.0 + 1_000);
    put(&mut c, since, "st", "k", "new");
    let end = Wall(LATER.0 + 2_000);
    assert_eq!(sync(&mut a, &mut b, end).unwrap().reissued, 1, "a may have forgotten that it was removed");
    sync_both(&mut b, &mut c, end);
    assert_eq!(get(&b, end, "st", "k").as_deref(), Some("new"));
    assert_eq!(live_view(&b, end), live_view(&c, end));
}

/// Deletes an entry of a table that forgets by stability, and forgets that: nobody else is known.
fn delete_and_forget(replica: &mut Replica, now: Wall, key: &str) {
    delete(replica, now, "st", key);
    let clock = replica.clock().clone();
    replica.persisted(&clock);
    replica.tick(now);
    assert_eq!(replica.slot("st", key.as_bytes(), b""), None);
}

#[test]
fn a_fresh_node_is_not_shown_dots_that_it_cannot_hold() {
    let (mut a, mut b) = pair();
    delete(&mut a, NOW, "st", "gone");
    let clock = a.clock().clone();
    a.persisted(&clock);
    a.tick(NOW);
    put(&mut a, NOW, "st", "k", "v");
    let request = b.request();
    let (mut outgoing, start) = a.open_outgoing(&request);
    let chunk = a.next_chunk(&mut outgoing, 1_000).unwrap();
    assert!(start.full && chunk.shown.is_empty());
    a.close_outgoing(outgoing);
    sync_both(&mut a, &mut b, NOW);
    assert_eq!(a.clock(), b.clock());
    assert_eq!(b.forgotten(), a.forgotten());
}

#[test]
fn a_session_survives_the_wire() {
    let (mut a, mut b) = pair();
    put(&mut a, NOW, "st", "k", "v");
    let request = b.request();
    let bytes = postcard::to_stdvec(&request).unwrap();
    let (mut outgoing, start) = a.open_outgoing(&postcard::from_bytes(&bytes).unwrap());
    let start = postcard::from_bytes(&postcard::to_stdvec(&start).unwrap()).unwrap();
    let mut incoming = b.open_incoming(start, request);
    let chunk = postcard::to_stdvec(&a.next_chunk(&mut outgoing, 1_000).unwrap()).unwrap();
    b.apply_chunk(&mut incoming, postcard::from_bytes(&chunk).unwrap(), NOW).unwrap();
    b.finish(incoming, NOW).unwrap();
    a.close_outgoing(outgoing);
    assert_eq!(get(&b, NOW, "st", "k").as_deref(), Some("v"));
}

#[test]
fn a_cell_too_far_ahead_is_dropped_and_its_dot_is_not_covered() {
    let (mut a, mut b) = pair();
    let ahead = Wall(NOW.0 + 4_001);
    let slot = put(&mut a, ahead, "st", "k", "v");
    let dot = a.cell(slot).unwrap().order.dot;
    assert_eq!(push(&a, slot, &mut b, NOW), Merged::TooFarAhead);
    assert!(!b.clock().contains(dot));
    assert_eq!(b.alarms().too_far_ahead, 1);
    assert_eq!(sync(&mut a, &mut b, NOW), Err(SyncAborted::TooFarAhead));
    assert!(!b.clock().contains(dot));
    assert!(matches!(push(&a, slot, &mut b, ahead), Merged::New(_)));
}

#[test]
fn malformed_cells_abort_a_session_and_cover_nothing() {
    let (mut a, mut b) = pair();
    put(&mut a, NOW, "st", "k", "v");
    let request = b.request();
    let (mut outgoing, start) = a.open_outgoing(&request);
    let mut incoming = b.open_incoming(start, request);
    let mut chunk = a.next_chunk(&mut outgoing, 1_000).unwrap();
    a.close_outgoing(outgoing);
    chunk.cells[4] = 77;
    assert!(matches!(b.apply_chunk(&mut incoming, chunk, NOW), Err(SyncAborted::Malformed(_))));
    assert!(b.clock().is_empty());
    assert!(matches!(b.merge_pushed(NOW, b"garbage", 0), Merged::Malformed(_)));
    assert_eq!(b.alarms().malformed, 2);
}

#[test]
fn a_dot_that_names_two_versions_raises_an_alarm() {
    let (mut a, mut b) = pair();
    let slot = put(&mut a, NOW, "st", "k", "v");
    push(&a, slot, &mut b, NOW);
    let bytes = a.bytes(slot).unwrap().to_vec();
    assert_eq!(b.merge_pushed(NOW, &bytes, 0), Merged::Stale);
    let cell = CellRef::decode(&bytes).unwrap();
    let forged = CellRef { body: Some(b"other"), ..cell }.encode();
    assert_eq!(b.merge_pushed(NOW, &forged, 0), Merged::DotReuse);
    assert_eq!(get(&b, NOW, "st", "k").as_deref(), Some("v"));
    let mut ours = cell;
    ours.order.dot = crdt::Dot { origin: b.origin(), seq: 99 };
    assert_eq!(b.merge_pushed(NOW, &ours.encode(), 0), Merged::DotReuse, "only b issues its dots");
    assert_eq!(b.alarms().dot_reuse, 2);
}

#[test]
fn a_restored_replica_goes_on_above_the_clock_that_it_had() {
    let (mut a, mut b) = pair();
    let slot = put(&mut a, NOW, "st", "k", "v");
    let (meta, cells) = (a.meta(), vec![Box::from(a.bytes(slot).unwrap())]);
    let before = a.cell(slot).unwrap().order.stamp.time;
    let meta = postcard::from_bytes(&postcard::to_stdvec(&meta).unwrap()).unwrap();
    let mut again = Replica::new(NodeId(1), Origin(11), rules(), 1);
    assert!(again.restore(meta, cells).damaged.is_empty());
    assert!(again.drain_changes().is_empty());
    assert_eq!(again.digest(NOW), a.digest(NOW));
    // The wall clock went back meanwhile.
    let slot = put(&mut again, Wall(NOW.0 - 500_000), "st", "other", "v");
    assert!(again.cell(slot).unwrap().order.stamp.time > before);
    sync_both(&mut again, &mut b, NOW);
    assert_eq!(again.clock(), b.clock());
}

#[test]
fn a_restored_replica_knows_what_was_forgotten_before() {
    let (mut a, mut b) = pair();
    put(&mut a, NOW, "st", "gone", "v");
    sync(&mut a, &mut b, NOW).unwrap();
    delete(&mut a, NOW, "st", "gone");
    let clock = a.clock().clone();
    a.persisted(&clock);
    a.tick(NOW);
    assert_eq!(a.cells_held(), 0);
    let mut again = Replica::new(NodeId(1), Origin(11), rules(), 1);
    again.restore(a.meta(), Vec::new());
    assert!(!again.accepts_pushes(b.clock()), "it may bring what was removed");
    assert_eq!(sync(&mut again, &mut b, NOW).unwrap().dropped, 1);
}

#[test]
fn a_damaged_disk_makes_the_clock_cover_only_what_is_held() {
    let (mut a, mut b) = pair();
    let slots = ["x", "y"].map(|key| put(&mut a, NOW, "st", key, key));
    sync_both(&mut a, &mut b, NOW);
    let mut cells = slots.map(|slot| Box::<[u8]>::from(a.bytes(slot).unwrap()));
    cells[1][0] ^= 0xff;
    let mut again = Replica::new(NodeId(1), Origin(11), rules(), 1);
    let restored = again.restore(a.meta(), cells);
    assert_eq!((restored.cells, restored.damaged.len()), (1, 1));
    assert!(!again.clock().includes(b.clock()));
    sync(&mut b, &mut again, NOW).unwrap();
    assert_eq!(live_view(&again, NOW), live_view(&b, NOW));
}

#[test]
fn two_damaged_disks_leave_nothing_that_neither_can_give_the_other() {
    let (mut a, mut b) = pair();
    delete(&mut a, NOW, "st", "gone");
    let kept = put(&mut a, NOW, "st", "k", "v");
    let clock = a.clock().clone();
    a.persisted(&clock);
    a.tick(NOW);
    sync(&mut a, &mut b, NOW).unwrap();
    assert!(a.forgotten().max(a.origin()) > 0, "the delete is forgotten");
    let mut again = [(&a, 1), (&b, 2)].map(|(before, node)| {
        let mut again = Replica::new(NodeId(node), Origin(node + 10), rules(), 1);
        let cells = [Box::from(before.bytes(kept).unwrap_or_default()), Box::from([0xff])];
        again.restore(before.meta(), cells);
        again
    });
    let [one, other] = &mut again;
    sync_both(one, other, NOW);
    for (one, other) in [(&*one, &*other), (other, one)] {
        assert!(one.accepts_pushes(other.clock()));
        assert!(one.clock().includes(other.forgotten()));
    }
}

#[test]
fn a_slot_is_not_reused_while_changes_are_undrained() {
    let (mut a, _) = pair();
    let slot = delete(&mut a, NOW, "st", "k");
    let clock = a.clock().clone();
    a.persisted(&clock);
    a.tick(NOW);
    assert_eq!(a.cell(slot), None);
    assert_ne!(put(&mut a, NOW, "st", "other", "v"), slot);
    let causes: Vec<Cause> = a.drain_changes().iter().map(|change| change.cause).collect();
    assert_eq!(causes, [Cause::Local, Cause::Forgotten, Cause::Local]);
    assert_eq!(put(&mut a, NOW, "st", "third", "v"), slot);
}

#[test]
fn writes_that_break_the_rules_are_refused() {
    let rules = rules().table("dlg", TableRules::by_birth(60));
    let mut a = replica(1, rules);
    let body = Some(&b"v"[..]);
    let try_write = |a: &mut Replica, w: Write<'_>| a.write(NOW, w).unwrap_err();
    assert_eq!(try_write(&mut a, Write { table: "exp", body, ..blank() }), WriteError::MissingDeadline);
    assert_eq!(try_write(&mut a, Write { table: "dlg", body, rank: 1, ..blank() }), WriteError::MissingBirth);
    assert_eq!(try_write(&mut a, Write { rank: 1, body, ..blank() }), WriteError::ForeignRank);
    let long = [0; crdt::cell::KEY_MAX + 1];
    assert!(matches!(try_write(&mut a, Write { key: &long, body, ..blank() }), WriteError::Cell(_)));
    assert!(a.clock().is_empty() && !a.has_changes());
}

#[test]
fn a_lost_write_uses_no_dot() {
    let (mut a, _) = pair();
    put(&mut a, NOW, "st", "k", "v");
    let clock = a.clock().clone();
    let old = Write { stamp: StampRule::At(Wall(NOW.0 - 1)), body: Some(b"older"), ..blank() };
    assert!(matches!(a.write(NOW, old), Ok(Outcome::Lost(_))));
    let least = Write { stamp: StampRule::Least, body: Some(b"of unknown age"), ..blank() };
    assert!(matches!(a.write(NOW, least), Ok(Outcome::Lost(_))));
    assert_eq!(a.clock(), &clock);
}

#[test]
fn a_write_above_a_stamp_lies_just_above_it() {
    let (mut a, mut b) = pair();
    let slot = put(&mut a, NOW, "st", "k", "agreed");
    let agreed = a.cell(slot).unwrap().order.stamp;
    push(&a, slot, &mut b, NOW);
    put(&mut b, LATER, "st", "k", "newer");
    let above = Write { stamp: StampRule::Above(agreed), body: Some(b"pulled"), ..blank() };
    assert!(matches!(b.write(LATER, above), Ok(Outcome::Lost(_))), "a pulled value does not beat a newer write");
    assert!(matches!(a.write(LATER, above), Ok(Outcome::Written(..))));
    let order = a.cell(slot).unwrap().order;
    assert_eq!(order.stamp.time, agreed.time.next());
}

#[test]
fn times_from_outside_are_clamped_to_now() {
    let (mut a, _) = pair();
    let ahead = Write { stamp: StampRule::At(Wall(NOW.0 + 9_000)), body: Some(b"v"), ..blank() };
    let Ok(Outcome::Written(slot, _)) = a.write(NOW, ahead) else { panic!("nothing is held") };
    assert_eq!(a.cell(slot).unwrap().order.stamp.time.ms(), NOW.0);
}

#[test]
fn acquainted_nodes_accept_each_others_pushes() {
    let (mut a, mut b) = pair();
    acquaint(&mut a, &mut b);
    let slot = delete(&mut a, NOW, "st", "k");
    push(&a, slot, &mut b, NOW);
    acquaint(&mut a, &mut b);
    a.tick(NOW);
    assert_eq!(a.cells_held(), 0);
    assert!(a.accepts_pushes(b.clock()) && b.accepts_pushes(a.clock()));
}
