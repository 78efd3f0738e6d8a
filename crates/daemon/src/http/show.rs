//! From the node's views to the shapes of the admin interface.

use admin::{
    Change, ChangeKind, Contact, Digest, Entry, Htable, Location, Member, MemberState, Peer, Status, TableDigest, Value,
};
use bstr::{BStr, BString};
use node::view::{self, ContactView, DigestView, EntryView, HtableView, MemberView, PeerView, StatusView};
use node::{Event, EventKind};

use super::Info;

/// Bytes for people: what is not UTF-8 shows as U+FFFD.
pub(super) fn text(bytes: &[u8]) -> String {
    BStr::new(bytes).to_string()
}

pub(super) fn status(view: StatusView, info: &Info) -> Status {
    Status {
        name: view.name,
        id: view.node.to_string(),
        origin: view.origin.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: view.cluster,
        advertise: view.advertise.to_string(),
        tls: info.tls,
        sip: info.sip.clone(),
        admin: info.admin.to_string(),
        uptime: view.uptime_s,
        cells: view.cells,
        contacts: view.contacts,
        links: view.links,
        servers: view.servers,
        data: info.data.clone(),
        durable: view.durable,
        ack: info.ack.to_owned(),
        memory: view.memory,
        skewed: view.skewed,
        joining: view.joining,
    }
}

pub(super) fn member(view: MemberView) -> Member {
    Member {
        name: view.name,
        id: view.id.to_string(),
        addr: view.addr.to_string(),
        state: match view.state {
            view::MemberState::Alive => MemberState::Alive,
            view::MemberState::Suspect => MemberState::Suspect,
            view::MemberState::Down => MemberState::Down,
        },
        linked: view.linked,
        offset_ms: view.offset_ms,
        queued: view.queued,
    }
}

pub(super) fn peer(view: PeerView) -> Peer {
    Peer {
        uri: view.uri,
        state: view.state.to_owned(),
        generation: view.generation.to_owned(),
        open: view.open,
        queued: view.queued,
        lag_cells: view.lag_cells,
        unproven: view.unproven,
        corrections: view.corrections,
        last_sync: view.last_sync,
        owned: view.owned,
        restarts: view.restarts,
        requests_in: view.requests_in,
        requests_out: view.requests_out,
    }
}

pub(super) fn digest(view: DigestView) -> Digest {
    let hex = |digest: u128| format!("{digest:032x}");
    let table = |(digest, cells)| TableDigest { digest: hex(digest), cells };
    Digest {
        digest: hex(view.digest),
        cells: view.cells,
        tables: view.tables.into_iter().map(|(name, part)| (name, table(part))).collect(),
        clock: view.clock.into_iter().map(|(origin, seq)| (origin.to_string(), seq)).collect(),
    }
}

pub(super) fn location(aor: &[u8], contacts: Vec<ContactView>) -> Location {
    Location { aor: text(aor), contacts: contacts.into_iter().map(contact).collect() }
}

fn contact(view: ContactView) -> Contact {
    Contact {
        contact: text(&view.contact),
        received: text(&view.received),
        path: text(&view.path),
        q: (view.q >= 0).then(|| f64::from(view.q) / 1_000.0),
        expires: view.expires,
        callid: text(&view.callid),
        cseq: view.cseq,
        user_agent: text(&view.user_agent),
        instance: text(&view.instance),
        reg_id: view.reg_id,
        methods: view.methods,
        ruids: view.ruids.iter().map(|ruid| text(ruid)).collect(),
        last_modified: view.last_modified,
    }
}

pub(super) fn htable(view: HtableView) -> Htable {
    Htable { table: view.name, entries: view.entries, autoexpire: view.autoexpire_s, counter: view.counter }
}

pub(super) fn entry(table: &str, view: EntryView) -> Entry {
    Entry { table: table.to_owned(), key: text(&view.key), value: value(view.value), expires: view.expires }
}

pub(super) fn value(value: node::Value) -> Value {
    match value {
        node::Value::Int(n) => Value::Int(n),
        node::Value::Str(s) => Value::Str(text(&s)),
    }
}

/// The other way.
pub(super) fn given(value: Value) -> node::Value {
    match value {
        Value::Int(n) => node::Value::Int(n),
        Value::Str(s) => node::Value::Str(BString::from(s)),
    }
}

pub(super) fn change(event: Event) -> Change {
    Change {
        table: event.table,
        key: text(&event.key),
        member: text(&event.member),
        what: match event.what {
            EventKind::Set => ChangeKind::Set,
            EventKind::Removed => ChangeKind::Removed,
            EventKind::Expired => ChangeKind::Expired,
        },
        node: event.node.to_string(),
        time_ms: event.time_ms,
    }
}
