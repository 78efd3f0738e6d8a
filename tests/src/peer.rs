//! A scripted DMQ peer: joins, answers, counts, keeps what it got, and sends what no sane peer would.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::host::{Host, SIP_PORT};
use crate::sip::{Message, Request, token};

/// What a [`FakePeer`] does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// Answers 200, to notifications with its list.
    Polite,
    /// Never answers: a host that died.
    Silent,
    /// Answers notifications, and data with this status.
    Refuses(u16),
}

/// A peer on a UDP socket of its own, with a thread that answers.
#[derive(Debug)]
pub struct FakePeer {
    host: Host,
    socket: UdpSocket,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    manners: Mutex<Manners>,
    got: Mutex<Vec<Message>>,
    /// What it answers to notifications: itself, and the nodes that it has joined.
    list: Mutex<String>,
}

impl FakePeer {
    /// A peer at the SIP port of `host`, which must be in the current namespace.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn start(host: &Host) -> Self {
        assert!(host.netns.is_none(), "a fake peer lives in the test's own namespace");
        let socket = UdpSocket::bind(host.sip()).expect("the peer's SIP port");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            manners: Mutex::new(Manners::Polite),
            got: Mutex::new(Vec::new()),
            list: Mutex::new(format!("{};status=active\r\n", host.dmq_uri())),
        });
        let (reader, state) = (socket.try_clone().expect("a second handle"), Arc::clone(&shared));
        let thread = std::thread::spawn(move || serve(&reader, &state));
        Self { host: host.clone(), socket, shared, thread: Some(thread) }
    }

    /// Changes its manners.
    ///
    /// # Panics
    /// When its thread panicked.
    pub fn behave(&self, manners: Manners) {
        *self.shared.manners.lock().unwrap() = manners;
    }

    /// Everything that it received until now.
    ///
    /// # Panics
    /// When its thread panicked.
    #[must_use]
    pub fn received(&self) -> Vec<Message> {
        self.shared.got.lock().unwrap().clone()
    }

    /// Requests received on one channel, retransmissions (same Call-ID) counted once.
    #[must_use]
    pub fn requests(&self, channel: &str) -> Vec<Message> {
        let mut seen = BTreeMap::new();
        for message in self.received() {
            if message.method() == Some("KDMQ") && message.channel() == Some(channel) {
                let id = message.header("call-id").unwrap_or_default().to_owned();
                let order = seen.len();
                seen.entry(id).or_insert((order, message));
            }
        }
        let mut list: Vec<_> = seen.into_values().collect();
        list.sort_by_key(|(order, _)| *order);
        list.into_iter().map(|(_, message)| message).collect()
    }

    /// A KDMQ request from this peer, as Kamailio would write it.
    #[must_use]
    pub fn request(&self, to: SocketAddr, channel: &str, body: &[u8]) -> Request {
        kdmq(self.host.ip, to, channel, body)
    }

    /// Sends a request and waits for its final answer; retransmits once a second.
    ///
    /// # Errors
    /// When none came within 5 s.
    ///
    /// # Panics
    /// When its thread panicked.
    pub fn send(&self, to: SocketAddr, request: &Request) -> anyhow::Result<Message> {
        let bytes = request.bytes();
        let id = Message::parse(&bytes)?.header("call-id").map(str::to_owned).context("no Call-ID to wait for")?;
        for _ in 0..5 {
            self.socket.send_to(&bytes, to)?;
            let end = Instant::now() + Duration::from_secs(1);
            while Instant::now() < end {
                let got = self.shared.got.lock().unwrap();
                let answer = got.iter().find(|m| m.status().is_some() && m.header("call-id") == Some(&id));
                if let Some(answer) = answer {
                    return Ok(answer.clone());
                }
                drop(got);
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        bail!("no answer from {to}")
    }

    /// Sends bytes as they are, from the peer's own address.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn send_raw(&self, to: SocketAddr, bytes: &[u8]) -> anyhow::Result<()> {
        self.socket.send_to(bytes, to)?;
        Ok(())
    }

    /// Joins: a notification with its own line, Max-Forwards 2. From then on it lists that node as active, as a
    /// server does that sends there.
    ///
    /// # Errors
    /// When it is not answered.
    ///
    /// # Panics
    /// When its thread panicked.
    pub fn join(&self, to: SocketAddr) -> anyhow::Result<Message> {
        let line = format!("sip:{to};status=active\r\n");
        let mut known = self.shared.list.lock().unwrap();
        if !known.contains(&line) {
            known.push_str(&line);
        }
        drop(known);
        let list = format!("{};status=active\r\n", self.host.dmq_uri());
        let request = self
            .request(to, "notification_peer", list.as_bytes())
            .without("Max-Forwards")
            .without("Content-Type")
            .header("Max-Forwards", "2")
            .header("Content-Type", "text/plain");
        self.send(to, &request)
    }
}

impl Drop for FakePeer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A KDMQ request with the headers of a Kamailio at `ip`, port 5060.
#[must_use]
pub fn kdmq(ip: Ipv4Addr, to: SocketAddr, channel: &str, body: &[u8]) -> Request {
    Request::new("KDMQ", &format!("sip:{channel}@{to}"))
        .header("Via", format!("SIP/2.0/UDP {ip}:{SIP_PORT};branch=z9hG4bK{}", token()))
        .header("To", format!("<sip:{channel}@{to}>"))
        .header("From", format!("<sip:{channel}@{ip}:{SIP_PORT}>;tag={}", token()))
        .header("CSeq", "10 KDMQ")
        .header("Call-ID", format!("{}@{ip}", token()))
        .header("User-Agent", "kamailio (5.6.3 (x86_64/linux))")
        .header("Max-Forwards", "1")
        .header("Content-Type", "application/json")
        .body(body)
}

fn serve(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = vec![0; 65_535];
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok((n, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let Ok(message) = Message::parse(&buffer[..n]) else {
            continue;
        };
        let manners = *shared.manners.lock().unwrap();
        if message.method().is_some()
            && let Some(answer) = answer(&message, manners, &shared.list.lock().unwrap())
        {
            let _ = socket.send_to(&answer, from);
        }
        shared.got.lock().unwrap().push(message);
    }
}

fn answer(request: &Message, manners: Manners, list: &str) -> Option<Vec<u8>> {
    let notification = request.channel() == Some("notification_peer");
    let status = match manners {
        Manners::Silent => return None,
        Manners::Refuses(status) if !notification => status,
        Manners::Polite | Manners::Refuses(_) => 200,
    };
    let mut out = format!("SIP/2.0 {status} {}\r\n", if status == 200 { "OK" } else { "Refused" });
    for (name, value) in &request.headers {
        match name.as_str() {
            "via" | "from" | "call-id" | "cseq" => out.push_str(&format!("{name}: {value}\r\n")),
            "to" => out.push_str(&format!("to: {value};tag=fake\r\n")),
            _ => {}
        }
    }
    let body = if notification { list } else { "" };
    out.push_str(&format!("Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    Some(out.into_bytes())
}
