//! Bad input over UDP and TCP: what must not be sent to a real server must do nothing to a node. It answers
//! with the right code or not at all, counts it, keeps running, and changes nothing.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;
use starling_tests::host::Host;
use starling_tests::peer::{FakePeer, Manners, kdmq};
use starling_tests::sip::{Message, Request, token};
use starling_tests::starling::{Starling, StarlingConfig};
use starling_tests::udp;
use starling_tests::wait::{PATIENCE, eventually, limited, same, secs};

/// How long silence must last to be one.
const SILENCE: Duration = Duration::from_millis(300);

/// A node with some state, and a peer that it knows.
struct Subject {
    node: Starling,
    peer: FakePeer,
    peer_ip: Ipv4Addr,
    state: (String, u64),
}

impl Subject {
    fn start() -> Self {
        Self::with(&StarlingConfig::default())
    }

    fn with(config: &StarlingConfig) -> Self {
        let (host, peer_host) = (Host::loopback(), Host::loopback());
        let node = Starling::start("n", &host, config);
        let peer = FakePeer::start(&peer_host);
        peer.join(node.sip()).unwrap();
        let mut subject = Self { node, peer, peer_ip: peer_host.ip, state: (String::new(), 0) };
        for (channel, body) in
            [("usrloc", contact("alice", "uloc-1", "sip:alice@192.0.2.1")), ("htable", set("k", "v"))]
        {
            assert_eq!(subject.status(channel, body.as_bytes()), Some(200), "{channel}");
        }
        // One contact and one entry, and whatever cells hold them.
        assert_eq!(subject.node.contacts_of("alice").unwrap().len(), 1);
        assert!(subject.node.entry("plain", "k").unwrap().is_some());
        subject.state = subject.node.digest().unwrap();
        subject
    }

    fn to(&self) -> SocketAddr {
        self.node.sip()
    }

    /// The final status of a KDMQ request of the peer.
    fn status(&self, channel: &str, body: &[u8]) -> Option<u16> {
        let request = self.peer.request(self.to(), channel, body);
        self.peer.send(self.to(), &request).ok().and_then(|answer| answer.status())
    }

    /// Everything that the node counts as refused or not understood.
    fn refusals(&self) -> f64 {
        let words = ["malformed", "refused", "untrusted", "other_channels", "dropped", "closed"];
        let metrics = self.node.metrics().unwrap();
        metrics.iter().filter(|(name, _)| words.iter().any(|w| name.contains(w))).map(|(_, n)| n).sum()
    }

    /// The node runs, has counted something since `before`, and holds what it held.
    #[track_caller]
    fn check(&mut self, what: &str, before: f64) {
        self.check_unchanged(what);
        let now = self.refusals();
        assert!(now > before, "{what}: not counted; {:?}", self.node.metrics());
    }

    #[track_caller]
    fn check_unchanged(&mut self, what: &str) {
        self.node.process().ensure_running().unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(self.node.digest().unwrap(), self.state, "{what}: something changed");
    }
}

/// A whole update of the usrloc channel.
fn contact(aor: &str, ruid: &str, uri: &str) -> String {
    row(aor, ruid, uri).to_string()
}

fn row(aor: &str, ruid: &str, uri: &str) -> serde_json::Value {
    let now = starling_tests::compare::unix_now();
    json!({
        "action": 1, "aor": aor, "ruid": ruid, "c": uri, "received": "", "path": "", "callid": "c1@x",
        "user_agent": "ua", "instance": "", "expires": now + 3_600, "cseq": 1, "flags": 0, "cflags": 0, "q": -1,
        "last_modified": now, "methods": 4_294_967_295_u32, "reg_id": 0, "server_id": 1
    })
}

/// A whole set of the htable channel.
fn set(key: &str, value: &str) -> String {
    json!({"action": 2, "htname": "plain", "cname": key, "type": 2, "strval": value, "mode": 1}).to_string()
}

/// An update with one field replaced (or removed, with null and `remove`).
fn contact_with(field: &str, value: serde_json::Value) -> String {
    let mut row = row("mallory", "uloc-9", "sip:mallory@192.0.2.9");
    row[field] = value;
    row.to_string()
}

