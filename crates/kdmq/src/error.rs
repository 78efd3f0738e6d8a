//! What can be wrong with a body, coming in and going out.

use thiserror::Error;

/// A body that could not be understood. It is the sender's fault, and nothing has been changed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The request has no body.
    #[error("{channel}: no body")]
    NoBody {
        /// The channel's name.
        channel: &'static str,
    },
    /// The body is not JSON.
    #[error("{channel}: not JSON at byte {offset}: {reason}")]
    Syntax {
        /// The channel's name.
        channel: &'static str,
        /// Where in the body.
        offset: usize,
        /// What was found wrong there.
        reason: &'static str,
    },
    /// The JSON is not an object with at least one member. Such a body makes a real server exit.
    #[error("{channel}: not an object with members")]
    NotAnObject {
        /// The channel's name.
        channel: &'static str,
    },
    /// An action number that the channel does not define.
    #[error("{channel}: unknown action {action}")]
    UnknownAction {
        /// The channel's name.
        channel: &'static str,
        /// The number.
        action: i64,
    },
    /// A field that the action needs is absent.
    #[error("{channel}: {field} is missing")]
    Missing {
        /// The channel's name.
        channel: &'static str,
        /// The field's name.
        field: &'static str,
    },
    /// A field that must say something is the empty string. A real server answers 200 and stores
    /// nothing, or something useless; here nothing is stored.
    #[error("{channel}: {field} is empty")]
    Empty {
        /// The channel's name.
        channel: &'static str,
        /// The field's name.
        field: &'static str,
    },
    /// A field has another JSON type than it must have. Some of these make a real server exit.
    #[error("{channel}: {field} is of the wrong type")]
    WrongType {
        /// The channel's name.
        channel: &'static str,
        /// The field's name.
        field: &'static str,
    },
    /// A number that does not fit the field.
    #[error("{channel}: {field} is out of range")]
    OutOfRange {
        /// The channel's name.
        channel: &'static str,
        /// The field's name.
        field: &'static str,
    },
    /// A text that is longer than a cell can hold.
    #[error("{channel}: {field} has {len} bytes, more than {max}")]
    TooLong {
        /// The channel's name.
        channel: &'static str,
        /// The field's name.
        field: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
}

impl DecodeError {
    /// The SIP status to answer with: what a Kamailio would say to this body if it survived it.
    ///
    /// 200 is the answer to what a server takes and does nothing useful with.
    pub fn status(&self) -> u16 {
        match self {
            Self::Empty { .. } => 200,
            Self::UnknownAction { channel: "htable", .. } => 500,
            Self::Missing { channel: "htable", field: "htname" | "cname" } => 500,
            _ => 400,
        }
    }

    /// The channel's name.
    pub fn channel(&self) -> &'static str {
        match self {
            Self::NoBody { channel }
            | Self::Syntax { channel, .. }
            | Self::NotAnObject { channel }
            | Self::UnknownAction { channel, .. }
            | Self::Missing { channel, .. }
            | Self::Empty { channel, .. }
            | Self::WrongType { channel, .. }
            | Self::OutOfRange { channel, .. }
            | Self::TooLong { channel, .. } => channel,
        }
    }
}

/// Something of ours that must not be sent to a server in this form. Nothing was written.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum EncodeError {
    /// A field that a server needs to say something is empty.
    #[error("{field} is empty")]
    Empty {
        /// The field's name.
        field: &'static str,
    },
    /// A text with a NUL byte: servers hold texts as C strings and would know it by another name.
    #[error("{field} contains a NUL byte")]
    Nul {
        /// The field's name.
        field: &'static str,
    },
    /// A number that servers cannot hold (they have 32 bit).
    #[error("{field} {value} does not fit 32 bit")]
    OutOfRange {
        /// The field's name.
        field: &'static str,
        /// The number.
        value: i64,
    },
    /// The body would be longer than servers accept. For a batch: it is full, send it first.
    #[error("body of {len} bytes is longer than {max}")]
    TooLong {
        /// What it would have been.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A batch without an element, which a real server does not survive.
    #[error("batch is empty")]
    EmptyBatch,
    /// A node line that the older generation would hang on: no port, a host that it could not resolve,
    /// or a status other than `active` and `disabled`.
    #[error("node line has no usable {field}")]
    NodeLine {
        /// Which part.
        field: &'static str,
    },
}
