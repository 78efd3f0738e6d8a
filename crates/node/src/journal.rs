//! What goes to disk, and when something is there.
//!
//! The journal collects the cells that changed, by slot, and writes them in batches: at most one is out at a time, and
//! the next one leaves as soon as it is back and there is something to write. So a burst costs one fsync per round trip
//! to the disk, not one per write (group commit).
//!
//! **Invariant:** every batch that holds cells holds the clock that covers them, so that on disk both change together or
//! not at all; a batch holds every cell that changed before it, so the disk never covers a dot whose cell it lacks. What the
//! disk refused is offered again with the next batch.
//!
//! Without a disk nothing is collected, and every write counts as done at once.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use crdt::planted::{self, Bug};
use crdt::{Cause, CellRef, Change, Clock, Meta, MetaRef, Slot};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cx::Cx;
use crate::io::{Batch, Level, Mono, Output, Restored, Tree};

/// How long the journal waits after a refused batch, milliseconds.
const RETRY_MS: u64 = 1_000;

/// Collects what changed and hands it to the disk.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    durable: bool,
    news: Content,
    /// Something waits for a batch, whether or not anything changed.
    wanted: bool,
    flying: Option<Flying>,
    /// Number of the last batch that was handed out.
    last: u64,
    /// Number of the last batch that is on disk.
    done: u64,
    retry_at: Option<Mono>,
    /// The replica's metadata as it was last handed out; `None`: all of it goes with the next batch.
    written: Option<Meta>,
}

/// Writes by name; the last one to a key counts.
#[derive(Debug, Default)]
struct Content {
    slots: BTreeSet<Slot>,
    /// Keys of cells that are forgotten, or are none.
    forgotten: BTreeSet<Vec<u8>>,
    puts: BTreeMap<(Tree, Vec<u8>), Option<Bytes>>,
}

#[derive(Debug)]
struct Flying {
    number: u64,
    content: Content,
    clock: Clock,
}

/// What a disk held, sorted by whom it concerns.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The replica's metadata; `None` on a fresh disk.
    pub meta: Option<Meta>,
    /// Canonical cells, and their keys.
    pub cells: Vec<Box<[u8]>>,
    pub keys: Vec<Vec<u8>>,
    /// Everything that others put, by tree and key.
    pub puts: Vec<(Tree, Vec<u8>, Vec<u8>)>,
    /// Entries that make no sense.
    pub unreadable: u64,
}

/// Keys of [`Tree::Meta`] that belong to the replica start with this.
const REPLICA: &[u8] = b"replica/";

impl Journal {
    /// A journal with nothing to write.
    pub(crate) fn new(durable: bool) -> Self {
        Self { durable, ..Self::default() }
    }

    /// Collects changes. Call with every batch of `drain_changes`, before a slot can be used again.
    pub(crate) fn on_changes(&mut self, changes: &[Change], cx: &mut Cx<'_>) {
        if !self.durable {
            return;
        }
        for change in changes {
            match (&change.cause, &change.old) {
                (Cause::Expired, _) => {}
                (Cause::Forgotten, Some(old)) => {
                    self.news.slots.remove(&change.slot);
                    match CellRef::decode(old) {
                        Ok(cell) => drop(self.news.forgotten.insert(cell_key(&cell))),
                        Err(error) => cx.log(Level::Error, format!("a held cell does not decode: {error}")),
                    }
                }
                _ => drop(self.news.slots.insert(change.slot)),
            }
        }
    }

    /// Writes something that is no cell: a server's book, the roster. `None` deletes.
    pub(crate) fn put(&mut self, tree: Tree, key: Vec<u8>, value: Option<Bytes>) {
        if self.durable {
            self.news.puts.insert((tree, key), value);
        }
    }

    /// Takes an entry off the disk that is no cell: otherwise each start would find the disk damaged, and believe its clock no
    /// more.
    pub(crate) fn discard(&mut self, key: Vec<u8>) {
        if self.durable {
            self.news.forgotten.insert(key);
        }
    }

