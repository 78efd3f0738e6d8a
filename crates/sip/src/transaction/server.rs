//! Server transactions: a retransmission gets the answer that the request got (RFC 3261 section
//! 17.2.2).

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use super::TIMER_J;
use super::client::COOKIE;
use crate::{Message, Name, ParseError, Via};

/// Names a server transaction: a keyed hash of what RFC 3261 section 17.2.3 matches by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u64);

/// What is known of a request that came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen<'a, R> {
    /// Never seen: to be executed, and [`ServerTransactions::complete`]d when answered.
    New(Key),
    /// A retransmission: not to be executed again.
    Retransmission {
        /// The answer, to be sent again; `None` while the first one is being executed.
        answer: Option<&'a R>,
    },
}

#[derive(Debug)]
struct Entry<R> {
    answer: Option<R>,
    /// The second in which it is forgotten.
    until: u32,
}

/// Keys are hashes already.
#[derive(Debug, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.is_empty(), "only keys are hashed");
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// The server transactions of a node, with answers `R` of the caller's choice (a status code, say).
///
/// An entry is about 40 bytes for a small `R`: 10,000 requests a second, each remembered for
/// [`TIMER_J`], take some 12 MB. At the limit the oldest is forgotten: its retransmission is then
/// executed again, as Kamailio does always.
///
/// **Invariant:** every entry is in exactly one bucket, of a second at or before its `until`.
#[derive(Debug)]
pub struct ServerTransactions<R> {
    entries: HashMap<u64, Entry<R>, BuildHasherDefault<AsIs>>,
    /// Keys by the second in which they are looked at; the first bucket is that of `first`.
    buckets: VecDeque<Vec<u64>>,
    first: u32,
    limit: usize,
    secret: [u64; 2],
}

impl<R> ServerTransactions<R> {
    /// None, and never more than `limit` (at least 1). The secret keeps strangers from finding
    /// requests that collide; it is drawn once per process.
    pub fn new(limit: usize, secret: [u64; 2]) -> Self {
        Self { entries: HashMap::default(), buckets: VecDeque::new(), first: 0, limit: limit.max(1), secret }
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Tells whether a request is new, and remembers it if so.
    ///
    /// What came over a reliable transport is always new and never remembered: nothing is
    /// retransmitted there (timer J is 0).
    ///
    /// The source's address is part of the match, beyond the RFC, so that no other host can have
    /// its request taken for this one's.
    ///
    /// # Errors
    /// The request cannot be told from others: no readable Via, or no Call-ID, CSeq or From where
    /// the branch is not one of RFC 3261. Answer it with 400 and forget it.
    pub fn on_request(
        &mut self,
        request: &Message<'_>,
        source: IpAddr,
        reliable: bool,
        now_ms: u64,
    ) -> Result<Seen<'_, R>, ParseError> {
        let via = request.via()?;
        self.on_request_of(request, &via, source, reliable, now_ms)
    }

    /// As [`ServerTransactions::on_request`], with the request's topmost Via, where it is known already.
    ///
    /// # Errors
    /// As there.
    pub fn on_request_of(
        &mut self,
        request: &Message<'_>,
        via: &Via<'_>,
        source: IpAddr,
        reliable: bool,
        now_ms: u64,
    ) -> Result<Seen<'_, R>, ParseError> {
        let Key(key) = self.key(request, via, source)?;
        self.expire(now_ms);
        if reliable {
            return Ok(Seen::New(Key(key)));
        }
        if self.entries.contains_key(&key) {
            return Ok(Seen::Retransmission { answer: self.entries.get(&key).and_then(|entry| entry.answer.as_ref()) });
        }
        while self.entries.len() >= self.limit {
            self.forget_oldest();
        }
        let until = second_after(now_ms);
        self.entries.insert(key, Entry { answer: None, until });
        self.schedule(key, until);
        Ok(Seen::New(Key(key)))
    }

    /// Remembers the answer of a request for [`TIMER_J`] from now, to the next whole second. No
    /// effect if the request is not remembered (any more).
    pub fn complete(&mut self, key: Key, answer: R, now_ms: u64) {
        if let Some(entry) = self.entries.get_mut(&key.0) {
            entry.answer = Some(answer);
            entry.until = second_after(now_ms);
        }
    }

    /// Forgets what is due; also done by every [`ServerTransactions::on_request`].
    pub fn expire(&mut self, now_ms: u64) {
        let now = second(now_ms);
        while self.first <= now
            && let Some(bucket) = self.buckets.pop_front()
        {
            self.first += 1;
            for key in bucket {
                self.look_at(key, now);
            }
        }
        if self.buckets.is_empty() {
            self.first = self.first.max(now);
        }
    }

    fn look_at(&mut self, key: u64, now: u32) {
        let Some(until) = self.entries.get(&key).map(|entry| entry.until) else {
            return;
        };
        if until > now {
            self.schedule(key, until);
        } else {
            self.entries.remove(&key);
        }
    }

    /// Puts a key into the bucket of a second, which [`TIMER_J`] keeps within reach.
    fn schedule(&mut self, key: u64, until: u32) {
        let at = until.saturating_sub(self.first) as usize;
        while self.buckets.len() <= at {
            self.buckets.push_back(Vec::new());
        }
        if let Some(bucket) = self.buckets.get_mut(at) {
            bucket.push(key);
        }
    }

    fn forget_oldest(&mut self) {
        while let Some(bucket) = self.buckets.front_mut() {
            match bucket.pop() {
                Some(key) => {
                    if self.entries.remove(&key).is_some() {
                        return;
                    }
                }
                None => {
                    self.buckets.pop_front();
                    self.first += 1;
                }
            }
        }
    }

    /// By branch, sent-by and method for branches of RFC 3261, else by the fields of RFC 2543
    /// (section 17.2.3).
    fn key(&self, request: &Message<'_>, via: &Via<'_>, source: IpAddr) -> Result<Key, ParseError> {
        let mut hasher = DefaultHasher::new();
        self.secret.hash(&mut hasher);
        source.hash(&mut hasher);
        request.method().hash(&mut hasher);
        if via.branch().starts_with(COOKIE.as_bytes()) {
            via.branch().hash(&mut hasher);
            via.host.hash(&mut hasher);
            via.port.hash(&mut hasher);
        } else {
            request.uri().hash(&mut hasher);
            request.required(Name::Via)?.raw.hash(&mut hasher);
            request.to()?.tag().hash(&mut hasher);
            request.from()?.tag().hash(&mut hasher);
            request.call_id()?.hash(&mut hasher);
            request.cseq()?.hash(&mut hasher);
        }
        Ok(Key(hasher.finish()))
    }
}

fn second(ms: u64) -> u32 {
    u32::try_from(ms / 1_000).unwrap_or(u32::MAX)
}

/// The first whole second by which [`TIMER_J`] from now has passed.
fn second_after(now_ms: u64) -> u32 {
    second(now_ms.saturating_add(TIMER_J).saturating_add(999))
}
