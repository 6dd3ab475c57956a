//! The exchange of a check: the gateway's own client of an instance.
//!
//! It sends no client's credential, only what the configuration adds, and every message goes to the
//! instance that is meant, once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use holdfast_config::HttpUrl;
use holdfast_engine::health::score::Failure;
use holdfast_mcp::headers::{encode_value, name};
use holdfast_mcp::version::Version;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::close::close_at_server;
use super::{Whole, attempt, judge, open, own};
use crate::fleet::{Outcome, SHORT_REST};
use crate::gateway::Gateway;
use crate::server::Server;
use crate::session::Bound;
use crate::upstream::events::HttpEvents;
use crate::upstream::http::{self as upstream, Collected, Fields, HttpTarget, Outgoing};
use crate::upstream::mux::{CallEvent, Mux};

/// The session that the checks of an instance share.
#[derive(Clone, Debug)]
pub(crate) struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// None: the server is of the modern era and has no sessions.
    bound: Option<Bound>,
    version: Version,
    next: AtomicU64,
}

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    /// Whether it answers at all.
    Ping,
    /// A page of the list.
    Tools(Option<String>),
    Tool {
        name: String,
        arguments: Value,
    },
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) failure: Failure,
    /// For people; no addresses.
    pub(crate) text: String,
    /// The server does not know the session, or its connection is gone.
    pub(crate) lost: bool,
    /// It asks for fewer calls, for so long.
    pub(crate) rest: Option<Duration>,
}

/// A check is not made again for as long as its server asks for fewer calls, up to this: what answers nothing else
/// for ever is asked now and then all the same.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// An answer larger than this is none.
const LARGEST: usize = 4 * 1024 * 1024;

// === impl Session ===

impl Session {
    /// Opens a session as a client would; at a server that has none, finds that out.
    pub(crate) async fn open(
        gateway: &Arc<Gateway>,
        server: &Arc<Server>,
        instance: usize,
    ) -> Result<Self, Trouble> {
        let body = request(
            0,
            "initialize",
            json!({
                "protocolVersion": Version::V2025_11_25.as_str(),
                "capabilities": {},
                "clientInfo": { "name": "holdfast-check", "version": env!("CARGO_PKG_VERSION") },
            }),
        );
        let headers = own_headers(server);
        let opened =
            open::send(gateway, server, instance, &headers, &body).await.map_err(Trouble::of)?;
        let session =
            |bound, version| Self(Arc::new(Inner { bound, version, next: AtomicU64::new(1) }));
        let Some(replayed) = opened.replayed else {
            if credential(opened.whole.status) {
                return Err(Trouble::refused(opened.whole.status));
            }
            // It refuses the handshake: perhaps there is none any more.
            let modern = session(None, Version::V2026_07_28);
            modern.ask(gateway, server, instance, &Asked::Ping).await?;
            return Ok(modern);
        };
        let (mux, unclaimed) = replayed.duplex.unzip();
        if let Some((mux, unclaimed)) = mux.as_ref().zip(unclaimed) {
            tokio::spawn(answer(Arc::downgrade(mux), unclaimed));
        }
        let server_session = replayed.server_session;
        let bound = Bound {
            mark: server.fleet.mark(instance),
            life: server.life.number,
            generation: 1,
            server_session,
            mux,
        };
        let session = session(Some(bound), replayed.version);
        session.tell(gateway, server, instance).await;
        Ok(session)
    }

    fn is_modern(&self) -> bool {
        self.0.bound.is_none()
    }

    /// Whether its connection is still there, where it is one.
    pub(crate) fn is_usable(&self) -> bool {
        let mux = self.0.bound.as_ref().and_then(|bound| bound.mux.as_ref());
        mux.is_none_or(|mux| mux.ending().is_none())
    }

    /// Ends it at its server.
    pub(crate) async fn close(self, gateway: &Gateway, server: &Server, _instance: usize) {
        if let Some(bound) = &self.0.bound {
            close_at_server(gateway, server, bound).await;
        }
    }

    fn mux(&self) -> Option<&Arc<Mux>> {
        self.0.bound.as_ref()?.mux.as_ref()
    }

