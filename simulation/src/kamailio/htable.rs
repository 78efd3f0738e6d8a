//! The hash tables of a server: without tombstones, with expiry by the table's own rule (docs/kdmq.md 7 and 8).

use std::collections::BTreeMap;
use std::io::Write as _;

use bstr::{BStr, BString, ByteSlice as _};
use kdmq::htable::{self as wire, How, On};
use tables::htable::Value;

use super::Entry;
use crate::script::{Generation, TableSpec};

/// A chunk of a dump ends when it has become longer than this.
const CHUNK: usize = 60_000;

#[derive(Clone, Debug)]
struct Cell {
    value: Value<'static>,
    /// Unix seconds; 0 = never.
    expire: u64,
    /// Unix milliseconds of the last write, 6 only; 0 = unknown.
    stamp: u64,
}

#[derive(Default)]
struct Table {
    spec: TableSpec,
    cells: BTreeMap<BString, Cell>,
}

/// The tables.
pub(super) struct Htables {
    generation: Generation,
    tables: BTreeMap<BString, Table>,
}

/// A write that a peer sent was understood, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    /// 500: no such table.
    NoTable,
}

impl Htables {
    pub(super) fn new(generation: Generation, specs: &BTreeMap<String, TableSpec>) -> Self {
        let table = |(name, spec): (&String, &TableSpec)| {
            (BString::from(name.as_str()), Table { spec: spec.clone(), cells: BTreeMap::new() })
        };
        Self { generation, tables: specs.iter().map(table).collect() }
    }

    /// Has no entry any more.
    pub(super) fn clear(&mut self) {
        self.tables.values_mut().for_each(|table| table.cells.clear());
    }

    /// How many entries take memory, dead ones included.
    pub(super) fn count(&self) -> usize {
        self.tables.values().map(|table| table.cells.len()).sum()
    }

    /// The configuration's own `$sht(table=>key) = value`. The body that tells the peers; `None` without such a table.
    pub(super) fn set(&mut self, table: &str, key: &str, value: Value<'static>, now_ms: u64) -> Option<Vec<u8>> {
        let generation = self.generation;
        let value = match value {
            Value::Int(number) => Value::Int(i64::from(number as i32)),
            text => text,
        };
        let found = self.tables.get_mut(BStr::new(table))?;
        let stamps = generation == Generation::V6;
        let stamp = if stamps { Stamp::Local(now_ms) } else { Stamp::None };
        let stamp = Some(found.write(key.into(), value.clone(), stamp, now_ms / 1_000)).filter(|_| stamps);
        wire::encode_set(table.as_bytes(), key.as_bytes(), &value, stamp).ok()
    }

    /// `$shtinc` or `$shtdec`, once. `None` if it fails: no table, no integer, or nothing to start from.
    pub(super) fn add(&mut self, table: &str, key: &str, step: i32, now_ms: u64) -> Option<Vec<u8>> {
        let found = self.tables.get(BStr::new(table))?;
        let held = found.cells.get(BStr::new(key)).filter(|cell| cell.is_live(now_ms / 1_000));
        let base = match held.map(|cell| &cell.value) {
            Some(Value::Int(number)) => *number as i32,
            Some(Value::Str(_)) => return None,
            // Tables that count have `initval=0`.
            None if found.spec.counter => 0,
            None => return None,
        };
        self.set(table, key, Value::Int(i64::from(base.wrapping_add(step))), now_ms)
    }

    /// `$sht(table=>key) = $null`.
    pub(super) fn delete(&mut self, table: &str, key: &str) -> Option<Vec<u8>> {
        self.tables.get_mut(BStr::new(table))?.cells.remove(BStr::new(key));
        wire::encode_delete(table.as_bytes(), key.as_bytes()).ok()
    }

