//! Dialogs: key = the call, from its INVITE to its BYE; one member for the dialog, one for each variable and profile.
//!
//! # Key
//!
//! `CALLID;FROMTAG`. RFC 3261 section 12 names a dialog by its Call-ID and two tags. The callee's tag is not known before
//! its first response, and an INVITE that forked has one for each branch; what is replicated is the call, which Kamailio
//! too finds by Call-ID and the caller's tag. So the callee's tag is a field of the body. Neither part may hold a `;`
//! (section 25.1).
//!
//! # Members
//!
//! | member | is | body |
//! |---|---|---|
//! | empty | the dialog | [`Dialog`] |
//! | `var/NAME` | a variable | its text |
//! | `profile/NAME` | that the dialog counts in a profile | a value, or none |
//!
//! # Ranks
//!
//! The dialog's rank is its state, so that of two versions the one that got further wins, whatever the clocks say: a state
//! never goes back. It ends with a tombstone of the last state's rank. Variables and profiles have rank 0, the dialog's
//! birth and a deadline of its birth plus the longest life; they are shown only while the dialog is live, and whoever ends
//! it removes those that it sees (docs/rules.md 16).

use std::borrow::Cow;

use bstr::BStr;
use crdt::Rank;
use thiserror::Error;

use crate::codec::{Fields, RowError, put_text, put_uint};

/// The table's name.
pub const TABLE: &str = "dialog";

/// Longest Call-ID in bytes.
pub const MAX_CALLID: usize = 512;

/// Longest tag in bytes; with a Call-ID and a `;` it fits a cell key.
pub const MAX_TAG: usize = 256;

/// Longest From or To URI in bytes.
pub const MAX_URI: usize = 1024;

/// Longest name of a variable or profile in bytes.
pub const MAX_NAME: usize = 128;

/// Longest value of a variable or profile in bytes.
pub const MAX_VALUE: usize = 4096;

const _: () = assert!(MAX_CALLID + 1 + MAX_TAG <= crdt::cell::KEY_MAX);
const _: () = assert!("profile/".len() + MAX_NAME <= crdt::cell::MEMBER_MAX);
const _: () = assert!(MAX_TAG + 2 * MAX_URI + MAX_VALUE + 64 <= crdt::cell::BODY_MAX);

/// Between Call-ID and tag.
const SEPARATOR: u8 = b';';

const VAR: &[u8] = b"var/";
const PROFILE: &[u8] = b"profile/";

/// The format written and read by this version.
const FORMAT: u8 = 1;

/// A field that cannot be part of a dialog. Whoever gave it is at fault; nothing was written.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum FieldError {
    /// It must not be empty.
    #[error("a dialog needs a {field}")]
    Empty {
        /// Which.
        field: &'static str,
    },
    /// It exceeds its limit.
    #[error("a dialog's {field} has {len} bytes, the limit is {max}")]
    TooLong {
        /// Which.
        field: &'static str,
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// It holds a byte that it must not: a control character, or in a name of the dialog also a blank or a `;`.
    #[error("a dialog's {field} holds byte {byte:#04x}, which it must not")]
    Byte {
        /// Which.
        field: &'static str,
        /// The first such byte.
        byte: u8,
    },
}

/// How far a dialog has got, numbered as in Kamailio's `dialog` module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum State {
    /// The INVITE was sent on; no response yet.
    Unconfirmed = 1,
    /// A provisional response with a tag has come.
    Early = 2,
    /// The 200 has come, its ACK has not.
    ConfirmedNoAck = 3,
    /// The ACK has come.
    Confirmed = 4,
    /// It is over: a BYE, a final failure, or nobody cared for it any more.
    Deleted = 5,
}

impl State {
    /// All of them, in the order in which a dialog may go through them.
    pub const ALL: [Self; 5] = [Self::Unconfirmed, Self::Early, Self::ConfirmedNoAck, Self::Confirmed, Self::Deleted];

