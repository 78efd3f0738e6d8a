//! Certificates for links that leave the machine.

use std::path::PathBuf;
use std::process::Command;

use super::binary;
use crate::host::Host;
use crate::process::fresh_dir;

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
        run(Command::new(binary()).args(["cert", "ca", "--out"]).arg(&dir));
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
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}
