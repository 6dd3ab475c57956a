//! Versions with sessions over Streamable HTTP.

use serde_json::{Value, json};

use super::client::{Client, End, eventually, json_request, request, server, tool};

const LATEST: &str = "2025-11-25";

#[tokio::test]
async fn a_session_lives_from_initialize_to_delete() {
    let server = server("").await;
    let client = server.session(LATEST, json!({})).await;
    let listed = client.call(&json_request("tools/list", json!({}))).await;
    assert_eq!(listed["result"]["tools"][0]["name"], "echo");
    assert_eq!(listed["result"]["tools"][0]["annotations"]["readOnlyHint"], true);
    assert!(listed["result"].get("resultType").is_none(), "a modern field");

    let stranger = Client::new(server.address, LATEST);
    assert_eq!(stranger.post(&json_request("tools/list", json!({}))).await.status, 400);
    let mut unknown = Client::new(server.address, LATEST);
    unknown.session = Some("unknown".to_owned());
    let refused = unknown.post(&json_request("tools/list", json!({}))).await;
    assert_eq!((refused.status, refused.json()["error"]["code"].clone()), (404, json!(-32001)));

    assert_eq!(client.delete().await, 200);
    assert_eq!(client.delete().await, 404);
    assert_eq!(client.post(&json_request("ping", json!({}))).await.status, 404);
}

#[tokio::test]
async fn the_version_is_negotiated_and_then_held_to() {
    let server = server("--latest 2025-06-18").await;
    let client = Client::new(server.address, LATEST);
    let params = json!({ "protocolVersion": "2030-01-01", "capabilities": {} });
    let answer = client.call(&json_request("initialize", params)).await;
    assert_eq!(answer["result"]["protocolVersion"], "2025-06-18");

    let mut client = server.session("2025-06-18", json!({})).await;
    for wrong in [LATEST, "2025-03-26x", "1"] {
        client.version = wrong.to_owned();
        assert_eq!(client.post(&json_request("ping", json!({}))).await.status, 400, "{wrong}");
    }
    client.version = "2024-11-05".to_owned();
    let refused = client.post(&json_request("ping", json!({}))).await;
    assert!(refused.text().contains("2025-06-18 was negotiated"), "{}", refused.text());
}

#[tokio::test]
async fn each_session_has_a_state_of_its_own() {
    let server = server("").await;
    let (one, two) =
        (server.session(LATEST, json!({})).await, server.session(LATEST, json!({})).await);
    for expected in 1..=3 {
        let counted = one.call(&tool("counter", json!({}))).await;
        assert_eq!(counted["result"]["structuredContent"]["count"], expected);
    }
    let counted = two.call(&tool("counter", json!({}))).await;
    assert_eq!(counted["result"]["structuredContent"]["count"], 1);
    let who = one.call(&tool("whoami", json!({}))).await;
    let seen = &who["result"]["structuredContent"]["session"];
    assert_eq!(seen["id"], one.session.as_deref().unwrap());
    assert_eq!(seen["clientInfo"]["name"], "test");
}

#[tokio::test]
async fn batches_belong_to_one_version() {
    let server = server("").await;
    let batch = json!([
        { "jsonrpc": "2.0", "id": "a", "method": "ping" },
        { "jsonrpc": "2.0", "method": "notifications/x" },
        { "jsonrpc": "2.0", "id": 2.5, "method": "nothing" },
    ]);
    let client = server.session("2025-03-26", json!({})).await;
    let answer = client.post(&batch).await.json();
    let mut ids: Vec<String> =
        answer.as_array().unwrap().iter().map(|part| part["id"].to_string()).collect();
    ids.sort();
    assert_eq!(ids, ["\"a\"", "2.5"]);
    assert_eq!(client.post(&json!([{ "jsonrpc": "2.0", "method": "x" }])).await.status, 202);
    let initialize = json!([json_request("initialize", json!({}))]);
    assert_eq!(client.post(&initialize).await.status, 400);

    let client = server.session(LATEST, json!({})).await;
    assert_eq!(client.post(&batch).await.status, 400);
}

