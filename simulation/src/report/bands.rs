//! Bars over the time of a run, a row per host, link or fault, as SVG.

use std::collections::BTreeMap;

use super::charts::{Axis, COLOURS, LEFT};
use super::html::{escape, seconds};
use super::watch::{Seen, Shown, Story};
use crate::Script;
use crate::run::Row;
use crate::script::{FaultKind, Host};

/// Height of a row and of the bar in it.
const ROW: f64 = 17.0;
const BAR: f64 = 11.0;
/// Beyond so many nodes links are not shown one by one.
const LINKS_OF: usize = 6;
/// Beyond so many hosts of a kind the rest is left out, and said so.
const HOSTS: usize = 40;

/// Rows of bars under one another.
struct Bands<'a> {
    axis: &'a Axis,
    out: String,
    rows: usize,
}

impl<'a> Bands<'a> {
    fn new(axis: &'a Axis) -> Self {
        Self { axis, out: String::new(), rows: 0 }
    }

    fn height(&self) -> f64 {
        self.rows as f64 * ROW
    }

    /// Begins a row.
    fn row(&mut self, name: &str) {
        let y = self.height() + BAR;
        let short: String = name.chars().take(15).collect();
        self.out.push_str(&format!(
            "<text class=name x={} y={y:.1} text-anchor=end>{}</text>",
            LEFT - 6.0,
            escape(&short)
        ));
        self.rows += 1;
    }

    /// A bar in the row that was begun last; never too narrow to be seen.
    fn bar(&mut self, from_ms: u64, to_ms: u64, paint: &str, say: &str) {
        let (x, end) = (self.axis.x(from_ms), self.axis.x(to_ms));
        let y = self.height() - ROW + 1.5;
        let width = (end - x).max(1.5);
        let say = if say.is_empty() { String::new() } else { format!(" data-say=\"{}\"", escape(say)) };
        self.out.push_str(&format!("<rect x={x:.1} y={y:.1} width={width:.1} height={BAR} {paint}{say} />"));
    }
}

/// Faults by kind, members and links.
pub(super) fn members(story: &Story, axis: &Axis) -> String {
    let script = &story.script;
    let mut bands = Bands::new(axis);
    let mut kinds: BTreeMap<(u8, &str), Vec<usize>> = BTreeMap::new();
    for (at, fault) in script.faults.iter().enumerate() {
        kinds.entry(word(&fault.kind)).or_default().push(at);
    }
    for ((family, name), faults) in &kinds {
        bands.row(name);
        for at in faults {
            let fault = &script.faults[*at];
            let paint = format!("style='fill:var(--f-{});opacity:.75'", FAMILIES[usize::from(*family)]);
            let until = fault.until_ms.min(script.duration_ms);
            bands.bar(fault.at_ms, until, &paint, &say(&fault.kind, fault.at_ms, until));
        }
    }
    let rows = &story.outcome.timeline;
    for (at, node) in script.nodes.iter().enumerate().take(HOSTS) {
        bands.row(&format!("n{}{}", node.ix, if node.durable { "" } else { " (memory)" }));
        lives(&mut bands, rows, |row| row.cells.get(at).is_some_and(Option::is_some));
    }
    for (at, server) in script.servers.iter().enumerate().take(HOSTS) {
        bands.row(&format!("k{} ({})", server.ix, if server.hostile { "hostile" } else { "server" }));
        lives(&mut bands, rows, |row| row.servers_diverged.get(at).is_some_and(Option::is_some));
    }
    if script.nodes.len() <= LINKS_OF {
        for a in 0..script.nodes.len() {
            for b in a + 1..script.nodes.len() {
                bands.row(&format!("n{} - n{}", script.nodes[a].ix, script.nodes[b].ix));
                let pair = (a as u16, b as u16);
                let linked = spans(rows, |row| row.links.contains(&pair));
                linked.into_iter().for_each(|(from, to)| bands.bar(from, to, "class=link", ""));
            }
        }
    }
    let mut out = axis.drawing(bands.height(), story, &bands.out);
    let left_out = script.nodes.len().saturating_sub(HOSTS) + script.servers.len().saturating_sub(HOSTS);
    if left_out > 0 {
        out.push_str(&format!("<p class=note>{left_out} more hosts are not shown.</p>"));
    }
    out
}

/// The colours of faults.
const FAMILIES: [&str; 6] = ["cut", "path", "life", "clock", "disk", "hostile"];

/// Family and name of a kind of fault.
fn word(kind: &FaultKind) -> (u8, &'static str) {
    match kind {
        FaultKind::Cut { both: true, .. } => (0, "cut"),
        FaultKind::Cut { both: false, .. } => (0, "cut one way"),
        FaultKind::Break { .. } => (0, "session breaks"),
        FaultKind::Path { .. } => (1, "bad path"),
        FaultKind::Slow { .. } => (1, "slow node"),
        FaultKind::Kill { .. } => (2, "killed"),
        FaultKind::Pause { .. } => (2, "stands still"),
        FaultKind::ClockJump { .. } => (3, "clock jumps"),
        FaultKind::DiskFails { .. } => (4, "disk fails"),
        FaultKind::DiskSlow { .. } => (4, "disk slow"),
        FaultKind::OtherVersion { .. } => (2, "other version"),
        FaultKind::Hostile { .. } => (5, "hostile"),
    }
}

fn host(host: &Host) -> String {
    match host {
        Host::Node(ix) => format!("n{ix}"),
        Host::Server(ix) => format!("k{ix}"),
    }
}

fn hosts(all: &[Host]) -> String {
    let named: Vec<_> = all.iter().take(12).map(host).collect();
    let more = if all.len() > 12 { format!(" and {} more", all.len() - 12) } else { String::new() };
    format!("{}{more}", named.join(" "))
}

