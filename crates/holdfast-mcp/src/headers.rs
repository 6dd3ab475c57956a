//! The protocol's HTTP headers: their names, their value encoding, and the rule that they agree with
//! the body.
//!
//! # Values
//! `Mcp-Name` and `Mcp-Param-*` carry text that HTTP cannot (anything but visible ASCII with inner
//! spaces) as `=?base64?…?=`, padded standard base64 of UTF-8. A plain value that looks like that is
//! encoded as well, so that decoding is never ambiguous.
//!
//! # Agreement
//! A 2026-07-28 request repeats its version, method and target in headers, so that a balancer can
//! route without reading bodies. Whoever reads the body must refuse a request whose headers say
//! something else; otherwise a client passes a balancer's rule for one tool and calls another.
//!
//! | header | must equal | on |
//! |---|---|---|
//! | `MCP-Protocol-Version` | `params._meta["io.modelcontextprotocol/protocolVersion"]` | every request |
//! | `Mcp-Method` | `method` | every request |
//! | `Mcp-Name` | `params.name` | `tools/call`, `prompts/get` |
//! | | `params.uri` | `resources/read` |
//! | | `params.taskId` | `tasks/get`, `tasks/update`, `tasks/cancel` |
//!
//! A header that is there twice is refused even with equal values elsewhere in HTTP: readers of the
//! first and of the last copy would disagree. A body without a claim is left to the server, which
//! answers -32602. Notifications need no headers, but what they carry must be true.
//!
//! Spec: 2026-07-28 Streamable HTTP, "Standard Request Headers", "Value Encoding", "Server Validation";
//! SEP-2243; SEP-2663 for tasks.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName};

use crate::{
    method::Method,
    peek::{Kind, Peek},
};

/// Header names, lower case as HTTP/2 has them.
pub mod name {
    use http::HeaderName;

    /// Legacy: the session.
    pub const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
    /// 2025-06-18 and later: the revision spoken.
    pub const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
    /// 2026-07-28: the body's method.
    pub const METHOD: HeaderName = HeaderName::from_static("mcp-method");
    /// 2026-07-28: the tool, prompt, resource or task that the body names.
    pub const NAME: HeaderName = HeaderName::from_static("mcp-name");
    /// The last event seen of a stream that is resumed.
    pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
    /// 2026-07-28: what tool arguments are mirrored under.
    pub const PARAM_PREFIX: &str = "mcp-param-";
}

/// Headers that trace one request. They change with each, whoever asks.
const TRACES: [&str; 14] = [
    "b3",
    "request-id",
    "traceparent",
    "tracestate",
    "x-amzn-trace-id",
    "x-b3-flags",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-cloud-trace-context",
    "x-correlation-id",
    "x-request-id",
    "x-trace-id",
];

/// Whether a header traces its request, for logs and traces of whoever passes it on.
#[must_use]
pub fn is_trace(header: &HeaderName) -> bool {
    TRACES.contains(&header.as_str())
}

/// Whether the requests that a balancer puts on one connection differ in a header, one for one: in what traces
/// each, and in whose session it is.
#[must_use]
pub fn is_of_one_request(header: &HeaderName) -> bool {
    *header == name::SESSION_ID || is_trace(header)
}

const SENTINEL_START: &str = "=?base64?";
const SENTINEL_END: &str = "?=";

