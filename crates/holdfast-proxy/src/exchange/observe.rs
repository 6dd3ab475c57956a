//! What the gateway learns from answers that pass: nothing on the way of most calls.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use holdfast_mcp::method::Method;
use holdfast_mcp::peek::{Kind, peek};
use holdfast_store::StoreError;
use memchr::memmem::Finder;

use super::{Call, fallback, open};
use crate::failure::Failure;

/// Subscriptions of one session, and the bytes of their addresses. The record has each twice, and no more room than
/// the group takes in one value (256 KiB).
const SUBSCRIPTIONS: usize = 1_000;
const SUBSCRIBED_BYTES: usize = 48 * 1024;

/// Larger bodies are never taken for errors: a JSON-RPC error is small, and looking costs.
const LARGEST_ERROR: usize = 16 * 1024;

/// Made once: that costs four times what one search in a small answer does.
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"error\""));

/// Whether a JSON-RPC message is an error answer. Parsed only where the word occurs.
pub(super) fn is_rpc_error(body: &[u8]) -> bool {
    body.len() <= LARGEST_ERROR
        && ERROR.find(body).is_some()
        && peek(body).is_ok_and(|message| message.is_error)
}

/// Looks at the answer to a call whose result the session or the server's table depends on.
///
/// # Cancel safety
/// Cancelled, the record may not have the change: the client does not have the answer either.
pub(super) async fn observe(call: &Call, answer: &Bytes) {
    match call.method {
        Method::ToolsList => {
            let is_news = call.server.learn_tools(answer);
            if is_news && call.gateway.store.is_shared() {
                tell_hints(call);
            }
        }
        Method::Discover if succeeded(answer) => {
            let own = (!fallback::is_public(answer)).then(|| fallback::audience(call));
            call.server.discovered.keep(own, Bytes::copy_from_slice(answer));
        }
        Method::LoggingSetLevel if succeeded(answer) => {
            record(call, |record| record.log_level = Some(Bytes::copy_from_slice(&call.body)))
                .await;
        }
        Method::ResourcesSubscribe if succeeded(answer) => {
            if let Some(uri) = subscribed_uri(call) {
                record(call, |record| {
                    record.subscriptions.insert(uri.clone(), open::subscribe(0, &uri));
                })
                .await;
            }
        }
        Method::ResourcesUnsubscribe if succeeded(answer) => {
            if let Some(uri) = subscribed_uri(call) {
                record(call, |record| {
                    record.subscriptions.remove(&uri);
                })
                .await;
            }
        }
        _ => {}
    }
}

/// Tells the other nodes what this one has learnt of the server's tools. Nobody waits for it: they
/// take what they do not know for Writes.
fn tell_hints(call: &Call) {
    let (gateway, server) = (Arc::clone(&call.gateway), Arc::clone(&call.server));
    tokio::spawn(async move {
        if let Err(error) = gateway.store.put_hints(&server.name, server.hints()).await {
            tracing::debug!(server = %server.name, %error, "other nodes do not know its tools yet");
        }
    });
}

/// Whether the answer to this method is worth looking at.
pub(super) fn matters(method: Method) -> bool {
    matches!(
        method,
        Method::ToolsList
            | Method::Discover
            | Method::LoggingSetLevel
            | Method::ResourcesSubscribe
            | Method::ResourcesUnsubscribe
    )
}

async fn record(call: &Call, change: impl Fn(&mut holdfast_store::SessionRecord)) {
    let Some(session) = &call.session else { return };
    match session.update(&call.gateway, change).await {
        Ok(()) => {}
        // The session ended while its last answer was on the way; there is nothing to keep.
        Err(error @ (StoreError::Gone | StoreError::Missing)) => {
            tracing::debug!(session = ?session.key, error = %error, "session record not updated");
        }
        Err(error) => {
            tracing::warn!(
                server = %call.server.name,
                method = call.method.label(),
                error = %error,
                "a session's setting could not be kept: should the session move, it is lost"
            );
        }
    }
}

/// Why a session takes no further subscription: what it has is said again, one by one, when it moves, and all of it
/// is in its record.
pub(super) fn too_many(call: &Call) -> Option<Failure> {
    let session = call.session.as_ref().filter(|_| call.method == Method::ResourcesSubscribe)?;
    let uri = subscribed_uri(call)?;
    // Those that are under way count as what they become: side by side all of them would find room. They are looked at
    // first, since each is in the record before it is under way no more.
    let beside = session.running_before(call.number, Method::ResourcesSubscribe);
    let mut all: BTreeSet<Box<str>> =
        beside.iter().filter_map(|call| subscribed_uri(call)).collect();
    all.extend(session.record().subscriptions.keys().cloned());
    let bytes: usize = all.iter().map(|uri| uri.len()).sum();
    if all.contains(&uri) || (all.len() < SUBSCRIPTIONS && bytes + uri.len() <= SUBSCRIBED_BYTES) {
        return None;
    }
    let reason = format!(
        "a session has at most {SUBSCRIPTIONS} subscriptions, whose addresses come to at most {} KiB: unsubscribe first",
        SUBSCRIBED_BYTES / 1024
    );
    // Coming back later does not make them fewer.
    let failure = Failure::overloaded(&call.server.name, reason, Duration::ZERO);
    Some(Failure { retry_after: None, ..failure })
}

fn subscribed_uri(call: &Call) -> Option<Box<str>> {
    peek(&call.body).ok()?.params.uri.map(|uri| uri.into_owned().into_boxed_str())
}

fn succeeded(answer: &[u8]) -> bool {
    peek(answer).is_ok_and(|message| message.kind == Kind::Response && !message.is_error)
}
