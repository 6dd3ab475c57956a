//! One request on its way through the server, whatever brought it here.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Sample;
use super::message::{Failure, notification};
use super::modern::META_LOG_LEVEL;
use super::session::Session;
use super::stream::Stream;

/// Severities of log messages, lowest first.
pub(super) const LEVELS: [&str; 8] =
    ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// A running request.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) sample: Arc<Sample>,
    pub(super) era: Era,
    /// JSON text.
    pub(super) id: String,
    pub(super) params: Value,
    /// Where messages that belong to this request go.
    pub(super) outlet: Outlet,
}

#[derive(Clone, Debug)]
pub(super) enum Era {
    Legacy(Arc<Session>),
    Modern,
}

/// Where messages that belong to a request go.
#[derive(Clone, Debug)]
pub(super) enum Outlet {
    Stream(Arc<Stream>),
    /// The answer is plain JSON; what comes before goes to the session's standing stream, and in the
    /// modern era, which has none, nowhere.
    Standing,
}

// === impl Call ===

impl Call {
    pub(super) fn session(&self) -> Option<&Arc<Session>> {
        match &self.era {
            Era::Legacy(session) => Some(session),
            Era::Modern => None,
        }
    }

    pub(super) fn is_modern(&self) -> bool {
        matches!(self.era, Era::Modern)
    }

    pub(super) fn argument(&self, name: &str) -> &Value {
        &self.params["arguments"][name]
    }

    /// A non-negative integer argument, or the default.
    pub(super) fn number(&self, name: &str, default: u64) -> u64 {
        self.argument(name).as_u64().unwrap_or(default)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.argument(name).as_str()
    }

    /// Sends a message before the answer.
    pub(super) fn send(&self, text: String) {
        match (&self.outlet, &self.era) {
            (Outlet::Stream(stream), _) => stream.push(text, false),
            (Outlet::Standing, Era::Legacy(session)) => session.tell(text),
            (Outlet::Standing, Era::Modern) => {}
        }
    }

    /// Tells how far the call is, if the client gave a token.
    pub(super) fn progress(&self, progress: u64, total: u64) {
        let token = &self.params["_meta"]["progressToken"];
        if token.is_null() {
            return;
        }
        let params = json!({
            "progressToken": token, "progress": progress, "total": total,
            "message": format!("step {progress} of {total}"),
        });
        self.send(notification("notifications/progress", &params));
    }

    /// The level below which the client wants no log messages; `None` when it has not said.
    pub(super) fn level(&self) -> Option<String> {
        match &self.era {
            Era::Legacy(session) => session.state().level.clone(),
            Era::Modern => self.params["_meta"][META_LOG_LEVEL].as_str().map(str::to_owned),
        }
    }

    /// Sends a log message if the client wants it; true when it was sent. A legacy client that has set
    /// no level gets all, a modern one gets none.
    pub(super) fn log(&self, level: &str, data: &Value) -> bool {
        let severity = |level: &str| LEVELS.iter().position(|known| *known == level);
        let wanted = match self.level() {
            Some(limit) => severity(level) >= severity(&limit),
            None => !self.is_modern(),
        };
        if wanted {
            let params = json!({ "level": level, "logger": "drill", "data": data });
            self.send(notification("notifications/message", &params));
        }
        wanted
    }

    /// Asks a legacy client something in the middle of the call.
    ///
    /// # Errors
    /// The client's refusal or silence; -32601 in the modern era, which has no such requests.
    pub(super) async fn ask_client(&self, method: &str, params: &Value) -> Result<Value, Failure> {
        match &self.era {
            Era::Legacy(session) => session.request(method, params, |text| self.send(text)).await,
            Era::Modern => Err(Failure::method_not_found(method)),
        }
    }

    /// The client's capabilities: from `initialize`, or from the request itself.
    pub(super) fn client_capabilities(&self) -> Value {
        match &self.era {
            Era::Legacy(session) => session.state().capabilities.clone(),
            Era::Modern => self.params["_meta"][super::modern::META_CAPABILITIES].clone(),
        }
    }
}
