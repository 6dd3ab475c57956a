//! 2026-07-28 over Streamable HTTP.

use serde_json::{Value, json};

use super::client::{Client, End, eventually, json_request, request, server, tool};

const VERSION: &str = "2026-07-28";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

fn modern_tool(name: &str, arguments: Value, more: Value) -> Value {
    let mut params = json!({
        "name": name, "arguments": arguments,
        "_meta": { CAPABILITIES: { "elicitation": {}, "sampling": {} } },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        params[key] = value.clone();
    }
    Client::modern("tools/call", params)
}

#[tokio::test]
async fn results_say_what_the_protocol_demands() {
    let server = server("").await;
    let client = Client::new(server.address, VERSION);
    for method in [
        "server/discover",
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
    ] {
        let result = client.call(&Client::modern(method, json!({}))).await["result"].take();
        assert_eq!(result["resultType"], "complete", "{method}");
        assert!(result["ttlMs"].is_u64() && result["cacheScope"] == "public", "{method}");
        let server = &result["_meta"]["io.modelcontextprotocol/serverInfo"];
        assert_eq!(server["name"], "sample", "{method}");
    }
    let result = client.call(&modern_tool("digits", json!({}), json!({}))).await;
    assert_eq!(result["result"]["resultType"], "complete");
    let answer = client.post(&modern_tool("echo", json!({}), json!({}))).await;
    assert_eq!(answer.header("mcp-session-id"), None);
    let read = |uri: &str| Client::modern("resources/read", json!({ "uri": uri }));
    assert_eq!(client.call(&read("drill://changing")).await["result"]["ttlMs"], 0);
    assert_eq!(client.call(&read("drill://none")).await["error"]["code"], -32602);
}

#[tokio::test]
async fn errors_have_their_status() {
    let server = server("").await;
    let client = Client::new(server.address, VERSION);
    let ask = async |message: Value| {
        let answer = client.post(&message).await;
        (answer.status, answer.json()["error"]["code"].as_i64().unwrap())
    };
    assert_eq!(ask(Client::modern("ping", json!({}))).await, (404, -32601));
    assert_eq!(ask(Client::modern("nothing/here", json!({}))).await, (404, -32601));
    assert_eq!(ask(json_request("tools/list", json!({}))).await, (400, -32602));
    assert_eq!(ask(json!([Client::modern("tools/list", json!({}))])).await, (400, -32600));
    let mut odd = Client::modern("tools/list", json!({}));
    odd["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2099-01-01".into();
    assert_eq!(ask(odd.clone()).await, (400, -32020), "header and body differ");
    let future = Client::new(server.address, "2099-01-01");
    let mut headers = future.headers(&odd);
    headers.push(("Mcp-Method".to_owned(), "tools/list".to_owned()));
    let body = odd.to_string();
    let answer = request(server.address, "POST", "/mcp", &headers, body.as_bytes());
    let answer = answer.await.unwrap().rest().await;
    assert_eq!(answer.json()["error"]["data"]["supported"], json!([VERSION]));
    assert_eq!((answer.status, answer.json()["error"]["code"].as_i64()), (400, Some(-32022)));

    let unable = Client::modern("tools/call", json!({ "name": "ask", "arguments": {} }));
    assert_eq!(ask(unable).await, (400, -32021));
    let unknown = modern_tool("nope", json!({}), json!({}));
    assert_eq!(ask(unknown).await, (200, -32602));
}

#[tokio::test]
async fn questions_go_in_rounds_and_only_here() {
    let server_one = server("").await;
    let client = Client::new(server_one.address, VERSION);
    let arguments = json!({ "message": "sure?", "rounds": 2 });
    let first = client.call(&modern_tool("ask", arguments.clone(), json!({}))).await;
    assert_eq!(first["result"]["resultType"], "input_required");
    assert_eq!(first["result"]["inputRequests"]["answer"]["method"], "elicitation/create");
    let next = |asked: &Value, answer: u64| {
        json!({
            "requestState": asked["result"]["requestState"],
            "inputResponses": { "answer": { "action": "accept", "content": { "n": answer } } },
        })
    };
    let second = client.call(&modern_tool("ask", arguments.clone(), next(&first, 1))).await;
    assert_eq!(second["result"]["resultType"], "input_required");
    let done = client.call(&modern_tool("ask", arguments.clone(), next(&second, 2))).await;
    assert_eq!(done["result"]["resultType"], "complete");
    assert_eq!(done["result"]["structuredContent"]["answers"][0]["content"]["n"], 1);
    assert_eq!(done["result"]["structuredContent"]["answers"][1]["content"]["n"], 2);

    let mut tampered = next(&first, 1);
    tampered["requestState"] = json!(format!("{}0", first["result"]["requestState"]));
    let refused = client.call(&modern_tool("ask", arguments.clone(), tampered)).await;
    assert_eq!(refused["error"]["code"], -32602);
    let other = server("").await;
    let stranger = Client::new(other.address, VERSION);
    let refused = stranger.call(&modern_tool("ask", arguments, next(&first, 1))).await;
    assert_eq!(refused["error"]["message"], "Invalid or expired requestState");
}

#[tokio::test]
async fn a_listen_is_acknowledged_told_and_ended() {
    let server = server("").await;
    let client = Client::new(server.address, VERSION);
    let wanted = json!({ "resourceSubscriptions": ["drill://changing"], "toolsListChanged": true });
    let mut message = Client::modern("subscriptions/listen", json!({ "notifications": wanted }));
    message["id"] = json!("sub-1");
    let mut listen = client.open(&message).await.unwrap();
    let acknowledged = listen.message().await;
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(acknowledged["params"]["notifications"], wanted);
    client.call(&modern_tool("touch", json!({}), json!({}))).await;
    let told = listen.message().await;
    assert_eq!(told["params"]["uri"], "drill://changing");
    assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "sub-1");
    server.post("close-streams", json!({})).await;
    let ended = listen.message().await;
    assert_eq!(
        (&ended["id"], &ended["result"]["resultType"]),
        (&json!("sub-1"), &json!("complete"))
    );
    assert_eq!(listen.event().await, None);

    let listen = client.open(&message).await.unwrap();
    assert_eq!(server.get("listens").await[0]["id"], "\"sub-1\"");
    drop(listen);
    eventually(async || server.get("listens").await == json!([])).await;
}

#[tokio::test]
async fn a_disconnect_cancels() {
    let server = server("").await;
    let client = Client::new(server.address, VERSION);
    // With a stream that has begun …
    let meta = json!({ "_meta": { CAPABILITIES: {}, "progressToken": 1 } });
    let arguments = json!({ "ms": 60_000, "steps": 6_000 });
    let mut call = client.open(&modern_tool("slow", arguments, meta)).await.unwrap();
    assert_eq!(call.message().await["method"], "notifications/progress");
    drop(call);
    eventually(async || server.get("cancellations").await.as_array().unwrap().len() == 1).await;
    // … and before any answer.
    let waiting = modern_tool("slow", json!({ "ms": 60_000 }), json!({}));
    let call = tokio::spawn(async move { client.open(&waiting).await.map(|_| ()) });
    eventually(async || server.get("executions").await["slow"][""] == 2).await;
    call.abort();
    eventually(async || server.get("cancellations").await.as_array().unwrap().len() == 2).await;
    assert_eq!(server.get("cancellations").await[1]["how"], "disconnect");
}

#[tokio::test]
async fn log_messages_come_only_when_asked_for() {
    let server = server("").await;
    let client = Client::new(server.address, VERSION);
    let log = |level: Value| {
        let meta =
            json!({ "_meta": { CAPABILITIES: {}, "io.modelcontextprotocol/logLevel": level } });
        modern_tool("log", json!({ "level": "warning" }), meta)
    };
    let sent =
        async |level| client.call(&log(level)).await["result"]["structuredContent"]["sent"].clone();
    assert_eq!(sent(Value::Null).await, 0);
    assert_eq!(sent(json!("error")).await, 0);
    assert_eq!(sent(json!("info")).await, 1);
}

#[tokio::test]
async fn an_era_that_is_not_served_is_refused() {
    let modern_only = server("--modern-only").await;
    let legacy = Client::new(modern_only.address, "2025-11-25");
    let refused = legacy.post(&json_request("initialize", json!({}))).await;
    assert_eq!(refused.status, 400);
    assert_eq!(legacy.listen(None).await.status, 405);
    let client = Client::new(modern_only.address, VERSION);
    assert_eq!(client.post(&modern_tool("echo", json!({}), json!({}))).await.status, 200);

    let legacy_only = server("--legacy-only").await;
    let client = Client::new(legacy_only.address, VERSION);
    let refused = client.post(&Client::modern("server/discover", json!({}))).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.json()["error"]["code"], -32000, "not a modern error");
    let legacy = legacy_only.session("2025-11-25", json!({})).await;
    assert_eq!(legacy.post(&tool("echo", json!({}))).await.end, End::Complete);
}
