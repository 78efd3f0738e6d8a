//! Answers to sync requests: bursts of ordinary requests from one worker, and only then the 200 (docs/kdmq.md 9).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use bstr::BStr;
use kdmq::usrloc::Multi;
use node::Mono;

use super::usrloc::{self, Usrloc};
use super::{HTABLE, Timing, USRLOC};

/// Contacts sent in a millisecond, one per message; and in batches.
const SINGLES_PER_MS: usize = 15;
const BATCHED_PER_MS: usize = 100;
/// A batch ends before it would be longer (`batch_msg_size`).
const BATCH_BYTES: usize = 30_000;
/// DMQ workers: so many dumps can be under way.
const WORKERS: usize = 2;

/// A dump that somebody asked for.
pub(super) struct Dump {
    /// Who gets it.
    pub(super) to: Vec<SocketAddr>,
    /// The answer to the question, and where it goes.
    pub(super) answer: (SocketAddr, Vec<u8>),
    /// What is still to be said.
    pub(super) rest: Rest,
}

/// What is still to be said.
pub(super) enum Rest {
    /// The contacts of these addresses of record.
    Contacts(VecDeque<Rc<[u8]>>),
    /// These bodies about hash tables.
    Cells(VecDeque<Vec<u8>>),
}

/// Something that a dump wants done.
pub(super) enum Step {
    /// Send this to these.
    Say { channel: &'static str, body: Vec<u8>, to: Vec<SocketAddr>, worker: u8 },
    /// Answer the question.
    Answer(SocketAddr, Vec<u8>),
}

/// The dumps under way, and those that wait for a worker.
#[derive(Default)]
pub(super) struct Dumps {
    /// By worker.
    busy: [Option<Dump>; WORKERS],
    waiting: VecDeque<Dump>,
    next: Option<Mono>,
}

impl Dumps {
    /// Somebody asked.
    pub(super) fn begin(&mut self, dump: Dump, now: Mono) {
        self.waiting.push_back(dump);
        self.next.get_or_insert(now);
    }

    /// When the next part is due.
    pub(super) fn wakeup(&self) -> Option<Mono> {
        self.next
    }

    /// The parts that are due.
    pub(super) fn tick(&mut self, usrloc: &Usrloc, timing: &Timing, now: Mono, now_s: u64) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.next.is_none_or(|next| next > now) {
            return steps;
        }
        for (worker, slot) in self.busy.iter_mut().enumerate() {
            if slot.is_none() {
                *slot = self.waiting.pop_front();
            }
            let Some(dump) = slot else { continue };
            match &mut dump.rest {
                Rest::Contacts(aors) => {
                    for body in contacts(aors, usrloc, timing, now_s) {
                        steps.push(Step::Say { channel: USRLOC, body, to: dump.to.clone(), worker: worker as u8 });
                    }
                }
                Rest::Cells(bodies) => {
                    if let Some(body) = bodies.pop_front() {
                        steps.push(Step::Say { channel: HTABLE, body, to: dump.to.clone(), worker: worker as u8 });
                    }
                }
            }
            if dump.rest.is_empty()
                && let Some(Dump { answer: (to, bytes), .. }) = slot.take()
            {
                steps.push(Step::Answer(to, bytes));
            }
        }
        let more = !self.waiting.is_empty() || self.busy.iter().any(Option::is_some);
        self.next = more.then_some(now.plus_ms(1));
        steps
    }
}

impl Rest {
    fn is_empty(&self) -> bool {
        match self {
            Self::Contacts(aors) => aors.is_empty(),
            Self::Cells(bodies) => bodies.is_empty(),
        }
    }
}

/// The bodies for as many addresses of record as go out in a millisecond.
fn contacts(aors: &mut VecDeque<Rc<[u8]>>, usrloc: &Usrloc, timing: &Timing, now_s: u64) -> Vec<Vec<u8>> {
    let generation = usrloc.generation();
    let mut bodies = Vec::new();
    let single = timing.batch_contacts <= 1;
    let mut left = if single { SINGLES_PER_MS } else { BATCHED_PER_MS } as isize;
    let mut multi = Multi::new(usrloc::codec(generation));
    while left > 0
        && let Some(aor) = aors.pop_front()
    {
        for row in usrloc.dump(BStr::new(&*aor), now_s) {
            left -= 1;
            if single {
                bodies.extend(row.body(generation, &aor).cloned());
                continue;
            }
            // What does not fit goes into the next one; what no body can say is left out.
            let element = row.element(generation, &aor);
            if element.is_none_or(|element| multi.push_element(element).is_err()) {
                flush(&mut multi, &mut bodies, generation);
                let _ = element.map(|element| multi.push_element(element));
            }
            if multi.count() >= timing.batch_contacts || multi.len_bytes() >= BATCH_BYTES {
                flush(&mut multi, &mut bodies, generation);
            }
        }
    }
    flush(&mut multi, &mut bodies, generation);
    bodies
}

fn flush(multi: &mut Multi, bodies: &mut Vec<Vec<u8>>, generation: crate::script::Generation) {
    let full = std::mem::replace(multi, Multi::new(usrloc::codec(generation)));
    bodies.extend(full.finish().ok());
}
