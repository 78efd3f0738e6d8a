//! SIP messages, URIs and non-INVITE transactions (RFC 3261), without sockets and clocks.
//!
//! A message is parsed by [`parse`] from the bytes of a datagram, or of a stream by way of
//! [`StreamFramer`], into a [`Message`] that borrows them; its accessors parse values when asked.
//! [`MessageBuilder`] writes requests and responses. [`transaction`] repeats requests and answers
//! as section 17 says.
//!
//! Text is bytes throughout: nothing here assumes UTF-8, and nothing that comes from the wire can
//! make it panic. What it leaves to others: what a method or header means, authentication,
//! dialogs, INVITE transactions, DNS.
//!
//! To be read in this order: `message` (what one looks like), `parse`, `text` (the small grammar of
//! values), `uri`, `via`, `address`, `framer`, [`mod@write`], `build`, [`transaction`].

mod address;
mod build;
mod error;
mod framer;
mod message;
mod name;
mod parse;
mod text;
pub mod transaction;
mod uri;
mod via;
pub mod write;

pub use address::{Contact, NameAddr};
pub use build::{MessageBuilder, reason_phrase};
pub use error::{ParseError, ParseErrorKind};
pub use framer::{FrameError, StreamFramer};
pub use message::{Envelope, Header, Message, StartLine};
pub use name::Name;
pub use parse::{MAX_HEADERS, MAX_MESSAGE, parse, parse_head};
pub use text::{Param, Params};
pub use uri::{Host, Scheme, Uri, normalised};
pub use via::Via;
