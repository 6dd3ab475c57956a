//! Each way in which a server can be bad, by itself and beside one that is well: what the client of a
//! Write is told, that it never runs twice, and that the other server's calls meet nothing of it.

use serde_json::Value;

use crate::harness::client::Client;
use crate::harness::eventually;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message;
use crate::harness::recorder::{Gate, Recorder, Reply, Step};
use crate::harness::sample::Sample;
use crate::harness::wire::Conn;

use super::{reads, url, write, write_in_session};

/// What a client of a Write is told.
#[derive(Clone, Copy, Debug)]
enum Told {
    Result,
    /// This error, and whether it may have run.
    Error(i64, bool),
    /// That it did not run: the server asks for fewer calls (-31003), and gets none meanwhile (-31001).
    Later,
}

/// A server that meets every Write like this, and how often each of them really ran there.
struct Kind {
    fault: &'static str,
    /// It runs the call before it fails.
    execute: bool,
    settings: &'static str,
    told: Told,
    ran: usize,
}

impl Kind {
    const fn failing(fault: &'static str, told: Told) -> Self {
        Self { fault, execute: true, settings: "", told, ran: 1 }
    }
}

/// Writes that a server meets before its breaker opens, and those after that.
const FIRST: usize = 4;
const MORE: usize = 12;

