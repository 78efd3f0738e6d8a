//! Registrations: key = address of record (AoR), one member per device.
//!
//! # Members
//!
//! | first bytes | member of | body |
//! |---|---|---|
//! | `i:` | a device with `+sip.instance`: instance, `#`, reg-id | [`Contact`] |
//! | `u:` | a device without: its normalised contact URI | [`Contact`] |
//! | `r:` | a `ruid` that some server gave the contact | the member of the contact it names |
//!
//! The identity is the device's, not the server's: after a split every server has minted a `ruid`
//! of its own for the same device. Those aliases are cells of their own, because inside a body of
//! which only the last version survives, the loser's `ruid` would vanish, and with it the only name
//! under which that server can be told to remove the contact.
//!
//! # Body
//!
//! A format byte, a bit mask of the fields that differ from their default, then those fields in a
//! fixed order. What the member says already (the URI, the instance) is not said again.

mod body;
mod identity;

use std::borrow::Cow;

use bstr::BStr;

pub use identity::{Member, alias_member, identity, parse_member};

/// The table's name; the name of the usrloc domain that it holds.
pub const TABLE: &str = "location";

/// Longest address of record in bytes: the longest cell key.
pub const MAX_AOR: usize = crdt::cell::KEY_MAX;

/// Longest `ruid` in bytes; with its `r:` it fits a cell member.
pub const MAX_RUID: usize = 512;

/// Longest contact URI in bytes; it must fit a cell member.
pub const MAX_URI: usize = 1000;

/// Longest `+sip.instance` in bytes; with a reg-id it must fit a cell member.
pub const MAX_INSTANCE: usize = 1000;

/// Longest of any other text field in bytes.
pub const MAX_TEXT: usize = 4096;

/// Longest `xavps` and longest unknown-field text in bytes.
pub const MAX_JSON: usize = 8192;

/// A contact with every text at its longest, and its numbers, fits a cell body.
const _: () = assert!(MAX_RUID + MAX_URI + MAX_INSTANCE + 6 * MAX_TEXT + 2 * MAX_JSON + 256 <= crdt::cell::BODY_MAX);

/// The `methods` mask of a contact whose REGISTER had no Allow header.
pub const ALL_METHODS: u32 = u32::MAX;

/// A `q` that was not given.
pub const NO_Q: i32 = -1;

/// The user agent that Kamailio notes when the REGISTER named none.
pub const NO_USER_AGENT: &str = "n/a";

/// One binding of an AoR, with every attribute that Kamailio's `usrloc` replicates.
///
/// All text is bytes as the device sent them. `Default` is a contact about which nothing is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact<'a> {
    /// Contact URI, without angle brackets and header parameters.
    pub uri: Cow<'a, BStr>,
    /// Source address as a URI, where NAT traversal noted one; else empty.
    pub received: Cow<'a, BStr>,
    /// Path header values (RFC 3327), comma separated, in order; else empty.
    pub path: Cow<'a, BStr>,
    /// Call-ID of the REGISTER.
    pub callid: Cow<'a, BStr>,
    /// User-Agent of the REGISTER; `n/a` if it had none.
    pub user_agent: Cow<'a, BStr>,
    /// `+sip.instance` with its angle brackets (RFC 5626), or empty.
    pub instance: Cow<'a, BStr>,
    /// The name that one server gave this record. Not part of the identity.
    pub ruid: Cow<'a, BStr>,
    /// Local socket that the REGISTER came in on, `proto:ip:port`; empty unless servers replicate it.
    pub sock: Cow<'a, BStr>,
    /// Name of that socket (6.x); empty unless servers replicate it.
    pub sockname: Cow<'a, BStr>,
    /// q-value times 1,000 (0..=1000), or [`NO_Q`].
    pub q: i32,
    /// CSeq number of the REGISTER.
    pub cseq: u32,
    /// When the binding ends, unix seconds; 0 = permanent.
    pub expires: u64,
    /// When a server last changed it, unix seconds by that server's clock; 0 = unknown.
    pub last_modified: u64,
    /// Allowed methods as Kamailio's bit mask; [`ALL_METHODS`] if not told.
    pub methods: u32,
    /// usrloc flags.
    pub flags: u32,
    /// Branch flags.
    pub cflags: u32,
    /// Outbound `reg-id` (RFC 5626), 0 if none.
    pub reg_id: u32,
    /// `server_id` of the server that took the REGISTER.
    pub server_id: u32,
    /// Extended attributes (6.x): a JSON object; `None` if there are none.
    pub xavps: Option<Cow<'a, BStr>>,
    /// Fields that this version does not know, as JSON members separated by commas, in the order in
    /// which they came; given back to servers of the newer generation.
    pub unknown: Option<Cow<'a, BStr>>,
}

