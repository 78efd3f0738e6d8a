//! What is shown of dialogs: those whose own cell is live, with their variables and profiles.

use bstr::BString;
use crdt::Replica;
use crdt::planted::{self, Bug};
use tables::dialog::{self, Dialog, Member, State};

use super::is_shown;
use crate::io::Now;
use crate::node::Node;
use crate::view::{DialogView, ProfileView};

impl Node {
    /// A live dialog, by its key `CALLID;FROMTAG`.
    pub fn dialog(&self, key: &[u8], now: Now) -> Option<DialogView> {
        dialog_view(&self.replica, key, now)
    }

    /// Live dialogs in byte order of their keys, beyond `after`. Looks at every cell once.
    pub fn dialogs(&self, after: Option<&[u8]>, limit: usize, now: Now) -> Vec<DialogView> {
        let counts = |member: &[u8]| member.is_empty() || planted::on(Bug::ChildrenOutliveDialog);
        let keys = self.page(|cell| cell.table == dialog::TABLE && counts(cell.member), after, limit, now);
        keys.iter().filter_map(|key| self.dialog(key, now)).collect()
    }
}

/// What a replica shows of a dialog.
pub(crate) fn dialog_view(replica: &Replica, key: &[u8], now: Now) -> Option<DialogView> {
    let (callid, from_tag) = dialog::parse_key(key)?;
    let mut view = DialogView { callid: callid.into(), from_tag: from_tag.into(), ..DialogView::default() };
    let main = replica.slot(dialog::TABLE, key, b"").and_then(|slot| replica.cell(slot));
    let body = main.filter(|cell| is_shown(cell, now)).and_then(|cell| cell.body);
    match body.and_then(|body| Dialog::decode(body).ok()) {
        Some(dialog) => {
            view.state = dialog.state.number();
            view.to_tag = dialog.to_tag.into_owned();
            view.from_uri = dialog.from_uri.into_owned();
            view.to_uri = dialog.to_uri.into_owned();
            view.answered = dialog.answered;
        }
        None if planted::on(Bug::ChildrenOutliveDialog) => view.state = State::Confirmed.number(),
        None => return None,
    }
    view.start = main.and_then(|cell| cell.birth).unwrap_or_default();
    view.expires = main.and_then(|cell| cell.deadline).unwrap_or_default();
    for (_, cell) in replica.members(dialog::TABLE, key).filter(|(_, cell)| is_shown(cell, now)) {
        let member = dialog::parse_member(cell.member);
        if matches!(member, Member::Dialog | Member::Unknown) {
            continue;
        }
        let Some(Ok(value)) = cell.body.map(dialog::decode_value) else { continue };
        let value: Option<BString> = value.map(Into::into);
        match member {
            Member::Var(name) => drop(view.vars.insert(name.into(), value.unwrap_or_default())),
            Member::Profile(name) => view.profiles.push(ProfileView { name: name.into(), value }),
            Member::Dialog | Member::Unknown => {}
        }
    }
    view.profiles.sort_unstable();
    let alive = main.is_some_and(|cell| is_shown(&cell, now)) || !(view.vars.is_empty() && view.profiles.is_empty());
    alive.then_some(view)
}
