//! A run as a page that a person understands at a glance: one HTML file that loads nothing from anywhere.
//!
//! [`watch()`] runs a script and looks at it every virtual second; [`page`] draws what it saw, [`comparison`] what
//! [`crate::compare`] found. **Invariant:** the page is a function of the run: no clock, no machine, no version is in it.

mod bands;
mod charts;
mod comparison;
mod html;
mod watch;

pub use comparison::comparison;
pub use watch::{Seen, Story, watch};

use serde_json::json;

use self::charts::Axis;
use self::html::{escape, seconds, size};

/// The page of a run. `again` is the line that does it again.
pub fn page(story: &Story, again: &str) -> String {
    let (script, outcome) = (&story.script, &story.outcome);
    let axis = Axis::new(story.seconds());
    let mut body = head(story);
    body.push_str("<section><h2>What went wrong, and who was there</h2>");
    body.push_str(&bands::members(story, &axis));
    body.push_str("</section><section><h2>Cells that differ from the best known anywhere</h2>");
    body.push_str("<p class=note>0 on all lines: all hold the same. Nodes are full lines, servers broken ones.</p>");
    body.push_str(&charts::diverged(story, &axis));
    body.push_str("</section><section><h2>Bytes a second</h2>");
    body.push_str(&charts::traffic(story, &axis));
    body.push_str("</section>");
    if let Some(seen) = &story.seen {
        body.push_str(&format!("<section><h2>What each side saw of <code>{}</code></h2>", escape(&seen.key)));
        body.push_str(&bands::seen(story, seen, &axis));
        body.push_str("</section>");
    }
    body.push_str(&bands::faults(script));
    body.push_str(&format!("<footer><p>Do it again: <code>{}</code></p></footer>", escape(again)));
    let data = json!({
        "nodes": script.nodes.iter().map(|n| format!("n{}", n.ix)).collect::<Vec<_>>(),
        "servers": script.servers.iter().map(|s| format!("k{}", s.ix)).collect::<Vec<_>>(),
        "total": story.seconds(),
        "rows": outcome.timeline.iter().map(|r| json!([r.second, r.diverged, r.servers_diverged, r.node_bytes, r.sip_bytes, r.links.len()])).collect::<Vec<_>>(),
    });
    html::document(&format!("{}, seed {}", script.scenario, script.seed), &body, Some(&data))
}

fn head(story: &Story) -> String {
    let (script, outcome) = (&story.script, &story.outcome);
    let mut out = format!("<header><h1>{} <span>seed {}</span></h1>", escape(&script.scenario), script.seed);
    match &outcome.violation {
        None => out.push_str("<p class='verdict held'>Every promise held.</p>"),
        Some(v) => out.push_str(&format!(
            "<p class='verdict broken'>Broken at {}: <b>{}</b><br>{}</p>",
            seconds(v.at_us / 1_000),
            escape(&v.property),
            escape(&v.what)
        )),
    }
    out.push_str("</header><div class=cards>");
    let mut card = |number: String, what: &str| out.push_str(&format!("<div><b>{number}</b><span>{what}</span></div>"));
    let (since, equal) = story.equality();
    let after = if since == script.duration_ms {
        "until all were equal, after load and faults"
    } else {
        "from the heal until all were equal"
    };
    card(equal.map_or("never".to_owned(), |at| seconds(at - since)), after);
    card(format!("{} / {}", script.nodes.len(), script.servers.len()), "nodes / servers");
    let load = format!("{} / {} / {}", script.phones.len(), script.writers.len(), script.calls.len());
    card(load, "phones / writers / calls");
    card(script.faults.len().to_string(), "faults");
    card(size(outcome.traffic.node_bytes), "between nodes");
    card(outcome.traffic.sip_messages.to_string(), "SIP messages between nodes and servers");
    out.push_str("</div>");
    out
}

#[cfg(test)]
mod tests;