async fn start(kind: &Kind) -> (Sample, Sample, Gateway) {
    let (fault, execute) = (kind.fault, kind.execute);
    let rule = format!(
        r#"{{"method":"tools/call","tool":"write","always":true,"execute":{execute},"fault":{fault}}}"#
    );
    let (bad, well) = (Sample::start(&["--behaviour", &rule]).await, Sample::start(&[]).await);
    let gateway = Setup::new()
        .server("bad", &format!(r#"{{ url: "{}"{} }}"#, url(&bad), kind.settings))
        .server("well", &format!(r#"{{ url: "{}", tools: {{ echo: read }} }}"#, url(&well)))
        .start()
        .await;
    (bad, well, gateway)
}

/// Writes at the bad server, of a session and of a client that has none in turn, while the other server is read from.
async fn meets(kind: Kind) {
    let (bad, _well, gateway) = start(&kind).await;
    let beside = Client::modern(&gateway).at("/mcp/well");
    let beside = tokio::spawn(async move { reads(&beside, 128).await });
    let modern = Client::modern(&gateway).at("/mcp/bad");
    let legacy = Client::legacy(&gateway).at("/mcp/bad").initialized().await;
    for number in 0..FIRST + MORE {
        let key = format!("w{number}");
        let posted = match number % 2 {
            0 => modern.post(&write(number, &key)).await,
            _ => legacy.post(&write_in_session(number, &key)).await,
        };
        let answer = posted.response().await;
        assert_eq!(answer["id"], number, "{answer}");
        let ran = bad.executions("write", &key);
        assert!(ran <= 1, "{} ran it {ran} times: {answer}", kind.fault);
        if number < FIRST {
            is_told(&answer, kind.told, kind.fault);
            assert_eq!(ran, kind.ran, "{}: {answer}", kind.fault);
        } else if answer["error"]["data"]["mayHaveRun"] == false {
            assert_eq!(ran, 0, "{}: {answer}", kind.fault);
        }
    }
    assert_eq!(beside.await.expect("reads that end"), (128, None), "beside {}", kind.fault);
}

fn is_told(answer: &Value, told: Told, fault: &str) {
    match told {
        Told::Result => assert!(answer.get("result").is_some(), "{fault}: {answer}"),
        Told::Error(code, may_have_run) => {
            assert_eq!(answer["error"]["code"], code, "{fault}: {answer}");
            assert_eq!(answer["error"]["data"]["mayHaveRun"], may_have_run, "{fault}: {answer}");
        }
        Told::Later => {
            let code = answer["error"]["code"].as_i64();
            assert!(matches!(code, Some(-31003 | -31001)), "{fault}: {answer}");
            assert_eq!(answer["error"]["data"]["mayHaveRun"], false, "{fault}: {answer}");
            assert!(answer["error"]["data"]["retryAfterMs"].is_u64(), "{fault}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_status_of_500() {
    meets(Kind::failing(r#"{"kind":"status","status":500}"#, Told::Error(-31002, true))).await;
}

#[tokio::test]
async fn a_status_that_means_nothing() {
    meets(Kind::failing(r#"{"kind":"status","status":999}"#, Told::Error(-31002, true))).await;
}

#[tokio::test]
async fn a_status_of_429() {
    let fault = r#"{"kind":"status","status":429,"retry_after":1}"#;
    // Whoever asks for fewer calls has not run this one.
    meets(Kind { fault, execute: false, settings: "", told: Told::Later, ran: 0 }).await;
}

/// However it says for how long: whoever asks for fewer calls has not run this one.
#[tokio::test]
async fn a_status_of_503_with_a_rest_until_a_date_or_one_that_nobody_can_read() {
    for (rest, at_least) in [("Fri, 31 Dec 9999 23:59:59 GMT", 86_400_000), ("later", 1000)] {
        let recorder = Recorder::scripted(move |seen| {
            let asks = vec![("Retry-After".to_owned(), rest.to_owned())];
            (seen.tool() == "write").then(|| Reply::Json(503, asks, String::new()))
        })
        .await;
        let gateway = Setup::http(&recorder.url()).start().await;
        let answer = Client::modern(&gateway).post(&write(1, "w")).await.response().await;
        is_told(&answer, Told::Error(-31003, false), rest);
        assert_eq!(answer["error"]["data"]["retryAfterMs"], at_least, "{answer}");
        assert_eq!(recorder.calls("write").len(), 1);
    }
}

#[tokio::test]
async fn an_answer_that_never_comes() {
    let settings = ", timeout: 1s";
    let told = Told::Error(-31005, true);
    meets(Kind { fault: r#"{"kind":"hang"}"#, execute: true, settings, told, ran: 1 }).await;
}

#[tokio::test]
async fn garbage() {
    meets(Kind::failing(r#"{"kind":"garbage"}"#, Told::Error(-31002, true))).await;
}

#[tokio::test]
async fn half_of_a_body() {
    meets(Kind::failing(r#"{"kind":"half_body"}"#, Told::Error(-31002, true))).await;
}

#[tokio::test]
async fn a_stream_that_ends_after_its_headers() {
    meets(Kind::failing(r#"{"kind":"reset_after_headers"}"#, Told::Error(-31002, true))).await;
}

/// Writes that such streams answer, until the server is left alone, while another one is read from.
async fn streams(
    settings: &str,
    told: Told,
    steps: impl Fn() -> Vec<Step> + Send + Sync + 'static,
) {
    let recorder =
        Recorder::scripted(move |seen| (seen.tool() == "write").then(|| Reply::Stream(steps())))
            .await;
    let well = Sample::start(&[]).await;
    let gateway = Setup::new()
        .server("bad", &format!(r#"{{ url: "{}"{settings} }}"#, recorder.url()))
        .server("well", &format!(r#"{{ url: "{}", tools: {{ echo: read }} }}"#, url(&well)))
        .start()
        .await;
    let beside = Client::modern(&gateway).at("/mcp/well");
    let beside = tokio::spawn(async move { reads(&beside, 128).await });
    let client = Client::modern(&gateway).at("/mcp/bad");
    for number in 0..5 {
        let answer = client.post(&write(number, "w")).await.response().await;
        is_told(&answer, told, "a stream");
    }
    let refused = client.post(&write(5, "w")).await.response().await;
    is_told(&refused, Told::Error(-31001, false), "a stream");
    assert_eq!(recorder.calls("write").len(), 5);
    assert_eq!(beside.await.expect("reads that end"), (128, None));
}

#[tokio::test]
async fn a_stream_that_breaks_after_its_first_message() {
    let log = || message::notification("notifications/message", r#"{"level":"info","data":1}"#);
    let steps = move || vec![Step::Send(message::event(&log())), Step::Cut];
    streams("", Told::Error(-31002, true), steps).await;
}

/// It primes its client for coming back, and that is all that it ever says.
#[tokio::test]
async fn a_stream_that_only_primes() {
    let steps = || {
        let priming = "id: 1\nretry: 1000\ndata:\n\n".to_owned();
        vec![Step::Send(priming), Step::Wait(Gate::new())]
    };
    streams(", timeout: 1s", Told::Error(-31005, true), steps).await;
}

#[tokio::test]
async fn a_reset() {
    meets(Kind::failing(r#"{"kind":"reset"}"#, Told::Error(-31002, true))).await;
}

#[tokio::test]
async fn a_connection_that_is_closed() {
    meets(Kind::failing(r#"{"kind":"close"}"#, Told::Error(-31002, true))).await;
}

/// Slow is not bad.
#[tokio::test]
async fn a_slow_drip() {
    meets(Kind::failing(r#"{"kind":"drip","ms":5,"bytes":20}"#, Told::Result)).await;
}

#[tokio::test]
async fn an_answer_under_another_id() {
    meets(Kind::failing(r#"{"kind":"wrong_id"}"#, Told::Error(-31002, true))).await;
}

#[tokio::test]
async fn nobody_at_the_port() {
    let kind = Kind::failing(r#"{"kind":"hang"}"#, Told::Result);
    let (mut bad, _well, gateway) = start(&kind).await;
    bad.kill();
    let beside = Client::modern(&gateway).at("/mcp/well");
    let beside = tokio::spawn(async move { reads(&beside, 128).await });
    let client = Client::modern(&gateway).at("/mcp/bad");
    for number in 0..FIRST + MORE {
        let answer = client.post(&write(number, "w")).await.response().await;
        is_told(&answer, Told::Error(-31001, false), "refused");
    }
    assert_eq!(beside.await.expect("reads that end"), (128, None));
}

/// A server that forgets its sessions with every call: each is opened anew, and the call runs once.
#[tokio::test]
async fn sessions_forgotten_with_every_other_call() {
    let kind = Kind {
        fault: r#"{"kind":"forget_session"}"#,
        execute: false,
        settings: "",
        told: Told::Result,
        ran: 1,
    };
    let rule =
        r#"{"method":"tools/call","tool":"write","times":1,"fault":{"kind":"forget_session"}}"#;
    let skips = |at| rule.replacen("\"times\"", &format!("\"skip\":{at},\"times\""), 1);
    let rules: Vec<String> = (0..FIRST).map(skips).collect();
    let arguments: Vec<&str> = rules.iter().flat_map(|it| ["--behaviour", it]).collect();
    let (bad, well) = (Sample::start(&arguments).await, Sample::start(&[]).await);
    let gateway = Setup::new()
        .server("bad", &format!(r#"{{ url: "{}"{} }}"#, url(&bad), kind.settings))
        .server("well", &format!(r#"{{ url: "{}", tools: {{ echo: read }} }}"#, url(&well)))
        .start()
        .await;
    let beside = Client::modern(&gateway).at("/mcp/well");
    let beside = tokio::spawn(async move { reads(&beside, 128).await });
    let client = Client::legacy(&gateway).at("/mcp/bad").initialized().await;
    for number in 0..FIRST + MORE {
        let key = format!("w{number}");
        let answer = client.post(&write_in_session(number, &key)).await.response().await;
        is_told(&answer, kind.told, kind.fault);
        assert_eq!(bad.executions("write", &key), kind.ran, "{answer}");
    }
    // A lost session is no failure.
    let closed = r#"holdfast_breaker_state{server_id="bad",instance="1",state="closed"}"#;
    assert_eq!(gateway.metric(closed).await, 1.0);
    assert_eq!(beside.await.expect("reads that end"), (128, None));
}

/// Clients that leave of their own accord after a long silence have seen the server hang.
#[tokio::test]
async fn an_answer_for_which_no_client_waits_to_the_end() {
    let kind = Kind::failing(r#"{"kind":"hang"}"#, Told::Result);
    let (bad, _well, gateway) =
        start(&Kind { settings: ", breaker: { slow_call: 2s }", ..kind }).await;
    let client = Client::modern(&gateway).at("/mcp/bad");
    let mut waiting = Vec::new();
    for number in 0..5 {
        let body = write(number, &format!("w{number}"));
        let mut conn = Conn::open(gateway.address).await;
        conn.send(client.request("POST", &[], Some(&body))).await;
        waiting.push(conn);
    }
    let all = || (0..5).all(|it| bad.executions("write", &format!("w{it}")) == 1).then_some(());
    eventually("the calls at the server", all).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    drop(waiting);
    let open = r#"holdfast_breaker_state{server_id="bad",instance="1",state="open"}"#;
    gateway.wait_metric(open, |open| open == 1.0).await;
    let refused = client.post(&write(9, "refused")).await.response().await;
    is_told(&refused, Told::Error(-31001, false), "hang");
    assert_eq!(bad.executions("write", "refused"), 0);
}

/// What answers its checks and no calls is left alone for what its calls say.
#[tokio::test]
async fn checks_answered_and_no_calls() {
    let kind = Kind {
        fault: r#"{"kind":"hang"}"#,
        execute: true,
        settings: ", timeout: 1s, health: { interval: 500ms, timeout: 500ms, checks: [ { type: ping } ] }",
        told: Told::Error(-31005, true),
        ran: 1,
    };
    let (bad, _well, gateway) = start(&kind).await;
    let beside = Client::modern(&gateway).at("/mcp/well");
    let beside = tokio::spawn(async move { reads(&beside, 128).await });
    let client = Client::modern(&gateway).at("/mcp/bad");
    let calls: Vec<_> = (0..5)
        .map(|number| {
            let (client, key) = (client.clone(), format!("w{number}"));
            tokio::spawn(async move { client.post(&write(number, &key)).await.response().await })
        })
        .collect();
    for call in calls {
        is_told(&call.await.expect("an answer"), kind.told, kind.fault);
    }
    let refused = client.post(&write(9, "refused")).await.response().await;
    is_told(&refused, Told::Error(-31001, false), kind.fault);
    let healthy = r#"holdfast_control_instance_health{server="bad",instance="1"}"#;
    assert_eq!(gateway.metric(healthy).await, 1.0, "its checks are good");
    assert!((0..5).all(|it| bad.executions("write", &format!("w{it}")) == 1));
    assert_eq!(bad.executions("write", "refused"), 0);
    assert_eq!(beside.await.expect("reads that end"), (128, None));
}
