//! Bodies of the `htable` channel, coming in.

use std::borrow::Cow;

use bstr::BStr;
use tables::htable::{MAX_KEY, MAX_NAME, MAX_VALUE, Value};

use super::{Action, CHANNEL, Cell, Cells, How, On};
use crate::DecodeError;
use crate::fields::{keep_text, syntax};
use crate::json::{Member, Object, Reader, Scalar, Syntax};

/// The bit of `type` that says: a string.
const TYPE_STR: i64 = 2;

/// Decodes a body of the `htable` channel, borrowing its text.
///
/// # Errors
/// [`DecodeError`] if the body is no action object, or its action cannot be understood. Cells that
/// cannot be understood are counted in [`Cells::skipped`] instead.
pub fn decode(body: &[u8]) -> Result<Action<'_>, DecodeError> {
    if body.is_empty() {
        return Err(DecodeError::NoBody { channel: CHANNEL });
    }
    let mut reader = Reader::new(body);
    let root = reader.open(false).ok_or(DecodeError::NotAnObject { channel: CHANNEL })?;
    let mut element = Element::default();
    let cells = element.read(&mut reader, root, true).map_err(|error| syntax(CHANNEL, error))?;
    match cells {
        Some(cells) => Ok(Action::Cells(cells)),
        None if !element.seen_any => Err(DecodeError::NotAnObject { channel: CHANNEL }),
        None => element.action(),
    }
}

/// An action object or a cell while its members come in.
#[derive(Default)]
struct Element<'a> {
    seen_any: bool,
    number: i64,
    kind: Option<i64>,
    mode: i64,
    table: Option<Cow<'a, BStr>>,
    key: Option<Cow<'a, BStr>>,
    text: Option<Cow<'a, BStr>>,
    int: Option<i64>,
    expire: i64,
    last_modified: Option<u64>,
    problem: Option<DecodeError>,
}

