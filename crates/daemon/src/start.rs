//! Starting a node, running it, and ending it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use node::config::{SipSocket, SipTransport};
use node::{Config, Node, NodeId, Origin, Restored, SocketId};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, oneshot};

use crate::banner::{self, Facts};
use crate::clock::Clock;
use crate::config::{Plan, SipAddr};
use crate::core::{Core, Ending};
use crate::disk::{self, Disk, DiskError, FjallDisk};
use crate::entropy;
use crate::http::{self, App};
use crate::identity::{DataDir, DataError};
use crate::inbox::{Event, Inbox};
use crate::links::{self, Links};
use crate::sip::{Connections, Udp};
use crate::tls::{LinkTls, TlsError};

/// Changes that a watcher may be behind before it misses some.
const WATCH_BACKLOG: usize = 4_096;

/// Links and the admin interface; SIP over UDP, the node and the disk have threads of their own.
const WORKERS: usize = 2;

/// A node that did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The state in it cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The name in the configuration is not the certificate's.
    #[error(
        "the name is {given:?}, but the certificate is {certified:?}'s: leave the name out, or make a certificate for it"
    )]
    Name {
        /// In the configuration.
        given: String,
        /// In the certificate.
        certified: String,
    },
    /// A socket cannot be bound.
    #[error("cannot listen on {addr} for {what}: {reason}. Choose another address with {how}")]
    Bind {
        /// What for.
        what: &'static str,
        /// Transport and address.
        addr: String,
        /// In words.
        reason: String,
        /// The flag and key.
        how: &'static str,
    },
    /// The operating system refuses something else.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's words.
        source: io::Error,
    },
    /// The node ended, but the disk did not take what was left.
    #[error("stopped, but the last writes are not on disk; what other nodes hold of them comes back at the next start")]
    Unflushed,
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::System { what, source }
}

/// Runs a node until SIGTERM or SIGINT. `program` is how this program was called, for the lines that tell
/// what to type next.
pub fn run(plan: &Plan, program: &str) -> Result<(), RunError> {
    end_on_panic();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    let runtime = runtime.map_err(system("start threads"))?;
    let ended = runtime.block_on(async {
        let sockets = Sockets::bind(plan).await?;
        Daemon::start(plan, program, sockets).await?.until_signal().await
    });
    // Tasks that wait for the network have nothing more to say.
    runtime.shutdown_background();
    ended
}

/// Half a node is worse than none: a panic in any thread or task ends the process.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        banner::say(
            "starling: this is a bug in Starling; the node ends here, and what the disk acknowledged is on disk\n",
        );
        std::process::abort();
    }));
}

/// Everything that is bound before anything starts.
struct Sockets {
    quic: std::net::UdpSocket,
    listen: SocketAddr,
    sip: Vec<(SipSocket, Bound)>,
    admin: TcpListener,
}

enum Bound {
    Udp(Udp),
    Tcp(TcpListener, SocketAddr),
}

impl Sockets {
    async fn bind(plan: &Plan) -> Result<Self, RunError> {
        let refused =
            |what, addr: String, how| move |e: io::Error| RunError::Bind { what, addr, reason: bind_fault(&e), how };
        let how = "--listen IP:PORT (link.listen)";
        let quic_refused = |e| refused("links to other nodes", format!("udp:{}", plan.listen), how)(e);
        let quic = links::bind(plan.listen).map_err(quic_refused)?;
        let listen = quic.local_addr().map_err(quic_refused)?;
        let mut sip = Vec::new();
        for wanted in &plan.sip {
            let named = SipAddr { transport: wanted.transport, addr: wanted.bind }.to_string();
            let sip_refused = refused("SIP", named, "--sip udp:IP:PORT --sip tcp:IP:PORT (sip.listen)");
            let (bound, mut addr) = bind_sip(wanted.transport, wanted.bind).await.map_err(sip_refused)?;
            addr.set_ip(wanted.advertise.unwrap_or(addr.ip()));
            sip.push((SipSocket { transport: wanted.transport, addr }, bound));
        }
        let how = "--admin IP:PORT (admin.listen)";
        let admin_refused = refused("the admin interface", format!("tcp:{}", plan.admin), how);
        let admin = TcpListener::bind(plan.admin).await.map_err(admin_refused)?;
        Ok(Self { quic, listen, sip, admin })
    }
}

