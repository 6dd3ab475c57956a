//! A request's way: check, read, send to one node after the other until a response's head has come.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER,
    UPGRADE,
};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use serde_json::json;
use tokio::time::Instant;

use crate::answer::{self, Asked, RETRY_MS, Reply};
use crate::attempt::{Attempt, Ended, Lease, Outgoing};
use crate::decide::{self, Candidate, History, Probed, Step, Why};
use crate::headers;
use crate::listener::Edge;
use crate::relay::{Body, Kind, Relayed};
use crate::tunnel;

/// Where the edge answers for itself.
const HEALTH: &str = "/edge/health";
/// How long a stream that cannot be opened is held before it is answered with an empty one.
const STREAM_HOLD: Duration = Duration::from_secs(5);

/// The connection is closed without a response: some requests may not be answered with an error.
#[derive(Debug, thiserror::Error)]
#[error("no answer that this client could bear")]
pub(crate) struct HangUp;

type Answered = Result<Response<Body>, HangUp>;

/// Serves one request of a client.
///
/// # Cancel safety
/// Dropped when the client disconnects; the connections to nodes are then closed, which tells them.
pub(crate) async fn serve(
    edge: &Arc<Edge>,
    mut request: Request<Incoming>,
    peer: SocketAddr,
) -> Answered {
    let websocket = headers::wants_websocket(request.headers());
    let client = websocket.then(|| tunnel::of_request(&mut request));
    let (mut parts, body) = request.into_parts();
    if let Err((status, why)) = headers::check(&parts) {
        return Ok(refuse(status, why));
    }
    if parts.uri.path() == HEALTH {
        return Ok(health(edge, &parts.method, peer));
    }
    let held = match edge.room.read(body).await {
        Ok(held) => held,
        Err(error) => return Ok(refuse(error.status(), &error.to_string())),
    };
    headers::for_nodes(&mut parts.headers, peer.ip());
    let request = Exchange::new(edge, parts, held.body.clone(), client);
    let answered = request.run().await;
    drop(held);
    answered
}

/// One request until the head of its response.
struct Exchange<'a> {
    edge: &'a Arc<Edge>,
    outgoing: Arc<Outgoing>,
    version: Version,
    client: Option<OnUpgrade>,
    since: Instant,
    attempts: Vec<Attempt>,
    /// Failures by node.
    failures: Vec<u32>,
    history: History,
    /// When the pause after the last failure is over.
    rest: Option<Instant>,
    may_have_run: bool,
    turn: usize,
    /// Known once it matters.
    asked: Option<Asked>,
}

impl<'a> Exchange<'a> {
    fn new(edge: &'a Arc<Edge>, parts: Parts, body: Bytes, client: Option<OnUpgrade>) -> Self {
        let Parts { method, uri, headers, version, .. } = parts;
        // Nodes get the path alone, whichever form the client used.
        let path = uri.path_and_query().cloned();
        let uri = path.map_or(uri, http::Uri::from);
        Self {
            edge,
            outgoing: Arc::new(Outgoing { method, uri, headers, body }),
            version,
            client,
            since: Instant::now(),
            attempts: Vec::with_capacity(1),
            failures: vec![0; edge.nodes.len()],
            history: History::default(),
            rest: None,
            may_have_run: false,
            turn: turn(),
            asked: None,
        }
    }

    async fn run(mut self) -> Answered {
        let mut changes = self.edge.nodes.changes();
        loop {
            changes.borrow_and_update();
            let alarm = self.times();
            match decide::step(&self.history, &self.candidates(), self.turn) {
                Step::Send(node) => {
                    let target = self.edge.nodes.get(node);
                    self.attempts.push(Attempt::start(node, target, &self.outgoing));
                    (self.history.rested, self.rest) = (false, None);
                    continue;
                }
                Step::Rest(pause) if self.rest.is_none() => {
                    self.rest = Some(Instant::now() + pause);
                    continue;
                }
                Step::Rest(_) | Step::Wait => {}
                Step::GiveUp(why) => return self.give_up(why),
            }
            let ended = tokio::select! {
                biased;
                ended = any(&mut self.attempts) => ended,
                _ = changes.changed() => continue,
                () = until(alarm) => continue,
                () = self.edge.giving_up.cancelled() => return self.give_up(Why::Ending),
            };
            let (attempt, ended) = ended;
            if let Some(answered) = self.ended(attempt, ended) {
                return answered;
            }
        }
    }

