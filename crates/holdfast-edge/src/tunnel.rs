//! A connection that has become a WebSocket: bytes both ways, until either side or the node ends.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::listener::Edge;
use crate::nodes::InFlight;

/// The client's side, before the request is taken apart.
pub(crate) fn of_request(request: &mut Request<Incoming>) -> OnUpgrade {
    hyper::upgrade::on(request)
}

/// The node's side.
pub(crate) fn of_response(response: &mut Response<Incoming>) -> OnUpgrade {
    hyper::upgrade::on(response)
}

/// Passes bytes until the end, in a task of its own.
pub(crate) fn run(
    edge: &Arc<Edge>,
    node: usize,
    client: OnUpgrade,
    upstream: OnUpgrade,
    work: InFlight,
) {
    let held = Arc::clone(edge);
    edge.open.spawn(async move {
        let _work = work;
        let passing = async {
            let (client, upstream) = tokio::try_join!(client, upstream)?;
            let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
            let copied = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
            if let Err(error) = copied {
                tracing::debug!(error = %error, "a WebSocket ended");
            }
            Ok::<(), hyper::Error>(())
        };
        tokio::select! {
            passed = passing => if let Err(error) = passed {
                tracing::debug!(error = %error, "a WebSocket was not begun");
            },
            () = held.nodes.lost(node) => {}
            () = held.giving_up.cancelled() => {}
        }
    });
}
