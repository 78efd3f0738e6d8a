//! A document around a body, with all it needs inside; and text as HTML.

use serde_json::Value;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("hover.js");

/// A whole document. `data` is what the pointer shows.
pub(super) fn document(title: &str, body: &str, data: Option<&Value>) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n<meta name=viewport content='width=device-width'>\n\
         <meta name=color-scheme content='light dark'>\n<title>{} - Starling</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<main>\n{body}\n</main>\n",
        escape(title)
    );
    if let Some(data) = data {
        // `</script>` must not come up in it.
        let data = data.to_string().replace('<', "\\u003c");
        out.push_str(&format!(
            "<div id=tip hidden></div>\n<script type='application/json' id=data>{data}</script>\n<script>\n{SCRIPT}</script>\n"
        ));
    }
    out.push_str("</body>\n</html>\n");
    out
}

/// Text that is no HTML.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// Milliseconds as people say them.
pub(super) fn seconds(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        10_000..600_000 => format!("{} s", ms / 1_000),
        600_000..36_000_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

/// Bytes as people say them.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} kB", bytes / 1_000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_ends_an_element_or_an_attribute() {
        assert_eq!(escape("<a b=\"c\">'&\u{1}"), "&lt;a b=&quot;c&quot;&gt;&#39;&amp;\\u{1}");
        let page = document("<x>", "", Some(&Value::String("</script><b>".to_owned())));
        assert!(!page.contains("</script><b>") && page.contains("&lt;x&gt;"));
    }
}
