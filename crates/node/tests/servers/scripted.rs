//! A scripted server.
//!
//! A [`Server`] does what Kamailio was observed to do with contacts and tables: a contact is found by ruid, then by URI, a
//! removal by ruid alone; it answers a question with a dump, and only then with 200; a restart forgets everything and starts
//! new Call-IDs. The last arrival wins, but one of generation 6 compares the stamps of table entries, which grow with each
//! write. It stands in for a real server where virtual time is needed; the real ones have tests of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use kdmq::{Generation, htable, usrloc};
use sip::MessageBuilder;
use tables::htable::Value;
use tables::location::Contact;

use crate::world::{NODE, START_MS};

/// A scripted server.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    /// How often it has started.
    pub(crate) lives: u64,
    pub(crate) reachable: bool,
    /// By AoR and ruid.
    pub(crate) contacts: BTreeMap<(String, String), Contact<'static>>,
    /// By table and key: value and absolute expiry.
    pub(crate) entries: BTreeMap<(String, String), (Value<'static>, u64)>,
    /// Its `batch_msg_contacts`: how many contacts a message of a dump holds.
    pub(crate) batch: usize,
    /// Its dumps of entries never arrive.
    pub(crate) dumps_are_lost: bool,
    /// `last_modified` of entries, unix milliseconds; generation 6 alone shows it.
    stamps: BTreeMap<(String, String), u64>,
    /// Tables that it does not have, though the node believes so.
    pub(crate) lacks: BTreeSet<String>,
    /// Sets whose stamp was too old.
    pub(crate) kept_out: u64,
    generation: Generation,
    /// How far its clock is behind, as far as it stamps entries, milliseconds.
    pub(crate) behind_ms: u64,
    /// Seconds of `autoexpire` by table; other tables do not expire.
    pub(crate) autoexpire: BTreeMap<String, u64>,
    /// Data requests received, retransmissions not counted, with their channel.
    pub(crate) received: Vec<(String, Vec<u8>)>,
    counters: BTreeMap<&'static str, u64>,
    next_ruid: u64,
    open: BTreeMap<String, (Vec<u8>, u64, u64)>,
    seen: BTreeSet<String>,
    next_ping: u64,
    heard_of_node: bool,
    /// The servers that it knows, and so tells its changes itself.
    pub(crate) knows: Vec<SocketAddr>,
    /// An old ping of it ran into its timeout: it sends the node no updates until the node's next ping.
    pub(crate) pending: bool,
    pub(crate) outbox: Vec<Vec<u8>>,
    now_ms: u64,
}

impl Server {
    pub(crate) fn new(addr: SocketAddr, lives: u64, generation: Generation) -> Self {
        Self {
            addr,
            lives,
            reachable: true,
            contacts: BTreeMap::new(),
            entries: BTreeMap::new(),
            batch: 1,
            dumps_are_lost: false,
            stamps: BTreeMap::new(),
            lacks: BTreeSet::new(),
            kept_out: 0,
            generation,
            behind_ms: 0,
            autoexpire: BTreeMap::from([("exp".to_owned(), 3_600)]),
            received: Vec::new(),
            counters: BTreeMap::new(),
            next_ruid: 1,
            open: BTreeMap::new(),
            seen: Default::default(),
            next_ping: 0,
            heard_of_node: false,
            knows: Vec::new(),
            pending: false,
            outbox: Vec::new(),
            now_ms: 0,
        }
    }