    fn candidates(&self) -> Vec<Candidate> {
        let nodes = self.edge.nodes.iter().enumerate();
        nodes
            .map(|(index, node)| Candidate {
                standing: node.standing(),
                in_flight: node.in_flight(),
                failures: self.failures[index],
                has_it: self.attempts.iter().any(|attempt| attempt.node == index),
            })
            .collect()
    }

    /// Brings what depends on the time up to date, and says when it changes next.
    fn times(&mut self) -> Option<Instant> {
        let none_since = self.edge.nodes.none_since();
        let deadline = self.edge.options.deadline;
        if none_since.is_none() && self.rest.is_none() && deadline.is_none() {
            self.history.held_out = false;
            return None;
        }
        let now = Instant::now();
        let deadline = deadline.map(|deadline| self.since + deadline);
        self.history.overdue = deadline.is_some_and(|at| at <= now);
        self.history.rested = self.rest.is_some_and(|at| at <= now);
        let held = none_since.map(|none| none.max(self.since) + self.hold());
        self.history.held_out = held.is_some_and(|at| at <= now);
        [deadline, self.rest, held].into_iter().flatten().filter(|at| *at > now).min()
    }

    /// How long this request is held while no node is alive.
    fn hold(&mut self) -> Duration {
        match self.asked() {
            Asked::Stream => self.edge.options.hold.min(STREAM_HOLD),
            _ => self.edge.options.hold,
        }
    }

    fn asked(&mut self) -> &Asked {
        let outgoing = &self.outgoing;
        self.asked.get_or_insert_with(|| {
            let wants_stream = headers::wants_stream(&outgoing.headers);
            answer::asked(&outgoing.method, wants_stream, &outgoing.body)
        })
    }

    /// Takes in how a sending ended; the answer if there is one now.
    fn ended(&mut self, attempt: Attempt, ended: Ended) -> Option<Answered> {
        let index = attempt.node;
        let node = self.edge.nodes.get(index);
        match ended {
            Ended::Head(response, lease) if self.is_refusal(&response) => {
                drop((response, lease));
                self.history.full += 1;
                self.failures[index] += 1;
            }
            Ended::Head(response, lease) => return Some(self.relay(attempt, response, lease)),
            Ended::Refused => {
                self.history.unsent += 1;
                self.edge.nodes.found(index, Probed::Refused);
                self.failures[index] += 1;
                node.nudge.notify_one();
            }
            Ended::Unsent(reason) => {
                tracing::debug!(node = node.address, reason, "a request could not be sent");
                self.history.unsent += 1;
                self.failures[index] += 1;
                node.nudge.notify_one();
            }
            Ended::Lost(reason) => {
                tracing::debug!(node = node.address, reason, "a request was lost with its node");
                self.history.lost += 1;
                self.failures[index] += 1;
                self.may_have_run = true;
                node.nudge.notify_one();
            }
        }
        None
    }

    /// Whether a node says that it took no part in this: it is at its limit of connections.
    fn is_refusal(&self, response: &Response<Incoming>) -> bool {
        let headers = response.headers();
        let closes = headers.get(CONNECTION).is_some_and(|it| it.as_bytes() == b"close");
        response.status() == StatusCode::SERVICE_UNAVAILABLE
            && closes
            && headers.contains_key(RETRY_AFTER)
            && self.outgoing.method != Method::HEAD
    }

