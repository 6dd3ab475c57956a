//! The shapes that serde fills from a body, and what becomes of them.

use std::borrow::Cow;

use serde::Deserialize;

use super::{Kind, Params, Peek, PeekError, ResultPeek};
use crate::{
    lenient::{Lenient, Text, present},
    raw::Raw,
};

#[derive(Deserialize, Default)]
pub(super) struct Envelope<'a> {
    #[serde(default, borrow, deserialize_with = "present")]
    pub(super) jsonrpc: Option<Text<'a>>,
    #[serde(default, borrow, deserialize_with = "present")]
    pub(super) id: Option<Text<'a>>,
    #[serde(default, borrow, deserialize_with = "present")]
    pub(super) method: Option<Text<'a>>,
    #[serde(default, borrow)]
    pub(super) params: Lenient<ParamsShape<'a>>,
    #[serde(default, borrow, deserialize_with = "present")]
    pub(super) result: Option<Lenient<ResultShape<'a>>>,
    #[serde(default, borrow)]
    pub(super) error: Option<Lenient<ErrorShape<'a>>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct ParamsShape<'a> {
    #[serde(borrow)]
    pub(super) name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) uri: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) task_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) cursor: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) protocol_version: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) level: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) request_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) request_state: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) input_responses: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) progress_token: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) progress: Option<Text<'a>>,
    #[serde(default, borrow, rename = "_meta")]
    pub(super) meta: Lenient<MetaShape<'a>>,
}

#[derive(Deserialize, Default)]
pub(super) struct MetaShape<'a> {
    #[serde(borrow, rename = "progressToken")]
    pub(super) progress_token: Option<Text<'a>>,
    #[serde(borrow, rename = "io.modelcontextprotocol/protocolVersion")]
    pub(super) protocol_version: Option<Text<'a>>,
    #[serde(borrow, rename = "io.modelcontextprotocol/clientCapabilities")]
    pub(super) client_capabilities: Option<Text<'a>>,
    #[serde(borrow, rename = "io.modelcontextprotocol/logLevel")]
    pub(super) log_level: Option<Text<'a>>,
    #[serde(borrow, rename = "io.modelcontextprotocol/subscriptionId")]
    pub(super) subscription_id: Option<Text<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct ResultShape<'a> {
    #[serde(borrow)]
    pub(super) protocol_version: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) result_type: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) request_state: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) task_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) next_cursor: Option<Text<'a>>,
    #[serde(default, borrow, rename = "_meta")]
    pub(super) meta: Lenient<MetaShape<'a>>,
}

#[derive(Deserialize, Default)]
pub(super) struct ErrorShape<'a> {
    #[serde(borrow)]
    pub(super) code: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) message: Option<Text<'a>>,
}

// === impl Envelope ===

impl<'a> Envelope<'a> {
    pub(super) fn check(self) -> Result<Peek<'a>, PeekError> {
        if self.jsonrpc.and_then(text).as_deref() != Some("2.0") {
            return Err(PeekError::NotJsonRpc("\"jsonrpc\" must be \"2.0\""));
        }
        let id = self.id.map(|Text(raw)| raw);
        match self.method {
            Some(method) => {
                if self.result.is_some() || self.error.is_some() {
                    return Err(PeekError::NotJsonRpc("it has a method and an answer"));
                }
                let method =
                    text(method).ok_or(PeekError::NotJsonRpc("\"method\" must be a string"))?;
                if id.is_some_and(|id| !id.is_id()) {
                    return Err(PeekError::BadId);
                }
                let kind = if id.is_some() { Kind::Request } else { Kind::Notification };
                Ok(Peek { kind, id, method, params: self.params.0.into(), ..Peek::response() })
            }
            None => match (self.result, self.error) {
                (Some(_), Some(_)) => {
                    Err(PeekError::NotJsonRpc("it has both \"result\" and \"error\""))
                }
                (None, None) => Err(PeekError::NotJsonRpc(
                    "it has none of \"method\", \"result\" and \"error\"",
                )),
                (Some(result), None) => match id {
                    Some(id) if id.is_id() => {
                        Ok(Peek { id: Some(id), result: result.0.into(), ..Peek::response() })
                    }
                    Some(_) => Err(PeekError::BadId),
                    None => Err(PeekError::NotJsonRpc("a result needs an \"id\"")),
                },
                (None, Some(Lenient(error))) => {
                    if id.is_some_and(|id| !id.is_id() && !id.is_null()) {
                        return Err(PeekError::BadId);
                    }
                    Ok(Peek {
                        id,
                        is_error: true,
                        error_code: error.code.and_then(|Text(raw)| raw.as_str().parse().ok()),
                        error_message: error.message.and_then(text),
                        ..Peek::response()
                    })
                }
            },
        }
    }
}

impl Peek<'_> {
    fn response() -> Self {
        Self {
            kind: Kind::Response,
            id: None,
            method: Cow::Borrowed(""),
            is_error: false,
            error_code: None,
            error_message: None,
            params: Params::default(),
            result: ResultPeek::default(),
        }
    }
}

impl<'a> From<ParamsShape<'a>> for Params<'a> {
    fn from(shape: ParamsShape<'a>) -> Self {
        let meta = shape.meta.0;
        Self {
            name: shape.name.and_then(text),
            uri: shape.uri.and_then(text),
            task_id: shape.task_id.and_then(text),
            cursor: shape.cursor.and_then(text),
            protocol_version: shape.protocol_version.and_then(text),
            level: shape.level.map(raw),
            request_id: shape.request_id.and_then(id),
            request_state: shape.request_state.map(raw),
            has_input_responses: shape.input_responses.is_some(),
            progress_token: meta.progress_token.and_then(id),
            progressed_token: shape.progress_token.and_then(id),
            progress: shape.progress.and_then(number),
            claimed_version: meta.protocol_version.and_then(text),
            has_client_capabilities: meta
                .client_capabilities
                .is_some_and(|Text(raw)| raw.as_str().starts_with('{')),
            log_level: meta.log_level.is_some(),
            subscription_id: meta.subscription_id.and_then(id),
        }
    }
}

impl<'a> From<ResultShape<'a>> for ResultPeek<'a> {
    fn from(shape: ResultShape<'a>) -> Self {
        Self {
            present: true,
            protocol_version: shape.protocol_version.and_then(text),
            result_type: shape.result_type.and_then(text),
            request_state: shape.request_state.map(raw),
            task_id: shape.task_id.and_then(text),
            next_cursor: shape.next_cursor.is_some(),
            subscription_id: shape.meta.0.subscription_id.and_then(id),
        }
    }
}

fn text(Text(raw): Text<'_>) -> Option<Cow<'_, str>> {
    raw.as_text()
}

fn raw(Text(raw): Text<'_>) -> Raw<'_> {
    raw
}

fn id(Text(raw): Text<'_>) -> Option<Raw<'_>> {
    raw.is_id().then_some(raw)
}

pub(super) fn number(Text(raw): Text<'_>) -> Option<f64> {
    // No other JSON value reads as a number, and Rust's `inf` and `nan` are no JSON.
    raw.as_str().parse().ok().filter(|value: &f64| value.is_finite())
}
