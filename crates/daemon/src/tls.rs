//! TLS for links: mutual authentication by an own authority, or none on loopback.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::certs::{self, CertError, NODE_SAN};
use crate::clock;
use crate::config::TlsFiles;

/// The application protocol, with its version.
const ALPN: &[u8] = b"starling/1";

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read as PEM.
    #[error("[tls] {key}: cannot read {what} from {}: {reason}", path.display())]
    File {
        /// Which key of the configuration.
        key: &'static str,
        /// What it should hold.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// In words.
        reason: String,
    },
    /// The certificate is not one that other nodes would take.
    #[error("[tls] cert: {} is of no use: {reason}. `starling cert node` makes a good one", path.display())]
    Own {
        /// The certificate's file.
        path: PathBuf,
        /// In words.
        reason: String,
    },
    /// The certificate carries no node name.
    #[error("[tls] cert: {} carries no name of a node. `starling cert node` makes a good one", .0.display())]
    NoName(PathBuf),
    /// The throw-away certificate could not be made.
    #[error(transparent)]
    ThrowAway(#[from] CertError),
    /// The TLS library refuses.
    #[error("TLS: {0}")]
    Setup(String),
}

/// What a QUIC endpoint needs, and the name that the certificate gives.
pub(crate) struct LinkTls {
    pub(crate) server: Arc<QuicServerConfig>,
    pub(crate) client: Arc<QuicClientConfig>,
    /// The node's name; `None` without certificates.
    pub(crate) name: Option<String>,
}

/// The cryptography, named explicitly: a process-wide default would be ambiguous as soon as a dependency brings a second one.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn setup<E: std::fmt::Display>(error: E) -> TlsError {
    TlsError::Setup(error.to_string())
}

impl LinkTls {
    /// With certificates: only holders of one from the same authority get in, on both ends.
    pub(crate) fn mutual(files: &TlsFiles) -> Result<Self, TlsError> {
        let roots = Arc::new(read_roots(&files.ca)?);
        let chain = read_chain(&files.cert)?;
        let key = read_key(&files.key)?;
        let name = check_own(&chain, &roots, &files.cert)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider()).build().map_err(setup)?;
        let own = |e: rustls::Error| TlsError::Own { path: files.cert.clone(), reason: format!("with its key: {e}") };
        let server = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(setup)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(own)?;
        let client = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(setup)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(own)?;
        Self::new(server, client, Some(name))
    }

    /// Without certificates: encrypted, but anybody gets in. For loopback only.
    pub(crate) fn anonymous() -> Result<Self, TlsError> {
        let (cert, key) = certs::throw_away()?;
        let key = PrivateKeyDer::try_from(key).map_err(setup)?;
        let server = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(setup)?
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(cert)], key)
            .map_err(setup)?;
        let client = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(setup)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider())))
            .with_no_client_auth();
        Self::new(server, client, None)
    }

    fn new(
        mut server: rustls::ServerConfig,
        mut client: rustls::ClientConfig,
        name: Option<String>,
    ) -> Result<Self, TlsError> {
        server.alpn_protocols = vec![ALPN.to_vec()];
        client.alpn_protocols = vec![ALPN.to_vec()];
        // Every link proves itself anew: links are few and long-lived.
        server.send_tls13_tickets = 0;
        client.resumption = Resumption::disabled();
        Ok(Self {
            server: Arc::new(QuicServerConfig::try_from(server).map_err(setup)?),
            client: Arc::new(QuicClientConfig::try_from(client).map_err(setup)?),
            name,
        })
    }
}

/// The node name in a certificate: its first DNS name that is not [`NODE_SAN`].
pub(crate) fn node_name(cert: &CertificateDer<'_>) -> Option<String> {
    let cert = webpki::EndEntityCert::try_from(cert).ok()?;
    let mut names = cert.valid_dns_names();
    names.find(|name| *name != NODE_SAN).map(str::to_owned)
}

fn file_error<'a, E: std::fmt::Display>(
    key: &'static str,
    what: &'static str,
    path: &'a Path,
) -> impl Fn(E) -> TlsError + 'a {
    move |e| TlsError::File { key, what, path: path.into(), reason: e.to_string() }
}

fn read_certs(key: &'static str, what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_file_iter(path).map_err(file_error(key, what, path))?;
    let certs = found.collect::<Result<Vec<_>, _>>().map_err(file_error(key, what, path))?;
    if certs.is_empty() {
        return Err(file_error(key, what, path)("there is none in it"));
    }
    Ok(certs)
}

