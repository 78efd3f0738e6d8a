//! What a server does with a message, and what it answers (docs/kdmq.md 1.4 and 11).

use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};

use bstr::BStr;
use kdmq::DecodeError;
use kdmq::htable::Action as Htable;
use kdmq::usrloc::Action as Contacts;
use node::Now;
use sip::{Message, MessageBuilder};

use super::dump::{Dump, Rest};
use super::htable::Taken;
use super::sender::{About, Process};
use super::{HTABLE, Kamailio, NOTIFICATION, Request, USRLOC, seconds, usrloc};
use crate::script::Generation;

/// 6 drops what is longer (`msg_recv_max_size`), without a word.
const MAX_RECEIVED_V6: usize = 32_766;

/// How a request ends.
enum End {
    /// Answered with this code, and with the own list if it says so.
    Answer(u16, Option<String>),
    /// Answered later, or never.
    Silence,
}

impl Kamailio {
    /// A datagram arrived.
    pub fn receive(&mut self, from: SocketAddr, bytes: &[u8], now: Now) {
        if self.fallen.is_some() || (self.generation == Generation::V6 && bytes.len() > MAX_RECEIVED_V6) {
            return;
        }
        match self.lateness() {
            0 => self.carry_out(from, bytes, now),
            ms => {
                self.received += 1;
                self.waiting.push(Reverse((now.mono.plus_ms(ms), self.received, from, bytes.to_vec())));
            }
        }
    }

    /// A worker takes a message.
    pub(super) fn carry_out(&mut self, from: SocketAddr, bytes: &[u8], now: Now) {
        let Ok(message) = sip::parse(bytes) else { return };
        match message.code() {
            Some(code) => self.hear_answer(code, &message, now),
            None if self.ignores_it() => {}
            None if message.method() == Some(b"KDMQ") => self.hear_request(from, &message, now),
            None => self.answer(from, &message, 405, None),
        }
    }

    fn hear_answer(&mut self, code: u16, message: &Message<'_>, now: Now) {
        let Ok(via) = message.via() else { return };
        if code < 200 {
            return;
        }
        // Other errors than a missing answer change nothing.
        if let Some(About::Node(peer)) = self.sender.answered(via.branch(), now.mono)
            && code == 200
        {
            self.peers.answered(peer);
            self.take_list(message.body, now);
        }
    }

    fn hear_request(&mut self, from: SocketAddr, message: &Message<'_>, now: Now) {
        let channel = message.uri().and_then(|uri| sip::Uri::parse(uri).ok()).and_then(|uri| uri.user);
        let end = match channel {
            Some(name) if name == NOTIFICATION.as_bytes() => self.hear_notification(message, now),
            Some(name) if name == USRLOC.as_bytes() => self.hear_usrloc(from, message, now),
            Some(name) if name == HTABLE.as_bytes() => self.hear_htable(from, message, now),
            _ => End::Answer(404, None),
        };
        if let End::Answer(code, body) = end
            && self.fallen.is_none()
        {
            self.answer(from, message, code, body);
        }
    }

    fn hear_notification(&mut self, message: &Message<'_>, now: Now) -> End {
        let news = if message.body.is_empty() { 0 } else { self.take_list(message.body, now) };
        let hops = message.max_forwards().ok().flatten().unwrap_or(0).saturating_sub(1);
        // A server whose list does not fit says nothing any more.
        let Some(list) = self.peers.list() else { return End::Silence };
        if news > 0 && hops > 0 {
            for to in self.peers.active().collect::<Vec<_>>() {
                let request = Request {
                    to,
                    channel: NOTIFICATION,
                    body: list.as_bytes(),
                    max_forwards: hops.min(255) as u8,
                    process: Process::Dmq(0),
                    about: About::Node(to),
                };
                self.sender.request(&request, 0, false, &self.timing, now.mono);
            }
        }
        End::Answer(200, Some(list))
    }

    fn hear_usrloc(&mut self, from: SocketAddr, message: &Message<'_>, now: Now) -> End {
        let batch = match kdmq::usrloc::decode(message.body) {
            Ok(batch) => batch,
            Err(error) => return self.refuse(error, message.body),
        };
        if let Some(reason @ DecodeError::WrongType { .. }) = batch.reason {
            return self.refuse(reason, message.body);
        }
        for action in batch.actions {
            match action {
                Contacts::None => {}
                Contacts::Update(_) | Contacts::Remove(_) if self.keeps_nothing() => {}
                Contacts::Update(row) => {
                    let room = self.has_room(1, now.mono);
                    if !self.usrloc.update(&row.aor, row.contact.into_owned(), room) {
                        return self.gasp();
                    }
                }
                Contacts::Remove(row) => {
                    self.usrloc.remove(&row.aor, &row.contact.ruid, row.contact.last_modified);
                }
                Contacts::Sync => {
                    let aors = self.usrloc.aors();
                    return self.begin_dump(from, message, Rest::Contacts(aors), now);
                }
            }
        }
        End::Answer(200, None)
    }

