//! Curves over the time of a run, as SVG.

use super::Story;
use super::html::{escape, seconds, size};
use crate::run::Row;

/// Width of a drawing, in its own units.
pub(super) const WIDTH: f64 = 1_000.0;
/// Where time begins in it: left of that are names.
pub(super) const LEFT: f64 = 92.0;
/// Where time ends in it.
const RIGHT: f64 = 990.0;
/// Height of a chart.
const HEIGHT: f64 = 170.0;
/// Room for the marks above and the seconds below.
const ABOVE: f64 = 16.0;
const BELOW: f64 = 18.0;
/// Colours of curves, in turn.
pub(super) const COLOURS: usize = 8;

/// Virtual seconds on the axis of time.
pub(super) struct Axis {
    total: f64,
}

impl Axis {
    pub(super) fn new(seconds: u64) -> Self {
        Self { total: seconds.max(1) as f64 }
    }

    /// Where a moment is, in the units of a drawing.
    pub(super) fn x(&self, ms: u64) -> f64 {
        LEFT + (ms as f64 / 1_000.0 / self.total).min(1.0) * (RIGHT - LEFT)
    }

    /// A drawing of this height with the moments that matter on it.
    pub(super) fn drawing(&self, height: f64, story: &Story, inside: &str) -> String {
        let mut out = self.plain(height, inside);
        out.push_str(&self.marks(height, story));
        out.push_str("</svg>");
        out
    }

    /// A drawing with seconds below it, not closed.
    pub(super) fn plain(&self, height: f64, inside: &str) -> String {
        let whole = height + ABOVE + BELOW;
        let mut out = format!(
            "<svg viewBox='0 0 {WIDTH} {whole}' role=img data-left={LEFT} data-width={}><g transform='translate(0 {ABOVE})'>",
            RIGHT - LEFT
        );
        let step = step(self.total);
        let mut at = 0.0;
        while at <= self.total {
            let (x, ms) = (self.x((at * 1_000.0) as u64), (at * 1_000.0) as u64);
            out.push_str(&format!("<line class=grid x1={x:.1} x2={x:.1} y1=0 y2={height} />"));
            let said = if at < 600.0 { format!("{at} s") } else { seconds(ms) };
            // The last one must not reach beyond the drawing.
            let (x, anchor) = if x > RIGHT - 15.0 { (WIDTH, "end") } else { (x, "middle") };
            out.push_str(&format!("<text x={x:.1} y={:.1} text-anchor={anchor}>{said}</text>", height + 13.0));
            at += step;
        }
        out.push_str(inside);
        out.push_str("</g>");
        out
    }

    fn marks(&self, height: f64, story: &Story) -> String {
        let total_ms = (self.total * 1_000.0) as u64;
        let mut marks = story.marks();
        marks.retain(|mark| mark.at_ms <= total_ms);
        marks.sort_by_key(|mark| mark.at_ms);
        let mut out = format!("<g transform='translate(0 {ABOVE})'>");
        // Names that would lie on each other make one.
        let mut names: Vec<(f64, String)> = Vec::new();
        for mark in marks {
            let x = self.x(mark.at_ms);
            out.push_str(&format!("<line class='mark{}' x1={x:.1} x2={x:.1} y1=-4 y2={height} />", mark.class));
            match names.last_mut() {
                Some((before, name)) if x - *before < 6.5 * name.len() as f64 => {
                    name.push_str(", ");
                    name.push_str(mark.name);
                }
                _ => names.push((x, mark.name.to_owned())),
            }
        }
        for (x, name) in names {
            let (x, anchor) = if x > RIGHT - 60.0 { (RIGHT, "end") } else { (x, "start") };
            out.push_str(&format!("<text x={x:.1} y=-6 text-anchor={anchor}>{name}</text>"));
        }
        out.push_str("</g>");
        out
    }
}

/// A round distance between two labels, seconds.
fn step(total: f64) -> f64 {
    let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_200.0, 3_600.0, 7_200.0, 21_600.0];
    steps.into_iter().find(|s| total / s <= 12.0).unwrap_or((total / 10.0).ceil())
}

/// How a curve is drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// In one go.
    Full,
    /// In dashes.
    Dashed,
    /// In dots, so that it shows upon another one.
    Dotted,
}

impl Line {
    fn class(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Dashed => "dashed",
            Self::Dotted => "dotted",
        }
    }
}

/// A curve on a chart.
pub(super) struct Curve {
    /// Its name in the legend.
    pub(super) name: String,
    /// Which colour.
    pub(super) colour: usize,
    /// How it is drawn.
    pub(super) line: Line,
    /// Second and value; a gap where there is none.
    pub(super) points: Vec<(u64, Option<u64>)>,
}

