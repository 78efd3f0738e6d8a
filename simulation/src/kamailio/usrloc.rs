//! The contacts of a server: found by ruid, by URI or by instance, kept without tombstones (docs/kdmq.md 5 and 6).

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;

use bstr::{BStr, BString};
use kdmq::usrloc::Element;
use tables::location::Contact;

use super::Held;
use crate::script::Generation;

/// How long a REGISTER with the CSeq of the last one is taken for its repetition, seconds.
const CSEQ_DELAY_S: u64 = 20;

/// What a phone says of its contact.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'a> {
    pub(super) uri: &'a str,
    pub(super) callid: &'a str,
    pub(super) cseq: u32,
    pub(super) expires_s: u32,
    pub(super) instance: &'a str,
    pub(super) reg_id: u32,
}

/// What came of a REGISTER.
#[derive(Debug)]
pub(super) enum Registered {
    /// A contact was added or refreshed; the body that tells the peers.
    Told(Option<Vec<u8>>),
    /// A repetition of the last request: nothing changed.
    Again,
    /// An old request: 400.
    Refused,
}

/// How a contact of another server is found here.
enum Found {
    At(usize),
    Stale,
    No,
}

/// A contact, with what dumps say of it once one was made.
pub(super) struct Row {
    contact: Contact<'static>,
    body: OnceCell<Option<Vec<u8>>>,
    element: OnceCell<Option<Element>>,
}

impl Row {
    /// The body that tells of it alone. `None` where the codec refuses to say it.
    pub(super) fn body(&self, generation: Generation, aor: &[u8]) -> Option<&Vec<u8>> {
        self.body.get_or_init(|| body(generation, 1, aor, self)).as_ref()
    }

    /// Its part of a body that tells of many. `None` where the codec refuses to say it.
    pub(super) fn element(&self, generation: Generation, aor: &[u8]) -> Option<&Element> {
        self.element.get_or_init(|| Element::update(aor, self, &self.ruid, codec(generation)).ok()).as_ref()
    }
}

impl From<Contact<'static>> for Row {
    fn from(contact: Contact<'static>) -> Self {
        Self { contact, body: OnceCell::new(), element: OnceCell::new() }
    }
}

impl Deref for Row {
    type Target = Contact<'static>;

    fn deref(&self) -> &Contact<'static> {
        &self.contact
    }
}

/// The contacts.
pub(super) struct Usrloc {
    generation: Generation,
    server_id: u32,
    /// Begins every ruid of this life.
    ruid_prefix: String,
    next_ruid: u64,
    aors: BTreeMap<Rc<[u8]>, Vec<Row>>,
    count: usize,
}

impl Usrloc {
    /// What it behaves like.
    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    pub(super) fn new(generation: Generation, server_id: u32, start_s: u64, pid: u32) -> Self {
        let ruid_prefix = format!("uloc-{server_id:x}-{start_s:x}-{pid:x}-");
        Self { generation, server_id, ruid_prefix, next_ruid: 0, aors: BTreeMap::new(), count: 0 }
    }

    /// Has no contact any more.
    pub(super) fn clear(&mut self) {
        self.aors.clear();
        self.count = 0;
    }

