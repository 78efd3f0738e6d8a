//! HTTP with JSON, for the RPC of Kamailio and the admin API of a node.

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

/// An answer: its status and what it carried, `Null` if that was no JSON.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body as JSON.
    pub json: Value,
    /// The body as text.
    pub text: String,
}

/// Asks once, without keeping the connection.
///
/// # Errors
/// When there is no HTTP answer at all; a status of 400 and above is an answer.
pub fn ask(method: &str, url: &str, body: Option<&Value>, timeout: Duration) -> anyhow::Result<Answer> {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(timeout))
        .max_idle_connections(0)
        .proxy(None)
        .build();
    let agent = ureq::Agent::new_with_config(config);
    let bytes = body.map_or_else(Vec::new, |b| b.to_string().into_bytes());
    let mut request = ureq::http::Request::builder().method(method).uri(url);
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    let mut response = if body.is_some() { agent.run(request.body(bytes)?) } else { agent.run(request.body(())?) }
        .with_context(|| format!("{method} {url}"))?;
    let raw =
        response.body_mut().with_config().limit(1 << 30).read_to_vec().with_context(|| format!("{method} {url}"))?;
    // What servers store may be any bytes.
    let text = String::from_utf8_lossy(&raw).into_owned();
    let json = serde_json::from_str(&text).unwrap_or(Value::Null);
    Ok(Answer { status: response.status().as_u16(), json, text })
}

/// Percent-encodes everything that is not plainly unreserved (RFC 3986 2.3).
#[must_use]
pub fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