async fn bind_sip(transport: SipTransport, addr: SocketAddr) -> io::Result<(Bound, SocketAddr)> {
    match transport {
        SipTransport::Udp => {
            let udp = Udp::bind(addr)?;
            let bound = udp.local_addr()?;
            Ok((Bound::Udp(udp), bound))
        }
        SipTransport::Tcp => {
            let tcp = TcpListener::bind(addr).await?;
            let bound = tcp.local_addr()?;
            Ok((Bound::Tcp(tcp, bound), bound))
        }
    }
}

fn bind_fault(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the port is in use, perhaps by another node".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this host does not have that address".to_owned(),
        io::ErrorKind::PermissionDenied => "ports below 1024 are for privileged users".to_owned(),
        _ => error.to_string(),
    }
}

/// A running node, seen from the main thread.
struct Daemon {
    inbox: Inbox,
    links: Arc<Links>,
    ended: oneshot::Receiver<Ending>,
    signals: (Signal, Signal),
}

impl Daemon {
    async fn start(plan: &Plan, program: &str, sockets: Sockets) -> Result<Self, RunError> {
        let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
        let signals = (signals.0.map_err(system("wait for signals"))?, signals.1.map_err(system("wait for signals"))?);
        let tls = match &plan.tls {
            Some(files) => LinkTls::mutual(files)?,
            None => LinkTls::anonymous()?,
        };
        let name = node_name(plan.name.as_deref(), tls.name.as_deref())?;
        let (data, mut fjall) = open_data(plan)?;
        let restored = fjall.as_mut().map(FjallDisk::load).transpose()?.unwrap_or_default();
        let config = node_config(plan, &sockets, name, data.as_ref());
        let facts = Facts::new(plan, &config, &sockets.sip_addrs(), sockets.admin_addr()?, restored.entries.len());

        let inbox = Inbox::new();
        let links = Links::open(sockets.quic, &tls, plan.timing, plan.dial_timeout(), inbox.clone());
        let links = links.map_err(system("open the QUIC endpoint"))?;
        let changes = broadcast::channel(WATCH_BACKLOG).0;
        let (udp, tcp, counts) = serve_sip(sockets.sip, &inbox)?;
        let disk =
            fjall.map(|fjall| disk::spawn(fjall, inbox.clone())).transpose().map_err(system("start a thread"))?;
        let info = Arc::new(facts.info(counts));
        serve_admin(sockets.admin, App { inbox: inbox.clone(), changes: changes.clone(), info });
        let parts = Parts { inbox: inbox.clone(), links: links.clone(), udp, tcp, disk, changes };
        let ended = spawn_core(config, restored, parts, data)?;
        banner::print(&facts, program);
        Ok(Self { inbox, links, ended, signals })
    }

    async fn until_signal(mut self) -> Result<(), RunError> {
        let mut asked = false;
        loop {
            let (terminate, interrupt) = (&mut self.signals.0, &mut self.signals.1);
            let ending = tokio::select! {
                ending = &mut self.ended => ending,
                _ = terminate.recv() => { self.stop(&mut asked); continue }
                _ = interrupt.recv() => { self.stop(&mut asked); continue }
            };
            self.links.close("the node stops").await;
            return match ending {
                Ok(Ending::Clean) => Ok(()),
                Ok(Ending::Unflushed) | Err(_) => Err(RunError::Unflushed),
            };
        }
    }

    fn stop(&self, asked: &mut bool) {
        if *asked {
            banner::say("starling: asked twice, so not waiting for the disk\n");
            std::process::exit(1);
        }
        *asked = true;
        self.inbox.push_urgent(Event::Shutdown);
    }
}

impl Sockets {
    fn sip_addrs(&self) -> Vec<SipAddr> {
        self.sip.iter().map(|(socket, _)| SipAddr { transport: socket.transport, addr: socket.addr }).collect()
    }

    fn admin_addr(&self) -> Result<SocketAddr, RunError> {
        self.admin.local_addr().map_err(system("read the address of the admin interface"))
    }
}

