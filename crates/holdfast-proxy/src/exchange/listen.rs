//! A modern client's `subscriptions/listen`: when it ends with its node, and what the client is told after it had
//! to be made again: everything that it listens to may have changed in between.

use holdfast_mcp::method::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Call;

/// The first message on a listen stream.
pub(super) const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";

#[derive(Deserialize)]
struct Listen<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    params: Params,
}

#[derive(Deserialize)]
struct Params {
    #[serde(default)]
    notifications: Filter,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Filter {
    tools_list_changed: bool,
    prompts_list_changed: bool,
    resources_list_changed: bool,
    resource_subscriptions: Vec<String>,
}

/// Resolves when a listen stream has to end because its node does; never, for any other.
pub(super) async fn drained(call: &Call) {
    if call.method != Method::SubscriptionsListen {
        return std::future::pending().await;
    }
    call.gateway.draining.cancelled().await;
}

/// The notifications that say "look again", for the request's own filter and id.
pub(super) fn missed(request: &[u8]) -> Vec<String> {
    let Ok(Listen { id, params }) = serde_json::from_slice(request) else { return Vec::new() };
    let filter = params.notifications;
    let id = id.get();
    let lists = [
        (filter.tools_list_changed, "tools"),
        (filter.prompts_list_changed, "prompts"),
        (filter.resources_list_changed, "resources"),
    ];
    let lists = lists.iter().filter(|(asked, _)| *asked).map(|(_, list)| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/{list}/list_changed","params":{{"_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}}}}}}"#
        )
    });
    let resources = filter.resource_subscriptions.iter().map(|uri| {
        let uri = serde_json::Value::from(uri.as_str());
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"uri":{uri},"_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}}}}}}"#
        )
    });
    lists.chain(resources).collect()
}

#[cfg(test)]
mod tests {
    use super::missed;

    #[test]
    fn only_what_was_listened_to_is_told_and_under_the_clients_id() {
        let request = br#"{"jsonrpc":"2.0","id":"s\"1","method":"subscriptions/listen","params":{
            "notifications":{"toolsListChanged":true,"resourcesListChanged":false,
            "resourceSubscriptions":["file:///a\"b"]}}}"#;
        let told = missed(request);
        let values: Vec<serde_json::Value> =
            told.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        assert_eq!(values.len(), 2);
        assert_eq!(values[0]["method"], "notifications/tools/list_changed");
        assert_eq!(values[1]["params"]["uri"], "file:///a\"b");
        for value in values {
            assert_eq!(value["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "s\"1");
        }
    }

    #[test]
    fn a_request_without_a_filter_is_told_nothing() {
        assert!(missed(br#"{"id":1,"params":{}}"#).is_empty());
        assert!(missed(b"not json").is_empty());
    }
}