    /// Says that it is initialized.
    async fn tell(&self, gateway: &Gateway, server: &Server, instance: usize) {
        let body = Bytes::from_static(open::INITIALIZED);
        if let Some(mux) = self.mux() {
            let _ = mux.tell(body).await;
        } else if let Ok(response) = self.post(gateway, server, instance, None, body).await
            && let Ok(Collected::Whole { lease, .. }) = response.body.collect(LARGEST).await
        {
            lease.done();
        }
    }

    /// Asks, and waits for the answer under the question's id.
    pub(crate) async fn ask(
        &self,
        gateway: &Arc<Gateway>,
        server: &Arc<Server>,
        instance: usize,
        asked: &Asked,
    ) -> Result<Value, Trouble> {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (method, named, mut params) = match asked {
            // The modern era has no `ping`.
            Asked::Ping if self.is_modern() => ("server/discover", None, json!({})),
            Asked::Ping => ("ping", None, json!({})),
            Asked::Tools(None) => ("tools/list", None, json!({})),
            Asked::Tools(Some(cursor)) => ("tools/list", None, json!({ "cursor": cursor })),
            Asked::Tool { name, arguments } => {
                ("tools/call", Some(name), json!({ "name": name, "arguments": arguments }))
            }
        };
        if self.is_modern() {
            params["_meta"] = json!({
                "io.modelcontextprotocol/protocolVersion": self.0.version.as_str(),
                "io.modelcontextprotocol/clientCapabilities": {},
            });
        }
        let body = request(id, method, params);
        let answer = match self.mux() {
            Some(mux) => over_mux(mux, body).await?,
            None => {
                let of = Some((method, named.map(String::as_str)));
                let response = self.post(gateway, server, instance, of, body).await?;
                self.read(response).await?
            }
        };
        let answer: Value =
            serde_json::from_slice(&answer).map_err(|_| Trouble::wrong("its answer is no JSON"))?;
        if let Some(error) = answer.get("error") {
            let text: String =
                error["message"].as_str().unwrap_or("an error").chars().take(200).collect();
            return Err(Trouble::wrong(&format!("it answered {method} with an error: {text}")));
        }
        match answer.get("result") {
            Some(_) => Ok(answer),
            None => Err(Trouble::wrong("its answer is none")),
        }
    }

    async fn post(
        &self,
        gateway: &Gateway,
        server: &Server,
        instance: usize,
        of: Option<(&str, Option<&str>)>,
        body: Bytes,
    ) -> Result<upstream::Response, Trouble> {
        let mut headers = own_headers(server);
        let version = HeaderValue::from_static(self.0.version.as_str());
        headers.insert(name::PROTOCOL_VERSION, version);
        if let Some((method, named)) = of.filter(|_| self.is_modern()) {
            if let Ok(method) = HeaderValue::from_str(method) {
                headers.insert(name::METHOD, method);
            }
            if let Some(named) = named.and_then(|it| HeaderValue::from_str(&encode_value(it)).ok())
            {
                headers.insert(name::NAME, named);
            }
        }
        let session = self.0.bound.as_ref().and_then(|bound| bound.server_session.clone());
        let outgoing =
            Outgoing { method: Method::POST, fields: Fields::Map(&headers), session, body };
        attempt::send_once(gateway, server, instance, &outgoing, None).await.map_err(Trouble::of)
    }

    async fn read(&self, response: upstream::Response) -> Result<Bytes, Trouble> {
        let status = response.status;
        if response.is_event_stream() && status.is_success() {
            let events = HttpEvents::new(response.body);
            return Ok(open::whole_stream(events).await.map_err(Trouble::of)?.1);
        }
        let (status, headers, body) = response.into_parts();
        let body = match body.collect(LARGEST).await {
            Ok(Collected::Whole { body, lease }) => {
                lease.done();
                body
            }
            Ok(Collected::Large { .. }) => return Err(Trouble::wrong("its answer is over 4 MiB")),
            Err(_) => return Err(Trouble::wrong("its answer was cut half way")),
        };
        if status.is_success() {
            return Ok(body);
        }
        if credential(status) {
            return Err(Trouble::refused(status));
        }
        if let Outcome::Busy(rest) = judge::outcome_of(status, &headers, false) {
            return Err(Trouble::busy(rest));
        }
        let whole = Whole { status, headers, body };
        let has_session = self.0.bound.as_ref().is_some_and(|it| it.server_session.is_some());
        // One that had no sessions may have them now: then it knows nobody who brings none. What it says of
        // that is its own affair; the handshake tells.
        let may_want_one =
            !has_session && matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND);
        let lost = may_want_one || whole.says_lost(has_session, self.is_modern()).is_some();
        let text = format!("it answered with HTTP status {status}");
        Err(Trouble { lost, ..Trouble::wrong(&text) })
    }
}

