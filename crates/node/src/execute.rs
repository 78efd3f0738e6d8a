//! Writes that operators and embedders ask for.

mod dialog;

use crdt::{Order, Outcome, Rules, Slot, StampRule, TableRules, Wall, Write, counter};
use tables::dialog::{encode_value, profile_member, var_member};
use tables::htable;
use tables::location::{self, Contact, Member};

use crate::command::{Command, CommandError, CommandOk, NewContact, Pattern, Value};
use crate::config::Config;
use crate::cx::Cx;
use crate::dmq::{Facts, contact_of, counter_deadline, drop_aliases, is_counter, matching};

/// How long a dead version is kept beyond a table's longest life, seconds (R1).
const GRACE_S: u32 = 60;

/// Values longer than this cannot be told to a server.
const VALUE_MAX: usize = 16_384;

/// Longest name of a hash table.
const TABLE_NAME_MAX: usize = 48;

/// The rules of forgetting that follow from the configuration; the same on all nodes of a cluster.
pub(crate) fn rules(config: &Config) -> Rules {
    let max_skew = u32::try_from(config.max_skew_ms).unwrap_or(u32::MAX);
    let by_time = TableRules::by_time(config.location_max_ttl_s);
    let by_birth = TableRules::by_birth(config.dialog_max_life_s);
    let rules = Rules::new(GRACE_S, max_skew).table(location::TABLE, by_time).table(tables::dialog::TABLE, by_birth);
    let limited = config.htables.iter().filter(|(_, table)| table.max_ttl_s > 0);
    limited.fold(rules, |rules, (name, table)| rules.table(&htable::table(name), TableRules::by_time(table.max_ttl_s)))
}

/// Carries out a command.
pub(crate) fn execute(command: Command, facts: &Facts, cx: &mut Cx<'_>) -> Result<CommandOk, CommandError> {
    match command {
        Command::LocationAdd(contact) => add_contact(&contact, cx),
        Command::LocationRemove { aor, contact } => remove_contacts(&aor, contact.as_deref().map(|c| &c[..]), cx),
        Command::HtableSet { table, key, value, expires_in } => {
            set(&name_of(&table)?, &key, value, expires_in, facts, cx)
        }
        Command::HtableInc { table, key, by } => increment(&name_of(&table)?, &key, by, facts, cx),
        Command::HtableDelete { table, key } => delete(&name_of(&table)?, &key, cx),
        Command::HtableDeleteMatching { table, pattern, on_values } => {
            delete_matching(&name_of(&table)?, &pattern, on_values, cx)
        }
        Command::DialogSet(update) => dialog::set(&update, cx),
        Command::DialogVar { id, name, value } => {
            let body = value.map(|value| encode_value(Some(&value)));
            dialog::child(&id, var_member(&name), body, cx)
        }
        Command::DialogProfile { id, name, value, counts } => {
            let body = counts.then(|| encode_value(value.as_ref().map(|value| &value[..])));
            dialog::child(&id, profile_member(&name), body, cx)
        }
        Command::DialogEnd(id) => dialog::end(&id, cx),
    }
}

fn invalid(text: impl Into<String>) -> CommandError {
    CommandError::Invalid(text.into())
}

fn name_of(name: &str) -> Result<String, CommandError> {
    if name.is_empty() || name.len() > TABLE_NAME_MAX || name.bytes().any(|b| b.is_ascii_control()) {
        return Err(invalid(format!("a hash table's name has 1 to {TABLE_NAME_MAX} printable bytes")));
    }
    Ok(htable::table(name))
}

fn written(result: Result<Outcome, crdt::WriteError>) -> Result<Option<Slot>, CommandError> {
    match result {
        Ok(Outcome::Written(slot, _)) => Ok(Some(slot)),
        Ok(Outcome::Lost(_)) => Ok(None),
        Err(error) => Err(invalid(error.to_string())),
    }
}

fn add_contact(new: &NewContact, cx: &mut Cx<'_>) -> Result<CommandOk, CommandError> {
    if new.aor.is_empty() || new.aor.len() > location::MAX_AOR {
        return Err(invalid(format!("an AoR has 1 to {} bytes", location::MAX_AOR)));
    }
    if sip::Uri::parse(&new.contact).is_err() {
        return Err(invalid(format!("not a SIP URI: {}", new.contact)));
    }
    if new.q.is_some_and(|q| !(0..=1_000).contains(&q)) {
        return Err(invalid("q lies between 0 and 1"));
    }
    let now_s = cx.now.wall.0 / 1_000;
    let member = location::identity(&new.contact, &new.instance, new.reg_id);
    let held = cx
        .replica
        .slot(location::TABLE, &new.aor, &member)
        .and_then(|s| cx.replica.cell(s))
        .filter(|cell| cell.is_live(cx.now.wall))
        .and_then(|cell| contact_of(&cell).map(|(_, contact)| contact.into_owned()));
    let mut contact = held.clone().unwrap_or_else(|| fresh(cx));
    contact.uri = new.contact.clone().into();
    contact.received = new.received.clone().into();
    contact.path = new.path.clone().into();
    contact.instance = new.instance.clone().into();
    contact.reg_id = new.reg_id;
    if !new.user_agent.is_empty() {
        contact.user_agent = new.user_agent.clone().into();
    }
    contact.q = new.q.unwrap_or(location::NO_Q);
    contact.cseq = contact.cseq.wrapping_add(1).max(1);
    contact.last_modified = now_s;
    contact.expires = if new.expires_in == 0 { 0 } else { now_s + u64::from(new.expires_in) };
    let body = contact.encode(&member);
    let deadline = location::deadline(contact.expires, now_s, cx.config.location_max_ttl_s);
    written(cx.replica.write(
        cx.now.wall,
        Write {
            table: location::TABLE,
            key: &new.aor,
            member: &member,
            rank: 0,
            stamp: StampRule::Now,
            deadline: Some(deadline),
            body: Some(&body),
            via: 0,
            birth: None,
        },
    ))?;
    Ok(CommandOk::Done)
}

