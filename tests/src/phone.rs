//! A SIP phone that registers: real REGISTER requests over UDP.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::sip::{Message, Request, ok, token};
use crate::udp;

/// A contact as a phone writes it into a Contact header.
#[derive(Clone, Debug, Default)]
pub struct Contact {
    uri: String,
    params: String,
}

impl Contact {
    /// A contact URI.
    #[must_use]
    pub fn new(uri: &str) -> Self {
        Self { uri: uri.to_owned(), params: String::new() }
    }

    /// `q`, as text.
    #[must_use]
    pub fn q(self, q: &str) -> Self {
        self.param("q", q)
    }

    /// `expires`, seconds.
    #[must_use]
    pub fn expires(self, seconds: u32) -> Self {
        self.param("expires", &seconds.to_string())
    }

    /// `+sip.instance`, without angle brackets, and `reg-id` (RFC 5626).
    #[must_use]
    pub fn instance(self, urn: &str, reg_id: u32) -> Self {
        self.param("+sip.instance", &format!("\"<{urn}>\"")).param("reg-id", &reg_id.to_string())
    }

    /// `methods`, a list.
    #[must_use]
    pub fn methods(self, list: &str) -> Self {
        self.param("methods", &format!("\"{list}\""))
    }

    fn param(mut self, name: &str, value: &str) -> Self {
        self.params.push_str(&format!(";{name}={value}"));
        self
    }

    fn header(&self) -> String {
        format!("<{}>{}", self.uri, self.params)
    }
}

/// One phone: a socket, a Call-ID for all its registrations, and a CSeq that grows (RFC 3261 10.2).
#[derive(Debug)]
pub struct Phone {
    socket: UdpSocket,
    server: SocketAddr,
    aor: String,
    call_id: String,
    cseq: u32,
    user_agent: String,
    path: Option<String>,
    nat: bool,
    /// A text in its requests, and the bytes that go out in its place.
    odd: Option<(String, Vec<u8>)>,
}

impl Phone {
    /// A phone of user `aor` (user part, or `user@domain`) that registers at `server`.
    ///
    /// # Panics
    /// When there is no socket.
    #[must_use]
    pub fn new(aor: &str, server: SocketAddr) -> Self {
        let socket = udp::connected(None, server).expect("a UDP socket");
        let (call_id, user_agent) = (format!("{}@phone", token()), "Starling test phone 1.0".to_owned());
        Self { socket, server, aor: aor.to_owned(), call_id, cseq: 0, user_agent, path: None, nat: false, odd: None }
    }

    /// With a User-Agent.
    #[must_use]
    pub fn user_agent(mut self, text: &str) -> Self {
        text.clone_into(&mut self.user_agent);
        self
    }

    /// Behind an edge proxy: a Path header (RFC 3327).
    #[must_use]
    pub fn path(mut self, value: &str) -> Self {
        self.path = Some(value.to_owned());
        self
    }

    /// Behind a NAT, as the server sees it: it stores `received`.
    #[must_use]
    pub fn behind_nat(mut self) -> Self {
        self.nat = true;
        self
    }

    /// With bytes that are no text in place of a word of its requests.
    #[must_use]
    pub fn with_bytes(mut self, word: &str, bytes: &[u8]) -> Self {
        self.odd = Some((word.to_owned(), bytes.to_vec()));
        self
    }

    /// The Call-ID of its registrations.
    #[must_use]
    pub fn call_id(&self) -> &str {
        &self.call_id
    }

    /// The CSeq of its last registration.
    #[must_use]
    pub fn cseq(&self) -> u32 {
        self.cseq
    }

    /// Its own address, as the server sees it.
    ///
    /// # Panics
    /// When the socket is gone.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("a local address")
    }

    /// Goes to another server, with the same Call-ID and the next CSeq: what a phone does when DNS moves it.
    ///
    /// # Panics
    /// When there is no route.
    pub fn move_to(&mut self, server: SocketAddr) {
        self.socket = udp::connected(None, server).expect("a UDP socket");
        self.server = server;
    }

    /// Registers contacts for so many seconds and returns the 200.
    ///
    /// # Errors
    /// When it is refused or unanswered.
    pub fn register(&mut self, contacts: &[Contact], expires: u32) -> anyhow::Result<Message> {
        let mut request = self.request().header("Expires", expires.to_string());
        for contact in contacts {
            request = request.header("Contact", contact.header());
        }
        self.send(&request)
    }

    /// Un-registers one contact.
    ///
    /// # Errors
    /// When it is refused or unanswered.
    pub fn unregister(&mut self, uri: &str) -> anyhow::Result<Message> {
        self.register(&[Contact::new(uri)], 0)
    }

    /// Un-registers everything: `Contact: *` (RFC 3261 10.2.2).
    ///
    /// # Errors
    /// When it is refused or unanswered.
    pub fn unregister_all(&mut self) -> anyhow::Result<Message> {
        let request = self.request().header("Expires", "0").header("Contact", "*");
        self.send(&request)
    }

    fn request(&mut self) -> Request {
        self.cseq += 1;
        let uri = if self.aor.contains('@') {
            format!("sip:{}", self.aor)
        } else {
            format!("sip:{}@{}", self.aor, self.server.ip())
        };
        let mut request = Request::new("REGISTER", &format!("sip:{}", self.server.ip()))
            .header("Via", format!("SIP/2.0/UDP {};branch=z9hG4bK{};rport", self.address(), token()))
            .header("Max-Forwards", "70")
            .header("From", format!("<{uri}>;tag={}", token()))
            .header("To", format!("<{uri}>"))
            .header("Call-ID", &*self.call_id)
            .header("CSeq", format!("{} REGISTER", self.cseq))
            .header("User-Agent", &*self.user_agent);
        if let Some(path) = &self.path {
            request = request.header("Supported", "path").header("Path", &**path);
        }
        if self.nat {
            request = request.header("X-NAT", "yes");
        }
        request
    }

    fn send(&self, request: &Request) -> anyhow::Result<Message> {
        let mut bytes = request.bytes();
        if let Some((word, odd)) = &self.odd {
            let at = bytes.windows(word.len()).position(|w| w == word.as_bytes()).expect("the word to replace");
            bytes.splice(at..at + word.len(), odd.iter().copied());
        }
        ok(udp::transact(&self.socket, &bytes, Duration::from_secs(10))?)
    }
}
