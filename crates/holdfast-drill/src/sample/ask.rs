//! Questions to the user in the middle of a call, in the way of each era.
//!
//! A legacy server sends a request to the client and waits with the call. A modern one answers
//! `input_required` and gets the answers with the next call, together with the state that it gave out.
//! That state is checked with a key of this process: another replica refuses it, as real servers do,
//! so a gateway that sends the next round elsewhere is found out.

use std::hash::BuildHasher as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::call::Call;
use super::message::Failure;

/// How far a conversation is.
pub(super) enum Step {
    /// Modern: answer the call with this.
    Ask(Value),
    /// The answers to all questions, in order.
    Done(Vec<Value>),
}

/// Asks the user `rounds` times to confirm `message`.
pub(super) async fn elicit(call: &Call, message: &str, rounds: u64) -> Result<Step, Failure> {
    let question = |round: u64| {
        let message =
            if rounds > 1 { format!("{message} ({round}/{rounds})") } else { message.to_owned() };
        let mut params = json!({
            "message": message,
            "requestedSchema": {
                "type": "object",
                "properties": { "name": { "type": "string" }, "ok": { "type": "boolean" } },
            },
        });
        if call.is_modern() {
            params["mode"] = "form".into();
        }
        params
    };
    converse(call, "elicitation", "elicitation/create", rounds, question).await
}

/// Asks the client's model.
pub(super) async fn sample(call: &Call, prompt: &str) -> Result<Step, Failure> {
    let question = |_| {
        json!({
            "messages": [{ "role": "user", "content": { "type": "text", "text": prompt } }],
            "maxTokens": 100,
        })
    };
    converse(call, "sampling", "sampling/createMessage", 1, question).await
}

/// Asks for the client's roots.
pub(super) async fn roots(call: &Call) -> Result<Step, Failure> {
    converse(call, "roots", "roots/list", 1, |_| json!({})).await
}

async fn converse(
    call: &Call,
    capability: &str,
    method: &str,
    rounds: u64,
    question: impl Fn(u64) -> Value,
) -> Result<Step, Failure> {
    if call.client_capabilities()[capability].is_null() {
        let required = json!({ "requiredCapabilities": { capability: {} } });
        let code = if call.is_modern() { -32021 } else { -32602 };
        let message = format!("Missing required client capability: {capability}");
        return Err(Failure::new(code, message).data(required).status(400));
    }
    if !call.is_modern() {
        let mut answers = Vec::new();
        for round in 1..=rounds {
            answers.push(call.ask_client(method, &question(round)).await?);
        }
        return Ok(Step::Done(answers));
    }
    let mut answers = match &call.params["requestState"] {
        Value::Null => Vec::new(),
        Value::String(state) => open(call, method, state)
            .ok_or_else(|| Failure::invalid_params("Invalid or expired requestState"))?,
        _ => return Err(Failure::invalid_params("requestState is not a string")),
    };
    // An answer without its state answers a question that this server does not know of; it asks again.
    if call.params["requestState"].is_string() {
        match &call.params["inputResponses"]["answer"] {
            Value::Null => {}
            answer => answers.push(answer.clone()),
        }
    }
    if answers.len() as u64 >= rounds {
        return Ok(Step::Done(answers));
    }
    let round = answers.len() as u64 + 1;
    Ok(Step::Ask(json!({
        "resultType": "input_required",
        "inputRequests": { "answer": { "method": method, "params": question(round) } },
        "requestState": seal(call, method, &answers),
    })))
}

/// The answers so far, with a mark that only this process can make.
fn seal(call: &Call, method: &str, answers: &[Value]) -> String {
    let plain = json!({ "tool": call.params["name"], "method": method, "answers": answers });
    let text = URL_SAFE_NO_PAD.encode(plain.to_string());
    let mark = call.sample.state_key.hash_one(&text);
    format!("v1.{text}.{mark:016x}")
}

fn open(call: &Call, method: &str, state: &str) -> Option<Vec<Value>> {
    let (text, mark) = state.strip_prefix("v1.")?.split_once('.')?;
    if mark != format!("{:016x}", call.sample.state_key.hash_one(text)) {
        return None;
    }
    let plain: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let same_call = plain["tool"] == call.params["name"] && plain["method"] == method;
    same_call.then(|| plain["answers"].as_array().cloned()).flatten()
}
