//! HTTP+SSE of 2024-11-05: one stream to the client, POSTs from it. The stream is the session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::request::Parts;

use super::behaviour::Fault;
use super::duplex::Duplex;
use super::http::Context;
use super::http::body::{Body, Piece};
use super::http::reply::{Reply, plain, replace};

/// The open streams, by session id.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<HashMap<String, Arc<Duplex>>>);

pub(super) async fn listen(context: &Context) -> Reply {
    match context.sample.behaviour.strike_bare("SSE").map(|strike| strike.fault) {
        Some(Fault::Delay { ms }) => tokio::time::sleep(Duration::from_millis(ms)).await,
        Some(fault) if fault.replaces_answer() => {
            return replace(&fault, "null", None, context).await;
        }
        _ => {}
    }
    let duplex = Duplex::open(&context.sample, "sse", context.wire.number);
    let (body, pieces) = Body::pieces(&context.wire);
    let line_end = if context.sample.options.crlf { "\r\n" } else { "\n" };
    let sample = context.sample.clone();
    sample.sse_streams.lock().insert(duplex.session.id.clone(), duplex.clone());
    tokio::spawn(async move {
        let id = &duplex.session.id;
        let mut frame =
            format!("event: endpoint{line_end}data: /message?sessionId={id}{line_end}{line_end}");
        let mut position = 0;
        while pieces.send(Piece::Data(frame.into())).await.is_ok() {
            let item = tokio::select! {
                item = duplex.out.next(position) => item,
                () = pieces.closed() => None,
            };
            let Some(item) = item else { break };
            position = item.position;
            frame = format!("event: message{line_end}data: {}{line_end}{line_end}", item.text);
        }
        sample.sse_streams.lock().remove(id);
        duplex.close();
    });
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    Ok(response)
}

pub(super) fn post(context: &Context, parts: &Parts, body: Bytes) -> Response<Body> {
    let query = parts.uri.query().unwrap_or_default();
    let id = query.split('&').find_map(|pair| pair.strip_prefix("sessionId="));
    let Some(id) = id else { return plain(400, "sessionId is missing\n") };
    let duplex = context.sample.sse_streams.lock().get(id).cloned();
    match duplex {
        Some(duplex) => {
            duplex.receive(&body);
            plain(202, "Accepted")
        }
        None => plain(404, "Could not find session\n"),
    }
}

impl Streams {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Duplex>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
