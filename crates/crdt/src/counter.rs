//! Counters that count on both sides of a split (R8).
//!
//! A counter is a key whose members belong to process lifetimes: each origin has one live cell, its **contribution**
//! (plus, minus), and only it writes that cell upwards. A contribution is never resumed by a later origin, so a crash loses
//! no increment that anybody saw. The member is the origin and a number that it never uses again: when a contribution died,
//! the next one is a new cell, because one of a lower epoch would not win over the dead one everywhere.
//! The **epoch** is the rank: a full stamp, raised by [`set`] and [`delete`].
//!
//! ```text
//! value = sum of (plus - minus) over the live contributions of the greatest live epoch
//! ```
//!
//! [`set`] and [`delete`] start an epoch; increments that they had not seen stay in an older one and are discarded, also
//! when they arrive later. [`delete`] leaves a contribution of 0 that says "deleted"; in a table that forgets by stability it
//! stays, one small cell per deleted counter, because a forgotten epoch could not be told from none. Contributions of
//! others that a reset has seen are removed (observed). Each contribution dies by its own deadline; when all of the
//! greatest epoch have died, contributions of an older one that nobody removed would count again, so owners remove theirs:
//! call [`drop_outdated`] when a counter changed.
//!
//! Counters are exact only where each server is attached to one node: an increment taken in by two nodes counts twice.

use crate::cell::CellRef;
use crate::change::{Outcome, StampRule, Write, WriteError};
use crate::hlc::Stamp;
use crate::ids::{Origin, Wall};
use crate::order::{Order, Rank};
use crate::planted::{self, Bug};
use crate::replica::Replica;
use crate::rules::Forget;
use crate::store::slots::Slot;

/// The epoch of counters that were never reset. Not 0: rank 0 is for cells without ranks, which R6 may issue again.
const FIRST_EPOCH: Rank = 1;

/// What one origin adds to a counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Contribution {
    plus: u64,
    minus: u64,
    /// The counter was deleted with this epoch, and not touched since.
    deleted: bool,
}

impl Contribution {
    fn encode(self) -> [u8; 17] {
        let mut out = [0; 17];
        out[0] = u8::from(self.deleted);
        out[1..9].copy_from_slice(&self.plus.to_be_bytes());
        out[9..].copy_from_slice(&self.minus.to_be_bytes());
        out
    }

    /// `None` for a body that is no contribution: such a cell counts nothing.
    fn decode(body: &[u8]) -> Option<Self> {
        let (&deleted, rest) = body.split_first()?;
        let (plus, minus) = rest.split_first_chunk::<8>()?;
        let (plus, minus) = (u64::from_be_bytes(*plus), u64::from_be_bytes(minus.try_into().ok()?));
        (deleted < 2).then_some(Self { plus, minus, deleted: deleted == 1 })
    }

    fn add(mut self, by: i64) -> Self {
        let side = if by < 0 { &mut self.minus } else { &mut self.plus };
        *side = side.saturating_add(by.unsigned_abs());
        self.deleted = false;
        self
    }
}

/// A contribution as it is held.
#[derive(Clone, Copy, Debug)]
struct Held {
    slot: Slot,
    order: Order,
    /// `None` if it is dead.
    live: Option<Contribution>,
    ours: bool,
}

fn held(replica: &Replica, table: &str, key: &[u8], now: Wall) -> Vec<Held> {
    // At most one of ours is live.
    let members = replica.members(table, key).map(|(slot, cell)| {
        let live = cell.body.filter(|_| cell.is_live(now)).map(|b| Contribution::decode(b).unwrap_or_default());
        Held { slot, order: cell.order, live, ours: is_ours(replica, &cell) }
    });
    members.collect()
}

/// Whether a contribution belongs to this process lifetime.
fn is_ours(replica: &Replica, cell: &CellRef<'_>) -> bool {
    let resumed = planted::on(Bug::ContributionResumed) && cell.order.stamp.node == replica.node();
    cell.member.starts_with(&replica.origin().0.to_be_bytes()) || (resumed && !cell.order.removed)
}

