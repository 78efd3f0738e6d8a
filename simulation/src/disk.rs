//! A node's disk: batches whole or not at all, and what crashes and old backups do to them.

use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use node::{Batch, Mono, Restored, Tree};

use crate::rng::Rng;
use crate::script::DiskLoss;

/// How long writing a batch takes, microseconds, and what is added at random.
const WRITE_US: (u64, u64) = (1_200, 800);

/// How old a backup is, milliseconds: at least, and what is added at random.
const BACKUP_MS: (u64, u64) = (30_000, 270_000);

/// The largest number of batches that a lost fsync takes away.
const LOST_BATCHES: u64 = 4;

type Key = (Tree, Vec<u8>);

/// What undoes a batch.
#[derive(Debug)]
struct Undo {
    at: Mono,
    before: Vec<(Key, Option<Bytes>)>,
}

/// A disk.
#[derive(Debug)]
pub(crate) struct Disk {
    entries: HashMap<Key, Bytes, FixedState>,
    /// The batches that were written, oldest first, if an older state may be asked for.
    history: Option<Vec<Undo>>,
    /// The batch that is being written.
    pub flying: Option<Batch>,
    /// How many faults make writing fail.
    pub failing: u32,
    /// What slows it down: the fault and milliseconds per batch.
    pub slow: Vec<(u32, u64)>,
    rng: Rng,
}

impl Disk {
    /// An empty one. `history`: an older state may be asked for.
    pub(crate) fn new(rng: Rng, history: bool) -> Self {
        Self {
            entries: HashMap::with_hasher(FixedState::with_seed(0)),
            history: history.then(Vec::new),
            flying: None,
            failing: 0,
            slow: Vec::new(),
            rng,
        }
    }

    /// How long the next batch takes, microseconds.
    pub(crate) fn write_us(&mut self) -> u64 {
        let slow = self.slow.iter().map(|(_, ms)| *ms).max().unwrap_or(0);
        WRITE_US.0 + self.rng.below(WRITE_US.1) + slow * 1_000
    }

    /// The batch under way has had its time. Says whether it counts as written; where writing fails, some are there all the
    /// same.
    pub(crate) fn finish(&mut self, batch: Batch, now: Mono) -> bool {
        self.flying = None;
        let fails = self.failing > 0;
        if !fails || self.rng.permille(300) {
            self.apply(batch, now);
        }
        !fails
    }

    fn apply(&mut self, batch: Batch, now: Mono) {
        let mut before = Vec::new();
        for (tree, key, value) in batch.puts {
            let key = (tree, key);
            if self.history.is_none() {
                match value {
                    Some(value) => drop(self.entries.insert(key, value)),
                    None => drop(self.entries.remove(&key)),
                }
                continue;
            }
            let old = match value {
                Some(value) => self.entries.insert(key.clone(), value),
                None => self.entries.remove(&key),
            };
            before.push((key, old));
        }
        if let Some(history) = &mut self.history {
            history.push(Undo { at: now, before });
        }
    }

    /// The process is gone, and this is what becomes of its disk. Says whether anything that was called written is lost.
    pub(crate) fn crash(&mut self, loss: DiskLoss, now: Mono) -> bool {
        let flying = self.flying.take();
        match loss {
            DiskLoss::None => false,
            DiskLoss::Tail => {
                if let Some(batch) = flying {
                    self.apply(batch, now);
                }
                false
            }
            DiskLoss::LostFsync => {
                let lost = 1 + self.rng.below(LOST_BATCHES) as usize;
                self.undo(|history| history.len().saturating_sub(lost))
            }
            DiskLoss::Backup => {
                let age = BACKUP_MS.0 + self.rng.below(BACKUP_MS.1);
                self.undo(|history| history.partition_point(|undo| now.ms_since(undo.at) >= age))
            }
            DiskLoss::Torn => self.tear(),
            DiskLoss::Wiped => {
                let any = !self.entries.is_empty();
                self.entries.clear();
                self.history.iter_mut().for_each(Vec::clear);
                any
            }
        }
    }

