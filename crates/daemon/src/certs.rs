//! Making certificates: an own authority, and one certificate per node.
//!
//! A node's certificate carries two DNS names: its own, which is the node's name, and [`NODE_SAN`],
//! which a dialer asks for, because it knows an address and not who answers there.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

use crate::clock;
use crate::utc::Utc;

/// The DNS name that every node's certificate has.
pub const NODE_SAN: &str = "starling.node";

/// Certificates that were not made. Files that were there before are untouched.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// A file is in the way.
    #[error("{} is there already and was left alone; use --force to replace it", .0.display())]
    Exists(PathBuf),
    /// The file system refuses.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A name that cannot stand in a certificate.
    #[error("{name:?} cannot be {role}: {reason}")]
    Name {
        /// The name.
        name: String,
        /// What it should be.
        role: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// The authority's files are not what `starling cert ca` makes.
    #[error("{}: {reason}; is this the directory that `starling cert ca --out` made?", path.display())]
    Authority {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The library refuses.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// What to make.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Common name of an authority, or the name of a node.
    pub name: &'a str,
    /// Directory of the new files; made if needed.
    pub out: &'a Path,
    /// Days until it expires.
    pub days: u32,
    /// Whether files that are there are replaced.
    pub force: bool,
}

/// A certificate and its key on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The new certificate.
    pub cert: PathBuf,
    /// Its private key, readable by its owner only.
    pub key: PathBuf,
}

/// Makes an authority: `ca.pem` and `ca.key`.
pub fn make_ca(request: &Request<'_>) -> Result<Made, CertError> {
    let mut params = lasting(request.days);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, request.name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let cert = params.self_signed(&key)?.pem();
    let made =
        Made { ca: request.out.join("ca.pem"), cert: request.out.join("ca.pem"), key: request.out.join("ca.key") };
    write_all(request, &[(&made.key, &key.serialize_pem(), true), (&made.cert, &cert, false)])?;
    Ok(made)
}

/// Makes a node's certificate, signed by the authority in `ca`: `NAME.pem` and `NAME.key`, with a copy of `ca.pem`.
pub fn make_node(request: &Request<'_>, ca: &Path, hosts: &[String]) -> Result<Made, CertError> {
    check_node_name(request.name)?;
    let (ca_pem, issuer) = load_ca(ca)?;
    let mut params = lasting(request.days);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, request.name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names = vec![dns(request.name)?, dns(NODE_SAN)?];
    for host in hosts {
        params.subject_alt_names.push(match host.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => dns(host)?,
        });
    }
    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, &issuer)?.pem();
    let file = |extension: &str| request.out.join(format!("{}.{extension}", request.name));
    let made = Made { ca: request.out.join("ca.pem"), cert: file("pem"), key: file("key") };
    write_all(request, &[(&made.key, &key.serialize_pem(), true), (&made.cert, &cert, false)])?;
    if fs::read(&made.ca).ok().as_deref() != Some(ca_pem.as_bytes()) {
        write_all(request, &[(&made.ca, &ca_pem, false)])?;
    }
    Ok(made)
}

/// A certificate for this process only, for nodes on loopback that have none: certificate and key as DER.
pub(crate) fn throw_away() -> Result<(Vec<u8>, Vec<u8>), CertError> {
    let key = KeyPair::generate()?;
    let cert = CertificateParams::new(vec![NODE_SAN.to_owned()])?.self_signed(&key)?;
    Ok((cert.der().to_vec(), key.serialize_der()))
}

fn load_ca(dir: &Path) -> Result<(String, Issuer<'static, KeyPair>), CertError> {
    let read = |name: &str| {
        let path = dir.join(name);
        let text =
            fs::read_to_string(&path).map_err(|source| CertError::Io { what: "read", path: path.clone(), source })?;
        Ok::<_, CertError>((path, text))
    };
    let (cert_path, cert) = read("ca.pem")?;
    let (key_path, key) = read("ca.key")?;
    let broken = |path: PathBuf| move |e: rcgen::Error| CertError::Authority { path, reason: e.to_string() };
    let key = KeyPair::from_pem(&key).map_err(broken(key_path))?;
    let issuer = Issuer::from_ca_cert_pem(&cert, key).map_err(broken(cert_path))?;
    Ok((cert, issuer))
}

