//! 2026-07-28: every request says for itself what it is, and the headers say the same.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use serde_json::{Value, json};

use super::call::Call;
use super::message::{Failure, Message, Outcome, Output};
use super::options::{LEGACY_VERSIONS, MODERN_VERSION};
use super::{catalogue, features};

pub(super) const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
pub(super) const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
pub(super) const META_LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
pub(super) const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
const META_SERVER: &str = "io.modelcontextprotocol/serverInfo";

/// How long lists may be cached, in milliseconds.
const LIST_TTL_MS: u64 = 60_000;

/// Is this a modern request? By the body's claim, or by a version header that no legacy version has.
pub(super) fn is_modern(headers: Option<&HeaderMap>, message: &Message) -> bool {
    if message.claimed_version().is_some() || message.method() == "server/discover" {
        return true;
    }
    let header = headers.and_then(|headers| headers.get("mcp-protocol-version"));
    message.method() != "initialize"
        && header.is_some_and(|version| {
            !LEGACY_VERSIONS.iter().any(|known| version == *known) && version != "2024-10-07"
        })
}

/// The checks that come before a modern request is looked at, in the order of the SDKs: `_meta`,
/// headers (over HTTP), version, method, mirrored arguments.
///
/// # Errors
/// -32602, -32020, -32022 or -32601, each with its status.
pub(super) fn check(headers: Option<&HeaderMap>, message: &Message) -> Result<(), Failure> {
    let meta = &message.params["_meta"];
    let Some(version) = meta[META_VERSION].as_str() else {
        return Err(
            Failure::invalid_params(format!("params._meta lacks {META_VERSION}")).status(400)
        );
    };
    if !meta[META_CAPABILITIES].is_object() {
        let missing = format!("params._meta lacks {META_CAPABILITIES}");
        return Err(Failure::invalid_params(missing).status(400));
    }
    if let Some(headers) = headers {
        same(headers, "MCP-Protocol-Version", Some(version))?;
        same(headers, "Mcp-Method", Some(message.method()))?;
        if let Some(field) = named_by(message.method()) {
            same(headers, "Mcp-Name", message.params[field].as_str())?;
        }
    }
    if version != MODERN_VERSION {
        let data = json!({ "supported": [MODERN_VERSION], "requested": version });
        return Err(Failure::new(-32022, "Unsupported protocol version").data(data).status(400));
    }
    if !is_method(message.method()) {
        return Err(Failure::method_not_found(message.method()));
    }
    if let (Some(headers), "tools/call", Some(tool)) = (headers, message.method(), message.name()) {
        for (argument, header) in catalogue::mirrored(tool) {
            let value = match &message.params["arguments"][argument] {
                Value::Null => None,
                Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            };
            same(headers, &format!("Mcp-Param-{header}"), value.as_deref())?;
        }
    }
    Ok(())
}

/// Answers a request that was checked; `subscriptions/listen` is the transport's part.
pub(super) async fn dispatch(call: &Call, method: &str) -> Outcome {
    let outcome = if method == "server/discover" {
        Ok(json!({
            "supportedVersions": [MODERN_VERSION],
            "capabilities": features::capabilities(),
            "instructions": "A server for drills: every tool shows one thing.",
        })
        .into())
    } else {
        features::dispatch(call, method)
            .await
            .unwrap_or_else(|| Err(Failure::method_not_found(method)))
    };
    let mut result = match outcome? {
        Output::Value(result) => result,
        text @ Output::Text(_) => return Ok(text),
    };
    if result["resultType"].is_null() {
        result["resultType"] = "complete".into();
        if let Some(ttl) = ttl_of(call, method) {
            result["ttlMs"] = ttl.into();
            result["cacheScope"] = "public".into();
        }
    }
    result["_meta"][META_SERVER] = features::server_info(call);
    Ok(result.into())
}

/// How long the result may be cached, where the protocol demands that it says so.
fn ttl_of(call: &Call, method: &str) -> Option<u64> {
    match method {
        "server/discover"
        | "tools/list"
        | "prompts/list"
        | "resources/list"
        | "resources/templates/list" => Some(LIST_TTL_MS),
        "resources/read" if call.params["uri"] == super::resources::CHANGING => Some(0),
        "resources/read" => Some(LIST_TTL_MS),
        _ => None,
    }
}

fn is_method(method: &str) -> bool {
    matches!(
        method,
        "server/discover"
            | "tools/list"
            | "tools/call"
            | "resources/list"
            | "resources/templates/list"
            | "resources/read"
            | "prompts/list"
            | "prompts/get"
            | "completion/complete"
            | "subscriptions/listen"
    )
}

/// The field of `params` that the header `Mcp-Name` mirrors.
fn named_by(method: &str) -> Option<&'static str> {
    match method {
        "tools/call" | "prompts/get" => Some("name"),
        "resources/read" => Some("uri"),
        _ => None,
    }
}

