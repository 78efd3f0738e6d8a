//! Messages out of a byte stream (RFC 3261 section 18.3): framing by Content-Length.

use bytes::{Buf, Bytes, BytesMut};

use crate::{MAX_MESSAGE, ParseError, parse_head};

/// A stream that cannot be framed any longer. The peer's fault; the connection has to be closed,
/// since nobody knows where its next message starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A head that cannot be parsed, or one without a usable Content-Length.
    #[error("message in the stream: {0}")]
    Head(#[from] ParseError),
    /// A head without Content-Length, which a stream needs (RFC 3261 section 20.14).
    #[error("message without Content-Length in a stream")]
    NoLength,
    /// A message of more than [`MAX_MESSAGE`] bytes.
    #[error("message too long for a stream")]
    TooLong,
}

/// Cuts a stream of bytes into messages, wherever the reads happened to cut it.
///
/// Holds at most one incomplete message of [`MAX_MESSAGE`] bytes and what the last
/// [`StreamFramer::push`] brought. Line ends between messages (keep-alives) are skipped. After an
/// error it gives nothing but that error.
#[derive(Debug, Default)]
pub struct StreamFramer {
    buffer: BytesMut,
    /// Bytes of the buffer in which the end of the head was looked for already.
    searched: usize,
    /// Length of the first message in the buffer, once its head is there.
    length: Option<usize>,
    failed: Option<FrameError>,
}

impl StreamFramer {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what was read; [`StreamFramer::next_message`] is to be called until it gives `None`.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// Whether nothing waits for more bytes: the stream may end here.
    pub fn is_empty(&self) -> bool {
        self.buffer.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
    }

    /// The next whole message, not yet parsed; `None` until more bytes come.
    ///
    /// # Errors
    /// See [`FrameError`].
    pub fn next_message(&mut self) -> Option<Result<Bytes, FrameError>> {
        if let Some(error) = self.failed {
            return Some(Err(error));
        }
        match self.advance() {
            Ok(message) => message.map(Ok),
            Err(error) => {
                self.failed = Some(error);
                self.buffer = BytesMut::new();
                Some(Err(error))
            }
        }
    }

    fn advance(&mut self) -> Result<Option<Bytes>, FrameError> {
        let length = match self.length {
            Some(length) => length,
            None => match self.head()? {
                Some(length) => *self.length.insert(length),
                None => return Ok(None),
            },
        };
        if self.buffer.len() < length {
            return Ok(None);
        }
        self.length = None;
        self.searched = 0;
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// The length of the message that the buffer starts with, if its head is complete.
    fn head(&mut self) -> Result<Option<usize>, FrameError> {
        if self.searched == 0 {
            let keep_alives = self.buffer.iter().take_while(|&&byte| byte == b'\r' || byte == b'\n').count();
            self.buffer.advance(keep_alives);
        }
        let Some(head) = self.find_head_end() else {
            return if self.buffer.len() > MAX_MESSAGE { Err(FrameError::TooLong) } else { Ok(None) };
        };
        let length =
            parse_head(self.buffer.get(..head).unwrap_or_default())?.content_length()?.ok_or(FrameError::NoLength)?;
        let whole = head.checked_add(length).filter(|&whole| whole <= MAX_MESSAGE);
        whole.map(Some).ok_or(FrameError::TooLong)
    }

    /// Where the empty line after the head ends. Each byte is looked at about once, however many
    /// pushes bring it.
    fn find_head_end(&mut self) -> Option<usize> {
        let from = self.searched;
        let line_ends = memchr::memchr_iter(b'\n', self.buffer.get(from..)?).map(|at| from + at);
        for at in line_ends {
            match self.buffer.get(at + 1..)? {
                [b'\n', ..] => return Some(at + 2),
                [b'\r', b'\n', ..] => return Some(at + 3),
                // The two bytes after a line end decide; without them it has to be seen again.
                [] | [b'\r'] => {
                    self.searched = at.max(1);
                    return None;
                }
                _ => {}
            }
        }
        self.searched = self.buffer.len();
        None
    }
}
