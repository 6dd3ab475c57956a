//! The methods that both eras have, before an era dresses the result.

use serde_json::{Value, json};

use super::call::Call;
use super::message::{Failure, Outcome};
use super::{catalogue, prompts, resources, tools};

/// `None` when the method is not one of them.
pub(super) async fn dispatch(call: &Call, method: &str) -> Option<Outcome> {
    Some(match method {
        "tools/list" => page(call, "tools", catalogue::list(&call.sample)),
        "tools/call" => tools::run(call).await,
        "resources/list" => page(call, "resources", resources::list()),
        "resources/templates/list" => page(call, "resourceTemplates", resources::templates()),
        "resources/read" => resources::read(call),
        "prompts/list" => page(call, "prompts", prompts::list()),
        "prompts/get" => prompts::get(call).await,
        "completion/complete" => prompts::complete(call),
        _ => return None,
    })
}

/// What the server can do; the same in both eras.
pub(super) fn capabilities() -> Value {
    json!({
        "tools": { "listChanged": true },
        "resources": { "subscribe": true, "listChanged": true },
        "prompts": { "listChanged": true },
        "completions": {},
        "logging": {},
    })
}

pub(super) fn server_info(call: &Call) -> Value {
    json!({ "name": call.sample.options.name, "version": env!("CARGO_PKG_VERSION") })
}

/// One page of a list; the cursor is the number of the first entry.
fn page(call: &Call, name: &str, all: Vec<Value>) -> Outcome {
    let start = match &call.params["cursor"] {
        Value::Null => 0,
        cursor => cursor
            .as_str()
            .and_then(|text| text.strip_prefix("from-")?.parse::<usize>().ok())
            .filter(|start| *start < all.len())
            .ok_or_else(|| Failure::invalid_params("Invalid cursor"))?,
    };
    let size = match call.sample.options.page_size {
        0 => all.len(),
        size => size,
    };
    let end = all.len().min(start + size);
    let mut result = json!({ name: all[start..end] });
    if end < all.len() {
        result["nextCursor"] = format!("from-{end}").into();
    }
    Ok(result.into())
}