/// Valid from yesterday, so that a host whose clock is a little behind takes it at once.
fn lasting(days: u32) -> CertificateParams {
    let today = clock::wall().0 / 86_400_000;
    let date = |day: u64| {
        let date = Utc::from_unix(day.min(2_900_000) * 86_400);
        date_time_ymd(i32::try_from(date.year).unwrap_or(9_999), date.month, date.day)
    };
    let mut params = CertificateParams::default();
    params.not_before = date(today.saturating_sub(1));
    params.not_after = date(today + u64::from(days));
    params
}

fn check_node_name(name: &str) -> Result<(), CertError> {
    let refuse = |reason| Err(CertError::Name { name: name.to_owned(), role: "a node's name", reason });
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if name == NODE_SAN {
        return refuse("every node's certificate carries this one");
    }
    let labels_good =
        name.split('.').all(|label| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-'));
    if name.len() > 63 || !name.chars().all(good) || !labels_good || name.parse::<IpAddr>().is_ok() {
        return refuse("it must read like a host name: letters, digits, '-' and '.', at most 63");
    }
    Ok(())
}

fn dns(name: &str) -> Result<SanType, CertError> {
    let refused =
        |_| CertError::Name { name: name.to_owned(), role: "a host", reason: "it is neither an IP address nor ASCII" };
    Ok(SanType::DnsName(name.try_into().map_err(refused)?))
}

fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> CertError {
    let path = path.to_path_buf();
    move |source| CertError::Io { what, path: path.clone(), source }
}

/// Writes all files or, if one is in the way, none.
fn write_all(request: &Request<'_>, files: &[(&PathBuf, &str, bool)]) -> Result<(), CertError> {
    fs::create_dir_all(request.out).map_err(failed("make", request.out))?;
    if !request.force
        && let Some((path, ..)) = files.iter().find(|(path, ..)| path.exists())
    {
        return Err(CertError::Exists((*path).clone()));
    }
    for (path, text, secret) in files {
        if request.force && path.exists() {
            fs::remove_file(path).map_err(failed("replace", path))?;
        }
        let mode = if *secret { 0o600 } else { 0o644 };
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
        let mut file = file.map_err(failed("write", path))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed("write", path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn request<'a>(name: &'a str, out: &'a Path) -> Request<'a> {
        Request { name, out, days: 30, force: false }
    }

    #[test]
    fn keys_are_readable_by_their_owner_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let ca = make_ca(&request("test", dir.path())).expect("made");
        let node = make_node(&request("n1", dir.path()), dir.path(), &["127.0.0.1".to_owned()]).expect("made");
        for key in [&ca.key, &node.key] {
            let mode = fs::metadata(key).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", key.display());
        }
    }

    #[test]
    fn what_is_there_is_left_alone_unless_forced() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = make_ca(&request("test", dir.path())).expect("made");
        let before = fs::read(&made.key).expect("a key");
        let error = make_ca(&request("test", dir.path())).expect_err("in the way").to_string();
        assert!(error.contains("--force"), "{error}");
        assert_eq!(fs::read(&made.key).expect("a key"), before);
        make_ca(&Request { force: true, ..request("test", dir.path()) }).expect("forced");
        assert_ne!(fs::read(&made.key).expect("a key"), before);
    }

    #[test]
    fn a_node_certificate_comes_with_the_authoritys() {
        let (ca, out) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        make_ca(&request("test", ca.path())).expect("made");
        let made = make_node(&request("n1", out.path()), ca.path(), &[]).expect("made");
        assert_eq!(fs::read(made.ca).expect("copied"), fs::read(ca.path().join("ca.pem")).expect("there"));
        make_node(&request("n2", out.path()), ca.path(), &[]).expect("the same authority is no obstacle");
    }

    #[test]
    fn names_that_cannot_stand_in_a_certificate_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        make_ca(&request("test", dir.path())).expect("made");
        for name in ["", "a b", "a_b", "-a", "a..b", "127.0.0.1", NODE_SAN] {
            let error = make_node(&request(name, dir.path()), dir.path(), &[]);
            assert!(matches!(error, Err(CertError::Name { .. })), "{name}");
        }
    }

    #[test]
    fn a_directory_without_an_authority_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = make_node(&request("n1", dir.path()), dir.path(), &[]).expect_err("none there").to_string();
        assert!(error.contains("ca.pem"), "{error}");
    }
}
