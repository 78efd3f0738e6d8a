//! Changes as they happen, as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::Uri;
use axum::response::sse::{Event, KeepAlive, Sse};
use bstr::BString;
use futures_util::stream::{Stream, unfold};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::request::parameter;
use super::{App, Failure, show};

/// How often a silent stream shows that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// `GET /v1/watch[?table=NAME]`. Events are named `change`; one named `missed` tells how many changes a
/// watcher that reads too slowly has lost.
pub(super) async fn watch(
    State(app): State<App>,
    uri: Uri,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    let changes = app.changes.subscribe();
    app.look(|node, _| node.watch(true)).await?;
    let stream = unfold((changes, parameter(&uri, "table")), |(mut changes, table)| async move {
        let event = next(&mut changes, table.as_ref()).await?;
        Some((Ok(event), (changes, table)))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

async fn next(changes: &mut Receiver<node::Event>, table: Option<&BString>) -> Option<Event> {
    loop {
        match changes.recv().await {
            Ok(change) if table.is_none_or(|table| table == change.table.as_bytes()) => {
                // The shape has no map and no non-string key, so it always serialises.
                return Event::default().event("change").json_data(show::change(change)).ok();
            }
            Ok(_) => {}
            Err(RecvError::Lagged(missed)) => return Some(Event::default().event("missed").data(missed.to_string())),
            Err(RecvError::Closed) => return None,
        }
    }
}
