//! The standing stream of a session: what a server says outside of any call.
//!
//! One stream per binding is open at the server and owned by the gateway; the client's newest GET
//! reads it. The two ends move independently. A client that comes back continues where it was; a
//! server's stream that breaks is opened again behind the client's open one; and after a gap that
//! cannot be resumed the client is told what it may have missed: `list_changed` for the lists that
//! the server announces, and `resources/updated` for what it subscribed to.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::backoff::Backoff;
use holdfast_engine::class::CallClass;
use holdfast_mcp::event_id::StreamKind;
use holdfast_mcp::headers::name;
use holdfast_mcp::method::Method;
use holdfast_mcp::peek::{Kind, peek};
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, Method as HttpMethod, StatusCode};
use tokio::sync::mpsc;

use super::{Bound, Session, reestablish};
use crate::exchange::{self, Whole};
use crate::failure::Failure;
use crate::gateway::Gateway;
use crate::random;
use crate::spliced;
use crate::streams::{LogState, NewLog, Origin, StreamLog};
use crate::upstream::events::{End, HttpEvents};
use crate::upstream::http::{Collected, Outgoing};

/// A session's standing stream.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) log: Arc<StreamLog>,
}

/// What a client's GET gets.
pub(crate) enum Opened {
    Stream(Arc<Standing>),
    /// The server's own refusal (405 where it has no such stream).
    Refused(Whole),
}

/// What the server answered to our GET.
enum Got {
    Stream(HttpEvents),
    /// Another stream of the session is still open there.
    Busy,
    Lost,
    Refused(Whole),
    Unreachable,
}

/// How long a server's stream that ended is left alone, where the server does not say.
const REOPEN: Duration = Duration::from_millis(500);

/// The session's standing stream, opened at the server if it is not yet.
///
/// # Errors
/// [`Failure`] if the session cannot be established at its server.
///
/// # Cancel safety
/// A stream that was just opened at the server is closed again.
pub(crate) async fn open(
    gateway: &Arc<Gateway>,
    session: &Arc<Session>,
    live: HeaderMap,
) -> Result<Opened, Failure> {
    let mut standing = session.standing.lock().await;
    if let Some(open) = standing.as_ref().filter(|open| open.log.state() != LogState::Complete) {
        return Ok(Opened::Stream(Arc::clone(open)));
    }
    let mut bound = session.bound();
    if session.server.is_duplex() {
        // Its messages have been logged since the session began, unless its process is gone.
        drop(standing);
        if bound.mux.as_ref().is_none_or(|mux| mux.ending().is_some()) {
            reestablish(gateway, session, &bound, &live, false).await?;
        }
        let standing = session.standing.lock().await;
        return standing.clone().map(Opened::Stream).ok_or_else(|| {
            Failure::unavailable(&session.server.name, "the connection ended".into())
        });
    }
    // The server's answer decides between a stream and its refusal; one that says nothing until it
    // has an event is waited for behind the client's open stream.
    let mut first = Box::pin(first_get(Arc::clone(gateway), Arc::clone(session), live.clone()));
    let got = tokio::time::timeout(FIRST_ANSWER, &mut first).await;
    bound = session.bound();
    let first: First = match got {
        Ok(Got::Refused(whole)) => return Ok(Opened::Refused(whole)),
        Ok(got) => Box::pin(std::future::ready(got)),
        Err(_) => first,
    };
    let opened = Arc::new(Standing { log: new_log(gateway, session, &bound) });
    *standing = Some(Arc::clone(&opened));
    drop(standing);
    let feed = Feed {
        gateway: Arc::clone(gateway),
        session: Arc::clone(session),
        log: Arc::clone(&opened.log),
        live,
        bound,
    };
    tokio::spawn(feed.run(first));
    Ok(Opened::Stream(opened))
}

/// The answer to the first GET, perhaps still to come.
type First = Pin<Box<dyn Future<Output = Got> + Send>>;

/// How long a client's GET waits for what the server says to ours.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

async fn first_get(gateway: Arc<Gateway>, session: Arc<Session>, live: HeaderMap) -> Got {
    let bound = session.bound();
    match get(&gateway, &session, &bound, &live, None).await {
        Got::Lost => match reestablish(&gateway, &session, &bound, &live, false).await {
            Ok(bound) => get(&gateway, &session, &bound, &live, None).await,
            Err(_) => Got::Unreachable,
        },
        got => got,
    }
}

