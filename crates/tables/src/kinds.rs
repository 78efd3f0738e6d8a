//! The list of table kinds. A new kind is a module and a line here.

use crdt::TableRules;

/// How the dead cells of a table are forgotten, before the configuration says for how long it keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgetting {
    /// Every cell has a deadline: forgotten by the time of its write and the table's longest life.
    ByTime,
    /// Cells with ranks, whose versions share one birth: forgotten by it and the table's longest life.
    ByBirth,
    /// Cells without a deadline: forgotten when every member is known to have seen the removal.
    Stable,
}

impl Forgetting {
    /// The rules of a table whose cells live at most `max_ttl` seconds; they have no such limit in a [`Stable`] one.
    ///
    /// [`Stable`]: Forgetting::Stable
    pub const fn rules(self, max_ttl: u32) -> TableRules {
        match self {
            Self::ByTime => TableRules::by_time(max_ttl),
            Self::ByBirth => TableRules::by_birth(max_ttl),
            Self::Stable => TableRules::STABLE,
        }
    }
}

/// What is known of all tables of one kind.
#[derive(Clone, Copy, Debug)]
pub struct TableKind {
    /// Beginning of the table name; the whole name where there is one table of the kind.
    pub prefix: &'static str,
    /// What it holds, for people.
    pub title: &'static str,
    /// What the key of a cell is, for people.
    pub key: &'static str,
    /// What the member of a cell is, for people.
    pub member: &'static str,
    /// How dead cells are forgotten. A hash table with `autoexpire` is [`Forgetting::ByTime`] whatever stands here:
    /// that is known only with its configuration.
    pub forgetting: Forgetting,
}

/// All table kinds, in the order in which they are shown.
pub const TABLES: &[TableKind] = &[
    TableKind {
        prefix: crate::location::TABLE,
        title: "registrations",
        key: "address of record",
        member: "contact identity, or ruid alias",
        forgetting: Forgetting::ByTime,
    },
    TableKind {
        prefix: crate::htable::PREFIX,
        title: "hash table",
        key: "cname",
        member: "none, or the origin of a counter contribution",
        forgetting: Forgetting::Stable,
    },
    TableKind {
        prefix: crate::dialog::TABLE,
        title: "dialogs",
        key: "Call-ID and From tag",
        member: "none, or a variable or profile",
        forgetting: Forgetting::ByBirth,
    },
];

/// The kind of the table named `table`; `None` for a table that somebody else declared.
pub fn kind_of(table: &str) -> Option<&'static TableKind> {
    TABLES.iter().find(|kind| match kind.prefix.ends_with(':') {
        true => table.starts_with(kind.prefix),
        false => table == kind.prefix,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_name_that_we_make_has_a_kind() {
        assert_eq!(kind_of(crate::location::TABLE).unwrap().title, "registrations");
        assert_eq!(kind_of(&crate::htable::table("plain")).unwrap().title, "hash table");
        assert_eq!(kind_of(crate::dialog::TABLE).unwrap().title, "dialogs");
        assert!(kind_of("locations").is_none());
        assert!(kind_of("").is_none());
    }

    #[test]
    fn tables_with_deadlines_forget_by_their_longest_life() {
        assert_eq!(Forgetting::ByTime.rules(7_200), TableRules::by_time(7_200));
        assert_eq!(Forgetting::ByBirth.rules(7_200), TableRules::by_birth(7_200));
        assert_eq!(Forgetting::Stable.rules(7_200), TableRules::STABLE);
    }

    #[test]
    fn no_kind_takes_the_tables_of_another() {
        for kind in TABLES {
            let name = format!("{}x", kind.prefix);
            let same = kind_of(&name).is_none_or(|found| found.prefix == kind.prefix);
            assert!(same, "{name} belongs to two kinds");
        }
    }
}