fn contact_without(field: &str) -> String {
    let mut row = row("mallory", "uloc-9", "sip:mallory@192.0.2.9");
    row.as_object_mut().unwrap().remove(field);
    row.to_string()
}

/// Bodies that kill, hang or confuse a real server, and truncations: channel, body, status, per docs/kdmq.md 11.
fn killers() -> Vec<(&'static str, String, &'static [u16])> {
    let usrloc: Vec<(String, &'static [u16])> = vec![
        ("{}".into(), &[400]),
        ("[]".into(), &[400]),
        ("[{\"action\":1}]".into(), &[400]),
        ("\"x\"".into(), &[400]),
        ("5".into(), &[400]),
        ("null".into(), &[400]),
        ("nonsense".into(), &[400]),
        ("\u{0}".into(), &[400]),
        ("[".repeat(10_000), &[400]),
        ("{\"a\":".repeat(5_000), &[400]),
        ("{\"action\":9}".into(), &[400]),
        ("{\"action\":-1}".into(), &[400]),
        ("{\"action\":0}".into(), &[200]),
        ("{\"action\":\"1\"}".into(), &[200, 400]),
        ("{\"action\":1}".into(), &[200, 400]),
        ("{\"action\":2}".into(), &[200, 400]),
        ("{\"action\":1e300}".into(), &[400]),
        (contact_with("aor", json!(5)), &[400]),
        (contact_with("aor", json!(null)), &[400]),
        (contact_with("aor", json!("")), &[200, 400]),
        (contact_with("c", json!(null)), &[400]),
        (contact_with("c", json!({"x": 1})), &[400]),
        (contact_with("c", json!("")), &[200, 400]),
        (contact_with("ruid", json!("")), &[200]),
        (contact_with("callid", json!(7)), &[400]),
        (contact_with("path", json!([])), &[400]),
        (contact_without("c"), &[200, 400]),
        (contact_without("ruid"), &[200, 400]),
        (contact_without("aor"), &[200, 400]),
        (contact_with("expires", json!(1_000)), &[200]),
        (contact_with("expires", json!("soon")), &[400]),
        ("{\"action\":1,\"multi\":{}}".into(), &[200, 400]),
        ("{\"multi\":{}}".into(), &[200, 400]),
        ("{\"multi\":5}".into(), &[200, 400]),
        ("{\"multi\":{\"1\":5}}".into(), &[200, 400]),
        ("{\"action\":2,\"aor\":\"alice\",\"ruid\":\"unknown\"}".into(), &[200]),
        ("{\"action\":2,\"aor\":\"nobody\",\"ruid\":\"uloc-1\"}".into(), &[200]),
    ];
    let htable: Vec<(String, &'static [u16])> = vec![
        ("{}".into(), &[400]),
        ("[{\"action\":2}]".into(), &[400]),
        ("{\"action\":77}".into(), &[500]),
        ("{\"action\":0}".into(), &[200]),
        (json!({"action": 2, "htname": "plain", "cname": "x", "type": 2, "strval": 5, "mode": 1}).to_string(), &[400]),
        (
            json!({"action": 2, "htname": "plain", "cname": "x", "type": 2, "strval": null, "mode": 1}).to_string(),
            &[400],
        ),
        (
            json!({"action": 2, "htname": "plain", "cname": "x", "type": 0, "intval": "5", "mode": 1}).to_string(),
            &[400],
        ),
        (json!({"action": 2, "htname": "plain", "cname": "x", "type": 2, "mode": 1}).to_string(), &[400]),
        (json!({"action": 2, "cname": "x", "type": 2, "strval": "v", "mode": 1}).to_string(), &[500]),
        (json!({"action": 2, "htname": "plain", "type": 2, "strval": "v", "mode": 1}).to_string(), &[500]),
        (json!({"action": 2, "htname": 5, "cname": "x", "type": 2, "strval": "v", "mode": 1}).to_string(), &[400]),
        (json!({"action": 4, "htname": "plain", "cname": "unknown", "mode": 0}).to_string(), &[200]),
        (
            json!({"action": 3, "htname": "plain", "cname": "unknown", "type": 0, "intval": 5, "mode": 0}).to_string(),
            &[200],
        ),
        (json!({"action": 5, "htname": "plain", "type": 2, "strval": "([", "mode": 0}).to_string(), &[200, 400]),
        (
            json!({"action": 5, "htname": "plain", "type": 2, "strval": "(a{1,50000}){1,50000}", "mode": 0})
                .to_string(),
            &[200, 400],
        ),
        (json!({"action": 6, "htname": "plain", "type": 2, "mode": 0}).to_string(), &[200, 400]),
        ("{\"action\":2,\"cells\":[{\"htname\":\"plain\"}]}".into(), &[200, 400, 500]),
        ("{\"cells\":[]}".into(), &[200]),
        ("{\"cells\":{}}".into(), &[200, 400]),
        ("{\"cells\":[5,null,\"x\"]}".into(), &[200, 400]),
    ];
    let with = |channel, list: Vec<(String, &'static [u16])>| {
        list.into_iter().map(move |(body, codes)| (channel, body, codes))
    };
    with("usrloc", usrloc).chain(with("htable", htable)).collect()
}