    /// A set of a peer.
    pub(super) fn take_set(
        &mut self,
        table: &BStr,
        key: &BStr,
        value: Value<'static>,
        stamp: Option<u64>,
        now_s: u64,
    ) -> Taken {
        let Some(found) = self.tables.get_mut(table) else { return Taken::NoTable };
        let stamp = stamp.filter(|_| self.generation == Generation::V6);
        let held = found.cells.get(key).map_or(0, |cell| cell.stamp);
        if stamp.is_none_or(|stamp| stamp > held) {
            found.write(key, value, stamp.map_or(Stamp::None, Stamp::Told), now_s);
        }
        Taken::Yes
    }

    /// An expire of a peer: seconds from now; 0 makes the entry permanent.
    pub(super) fn take_expire(&mut self, table: &BStr, key: &BStr, seconds: i64, now_s: u64) -> Taken {
        let Some(found) = self.tables.get_mut(table) else { return Taken::NoTable };
        if found.spec.autoexpire_s > 0
            && let Some(cell) = found.cells.get_mut(key)
        {
            cell.expire = u64::try_from(seconds).ok().filter(|&s| s > 0).map_or(0, |s| now_s + s);
        }
        Taken::Yes
    }

    /// A delete of a peer.
    pub(super) fn take_delete(&mut self, table: &BStr, key: &BStr) -> Taken {
        let Some(found) = self.tables.get_mut(table) else { return Taken::NoTable };
        found.cells.remove(key);
        Taken::Yes
    }

    /// A delete by prefix. Regular expressions match nothing here: nobody in a simulation sends them.
    pub(super) fn take_matching(&mut self, table: &BStr, how: How, on: On, pattern: &BStr) -> Taken {
        let Some(found) = self.tables.get_mut(table) else { return Taken::NoTable };
        found.cells.retain(|key, cell| match (how, on, &cell.value) {
            (How::Prefix, On::Names, _) => !key.starts_with(pattern),
            (How::Prefix, On::Values, Value::Str(text)) => !text.starts_with(pattern),
            _ => true,
        });
        Taken::Yes
    }

    /// A cell of another server's dump.
    pub(super) fn take_cell(&mut self, cell: wire::Cell<'_>, now_s: u64) {
        let Some(found) = self.tables.get_mut::<BStr>(&cell.table) else { return };
        let key: &BStr = &cell.key;
        let held = found.cells.get(key);
        let stamp = cell.last_modified.filter(|_| self.generation == Generation::V6);
        if stamp.is_some_and(|stamp| held.is_some_and(|held| stamp <= held.stamp)) {
            return;
        }
        // 5.6 forgets the expiry where the text needs a new cell.
        let forgets = self.generation == Generation::V5 && held.is_some_and(|held| needs_new(&held.value, &cell.value));
        found.write(key, cell.value.into_owned(), stamp.map_or(Stamp::None, Stamp::Told), now_s);
        let written = found.cells.get_mut(key).expect("it was written");
        if found.spec.autoexpire_s > 0 && (forgets || cell.expire > now_s) {
            written.expire = if forgets { 0 } else { cell.expire };
        }
    }

    /// Frees what has expired.
    pub(super) fn sweep(&mut self, now_s: u64) {
        for table in self.tables.values_mut().filter(|table| table.spec.autoexpire_s > 0) {
            table.cells.retain(|_, cell| cell.is_live(now_s));
        }
    }