#[tokio::test]
async fn a_log_level_is_kept_and_honoured() {
    let server = server("").await;
    let client = server.session(LATEST, json!({})).await;
    let sent = async |level: &str| {
        let answer = client.call(&tool("log", json!({ "level": level, "count": 2 }))).await;
        answer["result"]["structuredContent"]["sent"].clone()
    };
    assert_eq!(sent("debug").await, 2, "no level was set");
    client.call(&json_request("logging/setLevel", json!({ "level": "error" }))).await;
    assert_eq!(sent("warning").await, 0);
    assert_eq!(sent("critical").await, 2);
    let level = client.call(&tool("level", json!({}))).await;
    assert_eq!(level["result"]["structuredContent"]["level"], "error");
    assert_eq!(server.get("sessions").await[0]["level"], "error");
    let wrong = client.call(&json_request("logging/setLevel", json!({ "level": "loud" }))).await;
    assert_eq!(wrong["error"]["code"], -32602);
}

#[tokio::test]
async fn the_get_stream_tells_what_was_subscribed_to() {
    let server = server("").await;
    let client = server.session(LATEST, json!({})).await;
    let other = server.session(LATEST, json!({})).await;
    let mut stream = client.listen(None).await;
    assert_eq!(stream.status, 200);
    assert_eq!(client.listen(None).await.status, 409);
    let mut quiet = other.listen(None).await;

    let uri = json!({ "uri": "drill://changing" });
    client.call(&json_request("resources/subscribe", uri.clone())).await;
    other.call(&tool("touch", json!({}))).await;
    let updated = stream.message().await;
    assert_eq!(updated["method"], "notifications/resources/updated");
    assert_eq!(updated["params"], uri);
    client.call(&json_request("resources/unsubscribe", uri)).await;
    other.call(&tool("touch", json!({}))).await;
    other.call(&tool("toggle", json!({}))).await;
    for stream in [&mut stream, &mut quiet] {
        let changed = stream.message().await;
        assert_eq!(changed["method"], "notifications/tools/list_changed", "and nothing before");
    }
    let listed = client.call(&json_request("tools/list", json!({}))).await;
    let names = listed["result"]["tools"].as_array().unwrap();
    assert!(names.iter().any(|tool| tool["name"] == "extra"));

    drop(stream);
    eventually(async || client.listen(None).await.status == 200).await;
}

#[tokio::test]
async fn the_client_is_asked_on_the_calls_own_stream() {
    let server = server("").await;
    let client = server.session(LATEST, json!({ "elicitation": {}, "roots": {} })).await;
    let mut call = client.open(&tool("ask", json!({ "rounds": 2 }))).await.unwrap();
    for round in 1..=2 {
        let question = call.message().await;
        assert_eq!(question["method"], "elicitation/create");
        let answer = json!({
            "jsonrpc": "2.0", "id": question["id"],
            "result": { "action": "accept", "content": { "round": round } },
        });
        assert_eq!(client.post(&answer).await.status, 202);
    }
    let answer = call.message().await;
    assert_eq!(answer["result"]["structuredContent"]["answers"][1]["content"]["round"], 2);
    assert_eq!(call.event().await, None, "the stream ends with the answer");
    assert_eq!(server.get("answers").await.as_array().unwrap().len(), 2);

    let unable = client.call(&tool("sample", json!({}))).await;
    assert_eq!(unable["error"]["data"]["requiredCapabilities"], json!({ "sampling": {} }));
}

#[tokio::test]
async fn a_cancelled_call_ends_without_an_answer() {
    let server = server("--answers sse").await;
    let client = server.session(LATEST, json!({})).await;
    let mut message = tool("slow", json!({ "ms": 60_000 }));
    message["id"] = json!("c-1");
    let mut call = client.open(&message).await.unwrap();
    let cancel = json!({
        "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": "c-1" },
    });
    assert_eq!(client.post(&cancel).await.status, 202);
    assert_eq!(call.event().await, None);
    let seen = server.get("cancellations").await;
    assert_eq!((&seen[0]["id"], &seen[0]["running"]), (&json!("\"c-1\""), &json!(true)));
}

#[tokio::test]
async fn a_disconnect_is_no_cancellation() {
    let server = server("").await;
    let client = server.session(LATEST, json!({})).await;
    let call = tool("counter", json!({}));
    server
        .script(
            json!({ "tool": "counter", "fault": { "kind": "close_after_events", "events": 0 } }),
        )
        .await;
    assert_eq!(client.post(&call).await.events(), []);
    eventually(async || server.get("sessions").await[0]["counter"] == 1).await;
    assert_eq!(server.get("cancellations").await, json!([]));
}

