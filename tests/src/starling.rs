//! A real node: the `starling` binary with a configuration of ours, asked over its admin API and its CLI.

mod admin;
mod authority;

pub use authority::Authority;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::ensure;
use rustix::process::Signal;

use crate::host::{ADMIN_PORT, Host, QUIC_PORT, SIP_PORT};
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
        std::fs::write(dir.join("starling.toml"), configuration(name, host, config, &dir)).expect("a configuration");
        let process = launch(name, host, &dir);
        let mut node = Self { host: host.clone(), name: name.to_owned(), dir, process };
        node.wait_ready();
        node
    }

    fn wait_ready(&mut self) {
        eventually(PATIENCE, &format!("{} is ready", self.name), || {
            self.process.ensure_running()?;
            let answer = self.ask("GET", "/readyz", None)?;
            ensure!(answer.status == 200, "/readyz says {} {}", answer.status, answer.text.trim());
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
        ensure!(status.success(), "{} ended with {status}\n{}", self.name, self.process.log_tail(20));
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

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Its SIP address.
    #[must_use]
    pub fn sip(&self) -> SocketAddr {
        self.host.sip()
    }
}

/// Fails unless all nodes have equal digests.
///
/// # Errors
/// With the digests.
pub fn equal_digests(nodes: &[&Starling]) -> anyhow::Result<()> {
    let digests: Vec<_> = nodes.iter().map(|n| Ok((n.name.clone(), n.digest()?))).collect::<anyhow::Result<_>>()?;
    ensure!(digests.windows(2).all(|w| w[0].1 == w[1].1), "digests differ: {digests:?}");
    Ok(())
}

/// Waits until every node sees all the others and carries data with them.
///
/// # Panics
/// When they do not meet.
pub fn meet(nodes: &[&Starling]) {
    for node in nodes {
        eventually(PATIENCE, &format!("{} meets the others", node.name), || node.ensure_members(nodes.len() - 1));
    }
}

fn launch(name: &str, host: &Host, dir: &Path) -> Process {
    let mut command = host.command(&binary().display().to_string());
    command.args(["run", "--config"]).arg(dir.join("starling.toml"));
    Process::spawn(command, name, dir).expect("a node started")
}

fn configuration(name: &str, host: &Host, config: &StarlingConfig, dir: &Path) -> String {
    let ip = host.ip;
    let quoted = |list: &[String]| list.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", ");
    let join: Vec<String> = config.join.iter().map(SocketAddr::to_string).collect();
    let mut out = format!("name = \"{name}\"\n");
    if config.durable {
        out += &format!("data = \"{}\"\n", dir.join("data").display());
    }
    if config.ack_disk {
        out += "ack = \"disk\"\n";
    }
    out += &format!("\n[link]\nlisten = \"{ip}:{QUIC_PORT}\"\njoin = [{}]\n", quoted(&join));
    if let Some(certificates) = &config.certificates {
        out += &tls_section(name, certificates);
    }
    out += &format!("\n[sip]\nlisten = [\"udp:{ip}:{SIP_PORT}\", \"tcp:{ip}:{SIP_PORT}\"]\n");
    out += &format!("\n[admin]\nlisten = \"{ip}:{ADMIN_PORT}\"\n\n[dmq]\npeers = [{}]\n", quoted(&config.peers));
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
        assert!(out.status.success(), "the binary does not build:\n{}", String::from_utf8_lossy(&out.stderr));
        profile_dir.join("starling")
    })
}

/// How long a change may take to be seen everywhere when nothing is broken. The aim is a second between
/// two servers; this leaves room for a machine that does other things, and is no measurement.
pub const PROMPTLY: Duration = Duration::from_secs(1);