fn new_log(gateway: &Gateway, session: &Session, bound: &Bound) -> Arc<StreamLog> {
    let log = StreamLog::new(NewLog {
        origin: Origin {
            principal: session.principal,
            kind: StreamKind::Standing,
            request_id: None,
            class: CallClass::Read.as_u8(),
            instance: u16::try_from(bound.instance).unwrap_or(u16::MAX),
            generation: bound.generation,
            server_session: bound.server_session_text().map(Into::into),
        },
        sealer: Some(Arc::clone(&gateway.sealer)),
        prime: session.version.can_resume_polling(),
        queue: gateway.config.limits.stream_queue,
        retain: gateway.config.streams.retain_bytes,
        metrics: Arc::clone(&gateway.metrics),
    });
    gateway.streams.insert(&log);
    log
}

/// Starts reading what a private duplex says outside of calls.
pub(crate) async fn feed_duplex(
    gateway: &Arc<Gateway>,
    session: &Arc<Session>,
    mut unclaimed: mpsc::Receiver<Bytes>,
) {
    let bound = session.bound();
    let log = {
        let mut standing = session.standing.lock().await;
        match standing.as_ref() {
            Some(open) => Arc::clone(&open.log),
            None => {
                let log = new_log(gateway, session, &bound);
                *standing = Some(Arc::new(Standing { log: Arc::clone(&log) }));
                log
            }
        }
    };
    let session = Arc::clone(session);
    tokio::spawn(async move {
        while let Some(data) = unclaimed.recv().await {
            let data = admit(&session, data, bound.generation);
            // A client that does not listen must not hold up the server's answers to its calls.
            if !log.try_append(&data) {
                tracing::debug!(session = ?session.key, "standing stream full, message dropped");
            }
        }
    });
}

/// The session is bound anew: the standing stream goes on from the new binding.
pub(super) async fn rebound(
    gateway: &Arc<Gateway>,
    session: &Arc<Session>,
    bound: &Bound,
    unclaimed: Option<mpsc::Receiver<Bytes>>,
) {
    let standing = session.standing.lock().await.clone();
    if let Some(standing) = standing {
        let server_session = bound.server_session_text().map(Into::into);
        let instance = u16::try_from(bound.instance).unwrap_or(u16::MAX);
        standing.log.rebind(instance, bound.generation, server_session);
        tell_gap(session, &standing.log);
    }
    if let Some(unclaimed) = unclaimed {
        feed_duplex(gateway, session, unclaimed).await;
    }
    session.rebound.notify_waiters();
}

/// Tells the client what it may have missed, and takes back what its old server had asked.
fn tell_gap(session: &Session, log: &StreamLog) {
    for id in session.take_outstanding() {
        log.try_append(
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id},"reason":"the server's session was lost"}}}}"#
            )
            .as_bytes(),
        );
    }
    let record = session.record();
    let announces = record.announces;
    for (announced, list) in [
        (announces.tools, "tools"),
        (announces.prompts, "prompts"),
        (announces.resources, "resources"),
    ] {
        if announced {
            log.try_append(
                format!(r#"{{"jsonrpc":"2.0","method":"notifications/{list}/list_changed"}}"#)
                    .as_bytes(),
            );
        }
    }
    for uri in record.subscriptions.keys() {
        let message = serde_json::json!({
            "jsonrpc": "2.0",
            "method": "notifications/resources/updated",
            "params": { "uri": uri },
        });
        log.try_append(message.to_string().as_bytes());
    }
}

/// A server's message on its way to the client: its ids belong to this generation.
fn admit(session: &Session, data: Bytes, generation: u32) -> Bytes {
    let Ok(message) = peek(&data) else { return data };
    let asks = message.kind == Kind::Request;
    let takes_back =
        message.kind == Kind::Notification && Method::parse(&message.method) == Method::Cancelled;
    if asks && let Some(id) = message.id {
        session.asked(&spliced::client_id(id.as_str(), generation));
    }
    if asks || takes_back { spliced::for_client(data, generation) } else { data }
}

