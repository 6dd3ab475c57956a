//! The events of one answer, from whichever kind of server they come.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use holdfast_mcp::sse::{Decoder, Event};
use tokio::time::Instant;

use super::http::ResponseBody;
use super::mux;
use super::wire::WireError;
use crate::asked::Alarm;

/// The largest event taken from a server. A larger one ends the stream with an error that says so.
pub(crate) const MAX_EVENT: usize = 64 * 1024 * 1024;

/// A stream of events that ends in an answer, if all goes well.
pub(crate) enum EventSource {
    Http(Box<HttpEvents>),
    Mux(mux::Call),
}

/// Events of a `text/event-stream` body.
pub(crate) struct HttpEvents {
    /// `None` once it was read to its end.
    body: Option<ResponseBody>,
    decoder: Decoder,
    /// When the last byte came, comments included.
    heard: Instant,
}

/// How long a server may be silent within one stream. It is looked at when its time is over and not
/// set anew with every event: a timer for each would cost as much as looking into it.
pub(crate) struct Silence {
    limit: Duration,
    alarm: Option<Alarm>,
}

/// How a stream ended without more events.
#[derive(Debug)]
pub(crate) enum End {
    /// The server finished its response.
    Clean,
    /// The client has cancelled the call.
    Cancelled,
    /// The call's events were not taken, and there was no room for more.
    Unread,
    /// The connection broke, or what came could not be read.
    Broken(String),
}

// === impl EventSource ===

impl EventSource {
    /// The next event, or how the stream ended.
    ///
    /// # Cancel safety
    /// No event is lost: bytes already read stay in the decoder.
    pub(crate) async fn next(&mut self) -> Result<Event, End> {
        match self {
            Self::Http(events) => events.next().await,
            Self::Mux(call) => match call.next().await {
                Some(mux::CallEvent::Message(data) | mux::CallEvent::Response(data)) => {
                    Ok(message(data))
                }
                Some(mux::CallEvent::Lost(reason)) => Err(End::Broken(reason)),
                Some(mux::CallEvent::Cancelled) => Err(End::Cancelled),
                Some(mux::CallEvent::Unread) => Err(End::Unread),
                None => Err(End::Clean),
            },
        }
    }
}

impl EventSource {
    /// As [`Self::next`] gives it, if that waits for nothing.
    pub(crate) fn here(&mut self) -> Option<Result<Event, End>> {
        match self {
            Self::Http(events) => events.here(),
            Self::Mux(_) => None,
        }
    }

    /// The next event, or `None` if the server has been silent for too long. A comment is a sign of
    /// life.
    ///
    /// # Cancel safety
    /// As [`Self::next`].
    pub(crate) async fn next_within(
        &mut self,
        silence: &mut Silence,
    ) -> Option<Result<Event, End>> {
        let asked = Instant::now();
        loop {
            let Silence { limit, alarm } = silence;
            let alarm = alarm.get_or_insert_with(|| Alarm::at(Instant::now() + *limit));
            {
                let mut next = pin!(self.next());
                let event = poll_fn(|cx| match next.as_mut().poll(cx) {
                    Poll::Ready(event) => Poll::Ready(Some(event)),
                    Poll::Pending => alarm.poll(cx).map(|()| None),
                });
                if let Some(event) = event.await {
                    return Some(event);
                }
            }
            let heard = match self {
                Self::Http(events) => events.heard.max(asked),
                Self::Mux(_) => asked,
            };
            let until = heard + *limit;
            if until <= Instant::now() {
                return None;
            }
            alarm.reset(until);
        }
    }
}

// === impl Silence ===

impl Silence {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, alarm: None }
    }
}

/// A plain message event.
pub(crate) fn message(data: Bytes) -> Event {
    Event { id: None, event: None, data: Some(data), retry: None }
}

// === impl HttpEvents ===

impl HttpEvents {
    pub(crate) fn new(body: ResponseBody) -> Self {
        Self { body: Some(body), decoder: Decoder::new(MAX_EVENT), heard: Instant::now() }
    }

    pub(crate) async fn next(&mut self) -> Result<Event, End> {
        loop {
            if let Some(event) = self.here() {
                return event;
            }
            let Some(body) = &mut self.body else { return Err(End::Clean) };
            let part = body.next().await;
            self.heard = Instant::now();
            if let Some(end) = self.take(part) {
                return Err(end);
            }
        }
    }

    /// The next event, or the end, if it has been read already.
    fn here(&mut self) -> Option<Result<Event, End>> {
        loop {
            match self.decoder.next() {
                Ok(Some(event)) => return Some(Ok(event)),
                Ok(None) => {}
                Err(error) => return Some(Err(End::Broken(error.to_string()))),
            }
            let part = self.body.as_mut()?.here()?;
            if let Some(end) = self.take(part) {
                return Some(Err(end));
            }
        }
    }

    /// Takes a part of the body, or the stream's end.
    fn take(&mut self, part: Option<Result<Bytes, WireError>>) -> Option<End> {
        match part {
            Some(Ok(data)) => {
                self.decoder.push(data);
                None
            }
            Some(Err(error)) => Some(End::Broken(error.to_string())),
            None => {
                if let Some(body) = self.body.take() {
                    body.lease().done();
                }
                Some(End::Clean)
            }
        }
    }
}
