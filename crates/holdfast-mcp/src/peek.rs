//! What the gateway reads of a message, in one pass over the body and without a copy.
//!
//! The pass validates the JSON and the JSON-RPC envelope, and picks up the few members that routing,
//! sessions, streams and eras need. Everything else is stepped over and passes on untouched: unknown
//! methods, unknown members, any content. The body itself is what is forwarded; a value that must
//! change is replaced in place ([`mod@crate::splice`]).
//!
//! # What is refused
//! * text that is not UTF-8 or not JSON;
//! * an array (JSON-RPC batches exist in 2025-03-26 only: [`crate::batch`]) or a bare value;
//! * `jsonrpc` other than `"2.0"`, no `method` and no `result` or `error`, both of them, a request
//!   id that is neither string nor number, a result without an id;
//! * a member that the gateway reads, twice in one object. Two readers may take different ones,
//!   which is how a message smuggles one tool's name past a check of another's.
//!
//! # What is not
//! `params` may be an array or absent, a member may have an unexpected type (it counts as absent),
//! numbers may have any size (they stay text). Nesting is limited by nothing but the body limit:
//! values are stepped over without recursion.
//!
//! Spec: 2026-07-28 Base Protocol, "Messages" and "General fields" (`_meta`); 2025-11-25 Base Protocol,
//! "Messages"; SEP-2663 for `taskId`; JSON-RPC 2.0 sections 4 and 5.

mod scan;
mod shape;

use std::borrow::Cow;

use crate::raw::Raw;
use shape::Envelope;

/// Peeks one message.
///
/// # Errors
/// See the module documentation; the error's text can be shown to the sender.
pub fn peek(body: &[u8]) -> Result<Peek<'_>, PeekError> {
    let text = text(body)?;
    match scan::scan(text) {
        Some(envelope) => envelope.check(),
        None => by_serde(text),
    }
}

/// The same by serde alone: what [`peek`] has to agree with, however it gets there.
///
/// # Errors
/// As [`peek`].
pub fn peek_by_serde(body: &[u8]) -> Result<Peek<'_>, PeekError> {
    by_serde(text(body)?)
}

/// What a message is, without its content: for the many that only pass on a stream. A member that only
/// [`peek`] reads may be there twice.
///
/// # Errors
/// As [`peek`].
pub fn outline(body: &[u8]) -> Result<Outline<'_>, PeekError> {
    match scan::outline(text(body)?) {
        Some(outline) => Ok(outline),
        None => peek(body).map(Outline::from),
    }
}

/// The body as text that may be a message.
fn text(body: &[u8]) -> Result<&str, PeekError> {
    // Strings that the pass steps over are not checked for UTF-8 one by one.
    let text =
        std::str::from_utf8(body).map_err(|error| PeekError::NotUtf8(error.valid_up_to()))?;
    match crate::batch::is_batch(body) {
        true => Err(PeekError::Batch),
        false => Ok(text),
    }
}

#[cold]
fn by_serde(text: &str) -> Result<Peek<'_>, PeekError> {
    let envelope: Envelope<'_> =
        serde_json::from_str(text).map_err(|e| PeekError::from_json(&e))?;
    envelope.check()
}

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Has `method` and `id`.
    Request,
    /// Has `method` and no `id`.
    Notification,
    /// Has `result` or `error`.
    Response,
}

/// One message's envelope and the members that the gateway acts on.
#[derive(Clone, Debug)]
pub struct Peek<'a> {
    /// Request, notification or response.
    pub kind: Kind,
    /// A string or a number; `null` only on an error response, `None` on a notification and on an
    /// error response without one (2026-07-28).
    pub id: Option<Raw<'a>>,
    /// Empty for a response.
    pub method: Cow<'a, str>,
    /// Whether this is an error response.
    pub is_error: bool,
    /// `error.code`, when it is an integer.
    pub error_code: Option<i64>,
    /// `error.message`, when it is a string.
    pub error_message: Option<Cow<'a, str>>,
    /// Of a request or notification.
    pub params: Params<'a>,
    /// Of a successful response.
    pub result: ResultPeek<'a>,
}

/// What a message is, as [`Peek`] says it.
#[derive(Clone, PartialEq, Debug)]
pub struct Outline<'a> {
    /// Request, notification or response.
    pub kind: Kind,
    /// As [`Peek::id`].
    pub id: Option<Raw<'a>>,
    /// Empty for a response.
    pub method: Cow<'a, str>,
    /// Whether this is an error response.
    pub is_error: bool,
    /// `params.progress` of `notifications/progress`, when finite.
    pub progress: Option<f64>,
}

impl<'a> From<Peek<'a>> for Outline<'a> {
    fn from(peek: Peek<'a>) -> Self {
        let Peek { kind, id, method, is_error, params, .. } = peek;
        Self { kind, id, method, is_error, progress: params.progress }
    }
}

