//! A server that takes part like any other, and sends what nobody should take.
//!
//! It is trusted, as every attached server is: what it says in correct messages about contacts and entries of its own
//! holds. So it keeps to addresses, keys and names that nobody else uses; whatever else it sends must have no effect. It
//! molests nodes only, for a real server would not survive it.

use std::net::SocketAddr;

use node::{Mono, Now};

use super::dump::Dumps;
use super::{HTABLE, Kamailio, NOTIFICATION, USRLOC};

/// Pause between two bursts, milliseconds.
const PAUSE_MS: (u64, u64) = (100, 2_000);
/// Messages in a flood, and how often in a thousand bursts there is one.
const FLOOD: usize = 100;
const FLOOD_PERMILLE: u32 = 20;
/// Share of requests that it does not answer.
const SILENT_PERMILLE: u32 = 50;
/// How often in a thousand bursts its Call-IDs jump, and what it held is gone, as after a restart. One that jumped and still
/// showed what it was told before would say of others' entries that they are its own.
const JUMP_PERMILLE: u32 = 5;
/// So many addresses of record and keys are its own.
const OWN: u64 = 20;

/// Bodies that are no usrloc action, or one that means nothing.
const USRLOC_BODIES: &[&str] = &[
    "",
    "{}",
    "[]",
    "\"x\"",
    "null",
    "{\"action\":1}",
    "{\"action\":\"1\"}",
    "{\"action\":9}",
    "{\"action\":-1e999}",
    "{\"multi\":{}}",
    "{\"multi\":[1,2,{\"action\":2}]}",
    "{\"multi\":{\"1\":{\"action\":1},\"2\":{\"multi\":{}}}}",
    "{\"action\":1,\"aor\":5,\"ruid\":null,\"c\":[]}",
    "{\"action\":1,\"aor\":\"u1@sim.example\",\"ruid\":\"\",\"c\":\"\"}",
    "{\"action\":1,\"aor\":\"u1@sim.example\",\"ruid\":\"evil\",\"c\":\"sip:a@b\"",
    "{\"action\":2,\"aor\":\"u1@sim.example\",\"ruid\":\"\\u0000\"}",
    "{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":",
];

/// Bodies that are no htable action, or one that means nothing.
const HTABLE_BODIES: &[&str] = &[
    "{}",
    "[[[[[[[[[[[[[[[[",
    "{\"action\":2}",
    "{\"action\":77,\"htname\":\"plain\",\"cname\":\"evil\"}",
    "{\"action\":2,\"htname\":\"no such table\",\"cname\":\"k\",\"type\":2,\"strval\":\"v\",\"mode\":1}",
    "{\"action\":2,\"htname\":\"\",\"cname\":\"\",\"type\":2,\"strval\":\"\",\"mode\":1}",
    "{\"action\":4,\"htname\":5,\"cname\":{}}",
    "{\"action\":5,\"htname\":\"@\",\"type\":2,\"strval\":\"^evil((((a+)+)+)+)+$\",\"mode\":0}",
    "{\"action\":5,\"htname\":\"@\",\"type\":2,\"strval\":\"^evil(\",\"mode\":0}",
    "{\"action\":6,\"htname\":\"@\",\"type\":2,\"strval\":\"evil\",\"mode\":7}",
    "{\"cells\":5}",
    "{\"cells\":[{},{\"htname\":\"@\"},[],1,\"x\"]}",
    "{\"cells\":[{\"htname\":\"@\",\"cname\":\"evil1\",\"type\":2,\"strval\":5,\"expire\":\"x\"}]}",
];

/// Numbers that hardly anybody expects.
const NUMBERS: &[&str] = &["0", "1", "-1", "2147483647", "4294967296", "9007199254740993", "1e300", "-1e300", "0.5"];

/// What a hostile server has in mind.
pub(super) struct Hostile {
    next: Mono,
    victims: Vec<SocketAddr>,
    tables: Vec<String>,
    /// Whether it keeps what it is told, as an honest one does.
    pub(super) keeps: bool,
}

impl Hostile {
    pub(super) fn new(victims: &[SocketAddr], tables: Vec<String>, keeps: bool, now: Mono) -> Self {
        Self { next: now.plus_ms(1_000), victims: victims.to_vec(), tables, keeps }
    }

