//! `ul.*` of the JSON-RPC interface: registrations as Kamailio's usrloc shows them.

use admin::rpc::{Fault, UlAor, UlContact, UlContactItem, UlDomain, UlDomainItem, UlDump, UlInfo, UlLookup, UlStats};
use bstr::BString;
use node::view::ContactView;
use node::{Command, NewContact};

use super::rpc::{Outcome, Params, ROWS, carry_out, fault, json};
use super::{App, show, write};
use crate::clock;

/// The one usrloc domain.
const DOMAIN: &str = "location";

/// What Kamailio shows for text that it does not have.
const NOT_SET: &str = "[not set]";

fn check_domain(params: &Params) -> Result<(), Fault> {
    if params.text(0, "the table")? == DOMAIN {
        return Ok(());
    }
    Err(fault(500, "Domain table not found"))
}

/// `ul.dump [brief]`
pub(super) async fn dump(app: &App, params: &Params) -> Outcome {
    let brief = params.0.first().is_some_and(|p| p == "brief");
    let now = clock::wall().secs();
    let (mut aors, mut max_slots) = (Vec::new(), 0);
    let mut after: Option<BString> = None;
    loop {
        let from = after.take();
        let rows = app.look(move |node, now| node.location_list(from.as_ref().map(|a| &a[..]), ROWS, now)).await?;
        let full = rows.len() >= ROWS;
        after = rows.last().map(|(aor, _)| aor.clone()).filter(|_| full);
        for (aor, contacts) in rows {
            max_slots = max_slots.max(contacts.len());
            aors.push(if brief {
                UlAor::Brief { aor: show::text(&aor) }
            } else {
                UlAor::Full { info: UlInfo { aor: show::text(&aor), hash_id: 0, contacts: items(contacts, now) } }
            });
        }
        if after.is_none() {
            break;
        }
    }
    let records = u64::try_from(aors.len()).unwrap_or(u64::MAX);
    let stats = UlStats { records, max_slots: u64::try_from(max_slots).unwrap_or(u64::MAX) };
    let domain = UlDomain { domain: DOMAIN.to_owned(), size: records, aors, stats };
    json(UlDump { domains: vec![UlDomainItem { domain }] })
}

/// `ul.lookup table AOR`
pub(super) async fn lookup(app: &App, params: &Params) -> Outcome {
    check_domain(params)?;
    let aor = params.text(1, "the AoR")?;
    let wanted = aor.clone();
    let contacts = app.look(move |node, now| node.location(wanted.as_bytes(), now)).await?;
    if contacts.is_empty() {
        return Err(fault(500, "AOR not found in location table"));
    }
    json(UlLookup { aor, contacts: items(contacts, clock::wall().secs()) })
}

/// `ul.add table AOR contact expires q path flags cflags methods`
pub(super) async fn add(app: &App, params: &Params) -> Outcome {
    check_domain(params)?;
    let expires = params.number(3, "expires")?;
    let path = params.text(5, "the path")?;
    let contact = NewContact {
        aor: params.text(1, "the AoR")?.into(),
        contact: params.text(2, "the contact")?.into(),
        expires_in: u32::try_from(expires).map_err(|_| fault(500, format!("{expires} is no number of seconds")))?,
        q: Some(write::thousandths(params.fraction(4, "q")?)?),
        // Kamailio's tools pass 0 or . for none.
        path: if path == "0" || path == "." { BString::default() } else { path.into() },
        user_agent: "starling RPC".into(),
        ..NewContact::default()
    };
    carry_out(app, Command::LocationAdd(Box::new(contact)), fault(500, "not added")).await?;
    done()
}

/// `ul.rm table AOR`; an AoR without contacts is no fault.
pub(super) async fn remove(app: &App, params: &Params) -> Outcome {
    check_domain(params)?;
    let aor: BString = params.text(1, "the AoR")?.into();
    let removed = carry_out(app, Command::LocationRemove { aor, contact: None }, fault(404, "AOR not found")).await;
    match removed {
        Err(absent) if absent.code == 404 => done(),
        other => other.and_then(|()| done()),
    }
}

/// `ul.rm_contact table AOR contact`
pub(super) async fn remove_contact(app: &App, params: &Params) -> Outcome {
    check_domain(params)?;
    let aor: BString = params.text(1, "the AoR")?.into();
    let contact: BString = params.text(2, "the contact")?.into();
    let wanted = aor.clone();
    let known = app.look(move |node, now| !node.location(&wanted, now).is_empty()).await?;
    let absent = fault(404, if known { "Contact not found" } else { "AOR not found" });
    carry_out(app, Command::LocationRemove { aor, contact: Some(contact) }, absent).await?;
    done()
}

/// What Kamailio answers when it has nothing to say.
fn done() -> Outcome {
    json(serde_json::Map::new())
}

fn items(contacts: Vec<ContactView>, now: u64) -> Vec<UlContactItem> {
    contacts.into_iter().map(|view| UlContactItem { contact: contact(view, now) }).collect()
}

fn contact(view: ContactView, now: u64) -> UlContact {
    let or_not_set = |bytes: &[u8]| if bytes.is_empty() { NOT_SET.to_owned() } else { show::text(bytes) };
    UlContact {
        address: show::text(&view.contact),
        expires: if view.expires == 0 { "permanent".into() } else { view.expires.saturating_sub(now).into() },
        q: if view.q < 0 { (-1).into() } else { (f64::from(view.q) / 1_000.0).into() },
        call_id: show::text(&view.callid),
        cseq: view.cseq,
        user_agent: if view.user_agent.is_empty() { "n/a".to_owned() } else { show::text(&view.user_agent) },
        received: or_not_set(&view.received),
        path: or_not_set(&view.path),
        state: "CS_NEW".to_owned(),
        flags: 0,
        cflags: 0,
        socket: NOT_SET.to_owned(),
        methods: view.methods,
        ruid: view.ruids.first().map_or_else(|| NOT_SET.to_owned(), |ruid| show::text(ruid)),
        instance: or_not_set(&view.instance),
        reg_id: view.reg_id,
        server_id: 0,
        tcpconn_id: -1,
        keepalive: 0,
        last_keepalive: view.last_modified,
        ka_roundtrip: 0,
        last_modified: view.last_modified,
    }
}
