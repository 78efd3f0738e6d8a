//! Configuration: a TOML file, overridden by flags, checked once and turned into a [`Plan`].
//!
//! [`Settings`] is what people write; [`Plan`] is what the shell does with it. Between the two stands
//! [`Plan::new`], which resolves names and refuses what cannot work, with a sentence about what to change.

mod address;
mod plan;
mod print;
pub mod settings;
mod span;

use std::path::{Path, PathBuf};

pub use address::{AddressError, DmqUri, HostPort, SipAddr, transport_word};
pub use plan::{Plan, SipListen, TlsFiles};
pub use settings::Settings;
pub use span::{Span, SpanError};

/// A configuration that cannot be used. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a key or value that does not exist.
    #[error("{}: {}\n`starling run --print-config` shows every key with its meaning", path.display(), message.trim_end())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// The parser's words, with the line.
        message: String,
    },
    /// An address that cannot be read or found.
    #[error("{key}: {source}")]
    Address {
        /// The key it stands under.
        key: &'static str,
        /// What is wrong with it.
        source: AddressError,
    },
    /// A value out of its range, or two that do not go together.
    #[error("{0}")]
    Invalid(String),
}

impl Settings {
    /// Reads a configuration file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        toml::from_str(&text).map_err(|e| ConfigError::Parse { path: path.into(), message: e.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn an_empty_file_is_the_default_configuration() {
        assert_eq!(parse("").expect("empty"), Settings::default());
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        for (text, key) in [
            ("nmae = \"x\"", "nmae"),
            ("[link]\nlissen = \"127.0.0.1:1\"", "lissen"),
            ("[htable.t]\nautoexpires = \"1s\"", "autoexpires"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn a_file_with_an_error_is_named_with_the_line_and_a_way_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("starling.toml");
        std::fs::write(&path, "ack = \"memory\"\n[link]\nmax_skew = 5\n").expect("written");
        let error = Settings::load(&path).expect_err("a number is no span").to_string();
        assert!(error.contains("starling.toml"), "{error}");
        assert!(error.contains("line 3"), "{error}");
        assert!(error.contains("--print-config"), "{error}");
    }

    #[test]
    fn every_section_is_read() {
        let text = r#"
            name = "n1"
            data = "/var/lib/starling"
            ack = "disk"
            [link]
            listen = "192.0.2.1:7946"
            advertise = "n1.example.org:7946"
            join = ["n2.example.org:7946"]
            timing = "wan"
            max_skew = "2s"
            forget_after = "3d"
            cluster = "c"
            [tls]
            ca = "ca.pem"
            cert = "n1.pem"
            key = "n1.key"
            [sip]
            listen = ["udp:192.0.2.1:5070"]
            [dmq]
            peers = ["sip:192.0.2.9:5060"]
            mode = "mesh"
            trusted = ["192.0.2.0/24", "198.51.100.7"]
            ping_interval = "10s"
            window = 16
            feed_limit = 50000
            multi = 5
            [location]
            max_ttl = "12h"
            [htable.counts]
            autoexpire = "1h"
            updateexpire = false
            counter = true
            max_ttl = "2h"
            [admin]
            listen = "127.0.0.1:8071"
            [log]
            level = "debug"
        "#;
        let settings = parse(text).expect("valid");
        assert_eq!(settings.dmq.trusted.as_ref().map(Vec::len), Some(2));
        assert_eq!(settings.htable["counts"].autoexpire, Span::from_secs(3_600));
        assert_eq!(settings.link.timing, settings::Timing::Wan);
    }
}
