//! The tools: each makes one thing visible that a gateway could get wrong.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use super::ask::{self, Step};
use super::call::{Call, LEVELS};
use super::catalogue;
use super::hub::Change;
use super::message::{Failure, Outcome, Output};
use super::resources;

/// The longest text that `big` makes, in bytes.
const MAX_BIG: u64 = 64 * 1024 * 1024;

/// Text that goes wrong wherever bytes, characters and lines are mixed up.
pub(super) const UNICODE: &str =
    "naïve café – „Grüße“ 日本語 עברית 🛟👩‍👩‍👧 \u{2028}\u{2029}\u{feff} e\u{301} \u{1}\t\r\n\\\" end";

/// Runs `params.name` and counts it, before it does anything.
pub(super) async fn run(call: &Call) -> Outcome {
    let Some(tool) = call.params["name"].as_str() else {
        return Err(Failure::invalid_params("tools/call needs params.name"));
    };
    if !catalogue::knows(&call.sample, tool) {
        return Err(Failure::invalid_params(format!("Unknown tool: {tool}")));
    }
    let key = call.text("key").unwrap_or_default();
    let executions = call.sample.executions.record(tool, key);
    match tool {
        "echo" => Ok(text_and(
            call.text("text").unwrap_or_default(),
            json!({ "arguments": call.params["arguments"] }),
        )),
        "add" => add(call),
        "slow" => slow(call).await,
        "write" | "bump" => {
            pause(call).await;
            Ok(text_and(
                &format!("{tool} {key}: execution {executions}"),
                json!({ "key": key, "executions": executions, "pid": std::process::id() }),
            ))
        }
        "big" => {
            let bytes = call.number("bytes", 1024).min(MAX_BIG) as usize;
            Ok(text(&"0123456789abcdef".repeat(bytes / 16 + 1)[..bytes]))
        }
        "fail" => Ok(json!({
            "content": [{ "type": "text", "text": "the tool failed, as it was asked to" }],
            "isError": true,
        })
        .into()),
        "ask" => {
            let message = call.text("message").unwrap_or("Go on?");
            answered(ask::elicit(call, message, call.number("rounds", 1)).await?)
        }
        "sample" => answered(ask::sample(call, call.text("prompt").unwrap_or("Hello")).await?),
        "roots" => answered(ask::roots(call).await?),
        "log" => log(call).await,
        "level" => Ok(text_and(
            call.level().as_deref().unwrap_or("none"),
            json!({ "level": call.level() }),
        )),
        "unicode" => Ok(text(UNICODE)),
        "digits" => Ok(digits(call)),
        "counter" => counter(call),
        "whoami" => Ok(whoami(call)),
        "touch" => Ok(text(&format!("touched {} times", resources::touch(call)))),
        "toggle" => {
            let listed = !call.sample.world.extra_tool.fetch_xor(true, Ordering::AcqRel);
            call.sample.publish(&Change::Tools);
            Ok(text(if listed { "extra is listed" } else { "extra is not listed" }))
        }
        "route" => Ok(text(call.text("region").unwrap_or("none"))),
        "extra" => Ok(text("extra")),
        _ => Err(Failure::new(-32603, format!("{tool} is listed but does not exist"))),
    }
}

fn add(call: &Call) -> Outcome {
    let (a, b) = (call.argument("a"), call.argument("b"));
    let sum = match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a.checked_add(b).map(Value::from),
        _ => a.as_f64().zip(b.as_f64()).map(|(a, b)| json!(a + b)),
    };
    Ok(match sum {
        Some(sum) => text_and(&sum.to_string(), json!({ "sum": sum })),
        None => json!({
            "content": [{ "type": "text", "text": "a and b must be numbers that can be added" }],
            "isError": true,
        })
        .into(),
    })
}

/// Sleeps `ms` milliseconds in `steps` steps and reports each.
async fn slow(call: &Call) -> Outcome {
    let (ms, steps) = (call.number("ms", 100), call.number("steps", 1).max(1));
    for step in 1..=steps {
        tokio::time::sleep(Duration::from_millis(ms / steps)).await;
        call.progress(step, steps);
    }
    Ok(text(&format!("slept {ms} ms in {steps} steps")))
}

async fn pause(call: &Call) {
    let ms = call.number("ms", 0);
    if ms > 0 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

async fn log(call: &Call) -> Outcome {
    let level = call.text("level").unwrap_or("info");
    if !LEVELS.contains(&level) {
        return Err(Failure::invalid_params(format!("Unknown log level: {level}")));
    }
    let mut sent = 0;
    for number in 1..=call.number("count", 1) {
        if number > 1 {
            pause(call).await;
        }
        let data =
            json!({ "text": call.text("text").unwrap_or("a log message"), "number": number });
        sent += u64::from(call.log(level, &data));
    }
    Ok(text_and(&format!("{sent} messages sent"), json!({ "sent": sent })))
}

/// Numbers that no 64-bit type holds and escapes that no writer chooses: they arrive as they stand, or
/// something on the way has re-serialised the answer.
fn digits(call: &Call) -> Output {
    let modern = if call.is_modern() { r#","resultType":"complete""# } else { "" };
    Output::Text(format!(
        r#"{{"content":[{{"type":"text","text":"caf\u00e9 \ud83d\udedf \/"}}],  "structuredContent":{{"big":123456789012345678901234567890.10,"tiny":1E-400,"zero":-0.0,"b":2,"a":1}}{modern}}}"#
    ))
}

/// Counts in the session; a modern client carries a handle instead.
fn counter(call: &Call) -> Outcome {
    let (handle, count) = match call.session() {
        Some(session) => {
            let mut state = session.state();
            state.counter += 1;
            (session.id.clone(), state.counter)
        }
        None => {
            let handle = call
                .text("handle")
                .map_or_else(|| uuid::Uuid::new_v4().simple().to_string(), str::to_owned);
            let count = call.sample.count(&handle);
            (handle, count)
        }
    };
    Ok(text_and(&count.to_string(), json!({ "count": count, "handle": handle })))
}

fn whoami(call: &Call) -> Output {
    let session = call.session().map(|session| session.report());
    let name = &call.sample.options.name;
    let seen = json!({
        "server": name, "pid": std::process::id(),
        "era": if call.is_modern() { "modern" } else { "legacy" },
        "session": session, "_meta": call.params["_meta"],
    });
    text_and(name, seen)
}

fn answered(step: Step) -> Outcome {
    Ok(match step {
        Step::Ask(question) => question.into(),
        Step::Done(answers) => text_and(&json!(answers).to_string(), json!({ "answers": answers })),
    })
}

fn text(text: &str) -> Output {
    json!({ "content": [{ "type": "text", "text": text }] }).into()
}

fn text_and(text: &str, structured: Value) -> Output {
    json!({
        "content": [{ "type": "text", "text": text }], "structuredContent": structured,
    })
    .into()
}