    /// The entries that have not expired.
    pub(super) fn live(&self, now_s: u64) -> impl Iterator<Item = Entry<'_>> {
        let cells = self.tables.iter().flat_map(|(name, table)| table.cells.iter().map(move |cell| (name, cell)));
        cells.filter(move |(_, (_, cell))| cell.is_live(now_s)).map(|(name, (key, cell))| entry(name, key, cell))
    }

    /// One of them.
    pub(super) fn get(&self, table: &str, key: &str, now_s: u64) -> Option<Entry<'_>> {
        let (name, table) = self.tables.get_key_value(BStr::new(table))?;
        let (key, cell) = table.cells.get_key_value(BStr::new(key))?;
        cell.is_live(now_s).then(|| entry(name, key, cell))
    }

    /// The bodies of a dump, at least one. An entry of a table that expires, made permanent, is in none.
    pub(super) fn dump(&self, only: Option<&BStr>, now_s: u64) -> Vec<Vec<u8>> {
        const BEGIN: &[u8] = b"{\"cells\":[";
        let mut bodies = Vec::new();
        let mut body = BEGIN.to_vec();
        let tables = self.tables.iter().filter(|(name, _)| only.is_none_or(|only| **name == *only));
        for (name, table) in tables {
            let expires = table.spec.autoexpire_s > 0;
            for (key, cell) in table.cells.iter().filter(|(_, cell)| !expires || cell.expire > now_s) {
                if body.len() > CHUNK {
                    body.extend_from_slice(b"]}");
                    bodies.push(std::mem::replace(&mut body, BEGIN.to_vec()));
                }
                if body.len() > BEGIN.len() {
                    body.push(b',');
                }
                put_cell(&mut body, name.as_ref(), key.as_ref(), cell);
            }
        }
        body.extend_from_slice(b"]}");
        bodies.push(body);
        bodies
    }
}

/// Where the stamp of a write comes from.
#[derive(Clone, Copy)]
enum Stamp {
    /// The server's clock, unix milliseconds, made to grow per key.
    Local(u64),
    /// The message.
    Told(u64),
    /// Nobody said.
    None,
}

impl Table {
    /// Writes an entry and returns its stamp.
    fn write(&mut self, key: &BStr, value: Value<'static>, stamp: Stamp, now_s: u64) -> u64 {
        let fresh = match self.spec.autoexpire_s {
            0 => 0,
            seconds => now_s + u64::from(seconds),
        };
        let held = self.cells.get(key);
        let held_stamp = held.map_or(0, |held| held.stamp);
        let stamp = match stamp {
            Stamp::Local(now_ms) => now_ms.max(held_stamp + 1),
            Stamp::Told(stamp) => stamp,
            // The stamp stays, but for a text that needs a new cell.
            Stamp::None if held.is_some_and(|held| needs_new(&held.value, &value)) => 0,
            Stamp::None => held_stamp,
        };
        let expire = match held {
            Some(held) if self.spec.keep_expire && held.is_live(now_s) => held.expire,
            _ => fresh,
        };
        self.cells.insert(key.to_owned(), Cell { value, expire, stamp });
        stamp
    }
}

impl Cell {
    fn is_live(&self, now_s: u64) -> bool {
        self.expire == 0 || self.expire >= now_s
    }
}

/// Whether a value does not fit into the memory of the one before.
fn needs_new(held: &Value<'_>, new: &Value<'_>) -> bool {
    match (held, new) {
        (_, Value::Int(_)) => false,
        (Value::Int(_), Value::Str(_)) => true,
        (Value::Str(held), Value::Str(new)) => new.len() > held.len(),
    }
}

fn entry<'a>(name: &'a BString, key: &'a BString, cell: &'a Cell) -> Entry<'a> {
    let table = name.to_str().unwrap_or_default();
    Entry { table, key: key.as_ref(), value: &cell.value, expires: cell.expire }
}

fn put_cell(out: &mut Vec<u8>, table: &BStr, key: &BStr, cell: &Cell) {
    out.extend_from_slice(b"{\"htname\":");
    put_text(out, table);
    out.extend_from_slice(b",\"cname\":");
    put_text(out, key);
    // Writing to a vector cannot fail.
    match &cell.value {
        Value::Int(number) => _ = write!(out, ",\"type\":0,\"intval\":{number}"),
        Value::Str(text) => {
            out.extend_from_slice(b",\"type\":2,\"strval\":");
            put_text(out, text);
        }
    }
    let _ = write!(out, ",\"expire\":{}", cell.expire);
    if cell.stamp > 0 {
        let _ = write!(out, ",\"last_modified\":{}", cell.stamp);
    }
    out.push(b'}');
}

/// A JSON string as servers write it: bytes from 0x80 on as they are.
fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..0x20 => _ = write!(out, "\\u{byte:04x}"),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}
