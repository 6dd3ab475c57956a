//! Running a request, and the messages that end it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::behaviour::Fault;
use super::call::{Call, Era};
use super::message::{Outcome, response};
use super::stream::Stream;
use super::{Sample, legacy, modern};

/// Answers a request in its era.
pub(super) async fn run(call: &Call, method: &str) -> Outcome {
    match call.era {
        Era::Legacy(_) => legacy::dispatch(call, method).await,
        Era::Modern => modern::dispatch(call, method).await,
    }
}

/// The response as the fault shapes it: usually one text, two when it is to come twice.
pub(super) fn responses(id: &str, outcome: &Outcome, fault: Option<&Fault>) -> Vec<String> {
    match fault {
        Some(Fault::Twice) => vec![response(id, outcome); 2],
        Some(Fault::WrongId) => vec![response("\"an id that nobody asked with\"", outcome)],
        _ => vec![response(id, outcome)],
    }
}

/// The error that a scripted fault puts in the place of the response, where there is one.
pub(super) fn scripted_error(fault: &Fault, id: &str) -> Option<String> {
    let (rpc, status) = match fault {
        Fault::RpcError(rpc) => (Some(rpc), 0),
        Fault::Status { rpc, status, .. } => (rpc.as_ref(), *status),
        _ => return None,
    };
    let error = match rpc {
        Some(rpc) => {
            let mut error = json!({ "code": rpc.code, "message": rpc.message });
            if let Some(data) = &rpc.data {
                error["data"] = data.clone();
            }
            error
        }
        None => json!({ "code": -32603, "message": format!("scripted: status {status}") }),
    };
    Some(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#))
}

/// Ends the process, as a crash would: nothing is flushed, closed or said.
pub(super) fn exit(code: i32) -> ! {
    tracing::warn!(code, "scripted: the process ends");
    std::process::exit(code)
}

/// Aborts a modern call, and remembers that it was given up, when its client has gone before it ended.
#[derive(Debug)]
pub(super) struct CancelOnDrop {
    pub(super) sample: Arc<Sample>,
    pub(super) id: String,
    pub(super) task: tokio::task::AbortHandle,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if !self.task.is_finished() {
            self.task.abort();
            self.sample.observed.cancelled("disconnect", None, &self.id, true);
        }
    }
}

/// Runs a request in a task of its own that writes to `stream` and, when it is done or aborted, ends
/// its part in it. `settle` sees the outcome before the response is there.
pub(super) fn spawn(
    call: Call,
    method: String,
    stream: &Arc<Stream>,
    fault: Option<Fault>,
    settle: impl FnOnce(&Outcome) + Send + 'static,
) -> tokio::task::AbortHandle {
    let (stream, writer) = (stream.clone(), stream.writer());
    let task = tokio::spawn(async move {
        let outcome = run(&call, &method).await;
        settle(&outcome);
        for text in responses(&call.id, &outcome, fault.as_ref()) {
            stream.push(text, true);
        }
        drop(writer);
    });
    task.abort_handle()
}

/// The JSON text of an id, `null` when there is none.
pub(super) fn id_text(id: Option<&String>) -> &str {
    id.map_or("null", String::as_str)
}

/// The value of a header, if it is there and can be read.
pub(super) fn header<'a>(headers: &'a http::HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// A JSON object from a query or body that may be empty.
pub(super) fn object(body: &[u8]) -> Result<Value, serde_json::Error> {
    if body.trim_ascii().is_empty() { Ok(json!({})) } else { serde_json::from_slice(body) }
}