/// The members of `params` that the gateway acts on. A member of another type than the protocol's
/// counts as absent.
#[derive(Clone, Debug, Default)]
pub struct Params<'a> {
    /// `params.name`: the tool or prompt.
    pub name: Option<Cow<'a, str>>,
    /// `params.uri`: the resource.
    pub uri: Option<Cow<'a, str>>,
    /// `params.taskId`.
    pub task_id: Option<Cow<'a, str>>,
    /// `params.cursor`.
    pub cursor: Option<Cow<'a, str>>,
    /// `params.protocolVersion` of `initialize`.
    pub protocol_version: Option<Cow<'a, str>>,
    /// `params.level` of `logging/setLevel`.
    pub level: Option<Raw<'a>>,
    /// `params.requestId` of `notifications/cancelled`; a string or a number.
    pub request_id: Option<Raw<'a>>,
    /// `params.requestState` of a retry after `input_required`.
    pub request_state: Option<Raw<'a>>,
    /// Whether `params.inputResponses` is there.
    pub has_input_responses: bool,
    /// `params._meta.progressToken`; a string or a number.
    pub progress_token: Option<Raw<'a>>,
    /// `params.progressToken` of `notifications/progress`; a string or a number.
    pub progressed_token: Option<Raw<'a>>,
    /// `params.progress` of `notifications/progress`, when finite.
    pub progress: Option<f64>,
    /// `params._meta["io.modelcontextprotocol/protocolVersion"]`.
    pub claimed_version: Option<Cow<'a, str>>,
    /// Whether `params._meta["io.modelcontextprotocol/clientCapabilities"]` is an object.
    pub has_client_capabilities: bool,
    /// Whether `params._meta["io.modelcontextprotocol/logLevel"]` is there.
    pub log_level: bool,
    /// `params._meta["io.modelcontextprotocol/subscriptionId"]`; a string or a number.
    pub subscription_id: Option<Raw<'a>>,
}

/// The members of `result` that the gateway acts on.
#[derive(Clone, Debug, Default)]
pub struct ResultPeek<'a> {
    /// Whether the message has a `result`.
    pub present: bool,
    /// `result.protocolVersion` of an `initialize` answer.
    pub protocol_version: Option<Cow<'a, str>>,
    /// `result.resultType` (2026-07-28).
    pub result_type: Option<Cow<'a, str>>,
    /// `result.requestState` of an `input_required` answer.
    pub request_state: Option<Raw<'a>>,
    /// `result.taskId`.
    pub task_id: Option<Cow<'a, str>>,
    /// Whether `result.nextCursor` is there: the list goes on.
    pub next_cursor: bool,
    /// `result._meta["io.modelcontextprotocol/subscriptionId"]`; a string or a number.
    pub subscription_id: Option<Raw<'a>>,
}

/// Why a body is no message. The text is for the sender: it says what was found and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeekError {
    /// JSON travels as UTF-8.
    #[error("the body is not UTF-8 (byte {0})")]
    NotUtf8(usize),
    /// Not JSON at all.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// A batch where one message is due.
    #[error(
        "the body is a JSON array; JSON-RPC batches exist in protocol version 2025-03-26 only, send one message"
    )]
    Batch,
    /// A batch without a message.
    #[error("the batch is empty")]
    EmptyBatch,
    /// A bare string, number, boolean or null.
    #[error("the body is not a JSON object")]
    NotObject,
    /// JSON, but no JSON-RPC 2.0 message.
    #[error("not a JSON-RPC 2.0 message: {0}")]
    NotJsonRpc(&'static str),
    /// A member that the gateway reads is there twice.
    #[error("a JSON object has the same member twice: {0}")]
    DuplicateKey(String),
    /// The id is neither a string nor a number.
    #[error("the id must be a string or a number")]
    BadId,
}

impl PeekError {
    /// The JSON-RPC code that says the same: parse error or invalid request.
    #[must_use]
    pub fn code(&self) -> i64 {
        match self {
            Self::NotUtf8(_) | Self::NotJson(_) => crate::rpc_error::code::PARSE,
            Self::Batch
            | Self::EmptyBatch
            | Self::NotObject
            | Self::NotJsonRpc(_)
            | Self::DuplicateKey(_)
            | Self::BadId => crate::rpc_error::code::INVALID_REQUEST,
        }
    }

    /// Whether the body was an array.
    #[must_use]
    pub fn is_batch(&self) -> bool {
        matches!(self, Self::Batch)
    }

    pub(crate) fn from_json(error: &serde_json::Error) -> Self {
        if !error.is_data() {
            return Self::NotJson(error.to_string());
        }
        // Only two things are wrong with data: serde's text is the only sign which.
        let text = error.to_string();
        match text.strip_prefix("duplicate field ") {
            Some(name) => Self::DuplicateKey(name.to_owned()),
            None => Self::NotObject,
        }
    }
}

#[cfg(test)]
mod tests;
