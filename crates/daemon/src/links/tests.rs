use std::collections::VecDeque;
use std::time::Instant;

use node::MAX_FRAME;
use quinn::SendStream;

use super::*;

/// An endpoint with the queue that stands for its node.
struct End {
    links: Arc<Links>,
    inbox: Inbox,
    waiting: VecDeque<Event>,
    addr: SocketAddr,
}

impl End {
    fn open() -> Self {
        let socket = bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
        let addr = socket.local_addr().expect("an address");
        let (tls, inbox) = (LinkTls::anonymous().expect("made"), Inbox::new());
        let patience = Duration::from_secs(2);
        let links = Links::open(socket, &tls, Timing::Lan, patience, inbox.clone()).expect("opened");
        Self { links, inbox, waiting: VecDeque::new(), addr }
    }

    fn next(&mut self) -> Event {
        if self.waiting.is_empty() {
            self.inbox.take(&mut self.waiting, Instant::now() + Duration::from_secs(10));
        }
        self.waiting.pop_front().expect("an event within 10 s")
    }

    /// The next event of a kind; others are let go.
    fn find<T>(&mut self, wanted: impl Fn(Event) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.next()) {
                return found;
            }
        }
    }

    fn up(&mut self) -> LinkHandle {
        self.find(|event| match event {
            Event::LinkUp { handle, .. } => Some(handle),
            _ => None,
        })
    }

    fn frame(&mut self) -> (Lane, Bytes) {
        self.find(|event| match event {
            Event::Frame { lane, bytes, .. } => Some((lane, bytes)),
            _ => None,
        })
    }

    fn down(&mut self) -> String {
        self.find(|event| match event {
            Event::LinkDown { reason, .. } => Some(reason),
            _ => None,
        })
    }
}

/// Two linked ends; the first has dialed.
fn pair() -> (End, LinkHandle, End, LinkHandle) {
    let (mut a, mut b) = (End::open(), End::open());
    a.links.dial(b.addr);
    let (at_a, at_b) = (a.up(), b.up());
    (a, at_a, b, at_b)
}

fn session(id: u32, opened_here: bool) -> Lane {
    Lane::Session { id, opened_here }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_arrive_whole_and_in_order_and_give_credit() {
    let (mut a, mut at_a, mut b, _at_b) = pair();
    let sizes = [0, 1, MAX_FRAME];
    for (n, size) in (0..).zip(sizes) {
        at_a.frame(Lane::Push, Bytes::from(vec![n; size]));
    }
    for (n, size) in (0..).zip(sizes) {
        assert_eq!(b.frame(), (Lane::Push, Bytes::from(vec![n; size])));
    }
    for _ in sizes {
        let credit = a.find(|event| match event {
            Event::FramesSent { lane, frames, .. } => Some((lane, frames)),
            _ => None,
        });
        assert_eq!(credit, (Lane::Push, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_has_its_number_on_both_sides_and_answers_after_its_end() {
    let (mut a, mut at_a, mut b, mut at_b) = pair();
    at_a.frame(session(7, true), Bytes::from_static(b"question"));
    at_a.close_lane(session(7, true));
    let opened = b.find(|event| match event {
        Event::LaneOpened { lane, handle, .. } => Some((lane, handle)),
        _ => None,
    });
    assert_eq!(opened.0, session(7, false));
    at_b.add(opened.0, opened.1);
    assert_eq!(b.frame(), (session(7, false), Bytes::from_static(b"question")));
    at_b.frame(session(7, false), Bytes::from_static(b"answer"));
    at_b.close_lane(session(7, false));
    assert_eq!(a.frame(), (session(7, true), Bytes::from_static(b"answer")));
    let closed = a.find(|event| match event {
        Event::LaneClosed { lane, .. } => Some(lane),
        _ => None,
    });
    assert_eq!(closed, session(7, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_link_is_told_with_the_reason_of_who_ended_it() {
    let (mut a, at_a, mut b, _at_b) = pair();
    at_a.close("enough");
    assert!(b.down().contains("enough"));
    assert_eq!(a.down(), "closed here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_at_an_address_is_a_failed_dial() {
    let mut a = End::open();
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound").local_addr().expect("an address");
    a.links.dial(nobody);
    let failed = a.find(|event| match event {
        Event::DialFailed { addr, reason } => Some((addr, reason)),
        _ => None,
    });
    assert_eq!(failed, (nobody, "no answer".to_owned()));
}

/// Writes these bytes as a push stream of its own making to a fresh end; why that one cut the link.
async fn cut_off(bytes: &[u8]) -> String {
    let mut b = End::open();
    let a = End::open();
    let connection = a.links.endpoint.connect(b.addr, NODE_SAN).expect("started").await.expect("connected");
    let mut stream: SendStream = connection.open_uni().await.expect("opened");
    stream.write_all(bytes).await.expect("written");
    stream.finish().expect("finished");
    let reason = a.links.explain(&connection.closed().await);
    assert_eq!(b.down(), "closed here");
    reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_breaks_the_framing_is_cut_off_and_told_why() {
    assert!(cut_off(&[2]).await.contains("unknown byte"));
    assert!(cut_off(&[1, 0xff, 0xff, 0xff, 0xff]).await.contains("too long"));
    assert!(cut_off(&[1, 0, 0, 0, 9, 1]).await.contains("cut short"));
    assert!(cut_off(&[1]).await.contains("push stream ended"));
}
