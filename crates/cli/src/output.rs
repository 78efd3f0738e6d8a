//! What commands print, and how they fail.

use std::io::{self, Write};

use serde::Serialize;

/// A command that is not done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody reads standard output any more.
    BrokenPipe,
    /// What, where and what to do.
    Said(String),
    /// It was called in a way that makes no sense.
    Usage(String),
}

pub(crate) type Outcome = Result<(), Failure>;

impl Failure {
    pub(crate) fn said(text: impl Into<String>) -> Self {
        Self::Said(text.into())
    }

    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Said(format!("cannot write the result: {error}")),
        }
    }
}

/// Prints a result.
pub(crate) fn print(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Says something that is no result. Whoever closed standard error does not want to hear.
pub(crate) fn talk(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints JSON as people and `jq` read it.
pub(crate) fn print_json(value: &impl Serialize) -> Outcome {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::said(e.to_string()))?;
    print(&format!("{text}\n"))
}

/// Text from SIP as one line on a terminal: control characters are shown, not obeyed.
pub(crate) fn plain(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().collect::<String>() } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// Seconds as people say them: `2d3h`, `1h5m`, `42s`.
pub(crate) fn span(secs: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let first = UNITS.iter().position(|(_, size)| secs >= *size).unwrap_or(UNITS.len() - 1);
    let mut out = String::new();
    let mut rest = secs;
    for (unit, size) in UNITS.iter().skip(first).take(2) {
        let count = rest / size;
        rest %= size;
        if count > 0 || out.is_empty() {
            out.push_str(&format!("{count}{unit}"));
        }
    }
    out
}

/// Bytes as people say them.
pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// How long until a unix time, or that there is none.
pub(crate) fn until(unix: Option<u64>) -> String {
    let now = unix_now();
    match unix {
        None | Some(0) => "never".to_owned(),
        Some(at) if at <= now => "now".to_owned(),
        Some(at) => format!("in {}", span(at - now)),
    }
}

/// How long since a unix time.
pub(crate) fn ago(unix: u64) -> String {
    match unix_now().saturating_sub(unix) {
        0 => "now".to_owned(),
        secs => format!("{} ago", span(secs)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_at_most_two_units() {
        let shown: Vec<_> = [0, 42, 60, 3_900, 86_400, 183_600].into_iter().map(span).collect();
        assert_eq!(shown, ["0s", "42s", "1m", "1h5m", "1d", "2d3h"]);
    }

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(plain("a\u{1b}[31mb\n"), "a\\u{1b}[31mb\\n");
    }
}