fn read_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let what = "the authority's certificate";
    let mut roots = RootCertStore::empty();
    for cert in read_certs("ca", what, path)? {
        roots.add(cert).map_err(file_error("ca", what, path))?;
    }
    Ok(roots)
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    read_certs("cert", "this node's certificate", path)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(file_error("key", "this node's private key", path))
}

/// Looks at the own certificate as another node will, so that a mistake shows at the start and not as a refused link.
fn check_own(chain: &[CertificateDer<'_>], roots: &Arc<RootCertStore>, path: &Path) -> Result<String, TlsError> {
    let own = |reason: String| TlsError::Own { path: path.into(), reason };
    let (leaf, rest) = chain.split_first().ok_or_else(|| own("the file is empty".to_owned()))?;
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider()).build().map_err(setup)?;
    let asked = ServerName::try_from(NODE_SAN).map_err(setup)?;
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_millis(clock::wall().0));
    verifier.verify_server_cert(leaf, rest, &asked, &[], now).map_err(|e| own(certificate_fault(&e)))?;
    node_name(leaf).ok_or_else(|| TlsError::NoName(path.into()))
}

/// What is wrong with a certificate, as an operator can use it.
fn certificate_fault(error: &rustls::Error) -> String {
    use rustls::CertificateError as Fault;
    match error {
        rustls::Error::InvalidCertificate(Fault::UnknownIssuer) => {
            "it is not from the authority in [tls] ca".to_owned()
        }
        rustls::Error::InvalidCertificate(Fault::Expired | Fault::ExpiredContext { .. }) => "it has expired".to_owned(),
        rustls::Error::InvalidCertificate(Fault::NotValidYet | Fault::NotValidYetContext { .. }) => {
            "it is not valid yet; is this host's clock right?".to_owned()
        }
        rustls::Error::InvalidCertificate(Fault::NotValidForName | Fault::NotValidForNameContext { .. }) => {
            format!("it does not carry the name {NODE_SAN:?}")
        }
        other => other.to_string(),
    }
}

/// Takes any certificate; signatures are still checked.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::{Request, make_ca, make_node};

    fn request<'a>(name: &'a str, out: &'a Path) -> Request<'a> {
        Request { name, out, days: 30, force: false }
    }

    #[test]
    fn a_made_certificate_is_accepted_and_gives_the_nodes_name() {
        let dir = tempfile::tempdir().expect("a directory");
        make_ca(&request("test", dir.path())).expect("made");
        let made =
            make_node(&request("n1.example.org", dir.path()), dir.path(), &["host.example".to_owned()]).expect("made");
        let tls = LinkTls::mutual(&TlsFiles { ca: made.ca, cert: made.cert, key: made.key }).expect("good");
        assert_eq!(tls.name.as_deref(), Some("n1.example.org"));
    }

    #[test]
    fn a_certificate_of_another_authority_is_refused_at_the_start() {
        let (one, two) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        make_ca(&request("one", one.path())).expect("made");
        make_ca(&request("two", two.path())).expect("made");
        let made = make_node(&request("n1", one.path()), one.path(), &[]).expect("made");
        let files = TlsFiles { ca: two.path().join("ca.pem"), cert: made.cert, key: made.key };
        let error = LinkTls::mutual(&files).err().expect("refused").to_string();
        assert!(error.contains("not from the authority"), "{error}");
    }

    #[test]
    fn a_key_that_does_not_belong_to_the_certificate_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        make_ca(&request("test", dir.path())).expect("made");
        let one = make_node(&request("n1", dir.path()), dir.path(), &[]).expect("made");
        let two = make_node(&request("n2", dir.path()), dir.path(), &[]).expect("made");
        let error =
            LinkTls::mutual(&TlsFiles { ca: one.ca, cert: one.cert, key: two.key }).err().expect("refused").to_string();
        assert!(error.contains("n1.pem"), "{error}");
    }

    #[test]
    fn a_missing_file_is_named_with_its_key() {
        let files = TlsFiles { ca: "/nowhere/ca.pem".into(), cert: "c".into(), key: "k".into() };
        let error = LinkTls::mutual(&files).err().expect("missing").to_string();
        assert!(error.contains("[tls] ca") && error.contains("/nowhere/ca.pem"), "{error}");
    }

    #[test]
    fn without_certificates_there_is_no_name() {
        assert_eq!(LinkTls::anonymous().expect("made").name, None);
    }
}
