//! Bodies of the `usrloc` channel, going out.

use std::io::Write as _;

use tables::location::{Contact, NO_USER_AGENT};

use super::Form;
use crate::fields::{check, fits};
use crate::json::Writer;
use crate::{EncodeError, MAX_BODY};

/// Latest time that servers hold, unix seconds: they have 32 bit signed.
const MAX_TIME: u64 = i32::MAX as u64;

/// The body that inserts or refreshes `contact` at a server that knows it as `ruid`.
///
/// All fields are sent, in Kamailio's order. Times beyond 2038 are sent as the last second that a
/// server can hold.
///
/// # Errors
/// [`EncodeError`] if `aor`, `ruid` or the contact URI is empty, a text contains NUL, or the body
/// would be too long for a server.
pub fn encode_update(
    aor: &[u8],
    contact: &Contact<'_>,
    ruid: &[u8],
    form: impl Into<Form>,
) -> Result<Vec<u8>, EncodeError> {
    let mut body = Vec::with_capacity(512);
    put_update(&mut body, aor, contact, ruid, form.into(), true)?;
    fits(body)
}

/// The body that removes the contact which a server knows as `ruid` under `aor`.
///
/// # Errors
/// [`EncodeError`] if either is empty or contains NUL.
pub fn encode_remove(aor: &[u8], ruid: &[u8]) -> Result<Vec<u8>, EncodeError> {
    let mut body = Vec::with_capacity(128);
    put_remove(&mut body, aor, ruid)?;
    fits(body)
}

/// What [`encode_update`] would send, as an element of a [`Multi`]: encoded once for many of them.
#[derive(Clone, Debug)]
pub struct Element(Vec<u8>);

impl Element {
    /// Encodes it.
    ///
    /// # Errors
    /// As [`encode_update`], but for the length.
    pub fn update(aor: &[u8], contact: &Contact<'_>, ruid: &[u8], form: impl Into<Form>) -> Result<Self, EncodeError> {
        let mut element = Vec::with_capacity(512);
        put_update(&mut element, aor, contact, ruid, form.into(), false)?;
        Ok(Self(element))
    }
}

/// Several actions in one body, which a server applies in order.
#[derive(Clone, Debug)]
pub struct Multi {
    body: Vec<u8>,
    count: usize,
    form: Form,
}

const MULTI: &[u8] = b"{\"multi\":{";
const MULTI_END: &[u8] = b"}}";

impl Multi {
    /// An empty batch for servers that understand `form`.
    pub fn new(form: impl Into<Form>) -> Self {
        Self { body: MULTI.to_vec(), count: 0, form: form.into() }
    }

    /// Adds what [`encode_update`] would send.
    ///
    /// # Errors
    /// As there; `TooLong` if the batch would become so. The batch is then as it was.
    pub fn push_update(&mut self, aor: &[u8], contact: &Contact<'_>, ruid: &[u8]) -> Result<(), EncodeError> {
        let form = self.form;
        self.push(|body| put_update(body, aor, contact, ruid, form, false))
    }

    /// Adds an element that was encoded before, for servers that understand the form of this batch.
    ///
    /// # Errors
    /// `TooLong` if the batch would become so. The batch is then as it was.
    pub fn push_element(&mut self, element: &Element) -> Result<(), EncodeError> {
        self.push(|body| {
            body.extend_from_slice(&element.0);
            Ok(())
        })
    }

    /// Adds what [`encode_remove`] would send.
    ///
    /// # Errors
    /// As there; `TooLong` if the batch would become so. The batch is then as it was.
    pub fn push_remove(&mut self, aor: &[u8], ruid: &[u8]) -> Result<(), EncodeError> {
        self.push(|body| put_remove(body, aor, ruid))
    }

    fn push(&mut self, put: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>) -> Result<(), EncodeError> {
        let before = self.body.len();
        if self.count > 0 {
            self.body.push(b',');
        }
        // Writing to a vector cannot fail.
        let _ = write!(self.body, "\"{}\":", self.count + 1);
        let put = put(&mut self.body).and_then(|()| match self.len_bytes() {
            ..=MAX_BODY => Ok(()),
            len => Err(EncodeError::TooLong { len, max: MAX_BODY }),
        });
        match put {
            Ok(()) => self.count += 1,
            Err(_) => self.body.truncate(before),
        }
        put
    }

    /// How many actions it holds.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The length of the body that [`Multi::finish`] would give.
    pub fn len_bytes(&self) -> usize {
        self.body.len() + MULTI_END.len()
    }

    /// The body.
    ///
    /// # Errors
    /// [`EncodeError::EmptyBatch`] if nothing was added: no server survives such a body.
    pub fn finish(mut self) -> Result<Vec<u8>, EncodeError> {
        if self.count == 0 {
            return Err(EncodeError::EmptyBatch);
        }
        self.body.extend_from_slice(MULTI_END);
        Ok(self.body)
    }
}

fn put_update(
    body: &mut Vec<u8>,
    aor: &[u8],
    contact: &Contact<'_>,
    ruid: &[u8],
    form: Form,
    single: bool,
) -> Result<(), EncodeError> {
    let user_agent = match contact.user_agent.is_empty() {
        true => NO_USER_AGENT.as_bytes(),
        false => &contact.user_agent,
    };
    let texts: [(&'static str, &[u8]); 10] = [
        ("aor", aor),
        ("ruid", ruid),
        ("c", &contact.uri),
        ("received", &contact.received),
        ("sock", if form.sock { &contact.sock } else { b"" }),
        ("sockname", if form.newer { &contact.sockname } else { b"" }),
        ("path", &contact.path),
        ("callid", &contact.callid),
        ("user_agent", user_agent),
        ("instance", &contact.instance),
    ];
    let numbers = [
        ("expires", contact.expires.min(MAX_TIME) as i64),
        ("cseq", signed(contact.cseq)),
        ("flags", signed(contact.flags)),
        ("cflags", signed(contact.cflags)),
        ("q", i64::from(contact.q)),
        ("last_modified", contact.last_modified.min(MAX_TIME) as i64),
        ("methods", i64::from(contact.methods)),
        ("reg_id", signed(contact.reg_id)),
        ("server_id", signed(contact.server_id)),
    ];
    for (field, text) in texts {
        check(field, text, matches!(field, "aor" | "ruid" | "c"))?;
    }

    let mut object = Writer::new(body);
    object.int("action", 1);
    for (field, text) in texts {
        let optional = matches!(field, "sock" | "sockname");
        if !(optional && text.is_empty()) {
            object.text(field, text);
        }
    }
    for (field, number) in numbers {
        object.int(field, number);
    }
    if form.newer {
        // A server's own batches leave empty attributes out; its single messages do not.
        match &contact.xavps {
            Some(xavps) => _ = object.raw("xavps", xavps),
            None if single => _ = object.raw("xavps", b"{}"),
            None => {}
        }
        object.members(contact.unknown.as_deref().map_or(b"", |unknown| unknown));
    }
    object.end();
    Ok(())
}

fn put_remove(body: &mut Vec<u8>, aor: &[u8], ruid: &[u8]) -> Result<(), EncodeError> {
    check("aor", aor, true)?;
    check("ruid", ruid, true)?;
    let mut object = Writer::new(body);
    object.int("action", 2).text("aor", aor).text("ruid", ruid);
    object.end();
    Ok(())
}

/// Servers convert these numbers to 32 bit signed; beyond that the conversion is undefined.
fn signed(number: u32) -> i64 {
    i64::from(number as i32)
}