    /// Takes back all batches from the one that `from` says.
    fn undo(&mut self, from: impl FnOnce(&[Undo]) -> usize) -> bool {
        let Some(history) = &mut self.history else { return false };
        let taken = history.split_off(from(history).min(history.len()));
        let any = !taken.is_empty();
        for undo in taken.into_iter().rev() {
            for (key, old) in undo.before.into_iter().rev() {
                match old {
                    Some(old) => drop(self.entries.insert(key, old)),
                    None => drop(self.entries.remove(&key)),
                }
            }
        }
        any
    }

    /// An entry loses its end. Mostly a cell's.
    fn tear(&mut self) -> bool {
        let tree = if self.rng.permille(850) { Tree::Cells } else { Tree::Meta };
        let mut keys: Vec<&Key> = self.entries.keys().filter(|(of, _)| *of == tree).collect();
        keys.sort();
        if keys.is_empty() {
            return false;
        }
        let key = keys[self.rng.below(keys.len() as u64) as usize].clone();
        let Some(value) = self.entries.get_mut(&key) else { return false };
        value.truncate(self.rng.below(value.len() as u64) as usize);
        true
    }

    /// What a process that starts now finds.
    pub(crate) fn load(&self) -> Restored {
        let mut entries: Vec<_> =
            self.entries.iter().map(|((tree, key), value)| (*tree, key.clone(), value.to_vec())).collect();
        entries.sort();
        Restored { entries }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    fn disk() -> Disk {
        Disk::new(Rng::stream(1, Stream::Disk, 1), true)
    }

    fn batch(number: u64, key: &str, value: Option<&'static str>) -> Batch {
        Batch { number, puts: vec![(Tree::Cells, key.into(), value.map(Bytes::from))] }
    }

    fn held(disk: &Disk) -> Vec<(String, String)> {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        disk.load().entries.into_iter().map(|(_, key, value)| (text(key), text(value))).collect()
    }

    #[test]
    fn the_batch_under_way_is_lost_in_a_crash_or_there_as_a_whole() {
        for (loss, left) in [(DiskLoss::None, 1), (DiskLoss::Tail, 2)] {
            let mut disk = disk();
            assert!(disk.finish(batch(1, "a", Some("1")), Mono(1)));
            disk.flying = Some(batch(2, "b", Some("2")));
            assert!(!disk.crash(loss, Mono(2)));
            assert_eq!(held(&disk).len(), left);
        }
    }

    #[test]
    fn a_backup_is_the_state_of_some_minutes_ago() {
        let mut disk = disk();
        disk.finish(batch(1, "a", Some("old")), Mono(0));
        disk.finish(batch(2, "a", Some("new")), Mono(299_000_000));
        disk.finish(batch(3, "b", Some("new")), Mono(299_000_000));
        assert!(disk.crash(DiskLoss::Backup, Mono(301_000_000)));
        assert_eq!(held(&disk), [("a".to_owned(), "old".to_owned())]);
    }

    #[test]
    fn a_lost_fsync_takes_the_last_batches() {
        let mut disk = disk();
        for (number, value) in ["0", "1", "2", "3", "4", "5", "6", "7"].into_iter().enumerate() {
            disk.finish(batch(number as u64, "k", Some(value)), Mono(number as u64));
        }
        assert!(disk.crash(DiskLoss::LostFsync, Mono(9)));
        let left = &held(&disk)[0].1;
        assert!(["3", "4", "5", "6"].contains(&left.as_str()), "{left}");
    }

    #[test]
    fn a_failing_disk_refuses_batches_and_keeps_some_of_them() {
        let mut disk = disk();
        disk.failing = 1;
        let keys: Vec<String> = (0..100).map(|n| format!("k{n:02}")).collect();
        assert!(keys.iter().all(|key| !disk.finish(batch(1, key, Some("v")), Mono(0))));
        assert!((10..60).contains(&held(&disk).len()));
    }

    #[test]
    fn a_torn_entry_is_shorter_than_it_was() {
        let mut disk = disk();
        for n in 0..20 {
            disk.finish(batch(n, &format!("k{n}"), Some("value")), Mono(0));
        }
        while !disk.crash(DiskLoss::Torn, Mono(1)) {}
        assert_eq!(held(&disk).iter().filter(|(_, value)| value != "value").count(), 1);
    }
}
