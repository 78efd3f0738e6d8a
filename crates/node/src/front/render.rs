//! Messages of ours, from their parts to bytes.

use std::net::SocketAddr;

use bytes::Bytes;
use sip::transaction::branch;
use sip::{Message, MessageBuilder, Via, reason_phrase, write};

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
    let mut tag = Vec::with_capacity(16);
    write::hex(&mut tag, mix(0x5741_524c, fold(via.branch())), 16);
    let code = answer.code;
    let mut builder = MessageBuilder::response_to(message, source, code, reason_phrase(code), Some(&tag)).ok()?;
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
        SipTransport::Udp => (&b"UDP"[..], ""),
        SipTransport::Tcp => (&b"TCP"[..], ";transport=tcp"),
    };
    let (us, channel) = (local.addr, outgoing.channel);
    let padding = match outgoing.padding {
        0 => String::new(),
        bytes => format!(";{:x<bytes$}", "pad="),
    };
    let (mut to, mut from, mut ip, mut tag) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    write::addr(&mut to, outgoing.to.addr);
    write::addr(&mut from, us);
    write::ip(&mut ip, us.ip());
    write::hex(&mut tag, token, 16);
    let (channel, param) = (channel.as_bytes(), param.as_bytes());
    let uri = [b"sip:", channel, b"@", &to, param].concat();
    let branch = branch(token);
    let via = [b"SIP/2.0/", transport, b" ", &from, b";branch=", branch.as_bytes(), padding.as_bytes()];
    let message = MessageBuilder::request(b"KDMQ", &uri)
        .header("Via", via.concat())
        .header("To", [b"<", &uri[..], b">"].concat())
        .header("From", [b"<sip:", channel, b"@", &from, param, b">;tag=", &tag].concat())
        .header("CSeq", "10 KDMQ")
        .header("Call-ID", [&tag[..], b"@", &ip].concat())
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