    /// How many contacts take memory, dead ones included.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// A phone registers. `room` is whether there is memory for another contact.
    pub(super) fn register(&mut self, aor: &str, words: &Words<'_>, room: bool, now_s: u64) -> Registered {
        let rows = self.aors.get(aor.as_bytes()).map_or(&[][..], Vec::as_slice);
        // A device with an instance is found by that alone.
        let at = match words.instance {
            "" => rows.iter().position(|row| *row.uri == words.uri),
            instance => rows.iter().position(|row| *row.instance == instance && row.reg_id == words.reg_id),
        };
        if let Some(row) = at.map(|at| &rows[at])
            && words.instance.is_empty()
            && *row.callid == words.callid
            && row.cseq >= words.cseq
        {
            let again = row.cseq == words.cseq && row.last_modified + CSEQ_DELAY_S > now_s;
            return if again { Registered::Again } else { Registered::Refused };
        }
        if at.is_none() && !room {
            return Registered::Refused;
        }
        let ruid = match at {
            Some(at) => rows[at].ruid.clone(),
            None => {
                self.next_ruid += 1;
                own(&format!("{}{:x}", self.ruid_prefix, self.next_ruid))
            }
        };
        let contact = Contact {
            uri: own(words.uri),
            callid: own(words.callid),
            user_agent: own("phone"),
            instance: own(words.instance),
            ruid,
            cseq: words.cseq,
            expires: now_s + u64::from(words.expires_s),
            last_modified: now_s,
            reg_id: words.reg_id,
            server_id: self.server_id,
            ..Contact::default()
        };
        let body = body(self.generation, 1, aor.as_bytes(), &contact);
        match (at, self.aors.get_mut(aor.as_bytes())) {
            (Some(at), Some(rows)) => rows[at] = contact.into(),
            (_, Some(rows)) => rows.push(contact.into()),
            (_, None) => drop(self.aors.insert(aor.as_bytes().into(), vec![contact.into()])),
        }
        self.count += usize::from(at.is_none());
        Registered::Told(body)
    }

    /// A phone removes its contact. The body that tells the peers, if there was one.
    pub(super) fn unregister(&mut self, aor: &str, uri: &str) -> Option<Vec<u8>> {
        let rows = self.aors.get(aor.as_bytes())?;
        let at = rows.iter().position(|row| *row.uri == uri)?;
        let removed = self.take(BStr::new(aor), at);
        body(self.generation, 2, aor.as_bytes(), &removed)
    }

    /// `Contact: *`: a body for each contact.
    pub(super) fn star(&mut self, aor: &str) -> Vec<Vec<u8>> {
        let rows = self.aors.remove(aor.as_bytes()).unwrap_or_default();
        self.count -= rows.len();
        rows.iter().filter_map(|row| body(self.generation, 2, aor.as_bytes(), row)).collect()
    }

    fn take(&mut self, aor: &BStr, at: usize) -> Row {
        let rows = self.aors.get_mut(&**aor).expect("the caller has found it");
        let removed = rows.remove(at);
        if rows.is_empty() {
            self.aors.remove(&**aor);
        }
        self.count -= 1;
        removed
    }

    /// Another server or node says that this contact is so. `false` if there is no memory for it.
    pub(super) fn update(&mut self, aor: &BStr, contact: Contact<'static>, room: bool) -> bool {
        let at = match self.find(aor, &contact) {
            Found::At(at) => at,
            Found::Stale => return true,
            Found::No if !room => return false,
            Found::No => {
                match self.aors.get_mut(&**aor) {
                    Some(rows) => rows.push(contact.into()),
                    None => drop(self.aors.insert((&**aor).into(), vec![contact.into()])),
                }
                self.count += 1;
                return true;
            }
        };
        let row = &mut self.aors.get_mut(&**aor).expect("it was found")[at];
        if self.generation == Generation::V6 && (1..row.last_modified).contains(&contact.last_modified) {
            return true;
        }
        // The URI changes only where the message names an instance; instance, reg-id and ruid never do.
        let uri = if contact.instance.is_empty() { row.uri.clone() } else { contact.uri };
        let taken = Contact {
            uri,
            instance: row.instance.clone(),
            reg_id: row.reg_id,
            ruid: row.ruid.clone(),
            xavps: if self.generation == Generation::V6 { contact.xavps } else { None },
            unknown: None,
            ..contact
        };
        *row = taken.into();
        true
    }

    /// By ruid, else by URI, where SIP's order of requests decides.
    fn find(&self, aor: &BStr, contact: &Contact<'_>) -> Found {
        let rows = self.aors.get(&**aor).map_or(&[][..], Vec::as_slice);
        if let Some(at) = rows.iter().position(|row| row.ruid == contact.ruid) {
            return Found::At(at);
        }
        match rows.iter().position(|row| row.uri == contact.uri) {
            Some(at) if rows[at].callid == contact.callid && rows[at].cseq >= contact.cseq => Found::Stale,
            Some(at) => Found::At(at),
            None => Found::No,
        }
    }

