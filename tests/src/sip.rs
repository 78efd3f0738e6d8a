//! SIP as bytes: as much as the tests need, independent of the product's parser.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail};

/// A received message, taken apart.
#[derive(Clone, Debug)]
pub struct Message {
    /// Request or status line.
    pub start: String,
    /// Header names in lower case, in order, with their values.
    pub headers: Vec<(String, String)>,
    /// What follows the empty line.
    pub body: Vec<u8>,
}

impl Message {
    /// Takes a datagram apart.
    ///
    /// # Errors
    /// When there is no empty line or no start line.
    pub fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").context("no empty line")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let start = lines.next().filter(|l| !l.is_empty()).context("no start line")?.to_owned();
        let mut headers = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(':').with_context(|| format!("not a header: {line}"))?;
            headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Self { start, headers, body: bytes[end + 4..].to_vec() })
    }

    /// The status code of a response, `None` of a request.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.start.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
    }

    /// The method of a request, `None` of a response.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        (!self.start.starts_with("SIP/2.0 ")).then(|| self.start.split(' ').next().unwrap_or_default())
    }

    /// The user part of the request URI: of a KDMQ request, its channel.
    #[must_use]
    pub fn channel(&self) -> Option<&str> {
        self.start.split(' ').nth(1)?.strip_prefix("sip:")?.split_once('@').map(|(user, _)| user)
    }

    /// The first header of that name (lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        Ok(serde_json::from_slice(&self.body)?)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A request being written. Headers stand in the order in which they were added.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    uri: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    length: bool,
}

impl Request {
    /// A request without headers.
    #[must_use]
    pub fn new(method: &str, uri: &str) -> Self {
        Self { method: method.to_owned(), uri: uri.to_owned(), headers: Vec::new(), body: Vec::new(), length: true }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Removes every header of that name.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Leaves out Content-Length.
    #[must_use]
    pub fn without_length(mut self) -> Self {
        self.length = false;
        self
    }

    /// As it goes onto the wire.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = format!("{} {} SIP/2.0\r\n", self.method, self.uri).into_bytes();
        for (name, value) in &self.headers {
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if self.length {
            out.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.body);
        out
    }
}

/// A token that this machine has not used before: for branches, tags and Call-IDs.
#[must_use]
pub fn token() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    format!("{:x}x{time:x}x{n:x}", std::process::id())
}

/// Fails unless it is a 200.
///
/// # Errors
/// With the start line of what it is instead.
pub fn ok(response: Message) -> anyhow::Result<Message> {
    if response.status() != Some(200) {
        bail!("answered {}", response.start);
    }
    Ok(response)
}
