//! Resources: two that never change, one that does, and a template.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};

use super::call::Call;
use super::hub::Change;
use super::message::{Failure, Outcome};

/// The resource that the tool `touch` changes.
pub(super) const CHANGING: &str = "drill://changing";

const ITEM: &str = "drill://item/";

/// What can change while the server runs, shared by all clients.
#[derive(Debug, Default)]
pub(super) struct World {
    /// How often `drill://changing` was changed.
    pub(super) touched: AtomicU64,
    /// Whether the tool `extra` is listed.
    pub(super) extra_tool: AtomicBool,
}

pub(super) fn list() -> Vec<Value> {
    vec![
        json!({
            "uri": "drill://static/text", "name": "text", "mimeType": "text/plain",
            "description": "A text that never changes",
        }),
        json!({
            "uri": "drill://static/binary", "name": "binary",
            "mimeType": "application/octet-stream", "description": "All 256 bytes in order",
        }),
        json!({
            "uri": CHANGING, "name": "changing", "mimeType": "text/plain",
            "description": "Counts how often the tool touch was called",
        }),
    ]
}

pub(super) fn templates() -> Vec<Value> {
    vec![json!({
        "uriTemplate": "drill://item/{id}", "name": "item", "mimeType": "application/json",
        "description": "Any item",
    })]
}

pub(super) fn read(call: &Call) -> Outcome {
    let Some(uri) = call.params["uri"].as_str() else {
        return Err(Failure::invalid_params("resources/read needs params.uri"));
    };
    let content = match uri {
        "drill://static/text" => json!({
            "uri": uri, "mimeType": "text/plain", "text": "All is well. Ça va, 万事大吉, 🛟.",
        }),
        "drill://static/binary" => {
            use base64::Engine as _;
            let bytes: Vec<u8> = (0..=255).collect();
            json!({
                "uri": uri, "mimeType": "application/octet-stream",
                "blob": base64::engine::general_purpose::STANDARD.encode(bytes),
            })
        }
        CHANGING => {
            let touched = call.sample.world.touched.load(Ordering::Acquire);
            json!({ "uri": uri, "mimeType": "text/plain", "text": format!("touched {touched} times") })
        }
        _ => match uri.strip_prefix(ITEM) {
            Some(id) if !id.is_empty() => json!({
                "uri": uri, "mimeType": "application/json", "text": json!({ "id": id }).to_string(),
            }),
            _ => return Err(not_found(call, uri)),
        },
    };
    Ok(json!({ "contents": [content] }).into())
}

/// Legacy `resources/subscribe` and `resources/unsubscribe`.
pub(super) fn subscribe(call: &Call, wanted: bool) -> Outcome {
    let Some(uri) = call.params["uri"].as_str() else {
        return Err(Failure::invalid_params("params.uri is missing"));
    };
    if let Some(session) = call.session() {
        let subscriptions = &mut session.state().subscriptions;
        if wanted {
            subscriptions.insert(uri.to_owned());
        } else {
            subscriptions.remove(uri);
        }
    }
    Ok(json!({}).into())
}

/// Changes `drill://changing` and tells whoever subscribed.
pub(super) fn touch(call: &Call) -> u64 {
    let touched = call.sample.world.touched.fetch_add(1, Ordering::AcqRel) + 1;
    call.sample.publish(&Change::Updated(CHANGING.to_owned()));
    touched
}

fn not_found(call: &Call, uri: &str) -> Failure {
    // -32002 is what legacy versions say and what 2026-07-28 must not say any more.
    let code = if call.is_modern() { -32602 } else { -32002 };
    Failure::new(code, format!("Resource not found: {uri}")).data(json!({ "uri": uri }))
}