/// A fault in words.
fn what(kind: &FaultKind) -> String {
    match kind {
        FaultKind::Cut { from, to, both: true } => format!("{} | {}: cut off from each other", hosts(from), hosts(to)),
        FaultKind::Cut { from, to, both: false } => format!("{} to {}: nothing passes", hosts(from), hosts(to)),
        FaultKind::Break { a, b } => format!("{} - {}: their sessions break", host(a), host(b)),
        FaultKind::Path { a, b, path } => format!(
            "{} - {}: {} us and {} us more, {} of 1,000 lost, {} twice, {} late, mtu {}",
            host(a),
            host(b),
            path.delay_us,
            path.jitter_us,
            path.loss_permille,
            path.duplicate_permille,
            path.reorder_permille,
            path.mtu
        ),
        FaultKind::Slow { node, us } => format!("n{node}: {us} us per input"),
        FaultKind::Kill { host: h, disk, new_identity } => {
            format!(
                "{} is killed, disk: {disk:?}{}",
                host(h),
                if *new_identity { ", comes back as another" } else { "" }
            )
        }
        FaultKind::Pause { host: h } => format!("{} stands still", host(h)),
        FaultKind::ClockJump { node, by_ms } => format!("n{node}: its clock jumps by {by_ms} ms"),
        FaultKind::DiskFails { node } => format!("n{node}: its disk fails"),
        FaultKind::DiskSlow { node, ms } => format!("n{node}: its disk takes {ms} ms"),
        FaultKind::OtherVersion { node } => format!("n{node} speaks another version of the protocol"),
        FaultKind::Hostile { node, per_s } => format!("n{node}: {per_s} hostile messages a second"),
    }
}

fn say(kind: &FaultKind, from: u64, to: u64) -> String {
    format!("{}, for {}", what(kind), seconds(to - from))
}

/// From and to of when something was so, milliseconds. A row tells of the second before it.
fn spans(rows: &[Row], so: impl Fn(&Row) -> bool) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for row in rows.iter().filter(|row| so(row)) {
        let (from, to) = (row.second.saturating_sub(1) * 1_000, row.second * 1_000);
        match out.last_mut() {
            Some((_, end)) if *end == from => *end = to,
            _ => out.push((from, to)),
        }
    }
    out
}

/// When a host was up, and when it was down between that.
fn lives(bands: &mut Bands<'_>, rows: &[Row], up: impl Fn(&Row) -> bool) {
    for (from, to) in spans(rows, |row| !up(row)) {
        bands.bar(from, to, "class=down", "down");
    }
    for (from, to) in spans(rows, &up) {
        bands.bar(from, to, "class=up", "");
    }
}

/// What each side saw of a key: a colour per value.
pub(super) fn seen(story: &Story, seen: &Seen, axis: &Axis) -> String {
    let script = &story.script;
    let names = script.nodes.iter().map(|n| format!("n{}", n.ix));
    let names = names.chain(script.servers.iter().map(|s| format!("k{} (server)", s.ix)));
    let total = story.seconds() * 1_000;
    let mut colours: BTreeMap<&str, usize> = BTreeMap::new();
    let mut legend = Vec::new();
    let mut bands = Bands::new(axis);
    for (name, row) in names.zip(&seen.by).take(HOSTS) {
        bands.row(&name);
        for (at, (from, shown)) in row.iter().enumerate() {
            let to = row.get(at + 1).map_or(total, |(next, _)| next * 1_000);
            let Shown::This(value) = shown else {
                let (class, say) = if *shown == Shown::Down { ("down", "down") } else { ("ground", "nothing") };
                bands.bar(from * 1_000, to, &format!("class={class}"), say);
                continue;
            };
            let next = colours.len() % COLOURS;
            let colour = *colours.entry(value).or_insert_with(|| {
                legend.push((next, value));
                next
            });
            bands.bar(from * 1_000, to, &format!("style='fill:var(--s{colour})'"), value);
        }
    }
    let mut out = axis.drawing(bands.height(), story, &bands.out);
    out.push_str("<ul class=legend>");
    for (colour, value) in legend.iter().take(16) {
        let short: String = value.chars().take(120).collect();
        out.push_str(&format!("<li><i style='background:var(--s{colour})'></i><code>{}</code></li>", escape(&short)));
    }
    if legend.len() > 16 {
        out.push_str(&format!("<li>and {} more values</li>", legend.len() - 16));
    }
    if legend.len() > COLOURS {
        out.push_str("<li>colours repeat</li>");
    }
    out.push_str("<li><i style='background:var(--band)'></i>nothing</li><li><i style='background:var(--down)'></i>down</li></ul>");
    out
}

/// All faults, as a table.
pub(super) fn faults(script: &Script) -> String {
    if script.faults.is_empty() {
        return String::new();
    }
    let mut out =
        "<section><details><summary>All faults</summary><div class=scroll><table><thead><tr><th class=number>from\
                   </th><th class=number>for</th><th>what</th></tr></thead><tbody>"
            .to_owned();
    for fault in script.faults.iter().take(2_000) {
        let for_ms = fault.until_ms.min(script.duration_ms) - fault.at_ms;
        out.push_str(&format!(
            "<tr><td class=number>{}.{:03} s</td><td class=number>{}</td><td class=text>{}</td></tr>",
            fault.at_ms / 1_000,
            fault.at_ms % 1_000,
            if for_ms == 0 { String::new() } else { format!("{}.{:03} s", for_ms / 1_000, for_ms % 1_000) },
            escape(&what(&fault.kind))
        ));
    }
    out.push_str("</tbody></table></div></details></section>");
    out
}
