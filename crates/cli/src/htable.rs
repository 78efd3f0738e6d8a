//! Hash tables.

use admin::{DeleteMatching, Deleted, Done, Entry, EntryInc, EntrySet, Incremented, MatchOn, Value};
use daemon::config::Span;
use ureq::http::Method;

use crate::args::{self, HtableAction, HtableDel, Query};
use crate::client::{Client, path};
use crate::output::{Failure, Outcome, print, print_json, span, until};
use crate::table::Table;

pub(crate) fn htable(args: &args::Htable) -> Outcome {
    let client = Client::new(&args.query)?;
    let query = &args.query;
    match &args.action {
        HtableAction::List => list(&client, query),
        HtableAction::Dump { name } => dump(&client, query, name),
        HtableAction::Get { name, key } => get(&client, query, name, key),
        HtableAction::Set { name, key, value, int, expires } => {
            let value = if *int { integer(value)? } else { Value::Str(value.clone()) };
            set(&client, query, &path(&["htable", name, key]), value, *expires)
        }
        HtableAction::Inc { name, key, by } => increment(&client, query, name, key, *by),
        HtableAction::Del(del) => delete(&client, query, del),
    }
}

fn list(client: &Client, query: &Query) -> Outcome {
    let tables: Vec<admin::Htable> = client.get(&path(&["htable"]))?;
    if query.json {
        return print_json(&tables);
    }
    let mut table = Table::new(&["TABLE", "ENTRIES", "AUTOEXPIRE", "COUNTER"]);
    for row in tables {
        let autoexpire = if row.autoexpire == 0 { "-".to_owned() } else { span(row.autoexpire.into()) };
        let counter = if row.counter { "yes" } else { "no" };
        table.row([row.table, row.entries.to_string(), autoexpire, counter.to_owned()]);
    }
    print(&table.render())
}

fn dump(client: &Client, query: &Query, name: &str) -> Outcome {
    let rows: Vec<Entry> = client.list(&path(&["htable", name]))?;
    if query.json {
        return print_json(&rows);
    }
    let mut table = Table::new(&["KEY", "TYPE", "EXPIRES", "VALUE"]);
    for row in rows {
        let kind = if matches!(row.value, Value::Int(_)) { "int" } else { "str" };
        table.row([row.key, kind.to_owned(), until(row.expires), row.value.to_string()]);
    }
    print(&table.render())
}

/// Prints the bare value, for scripts.
fn get(client: &Client, query: &Query, name: &str, key: &str) -> Outcome {
    let entry: Entry = client.get(&path(&["htable", name, key]))?;
    if query.json { print_json(&entry) } else { print(&format!("{}\n", entry.value)) }
}

fn integer(text: &str) -> Result<Value, Failure> {
    text.parse()
        .map(Value::Int)
        .map_err(|_| Failure::said(format!("{text:?} is not an integer; without --int it is set as a string")))
}

fn set(client: &Client, query: &Query, path: &str, value: Value, expires: Option<Span>) -> Outcome {
    let seconds =
        |span: Span| u32::try_from(span.secs()).map_err(|_| Failure::said(format!("--expires {span}: too long")));
    let set = EntrySet { value, expires_in: expires.map(seconds).transpose()? };
    let done: Done = client.ask(&Method::PUT, path, Some(&set))?;
    if query.json { print_json(&done) } else { Ok(()) }
}

fn increment(client: &Client, query: &Query, name: &str, key: &str, by: i64) -> Outcome {
    let path = path(&["htable", name, key, "inc"]);
    let new: Incremented = client.ask(&Method::POST, &path, Some(&EntryInc { by }))?;
    if query.json { print_json(&new) } else { print(&format!("{}\n", new.value)) }
}

fn delete(client: &Client, query: &Query, del: &HtableDel) -> Outcome {
    if let Some(key) = &del.key {
        let done: Done = client.ask(&Method::DELETE, &path(&["htable", &del.name, key]), None::<&()>)?;
        return if query.json { print_json(&done) } else { Ok(()) };
    }
    let on = if del.values { MatchOn::Values } else { MatchOn::Names };
    let asked = DeleteMatching { prefix: del.prefix.clone(), regex: del.regex.clone(), on };
    let deleted: Deleted = client.ask(&Method::POST, &path(&["htable", &del.name, "delete-matching"]), Some(&asked))?;
    if query.json { print_json(&deleted) } else { print(&format!("{} deleted\n", deleted.deleted)) }
}