    /// A ticket for everything written until now, changes that are not drained yet included.
    pub(crate) fn wait(&mut self) -> u64 {
        if !self.durable {
            return 0;
        }
        self.wanted = true;
        self.last + 1
    }

    /// Whether what the ticket stands for is on disk.
    pub(crate) fn done(&self, ticket: u64) -> bool {
        !self.durable || self.done >= ticket
    }

    /// Whether everything is on disk; `None` without one.
    pub(crate) fn clean(&self) -> Option<bool> {
        self.durable.then(|| self.flying.is_none() && !self.dirty())
    }

    fn dirty(&self) -> bool {
        let Content { slots, forgotten, puts } = &self.news;
        self.wanted || !slots.is_empty() || !forgotten.is_empty() || !puts.is_empty()
    }

    /// Hands out the next batch if the disk is free and there is something to write. Call after each input.
    pub(crate) fn flush(&mut self, cx: &mut Cx<'_>) {
        let due = self.retry_at.is_none_or(|at| at <= cx.now.mono);
        if !self.durable || self.flying.is_some() || !due || !self.dirty() {
            return;
        }
        self.retry_at = None;
        self.wanted = false;
        self.last += 1;
        let mut content = std::mem::take(&mut self.news);
        if planted::on(Bug::ClockBeforeCells) && self.last % 2 == 1 {
            self.news.slots = std::mem::take(&mut content.slots);
        }
        let puts = self.encode(&content, cx);
        cx.stats.journal_batches += 1;
        cx.out.push_back(Output::Persist(Batch { number: self.last, puts }));
        let clock = cx.replica.clock().clone();
        self.flying = Some(Flying { number: self.last, content, clock });
    }

    fn encode(&mut self, content: &Content, cx: &mut Cx<'_>) -> Vec<(Tree, Vec<u8>, Option<Bytes>)> {
        let mut puts = Vec::with_capacity(content.slots.len() + content.forgotten.len() + content.puts.len() + 1);
        let mut gone = content.forgotten.clone();
        for &slot in &content.slots {
            let (Some(cell), Some(bytes)) = (cx.replica.cell(slot), cx.replica.bytes(slot)) else { continue };
            let key = cell_key(&cell);
            gone.remove(&key);
            puts.push((Tree::Cells, key, Some(Bytes::copy_from_slice(bytes))));
        }
        cx.stats.journal_cells += puts.len() as u64;
        puts.extend(gone.into_iter().map(|key| (Tree::Cells, key, None)));
        puts.extend(content.puts.iter().map(|((tree, key), value)| (*tree, key.clone(), value.clone())));
        for (name, value) in changed_parts(&mut self.written, cx.replica.meta_ref()) {
            puts.push((Tree::Meta, [REPLICA, name.as_bytes()].concat(), Some(value)));
        }
        puts
    }

    /// A batch is on disk. Says whether it was one of ours.
    pub(crate) fn persisted(&mut self, batch: u64, cx: &mut Cx<'_>) -> bool {
        let Some(flying) = self.flying.take_if(|flying| flying.number == batch) else { return false };
        self.done = batch;
        cx.replica.persisted(&flying.clock);
        true
    }

    /// A batch could not be written: its content goes with the next one, after a second.
    pub(crate) fn persist_failed(&mut self, batch: u64, reason: &str, cx: &mut Cx<'_>) {
        let Some(mut flying) = self.flying.take_if(|flying| flying.number == batch) else { return };
        cx.stats.journal_failures += 1;
        cx.log(Level::Error, format!("the disk refused a batch, it is offered again in a second: {reason}"));
        let news = std::mem::take(&mut self.news);
        flying.content.slots.extend(news.slots);
        flying.content.forgotten.extend(news.forgotten);
        flying.content.puts.extend(news.puts);
        self.news = flying.content;
        self.wanted = true;
        self.written = None;
        self.retry_at = Some(cx.now.mono.plus_ms(RETRY_MS));
    }

