//! A server that is killed and comes back, between calls and in the middle of one: the client's
//! session goes on, a Write ran at most once, and the answer says what is known.

use serde_json::Value;

use crate::harness::client::Client;
use crate::harness::eventually;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message;
use crate::harness::process::signal;
use crate::harness::sample::{ExecutionLog, Sample, stdio};

async fn start(transport: &str) -> (Sample, Gateway) {
    let sample = Sample::start(&[]).await;
    let address = sample.address;
    let settings = match transport {
        "http" => format!(r#"{{ url: "http://{address}/mcp" }}"#),
        "sse" => format!(r#"{{ url: "http://{address}/sse", transport: sse }}"#),
        _ => format!(r#"{{ url: "ws://{address}/ws" }}"#),
    };
    (sample, Setup::new().server("main", &settings).start().await)
}

const TRANSPORTS: [&str; 3] = ["http", "sse", "websocket"];

fn write(id: &str, key: &str, ms: u32) -> String {
    let params = format!(r#"{{"name":"write","arguments":{{"key":"{key}","ms":{ms}}}}}"#);
    message::request(format!("\"{id}\""), "tools/call", &params)
}

async fn call(client: &Client, body: &str) -> Value {
    client.post(body).await.response().await
}

fn ok(transport: &str, response: &Value) {
    assert!(response.get("result").is_some(), "{transport}: {response}");
}

#[tokio::test]
async fn between_calls() {
    for transport in TRANSPORTS {
        let (mut sample, gateway) = start(transport).await;
        let client = Client::legacy(&gateway).initialized().await;
        ok(transport, &client.ask(1, "logging/setLevel", r#"{"level":"error"}"#).await);
        ok(transport, &call(&client, &write("a", "before", 0)).await);
        sample.restart().await;
        // What is written before the gateway has seen the connection's end is rightly of unknown
        // outcome; this is about a Write that comes after.
        ok(transport, &client.ask(3, "ping", "{}").await);
        ok(transport, &call(&client, &write("b", "after", 0)).await);
        assert_eq!(sample.executions("write", "before"), 1, "{transport}");
        assert_eq!(sample.executions("write", "after"), 1, "{transport}");
        // The new session is as the old one was.
        let level = client.call(2, "level").await;
        assert_eq!(level["result"]["content"][0]["text"], "error", "{transport}: {level}");
    }
}

#[tokio::test]
async fn in_the_middle_of_a_write() {
    for transport in TRANSPORTS {
        let (mut sample, gateway) = start(transport).await;
        let client = Client::legacy(&gateway).initialized().await;
        let caller = client.clone();
        let running = tokio::spawn(async move { call(&caller, &write("w", "key", 600_000)).await });
        eventually("the execution", || (sample.executions("write", "key") == 1).then_some(()))
            .await;
        sample.restart().await;
        let response = running.await.unwrap();
        assert_eq!(response["error"]["code"], -31002, "{transport}: {response}");
        assert_eq!(response["id"], "w", "{transport}: {response}");
        ok(transport, &call(&client, &write("x", "later", 0)).await);
        assert_eq!(sample.executions("write", "key"), 1, "{transport}: it ran again");
        assert_eq!(sample.executions("write", "later"), 1, "{transport}");
    }
}

/// While the server is away nothing runs, and the answer says so; the session waits.
#[tokio::test]
async fn while_it_is_away() {
    for transport in TRANSPORTS {
        let (mut sample, gateway) = start(transport).await;
        let client = Client::legacy(&gateway).initialized().await;
        ok(transport, &call(&client, &write("a", "before", 0)).await);
        sample.kill();
        let response = call(&client, &write("b", "away", 0)).await;
        let code = response["error"]["code"].as_i64().unwrap_or_default();
        assert!([-31001, -31002].contains(&code), "{transport}: {response}");
        assert_eq!(response["id"], "b", "{transport}: {response}");
        // Once the loss is known, there is no doubt that nothing ran.
        let response = call(&client, &write("c", "away", 0)).await;
        assert_eq!(response["error"]["code"], -31001, "{transport}: {response}");
        sample.restart().await;
        crate::harness::within("the way back", async {
            loop {
                let response = call(&client, &write("d", "back", 0)).await;
                if response.get("result").is_some() {
                    return;
                }
                // A back-off may still be running.
                assert_eq!(response["error"]["code"], -31001, "{transport}: {response}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        })
        .await;
        assert_eq!(sample.executions("write", "away"), 0, "{transport}");
        assert_eq!(sample.executions("write", "back"), 1, "{transport}");
    }
}

/// A server that ends right after it ran the call, before its answer is out.
#[tokio::test]
async fn a_server_that_dies_of_the_call() {
    for transport in TRANSPORTS {
        let rule =
            r#"{"method":"tools/call","tool":"write","execute":true,"fault":{"kind":"exit"}}"#;
        let mut sample = Sample::start(&["--behaviour", rule]).await;
        let address = sample.address;
        let settings = match transport {
            "http" => format!(r#"{{ url: "http://{address}/mcp" }}"#),
            "sse" => format!(r#"{{ url: "http://{address}/sse", transport: sse }}"#),
            _ => format!(r#"{{ url: "ws://{address}/ws" }}"#),
        };
        let gateway = Setup::new().server("main", &settings).start().await;
        let client = Client::legacy(&gateway).initialized().await;
        let response = call(&client, &write("w", "key", 0)).await;
        assert_eq!(response["error"]["code"], -31002, "{transport}: {response}");
        assert_eq!(response["error"]["data"]["mayHaveRun"], true, "{transport}: {response}");
        sample.restart().await;
        assert_eq!(sample.executions("write", "key"), 1, "{transport}");
    }
}

/// A stdio process that is killed is started again where it is next needed.
#[tokio::test]
async fn stdio_between_calls_and_in_the_middle() {
    let log = ExecutionLog::new();
    let gateway = Setup::new().server("main", &stdio(&log, "kill")).start().await;
    let client = Client::legacy(&gateway).initialized().await;
    ok("stdio", &call(&client, &write("a", "first", 0)).await);
    let first = log.pid("first").expect("an execution");

    signal(first, "KILL");
    // The pipe of a process that is gone takes what is written to it, so a Write that comes before
    // the gateway has seen the end is rightly of unknown outcome; this is about one that comes after.
    gateway.wait_metric("holdfast_server_process_exits_total", |many| many >= 1.0).await;
    ok("stdio", &call(&client, &write("b", "second", 0)).await);
    let second = log.pid("second").expect("an execution");
    assert_ne!(first, second);

    let caller = client.clone();
    let running = tokio::spawn(async move { call(&caller, &write("w", "key", 600_000)).await });
    eventually("the execution", || (log.executions("write", "key") == 1).then_some(())).await;
    signal(second, "KILL");
    let response = running.await.unwrap();
    assert_eq!(response["error"]["code"], -31002, "{response}");
    assert_eq!(response["id"], "w");

    ok("stdio", &call(&client, &write("c", "third", 0)).await);
    for key in ["first", "second", "key", "third"] {
        assert_eq!(log.executions("write", key), 1, "{key}");
    }
}

/// A Read that was under way is called again in the new process.
#[tokio::test]
async fn stdio_in_the_middle_of_a_read() {
    let log = ExecutionLog::new();
    let gateway = Setup::new().server("main", &stdio(&log, "read")).start().await;
    let client = Client::legacy(&gateway).initialized().await;
    client.ask(0, "tools/list", "{}").await;
    let caller = client.clone();
    let params = r#"{"name":"slow","arguments":{"key":"read","ms":3000}}"#;
    let body = message::request(1, "tools/call", params);
    let running = tokio::spawn(async move { call(&caller, &body).await });
    let pid = eventually("the execution", || log.pid("read")).await;
    signal(pid, "KILL");
    let response = running.await.unwrap();
    ok("stdio", &response);
    assert_eq!(response["id"], 1);
    assert_eq!(log.executions("slow", "read"), 2);
}

/// The shared process of the modern era.
#[tokio::test]
async fn stdio_in_the_modern_era() {
    let log = ExecutionLog::new();
    let gateway = Setup::new().server("main", &stdio(&log, "modern")).start().await;
    let client = Client::modern(&gateway);
    let write = |id: &str, key: &str, ms: u32| {
        let params = format!(
            r#"{{"name":"write","arguments":{{"key":"{key}","ms":{ms}}},{}}}"#,
            message::META
        );
        message::request(format!("\"{id}\""), "tools/call", &params)
    };
    ok("stdio", &call(&client, &write("a", "first", 0)).await);
    let first = log.pid("first").expect("an execution");
    let (caller, body) = (client.clone(), write("w", "key", 600_000));
    let running = tokio::spawn(async move { call(&caller, &body).await });
    eventually("the execution", || (log.executions("write", "key") == 1).then_some(())).await;
    signal(first, "KILL");
    let response = running.await.unwrap();
    assert_eq!(response["error"]["code"], -31002, "{response}");
    crate::harness::within("a new process", async {
        while call(&client, &write("b", "second", 0)).await.get("result").is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_ne!(log.pid("second"), Some(first));
    assert_eq!(log.executions("write", "key"), 1);
}