#[test]
fn bodies_that_kill_a_real_server_are_refused_over_udp() {
    limited(secs(120), || {
        let mut subject = Subject::start();
        for (channel, body, codes) in killers() {
            let status = subject.status(channel, body.as_bytes());
            let shown: String = body.chars().take(120).collect();
            assert!(status.is_some_and(|s| codes.contains(&s)), "{channel} {shown}: {status:?}, not one of {codes:?}");
            subject.check_unchanged(&shown);
        }
        let before = subject.refusals();
        assert_eq!(subject.status("usrloc", b"{}"), Some(400));
        subject.check("{}", before);
    });
}

#[test]
fn bodies_that_kill_a_real_server_are_refused_over_tcp() {
    limited(secs(120), || {
        let mut subject = Subject::start();
        for (channel, body, codes) in killers() {
            let request = kdmq(subject.peer_ip, subject.to(), channel, body.as_bytes());
            let via = format!("SIP/2.0/TCP {}:5060;branch=z9hG4bK{}", subject.peer_ip, token());
            let bytes = request.without("Via").header("Via", via).bytes();
            let (answer, _) =
                udp::stream(subject.to(), &bytes, usize::MAX, secs(5), |got| got.ends_with(b"\r\n\r\n")).unwrap();
            let status = Message::parse(&answer).ok().and_then(|m| m.status());
            let shown: String = body.chars().take(120).collect();
            assert!(status.is_some_and(|s| codes.contains(&s)), "{channel} {shown}: {status:?}, not one of {codes:?}");
            subject.check_unchanged(&shown);
        }
    });
}

#[test]
fn every_truncation_of_a_body_is_refused_and_none_of_it_applied() {
    limited(secs(120), || {
        let mut subject = Subject::start();
        for (channel, body) in
            [("usrloc", contact("eve", "uloc-7", "sip:eve@192.0.2.7")), ("htable", set("new", "value"))]
        {
            let before = subject.refusals();
            for end in 1..body.len() {
                let status = subject.status(channel, &body.as_bytes()[..end]);
                assert_eq!(status, Some(400), "{channel}: {}", &body[..end]);
            }
            subject.check(channel, before);
        }
    });
}

#[test]
fn every_truncation_of_a_datagram_changes_nothing() {
    limited(secs(120), || {
        let mut subject = Subject::start();
        let whole = kdmq(subject.peer_ip, subject.to(), "htable", set("new", "value").as_bytes()).bytes();
        let before = subject.refusals();
        for end in 0..whole.len() {
            subject.peer.send_raw(subject.to(), &whole[..end]).unwrap();
        }
        // A request at the end shows that the node has come through all of that.
        assert_eq!(subject.status("htable", b"{\"action\":0}"), Some(200));
        subject.check("truncated datagrams", before);
    });
}

#[test]
fn garbage_over_udp_is_dropped_and_counted() {
    limited(secs(120), || {
        let mut subject = Subject::start();
        let before = subject.refusals();
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut byte = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed.to_le_bytes()[3]
        };
        for length in [1, 2, 20, 64, 500, 1_400, 9_000, 65_507] {
            let noise: Vec<u8> = (0..length).map(|_| byte()).collect();
            subject.peer.send_raw(subject.to(), &noise).unwrap();
            let zeros = vec![0_u8; length];
            subject.peer.send_raw(subject.to(), &zeros).unwrap();
            let text = "KDMQ ".repeat(length / 5 + 1);
            subject.peer.send_raw(subject.to(), &text.as_bytes()[..length]).unwrap();
        }
        // Mutations of a good request, each byte in turn.
        let good = kdmq(subject.peer_ip, subject.to(), "nonsense", b"{}").bytes();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] = byte();
            subject.peer.send_raw(subject.to(), &bad).unwrap();
        }
        assert_eq!(subject.status("htable", b"{\"action\":0}"), Some(200));
        subject.check("garbage", before);
    });
}

