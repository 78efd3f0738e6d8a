//! A stranger who sends what it likes to a node's SIP socket. Nothing of it may have an effect.
//!
//! Most comes from addresses that nobody trusts; what comes from a server's address (anybody can write one on a datagram)
//! is never a whole message.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::rng::Rng;
use crate::server::server_addr;

/// A stranger.
#[derive(Debug)]
pub(crate) struct Hostile {
    rng: Rng,
    sent: u64,
}

/// Bodies that look as if they meant something, and some that kill parsers.
const BODIES: &[(&str, &str)] = &[
    ("usrloc", r#"{"action":1,"aor":"u1","ruid":"x-1","c":"sip:evil@192.0.2.1","expires":4102444800,"cseq":1}"#),
    ("usrloc", r#"{"action":2,"aor":"u1","ruid":"x-1"}"#),
    ("usrloc", r#"{"action":3}"#),
    ("usrloc", r#"{"action":1,"aor":null,"ruid":[[[[[[]]]]]],"c":1e999}"#),
    ("htable", r#"{"action":2,"htname":"t","cname":"k","type":2,"strval":"evil","mode":1}"#),
    ("htable", r#"{"action":5,"htname":"t","cname":".*","mode":0}"#),
    ("htable", r#"{"action":1}"#),
    ("htable", r#"{"cells":[{"name":"k"},{}]}"#),
    ("notification_peer", "sip:192.0.2.9:5060;status=active\r\n"),
    ("notification_peer", "sip:;status=\r\n\r\n\0"),
    ("dialog", r#"{"action":4}"#),
    ("\u{fffd}", "{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":"),
];

impl Hostile {
    /// One that has sent nothing yet.
    pub(crate) const fn new(rng: Rng) -> Self {
        Self { rng, sent: 0 }
    }

    /// Its next message to `target`, and the source that it names.
    pub(crate) fn message(&mut self, target: SocketAddr) -> (SocketAddr, Bytes) {
        self.sent += 1;
        let stranger = SocketAddr::from(([192, 0, 2, 1 + self.rng.below(250) as u8], 5060));
        let mut from = stranger;
        let bytes = match self.rng.below(8) {
            0 => self.garbage(),
            1 => {
                from = self.server();
                self.garbage()
            }
            2 => {
                from = self.server();
                self.part(from, target)
            }
            3 => self.part(stranger, target),
            4 => self.mangled(stranger, target),
            _ => self.request(stranger, target),
        };
        (from, bytes.into())
    }

    fn server(&mut self) -> SocketAddr {
        server_addr(self.rng.below(5) as u16)
    }

    fn garbage(&mut self) -> Vec<u8> {
        let len = self.rng.below(300);
        (0..len).map(|_| self.rng.next() as u8).collect()
    }

    /// A KDMQ request as a server would send it.
    fn request(&mut self, from: SocketAddr, target: SocketAddr) -> Vec<u8> {
        let (channel, body) = BODIES[self.rng.below(BODIES.len() as u64) as usize];
        let (id, sent) = (self.rng.next(), self.sent);
        format!(
            "KDMQ sip:{channel}@{target} SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{id:x}.0\r\n\
             To: <sip:{channel}@{target}>\r\nFrom: <sip:{channel}@{from}>;tag={id:x}\r\nCSeq: 10 KDMQ\r\n\
             Call-ID: {id:016x}-{sent}@{}\r\nContent-Length: {}\r\nUser-Agent: kamailio (5.6.3 (x86_64/linux))\r\n\
             Max-Forwards: 1\r\nContent-Type: application/json\r\n\r\n{body}",
            from.ip(),
            body.len()
        )
        .into_bytes()
    }

    /// The beginning of one: its last byte is missing at least.
    fn part(&mut self, from: SocketAddr, target: SocketAddr) -> Vec<u8> {
        let mut bytes = self.request(from, target);
        let keep = self.rng.below(bytes.len() as u64) as usize;
        bytes.truncate(keep);
        bytes
    }

    /// One with some bytes changed.
    fn mangled(&mut self, from: SocketAddr, target: SocketAddr) -> Vec<u8> {
        let mut bytes = self.request(from, target);
        for _ in 0..1 + self.rng.below(8) {
            let at = self.rng.below(bytes.len() as u64) as usize;
            bytes[at] = self.rng.next() as u8;
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    #[test]
    fn whole_messages_come_from_addresses_that_nobody_trusts() {
        let mut hostile = Hostile::new(Rng::stream(1, Stream::Hostile, 0));
        let target = SocketAddr::from(([10, 0, 0, 1], 5070));
        let mut whole = 0;
        for _ in 0..2_000 {
            let (from, bytes) = hostile.message(target);
            let trusted = from.ip().to_string().starts_with("10.");
            let readable = sip::parse(&bytes).is_ok();
            assert!(!(trusted && readable), "{:?}", String::from_utf8_lossy(&bytes));
            whole += usize::from(readable);
        }
        assert!(whole > 500, "{whole}");
    }
}
