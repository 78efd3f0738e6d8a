//! A real Kamailio server with our configuration.
//!
//! What it holds is asked for over its JSON-RPC (HTTP on its SIP port). `ul.dump` of 100,000 contacts works
//! with [`KamailioConfig::pkg_mb`] of 512 but takes 20 s; with Debian's 64 MB of shared memory the answer may
//! not fit beside the contacts. Large servers are therefore counted ([`Kamailio::contact_count`]), asked AoR
//! by AoR over SIP ([`crate::flood::missing`], 100,000 in some 6 s) and sampled ([`Kamailio::contacts_of`]).

mod rows;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;
use serde_json::{Value as Json, json};

use self::rows::{expiry, live_contacts, text, value};
use crate::compare::{Contact, Contacts, Entries, Value};
use crate::host::{Host, SIP_PORT};
use crate::http;
use crate::process::{Process, fresh_dir};
use crate::sip::{Message, Request, ok, token};
use crate::udp;
use crate::wait::{PATIENCE, eventually};

/// What the tests choose about a server.
#[derive(Clone, Debug)]
pub struct KamailioConfig {
    /// DMQ nodes that it greets at its start: `sip:host:port`.
    pub notification_addresses: Vec<String>,
    /// Shared memory; Debian's default is 64.
    pub shm_mb: u32,
    /// Memory of each process.
    pub pkg_mb: u32,
    /// DMQ ping interval, seconds; 5 is the least that Kamailio takes.
    pub ping_interval: u32,
    /// `tm` `fr_timer`, milliseconds; Kamailio's default is 30,000.
    pub fr_timer_ms: u32,
    /// SIP workers.
    pub children: u32,
    /// Contacts in one message of a sync answer.
    pub batch_msg_contacts: u32,
    /// Whether it asks for a sync at first contact, and what it is asked to send.
    pub init_sync: bool,
    /// Whether AoRs have a domain.
    pub use_domain: bool,
    /// `server_id`.
    pub server_id: u32,
    /// Whether DMQ goes over TCP.
    pub tcp: bool,
    /// More lines of the kind `modparam(...)`.
    pub modparams: Vec<String>,
}

impl Default for KamailioConfig {
    fn default() -> Self {
        Self {
            notification_addresses: Vec::new(),
            shm_mb: 256,
            pkg_mb: 64,
            ping_interval: 5,
            fr_timer_ms: 3_000,
            children: 2,
            batch_msg_contacts: 1,
            init_sync: true,
            use_domain: false,
            server_id: 1,
            tcp: false,
            modparams: Vec::new(),
        }
    }
}

impl KamailioConfig {
    /// A server that knows only this DMQ node.
    #[must_use]
    pub fn knowing(node: &Host) -> Self {
        Self { notification_addresses: vec![node.dmq_uri()], ..Self::default() }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Kamailio {
    /// Where it runs.
    pub host: Host,
    config: KamailioConfig,
    name: String,
    dir: PathBuf,
    process: Process,
}

impl Kamailio {
    /// Starts a server and waits until its RPC answers.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(name: &str, host: &Host, config: KamailioConfig) -> Self {
        let dir = fresh_dir(name);
        let process = launch(name, host, &config, &dir);
        let mut server = Self { host: host.clone(), config, name: name.to_owned(), dir, process };
        server.wait_ready();
        server
    }

    fn wait_ready(&mut self) {
        eventually(PATIENCE, &format!("{} answers its RPC", self.name), || {
            self.process.ensure_running()?;
            http_rpc(self.host.sip(), "core.uptime", &json!([]), Duration::from_secs(2)).map(|_| ())
        });
    }

    /// Its SIP address.
    #[must_use]
    pub fn sip(&self) -> SocketAddr {
        self.host.sip()
    }

    /// SIGTERM, then start again, empty.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    /// Stops it: SIGTERM, and SIGKILL to what is left of it after 10 s.
    pub fn stop(&mut self) {
        // A Kamailio that is slow to end is not what these tests are about.
        let _ = self.process.terminate(Duration::from_secs(10));
    }

    /// Kills all of its processes.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Starts it again, empty, after [`Kamailio::stop`] or [`Kamailio::kill9`].
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_again(&mut self) {
        self.process = launch(&self.name, &self.host, &self.config, &self.dir);
        self.wait_ready();
    }

    /// Halts every process of it; datagrams wait in its sockets.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Undoes [`Kamailio::freeze`].
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Fails if it has died.
    ///
    /// # Errors
    /// When it has, with the end of its log.
    pub fn ensure_running(&mut self) -> anyhow::Result<()> {
        self.process.ensure_running()
    }

    /// Everything that it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Calls an RPC command.
    ///
    /// # Errors
    /// When it is refused (with its message) or unanswered.
    pub fn rpc(&self, method: &str, params: &Json) -> anyhow::Result<Json> {
        http_rpc(self.sip(), method, params, Duration::from_secs(60))
    }

    /// All contacts, by `ul.dump`. For some thousands of them.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn contacts(&self) -> anyhow::Result<Contacts> {
        let dump = self.rpc("ul.dump", &json!([]))?;
        let mut out = Contacts::new();
        for domain in dump["Domains"].as_array().into_iter().flatten() {
            for aor in domain["Domain"]["AoRs"].as_array().into_iter().flatten() {
                let info = &aor["Info"];
                let live = live_contacts(&info["Contacts"])?;
                if !live.is_empty() {
                    out.insert(text(&info["AoR"]), live);
                }
            }
        }
        Ok(out)
    }

