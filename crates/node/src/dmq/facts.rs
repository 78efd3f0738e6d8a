//! What is known of the servers' hash tables: whether their entries expire by themselves.
//!
//! The configuration says it, or a dump shows it: an entry with `expire` 0 belongs to a table
//! without `autoexpire`, and one whose set we heard tells the seconds. Live messages say nothing.

use std::collections::BTreeMap;

use super::peer::PeerId;
use crate::config::Config;

/// Whether a table's entries expire by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// Nothing shows it yet.
    #[default]
    Unknown,
    /// No `autoexpire`: an expiry set on an entry is ignored by servers.
    Never,
    /// `autoexpire` in seconds.
    After(u32),
}

/// Facts of all servers' tables. What one server shows says nothing about the entries of another, whose table may be
/// defined otherwise.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    learned: BTreeMap<PeerId, BTreeMap<String, Expiry>>,
}

/// More tables of a server than this are not remembered; names come from outside.
const MAX_TABLES: usize = 4_096;

impl Facts {
    /// How entries of this table expire, as far as the servers agree.
    pub(crate) fn common(&self, config: &Config, name: &str) -> Expiry {
        if let Some(known) = configured(config, name) {
            return known;
        }
        let mut known = self.learned.values().filter_map(|of| of.get(name)).filter(|e| **e != Expiry::Unknown);
        let first = known.next().copied().unwrap_or_default();
        if known.all(|other| *other == first) { first } else { Expiry::Unknown }
    }

    /// How entries of this table expire at a server.
    pub(crate) fn of(&self, config: &Config, server: PeerId, name: &str) -> Expiry {
        configured(config, name).or_else(|| self.learned.get(&server)?.get(name).copied()).unwrap_or_default()
    }

    /// The server has restarted, or is gone: its tables may be others.
    pub(crate) fn forget(&mut self, server: PeerId) {
        self.learned.remove(&server);
    }

    /// A dump of a server showed an entry of this table; `set_at` is when it was last set, if we heard that. An entry
    /// that never expires says nothing where others do: it was made so by an expiry of 0.
    pub(crate) fn learn(&mut self, server: PeerId, name: &str, expire: u64, set_at: Option<u64>) {
        let learned = self.learned.entry(server).or_default();
        let known = learned.get(name).copied().unwrap_or_default();
        let fact = match (set_at, known) {
            (_, Expiry::Unknown) if expire == 0 => Expiry::Never,
            _ if expire == 0 => return,
            (Some(at), Expiry::Unknown | Expiry::Never) if expire > at => {
                Expiry::After(u32::try_from(expire - at).unwrap_or(u32::MAX))
            }
            (_, Expiry::Never) => Expiry::Unknown,
            _ => return,
        };
        if learned.len() < MAX_TABLES || learned.contains_key(name) {
            learned.insert(name.to_owned(), fact);
        }
    }
}

fn configured(config: &Config, name: &str) -> Option<Expiry> {
    config.htables.get(name).filter(|table| table.autoexpire_s > 0).map(|table| Expiry::After(table.autoexpire_s))
}

impl Expiry {
    /// The deadline of an entry that is set now, and held until `held` so far.
    pub(crate) fn of_set(self, config: &Config, name: &str, now_s: u64, held: Option<u64>) -> Option<u64> {
        let restarts = config.htables.get(name).is_none_or(|t| t.updateexpire);
        match (self, held) {
            (Self::After(_), Some(held)) if !restarts && held > now_s => Some(held),
            (Self::After(seconds), _) => Some(now_s + u64::from(seconds)),
            (Self::Never | Self::Unknown, _) => None,
        }
    }
}