    /// The state with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.number() == number)
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The rank of versions in this state.
    pub const fn rank(self) -> Rank {
        self.number() as Rank
    }

    /// Its name, for people.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unconfirmed => "unconfirmed",
            Self::Early => "early",
            Self::ConfirmedNoAck => "unacknowledged",
            Self::Confirmed => "confirmed",
            Self::Deleted => "deleted",
        }
    }
}

/// A dialog, beside what its key, birth and deadline say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialog<'a> {
    /// How far it has got. The version's rank says the same.
    pub state: State,
    /// The callee's tag; empty while none is known.
    pub to_tag: Cow<'a, BStr>,
    /// From URI of the INVITE.
    pub from_uri: Cow<'a, BStr>,
    /// To URI of the INVITE.
    pub to_uri: Cow<'a, BStr>,
    /// When it was answered, unix seconds; 0 = not yet.
    pub answered: u64,
}

impl<'a> Dialog<'a> {
    /// The body of its cell: format, state, then the fields in their order.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = vec![FORMAT, self.state.number()];
        for text in [&self.to_tag, &self.from_uri, &self.to_uri] {
            put_text(&mut body, text);
        }
        put_uint(&mut body, self.answered);
        body
    }

    /// Reads a body, borrowing its text.
    ///
    /// # Errors
    /// [`RowError`] if this is not what [`Dialog::encode`] writes.
    pub fn decode(body: &'a [u8]) -> Result<Self, RowError> {
        let mut fields = formatted(body)?;
        let state = State::from_number(fields.byte("state")?).ok_or(RowError::OutOfRange { field: "state" })?;
        let dialog = Self {
            state,
            to_tag: Cow::Borrowed(fields.text("to_tag")?),
            from_uri: Cow::Borrowed(fields.text("from_uri")?),
            to_uri: Cow::Borrowed(fields.text("to_uri")?),
            answered: fields.uint("answered")?,
        };
        fields.end()?;
        Ok(dialog)
    }

    /// The same dialog, owning its text.
    pub fn into_owned(self) -> Dialog<'static> {
        let own = |text: Cow<'_, BStr>| Cow::Owned(text.into_owned());
        let Dialog { state, to_tag, from_uri, to_uri, answered } = self;
        Dialog { state, to_tag: own(to_tag), from_uri: own(from_uri), to_uri: own(to_uri), answered }
    }
}

/// What a member of a dialog's key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member<'a> {
    /// The dialog itself.
    Dialog,
    /// A variable of this name.
    Var(&'a BStr),
    /// A profile of this name.
    Profile(&'a BStr),
    /// Written by a version that this one does not know.
    Unknown,
}

/// What a member is.
pub fn parse_member(member: &[u8]) -> Member<'_> {
    if member.is_empty() {
        Member::Dialog
    } else if let Some(name) = member.strip_prefix(VAR) {
        Member::Var(BStr::new(name))
    } else if let Some(name) = member.strip_prefix(PROFILE) {
        Member::Profile(BStr::new(name))
    } else {
        Member::Unknown
    }
}

/// The key of a dialog.
///
/// # Errors
/// A part is empty, too long, or holds a byte that it must not.
pub fn key(callid: &[u8], from_tag: &[u8]) -> Result<Vec<u8>, FieldError> {
    check_word("Call-ID", callid, MAX_CALLID)?;
    check_word("From tag", from_tag, MAX_TAG)?;
    Ok([callid, &[SEPARATOR], from_tag].concat())
}

/// Call-ID and caller's tag of a key; `None` if it is no dialog's.
pub fn parse_key(key: &[u8]) -> Option<(&BStr, &BStr)> {
    let at = key.iter().position(|&byte| byte == SEPARATOR)?;
    let (callid, tag) = (&key[..at], &key[at + 1..]);
    let good = check_word("Call-ID", callid, MAX_CALLID).and(check_word("From tag", tag, MAX_TAG)).is_ok();
    good.then_some((BStr::new(callid), BStr::new(tag)))
}