/// Why a header is refused. The text is the JSON-RPC error's message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Control characters or bytes above 0x7E; where such text may stand, it is base64-encoded.
    #[error("the header value has characters other than printable ASCII")]
    BadCharacter,
    /// The sentinel is there, but not valid base64 of valid UTF-8.
    #[error("the header value is not valid base64 of UTF-8 text")]
    BadBase64,
    /// One of the headers is refused for its value's form.
    #[error("Header mismatch: {header}: {cause}")]
    Malformed {
        /// The header as it is usually written.
        header: &'static str,
        /// What is wrong with it.
        #[source]
        cause: Box<Self>,
    },
    /// The header is required.
    #[error("Header mismatch: {0} header is required")]
    Missing(&'static str),
    /// The header is there more than once.
    #[error("Header mismatch: {0} header must be sent once")]
    Duplicate(&'static str),
    /// The header says something else than the body.
    #[error("Header mismatch: {header} header value '{value}' does not match body value '{body}'")]
    Different {
        /// The header as it is usually written.
        header: &'static str,
        /// Its decoded value.
        value: String,
        /// What the body says.
        body: String,
    },
    /// The header names something that the body does not have.
    #[error("Header mismatch: {header} header value '{value}' has no counterpart in the body")]
    NotInBody {
        /// The header as it is usually written.
        header: &'static str,
        /// Its decoded value.
        value: String,
    },
}

impl HeaderError {
    /// The JSON-RPC code: header mismatch.
    #[must_use]
    pub fn code(&self) -> i64 {
        crate::rpc_error::code::HEADER_MISMATCH
    }
}

/// The text that a header value stands for. White space around it is not part of it.
///
/// # Errors
/// On characters that must be encoded, and on a sentinel that does not hold base64 of UTF-8.
pub fn decode_value(raw: &[u8]) -> Result<Cow<'_, str>, HeaderError> {
    let raw = trim(raw);
    if !raw.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
        return Err(HeaderError::BadCharacter);
    }
    let text = std::str::from_utf8(raw).map_err(|_| HeaderError::BadCharacter)?;
    match text.strip_prefix(SENTINEL_START).and_then(|rest| rest.strip_suffix(SENTINEL_END)) {
        None => Ok(Cow::Borrowed(text)),
        Some(inner) => STANDARD
            .decode(inner)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .map(Cow::Owned)
            .ok_or(HeaderError::BadBase64),
    }
}

/// The header value that stands for a text; the inverse of [`decode_value`].
#[must_use]
pub fn encode_value(value: &str) -> Cow<'_, str> {
    let looks_encoded = value.starts_with(SENTINEL_START) && value.ends_with(SENTINEL_END);
    let is_plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~')) && value.trim() == value;
    if is_plain && !looks_encoded {
        return Cow::Borrowed(value);
    }
    Cow::Owned(format!("{SENTINEL_START}{}{SENTINEL_END}", STANDARD.encode(value)))
}

/// Checks that a modern message's headers and body agree; see the table above.
///
/// # Errors
/// A header that is missing, there twice, ill-encoded or different.
pub fn check_modern(headers: &HeaderMap, peek: &Peek<'_>) -> Result<(), HeaderError> {
    Claims::of(headers).check(peek)
}

/// What the headers of a modern message say of its body, which messages with the same headers share.
#[derive(Clone, Debug)]
pub struct Claims<'h> {
    version: Claim<'h>,
    method: Claim<'h>,
    name: Claim<'h>,
}

/// What one header says.
#[derive(Clone, Debug)]
struct Claim<'h> {
    /// As it is usually written.
    header: &'static str,
    said: Said<'h>,
}

#[derive(Clone, Debug)]
enum Said<'h> {
    Nothing,
    Text(Cow<'h, str>),
    /// Nothing that may stand there.
    Malformed(HeaderError),
    /// It is there more than once.
    Repeated,
}

// === impl Claims ===

impl<'h> Claims<'h> {
    /// What these headers claim. Nothing is refused yet: which of them count depends on the body.
    #[must_use]
    pub fn of(headers: &'h HeaderMap) -> Self {
        Self {
            version: Claim::of(headers, &name::PROTOCOL_VERSION, "MCP-Protocol-Version", plain),
            method: Claim::of(headers, &name::METHOD, "Mcp-Method", plain),
            name: Claim::of(headers, &name::NAME, "Mcp-Name", decode_value),
        }
    }

