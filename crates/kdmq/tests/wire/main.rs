//! What the codecs of the channels accept, refuse and emit, channel by channel.

// The name by which the other rooms know this one.
extern crate starling_kdmq as kdmq;

mod htable;
mod notification;
mod properties;
mod usrloc;

use bstr::BStr;

/// Text as it stands in decoded actions.
fn text(text: &(impl AsRef<[u8]> + ?Sized)) -> std::borrow::Cow<'_, BStr> {
    std::borrow::Cow::Borrowed(BStr::new(text))
}

/// A body as a strict parser understands it.
fn strict(body: &[u8]) -> serde_json::Value {
    serde_json::from_slice(body).unwrap_or_else(|error| panic!("{error}: {}", BStr::new(body)))
}
