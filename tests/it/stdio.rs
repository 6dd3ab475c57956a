//! Servers that are processes: who gets which, and that none is ever left behind.

use crate::harness::client::{Client, Posted};
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message::{self, META};
use crate::harness::process::{binary, is_alive, with_environment};
use crate::harness::sample::{ExecutionLog, stdio};
use crate::harness::wire::Answer;
use crate::harness::{TempDir, eventually};

async fn start(mark: &str) -> (ExecutionLog, Gateway) {
    let log = ExecutionLog::new();
    let gateway = Setup::new().server("main", &stdio(&log, mark)).start().await;
    (log, gateway)
}

/// The process that serves this client, found by what it writes down.
async fn pid(log: &ExecutionLog, client: &Client, key: &str) -> u32 {
    let meta = if client.version == message::MODERN { format!(",{META}") } else { String::new() };
    let params = format!(r#"{{"name":"write","arguments":{{"key":"{key}"}}{meta}}}"#);
    let response = client.ask(1, "tools/call", &params).await;
    assert!(response.get("result").is_some(), "{response}");
    log.pid(key).expect("an execution")
}

/// Unique over test processes, so that each finds only its own.
fn mark(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

/// Processes with this mark, the gateway's guard left out: it serves the gateway, not a session.
fn marked(mark: &str) -> Vec<u32> {
    with_environment(&format!("HOLDFAST_IT_MARK={mark}"))
}

async fn none_left(mark: &str) {
    eventually("no process is left", || marked(mark).is_empty().then_some(())).await;
}

#[tokio::test]
async fn every_legacy_session_has_a_process_of_its_own() {
    let (log, gateway) = start(&mark("own")).await;
    let first = Client::legacy(&gateway).initialized().await;
    let second = Client::legacy(&gateway).initialized().await;
    let pids = [pid(&log, &first, "a").await, pid(&log, &second, "b").await];
    assert_ne!(pids[0], pids[1]);
    assert_eq!(pid(&log, &first, "c").await, pids[0]);
    first.delete().await;
    eventually("the end of its process", || (!is_alive(pids[0])).then_some(())).await;
    assert!(is_alive(pids[1]), "the other session's process goes on");
    assert_eq!(pid(&log, &second, "d").await, pids[1]);
}

#[tokio::test]
async fn modern_clients_share_one() {
    let (log, gateway) = start(&mark("shared")).await;
    let mut pids = std::collections::BTreeSet::new();
    for number in 0..5 {
        pids.insert(pid(&log, &Client::modern(&gateway), &number.to_string()).await);
    }
    assert_eq!(pids.len(), 1, "{pids:?}");
}

/// The session of a WebSocket client ends with its connection, and so does the process.
#[tokio::test]
async fn a_connection_that_closes_takes_its_process_along() {
    use crate::harness::duplex::Duplex;
    let mark = mark("closing");
    let (log, gateway) = start(&mark).await;
    let mut duplex = Duplex::websocket(gateway.address, "/mcp").await;
    duplex.ask(&message::initialize(message::LEGACY)).await;
    let body = message::request(1, "tools/call", r#"{"name":"write","arguments":{"key":"k"}}"#);
    duplex.ask(&body).await;
    let pid = log.pid("k").expect("an execution");
    drop(duplex);
    eventually("the end of its process", || (!is_alive(pid)).then_some(())).await;
    none_left(&mark).await;
}

#[tokio::test]
async fn none_is_left_after_sigterm() {
    let mark = mark("term");
    let (log, mut gateway) = start(&mark).await;
    for number in 0..3 {
        pid(&log, &Client::legacy(&gateway).initialized().await, &number.to_string()).await;
    }
    pid(&log, &Client::modern(&gateway), "modern").await;
    assert!(marked(&mark).len() >= 4);
    assert!(gateway.stop().success());
    none_left(&mark).await;
}

#[tokio::test]
async fn none_is_left_after_kill_9() {
    let mark = mark("kill");
    let (log, mut gateway) = start(&mark).await;
    for number in 0..3 {
        pid(&log, &Client::legacy(&gateway).initialized().await, &number.to_string()).await;
    }
    assert!(marked(&mark).len() >= 3);
    gateway.kill();
    none_left(&mark).await;
}

/// As `npx` does it: a shell that starts the server as its child and has another child besides.
/// None of them reads a signal that is sent to the first alone.
fn like_npx(log: &ExecutionLog, mark: &str) -> String {
    let script = format!(
        "sleep 3600 & {} sample-server --stdio --execution-log {} ; wait",
        binary().display(),
        log.path().display()
    );
    format!(
        r#"{{ command: sh, args: ["-c", "{script}"], env: {{ HOLDFAST_IT_MARK: "{mark}" }}, stop_grace: 200ms }}"#
    )
}

async fn start_npx(mark: &str) -> (ExecutionLog, Gateway, Client) {
    let log = ExecutionLog::new();
    let gateway = Setup::new().server("main", &like_npx(&log, mark)).start().await;
    let client = Client::legacy(&gateway).initialized().await;
    pid(&log, &client, "k").await;
    assert!(marked(mark).len() >= 3, "a shell, its sleep and the server");
    (log, gateway, client)
}

#[tokio::test]
async fn grandchildren_end_with_the_session() {
    let mark = mark("npx-session");
    let (_log, _gateway, client) = start_npx(&mark).await;
    client.delete().await;
    none_left(&mark).await;
}

#[tokio::test]
async fn grandchildren_end_with_sigterm() {
    let mark = mark("npx-term");
    let (_log, mut gateway, _client) = start_npx(&mark).await;
    gateway.stop();
    none_left(&mark).await;
}

#[tokio::test]
async fn grandchildren_end_with_kill_9() {
    let mark = mark("npx-kill");
    let (_log, mut gateway, _client) = start_npx(&mark).await;
    gateway.kill();
    none_left(&mark).await;
}

/// A session that expires takes its process along.
#[tokio::test]
async fn an_expired_session_has_no_process() {
    let mark = mark("expired");
    let log = ExecutionLog::new();
    let gateway = Setup::new()
        .section("sessions: { ttl: 10s }")
        .server("main", &stdio(&log, &mark))
        .start()
        .await;
    let client = Client::legacy(&gateway).initialized().await;
    let served = pid(&log, &client, "k").await;
    eventually("the end of its process", || (!is_alive(served)).then_some(())).await;
    none_left(&mark).await;
    assert_eq!(client.post(&message::call(1, "echo")).await.answer().status, 404);
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_unavailable() {
    let gateway = Setup::new().server("main", "{ command: holdfast-no-such-server }").start().await;
    let answer = Client::legacy(&gateway).initialize().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], -31001, "{}", answer.text());
}

/// A process that dies at once is not started again in a loop.
#[tokio::test]
async fn a_process_that_dies_at_once_backs_off() {
    let gateway =
        Setup::new().server("main", r#"{ command: sh, args: ["-c", "exit 3"] }"#).start().await;
    for id in 0..10 {
        let response = Client::modern(&gateway).call(id, "t").await;
        let code = response["error"]["code"].as_i64().unwrap_or_default();
        assert!([-31001, -31002].contains(&code), "{response}");
    }
    let starts = gateway.metric("holdfast_server_process_starts_total").await;
    assert!(starts < 10.0, "{starts} starts for ten calls in a row");
}

#[tokio::test]
async fn what_it_says_on_stderr_is_in_the_log() {
    let log = ExecutionLog::new();
    let script = format!(
        "echo needle-on-stderr >&2; exec {} sample-server --stdio --execution-log {}",
        binary().display(),
        log.path().display()
    );
    let settings = format!(r#"{{ command: sh, args: ["-c", "{script}"] }}"#);
    let gateway = Setup::new().server("main", &settings).start().await;
    Client::legacy(&gateway).initialized().await;
    let line = eventually("the line in the log", || {
        let log = gateway.log();
        log.lines().find(|line| line.contains("needle-on-stderr")).map(str::to_owned)
    })
    .await;
    assert!(line.contains("main"), "the line names the server: {line}");
}

/// A server does not answer what was cancelled, so the gateway lets the client's response end.
#[tokio::test]
async fn a_cancelled_call_ends_for_its_client() {
    let mark = mark("cancelled");
    let log = ExecutionLog::new();
    let gateway = Setup::new().server("main", &stdio(&log, &mark)).start().await;
    let client = Client::legacy(&gateway).initialized().await;
    let caller = client.clone();
    let params = r#"{"name":"slow","arguments":{"ms":600000}}"#;
    let call =
        tokio::spawn(async move { caller.post(&message::request(1, "tools/call", params)).await });
    gateway.wait_metric("holdfast_in_flight", |now| now >= 1.0).await;
    let cancel = message::notification("notifications/cancelled", r#"{"requestId":1}"#);
    let ended = cancelled(&client, &cancel, call).await;
    assert_eq!(ended.json()["error"]["code"], -32800, "{}", ended.text());
    // The session is as it was.
    assert_eq!(client.call(2, "echo").await["id"], 2);
}

/// Cancels until the call has ended: until it has reached the process there is nothing that could be cancelled.
async fn cancelled(
    client: &Client,
    cancel: &str,
    mut call: tokio::task::JoinHandle<Posted>,
) -> Answer {
    crate::harness::within("the end of the cancelled call", async {
        loop {
            client.post(cancel).await;
            tokio::select! {
                ended = &mut call => return ended.expect("the call has ended").answer(),
                () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {}
            }
        }
    })
    .await
}

/// The others of its batch have their answers.
#[tokio::test]
async fn a_cancelled_call_of_a_batch_fails_none_of_the_others() {
    let mark = mark("struck");
    let log = ExecutionLog::new();
    let gateway = Setup::new().server("main", &stdio(&log, &mark)).start().await;
    let client = Client::legacy(&gateway).speaking("2025-03-26").initialized().await;
    let caller = client.clone();
    let slow = message::request(2, "tools/call", r#"{"name":"slow","arguments":{"ms":600000}}"#);
    let batch = format!("[{},{slow}]", message::call(1, "echo"));
    let call = tokio::spawn(async move { caller.post(&batch).await });
    gateway.wait_metric("holdfast_in_flight", |now| now >= 1.0).await;
    let cancel = message::notification("notifications/cancelled", r#"{"requestId":2}"#);
    let ended = cancelled(&client, &cancel, call).await;
    let answers = ended.json();
    assert_eq!(answers.as_array().map(Vec::len), Some(1), "{answers}");
    assert_eq!(answers[0]["id"], 1, "{answers}");
    assert!(answers[0].get("result").is_some(), "{answers}");
}

/// A client without a session has none of its own at the server: what that asks it outside of calls is refused, or it
/// would wait for ever.
#[tokio::test]
async fn what_a_server_asks_outside_of_calls_in_a_session_that_is_lent_is_refused() {
    let folder = TempDir::new();
    let seen = folder.join("seen");
    let result = message::result(
        r#""holdfast-initialize""#,
        r#"{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s","version":"1"}}"#,
    );
    let script = format!(
        "while read -r line; do case \"$line\" in\n\
         *'\"initialize\"'*) echo '{result}';;\n\
         *tools/call*) echo '{answer}'; echo '{asks}';;\n\
         *'\"r1\"'*) echo \"$line\" >> {seen};;\n\
         esac; done\n",
        answer = message::result(1, r#"{"content":[]}"#),
        asks = message::request(r#""r1""#, "roots/list", "{}"),
        seen = seen.display(),
    );
    std::fs::write(folder.join("script"), script).unwrap();
    let settings = format!(r#"{{ command: sh, args: ["{}"] }}"#, folder.join("script").display());
    let gateway = Setup::new().server("main", &settings).start().await;
    let answer = Client::legacy(&gateway).call(1, "write").await;
    assert!(answer.get("result").is_some(), "{answer}");
    let refused = eventually("the answer to the server", || {
        std::fs::read_to_string(&seen).ok().filter(|seen| seen.ends_with('\n'))
    })
    .await;
    assert!(refused.contains("-32601"), "{refused}");
}

/// What its client does not take is not held against it, and would come again if the call was.
#[tokio::test]
async fn a_server_whose_client_does_not_read_is_well_and_is_asked_once() {
    let folder = TempDir::new();
    let seen = folder.join("seen");
    let news = message::notification(
        "notifications/message",
        &format!(r#"{{"level":"info","data":"{}"}}"#, "x".repeat(16 * 1024)),
    );
    let script = format!(
        "news=$(cat {news})\n\
         while read -r line; do case \"$line\" in\n\
         *tools/call*) echo runs >> {seen}; yes \"$news\" | head -n 1600;;\n\
         *cancelled*) echo stops >> {seen};;\n\
         esac; done\n",
        news = folder.join("news").display(),
        seen = seen.display(),
    );
    std::fs::write(folder.join("news"), news).unwrap();
    std::fs::write(folder.join("script"), script).unwrap();
    let settings = format!(
        r#"{{ command: sh, args: ["{}"], tools: {{ talk: read }}, breaker: {{ consecutive_failures: 3 }} }}"#,
        folder.join("script").display()
    );
    let patient = "streams: { modern_grace: 5m }";
    let gateway = Setup::new().server("main", &settings).section(patient).start().await;
    let meta = META.replacen('{', r#"{"io.modelcontextprotocol/logLevel":"info","#, 1);
    let params = format!(r#"{{"name":"talk","arguments":{{}},{meta}}}"#);
    let told = || std::fs::read_to_string(&seen).unwrap_or_default();
    for times in 1..=3 {
        let call = message::request(times, "tools/call", &params);
        // Its head is all that is read.
        let mut unread = Client::modern(&gateway).post(&call).await.stream();
        let stopped = || (told().matches("stops").count() == times).then_some(());
        eventually("the server is told to stop", stopped).await;
        let answer = unread.find("the end of the call", |it| it["id"] == times).await;
        assert_eq!(answer["error"]["code"], -31002, "{answer}");
        assert_eq!(told(), "runs\nstops\n".repeat(times));
    }
    let opened = r#"holdfast_breaker_transitions_total{server_id="main",to="open"}"#;
    assert_eq!(gateway.metric(opened).await, 0.0);
}

/// A server that asks whether anybody is there gets an answer, also where its client does not listen.
#[tokio::test]
async fn a_server_that_pings_a_client_without_a_stream_is_answered() {
    let folder = TempDir::new();
    let seen = folder.join("seen");
    let result = message::result(
        r#""init""#,
        r#"{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s","version":"1"}}"#,
    );
    let script = format!(
        "while read -r line; do case \"$line\" in\n\
         *'\"initialize\"'*) echo '{result}';;\n\
         *initialized*) echo '{ping}';;\n\
         *'\"p1\"'*) echo \"$line\" >> {seen};;\n\
         esac; done\n",
        ping = message::request(r#""p1""#, "ping", "{}"),
        seen = seen.display(),
    );
    std::fs::write(folder.join("script"), script).unwrap();
    let settings = format!(r#"{{ command: sh, args: ["{}"] }}"#, folder.join("script").display());
    let gateway = Setup::new().server("main", &settings).start().await;
    let _client = Client::legacy(&gateway).initialized().await;
    let pong = eventually("the answer to the ping", || {
        std::fs::read_to_string(&seen).ok().filter(|seen| seen.ends_with('\n'))
    })
    .await;
    assert_eq!(pong.trim_end(), r#"{"jsonrpc":"2.0","id":"p1","result":{}}"#);
}
