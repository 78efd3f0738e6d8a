//! Counter tables: what `$shtinc` at several servers adds up to (docs/rules.md R8, docs/kdmq.md 8).
//!
//! A server always says the full value. Its increment is that value less what the server had before, and the sum of all
//! increments goes back to it. How this is done without counting anything twice depends on the server: by
//! compare-and-set where it stamps its writes (`stamped`), in a quiet moment where it does not (`quiet`).
//!
//! Of a counter that was deleted, increments that the delete had not seen are discarded; one that crosses the delete on
//! its way may count either way.

mod crossing;
mod known;
mod quiet;
mod saved;
mod stamped;
mod table;
mod unknown;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crdt::planted::{self, Bug};
use crdt::{Change, Replica, Wall, counter};
use kdmq::Generation;
use tables::htable::{self, Value};

pub(crate) use self::known::Told;
use self::known::{Known, Way};
use self::quiet::{Quiet, Source};
pub(crate) use self::saved::Saved;
use self::stamped::{Next, Stamped};
pub(crate) use self::table::{deadline, is_counter, outlived_until};
use self::unknown::first_base;
pub(crate) use self::unknown::settle_unknown;
use super::How;
use super::feed::{self, Request};
use super::peer::{Peer, PeerId};
use crate::config::DmqConfig;
use crate::cx::Cx;
use crate::front::Front;
use crate::io::{Mono, Now};

/// Table and key.
pub(crate) type Key = (String, Vec<u8>);

/// What one server has of the counters.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    keys: BTreeMap<Key, Known>,
    /// Keys whose sum may differ from what the server has.
    dirty: BTreeSet<Key>,
    /// Whether it has shown that it does not stamp its writes, whatever its generation.
    stampless: bool,
    /// Keys of which something else is known than what is on disk.
    unsaved: BTreeSet<Key>,
    /// Keys whose sums are told once the disk knows that, each with the journal's ticket, when there is one.
    intents: BTreeMap<Key, Option<u64>>,
    /// What the disk had, until [`Counters::verify`].
    restored: BTreeMap<Key, Saved>,
    /// What the server had of keys when it first spoke, while nobody could say what of that is known elsewhere: see
    /// [`settle_unknown`].
    unknown: BTreeMap<Key, i64>,
    /// Keys of which nothing is known but what a dump has shown that may be older than this process, until they are told.
    provisional: BTreeSet<Key>,
    /// What the server had lately of keys in the life before, as far as it has not spoken of them since.
    former: BTreeMap<Key, Vec<i64>>,
    /// Counters that have ended, and until when a server's entry may outlive them: it is told later than they were counted.
    ended: VecDeque<(Mono, Key)>,
    /// Whether what is known elsewhere is known here.
    others_known: bool,
}

impl Counters {
    /// What is known elsewhere is known here from now on.
    pub(crate) fn know_others(&mut self) {
        self.others_known = true;
    }

    /// The sum of a key has changed.
    pub(crate) fn touch(&mut self, key: Key) {
        self.dirty.insert(key);
    }

    /// We have counted, here or for another server: what is on disk has to say so too.
    pub(crate) fn counted(&mut self, key: &Key) {
        if self.keys.contains_key(key) {
            self.unsaved.insert(key.clone());
        }
    }

    /// There is no disk.
    pub(crate) fn drop_unsaved(&mut self) {
        self.unsaved.clear();
    }

    /// Nothing is known of the server any more.
    pub(crate) fn reset(&mut self) {
        self.former = self.keys.iter().map(|(key, known)| (key.clone(), known.lately())).collect();
        self.unsaved.extend(std::mem::take(&mut self.keys).into_keys());
        self.restored.clear();
        self.provisional.clear();
        self.ended.clear();
        self.dirty.clear();
        self.intents.clear();
        self.stampless = false;
    }

    /// The server's entry is gone, with all that it had counted.
    pub(crate) fn drop_entry(&mut self, key: &Key) {
        self.unsaved.insert(key.clone());
        self.unknown.remove(key);
        self.provisional.remove(key);
        self.former.remove(key);
        match self.keys.get_mut(key) {
            // What is under way may bring the entry back; the answer makes us look.
            Some(known) if known.is_open() => known.clear(),
            _ => _ = self.keys.remove(key),
        }
    }

    /// Whether a dump, perhaps an old one, has shown a value of a later stamp: what has this one is repeated, and no news.
    fn has_shown_later(&self, key: &Key, stamp: Option<u64>) -> bool {
        let known = self.keys.get(key).filter(|_| self.provisional.contains(key));
        known.is_some_and(
            |known| matches!(&known.way, Way::Stamped(stamped) if stamp.is_some_and(|s| stamped.has_seen(s))),
        )
    }

