//! Names of nodes, process lifetimes and writes, and the wall clock's reading.
//!
//! A write is named by its [`Dot`]: the process lifetime that made it ([`Origin`]) and a number that this lifetime
//! counts up. Origins are drawn at random at each start, so no crash and no restored backup can name two writes alike.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A reading of the wall clock: unix time in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Wall(pub u64);

impl Wall {
    /// Whole unix seconds, rounded down.
    pub const fn secs(self) -> u64 {
        self.0 / 1_000
    }

    /// The start of a unix second.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000))
    }
}

/// Text that is not the 16 hexadecimal digits of an id. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an id is 16 hexadecimal digits")]
pub struct ParseIdError;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(s: &str) -> Result<Self, ParseIdError> {
                if s.len() != 16 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(ParseIdError);
                }
                u64::from_str_radix(s, 16).map(Self).map_err(|_| ParseIdError)
            }
        }

        /// 16 hexadecimal digits where people read, 8 bytes (big endian) elsewhere.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.to_be_bytes().serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                    text.parse().map_err(de::Error::custom)
                } else {
                    <[u8; 8]>::deserialize(deserializer).map(|bytes| Self(u64::from_be_bytes(bytes)))
                }
            }
        }
    };
}

id! {
    /// The stable id of a node; it outlives restarts.
    NodeId
}

id! {
    /// One process lifetime of a node: drawn at random at each start.
    Origin
}

/// The name of one write: the `seq`th of its origin, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// Which process lifetime wrote.
    pub origin: Origin,
    /// Its how many-th write, from 1.
    pub seq: u64,
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.origin, self.seq)
    }
}

impl From<crdts::Dot<Origin>> for Dot {
    fn from(dot: crdts::Dot<Origin>) -> Self {
        Self { origin: dot.actor, seq: dot.counter }
    }
}

impl From<Dot> for crdts::Dot<Origin> {
    fn from(dot: Dot) -> Self {
        Self { actor: dot.origin, counter: dot.seq }
    }
}

/// The dots `first..=last` of one origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DotRange {
    /// Whose dots.
    pub origin: Origin,
    /// The first of them, at least 1.
    pub first: u64,
    /// The last of them, at least `first`.
    pub last: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_and_read_as_16_hexadecimal_digits() {
        assert_eq!(NodeId(0xab).to_string(), "00000000000000ab");
        assert_eq!("00000000000000ab".parse(), Ok(NodeId(0xab)));
        for bad in ["", "ab", "+0000000000000ab", "00000000000000aba", "g000000000000000"] {
            assert_eq!(bad.parse::<Origin>(), Err(ParseIdError), "{bad:?}");
        }
    }

    #[test]
    fn an_id_takes_eight_bytes_on_the_wire() {
        let bytes = postcard::to_stdvec(&Origin(1)).unwrap();
        assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(postcard::from_bytes::<Origin>(&bytes), Ok(Origin(1)));
    }
}