    pub(super) fn wakeup(&self) -> Mono {
        self.next
    }

    fn is_calm(&self) -> bool {
        self.next == Mono(u64::MAX)
    }
}

impl Kamailio {
    /// Load and faults are over: a hostile server molests nobody any more and answers everything, so that what it has done
    /// can settle. Others go on as they were.
    pub fn calm(&mut self) {
        if let Some(hostile) = &mut self.hostile {
            hostile.next = Mono(u64::MAX);
        }
    }

    /// Whether it lets a request go by as if it had never come.
    pub(super) fn ignores_it(&mut self) -> bool {
        self.hostile.as_ref().is_some_and(|hostile| !hostile.is_calm()) && self.rng.permille(SILENT_PERMILLE)
    }

    /// Whether what it is told is lost on it.
    pub(super) fn keeps_nothing(&self) -> bool {
        self.hostile.as_ref().is_some_and(|hostile| !hostile.keeps)
    }

    pub(super) fn be_hostile(&mut self, now: Now) {
        let Some(hostile) = &mut self.hostile else { return };
        if hostile.next > now.mono {
            return;
        }
        hostile.next = now.mono.plus_ms(self.rng.between(PAUSE_MS.0, PAUSE_MS.1));
        let (victims, tables) = (hostile.victims.clone(), hostile.tables.clone());
        if self.rng.permille(JUMP_PERMILLE) {
            let start = self.rng.next() >> 1;
            self.sender.jump(start);
            self.dumps = Dumps::default();
            self.usrloc.clear();
            self.htables.clear();
        }
        let flood = self.rng.permille(FLOOD_PERMILLE);
        for _ in 0..if flood { FLOOD } else { 1 } {
            self.send_evil(&victims, &tables, now);
        }
    }

    fn send_evil(&mut self, victims: &[SocketAddr], tables: &[String], now: Now) {
        let (channel, body) = match self.rng.below(8) {
            0 => (USRLOC, self.one_of(USRLOC_BODIES).as_bytes().to_vec()),
            1 => {
                let table = self.table(tables);
                (HTABLE, self.one_of(HTABLE_BODIES).replace('@', &table).into_bytes())
            }
            2 | 3 => (USRLOC, self.odd_contact(now)),
            4 => (USRLOC, self.foreign_removal()),
            5 => (HTABLE, self.odd_entry(tables, now)),
            6 => (NOTIFICATION, self.odd_list(victims)),
            _ => return self.send_no_kdmq(victims),
        };
        let process = self.phones_process();
        self.send(channel, &body, victims, process, now.mono);
    }