    /// Everything that was counted has expired. The server's entry may live until then, and shows nothing new as long as it is what
    /// was known of it.
    pub(crate) fn end(&mut self, key: &Key, until: Mono) {
        self.unknown.remove(key);
        self.provisional.remove(key);
        self.former.remove(key);
        if let Some(known) = self.keys.get_mut(key) {
            known.perhaps_gone = true;
            self.ended.push_back((until, key.clone()));
        }
    }

    /// Forgets what no server has any more.
    fn drop_ended(&mut self, replica: &Replica, now: Now) {
        while let Some((_, key)) = self.ended.pop_front_if(|(until, _)| *until <= now.mono) {
            if value(replica, (&key.0, &key.1), now.wall).is_none() {
                self.drop_entry(&key);
            }
        }
    }

    /// The server is not answering: what is under way may arrive or not.
    pub(crate) fn suspend(&mut self, now: Mono) {
        let open: Vec<Key> = self.keys.iter().filter(|(_, k)| k.is_open()).map(|(key, _)| key.clone()).collect();
        for key in open {
            if let Some(known) = self.keys.get_mut(&key) {
                known.end(Told::Unanswered, now);
            }
            self.unsaved.insert(key.clone());
            self.dirty.insert(key);
        }
    }

    /// What is known of a key, to be changed.
    fn known(&mut self, key: &Key, base: i64, generation: Generation) -> &mut Known {
        self.unsaved.insert(key.clone());
        let stamped = generation == Generation::V6 && !self.stampless;
        self.keys.entry(key.clone()).or_insert_with(|| {
            let way = if stamped { Way::Stamped(Stamped::new(base)) } else { Way::Quiet(Quiet::new(base)) };
            Known::new(way, false)
        })
    }

    /// The same for one that is to be told, and whether the server may have no entry that it would be.
    fn known_to_lack(&mut self, key: &Key, sum: i64, generation: Generation) -> (&mut Way, bool) {
        let known = self.known(key, 0, generation);
        (&mut known.way, known.perhaps_gone || sum == 0 && !known.entered)
    }

    fn is_stampless(&mut self, now: Mono) {
        if std::mem::replace(&mut self.stampless, true) {
            return;
        }
        for (key, known) in &mut self.keys {
            if let Way::Stamped(stamped) = &known.way {
                self.unsaved.insert(key.clone());
                let (base, last) = stamped.unsure();
                known.way = Way::Quiet(Quiet::taken_over(base, last.map(|sum| (sum, stamped.is_open())), now));
            }
        }
    }

    /// Whether the journal has to say when it has written something.
    pub(crate) fn wants_ticket(&self) -> bool {
        self.intents.values().any(Option::is_none)
    }

    /// With this ticket the journal will say so.
    pub(crate) fn ticket(&mut self, ticket: u64) {
        self.intents.values_mut().filter(|known| known.is_none()).for_each(|known| *known = Some(ticket));
    }

    /// What these tickets stand for is on disk. Says whether anything waited for that.
    pub(crate) fn kept(&mut self, done: &dyn Fn(u64) -> bool) -> bool {
        let Self { intents, keys, .. } = self;
        let before = intents.len();
        intents.retain(|key, ticket| {
            let kept = ticket.is_some_and(done);
            if kept && let Some(Known { way: Way::Quiet(quiet), .. }) = keys.get_mut(key) {
                quiet.kept();
            }
            !kept
        });
        intents.len() < before
    }