    fn relay(
        &mut self,
        attempt: Attempt,
        mut response: Response<Incoming>,
        lease: Lease,
    ) -> Answered {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // Only a WebSocket is asked for; the connection of anything else is of no use.
            let Some(client) = self.client.take() else { return Err(HangUp) };
            let upstream = tunnel::of_response(&mut response);
            let mut headers = std::mem::take(response.headers_mut());
            headers::strip_hop_by_hop(&mut headers);
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            tunnel::run(self.edge, attempt.node, client, upstream, attempt.work);
            let mut answer = Response::new(Body::Full(None));
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *answer.headers_mut() = headers;
            return Ok(answer);
        }
        let (mut parts, body) = response.into_parts();
        headers::strip_hop_by_hop(&mut parts.headers);
        parts.version = Version::HTTP_11;
        let mut kind = Kind::Whole;
        // An older client cannot tell the end of a stream from a cut.
        if headers::is_stream(&parts.headers) && self.version >= Version::HTTP_11 {
            // A stream that may end early has no length.
            parts.headers.remove(CONTENT_LENGTH);
            let listens = self.outgoing.method == Method::GET;
            kind = if listens { Kind::Listening } else { Kind::Stream };
        }
        let overtaken = std::mem::take(&mut self.attempts);
        let relayed = Relayed::new(self.edge, body, lease, kind, attempt.work, overtaken);
        Ok(Response::from_parts(parts, Body::Relayed(Box::new(relayed))))
    }

    fn give_up(&mut self, why: Why) -> Answered {
        // What still is at a node may run there yet.
        let may_have_run = self.may_have_run || !self.attempts.is_empty();
        let waited_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        if why == Why::Failing {
            // It may be what kills the nodes: worth a line of its own.
            tracing::warn!(
                may_have_run,
                waited_ms,
                "a request broke every connection it was sent on"
            );
        } else {
            tracing::debug!(?why, may_have_run, waited_ms, "a request is given up");
        }
        let reply = answer::reply(self.asked(), why, may_have_run);
        let json = HeaderValue::from_static("application/json");
        Ok(match reply {
            Reply::HangUp => return Err(HangUp),
            Reply::Rpc(body) => respond(StatusCode::OK, json, body),
            Reply::Refused(body) => respond(StatusCode::BAD_REQUEST, json, body),
            Reply::EmptyStream => {
                let stream = HeaderValue::from_static("text/event-stream");
                let body =
                    format!(": no node of the gateway can be reached\nretry: {RETRY_MS}\n\n");
                let mut response = respond(StatusCode::OK, stream, body.into());
                let no_store = HeaderValue::from_static("no-store");
                response.headers_mut().insert(CACHE_CONTROL, no_store);
                response
            }
            Reply::Unavailable => {
                let mut response = refuse(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "no node of the gateway can be reached",
                );
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
                response
            }
        })
    }
}

/// The first of the sendings that ends. With none, never.
///
/// # Cancel safety
/// Nothing is lost.
async fn any(attempts: &mut Vec<Attempt>) -> (Attempt, Ended) {
    std::future::poll_fn(|cx| {
        for index in 0..attempts.len() {
            if let Poll::Ready(ended) = std::pin::Pin::new(&mut attempts[index]).poll(cx) {
                return Poll::Ready((attempts.swap_remove(index), ended));
            }
        }
        Poll::Pending
    })
    .await
}

async fn until(alarm: Option<Instant>) {
    match alarm {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A number that rises with every request of this thread.
fn turn() -> usize {
    thread_local! {
        static TURN: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }
    let turn = TURN.get();
    TURN.set(turn.wrapping_add(1));
    turn
}

/// The edge's own health: 200 while it can serve. The nodes are named to this machine only.
fn health(edge: &Edge, method: &Method, peer: SocketAddr) -> Response<Body> {
    if *method != Method::GET && *method != Method::HEAD {
        let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, "ask with GET");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let alive = edge.nodes.iter().filter(|node| node.standing().is_alive()).count();
    let (status, said) = if edge.draining.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else if alive == 0 {
        (StatusCode::SERVICE_UNAVAILABLE, "no node")
    } else {
        (StatusCode::OK, "ready")
    };
    let mut body = json!({ "status": said, "nodesAlive": alive, "nodes": edge.nodes.len() });
    if peer.ip().to_canonical().is_loopback() {
        let nodes = edge.nodes.iter().map(|node| {
            json!({
                "address": node.address,
                "standing": node.standing().label(),
                "inFlight": node.in_flight(),
            })
        });
        body["nodes"] = nodes.collect();
        body["connections"] = edge.connections().into();
    }
    respond(status, HeaderValue::from_static("application/json"), body.to_string().into())
}

/// An answer of the edge's own to a request that it does not pass on.
pub(crate) fn refuse(status: StatusCode, why: &str) -> Response<Body> {
    respond(status, HeaderValue::from_static("text/plain"), format!("{why}\n").into())
}

fn respond(status: StatusCode, media: HeaderValue, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::Full((!body.is_empty()).then_some(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, media);
    response
}
