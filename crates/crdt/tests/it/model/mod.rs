//! Random runs against docs/rules.md: after every step each node's live view equals the maximum, by order, over all writes
//! that its clock covers; after healing, clocks, views and digests are equal, and nothing dead stays for good.
//!
//! `STARLING_MODEL_RUNS` sets the number of runs per profile; `STARLING_MODEL_SEED` replays one seed. A failure names both.

mod sums;
mod truth;
mod world;

use crdt::{Alarms, CellRef, Outcome, StampRule, Wall, Write, counter};

use crate::support::{Rng, live_view};
use sums::Count;
use world::{TTL, World};

/// What happens in a run.
#[derive(Clone, Copy, Debug)]
struct Profile {
    name: &'static str,
    tables: &'static [&'static str],
    durable_percent: u64,
    crash: bool,
    restore: bool,
    join: bool,
    away: bool,
    skew: bool,
    /// All know each other from the start and forget nobody, so that nobody ever needs a full session.
    acquainted: bool,
}

const PLAIN: Profile = Profile {
    name: "plain",
    tables: &["exp", "dlg", "st", "ctr", "ctrx"],
    durable_percent: 50,
    crash: false,
    restore: false,
    join: false,
    away: false,
    skew: false,
    acquainted: false,
};

const PROFILES: &[Profile] = &[
    PLAIN,
    Profile { name: "crash", crash: true, ..PLAIN },
    Profile { name: "restore", crash: true, restore: true, durable_percent: 100, ..PLAIN },
    Profile { name: "join", join: true, ..PLAIN },
    Profile { name: "away", away: true, ..PLAIN },
    Profile { name: "skew", skew: true, ..PLAIN },
    Profile { name: "acquainted", acquainted: true, ..PLAIN },
    Profile {
        name: "acquainted, crash",
        acquainted: true,
        crash: true,
        durable_percent: 100,
        tables: &["st"],
        ..PLAIN
    },
    Profile { name: "all", ..ALL },
    Profile { name: "all, expiring", tables: &["exp", "dlg", "ctrx"], ..ALL },
    Profile { name: "all, stable", tables: &["st"], ..ALL },
    Profile { name: "all, counters", tables: &["ctr", "ctrx"], ..ALL },
];

const ALL: Profile =
    Profile { name: "", crash: true, restore: true, join: true, away: true, skew: true, durable_percent: 70, ..PLAIN };

fn run(profile: Profile, seed: u64) -> Result<(), String> {
    let mut rng = Rng(seed ^ 0x5eed);
    let nodes = 2 + rng.index(3);
    let mut world = World::new(seed, nodes, profile.durable_percent);
    world.clocks_lie = profile.skew;
    if profile.acquainted {
        world.keep_rosters = true;
        acquaint(&mut world);
    }
    let steps = 60 + rng.index(240);
    for step in 0..steps {
        let touched = random_step(&mut world, profile, &mut rng);
        for node in touched {
            check(&world, node).map_err(|error| format!("step {step}: {error}"))?;
        }
    }
    heal(&mut world)?;
    if profile.acquainted && world.full > 0 {
        return Err(format!("{} full sessions, though nobody missed what was forgotten", world.full));
    }
    if world.unacknowledged_forgotten > 0 {
        return Err("a removal was forgotten before a server knew of it".to_owned());
    }
    Ok(())
}

fn acquaint(world: &mut World) {
    for a in world.up() {
        for b in world.up() {
            world.connect(a, b);
        }
    }
    for link in world.link_keys() {
        while world.deliver(link) {}
    }
    for node in world.up() {
        world.write_out(node);
        world.fsync(node);
    }
}

fn check(world: &World, node: usize) -> Result<(), String> {
    let Some(replica) = &world.nodes[node].replica else { return Ok(()) };
    let now = world.now(node);
    if world.nodes[node].skewed {
        // What it forgot in time may seem alive again by a clock that went back.
        return Ok(());
    }
    world.truth.check(replica, now).map_err(|error| format!("node {node} at {}: {error}", now.0))?;
    let scratch = replica.range_digests(now.secs()).iter().fold(0_u128, |sum, range| sum.wrapping_add(*range));
    if replica.digest(now).total != scratch {
        return Err(format!("node {node}: running digest differs from one computed from scratch"));
    }
    let ahead = if world.clocks_lie { 0 } else { replica.alarms().too_far_ahead };
    let alarms = Alarms { too_far_ahead: ahead, retired: 0, ..replica.alarms() };
    if alarms != Alarms::default() {
        return Err(format!("node {node}: {alarms:?}"));
    }
    for (other, peer) in world.nodes.iter().enumerate() {
        let equal = |peer: &&crdt::Replica| peer.clock() == replica.clock();
        let Some(peer) = peer.replica.as_ref().filter(equal).filter(|_| !peer.skewed) else { continue };
        let horizon = now.max(world.now(other)).secs() + u64::from(world::MAX_SKEW).div_ceil(1_000);
        if peer.digest_beyond(horizon) != replica.digest_beyond(horizon) {
            return Err(format!("nodes {node} and {other} have equal clocks and unequal digests"));
        }
    }
    Ok(())
}

