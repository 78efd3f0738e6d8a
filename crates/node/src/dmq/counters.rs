//! Counter tables: what `$shtinc` at several servers adds up to (docs/rules.md R8, docs/kdmq.md 8).
//!
//! A server always says the full value. Its increment is that value less the base, which is what
//! the server had before; the sum of all increments goes back to it when it has been quiet about the
//! key for a moment, because increments between our set and its arrival cannot be told apart.
//! A value below the base that comes close behind another message is one that was overtaken on the
//! way; one that comes after a quiet moment is a decrement.

use std::collections::{BTreeMap, BTreeSet};

use crdt::{Change, Replica, Wall, counter};
use tables::htable::{self, Value};

use super::How;
use super::feed::{self, Request};
use super::peer::{Peer, PeerId};
use crate::config::Config;
use crate::cx::Cx;
use crate::front::Front;
use crate::io::Mono;

/// A key counts as quiet after this long without a message from the server, milliseconds.
const QUIET_MS: u64 = 50;

type Key = (String, Vec<u8>);

/// What one server has of the counters.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    keys: BTreeMap<Key, Known>,
    /// Keys whose sum may differ from what the server has.
    dirty: BTreeSet<Key>,
}

#[derive(Debug)]
struct Known {
    /// What the server had when it or we last spoke.
    base: i64,
    heard: Mono,
    /// The sum that is being told, while the request is open.
    telling: Option<i64>,
    /// Whether the server has counted on from what is being told.
    taken: bool,
}

impl Counters {
    /// The sum of a key has changed.
    pub(crate) fn touch(&mut self, key: Key) {
        self.dirty.insert(key);
    }
}

/// Whether a hash table counts.
pub(crate) fn is_counter(config: &Config, name: &str) -> bool {
    config.htables.get(name).is_some_and(|t| t.counter)
}

/// The deadline of a contribution that is made now; `None` in tables whose entries may live for ever.
pub(crate) fn deadline(table: &str, config: &Config, now: Wall) -> Option<u64> {
    let known = config.htables.get(htable::name(table)?)?;
    let seconds = if known.autoexpire_s > 0 { known.autoexpire_s } else { known.max_ttl_s };
    (seconds > 0).then(|| now.0 / 1_000 + u64::from(seconds))
}

/// The counter that a changed cell is part of.
pub(crate) fn key_of(change: &Change, cx: &Cx<'_>) -> Option<Key> {
    if !cx.config.htables.values().any(|t| t.counter) {
        return None;
    }
    let cell = cx.replica.cell(change.slot)?;
    let name = htable::name(cell.table)?;
    is_counter(cx.config, name).then(|| (cell.table.to_owned(), cell.key.to_vec()))
}

fn value(replica: &Replica, (table, key): (&str, &[u8]), now: Wall) -> Option<i64> {
    counter::value(replica, table, key, now)
}

/// A server said what its counter is now.
pub(crate) fn set_by_server(peer: &mut Peer, at: (&str, &[u8]), said: &Value<'_>, how: How, cx: &mut Cx<'_>) {
    let Value::Int(said) = *said else {
        cx.stats.dmq_rows_refused += 1;
        return;
    };
    let now = cx.now.mono;
    let key = (at.0.to_owned(), at.1.to_vec());
    let known =
        peer.counters.keys.entry(key.clone()).or_insert(Known { base: 0, heard: Mono(0), telling: None, taken: false });
    let quiet = now.ms_since(known.heard) >= QUIET_MS;
    known.heard = now;
    let base = match known.telling {
        // Counted from the old base or from the sum under way: the smaller positive step.
        Some(sum) if said > sum && (said - sum < said - known.base || said <= known.base) => {
            known.taken = true;
            known.telling = Some(said);
            sum
        }
        _ => known.base,
    };
    if said == base || said < base && !(quiet || how == How::Dump) {
        return;
    }
    let step = said - base;
    known.base = said;
    if counter::add(cx.replica, cx.now.wall, at, step, deadline(at.0, cx.config, cx.now.wall), peer.tag).is_err() {
        cx.stats.dmq_rows_refused += 1;
    }
    peer.counters.touch(key);
}

/// A server dropped a counter.
pub(crate) fn delete_by_server(peer: &mut Peer, at: (&str, &[u8]), cx: &mut Cx<'_>) {
    peer.counters.keys.remove(&(at.0.to_owned(), at.1.to_vec()));
    if counter::delete(cx.replica, cx.now.wall, at, peer.tag).is_err() {
        cx.stats.dmq_rows_refused += 1;
    }
}

