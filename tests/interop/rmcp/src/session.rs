//! One connection, with the calls that the checks make.

use anyhow::{Context, Result, bail};
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, ClientRequest, ProtocolVersion, ServerNotification,
    ServerResult,
};
use rmcp::service::{PeerRequestOptions, RequestHandle, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::{ClientLifecycleMode, ClientServiceExt, RoleClient};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::user::{User, from, plain};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Era {
    Legacy,
    Auto,
    Modern,
}

pub struct Session {
    pub service: RunningService<RoleClient, User>,
    pub user: User,
    pub modern: bool,
    /// Ends the subscription to the lists.
    lists: CancellationToken,
}

impl Session {
    pub async fn open(url: &str, era: Era) -> Result<Self> {
        let user = User::default();
        let lifecycle = match era {
            Era::Legacy => ClientLifecycleMode::Initialize,
            Era::Modern => ClientLifecycleMode::Discover {
                preferred_versions: vec![ProtocolVersion::V_2026_07_28],
            },
            Era::Auto => ClientLifecycleMode::Auto {
                preferred_versions: vec![ProtocolVersion::V_2026_07_28],
                legacy_version: None,
            },
        };
        let transport = StreamableHttpClientTransport::from_uri(url.to_owned());
        let service = user.clone().serve_with_lifecycle(transport, lifecycle).await?;
        let info = service.peer_info().context("the server said nothing of itself")?;
        let modern = info.protocol_version == ProtocolVersion::V_2026_07_28;
        Ok(Self { service, user, modern, lists: CancellationToken::new() })
    }

    pub async fn call(&self, tool: &str, arguments: Value) -> Result<Value> {
        let params: CallToolRequestParams = from(json!({ "name": tool, "arguments": arguments }));
        Ok(plain(&self.service.call_tool(params).await?))
    }

    pub async fn said(&self, tool: &str, arguments: Value) -> Result<String> {
        let result = self.call(tool, arguments).await?;
        Ok(text_of(&result))
    }

    /// Starts a call that can be watched and cancelled; answers of input rounds are not its business.
    pub async fn begin(
        &self,
        tool: &str,
        arguments: Value,
        log_level: Option<&str>,
    ) -> Result<RequestHandle<RoleClient>> {
        let mut call = json!({ "name": tool, "arguments": arguments });
        if let Some(level) = log_level {
            call["_meta"] = json!({ "io.modelcontextprotocol/logLevel": level });
        }
        let params: CallToolRequestParams = from(call);
        let request = ClientRequest::CallToolRequest(CallToolRequest::new(params));
        Ok(self
            .service
            .peer()
            .send_cancellable_request(request, PeerRequestOptions::no_options())
            .await?)
    }

    /// The progress that belongs to a call, in the order it arrived.
    pub fn progress_of(&self, handle: &RequestHandle<RoleClient>) -> Vec<Value> {
        let token = plain(&handle.progress_token);
        self.user
            .seen()
            .progress
            .iter()
            .filter(|step| step["progressToken"] == token)
            .cloned()
            .collect()
    }

    pub async fn subscribe(&self, uri: &str) -> Result<Watch> {
        if self.modern {
            return self
                .listen(json!({ "resourceSubscriptions": [uri] }), CancellationToken::new())
                .await;
        }
        self.service.subscribe(from(json!({ "uri": uri }))).await?;
        Ok(Watch(None))
    }

    pub async fn unsubscribe(&self, uri: &str, watch: Watch) -> Result<()> {
        if let Some(token) = watch.0 {
            token.cancel();
            return Ok(());
        }
        self.service.unsubscribe(from(json!({ "uri": uri }))).await?;
        Ok(())
    }

    pub async fn watch_lists(&self) -> Result<()> {
        if self.modern {
            let filter = json!({ "toolsListChanged": true, "promptsListChanged": true });
            self.listen(filter, self.lists.clone()).await?;
        }
        Ok(())
    }

    async fn listen(&self, filter: Value, end: CancellationToken) -> Result<Watch> {
        let mut subscription = self.service.peer().listen(from(filter)).await?;
        let (user, stop) = (self.user.clone(), end.clone());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => {
                        let _ = subscription.cancel().await;
                        return;
                    }
                    next = subscription.next() => match next {
                        Ok(Some(ServerNotification::ResourceUpdatedNotification(told))) => user.seen().updated.push(told.params.uri),
                        Ok(Some(ServerNotification::ToolListChangedNotification(_))) => user.seen().tools_changed += 1,
                        Ok(Some(ServerNotification::PromptListChangedNotification(_))) => user.seen().prompts_changed += 1,
                        Ok(Some(_)) => {}
                        Ok(None) | Err(_) => return,
                    },
                }
            }
        });
        Ok(Watch(Some(end)))
    }

    pub async fn set_level(&self, level: &str) -> Result<()> {
        if !self.modern {
            self.service.set_level(from(json!({ "level": level }))).await?;
        }
        Ok(())
    }

    pub async fn close(self) -> Result<()> {
        self.lists.cancel();
        self.service.cancel().await?;
        Ok(())
    }
}

/// An open subscription; a legacy one has nothing to hold.
pub struct Watch(Option<CancellationToken>);

pub async fn answer_of(handle: RequestHandle<RoleClient>) -> Result<String> {
    match handle.await_response().await? {
        ServerResult::CallToolResult(result) => Ok(text_of(&plain(&result))),
        other => bail!("not an answer to a call: {other:?}"),
    }
}

pub fn text_of(result: &Value) -> String {
    let parts = result["content"].as_array().into_iter().flatten();
    parts.filter_map(|part| part["text"].as_str()).collect()
}