    /// The same, for longer than the headers last.
    #[must_use]
    pub fn into_owned(self) -> Claims<'static> {
        let Self { version, method, name } = self;
        let [version, method, name] = [version, method, name].map(Claim::into_owned);
        Claims { version, method, name }
    }

    /// As [`check_modern`].
    ///
    /// # Errors
    /// As [`check_modern`].
    pub fn check(&self, peek: &Peek<'_>) -> Result<(), HeaderError> {
        let required = peek.kind == Kind::Request;
        match (self.version.once()?, peek.params.claimed_version.as_deref()) {
            (None, _) if required => return Err(self.version.missing()),
            (Some(version), Some(claimed)) => version.is(Some(claimed))?,
            _ => {}
        }
        if peek.kind == Kind::Response {
            return Ok(());
        }
        match self.method.once()? {
            Some(method) => method.is(Some(&*peek.method))?,
            None if required => return Err(self.method.missing()),
            None => {}
        }
        let target = match Method::parse(&peek.method) {
            Method::ToolsCall | Method::PromptsGet => &peek.params.name,
            Method::ResourcesRead => &peek.params.uri,
            Method::TasksGet | Method::TasksUpdate | Method::TasksCancel => &peek.params.task_id,
            _ => return Ok(()),
        };
        match (self.name.once()?, target) {
            (Some(name), target) => name.is(target.as_deref()),
            (None, Some(_)) if required => Err(self.name.missing()),
            (None, _) => Ok(()),
        }
    }
}

// === impl Claim ===

impl<'h> Claim<'h> {
    fn of(
        headers: &'h HeaderMap,
        name: &HeaderName,
        header: &'static str,
        read: impl FnOnce(&'h [u8]) -> Result<Cow<'h, str>, HeaderError>,
    ) -> Self {
        let mut values = headers.get_all(name).iter();
        let said = match (values.next(), values.next()) {
            (None, _) => Said::Nothing,
            (Some(_), Some(_)) => Said::Repeated,
            (Some(value), None) => read(value.as_bytes()).map_or_else(Said::Malformed, Said::Text),
        };
        Self { header, said }
    }

    fn into_owned(self) -> Claim<'static> {
        let said = match self.said {
            Said::Nothing => Said::Nothing,
            Said::Text(text) => Said::Text(Cow::Owned(text.into_owned())),
            Said::Malformed(cause) => Said::Malformed(cause),
            Said::Repeated => Said::Repeated,
        };
        Claim { header: self.header, said }
    }

    /// Itself, if the header is there.
    fn once(&self) -> Result<Option<&Self>, HeaderError> {
        match self.said {
            Said::Nothing => Ok(None),
            Said::Text(_) | Said::Malformed(_) => Ok(Some(self)),
            Said::Repeated => Err(HeaderError::Duplicate(self.header)),
        }
    }

    fn missing(&self) -> HeaderError {
        HeaderError::Missing(self.header)
    }

    /// Whether the body says the same.
    fn is(&self, body: Option<&str>) -> Result<(), HeaderError> {
        let header = self.header;
        let value = match &self.said {
            Said::Text(text) => &**text,
            Said::Malformed(cause) => {
                return Err(HeaderError::Malformed { header, cause: Box::new(cause.clone()) });
            }
            Said::Nothing | Said::Repeated => return Ok(()),
        };
        match body {
            Some(body) if body == value => Ok(()),
            Some(body) => Err(HeaderError::Different {
                header,
                value: value.to_owned(),
                body: body.to_owned(),
            }),
            None => Err(HeaderError::NotInBody { header, value: value.to_owned() }),
        }
    }
}

/// Whether a header concerns one connection only and is never passed on. What `Connection` names
/// comes on top.
///
/// Spec: RFC 9110 section 7.6.1.
#[must_use]
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// Without the optional white space of RFC 9110 section 5.5.
fn trim(mut raw: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = raw {
        raw = rest;
    }
    raw
}

/// A value that is never encoded: only trimmed and checked.
fn plain(raw: &[u8]) -> Result<Cow<'_, str>, HeaderError> {
    match std::str::from_utf8(trim(raw)) {
        Ok(text) if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) => Ok(Cow::Borrowed(text)),
        _ => Err(HeaderError::BadCharacter),
    }
}

#[cfg(test)]
mod tests;
