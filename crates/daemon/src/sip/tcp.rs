//! SIP over TCP.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use node::{ConnId, SocketId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::timeout;

use crate::inbox::{Event, Inbox};

/// Accepted connections at a time, over all listeners.
const MAX_ACCEPTED: usize = 256;

/// A connection on which nothing is received for this long is closed.
const IDLE: Duration = Duration::from_secs(300);

/// A peer that takes nothing for this long is cut off.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Connecting takes at most this long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What may wait to be written to one connection, bytes; beyond this it is cut off.
const MAX_QUEUED: usize = 8 << 20;

/// Bytes read at a time.
const READ: usize = 64 << 10;

/// The node's end of a connection; dropping it closes the connection after what was sent.
pub(crate) struct ConnHandle {
    sender: mpsc::UnboundedSender<Bytes>,
    queued: Arc<AtomicUsize>,
    reset: Arc<Notify>,
}

impl ConnHandle {
    fn new() -> (Self, Queue) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let (queued, reset) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        (Self { sender, queued: queued.clone(), reset: reset.clone() }, Queue { receiver, queued, reset })
    }

    /// Queues bytes. False: too much waits already, or the connection is gone.
    fn send(&self, bytes: Bytes) -> bool {
        let size = bytes.len();
        self.queued.fetch_add(size, Ordering::Relaxed) + size <= MAX_QUEUED && self.sender.send(bytes).is_ok()
    }
}

/// The writing task's end.
struct Queue {
    receiver: mpsc::UnboundedReceiver<Bytes>,
    queued: Arc<AtomicUsize>,
    /// Whoever is notified drops what is queued, here and in the kernel.
    reset: Arc<Notify>,
}

/// All TCP connections of the node.
pub(crate) struct Connections {
    /// `None`: cut off here, and the node is yet to hear of it.
    open: HashMap<ConnId, Option<ConnHandle>>,
    /// Local address by socket, `None` for UDP.
    sockets: Vec<Option<IpAddr>>,
    inbox: Inbox,
    runtime: Handle,
}

impl Connections {
    /// Serves the listeners. Call within the runtime.
    pub(crate) fn new(listeners: Vec<(SocketId, TcpListener)>, sockets: Vec<Option<IpAddr>>, inbox: Inbox) -> Self {
        let runtime = Handle::current();
        let (next, room) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(MAX_ACCEPTED)));
        for (socket, listener) in listeners {
            runtime.spawn(accept(socket, listener, next.clone(), room.clone(), inbox.clone()));
        }
        Self { open: HashMap::new(), sockets, inbox, runtime }
    }

    /// An accepted connection.
    pub(crate) fn add(&mut self, conn: ConnId, handle: ConnHandle) {
        self.open.insert(conn, Some(handle));
    }

    /// Whether the node still has it.
    pub(crate) fn has(&self, conn: ConnId) -> bool {
        self.open.contains_key(&conn)
    }

    /// Connects; the answer is `SipConnected` or `SipClosed`.
    pub(crate) fn connect(&mut self, conn: ConnId, socket: SocketId, to: SocketAddr) {
        let (handle, queue) = ConnHandle::new();
        self.open.insert(conn, Some(handle));
        let from = self.sockets.get(usize::from(socket.0)).copied().flatten();
        let inbox = self.inbox.clone();
        self.runtime.spawn(async move {
            match timeout(CONNECT_TIMEOUT, dial(from, to)).await {
                Ok(Ok(stream)) => {
                    inbox.push_behind(Event::SipConnected { conn, socket, peer: to, handle: None });
                    serve(conn, stream, queue, &inbox).await;
                }
                Ok(Err(error)) => {
                    tracing::debug!("cannot connect to {to} over TCP: {error}");
                    inbox.push_behind(Event::SipClosed { conn, whole: false });
                }
                Err(_) => inbox.push_behind(Event::SipClosed { conn, whole: false }),
            }
        });
    }

    /// Sends, or cuts the connection off if its peer takes too little.
    pub(crate) fn send(&mut self, conn: ConnId, bytes: Bytes) {
        let Some(Some(handle)) = self.open.get(&conn) else { return };
        if !handle.send(bytes) {
            tracing::warn!("closed a SIP TCP connection: more than {} MiB wait to be written to it", MAX_QUEUED >> 20);
            self.open.insert(conn, None);
            self.inbox.push_behind(Event::SipClosed { conn, whole: false });
        }
    }

    /// Closes it after what was sent; `at_once`: with a reset, instead of that.
    pub(crate) fn close(&mut self, conn: ConnId, at_once: bool) {
        if let Some(Some(handle)) = self.open.remove(&conn)
            && at_once
        {
            handle.reset.notify_one();
        }
    }
}

async fn dial(from: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(ip) = from.filter(|ip| ip.is_ipv4() == to.is_ipv4()) {
        socket.bind(SocketAddr::new(ip, 0))?;
    }
    socket.connect(to).await
}

async fn accept(socket: SocketId, listener: TcpListener, next: Arc<AtomicU64>, room: Arc<Semaphore>, inbox: Inbox) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors or the like: others go on, and so do we, not too fast.
                tracing::warn!("cannot accept a SIP TCP connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            tracing::warn!("refused a SIP TCP connection from {peer}: {MAX_ACCEPTED} are open");
            continue;
        };
        let (conn, inbox) = (ConnId(next.fetch_add(1, Ordering::Relaxed)), inbox.clone());
        tokio::spawn(async move {
            let (handle, queue) = ConnHandle::new();
            inbox.push_behind(Event::SipConnected { conn, socket, peer, handle: Some(handle) });
            serve(conn, stream, queue, &inbox).await;
            drop(permit);
        });
    }
}

