//! A call: INVITE, ringing, answer, a refresh, variables and a profile meanwhile, BYE, all said by the proxies of its two sides, each
//! at its own node.
//!
//! Nobody knows what the other side has said: a BYE may come twice, and something may be said after it. What a call will do
//! is drawn when it is made, so that it does not depend on what it is answered.

use std::collections::VecDeque;

use node::{Command, DialogId, DialogState, DialogUpdate, Mono};

use super::Wish;
use crate::ledger::{Ended, What};
use crate::rng::{Rng, Stream};
use crate::script::{Bye, CallSpec, Entry, NodeIx};

/// How long an answer is waited for.
const PATIENCE_MS: u64 = 6_000;
/// How long after its BYE the last thing is said of a call.
const LATE_MS: (u64, u64) = (500, 20_000);
/// The names of variables.
const VARS: [&str; 3] = ["account", "hold", "codec"];
/// The profile that calls count in.
const PROFILE: &str = "active";

/// What names the dialog of a call.
pub fn dialog_id(call: u32) -> DialogId {
    DialogId { callid: format!("c{call}@sim.example").into(), from_tag: format!("t{call}").into() }
}

/// The key of that dialog.
pub fn dialog_key(call: u32) -> String {
    let DialogId { callid, from_tag } = dialog_id(call);
    format!("{callid};{from_tag}")
}

/// What somebody says of a call, as a node's admin API takes it; `None` if it is about something else.
pub(crate) fn command(what: &What) -> Option<Command> {
    Some(match what {
        What::Call { call, state, lifetime_s } => {
            let uri = |side: &str| format!("sip:{side}{call}@sim.example").into();
            Command::DialogSet(Box::new(DialogUpdate {
                id: dialog_id(*call),
                state: DialogState::from_number(*state)?,
                to_tag: if *state == 1 { "".into() } else { format!("u{call}").into() },
                from_uri: uri("a"),
                to_uri: uri("b"),
                lifetime_s: *lifetime_s,
                start: None,
            }))
        }
        What::CallVar { call, name, value } => {
            let value = Some(value.as_str().into());
            Command::DialogVar { id: dialog_id(*call), name: name.as_str().into(), value }
        }
        What::CallProfile { call, name } => {
            let name = name.as_str().into();
            Command::DialogProfile { id: dialog_id(*call), name, value: None, counts: true }
        }
        What::Bye { call } => Command::DialogEnd(dialog_id(*call)),
        _ => return None,
    })
}

/// A call.
pub(super) struct Call {
    /// What will be said of it, in order.
    steps: VecDeque<Step>,
    made: bool,
}

struct Step {
    at_ms: u64,
    node: NodeIx,
    what: What,
}

impl Call {
    pub(super) fn new(spec: &CallSpec, seed: u64) -> Self {
        let mut rng = Rng::stream(seed, Stream::Call, u64::from(spec.id));
        let call = spec.id;
        let (answer_ms, bye_ms) = (spec.start_ms + spec.answer_ms, spec.talk_ms.map(|talk| spec.talk_end_ms(talk)));
        let mut steps = Vec::new();
        let mut say = |at_ms, node, what| steps.push(Step { at_ms, node, what });
        let state = |state, lifetime_s| What::Call { call, state, lifetime_s };
        say(spec.start_ms, spec.caller, state(1, Some(spec.lifetime_s)));
        say(spec.start_ms + spec.answer_ms / 2, spec.side(&mut rng), state(2, None));
        say(answer_ms, spec.side(&mut rng), state(4, None));
        let talks_ms = spec.talk_ms.unwrap_or(u64::from(spec.lifetime_s) * 500).max(1);
        if spec.refreshed {
            say(answer_ms + talks_ms / 2, spec.side(&mut rng), state(4, Some(spec.lifetime_s)));
        }
        for n in 0..spec.vars {
            let (at_ms, node) = (answer_ms + rng.below(talks_ms), spec.side(&mut rng));
            let name = VARS[rng.below(VARS.len() as u64) as usize].to_owned();
            say(at_ms, node, What::CallVar { call, name, value: format!("c{call}-{n}") });
        }
        let profile_ms = answer_ms + rng.below(talks_ms.min(1_000));
        if spec.profile {
            say(profile_ms, spec.side(&mut rng), What::CallProfile { call, name: PROFILE.to_owned() });
        }
        let late_ms = rng.between(LATE_MS.0, LATE_MS.1);
        if let Some(bye_ms) = bye_ms {
            let (first, other) = match spec.bye {
                Bye::Caller | Bye::Twice => (spec.caller, spec.callee),
                Bye::Callee => (spec.callee, spec.caller),
            };
            say(bye_ms, first, What::Bye { call });
            if spec.bye == Bye::Twice {
                say(bye_ms + rng.below(2_000), other, What::Bye { call });
            }
            if spec.late {
                let set = What::CallVar { call, name: VARS[0].to_owned(), value: format!("c{call}-late") };
                let what = if rng.permille(500) { set } else { state(4, None) };
                say(bye_ms + late_ms, other, what);
            }
        }
        steps.sort_by_key(|step| step.at_ms);
        Self { steps: steps.into(), made: false }
    }

    pub(super) fn act(&mut self) -> Result<Wish, Option<Mono>> {
        let Step { node, what, .. } = self.steps.pop_front().ok_or(None)?;
        Ok(Wish { at: Entry::Node(node), what, words: None, patience_ms: PATIENCE_MS })
    }

    /// When something is said next, if ever. Whose INVITE was not answered gives up.
    pub(super) fn ended(&mut self, how: Ended, now: Mono) -> Option<Mono> {
        if !std::mem::replace(&mut self.made, true) && how != Ended::Done {
            self.steps.clear();
        }
        self.steps.front().map(|step| Mono(0).plus_ms(step.at_ms).max(now))
    }
}

impl CallSpec {
    /// The node of either side.
    fn side(&self, rng: &mut Rng) -> NodeIx {
        if rng.permille(500) { self.caller } else { self.callee }
    }

    fn talk_end_ms(&self, talk_ms: u64) -> u64 {
        self.start_ms + self.answer_ms + talk_ms
    }
}
