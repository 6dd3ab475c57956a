//! One open two-way connection to an instance of a server: a stdio process, a WebSocket, or an
//! HTTP+SSE pair. Messages go out through a [`DuplexSender`] and come in through a channel, whatever
//! carries them; who they belong to is the business of [`mux`](crate::upstream::mux).
//!
//! What the three have in common:
//! - The connection *is* the server's session: it cannot be resumed, only opened anew.
//! - Each is run by tasks of its own on the runtime that opened it. They end with the connection, and
//!   the connection ends when the last sender goes, when [`DuplexSender::close`] is called, or when the
//!   other side ends it. Dropping only the inbox does not end it; what arrives is then thrown away.
//! - The end is told once: `closed` holds the reason no later than the inbox ends.
//! - A full inbox is backpressure on the server. Nothing else waits for it: writing goes on.

pub mod guard;

mod connect;
mod error;
mod legacy_sse;
mod outbox;
mod stdio;
mod websocket;

#[cfg(test)]
pub(crate) mod testing;

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_config::{HttpUrl, Stdio};
use http::{HeaderName, HeaderValue};
use rustls::ClientConfig;
use tokio::sync::{mpsc, watch};

pub use self::error::{Closed, Exit, OpenError, SendError};
pub use self::outbox::DuplexSender;

/// An open connection.
#[derive(Debug)]
pub struct Duplex {
    pub sender: DuplexSender,
    /// What the server sends, in order: one JSON-RPC message each, or a batch. Not checked beyond
    /// looking like JSON.
    pub inbox: mpsc::Receiver<Bytes>,
    /// The reason, once the connection has ended.
    pub closed: watch::Receiver<Option<Closed>>,
}

/// Where a connection leads.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server's configured name, for the log.
    pub server: Arc<str>,
    pub way: Way,
    pub limits: Limits,
}

/// How a server is reached.
#[derive(Clone, Debug)]
pub enum Way {
    Stdio {
        /// The program and first arguments that run [`guard::run`]: usually [`guard::own_binary`].
        guard: Vec<OsString>,
        process: Stdio,
    },
    WebSocket {
        url: HttpUrl,
        /// Needed for `wss`.
        tls: Option<Arc<ClientConfig>>,
    },
    /// HTTP+SSE of 2024-11-05: `url` is the event stream.
    Sse {
        url: HttpUrl,
        /// Needed for `https`.
        tls: Option<Arc<ClientConfig>>,
    },
}

/// What one connection may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest message from the server, in bytes.
    pub message: usize,
    /// How long opening may take in all: resolve, connect, handshake, first sign of life.
    pub open: Duration,
    /// How long a message may wait for its turn, and again how long its writing may take.
    pub send: Duration,
    /// WebSocket: how often a ping goes out, and how long after it something must have come back.
    pub ping: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message: 16 << 20,
            open: Duration::from_secs(10),
            send: Duration::from_secs(30),
            ping: Duration::from_secs(20),
        }
    }
}

/// Opens a connection. `headers` go with every HTTP request; a process gets none.
///
/// # Errors
/// [`OpenError`] within `limits.open`, plus what a guard takes to start.
///
/// # Cancel safety
/// Dropping the future gives the connection up; a process that was already started is ended by its
/// guard.
pub async fn open(
    target: &Target,
    headers: &[(HeaderName, HeaderValue)],
) -> Result<Duplex, OpenError> {
    let server = &target.server;
    let limits = target.limits;
    match &target.way {
        Way::Stdio { guard, process } => stdio::open(server, guard, process, limits).await,
        Way::WebSocket { url, tls } => {
            websocket::open(server, url, tls.as_ref(), headers, limits).await
        }
        Way::Sse { url, tls } => legacy_sse::open(server, url, tls.as_ref(), headers, limits).await,
    }
}

/// Messages that may wait in an inbox. Small, since each may be as large as `Limits::message`; the mux
/// takes them out at once.
const INBOX: usize = 8;