async fn get(
    gateway: &Gateway,
    session: &Session,
    bound: &Bound,
    live: &HeaderMap,
    last_event: Option<&str>,
) -> Got {
    let mut headers = exchange::headers::for_own_message(live);
    headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    headers.insert(name::PROTOCOL_VERSION, HeaderValue::from_static(session.version.as_str()));
    if let Some(last) = last_event.and_then(|event| HeaderValue::from_str(event).ok()) {
        headers.insert(name::LAST_EVENT_ID, last);
    }
    let outgoing = Outgoing {
        method: HttpMethod::GET,
        headers: &headers,
        session: bound.server_session.clone(),
        body: Bytes::new(),
    };
    let sent =
        exchange::request_http(gateway, &session.server, true, bound.instance, outgoing).await;
    let Ok((response, _)) = sent else { return Got::Unreachable };
    let status = response.status;
    if status.is_success() && response.is_event_stream() {
        return Got::Stream(HttpEvents::new(response.body, response.lease));
    }
    if status == StatusCode::CONFLICT {
        return Got::Busy;
    }
    if status == StatusCode::NOT_FOUND && bound.server_session.is_some() {
        return Got::Lost;
    }
    if status.is_server_error() {
        return Got::Unreachable;
    }
    let mut kept = response.headers.clone();
    exchange::headers::strip_answer(&mut kept);
    let body = match response.collect(64 * 1024).await {
        Ok(Collected::Whole(body)) => body,
        _ => Bytes::new(),
    };
    // A success that is no stream is a server without one.
    let status = if status.is_success() { StatusCode::METHOD_NOT_ALLOWED } else { status };
    Got::Refused(Whole { status, headers: kept, body })
}

/// Keeps a log supplied from the server's GET stream, across breaks and new bindings.
struct Feed {
    gateway: Arc<Gateway>,
    session: Arc<Session>,
    log: Arc<StreamLog>,
    live: HeaderMap,
    bound: Arc<Bound>,
}

impl Feed {
    async fn run(mut self, first: First) {
        let cancelled = self.log.cancel.clone();
        tokio::select! {
            () = cancelled.cancelled() => {}
            () = self.feed(first) => {}
        }
        self.log.finish();
        self.gateway.streams.retire(&self.log);
    }

    async fn feed(&mut self, first: First) {
        let mut events = match first.await {
            Got::Stream(open) => Some(open),
            Got::Refused(_) => return,
            // Behind the client's open stream there is time to try again.
            Got::Busy | Got::Lost | Got::Unreachable => None,
        };
        self.bound = self.session.bound();
        let mut backoff = Backoff::new(REOPEN, Duration::from_secs(15));
        let mut retry = None;
        loop {
            if let Some(open) = &mut events {
                match self.follow(open, &mut retry, &mut backoff).await {
                    End::Clean => tokio::time::sleep(retry.unwrap_or(REOPEN)).await,
                    End::Broken(_) => {
                        let metrics = self.gateway.metrics.server(self.session.server.index);
                        metrics.streams_broken.inc();
                        tokio::time::sleep(backoff.next(random::u64())).await;
                    }
                }
            } else {
                tokio::time::sleep(backoff.next(random::u64())).await;
            }
            self.bound = self.session.bound();
            let last = self.log.server_event();
            let got =
                get(&self.gateway, &self.session, &self.bound, &self.live, last.as_deref()).await;
            match got {
                Got::Stream(open) => {
                    if last.is_none() {
                        tell_gap(&self.session, &self.log);
                    }
                    events = Some(open);
                    continue;
                }
                Got::Busy | Got::Unreachable => {}
                Got::Lost => {
                    let again =
                        reestablish(&self.gateway, &self.session, &self.bound, &self.live, false)
                            .await;
                    if let Err(failure) = again {
                        tracing::debug!(reason = %failure.reason, "standing stream waits for its server");
                    }
                }
                // The server does not offer the stream any more.
                Got::Refused(_) => return,
            }
            events = None;
        }
    }

    /// Relays events until the stream ends or the session is bound elsewhere.
    async fn follow(
        &self,
        events: &mut HttpEvents,
        retry: &mut Option<Duration>,
        backoff: &mut Backoff,
    ) -> End {
        loop {
            let rebound = self.session.rebound.notified();
            if self.session.bound().generation != self.bound.generation {
                return End::Broken("bound elsewhere".into());
            }
            let event = tokio::select! {
                event = events.next() => event,
                () = rebound => continue,
            };
            let event = match event {
                Ok(event) => event,
                Err(end) => return end,
            };
            backoff.reset();
            if let Some(ms) = event.retry {
                *retry = Some(Duration::from_millis(ms).min(Duration::from_secs(60)));
            }
            let id = event.id.as_deref().and_then(|id| std::str::from_utf8(id).ok());
            match event.data.filter(|data| !data.is_empty()) {
                Some(data) => {
                    let data = admit(&self.session, data, self.bound.generation);
                    self.log.append(&data, id).await;
                    self.gateway.metrics.events.inc();
                }
                None => {
                    if let Some(id) = id {
                        self.log.note_server_event(id);
                    }
                }
            }
        }
    }
}