/// A contact that no server has yet: with a ruid and Call-ID of our own, unique by its sequence.
fn fresh(cx: &Cx<'_>) -> Contact<'static> {
    let origin = cx.config.origin;
    let sequence = cx.replica.clock().max(origin) + 1;
    Contact {
        ruid: std::borrow::Cow::Owned(format!("starling-{origin}-{sequence:x}").into()),
        callid: std::borrow::Cow::Owned(format!("{origin}-{sequence:x}@{}", cx.config.name).into()),
        methods: location::ALL_METHODS,
        user_agent: std::borrow::Cow::Owned(crate::front::AGENT.into()),
        q: location::NO_Q,
        ..Contact::default()
    }
}

fn remove_contacts(aor: &[u8], uri: Option<&[u8]>, cx: &mut Cx<'_>) -> Result<CommandOk, CommandError> {
    let wanted = uri.map(sip::normalised);
    let found: Vec<(Slot, Order, Vec<u8>)> = cx
        .replica
        .members(location::TABLE, aor)
        .filter(|(_, cell)| cell.is_live(cx.now.wall) && location::parse_member(cell.member) == Member::Device)
        .filter(|(_, cell)| match (&wanted, contact_of(cell)) {
            (Some(wanted), Some((_, contact))) => sip::normalised(&contact.uri) == *wanted,
            (None, _) => true,
            (Some(_), None) => false,
        })
        .map(|(slot, cell)| (slot, cell.order, cell.member.to_vec()))
        .collect();
    if found.is_empty() {
        return Err(CommandError::NotFound);
    }
    let count = found.len() as u64;
    for (slot, order, member) in found {
        match remembered(slot, order, cx) {
            Some(then) => remove_remembered((aor, &member), then, cx)?,
            None => _ = cx.replica.remove_observed(cx.now.wall, slot, order, 0),
        }
        drop_aliases(aor, &member, cx);
    }
    Ok(CommandOk::Count(count))
}

/// The latest time at which a contact may have been written that is held with no later time than its server gave it, in seconds and
/// by its own clock: a dump has told it, or whoever heard it had a clock that is behind. Elsewhere the same registration may be
/// held as it was heard, or will be as a dump tells it.
fn remembered(slot: Slot, order: Order, cx: &Cx<'_>) -> Option<Wall> {
    const SECOND_MS: u64 = 1_000;
    let cell = cx.replica.cell(slot)?;
    let (_, contact) = contact_of(&cell)?;
    let written = order.stamp.time.ms();
    let then =
        contact.last_modified.checked_mul(SECOND_MS).filter(|then| written <= *then && written < cx.now.wall.0)?;
    Some(Wall(then.saturating_add(SECOND_MS + cx.config.max_skew_ms)))
}

/// Removes such a contact, whatever time it has at other nodes.
fn remove_remembered((aor, member): (&[u8], &[u8]), then: Wall, cx: &mut Cx<'_>) -> Result<(), CommandError> {
    let removal = Write {
        table: location::TABLE,
        key: aor,
        member,
        rank: 0,
        stamp: StampRule::At(then),
        deadline: None,
        body: None,
        via: 0,
        birth: None,
    };
    written(cx.replica.write(cx.now.wall, removal)).map(drop)
}

fn check_key(key: &[u8]) -> Result<(), CommandError> {
    if key.is_empty() || key.len() > 1_024 || key.contains(&0) {
        return Err(invalid("a key has 1 to 1024 bytes, none of them zero"));
    }
    Ok(())
}

fn check_value(value: &Value) -> Result<(), CommandError> {
    match value {
        Value::Int(int) if i32::try_from(*int).is_err() => {
            Err(invalid(format!("{int} does not fit the 32 bits of a Kamailio integer")))
        }
        Value::Str(text) if text.len() > VALUE_MAX || text.contains(&0) => {
            Err(invalid(format!("a value has at most {VALUE_MAX} bytes, none of them zero")))
        }
        _ => Ok(()),
    }
}

fn set(
    table: &str,
    key: &[u8],
    value: Value,
    expires_in: Option<u32>,
    facts: &Facts,
    cx: &mut Cx<'_>,
) -> Result<CommandOk, CommandError> {
    check_key(key)?;
    check_value(&value)?;
    let name = htable::name(table).unwrap_or_default();
    if is_counter(cx.config, name) {
        let Value::Int(value) = value else { return Err(invalid("a counter table holds integers")) };
        let ends = counter_deadline(table, cx.config, cx.now.wall);
        counter::set(cx.replica, cx.now.wall, (table, key), value, ends, 0).map_err(|e| invalid(e.to_string()))?;
        return Ok(CommandOk::Done);
    }
    let now_s = cx.now.wall.0 / 1_000;
    let deadline = match expires_in {
        Some(seconds) => Some(now_s + u64::from(seconds)),
        None => facts.common(cx.config, name).of_set(cx.config, name, now_s, live(table, key, cx).and_then(|(_, d)| d)),
    };
    put(table, key, &value, deadline, cx)?;
    Ok(CommandOk::Done)
}

fn put(table: &str, key: &[u8], value: &Value, deadline: Option<u64>, cx: &mut Cx<'_>) -> Result<(), CommandError> {
    let body = row(value).encode();
    let write = Write {
        table,
        key,
        member: b"",
        rank: 0,
        stamp: StampRule::Now,
        deadline,
        body: Some(&body),
        via: 0,
        birth: None,
    };
    written(cx.replica.write(cx.now.wall, write)).map(drop)
}

fn row(value: &Value) -> htable::Value<'_> {
    match value {
        Value::Int(int) => htable::Value::Int(*int),
        Value::Str(text) => htable::Value::Str(std::borrow::Cow::Borrowed(text.as_ref())),
    }
}