/// Does something at random; says which nodes it may have changed.
fn random_step(world: &mut World, profile: Profile, rng: &mut Rng) -> Vec<usize> {
    let up = world.up();
    let Some(node) = rng.pick(&up) else {
        world.down().into_iter().for_each(|node| world.start(node));
        return world.up();
    };
    match rng.below(100) {
        0..25 => write(world, node, profile, rng),
        25..45 => {
            if let Some(link) = rng.pick(&world.link_keys()) {
                world.flush(link, 10);
                for _ in 0..=rng.below(3) {
                    world.deliver(link);
                }
                return vec![link.1];
            }
        }
        45..50 => rng.pick(&world.link_keys()).into_iter().for_each(|link| world.show(link)),
        50..68 => {
            if world.sessions() > 0 && rng.chance(90) {
                for _ in 0..=rng.below(4) {
                    if world.sessions() > 0 {
                        world.advance(rng.index(world.sessions()));
                    }
                }
            } else if let Some(peer) = rng.pick(&up) {
                world.request(node, peer);
            }
            return up;
        }
        68..70 if world.sessions() > 0 => world.cut_session(rng.index(world.sessions())),
        70..80 => {
            let peer = rng.pick(&up).unwrap_or(node);
            if world.is_linked(node, peer) && rng.chance(40) {
                world.disconnect(node, peer);
            } else {
                world.connect(node, peer);
            }
        }
        80..88 => {
            world.time += if rng.chance(15) { rng.below(40_000) } else { rng.below(3_000) };
            if rng.chance(60) {
                world.tick(node);
            }
            return up;
        }
        88..92 => world.tick(node),
        92..96 => {
            if rng.chance(50) {
                world.write_out(node);
            } else {
                world.fsync(node);
            }
        }
        96 => world.hold_or_release(node),
        _ => disturb(world, node, profile, rng),
    }
    vec![node]
}

fn disturb(world: &mut World, node: usize, profile: Profile, rng: &mut Rng) {
    if profile.crash && rng.chance(50) {
        if let Some(down) = rng.pick(&world.down()) {
            if profile.restore && rng.chance(50) {
                world.restore_backup(down);
            }
            world.start(down);
        } else {
            let quick = rng.chance(30);
            if quick {
                world.write_out(node);
                world.fsync(node);
                write(world, node, profile, rng);
            }
            world.crash(node);
            if quick {
                // The clock has not moved since.
                world.start(node);
                write(world, node, profile, rng);
            }
        }
    } else if profile.join && world.nodes.len() < 6 && rng.chance(40) {
        world.add_node(profile.durable_percent);
    } else if profile.skew && rng.chance(40) {
        let far = if rng.chance(50) { 1 } else { 2 + rng.below(5) as i64 };
        let near = far * (rng.below(u64::from(world::MAX_SKEW)) as i64 - i64::from(world::MAX_SKEW) / 2);
        if rng.chance(25) {
            world.leap(node, near);
            write(world, node, profile, rng);
            world.send_all(node);
        }
        world.skew(node, if rng.chance(20) { FAR + rng.below(200_000) as i64 } else { near });
    } else if profile.away && rng.chance(40) {
        world.isolate(node);
        world.time += world::FORGET_AFTER * 1_000 + rng.below(20_000);
        for other in world.up() {
            if other != node || rng.chance(50) {
                world.tick(other);
            }
        }
    }
}

/// By how much a clock is off at which nobody writes any more, milliseconds: it would take as long to be taken in.
const FAR: i64 = 20_000;

