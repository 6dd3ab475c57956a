//! Ids on a shared connection: ours on the wire, the client's own towards the client. Only the values
//! are replaced; every other byte stays.

use std::ops::Range;

use bytes::Bytes;
use holdfast_mcp::{Peek, Raw, splice};

use super::table::Pending;

/// A request with our number as its id, and as its progress token if it has one.
pub(super) fn request(body: &Bytes, peek: &Peek<'_>, number: u64) -> Bytes {
    let number = number.to_string();
    replace(body, &[(peek.id, &number), (peek.params.progress_token, &number)])
}

/// A response with the client's own id.
pub(super) fn response(body: &Bytes, peek: &Peek<'_>, pending: &Pending) -> Bytes {
    replace(body, &[(peek.id, &pending.id), (peek.result.subscription_id, &pending.id)])
}

/// A notification to one call, with the client's own id and token.
pub(super) fn notification(body: &Bytes, peek: &Peek<'_>, pending: &Pending) -> Bytes {
    let token = pending.token.as_deref().unwrap_or(&pending.id);
    replace(
        body,
        &[
            (peek.params.subscription_id, &pending.id),
            (peek.params.request_id, &pending.id),
            (peek.params.progressed_token, token),
        ],
    )
}

/// The notification that asks the other side to stop working on a request.
pub(super) fn cancelled(id: &str) -> Bytes {
    format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#
    )
    .into()
}

fn replace(body: &Bytes, values: &[(Option<Raw<'_>>, &str)]) -> Bytes {
    let mut edits: Vec<(Range<usize>, &[u8])> = values
        .iter()
        .filter_map(|(raw, text)| Some(((*raw)?.range_in(body), text.as_bytes())))
        .collect();
    if edits.is_empty() {
        return body.clone();
    }
    edits.sort_by_key(|(range, _)| range.start);
    splice(body, &edits)
}
