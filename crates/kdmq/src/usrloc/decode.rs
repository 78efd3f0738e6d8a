//! Bodies of the `usrloc` channel, coming in.

use std::borrow::Cow;

use bstr::BString;
use tables::location::{self, Contact, NO_Q};

use super::{Action, Batch, CHANNEL, Row};
use crate::DecodeError;
use crate::fields::{keep_text, syntax, wrapping_u32};
use crate::json::{Member, Object, Reader, Scalar, Syntax};

/// Most unknown members kept of one contact.
const MAX_UNKNOWN: usize = 32;

/// Decodes a body of the `usrloc` channel, borrowing its text.
///
/// # Errors
/// [`DecodeError`] if the body is no action object, or its one action cannot be understood. Elements
/// of `multi` that cannot be understood are counted in [`Batch::skipped`] instead.
pub fn decode(body: &[u8]) -> Result<Batch<'_>, DecodeError> {
    if body.is_empty() {
        return Err(DecodeError::NoBody { channel: CHANNEL });
    }
    let mut reader = Reader::new(body);
    let root = reader.open(false).ok_or(DecodeError::NotAnObject { channel: CHANNEL })?;
    let mut element = Element::default();
    element.read(&mut reader, root, true).map_err(|error| syntax(CHANNEL, error))?;
    match element.multi.take() {
        Some(batch) => Ok(batch),
        None if !element.seen_any => Err(DecodeError::NotAnObject { channel: CHANNEL }),
        None => Ok(Batch { actions: vec![element.action()?], ..Batch::default() }),
    }
}

/// An action object while its members come in.
#[derive(Default)]
struct Element<'a> {
    number: i64,
    row: Row<'a>,
    unknown: Vec<(BString, Vec<u8>)>,
    seen_any: bool,
    seen_aor: bool,
    seen_ruid: bool,
    seen_uri: bool,
    problem: Option<DecodeError>,
    multi: Option<Batch<'a>>,
}

impl<'a> Element<'a> {
    fn read(&mut self, reader: &mut Reader<'a>, mut object: Object, is_root: bool) -> Result<(), Syntax> {
        while let Member::Named(name) = reader.member(&mut object)? {
            self.seen_any = true;
            match name.as_ref() as &[u8] {
                b"multi" if is_root => self.batch(reader)?,
                b"multi" => reader.skip()?,
                name => self.member(name, reader)?,
            }
        }
        if !self.unknown.is_empty() {
            self.row.contact.unknown = join(&self.unknown).map(Cow::Owned);
        }
        Ok(())
    }

    fn member(&mut self, name: &[u8], reader: &mut Reader<'a>) -> Result<(), Syntax> {
        let contact = &mut self.row.contact;
        let (field, max, slot) = match name {
            b"aor" => {
                self.seen_aor = true;
                ("aor", location::MAX_AOR, &mut self.row.aor)
            }
            b"ruid" => {
                self.seen_ruid = true;
                ("ruid", location::MAX_RUID, &mut contact.ruid)
            }
            b"c" => {
                self.seen_uri = true;
                ("c", location::MAX_URI, &mut contact.uri)
            }
            b"received" => ("received", location::MAX_TEXT, &mut contact.received),
            b"sock" => ("sock", location::MAX_TEXT, &mut contact.sock),
            b"sockname" => ("sockname", location::MAX_TEXT, &mut contact.sockname),
            b"path" => ("path", location::MAX_TEXT, &mut contact.path),
            b"callid" => ("callid", location::MAX_TEXT, &mut contact.callid),
            b"user_agent" => ("user_agent", location::MAX_TEXT, &mut contact.user_agent),
            b"instance" => ("instance", location::MAX_INSTANCE, &mut contact.instance),
            _ => return self.number_or_other(name, reader),
        };
        keep_text(CHANNEL, field, max, reader.scalar()?, slot, &mut self.problem);
        Ok(())
    }

    fn number_or_other(&mut self, name: &[u8], reader: &mut Reader<'a>) -> Result<(), Syntax> {
        let field = match name {
            b"action" => {
                self.number = match reader.scalar()? {
                    Scalar::Number(number) => number,
                    Scalar::Text(_) | Scalar::Other => 0,
                };
                return Ok(());
            }
            b"expires" => "expires",
            b"cseq" => "cseq",
            b"flags" => "flags",
            b"cflags" => "cflags",
            b"q" => "q",
            b"last_modified" => "last_modified",
            b"methods" => "methods",
            b"reg_id" => "reg_id",
            b"server_id" => "server_id",
            b"xavps" => return self.xavps(reader),
            _ => return self.keep_unknown(name, reader),
        };
        let problem = match reader.scalar()? {
            Scalar::Number(number) => match keep_number(&mut self.row.contact, field, number) {
                Some(()) => return Ok(()),
                None => DecodeError::OutOfRange { channel: CHANNEL, field },
            },
            Scalar::Text(_) | Scalar::Other => DecodeError::WrongType { channel: CHANNEL, field },
        };
        self.problem.get_or_insert(problem);
        Ok(())
    }

