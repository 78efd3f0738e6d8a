//! What Kamailio's RPC answers, in the form that is compared.

use anyhow::{Context, bail};
use serde_json::Value as Json;

use crate::compare::{Contact, Value, unix_now};

/// Contacts that have not expired: the server shows dead ones until its timer has swept them.
pub(super) fn live_contacts(list: &Json) -> anyhow::Result<Vec<Contact>> {
    let all = list.as_array().into_iter().flatten();
    all.filter_map(|c| contact(&c["Contact"]).transpose()).collect()
}

pub(super) fn contact(row: &Json) -> anyhow::Result<Option<Contact>> {
    let expires = match &row["Expires"] {
        Json::Number(n) => match n.as_i64().context("Expires")? {
            left if left <= 0 => return Ok(None),
            left => unix_now() + left.unsigned_abs(),
        },
        Json::String(word) if word == "permanent" => 0,
        Json::String(_) => return Ok(None), // "expired", "deleted"
        other => bail!("Expires: {other}"),
    };
    let q = row["Q"].as_f64().unwrap_or(-1.0);
    let number = |name: &str| row[name].as_i64().with_context(|| format!("{name}: {}", row[name]));
    Ok(Some(Contact {
        contact: text(&row["Address"]),
        received: text(&row["Received"]),
        path: text(&row["Path"]),
        // Kamailio prints q / 1000 as a fraction.
        #[allow(clippy::cast_possible_truncation)]
        q: if q < 0.0 { -1 } else { (q * 1000.0).round() as i32 },
        user_agent: text(&row["User-Agent"]),
        instance: text(&row["Instance"]),
        reg_id: u32::try_from(number("Reg-Id")?)?,
        methods: u32::try_from(number("Methods")? & 0xffff_ffff)?,
        callid: text(&row["Call-ID"]),
        cseq: u32::try_from(number("CSeq")?)?,
        expires,
        ruids: vec![text(&row["Ruid"])],
    }))
}

/// A string, empty for Kamailio's words for none.
pub(super) fn text(value: &Json) -> String {
    match value {
        Json::String(s) if s == "[not set]" || s == "<null>" => String::new(),
        Json::String(s) => s.clone(),
        Json::Null => String::new(),
        other => other.to_string(),
    }
}

pub(super) fn value(value: &Json) -> anyhow::Result<Value> {
    match value {
        Json::String(s) => Ok(Value::Str(s.clone())),
        Json::Number(n) => Ok(Value::Int(n.as_i64().context("an integer")?)),
        other => bail!("neither string nor integer: {other}"),
    }
}

/// `NEVER` or `2026-11-23 12:49:35`, in UTC since we start it so.
pub(super) fn expiry(text: &str) -> anyhow::Result<Option<u64>> {
    if text == "NEVER" {
        return Ok(None);
    }
    let numbers: Vec<i64> = text.split(['-', ' ', ':']).map(str::parse).collect::<Result<_, _>>()?;
    let &[year, month, day, hour, minute, second] = numbers.as_slice() else { bail!("not a time: {text}") };
    // Days from civil, the year beginning in March so that the leap day is its last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Ok(Some(u64::try_from(((days * 24 + hour) * 60 + minute) * 60 + second)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_htable_get_is_read_as_unix_seconds() {
        assert_eq!(expiry("NEVER").unwrap(), None);
        assert_eq!(expiry("1970-01-01 00:00:00").unwrap(), Some(0));
        assert_eq!(expiry("2024-02-29 12:00:01").unwrap(), Some(1_709_208_001));
        assert_eq!(expiry("2026-11-23 12:49:35").unwrap(), Some(1_795_438_175));
        assert!(expiry("soon").is_err());
    }
}
