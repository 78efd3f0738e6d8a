//! The page of a comparison: numbers, and a chart of contacts and keys that differ.

use super::charts::{Axis, Curve, Line, chart};
use super::html::{document, escape, seconds, size};
use crate::compare::{Comparison, Way};

/// The page of a comparison. `again` is the line that does it again.
pub fn comparison(found: &Comparison, again: &str) -> String {
    let total = found.ways.iter().map(|w| w.seconds.len() as u64).max().unwrap_or(1);
    let axis = Axis::new(total);
    let mut body = format!("<header><h1>{} <span>seed {}</span></h1></header>", escape(&found.scenario), found.seed);
    body.push_str("<p class=note>The same phones and writers at the same servers, the same cuts, three ways.</p>");
    body.push_str("<section><h2>In numbers</h2><div class=scroll><table><thead><tr><th></th>");
    for title in [
        "contacts differ at the heal",
        "at the end",
        "keys differ at the heal",
        "at the end",
        "all equal",
        "SIP messages",
        "bytes",
    ] {
        body.push_str(&format!("<th class=number>{title}</th>"));
    }
    body.push_str("</tr></thead><tbody>");
    found.ways.iter().for_each(|way| body.push_str(&row(way)));
    body.push_str("</tbody></table></div></section>");
    for (title, value) in [
        ("Contacts that are not on all servers", (|d| d.contacts) as fn(&crate::compare::Differing) -> u64),
        ("Table keys that are not the same on all servers", |d| d.keys),
    ] {
        body.push_str(&format!("<section><h2>{title}</h2>"));
        let curves: Vec<Curve> = found.ways.iter().enumerate().map(|(at, way)| curve(way, at, value)).collect();
        body.push_str(&chart(
            &axis,
            &curves,
            |n| n.to_string(),
            |height, inside| drawing(&axis, height, found, inside),
        ));
        body.push_str("</section>");
    }
    body.push_str(&format!("<footer><p>Do it again: <code>{}</code></p></footer>", escape(again)));
    document(&format!("{}, three ways", found.scenario), &body, None)
}

fn row(way: &Way) -> String {
    let of = |differ: u64, all: u64| format!("<td class=number>{differ} of {all}</td>");
    let mut out = format!("<tr><td>{}</td>", escape(way.title));
    out.push_str(&of(way.at_heal.contacts, way.at_heal.contacts_of));
    out.push_str(&of(way.at_end.contacts, way.at_end.contacts_of));
    out.push_str(&of(way.at_heal.keys, way.at_heal.keys_of));
    out.push_str(&of(way.at_end.keys, way.at_end.keys_of));
    let equal = way.equal_after_ms.map_or("never".to_owned(), |ms| format!("{} later", seconds(ms)));
    let (messages, bytes) = (way.traffic.sip_messages, size(way.traffic.sip_bytes));
    out.push_str(&format!(
        "<td class=number>{equal}</td><td class=number>{messages}</td><td class=number>{bytes}</td></tr>"
    ));
    out
}

fn curve(way: &Way, at: usize, value: fn(&crate::compare::Differing) -> u64) -> Curve {
    let points = way.seconds.iter().zip(1..).map(|(differing, second)| (second, Some(value(differing)))).collect();
    let (colour, line) = [(1, Line::Dashed), (3, Line::Dotted), (0, Line::Full)][at % 3];
    Curve { name: way.title.to_owned(), colour, line, points }
}

fn drawing(axis: &Axis, height: f64, found: &Comparison, inside: &str) -> String {
    let mut out = axis.plain(height, inside);
    let marks = [(found.split_ms, "split"), (Some(found.heal_ms), "heal"), (Some(found.duration_ms), "calm")];
    for (at, said) in marks.into_iter().filter_map(|(at, said)| Some((at?, said))) {
        let x = axis.x(at);
        out.push_str(&format!("<line class=mark x1={x:.1} x2={x:.1} y1=12 y2={:.1} />", height + 16.0));
        out.push_str(&format!("<text x={x:.1} y=10 text-anchor=middle>{said}</text>"));
    }
    out.push_str("</svg>");
    out
}
