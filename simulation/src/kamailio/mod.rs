//! Simulated Kamailio servers, of 5.6 and of 6.x behaviour, as observed (docs/kdmq.md). No sockets and no clock.
//!
//! What they do not do: everything that has no part in replication. They speak the same bytes as real ones.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bstr::BStr;
use node::Now;
use tables::location::Contact;

use crate::script::{Generation, ServerSpec, TableSpec};

/// One life of a server process.
pub struct Kamailio {}

/// What a server wants sent: a datagram of SIP.
pub struct Send {
    /// Where to.
    pub to: SocketAddr,
    /// The message.
    pub bytes: Vec<u8>,
}

/// What a phone or the server's own script does at a server. All are carried out at once.
pub enum Local<'a> {
    /// REGISTER, answered 200.
    Register { aor: &'a str, uri: &'a str, callid: &'a str, cseq: u32, expires_s: u32, instance: &'a str, reg_id: u32 },
    /// REGISTER with `Expires: 0`.
    Unregister { aor: &'a str, uri: &'a str },
    /// `Contact: *`.
    Star { aor: &'a str },
    /// `$sht(table=>key) = value`.
    Set { table: &'a str, key: &'a str, value: Value<'a> },
    /// `$shtinc(table=>key)`, `by` times.
    Add { table: &'a str, key: &'a str, by: i64 },
    /// `$sht(table=>key) = $null`.
    Delete { table: &'a str, key: &'a str },
}

/// A table value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// An integer.
    Int(i64),
    /// A string.
    Str(&'a str),
}

/// A contact that a server holds.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    /// Address of record.
    pub aor: &'a BStr,
    /// The contact, under the ruid that this server knows it by; `uri` and `expires` (unix seconds, 0 = permanent) are
    /// in it.
    pub contact: &'a Contact<'static>,
}

/// A table entry that a server holds.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Table name.
    pub table: &'a str,
    /// Key.
    pub key: &'a BStr,
    /// Value.
    pub value: &'a tables::htable::Value<'static>,
    /// When it expires, unix seconds; 0 = never.
    pub expires: u64,
}

impl Kamailio {
    /// Starts a server: `addr` is its SIP address, `peers` the DMQ addresses in its configuration, `tables` the hash
    /// tables in it, `life` counts its starts.
    pub fn start(
        _spec: &ServerSpec,
        _addr: SocketAddr,
        _peers: &[SocketAddr],
        _tables: &BTreeMap<String, TableSpec>,
        _life: u32,
        _seed: u64,
        _now: Now,
    ) -> Self {
        Self {}
    }

    /// Why its process ended or hangs for ever, if it does: a message that a real server does not survive, or full
    /// memory. It then does nothing until somebody starts it anew.
    pub fn fallen(&self) -> Option<&str> {
        None
    }

    /// Its SIP address.
    pub fn addr(&self) -> SocketAddr {
        unimplemented!()
    }

    /// What it behaves like.
    pub fn generation(&self) -> Generation {
        unimplemented!()
    }

    /// The contacts that it would use now, by address of record.
    pub fn contacts(&self, _now: Now) -> impl Iterator<Item = Held<'_>> {
        std::iter::empty()
    }

    /// The contacts of one address of record that it would use now.
    pub fn lookup(&self, _aor: &str, _now: Now) -> impl Iterator<Item = Held<'_>> {
        std::iter::empty()
    }

    /// The table entries that it would show now, by table and key.
    pub fn entries(&self, _now: Now) -> impl Iterator<Item = Entry<'_>> {
        std::iter::empty()
    }

    /// One entry, if it would show it now.
    pub fn entry(&self, _table: &str, _key: &str, _now: Now) -> Option<Entry<'_>> {
        None
    }

    /// A datagram arrived.
    pub fn receive(&mut self, _from: SocketAddr, _bytes: &[u8], _now: Now) {}

    /// Time passed; call no later than [`Kamailio::wakeup`] says.
    pub fn tick(&mut self, _now: Now) {}

    /// When it wants to be called again, if nothing comes before.
    pub fn wakeup(&self) -> node::Mono {
        node::Mono(u64::MAX)
    }

    /// A phone or its script does something. Returns whether it was taken (a full server refuses).
    pub fn local(&mut self, _what: &Local<'_>, _now: Now) -> bool {
        true
    }

    /// The next datagram to send.
    pub fn poll(&mut self) -> Option<Send> {
        None
    }
}
