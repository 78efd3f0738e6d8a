//! What can be asked.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::http::header::HeaderMap;

use super::request::{Page, segment, table};
use super::{Answer, App, Failure, show};

pub(super) async fn status(State(app): State<App>) -> Answer<admin::Status> {
    let view = app.look(|node, now| node.status(now)).await?;
    Ok(Json(show::status(view, &app.info)))
}

pub(super) async fn members(State(app): State<App>) -> Answer<Vec<admin::Member>> {
    let views = app.look(|node, now| node.members(now)).await?;
    Ok(Json(views.into_iter().map(show::member).collect()))
}

pub(super) async fn peers(State(app): State<App>) -> Answer<Vec<admin::Peer>> {
    let views = app.look(|node, now| node.peers(now)).await?;
    Ok(Json(views.into_iter().map(show::peer).collect()))
}

pub(super) async fn digest(State(app): State<App>) -> Answer<admin::Digest> {
    let view = app.look(|node, now| node.digest(now)).await?;
    Ok(Json(show::digest(view)))
}

pub(super) async fn locations(
    State(app): State<App>,
    uri: Uri,
) -> Result<(HeaderMap, Json<Vec<admin::Location>>), Failure> {
    let page = Page::of(&uri)?;
    let (after, limit) = (page.after.clone(), page.limit);
    let rows = app.look(move |node, now| node.location_list(after.as_ref().map(|a| &a[..]), limit, now)).await?;
    let next = page.next(&uri, rows.len(), rows.last().map(|(aor, _)| aor));
    let rows = rows.into_iter().map(|(aor, contacts)| show::location(&aor, contacts)).collect();
    Ok((next, Json(rows)))
}

pub(super) async fn location(State(app): State<App>, uri: Uri) -> Answer<admin::Location> {
    let aor = segment(&uri, 2);
    let wanted = aor.clone();
    let contacts = app.look(move |node, now| node.location(&wanted, now)).await?;
    if contacts.is_empty() {
        return Err(Failure::not_found(format!("{aor} has no contact")));
    }
    Ok(Json(show::location(&aor, contacts)))
}

pub(super) async fn htables(State(app): State<App>) -> Answer<Vec<admin::Htable>> {
    let views = app.look(|node, now| node.htables(now)).await?;
    Ok(Json(views.into_iter().map(show::htable).collect()))
}

pub(super) async fn entries(State(app): State<App>, uri: Uri) -> Result<(HeaderMap, Json<Vec<admin::Entry>>), Failure> {
    let (page, table) = (Page::of(&uri)?, table(&uri)?);
    let (name, after, limit) = (table.clone(), page.after.clone(), page.limit);
    let rows = app.look(move |node, now| {
        let rows = node.htable_list(&name, after.as_ref().map(|a| &a[..]), limit, now);
        // A table exists when it is configured or holds something.
        (!rows.is_empty() || node.htables(now).iter().any(|t| t.name == name)).then_some(rows)
    });
    let rows = rows.await?.ok_or_else(|| Failure::not_found(format!("there is no table {table}")))?;
    let next = page.next(&uri, rows.len(), rows.last().map(|row| &row.key));
    Ok((next, Json(rows.into_iter().map(|row| show::entry(&table, row)).collect())))
}

pub(super) async fn entry(State(app): State<App>, uri: Uri) -> Answer<admin::Entry> {
    let (table, key) = (table(&uri)?, segment(&uri, 3));
    let wanted = (table.clone(), key.clone());
    let view = app.look(move |node, now| node.htable_get(&wanted.0, &wanted.1, now)).await?;
    let view = view.ok_or_else(|| Failure::not_found(format!("there is no {key} in table {table}")))?;
    Ok(Json(show::entry(&table, view)))
}