async fn over_mux(mux: &Arc<Mux>, body: Bytes) -> Result<Bytes, Trouble> {
    let gone = |text: String| Trouble { lost: true, ..Trouble::new(Failure::Unreachable, &text) };
    let mut running = mux.call_with(body, false).await.map_err(|error| gone(error.to_string()))?;
    loop {
        match running.next().await {
            Some(CallEvent::Response(answer)) => return Ok(answer),
            Some(CallEvent::Message(_)) => {}
            Some(CallEvent::Lost(reason)) => return Err(gone(reason)),
            Some(CallEvent::Cancelled | CallEvent::Unread) | None => {
                return Err(gone("the connection ended before the answer".to_owned()));
            }
        }
    }
}

/// Answers what the server asks outside of checks, for as long as there is the connection.
async fn answer(mux: Weak<Mux>, mut unclaimed: mpsc::Receiver<Bytes>) {
    while let Some(message) = unclaimed.recv().await {
        if let (Some(reply), Some(mux)) = (own::reply(&message), mux.upgrade()) {
            mux.reply(reply);
        }
    }
}

fn request(id: u64, method: &str, params: Value) -> Bytes {
    let id = format!("holdfast-check-{id}");
    let message = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
    Bytes::from(message.to_string())
}

fn own_headers(server: &Server) -> HeaderMap {
    let mut headers: HeaderMap = server.headers.iter().cloned().collect();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    headers
}

fn credential(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// A GET of an address that the configuration names: its status and body.
pub(crate) async fn get(gateway: &Gateway, url: &HttpUrl) -> Result<(u16, Bytes), Trouble> {
    let target = HttpTarget::new(url.clone(), usize::MAX)
        .map_err(|_| Trouble::wrong("the address cannot be used"))?;
    let headers = HeaderMap::new();
    let fields = Fields::Map(&headers);
    let outgoing = Outgoing { method: Method::GET, fields, session: None, body: Bytes::new() };
    let within = Duration::from_secs(10);
    let sent = upstream::send(&target, &outgoing, within, &gateway.client_tls, None).await;
    let response = match sent {
        Ok(response) => response,
        Err(upstream::HttpError::NotSent(_)) => {
            return Err(Trouble::new(Failure::Unreachable, "no connection"));
        }
        Err(_) => {
            let broke = "the connection broke before the answer";
            return Err(Trouble::new(Failure::TimedOut, broke));
        }
    };
    let status = response.status;
    if credential(status) {
        return Err(Trouble::refused(status));
    }
    // The connection is not kept: it belongs to no instance.
    match response.body.collect(LARGEST).await {
        Ok(Collected::Whole { body, .. }) => Ok((status.as_u16(), body)),
        Ok(Collected::Large { .. }) => Err(Trouble::wrong("the body is over 4 MiB")),
        Err(_) => Err(Trouble::new(Failure::TimedOut, "the body was cut half way")),
    }
}

// === impl Trouble ===

impl Trouble {
    pub(crate) fn new(failure: Failure, text: &str) -> Self {
        Self { failure, text: text.to_owned(), lost: false, rest: None }
    }

    fn wrong(text: &str) -> Self {
        Self::new(Failure::Wrong, text)
    }

    fn refused(status: StatusCode) -> Self {
        let text = format!("it does not accept the gateway's credential ({status})");
        Self::new(Failure::Authentication, &text)
    }

    /// It asks for fewer calls, for so long.
    pub(crate) fn busy(rest: Option<Duration>) -> Self {
        let rest = rest.unwrap_or(SHORT_REST).min(LONGEST_REST);
        Self { rest: Some(rest), ..Self::wrong("it asks for fewer calls") }
    }

    fn of(error: attempt::AttemptError) -> Self {
        if let Outcome::Busy(rest) = error.outcome {
            return Self::busy(rest);
        }
        if error.refused {
            // The reason names the address.
            return Self::new(Failure::Unreachable, "no connection");
        }
        // A pooled connection that had closed is opened anew by the next check.
        Self { lost: true, ..Self::wrong(&error.reason) }
    }
}
