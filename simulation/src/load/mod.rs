//! Phones with SIP habits, writers of tables, operators, calls: each with a stream of randomness of its own.
//!
//! Load decides what is asked, where and when; the world carries it there and says how it ended. One deed of a phone or
//! writer is open at a time; whoever hears nothing for too long goes on without an answer.

mod call;
mod phone;
mod writer;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use node::Mono;

use self::call::Call;
use self::phone::Phone;
use self::writer::Writer;
use crate::ledger::{Deed, DeedId, Ended, Ledger, What};
use crate::script::{Entry, Script};

pub(crate) use self::call::command;
pub use self::call::{dialog_id, dialog_key};

/// The address of record with this number.
pub fn aor(number: u32) -> String {
    format!("u{number}@sim.example")
}

/// The contact URI of a phone.
pub fn uri(phone: u32, aor: u32) -> String {
    let (high, low) = (phone / 200 % 256, phone % 200 + 1);
    format!("sip:u{aor}-{phone}@198.51.{high}.{low}:5060")
}

/// All load of a run.
pub struct Load {
    actors: Vec<Actor>,
    /// When each wants to act; entries that [`Actor::next`] does not confirm are void.
    queue: BinaryHeap<Reverse<(Mono, u32)>>,
    /// Who waits for the end of a deed.
    open: BTreeMap<DeedId, u32>,
    end: Mono,
}

/// Something that load wants done now.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Its entry in the ledger.
    pub deed: DeedId,
    /// Where.
    pub at: Entry,
    /// What. More about it (Call-ID, CSeq, instance) is in [`Ask::phone`].
    pub what: What,
    /// For what a phone does: how it says so.
    pub phone: Option<PhoneWords>,
}

/// The words of a phone's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhoneWords {
    /// Call-ID.
    pub callid: String,
    /// CSeq number.
    pub cseq: u32,
    /// `+sip.instance` with angle brackets, or empty.
    pub instance: String,
    /// `reg-id`, 0 if none.
    pub reg_id: u32,
}

/// Somebody who acts.
enum Who {
    Phone(Phone),
    Writer(Writer),
    Call(Call),
}

struct Actor {
    who: Who,
    /// When it acts next, or loses its patience with what it has asked.
    next: Option<Mono>,
    asked: Option<DeedId>,
}

/// A deed, before it is begun.
struct Wish {
    at: Entry,
    what: What,
    words: Option<PhoneWords>,
    /// How long the answer is waited for.
    patience_ms: u64,
}

impl Load {
    /// The load of a script. It begins nothing after the script's `duration_ms`.
    pub fn new(script: &Script) -> Self {
        let phones = script.phones.iter().filter(|phone| !phone.at.is_empty());
        let phones = phones.map(|spec| (Who::Phone(Phone::new(spec, script.seed)), spec.start_ms));
        let writers = script.writers.iter();
        let writers = writers.map(|spec| (Who::Writer(Writer::new(spec, script.seed)), spec.start_ms));
        let calls = script.calls.iter().map(|spec| (Who::Call(Call::new(spec, script.seed)), spec.start_ms));
        let mut this = Self {
            actors: Vec::with_capacity(script.phones.len() + script.writers.len() + script.calls.len()),
            queue: BinaryHeap::new(),
            open: BTreeMap::new(),
            end: Mono(0).plus_ms(script.duration_ms),
        };
        for (who, start_ms) in phones.chain(writers).chain(calls) {
            this.actors.push(Actor { who, next: None, asked: None });
            this.schedule(this.actors.len() as u32 - 1, Some(Mono(0).plus_ms(start_ms)));
        }
        this
    }

    /// When somebody wants to act next.
    pub fn wakeup(&self) -> Mono {
        self.queue.peek().map_or(Mono(u64::MAX), |Reverse((at, _))| *at)
    }

    fn schedule(&mut self, index: u32, at: Option<Mono>) {
        let at = at.filter(|&at| at < self.end);
        self.actors[index as usize].next = at;
        if let Some(at) = at {
            self.queue.push(Reverse((at, index)));
        }
    }

    /// What is to be done now; each is begun in the ledger.
    pub fn due(&mut self, now: Mono, ledger: &mut Ledger) -> Vec<Ask> {
        let mut asks = Vec::new();
        while let Some(&Reverse((at, index))) = self.queue.peek()
            && at <= now
        {
            self.queue.pop();
            let actor = &mut self.actors[index as usize];
            if actor.next != Some(at) {
                continue;
            }
            if let Some(deed) = actor.asked.take() {
                // No answer so far; should one come later, nobody listens any more.
                self.open.remove(&deed);
                let next = actor.who.ended(Ended::Unknown, now);
                self.schedule(index, next);
                continue;
            }
            match actor.who.act(now) {
                Ok(wish) => {
                    let deed = ledger.begin(wish.what.clone(), wish.at, now);
                    actor.asked = Some(deed);
                    self.open.insert(deed, index);
                    self.schedule(index, Some(now.plus_ms(wish.patience_ms)));
                    asks.push(Ask { deed, at: wish.at, what: wish.what, phone: wish.words });
                }
                Err(next) => self.schedule(index, next),
            }
        }
        asks
    }

    /// How something ended; the phone goes on accordingly (another server after a failure).
    pub fn ended(&mut self, deed: DeedId, _what: &Deed, how: Ended, now: Mono) {
        let Some(index) = self.open.remove(&deed) else { return };
        let actor = &mut self.actors[index as usize];
        actor.asked = None;
        let next = actor.who.ended(how, now);
        self.schedule(index, next);
    }
}

impl Who {
    /// What it wants now, or when it wants something next, if ever.
    fn act(&mut self, now: Mono) -> Result<Wish, Option<Mono>> {
        match self {
            Self::Phone(phone) => phone.act(now),
            Self::Writer(writer) => writer.act(now),
            Self::Call(call) => call.act(),
        }
    }

    /// When it acts next, if ever.
    fn ended(&mut self, how: Ended, now: Mono) -> Option<Mono> {
        match self {
            Self::Phone(phone) => phone.ended(how, now),
            Self::Writer(writer) => writer.next(now),
            Self::Call(call) => call.ended(how, now),
        }
    }
}
