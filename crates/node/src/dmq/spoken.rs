//! How often servers that another node speaks for have spoken about a cell lately.
//!
//! Of several words in a row the owner passes on what is left of them, but a third server, which was told each of them, may
//! have applied them in any order. That there were several is known only to who hears the server too. It leaves settling that
//! to the contests of `peer`. Invariant: no word outlives the fail-over time.

use std::collections::{BTreeMap, VecDeque};

use bstr::ByteSlice;
use kdmq::{htable::Action as Entry, usrloc::Action as Contact};
use tables::{htable, location};

use super::book::fingerprint;
use super::owner::HOLD_MS;
use crate::io::Mono;

/// Words about one cell within this time may overtake each other, milliseconds.
const OVERTAKING_MS: u64 = 2_000;

/// Words remembered at most; beyond that the oldest go, and the next dump has to do.
const WORDS_MAX: usize = 20_000;

/// A cell, by the hash of its table, key and member; and the ruid of a contact.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Word {
    cell: u64,
    ruid: Box<[u8]>,
}

impl Word {
    /// What is said about a contact.
    pub(crate) fn of_contact(action: &Contact<'_>) -> Option<Self> {
        let (Contact::Update(row) | Contact::Remove(row)) = action else { return None };
        let contact = &row.contact;
        let member = location::identity(&contact.uri, &contact.instance, contact.reg_id);
        Some(Self { cell: name(location::TABLE, &row.aor, &member), ruid: contact.ruid.as_bytes().into() })
    }

    /// What is said about an entry; how long it lives is no word of its own.
    pub(crate) fn of_entry(action: &Entry<'_>) -> Option<Self> {
        let (Entry::Set { table, key, .. } | Entry::Delete { table, key }) = action else { return None };
        let table = htable::table(std::str::from_utf8(table).ok()?);
        Some(Self { cell: name(&table, key, b""), ruid: Box::default() })
    }
}

fn name(table: &str, key: &[u8], member: &[u8]) -> u64 {
    fingerprint(&[table.as_bytes(), key, member].join(&0))
}

/// The words of the last seconds.
#[derive(Debug, Default)]
pub(crate) struct Spoken {
    cells: BTreeMap<u64, Words>,
    /// Each word, oldest first.
    order: VecDeque<(Mono, u64)>,
}

#[derive(Debug)]
struct Words {
    last: Mono,
    several: bool,
    ruid: Box<[u8]>,
}

impl Spoken {
    /// A server has said this, to us and to others.
    pub(crate) fn heard(&mut self, word: Word, now: Mono) {
        while let Some((at, cell)) = self.order.front().copied()
            && (self.order.len() >= WORDS_MAX || now.ms_since(at) > HOLD_MS)
        {
            self.order.pop_front();
            if self.cells.get(&cell).is_some_and(|words| words.last <= at) {
                self.cells.remove(&cell);
            }
        }
        self.order.push_back((now, word.cell));
        let several = self.cells.get(&word.cell).is_some_and(|words| now.ms_since(words.last) <= OVERTAKING_MS);
        self.cells.insert(word.cell, Words { last: now, several, ruid: word.ruid });
    }

    /// The ruid that the last of several words about the cell named, empty for an entry; `None` if there were not several.
    pub(crate) fn several(&self, (table, key, member): (&str, &[u8], &[u8]), now: Mono) -> Option<&[u8]> {
        let words = self.cells.get(&name(table, key, member))?;
        (words.several && now.ms_since(words.last) <= HOLD_MS).then_some(&*words.ruid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: &'static str) -> Word {
        let value = tables::htable::Value::Int(1);
        let action = Entry::Set {
            table: bstr::BStr::new("t").into(),
            key: bstr::BStr::new(key).into(),
            value,
            last_modified: None,
        };
        Word::of_entry(&action).unwrap()
    }

    fn several(spoken: &Spoken, key: &str, ms: u64) -> bool {
        spoken.several((&htable::table("t"), key.as_bytes(), b""), Mono(ms * 1_000)).is_some()
    }

    #[test]
    fn two_words_about_a_cell_within_two_seconds_are_several() {
        let mut spoken = Spoken::default();
        for (key, ms) in [("a", 0), ("b", 0), ("a", 1_900), ("b", 2_100)] {
            spoken.heard(set(key), Mono(ms * 1_000));
        }
        assert!(several(&spoken, "a", 2_000));
        assert!(!several(&spoken, "b", 2_200), "too far apart");
        assert!(!several(&spoken, "a", 1_900 + HOLD_MS + 1), "too long ago");
    }

    #[test]
    fn words_are_forgotten_with_time_and_number() {
        let mut spoken = Spoken::default();
        for ms in [0, 1, HOLD_MS + 2] {
            spoken.heard(set("a"), Mono(ms * 1_000));
        }
        assert_eq!((spoken.order.len(), spoken.cells.len()), (1, 1));
        assert!(!several(&spoken, "a", HOLD_MS + 2));
        for _ in 0..=WORDS_MAX {
            spoken.heard(set("b"), Mono((HOLD_MS + 3) * 1_000));
        }
        assert_eq!((spoken.order.len(), spoken.cells.len()), (WORDS_MAX, 1));
    }
}
