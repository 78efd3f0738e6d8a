//! From settings to what the shell does.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use node::config::{Ack, DmqConfig, DmqMode, DmqPeer, HtableConfig, SipTransport, Timing};

use super::settings::{self, Settings};
use super::{AddressError, ConfigError, Span};

/// A checked configuration with all names resolved. Ports may still be 0: the sockets decide.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The name that was given; `None`: the certificate's or the host's.
    pub name: Option<String>,
    /// Cluster name.
    pub cluster: String,
    /// QUIC address to bind.
    pub listen: SocketAddr,
    /// QUIC address that others use, where it is not the bound one.
    pub advertise: Option<SocketAddr>,
    /// Nodes to join.
    pub join: Vec<SocketAddr>,
    /// Failure detector timing.
    pub timing: Timing,
    /// Largest tolerated clock offset, milliseconds.
    pub max_skew_ms: u64,
    /// How long a node that is away stays a member, seconds.
    pub forget_after_s: u64,
    /// Certificates; none only on loopback.
    pub tls: Option<TlsFiles>,
    /// Data directory; none: memory only.
    pub data: Option<PathBuf>,
    /// When a write is acknowledged.
    pub ack: Ack,
    /// SIP sockets.
    pub sip: Vec<SipListen>,
    /// KDMQ.
    pub dmq: DmqConfig,
    /// Longest life of a registration, seconds.
    pub location_max_ttl_s: u32,
    /// Longest life of a dialog, seconds.
    pub dialog_max_life_s: u32,
    /// Hash tables.
    pub htables: BTreeMap<String, HtableConfig>,
    /// HTTP address to bind.
    pub admin: SocketAddr,
}

/// Paths of PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate of the authority.
    pub ca: PathBuf,
    /// This node's certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A SIP socket to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SipListen {
    /// UDP or TCP.
    pub transport: SipTransport,
    /// Where to bind.
    pub bind: SocketAddr,
    /// The address that servers use, where it is not the bound one.
    pub advertise: Option<IpAddr>,
}

impl Plan {
    /// Checks the settings and resolves host names.
    pub fn new(settings: &Settings) -> Result<Self, ConfigError> {
        let tls = tls_files(&settings.tls)?;
        let link = &settings.link;
        check_listen(link, tls.is_some())?;
        let advertise = resolve_advertise(link)?;
        let join = resolve_join(link, tls.is_some())?;
        check_disk(settings)?;
        Ok(Self {
            name: settings.name.clone().map(check_name).transpose()?,
            cluster: link.cluster.clone(),
            listen: link.listen,
            advertise,
            join,
            timing: match link.timing {
                settings::Timing::Lan => Timing::Lan,
                settings::Timing::Wan => Timing::Wan,
            },
            max_skew_ms: within("link.max_skew", link.max_skew, Span::from_secs(0), Span::from_secs(300))?.millis(),
            forget_after_s: check_forget_after(settings)?,
            tls,
            data: settings.data.clone(),
            ack: match settings.ack {
                settings::Ack::Memory => Ack::Memory,
                settings::Ack::Disk => Ack::Disk,
            },
            sip: sip_sockets(&settings.sip)?,
            dmq: dmq(&settings.dmq)?,
            location_max_ttl_s: seconds("location.max_ttl", settings.location.max_ttl)?.max(1),
            dialog_max_life_s: seconds("dialog.max_life", settings.dialog.max_life)?.max(1),
            htables: htables(settings)?,
            admin: settings.admin.listen,
        })
    }

    /// Connecting to a node takes at most this long.
    pub fn dial_timeout(&self) -> Duration {
        match self.timing {
            Timing::Lan => Duration::from_secs(2),
            Timing::Wan => Duration::from_secs(5),
        }
    }
}

fn invalid<T>(text: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Invalid(text.into()))
}