    /// When a key may be told, of a server that has shown all that it has, or not: one of which nothing is known may be there.
    fn due_at(&self, key: &Key, shown: bool) -> Option<Mono> {
        match self.keys.get(key) {
            _ if self.unknown.contains_key(key) || self.intents.contains_key(key) => None,
            None => shown.then_some(Mono(0)),
            Some(known) if known.deleting => None,
            Some(known) => match &known.way {
                Way::Quiet(quiet) => quiet.due_at(),
                Way::Stamped(stamped) => stamped.due_at(),
            },
        }
    }
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

/// A value or a stamp of a counter beyond this is none: Kamailio counts in 32 bits. Sums and differences of two stay far from
/// the limits of 64.
const VALUE_MAX: i64 = 1 << 60;

/// The sum of a counter; `None` if it does not exist.
pub(crate) fn value(replica: &Replica, (table, key): (&str, &[u8]), now: Wall) -> Option<i64> {
    counter::value(replica, table, key, now).map(|sum| sum.clamp(-VALUE_MAX, VALUE_MAX))
}

/// A server said what its counter is now. `stamp` is its `last_modified`.
pub(crate) fn set_by_server(
    peer: &mut Peer,
    at: (&str, &[u8]),
    said: (&Value<'_>, Option<u64>),
    how: How,
    cx: &mut Cx<'_>,
) {
    let key = (at.0.to_owned(), at.1.to_vec());
    if peer.counters.has_shown_later(&key, said.1) {
        return;
    }
    let old = match how {
        // It was lost at first, and something else of the counter was heard or told in between.
        How::Held(said) => peer.counters.keys.get(&key).is_some_and(|known| known.was_spoken_of_after(said, cx.now)),
        How::Live | How::Dump => false,
    };
    // It may still be repeating what it said while nobody answered.
    let source = if old || peer.comeback.look_at.is_some() { Source::Repeated } else { Source::Live };
    take(peer, at, said, (how, source), cx);
}

/// A dump that was asked for then shows a counter, with what the server counted while it could not be heard.
pub(crate) fn dumped(
    peer: &mut Peer,
    at: (&str, &[u8]),
    said: (&Value<'_>, Option<u64>),
    asked: Mono,
    cx: &mut Cx<'_>,
) {
    take(peer, at, said, (How::Dump, Source::Dump { asked }), cx);
}

fn take(
    peer: &mut Peer,
    at: (&str, &[u8]),
    (said, stamp): (&Value<'_>, Option<u64>),
    (how, source): (How, Source),
    cx: &mut Cx<'_>,
) {
    if peer.strangers.are_counting() {
        return;
    }
    let Some(said) = number(said, stamp) else {
        cx.stats.dmq_rows_refused += 1;
        return;
    };
    if stamp.is_none() {
        peer.counters.is_stampless(cx.now.mono);
    }
    let key = (at.0.to_owned(), at.1.to_vec());
    let anew = peer.counters.provisional.remove(&key);
    let fresh = anew || !peer.counters.keys.contains_key(&key);
    if fresh {
        peer.counters.keys.remove(&key);
    }
    let (base, guessed) = if fresh { first_base(peer, at, (said, anew), how, cx) } else { (0, false) };
    if !matches!(source, Source::Dump { .. }) {
        peer.counters.former.remove(&key);
    } else if !fresh && peer.counters.former.get(&key).is_some_and(|values| values.contains(&said)) {
        // It may not have lost what it had, or not have restarted at all, and we have told it more since.
        return;
    }
    // A node of which nothing is left may have asked for it, before others were told what the server has had since.
    if fresh && matches!(source, Source::Dump { asked } if asked < peer.pull.proves().0) {
        peer.counters.provisional.insert(key.clone());
    }
    let sure = how != How::Dump && !peer.gap;
    let none = value(cx.replica, at, cx.now.wall).is_none();
    let known = peer.counters.known(&key, base, peer.generation);
    if none && !fresh && !known.is_news_after_end(said, how) {
        return peer.counters.touch(key);
    }
    known.heard(said, cx.now.mono);
    let step = match &mut known.way {
        Way::Quiet(quiet) => {
            if guessed {
                quiet.guessed(cx.now.mono);
            }
            quiet.said(said, source, cx.now.mono)
        }
        Way::Stamped(stamped) => {
            if guessed {
                stamped.guessed(cx.now.mono);
            }
            let step = stamped.said(stamp.unwrap_or(0), said, sure, cx.now.mono);
            if fresh && how == How::Dump {
                stamped.forget_sets();
            }
            step
        }
    };
    let known_guess = known.guess();
    if let (Some(unknown), Some(guess)) = (peer.counters.unknown.get_mut(&key), known_guess) {
        *unknown = guess.min(*unknown);
    }
    if let Some(step) = step {
        count(peer.tag, at, (step, none), cx);
    }
    peer.counters.touch(key);
}

/// A server has counted so much; `none`: there is no such counter so far.
fn count(by: u32, at: (&str, &[u8]), (step, none): (i64, bool), cx: &mut Cx<'_>) {
    // An entry of 0 is a counter too.
    if step == 0 && !none {
        return;
    }
    let deadline = deadline(at.0, cx.config, cx.now.wall);
    if counter::add(cx.replica, cx.now.wall, at, step, deadline, by).is_err() {
        cx.stats.dmq_rows_refused += 1;
    }
}

/// What a server says, if a counter can be that.
fn number(said: &Value<'_>, stamp: Option<u64>) -> Option<i64> {
    let Value::Int(said) = *said else { return None };
    let stamped = stamp.is_none_or(|stamp| stamp <= VALUE_MAX as u64);
    (stamped && said.unsigned_abs() <= VALUE_MAX as u64).then_some(said)
}

/// A server dropped a counter.
pub(crate) fn delete_by_server(peer: &mut Peer, at: (&str, &[u8]), cx: &mut Cx<'_>) {
    if peer.strangers.are_counting() {
        return;
    }
    peer.counters.drop_entry(&(at.0.to_owned(), at.1.to_vec()));
    if counter::delete(cx.replica, cx.now.wall, at, peer.tag).is_err() {
        cx.stats.dmq_rows_refused += 1;
    }
}

/// A pull is over: every sum is to be compared with what the server has. One that it does not show it may have lost.
pub(crate) fn after_pull(peer: &mut Peer, cx: &Cx<'_>) {
    if !cx.config.htables.values().any(|t| t.counter) {
        return;
    }
    let keys: Vec<Key> = cx
        .replica
        .scan_tables(|table| htable::name(table).is_some_and(|n| is_counter(cx.config, n)))
        .map(|(_, cell)| (cell.table.to_owned(), cell.key.to_vec()))
        .collect();
    peer.counters.dirty.extend(keys);
    if let Some(asked) = peer.pull.shows_entries_since() {
        peer.counters.keys.values_mut().for_each(|known| known.dumped(asked));
    }
}

/// Tells the sums that may be told now.
pub(crate) fn feed_due(peers: &mut BTreeMap<PeerId, Peer>, front: &mut Front, cx: &mut Cx<'_>) {
    peers.values_mut().for_each(|peer| peer.counters.drop_ended(cx.replica, cx.now));
    for peer in peers.values_mut().filter(|p| p.may_be_fed() && !p.strangers.are_counting()) {
        let due: Vec<Key> = peer
            .counters
            .dirty
            .iter()
            .filter(|key| peer.counters.due_at(key, peer.pull.has_shown()).is_some_and(|at| at <= cx.now.mono))
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
    peer.counters.provisional.remove(&key);
    // Servers count in 32 bits.
    let sum = value(cx.replica, (&key.0, &key.1), cx.now.wall).map(|sum| sum.clamp(i32::MIN.into(), i32::MAX.into()));
    let name = htable::name(&key.0)?.as_bytes();
    if peer.lacks_tables.contains(htable::name(&key.0)?) {
        return None;
    }
    let now = cx.now.mono;
    let body = match sum {
        None => {
            peer.counters.keys.get_mut(&key)?.deleting = true;
            kdmq::htable::encode_delete(name, &key.1)
        }
        Some(sum) => match peer.counters.known_to_lack(&key, sum, peer.generation) {
            (Way::Quiet(quiet), lacks) if quiet.has(sum) && !lacks => return None,
            (Way::Quiet(quiet), _) => {
                let Some(sum) = (if cx.durable() { quiet.intends(sum) } else { Some(sum) }) else {
                    peer.counters.intents.insert(key.clone(), None);
                    peer.counters.touch(key);
                    return None;
                };
                kdmq::htable::encode_set(name, &key.1, &Value::Int(sum), None).inspect(|_| quiet.sent(sum))
            }
            (Way::Stamped(stamped), lacks) => match stamped.next(sum, lacks, now) {
                Next::Nothing => return None,
                Next::Later => {
                    peer.counters.touch(key);
                    return None;
                }
                Next::Set { stamp, value } => kdmq::htable::encode_set(name, &key.1, &Value::Int(value), Some(stamp))
                    .inspect(|_| stamped.sent(stamp, value, now)),
            },
        },
    };
    match body {
        Ok(body) => Some(feed::counter_request(peer, key, body, now)),
        Err(_) => {
            cx.stats.dmq_unsendable += 1;
            None
        }
    }
}

/// A request about a counter has ended.
pub(crate) fn told(peer: &mut Peer, key: &Key, how: Told, cx: &mut Cx<'_>) {
    let mut again = true;
    if let Told::Refused(code) = how {
        cx.stats.dmq_refused += 1;
        // It may be the stamp that it refused, as 5.6 would. Asking for anything else once more would not help.
        again = code == 400 && !peer.counters.stampless;
        match htable::name(&key.0) {
            Some(name) if code == 500 => _ = peer.lacks_tables.insert(name.to_owned()),
            _ if again => peer.counters.is_stampless(cx.now.mono),
            _ => {}
        }
    }
    let Some(known) = peer.counters.keys.get_mut(key) else { return };
    let deleted = known.deleting && matches!(how, Told::Seen { .. });
    known.end(how, cx.now.mono);
    peer.counters.unsaved.insert(key.clone());
    if deleted {
        peer.counters.keys.remove(key);
    }
    // What was counted meanwhile has changed the sum again, and half of it may have been told.
    if again {
        peer.counters.touch(key.clone());
    }
}

/// When a sum is to be told; `None` also while no more requests may be open: the end of one makes us look.
pub(crate) fn next_wakeup(peer: &Peer, config: &DmqConfig) -> Option<Mono> {
    let full = peer.feed.requests() >= config.window && !planted::on(Bug::WokenForNothing);
    if full || !peer.may_be_fed() || peer.strangers.are_counting() {
        return None;
    }
    let shown = peer.pull.has_shown();
    peer.counters.dirty.iter().filter_map(|key| peer.counters.due_at(key, shown)).min()
}
