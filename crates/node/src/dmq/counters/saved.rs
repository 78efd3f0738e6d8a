//! What of a server's counters is on disk, so that a process that restarts counts what the server counted meanwhile, and nothing
//! twice. Invariant: what is not settled is never saved as counted (see [`super::unknown`]).

use crdt::{Origin, Replica, counter};
use serde::{Deserialize, Serialize};

use super::quiet::Quiet;
use super::stamped::Stamped;
use super::{Counters, Key, Known, Way};
use crate::io::Mono;

/// What goes to disk of a counter: with it a process that restarts counts what the server counted meanwhile, and nothing twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Saved {
    /// What the server has that is counted already.
    base: i64,
    /// The newest stamp, of a server that stamps its writes.
    stamp: Option<u64>,
    /// The sums that may have arrived, or not.
    telling: Vec<i64>,
    /// The process that says so, and the sequence of its last write of this counter.
    origin: u64,
    own: u64,
}

impl Counters {
    /// What has changed since the last call, for the disk; `None` deletes.
    pub(crate) fn take_unsaved(&mut self, replica: &Replica) -> Vec<(Key, Option<Saved>)> {
        if self.unsaved.is_empty() {
            return Vec::new();
        }
        let origin = replica.origin();
        let saved = |(table, key): &Key, known: &Known| {
            let ((base, telling), stamp) = match &known.way {
                Way::Quiet(quiet) => (quiet.saved(), None),
                Way::Stamped(stamped) => ((stamped.saved().0, Vec::new()), Some(stamped.saved().1)),
            };
            Saved { base, stamp, telling, origin: origin.0, own: counter::last_write(replica, table, key, origin) }
        };
        // What is not settled must not be taken for counted by the next process.
        let unsettled = self.unsaved.iter().filter(|key| self.unknown.contains_key(*key)).cloned().collect();
        let unsaved = std::mem::replace(&mut self.unsaved, unsettled);
        let unsaved = unsaved.into_iter().filter(|key| !self.unknown.contains_key(key));
        unsaved.map(|key| (key.clone(), self.keys.get(&key).map(|known| saved(&key, known)))).collect()
    }

    /// Once this process has caught up with the others: what was restored is void where others show that the process that had
    /// saved it went on counting, and the disk has lost that.
    pub(crate) fn verify(&mut self, replica: &Replica) {
        for (key, saved) in std::mem::take(&mut self.restored) {
            if counter::last_write(replica, &key.0, &key.1, Origin(saved.origin)) != saved.own {
                self.keys.remove(&key);
            }
            self.unsaved.insert(key);
        }
    }

    /// Takes up what was on disk. What was under way is told again, if it still has to be.
    pub(crate) fn restore(&mut self, key: Key, saved: Saved, now: Mono) {
        let way = match saved.stamp {
            None => Way::Quiet(Quiet::restore(saved.base, saved.telling.clone(), now)),
            Some(stamp) => Way::Stamped(Stamped::restore(saved.base, stamp)),
        };
        self.keys.insert(key.clone(), Known::new(way, saved.base != 0));
        self.restored.insert(key.clone(), saved);
        self.dirty.insert(key);
    }
}