#[tokio::test]
async fn answers_are_json_or_events_as_chosen() {
    let slow = || {
        let mut message = tool("slow", json!({ "ms": 3, "steps": 3 }));
        message["params"]["_meta"]["progressToken"] = json!(7);
        message
    };
    let automatic = server("").await;
    let client = automatic.session(LATEST, json!({})).await;
    let answer = client.post(&tool("echo", json!({}))).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let answer = client.post(&slow()).await;
    assert_eq!(answer.events().len(), 4);

    let events = server("--answers sse --crlf").await;
    let client = events.session(LATEST, json!({})).await;
    let answer = client.post(&tool("echo", json!({}))).await;
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    assert!(answer.text().starts_with("event: message\r\ndata: {"));
    assert!(answer.text().ends_with("}\r\n\r\n"));

    let plain = server("--answers json").await;
    let client = plain.session(LATEST, json!({})).await;
    let mut stream = client.listen(None).await;
    let answer = client.post(&slow()).await;
    assert_eq!(answer.json()["result"]["content"][0]["text"], "slept 3 ms in 3 steps");
    for step in 1..=3 {
        assert_eq!(stream.message().await["params"]["progress"], step);
    }
}

#[tokio::test]
async fn a_primed_stream_is_resumed_where_it_ended() {
    let server = server("--resumable --retry 70").await;
    let client = server.session(LATEST, json!({})).await;
    let fault = json!({ "kind": "close_after_events", "events": 1 });
    server.script(json!({ "tool": "slow", "fault": fault })).await;
    let mut message = tool("slow", json!({ "ms": 4, "steps": 2 }));
    message["params"]["_meta"]["progressToken"] = json!("t");
    let answer = client.post(&message).await;
    assert_eq!(answer.end, End::Complete, "a clean end");
    let events = answer.events();
    assert_eq!(events.len(), 2);
    assert_eq!((events[0].retry.as_deref(), events[0].data.as_str()), (Some("70"), ""));
    let last = events[1].id.as_deref().unwrap();
    assert!(events[1].data.contains("notifications/progress"));

    let resumed = client.listen(Some(last)).await.rest().await;
    let resumed = resumed.events();
    assert_eq!(resumed.len(), 2, "the second step and the answer");
    assert!(resumed[1].data.contains("slept"));
    // All of it once more, from the priming event.
    let again = client.listen(events[0].id.as_deref()).await.rest().await.events();
    assert_eq!(again.len(), 3);
    assert_eq!(again[1..], resumed[..], "with the same ids");
    assert_eq!(client.listen(Some("nonsense")).await.status, 400);

    let older = server.session("2025-06-18", json!({})).await;
    let answer = older.post(&message).await;
    assert!(answer.events()[0].id.is_some() && answer.events()[0].retry.is_none(), "not primed");
}

#[tokio::test]
async fn a_get_stream_is_resumed_too() {
    let server = server("--resumable").await;
    let client = server.session(LATEST, json!({})).await;
    let mut stream = client.listen(None).await;
    let primed = stream.event().await.unwrap();
    for number in 0..3 {
        let params = json!({ "number": number });
        server.post("emit", json!({ "method": "notifications/x", "params": params })).await;
    }
    assert_eq!(stream.message().await["params"]["number"], 0);
    server.post("close-streams", json!({})).await;
    while stream.event().await.is_some() {}
    let mut stream = client.listen(primed.id.as_deref()).await;
    assert_eq!(stream.event().await.unwrap().id, primed.id, "primed again where it begins");
    for number in 0..3 {
        assert_eq!(stream.message().await["params"]["number"], number);
    }
}

#[tokio::test]
async fn a_stateless_server_has_no_sessions() {
    let server = server("--stateless").await;
    let client = server.session(LATEST, json!({})).await;
    assert_eq!(client.session, None);
    assert!(client.call(&tool("echo", json!({ "text": "x" }))).await["result"].is_object());
    assert_eq!(client.listen(None).await.status, 405);
    assert_eq!(client.delete().await, 405);
    let other = Client::new(server.address, "2025-03-26");
    assert_eq!(
        other.post(&json!([{ "jsonrpc": "2.0", "id": 1, "method": "ping" }])).await.status,
        200
    );
}

