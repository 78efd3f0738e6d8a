//! Registrations.

use admin::percent::encode;
use admin::{Contact, Done, LocationAdd};
use ureq::http::Method;

use crate::args::{self, LocationAction, Query};
use crate::client::{Client, path};
use crate::output::{Failure, Outcome, plain, print, print_json, until};
use crate::table::Table;

pub(crate) fn location(args: &args::Location) -> Outcome {
    let client = Client::new(&args.query)?;
    match &args.action {
        LocationAction::List => list(&client, &args.query),
        LocationAction::Show { aor } => show(&client, &args.query, aor),
        LocationAction::Add(contact) => add(&client, &args.query, contact),
        LocationAction::Rm { aor, contact } => remove(&client, &args.query, aor, contact.as_deref()),
    }
}

fn list(client: &Client, query: &Query) -> Outcome {
    let rows: Vec<admin::Location> = client.list(&path(&["location"]))?;
    if query.json {
        return print_json(&rows);
    }
    let mut table = Table::new(&["AOR", "CONTACT", "EXPIRES", "USER AGENT"]);
    for row in rows {
        for contact in row.contacts {
            table.row([row.aor.clone(), contact.contact, until(Some(contact.expires)), contact.user_agent]);
        }
    }
    print(&table.render())
}

fn show(client: &Client, query: &Query, aor: &str) -> Outcome {
    let row: admin::Location = client.get(&path(&["location", aor]))?;
    if query.json {
        return print_json(&row);
    }
    let contacts: Vec<String> = row.contacts.iter().map(readable).collect();
    print(&format!("{}\n{}", plain(&row.aor), contacts.concat()))
}

/// A contact, a line for each thing that the device or its server told.
fn readable(contact: &Contact) -> String {
    let mut out = format!("  {}\n", plain(&contact.contact));
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            out.push_str(&format!("    {name:<11} {}\n", plain(value)));
        }
    };
    line("expires", &until(Some(contact.expires)));
    line("q", &contact.q.map(|q| q.to_string()).unwrap_or_default());
    line("received", &contact.received);
    line("path", &contact.path);
    line("user agent", &contact.user_agent);
    line("instance", &contact.instance);
    line("reg-id", &if contact.reg_id == 0 { String::new() } else { contact.reg_id.to_string() });
    line("call-id", &format!("{} {}", contact.callid, contact.cseq));
    line("methods", &format!("{:#x}", contact.methods));
    line("ruids", &contact.ruids.join(" "));
    out
}

fn add(client: &Client, query: &Query, contact: &args::LocationAdd) -> Outcome {
    let expires_in = u32::try_from(contact.expires.secs());
    let add = LocationAdd {
        contact: contact.contact.clone(),
        expires_in: expires_in.map_err(|_| Failure::said(format!("--expires {}: too long", contact.expires)))?,
        q: contact.q,
        instance: contact.instance.clone(),
        reg_id: contact.reg_id,
        path: contact.path.clone(),
        received: contact.received.clone(),
        user_agent: contact.user_agent.clone(),
    };
    let done: Done = client.ask(&Method::PUT, &path(&["location", &contact.aor]), Some(&add))?;
    if query.json { print_json(&done) } else { Ok(()) }
}

fn remove(client: &Client, query: &Query, aor: &str, contact: Option<&str>) -> Outcome {
    let wanted = contact.map(|contact| format!("?contact={}", encode(contact))).unwrap_or_default();
    let done: Done = client.ask(&Method::DELETE, &format!("{}{wanted}", path(&["location", aor])), None::<&()>)?;
    if query.json { print_json(&done) } else { Ok(()) }
}