impl<'a> Element<'a> {
    /// Reads all members; the cells, if there are some where they may be.
    fn read(
        &mut self,
        reader: &mut Reader<'a>,
        mut object: Object,
        is_root: bool,
    ) -> Result<Option<Cells<'a>>, Syntax> {
        let mut found = None;
        while let Member::Named(name) = reader.member(&mut object)? {
            self.seen_any = true;
            match name.as_ref() as &[u8] {
                b"cells" if is_root => found = Some(cells(reader)?),
                name => self.member(name, reader)?,
            }
        }
        Ok(found)
    }

    fn member(&mut self, name: &[u8], reader: &mut Reader<'a>) -> Result<(), Syntax> {
        let (field, max, slot) = match name {
            b"htname" => ("htname", MAX_NAME, &mut self.table),
            b"cname" => ("cname", MAX_KEY, &mut self.key),
            b"strval" => ("strval", MAX_VALUE, &mut self.text),
            b"action" | b"type" | b"mode" | b"intval" | b"expire" | b"last_modified" => {
                self.number(name, reader.scalar()?);
                return Ok(());
            }
            _ => return reader.skip(),
        };
        let mut text = Cow::Borrowed(BStr::new(b""));
        keep_text(CHANNEL, field, max, reader.scalar()?, &mut text, &mut self.problem);
        *slot = Some(text);
        Ok(())
    }

    fn number(&mut self, name: &[u8], value: Scalar<'a>) {
        let number = match value {
            Scalar::Number(number) => Some(number),
            Scalar::Text(_) | Scalar::Other => None,
        };
        let field = match (name, number) {
            (b"action", number) => {
                self.number = number.unwrap_or(0);
                return;
            }
            (b"type", Some(number)) => {
                self.kind = Some(number);
                return;
            }
            (b"mode", Some(number)) => {
                self.mode = number;
                return;
            }
            (b"intval", Some(number)) if i32::try_from(number).is_ok() => {
                self.int = Some(number);
                return;
            }
            // No server has such an integer, and none could ever be told of it.
            (b"intval", Some(_)) => {
                self.problem.get_or_insert(DecodeError::OutOfRange { channel: CHANNEL, field: "intval" });
                return;
            }
            (b"expire", Some(number)) => {
                self.expire = number;
                return;
            }
            (b"last_modified", Some(number @ 0..)) => {
                self.last_modified = Some(number as u64).filter(|&stamp| stamp > 0);
                return;
            }
            (b"type", None) => "type",
            (b"mode", None) => "mode",
            (b"intval", None) => "intval",
            (b"expire", None) => "expire",
            _ => "last_modified",
        };
        self.problem.get_or_insert(DecodeError::WrongType { channel: CHANNEL, field });
    }

    fn action(mut self) -> Result<Action<'a>, DecodeError> {
        match self.number {
            0 => return Ok(Action::None),
            1..=6 => {}
            action => {
                return Err(DecodeError::UnknownAction { channel: CHANNEL, action });
            }
        }
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        if self.number == 1 {
            return Ok(Action::Sync { table: self.table });
        }
        let table = needed("htname", self.table.take())?;
        if let how @ (5 | 6) = self.number {
            let pattern = self.text.ok_or(DecodeError::Missing { channel: CHANNEL, field: "strval" })?;
            let how = if how == 5 { How::Regex } else { How::Prefix };
            let on = if self.mode == 0 { On::Names } else { On::Values };
            return Ok(Action::RemoveMatching { table, how, on, pattern });
        }
        let key = needed("cname", self.key.take())?;
        Ok(match self.number {
            2 => {
                let last_modified = self.last_modified;
                Action::Set { table, key, value: self.value()?, last_modified }
            }
            3 => {
                let missing = DecodeError::Missing { channel: CHANNEL, field: "intval" };
                Action::Expire { table, key, seconds: self.int.ok_or(missing)? }
            }
            _ => Action::Delete { table, key },
        })
    }

    fn cell(mut self) -> Result<Cell<'a>, DecodeError> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        Ok(Cell {
            table: needed("htname", self.table.take())?,
            key: needed("cname", self.key.take())?,
            expire: u64::try_from(self.expire).unwrap_or(0),
            last_modified: self.last_modified,
            value: self.value()?,
        })
    }

    fn value(self) -> Result<Value<'a>, DecodeError> {
        let is_text = self.kind.map_or(self.text.is_some(), |kind| kind & TYPE_STR != 0);
        let (value, field) = match is_text {
            true => (self.text.map(Value::Str), "strval"),
            false => (self.int.map(Value::Int), "intval"),
        };
        value.ok_or(DecodeError::Missing { channel: CHANNEL, field })
    }
}

fn cells<'a>(reader: &mut Reader<'a>) -> Result<Cells<'a>, Syntax> {
    let mut found = Cells::default();
    let Some(mut list) = reader.open(true) else {
        reader.skip()?;
        return Ok(found);
    };
    while let Member::Named(_) = reader.member(&mut list)? {
        let mut element = Element::default();
        let cell = match reader.open(false) {
            Some(object) => {
                element.read(reader, object, false)?;
                element.cell()
            }
            None => {
                reader.skip()?;
                Err(DecodeError::NotAnObject { channel: CHANNEL })
            }
        };
        match cell {
            Ok(cell) => found.cells.push(cell),
            Err(error) => {
                found.skipped += 1;
                found.reason.get_or_insert(error);
            }
        }
    }
    Ok(found)
}

fn needed<'a>(field: &'static str, text: Option<Cow<'a, BStr>>) -> Result<Cow<'a, BStr>, DecodeError> {
    let text = text.ok_or(DecodeError::Missing { channel: CHANNEL, field })?;
    match text.is_empty() {
        true => Err(DecodeError::Empty { channel: CHANNEL, field }),
        false => Ok(text),
    }
}
