//! One HTTP/1.1 connection to a server, read and written by whoever waits for its answer.
//!
//! A general client gives the connection a task of its own and passes messages to and fro: two wake-ups
//! per call, and bodies that are handed over twice. Here the call's own task writes the request and reads
//! the answer, and between two calls nobody does
//! (`docs/decisions/0015-calls-drive-their-own-connections.md`). So a connection that has lain idle is
//! looked at before it is used: bytes that nobody asked for, or its end, and it is closed.
//!
//! What bytes mean is [`holdfast_mcp::http1`]'s part.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use holdfast_mcp::http1::{AnswerHeads, ChunkError, Chunks, Framing, Head, HeadError, Piece, Said};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::response::Fields;
use crate::scratch;

/// A connection that no request is on. Boxed: each call passes it through many hands.
pub(crate) struct Connection {
    io: Io,
    heads: AnswerHeads<Fields>,
    /// What was read and not yet understood.
    read: BytesMut,
    /// The request that is being written, and later room for the next one.
    out: Vec<u8>,
    /// Bytes that the last answer took, if it was large and of known length: the next one may be too, and is
    /// then read in one piece. Else 0.
    expects: usize,
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// How an idle connection is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Look {
    /// The kernel is asked, which is a system call: for what must not meet a connection's end.
    Kernel,
    /// What the runtime has heard is enough; it may be behind by what it does in one turn of its loop, a
    /// fraction of a millisecond. For what can be sent again.
    Runtime,
}

/// The body of an answer, on its connection.
pub(crate) struct AnswerBody {
    connection: Box<Connection>,
    /// The body of the request and how much of the request is out, where that is not all.
    rest: Option<(Bytes, usize)>,
    left: Left,
    keeps: bool,
}

/// What is left of a body.
enum Left {
    Length(u64),
    Chunks(Chunks),
    UntilClose,
    Nothing,
}

/// How an exchange went wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    /// Not a byte of the request was taken.
    #[error("nothing could be written: {0}")]
    Unwritten(io::Error),
    /// The connection ended before the answer did.
    #[error("connection closed before message completed")]
    Ended,
    #[error("connection error: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error(transparent)]
    Chunk(#[from] ChunkError),
}

/// Room for a head and a small body.
const READ: usize = 4096;

/// At most so much is read at a time of a body whose length is known or that has begun to flow.
const READ_AT_ONCE: usize = 128 * 1024;

/// A body of at most so many bytes is written together with its head.
const SMALL: usize = 16 * 1024;

/// More room than this is not kept for the next request.
const KEPT: usize = 16 * 1024;

// === impl WireError ===

impl WireError {
    /// Whether the connection ended before there was the head of an answer.
    pub(crate) fn is_end(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        match self {
            Self::Ended => true,
            Self::Io(error) => matches!(error.kind(), BrokenPipe | ConnectionReset),
            Self::Unwritten(_) | Self::Head(_) | Self::Chunk(_) => false,
        }
    }
}

// === impl Connection ===

impl Connection {
    pub(crate) fn plain(stream: TcpStream) -> Box<Self> {
        Self::new(Io::Plain(stream))
    }

    pub(crate) fn tls(stream: TlsStream<TcpStream>) -> Box<Self> {
        Self::new(Io::Tls(Box::new(stream)))
    }

    fn new(io: Io) -> Box<Self> {
        let heads = AnswerHeads::default();
        Box::new(Self { io, heads, read: BytesMut::new(), out: Vec::new(), expects: 0 })
    }

    /// Whether a request may go out on it: it is open, and nothing has come that nobody asked for. Such
    /// bytes must never be read as the answer to what is asked next.
    pub(crate) fn is_quiet(&self, look: Look) -> bool {
        if !self.read.is_empty() {
            return false;
        }
        match &self.io {
            Io::Plain(stream) => nothing_has_come(stream, look),
            // What its reader has decrypted already is not the kernel's any more.
            Io::Tls(stream) => {
                let (socket, session) = stream.get_ref();
                nothing_has_come(socket, look) && session.wants_read()
            }
        }
    }

    /// Where the head of a request is written before [`Self::exchange`]; empty.
    pub(crate) fn request(&mut self) -> &mut Vec<u8> {
        self.out.clear();
        &mut self.out
    }