    fn hear_htable(&mut self, from: SocketAddr, message: &Message<'_>, now: Now) -> End {
        let action = match kdmq::htable::decode(message.body) {
            Ok(action) => action,
            Err(error) => return self.refuse(error, message.body),
        };
        let now_s = seconds(now);
        let taken = match action {
            Htable::None => Taken::Yes,
            _ if self.keeps_nothing() && !matches!(action, Htable::Sync { .. }) => Taken::Yes,
            Htable::Sync { table } => {
                let only = table.as_ref().map(|name| BStr::new(name.as_ref()));
                let bodies = self.htables.dump(only, now_s).into();
                return self.begin_dump(from, message, Rest::Cells(bodies), now);
            }
            // A field that 5.6 does not know.
            Htable::Set { last_modified: Some(_), .. } if self.generation == Generation::V5 => {
                return End::Answer(400, None);
            }
            Htable::Set { table, key, value, last_modified } => {
                self.htables.take_set(&table, &key, value.into_owned(), last_modified, now_s)
            }
            Htable::Expire { table, key, seconds } => self.htables.take_expire(&table, &key, seconds, now_s),
            Htable::Delete { table, key } => self.htables.take_delete(&table, &key),
            Htable::RemoveMatching { table, how, on, pattern } => self.htables.take_matching(&table, how, on, &pattern),
            Htable::Cells(cells) => {
                for cell in cells.cells {
                    self.htables.take_cell(cell, now_s);
                }
                Taken::Yes
            }
        };
        End::Answer(if taken == Taken::Yes { 200 } else { 500 }, None)
    }

    /// What it cannot understand: answered, or the end of it.
    fn refuse(&mut self, error: DecodeError, body: &[u8]) -> End {
        let kills = matches!(error, DecodeError::NotAnObject { .. } | DecodeError::WrongType { .. });
        if kills && (error.channel() == USRLOC || self.generation == Generation::V5) {
            self.fallen = Some(format!("exits: {error}: {}", BStr::new(body)));
            return End::Silence;
        }
        End::Answer(error.status(), None)
    }

    /// No memory: no answer, and 5.6 has not long to live.
    fn gasp(&mut self) -> End {
        self.gasps += 1;
        if self.generation == Generation::V5 && self.starved() {
            self.fallen = Some("dies of full memory".to_owned());
        }
        End::Silence
    }

    /// Everything goes to the asker, if it is in the list; else to everybody else.
    fn begin_dump(&mut self, from: SocketAddr, message: &Message<'_>, rest: Rest, now: Now) -> End {
        let asker = asker(message).filter(|&asker| self.peers.contains(asker));
        let to = asker.map_or_else(|| self.peers.active().collect(), |asker| vec![asker]);
        if let Some(answer) = self.written(from, message, 200, None) {
            self.dumps.begin(Dump { to, answer, rest }, now.mono);
            self.go_on_dumping(now);
        }
        End::Silence
    }

    fn answer(&mut self, from: SocketAddr, message: &Message<'_>, code: u16, body: Option<String>) {
        if let Some((to, bytes)) = self.written(from, message, code, body) {
            self.sender.push(to, bytes);
        }
    }

    /// An answer and where it goes: the source address, and over UDP the port of the Via.
    fn written(
        &self,
        from: SocketAddr,
        message: &Message<'_>,
        code: u16,
        body: Option<String>,
    ) -> Option<(SocketAddr, Vec<u8>)> {
        let reason = match code {
            200 => "OK",
            400 => "Bad Request",
            404 if self.generation == Generation::V5 => "User Not Found",
            404 => "Not Found Peer ID",
            405 => "Method Not Allowed",
            _ => "Server Internal Error",
        };
        // Over TCP it goes back on the connection that brought the request.
        let to = if self.tcp { from } else { message.via().ok()?.response_address(from) };
        let tag = b"bbeb98a33002e0aa5a51288885975990.4176b11b";
        let mut answer = MessageBuilder::response_to(message, from, code, reason, Some(tag)).ok()?;
        if body.is_some() {
            answer = answer.header("Content-Type", "text/plain");
        }
        let answer = answer.header("Server", usrloc::agent(self.generation));
        Some((to, answer.finish(body.unwrap_or_default().as_bytes())))
    }
}

/// Who asks, by its From.
fn asker(message: &Message<'_>) -> Option<SocketAddr> {
    let uri = message.from().ok()?.uri().ok()?;
    let ip: IpAddr = uri.host.ip()?;
    Some(SocketAddr::new(ip, uri.port.unwrap_or(5060)))
}
