//! A real node: the `starling` binary with a configuration of ours, asked over its admin API and its CLI.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;
use serde_json::{Value as Json, json};

use crate::compare::{Contact, Contacts, Entries, Value};
use crate::host::{ADMIN_PORT, Host, QUIC_PORT, SIP_PORT};
use crate::http::{self, Answer, encode};
use crate::process::{Process, fresh_dir};
use crate::wait::{PATIENCE, eventually, secs};

/// What the tests choose about a node.
#[derive(Clone, Debug)]
pub struct StarlingConfig {
    /// Nodes to join.
    pub join: Vec<SocketAddr>,
    /// Whether it has a data directory.
    pub durable: bool,
    /// `ack = "disk"`.
    pub ack_disk: bool,
    /// `dmq.mode = "mesh"`.
    pub mesh: bool,
    /// `dmq.peers`.
    pub peers: Vec<String>,
    /// `dmq.trusted`; the default of the node if `None`.
    pub trusted: Option<Vec<String>>,
    /// Certificates, by [`Authority::issue`]; needed for links that are not on loopback.
    pub certificates: Option<PathBuf>,
    /// Lines of the section `[dmq]`.
    pub dmq: Vec<String>,
    /// More sections.
    pub more: String,
}

/// The hash tables of our Kamailio configuration, as the node is told about them.
const TABLES: &str = "[htable.exp]\nautoexpire = \"1h\"\n\n[htable.fix]\nautoexpire = \"2m\"\nupdateexpire = false\n\n\
                      [htable.short]\nautoexpire = \"5s\"\n";

impl Default for StarlingConfig {
    fn default() -> Self {
        Self {
            join: Vec::new(),
            durable: false,
            ack_disk: false,
            mesh: false,
            peers: Vec::new(),
            trusted: None,
            certificates: None,
            dmq: Vec::new(),
            more: TABLES.to_owned(),
        }
    }
}

impl StarlingConfig {
    /// A node that greets these servers and joins these nodes.
    #[must_use]
    pub fn new(servers: &[&Host], join: &[&Host]) -> Self {
        Self {
            peers: servers.iter().map(|h| h.dmq_uri()).collect(),
            join: join.iter().map(|h| h.quic()).collect(),
            ..Self::default()
        }
    }
}

/// A running node.
#[derive(Debug)]
pub struct Starling {
    /// Where it runs.
    pub host: Host,
    /// Its name.
    pub name: String,
    dir: PathBuf,
    process: Process,
}

