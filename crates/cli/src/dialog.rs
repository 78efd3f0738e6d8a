//! Dialogs.

use crate::args::{self, DialogAction, Query};
use crate::client::{Client, path};
use crate::output::{Outcome, ago, plain, print, print_json, until};
use crate::table::Table;

pub(crate) fn dialog(args: &args::Dialog) -> Outcome {
    let client = Client::new(&args.query)?;
    match &args.action {
        DialogAction::List => list(&client, &args.query),
        DialogAction::Show { id } => show(&client, &args.query, id),
    }
}

fn list(client: &Client, query: &Query) -> Outcome {
    let rows: Vec<admin::Dialog> = client.list(&path(&["dialog"]))?;
    if query.json {
        return print_json(&rows);
    }
    let mut table = Table::new(&["DIALOG", "STATE", "FROM", "TO", "BEGAN", "ENDS"]);
    for row in rows {
        let state = row.state_word().to_owned();
        table.row([row.id, state, row.from_uri, row.to_uri, ago(row.start), until(Some(row.expires))]);
    }
    print(&table.render())
}

fn show(client: &Client, query: &Query, id: &str) -> Outcome {
    let row: admin::Dialog = client.get(&path(&["dialog", id]))?;
    if query.json {
        return print_json(&row);
    }
    let mut out = format!("{}\n", plain(&row.id));
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            out.push_str(&format!("  {name:<9} {}\n", plain(value)));
        }
    };
    line("state", &format!("{} {}", row.state, row.state_word()));
    line("from", &row.from_uri);
    line("to", &row.to_uri);
    line("to tag", &row.to_tag);
    line("began", &ago(row.start));
    line("answered", &row.answered.map(ago).unwrap_or_default());
    line("ends", &until(Some(row.expires)));
    for (name, value) in &row.vars {
        line("var", &format!("{name} = {value}"));
    }
    for profile in &row.profiles {
        let value = profile.value.as_ref().map(|value| format!(" = {value}")).unwrap_or_default();
        line("profile", &format!("{}{value}", profile.name));
    }
    print(&out)
}
