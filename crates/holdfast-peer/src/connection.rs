//! One proven connection, dialling side: HTTP/2 on it, and what became of a request.

use std::error::Error;
use std::future::Future;

use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::settings::{CONNECTION_WINDOW, HEADERS, SEND_BUFFER, STREAM_WINDOW};
use crate::{BoxError, Caller, PeerError, Settings};

/// The body of any request to a peer.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// A connection; clones are the same one. It ends when the last clone and the last stream are gone.
#[derive(Clone)]
pub(crate) struct Connection {
    sender: SendRequest<RequestBody>,
    /// Ends every task of the connection, and with them the connection.
    end: CancellationToken,
}

/// A request without an answer.
pub(crate) struct Unanswered {
    pub(crate) error: PeerError,
    /// The request, where it never left: it can go another way.
    pub(crate) request: Option<Request<RequestBody>>,
}

// === impl Connection ===

impl Connection {
    /// Starts HTTP/2 on a proven stream. The connection lives on `runtime`, where this must run.
    pub(crate) async fn start(
        stream: TlsStream<TcpStream>,
        peer: Caller,
        settings: &Settings,
        runtime: &Handle,
    ) -> Result<Self, PeerError> {
        let end = CancellationToken::new();
        let tasks = Tasks { runtime: runtime.clone(), end: end.clone() };
        let (sender, driver) = Builder::new(tasks.clone())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(HEADERS)
            // A cancelled call is an everyday thing here and the peer is proven: no number of
            // resets is an attack.
            .max_local_error_reset_streams(None)
            .keep_alive_interval(settings.ping_every)
            .keep_alive_timeout(settings.ping_wait)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| PeerError::Unreachable(text(&error)))?;
        let name = peer.name;
        tasks.execute(async move {
            if let Err(error) = driver.await {
                tracing::debug!(peer = %name, error = text(&error), "connection to a peer ended");
            }
        });
        Ok(Self { sender, end })
    }

    /// Whether it takes requests, as far as is known.
    pub(crate) fn is_open(&self) -> bool {
        !self.sender.is_closed() && !self.end.is_cancelled()
    }

    /// Whether both are the same connection.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.end == other.end
    }

    /// Breaks it: what is under way ends as broken.
    pub(crate) fn close(&self) {
        self.end.cancel();
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Cancel safety
    /// Dropping the future resets the stream; whether the peer has begun is then unknown.
    pub(crate) async fn send(
        &self,
        request: Request<RequestBody>,
        deadline: Instant,
    ) -> Result<Response<Incoming>, Unanswered> {
        let mut sender = self.sender.clone();
        match timeout_at(deadline, sender.try_send_request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(mut failed)) => {
                let request = failed.take_message();
                let error = failed.into_error();
                let error = if request.is_some() || was_never_begun(&error) {
                    PeerError::Unreachable(text(&error))
                } else {
                    PeerError::Broken(text(&error))
                };
                Err(Unanswered { error, request })
            }
            Err(_) => Err(Unanswered { error: PeerError::TimedOut { sent: true }, request: None }),
        }
    }
}

/// Whether the peer says that it has not begun: it refused the stream, or it is going away and the
/// stream is not among those that it will still look at.
///
/// A GOAWAY reaches a stream as its error only if the stream is above the last one that the peer
/// names, or was opened afterwards; those below it see the end of the connection instead.
fn was_never_begun(error: &hyper::Error) -> bool {
    let Some(error) = error.source().and_then(|source| source.downcast_ref::<h2::Error>()) else {
        return false;
    };
    error.is_remote()
        && (error.is_go_away()
            || error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM))
}

/// An error with its causes, in one line.
pub(crate) fn text(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Spawns the tasks of one connection, which its end ends.
#[derive(Clone)]
struct Tasks {
    runtime: Handle,
    end: CancellationToken,
}

impl<F> Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        let end = self.end.clone();
        self.runtime.spawn(async move {
            end.run_until_cancelled(task).await;
        });
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
