//! Frames on QUIC streams.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use node::{Lane, LinkId, MAX_FRAME};
use quinn::{Connection, ReadError, ReadExactError, RecvStream, SendStream};
use tokio::sync::mpsc;

use super::{CODE, LaneHandle, Links};
use crate::inbox::Event;

/// Pushes go before sessions.
const PUSH_PRIORITY: i32 = 1;

/// Why a stream ended.
enum End {
    /// The whole connection did; it says so itself.
    Lost,
    /// The peer finished or reset it.
    Over,
    /// The peer broke the framing; the sentence is told to it.
    Broken(&'static str),
}

impl From<ReadExactError> for End {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::ReadError(ReadError::ConnectionLost(_)) => Self::Lost,
            ReadExactError::FinishedEarly(0) | ReadExactError::ReadError(_) => Self::Over,
            ReadExactError::FinishedEarly(_) => Self::Broken("a frame was cut short"),
        }
    }
}

/// The first byte of a push stream: the peer takes the link for up.
const UP: u8 = 1;

/// Opens our push stream, which tells the peer that the link is up here.
pub(super) fn open_push(links: &Arc<Links>, link: LinkId, connection: &Connection) -> LaneHandle {
    let (sender, frames) = mpsc::unbounded_channel();
    let (links, connection) = (links.clone(), connection.clone());
    links.runtime.clone().spawn(async move {
        let Ok(mut stream) = connection.open_uni().await else { return };
        // It fails only on a stream that is gone, which the first write will show.
        let _ = stream.set_priority(PUSH_PRIORITY);
        if stream.write_all(&[UP]).await.is_err() {
            return;
        }
        write(&links, link, Lane::Push, stream, frames).await;
    });
    LaneHandle(sender)
}

/// Opens a session stream with the node's number for it.
pub(super) fn open_session(links: &Arc<Links>, link: LinkId, connection: &Connection, id: u32) -> LaneHandle {
    let (sender, frames) = mpsc::unbounded_channel();
    let (links, connection) = (links.clone(), connection.clone());
    let lane = Lane::Session { id, opened_here: true };
    links.runtime.clone().spawn(async move {
        let Ok((mut send, receive)) = connection.open_bi().await else { return };
        links.runtime.spawn(read_session(links.clone(), link, lane, connection.clone(), receive));
        if send.write_all(&id.to_be_bytes()).await.is_ok() {
            write(&links, link, lane, send, frames).await;
        }
    });
    LaneHandle(sender)
}

/// Takes the sessions that the peer opens.
pub(super) async fn accept_sessions(links: Arc<Links>, link: LinkId, connection: Connection) {
    while let Ok((send, mut receive)) = connection.accept_bi().await {
        let (links, connection) = (links.clone(), connection.clone());
        links.runtime.clone().spawn(async move {
            let mut id = [0; 4];
            if receive.read_exact(&mut id).await.is_err() {
                return;
            }
            let lane = Lane::Session { id: u32::from_be_bytes(id), opened_here: false };
            let (sender, frames) = mpsc::unbounded_channel();
            links.inbox.push_behind(Event::LaneOpened { link, lane, handle: LaneHandle(sender) });
            links.runtime.spawn(read_session(links.clone(), link, lane, connection, receive));
            write(&links, link, lane, send, frames).await;
        });
    }
}

/// Reads the peer's push stream, which may have come already; without it there is no link.
pub(super) async fn read_push(links: Arc<Links>, link: LinkId, connection: Connection, push: Option<RecvStream>) {
    let mut stream = match push {
        Some(stream) => stream,
        None => match connection.accept_uni().await {
            Ok(stream) => stream,
            Err(_) => return,
        },
    };
    let mut first = [0];
    let end = match stream.read_exact(&mut first).await {
        Ok(()) if first == [UP] => read(&links, link, Lane::Push, &mut stream).await,
        Ok(()) => End::Broken("the push stream begins with an unknown byte"),
        Err(error) => End::from(error),
    };
    match end {
        End::Lost => {}
        End::Over => connection.close(CODE, b"the push stream ended"),
        End::Broken(why) => connection.close(CODE, why.as_bytes()),
    }
}

async fn read_session(links: Arc<Links>, link: LinkId, lane: Lane, connection: Connection, mut stream: RecvStream) {
    if let End::Broken(why) = read(&links, link, lane, &mut stream).await {
        connection.close(CODE, why.as_bytes());
    }
    links.inbox.push_behind(Event::LaneClosed { link, lane });
}

async fn read(links: &Links, link: LinkId, lane: Lane, stream: &mut RecvStream) -> End {
    loop {
        match read_frame(stream).await {
            Ok(bytes) => {
                let size = bytes.len();
                links.inbox.push(Event::Frame { link, lane, bytes }, size).await;
            }
            Err(end) => return end,
        }
    }
}

async fn read_frame(stream: &mut RecvStream) -> Result<Bytes, End> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(End::Broken("a frame is too long"));
    }
    let mut frame = BytesMut::zeroed(length);
    stream.read_exact(&mut frame).await?;
    Ok(frame.freeze())
}

/// Writes frames until the lane is closed here, then finishes the stream.
async fn write(
    links: &Links,
    link: LinkId,
    lane: Lane,
    mut stream: SendStream,
    mut frames: mpsc::UnboundedReceiver<Bytes>,
) {
    while let Some(frame) = frames.recv().await {
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX).to_be_bytes();
        let mut chunks = [Bytes::copy_from_slice(&length), frame];
        if stream.write_all_chunks(&mut chunks).await.is_err() {
            return;
        }
        links.inbox.push_urgent(Event::FramesSent { link, lane, frames: 1 });
    }
    // It fails only on a stream that the peer has stopped already.
    let _ = stream.finish();
}
