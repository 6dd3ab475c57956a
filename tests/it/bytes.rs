//! Bytes in are bytes out: what a client sends reaches the server as it was written, and what a
//! server answers reaches the client as it was written.

use crate::harness::client::{Client, Posted};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message::{self, META};
use crate::harness::recorder::{Recorder, Reply, Seen, Step};

async fn start(
    script: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static,
) -> (Recorder, Gateway) {
    let recorder = Recorder::scripted(script).await;
    let gateway = Setup::http(&recorder.url()).start().await;
    (recorder, gateway)
}

/// Messages that a parser would be tempted to tidy up. `{M}` stands for the modern `_meta`.
const ODD: [&str; 16] = [
    r#"{"jsonrpc":"2.0","id":1,"method":"x/unknown","params":{"b":1,"a":2,{M}}}"#,
    r#"{"unknown":[null,true],"jsonrpc":"2.0","id":"é✓","method":"x/unknown","params":{{M}},"z":{}}"#,
    r#"{"jsonrpc":"2.0","id":"\u00e9\ud83d\ude00\/","method":"x\/unknown","params":{{M}}}"#,
    r#"{"jsonrpc":"2.0","id":123456789012345678901234567890,"method":"x/unknown","params":{{M}}}"#,
    r#"{"jsonrpc":"2.0","id":1.0,"method":"x/unknown","params":{{M}}}"#,
    r#"{"jsonrpc":"2.0","id":-0,"method":"x/unknown","params":{{M}}}"#,
    r#"{"jsonrpc":"2.0","id":1E2,"method":"x/unknown","params":{{M}}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"x/unknown","params":{"n":1e400,"m":0.10,"k":-1.50e+07,{M}}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"x/unknown","params":{"n":123456789012345678901234567890.123456789012345678901,{M}}}"#,
    "{\n\t\"jsonrpc\" : \"2.0\" ,\r\n  \"id\" : 1 , \"method\" : \"x/unknown\" , \"params\" : { {M} } }\n\n",
    r#"  {"jsonrpc":"2.0","id":1,"method":"x/unknown","params":{{M}}}  "#,
    r#"{"params":{{M}},"method":"x/unknown","id":1,"jsonrpc":"2.0"}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"x/unknown","params":{"s":"\b\f\n\r\t\"\\\u0000\u2028","":"",{M}}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"x/unknown","params":{"deep":[[[[[[[[{"a":[{"b":[]}]}]]]]]]]],{M}}}"#,
    r#"{"jsonrpc":"2.0","id":"","method":"x/unknown","params":{"empty":{},"none":null,{M}}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"x/unknown","params":{"$schema":"x","if":{},"then":{},{M}}}"#,
];

fn with_meta(text: &str) -> String {
    text.replace("{M}", META)
}

