//! From the stream of a request's messages to a response: JSON or events, whole or with a fault.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
};
use http::{Response, StatusCode};
use tokio::sync::{mpsc, watch};

use super::super::answer::{exit, scripted_error};
use super::super::behaviour::{Fault, Strike};
use super::super::message::Failure;
use super::super::options::Answers;
use super::super::stream::{Item, Stream};
use super::Context;
use super::body::{Body, Cut, Piece};

pub(crate) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

pub(crate) type Reply = Result<Response<Body>, Cut>;

/// How the messages of a stream become a response.
pub(crate) struct Plan {
    pub(super) stream: Arc<Stream>,
    /// Where in the stream to begin: after this position.
    pub(super) after: u64,
    pub(super) answers: Answers,
    /// The answer to a batch is an array.
    pub(super) batch: bool,
    /// Events carry ids.
    pub(super) resumable: bool,
    /// The first event is an id, the time after which to come back, and empty data.
    pub(super) prime: bool,
    /// Ends the stream from outside; the flag says whether abruptly.
    pub(super) kicks: Option<watch::Receiver<(u64, bool)>>,
    pub(super) strike: Option<Strike>,
    /// JSON text of the request's id, for what stands in the place of the answer.
    pub(super) id: String,
    /// The status of a JSON answer, once it is there.
    pub(super) status: Arc<AtomicU16>,
    /// The session that the answer names.
    pub(super) session: Option<String>,
    /// Dropped when the response has been sent or its reader has gone.
    pub(super) guard: Option<Box<dyn Any + Send + Sync>>,
}

impl Plan {
    /// A plan without any fault or id.
    pub(super) fn new(stream: Arc<Stream>, answers: Answers) -> Self {
        Self {
            stream,
            after: 0,
            answers,
            batch: false,
            resumable: false,
            prime: false,
            kicks: None,
            strike: None,
            id: "null".to_owned(),
            status: Arc::new(AtomicU16::new(200)),
            session: None,
            guard: None,
        }
    }

    /// Makes the response.
    ///
    /// # Cancel safety
    /// Dropped when the client has gone before headers were sent; the guard goes with it.
    pub(super) async fn reply(mut self, context: &Context) -> Reply {
        if let Some(strike) = self.strike.take_if(|strike| strike.fault.replaces_answer()) {
            self.stream.ended().await;
            return replace(&strike.fault, &self.id, self.session.as_deref(), context).await;
        }
        let needs_stream = self.fault().is_some_and(Fault::needs_stream);
        let json = match self.answers {
            _ if needs_stream => false,
            Answers::Sse => false,
            Answers::Json => {
                self.stream.ended().await;
                true
            }
            Answers::Auto => !self.prime && self.stream.settles_without_messages().await,
        };
        let responses = if json { self.stream.responses() } else { Vec::new() };
        let session = self.session.take();
        // A cancelled request has no response; what is left is a stream without events.
        let mut response = if responses.is_empty() {
            self.events(context)
        } else {
            self.json(&responses, context)
        };
        if let Some(session) = session.and_then(|session| HeaderValue::from_str(&session).ok()) {
            response.headers_mut().insert(SESSION_ID, session);
        }
        Ok(response)
    }

    fn fault(&self) -> Option<&Fault> {
        self.strike.as_ref().map(|strike| &strike.fault)
    }

    fn json(self, responses: &[Arc<str>], context: &Context) -> Response<Body> {
        let text =
            if self.batch { format!("[{}]", responses.join(",")) } else { responses.concat() };
        let status = self.status.load(Ordering::Acquire);
        let length = text.len();
        let body = match self.fault().cloned() {
            Some(Fault::HalfBody) => {
                let (body, pieces) = Body::pieces(&context.wire);
                let half = Bytes::from(text).slice(..length / 2);
                tokio::spawn(async move {
                    let _ = pieces.send(Piece::Data(half)).await;
                    let _ = pieces.send(Piece::Close).await;
                });
                body
            }
            Some(Fault::Drip { ms, bytes }) => {
                let (body, pieces) = Body::pieces(&context.wire);
                tokio::spawn(async move { drip(&pieces, text.into(), ms, bytes).await });
                body
            }
            _ => Body::whole(text),
        };
        let mut response = json_response(status, body);
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
        response
    }

    fn events(self, context: &Context) -> Response<Body> {
        let (body, pieces) = Body::pieces(&context.wire);
        let options = &context.sample.options;
        let writer = EventWriter {
            line_end: if options.crlf { "\r\n" } else { "\n" },
            retry_ms: options.retry_ms,
            pieces,
            plan: self,
        };
        tokio::spawn(writer.run());
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }
}

/// Writes a stream's messages as events until it ends, its reader goes or a fault strikes.
struct EventWriter {
    plan: Plan,
    pieces: mpsc::Sender<Piece>,
    line_end: &'static str,
    retry_ms: u64,
}

