//! What a request says, beyond its route: path segments as bytes, the page of a list, a JSON body.

use axum::body::Bytes;
use axum::http::Uri;
use axum::http::header::{HeaderMap, LINK};
use bstr::BString;
use serde::de::DeserializeOwned;

use super::Failure;

/// A segment of the path, counted from 0, percent-decoded. Keys are bytes and need not be UTF-8.
pub(super) fn segment(uri: &Uri, index: usize) -> BString {
    let raw = uri.path().split('/').nth(index + 1).unwrap_or_default();
    admin::percent::decode(raw).into()
}

/// The table named in `/v1/htable/NAME...`.
pub(super) fn table(uri: &Uri) -> Result<String, Failure> {
    String::from_utf8(segment(uri, 2).into()).map_err(|_| Failure::bad("a table's name is UTF-8"))
}

/// A value of the query, percent-decoded; a `+` is a plus, as in telephone numbers.
pub(super) fn parameter(uri: &Uri, name: &str) -> Option<BString> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.into_iter().find(|(key, _)| *key == name)?;
    Some(admin::percent::decode(value).into())
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// Rows beyond this key.
    pub(super) after: Option<BString>,
    /// At most so many.
    pub(super) limit: usize,
}

impl Page {
    /// As `?after=&limit=` says.
    pub(super) fn of(uri: &Uri) -> Result<Self, Failure> {
        let limit = match parameter(uri, "limit") {
            None => admin::DEFAULT_LIMIT,
            Some(text) => match std::str::from_utf8(&text).ok().and_then(|t| t.parse().ok()) {
                Some(limit) if limit > 0 => admin::MAX_LIMIT.min(limit),
                _ => return Err(Failure::bad(format!("limit={text} is not a number above 0"))),
            },
        };
        Ok(Self { after: parameter(uri, "after"), limit })
    }

    /// The header that names the next part, if this one is full.
    pub(super) fn next(&self, uri: &Uri, rows: usize, last: Option<&BString>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(last) = last.filter(|_| rows >= self.limit) {
            let after = admin::percent::encode(last);
            let link = format!("<{}?after={after}&limit={}>; rel=\"next\"", uri.path(), self.limit);
            // Path and query came in as a valid URI or are encoded here.
            headers.extend(link.parse().map(|value| (LINK, value)));
        }
        headers
    }
}

/// The body as JSON of a known shape; an empty one is `{}`.
pub(super) fn body<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Failure> {
    let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { bytes };
    serde_json::from_slice(bytes).map_err(|e| Failure::bad(format!("the body is not what is expected here: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().expect("a URI")
    }

    #[test]
    fn segments_are_decoded_bytes() {
        let uri = uri("/v1/htable/t/a%2Fb%FF");
        assert_eq!(table(&uri).ok().as_deref(), Some("t"));
        assert_eq!(segment(&uri, 3), b"a/b\xff");
    }

    #[test]
    fn a_plus_in_a_query_is_a_plus() {
        assert_eq!(parameter(&uri("/x?limit=1&after=+49%2030"), "after"), Some("+49 30".into()));
        assert_eq!(parameter(&uri("/x?limit=1"), "after"), None);
    }

    #[test]
    fn a_page_is_bounded_and_a_bad_limit_refused() {
        assert_eq!(Page::of(&uri("/x")).ok(), Some(Page { after: None, limit: admin::DEFAULT_LIMIT }));
        assert_eq!(Page::of(&uri("/x?limit=99999999")).ok().map(|p| p.limit), Some(admin::MAX_LIMIT));
        assert!(Page::of(&uri("/x?limit=0")).is_err());
        assert!(Page::of(&uri("/x?limit=many")).is_err());
    }

    #[test]
    fn a_full_page_names_the_next_one() {
        let uri = uri("/v1/htable/t?limit=2");
        let page = Page::of(&uri).expect("a page");
        assert!(page.next(&uri, 1, Some(&"k".into())).is_empty());
        let next = page.next(&uri, 2, Some(&"k 2".into()));
        assert_eq!(next[LINK], "</v1/htable/t?after=k%202&limit=2>; rel=\"next\"");
    }
}