    /// Contacts of one AoR, by `ul.lookup`; none if there is no such AoR.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn contacts_of(&self, aor: &str) -> anyhow::Result<Vec<Contact>> {
        match self.rpc("ul.lookup", &json!(["location", aor])) {
            Ok(found) => live_contacts(&found["Contacts"]),
            Err(e) if e.to_string().contains("not found") => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// How many contacts its statistics count.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn contact_count(&self) -> anyhow::Result<usize> {
        let statistics = self.rpc("stats.get_statistics", &json!(["usrloc:"]))?;
        let lines = statistics.as_array().into_iter().flatten().filter_map(Json::as_str);
        let line = lines.into_iter().find(|l| l.contains("location_contacts") || l.contains("location-contacts"));
        Ok(line.and_then(|l| l.rsplit('=').next()).context("no location_contacts")?.trim().parse()?)
    }

    /// Removes an AoR with all its contacts: `ul.rm`.
    ///
    /// # Errors
    /// When it is refused.
    pub fn ul_rm(&self, aor: &str) -> anyhow::Result<()> {
        self.rpc("ul.rm", &json!(["location", aor])).map(|_| ())
    }

    /// All entries of a table.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn entries(&self, table: &str) -> anyhow::Result<Entries> {
        let dump = self.rpc("htable.dump", &json!([table]))?;
        let mut out = Entries::new();
        for slot in dump.as_array().into_iter().flatten() {
            for entry in slot["slot"].as_array().into_iter().flatten() {
                out.insert(text(&entry["name"]), value(&entry["value"])?);
            }
        }
        Ok(out)
    }

    /// An entry and when it expires (unix seconds), if it is there.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn entry(&self, table: &str, key: &str) -> anyhow::Result<Option<(Value, Option<u64>)>> {
        match self.rpc("htable.get", &json!([table, key])) {
            Ok(found) => {
                let item = &found["item"];
                Ok(Some((value(&item["value"])?, expiry(&text(&item["expire"]))?)))
            }
            Err(e) if e.to_string().contains("doesn't exist") => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// `htable.sets` or, for an integer, `htable.seti`.
    ///
    /// # Errors
    /// When it is refused.
    pub fn set(&self, table: &str, key: &str, value: impl Into<Value>) -> anyhow::Result<()> {
        match value.into() {
            Value::Int(n) => self.rpc("htable.seti", &json!([table, key, n])),
            Value::Str(s) => self.rpc("htable.sets", &json!([table, key, s])),
        }
        .map(|_| ())
    }

    /// `htable.delete`.
    ///
    /// # Errors
    /// When it is refused.
    pub fn delete(&self, table: &str, key: &str) -> anyhow::Result<()> {
        self.rpc("htable.delete", &json!([table, key])).map(|_| ())
    }

    /// Has its configuration script do something: see `route[OP]`. The headers are `X-K`, `X-V`, `X-E`.
    ///
    /// # Errors
    /// When it is refused or unanswered.
    pub fn script(&self, operation: &str, headers: &[(&str, &str)]) -> anyhow::Result<Message> {
        let socket = udp::connected(None, self.sip())?;
        let mut request = Request::new("MESSAGE", &format!("sip:op-{operation}@{}", self.sip()))
            .header("Via", format!("SIP/2.0/UDP {};branch=z9hG4bK{}", socket.local_addr()?, token()))
            .header("Max-Forwards", "70")
            .header("From", format!("<sip:test@{}>;tag={}", self.host.ip, token()))
            .header("To", format!("<sip:test@{}>", self.host.ip))
            .header("Call-ID", token())
            .header("CSeq", "1 MESSAGE");
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        ok(udp::transact(&socket, &request.bytes(), Duration::from_secs(10))?)
    }

    /// Its DMQ nodes: URI without `sip:` and status, itself left out.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn dmq_nodes(&self) -> anyhow::Result<Vec<(String, String)>> {
        let nodes = self.rpc("dmq.list_nodes", &json!([]))?;
        let others = nodes.as_array().into_iter().flatten().filter(|n| n["local"] != json!(1));
        Ok(others.map(|n| (format!("{}:{}", text(&n["host"]), text(&n["port"])), text(&n["status"]))).collect())
    }

    /// Fails unless it holds that node as active.
    ///
    /// # Errors
    /// With its list.
    pub fn ensure_active(&self, node: &Host) -> anyhow::Result<()> {
        let (nodes, name) = (self.dmq_nodes()?, node.sip().to_string());
        ensure!(nodes.contains(&(name.clone(), "active".to_owned())), "{} has {nodes:?}", self.name);
        Ok(())
    }

    /// Shared memory in use, fragments included, bytes.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn shared_memory_used(&self) -> anyhow::Result<u64> {
        self.rpc("core.shmmem", &json!([]))?["real_used"].as_u64().context("no real_used")
    }
}