    /// Sends the request whose head has been written to [`Self::request`], and waits for the head of its
    /// answer. While that is read, the rest of a request is sent whose answer came before its end.
    ///
    /// # Errors
    /// [`WireError`] says whether anything was sent.
    ///
    /// # Cancel safety
    /// The connection is closed.
    pub(crate) async fn exchange(
        mut self: Box<Self>,
        mut body: Bytes,
    ) -> Result<(http::StatusCode, Said<Fields>, AnswerBody), WireError> {
        if body.len() <= SMALL {
            self.out.extend_from_slice(&body);
            body = Bytes::new();
        }
        let mut written = Some(0);
        let head = std::future::poll_fn(|cx| self.poll_exchange(cx, &body, &mut written)).await?;
        let keeps = head.keeps && written.is_none();
        let rest = written.map(|written| (body, written));
        let left = match head.framing {
            Framing::Length(0) => Left::Nothing,
            Framing::Length(length) => Left::Length(length),
            Framing::Chunked => Left::Chunks(Chunks::default()),
            Framing::Close => Left::UntilClose,
        };
        Ok((head.status, head.said, AnswerBody { connection: self, rest, left, keeps }))
    }

    /// `written`: how much of the request, until all of it is.
    fn poll_exchange(
        &mut self,
        cx: &mut Context<'_>,
        body: &[u8],
        written: &mut Option<usize>,
    ) -> Poll<Result<Head<Fields>, WireError>> {
        let mut failed = None;
        if let Some(so_far) = written {
            match self.poll_write(cx, body, so_far) {
                Poll::Ready(Ok(())) => *written = None,
                Poll::Ready(Err(error)) if *so_far == 0 => {
                    return Poll::Ready(Err(WireError::Unwritten(error)));
                }
                // The server may have answered before it closed.
                Poll::Ready(Err(error)) => failed = Some(error),
                Poll::Pending => {}
            }
        }
        loop {
            if let Some(head) = self.heads.head(&mut self.read, Fields::kept)? {
                return Poll::Ready(Ok(head));
            }
            match self.poll_fill(cx, self.expects.max(READ)) {
                Poll::Ready(Ok(0)) => break,
                Poll::Ready(Ok(_)) => {
                    if self.read.len() <= READ && self.expects > 0 {
                        // What is small may be kept for long, and does not keep the room of a large one.
                        (self.read, self.expects) = (BytesMut::from(&self.read[..]), 0);
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending if failed.is_some() => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Err(failed.map_or(WireError::Ended, WireError::Io)))
    }

    /// Notes of how many bytes the body of an answer was that has been taken.
    fn has_read(&mut self, body: usize) {
        // The reader of a TLS connection cannot be asked whether there is something to make room for.
        let is_large = body > READ && matches!(self.io, Io::Plain(_));
        // More than it takes, so that one read tells that there is no more.
        self.expects = if is_large { (body + READ).min(READ_AT_ONCE) } else { 0 };
        if self.read.is_empty() {
            // The rest of the room belongs to the body.
            self.read = BytesMut::new();
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        body: &[u8],
        written: &mut usize,
    ) -> Poll<io::Result<()>> {
        let all = self.out.len() + body.len();
        while *written < all {
            let wrote = match self.out.get(*written..) {
                Some(head) if body.is_empty() => self.io.poll_write(cx, head),
                Some(head) if !head.is_empty() => {
                    let both = [io::IoSlice::new(head), io::IoSlice::new(body)];
                    self.io.poll_write_vectored(cx, &both)
                }
                _ => self.io.poll_write(cx, &body[*written - self.out.len()..]),
            };
            match ready!(wrote)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                more => *written += more,
            }
        }
        self.io.poll_flush(cx)
    }

    /// Reads what there is, up to about `room` bytes more; 0: the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>> {
        if self.read.is_empty() && room <= READ {
            // What comes now may be an event of a hundred bytes, and the next one may take long.
            return scratch::with(|scratch| {
                let mut scratch = ReadBuf::new(&mut scratch[..READ]);
                ready!(self.io.poll_read(cx, &mut scratch))?;
                self.read = BytesMut::from(scratch.filled());
                Poll::Ready(Ok(scratch.filled().len()))
            });
        }
        if self.read.is_empty()
            && let Io::Plain(stream) = &self.io
            && stream.poll_read_ready(cx)?.is_pending()
        {
            // A connection that waits for long does so without a buffer.
            return Poll::Pending;
        }
        if self.read.capacity() - self.read.len() < room.min(READ / 2) {
            self.read.reserve(room);
        }
        match &mut self.io {
            Io::Plain(stream) => {
                tokio_util::io::poll_read_buf(Pin::new(stream), cx, &mut self.read)
            }
            Io::Tls(stream) => {
                tokio_util::io::poll_read_buf(Pin::new(&mut **stream), cx, &mut self.read)
            }
        }
    }
}

/// Whether a socket is open and has nothing to read.
fn nothing_has_come(stream: &TcpStream, look: Look) -> bool {
    let peek = || socket2::SockRef::from(stream).peek(&mut [MaybeUninit::uninit(); 1]);
    let peeked = match look {
        Look::Kernel => peek(),
        // Peeks only at a socket of which the runtime has heard something.
        Look::Runtime => stream.try_io(Interest::READABLE, peek),
    };
    matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

// === impl Io ===

impl Io {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        both: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, both),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, both),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            // What is written to a socket is on its way.
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }
}

