//! What can be changed.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use bstr::{BString, ByteSlice};
use node::{Command, CommandError, CommandOk, NewContact, Pattern};

use super::request::{body, parameter, segment, table};
use super::{Answer, App, Failure, show};

/// Has a command carried out; `what` names its object for "there is no ..".
pub(super) async fn carry_out(app: &App, command: Command, what: String) -> Result<CommandOk, Failure> {
    app.command(command).await?.map_err(|error| match error {
        CommandError::NotFound => Failure::not_found(format!("there is no {what}")),
        CommandError::DialogEnded | CommandError::StateGoesBack { .. } => {
            Failure(StatusCode::CONFLICT, error.to_string())
        }
        CommandError::Invalid(why) => Failure::bad(why),
    })
}

pub(super) async fn add_contact(State(app): State<App>, uri: Uri, bytes: Bytes) -> Answer<admin::Done> {
    let aor = segment(&uri, 2);
    let add: admin::LocationAdd = body(&bytes)?;
    let what = aor.to_string();
    let contact = new_contact(aor, add)?;
    carry_out(&app, Command::LocationAdd(Box::new(contact)), what).await?;
    Ok(Json(admin::Done::OK))
}

fn new_contact(aor: BString, add: admin::LocationAdd) -> Result<NewContact, Failure> {
    if add.contact.is_empty() {
        return Err(Failure::bad("contact is empty: give the URI of the device"));
    }
    Ok(NewContact {
        aor,
        contact: add.contact.into(),
        expires_in: add.expires_in,
        q: add.q.map(thousandths).transpose()?,
        instance: add.instance.into(),
        reg_id: add.reg_id,
        path: add.path.into(),
        received: add.received.into(),
        user_agent: add.user_agent.into(),
    })
}

/// A q value as the node counts it.
pub(super) fn thousandths(q: f64) -> Result<i32, Failure> {
    if !(0.0..=1.0).contains(&q) {
        return Err(Failure::bad(format!("q is {q}, but must be from 0 to 1")));
    }
    // In 0..=1000 by the check above.
    #[expect(clippy::cast_possible_truncation)]
    Ok((q * 1_000.0).round() as i32)
}

pub(super) async fn remove_contact(State(app): State<App>, uri: Uri) -> Answer<admin::Done> {
    let (aor, contact) = (segment(&uri, 2), parameter(&uri, "contact"));
    let what = match &contact {
        Some(contact) => format!("contact {contact} of {aor}"),
        None => format!("contact of {aor}"),
    };
    carry_out(&app, Command::LocationRemove { aor, contact }, what).await?;
    Ok(Json(admin::Done::OK))
}

pub(super) async fn set_entry(State(app): State<App>, uri: Uri, bytes: Bytes) -> Answer<admin::Done> {
    let (table, key) = (table(&uri)?, segment(&uri, 3));
    let set: admin::EntrySet = body(&bytes)?;
    let command = Command::HtableSet { table, key, value: show::given(set.value), expires_in: set.expires_in };
    carry_out(&app, command, "table".to_owned()).await?;
    Ok(Json(admin::Done::OK))
}

pub(super) async fn increment(State(app): State<App>, uri: Uri, bytes: Bytes) -> Answer<admin::Incremented> {
    let (table, key) = (table(&uri)?, segment(&uri, 3));
    let by = body::<admin::EntryInc>(&bytes)?.by;
    match carry_out(&app, Command::HtableInc { table, key, by }, "table".to_owned()).await? {
        CommandOk::Value(value) => Ok(Json(admin::Incremented { value })),
        other => Err(unexpected(&other)),
    }
}

pub(super) async fn delete_entry(State(app): State<App>, uri: Uri) -> Answer<admin::Done> {
    let (table, key) = (table(&uri)?, segment(&uri, 3));
    let what = format!("{key} in table {table}");
    carry_out(&app, Command::HtableDelete { table, key }, what).await?;
    Ok(Json(admin::Done::OK))
}

/// `POST /v1/htable/NAME/delete-matching`. It shares its route with the keys, so that a key of that name can be had.
pub(super) async fn delete_matching(State(app): State<App>, uri: Uri, bytes: Bytes) -> Answer<admin::Deleted> {
    let (table, action) = (table(&uri)?, segment(&uri, 3));
    if action.as_bytes() != b"delete-matching" {
        return Err(Failure(
            StatusCode::METHOD_NOT_ALLOWED,
            "POST makes no sense here: PUT sets an entry, POST to .../inc adds to it".to_owned(),
        ));
    }
    let asked: admin::DeleteMatching = body(&bytes)?;
    let pattern = match (asked.prefix, asked.regex) {
        (Some(prefix), None) => Pattern::Prefix(prefix.into()),
        (None, Some(regex)) => Pattern::Regex(regex),
        _ => return Err(Failure::bad("give exactly one of prefix and regex")),
    };
    let on_values = asked.on == admin::MatchOn::Values;
    let what = format!("table {table}");
    match carry_out(&app, Command::HtableDeleteMatching { table, pattern, on_values }, what).await? {
        CommandOk::Count(deleted) => Ok(Json(admin::Deleted { deleted })),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(answer: &CommandOk) -> Failure {
    tracing::error!("the node answered a command with {answer:?}");
    Failure(StatusCode::INTERNAL_SERVER_ERROR, "the node gave an answer of the wrong kind: a bug".to_owned())
}
