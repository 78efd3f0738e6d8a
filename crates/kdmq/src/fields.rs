//! What the JSON channels have in common when they take in and give out fields.

use std::borrow::Cow;

use bstr::BStr;

use crate::json::{Scalar, Syntax};
use crate::{DecodeError, EncodeError, MAX_BODY};

/// Where and why a body is not JSON.
pub(crate) fn syntax(channel: &'static str, error: Syntax) -> DecodeError {
    DecodeError::Syntax { channel, offset: error.offset, reason: error.reason }
}

/// Stores the text of a member, or notes why not if nothing was wrong before.
#[inline]
pub(crate) fn keep_text<'a>(
    channel: &'static str,
    field: &'static str,
    max: usize,
    value: Scalar<'a>,
    slot: &mut Cow<'a, BStr>,
    problem: &mut Option<DecodeError>,
) {
    match value {
        Scalar::Text(text) if text.len() <= max => *slot = text,
        Scalar::Text(text) => {
            let len = text.len();
            problem.get_or_insert(DecodeError::TooLong { channel, field, len, max });
        }
        Scalar::Number(_) | Scalar::Other => {
            problem.get_or_insert(DecodeError::WrongType { channel, field });
        }
    }
}

/// A 32 bit number that may have been written as signed; servers print some masks that way.
pub(crate) fn wrapping_u32(number: i64) -> Option<u32> {
    match i32::try_from(number) {
        Ok(signed) => Some(signed as u32),
        Err(_) => u32::try_from(number).ok(),
    }
}

/// Whether a text may be sent: not empty where something is `needed`, and without NUL.
pub(crate) fn check(field: &'static str, text: &[u8], needed: bool) -> Result<(), EncodeError> {
    if needed && text.is_empty() {
        return Err(EncodeError::Empty { field });
    }
    match text.iter().fold(false, |any, &byte| any | (byte == 0)) {
        true => Err(EncodeError::Nul { field }),
        false => Ok(()),
    }
}

/// The body, unless servers would drop it for its length.
pub(crate) fn fits(body: Vec<u8>) -> Result<Vec<u8>, EncodeError> {
    match body.len() {
        ..=MAX_BODY => Ok(body),
        len => Err(EncodeError::TooLong { len, max: MAX_BODY }),
    }
}
