//! What is known of the servers' hash tables: whether their entries expire by themselves.
//!
//! The configuration says it, or a dump shows it: an entry with `expire` 0 belongs to a table
//! without `autoexpire`, and one whose set we heard tells the seconds. Live messages say nothing.

use std::collections::BTreeMap;

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

/// Facts of all tables.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    learned: BTreeMap<String, Expiry>,
}

/// More tables than this are not remembered; names come from outside.
const MAX_TABLES: usize = 4_096;

impl Facts {
    /// How entries of this table expire.
    pub(crate) fn expiry(&self, config: &Config, name: &str) -> Expiry {
        match config.htables.get(name) {
            Some(table) if table.autoexpire_s > 0 => Expiry::After(table.autoexpire_s),
            _ => self.learned.get(name).copied().unwrap_or_default(),
        }
    }

    /// A dump showed an entry of this table; `set_at` is when it was last set, if we heard that. An entry
    /// that never expires says nothing where others do: it was made so by an expiry of 0.
    pub(crate) fn learn(&mut self, name: &str, expire: u64, set_at: Option<u64>) {
        let known = self.learned.get(name).copied().unwrap_or_default();
        let fact = match (set_at, known) {
            (_, Expiry::Unknown) if expire == 0 => Expiry::Never,
            _ if expire == 0 => return,
            (Some(at), Expiry::Unknown | Expiry::Never) if expire > at => {
                Expiry::After(u32::try_from(expire - at).unwrap_or(u32::MAX))
            }
            (_, Expiry::Never) => Expiry::Unknown,
            _ => return,
        };
        if self.learned.len() < MAX_TABLES || self.learned.contains_key(name) {
            self.learned.insert(name.to_owned(), fact);
        }
    }

    /// The deadline of an entry that is set now, and held until `held` so far.
    pub(crate) fn deadline_of_set(&self, config: &Config, name: &str, now_s: u64, held: Option<u64>) -> Option<u64> {
        let restarts = config.htables.get(name).is_none_or(|t| t.updateexpire);
        match (self.expiry(config, name), held) {
            (Expiry::After(_), Some(held)) if !restarts && held > now_s => Some(held),
            (Expiry::After(seconds), _) => Some(now_s + u64::from(seconds)),
            (Expiry::Never | Expiry::Unknown, _) => None,
        }
    }
}