#[tokio::test]
async fn bytes_stay_as_they_are() {
    let server = server("").await;
    let client = server.session(LATEST, json!({})).await;
    let body =
        r#"{"jsonrpc" : "2.0","id":1.50e3,"method":"tools/call","params":{"name":"digits"}}"#;
    let mut headers = client.headers(&json!({}));
    headers.push(("X-Odd-CASE".to_owned(), "a".to_owned()));
    headers.push(("x-odd-case".to_owned(), "b".to_owned()));
    let answer = request(client.address, "POST", "/mcp?q=%20", &headers, body.as_bytes()).await;
    let answer = answer.unwrap().rest().await.text();
    assert!(answer.starts_with(r#"{"jsonrpc":"2.0","id":1.50e3,"result":{"content":"#), "{answer}");
    assert!(
        answer.contains(r#""big":123456789012345678901234567890.10,"tiny":1E-400,"zero":-0.0"#)
    );

    let recorded = server.get("requests").await;
    let recorded = recorded.as_array().unwrap().last().unwrap();
    assert_eq!(recorded["path"], "/mcp?q=%20");
    let names: Vec<&str> = recorded["headers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| pair[0].as_str().unwrap())
        .collect();
    let end = ["X-Odd-CASE", "x-odd-case", "Content-Length"];
    assert_eq!(names[names.len() - 3..], end);
    use base64::Engine as _;
    let bytes =
        base64::engine::general_purpose::STANDARD.decode(recorded["body"].as_str().unwrap());
    assert_eq!(bytes.unwrap(), body.as_bytes());
}

#[tokio::test]
async fn lists_come_in_pages() {
    let server = server("--page-size 7").await;
    let client = server.session(LATEST, json!({})).await;
    let (mut names, mut cursor) = (Vec::new(), Value::Null);
    loop {
        let params = if cursor.is_null() { json!({}) } else { json!({ "cursor": cursor }) };
        let page = client.call(&json_request("tools/list", params)).await["result"].take();
        let tools = page["tools"].as_array().unwrap().clone();
        assert!(tools.len() <= 7);
        names.extend(tools.into_iter().map(|tool| tool["name"].to_string()));
        cursor = page["nextCursor"].clone();
        if cursor.is_null() {
            break;
        }
    }
    let total = names.len();
    names.sort();
    names.dedup();
    assert!(names.len() == total && total >= 19, "{names:?}");
    let wrong = client.call(&json_request("tools/list", json!({ "cursor": "x" }))).await;
    assert_eq!(wrong["error"]["code"], -32602);
}

#[tokio::test]
async fn resources_prompts_and_completion_answer() {
    let server = server("").await;
    let client = server.session(LATEST, json!({})).await;
    let read =
        async |uri: &str| client.call(&json_request("resources/read", json!({ "uri": uri }))).await;
    assert!(read("drill://static/text").await["result"]["contents"][0]["text"].is_string());
    assert!(read("drill://static/binary").await["result"]["contents"][0]["blob"].is_string());
    assert_eq!(read("drill://item/7").await["result"]["contents"][0]["text"], r#"{"id":"7"}"#);
    let missing = read("drill://none").await;
    assert_eq!(missing["error"]["code"], -32002);
    assert_eq!(missing["error"]["data"]["uri"], "drill://none");

    let params = json!({ "name": "greet", "arguments": { "name": "Ö" } });
    let prompt = client.call(&json_request("prompts/get", params)).await;
    assert_eq!(prompt["result"]["messages"][0]["content"]["text"], "Greet Ö in english.");
    let params = json!({
        "ref": { "type": "ref/resource", "uri": "drill://item/{id}" },
        "argument": { "name": "id", "value": "" },
    });
    let completion = client.call(&json_request("completion/complete", params)).await;
    assert_eq!(completion["result"]["completion"]["values"].as_array().unwrap().len(), 100);
    assert_eq!(completion["result"]["completion"]["hasMore"], true);
}

#[tokio::test]
async fn what_is_not_mcp_is_refused() {
    let server = server("").await;
    let body = json_request("ping", json!({})).to_string();
    let status = async |headers: &[(&str, &str)], body: &str| {
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        request(server.address, "POST", "/mcp", &headers, body.as_bytes()).await.unwrap().status
    };
    let (kind, accept) = (("Content-Type", "application/json"), ("Accept", "*/*"));
    assert_eq!(status(&[kind, accept], "{").await, 400);
    assert_eq!(status(&[("Content-Type", "text/plain"), accept], &body).await, 415);
    assert_eq!(status(&[kind, ("Accept", "application/json")], &body).await, 406);
    assert_eq!(status(&[kind, accept, ("Origin", "http://evil.example")], &body).await, 403);
    let own = format!("http://{}", server.address);
    assert_eq!(status(&[kind, accept, ("Origin", &own)], &body).await, 400, "no session");
    let evil = [("Origin".to_owned(), "http://evil.example".to_owned())];
    let reset = request(server.address, "POST", "/_drill/reset", &evil, b"").await.unwrap();
    assert_eq!(reset.status, 403, "a web page must not script the server");
}
