//! `GET /metrics`: Prometheus text exposition format 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use node::view::Metric;

use super::{App, Failure, Info};

pub(super) async fn metrics(State(app): State<App>) -> Result<impl IntoResponse, Failure> {
    let mut figures = app.look(|node, now| node.metrics(now)).await?;
    figures.extend(own(&app.info));
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], expose(&figures)))
}

/// What the shell counts.
fn own(info: &Info) -> Vec<Metric> {
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    let mut figures = vec![Metric { name: "build_info", help: "Always 1.", labels: version, value: 1 }];
    for (socket, counts) in &info.udp {
        for (name, help, value) in [
            ("sip_udp_received_total", "Datagrams read from a SIP socket.", &counts.received),
            ("sip_udp_sent_total", "Datagrams sent from a SIP socket.", &counts.sent),
            ("sip_udp_send_errors_total", "Datagrams that the kernel did not take.", &counts.send_errors),
        ] {
            figures.push(Metric { name, help, labels: vec![("socket", socket.clone())], value: value.load(Relaxed) });
        }
    }
    figures
}

/// All samples of a metric stand together, as the format wants it.
fn expose(figures: &[Metric]) -> String {
    let mut by_name: BTreeMap<&str, Vec<&Metric>> = BTreeMap::new();
    for figure in figures {
        by_name.entry(figure.name).or_default().push(figure);
    }
    let mut out = String::new();
    for (name, figures) in by_name {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        let help = figures.first().map_or("", |figure| figure.help);
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# HELP starling_{name} {}\n# TYPE starling_{name} {kind}", escape(help));
        for figure in figures {
            let _ = writeln!(out, "starling_{name}{} {}", labels(&figure.labels), figure.value);
        }
    }
    out
}

fn labels(labels: &[(&'static str, String)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let pairs: Vec<String> =
        labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value).replace('"', "\\\""))).collect();
    format!("{{{}}}", pairs.join(","))
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_a_metric_stand_together_with_one_type() {
        let figure =
            |name, value, label: &str| Metric { name, help: "H.", labels: vec![("peer", label.to_owned())], value };
        let text = expose(&[figure("a_total", 1, "x"), figure("b", 2, "y\"\\"), figure("a_total", 3, "z")]);
        let expected = "# HELP starling_a_total H.\n# TYPE starling_a_total counter\n\
            starling_a_total{peer=\"x\"} 1\nstarling_a_total{peer=\"z\"} 3\n\
            # HELP starling_b H.\n# TYPE starling_b gauge\nstarling_b{peer=\"y\\\"\\\\\"} 2\n";
        assert_eq!(text, expected);
    }
}
