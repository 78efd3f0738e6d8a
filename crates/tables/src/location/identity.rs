//! Which cell a contact is: its member within the AoR.

use bstr::BStr;
use crdt::cell::MEMBER_MAX;

use crate::codec::RowError;

const INSTANCE: &[u8] = b"i:";
const URI: &[u8] = b"u:";
const RUID: &[u8] = b"r:";

/// The member of a contact: its instance and reg-id where it has an instance (RFC 5626), else its
/// contact URI, normalised by [`sip::normalised`] so that spellings of one address are one device.
///
/// A URI whose normal form, full of escapes, would be too long for a member stands for itself as
/// it is written.
pub fn identity(uri: &[u8], instance: &[u8], reg_id: u32) -> Vec<u8> {
    if instance.is_empty() {
        let normal = sip::normalised(uri);
        let fits = URI.len() + normal.len() <= MEMBER_MAX;
        return [URI, if fits { &normal } else { uri }].concat();
    }
    [INSTANCE, instance, b"#", reg_id.to_string().as_bytes()].concat()
}

/// The member of the alias cell for `ruid`. Its body is the member of the contact it names.
pub fn alias_member(ruid: &[u8]) -> Vec<u8> {
    [RUID, ruid].concat()
}

/// What a member of the location table stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member<'a> {
    /// A device; the cell's body is a [`Contact`](super::Contact).
    Device,
    /// A server's name for a device; the cell's body is the device's member.
    Ruid(&'a [u8]),
}

/// Tells what `member` stands for; only `r:` members are aliases.
pub fn parse_member(member: &[u8]) -> Member<'_> {
    match member.strip_prefix(RUID) {
        Some(ruid) => Member::Ruid(ruid),
        None => Member::Device,
    }
}

/// What a device's member says by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device<'a> {
    /// Instance and reg-id.
    Instance(&'a BStr, u32),
    /// The normalised contact URI.
    Uri(&'a BStr),
}

/// Takes a device's member apart.
pub(super) fn device(member: &[u8]) -> Result<Device<'_>, RowError> {
    if let Some(uri) = member.strip_prefix(URI) {
        return Ok(Device::Uri(BStr::new(uri)));
    }
    let rest = member.strip_prefix(INSTANCE).ok_or(RowError::UnknownMember)?;
    let hash = rest.iter().rposition(|&byte| byte == b'#').ok_or(RowError::UnknownMember)?;
    let (instance, digits) = rest.split_at(hash);
    let reg_id = digits.get(1..).and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| d.parse().ok());
    Ok(Device::Instance(BStr::new(instance), reg_id.ok_or(RowError::UnknownMember)?))
}
