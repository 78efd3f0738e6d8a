//! Changes as they happen.

use std::io::{BufRead, BufReader};

use admin::Change;
use admin::percent::encode;
use ureq::http::Method;

use crate::args::Watch;
use crate::client::{Client, path};
use crate::output::{Failure, Outcome, plain, print, talk};

/// Prints a line per change until the node ends or nobody reads.
pub(crate) fn watch(args: &Watch) -> Outcome {
    let client = Client::patient(&args.query)?;
    let table = args.table.as_ref().map(|table| format!("?table={}", encode(table))).unwrap_or_default();
    let response = client.send(&Method::GET, &format!("{}{table}", path(&["watch"])), None::<&()>)?;
    talk("watching; Ctrl-C ends it");
    let mut kind = String::new();
    for line in BufReader::new(response.into_body().into_reader()).lines() {
        let line = line.map_err(|e| Failure::said(format!("the node ended the stream: {e}")))?;
        if let Some(event) = line.strip_prefix("event:") {
            event.trim().clone_into(&mut kind);
        } else if let Some(data) = line.strip_prefix("data:") {
            tell(&kind, data.trim(), args.query.json)?;
        }
    }
    Err(Failure::said("the node ended the stream"))
}

fn tell(kind: &str, data: &str, json: bool) -> Outcome {
    if kind != "change" {
        talk(&format!("missed {data} changes: this reader is too slow"));
        return Ok(());
    }
    if json {
        return print(&format!("{data}\n"));
    }
    let change: Change = serde_json::from_str(data).map_err(|e| Failure::said(format!("not a change: {e}")))?;
    let member = if change.member.is_empty() { String::new() } else { format!("  {}", plain(&change.member)) };
    print(&format!("{:<8} {:<12} {}{member}\n", change.what.word(), plain(&change.table), plain(&change.key)))
}
