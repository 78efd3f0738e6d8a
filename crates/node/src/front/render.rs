//! Messages of ours, from their parts to bytes.

use std::net::SocketAddr;

use bytes::Bytes;
use sip::transaction::branch;
use sip::{Message, MessageBuilder, Via, reason_phrase};

use super::{AGENT, Answer, Outgoing};
use crate::config::{Config, SipTransport};

/// The answer to a request with this topmost Via, and where it goes.
pub(super) fn render(
    message: &Message<'_>,
    via: &Via<'_>,
    source: SocketAddr,
    answer: &Answer,
) -> Option<(SocketAddr, Bytes)> {
    let to = via.response_address(source);
    // The tag depends on the request alone, so that a repeated answer is the same to the byte.
    let tag = format!("{:016x}", mix(0x5741_524c, fold(via.branch())));
    let code = answer.code;
    let mut builder =
        MessageBuilder::response_to(message, source, code, reason_phrase(code), Some(tag.as_bytes())).ok()?;
    if code == 405 || code == 200 && message.method() == Some(&b"OPTIONS"[..]) {
        builder = builder.header("Allow", "KDMQ, OPTIONS");
    }
    if answer.body.is_some() {
        builder = builder.header("Content-Type", "text/plain");
    }
    let bytes = builder.header("Server", AGENT).finish(answer.body.as_deref().unwrap_or_default());
    Some((to, bytes.into()))
}

pub(super) fn build(outgoing: &Outgoing<'_>, token: u64, config: &Config) -> Option<Bytes> {
    let local = config.sip.get(usize::from(outgoing.socket.0))?;
    let (transport, param) = match local.transport {
        SipTransport::Udp => ("UDP", ""),
        SipTransport::Tcp => ("TCP", ";transport=tcp"),
    };
    let (us, channel) = (local.addr, outgoing.channel);
    let padding = match outgoing.padding {
        0 => String::new(),
        bytes => format!(";{:x<bytes$}", "pad="),
    };
    let uri = format!("sip:{channel}@{}{}", outgoing.to.addr, param);
    let message = MessageBuilder::request(b"KDMQ", uri.as_bytes())
        .header("Via", format!("SIP/2.0/{transport} {us};branch={}{padding}", branch(token)))
        .header("To", format!("<{uri}>"))
        .header("From", format!("<sip:{channel}@{us}{param}>;tag={token:016x}"))
        .header("CSeq", "10 KDMQ")
        .header("Call-ID", format!("{token:016x}@{}", us.ip()))
        .content_length()
        .header("User-Agent", AGENT)
        .header("Max-Forwards", outgoing.max_forwards.to_string())
        .header("Content-Type", outgoing.content_type)
        .finish(outgoing.body);
    Some(message.into())
}

/// A bijection of `value` for each `secret` (the finaliser of splitmix64), so tokens never repeat.
pub(super) fn mix(secret: u64, value: u64) -> u64 {
    let mut z = value.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ secret;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn fold(bytes: &[u8]) -> u64 {
    use std::hash::Hasher;
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}