    fn agent(&self) -> &'static str {
        match self.generation {
            Generation::V5 => "kamailio (5.6.3 (x86_64/linux))",
            Generation::V6 => "kamailio (6.2.0-dev1 (x86_64/linux))",
        }
    }

    /// Sends a request as one of this server's processes.
    pub(crate) fn request(&mut self, channel: &str, body: Vec<u8>, max_forwards: u32, process: &'static str) {
        let counter = self.counters.entry(process).or_insert(0);
        *counter += 1;
        let start = (0x0123_4567_0000_0000u64).wrapping_mul(self.lives) ^ (u64::from(self.addr.port()) << 40);
        let pid = match process {
            "main" => 100,
            "sip" => 101,
            _ => 102,
        };
        let call_id = format!("{:016x}-{pid}@{}", start + *counter, self.addr.ip());
        let bytes = MessageBuilder::request(b"KDMQ", format!("sip:{channel}@{NODE}").as_bytes())
            .header("Via", format!("SIP/2.0/UDP {};branch=z9hG4bK{call_id}", self.addr))
            .header("To", format!("<sip:{channel}@{NODE}>"))
            .header("From", format!("<sip:{channel}@{}>;tag=1", self.addr))
            .header("CSeq", "10 KDMQ")
            .header("Call-ID", &call_id)
            .content_length()
            .header("User-Agent", self.agent())
            .header("Max-Forwards", max_forwards.to_string())
            .finish(&body);
        if self.pending && channel != "notification_peer" {
            return;
        }
        self.open.insert(call_id, (bytes.clone(), self.now_ms, 500));
        self.outbox.push(bytes);
    }

    pub(crate) fn tick(&mut self, now_ms: u64, wall_s: u64) {
        self.now_ms = now_ms;
        self.contacts.retain(|_, c| c.expires == 0 || c.expires > wall_s);
        self.entries.retain(|_, (_, expire)| *expire == 0 || *expire > wall_s);
        self.stamps.retain(|key, _| self.entries.contains_key(key));
        let mut again = Vec::new();
        self.open.retain(|_, (bytes, sent, wait)| {
            if now_ms >= *sent + *wait {
                again.push(bytes.clone());
                *sent = now_ms;
                *wait = (*wait * 2).min(4_000);
            }
            true
        });
        self.outbox.extend(again);
        if self.heard_of_node && now_ms >= self.next_ping {
            self.next_ping = now_ms + 10_000;
            let list = self.list();
            self.request("notification_peer", list, 1, "main");
        }
    }

    fn list(&self) -> Vec<u8> {
        let node = if self.heard_of_node { format!("sip:{NODE};status=active\r\n") } else { String::new() };
        let known: String = self.knows.iter().map(|server| format!("sip:{server};status=active\r\n")).collect();
        format!("{node}sip:{};status=active\r\n{known}", self.addr).into_bytes()
    }

    pub(crate) fn receive(&mut self, bytes: &[u8], wall_s: u64) {
        let message = sip::parse(bytes).expect("a node sends SIP");
        if message.method().is_none() {
            let call_id = String::from_utf8(message.call_id().unwrap().to_vec()).unwrap();
            self.open.remove(&call_id);
            self.heard_of_node = true;
            return;
        }
        self.heard_of_node = true;
        let channel = message.uri().unwrap().split(|b| matches!(b, b':' | b'@')).nth(1).unwrap();
        let channel = String::from_utf8(channel.to_vec()).unwrap();
        let branch = String::from_utf8(message.via().unwrap().branch().to_vec()).unwrap();
        let (mut body, mut code) = (Vec::new(), 200);
        if channel == "notification_peer" {
            self.pending = false;
            body = self.list();
        } else {
            if self.seen.insert(branch) {
                self.received.push((channel.clone(), message.body.to_vec()));
            }
            // A copy too: there is no transaction.
            code = self.execute(&channel, message.body, wall_s);
        }
        let source = NODE.parse().unwrap();
        let answer = MessageBuilder::response_to(&message, source, code, "Whatever", Some(b"t"))
            .unwrap()
            .header("Server", self.agent())
            .finish(&body);
        self.outbox.push(answer);
    }

    fn execute(&mut self, channel: &str, body: &[u8], wall_s: u64) -> u16 {
        if channel == "usrloc" {
            for action in usrloc::decode(body).expect("a node sends valid bodies").actions {
                match action {
                    usrloc::Action::Update(row) => {
                        let held = self.contacts.get(&(row.aor.to_string(), row.contact.ruid.to_string()));
                        let older = |held: &Contact<'_>| (1..held.last_modified).contains(&row.contact.last_modified);
                        if self.generation == Generation::V5 || !held.is_some_and(older) {
                            self.store(row.aor.to_string(), row.contact.into_owned());
                        }
                    }
                    usrloc::Action::Remove(row) => {
                        self.contacts.remove(&(row.aor.to_string(), row.contact.ruid.to_string()));
                    }
                    usrloc::Action::Sync => self.dump_contacts(),
                    usrloc::Action::None => {}
                }
            }
            return 200;
        }
        match htable::decode(body).expect("a node sends valid bodies") {
            htable::Action::Set { table, key, value, last_modified } => {
                if self.lacks.contains(&table.to_string()) {
                    return 500;
                }
                let at = (table.to_string(), key.to_string());
                let stored = self.stamps.get(&at).copied();
                match (self.generation, last_modified) {
                    (Generation::V5, Some(_)) => panic!("5.6 refuses a stamp"),
                    (Generation::V6, Some(stamp)) if stored.is_some_and(|stored| stored >= stamp) => {
                        self.kept_out += 1;
                        return 200;
                    }
                    (_, stamp) => _ = self.stamps.insert(at.clone(), stamp.or(stored).unwrap_or(0)),
                }
                let expire = self.autoexpire.get(&table.to_string()).map_or(0, |s| wall_s + s);
                let value = match value {
                    Value::Int(int) => Value::Int(int),
                    Value::Str(text) => Value::Str(text.into_owned().into()),
                };
                self.entries.insert(at, (value, expire));
            }
            htable::Action::Expire { table, key, seconds } => {
                if self.autoexpire.contains_key(&table.to_string())
                    && let Some((_, expire)) = self.entries.get_mut(&(table.to_string(), key.to_string()))
                {
                    *expire = wall_s.saturating_add_signed(seconds);
                }
            }
            htable::Action::Delete { table, key } => {
                self.drop_entry(&table.to_string(), &key.to_string());
            }
            htable::Action::Sync { .. } => self.dump_entries(),
            other => panic!("a node never sends {other:?}"),
        }
        200
    }

    /// As 5.6: by ruid, else by URI under the old ruid, else new.
    pub(crate) fn store(&mut self, aor: String, contact: Contact<'static>) {
        let by_uri = self
            .contacts
            .iter()
            .find(|((a, _), held)| *a == aor && held.uri == contact.uri)
            .map(|(key, held)| (key.clone(), held.callid == contact.callid && held.cseq >= contact.cseq));
        let key = (aor, contact.ruid.to_string());
        match by_uri {
            Some((held, refused)) if !self.contacts.contains_key(&key) => {
                if !refused {
                    let ruid = held.1.clone();
                    self.contacts.insert(held, Contact { ruid: ruid_of(&ruid), ..contact });
                }
            }
            _ => _ = self.contacts.insert(key, contact),
        }
    }

    fn dump_contacts(&mut self) {
        let mut bodies = Vec::new();
        for ((aor, ruid), contact) in &self.contacts {
            let body = usrloc::encode_update(aor.as_bytes(), contact, ruid.as_bytes(), kdmq::Generation::V5);
            bodies.push(String::from_utf8(body.unwrap()).unwrap());
        }
        for several in bodies.chunks(self.batch) {
            let body = match several {
                [one] => one.clone(),
                several => {
                    let numbered = several.iter().zip(1..).map(|(body, number)| format!(r#""{number}":{body}"#));
                    format!(r#"{{"multi":{{{}}}}}"#, numbered.collect::<Vec<_>>().join(","))
                }
            };
            self.request("usrloc", body.into_bytes(), 1, "dmq");
        }
    }

    fn dump_entries(&mut self) {
        if self.dumps_are_lost {
            return;
        }
        let cells: Vec<String> = self
            .entries
            .iter()
            .map(|((table, key), (value, expire))| {
                let value = match value {
                    Value::Int(int) => format!(r#""type":0,"intval":{int}"#),
                    Value::Str(text) => format!(r#""type":2,"strval":"{text}""#),
                };
                let stamp = match self.generation {
                    Generation::V5 => String::new(),
                    Generation::V6 => {
                        let stamp = self.stamps.get(&(table.clone(), key.clone())).copied().unwrap_or(0);
                        format!(r#","last_modified":{stamp}"#)
                    }
                };
                format!(r#"{{"htname":"{table}","cname":"{key}",{value},"expire":{expire}{stamp}}}"#)
            })
            .collect();
        let body = format!(r#"{{"cells":[{}]}}"#, cells.join(","));
        self.request("htable", body.into_bytes(), 1, "dmq");
    }

    /// A phone REGISTERs here; returns the ruid.
    pub(crate) fn register(
        &mut self,
        aor: &str,
        uri: &str,
        callid: &str,
        cseq: u32,
        expires: u64,
        wall_s: u64,
    ) -> String {
        let held = self.contacts.iter().find(|((a, _), c)| a == aor && *c.uri == uri);
        let ruid = held.map_or_else(
            || {
                self.next_ruid += 1;
                format!("uloc-{}-{}-{}", self.addr.ip(), self.lives, self.next_ruid)
            },
            |((_, ruid), _)| ruid.clone(),
        );
        let contact = Contact {
            uri: owned(uri),
            callid: owned(callid),
            user_agent: owned("phone"),
            ruid: ruid_of(&ruid),
            cseq,
            expires: wall_s + expires,
            last_modified: wall_s,
            methods: u32::MAX,
            q: -1,
            ..Contact::default()
        };
        let body = usrloc::encode_update(aor.as_bytes(), &contact, ruid.as_bytes(), kdmq::Generation::V5);
        self.contacts.insert((aor.to_owned(), ruid.clone()), contact);
        if self.heard_of_node {
            self.request("usrloc", body.unwrap(), 1, "sip");
        }
        ruid
    }

    /// A phone un-REGISTERs here.
    pub(crate) fn unregister(&mut self, aor: &str, uri: &str) {
        let key = self.contacts.iter().find(|((a, _), c)| a == aor && *c.uri == uri).map(|(k, _)| k.clone());
        let Some(key) = key else { return };
        let contact = self.contacts.remove(&key).unwrap();
        let update = usrloc::encode_update(aor.as_bytes(), &contact, key.1.as_bytes(), kdmq::Generation::V5).unwrap();
        let body = String::from_utf8(update).unwrap().replacen(r#""action":1"#, r#""action":2"#, 1);
        self.request("usrloc", body.into_bytes(), 1, "sip");
    }

    /// Gives up on everything that was not answered, as after `fr_timer`.
    pub(crate) fn forget_open(&mut self) {
        self.open.clear();
    }

    /// How many requests on a channel wait for their answer.
    pub(crate) fn unanswered(&self, channel: &str) -> usize {
        let line = format!("KDMQ sip:{channel}@");
        self.open.values().filter(|(bytes, ..)| bytes.starts_with(line.as_bytes())).count()
    }

    /// Drops the node from its list: it pings it no more until it hears from it.
    pub(crate) fn forget_node(&mut self) {
        self.forget_open();
        self.heard_of_node = false;
    }

    /// `$sht(table=>key) = value` here.
    pub(crate) fn set(&mut self, table: &str, key: &str, value: Value<'static>, wall_s: u64) {
        let expire = self.autoexpire.get(table).map_or(0, |s| wall_s + s);
        let at = (table.to_owned(), key.to_owned());
        let stamp = (START_MS + self.now_ms - self.behind_ms).max(self.stamps.get(&at).map_or(0, |stored| stored + 1));
        let shown = (self.generation == Generation::V6).then_some(stamp);
        let body = htable::encode_set(table.as_bytes(), key.as_bytes(), &value, shown).unwrap();
        self.stamps.insert(at.clone(), stamp);
        self.entries.insert(at, (value, expire));
        self.request("htable", body, 1, "sip");
    }

    /// `$shtinc` here, or `$shtdec`.
    pub(crate) fn count(&mut self, key: &str, by: i64, wall_s: u64) {
        let before: i64 = self.entry("calls", key).map_or(0, |v| v.parse().unwrap());
        self.set("calls", key, Value::Int(before + by), wall_s);
    }

    fn drop_entry(&mut self, table: &str, key: &str) {
        let at = (table.to_owned(), key.to_owned());
        self.entries.remove(&at);
        self.stamps.remove(&at);
    }

    /// `$sht(table=>key) = $null` here.
    pub(crate) fn delete(&mut self, table: &str, key: &str) {
        self.drop_entry(table, key);
        let body = htable::encode_delete(table.as_bytes(), key.as_bytes()).unwrap();
        self.request("htable", body, 1, "sip");
    }

    /// The URIs under an AoR.
    pub(crate) fn holds(&self, aor: &str) -> Vec<String> {
        self.contacts.iter().filter(|((a, _), _)| a == aor).map(|(_, c)| c.uri.to_string()).collect()
    }

    pub(crate) fn entry(&self, table: &str, key: &str) -> Option<String> {
        self.entries.get(&(table.to_owned(), key.to_owned())).map(|(value, _)| match value {
            Value::Int(int) => int.to_string(),
            Value::Str(text) => text.to_string(),
        })
    }
}

fn owned(text: &str) -> std::borrow::Cow<'static, bstr::BStr> {
    std::borrow::Cow::Owned(text.into())
}

fn ruid_of(text: &str) -> std::borrow::Cow<'static, bstr::BStr> {
    owned(text)
}