/// The header must be there once and say the same, or be absent where the body has nothing.
fn same(headers: &HeaderMap, name: &str, body: Option<&str>) -> Result<(), Failure> {
    let wrong =
        |what: String| Err(Failure::new(-32020, format!("Header mismatch: {what}")).status(400));
    let mut values = headers.get_all(name).iter();
    let (header, more) = (values.next(), values.next());
    match (header, body) {
        _ if more.is_some() => wrong(format!("{name} is there more than once")),
        (None, None) => Ok(()),
        (None, Some(_)) => wrong(format!("{name} is missing")),
        (Some(_), None) => wrong(format!("{name} mirrors nothing in the body")),
        (Some(header), Some(body)) => {
            let header = header.to_str().ok().and_then(decode);
            match header {
                Some(header) if header == body => Ok(()),
                Some(header) => wrong(format!(
                    "{name} header value '{header}' does not match body value '{body}'"
                )),
                None => wrong(format!("{name} is ill-encoded")),
            }
        }
    }
}

/// `=?base64?…?=` holds what a header cannot say.
fn decode(value: &str) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?="));
    match inner {
        None => Some(value.into()),
        Some(inner) => Some(String::from_utf8(STANDARD.decode(inner).ok()?).ok()?.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Incoming;
    use super::*;

    fn message(method: &str, params: Value) -> Message {
        let text = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        match Incoming::parse(text.to_string().as_bytes()).unwrap() {
            Incoming::One(message) => message,
            Incoming::Batch(_) => unreachable!(),
        }
    }

    fn meta(version: &str) -> Value {
        json!({ META_VERSION: version, META_CAPABILITIES: {} })
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    const VERSION: (&str, &str) = ("mcp-protocol-version", MODERN_VERSION);
    const CALL: (&str, &str) = ("mcp-method", "tools/call");

    #[test]
    fn headers_and_body_must_agree() {
        let call = message(
            "tools/call",
            json!({ "name": "é", "arguments": {}, "_meta": meta(MODERN_VERSION) }),
        );
        let name = ("mcp-name", "=?base64?w6k=?=");
        let code =
            |pairs: &[_]| check(Some(&headers(pairs)), &call).err().map(|failure| failure.code);
        assert_eq!(code(&[VERSION, CALL, name]), None);
        assert_eq!(code(&[CALL, name]), Some(-32020));
        assert_eq!(code(&[VERSION, ("mcp-method", "TOOLS/CALL"), name]), Some(-32020));
        assert_eq!(code(&[VERSION, CALL]), Some(-32020));
        assert_eq!(code(&[VERSION, CALL, name, name]), Some(-32020), "twice");
        assert_eq!(code(&[VERSION, CALL, ("mcp-name", "=?base64?!?=")]), Some(-32020));
        assert!(check(None, &call).is_ok(), "a connection has no headers");
    }

    #[test]
    fn mirrored_arguments_are_compared() {
        let call = message(
            "tools/call",
            json!({
                "name": "route", "arguments": { "region": "eu", "priority": 3 },
                "_meta": meta(MODERN_VERSION),
            }),
        );
        let base = [VERSION, CALL, ("mcp-name", "route"), ("mcp-param-region", "eu")];
        assert!(check(Some(&headers(&base)), &call).is_err(), "priority is missing");
        let right = [&base[..], &[("mcp-param-priority", "3")]].concat();
        assert!(check(Some(&headers(&right)), &call).is_ok());
        let wrong = [&base[..], &[("mcp-param-priority", "4")]].concat();
        assert!(check(Some(&headers(&wrong)), &call).is_err());
    }

    #[test]
    fn failures_have_their_status() {
        let check = |message: &Message| {
            let failure = check(None, message).unwrap_err();
            (failure.code, failure.status)
        };
        assert_eq!(check(&message("tools/list", json!({}))), (-32602, 400));
        assert_eq!(
            check(&message("tools/list", json!({ "_meta": { META_VERSION: MODERN_VERSION } }))),
            (-32602, 400)
        );
        let of = |method, version| message(method, json!({ "_meta": meta(version) }));
        assert_eq!(check(&of("tools/list", "2099-01-01")), (-32022, 400));
        for removed in ["initialize", "ping", "logging/setLevel", "resources/subscribe", "x/y"] {
            assert_eq!(check(&of(removed, MODERN_VERSION)), (-32601, 404), "{removed}");
        }
    }

    #[test]
    fn the_era_is_told_by_the_claim_then_by_the_header() {
        let plain = message("tools/list", json!({}));
        assert!(!is_modern(None, &plain));
        for version in LEGACY_VERSIONS {
            assert!(!is_modern(Some(&headers(&[("mcp-protocol-version", version)])), &plain));
        }
        assert!(is_modern(Some(&headers(&[VERSION])), &plain));
        let initialize = message("initialize", json!({}));
        assert!(!is_modern(Some(&headers(&[VERSION])), &initialize));
        let claims = message("tools/list", json!({ "_meta": meta("2099-01-01") }));
        assert!(is_modern(None, &claims));
    }
}