    /// When [`Journal::flush`] has something to do that no input will bring.
    pub(crate) fn next_wakeup(&self) -> Option<Mono> {
        self.retry_at
    }

    /// Sorts what the disk held by whom it concerns.
    pub(crate) fn sort(restored: Restored) -> Found {
        let mut found = Found::default();
        let mut parts = BTreeMap::new();
        for (tree, key, value) in restored.entries {
            match tree {
                Tree::Cells => {
                    found.cells.push(value.into_boxed_slice());
                    found.keys.push(key);
                }
                Tree::Meta if key.starts_with(REPLICA) => drop(parts.insert(key[REPLICA.len()..].to_vec(), value)),
                Tree::Meta | Tree::Books => found.puts.push((tree, key, value)),
            }
        }
        match meta_from(&parts) {
            Ok(meta) => found.meta = meta,
            // The cells say what they cover; peers are asked for everything else (R6).
            Err(_) => {
                found.unreadable += 1;
                found.meta = Some(Meta::default());
            }
        }
        found
    }
}

/// The key of a cell on disk: its id, each part with its length, so that no two ids share a key.
fn cell_key(cell: &CellRef<'_>) -> Vec<u8> {
    let mut key = Vec::with_capacity(cell.table.len() + cell.key.len() + cell.member.len() + 3);
    key.push(cell.table.len() as u8);
    key.extend_from_slice(cell.table.as_bytes());
    key.extend_from_slice(&(cell.key.len() as u16).to_be_bytes());
    key.extend_from_slice(cell.key);
    key.extend_from_slice(cell.member);
    key
}

/// The replica's metadata in parts, each of which is written when it changed. `written` is what the last call gave out.
fn changed_parts(written: &mut Option<Meta>, meta: MetaRef<'_>) -> Vec<Part> {
    let everything = written.is_none();
    let last = written.get_or_insert_with(Meta::default);
    let mut parts = Vec::new();
    let mut who = (last.node, last.origin);
    part(&mut parts, everything, "who", &mut who, &(meta.node, meta.origin));
    (last.node, last.origin) = who;
    part(&mut parts, everything, "clock", &mut last.clock, meta.clock);
    part(&mut parts, everything, "forgotten", &mut last.forgotten, meta.forgotten);
    let floors = last.floors.iter().map(|(table, floor)| (&**table, *floor));
    if everything || !floors.eq(meta.floors.iter().copied()) {
        part(&mut parts, true, "floors", &mut last.floors, &meta.floors());
    }
    part(&mut parts, everything, "hlc", &mut last.hlc, &meta.hlc);
    part(&mut parts, everything, "roster", &mut last.roster, meta.roster);
    part(&mut parts, everything, "closed", &mut last.closed, meta.closed);
    part(&mut parts, everything, "retired", &mut last.retired, meta.retired);
    parts
}