// === impl AnswerBody ===

impl AnswerBody {
    /// The length that the head has declared, if that is how the body ends.
    pub(crate) fn declared(&self) -> Option<u64> {
        match self.left {
            Left::Length(length) => Some(length),
            Left::Nothing => Some(0),
            Left::Chunks(_) | Left::UntilClose => None,
        }
    }

    /// The connection, if the body has been read to its end and another request may follow.
    pub(crate) fn into_connection(self) -> Option<Box<Connection>> {
        let Self { mut connection, left, keeps, .. } = self;
        let usable = keeps && matches!(left, Left::Nothing) && connection.read.is_empty();
        if connection.out.capacity() > KEPT {
            connection.out = Vec::new();
        }
        usable.then_some(connection)
    }

    /// The next part; `None` at the end.
    ///
    /// # Errors
    /// [`WireError`] if the body is cut or is not what its head said; nothing follows.
    ///
    /// # Cancel safety
    /// Nothing is lost: what was read stays.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, WireError>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Self::next`].
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, WireError>>> {
        self.poll_rest(cx);
        loop {
            let room = match self.look() {
                Ok(part) => return Poll::Ready(part),
                Err(room) => room,
            };
            match self.connection.poll_fill(cx, room) {
                Poll::Ready(Ok(0)) if matches!(self.left, Left::UntilClose) => {
                    self.left = Left::Nothing;
                    return Poll::Ready(None);
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(self.fail(WireError::Ended)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(self.fail(error.into())),
                Poll::Pending => {
                    if self.connection.read.is_empty() && self.rest.is_none() {
                        // A stream that is silent for long holds no room.
                        self.connection.read = BytesMut::new();
                        self.connection.out = Vec::new();
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Goes on sending a request that is not out yet. A server may begin its answer and read on. One that
    /// does not, or has closed, has said what it has to say.
    fn poll_rest(&mut self, cx: &mut Context<'_>) {
        let Some((body, written)) = &mut self.rest else { return };
        if self.connection.poll_write(cx, body, written).is_ready() {
            self.rest = None;
        }
    }

    /// The next part, if it has been read already; as [`Self::next`] gives it.
    pub(crate) fn here(&mut self) -> Option<Option<Result<Bytes, WireError>>> {
        self.look().ok()
    }

    /// The next part of what has been read, or the room for what has to be read first.
    fn look(&mut self) -> Result<Option<Result<Bytes, WireError>>, usize> {
        let read = &mut self.connection.read;
        match &mut self.left {
            Left::Nothing => Ok(None),
            Left::Length(left) if read.is_empty() => {
                Err(usize::try_from(*left).unwrap_or(usize::MAX).min(READ_AT_ONCE))
            }
            Left::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(read.len());
                *left -= here as u64;
                let data = read.split_to(here).freeze();
                if *left == 0 {
                    self.left = Left::Nothing;
                }
                Ok(Some(Ok(data)))
            }
            Left::Chunks(chunks) => match chunks.next(read) {
                Ok(Piece::Data(data)) => Ok(Some(Ok(data))),
                Ok(Piece::Wanting) => Err(READ),
                Ok(Piece::End) => {
                    self.left = Left::Nothing;
                    Ok(None)
                }
                Err(error) => Ok(self.fail(error.into())),
            },
            Left::UntilClose if read.is_empty() => Err(READ),
            Left::UntilClose => Ok(Some(Ok(read.split().freeze()))),
        }
    }

    fn fail(&mut self, error: WireError) -> Option<Result<Bytes, WireError>> {
        (self.left, self.keeps) = (Left::Nothing, false);
        Some(Err(error))
    }

    /// All of a body whose length is known, in one piece without a copy; `None` if it is another kind
    /// or longer than `limit`.
    ///
    /// # Errors
    /// As [`Self::next`].
    ///
    /// # Cancel safety
    /// As [`Self::next`].
    pub(crate) async fn whole(&mut self, limit: usize) -> Option<Result<Bytes, WireError>> {
        let Left::Length(length) = self.left else { return None };
        let length = usize::try_from(length).ok().filter(|length| *length <= limit)?;
        let read = std::future::poll_fn(|cx| {
            self.poll_rest(cx);
            while self.connection.read.len() < length {
                let room = length - self.connection.read.len();
                if ready!(self.connection.poll_fill(cx, room))? == 0 {
                    return Poll::Ready(Err(WireError::Ended));
                }
            }
            Poll::Ready(Ok(()))
        });
        if let Err(error) = read.await {
            (self.left, self.keeps) = (Left::Nothing, false);
            return Some(Err(error));
        }
        self.left = Left::Nothing;
        let body = self.connection.read.split_to(length).freeze();
        self.connection.has_read(length);
        Some(Ok(body))
    }
}

#[cfg(test)]
mod tests;