/// The largest value of all curves, and at least 1.
fn most(curves: &[Curve]) -> u64 {
    curves.iter().flat_map(|c| &c.points).filter_map(|(_, v)| *v).max().unwrap_or(0).max(1)
}

/// Curves with their legend; the legend names those that ever leave 0, if there are more than a few.
pub(super) fn chart(
    axis: &Axis,
    curves: &[Curve],
    unit: fn(u64) -> String,
    close: impl Fn(f64, &str) -> String,
) -> String {
    let top = most(curves);
    let mut inside = String::new();
    for part in 0..=2_u64 {
        let y = HEIGHT - HEIGHT * part as f64 / 2.0;
        inside.push_str(&format!("<line class=grid x1={LEFT} x2={RIGHT} y1={y} y2={y} />"));
        if part != 1 || top > 1 {
            inside.push_str(&format!(
                "<text x={} y={} text-anchor=end>{}</text>",
                LEFT - 6.0,
                y + 4.0,
                unit(top * part / 2)
            ));
        }
    }
    for curve in curves.iter().rev() {
        let class = format!("curve {}", curve.line.class());
        let path = path(axis, &curve.points, top);
        inside.push_str(&format!("<path class='{class}' style='stroke:var(--s{})' d='{path}' />", curve.colour));
    }
    let mut out = close(HEIGHT, &inside);
    let said: Vec<&Curve> =
        curves.iter().filter(|c| curves.len() <= 12 || c.points.iter().any(|(_, v)| *v > Some(0))).collect();
    out.push_str("<ul class=legend>");
    for curve in said.iter().take(24) {
        let line = curve.line.class();
        out.push_str(&format!(
            "<li><i class={line} style='--c:var(--s{0});background:var(--s{0})'></i>{1}</li>",
            curve.colour,
            escape(&curve.name)
        ));
    }
    if said.len() > 24 {
        out.push_str(&format!("<li>and {} more</li>", said.len() - 24));
    }
    out.push_str("</ul>");
    out
}

/// At most one point per unit of the drawing: the greatest of those that fall on it.
fn path(axis: &Axis, points: &[(u64, Option<u64>)], top: u64) -> String {
    let mut out = String::new();
    let mut drawn: Option<(i64, u64)> = None;
    let mut pen = 'M';
    let mut flush = |drawn: Option<(i64, u64)>, pen: &mut char| {
        if let Some((x, value)) = drawn {
            let y = HEIGHT - HEIGHT * value as f64 / top as f64;
            out.push_str(&format!("{pen}{x} {y:.1}"));
            *pen = 'L';
        }
    };
    for (second, value) in points {
        let x = axis.x(second * 1_000).round() as i64;
        match (value, drawn) {
            (Some(value), Some((at, greatest))) if at == x => drawn = Some((at, greatest.max(*value))),
            (Some(value), before) => {
                flush(before, &mut pen);
                drawn = Some((x, *value));
            }
            (None, before) => {
                flush(before, &mut pen);
                drawn = None;
                pen = 'M';
            }
        }
    }
    flush(drawn, &mut pen);
    out
}

fn curve(story: &Story, name: String, colour: usize, line: Line, value: impl Fn(&Row) -> Option<u64>) -> Curve {
    let points = story.outcome.timeline.iter().map(|row| (row.second, value(row))).collect();
    Curve { name, colour: colour % COLOURS, line, points }
}

/// Cells in which each node and server differs from what is best known.
pub(super) fn diverged(story: &Story, axis: &Axis) -> String {
    let script = &story.script;
    let nodes = script.nodes.iter().enumerate().map(|(at, node)| {
        curve(story, format!("n{}", node.ix), at, Line::Full, move |row| row.diverged.get(at).copied().flatten())
    });
    let servers = script.servers.iter().enumerate().filter(|(_, server)| !server.hostile).map(|(at, server)| {
        let value = move |row: &Row| row.servers_diverged.get(at).copied().flatten();
        curve(story, format!("k{} (server)", server.ix), at, Line::Dashed, value)
    });
    let curves: Vec<_> = nodes.chain(servers).collect();
    chart(axis, &curves, |n| n.to_string(), |height, inside| axis.drawing(height, story, inside))
}

/// Bytes a second.
pub(super) fn traffic(story: &Story, axis: &Axis) -> String {
    let curves = [
        curve(story, "between nodes".to_owned(), 0, Line::Full, |row| Some(row.node_bytes)),
        curve(story, "SIP, between nodes and servers".to_owned(), 1, Line::Dashed, |row| Some(row.sip_bytes)),
    ];
    chart(axis, &curves, size, |height, inside| axis.drawing(height, story, inside))
}
