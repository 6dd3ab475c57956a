//! JSON-RPC texts, and just enough reading of them for servers and assertions.

use serde::Deserialize;
use serde_json::value::RawValue;

pub(crate) const LEGACY: &str = "2025-11-25";
pub(crate) const MODERN: &str = "2026-07-28";

/// The fields that a server answers by; the id as it stands in the text. Numbers that no 64-bit type
/// holds may be anywhere else, so nothing else is read.
#[derive(Deserialize)]
pub(crate) struct Envelope<'a> {
    #[serde(borrow, default)]
    pub(crate) id: Option<&'a RawValue>,
    #[serde(default)]
    pub(crate) method: Option<String>,
    #[serde(default)]
    pub(crate) params: Params,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Params {
    name: Option<String>,
    uri: Option<String>,
    task_id: Option<String>,
    pub(crate) protocol_version: Option<String>,
}

impl<'a> Envelope<'a> {
    pub(crate) fn read(body: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// What `Mcp-Name` mirrors.
    pub(crate) fn name(&self) -> Option<&str> {
        let Params { name, uri, task_id, .. } = &self.params;
        name.as_deref().or(uri.as_deref()).or(task_id.as_deref())
    }
}

pub(crate) fn request(id: impl std::fmt::Display, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
}

pub(crate) fn notification(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#)
}

pub(crate) fn result(id: impl std::fmt::Display, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

pub(crate) fn error(id: impl std::fmt::Display, code: i64, message: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{message}"}}}}"#)
}

pub(crate) fn initialize(version: &str) -> String {
    let params = format!(
        r#"{{"protocolVersion":"{version}","capabilities":{{"sampling":{{}},"elicitation":{{}},"roots":{{}}}},"clientInfo":{{"name":"it","version":"1"}}}}"#
    );
    request("\"init\"", "initialize", &params)
}

/// A tool call of the legacy era.
pub(crate) fn call(id: impl std::fmt::Display, tool: &str) -> String {
    request(id, "tools/call", &format!(r#"{{"name":"{tool}","arguments":{{}}}}"#))
}

/// `_meta` that a modern request must carry.
pub(crate) const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"it","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}"#;

/// A tool call of the modern era.
pub(crate) fn modern_call(id: impl std::fmt::Display, tool: &str) -> String {
    request(id, "tools/call", &format!(r#"{{"name":"{tool}","arguments":{{}},{META}}}"#))
}

/// One SSE event with a message in it.
pub(crate) fn event(data: &str) -> String {
    format!("event: message\ndata: {data}\n\n")
}

/// The same with an id.
pub(crate) fn event_with_id(id: &str, data: &str) -> String {
    format!("id: {id}\nevent: message\ndata: {data}\n\n")
}
