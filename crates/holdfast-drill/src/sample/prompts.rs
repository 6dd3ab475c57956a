//! Prompts, and completion of their arguments.

use serde_json::{Value, json};

use super::ask;
use super::call::Call;
use super::message::{Failure, Outcome};

/// What the argument `language` of `greet` can be completed to.
const LANGUAGES: [&str; 6] = ["dansk", "deutsch", "english", "español", "français", "日本語"];

pub(super) fn list() -> Vec<Value> {
    vec![
        json!({ "name": "plain", "description": "Takes no arguments" }),
        json!({
            "name": "greet", "description": "A greeting",
            "arguments": [
                { "name": "name", "description": "Whom to greet", "required": true },
                { "name": "language", "description": "In which language" },
            ],
        }),
        json!({ "name": "interview", "description": "Asks the user for a name first" }),
    ]
}

pub(super) async fn get(call: &Call) -> Outcome {
    let name = call.params["name"].as_str().unwrap_or_default();
    let text = match name {
        "plain" => "Say something plain.".to_owned(),
        "greet" => {
            let Some(who) = call.text("name") else {
                return Err(Failure::invalid_params("the argument name is missing"));
            };
            format!("Greet {who} in {}.", call.text("language").unwrap_or("english"))
        }
        "interview" => match ask::elicit(call, "Who are you?", 1).await? {
            ask::Step::Ask(question) => return Ok(question.into()),
            ask::Step::Done(answers) => format!("Greet whom this is about: {}", json!(answers)),
        },
        _ => return Err(Failure::invalid_params(format!("Unknown prompt: {name}"))),
    };
    Ok(json!({
        "description": name,
        "messages": [{ "role": "user", "content": { "type": "text", "text": text } }],
    })
    .into())
}

/// `completion/complete`, for the prompt `greet` and the template `drill://item/{id}`.
pub(super) fn complete(call: &Call) -> Outcome {
    let begun = call.params["argument"]["value"].as_str().unwrap_or_default();
    let reference = &call.params["ref"];
    let argument = call.params["argument"]["name"].as_str().unwrap_or_default();
    let items: Vec<String> = (1..=120).map(|number| number.to_string()).collect();
    let all: Vec<&str> = match (reference["type"].as_str(), argument) {
        (Some("ref/prompt"), "language") if reference["name"] == "greet" => LANGUAGES.to_vec(),
        (Some("ref/resource"), "id") => items.iter().map(String::as_str).collect(),
        (Some("ref/prompt" | "ref/resource"), _) => Vec::new(),
        _ => return Err(Failure::invalid_params("params.ref is neither a prompt nor a resource")),
    };
    let fitting: Vec<&str> = all.into_iter().filter(|value| value.starts_with(begun)).collect();
    // A completion lists at most a hundred values.
    let shown = &fitting[..fitting.len().min(100)];
    let completion = json!({
        "values": shown, "total": fitting.len(), "hasMore": shown.len() < fitting.len(),
    });
    Ok(json!({ "completion": completion }).into())
}
