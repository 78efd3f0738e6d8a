//! Header field names: the known ones by number, with their compact forms.

/// A header field name that this crate knows, or [`Name::Other`].
///
/// Names compare without case and compact forms are the same name (RFC 3261 sections 7.3.1, 7.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Name {
    /// Any name not listed here.
    Other,
    /// RFC 3261 section 20.5.
    Allow,
    /// RFC 3261 section 20.7.
    Authorization,
    /// RFC 3261 section 20.8, compact `i`.
    CallId,
    /// RFC 3261 section 20.10, compact `m`.
    Contact,
    /// RFC 3261 section 20.12, compact `e`.
    ContentEncoding,
    /// RFC 3261 section 20.14, compact `l`.
    ContentLength,
    /// RFC 3261 section 20.15, compact `c`.
    ContentType,
    /// RFC 3261 section 20.16.
    CSeq,
    /// RFC 6665 section 8.2.1, compact `o`.
    Event,
    /// RFC 3261 section 20.19.
    Expires,
    /// RFC 3261 section 20.20, compact `f`.
    From,
    /// RFC 3261 section 20.22.
    MaxForwards,
    /// RFC 3327.
    Path,
    /// RFC 3261 section 20.28.
    ProxyAuthorization,
    /// RFC 3261 section 20.30.
    RecordRoute,
    /// RFC 3261 section 20.32.
    Require,
    /// RFC 3261 section 20.34.
    Route,
    /// RFC 3261 section 20.35.
    Server,
    /// RFC 3261 section 20.36, compact `s`.
    Subject,
    /// RFC 3261 section 20.37, compact `k`.
    Supported,
    /// RFC 3261 section 20.38.
    Timestamp,
    /// RFC 3261 section 20.39, compact `t`.
    To,
    /// RFC 3261 section 20.41.
    UserAgent,
    /// RFC 3261 section 20.42, compact `v`.
    Via,
}

/// Every known name: its usual spelling and its compact form, if it has one. Sorted by length, so that
/// the lengths select a few candidates.
const KNOWN: [(Name, &str, Option<u8>); 24] = [
    (Name::To, "To", Some(b't')),
    (Name::Via, "Via", Some(b'v')),
    (Name::From, "From", Some(b'f')),
    (Name::CSeq, "CSeq", None),
    (Name::Path, "Path", None),
    (Name::Allow, "Allow", None),
    (Name::Event, "Event", Some(b'o')),
    (Name::Route, "Route", None),
    (Name::Server, "Server", None),
    (Name::CallId, "Call-ID", Some(b'i')),
    (Name::Contact, "Contact", Some(b'm')),
    (Name::Expires, "Expires", None),
    (Name::Require, "Require", None),
    (Name::Subject, "Subject", Some(b's')),
    (Name::Supported, "Supported", Some(b'k')),
    (Name::Timestamp, "Timestamp", None),
    (Name::UserAgent, "User-Agent", None),
    (Name::ContentType, "Content-Type", Some(b'c')),
    (Name::MaxForwards, "Max-Forwards", None),
    (Name::RecordRoute, "Record-Route", None),
    (Name::Authorization, "Authorization", None),
    (Name::ContentLength, "Content-Length", Some(b'l')),
    (Name::ContentEncoding, "Content-Encoding", Some(b'e')),
    (Name::ProxyAuthorization, "Proxy-Authorization", None),
];

const LONGEST: usize = KNOWN[KNOWN.len() - 1].1.len();

/// For each length, where its names start and end in [`KNOWN`].
const BY_LENGTH: [(usize, usize); LONGEST + 1] = {
    let mut spans = [(0, 0); LONGEST + 1];
    let mut i = 0;
    while i < KNOWN.len() {
        let length = KNOWN[i].1.len();
        if spans[length].1 == 0 {
            spans[length].0 = i;
        } else {
            assert!(KNOWN[i - 1].1.len() == length, "KNOWN is sorted by length");
        }
        spans[length].1 = i + 1;
        i += 1;
    }
    spans
};

impl Name {
    /// The name of these bytes, in any case, long or compact.
    pub fn of(bytes: &[u8]) -> Self {
        if let [letter] = bytes {
            let letter = letter.to_ascii_lowercase();
            return KNOWN.iter().find(|known| known.2 == Some(letter)).map_or(Self::Other, |known| known.0);
        }
        let (from, to) = BY_LENGTH.get(bytes.len()).copied().unwrap_or_default();
        let candidates = KNOWN.get(from..to).unwrap_or_default();
        // Nearly all senders use the usual spelling, and comparing it is quick.
        let found = (candidates.iter())
            .find(|known| known.1.as_bytes() == bytes)
            .or_else(|| candidates.iter().find(|known| known.1.as_bytes().eq_ignore_ascii_case(bytes)));
        found.map_or(Self::Other, |known| known.0)
    }

    /// The usual spelling; `?` for [`Name::Other`], which has none.
    pub fn as_str(self) -> &'static str {
        KNOWN.iter().find(|known| known.0 == self).map_or("?", |known| known.1)
    }

    /// Whether a message may have this field only once (RFC 3261 section 7.3.1 and table 2), so
    /// that a second one makes it ambiguous.
    pub(crate) const fn is_single(self) -> bool {
        matches!(self, Self::CallId | Self::CSeq | Self::From | Self::MaxForwards | Self::To)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_is_found_in_any_case_and_in_its_compact_form() {
        for (name, text, compact) in KNOWN {
            assert_eq!(Name::of(text.as_bytes()), name);
            assert_eq!(Name::of(text.to_ascii_uppercase().as_bytes()), name);
            assert_eq!(Name::of(text.to_ascii_lowercase().as_bytes()), name);
            assert_eq!(name.as_str(), text);
            if let Some(compact) = compact {
                assert_eq!(Name::of(&[compact]), name);
                assert_eq!(Name::of(&[compact.to_ascii_uppercase()]), name);
            }
        }
    }

    #[test]
    fn a_name_that_is_not_known_is_other() {
        for name in ["", "x", "0", "\0", "Viaa", "X-Foo", "Call_ID", "Proxy-Authorizationn", "Content-Lengti"] {
            assert_eq!(Name::of(name.as_bytes()), Name::Other, "{name}");
        }
    }
}
