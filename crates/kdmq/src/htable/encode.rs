//! Bodies of the `htable` channel, going out.

use tables::htable::Value;

use crate::EncodeError;
use crate::fields::{check, fits};
use crate::json::Writer;

/// The body that sets an entry, under the lock of its slot.
///
/// `last_modified`, unix milliseconds, is for 6.x servers alone, which then take the value only if
/// theirs is older; a 5.x server refuses the whole message because of it.
///
/// # Errors
/// [`EncodeError`] if `table` or `key` is empty, a text contains NUL, an integer does not fit 32 bit,
/// or the body would be too long for a server.
pub fn encode_set(
    table: &[u8],
    key: &[u8],
    value: &Value<'_>,
    last_modified: Option<u64>,
) -> Result<Vec<u8>, EncodeError> {
    let mut body = Vec::with_capacity(128);
    let mut object = begin(&mut body, 2, table, key)?;
    match value {
        Value::Str(text) => {
            check("strval", text, false)?;
            object.int("type", 2).text("strval", text);
        }
        Value::Int(number) => {
            let int = i32::try_from(*number);
            let int = int.map_err(|_| EncodeError::OutOfRange { field: "intval", value: *number })?;
            object.int("type", 0).int("intval", i64::from(int));
        }
    }
    if let Some(stamp) = last_modified {
        object.int("last_modified", i64::try_from(stamp).unwrap_or(i64::MAX));
    }
    object.int("mode", 1);
    object.end();
    fits(body)
}

/// The body that lets an entry expire `seconds` from its receipt; 0: at once. It is ignored in
/// tables without `autoexpire`.
///
/// # Errors
/// [`EncodeError`] if `table` or `key` is empty or contains NUL.
pub fn encode_expire(table: &[u8], key: &[u8], seconds: u32) -> Result<Vec<u8>, EncodeError> {
    let mut body = Vec::with_capacity(128);
    let mut object = begin(&mut body, 3, table, key)?;
    let seconds = i64::from(seconds.min(i32::MAX as u32));
    object.int("type", 0).int("intval", seconds).int("mode", 0);
    object.end();
    fits(body)
}

/// The body that deletes an entry; one that the server does not have is no error to it.
///
/// # Errors
/// [`EncodeError`] if `table` or `key` is empty or contains NUL.
pub fn encode_delete(table: &[u8], key: &[u8]) -> Result<Vec<u8>, EncodeError> {
    let mut body = Vec::with_capacity(128);
    let mut object = begin(&mut body, 4, table, key)?;
    object.int("mode", 0);
    object.end();
    fits(body)
}

fn begin<'o>(body: &'o mut Vec<u8>, action: i64, table: &[u8], key: &[u8]) -> Result<Writer<'o>, EncodeError> {
    check("htname", table, true)?;
    check("cname", key, true)?;
    let mut object = Writer::new(body);
    object.int("action", action).text("htname", table).text("cname", key);
    Ok(object)
}