type Part = (&'static str, Bytes);

fn part<T>(parts: &mut Vec<Part>, wanted: bool, name: &'static str, last: &mut T, now: &T)
where
    T: Clone + PartialEq + Serialize,
{
    if wanted || last != now {
        let bytes = postcard::to_extend(now, Vec::with_capacity(256)).expect("metadata serialises");
        parts.push((name, bytes.into()));
        last.clone_from(now);
    }
}

/// Puts the parts together again; `None` on a fresh disk.
fn meta_from(parts: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Option<Meta>, postcard::Error> {
    fn part<T: DeserializeOwned>(parts: &BTreeMap<Vec<u8>, Vec<u8>>, name: &str) -> Result<T, postcard::Error> {
        let missing = postcard::Error::DeserializeUnexpectedEnd;
        postcard::from_bytes(parts.get(name.as_bytes()).ok_or(missing)?)
    }
    if parts.is_empty() {
        return Ok(None);
    }
    let (node, origin) = part(parts, "who")?;
    Ok(Some(Meta {
        node,
        origin,
        clock: part(parts, "clock")?,
        forgotten: part(parts, "forgotten")?,
        floors: part(parts, "floors")?,
        hlc: part(parts, "hlc")?,
        roster: part(parts, "roster")?,
        closed: part(parts, "closed")?,
        retired: part(parts, "retired")?,
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use crdt::{NodeId, Origin, Replica, Rules, StampRule, TableRules, Wall, Write};

    use super::*;
    use crate::config::Config;
    use crate::cx::Stats;
    use crate::io::Now;

    struct Bench {
        config: Config,
        replica: Replica,
        out: VecDeque<Output>,
        stats: Stats,
        journal: Journal,
        now: Now,
    }

    impl Bench {
        fn new() -> Self {
            let config = crate::mesh::test_config(0, true);
            let rules = Rules::new(1, 1).table("t", TableRules::by_time(60));
            Self {
                replica: Replica::new(NodeId(1), Origin(1), rules, 1),
                config,
                out: VecDeque::new(),
                stats: Stats::default(),
                journal: Journal::new(true),
                now: Now { mono: Mono(0), wall: Wall(1_000_000) },
            }
        }

        fn with<T>(&mut self, act: impl FnOnce(&mut Journal, &mut Cx<'_>) -> T) -> T {
            let Self { config, replica, out, stats, journal, now } = self;
            act(journal, &mut Cx { now: *now, config, replica, out, stats })
        }

        fn set(&mut self, key: &str) {
            let write = Write {
                table: "t",
                key: key.as_bytes(),
                member: b"",
                rank: 0,
                stamp: StampRule::Now,
                deadline: Some(1_030),
                body: Some(b"v"),
                via: 0,
                birth: None,
            };
            self.replica.write(self.now.wall, write).unwrap();
            self.settle();
        }

        fn settle(&mut self) {
            let changes = self.replica.drain_changes();
            self.with(|journal, cx| {
                journal.on_changes(&changes, cx);
                journal.flush(cx);
            });
        }

        fn batch(&mut self) -> Option<Batch> {
            self.out.pop_front().map(|output| match output {
                Output::Persist(batch) => batch,
                other => panic!("{other:?}"),
            })
        }
    }

    fn cells(batch: &Batch) -> Vec<&[u8]> {
        let of_cells = batch.puts.iter().filter(|(tree, ..)| *tree == Tree::Cells);
        of_cells.map(|(_, key, _)| key.as_slice()).collect()
    }

    #[test]
    fn a_batch_with_a_cell_has_the_clock_that_covers_it() {
        let mut bench = Bench::new();
        bench.set("k");
        let batch = bench.batch().unwrap();
        assert_eq!(cells(&batch), [b"\x01t\x00\x01k"]);
        let clock = batch.puts.iter().find(|(_, key, _)| key == b"replica/clock").unwrap().2.clone().unwrap();
        assert_eq!(&postcard::from_bytes::<Clock>(&clock).unwrap(), bench.replica.clock());
    }

    #[test]
    fn one_batch_is_out_at_a_time_and_the_next_takes_all_that_came_meanwhile() {
        let mut bench = Bench::new();
        bench.set("a");
        let first = bench.batch().unwrap();
        for key in ["b", "c", "b"] {
            bench.set(key);
        }
        assert!(bench.batch().is_none());
        let ticket = bench.journal.wait();
        assert!(bench.with(|journal, cx| journal.persisted(first.number, cx)));
        assert!(!bench.journal.done(ticket));
        bench.settle();
        let second = bench.batch().unwrap();
        assert_eq!(cells(&second).len(), 2);
        bench.with(|journal, cx| journal.persisted(second.number, cx));
        assert!(bench.journal.done(ticket));
        assert_eq!(bench.journal.clean(), Some(true));
    }

    #[test]
    fn a_forgotten_cell_leaves_the_disk() {
        let mut bench = Bench::new();
        bench.set("k");
        let first = bench.batch().unwrap();
        bench.with(|journal, cx| journal.persisted(first.number, cx));
        bench.now.wall = Wall(1_200_000);
        while bench.replica.tick(bench.now.wall) {}
        bench.settle();
        let batch = bench.batch().unwrap();
        let deleted = batch
            .puts
            .iter()
            .any(|(tree, key, value)| (*tree, key.as_slice(), value) == (Tree::Cells, b"\x01t\x00\x01k", &None));
        assert!(deleted, "{batch:?}");
    }

    #[test]
    fn a_refused_batch_is_offered_again_after_a_second_with_what_came_meanwhile() {
        let mut bench = Bench::new();
        bench.set("a");
        let ticket = bench.journal.wait();
        let first = bench.batch().unwrap();
        bench.set("b");
        bench.with(|journal, cx| journal.persist_failed(first.number, "full", cx));
        bench.out.clear();
        bench.settle();
        assert!(bench.batch().is_none());
        assert_eq!(bench.journal.next_wakeup(), Some(Mono(1_000_000)));
        bench.now.mono = Mono(1_000_000);
        bench.settle();
        let second = bench.batch().unwrap();
        assert_eq!(cells(&second).len(), 2);
        assert!(second.puts.iter().any(|(_, key, _)| key == b"replica/who"), "unchanged parts are offered again");
        bench.with(|journal, cx| journal.persisted(second.number, cx));
        assert!(bench.journal.done(ticket));
    }

    #[test]
    fn what_is_on_disk_restores_the_replica() {
        let mut bench = Bench::new();
        bench.set("k");
        bench.journal.put(Tree::Books, b"server".to_vec(), Some(Bytes::from_static(b"book")));
        let first = bench.batch().unwrap();
        bench.with(|journal, cx| journal.persisted(first.number, cx));
        bench.settle();
        let second = bench.batch().unwrap();
        let puts = first.puts.into_iter().chain(second.puts);
        let entries = puts.filter_map(|(tree, key, value)| Some((tree, key, value?.to_vec()))).collect();
        let found = Journal::sort(Restored { entries });
        assert_eq!(found.unreadable, 0);
        assert_eq!(found.puts, [(Tree::Books, b"server".to_vec(), b"book".to_vec())]);
        let mut again = Replica::new(NodeId(1), Origin(2), bench.replica.rules().clone(), 1);
        let restored = again.restore(found.meta.unwrap(), found.cells);
        assert_eq!((restored.cells, restored.damaged.len()), (1, 0));
        assert_eq!(again.clock(), bench.replica.clock());
    }

    #[test]
    fn an_entry_that_is_no_cell_leaves_the_disk_with_the_next_batch() {
        let mut bench = Bench::new();
        let entries = vec![(Tree::Cells, b"key".to_vec(), vec![9]), (Tree::Meta, b"replica/clock".to_vec(), vec![0])];
        let found = Journal::sort(Restored { entries });
        let restored = bench.replica.restore(found.meta.unwrap(), found.cells);
        assert_eq!(restored.damaged, [0]);
        bench.journal.discard(found.keys[0].clone());
        bench.settle();
        let batch = bench.batch().unwrap();
        assert!(batch.puts.contains(&(Tree::Cells, b"key".to_vec(), None)), "{batch:?}");
        assert!(batch.puts.iter().any(|(_, key, _)| key == b"replica/clock"), "with the clock that is believed");
    }

    #[test]
    fn a_damaged_part_is_counted_and_only_the_cells_are_believed() {
        let entries = vec![(Tree::Meta, b"replica/clock".to_vec(), vec![9])];
        let found = Journal::sort(Restored { entries });
        assert_eq!((found.unreadable, found.meta), (1, Some(Meta::default())));
    }

    #[test]
    fn without_a_disk_everything_is_done_at_once() {
        let mut journal = Journal::new(false);
        let ticket = journal.wait();
        assert!(journal.done(ticket));
        assert_eq!(journal.clean(), None);
    }
}
