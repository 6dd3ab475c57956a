//! One sending of a request to one node, and what is known when it fails.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::nodes::{InFlight, Node};
use crate::pool::{self, Sender};

/// A request as it goes to any node.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// How a sending ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The head of a response has come.
    Head(Response<Incoming>, Lease),
    /// The node's port is closed. Nothing was sent.
    Refused,
    /// No connection, or one that was closed before a byte was written.
    Unsent(String),
    /// The request was written, and the connection broke before a response.
    Lost(String),
}

/// The connection that a response is read from. It goes back to its thread's pool when the response
/// has been read to its end, and is closed otherwise.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) node: usize,
    sender: Option<Sender>,
}

/// A sending that runs. Dropped, its connection is closed: a node reads that as a client that has
/// gone away.
pub(crate) struct Attempt {
    pub(crate) node: usize,
    pub(crate) work: InFlight,
    future: Pin<Box<dyn Future<Output = Ended> + Send>>,
}

// === impl Attempt ===

impl Attempt {
    pub(crate) fn start(index: usize, node: &Arc<Node>, request: &Arc<Outgoing>) -> Self {
        let sending = send(index, Arc::clone(node), Arc::clone(request));
        Self { node: index, work: node.enter(), future: Box::pin(sending) }
    }
}

impl Future for Attempt {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        self.get_mut().future.as_mut().poll(cx)
    }
}

/// Sends a request and waits for the head of its response. A pooled connection that turns out to be
/// closed before a byte was written is replaced by a fresh one.
async fn send(index: usize, node: Arc<Node>, outgoing: Arc<Outgoing>) -> Ended {
    let mut given_back = None;
    if let Some(mut sender) = pool::take(index).await {
        match sender.try_send_request(outgoing.request()).await {
            Ok(response) => return Ended::Head(response, Lease::new(index, sender)),
            Err(mut error) => match error.take_message() {
                Some(request) => given_back = Some(request),
                None => return Ended::Lost(describe(&error.into_error())),
            },
        }
    }
    let mut sender = match pool::connect(&node).await {
        Ok(sender) => sender,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ended::Refused,
        Err(error) => return Ended::Unsent(error.to_string()),
    };
    let request = given_back.unwrap_or_else(|| outgoing.request());
    match sender.try_send_request(request).await {
        Ok(response) => Ended::Head(response, Lease::new(index, sender)),
        Err(mut error) => match error.take_message() {
            Some(_) => Ended::Unsent("closed before the request was sent".into()),
            None => Ended::Lost(describe(&error.into_error())),
        },
    }
}

fn describe(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

// === impl Outgoing ===

impl Outgoing {
    fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

// === impl Lease ===

impl Lease {
    fn new(node: usize, sender: Sender) -> Self {
        Self { node, sender: Some(sender) }
    }

    /// The response was read to its end.
    pub(crate) fn done(mut self) {
        if let Some(sender) = self.sender.take() {
            pool::put(self.node, sender);
        }
    }
}
