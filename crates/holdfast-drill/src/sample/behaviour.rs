//! Scripted faults: which call meets what, and how often.
//!
//! Rules are tried in the order in which they were added; the first that fits and is not used up is
//! taken. A fault either *replaces* the answer (hang, a status, a reset …), before the call runs or,
//! with `execute`, after it ran; or it *shapes* the answer of a call that runs in any case.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::message::Message;

/// When a fault strikes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// A JSON-RPC method, or `GET`, `DELETE`, `SSE` and `WS` for requests without a message. Absent: any message.
    #[serde(default)]
    pub method: Option<String>,
    /// `params.name`, usually a tool. Absent: any.
    #[serde(default)]
    pub tool: Option<String>,
    /// So many matching requests pass unharmed first.
    #[serde(default)]
    pub skip: u64,
    /// So many are struck then.
    #[serde(default = "once")]
    pub times: u64,
    /// Strike without end, whatever `times` says.
    #[serde(default)]
    pub always: bool,
    /// For faults that replace the answer: run the call first.
    #[serde(default)]
    pub execute: bool,
    /// What happens.
    pub fault: Fault,
}

/// What happens to a request. On stdio, WebSocket and HTTP+SSE, which have no status and no answer of
/// their own to cut, `status` becomes a JSON-RPC error, and what cuts an answer cuts the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// Never answer; over HTTP until the client goes.
    Hang,
    /// Wait, then go on as if nothing had been.
    Delay {
        /// Milliseconds.
        ms: u64,
    },
    /// Answer with a status.
    Status {
        /// The HTTP status.
        status: u16,
        /// The body; absent: a line of text.
        #[serde(default)]
        body: Option<String>,
        /// A JSON-RPC error as the body instead, with the request's id.
        #[serde(default)]
        rpc: Option<RpcFault>,
        /// A `Retry-After` header, in seconds.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// Answer 200 with a JSON-RPC error.
    RpcError(RpcFault),
    /// Reset the connection (RST) before anything is answered.
    Reset,
    /// Close the connection (FIN) before anything is answered.
    Close,
    /// Answer 200 with a body that is not JSON.
    Garbage {
        /// The body; absent: a piece of HTML.
        #[serde(default)]
        body: Option<String>,
    },
    /// Forget the request's session, so that it gets a 404.
    ForgetSession,
    /// End the process.
    Exit {
        /// Its status.
        #[serde(default)]
        code: i32,
    },
    /// Send the headers of an event stream, then reset the connection.
    ResetAfterHeaders,
    /// Reset the connection after so many events.
    ResetAfterEvents {
        /// Not counting the priming event.
        events: usize,
    },
    /// End the stream cleanly after so many events; the call goes on.
    CloseAfterEvents {
        /// Not counting the priming event.
        events: usize,
    },
    /// End the process after so many events.
    ExitAfterEvents {
        /// Not counting the priming event.
        events: usize,
        /// The process's status.
        #[serde(default)]
        code: i32,
    },
    /// Send half of the answer, then close the connection.
    HalfBody,
    /// Send the answer in small pieces.
    Drip {
        /// Milliseconds between pieces.
        ms: u64,
        /// Bytes of a piece.
        bytes: usize,
    },
    /// Send the answer twice.
    Twice,
    /// Send the answer with an id that nobody asked with.
    WrongId,
}

/// A scripted JSON-RPC error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RpcFault {
    /// The code.
    pub code: i64,
    /// The message.
    pub message: String,
    /// The data, if any.
    #[serde(default)]
    pub data: Option<Value>,
}

/// A fault that one request has to suffer.
#[derive(Clone, Debug)]
pub(super) struct Strike {
    pub(super) fault: Fault,
    pub(super) execute: bool,
}

/// The script.
#[derive(Debug, Default)]
pub(super) struct Behaviour {
    rules: Mutex<Vec<Running>>,
}

#[derive(Debug)]
struct Running {
    rule: Rule,
    seen: u64,
    struck: u64,
}

const fn once() -> u64 {
    1
}

// === impl Behaviour ===

impl Behaviour {
    pub(super) fn new(rules: &[Rule]) -> Self {
        let behaviour = Self::default();
        for rule in rules {
            behaviour.add(rule.clone());
        }
        behaviour
    }