impl Default for Contact<'_> {
    fn default() -> Self {
        let empty = Cow::Borrowed(BStr::new(b""));
        Self {
            uri: empty.clone(),
            received: empty.clone(),
            path: empty.clone(),
            callid: empty.clone(),
            user_agent: Cow::Borrowed(BStr::new(NO_USER_AGENT)),
            instance: empty.clone(),
            ruid: empty.clone(),
            sock: empty.clone(),
            sockname: empty,
            q: NO_Q,
            cseq: 0,
            expires: 0,
            last_modified: 0,
            methods: ALL_METHODS,
            flags: 0,
            cflags: 0,
            reg_id: 0,
            server_id: 0,
            xavps: None,
            unknown: None,
        }
    }
}

impl Contact<'_> {
    /// The cell member that this contact belongs to: see [`identity()`].
    pub fn member(&self) -> Vec<u8> {
        identity(&self.uri, &self.instance, self.reg_id)
    }

    /// The same contact, owning its text.
    pub fn into_owned(self) -> Contact<'static> {
        fn own(text: Cow<'_, BStr>) -> Cow<'static, BStr> {
            Cow::Owned(text.into_owned())
        }
        Contact {
            uri: own(self.uri),
            received: own(self.received),
            path: own(self.path),
            callid: own(self.callid),
            user_agent: own(self.user_agent),
            instance: own(self.instance),
            ruid: own(self.ruid),
            sock: own(self.sock),
            sockname: own(self.sockname),
            q: self.q,
            cseq: self.cseq,
            expires: self.expires,
            last_modified: self.last_modified,
            methods: self.methods,
            flags: self.flags,
            cflags: self.cflags,
            reg_id: self.reg_id,
            server_id: self.server_id,
            xavps: self.xavps.map(own),
            unknown: self.unknown.map(own),
        }
    }
}

/// The deadline of a cell for a contact that ends at `expires`, unix seconds.
///
/// A permanent contact (`expires` 0), or one beyond what the table allows, is held as a lease of
/// `max_ttl` seconds from `now_s`, which the node it came from renews; so every cell of the table
/// has a deadline within `max_ttl`, which is what forgetting by time rests on.
pub fn deadline(expires: u64, now_s: u64, max_ttl: u32) -> u64 {
    let longest = now_s.saturating_add(u64::from(max_ttl));
    match expires {
        0 => longest,
        _ => expires.min(longest),
    }
}

/// How the event behind one version of a contact stands to that behind another, by SIP's own order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The very same event; not a write.
    Same,
    /// SIP calls the new one older: same Call-ID, lower CSeq. Not a write.
    Stale,
    /// SIP calls the new one newer: same Call-ID, higher CSeq. It must outrank the held one.
    Newer,
    /// SIP does not say; the stamps decide.
    Unordered,
}

/// Compares `new` with the `held` version of the same contact (RFC 3261 section 10.3 step 7).
///
/// Within one Call-ID the CSeq decides. Equal CSeqs are the same event only if `expires` and
/// `last_modified` are equal as well: a server may change a contact without a REGISTER. One that was
/// told without a `last_modified` has none. Different
/// Call-IDs are not ordered by SIP: a device that restarted begins a new one.
pub fn compare_events(held: &Contact<'_>, new: &Contact<'_>) -> Event {
    use std::cmp::Ordering::{Equal, Greater, Less};
    if held.callid != new.callid || held.callid.is_empty() {
        return Event::Unordered;
    }
    match new.cseq.cmp(&held.cseq) {
        Less => Event::Stale,
        Greater => Event::Newer,
        Equal if held.expires == new.expires && [0, held.last_modified].contains(&new.last_modified) => Event::Same,
        Equal => Event::Unordered,
    }
}

#[cfg(test)]
mod tests;