fn launch(name: &str, host: &Host, config: &KamailioConfig, dir: &Path) -> Process {
    let file = dir.join("kamailio.cfg");
    std::fs::write(&file, configuration(host, config, dir)).expect("a configuration written");
    let mut command = host.command("kamailio");
    command.env("TZ", "UTC").args(["-DD", "-E", "-f"]).arg(&file).arg("-Y").arg(dir).arg("-w").arg(dir);
    command.args(["-m", &config.shm_mb.to_string(), "-M", &config.pkg_mb.to_string()]);
    Process::spawn(command, name, dir).expect("Kamailio started (cargo xtask test installs it)")
}

fn configuration(host: &Host, config: &KamailioConfig, dir: &Path) -> String {
    let transport = if config.tcp { ";transport=tcp" } else { "" };
    let addresses = config.notification_addresses.iter();
    let addresses = addresses.map(|a| format!("modparam(\"dmq\", \"notification_address\", \"{a}\")"));
    let number = |flag: bool| if flag { "1" } else { "0" }.to_owned();
    let words = [
        ("IP", host.ip.to_string()),
        ("PORT", SIP_PORT.to_string()),
        ("RUN", dir.display().to_string()),
        ("MODULES", modules().display().to_string()),
        ("TRANSPORT", transport.to_owned()),
        ("CHILDREN", config.children.to_string()),
        ("SERVER_ID", config.server_id.to_string()),
        ("FR_TIMER_MS", config.fr_timer_ms.to_string()),
        ("USE_DOMAIN", number(config.use_domain)),
        ("PING_INTERVAL", config.ping_interval.to_string()),
        ("INIT_SYNC", number(config.init_sync)),
        ("BATCH_MSG_CONTACTS", config.batch_msg_contacts.to_string()),
        ("NOTIFICATION_ADDRESSES", addresses.collect::<Vec<_>>().join("\n")),
        ("EXTRA_MODPARAMS", config.modparams.join("\n")),
        ("EXTRA_CORE", String::new()),
    ];
    let template = include_str!("kamailio.cfg.in").to_owned();
    words.iter().fold(template, |text, (word, value)| text.replace(&format!("@{word}@"), value))
}

/// Where the distribution keeps Kamailio's modules.
fn modules() -> PathBuf {
    let places =
        ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib64"];
    let found = places.iter().map(|p| Path::new(p).join("kamailio/modules")).find(|p| p.join("dmq.so").exists());
    found.unwrap_or_else(|| PathBuf::from("/usr/lib/kamailio/modules")).join("")
}

fn http_rpc(server: SocketAddr, method: &str, params: &Json, timeout: Duration) -> anyhow::Result<Json> {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let answer = http::ask("POST", &format!("http://{server}/RPC"), Some(&body), timeout)?;
    match (answer.json.get("result"), answer.json.get("error")) {
        (Some(result), _) => Ok(result.clone()),
        (None, Some(error)) => bail!("{method}: {error}"),
        (None, None) => bail!("{method}: not JSON-RPC: HTTP {} {:.200}", answer.status, answer.text),
    }
}