    /// Another server or node says that the contact of this ruid is gone.
    pub(super) fn remove(&mut self, aor: &BStr, ruid: &BStr, last_modified: u64) {
        let Some(rows) = self.aors.get(&**aor) else { return };
        let Some(at) = rows.iter().position(|row| *row.ruid == *ruid) else { return };
        let older = (1..rows[at].last_modified).contains(&last_modified);
        if !(older && self.generation == Generation::V6) {
            self.take(aor, at);
        }
    }

    /// Frees what has expired.
    pub(super) fn sweep(&mut self, now_s: u64) {
        let mut gone = 0;
        self.aors.retain(|_, rows| {
            let before = rows.len();
            rows.retain(|row| is_live(row, now_s));
            gone += before - rows.len();
            !rows.is_empty()
        });
        self.count -= gone;
    }

    /// The contacts that have not expired.
    pub(super) fn live(&self, now_s: u64) -> impl Iterator<Item = Held<'_>> {
        let rows = self.aors.iter().flat_map(|(aor, rows)| rows.iter().map(move |row| (aor, row)));
        rows.filter(move |(_, row)| is_live(row, now_s)).map(|(aor, contact)| Held { aor: BStr::new(aor), contact })
    }

    /// Those of one address of record.
    pub(super) fn lookup(&self, aor: &str, now_s: u64) -> impl Iterator<Item = Held<'_>> {
        let found = self.aors.get_key_value(aor.as_bytes());
        let rows = found.into_iter().flat_map(|(aor, rows)| rows.iter().map(move |row| (aor, row)));
        rows.filter(move |(_, row)| is_live(row, now_s)).map(|(aor, contact)| Held { aor: BStr::new(aor), contact })
    }

    /// All addresses of record, for a dump.
    pub(super) fn aors(&self) -> VecDeque<Rc<[u8]>> {
        self.aors.keys().cloned().collect()
    }

    /// What a dump says of one address of record: a server begins again at each of its contacts, so k of them make
    /// k + (k-1) + .. + 1 rows.
    pub(super) fn dump(&self, aor: &BStr, now_s: u64) -> impl Iterator<Item = &Row> {
        let rows = self.aors.get(&**aor).map_or(&[][..], Vec::as_slice);
        (0..rows.len()).flat_map(move |from| rows[from..].iter()).filter(move |row| is_live(row, now_s))
    }
}

fn is_live(row: &Contact<'_>, now_s: u64) -> bool {
    row.expires == 0 || row.expires > now_s
}

fn own(text: &str) -> Cow<'static, BStr> {
    Cow::Owned(BString::from(text))
}

/// The body that tells of a contact: action 1, or 2 with all fields of the version that was removed. `None` where the
/// codec refuses to say it.
pub(super) fn body(generation: Generation, action: u8, aor: &[u8], contact: &Contact<'_>) -> Option<Vec<u8>> {
    let mut body = kdmq::usrloc::encode_update(aor, contact, &contact.ruid, codec(generation)).ok()?;
    // `{"action":1,..`
    body[10] = b'0' + action;
    Some(body)
}

/// The generation as the codecs name it.
pub(super) fn codec(generation: Generation) -> kdmq::Generation {
    match generation {
        Generation::V5 => kdmq::Generation::V5,
        Generation::V6 => kdmq::Generation::V6,
    }
}

/// The `User-Agent` and `Server` of a generation.
pub(super) fn agent(generation: Generation) -> &'static str {
    match generation {
        Generation::V5 => "kamailio (5.6.3 (x86_64/linux))",
        Generation::V6 => "kamailio (6.2.0-dev1 (x86_64/linux))",
    }
}

/// The number in a server's address that tells its ruids from those of others.
pub(super) fn first_pid(addr: SocketAddr, life: u32) -> u32 {
    20_000 + (u32::from(addr.port()) + life * 97) % 10_000
}
