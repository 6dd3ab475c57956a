//! The client side of a session: what the server sent or asked, and how the user answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rmcp::model::{
    ClientCapabilities, ClientConfig, CreateMessageRequestParams, CreateMessageResult,
    ElicitRequestParams, ElicitResult, Implementation, ListRootsResult,
    LoggingMessageNotificationParam, ProgressNotificationParam, ResourceUpdatedNotificationParam,
};
use rmcp::service::{NotificationContext, RequestContext};
use rmcp::{ClientHandler, ErrorData, RoleClient};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Cheap to clone; all clones share what was seen.
#[derive(Clone, Default)]
pub struct User(Arc<Mutex<Seen>>);

#[derive(Default)]
pub struct Seen {
    pub logs: Vec<Value>,
    pub updated: Vec<String>,
    pub tools_changed: usize,
    pub prompts_changed: usize,
    pub elicited: Vec<Value>,
    pub progress: Vec<Value>,
    pub declines: bool,
}

impl User {
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientHandler for User {
    fn get_info(&self) -> ClientConfig {
        let capabilities: ClientCapabilities =
            from(json!({ "sampling": {}, "elicitation": { "form": {} }, "roots": {} }));
        ClientConfig::new(capabilities, Implementation::new("holdfast-interop-rmcp", "1.0.0"))
    }

    async fn create_elicitation(
        &self,
        params: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let mut seen = self.seen();
        let params = plain(&params);
        let answer = answer(&params, seen.declines);
        seen.elicited.push(params);
        Ok(from(answer))
    }

    async fn create_message(
        &self,
        params: CreateMessageRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<CreateMessageResult, ErrorData> {
        let params = plain(&params);
        let content = &params["messages"][0]["content"];
        let asked = content["text"].as_str().or(content[0]["text"].as_str()).unwrap_or_default();
        let text = format!("sampled: {asked}");
        Ok(from(
            json!({ "model": "none", "role": "assistant", "content": { "type": "text", "text": text } }),
        ))
    }

    async fn list_roots(
        &self,
        _: RequestContext<RoleClient>,
    ) -> Result<ListRootsResult, ErrorData> {
        Ok(from(json!({ "roots": [{ "uri": "file:///interop/wurzel", "name": "Wurzel" }] })))
    }

    async fn on_progress(
        &self,
        params: ProgressNotificationParam,
        _: NotificationContext<RoleClient>,
    ) {
        self.seen().progress.push(plain(&params));
    }

    async fn on_logging_message(
        &self,
        params: LoggingMessageNotificationParam,
        _: NotificationContext<RoleClient>,
    ) {
        self.seen().logs.push(plain(&params));
    }

    async fn on_resource_updated(
        &self,
        params: ResourceUpdatedNotificationParam,
        _: NotificationContext<RoleClient>,
    ) {
        self.seen().updated.push(params.uri);
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.seen().tools_changed += 1;
    }

    async fn on_prompt_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.seen().prompts_changed += 1;
    }
}

fn answer(params: &Value, declines: bool) -> Value {
    if declines {
        return json!({ "action": "decline" });
    }
    let fields = params["requestedSchema"]["properties"].as_object().cloned().unwrap_or_default();
    let content: serde_json::Map<String, Value> = fields
        .into_iter()
        .map(|(name, schema)| {
            let value =
                if schema["type"] == "boolean" { json!(true) } else { json!(format!("ä {name}")) };
            (name, value)
        })
        .collect();
    json!({ "action": "accept", "content": content })
}

/// The SDK's type that this JSON is. Its types have no public constructors for all they can hold.
pub fn from<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("JSON of the SDK's own type")
}

pub fn plain(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("the SDK's types are JSON")
}