    /// The elements of `multi`. One within another is passed over.
    fn batch(&mut self, reader: &mut Reader<'a>) -> Result<(), Syntax> {
        let Some(mut elements) = reader.open(true) else {
            return reader.skip();
        };
        let mut batch = Batch::default();
        while let Member::Named(_) = reader.member(&mut elements)? {
            let mut element = Element::default();
            let read = match reader.open(false) {
                Some(object) => {
                    element.read(reader, object, false)?;
                    element.action()
                }
                None => {
                    reader.skip()?;
                    Err(DecodeError::NotAnObject { channel: CHANNEL })
                }
            };
            match read {
                Ok(Action::None) => {}
                Ok(action) => batch.actions.push(action),
                Err(error) => {
                    batch.skipped += 1;
                    batch.reason.get_or_insert(error);
                }
            }
        }
        self.multi = Some(batch);
        Ok(())
    }

    fn xavps(&mut self, reader: &mut Reader<'a>) -> Result<(), Syntax> {
        let mut text = Vec::new();
        reader.copy(&mut text)?;
        let wanted = text.starts_with(b"{") && text != b"{}" && text.len() <= location::MAX_JSON;
        self.row.contact.xavps = wanted.then(|| Cow::Owned(BString::from(text)));
        Ok(())
    }

    fn keep_unknown(&mut self, name: &[u8], reader: &mut Reader<'a>) -> Result<(), Syntax> {
        let mut value = Vec::new();
        reader.copy(&mut value)?;
        if value == b"null" {
            return Ok(());
        }
        if let Some(known) = self.unknown.iter_mut().find(|(known, _)| known == name) {
            known.1 = value;
        } else if self.unknown.len() < MAX_UNKNOWN {
            self.unknown.push((name.into(), value));
        }
        Ok(())
    }

    fn action(self) -> Result<Action<'a>, DecodeError> {
        let action = match self.number {
            0 => return Ok(Action::None),
            1 => Action::Update,
            2 => Action::Remove,
            3 => return Ok(Action::Sync),
            action => {
                return Err(DecodeError::UnknownAction { channel: CHANNEL, action });
            }
        };
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        let contact = &self.row.contact;
        let needed = [
            ("aor", self.seen_aor, self.row.aor.is_empty(), true),
            ("ruid", self.seen_ruid, contact.ruid.is_empty(), true),
            ("c", self.seen_uri, contact.uri.is_empty(), self.number == 1),
        ];
        for (field, seen, empty, is_needed) in needed {
            match (is_needed, seen, empty) {
                (true, false, _) => {
                    return Err(DecodeError::Missing { channel: CHANNEL, field });
                }
                (true, true, true) => {
                    return Err(DecodeError::Empty { channel: CHANNEL, field });
                }
                _ => {}
            }
        }
        Ok(action(self.row))
    }
}

/// Stores a number; `None` if it does not fit.
fn keep_number(contact: &mut Contact<'_>, field: &str, number: i64) -> Option<()> {
    match field {
        "expires" => contact.expires = u64::try_from(number).ok()?,
        "last_modified" => contact.last_modified = u64::try_from(number).ok()?,
        "q" => {
            let q = i32::try_from(number).ok().filter(|q| (0..=1000).contains(q));
            contact.q = q.unwrap_or(NO_Q);
        }
        _ => {
            let number = wrapping_u32(number)?;
            let slot = match field {
                "cseq" => &mut contact.cseq,
                "flags" => &mut contact.flags,
                "cflags" => &mut contact.cflags,
                "methods" => &mut contact.methods,
                "reg_id" => &mut contact.reg_id,
                _ => &mut contact.server_id,
            };
            *slot = number;
        }
    }
    Some(())
}

/// Unknown members as one text; `None` if it would be too long.
fn join(members: &[(BString, Vec<u8>)]) -> Option<BString> {
    let mut text = Vec::new();
    for (name, value) in members {
        if !text.is_empty() {
            text.push(b',');
        }
        crate::json::string(&mut text, name);
        text.push(b':');
        text.extend_from_slice(value);
    }
    (text.len() <= location::MAX_JSON).then(|| BString::from(text))
}
