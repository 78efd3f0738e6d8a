//! What servers and nodes hold, in one form, so that it can be held against each other.

use std::collections::BTreeMap;

use anyhow::{bail, ensure};

/// A contact as a server or a node shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Contact {
    /// Contact URI.
    pub contact: String,
    /// Source URI, empty if none.
    pub received: String,
    /// Path, empty if none.
    pub path: String,
    /// q times 1,000, -1 if none.
    pub q: i32,
    /// User agent.
    pub user_agent: String,
    /// `+sip.instance` with angle brackets, empty if none.
    pub instance: String,
    /// Outbound reg-id, 0 if none.
    pub reg_id: u32,
    /// Bit mask of methods; all ones without Allow.
    pub methods: u32,
    /// Call-ID.
    pub callid: String,
    /// CSeq.
    pub cseq: u32,
    /// Unix seconds, 0 = permanent.
    pub expires: u64,
    /// The ruids under which it is known there.
    pub ruids: Vec<String>,
}

impl Contact {
    /// Everything that must be the same everywhere: all but the ruids, which are each server's own, and the
    /// expiry, which [`same_contacts`] compares within two seconds.
    fn essence(&self) -> Self {
        Self { ruids: Vec::new(), expires: 0, ..self.clone() }
    }
}

/// Contacts by AoR.
pub type Contacts = BTreeMap<String, Vec<Contact>>;

/// A value of a hash table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// An integer.
    Int(i64),
    /// A string.
    Str(String),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Str(text.to_owned())
    }
}

impl From<i64> for Value {
    fn from(n: i64) -> Self {
        Self::Int(n)
    }
}

/// Entries of a hash table by key.
pub type Entries = BTreeMap<String, Value>;

/// Fails unless both hold the same contacts: AoRs, number, every attribute, expiry within two seconds.
///
/// # Errors
/// With the first difference and their number.
pub fn same_contacts(left_name: &str, left: &Contacts, right_name: &str, right: &Contacts) -> anyhow::Result<()> {
    let mut differences = Vec::new();
    for aor in left.keys().chain(right.keys().filter(|aor| !left.contains_key(*aor))) {
        let none = Vec::new();
        let (l, r) = (left.get(aor).unwrap_or(&none), right.get(aor).unwrap_or(&none));
        if let Err(why) = same_list(l, r) {
            differences.push(format!("{aor}: {why}"));
        }
    }
    if let Some(first) = differences.first() {
        bail!("{left_name} and {right_name} differ in {} AoRs; {first}", differences.len());
    }
    Ok(())
}

fn same_list(left: &[Contact], right: &[Contact]) -> anyhow::Result<()> {
    let sorted = |list: &[Contact]| {
        let mut list = list.to_vec();
        list.sort_by_key(Contact::essence);
        list
    };
    let (left, right) = (sorted(left), sorted(right));
    let uris = |list: &[Contact]| list.iter().map(|c| c.contact.clone()).collect::<Vec<_>>();
    ensure!(left.len() == right.len(), "{:?} against {:?}", uris(&left), uris(&right));
    for (l, r) in left.iter().zip(&right) {
        ensure!(l.essence() == r.essence(), "{l:?} against {r:?}");
        ensure!(l.expires.abs_diff(r.expires) <= 2, "{} expires {} against {}", l.contact, l.expires, r.expires);
    }
    Ok(())
}

/// Fails unless both hold the same entries.
///
/// # Errors
/// With the first differences and their number.
pub fn same_entries(left_name: &str, left: &Entries, right_name: &str, right: &Entries) -> anyhow::Result<()> {
    let different: Vec<_> = left
        .keys()
        .chain(right.keys().filter(|key| !left.contains_key(*key)))
        .filter(|key| left.get(*key) != right.get(*key))
        .collect();
    if let Some(key) = different.first() {
        let (l, r) = (left.get(*key), right.get(*key));
        bail!("{left_name} and {right_name} differ in {} keys; {key}: {l:?} against {r:?}", different.len());
    }
    Ok(())
}

/// Now, in unix seconds.
///
/// # Panics
/// Before 1970.
#[must_use]
pub fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
}