/// The member of a variable.
///
/// # Errors
/// The name is empty, too long, or holds a control character.
pub fn var_member(name: &[u8]) -> Result<Vec<u8>, FieldError> {
    check_text("variable's name", name, 1..=MAX_NAME)?;
    Ok([VAR, name].concat())
}

/// The member of a profile.
///
/// # Errors
/// The name is empty, too long, or holds a control character.
pub fn profile_member(name: &[u8]) -> Result<Vec<u8>, FieldError> {
    check_text("profile's name", name, 1..=MAX_NAME)?;
    Ok([PROFILE, name].concat())
}

/// The body of a variable or profile. A variable always has a value.
///
/// # Errors
/// The value is too long, or holds a control character.
pub fn encode_value(value: Option<&[u8]>) -> Result<Vec<u8>, FieldError> {
    let mut body = vec![FORMAT, u8::from(value.is_some())];
    if let Some(value) = value {
        check_text("value", value, 0..=MAX_VALUE)?;
        body.extend_from_slice(value);
    }
    Ok(body)
}

/// Reads what [`encode_value`] wrote.
///
/// # Errors
/// [`RowError`] if it did not write this.
pub fn decode_value(body: &[u8]) -> Result<Option<&BStr>, RowError> {
    let mut fields = formatted(body)?;
    match fields.byte("value")? {
        0 => fields.end().map(|()| None),
        1 => Ok(Some(BStr::new(fields.0))),
        _ => Err(RowError::OutOfRange { field: "value" }),
    }
}

/// Whether a URI can be one of a dialog's two.
///
/// # Errors
/// It is empty, too long, or holds a control character.
pub fn check_uri(field: &'static str, uri: &[u8]) -> Result<(), FieldError> {
    check_text(field, uri, 1..=MAX_URI)
}

/// Whether a tag can be the callee's; an empty one is none.
///
/// # Errors
/// It is too long, or holds a byte that it must not.
pub fn check_to_tag(tag: &[u8]) -> Result<(), FieldError> {
    if tag.is_empty() { Ok(()) } else { check_word("To tag", tag, MAX_TAG) }
}

/// A Call-ID or tag: the grammar of RFC 3261 is narrower; what servers take in is not.
fn check_word(field: &'static str, word: &[u8], max: usize) -> Result<(), FieldError> {
    check_text(field, word, 1..=max)?;
    match word.iter().find(|&&byte| matches!(byte, b' ' | b';')) {
        Some(&byte) => Err(FieldError::Byte { field, byte }),
        None => Ok(()),
    }
}

fn check_text(field: &'static str, text: &[u8], lengths: std::ops::RangeInclusive<usize>) -> Result<(), FieldError> {
    if text.len() > *lengths.end() {
        return Err(FieldError::TooLong { field, len: text.len(), max: *lengths.end() });
    }
    if text.len() < *lengths.start() {
        return Err(FieldError::Empty { field });
    }
    match text.iter().find(|byte| byte.is_ascii_control()) {
        Some(&byte) => Err(FieldError::Byte { field, byte }),
        None => Ok(()),
    }
}

