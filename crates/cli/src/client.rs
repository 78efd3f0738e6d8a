//! Asking a node.

use std::time::Duration;

use admin::percent::encode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::{Method, Request, Response, header};
use ureq::{Agent, Body};

use crate::args::Query;
use crate::output::Failure;

/// The node's own patience is shorter, so that its explanation arrives.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The largest answer, bytes: a page of the longest rows that there can be.
const MAX_ANSWER: u64 = 1 << 30;

/// A node to ask.
pub(crate) struct Client {
    agent: Agent,
    base: String,
}

impl Client {
    pub(crate) fn new(query: &Query) -> Result<Self, Failure> {
        Self::with_timeout(query, Some(TIMEOUT))
    }

    /// Without a time limit, for a stream that does not end.
    pub(crate) fn patient(query: &Query) -> Result<Self, Failure> {
        Self::with_timeout(query, None)
    }

    fn with_timeout(query: &Query, timeout: Option<Duration>) -> Result<Self, Failure> {
        let base = query.admin.trim_end_matches('/');
        let base = if base.contains("://") { base.to_owned() } else { format!("http://{base}") };
        if !base.starts_with("http://") {
            let admin = &query.admin;
            return Err(Failure::said(format!(
                "--admin {admin}: the admin interface speaks http://, like http://127.0.0.1:8070"
            )));
        }
        // A proxy for the world outside is none for an address of ours.
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(timeout).proxy(None).build();
        Ok(Self { agent: Agent::new_with_config(config), base })
    }

    /// `GET`, decoded.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(&Method::GET, path, None::<&()>)
    }

    /// A request with or without a JSON body, decoded.
    pub(crate) fn ask<T: DeserializeOwned>(
        &self,
        method: &Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Failure> {
        Self::decode(&mut self.send(method, path, body)?)
    }

    /// A whole list, asked for part by part.
    pub(crate) fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Failure> {
        let mut rows = Vec::new();
        let mut next = Some(format!("{path}?limit={}", admin::MAX_LIMIT));
        while let Some(path) = next {
            let (page, following) = self.page(&path)?;
            rows.extend(page);
            next = following;
        }
        Ok(rows)
    }

    /// The next part of a list, and the path of the one behind it.
    fn page<T: DeserializeOwned>(&self, path: &str) -> Result<(Vec<T>, Option<String>), Failure> {
        let mut response = self.send(&Method::GET, path, None::<&()>)?;
        let link = response.headers().get(header::LINK).and_then(|link| link.to_str().ok());
        let next = link
            .and_then(|link| link.strip_prefix('<')?.split_once(">; rel=\"next\""))
            .map(|(path, _)| path.to_owned());
        Ok((Self::decode(&mut response)?, next))
    }

    /// A response that was a success, unread.
    pub(crate) fn send(
        &self,
        method: &Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Response<Body>, Failure> {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        let sent = match body {
            None => self.agent.run(request.body(()).map_err(|e| self.unusable(&e))?),
            Some(body) => {
                let text = serde_json::to_string(body).map_err(|e| Failure::said(e.to_string()))?;
                let request = request.header(header::CONTENT_TYPE, "application/json").body(text);
                self.agent.run(request.map_err(|e| self.unusable(&e))?)
            }
        };
        let mut response = sent.map_err(|e| self.unreachable(&e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let text = response.body_mut().read_to_string().unwrap_or_default();
        let said = serde_json::from_str::<admin::Error>(&text).map(|e| e.error);
        Err(Failure::said(
            said.unwrap_or_else(|_| format!("{} answered {}: is it a Starling node?", self.base, response.status())),
        ))
    }

    fn decode<T: DeserializeOwned>(response: &mut Response<Body>) -> Result<T, Failure> {
        let text = response.body_mut().with_config().limit(MAX_ANSWER).read_to_string();
        let text = text.map_err(|e| Failure::said(format!("the answer broke off: {e}")))?;
        serde_json::from_str(&text).map_err(|e| {
            Failure::said(format!("the answer is not what was expected ({e}): is it a Starling node of this version?"))
        })
    }

    fn unusable(&self, error: &ureq::http::Error) -> Failure {
        Failure::said(format!("--admin {}: {error}", self.base))
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        Failure::said(format!(
            "cannot reach a node at {}: {error}. Is it running (`starling run`)? Another address: --admin URL, or STARLING_ADMIN",
            self.base
        ))
    }
}

/// A path of encoded segments.
pub(crate) fn path(segments: &[&str]) -> String {
    let encoded: Vec<String> = segments.iter().map(|segment| format!("/{}", encode(segment))).collect();
    format!("/v1{}", encoded.concat())
}
