//! The Debian and Ubuntu packages that the tests need.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// Packages, and something of each that shows it to be there however it was installed.
const PACKAGES: &[(&str, Needs)] = &[
    ("kamailio", Needs::Program("kamailio")),
    ("kamailio", Needs::Module("dmq_usrloc.so")),
    ("kamailio-extra-modules", Needs::Module("uuid.so")),
    ("kamailio-presence-modules", Needs::Module("presence.so")),
    ("sip-tester", Needs::Program("sipp")),
    ("iproute2", Needs::Program("ip")),
    ("iptables", Needs::Program("iptables")),
];

enum Needs {
    /// An executable in the search path or in an `sbin`.
    Program(&'static str),
    /// A module of Kamailio.
    Module(&'static str),
}

impl Needs {
    fn is_there(&self) -> bool {
        match self {
            Self::Program(name) => {
                let path = std::env::var_os("PATH").unwrap_or_default();
                let dirs =
                    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into(), "/usr/local/sbin".into()]);
                dirs.into_iter().any(|dir| dir.join(name).is_file())
            }
            Self::Module(name) => {
                let libraries = [
                    "/usr/lib/x86_64-linux-gnu",
                    "/usr/lib/aarch64-linux-gnu",
                    "/usr/lib64",
                    "/usr/lib",
                    "/usr/local/lib64",
                ];
                libraries.iter().any(|dir| Path::new(dir).join("kamailio/modules").join(name).is_file())
            }
        }
    }
}

/// How to become root: for packages, and for tests with network namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// We are.
    Is,
    /// `sudo -n` works.
    Sudo,
    /// Not at all.
    Never,
}

impl Root {
    pub(crate) fn find() -> Self {
        let id = Command::new("id").arg("-u").output().map(|o| o.stdout).unwrap_or_default();
        if id.trim_ascii() == b"0" {
            return Self::Is;
        }
        let sudo = Command::new("sudo").args(["-n", "true"]).stdin(Stdio::null()).stderr(Stdio::null()).status();
        if sudo.is_ok_and(|s| s.success()) { Self::Sudo } else { Self::Never }
    }

    fn command(self, program: &str) -> Command {
        if self == Self::Sudo {
            let mut command = Command::new("sudo");
            command.args(["-n", "DEBIAN_FRONTEND=noninteractive", program]);
            return command;
        }
        let mut command = Command::new(program);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    }
}

/// Sees to it that every package is there.
///
/// # Errors
/// Names what is missing when it may not or cannot be installed.
pub(crate) fn provide(may_install: bool, root: Root) -> anyhow::Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return require_root(root);
    }
    let names = missing.join(" ");
    if !may_install || root == Root::Never {
        bail!("these packages are missing: {names}\n  install them: apt-get update && apt-get install {names}");
    }
    if Command::new("apt-get").arg("--version").stdout(Stdio::null()).status().is_err() {
        bail!("this is neither Debian nor Ubuntu; install what they call: {names}");
    }
    install(&missing, root)?;
    let missing = self::missing();
    if !missing.is_empty() {
        bail!("still missing after their installation: {}", missing.join(" "));
    }
    require_root(root)
}

/// Network namespaces are for root only.
fn require_root(root: Root) -> anyhow::Result<()> {
    if root == Root::Never {
        bail!("the tests with network namespaces need root: run as root, or allow sudo without a password");
    }
    Ok(())
}

fn missing() -> Vec<&'static str> {
    let mut names: Vec<_> = PACKAGES.iter().filter(|(_, needs)| !needs.is_there()).map(|(name, _)| *name).collect();
    names.dedup();
    names
}

fn install(packages: &[&str], root: Root) -> anyhow::Result<()> {
    eprintln!("xtask: installing {}", packages.join(" "));
    let ran_before = server_runs();
    run(root.command("apt-get").args(["update", "-q"]))?;
    run(root.command("apt-get").args(["install", "-q", "-y", "--no-install-recommends"]).args(packages))?;
    // Debian starts a service when it installs one. The tests start their own servers, so one that the
    // installation brought up is stopped again; one that ran before is none of our business.
    if !ran_before && server_runs() {
        eprintln!("xtask: stopping the kamailio service that the installation started");
        run(root.command("service").args(["kamailio", "stop"]))?;
    }
    Ok(())
}

/// Whether any process is called kamailio.
fn server_runs() -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .into_iter()
        .any(|p| std::fs::read(p.path().join("comm")).is_ok_and(|name| name.trim_ascii() == b"kamailio"))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}
