//! What phones and a server's own configuration script do at a server.

use node::Now;

use super::usrloc::{Registered, Words};
use super::{HTABLE, Kamailio, USRLOC, seconds};

/// What a phone or the server's own script does at a server. All are carried out at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Local<'a> {
    /// REGISTER, answered 200.
    Register {
        /// Address of record.
        aor: &'a str,
        /// Contact URI.
        uri: &'a str,
        /// Call-ID of the request.
        callid: &'a str,
        /// CSeq number.
        cseq: u32,
        /// Seconds.
        expires_s: u32,
        /// `+sip.instance` with angle brackets, or empty.
        instance: &'a str,
        /// `reg-id`, 0 if none.
        reg_id: u32,
    },
    /// REGISTER with `Expires: 0`.
    Unregister {
        /// Address of record.
        aor: &'a str,
        /// Contact URI.
        uri: &'a str,
    },
    /// `Contact: *`.
    Star {
        /// Address of record.
        aor: &'a str,
    },
    /// `$sht(table=>key) = value`.
    Set {
        /// Table.
        table: &'a str,
        /// Key.
        key: &'a str,
        /// Value.
        value: Value<'a>,
    },
    /// `$shtinc(table=>key)`, `by` times; `$shtdec` where it is negative.
    Add {
        /// Table.
        table: &'a str,
        /// Key.
        key: &'a str,
        /// How often.
        by: i64,
    },
    /// `$sht(table=>key) = $null`.
    Delete {
        /// Table.
        table: &'a str,
        /// Key.
        key: &'a str,
    },
}

/// A table value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// An integer.
    Int(i64),
    /// A string.
    Str(&'a str),
}

impl Kamailio {
    /// A phone or its script does something. Returns whether it was taken (a full server refuses).
    pub fn local(&mut self, what: &Local<'_>, now: Now) -> bool {
        if self.fallen.is_some() || self.hostile.is_some() {
            return false;
        }
        let (now_s, now_ms) = (seconds(now), now.wall.0);
        match *what {
            Local::Register { aor, uri, callid, cseq, expires_s, instance, reg_id } => {
                let words = Words { uri, callid, cseq, expires_s, instance, reg_id };
                match self.usrloc.register(aor, &words, self.has_room(1, now.mono), now_s) {
                    Registered::Told(body) => self.tell(USRLOC, body, now),
                    Registered::Again => {}
                    Registered::Refused => return false,
                }
            }
            Local::Unregister { aor, uri } => {
                let body = self.usrloc.unregister(aor, uri);
                self.tell(USRLOC, body, now);
            }
            Local::Star { aor } => {
                let bodies = self.usrloc.star(aor);
                self.tell(USRLOC, bodies, now);
            }
            Local::Set { table, key, ref value } => {
                let value = match *value {
                    Value::Int(number) => tables::htable::Value::Int(number),
                    Value::Str(text) => tables::htable::Value::str(text).into_owned(),
                };
                let body = self.htables.set(table, key, value, now_ms);
                return self.tell_if_any(body, now);
            }
            Local::Add { table, key, by } => {
                let step = by.signum() as i32;
                for _ in 0..by.unsigned_abs() {
                    let body = self.htables.add(table, key, step, now_ms);
                    if !self.tell_if_any(body, now) {
                        return false;
                    }
                }
            }
            Local::Delete { table, key } => {
                let body = self.htables.delete(table, key);
                return self.tell_if_any(body, now);
            }
        }
        true
    }

    fn tell_if_any(&mut self, body: Option<Vec<u8>>, now: Now) -> bool {
        let taken = body.is_some();
        self.tell(HTABLE, body, now);
        taken
    }
}