fn formatted(body: &[u8]) -> Result<Fields<'_>, RowError> {
    let mut fields = Fields(body);
    match fields.byte("format")? {
        FORMAT => Ok(fields),
        format => Err(RowError::UnknownFormat { format, known: FORMAT }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_is_taken_apart_into_what_it_was_made_of() {
        let key = key(b"a84b4c76e66710@pc33.example", b"1928301774").unwrap();
        assert_eq!(key, b"a84b4c76e66710@pc33.example;1928301774");
        assert_eq!(parse_key(&key), Some((BStr::new("a84b4c76e66710@pc33.example"), BStr::new("1928301774"))));
        for other in [&b""[..], b"a", b"a;", b";t", b"a;t;x", b"a b;t"] {
            assert_eq!(parse_key(other), None, "{}", other.escape_ascii());
        }
    }

    #[test]
    fn names_that_no_dialog_can_have_are_refused_and_say_why() {
        let field = "Call-ID";
        assert_eq!(key(b"", b"t"), Err(FieldError::Empty { field }));
        assert_eq!(key(b"a;b", b"t"), Err(FieldError::Byte { field, byte: b';' }));
        assert_eq!(key(b"a\0", b"t"), Err(FieldError::Byte { field, byte: 0 }));
        assert_eq!(key(b"a", b""), Err(FieldError::Empty { field: "From tag" }));
        let long = vec![b'x'; MAX_CALLID + 1];
        assert_eq!(key(&long, b"t"), Err(FieldError::TooLong { field, len: MAX_CALLID + 1, max: MAX_CALLID }));
        assert!(key(&long[1..], &long[..MAX_TAG]).is_ok());
        assert!(var_member(b"").is_err() && profile_member(&long).is_err() && var_member(b"a\n").is_err());
        assert!(encode_value(Some(&[b'x'; MAX_VALUE + 1])).is_err() && encode_value(Some(b"\0")).is_err());
        assert!(check_uri("From URI", b"").is_err() && check_to_tag(b"a b").is_err() && check_to_tag(b"").is_ok());
    }

    #[test]
    fn a_member_says_what_it_is() {
        assert_eq!(parse_member(b""), Member::Dialog);
        assert_eq!(parse_member(&var_member(b"a/b").unwrap()), Member::Var(BStr::new("a/b")));
        assert_eq!(parse_member(&profile_member(b"out").unwrap()), Member::Profile(BStr::new("out")));
        assert_eq!(parse_member(b"leg/1"), Member::Unknown);
    }

    #[test]
    fn states_are_numbered_as_kamailio_numbers_them_and_rank_so() {
        for (number, state) in (1..).zip(State::ALL) {
            assert_eq!((state.number(), state.rank()), (number, Rank::from(number)));
            assert_eq!(State::from_number(number), Some(state));
        }
        assert!(State::from_number(0).is_none() && State::from_number(6).is_none());
        assert!(State::ALL.is_sorted());
    }

    #[test]
    fn a_body_with_a_state_or_format_of_its_own_is_an_error() {
        let dialog = Dialog {
            state: State::Early,
            to_tag: Cow::Borrowed(BStr::new("")),
            from_uri: Cow::Borrowed(BStr::new("sip:a@h")),
            to_uri: Cow::Borrowed(BStr::new("sip:b@h")),
            answered: 0,
        };
        let mut body = dialog.encode();
        assert_eq!(Dialog::decode(&body).as_ref(), Ok(&dialog));
        body[1] = 6;
        assert_eq!(Dialog::decode(&body), Err(RowError::OutOfRange { field: "state" }));
        body[0] = 2;
        assert!(matches!(Dialog::decode(&body), Err(RowError::UnknownFormat { format: 2, .. })));
        assert!(matches!(Dialog::decode(b""), Err(RowError::Truncated { .. })));
    }

    proptest! {
        #[test]
        fn a_dialog_survives_the_body(number in 1_u8..=5, to_tag: Vec<u8>, uris: [Vec<u8>; 2], answered: u64) {
            let text = |bytes: &[u8]| Cow::Owned(bytes.into());
            let state = State::from_number(number).unwrap();
            let [from_uri, to_uri] = uris.each_ref().map(|uri| text(uri));
            let dialog = Dialog { state, to_tag: text(&to_tag), from_uri, to_uri, answered };
            let body = dialog.encode();
            prop_assert_eq!(Dialog::decode(&body).unwrap().into_owned(), dialog);
        }

        #[test]
        fn a_value_survives_the_body(value in proptest::option::of("[ -~]{0,40}")) {
            let body = encode_value(value.as_ref().map(String::as_bytes)).unwrap();
            prop_assert_eq!(decode_value(&body).unwrap(), value.as_deref().map(BStr::new));
        }

        #[test]
        fn no_body_makes_decode_panic(body: Vec<u8>) {
            let _ = Dialog::decode(&body);
            let _ = decode_value(&body);
        }
    }
}
