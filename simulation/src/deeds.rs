//! What load does, on its way to a node or a server and back: the ledger is kept here.
//!
//! Invariant: every deed that is begun ends, at the latest when whoever did it has lost patience; how it ends is the first
//! thing that it learns.

use node::{Command, Mono, NewContact};

use crate::coverage::Sometimes;
use crate::invariants::Moment;
use crate::kamailio::{Local, Value};
use crate::ledger::{DeedId, Ended, What};
use crate::load::{self, Ask, PhoneWords};
use crate::queue::Event;
use crate::script::{Entry, Host};
use crate::step::Arrival;
use crate::world::{Phase, World};

/// How long somebody waits for an answer, milliseconds.
const PATIENCE_MS: u64 = 2_000;

impl World {
    /// Sees to it that the load is asked in time.
    pub(crate) fn plan_load(&mut self) {
        let at = self.load.wakeup().max(self.now);
        if at.0 < u64::MAX && at < self.load_at {
            self.load_at = at;
            self.queue.post(at, Event::Load);
        }
    }

    /// Somebody of the load wants to act.
    pub(crate) fn load_due(&mut self) {
        if self.load_at != self.now {
            return;
        }
        self.load_at = Mono(u64::MAX);
        if self.phase != Phase::Going {
            return;
        }
        for ask in self.load.due(self.now, &mut self.ledger) {
            self.ask(&ask);
        }
        self.plan_load();
    }

    /// Somebody does something that is in the ledger.
    pub(crate) fn ask(&mut self, ask: &Ask) {
        let deed = ask.deed;
        if self.options.log {
            self.line(format!("deed {deed}"), format!("at {:?}: {:?}", ask.at, ask.what));
        }
        match ask.at {
            Entry::Node(ix) => {
                if let Some(at) = self.at(Host::Node(ix)) {
                    let command = self.command(ask).map(Box::new);
                    self.arrive(at, Arrival::Command { deed, command });
                }
            }
            Entry::Server(ix) => {
                if let Some(at) = self.at(Host::Server(ix))
                    && let Some(taken) = self.at_server(at, ask)
                {
                    self.ledger.taken(deed, self.now);
                    self.deed_ended(deed, if taken { Ended::Done } else { Ended::Refused });
                }
            }
        }
        if self.ledger.deed(deed).ended.is_none() {
            self.queue.post(self.now.plus_ms(PATIENCE_MS), Event::Patience(deed));
        }
    }

    /// Whoever did it has waited long enough.
    pub(crate) fn patience_ends(&mut self, deed: DeedId) {
        self.deed_ended(deed, Ended::Unknown);
    }

    /// Whoever did it learns how it ended, unless it has already.
    pub(crate) fn deed_ended(&mut self, deed: DeedId, how: Ended) {
        if self.ledger.deed(deed).ended.is_some() {
            return;
        }
        self.ledger.end(deed, how, self.now);
        match (how, &self.ledger.deed(deed).what) {
            (Ended::Unknown, _) => self.saw(Sometimes::DeedUnknown),
            (Ended::Refused, What::Call { .. } | What::CallVar { .. }) => self.saw(Sometimes::CallRefused),
            _ => {}
        }
        if self.options.log {
            self.line(format!("deed {deed}"), format!("{how:?}"));
        }
        self.load.ended(deed, self.ledger.deed(deed), how, self.now);
        self.plan_load();
        self.tell(Moment::Ended { deed });
    }

    fn counts(&self, table: &str) -> bool {
        self.script.htables.get(table).is_some_and(|spec| spec.counter)
    }

    /// A deed as a node's admin API takes it.
    fn command(&self, ask: &Ask) -> Option<Command> {
        Some(match &ask.what {
            What::Register { aor, uri, expires_s, .. } => {
                let (instance, reg_id) = ask.phone.as_ref().map_or(("", 0), |p| (p.instance.as_str(), p.reg_id));
                Command::LocationAdd(Box::new(NewContact {
                    aor: aor.as_str().into(),
                    contact: uri.as_str().into(),
                    expires_in: *expires_s,
                    instance: instance.into(),
                    reg_id,
                    ..NewContact::default()
                }))
            }
            What::Unregister { aor, uri, .. } => {
                Command::LocationRemove { aor: aor.as_str().into(), contact: Some(uri.as_str().into()) }
            }
            What::RemoveAll { aor, .. } => Command::LocationRemove { aor: aor.as_str().into(), contact: None },
            What::Set { table, key, value } => {
                let value = match self.integer(table, value) {
                    Some(int) => node::Value::Int(int),
                    None => node::Value::Str(value.as_str().into()),
                };
                Command::HtableSet { table: table.clone(), key: key.as_str().into(), value, expires_in: None }
            }
            What::Delete { table, key } => Command::HtableDelete { table: table.clone(), key: key.as_str().into() },
            What::Add { table, key, by } => {
                Command::HtableInc { table: table.clone(), key: key.as_str().into(), by: *by }
            }
            call => return load::command(call),
        })
    }

    /// The integer that a value of a counter table is.
    fn integer(&self, table: &str, value: &str) -> Option<i64> {
        if self.counts(table) { value.parse().ok() } else { None }
    }

    /// A deed at a server; `None` if nobody is there.
    fn at_server(&mut self, at: crate::queue::At, ask: &Ask) -> Option<bool> {
        let none = PhoneWords { callid: format!("d{}@sim", ask.deed), cseq: 1, instance: String::new(), reg_id: 0 };
        let words = ask.phone.as_ref().unwrap_or(&none);
        let local = match &ask.what {
            What::Register { aor, uri, expires_s, .. } => Local::Register {
                aor,
                uri,
                callid: &words.callid,
                cseq: words.cseq,
                expires_s: *expires_s,
                instance: &words.instance,
                reg_id: words.reg_id,
            },
            What::Unregister { aor, uri, .. } => Local::Unregister { aor, uri },
            What::RemoveAll { aor, .. } => Local::Star { aor },
            What::Set { table, key, value } => {
                let value = self.integer(table, value).map_or(Value::Str(value), Value::Int);
                Local::Set { table, key, value }
            }
            What::Delete { table, key } => Local::Delete { table, key },
            What::Add { table, key, by } => Local::Add { table, key, by: *by },
            // Dialogs live at nodes only.
            What::Call { .. } | What::CallVar { .. } | What::CallProfile { .. } | What::Bye { .. } => {
                return Some(false);
            }
        };
        self.server_local(at, &local)
    }
}