/// The certificate's name, or the given one, or the host's.
fn node_name(given: Option<&str>, certified: Option<&str>) -> Result<String, RunError> {
    match (given, certified) {
        (Some(given), Some(certified)) if given != certified => {
            Err(RunError::Name { given: given.to_owned(), certified: certified.to_owned() })
        }
        (_, Some(name)) | (Some(name), None) => Ok(name.to_owned()),
        (None, None) => Ok(host_name()),
    }
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let good = |c: &char| c.is_ascii_alphanumeric() || "-._".contains(*c);
    let name: String = name.chars().filter(good).take(63).collect();
    if name.is_empty() { "starling".to_owned() } else { name }
}

fn open_data(plan: &Plan) -> Result<(Option<DataDir>, Option<FjallDisk>), RunError> {
    let Some(path) = &plan.data else { return Ok((None, None)) };
    let data = DataDir::open(path)?;
    let fjall = FjallDisk::open(&data.state())?;
    Ok((Some(data), Some(fjall)))
}

fn node_config(plan: &Plan, sockets: &Sockets, name: String, data: Option<&DataDir>) -> Config {
    Config {
        node: data.map_or_else(|| NodeId(entropy::number()), DataDir::node),
        origin: Origin(entropy::number()),
        name,
        cluster: plan.cluster.clone(),
        advertise: plan.advertise.unwrap_or(sockets.listen),
        join: plan.join.clone(),
        ack: plan.ack,
        durable: data.is_some(),
        max_skew_ms: plan.max_skew_ms,
        forget_after_s: plan.forget_after_s,
        timing: plan.timing,
        location_max_ttl_s: plan.location_max_ttl_s,
        dialog_max_life_s: plan.dialog_max_life_s,
        htables: plan.htables.clone(),
        sip: sockets.sip.iter().map(|(socket, _)| *socket).collect(),
        dmq: plan.dmq.clone(),
    }
}

type Counts = Vec<(String, Arc<crate::sip::UdpCounts>)>;

fn serve_sip(
    sockets: Vec<(SipSocket, Bound)>,
    inbox: &Inbox,
) -> Result<(Vec<Option<Udp>>, Connections, Counts), RunError> {
    let (mut udp, mut listeners, mut local, mut counts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (number, (socket, bound)) in (0..).map(SocketId).zip(sockets) {
        match bound {
            Bound::Udp(bound) => {
                bound.spawn_reader(number, inbox.clone()).map_err(system("start a thread"))?;
                counts.push((socket.addr.to_string(), bound.counts()));
                banner::warn_small_buffer(&bound);
                udp.push(Some(bound));
                local.push(None);
            }
            Bound::Tcp(listener, addr) => {
                listeners.push((number, listener));
                udp.push(None);
                local.push(Some(addr.ip()).filter(|ip| !ip.is_unspecified()));
            }
        }
    }
    Ok((udp, Connections::new(listeners, local, inbox.clone()), counts))
}

fn serve_admin(listener: TcpListener, app: App) {
    let router = http::router(app);
    tokio::spawn(async move {
        // It only returns if it is told to, and nobody tells it.
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!("the admin interface ended: {error}");
        }
    });
}

/// What the core gets from here.
struct Parts {
    inbox: Inbox,
    links: Arc<Links>,
    udp: Vec<Option<Udp>>,
    tcp: Connections,
    disk: Option<std::sync::mpsc::SyncSender<node::Batch>>,
    changes: broadcast::Sender<node::Event>,
}

/// Starts the thread that owns the node; it also keeps the lock of the data directory.
fn spawn_core(
    config: Config,
    restored: Restored,
    parts: Parts,
    data: Option<DataDir>,
) -> Result<oneshot::Receiver<Ending>, RunError> {
    let (tell, ended) = oneshot::channel();
    let thread = std::thread::Builder::new().name("node".to_owned());
    thread
        .spawn(move || {
            let clock = Clock::start();
            let node = Node::new(config, entropy::bytes(), clock.now(), restored);
            let Parts { inbox, links, udp, tcp, disk, changes } = parts;
            let ending = Core { node, clock, inbox, links, udp, tcp, disk, changes }.run();
            drop(data);
            // The main thread is gone only if the process is.
            let _ = tell.send(ending);
        })
        .map_err(system("start a thread"))?;
    Ok(ended)
}