fn check_name(name: String) -> Result<String, ConfigError> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if name.is_empty() || name.len() > 63 || !name.chars().all(good) {
        return invalid(format!("name: {name:?} is not a node name: use 1 to 63 letters, digits, '-', '.' and '_'"));
    }
    Ok(name)
}

fn tls_files(tls: &settings::Tls) -> Result<Option<TlsFiles>, ConfigError> {
    match (&tls.ca, &tls.cert, &tls.key) {
        (None, None, None) => Ok(None),
        (Some(ca), Some(cert), Some(key)) => {
            Ok(Some(TlsFiles { ca: ca.clone(), cert: cert.clone(), key: key.clone() }))
        }
        (ca, cert, key) => {
            let given = [("ca", ca.is_some()), ("cert", cert.is_some()), ("key", key.is_some())];
            let missing: Vec<_> = given.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
            invalid(format!(
                "tls: {} missing: [tls] needs ca, cert and key together (`starling cert node` makes them)",
                missing.join(" and ")
            ))
        }
    }
}

/// How to get certificates, for those who need them.
const MAKE_CERTIFICATES: &str = "make certificates:\n  \
    starling cert ca --out DIR                       once, and keep DIR/ca.key safe\n  \
    starling cert node --ca DIR --name NAME --out DIR   for each node; it prints the lines for [tls]";

fn check_listen(link: &settings::Link, tls: bool) -> Result<(), ConfigError> {
    let listen = link.listen;
    if !tls && !listen.ip().is_loopback() {
        return invalid(format!(
            "link.listen: {listen} is open to other hosts, but there are no certificates, so anybody could join. \
             Listen on 127.0.0.1, or {MAKE_CERTIFICATES}"
        ));
    }
    if listen.ip().is_unspecified() && link.advertise.is_none() {
        return invalid(format!(
            "link.listen: {listen} means every address of this host, so say which one other nodes shall use: \
             link.advertise (--advertise) = \"HOST:PORT\""
        ));
    }
    Ok(())
}

fn resolve_advertise(link: &settings::Link) -> Result<Option<SocketAddr>, ConfigError> {
    let Some(advertise) = &link.advertise else { return Ok(None) };
    let addr = advertise.resolve().map_err(address("link.advertise"))?;
    if addr.ip().is_unspecified() || addr.port() == 0 {
        return invalid(format!(
            "link.advertise: {advertise} is not an address that others can use: name one with a port"
        ));
    }
    Ok(Some(addr))
}

fn resolve_join(link: &settings::Link, tls: bool) -> Result<Vec<SocketAddr>, ConfigError> {
    let mut found = Vec::new();
    for join in &link.join {
        let addr = join.resolve().map_err(address("link.join"))?;
        if addr.ip().is_unspecified() || addr.port() == 0 {
            return invalid(format!("link.join: {join} is not an address of a node: name one with a port"));
        }
        if addr.is_ipv4() != link.listen.is_ipv4() && !link.listen.ip().is_unspecified() {
            return invalid(format!(
                "link.join: {join} ({addr}) cannot be reached from {}: one is IPv4, one IPv6",
                link.listen
            ));
        }
        if link.listen.ip().is_loopback() && !addr.ip().is_loopback() {
            let how = if tls { "set link.listen to an address of this host's network" } else { MAKE_CERTIFICATES };
            return invalid(format!(
                "link.join: {join} ({addr}) is on another host, but this node's links listen on loopback only ({}): {how}",
                link.listen
            ));
        }
        if !found.contains(&addr) {
            found.push(addr);
        }
    }
    Ok(found)
}

fn address(key: &'static str) -> impl Fn(AddressError) -> ConfigError {
    move |source| ConfigError::Address { key, source }
}

fn check_disk(settings: &Settings) -> Result<(), ConfigError> {
    if settings.ack == settings::Ack::Disk && settings.data.is_none() {
        return invalid("ack = \"disk\" needs a disk: set data (--data DIR), or leave ack at \"memory\"");
    }
    Ok(())
}