    pub(super) fn add(&self, rule: Rule) {
        self.lock().push(Running { rule, seen: 0, struck: 0 });
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    /// The fault that this message has to suffer; uses it up.
    pub(super) fn strike(&self, message: &Message) -> Option<Strike> {
        let method = message.method.as_deref()?;
        self.take(method, message.name())
    }

    /// The same for a request without a message: `GET`, `DELETE`, `SSE`, `WS`.
    pub(super) fn strike_bare(&self, pseudo_method: &str) -> Option<Strike> {
        self.take(pseudo_method, None)
    }

    fn take(&self, method: &str, name: Option<&str>) -> Option<Strike> {
        let mut rules = self.lock();
        let fits = |rule: &Rule| match &rule.method {
            Some(wanted) => wanted == method,
            // A rule without a method is meant for messages.
            None => !matches!(method, "GET" | "DELETE" | "SSE" | "WS"),
        } && (rule.tool.is_none() || rule.tool.as_deref() == name);
        for running in rules.iter_mut().filter(|running| fits(&running.rule)) {
            running.seen += 1;
            if running.seen <= running.rule.skip {
                continue;
            }
            if running.rule.always || running.struck < running.rule.times {
                running.struck += 1;
                let strike =
                    Strike { fault: running.rule.fault.clone(), execute: running.rule.execute };
                return Some(strike);
            }
        }
        None
    }

    /// The rules with how often each was seen and has struck.
    pub(super) fn report(&self) -> Value {
        let rules = self.lock();
        let rules = rules.iter().map(|running| {
            json!({ "rule": running.rule, "seen": running.seen, "struck": running.struck })
        });
        rules.collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Running>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Fault ===

impl Fault {
    /// Does it stand in the place of the answer, rather than shape one?
    pub(super) fn replaces_answer(&self) -> bool {
        match self {
            Self::Hang
            | Self::Status { .. }
            | Self::RpcError(_)
            | Self::Reset
            | Self::Close
            | Self::Garbage { .. }
            | Self::ForgetSession
            | Self::Exit { .. } => true,
            Self::Delay { .. }
            | Self::ResetAfterHeaders
            | Self::ResetAfterEvents { .. }
            | Self::CloseAfterEvents { .. }
            | Self::ExitAfterEvents { .. }
            | Self::HalfBody
            | Self::Drip { .. }
            | Self::Twice
            | Self::WrongId => false,
        }
    }

    /// Does it need an event stream to happen on?
    pub(super) fn needs_stream(&self) -> bool {
        matches!(
            self,
            Self::ResetAfterHeaders
                | Self::ResetAfterEvents { .. }
                | Self::CloseAfterEvents { .. }
                | Self::ExitAfterEvents { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behaviour(rules: &[Value]) -> Behaviour {
        let rules: Vec<Rule> =
            rules.iter().map(|rule| serde_json::from_value(rule.clone()).unwrap()).collect();
        Behaviour::new(&rules)
    }

    fn call(tool: &str) -> Message {
        Message {
            method: Some("tools/call".to_owned()),
            params: json!({ "name": tool }),
            ..Message::default()
        }
    }

    #[test]
    fn a_rule_skips_then_strikes_so_often_and_no_more() {
        let behaviour = behaviour(&[json!({
            "method": "tools/call", "tool": "write", "skip": 1, "times": 2,
            "fault": { "kind": "hang" },
        })]);
        assert!(behaviour.strike(&call("echo")).is_none());
        let struck: Vec<bool> =
            (0..5).map(|_| behaviour.strike(&call("write")).is_some()).collect();
        assert_eq!(struck, [false, true, true, false, false]);
        assert_eq!(behaviour.report()[0]["struck"], 2);
    }

    #[test]
    fn the_first_rule_with_strikes_left_is_taken() {
        let behaviour = behaviour(&[
            json!({ "fault": { "kind": "reset" } }),
            json!({ "always": true, "fault": { "kind": "status", "status": 503 } }),
        ]);
        assert_eq!(behaviour.strike(&call("a")).unwrap().fault, Fault::Reset);
        for _ in 0..3 {
            let strike = behaviour.strike(&call("a")).unwrap();
            assert!(matches!(strike.fault, Fault::Status { status: 503, .. }));
        }
        assert!(behaviour.strike_bare("GET").is_none(), "meant for messages");
        behaviour.clear();
        assert!(behaviour.strike(&call("a")).is_none());
    }

    #[test]
    fn a_misspelt_rule_is_refused() {
        for rule in [
            json!({ "fault": { "kind": "delay", "msec": 5 } }),
            json!({ "fault": { "kind": "delay" } }),
            json!({ "method": "ping" }),
            json!({ "methods": "ping", "fault": { "kind": "hang" } }),
        ] {
            assert!(serde_json::from_value::<Rule>(rule.clone()).is_err(), "{rule}");
        }
    }
}
