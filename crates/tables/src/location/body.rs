//! The body of a contact's cell.

use std::borrow::Cow;

use bstr::BStr;

use super::identity::{Device, device};
use super::{ALL_METHODS, Contact, NO_Q, NO_USER_AGENT};
use crate::codec::{Fields, RowError, put_int, put_text, put_uint};

/// The format written and read by this version.
const FORMAT: u8 = 1;

/// Bits of the mask of fields that differ from their default, in the order of the fields.
mod bit {
    pub(super) const URI: u16 = 1;
    pub(super) const INSTANCE: u16 = 1 << 1;
    pub(super) const RECEIVED: u16 = 1 << 2;
    pub(super) const PATH: u16 = 1 << 3;
    pub(super) const USER_AGENT: u16 = 1 << 4;
    pub(super) const SOCK: u16 = 1 << 5;
    pub(super) const SOCKNAME: u16 = 1 << 6;
    pub(super) const XAVPS: u16 = 1 << 7;
    pub(super) const UNKNOWN: u16 = 1 << 8;
    pub(super) const Q: u16 = 1 << 9;
    pub(super) const METHODS: u16 = 1 << 10;
    pub(super) const FLAGS: u16 = 1 << 11;
    pub(super) const CFLAGS: u16 = 1 << 12;
    pub(super) const REG_ID: u16 = 1 << 13;
    pub(super) const SERVER_ID: u16 = 1 << 14;
}

impl<'a> Contact<'a> {
    /// The cell body of this contact within `member`, which is its own [`Contact::member`]. With
    /// any other member the body is correct too, only longer.
    pub fn encode(&self, member: &[u8]) -> Vec<u8> {
        let (uri, instance, reg_id) = told(member).unwrap_or_default();
        let texts = [
            (bit::URI, self.uri.as_ref(), uri),
            (bit::INSTANCE, self.instance.as_ref(), instance),
            (bit::RECEIVED, self.received.as_ref(), BStr::new(b"")),
            (bit::PATH, self.path.as_ref(), BStr::new(b"")),
            (bit::USER_AGENT, self.user_agent.as_ref(), BStr::new(NO_USER_AGENT)),
            (bit::SOCK, self.sock.as_ref(), BStr::new(b"")),
            (bit::SOCKNAME, self.sockname.as_ref(), BStr::new(b"")),
        ];
        let optional = [(bit::XAVPS, &self.xavps), (bit::UNKNOWN, &self.unknown)];
        let numbers = [
            (bit::METHODS, self.methods, ALL_METHODS),
            (bit::FLAGS, self.flags, 0),
            (bit::CFLAGS, self.cflags, 0),
            (bit::REG_ID, self.reg_id, reg_id),
            (bit::SERVER_ID, self.server_id, 0),
        ];

        let long = texts.iter().map(|(_, text, _)| text.len()).sum::<usize>() + self.ruid.len() + self.callid.len();
        // Numbers and lengths take less than the rest.
        let mut body = Vec::with_capacity(long + 96);
        body.extend_from_slice(&[FORMAT, 0, 0]);
        let mut mask = 0;
        put_text(&mut body, &self.ruid);
        put_text(&mut body, &self.callid);
        put_uint(&mut body, u64::from(self.cseq));
        put_uint(&mut body, self.expires);
        // A registration's length is short where two absolute times are long.
        put_int(&mut body, self.expires.wrapping_sub(self.last_modified) as i64);
        for (bit, text, _) in texts.iter().filter(|(_, text, told)| text != told) {
            mask |= bit;
            put_text(&mut body, text);
        }
        for (bit, text) in optional {
            if let Some(text) = text {
                mask |= bit;
                put_text(&mut body, text);
            }
        }
        if self.q != NO_Q {
            mask |= bit::Q;
            put_int(&mut body, i64::from(self.q));
        }
        for (bit, number, _) in numbers.iter().filter(|(_, number, told)| number != told) {
            mask |= bit;
            put_uint(&mut body, u64::from(*number));
        }
        body[1..3].copy_from_slice(&mask.to_le_bytes());
        body
    }

    /// Reads the body of the cell at `member`, borrowing from both.
    ///
    /// # Errors
    /// [`RowError`] if the body is not what [`Contact::encode`] writes, or `member` is no device's.
    pub fn decode(body: &'a [u8], member: &'a [u8]) -> Result<Self, RowError> {
        let (uri, instance, reg_id) = told(member)?;
        let mut fields = Fields(body);
        let format = fields.byte("format")?;
        if format != FORMAT {
            return Err(RowError::UnknownFormat { format, known: FORMAT });
        }
        let mask = u16::from_le_bytes([fields.byte("mask")?, fields.byte("mask")?]);
        if mask >= bit::SERVER_ID << 1 {
            return Err(RowError::OutOfRange { field: "mask" });
        }
        let has = |bit: u16| mask & bit != 0;
        let ruid = fields.text("ruid")?;
        let callid = fields.text("callid")?;
        let cseq = fields.uint32("cseq")?;
        let expires = fields.uint("expires")?;
        let last_modified = expires.wrapping_sub(fields.int("last_modified")? as u64);

        let mut text = |bit, field, default: &'a BStr| -> Result<Cow<'a, BStr>, RowError> {
            let text = if has(bit) { fields.text(field)? } else { default };
            Ok(Cow::Borrowed(text))
        };
        let none = BStr::new(b"");
        let contact = Self {
            ruid: Cow::Borrowed(ruid),
            callid: Cow::Borrowed(callid),
            cseq,
            expires,
            last_modified,
            uri: text(bit::URI, "uri", uri)?,
            instance: text(bit::INSTANCE, "instance", instance)?,
            received: text(bit::RECEIVED, "received", none)?,
            path: text(bit::PATH, "path", none)?,
            user_agent: text(bit::USER_AGENT, "user_agent", BStr::new(NO_USER_AGENT))?,
            sock: text(bit::SOCK, "sock", none)?,
            sockname: text(bit::SOCKNAME, "sockname", none)?,
            xavps: has(bit::XAVPS).then(|| text(bit::XAVPS, "xavps", none)).transpose()?,
            unknown: has(bit::UNKNOWN).then(|| text(bit::UNKNOWN, "unknown", none)).transpose()?,
            ..Self::default()
        };
        contact.with_numbers(fields, mask, reg_id)
    }

    fn with_numbers(mut self, mut fields: Fields<'a>, mask: u16, reg_id: u32) -> Result<Self, RowError> {
        if mask & bit::Q != 0 {
            let q = fields.int("q")?;
            self.q = i32::try_from(q).map_err(|_| RowError::OutOfRange { field: "q" })?;
        }
        let mut number = |bit: u16, field, default| match mask & bit {
            0 => Ok(default),
            _ => fields.uint32(field),
        };
        self.methods = number(bit::METHODS, "methods", ALL_METHODS)?;
        self.flags = number(bit::FLAGS, "flags", 0)?;
        self.cflags = number(bit::CFLAGS, "cflags", 0)?;
        self.reg_id = number(bit::REG_ID, "reg_id", reg_id)?;
        self.server_id = number(bit::SERVER_ID, "server_id", 0)?;
        fields.end()?;
        Ok(self)
    }
}

/// What `member` tells of a contact: URI, instance, reg-id.
fn told(member: &[u8]) -> Result<(&BStr, &BStr, u32), RowError> {
    let none = BStr::new(b"");
    Ok(match device(member)? {
        Device::Uri(uri) => (uri, none, 0),
        Device::Instance(instance, reg_id) => (none, instance, reg_id),
    })
}
