//! Where a forwarded request arrives: at a node that holds what it needs.
//!
//! It runs on one of the data plane's workers, because connections to servers belong to the thread
//! that opened them; its body goes back over a channel, so that everything of the call is dropped on
//! that thread too.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use holdfast_mcp::headers::decode_value;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::forward::{AGAIN, BALANCER, GENERATION, LOST, PRINCIPAL};
use crate::body::Body;
use crate::gateway::Gateway;
use crate::ingress::{self, Arrived};
use crate::principal::Principal;
use crate::response;

/// Frames that may wait for the other node.
const WAITING: usize = 16;

/// Serves a request that another node has forwarded.
///
/// # Cancel safety
/// Dropped when the other node's client disconnects, with the same meaning as here.
pub(crate) async fn serve(
    gateway: &Arc<Gateway>,
    request: Request<Incoming>,
) -> Response<Forwarded> {
    // Without workers it has not begun, or it is over: nothing has run.
    let Some(worker) = gateway.workers.next() else {
        return bare(StatusCode::MISDIRECTED_REQUEST);
    };
    let gateway = Arc::clone(gateway);
    // The node that drains waits for it as for a client of its own.
    let open = gateway.open.clone();
    let (answer, answered) = oneshot::channel();
    let task = AbortOnDropHandle::new(worker.spawn(open.track_future(async move {
        let response = Response::from(on_worker(gateway, request).await);
        let (parts, body) = response.into_parts();
        let exact = body.size_hint().exact();
        let (sender, frames) = mpsc::channel(WAITING);
        if answer.send(Response::from_parts(parts, Forwarded { frames, exact })).is_ok() {
            pump(body, sender).await;
        }
    })));
    match answered.await {
        Ok(response) => {
            // From here on the task ends with its channel.
            drop(task.detach());
            response
        }
        Err(_) => {
            let mut lost = bare(StatusCode::BAD_GATEWAY);
            lost.headers_mut().insert(LOST, HeaderValue::from_static("1"));
            lost
        }
    }
}

/// Hands the body's frames over until it ends or nobody takes them.
async fn pump(mut body: Body, sender: mpsc::Sender<Result<Bytes, Cut>>) {
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = sender.closed() => return,
        };
        let frame = match frame {
            None => return,
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Ok(data),
                Err(_) => continue,
            },
            Some(Err(_)) => Err(Cut),
        };
        if sender.send(frame).await.is_err() {
            return;
        }
    }
}

async fn on_worker(gateway: Arc<Gateway>, request: Request<Incoming>) -> response::Response {
    let (mut parts, body) = request.into_parts();
    let bare = |status| response::Response::new(status, HeaderMap::new(), Body::Full(None));
    let present = gateway.cluster.as_ref().map(|cluster| cluster.me().generation);
    let meant = parts.headers.remove(GENERATION);
    let meant: Option<u64> = meant.and_then(|value| value.to_str().ok()?.parse().ok());
    if meant.is_none() || meant != present {
        return bare(StatusCode::MISDIRECTED_REQUEST);
    }
    let balancer_id = parts.headers.remove(BALANCER);
    let balancer_id = balancer_id.and_then(|value| value.to_str().map(Box::from).ok());
    let principal = parts.headers.remove(PRINCIPAL);
    let name = principal.as_ref().and_then(|value| decode_value(value.as_bytes()).ok());
    let Some(name) = name else { return bare(StatusCode::BAD_REQUEST) };
    let again = parts.headers.remove(AGAIN).is_some();
    let arrived = Arrived { principal: Principal::named(&name), balancer_id, again };
    ingress::serve_forwarded(gateway, arrived, parts, body.into()).await
}

fn bare(status: StatusCode) -> Response<Forwarded> {
    let (_, frames) = mpsc::channel(1);
    let mut response = Response::new(Forwarded { frames, exact: Some(0) });
    *response.status_mut() = status;
    response
}

/// The body of the answer to a forwarded request.
#[derive(Debug)]
pub struct Forwarded {
    frames: mpsc::Receiver<Result<Bytes, Cut>>,
    exact: Option<u64>,
}

/// The answer was cut on its way.
#[derive(Debug, thiserror::Error)]
#[error("the answer was cut on its way")]
pub struct Cut;

impl http_body::Body for Forwarded {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.frames.poll_recv(cx).map(|frame| frame.map(|data| data.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        self.exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