fn greatest_live_epoch(held: &[Held]) -> Rank {
    held.iter().filter(|h| h.live.is_some()).map(|h| h.order.rank).max().unwrap_or(0)
}

/// The counter's value; `None` if it does not exist, or was deleted.
pub fn value(replica: &Replica, table: &str, key: &[u8], now: Wall) -> Option<i64> {
    sum(&held(replica, table, key, now), |_| true)
}

/// What other process lifetimes have contributed to the counter's value; `None` if it does not exist, was deleted, or is all
/// our own.
pub fn value_of_others(replica: &Replica, table: &str, key: &[u8], now: Wall) -> Option<i64> {
    sum(&held(replica, table, key, now), |held| !held.ours)
}

fn sum(held: &[Held], wanted: impl Fn(&Held) -> bool) -> Option<i64> {
    let epoch = greatest_live_epoch(held);
    let counted =
        held.iter().filter(|h| h.order.rank == epoch && wanted(h)).filter_map(|h| h.live).filter(|c| !c.deleted);
    let sum = counted.map(|c| i128::from(c.plus) - i128::from(c.minus)).reduce(|a, b| a + b)?;
    Some(sum.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64)
}

/// The sequence of what a process lifetime last wrote of a counter, as far as it is held; 0 = nothing. Whoever notes it beside
/// something that depends on its own contribution, on a disk that may lose its end, can tell whether the two still agree.
pub fn last_write(replica: &Replica, table: &str, key: &[u8], origin: Origin) -> u64 {
    let of_origin =
        |(_, cell): (Slot, CellRef<'_>)| cell.member.starts_with(&origin.0.to_be_bytes()).then_some(cell.order.dot.seq);
    replica.members(table, key).filter_map(of_origin).max().unwrap_or(0)
}

/// Adds to a counter, starting from 0 if there is none; gives its value here. `deadline` (unix seconds) is that of our
/// contribution, as in [`Write::deadline`].
pub fn add(
    replica: &mut Replica,
    now: Wall,
    (table, key): (&str, &[u8]),
    by: i64,
    deadline: Option<u64>,
    via: u32,
) -> Result<i64, WriteError> {
    let held = held(replica, table, key, now);
    let epoch = greatest_live_epoch(&held).max(FIRST_EPOCH);
    let own = held.iter().find(|h| h.ours && h.live.is_some() && h.order.rank == epoch);
    let before = own.and_then(|own| own.live).unwrap_or_default();
    write(replica, now, (table, key), epoch, before.add(by), deadline, via)?;
    Ok(value(replica, table, key, now).unwrap_or_default())
}

/// Gives a counter a value, in a new epoch: increments that are not known here are discarded.
pub fn set(
    replica: &mut Replica,
    now: Wall,
    (table, key): (&str, &[u8]),
    value: i64,
    deadline: Option<u64>,
    via: u32,
) -> Result<(), WriteError> {
    reset(replica, now, (table, key), Contribution::default().add(value), deadline, via)
}

/// Deletes a counter, in a new epoch: increments that are not known here are discarded. A counter that is known to be
/// deleted already is left as it is; says whether there was anything to do.
pub fn delete(replica: &mut Replica, now: Wall, (table, key): (&str, &[u8]), via: u32) -> Result<bool, WriteError> {
    let held = held(replica, table, key, now);
    let epoch = greatest_live_epoch(&held);
    let mut counted = held.iter().filter(|h| h.order.rank == epoch).filter_map(|h| h.live);
    if epoch > 0 && counted.all(|contribution| contribution.deleted) {
        return Ok(false);
    }
    if planted::on(Bug::DeletedCounterReturns) {
        for h in held.iter().filter(|h| h.live.is_some()) {
            replica.remove_observed(now, h.slot, h.order, via);
        }
        return Ok(true);
    }
    // As long as anything that it discards may live; in tables that forget by stability, for good.
    let deadline = (replica.rules().of(table).forget != Forget::Stable).then_some(u64::MAX);
    let gone = Contribution { deleted: true, ..Contribution::default() };
    reset(replica, now, (table, key), gone, deadline, via)?;
    Ok(true)
}

/// Removes our own contribution if it is discarded, being below the greatest live epoch; says whether it was.
pub fn drop_outdated(replica: &mut Replica, now: Wall, id: (&str, &[u8]), via: u32) -> bool {
    end_own(replica, now, id, via);
    let held = held(replica, id.0, id.1, now);
    let epoch = greatest_live_epoch(&held);
    let outdated = held.iter().find(|h| h.ours && h.live.is_some() && h.order.rank < epoch);
    outdated.is_some_and(|h| bury(replica, now, id, h, via))
}

/// Takes over the tombstones that others wrote for our contributions in a table that forgets by stability. Only there the
/// owner has to: whoever covers the owner's last write of a cell, and all before it, cannot be offered an older one.
fn end_own(replica: &mut Replica, now: Wall, id: (&str, &[u8]), via: u32) {
    if replica.rules().of(id.0).forget == Forget::Stable {
        let own = replica.origin();
        for h in held(replica, id.0, id.1, now) {
            if h.ours && h.order.removed && h.order.dot.origin != own {
                bury(replica, now, id, &h, via);
            }
        }
    }
}

/// Writes our own tombstone over one of our cells.
fn bury(replica: &mut Replica, now: Wall, (table, key): (&str, &[u8]), h: &Held, via: u32) -> bool {
    let member = replica.cell(h.slot).map(|cell| cell.member.to_vec()).unwrap_or_default();
    let (stamp, rank, member) = (StampRule::Now, h.order.rank, &member[..]);
    let tombstone = Write { table, key, member, rank, stamp, deadline: None, body: None, via, birth: None };
    matches!(replica.write(now, tombstone), Ok(Outcome::Written(..)))
}

fn reset(
    replica: &mut Replica,
    now: Wall,
    id: (&str, &[u8]),
    first: Contribution,
    deadline: Option<u64>,
    via: u32,
) -> Result<(), WriteError> {
    let held = held(replica, id.0, id.1, now);
    let Stamp { time, node } = replica.fresh_stamp(now);
    let fresh = Rank::from(time.bits()) << 64 | Rank::from(node.0);
    let above = held.iter().map(|h| h.order.rank).max().map_or(0, |rank| rank.saturating_add(1));
    let epoch = match planted::on(Bug::EpochIsNoRank) {
        true => greatest_live_epoch(&held).max(FIRST_EPOCH),
        false => fresh.max(above),
    };
    write(replica, now, id, epoch, first, deadline, via)?;
    for other in held.iter().filter(|h| !h.ours && h.live.is_some()) {
        replica.remove_observed(now, other.slot, other.order, via);
    }
    Ok(())
}

fn write(
    replica: &mut Replica,
    now: Wall,
    (table, key): (&str, &[u8]),
    rank: Rank,
    contribution: Contribution,
    deadline: Option<u64>,
    via: u32,
) -> Result<Outcome, WriteError> {
    end_own(replica, now, (table, key), via);
    let own = replica.origin().0.to_be_bytes();
    let live = replica.members(table, key).find(|(_, cell)| is_ours(replica, cell) && cell.is_live(now));
    let member = match live {
        Some((_, cell)) => cell.member.to_vec(),
        None => [own, replica.next_dot().seq.to_be_bytes()].concat(),
    };
    let (member, body) = (&member[..], contribution.encode());
    let (stamp, body) = (StampRule::Now, Some(&body[..]));
    replica.write(now, Write { table, key, member, rank, stamp, deadline, body, via, birth: None })
}