fn write(world: &mut World, node: usize, profile: Profile, rng: &mut Rng) {
    if world.nodes[node].skew >= FAR {
        return;
    }
    let table = rng.pick(profile.tables).expect("there are tables");
    let now = world.now(node);
    world.writes += 1;
    let (key, member) = ([b'k', rng.below(2) as u8], [b'm', rng.below(2) as u8]);
    match table {
        "dlg" => write_dialog(world, node, now, &member, rng),
        "ctr" | "ctrx" => count(world, node, now, (table, &key), rng),
        _ => write_plain(world, node, now, (table, &key, &member), rng),
    }
    world.settle(node);
}

fn write_plain(world: &mut World, node: usize, now: Wall, (table, key, member): (&str, &[u8], &[u8]), rng: &mut Rng) {
    let body = world.writes.to_be_bytes();
    let replica = world.replica(node);
    let held = replica.slot(table, key, member).and_then(|slot| Some((slot, replica.cell(slot)?.order)));
    if let Some((slot, order)) = held.filter(|_| rng.chance(20)) {
        if let Outcome::Written(slot, _) = replica.remove_observed(now, slot, order, 0) {
            let stamp = replica.cell(slot).map(|cell| cell.order.stamp);
            assert_eq!(stamp, Some(order.stamp), "a removal beats what it has seen, and nothing later");
        }
        return;
    }
    let stamp = match rng.below(6) {
        0 => StampRule::At(Wall(now.0 + 10_000 - rng.below(40_000))),
        // One-second times of SIP: two nodes give the same.
        1 => StampRule::At(Wall(now.0 / 1_000 * 1_000)),
        2 => StampRule::Least,
        3 if held.is_some() => StampRule::Above(held.expect("it was just seen").1.stamp),
        _ => StampRule::Now,
    };
    let deadline = (table == "exp" || rng.chance(20)).then(|| now.secs() + rng.below(u64::from(TTL) * 5 / 4));
    let body = (!rng.chance(30)).then_some(&body[..]);
    let write = Write { table, key, member, rank: 0, stamp, deadline, body, via: 0, birth: None };
    let outcome = replica.write(now, write).expect("the write keeps the rules");
    if stamp == StampRule::Now {
        let Outcome::Written(slot, _) = outcome else { panic!("a write of now wins here") };
        let time = replica.cell(slot).expect("it was written").order.stamp.time;
        assert!(time > world.nodes[node].kept, "a write of now is later than all that the process before gave");
    }
}

/// All nodes agree on a dialog's birth; dialogs follow one another.
fn write_dialog(world: &mut World, node: usize, now: Wall, member: &[u8], rng: &mut Rng) {
    let birth = (world.time / 1_000 / 20 - rng.below(3)) * 20;
    let body = world.writes.to_be_bytes();
    let key = birth.to_be_bytes();
    let (body, deadline) = ((!rng.chance(25)).then_some(&body[..]), Some(now.secs() + rng.below(80)));
    let rank = 1 + u128::from(rng.below(4));
    let (table, stamp, birth) = ("dlg", StampRule::Now, Some(birth));
    let write = Write { table, key: &key, member, rank, stamp, deadline, body, via: 0, birth };
    world.replica(node).write(now, write).expect("the write keeps the rules");
}

fn count(world: &mut World, node: usize, now: Wall, id: (&str, &[u8]), rng: &mut Rng) {
    let deadline = (id.0 == "ctrx").then(|| now.secs() + 5 + rng.below(50));
    let World { nodes, sums, .. } = world;
    let replica = nodes[node].replica.as_mut().expect("the node is up");
    let count = match rng.below(10) {
        0 => {
            let value = rng.below(100) as i64;
            counter::set(replica, now, id, value, deadline, 0).map(|()| Some(Count::Set(value)))
        }
        1 => counter::delete(replica, now, id, 0).map(|done| done.then_some(Count::Delete)),
        2 => {
            counter::drop_outdated(replica, now, id, 0);
            Ok(None)
        }
        _ => {
            let by = 7 - rng.below(10) as i64;
            counter::add(replica, now, id, by, deadline, 0).map(|_| Some(Count::Add(by)))
        }
    };
    let count = count.expect("it is a counter table");
    if let Some(count) = count.filter(|_| id.0 == sums::TABLE) {
        sums.record(replica, id.1, count);
    }
}

