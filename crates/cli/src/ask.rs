//! Questions about the node itself.

use admin::{Digest, Member, Peer, Status};

use crate::args::Query;
use crate::client::{Client, path};
use crate::output::{Outcome, ago, print, print_json, size, span, talk};
use crate::table::Table;

pub(crate) fn status(query: &Query) -> Outcome {
    let status: Status = Client::new(query)?.get(&path(&["status"]))?;
    if query.json {
        return print_json(&status);
    }
    let yes = |answer: bool| if answer { "yes" } else { "no" };
    let data = match (&status.data, status.durable) {
        (Some(data), Some(true)) => format!("{data}, all on disk"),
        (Some(data), _) => format!("{data}, writing"),
        (None, _) => "memory only".to_owned(),
    };
    let mut table = Table::new(&["", ""]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("name", format!("{} ({})", status.name, status.id));
    row("cluster", status.cluster);
    row("version", status.version);
    row("up", span(status.uptime));
    row(
        "links",
        format!(
            "{} other node{}, at {}{}",
            status.links,
            if status.links == 1 { "" } else { "s" },
            status.advertise,
            if status.tls { ", TLS" } else { "" }
        ),
    );
    row("servers", format!("{} Kamailio, at {}", status.servers, status.sip.join(" ")));
    row("contacts", status.contacts.to_string());
    row("cells", format!("{}, {}", status.cells, size(status.memory)));
    row("data", data);
    row("joining", yes(status.joining).to_owned());
    if status.skewed {
        row("CLOCK", "differs too much from another node's: no data is exchanged with that one".to_owned());
    }
    print(&table.render())
}

pub(crate) fn members(query: &Query) -> Outcome {
    let members: Vec<Member> = Client::new(query)?.get(&path(&["members"]))?;
    if query.json {
        return print_json(&members);
    }
    let mut table = Table::new(&["NAME", "STATE", "ADDRESS", "LINK", "OFFSET", "QUEUED", "ID"]);
    for member in members {
        table.row([
            member.name,
            member.state.word().to_owned(),
            member.addr,
            if member.linked { "up" } else { "-" }.to_owned(),
            member.offset_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms")),
            member.queued.to_string(),
            member.id,
        ]);
    }
    print(&table.render())
}

pub(crate) fn peers(query: &Query) -> Outcome {
    let peers: Vec<Peer> = Client::new(query)?.get(&path(&["peers"]))?;
    if query.json {
        return print_json(&peers);
    }
    if peers.is_empty() {
        talk("no Kamailio server is attached; `starling run` prints the lines for kamailio.cfg");
    }
    let mut table = Table::new(&["SERVER", "STATE", "GEN", "OPEN", "QUEUED", "LAG", "LAST SYNC", "OURS"]);
    for peer in peers {
        table.row([
            peer.uri,
            peer.state,
            peer.generation,
            peer.open.to_string(),
            peer.queued.to_string(),
            peer.lag_cells.to_string(),
            peer.last_sync.map_or_else(|| "never".to_owned(), ago),
            if peer.owned { "yes" } else { "no" }.to_owned(),
        ]);
    }
    print(&table.render())
}

pub(crate) fn digest(query: &Query) -> Outcome {
    let digest: Digest = Client::new(query)?.get(&path(&["digest"]))?;
    if query.json {
        return print_json(&digest);
    }
    let mut table = Table::new(&["TABLE", "CELLS", "DIGEST"]);
    for (name, part) in digest.tables {
        table.row([name, part.cells.to_string(), part.digest]);
    }
    table.row(["all".to_owned(), digest.cells.to_string(), digest.digest]);
    print(&table.render())
}
