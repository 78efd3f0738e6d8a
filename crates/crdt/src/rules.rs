//! How tables forget. All nodes of a cluster must have the same rules: they show each other [`Rules::fingerprint`].

use std::collections::BTreeMap;

use crate::ids::Wall;

/// How a table's dead cells are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forget {
    /// By the time of the write (R1): every live version has a deadline of at most `max_ttl` seconds after its stamp.
    ByTime {
        /// Seconds. It may be raised in a running cluster, never lowered: a version under the old value would outlive
        /// the winner that a node with the new value forgot.
        max_ttl: u32,
    },
    /// By causal stability (R5): when every member is known to have the tombstone.
    Stable,
}

/// The rules of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableRules {
    /// How its dead cells are forgotten.
    pub forget: Forget,
    /// For tables with ranks: seconds from a cell's birth to the end of all its versions. Each write then names a birth,
    /// and forgetting goes by it (R1). Only with [`Forget::ByTime`].
    pub max_life: Option<u32>,
}

impl TableRules {
    /// A table that forgets by causal stability.
    pub const STABLE: Self = Self { forget: Forget::Stable, max_life: None };

    /// A table whose live versions end at most `max_ttl` seconds after they were written.
    pub const fn by_time(max_ttl: u32) -> Self {
        Self { forget: Forget::ByTime { max_ttl }, max_life: None }
    }

    /// A table with ranks whose cells end at most `max_life` seconds after their birth.
    pub const fn by_birth(max_life: u32) -> Self {
        Self { forget: Forget::ByTime { max_ttl: max_life }, max_life: Some(max_life) }
    }
}

/// The rules of all tables, and what they hold of clocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    tables: BTreeMap<Box<str>, TableRules>,
    prefixes: BTreeMap<Box<str>, TableRules>,
    grace: u32,
    max_skew: u32,
}

impl Rules {
    /// Rules without tables: a table that is not declared is [`TableRules::STABLE`].
    ///
    /// `grace` is the number of seconds that dead cells are kept beyond their time; it is raised to twice `max_skew` if it
    /// is less (R1). `max_skew` is in milliseconds: the greatest offset between the clocks of two nodes that exchange data.
    pub fn new(grace: u32, max_skew: u32) -> Self {
        let least = max_skew.div_ceil(500);
        Self { tables: BTreeMap::new(), prefixes: BTreeMap::new(), grace: grace.max(least), max_skew }
    }

    /// Declares one table by its name.
    #[must_use]
    pub fn table(mut self, name: &str, rules: TableRules) -> Self {
        self.tables.insert(name.into(), rules);
        self
    }

    /// Declares all tables whose name starts so; a longer prefix, and a table's own name, go before a shorter one.
    #[must_use]
    pub fn prefix(mut self, prefix: &str, rules: TableRules) -> Self {
        self.prefixes.insert(prefix.into(), rules);
        self
    }

    /// The rules of a table.
    pub fn of(&self, table: &str) -> TableRules {
        if let Some(rules) = self.tables.get(table) {
            return *rules;
        }
        let by_prefix = self.prefixes.iter().filter(|(prefix, _)| table.starts_with(&***prefix));
        by_prefix.max_by_key(|(prefix, _)| prefix.len()).map_or(TableRules::STABLE, |(_, rules)| *rules)
    }

    /// Seconds that dead cells are kept beyond their time.
    pub const fn grace(&self) -> u32 {
        self.grace
    }

    /// Milliseconds.
    pub const fn max_skew(&self) -> u32 {
        self.max_skew
    }

    /// The same on all nodes whose rules are the same, on every machine and in every version.
    pub fn fingerprint(&self) -> u64 {
        let mut text = format!("starling rules 1\ngrace {}\nmax_skew {}\n", self.grace, self.max_skew);
        for (kind, map) in [("table", &self.tables), ("prefix", &self.prefixes)] {
            for (name, rules) in map {
                let forget = match rules.forget {
                    Forget::ByTime { max_ttl } => format!("by time {max_ttl}"),
                    Forget::Stable => "stable".to_owned(),
                };
                text.push_str(&format!("{kind} {name:?} {forget} {:?}\n", rules.max_life));
            }
        }
        twox_hash::XxHash3_128::oneshot(text.as_bytes()) as u64
    }

    /// The latest stamp time, unix milliseconds, that is taken in at `now` (R3). Peers beyond `max_skew` are not talked to
    /// at all; a stamp may still have come through one peer that is ahead of us from another that is ahead of it.
    pub(crate) fn latest_ms(&self, now: Wall) -> u64 {
        now.0.saturating_add(2 * u64::from(self.max_skew))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_decides_unless_the_table_is_declared() {
        let rules = Rules::new(10, 1_000)
            .prefix("htable:", TableRules::STABLE)
            .prefix("htable:tmp", TableRules::by_time(60))
            .table("htable:tmp:x", TableRules::by_time(7));
        assert_eq!(rules.of("htable:a"), TableRules::STABLE);
        assert_eq!(rules.of("htable:tmp2"), TableRules::by_time(60));
        assert_eq!(rules.of("htable:tmp:x"), TableRules::by_time(7));
        assert_eq!(rules.of("undeclared"), TableRules::STABLE);
    }

    #[test]
    fn grace_is_at_least_twice_the_skew() {
        assert_eq!(Rules::new(0, 1_001).grace(), 3);
        assert_eq!(Rules::new(9, 1_001).grace(), 9);
    }

    #[test]
    fn the_fingerprint_tells_rules_apart() {
        let base = Rules::new(10, 1_000).table("a", TableRules::by_time(60));
        let others = [
            Rules::new(11, 1_000).table("a", TableRules::by_time(60)),
            Rules::new(10, 1_000).table("a", TableRules::by_time(61)),
            Rules::new(10, 1_000).table("b", TableRules::by_time(60)),
            Rules::new(10, 1_000).prefix("a", TableRules::by_time(60)),
            Rules::new(10, 1_000).table("a", TableRules::by_birth(60)),
        ];
        assert_eq!(base.fingerprint(), base.clone().fingerprint());
        for other in others {
            assert_ne!(base.fingerprint(), other.fingerprint());
        }
    }
}
