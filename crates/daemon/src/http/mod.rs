//! The admin interface over HTTP. Shapes are in the `admin` crate; here they are filled from the node's views.

mod dialog;
mod metrics;
mod read;
mod request;
mod rpc;
mod rpc_usrloc;
mod show;
mod watch;
mod write;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use node::{Command, CommandError, CommandOk, Event as Change, Node, Now};
use tokio::sync::{broadcast, oneshot};

use crate::inbox::{Event, Inbox};
use crate::sip::UdpCounts;

/// The largest request body, bytes.
const MAX_BODY: usize = 1 << 20;

/// How long the node may take to answer. It is a single thread that never waits, so more means that
/// something is wrong; a write with `ack = "disk"` waits for the disk.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the interface tells besides what the node knows.
#[derive(Debug)]
pub(crate) struct Info {
    pub(crate) tls: bool,
    pub(crate) sip: Vec<String>,
    pub(crate) admin: SocketAddr,
    pub(crate) data: Option<String>,
    pub(crate) ack: &'static str,
    /// Unix seconds.
    pub(crate) started: u64,
    /// By the name of the socket.
    pub(crate) udp: Vec<(String, Arc<UdpCounts>)>,
}

/// What every handler has.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) inbox: Inbox,
    pub(crate) changes: broadcast::Sender<Change>,
    pub(crate) info: Arc<Info>,
}

/// A request that failed: its status and a sentence.
#[derive(Debug)]
struct Failure(StatusCode, String);

impl Failure {
    fn bad(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, text.into())
    }

    fn not_found(text: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, text.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, axum::Json(admin::Error { error: self.1 })).into_response()
    }
}

type Answer<T> = Result<axum::Json<T>, Failure>;

impl App {
    /// Looks at the node between two of its inputs.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Node, Now) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        self.inbox.push_urgent(Event::Query(Box::new(move |node, now| {
            // Nobody listens any more when the asking connection is gone.
            let _ = reply.send(look(node, now));
        })));
        wait(answer, "the node does not answer").await
    }

    /// Has something written.
    async fn command(&self, command: Command) -> Result<Result<CommandOk, CommandError>, Failure> {
        let (reply, answer) = oneshot::channel();
        self.inbox.push_urgent(Event::Command { command, reply });
        wait(answer, "not confirmed in time, but it may still be carried out; is the disk slow or full?").await
    }
}

async fn wait<T>(answer: oneshot::Receiver<T>, otherwise: &str) -> Result<T, Failure> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(Failure(StatusCode::SERVICE_UNAVAILABLE, "the node is stopping".to_owned())),
        Err(_) => Err(Failure(StatusCode::SERVICE_UNAVAILABLE, otherwise.to_owned())),
    }
}

/// All routes.
pub(crate) fn router(app: App) -> Router {
    let entry = get(read::entry).put(write::set_entry).delete(write::delete_entry).post(write::delete_matching);
    Router::new()
        .route("/", get(index))
        .route("/v1/status", get(read::status))
        .route("/v1/members", get(read::members))
        .route("/v1/peers", get(read::peers))
        .route("/v1/digest", get(read::digest))
        .route("/v1/location", get(read::locations))
        .route("/v1/location/{aor}", get(read::location).put(write::add_contact).delete(write::remove_contact))
        .route("/v1/htable", get(read::htables))
        .route("/v1/htable/{table}", get(read::entries))
        .route("/v1/htable/{table}/{key}", entry)
        .route("/v1/htable/{table}/{key}/inc", post(write::increment))
        .route("/v1/dialog", get(dialog::list))
        .route("/v1/dialog/{id}", get(dialog::one).put(dialog::set).delete(dialog::end))
        .route("/v1/dialog/{id}/var/{name}", put(dialog::set_var).delete(dialog::unset_var))
        .route("/v1/dialog/{id}/profile/{name}", put(dialog::join_profile).delete(dialog::leave_profile))
        .route("/v1/watch", get(watch::watch))
        .route("/rpc", post(rpc::rpc))
        .route("/RPC", post(rpc::rpc))
        .route("/metrics", get(metrics::metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(app)
}

const INDEX: &str = "A Starling node.\n\n\
    GET /v1/status /v1/members /v1/peers /v1/digest\n\
    GET /v1/location /v1/location/AOR   PUT, DELETE /v1/location/AOR\n\
    GET /v1/htable /v1/htable/NAME /v1/htable/NAME/KEY   PUT, DELETE /v1/htable/NAME/KEY\n\
    POST /v1/htable/NAME/KEY/inc /v1/htable/NAME/delete-matching\n\
    GET /v1/dialog /v1/dialog/CALLID;FROMTAG   PUT, DELETE /v1/dialog/ID /v1/dialog/ID/var/NAME /v1/dialog/ID/profile/NAME\n\
    GET /v1/watch (server-sent events)   POST /rpc (Kamailio's JSON-RPC)\n\
    GET /metrics /healthz /readyz\n";

async fn index() -> &'static str {
    INDEX
}

async fn nothing_here(uri: Uri) -> Failure {
    Failure::not_found(format!("there is nothing at {}; GET / lists what there is", uri.path()))
}

async fn wrong_method(method: axum::http::Method, uri: Uri) -> Failure {
    Failure(StatusCode::METHOD_NOT_ALLOWED, format!("{method} makes no sense at {}; GET / lists what does", uri.path()))
}

/// The node's thread runs.
async fn healthz(State(app): State<App>) -> Result<&'static str, Failure> {
    app.look(|_, _| ()).await?;
    Ok("ok\n")
}

/// The node has taken in its first full session, so what it says about absence can be believed.
async fn readyz(State(app): State<App>) -> Result<&'static str, Failure> {
    let joining = app.look(|node, now| node.status(now).joining).await?;
    if joining {
        let text = "joining: still taking in the state of another node";
        return Err(Failure(StatusCode::SERVICE_UNAVAILABLE, text.to_owned()));
    }
    Ok("ready\n")
}