#[test]
fn datagrams_of_the_largest_size_are_taken_or_refused_whole() {
    limited(secs(60), || {
        let mut subject = Subject::start();
        // A body of 60 kB that is one long string: longer than any value may be.
        let huge = set("huge", &"x".repeat(60_000));
        let status = subject.status("htable", huge.as_bytes());
        let stored = subject.node.entry("plain", "huge").unwrap();
        match status {
            Some(200) => assert!(stored.is_some(), "200 and not stored"),
            other => assert!(other.is_some_and(|s| (400..600).contains(&s)) && stored.is_none(), "{other:?}"),
        }
        subject.state = subject.node.digest().unwrap();
        // As many rows as fit: what a server's sync answer looks like.
        let rows: serde_json::Map<_, _> = (1..=120)
            .map(|i| (i.to_string(), row(&format!("bulk{i}"), &format!("uloc-b{i}"), &format!("sip:b{i}@192.0.2.2"))))
            .collect();
        let body = json!({ "multi": rows }).to_string();
        assert!(body.len() > 30_000 && body.len() < 65_000, "{}", body.len());
        assert_eq!(subject.status("usrloc", body.as_bytes()), Some(200));
        assert_eq!(subject.node.contacts().unwrap().len(), 121);
        subject.state = subject.node.digest().unwrap();
        // A head that never ends.
        let mut endless = b"KDMQ sip:usrloc@x SIP/2.0\r\n".to_vec();
        while endless.len() < 65_000 {
            endless.extend_from_slice(b"X-Header: value\r\n");
        }
        let before = subject.refusals();
        subject.peer.send_raw(subject.to(), &endless).unwrap();
        eventually(PATIENCE, "counted", || same("counted", subject.refusals() > before, true));
        subject.check("endless head", before);
    });
}

#[test]
fn other_methods_and_broken_envelopes_get_the_right_code_or_none() {
    limited(secs(120), || {
        let mut subject = Subject::start();
        let (ip, to) = (subject.peer_ip, subject.to());
        let good = |method: &str| {
            Request::new(method, &format!("sip:usrloc@{to}"))
                .header("Via", format!("SIP/2.0/UDP {ip}:5060;branch=z9hG4bK{}", token()))
                .header("To", format!("<sip:usrloc@{to}>"))
                .header("From", format!("<sip:usrloc@{ip}:5060>;tag=1"))
                .header("CSeq", format!("10 {method}"))
                .header("Call-ID", token())
        };
        let body = set("envelope", "v");
        let data = |method: &str| good(method).body(body.as_bytes());
        let answered: [(&str, Request, &[u16]); 12] = [
            ("REGISTER", good("REGISTER"), &[405]),
            ("INVITE", good("INVITE"), &[405]),
            ("MESSAGE", data("MESSAGE"), &[405]),
            ("an unknown method", data("FROBNICATE"), &[501]),
            ("a method in lower case", data("kdmq"), &[501]),
            ("OPTIONS", good("OPTIONS"), &[200]),
            ("a custom channel", kdmq(ip, to, "my_channel", b"hello"), &[404]),
            ("dialog, not served here", kdmq(ip, to, "dialog", b"{\"action\":4}"), &[404]),
            ("presence, not served here", kdmq(ip, to, "presence", b"{\"action\":2}"), &[404]),
            ("data without a body", kdmq(ip, to, "usrloc", b""), &[400]),
            ("data without Content-Length", kdmq(ip, to, "htable", body.as_bytes()).without_length(), &[400]),
            (
                "CSeq of another method",
                kdmq(ip, to, "htable", body.as_bytes()).without("CSeq").header("CSeq", "1 OPTIONS"),
                &[400],
            ),
        ];
        for (what, request, codes) in answered {
            let status = subject.peer.send(to, &request).ok().and_then(|a| a.status());
            assert!(status.is_some_and(|s| codes.contains(&s)), "{what}: {status:?}, not one of {codes:?}");
            subject.check_unchanged(what);
        }
        for missing in ["From", "To", "CSeq"] {
            let request = kdmq(ip, to, "htable", body.as_bytes()).without(missing);
            let status = subject.peer.send(to, &request).ok().and_then(|a| a.status());
            assert!(matches!(status, Some(400) | None), "without {missing}: {status:?}");
            subject.check_unchanged(missing);
        }
    });
}