/// Brings everybody together until nothing moves, then compares.
fn heal(world: &mut World) -> Result<(), String> {
    for node in world.down() {
        world.start(node);
    }
    for node in 0..world.nodes.len() {
        world.skew(node, 0);
    }
    // Stamps of a clock that was ahead are taken in when their time has come.
    world.time += 30_000;
    for round in 0.. {
        if round == 30 {
            return Err("not equal after 30 rounds".to_owned());
        }
        exchange(world)?;
        let replicas = || world.nodes.iter().map(|node| node.replica.as_ref().expect("all are up"));
        if replicas().all(|a| replicas().all(|b| a.covers(b.clock()))) {
            break;
        }
    }
    compare(world)?;
    forget_all(world)
}

/// All pairs push, show clocks and sync once.
fn exchange(world: &mut World) -> Result<(), String> {
    let all = world.up();
    for &a in &all {
        for &b in &all {
            world.connect(a, b);
        }
    }
    for link in world.link_keys() {
        world.flush(link, 0);
        while world.deliver(link) {}
    }
    for &receiver in &all {
        for &sender in &all {
            if receiver != sender {
                world.request(receiver, sender);
                while world.sessions() > 0 {
                    world.advance(world.sessions() - 1);
                }
                check(world, receiver).map_err(|error| format!("healing: {error}"))?;
            }
        }
    }
    for link in world.link_keys() {
        world.show(link);
        while world.deliver(link) {}
    }
    for &node in &all {
        world.tick(node);
        check(world, node).map_err(|error| format!("healing: {error}"))?;
    }
    Ok(())
}

fn compare(world: &World) -> Result<(), String> {
    let now = Wall(world.time);
    let mut seen = world.nodes.iter().map(|node| {
        let replica = node.replica.as_ref().expect("all are up");
        (live_view(replica, now), replica.digest(now), replica.digest_beyond(now.secs() + 5))
    });
    let first = seen.next().expect("there are nodes");
    match seen.position(|other| other != first) {
        None => world.sums.check(world.nodes[0].replica.as_ref().expect("all are up"), now),
        Some(at) => Err(format!("after healing node {} differs from node 0", at + 1)),
    }
}

/// With everybody there and time enough, everything dead is forgotten, and only that.
fn forget_all(world: &mut World) -> Result<(), String> {
    for _ in 0..3 {
        world.time += 70_000;
        for node in world.up() {
            world.release_all(node);
            world.write_out(node);
            world.fsync(node);
            world.write_out(node);
            world.fsync(node);
        }
        exchange(world)?;
    }
    compare(world)?;
    let now = Wall(world.time);
    for (at, node) in world.nodes.iter().enumerate() {
        let replica = node.replica.as_ref().expect("all are up");
        // A contribution that its owner did not end, or whose owner left holes in the clock, is kept.
        let kept = |cell: &CellRef<'_>| {
            let origin = cell.order.dot.origin;
            let ended = cell.member.starts_with(&origin.0.to_be_bytes()) && replica.clock().is_prefix(origin);
            cell.table == "ctr" && !ended
        };
        let dead = replica.scan(None, usize::MAX).find(|(_, cell)| !cell.is_live(now) && !kept(cell));
        if let Some((_, dead)) = dead {
            return Err(format!("node {at} never forgets {dead:?}"));
        }
    }
    Ok(())
}

fn run_all(profile: Profile) {
    let runs = std::env::var("STARLING_MODEL_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(200_u64);
    let only = std::env::var("STARLING_MODEL_SEED").ok().and_then(|n| n.parse().ok());
    for seed in only.map_or(0..runs, |seed: u64| seed..seed + 1) {
        if let Err(error) = run(profile, seed) {
            panic!("profile {:?}, STARLING_MODEL_SEED={seed}: {error}", profile.name);
        }
    }
}

macro_rules! profiles {
    ($($name:ident: $index:literal,)*) => {
        $(#[test]
        fn $name() {
            run_all(PROFILES[$index]);
        })*
    };
}

profiles! {
    nodes_converge_while_links_come_and_go: 0,
    nodes_converge_while_processes_crash: 1,
    nodes_converge_while_older_backups_are_restored: 2,
    nodes_converge_while_others_join: 3,
    nodes_converge_while_others_are_away_for_long: 4,
    nodes_converge_while_clocks_are_wrong: 5,
    nobody_is_asked_for_what_all_have_forgotten: 6,
    nobody_is_asked_for_what_all_have_forgotten_while_processes_crash: 7,
    nodes_converge_while_everything_happens: 8,
    expiring_tables_converge_while_everything_happens: 9,
    stable_tables_converge_while_everything_happens: 10,
    counters_converge_while_everything_happens: 11,
}
