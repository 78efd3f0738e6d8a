//! What a node is asked: its admin API, page by page where it is long, and its command-line tool.

use std::collections::BTreeMap;
use std::process::{Command, Output};

use anyhow::{Context, bail, ensure};
use serde_json::{Value as Json, json};

use super::{Starling, binary};
use crate::compare::{Contact, Contacts, Entries, Value};
use crate::host::Host;
use crate::http::{self, Answer, encode};
use crate::wait::secs;

impl Starling {
    /// The address of its admin API.
    #[must_use]
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.host.admin())
    }

    /// Asks its admin API.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Json>) -> anyhow::Result<Answer> {
        http::ask(method, &format!("{}{path}", self.admin_url()), body, secs(20))
    }

    /// Asks for something that must be there.
    ///
    /// # Errors
    /// When the answer is not a 200 with JSON.
    pub fn get(&self, path: &str) -> anyhow::Result<Json> {
        let answer = self.ask("GET", path, None)?;
        ensure!(answer.status == 200 && !answer.json.is_null(), "GET {path}: {} {}", answer.status, answer.text);
        Ok(answer.json)
    }

    /// Asks for a change.
    ///
    /// # Errors
    /// When the answer is not a 2xx.
    pub fn change(&self, method: &str, path: &str, body: Option<&Json>) -> anyhow::Result<Json> {
        let answer = self.ask(method, path, body)?;
        ensure!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text);
        Ok(answer.json)
    }

    /// `GET /v1/digest`: of all live cells, and their number.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn digest(&self) -> anyhow::Result<(String, u64)> {
        let digest = self.get("/v1/digest")?;
        let text = digest["digest"].as_str().context("no digest")?.to_owned();
        Ok((text, digest["cells"].as_u64().context("no cells")?))
    }

    /// Contacts of one AoR; none if there is no such AoR.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn contacts_of(&self, aor: &str) -> anyhow::Result<Vec<Contact>> {
        let answer = self.ask("GET", &format!("/v1/location/{}", encode(aor)), None)?;
        match answer.status {
            200 => contacts(&answer.json),
            404 => Ok(Vec::new()),
            other => bail!("location {aor}: {other} {}", answer.text),
        }
    }

    /// All contacts, page by page.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn contacts(&self) -> anyhow::Result<Contacts> {
        let rows = self.pages("/v1/location", "aor")?;
        rows.iter().map(|row| Ok((string(row, "aor")?, contacts(row)?))).collect()
    }

    /// All entries of a table, page by page.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn entries(&self, table: &str) -> anyhow::Result<Entries> {
        let answer = self.ask("GET", &format!("/v1/htable/{}?limit=1", encode(table)), None)?;
        if answer.status == 404 {
            return Ok(Entries::new()); // a table that nobody has written to
        }
        let rows = self.pages(&format!("/v1/htable/{}", encode(table)), "key")?;
        rows.iter().map(|row| Ok((string(row, "key")?, value(&row["value"])?))).collect()
    }

    /// An entry and when it expires (unix seconds), if it is there.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn entry(&self, table: &str, key: &str) -> anyhow::Result<Option<(Value, Option<u64>)>> {
        let answer = self.ask("GET", &entry_path(table, key), None)?;
        match answer.status {
            200 => Ok(Some((value(&answer.json["value"])?, answer.json["expires"].as_u64()))),
            404 => Ok(None),
            other => bail!("{table}/{key}: {other} {}", answer.text),
        }
    }

    /// Sets an entry.
    ///
    /// # Errors
    /// When it is refused.
    pub fn set(&self, table: &str, key: &str, value: impl Into<Value>, expires_in: Option<u32>) -> anyhow::Result<()> {
        let value = match value.into() {
            Value::Int(n) => json!(n),
            Value::Str(s) => json!(s),
        };
        let mut body = json!({ "value": value });
        if let Some(seconds) = expires_in {
            body["expires_in"] = json!(seconds);
        }
        self.change("PUT", &entry_path(table, key), Some(&body)).map(|_| ())
    }

    /// Deletes an entry.
    ///
    /// # Errors
    /// When it is refused, or not there.
    pub fn delete(&self, table: &str, key: &str) -> anyhow::Result<()> {
        self.change("DELETE", &entry_path(table, key), None).map(|_| ())
    }

    fn pages(&self, path: &str, key: &str) -> anyhow::Result<Vec<Json>> {
        const LIMIT: usize = 10_000;
        let (mut rows, mut after): (Vec<Json>, Option<String>) = (Vec::new(), None);
        loop {
            let more = after.as_deref().map_or_else(String::new, |a| format!("&after={}", encode(a)));
            let page = self.get(&format!("{path}?limit={LIMIT}{more}"))?;
            let page = page.as_array().with_context(|| format!("{path} is no list"))?;
            rows.extend(page.iter().cloned());
            match page.last() {
                Some(last) if page.len() == LIMIT => after = Some(string(last, key)?),
                _ => return Ok(rows),
            }
        }
    }

    /// Its row about a Kamailio server in `GET /v1/peers`.
    ///
    /// # Errors
    /// When there is none.
    pub fn peer(&self, server: &Host) -> anyhow::Result<Json> {
        let peers = self.get("/v1/peers")?;
        let uri = server.dmq_uri();
        let row =
            peers.as_array().into_iter().flatten().find(|p| p["uri"].as_str().is_some_and(|u| u.starts_with(&uri)));
        row.cloned().with_context(|| format!("{} does not know {uri}: {peers}", self.name))
    }

    /// Fails unless it has that server as an active peer whose first dump has been taken in and that lacks nothing.
    ///
    /// # Errors
    /// With the peer's row.
    pub fn ensure_served(&self, server: &Host) -> anyhow::Result<()> {
        let peer = self.peer(server)?;
        let idle = peer["lag_cells"] == 0 && peer["open"] == 0 && !peer["last_sync"].is_null();
        ensure!(peer["state"] == "active" && idle, "{} has {peer}", self.name);
        Ok(())
    }

    /// Fails unless so many other nodes are alive members.
    ///
    /// # Errors
    /// With the list.
    pub fn ensure_members(&self, others: usize) -> anyhow::Result<()> {
        let members = self.get("/v1/members")?;
        let rows = members.as_array().context("members is no list")?;
        let alive = rows.iter().filter(|m| m["state"] == "alive" && m["name"] != json!(self.name)).count();
        ensure!(alive == others, "{} sees {alive} of {others} others alive: {members}", self.name);
        let links = self.get("/v1/status")?["links"].clone();
        ensure!(links == json!(others), "{} has {links} links", self.name);
        Ok(())
    }

    /// Every figure of `/metrics`, summed over labels, by name.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn metrics(&self) -> anyhow::Result<BTreeMap<String, f64>> {
        let answer = self.ask("GET", "/metrics", None)?;
        ensure!(answer.status == 200, "/metrics: {}", answer.status);
        let mut out = BTreeMap::new();
        for line in answer.text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
            let (name, figure) = line.rsplit_once(' ').with_context(|| format!("not a metric: {line}"))?;
            let name = name.split('{').next().unwrap_or(name);
            *out.entry(name.to_owned()).or_insert(0.0) += figure.parse::<f64>()?;
        }
        Ok(out)
    }

    /// Runs the command-line tool against this node.
    ///
    /// # Panics
    /// When it cannot be run.
    #[must_use]
    pub fn cli(&self, args: &[&str]) -> Output {
        let out = Command::new(binary()).args(args).args(["--admin", &self.admin_url()]).output();
        out.expect("the starling binary runs")
    }

    /// What `starling location show AOR --json` prints; none if it exits with 1.
    ///
    /// # Errors
    /// When it prints something else.
    pub fn cli_contacts_of(&self, aor: &str) -> anyhow::Result<Vec<Contact>> {
        let out = self.cli(&["location", "show", aor, "--json"]);
        match out.status.code() {
            Some(0) => contacts(&serde_json::from_slice(&out.stdout)?),
            Some(1) => Ok(Vec::new()),
            _ => bail!("starling location show: {out:?}"),
        }
    }
}