/// The live value of a plain entry, and its deadline.
fn live(table: &str, key: &[u8], cx: &Cx<'_>) -> Option<(Value, Option<u64>)> {
    let cell = cx.replica.cell(cx.replica.slot(table, key, b"")?)?;
    if !cell.is_live(cx.now.wall) {
        return None;
    }
    let value = match htable::Value::decode(cell.body?).ok()? {
        htable::Value::Int(int) => Value::Int(int),
        htable::Value::Str(text) => Value::Str(text.into_owned()),
    };
    Some((value, cell.deadline))
}

fn increment(table: &str, key: &[u8], by: i64, facts: &Facts, cx: &mut Cx<'_>) -> Result<CommandOk, CommandError> {
    check_key(key)?;
    let name = htable::name(table).unwrap_or_default();
    let now = cx.now.wall;
    let counts = is_counter(cx.config, name);
    let (before, held) = match counts {
        true => (counter::value(cx.replica, table, key, now).unwrap_or(0), None),
        false => match live(table, key, cx) {
            Some((Value::Int(int), deadline)) => (int, deadline),
            Some((Value::Str(_), _)) => return Err(invalid("the entry is a string")),
            None => (0, None),
        },
    };
    let value = before.checked_add(by).ok_or_else(|| invalid("the sum does not fit"))?;
    check_value(&Value::Int(value))?;
    if counts {
        let ends = counter_deadline(table, cx.config, now);
        counter::add(cx.replica, now, (table, key), by, ends, 0).map_err(|e| invalid(e.to_string()))?;
    } else {
        let deadline = facts.common(cx.config, name).of_set(cx.config, name, now.0 / 1_000, held);
        put(table, key, &Value::Int(value), deadline, cx)?;
    }
    Ok(CommandOk::Value(value))
}

fn delete(table: &str, key: &[u8], cx: &mut Cx<'_>) -> Result<CommandOk, CommandError> {
    check_key(key)?;
    let now = cx.now.wall;
    if is_counter(cx.config, htable::name(table).unwrap_or_default()) {
        if counter::value(cx.replica, table, key, now).is_none() {
            return Err(CommandError::NotFound);
        }
        counter::delete(cx.replica, now, (table, key), 0).map_err(|e| invalid(e.to_string()))?;
        return Ok(CommandOk::Done);
    }
    if live(table, key, cx).is_none() {
        return Err(CommandError::NotFound);
    }
    let write = Write {
        table,
        key,
        member: b"",
        rank: 0,
        stamp: StampRule::Now,
        deadline: None,
        body: None,
        via: 0,
        birth: None,
    };
    written(cx.replica.write(now, write))?;
    Ok(CommandOk::Done)
}

fn delete_matching(
    table: &str,
    pattern: &Pattern,
    on_values: bool,
    cx: &mut Cx<'_>,
) -> Result<CommandOk, CommandError> {
    let found = match pattern {
        Pattern::Prefix(prefix) => matching(table, on_values, &|text| text.starts_with(prefix), cx),
        Pattern::Regex(regex) => {
            let regex = regex::bytes::Regex::new(regex).map_err(|e| invalid(format!("bad pattern: {e}")))?;
            matching(table, on_values, &|text| regex.is_match(text), cx)
        }
    };
    let count = found.len() as u64;
    for (slot, order) in found {
        cx.replica.remove_observed(cx.now.wall, slot, order, 0);
    }
    Ok(CommandOk::Count(count))
}
