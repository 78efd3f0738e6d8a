//! Writes about dialogs.
//!
//! A state never goes back and what has ended stays ended: both are refused here where this node knows better, and lose by
//! their rank where it does not. **Invariant:** every version of a dialog, and of its variables and profiles, has the birth
//! that the dialog got when it was made (R1).

use crdt::planted::{self, Bug};
use crdt::{Order, Rank, Slot, StampRule, Write};
use tables::dialog::{self, Dialog, FieldError, Member, State};

use super::{invalid, written};
use crate::command::{CommandError, CommandOk, DialogId, DialogUpdate};
use crate::cx::Cx;

/// Variables and profiles of one dialog at most: each look at a dialog walks them.
pub(super) const CHILDREN_MAX: usize = 64;

/// What this node knows of a dialog.
enum Held {
    /// Nothing, or not any more.
    Unknown,
    /// It has ended, or its lifetime is over.
    Over { removed: bool },
    /// It lives.
    Live(Box<Row>),
}

/// A dialog that lives.
struct Row {
    dialog: Dialog<'static>,
    birth: u64,
    deadline: u64,
}

impl From<FieldError> for CommandError {
    fn from(error: FieldError) -> Self {
        invalid(error.to_string())
    }
}

fn key_of(id: &DialogId) -> Result<Vec<u8>, CommandError> {
    Ok(dialog::key(&id.callid, &id.from_tag)?)
}

fn held(key: &[u8], cx: &Cx<'_>) -> Held {
    let Some(cell) = cx.replica.slot(dialog::TABLE, key, b"").and_then(|slot| cx.replica.cell(slot)) else {
        return Held::Unknown;
    };
    let dialog = cell.body.and_then(|body| Dialog::decode(body).ok()).map(Dialog::into_owned);
    match (dialog, cell.birth, cell.deadline) {
        (Some(dialog), Some(birth), Some(deadline)) if cell.is_live(cx.now.wall) => {
            Held::Live(Box::new(Row { dialog, birth, deadline }))
        }
        _ => Held::Over { removed: cell.body.is_none() },
    }
}

/// The dialog, if it lives.
fn live(key: &[u8], cx: &Cx<'_>) -> Result<Box<Row>, CommandError> {
    match held(key, cx) {
        Held::Unknown => Err(CommandError::NotFound),
        Held::Over { .. } => Err(CommandError::DialogEnded),
        Held::Live(row) => Ok(row),
    }
}

fn rank(state: State) -> Rank {
    if planted::on(Bug::StateIsNoRank) { 1 } else { state.rank() }
}

/// Makes a dialog, or takes it further.
pub(super) fn set(update: &DialogUpdate, cx: &mut Cx<'_>) -> Result<CommandOk, CommandError> {
    let key = key_of(&update.id)?;
    dialog::check_to_tag(&update.to_tag)?;
    if update.state == State::Deleted {
        return Err(invalid("a dialog is not set to its last state, but ended"));
    }
    if update.lifetime_s == Some(0) {
        return Err(invalid("a lifetime is at least a second"));
    }
    let row = match held(&key, cx) {
        Held::Over { .. } => return Err(CommandError::DialogEnded),
        Held::Live(row) => taken_further(*row, update)?,
        Held::Unknown => made(update, cx)?,
    };
    put(&key, row, update.lifetime_s, cx)
}

/// A dialog that this node does not know yet.
fn made(update: &DialogUpdate, cx: &Cx<'_>) -> Result<Row, CommandError> {
    let now_s = cx.now.wall.secs();
    // A second birth of the same dialog is harmless only while the first one's grace covers it: an INVITE is repeated for
    // half a minute, everything later may come at any time (R1).
    let birth = match update.start {
        Some(start) => start.min(now_s),
        None if update.state == State::Unconfirmed => now_s,
        None => return Err(CommandError::NotFound),
    };
    dialog::check_uri("From URI", &update.from_uri)?;
    dialog::check_uri("To URI", &update.to_uri)?;
    let deadline = birth.saturating_add(u64::from(cx.config.dialog_max_life_s));
    if deadline <= now_s {
        return Err(invalid("the dialog began longer ago than any may last"));
    }
    let dialog = Dialog {
        state: update.state,
        to_tag: update.to_tag.clone().into(),
        from_uri: update.from_uri.clone().into(),
        to_uri: update.to_uri.clone().into(),
        answered: 0,
    };
    Ok(Row { dialog, birth, deadline })
}