fn entry_path(table: &str, key: &str) -> String {
    format!("/v1/htable/{}/{}", encode(table), encode(key))
}

fn contacts(row: &Json) -> anyhow::Result<Vec<Contact>> {
    row["contacts"].as_array().context("no contacts")?.iter().map(contact).collect()
}

fn contact(row: &Json) -> anyhow::Result<Contact> {
    let number = |name: &str| row[name].as_u64().with_context(|| format!("{name} in {row}"));
    let ruids = row["ruids"].as_array().context("no ruids")?;
    // q is a fraction in JSON, thousandths on the wire.
    #[allow(clippy::cast_possible_truncation)]
    let q = row["q"].as_f64().map_or(-1, |q| (q * 1000.0).round() as i32);
    Ok(Contact {
        contact: string(row, "contact")?,
        received: string(row, "received")?,
        path: string(row, "path")?,
        q,
        user_agent: string(row, "user_agent")?,
        instance: string(row, "instance")?,
        reg_id: u32::try_from(number("reg_id")?)?,
        methods: u32::try_from(number("methods")?)?,
        callid: string(row, "callid")?,
        cseq: u32::try_from(number("cseq")?)?,
        expires: number("expires")?,
        ruids: ruids.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
    })
}

fn string(row: &Json, name: &str) -> anyhow::Result<String> {
    Ok(row[name].as_str().with_context(|| format!("{name} in {row}"))?.to_owned())
}

fn value(value: &Json) -> anyhow::Result<Value> {
    match value {
        Json::String(s) => Ok(Value::Str(s.clone())),
        Json::Number(n) => Ok(Value::Int(n.as_i64().context("an integer")?)),
        other => bail!("neither string nor integer: {other}"),
    }
}