/// A dump showed a counter. What it counted beyond its base while it could not be heard is counted;
/// where no base is known, what it has more than the mesh.
pub(crate) fn dumped(peer: &mut Peer, at: (&str, &[u8]), said: &Value<'_>, cx: &mut Cx<'_>) {
    let key = (at.0.to_owned(), at.1.to_vec());
    if let (Value::Int(said), false) = (said, peer.counters.keys.contains_key(&key)) {
        let base = value(cx.replica, at, cx.now.wall).unwrap_or(0).min(*said);
        peer.counters.keys.insert(key.clone(), Known { base, heard: Mono(0), telling: None, taken: false });
    }
    set_by_server(peer, at, said, How::Dump, cx);
    if let (Value::Int(said), Some(known)) = (said, peer.counters.keys.get_mut(&key)) {
        known.base = *said;
    }
    peer.counters.touch(key);
}

/// A pull is over: every sum is to be compared with what the server has.
pub(crate) fn after_pull(peer: &mut Peer, cx: &Cx<'_>) {
    if !cx.config.htables.values().any(|t| t.counter) {
        return;
    }
    let keys: Vec<Key> = cx
        .replica
        .scan(None, usize::MAX)
        .filter(|(_, cell)| htable::name(cell.table).is_some_and(|n| is_counter(cx.config, n)))
        .map(|(_, cell)| (cell.table.to_owned(), cell.key.to_vec()))
        .collect();
    peer.counters.dirty.extend(keys);
}

/// Tells the sums of quiet keys.
pub(crate) fn feed_quiet(peers: &mut BTreeMap<PeerId, Peer>, front: &mut Front, cx: &mut Cx<'_>) {
    for peer in peers.values_mut().filter(|p| p.may_be_fed()) {
        let due: Vec<Key> = peer
            .counters
            .dirty
            .iter()
            .filter(|key| peer.counters.keys.get(*key).is_none_or(|k| k.is_quiet(cx.now.mono)))
            .take(cx.config.dmq.window.saturating_sub(peer.feed.requests()))
            .cloned()
            .collect();
        for key in due {
            peer.counters.dirty.remove(&key);
            if let Some(request) = render(peer, key, cx) {
                super::send(peer, request, front, cx);
            }
        }
    }
}

fn render(peer: &mut Peer, key: Key, cx: &mut Cx<'_>) -> Option<Request> {
    let sum = value(cx.replica, (&key.0, &key.1), cx.now.wall);
    let name = htable::name(&key.0)?;
    if peer.lacks_tables.contains(name) {
        return None;
    }
    let known = peer.counters.keys.get_mut(&key);
    let body = match (sum, known) {
        (None, None) => return None,
        (None, Some(_)) => {
            let body = kdmq::htable::encode_delete(name.as_bytes(), &key.1);
            peer.counters.keys.remove(&key);
            body
        }
        (Some(sum), Some(known)) if known.base == sum => return None,
        (Some(sum), known) => {
            let body = kdmq::htable::encode_set(name.as_bytes(), &key.1, &Value::Int(sum), None);
            match known {
                Some(known) => (known.telling, known.taken) = (Some(sum), false),
                None => {
                    let known = Known { base: 0, heard: Mono(0), telling: Some(sum), taken: false };
                    peer.counters.keys.insert(key.clone(), known);
                }
            }
            body
        }
    };
    match body {
        Ok(body) => Some(feed::counter_request(peer, key, body)),
        Err(_) => {
            cx.stats.dmq_unsendable += 1;
            None
        }
    }
}

/// The sum was answered with 200 (`stored`), or not.
pub(crate) fn told(peer: &mut Peer, key: &Key, stored: bool) {
    let Some(known) = peer.counters.keys.get_mut(key) else { return };
    let Some(sum) = known.telling.take() else { return };
    if stored && !known.taken {
        known.base = sum;
    }
    // What was counted meanwhile has changed the sum again.
    peer.counters.dirty.insert(key.clone());
}

/// When a dirty key becomes quiet.
pub(crate) fn next_wakeup(peer: &Peer) -> Option<Mono> {
    if !peer.may_be_fed() {
        return None;
    }
    let when = |key: &Key| match peer.counters.keys.get(key) {
        Some(known) if known.telling.is_some() => None,
        Some(known) => Some(known.heard.plus_ms(QUIET_MS)),
        None => Some(Mono(0)),
    };
    peer.counters.dirty.iter().filter_map(when).min()
}

impl Known {
    fn is_quiet(&self, now: Mono) -> bool {
        self.telling.is_none() && now.ms_since(self.heard) >= QUIET_MS
    }
}