/// Reads and writes until the peer or the node ends it. A peer that only stops sending still gets its answers.
async fn serve(conn: ConnId, stream: TcpStream, queue: Queue, inbox: &Inbox) {
    // Without it small answers would wait for the acknowledgement of earlier ones; failing is harmless.
    let _ = stream.set_nodelay(true);
    let reset = queue.reset.clone();
    let (mut reader, writer) = stream.into_split();
    let mut write = std::pin::pin!(write(writer, queue));
    let peer_ended = tokio::select! {
        biased;
        () = reset.notified() => None,
        whole = read(conn, &mut reader, inbox) => Some(whole),
        () = &mut write => return inbox.push_behind(Event::SipClosed { conn, whole: false }),
    };
    inbox.push_behind(Event::SipClosed { conn, whole: peer_ended == Some(true) });
    match peer_ended {
        Some(_) => write.await,
        // Closing it then sends a reset, and nothing of what waits.
        None => _ = reader.as_ref().set_zero_linger(),
    }
}

/// Reads until there is nothing more; whether that was the peer's end of it.
async fn read(conn: ConnId, reader: &mut OwnedReadHalf, inbox: &Inbox) -> bool {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ);
        match timeout(IDLE, reader.read_buf(&mut buffer)).await {
            Ok(Ok(size)) if size > 0 => {
                let bytes = buffer.split().freeze();
                inbox.push(Event::SipStream { conn, bytes }, size).await;
            }
            read => return matches!(read, Ok(Ok(0))),
        }
    }
}

async fn write(mut writer: OwnedWriteHalf, mut queue: Queue) {
    while let Some(bytes) = queue.receiver.recv().await {
        queue.queued.fetch_sub(bytes.len(), Ordering::Relaxed);
        if !matches!(timeout(WRITE_TIMEOUT, writer.write_all(&bytes)).await, Ok(Ok(()))) {
            return;
        }
    }
    // The peer may be gone already.
    let _ = timeout(WRITE_TIMEOUT, writer.shutdown()).await;
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Instant;

    use super::*;

    /// Events one at a time, however they were brought.
    struct Events(Inbox, VecDeque<Event>);

    impl Events {
        fn next(&mut self) -> Event {
            if self.1.is_empty() {
                self.0.take(&mut self.1, Instant::now() + Duration::from_secs(5));
            }
            self.1.pop_front().expect("an event within 5 s")
        }
    }

    async fn listening() -> (Connections, Events, SocketAddr) {
        let inbox = Inbox::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let addr = listener.local_addr().expect("an address");
        let sockets = vec![Some(addr.ip())];
        (Connections::new(vec![(SocketId(0), listener)], sockets, inbox.clone()), Events(inbox, VecDeque::new()), addr)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_peer_that_stops_sending_still_gets_its_answer() {
        let (mut connections, mut events, addr) = listening().await;
        let mut peer = TcpStream::connect(addr).await.expect("connected");
        let Event::SipConnected { conn, handle: Some(handle), .. } = events.next() else { panic!("not connected") };
        connections.add(conn, handle);
        peer.write_all(b"question").await.expect("sent");
        peer.shutdown().await.expect("half closed");
        assert!(matches!(events.next(), Event::SipStream { bytes, .. } if bytes == "question"));
        connections.send(conn, Bytes::from_static(b"answer"));
        assert!(matches!(events.next(), Event::SipClosed { .. }));
        connections.close(conn, false);
        let mut answer = Vec::new();
        peer.read_to_end(&mut answer).await.expect("read");
        assert_eq!(answer, b"answer");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_connection_that_is_closed_at_once_carries_nothing_more() {
        let (mut connections, mut events, addr) = listening().await;
        let mut peer = TcpStream::connect(addr).await.expect("connected");
        let Event::SipConnected { conn, handle: Some(handle), .. } = events.next() else { panic!("not connected") };
        connections.add(conn, handle);
        // More than the buffers of both sides take.
        const SENT: usize = 32 << 20;
        connections.send(conn, Bytes::from(vec![0; SENT]));
        connections.close(conn, true);
        assert!(matches!(events.next(), Event::SipClosed { .. }));
        let mut got = Vec::new();
        let ended = peer.read_to_end(&mut got).await;
        assert!(got.len() < SENT, "{ended:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_connection_that_cannot_be_made_is_closed() {
        let (mut connections, mut events, addr) = listening().await;
        let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("an address");
        assert_ne!(gone, addr);
        let conn = ConnId(ConnId::FIRST_DIALED);
        connections.connect(conn, SocketId(0), gone);
        assert!(matches!(events.next(), Event::SipClosed { conn: closed, .. } if closed == conn));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_peer_that_takes_nothing_is_cut_off_when_its_queue_is_full() {
        let (mut connections, mut events, addr) = listening().await;
        let _peer = TcpStream::connect(addr).await.expect("connected");
        let Event::SipConnected { conn, handle: Some(handle), .. } = events.next() else { panic!("not connected") };
        connections.add(conn, handle);
        for _ in 0..64 {
            connections.send(conn, Bytes::from(vec![0; 1 << 20]));
        }
        assert!(matches!(events.next(), Event::SipClosed { .. }));
    }
}
