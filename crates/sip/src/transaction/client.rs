//! Client transactions: send, send again, give up (RFC 3261 section 17.1.2).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{T1, T2};
use crate::text::number_hex;
use crate::{Message, StartLine};

/// What every branch of RFC 3261 starts with (section 8.1.1.7).
pub(crate) const COOKIE: &str = "z9hG4bK";

/// The branch that names the transaction `token`.
pub fn branch(token: u64) -> String {
    format!("{COOKIE}{token:016x}")
}

/// The token of a branch that [`branch`] made; `None` for any other.
pub fn token_of(branch: &[u8]) -> Option<u64> {
    number_hex(branch.strip_prefix(COOKIE.as_bytes())?)
}

/// A request that starts a transaction.
#[derive(Clone, Debug)]
pub struct Outgoing<D, T> {
    /// Names the transaction; not used twice within [`super::TIMER_J`] and better not to be
    /// guessed. The request's topmost Via carries [`branch`] of it.
    pub token: u64,
    /// The request. The first sending is up to the caller.
    pub request: Bytes,
    /// Where retransmissions go: socket, address, connection, as the caller likes.
    pub destination: D,
    /// Whether it is retransmitted (timer E). Not over reliable transports, and not where a request
    /// does harm if it arrives twice.
    pub retransmit: bool,
    /// Milliseconds until the transaction times out (timer F).
    pub give_up_ms: u64,
    /// Given back with the outcome.
    pub tag: T,
}

/// Why a transaction was not started. Nothing is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many are open as may be. Nobody's fault: try again after an outcome.
    #[error("too many open transactions")]
    Full,
    /// The token names an open transaction. The caller's bug.
    #[error("transaction token in use")]
    TokenInUse,
}

/// What is to be done when its time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<D, T> {
    /// Send a request again.
    Retransmit {
        /// [`Outgoing::destination`].
        destination: D,
        /// [`Outgoing::request`].
        request: Bytes,
    },
    /// No final response came in time; the transaction is over.
    TimedOut(T),
}

#[derive(Debug)]
struct Open<D, T> {
    outgoing: Outgoing<D, T>,
    /// When timer F fires.
    gives_up: u64,
    /// When timer E fires next; `None` without retransmission.
    resends: Option<u64>,
    interval: u64,
}

impl<D, T> Open<D, T> {
    fn wakes(&self) -> u64 {
        self.resends.map_or(self.gives_up, |resends| resends.min(self.gives_up))
    }
}

/// The open client transactions of a node, with caller's data `T` and destination `D`.
///
/// ```text
///            start                 1xx: timer E = T2
///   (none) ---------> Trying ------------------------> Proceeding
///                       |  timer E: retransmit             |
///                       +--------------+-------------------+
///                          final       |      timer F
///                    (T, code) given   |   TimedOut(T) given
///                                      v
///                                    (none)
/// ```
///
/// The state Completed of the RFC (timer K) takes no memory here: it exists to absorb repeated
/// responses, and a response of a token that is not open is absorbed by that alone.
#[derive(Debug)]
pub struct ClientTransactions<D, T> {
    open: BTreeMap<u64, Open<D, T>>,
    /// (when, token): one entry for each open transaction.
    timers: BTreeSet<(u64, u64)>,
    limit: usize,
}

impl<D: Clone, T> ClientTransactions<D, T> {
    /// None open, and never more than `limit`.
    pub const fn new(limit: usize) -> Self {
        Self { open: BTreeMap::new(), timers: BTreeSet::new(), limit }
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Opens a transaction for a request that is sent now.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn start(&mut self, outgoing: Outgoing<D, T>, now_ms: u64) -> Result<(), Refused> {
        let token = outgoing.token;
        if self.open.len() >= self.limit {
            return Err(Refused::Full);
        }
        if self.open.contains_key(&token) {
            return Err(Refused::TokenInUse);
        }
        let open = Open {
            gives_up: now_ms.saturating_add(outgoing.give_up_ms),
            resends: outgoing.retransmit.then_some(now_ms.saturating_add(T1)),
            interval: T1,
            outgoing,
        };
        self.timers.insert((open.wakes(), token));
        self.open.insert(token, open);
        Ok(())
    }

    /// Takes in a response: gives the data and the code if it is the first final one of an open
    /// transaction, which is then over. A provisional one slows the retransmissions down to T2.
    ///
    /// `None` also for responses of no open transaction: repeated, late, or not ours.
    pub fn on_response(&mut self, response: &Message<'_>, now_ms: u64) -> Option<(T, u16)> {
        let StartLine::Response { code, .. } = response.start else {
            return None;
        };
        let token = token_of(response.via().ok()?.branch())?;
        let (_, method) = response.cseq().ok()?;
        let open = self.open.get_mut(&token)?;
        let of_request = open.outgoing.request.split(|&byte| byte == b' ').next();
        if of_request != Some(method) {
            return None;
        }
        if code >= 200 {
            return self.close(token).map(|tag| (tag, code));
        }
        let before = open.wakes();
        if open.resends.is_some() {
            open.interval = T2;
            open.resends = Some(now_ms.saturating_add(T2));
        }
        let after = open.wakes();
        self.timers.remove(&(before, token));
        self.timers.insert((after, token));
        None
    }

    /// Ends a transaction without an outcome and gives its data back.
    pub fn close(&mut self, token: u64) -> Option<T> {
        let open = self.open.remove(&token)?;
        self.timers.remove(&(open.wakes(), token));
        Some(open.outgoing.tag)
    }

    /// Ends every transaction whose data are chosen, without an outcome, and gives them back in the
    /// order of their tokens.
    pub fn close_where(&mut self, chosen: impl Fn(&T) -> bool) -> Vec<T> {
        let tokens: Vec<u64> =
            self.open.iter().filter(|(_, open)| chosen(&open.outgoing.tag)).map(|(&token, _)| token).collect();
        tokens.into_iter().filter_map(|token| self.close(token)).collect()
    }

    /// One thing to do at `now_ms`; to be called until it gives `None`.
    pub fn poll(&mut self, now_ms: u64) -> Option<Action<D, T>> {
        let &(when, token) = self.timers.first()?;
        if when > now_ms {
            return None;
        }
        let open = self.open.get_mut(&token)?;
        if open.gives_up <= now_ms {
            return self.close(token).map(Action::TimedOut);
        }
        open.interval = open.interval.saturating_mul(2).min(T2);
        open.resends = Some(now_ms.saturating_add(open.interval));
        let action = Action::Retransmit {
            destination: open.outgoing.destination.clone(),
            request: open.outgoing.request.clone(),
        };
        let next = open.wakes();
        self.timers.remove(&(when, token));
        self.timers.insert((next, token));
        Some(action)
    }

    /// When [`ClientTransactions::poll`] has something to give next, milliseconds.
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.first().map(|&(when, _)| when)
    }
}
