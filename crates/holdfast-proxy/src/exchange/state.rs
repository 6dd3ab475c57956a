//! Affinity for multi-round calls: which instance an opaque `requestState` belongs to.
//!
//! A modern server may keep what a `requestState` names in one instance's memory or seal it with
//! one instance's key. Where a server has several instances, the gateway wraps the state in a token
//! of its own that says which, and unwraps it when the client brings it back. A state that is not
//! ours is forwarded unchanged, and with one instance nothing is touched at all.

use bytes::Bytes;
use holdfast_mcp::peek::{Kind, peek};
use holdfast_mcp::splice::splice;
use memchr::memmem;

use super::{Call, Route};
use crate::random;

const PURPOSE: &[u8] = b"request-state";

/// Begins every state that the gateway has sealed.
const PREFIX: &str = "hf1.";

/// The instance that the call's state came from.
pub(super) fn instance_of(call: &Call) -> Option<usize> {
    let (mark, _) = open(call)?;
    call.server.fleet.place(mark)
}

/// The call's body as the server wants it: with the server's own state in it.
pub(crate) fn unseal(call: &Call) -> Option<Bytes> {
    let (_, inner) = open(call)?;
    let message = peek(&call.body).ok()?;
    let range = message.params.request_state?.range_in(&call.body);
    Some(splice(&call.body, &[(range, &inner)]))
}

/// The mark of the instance, and the server's own state.
fn open(call: &Call) -> Option<(u32, Vec<u8>)> {
    if call.server.instances() < 2 || !call.modern() {
        return None;
    }
    memmem::find(&call.body, b"\"requestState\"")?;
    let message = peek(&call.body).ok()?;
    let text = message.params.request_state?.as_text()?;
    let token = text.strip_prefix(PREFIX)?;
    let plain = call.gateway.sealer.open_bytes(PURPOSE, token.as_bytes()).ok()?;
    let (mark, inner) = plain.split_first_chunk()?;
    Some((u32::from_be_bytes(*mark), inner.to_vec()))
}

/// The answer with its state wrapped.
pub(super) fn seal(call: &Call, route: &Route, answer: Bytes) -> Bytes {
    if call.server.instances() < 2
        || !call.modern()
        || memmem::find(&answer, b"\"requestState\"").is_none()
    {
        return answer;
    }
    let Ok(message) = peek(&answer) else { return answer };
    let (Kind::Response, Some(state)) = (message.kind, message.result.request_state) else {
        return answer;
    };
    let mut plain = Vec::with_capacity(state.as_str().len() + 4);
    plain.extend_from_slice(&call.server.fleet.mark(route.instance).to_be_bytes());
    plain.extend_from_slice(state.as_str().as_bytes());
    let token = call.gateway.sealer.seal_bytes(PURPOSE, &plain, random::nonce());
    let wrapped = format!("\"{PREFIX}{token}\"");
    splice(&answer, &[(state.range_in(&answer), wrapped.as_bytes())])
}
