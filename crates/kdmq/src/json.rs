//! JSON as servers write it and as they read it.
//!
//! The reader is our own, for three things that a general parser does not give together: strings are
//! bytes (a latin-1 header value is copied raw into the JSON) whose `\u0000` and lone surrogates are
//! dropped, which a decoded string no longer shows; unknown members are passed over however odd
//! their text; and raw values can be kept without being UTF-8. It pulls members one by one, borrows
//! strings without escapes, and checks what it passes over.

mod read;
mod write;

pub(crate) use read::{Member, Object, Reader, Scalar, Syntax};
pub(crate) use write::{Writer, string};

#[cfg(test)]
mod tests;
