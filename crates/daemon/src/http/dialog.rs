//! Dialogs: what can be asked, and what can be changed. They live at nodes only; no server is told.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::Uri;
use axum::http::header::HeaderMap;
use bstr::{BString, ByteSlice};
use node::view::DialogView;
use node::{Command, DialogId, DialogState, DialogUpdate};

use super::request::{Page, body, segment};
use super::show::text;
use super::write::carry_out;
use super::{Answer, App, Failure};

fn key(view: &DialogView) -> BString {
    [&view.callid[..], b";", &view.from_tag[..]].concat().into()
}

fn show(view: DialogView) -> admin::Dialog {
    let profile = |profile: node::view::ProfileView| admin::DialogProfile {
        name: text(&profile.name),
        value: profile.value.map(|value| text(&value)),
    };
    admin::Dialog {
        id: text(&key(&view)),
        callid: text(&view.callid),
        from_tag: text(&view.from_tag),
        to_tag: text(&view.to_tag),
        state: view.state,
        from_uri: text(&view.from_uri),
        to_uri: text(&view.to_uri),
        start: view.start,
        answered: (view.answered > 0).then_some(view.answered),
        lifetime: view.expires.saturating_sub(view.start),
        expires: view.expires,
        vars: view.vars.iter().map(|(name, value)| (text(name), text(value))).collect(),
        profiles: view.profiles.into_iter().map(profile).collect(),
    }
}

pub(super) async fn list(State(app): State<App>, uri: Uri) -> Result<(HeaderMap, Json<Vec<admin::Dialog>>), Failure> {
    let page = Page::of(&uri)?;
    let (after, limit) = (page.after.clone(), page.limit);
    let rows = app.look(move |node, now| node.dialogs(after.as_ref().map(|a| &a[..]), limit, now)).await?;
    let next = page.next(&uri, rows.len(), rows.last().map(key).as_ref());
    Ok((next, Json(rows.into_iter().map(show).collect())))
}

pub(super) async fn one(State(app): State<App>, uri: Uri) -> Answer<admin::Dialog> {
    let id = segment(&uri, 2);
    let wanted = id.clone();
    let view = app.look(move |node, now| node.dialog(&wanted, now)).await?;
    view.map(|view| Json(show(view))).ok_or_else(|| Failure::not_found(format!("there is no dialog {id}")))
}

/// The dialog that a path names, and how it does.
fn named(uri: &Uri) -> Result<(DialogId, String), Failure> {
    let id = segment(uri, 2);
    let Some((callid, from_tag)) = id.split_once_str(";") else {
        return Err(Failure::bad(format!("{id} names no dialog: give Call-ID and From tag with a ; between them")));
    };
    Ok((DialogId { callid: callid.into(), from_tag: from_tag.into() }, format!("dialog {id}")))
}

pub(super) async fn set(State(app): State<App>, uri: Uri, bytes: Bytes) -> Answer<admin::Done> {
    let (id, what) = named(&uri)?;
    let said: admin::DialogSet = body(&bytes)?;
    let Some(state) = DialogState::from_number(said.state) else {
        return Err(Failure::bad(format!("state is {}, but must be from 1 to 4", said.state)));
    };
    let update = DialogUpdate {
        id,
        state,
        to_tag: said.to_tag.into(),
        from_uri: said.from_uri.into(),
        to_uri: said.to_uri.into(),
        lifetime_s: said.lifetime,
        start: said.start,
    };
    let what = format!("{what}; one is made in state 1, or with the time of its start");
    carry_out(&app, Command::DialogSet(Box::new(update)), what).await?;
    Ok(Json(admin::Done::OK))
}

pub(super) async fn end(State(app): State<App>, uri: Uri) -> Answer<admin::Done> {
    let (id, what) = named(&uri)?;
    carry_out(&app, Command::DialogEnd(id), what).await?;
    Ok(Json(admin::Done::OK))
}

pub(super) async fn set_var(State(app): State<App>, uri: Uri, bytes: Bytes) -> Answer<admin::Done> {
    let value: admin::VarSet = body(&bytes)?;
    var(&app, &uri, Some(value.value.into())).await
}

pub(super) async fn unset_var(State(app): State<App>, uri: Uri) -> Answer<admin::Done> {
    var(&app, &uri, None).await
}

async fn var(app: &App, uri: &Uri, value: Option<BString>) -> Answer<admin::Done> {
    let ((id, what), name) = (named(uri)?, segment(uri, 4));
    let what = if value.is_some() { what } else { format!("variable {name} of {what}") };
    carry_out(app, Command::DialogVar { id, name, value }, what).await?;
    Ok(Json(admin::Done::OK))
}

pub(super) async fn join_profile(State(app): State<App>, uri: Uri, bytes: Bytes) -> Answer<admin::Done> {
    let value = body::<admin::ProfileSet>(&bytes)?.value;
    profile(&app, &uri, value.map(Into::into), true).await
}

pub(super) async fn leave_profile(State(app): State<App>, uri: Uri) -> Answer<admin::Done> {
    profile(&app, &uri, None, false).await
}

async fn profile(app: &App, uri: &Uri, value: Option<BString>, counts: bool) -> Answer<admin::Done> {
    let ((id, what), name) = (named(uri)?, segment(uri, 4));
    let what = if counts { what } else { format!("profile {name} of {what}") };
    carry_out(app, Command::DialogProfile { id, name, value, counts }, what).await?;
    Ok(Json(admin::Done::OK))
}