fn within(key: &str, span: Span, min: Span, max: Span) -> Result<Span, ConfigError> {
    if span < min || span > max {
        return invalid(format!("{key}: {span} is out of range: {min} to {max}"));
    }
    Ok(span)
}

fn seconds(key: &str, span: Span) -> Result<u32, ConfigError> {
    u32::try_from(span.secs()).or_else(|_| invalid(format!("{key}: {span} is too long")))
}

fn check_forget_after(settings: &Settings) -> Result<u64, ConfigError> {
    let forget_after = settings.link.forget_after;
    let location = ("location.max_ttl".to_owned(), settings.location.max_ttl);
    let tables = settings.htable.iter().map(|(name, t)| (format!("htable.{name}.max_ttl"), t.max_ttl));
    let dialog = ("dialog.max_life".to_owned(), settings.dialog.max_life);
    for (key, span) in tables.chain([location, dialog]) {
        if span >= forget_after {
            return invalid(format!("link.forget_after: {forget_after} must be longer than {key}, which is {span}"));
        }
    }
    Ok(forget_after.secs())
}

fn sip_sockets(sip: &settings::Sip) -> Result<Vec<SipListen>, ConfigError> {
    let mut sockets = Vec::new();
    for listen in &sip.listen {
        if listen.addr.ip().is_unspecified() && sip.advertise.is_none() {
            return invalid(format!(
                "sip.listen: {listen} means every address of this host, but servers know a DMQ node by one: \
                 name that one here, or in sip.advertise = \"IP\""
            ));
        }
        let socket = SipListen { transport: listen.transport, bind: listen.addr, advertise: sip.advertise };
        if sockets.contains(&socket) {
            return invalid(format!("sip.listen: {listen} is there twice"));
        }
        sockets.push(socket);
    }
    Ok(sockets)
}

fn dmq(dmq: &settings::Dmq) -> Result<DmqConfig, ConfigError> {
    let mut peers = Vec::new();
    for uri in &dmq.peers {
        peers.push(DmqPeer { addr: uri.host.resolve().map_err(address("dmq.peers"))?, transport: uri.transport });
    }
    for (key, value, max) in [("window", dmq.window, 4_096), ("multi", dmq.multi, 100)] {
        if value == 0 || value > max {
            return invalid(format!("dmq.{key}: {value} is out of range: 1 to {max}"));
        }
    }
    let trusted = match &dmq.trusted {
        Some(nets) => nets.iter().map(|net| net.0).collect(),
        None => default_trust(&peers),
    };
    Ok(DmqConfig {
        trusted,
        mode: match dmq.mode {
            settings::Mode::Bridge => DmqMode::Bridge,
            settings::Mode::Mesh => DmqMode::Mesh,
        },
        ping_interval_ms: within("dmq.ping_interval", dmq.ping_interval, Span::from_secs(1), Span::from_secs(3_600))?
            .millis(),
        window: dmq.window,
        feed_limit: dmq.feed_limit,
        multi: dmq.multi,
        peers,
    })
}

/// Loopback and the configured servers.
fn default_trust(peers: &[DmqPeer]) -> Vec<IpNet> {
    let loopback = ["127.0.0.0/8", "::1/128"].into_iter().filter_map(|net| net.parse().ok());
    let mut nets: Vec<IpNet> = loopback.collect();
    for peer in peers {
        let net = IpNet::from(peer.addr.ip());
        if !nets.iter().any(|known| known.contains(&net)) {
            nets.push(net);
        }
    }
    nets
}