    fn one_of(&mut self, list: &'static [&'static str]) -> &'static str {
        list[self.rng.below(list.len() as u64) as usize]
    }

    fn table(&mut self, tables: &[String]) -> String {
        let at = self.rng.below(tables.len() as u64) as usize;
        tables.get(at).map_or("none", String::as_str).to_owned()
    }

    /// A time, usually none that makes sense.
    fn odd_seconds(&mut self, now: Now) -> String {
        let now_s = now.wall.0 / 1_000;
        match self.rng.below(4) {
            0 => (now_s + self.rng.between(1, 600)).to_string(),
            1 => (now_s - self.rng.between(1, 10_000_000)).to_string(),
            2 => (now_s + 1_000_000_000).to_string(),
            _ => self.one_of(NUMBERS).to_owned(),
        }
    }

    /// A contact of its own, with odd numbers and texts.
    fn odd_contact(&mut self, now: Now) -> Vec<u8> {
        let own = self.rng.below(OWN);
        let (expires, modified) = (self.odd_seconds(now), self.odd_seconds(now));
        let [cseq, q, methods, reg_id] = [(); 4].map(|()| self.one_of(NUMBERS));
        let long = "x".repeat(if self.rng.below(10) == 0 { 5_000 } else { 3 });
        let mut body = format!(
            "{{\"action\":{},\"aor\":\"evil{own}@sim.example\",\"ruid\":\"evil-{own}\",\
             \"c\":\"sip:evil{own}@192.0.2.66\",\"received\":\"{long}\",\"path\":\"#\",\"callid\":\"e{own}\",\
             \"user_agent\":\"\\u00fc\\ud800#\",\"instance\":\"\",\"expires\":{expires},\"cseq\":{cseq},\"flags\":0,\
             \"cflags\":0,\"q\":{q},\"last_modified\":{modified},\"methods\":{methods},\"reg_id\":{reg_id},\
             \"server_id\":9}}",
            self.rng.between(1, 2)
        )
        .into_bytes();
        // A byte that is no UTF-8.
        body.iter_mut().filter(|byte| **byte == b'#').for_each(|byte| *byte = 0xfc);
        body
    }

    /// Somebody else's contact, under a name that nobody gave it.
    fn foreign_removal(&mut self) -> Vec<u8> {
        let (aor, ruid) = (self.rng.below(500), self.rng.next() as u32);
        format!("{{\"action\":2,\"aor\":\"u{aor}@sim.example\",\"ruid\":\"uloc-1-6b49d200-4e3f-{ruid:x}\"}}")
            .into_bytes()
    }

    /// An entry of its own, with odd numbers.
    fn odd_entry(&mut self, tables: &[String], now: Now) -> Vec<u8> {
        let (table, own) = (self.table(tables), self.rng.below(OWN));
        let (number, seconds) = (self.one_of(NUMBERS), self.odd_seconds(now));
        let name = format!("\"htname\":\"{table}\",\"cname\":\"evil{own}\"");
        match self.rng.below(5) {
            0 => format!("{{\"action\":2,{name},\"type\":0,\"intval\":{number},\"mode\":1}}"),
            1 => {
                format!("{{\"action\":2,{name},\"type\":2,\"strval\":\"evil\",\"last_modified\":{number},\"mode\":1}}")
            }
            2 => format!("{{\"action\":3,{name},\"type\":0,\"intval\":{number},\"mode\":0}}"),
            3 => format!("{{\"action\":4,{name},\"mode\":0}}"),
            _ => format!("{{\"cells\":[{{{name},\"type\":2,\"strval\":\"evil\",\"expire\":{seconds}}}]}}"),
        }
        .into_bytes()
    }

    /// A node list that nobody should believe.
    fn odd_list(&mut self, victims: &[SocketAddr]) -> Vec<u8> {
        let own = self.addr;
        match self.rng.below(5) {
            0 => (1..60).map(|n| format!("sip:192.0.2.{n}:5060;status=active\r\n")).collect::<String>(),
            1 => victims.iter().map(|victim| format!("sip:{victim};status=disabled\r\n")).collect(),
            2 => format!("sip:{own};status=disabled\r\n"),
            3 => format!("\r\n\r\nsip:;status=\r\nsip:{own}:99999;status=active\nsips:x;;;\0"),
            _ => format!("sip:{own};status=act"),
        }
        .into_bytes()
    }

    /// SIP that is no KDMQ, or no SIP.
    fn send_no_kdmq(&mut self, victims: &[SocketAddr]) {
        let (own, id) = (self.addr, self.rng.next() as u32);
        let via = format!("Via: SIP/2.0/UDP {own};branch=z9hG4bK{id:x}\r\n");
        for &to in victims {
            let text = match self.rng.below(6) {
                0 => format!("SIP/2.0 200 OK\r\n{via}CSeq: 10 KDMQ\r\nContent-Length: 0\r\n\r\n"),
                1 => format!("KDMQ sip:usrloc@{to} SIP/2.0\r\n{via}Content-Length: 99999\r\n\r\n{{\"action\":3}}"),
                2 => format!(
                    "INVITE sip:u1@{to} SIP/2.0\r\n{via}CSeq: 1 INVITE\r\nCall-ID: {id}\r\nContent-Length: 0\r\n\r\n"
                ),
                3 => format!(
                    "KDMQ sip:dialog@{to} SIP/2.0\r\n{via}CSeq: 10 KDMQ\r\nContent-Length: 12\r\n\r\n{{\"action\":4}}"
                ),
                4 => "\r\n\r\n\0".to_owned(),
                _ => format!("KDMQ sip:{}@{to} SIP/2.0\r\n{via}", "x".repeat(40_000)),
            };
            self.sender.push(to, text.into_bytes());
        }
    }
}