impl Starling {
    /// Starts a node and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn start(name: &str, host: &Host, config: &StarlingConfig) -> Self {
        let dir = fresh_dir(name);
        std::fs::write(
            dir.join("starling.toml"),
            configuration(name, host, config, &dir),
        )
        .expect("a configuration");
        let process = launch(name, host, &dir);
        let mut node = Self {
            host: host.clone(),
            name: name.to_owned(),
            dir,
            process,
        };
        node.wait_ready();
        node
    }

    fn wait_ready(&mut self) {
        eventually(PATIENCE, &format!("{} is ready", self.name), || {
            self.process.ensure_running()?;
            let answer = self.ask("GET", "/readyz", None)?;
            ensure!(
                answer.status == 200,
                "/readyz says {} {}",
                answer.status,
                answer.text.trim()
            );
            Ok(())
        });
    }

    /// Kills it as a power cut would.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// SIGTERM; fails unless it ends by itself, with exit code 0, within 10 s.
    ///
    /// # Errors
    /// With how it ended.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        let status = self.process.terminate(secs(10))?;
        ensure!(
            status.success(),
            "{} ended with {status}\n{}",
            self.name,
            self.process.log_tail(20)
        );
        Ok(())
    }

    /// Starts it again on the same directory, after [`Starling::kill9`] or [`Starling::terminate`].
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn start_again(&mut self) {
        self.process = launch(&self.name, &self.host, &self.dir);
        self.wait_ready();
    }

    /// Halts it; undone by [`Starling::thaw`].
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Undoes [`Starling::freeze`].
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// The process: its log, its memory, its CPU time.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its SIP address.
    #[must_use]
    pub fn sip(&self) -> SocketAddr {
        self.host.sip()
    }

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
        http::ask(
            method,
            &format!("{}{path}", self.admin_url()),
            body,
            secs(20),
        )
    }

    /// Asks for something that must be there.
    ///
    /// # Errors
    /// When the answer is not a 200 with JSON.
    pub fn get(&self, path: &str) -> anyhow::Result<Json> {
        let answer = self.ask("GET", path, None)?;
        ensure!(
            answer.status == 200 && !answer.json.is_null(),
            "GET {path}: {} {}",
            answer.status,
            answer.text
        );
        Ok(answer.json)
    }

    /// Asks for a change.
    ///
    /// # Errors
    /// When the answer is not a 2xx.
    pub fn change(&self, method: &str, path: &str, body: Option<&Json>) -> anyhow::Result<Json> {
        let answer = self.ask(method, path, body)?;
        ensure!(
            (200..300).contains(&answer.status),
            "{method} {path}: {} {}",
            answer.status,
            answer.text
        );
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
        rows.iter()
            .map(|row| Ok((string(row, "aor")?, contacts(row)?)))
            .collect()
    }

    /// All entries of a table, page by page.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn entries(&self, table: &str) -> anyhow::Result<Entries> {
        let answer = self.ask(
            "GET",
            &format!("/v1/htable/{}?limit=1", encode(table)),
            None,
        )?;
        if answer.status == 404 {
            return Ok(Entries::new()); // a table that nobody has written to
        }
        let rows = self.pages(&format!("/v1/htable/{}", encode(table)), "key")?;
        rows.iter()
            .map(|row| Ok((string(row, "key")?, value(&row["value"])?)))
            .collect()
    }

    /// An entry and when it expires (unix seconds), if it is there.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn entry(&self, table: &str, key: &str) -> anyhow::Result<Option<(Value, Option<u64>)>> {
        let answer = self.ask("GET", &entry_path(table, key), None)?;
        match answer.status {
            200 => Ok(Some((
                value(&answer.json["value"])?,
                answer.json["expires"].as_u64(),
            ))),
            404 => Ok(None),
            other => bail!("{table}/{key}: {other} {}", answer.text),
        }
    }

    /// Sets an entry.
    ///
    /// # Errors
    /// When it is refused.
    pub fn set(
        &self,
        table: &str,
        key: &str,
        value: impl Into<Value>,
        expires_in: Option<u32>,
    ) -> anyhow::Result<()> {
        let value = match value.into() {
            Value::Int(n) => json!(n),
            Value::Str(s) => json!(s),
        };
        let mut body = json!({ "value": value });
        if let Some(seconds) = expires_in {
            body["expires_in"] = json!(seconds);
        }
        self.change("PUT", &entry_path(table, key), Some(&body))
            .map(|_| ())
    }

    /// Deletes an entry.
    ///
    /// # Errors
    /// When it is refused, or not there.
    pub fn delete(&self, table: &str, key: &str) -> anyhow::Result<()> {
        self.change("DELETE", &entry_path(table, key), None)
            .map(|_| ())
    }

    fn pages(&self, path: &str, key: &str) -> anyhow::Result<Vec<Json>> {
        const LIMIT: usize = 10_000;
        let (mut rows, mut after): (Vec<Json>, Option<String>) = (Vec::new(), None);
        loop {
            let more = after
                .as_deref()
                .map_or_else(String::new, |a| format!("&after={}", encode(a)));
            let page = self.get(&format!("{path}?limit={LIMIT}{more}"))?;
            let page = page
                .as_array()
                .with_context(|| format!("{path} is no list"))?;
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
        let row = peers
            .as_array()
            .into_iter()
            .flatten()
            .find(|p| p["uri"].as_str().is_some_and(|u| u.starts_with(&uri)));
        row.cloned()
            .with_context(|| format!("{} does not know {uri}: {peers}", self.name))
    }

    /// Fails unless it has that server as an active peer that lacks nothing.
    ///
    /// # Errors
    /// With the peer's row.
    pub fn ensure_served(&self, server: &Host) -> anyhow::Result<()> {
        let peer = self.peer(server)?;
        ensure!(
            peer["state"] == "active" && peer["lag_cells"] == 0 && peer["open"] == 0,
            "{} has {peer}",
            self.name
        );
        Ok(())
    }

    /// Fails unless so many other nodes are alive members.
    ///
    /// # Errors
    /// With the list.
    pub fn ensure_members(&self, others: usize) -> anyhow::Result<()> {
        let members = self.get("/v1/members")?;
        let rows = members.as_array().context("members is no list")?;
        let alive = rows
            .iter()
            .filter(|m| m["state"] == "alive" && m["name"] != json!(self.name))
            .count();
        ensure!(
            alive == others,
            "{} sees {alive} of {others} others alive: {members}",
            self.name
        );
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
        for line in answer
            .text
            .lines()
            .filter(|l| !l.starts_with('#') && !l.is_empty())
        {
            let (name, figure) = line
                .rsplit_once(' ')
                .with_context(|| format!("not a metric: {line}"))?;
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
        let out = Command::new(binary())
            .args(args)
            .args(["--admin", &self.admin_url()])
            .output();
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

/// Fails unless all nodes have equal digests.
///
/// # Errors
/// With the digests.
pub fn equal_digests(nodes: &[&Starling]) -> anyhow::Result<()> {
    let digests: Vec<_> = nodes
        .iter()
        .map(|n| Ok((n.name.clone(), n.digest()?)))
        .collect::<anyhow::Result<_>>()?;
    ensure!(
        digests.windows(2).all(|w| w[0].1 == w[1].1),
        "digests differ: {digests:?}"
    );
    Ok(())
}

/// Waits until every node sees all the others and carries data with them.
///
/// # Panics
/// When they do not meet.
pub fn meet(nodes: &[&Starling]) {
    for node in nodes {
        eventually(PATIENCE, &format!("{} meets the others", node.name), || {
            node.ensure_members(nodes.len() - 1)
        });
    }
}

/// A certificate authority made with `starling cert`.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
}

impl Authority {
    /// Makes one.
    ///
    /// # Panics
    /// When the tool fails.
    #[must_use]
    pub fn new() -> Self {
        let dir = fresh_dir("ca");
        run(Command::new(binary())
            .args(["cert", "ca", "--out"])
            .arg(&dir));
        Self { dir }
    }

    /// Makes a node's certificate and returns the directory with `ca.pem`, certificate and key.
    ///
    /// # Panics
    /// When the tool fails.
    #[must_use]
    pub fn issue(&self, name: &str, host: &Host) -> PathBuf {
        let out = fresh_dir(&format!("cert-{name}"));
        let ip = host.ip.to_string();
        run(Command::new(binary())
            .args(["cert", "node", "--name", name, "--host", &ip, "--ca"])
            .arg(&self.dir)
            .arg("--out")
            .arg(&out));
        out
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

fn run(command: &mut Command) {
    let out = command.output().expect("the starling binary runs");
    assert!(
        out.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

fn launch(name: &str, host: &Host, dir: &Path) -> Process {
    let mut command = host.command(&binary().display().to_string());
    command
        .args(["run", "--config"])
        .arg(dir.join("starling.toml"));
    Process::spawn(command, name, dir).expect("a node started")
}

fn configuration(name: &str, host: &Host, config: &StarlingConfig, dir: &Path) -> String {
    let ip = host.ip;
    let quoted = |list: &[String]| {
        list.iter()
            .map(|s| format!("{s:?}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let join: Vec<String> = config.join.iter().map(SocketAddr::to_string).collect();
    let mut out = format!("name = \"{name}\"\n");
    if config.durable {
        out += &format!("data = \"{}\"\n", dir.join("data").display());
    }
    if config.ack_disk {
        out += "ack = \"disk\"\n";
    }
    out += &format!(
        "\n[link]\nlisten = \"{ip}:{QUIC_PORT}\"\njoin = [{}]\n",
        quoted(&join)
    );
    if let Some(certificates) = &config.certificates {
        out += &tls_section(name, certificates);
    }
    out += &format!("\n[sip]\nlisten = [\"udp:{ip}:{SIP_PORT}\", \"tcp:{ip}:{SIP_PORT}\"]\n");
    out += &format!(
        "\n[admin]\nlisten = \"{ip}:{ADMIN_PORT}\"\n\n[dmq]\npeers = [{}]\n",
        quoted(&config.peers)
    );
    if config.mesh {
        out += "mode = \"mesh\"\n";
    }
    if let Some(trusted) = &config.trusted {
        out += &format!("trusted = [{}]\n", quoted(trusted));
    }
    format!("{out}{}\n\n{}", config.dmq.join("\n"), config.more)
}

/// The files of a directory by `starling cert node`: whatever they are called, there is one certificate of
/// the authority, one of the node and one key.
fn tls_section(name: &str, dir: &Path) -> String {
    let file = |wanted: &str| dir.join(wanted).display().to_string();
    format!(
        "\n[tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n",
        file("ca.pem"),
        file(&format!("{name}.pem")),
        file(&format!("{name}.key"))
    )
}

fn entry_path(table: &str, key: &str) -> String {
    format!("/v1/htable/{}/{}", encode(table), encode(key))
}

fn contacts(row: &Json) -> anyhow::Result<Vec<Contact>> {
    row["contacts"]
        .as_array()
        .context("no contacts")?
        .iter()
        .map(contact)
        .collect()
}

fn contact(row: &Json) -> anyhow::Result<Contact> {
    let number = |name: &str| {
        row[name]
            .as_u64()
            .with_context(|| format!("{name} in {row}"))
    };
    let ruids = row["ruids"].as_array().context("no ruids")?;
    // q is a fraction in JSON, thousandths on the wire.
    #[allow(clippy::cast_possible_truncation)]
    let q = row["q"]
        .as_f64()
        .map_or(-1, |q| (q * 1000.0).round() as i32);
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
        ruids: ruids
            .iter()
            .filter_map(Json::as_str)
            .map(str::to_owned)
            .collect(),
    })
}

fn string(row: &Json, name: &str) -> anyhow::Result<String> {
    Ok(row[name]
        .as_str()
        .with_context(|| format!("{name} in {row}"))?
        .to_owned())
}

fn value(value: &Json) -> anyhow::Result<Value> {
    match value {
        Json::String(s) => Ok(Value::Str(s.clone())),
        Json::Number(n) => Ok(Value::Int(n.as_i64().context("an integer")?)),
        other => bail!("neither string nor integer: {other}"),
    }
}

/// The `starling` binary: `STARLING_BIN` if set, else built once, in the profile of the tests.
///
/// # Panics
/// When it does not build.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("STARLING_BIN") {
            return path.into();
        }
        let here = std::env::current_exe().expect("the test's own path");
        // target/PROFILE/deps/test-HASH
        let profile_dir = here.ancestors().nth(2).expect("a target directory");
        let release = profile_dir.file_name().is_some_and(|n| n == "release");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(env!("CARGO_MANIFEST_DIR")).args([
            "build",
            "--quiet",
            "--locked",
            "--package",
            "starling-cli",
        ]);
        if release {
            command.arg("--release");
        }
        let out = command.output().expect("cargo runs");
        assert!(
            out.status.success(),
            "the binary does not build:\n{}",
            String::from_utf8_lossy(&out.stderr)
        );
        profile_dir.join("starling")
    })
}

/// How long a change may take to be seen everywhere when nothing is broken. DESIGN asks for a second between
/// two servers; this leaves room for a machine that does other things, and is no measurement.
pub const PROMPTLY: Duration = Duration::from_secs(1);