fn htables(settings: &Settings) -> Result<BTreeMap<String, HtableConfig>, ConfigError> {
    let mut tables = BTreeMap::new();
    for (name, table) in &settings.htable {
        let config = HtableConfig {
            autoexpire_s: seconds(&format!("htable.{name}.autoexpire"), table.autoexpire)?,
            updateexpire: table.updateexpire,
            counter: table.counter,
            max_ttl_s: seconds(&format!("htable.{name}.max_ttl"), table.max_ttl)?,
        };
        if config.max_ttl_s != 0 && config.autoexpire_s > config.max_ttl_s {
            return invalid(format!(
                "htable.{name}: autoexpire ({}) is longer than max_ttl ({})",
                table.autoexpire, table.max_ttl
            ));
        }
        tables.insert(name.clone(), config);
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Result<Plan, String> {
        let settings: Settings = toml::from_str(text).expect("settings");
        Plan::new(&settings).map_err(|e| e.to_string())
    }

    const TLS: &str = "[tls]\nca = \"ca\"\ncert = \"c\"\nkey = \"k\"\n";

    #[test]
    fn the_defaults_make_a_plan_that_trusts_loopback() {
        let plan = plan("").expect("defaults");
        assert!(plan.dmq.trusted.iter().any(|net| net.contains(&IpAddr::from([127, 0, 0, 9]))));
        assert_eq!(plan.sip.len(), 2);
        assert_eq!(plan.tls, None);
    }

    #[test]
    fn a_peers_address_is_trusted_unless_the_list_is_given() {
        let open = plan("[dmq]\npeers = [\"sip:192.0.2.9\"]").expect("valid").dmq.trusted;
        assert!(open.iter().any(|net| net.contains(&IpAddr::from([192, 0, 2, 9]))));
        let closed = plan("[dmq]\npeers = [\"sip:192.0.2.9\"]\ntrusted = [\"192.0.2.8\"]").expect("valid").dmq.trusted;
        assert_eq!(closed, ["192.0.2.8/32".parse().expect("net")]);
    }

    #[test]
    fn an_open_listener_without_certificates_is_refused_with_the_way_to_make_them() {
        let error = plan("[link]\nlisten = \"192.0.2.1:7946\"").expect_err("open");
        assert!(error.contains("starling cert ca"), "{error}");
    }

    #[test]
    fn listening_everywhere_needs_an_advertised_address() {
        let listen = "[link]\nlisten = \"0.0.0.0:7946\"\n";
        let error = plan(&format!("{listen}{TLS}")).expect_err("no advertise");
        assert!(error.contains("link.advertise"), "{error}");
        plan(&format!("{listen}advertise = \"192.0.2.1:7946\"\n{TLS}")).expect("named");
    }

    #[test]
    fn a_part_of_the_certificate_files_is_refused_naming_the_rest() {
        let error = plan("[tls]\nca = \"ca\"\n").expect_err("partial");
        assert!(error.contains("cert and key missing"), "{error}");
    }

    #[test]
    fn joining_another_host_from_loopback_is_refused() {
        let error = plan("[link]\njoin = [\"192.0.2.1:7946\"]").expect_err("loopback");
        assert!(error.contains("on another host") && error.contains("starling cert"), "{error}");
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        for (text, key) in [
            ("ack = \"disk\"", "data"),
            ("name = \"a b\"", "name"),
            ("[dmq]\nwindow = 0", "dmq.window"),
            ("[dmq]\nping_interval = \"1ms\"", "dmq.ping_interval"),
            ("[link]\nforget_after = \"1h\"", "link.forget_after"),
            ("[sip]\nlisten = [\"udp:0.0.0.0:5070\"]", "sip.advertise"),
            ("[sip]\nlisten = [\"udp:127.0.0.1:5070\", \"udp:127.0.0.1:5070\"]", "twice"),
            ("[htable.t]\nautoexpire = \"2h\"\nmax_ttl = \"1h\"", "htable.t"),
        ] {
            let error = plan(text).expect_err(text);
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn a_name_that_does_not_resolve_is_refused_with_the_key() {
        let error = plan("[link]\njoin = [\"no-such-host.invalid:7946\"]").expect_err("unknown");
        assert!(error.contains("link.join") && error.contains("no-such-host.invalid"), "{error}");
    }
}