impl EventWriter {
    async fn run(mut self) {
        let (limit, end) = match self.plan.fault() {
            Some(Fault::ResetAfterHeaders) => {
                let _ = self.pieces.send(Piece::Reset).await;
                return;
            }
            Some(Fault::ResetAfterEvents { events }) => (*events, Some(Piece::Reset)),
            Some(Fault::ExitAfterEvents { events, code }) => (*events, Some(Piece::Exit(*code))),
            Some(Fault::CloseAfterEvents { events }) => (*events, None),
            _ => (usize::MAX, None),
        };
        let mut position = self.plan.after;
        if self.plan.prime && !self.put(self.prime(position)).await {
            return;
        }
        let mut events = 0;
        let mut kicks = self.plan.kicks.take();
        while events < limit {
            let item = tokio::select! {
                item = self.plan.stream.next(position) => item,
                abruptly = kicked(&mut kicks) => {
                    if abruptly {
                        let _ = self.pieces.send(Piece::Close).await;
                    }
                    return;
                }
                () = self.pieces.closed() => return,
            };
            let Some(item) = item else { return };
            position = item.position;
            events += 1;
            if !self.put_event(&item).await {
                return;
            }
        }
        if let Some(end) = end {
            let _ = self.pieces.send(end).await;
        }
    }

    async fn put_event(&self, item: &Item) -> bool {
        let frame = self.event(item);
        match self.plan.fault() {
            Some(Fault::HalfBody) if item.last => {
                let half = frame.slice(..frame.len() / 2);
                let _ = self.put(half).await;
                let _ = self.pieces.send(Piece::Close).await;
                false
            }
            Some(Fault::Drip { ms, bytes }) => drip(&self.pieces, frame, *ms, *bytes).await,
            _ => self.put(frame).await,
        }
    }

    /// False when the reader has gone.
    async fn put(&self, frame: Bytes) -> bool {
        self.pieces.send(Piece::Data(frame)).await.is_ok()
    }

    fn prime(&self, position: u64) -> Bytes {
        let (id, end) = (&self.plan.stream.id, self.line_end);
        format!("id: {id}_{position}{end}retry: {}{end}data: {end}{end}", self.retry_ms).into()
    }

    fn event(&self, item: &Item) -> Bytes {
        let (end, text) = (self.line_end, &item.text);
        if self.plan.resumable {
            let id = &self.plan.stream.id;
            let position = item.position;
            format!("event: message{end}id: {id}_{position}{end}data: {text}{end}{end}").into()
        } else {
            format!("event: message{end}data: {text}{end}{end}").into()
        }
    }
}

/// Waits until the stream is told to end; for ever where nobody can.
async fn kicked(kicks: &mut Option<watch::Receiver<(u64, bool)>>) -> bool {
    if let Some(kicks) = kicks
        && kicks.changed().await.is_ok()
    {
        return kicks.borrow().1;
    }
    std::future::pending().await
}

async fn drip(pieces: &mpsc::Sender<Piece>, mut bytes: Bytes, ms: u64, size: usize) -> bool {
    while !bytes.is_empty() {
        let piece = bytes.split_to(size.clamp(1, bytes.len()));
        if pieces.send(Piece::Data(piece)).await.is_err() {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    true
}

/// What a fault puts in the place of the answer.
pub(crate) async fn replace(
    fault: &Fault,
    id: &str,
    session: Option<&str>,
    context: &Context,
) -> Reply {
    match fault {
        Fault::Status { status, body, rpc, retry_after } => {
            let mut response = match (rpc, body) {
                (Some(_), _) => {
                    let text = scripted_error(fault, id).unwrap_or_default();
                    json_response(*status, Body::whole(text))
                }
                (None, Some(body)) => plain(*status, body.clone()),
                (None, None) => plain(*status, format!("scripted: {status}\n")),
            };
            if let Some(seconds) = retry_after {
                response.headers_mut().insert(RETRY_AFTER, (*seconds).into());
            }
            Ok(response)
        }
        Fault::RpcError(_) => {
            let text = scripted_error(fault, id).unwrap_or_default();
            Ok(json_response(200, Body::whole(text)))
        }
        Fault::Garbage { body } => {
            let body = body.clone().unwrap_or_else(|| "<html>no JSON here</html>".to_owned());
            Ok(json_response(200, Body::whole(body)))
        }
        Fault::ForgetSession => {
            if let Some(session) = session {
                context.sample.sessions.remove(session);
            }
            Ok(failure(404, &Failure::new(-32001, "Session not found"), id))
        }
        Fault::Reset => {
            context.wire.reset();
            Err(Cut)
        }
        Fault::Close => Err(Cut),
        Fault::Exit { code } => exit(*code),
        // The others shape an answer; of those that never come only this one is left.
        _ => std::future::pending().await,
    }
}

pub(crate) fn failure(status: u16, failure: &Failure, id: &str) -> Response<Body> {
    json_response(status, Body::whole(failure.render(id)))
}

pub(crate) fn json_response(status: u16, body: Body) -> Response<Body> {
    with_type(status, "application/json", body)
}

pub(crate) fn plain(status: u16, text: impl Into<Bytes>) -> Response<Body> {
    with_type(status, "text/plain; charset=utf-8", Body::whole(text))
}

pub(crate) fn empty(status: u16) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status_code(status);
    response
}

fn with_type(status: u16, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status_code(status);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A script may ask for a status that is none.
fn status_code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
