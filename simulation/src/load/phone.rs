//! A phone: it registers, refreshes at half time, goes to the next server when one fails, and leaves.

use node::Mono;

use super::{PhoneWords, Wish, aor, uri};
use crate::ledger::{Ended, What};
use crate::rng::{Rng, Stream};
use crate::script::{Leave, PhoneSpec};

/// How long an answer is waited for. SIP would wait 32 s; phones are not that patient.
const PATIENCE_MS: u64 = 6_000;
/// Pause before the next server is tried, milliseconds.
const RETRY_MS: (u64, u64) = (2_000, 5_000);
/// How often in a thousand refreshes a phone has been switched off and on before: another Call-ID.
const RESTART_PERMILLE: u32 = 10;
/// How often in a thousand refreshes at its second choice a phone tries the first again.
const RETURN_PERMILLE: u32 = 200;

/// What a phone is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It wants to be registered.
    On,
    /// It has said once, or in vain so often, that it goes.
    Leaving { tries: u32 },
}

/// A phone.
pub(super) struct Phone {
    spec: PhoneSpec,
    aor: String,
    uri: String,
    instance: String,
    /// Position in `spec.at` of where it asks.
    at: usize,
    /// How often it was switched on.
    boots: u32,
    cseq: u32,
    registered: bool,
    state: State,
    rng: Rng,
}

impl Phone {
    pub(super) fn new(spec: &PhoneSpec, seed: u64) -> Self {
        let id = spec.id;
        let instance = format!("<urn:uuid:{id:08x}-0000-4000-8000-000000000001>");
        Self {
            aor: aor(spec.aor),
            uri: uri(id, spec.aor),
            instance: if spec.outbound { instance } else { String::new() },
            spec: spec.clone(),
            at: 0,
            boots: 1,
            cseq: 0,
            registered: false,
            state: State::On,
            rng: Rng::stream(seed, Stream::Phone, u64::from(id)),
        }
    }

    pub(super) fn act(&mut self, now: Mono) -> Result<Wish, Option<Mono>> {
        let stop = self.spec.stop_ms.map(|ms| Mono(0).plus_ms(ms));
        if self.state == State::On && stop.is_some_and(|stop| stop <= now) {
            if self.spec.leave == Leave::Silent || !self.registered {
                return Err(None);
            }
            self.state = State::Leaving { tries: 0 };
        }
        let (phone, aor, uri) = (self.spec.id, self.aor.clone(), self.uri.clone());
        let what = match (self.state, self.spec.leave) {
            (State::On, _) => {
                self.before_registering();
                self.cseq += 1;
                What::Register { phone, aor, uri, expires_s: self.spec.expires_s, cseq: self.cseq }
            }
            (State::Leaving { .. }, Leave::Star) => {
                self.cseq += 1;
                What::RemoveAll { aor, operator: false }
            }
            (State::Leaving { .. }, _) => {
                self.cseq += 1;
                What::Unregister { phone, aor, uri }
            }
        };
        let words = PhoneWords {
            callid: format!("{phone:08x}-{}@phone", self.boots),
            cseq: self.cseq,
            instance: self.instance.clone(),
            reg_id: u32::from(self.spec.outbound),
        };
        Ok(Wish { at: self.spec.at[self.at], what, words: Some(words), patience_ms: PATIENCE_MS })
    }

    /// Now and then it was switched off meanwhile, or tries its first choice again.
    fn before_registering(&mut self) {
        if self.registered && self.rng.permille(RESTART_PERMILLE) {
            self.boots += 1;
            self.cseq = 0;
        }
        if self.registered && self.at > 0 && self.rng.permille(RETURN_PERMILLE) {
            self.at = 0;
        }
    }

    /// When it acts next, if ever.
    pub(super) fn ended(&mut self, how: Ended, now: Mono) -> Option<Mono> {
        match (&mut self.state, how) {
            (State::Leaving { .. }, Ended::Done) => None,
            (State::Leaving { tries }, _) => {
                *tries += 1;
                let gives_up = *tries as usize > self.spec.at.len();
                if gives_up { None } else { Some(self.elsewhere(now)) }
            }
            (State::On, Ended::Done) => {
                self.registered = true;
                let half = u64::from(self.spec.expires_s.max(1)) * 500;
                let refresh = now.plus_ms(half - self.rng.between(0, half / 5));
                Some(self.no_later_than_leaving(refresh, now))
            }
            (State::On, _) => {
                let retry = self.elsewhere(now);
                Some(self.no_later_than_leaving(retry, now))
            }
        }
    }

    fn elsewhere(&mut self, now: Mono) -> Mono {
        self.at = (self.at + 1) % self.spec.at.len();
        now.plus_ms(self.rng.between(RETRY_MS.0, RETRY_MS.1))
    }

    fn no_later_than_leaving(&self, at: Mono, now: Mono) -> Mono {
        self.spec.stop_ms.map_or(at, |stop| at.min(Mono(0).plus_ms(stop).max(now)))
    }
}