#[test]
fn what_must_not_be_answered_is_not() {
    limited(secs(60), || {
        let mut subject = Subject::start();
        let (ip, to) = (Host::loopback().ip, subject.to());
        let body = set("silent", "v");
        let silent: Vec<(&str, Vec<u8>)> = vec![
            ("an ACK", kdmq(ip, to, "htable", body.as_bytes()).without("CSeq").header("CSeq", "1 ACK").bytes()),
            ("no Via", kdmq(ip, to, "htable", body.as_bytes()).without("Via").bytes()),
            ("a response to nothing", b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>;tag=2\r\nCall-ID: x\r\nCSeq: 1 KDMQ\r\nContent-Length: 0\r\n\r\n".to_vec()),
            ("a keep-alive", b"\r\n\r\n".to_vec()),
            ("an empty datagram", Vec::new()),
            ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ];
        for (what, mut bytes) in silent {
            if what == "an ACK" {
                bytes = [b"ACK".as_slice(), &bytes[4..]].concat();
            }
            let answer = udp::datagram(ip, to, &bytes, SILENCE);
            assert!(answer.is_none(), "{what}: {:?}", answer.map(|a| String::from_utf8_lossy(&a).into_owned()));
            subject.check_unchanged(what);
        }
    });
}

#[test]
fn strangers_get_403_and_no_data_whatever_they_call_themselves() {
    limited(secs(60), || {
        let peer_host = Host::loopback();
        let config = StarlingConfig { trusted: Some(vec![peer_host.ip.to_string()]), ..StarlingConfig::default() };
        let host = Host::loopback();
        let mut node = Starling::start("n", &host, &config);
        let peer = FakePeer::start(&peer_host);
        peer.join(node.sip()).unwrap();
        let request = peer.request(node.sip(), "htable", set("k", "v").as_bytes());
        assert_eq!(peer.send(node.sip(), &request).unwrap().status(), Some(200));
        let state = node.digest().unwrap();
        let stranger_host = Host::loopback();
        let stranger = FakePeer::start(&stranger_host);
        let untrusted =
            |node: &Starling| node.metrics().unwrap().get("starling_dmq_untrusted_total").copied().unwrap_or(0.0);
        let before = untrusted(&node);
        let attempts: [(&str, String); 6] = [
            ("usrloc", contact("mallory", "uloc-m", "sip:m@192.0.2.66")),
            ("htable", set("k", "forged")),
            ("htable", "{\"action\":4,\"htname\":\"plain\",\"cname\":\"k\",\"mode\":0}".into()),
            ("usrloc", "{\"action\":3}".into()),
            ("htable", "{\"action\":1}".into()),
            ("notification_peer", format!("{};status=active\r\n", stranger_host.dmq_uri())),
        ];
        for (channel, body) in &attempts {
            // Under its own name, and under that of the trusted server (the answer still goes where the Via says).
            let own = stranger.request(node.sip(), channel, body.as_bytes());
            let forged =
                own.clone().without("From").header("From", format!("<sip:{channel}@{}:5060>;tag=f", peer_host.ip));
            for request in [
                own.without("Call-ID").header("Call-ID", token()),
                forged.without("Call-ID").header("Call-ID", token()),
            ] {
                assert_eq!(stranger.send(node.sip(), &request).unwrap().status(), Some(403), "{channel} {body}");
            }
        }
        assert!(untrusted(&node) >= before + 12.0);
        assert_eq!(node.digest().unwrap(), state);
        node.process().ensure_running().unwrap();
        // The node has sent the stranger nothing but those answers, and took it for no server.
        std::thread::sleep(secs(1));
        assert!(stranger.received().iter().all(|m| m.status().is_some()), "{:?}", stranger.received());
        assert!(node.peer(&stranger_host).is_err());
        // Over TCP likewise: the source address decides.
        let bytes = kdmq(stranger_host.ip, node.sip(), "htable", set("k", "forged").as_bytes()).bytes();
        let (answer, _) =
            udp::stream(node.sip(), &bytes, usize::MAX, secs(5), |got| got.ends_with(b"\r\n\r\n")).unwrap();
        assert_eq!(Message::parse(&answer).unwrap().status(), Some(403));
        assert_eq!(node.digest().unwrap(), state);
    });
}

#[test]
fn odd_node_lists_are_answered_and_followed_nowhere() {
    limited(secs(120), || {
        let mut subject = Subject::with(&StarlingConfig { mesh: true, ..StarlingConfig::default() });
        let own = format!("sip:{}:5060;status=active", subject.peer_ip);
        let us = format!("sip:{}", subject.to());
        let many: String = (1..=200).map(|i| format!("sip:127.99.0.{i}:5071;status=disabled\r\n")).collect();
        let lists: Vec<String> = vec![
            String::new(),
            own.clone(),
            format!("{own}\n"),
            format!("{own}\r\n\r\n"),
            format!("\r\n{own}\r\n"),
            format!("garbage\r\n{own}\r\n"),
            format!("{own}\r\nsip:no.such.host.invalid:5060;status=active\r\n"),
            format!("{own}\r\nsip:127.99.1.1:5060;status=not_active\r\n"),
            format!("{own}\r\nsip:127.99.1.1:5060;status=whatever\r\n"),
            format!("{own}\r\nsip:127.99.1.1:5060\r\n"),
            format!("{own}\r\nsip:127.99.1.1:99999;status=active\r\n"),
            format!("{own}\r\nsip:[::1;status=active\r\n"),
            format!("{own}\r\nsip:127.99.1.1;transport=sctp;status=active;weight=5\r\n"),
            format!("{own}\r\n{us};status=disabled\r\n"),
            format!("{own}\r\n{many}"),
            format!("{own}\r\n{}\r\n", "x".repeat(20_000)),
        ];
        for list in lists {
            let request = subject.peer.request(subject.to(), "notification_peer", list.as_bytes());
            let answer = subject
                .peer
                .send(subject.to(), &request.without("Content-Type").header("Content-Type", "text/plain"))
                .unwrap();
            let shown: String = list.chars().take(80).collect();
            assert_eq!(answer.status(), Some(200), "{shown:?}");
            assert!(answer.text().contains(&format!("{us};status=active\r\n")), "{shown:?}: {}", answer.text());
            assert!(answer.text().ends_with("\r\n"), "a 5.6 server hangs on a line without its end: {}", answer.text());
            assert!(answer.body.len() <= 1_024, "{} bytes of node list", answer.body.len());
            for bad in ["not_active", "whatever", "garbage", "invalid", "\r\n\r\n"] {
                assert!(!answer.text().contains(bad), "{shown:?} is gossiped: {}", answer.text());
            }
            subject.check_unchanged(&shown);
        }
        assert_eq!(subject.status("htable", b"{\"action\":0}"), Some(200), "the peer is still served");
    });
}

#[test]
fn lenient_forms_that_real_servers_send_are_understood() {
    limited(secs(60), || {
        let subject = Subject::start();
        let (ip, to) = (subject.peer_ip, subject.to());
        let value = |key: &str| subject.node.entry("plain", key).unwrap().map(|(v, _)| v);
        let bodies: [(&str, Vec<u8>); 6] = [
            ("pretty", b"{\n  \"action\": 2,\r\n\t\"htname\": \"plain\", \"cname\": \"pretty\", \"type\": 2, \"strval\": \"v\", \"mode\": 1 }".to_vec()),
            ("duplicate", b"{\"action\":2,\"htname\":\"plain\",\"cname\":\"x\",\"cname\":\"duplicate\",\"type\":2,\"strval\":\"w\",\"strval\":\"v\",\"mode\":1}".to_vec()),
            ("after", [set("after", "v").as_bytes(), b"\0\0 trailing"].concat()),
            ("newer", json!({"action": 2, "htname": "plain", "cname": "newer", "type": 2, "strval": "v", "last_modified": 1_700_000_000_000_u64, "mode": 1, "future": {"x": [1]}}).to_string().into_bytes()),
            ("escaped", b"{\"action\":2,\"htname\":\"plain\",\"cname\":\"\\u0065scaped\",\"type\":2,\"strval\":\"v\",\"mode\":1}".to_vec()),
            ("double", b"{\"action\":2.0,\"htname\":\"plain\",\"cname\":\"double\",\"type\":2.0,\"strval\":\"v\",\"mode\":1.0}".to_vec()),
        ];
        for (key, body) in &bodies {
            assert_eq!(subject.status("htable", body), Some(200), "{key}");
            assert_eq!(value(key), Some("v".into()), "{key}");
        }
        // Not UTF-8: bytes of a latin-1 user agent, given back as they came to whoever asks for bytes.
        let latin = contact("latin", "uloc-l", "sip:latin@192.0.2.3").into_bytes();
        let at = latin.windows(4).position(|w| w == b"\"ua\"").unwrap();
        let latin = [&latin[..at], b"\"F\xf6n\"", &latin[at + 4..]].concat();
        assert_eq!(subject.status("usrloc", &latin), Some(200));
        assert_eq!(subject.node.contacts_of("latin").unwrap().len(), 1);
        // Compact header forms, another order, a folded line, no Max-Forwards.
        let body = set("compact", "v");
        let compact = format!(
            "KDMQ sip:htable@{to} SIP/2.0\r\nl: {}\r\ni: {}\r\nf: <sip:htable@{ip}:5060>\r\n ;tag=7\r\nCSEQ:  10   KDMQ\r\n\
             t: <sip:htable@{to}>\r\nv: SIP/2.0/UDP {ip}:5060;branch=z9hG4bK{}\r\n\r\n{body}",
            body.len(),
            token(),
            token()
        );
        subject.peer.send_raw(to, compact.as_bytes()).unwrap();
        eventually(PATIENCE, "taken", || same("value", value("compact"), Some("v".into())));
    });
}

#[test]
fn a_retransmission_is_answered_again_and_not_executed_again() {
    limited(secs(60), || {
        let subject = Subject::start();
        let (to, body) = (subject.to(), json!({"action": 4, "htname": "plain", "cname": "r", "mode": 0}).to_string());
        let delete = subject.peer.request(to, "htable", body.as_bytes());
        assert_eq!(subject.status("htable", set("r", "1").as_bytes()), Some(200));
        assert_eq!(subject.peer.send(to, &delete).unwrap().status(), Some(200));
        assert_eq!(subject.status("htable", set("r", "2").as_bytes()), Some(200));
        let answers = |subject: &Subject| {
            let id = Message::parse(&delete.bytes()).unwrap().header("call-id").unwrap().to_owned();
            subject.peer.received().iter().filter(|m| m.status().is_some() && m.header("call-id") == Some(&id)).count()
        };
        subject.peer.send_raw(to, &delete.bytes()).unwrap();
        eventually(PATIENCE, "answered again", || same("answers", answers(&subject), 2));
        assert_eq!(subject.node.entry("plain", "r").unwrap().map(|(v, _)| v), Some("2".into()));
    });
}

#[test]
fn tcp_streams_are_framed_whatever_their_pieces_and_broken_ones_are_closed() {
    limited(secs(120), || {
        let mut subject = Subject::start();
        let (ip, to) = (subject.peer_ip, subject.to());
        let request = |body: &str| kdmq(ip, to, "htable", body.as_bytes()).bytes();
        let twice = |got: &[u8]| got.windows(8).filter(|w| w == b"SIP/2.0 ").count() >= 2 && got.ends_with(b"\r\n\r\n");
        // Two requests with keep-alives between, in one write and byte by byte.
        for (i, piece) in [usize::MAX, 1, 7, 100].into_iter().enumerate() {
            let (a, b) = (format!("a{i}"), format!("b{i}"));
            let bytes =
                [b"\r\n\r\n".as_slice(), &request(&set(&a, "v")), b"\r\n\r\n", &request(&set(&b, "v"))].concat();
            let (got, closed) = udp::stream(to, &bytes, piece, secs(5), twice).unwrap();
            assert!(twice(&got) && !closed, "pieces of {piece}: {}", String::from_utf8_lossy(&got));
            assert!(
                subject.node.entry("plain", &a).unwrap().is_some()
                    && subject.node.entry("plain", &b).unwrap().is_some()
            );
        }
        subject.state = subject.node.digest().unwrap();
        let before = subject.refusals();
        let never = |_: &[u8]| false;
        let broken: [(&str, Vec<u8>); 4] = [
            ("garbage", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is TLS, not SIP \r\n\r\n".to_vec()),
            ("no Content-Length", kdmq(ip, to, "htable", set("z", "v").as_bytes()).without_length().bytes()),
            (
                "a length beyond all bounds",
                kdmq(ip, to, "htable", b"x").without_length().header("Content-Length", "99999999999").bytes(),
            ),
            (
                "a head that never ends",
                [b"KDMQ sip:htable@x SIP/2.0\r\n".to_vec(), b"X: y\r\n".repeat(40_000)].concat(),
            ),
        ];
        for (what, bytes) in broken {
            let (got, closed) = udp::stream(to, &bytes, usize::MAX, secs(3), never).unwrap();
            assert!(closed || !got.is_empty(), "{what}: neither answered nor closed");
            assert!(
                !String::from_utf8_lossy(&got).contains("SIP/2.0 200"),
                "{what}: {}",
                String::from_utf8_lossy(&got)
            );
            subject.check_unchanged(what);
        }
        // Cut off in the middle of a body.
        let half = request(&set("half", "v"));
        drop(udp::stream(to, &half[..half.len() - 5], usize::MAX, SILENCE, never));
        subject.check("broken streams", before);
    });
}

#[test]
fn many_idle_connections_do_not_keep_a_server_out() {
    limited(secs(60), || {
        let mut subject = Subject::start();
        let idle: Vec<_> = (0..400).filter_map(|_| TcpStream::connect_timeout(&subject.to(), secs(1)).ok()).collect();
        assert!(idle.len() > 100, "only {} connections", idle.len());
        assert_eq!(subject.status("htable", b"{\"action\":0}"), Some(200), "UDP is served");
        drop(idle);
        let bytes = kdmq(subject.peer_ip, subject.to(), "htable", b"{\"action\":0}").bytes();
        eventually(PATIENCE, "TCP is served when they are gone", || {
            let (got, _) = udp::stream(subject.to(), &bytes, usize::MAX, secs(1), |got| got.ends_with(b"\r\n\r\n"))?;
            same("status", Message::parse(&got)?.status(), Some(200))
        });
        subject.check_unchanged("idle connections");
    });
}

#[test]
fn a_flood_of_bad_requests_leaves_good_ones_served() {
    limited(secs(120), || {
        let mut subject = Subject::start();
        let bad = kdmq(subject.peer_ip, subject.to(), "usrloc", b"{}").bytes();
        let to = subject.to();
        std::thread::scope(|scope| {
            let flood = scope.spawn(|| {
                let socket = udp::connected(None, to).unwrap();
                for i in 0..200_000_u32 {
                    // A new branch each time, so that no two are one transaction.
                    let mut bytes = bad.clone();
                    let at = bytes.windows(7).position(|w| w == b"z9hG4bK").unwrap() + 7;
                    bytes[at..at + 4].copy_from_slice(format!("{:04x}", i & 0xffff).as_bytes());
                    let _ = socket.send(&bytes);
                }
            });
            let mut served = 0;
            while !flood.is_finished() || served < 20 {
                assert_eq!(subject.status("htable", b"{\"action\":0}"), Some(200));
                served += 1;
            }
        });
        subject.check_unchanged("flood");
    });
}

#[test]
fn a_peer_that_refuses_everything_is_not_asked_for_ever() {
    limited(secs(60), || {
        let subject = Subject::start();
        subject.peer.behave(Manners::Refuses(500));
        for i in 0..50 {
            subject.node.set("plain", &format!("refused{i}"), i, None).unwrap();
        }
        std::thread::sleep(secs(5));
        let requests = subject.peer.requests("htable").len();
        assert!(requests >= 50, "{requests} requests: it was not asked at all");
        assert!(requests < 50 * 6, "{requests} requests for 50 cells that a peer refuses");
    });
}
