//! The way out of an HTTP+SSE pair: POSTs, one after the other.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::{Origin, Sender};
use crate::upstream::duplex::error::{Closed, SendError, is_lost_session};
use crate::upstream::duplex::outbox::Outbox;

/// Node and uvicorn close a connection that was idle for 5 s; a POST written at that moment would be
/// neither sent nor refused. So an idle connection is not used again after this.
const IDLE: Duration = Duration::from_secs(3);
/// As much of the answer to a POST is read to keep its connection; it says nothing of use.
const ANSWER: usize = 64 * 1024;

/// Posts until the connection is to end.
pub(super) async fn post_all(mut outbox: Outbox, mut poster: Poster) {
    let end = outbox.end();
    while let Some(taken) = outbox.next().await {
        let until = Instant::now() + outbox.deadline;
        let message = taken.message.clone();
        let outcome = tokio::select! {
            biased;
            outcome = timeout_at(until, poster.post(message)) => {
                outcome.unwrap_or_else(|_| Err(poster.failed("the server did not answer its POST in time")))
            }
            () = end.begun() => match poster.failed(&end.cause()) {
                SendError::Unknown(_) => Err(SendError::Closed(Closed::new(end.cause()))),
                error => Err(error),
            },
        };
        if let Err(SendError::Refused { status }) = outcome
            && is_lost_session(status)
        {
            end.begin(format!(
                "the server answered a message with HTTP status {status}: its session is gone"
            ));
        }
        taken.settle(outcome);
    }
}

pub(super) struct Poster {
    origin: Origin,
    path: String,
    /// The kept connection, and since when it is idle.
    kept: Option<(Sender, Instant)>,
    /// Whether a byte of the current message may have left.
    touched: bool,
}

impl Poster {
    pub(super) fn new(origin: Origin, path: String) -> Self {
        Self { origin, path, kept: None, touched: false }
    }

    /// Sends one message and waits for the status of its POST.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection; [`Self::failed`] then says what is known.
    async fn post(&mut self, message: Bytes) -> Result<(), SendError> {
        self.touched = false;
        let mut request =
            self.request(message).map_err(|error| SendError::NotSent(error.to_string()))?;
        loop {
            let (mut sender, reused) = match self.idle_connection().await {
                Some(sender) => (sender, true),
                None => {
                    let sender = self.origin.connect().await;
                    (sender.map_err(|error| SendError::NotSent(with_cause(&error)))?, false)
                }
            };
            if !reused && let Err(error) = sender.ready().await {
                return Err(SendError::NotSent(error.to_string()));
            }
            self.touched = true;
            match sender.try_send_request(request).await {
                Ok(response) => return self.finish(sender, response).await,
                Err(mut error) => match error.take_message() {
                    // The connection closed before a byte was written: once more on a new one.
                    Some(unsent) if reused => {
                        self.touched = false;
                        request = unsent;
                    }
                    Some(_) => return Err(SendError::NotSent(error.error().to_string())),
                    None => return Err(SendError::Unknown(error.error().to_string())),
                },
            }
        }
    }

    /// The error for a message whose POST was given up.
    fn failed(&mut self, reason: &str) -> SendError {
        if self.touched {
            SendError::Unknown(reason.to_owned())
        } else {
            SendError::NotSent(reason.to_owned())
        }
    }

    fn request(&self, message: Bytes) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = self.origin.request(Method::POST, &self.path)?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers
            .entry(ACCEPT)
            .or_insert(HeaderValue::from_static("application/json, text/event-stream"));
        *request.body_mut() = Full::new(message);
        Ok(request)
    }

    /// The kept connection, if it is still fresh and open.
    async fn idle_connection(&mut self) -> Option<Sender> {
        let (mut sender, since) = self.kept.take()?;
        let fresh = since.elapsed() < IDLE;
        (fresh && sender.ready().await.is_ok()).then_some(sender)
    }

    async fn finish(
        &mut self,
        sender: Sender,
        response: http::Response<Incoming>,
    ) -> Result<(), SendError> {
        let status = response.status();
        // The whole body must be read for the connection to be used again.
        match Limited::new(response.into_body(), ANSWER).collect().await {
            Ok(_) => self.kept = Some((sender, Instant::now())),
            Err(error) => debug!(error = %error, "the answer to a POST was not read to its end"),
        }
        if status.is_success() {
            return Ok(());
        }
        debug!(
            status = status.as_u16(),
            lost = status == StatusCode::NOT_FOUND,
            "a message was refused"
        );
        Err(SendError::Refused { status: status.as_u16() })
    }
}

fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