/// A dialog that lives, with what an update says; what it leaves out stays.
fn taken_further(mut row: Row, update: &DialogUpdate) -> Result<Row, CommandError> {
    let held = row.dialog.state;
    if update.state < held {
        return Err(CommandError::StateGoesBack { held: held.number(), asked: update.state.number() });
    }
    row.dialog.state = update.state;
    if !update.from_uri.is_empty() {
        dialog::check_uri("From URI", &update.from_uri)?;
        row.dialog.from_uri = update.from_uri.clone().into();
    }
    if !update.to_uri.is_empty() {
        dialog::check_uri("To URI", &update.to_uri)?;
        row.dialog.to_uri = update.to_uri.clone().into();
    }
    if !update.to_tag.is_empty() {
        row.dialog.to_tag = update.to_tag.clone().into();
    }
    Ok(row)
}

fn put(key: &[u8], row: Row, lifetime_s: Option<u32>, cx: &mut Cx<'_>) -> Result<CommandOk, CommandError> {
    let now_s = cx.now.wall.secs();
    let Row { mut dialog, birth, deadline } = row;
    if dialog.state >= State::ConfirmedNoAck && dialog.answered == 0 {
        dialog.answered = now_s;
    }
    let deadline = lifetime_s.map_or(deadline, |lifetime| now_s + u64::from(lifetime));
    let body = dialog.encode();
    let version = (rank(dialog.state), Some(birth), Some(deadline), Some(&body[..]));
    write(key, b"", version, cx)?;
    Ok(CommandOk::Done)
}

type Version<'a> = (Rank, Option<u64>, Option<u64>, Option<&'a [u8]>);

fn write(
    key: &[u8],
    member: &[u8],
    (rank, birth, deadline, body): Version<'_>,
    cx: &mut Cx<'_>,
) -> Result<(), CommandError> {
    let (table, stamp) = (dialog::TABLE, StampRule::Now);
    let write = Write { table, key, member, rank, stamp, deadline, body, via: 0, birth };
    written(cx.replica.write(cx.now.wall, write)).map(drop)
}

/// Ends a dialog, and removes its variables and profiles. One that this node does not know ends as well: its BYE may have
/// come before the news of its INVITE (docs/rules.md 10). Says how many dialogs it ended that lived here: one or none.
pub(super) fn end(id: &DialogId, cx: &mut Cx<'_>) -> Result<CommandOk, CommandError> {
    let key = key_of(id)?;
    let known = held(&key, cx);
    if !matches!(known, Held::Over { removed: true }) {
        write(&key, b"", (rank(State::Deleted), None, None, None), cx)?;
    }
    if !planted::on(Bug::ChildrenNotRemoved) {
        let children: Vec<(Slot, Order)> = children(&key, cx).map(|(slot, cell)| (slot, cell.order)).collect();
        for (slot, order) in children {
            cx.replica.remove_observed(cx.now.wall, slot, order, 0);
        }
    }
    Ok(CommandOk::Count(u64::from(matches!(known, Held::Live(_)))))
}

/// Variables and profiles that have a value here.
fn children<'a>(key: &[u8], cx: &'a Cx<'_>) -> impl Iterator<Item = (Slot, crdt::CellRef<'a>)> {
    let now = cx.now.wall;
    let all = cx.replica.members(dialog::TABLE, key);
    all.filter(move |(_, cell)| cell.is_live(now) && dialog::parse_member(cell.member) != Member::Dialog)
}

/// Sets a variable or profile of a dialog; `None` takes it away.
pub(super) fn child(
    id: &DialogId,
    member: Result<Vec<u8>, FieldError>,
    body: Option<Result<Vec<u8>, FieldError>>,
    cx: &mut Cx<'_>,
) -> Result<CommandOk, CommandError> {
    let (key, member, body) = (key_of(id)?, member?, body.transpose()?);
    let row = live(&key, cx)?;
    let known = children(&key, cx).any(|(_, cell)| cell.member == member);
    match &body {
        None if !known => return Err(CommandError::NotFound),
        Some(_) if !known && children(&key, cx).count() >= CHILDREN_MAX => {
            return Err(invalid(format!("a dialog has at most {CHILDREN_MAX} variables and profiles")));
        }
        _ => {}
    }
    let deadline = body.as_ref().map(|_| row.birth.saturating_add(u64::from(cx.config.dialog_max_life_s)));
    write(&key, &member, (0, Some(row.birth), deadline, body.as_deref()), cx)?;
    Ok(CommandOk::Done)
}