/// An id as the server must send it back.
fn echo(seen: &Seen) -> String {
    message::result(seen.id(), r#"{"resultType":"complete","n":1e400,"same":true}"#)
}

#[tokio::test]
async fn modern_requests_and_answers_are_left_alone() {
    let (recorder, gateway) =
        start(|seen| (seen.rpc() == "x/unknown").then(|| Reply::json(echo(seen)))).await;
    let client = Client::modern(&gateway);
    for (number, odd) in ODD.iter().enumerate() {
        let body = with_meta(odd);
        let answer = client.post(&body).await.answer();
        let seen = recorder.rpc("x/unknown");
        assert_eq!(seen.len(), number + 1, "{body}: {}", answer.text());
        assert_eq!(seen[number].text(), body);
        assert_eq!(answer.text(), echo(&seen[number]), "{body}");
        assert_eq!(answer.status, 200);
        let kind = answer.header("content-type").unwrap();
        assert!(kind.starts_with("application/json"), "JSON stays JSON: {kind}");
    }
}

#[tokio::test]
async fn legacy_requests_and_answers_are_left_alone() {
    let (recorder, gateway) =
        start(|seen| (seen.rpc() == "x/unknown").then(|| Reply::json(echo(seen)))).await;
    let client = Client::legacy(&gateway).initialized().await;
    for (number, odd) in ODD.iter().enumerate() {
        let body = odd.replace("{M}", r#""_meta":{"progressToken":1.50,"x":"y"}"#);
        let answer = client.post(&body).await.answer();
        let seen = recorder.rpc("x/unknown");
        assert_eq!(seen.len(), number + 1, "{body}: {}", answer.text());
        assert_eq!(seen[number].text(), body);
        assert_eq!(answer.text(), echo(&seen[number]), "{body}");
    }
}

#[tokio::test]
async fn initialize_is_left_alone() {
    let (recorder, gateway) = start(|_| None).await;
    let body = r#"{ "jsonrpc":"2.0","id":"\u0031","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"experimental":{"n":1.0}},"clientInfo":{"name":"é","version":"1","x":1e400}}}"#;
    let answer = Client::legacy(&gateway).post(body).await.answer();
    assert_eq!(recorder.rpc("initialize")[0].text(), body);
    assert!(
        answer.text().starts_with(r#"{"jsonrpc":"2.0","id":"\u0031","result":"#),
        "{}",
        answer.text()
    );
    assert!(answer.text().contains(r#""serverInfo":{"name":"recorder","version":"1"}"#));
}

/// Notifications and the client's own responses to a server's requests.
#[tokio::test]
async fn messages_without_an_answer_are_left_alone() {
    let (recorder, gateway) = start(|_| None).await;
    let client = Client::legacy(&gateway).initialized().await;
    for body in [
        r#"{"jsonrpc":"2.0","method":"notifications/x","params":{"n":1.00,"a":1e400}}"#,
        r#"{ "method":"notifications/cancelled", "jsonrpc":"2.0", "params":{"requestId":7.0,"reason":"\u00e9"}}"#,
    ] {
        let answer = client.post(body).await.answer();
        assert_eq!((answer.status, answer.body.len()), (202, 0), "{body}");
        recorder.wait_for(body, 1, |seen| seen.text() == body).await;
    }
}

#[tokio::test]
async fn headers_reach_the_server() {
    let (recorder, gateway) = start(|_| None).await;
    let sent = [
        ("Mcp-Param-Region", "eu-west"),
        ("Mcp-Param-Note", "=?base64?w6k=?="),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "a=1,b=2"),
        ("baggage", "user=alice"),
        ("User-Agent", "it/1.0 (odd; agent)"),
        ("Accept-Language", "de"),
        ("X-Custom", "  spaces are trimmed  "),
        ("X-Latin", "ascii only"),
    ];
    let client =
        sent.iter().fold(Client::modern(&gateway), |it, (name, value)| it.with(name, value));
    client.call(1, "tool").await;
    let seen = recorder.calls("tool").remove(0);
    for (name, value) in sent {
        assert_eq!(seen.header(name), Some(value.trim()), "{}", seen.head);
    }
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/mcp"));
    assert_eq!(seen.header("mcp-method"), Some("tools/call"));
    assert_eq!(seen.header("mcp-name"), Some("tool"));
    assert_eq!(seen.header("mcp-protocol-version"), Some("2026-07-28"));
    assert_eq!(seen.header("mcp-session-id"), None);
    let accept = seen.header("accept").unwrap();
    assert!(accept.contains("application/json") && accept.contains("text/event-stream"));
}

/// Headers that occur more than once stay as often and in order.
#[tokio::test]
async fn repeated_headers_reach_the_server() {
    let (recorder, gateway) = start(|_| None).await;
    Client::modern(&gateway).with("X-Many", "1").with("X-Many", "2").call(1, "tool").await;
    let seen = recorder.calls("tool").remove(0);
    let many: Vec<&str> = seen
        .headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("x-many"))
        .map(|(_, value)| value.as_str())
        .collect();
    assert!(many == ["1", "2"] || many == ["1, 2"], "{many:?}");
}

#[tokio::test]
async fn the_servers_status_and_headers_reach_the_client() {
    let (_recorder, gateway) = start(|seen| {
        let status: u16 = seen.tool().strip_prefix("status-")?.parse().ok()?;
        let body = message::error(seen.id(), -32601, "as the server says");
        Some(Reply::Json(status, vec![("X-Server".into(), "kept".into())], body))
    })
    .await;
    let client = Client::modern(&gateway);
    for status in [200, 400, 404] {
        let tool = format!("status-{status}");
        let answer = client.post(&message::modern_call("\"the id\"", &tool)).await.answer();
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.text(), message::error("\"the id\"", -32601, "as the server says"));
        assert_eq!(answer.header("x-server"), Some("kept"));
    }
}

/// 401 and 403 of a server with its own authorization, `WWW-Authenticate` included.
#[tokio::test]
async fn a_servers_challenge_reaches_the_client() {
    let (_recorder, gateway) = start(|seen| {
        let status: u16 = seen.tool().strip_prefix("status-")?.parse().ok()?;
        let challenge = ("WWW-Authenticate".into(), "Bearer error=\"insufficient_scope\"".into());
        Some(Reply::Json(status, vec![challenge], "{}".into()))
    })
    .await;
    for status in [401, 403] {
        let body = message::modern_call(1, &format!("status-{status}"));
        let answer = Client::modern(&gateway).post(&body).await.answer();
        assert_eq!(answer.status, status);
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        assert!(challenge.contains("insufficient_scope"), "{challenge}");
    }
}

#[tokio::test]
async fn large_bodies_in_both_directions() {
    let (recorder, gateway) = start(|seen| {
        let text = seen.text();
        (seen.rpc() == "x/large").then(|| {
            Reply::json(message::result(
                1,
                &format!(r#"{{"resultType":"complete","size":{}}}"#, text.len())
                    .replace("}", &format!(r#","text":"{}"}}"#, "ü".repeat(text.len() / 4))),
            ))
        })
    })
    .await;
    let filler = "é€😀".repeat(3 * 1024 * 1024 / 9);
    let params = format!(r#"{{"text":"{filler}",{META}}}"#);
    let body = message::request(1, "x/large", &params);
    assert!(body.len() > 3_000_000);
    let answer = Client::modern(&gateway).post(&body).await.answer();
    assert_eq!(recorder.rpc("x/large")[0].text(), body);
    let result = &answer.json()["result"];
    assert_eq!(result["size"], body.len());
    assert_eq!(result["text"].as_str().unwrap().chars().count(), body.len() / 4);
}

/// The data of every event is the server's own text, and an event stream stays one.
#[tokio::test]
async fn streamed_messages_are_left_alone() {
    const PROGRESS: &str = r#"{ "jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1.50,"progress":1.0,"x":1e400}}"#;
    const RESULT: &str =
        r#"{"jsonrpc":"2.0","id":1.0,"result":{"resultType":"complete","é":"\u00e9","n":0.10}}"#;
    let (_recorder, gateway) = start(|seen| {
        (seen.tool() == "stream").then(|| {
            Reply::Stream(vec![
                Step::Send(message::event(PROGRESS)),
                Step::Send(": a comment\n\n".into()),
                Step::Send(message::event(RESULT)),
            ])
        })
    })
    .await;
    let legacy = Client::legacy(&gateway).initialized().await;
    for (client, body) in [
        (Client::modern(&gateway), message::modern_call("1.0", "stream")),
        (legacy, message::call("1.0", "stream")),
    ] {
        let Posted::Stream(mut stream) = client.post(&body).await else {
            panic!("{}: the stream became an answer", client.version);
        };
        let mut data = Vec::new();
        while let Some(event) = stream.next().await {
            data.extend(event.data.filter(|it| !it.is_empty()));
        }
        assert_eq!(data, [PROGRESS, RESULT], "{}", client.version);
    }
}

/// An event that is split over lines by the server is the same message to the client.
#[tokio::test]
async fn data_of_several_lines_is_one_message() {
    let (_recorder, gateway) = start(|seen| {
        (seen.tool() == "stream").then(|| {
            Reply::Stream(vec![Step::Send(
                "event: message\r\ndata: {\"jsonrpc\":\"2.0\",\r\ndata: \"id\":1,\r\ndata: \"result\":{\"resultType\":\"complete\"}}\r\n\r\n".into(),
            )])
        })
    })
    .await;
    let response = Client::modern(&gateway).call(1, "stream").await;
    assert_eq!(response["result"]["resultType"], "complete");
}

/// What the protocol makes the gateway check: header and body of a modern request agree.
#[tokio::test]
async fn a_header_that_contradicts_the_body_is_refused() {
    let (recorder, gateway) = start(|_| None).await;
    let body = message::modern_call(7, "tool");
    let good = Client::modern(&gateway).request("POST", &[], Some(&body));
    for (from, to) in [
        ("Mcp-Method: tools/call\r\n", "Mcp-Method: tools/list\r\n"),
        ("Mcp-Method: tools/call\r\n", "Mcp-Method: TOOLS/CALL\r\n"),
        ("Mcp-Method: tools/call\r\n", ""),
        ("Mcp-Name: tool\r\n", "Mcp-Name: other\r\n"),
        ("Mcp-Name: tool\r\n", "Mcp-Name: tool\r\nMcp-Name: tool\r\n"),
        ("Mcp-Name: tool\r\n", "Mcp-Name: =?base64?!!?=\r\n"),
        ("Mcp-Name: tool\r\n", ""),
        ("MCP-Protocol-Version: 2026-07-28\r\n", "MCP-Protocol-Version: 2025-11-25\r\n"),
        ("MCP-Protocol-Version: 2026-07-28\r\n", ""),
    ] {
        assert!(good.contains(from), "{from}");
        let request = good.replace(from, to);
        let answer =
            crate::harness::wire::Conn::open(gateway.address).await.exchange(request).await;
        assert_eq!(answer.status, 400, "{from} as {to}: {}", answer.text());
        assert_eq!(answer.json()["error"]["code"], -32020, "{from} as {to}: {}", answer.text());
        assert_eq!(answer.json()["id"], 7);
    }
    assert!(recorder.calls("tool").is_empty());
    // Blanks around a value and the encoded form are the same value.
    for to in ["Mcp-Name:    tool  \r\n", "Mcp-Name: =?base64?dG9vbA==?=\r\n"] {
        let request = good.replace("Mcp-Name: tool\r\n", to);
        let answer =
            crate::harness::wire::Conn::open(gateway.address).await.exchange(request).await;
        assert_eq!(answer.status, 200, "{to}: {}", answer.text());
    }
}

/// What is no JSON-RPC message is refused here, and no server hears of it.
#[tokio::test]
async fn malformed_messages_are_refused() {
    let (recorder, gateway) = start(|_| None).await;
    let client = Client::legacy(&gateway).initialized().await;
    let before = recorder.seen().len();
    for (body, code) in [
        ("", -32700),
        ("{", -32700),
        ("nonsense", -32700),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a"} x"#, -32700),
        ("null", -32600),
        ("7", -32600),
        ("{}", -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"a"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"a"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":null,"method":"a"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":{},"method":"a"}"#, -32600),
        ("[]", -32600),
    ] {
        let answer = client.post(body).await.answer();
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        assert_eq!(answer.json()["error"]["code"], code, "{body}: {}", answer.text());
    }
    assert_eq!(recorder.seen().len(), before);
}
