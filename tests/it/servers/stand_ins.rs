//! What stands in for a server that cannot answer, and says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::harness::client::Client;
use crate::harness::gateway::Setup;
use crate::harness::message;
use crate::harness::process::free_address;
use crate::harness::recorder::{Gate, Recorder, Reply};
use crate::harness::sample::Sample;

use super::url;

fn mark(answer: &Value) -> &Value {
    &answer["result"]["_meta"]["io.holdfast/fallback"]
}

#[tokio::test]
async fn an_earlier_answer_under_the_new_calls_id() {
    let mut sample = Sample::start(&[]).await;
    let settings = format!(
        r#"{{ url: "{}", tools: {{ echo: read }}, fallback: {{ cache: {{ ttl: 5m }} }} }}"#,
        url(&sample)
    );
    let gateway = Setup::new().server("main", &settings).start().await;
    let client = Client::modern(&gateway);
    let first = client.call("\"first\"", "echo").await;
    assert!(first.get("result").is_some() && mark(&first).is_null(), "{first}");
    sample.kill();
    let second = client.call("\"second\"", "echo").await;
    assert_eq!(second["id"], "second", "{second}");
    assert_eq!(mark(&second)["kind"], "cached", "{second}");
    assert!(mark(&second)["ageMs"].as_u64().is_some(), "{second}");
    assert_eq!(second["result"]["content"], first["result"]["content"]);
    // A Write is never answered from memory, and a question that was not asked before has no answer.
    let write = client.call(3, "write").await;
    assert_eq!(write["error"]["code"], -31001, "{write}");
    let served = r#"holdfast_fallbacks_total{server_id="main",kind="cached"}"#;
    assert_eq!(gateway.metric(served).await, 1.0);
}

/// A server that knows its users by a cookie, until it goes away.
async fn personal() -> (Recorder, Arc<AtomicBool>) {
    let away = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&away);
    let recorder = Recorder::scripted(move |seen| {
        if seen.rpc().is_empty() || seen.rpc() == "initialize" {
            return None;
        }
        if switch.load(Ordering::SeqCst) {
            return Some(Reply::Cut);
        }
        let who = seen.header("cookie").unwrap_or_default().to_owned();
        let result = match &*seen.rpc() {
            "tools/call" => format!(r#"{{"content":[{{"type":"text","text":"of {who}"}}]}}"#),
            "prompts/list" => r#"{"prompts":[],"cacheScope":"private","ttlMs":0}"#.into(),
            "resources/list" => r#"{"resources":[],"cacheScope":"public","ttlMs":0}"#.into(),
            _ => return None,
        };
        Some(Reply::json(message::result(seen.id(), &result)))
    })
    .await;
    (recorder, away)
}

/// What the gateway knows nothing of may be what the server knows its users by.
#[tokio::test]
async fn an_earlier_answer_is_only_for_whom_the_server_could_have_meant() {
    let (recorder, away) = personal().await;
    let settings = format!(
        r#"{{ url: "{}", tools: {{ look: read }}, fallback: {{ cache: {{ ttl: 5m }} }} }}"#,
        recorder.url()
    );
    let gateway = Setup::new().server("main", &settings).start().await;
    let ann = Client::modern(&gateway).with("Cookie", "user=ann");
    let bob = Client::modern(&gateway).with("Cookie", "user=bob");
    let first = ann.call(1, "look").await;
    assert_eq!(first["result"]["content"][0]["text"], "of user=ann", "{first}");
    let params = format!("{{{}}}", message::META);
    for list in ["prompts/list", "resources/list"] {
        assert!(ann.ask(2, list, &params).await.get("result").is_some());
    }
    away.store(true, Ordering::SeqCst);
    let again = ann.call(3, "look").await;
    assert_eq!(mark(&again)["kind"], "cached", "{again}");
    assert_eq!(again["result"]["content"], first["result"]["content"]);
    for answer in [bob.call(4, "look").await, bob.ask(5, "prompts/list", &params).await] {
        assert!(answer.get("error").is_some() && !answer.to_string().contains("ann"), "{answer}");
    }
    // What the server calls public is everybody's.
    let public = bob.ask(6, "resources/list", &params).await;
    assert_eq!(mark(&public)["kind"], "cached", "{public}");
    let kept = ann.ask(7, "prompts/list", &params).await;
    assert_eq!(mark(&kept)["kind"], "cached", "{kept}");
}

/// Two numbers that some readers take for one are two questions: nobody gets the answer to the other.
#[tokio::test]
async fn an_earlier_answer_is_none_to_a_question_with_another_number() {
    let (recorder, away) = personal().await;
    let settings = format!(
        r#"{{ url: "{}", tools: {{ look: read }}, fallback: {{ cache: {{ ttl: 5m }} }} }}"#,
        recorder.url()
    );
    let gateway = Setup::new().server("main", &settings).start().await;
    let client = Client::modern(&gateway);
    let asks = |id: &'static str| {
        format!(r#"{{"name":"look","arguments":{{"id":{id}}},{}}}"#, message::META)
    };
    let (own, other) = (asks("18446744073709551616"), asks("18446744073709551617"));
    assert!(client.ask(1, "tools/call", &own).await.get("result").is_some());
    away.store(true, Ordering::SeqCst);
    let again = client.ask(2, "tools/call", &own).await;
    assert_eq!(mark(&again)["kind"], "cached", "{again}");
    let answer = client.ask(3, "tools/call", &other).await;
    assert!(answer.get("error").is_some(), "{answer}");
}

/// A session may have logged in by a tool, with the same headers as everybody.
#[tokio::test]
async fn an_earlier_answer_of_a_session_is_no_other_sessions() {
    let (recorder, away) = personal().await;
    let settings = format!(
        r#"{{ url: "{}", tools: {{ look: read }}, fallback: {{ cache: {{ ttl: 5m }} }} }}"#,
        recorder.url()
    );
    let gateway = Setup::new().server("main", &settings).start().await;
    let one = Client::legacy(&gateway).initialized().await;
    let other = Client::legacy(&gateway).initialized().await;
    assert!(one.call(1, "look").await.get("result").is_some());
    away.store(true, Ordering::SeqCst);
    let own = one.call(2, "look").await;
    assert_eq!(mark(&own)["kind"], "cached", "{own}");
    let others = other.call(3, "look").await;
    assert!(others.get("error").is_some(), "{others}");
}

/// What is kept was the answer of what stood under the name then, to whom it knew then.
#[tokio::test]
async fn an_earlier_answer_does_not_outlive_its_server_or_its_credential() {
    let (recorder, away) = personal().await;
    let setup = |url: &str, more: &str| {
        let settings = format!(
            r#"{{ url: "{url}", tools: {{ look: read }}, breaker: {{ enabled: false }},
                 fallback: {{ cache: {{ ttl: 5m }} }}{more} }}"#
        );
        Setup::new().server("main", &settings)
    };
    let mut gateway = setup(&recorder.url(), "").start().await;
    let client = Client::modern(&gateway);
    assert!(client.call(1, "look").await.get("result").is_some());
    let gone = format!("http://{}/mcp", free_address());
    // Another limit changes nothing of what was answered.
    assert!(gateway.reconfigure(setup(&recorder.url(), ", requests_per_minute: 6000")).await);
    away.store(true, Ordering::SeqCst);
    assert_eq!(mark(&client.call(2, "look").await)["kind"], "cached");
    for changed in [
        setup(&recorder.url(), ", headers: { X-Account: other }"),
        setup(&recorder.url(), ", forward_authorization: true"),
        setup(&gone, ""),
    ] {
        // From and back to where there is an answer to keep.
        away.store(false, Ordering::SeqCst);
        assert!(gateway.reconfigure(setup(&recorder.url(), "")).await);
        assert!(client.call(3, "look").await.get("result").is_some());
        away.store(true, Ordering::SeqCst);
        assert_eq!(mark(&client.call(4, "look").await)["kind"], "cached");
        assert!(gateway.reconfigure(changed).await);
        let answer = client.call(5, "look").await;
        assert!(answer.get("error").is_some(), "{answer}");
    }
}

#[tokio::test]
async fn another_server_or_an_answer_of_the_configuration() {
    let other = Sample::start(&[]).await;
    let mut gone = Sample::start(&[]).await;
    gone.kill();
    let stands_in = format!(
        r#"{{ url: "{}", tools: {{ echo: read }}, fallback: {{ server: other }} }}"#,
        url(&gone)
    );
    let fixed = format!(
        r#"{{ url: "{}", tools: {{ echo: read }}, fallback: {{ static: {{ content: [ {{ type: text, text: "later" }} ] }} }} }}"#,
        url(&gone)
    );
    let gateway = Setup::new()
        .server("main", &stands_in)
        .server("fixed", &fixed)
        .server("other", &format!(r#"{{ url: "{}", tools: {{ echo: read }} }}"#, url(&other)))
        .start()
        .await;
    let answer = Client::modern(&gateway).at("/mcp/main").call(1, "echo").await;
    assert_eq!(mark(&answer)["kind"], "server", "{answer}");
    assert_eq!(mark(&answer)["server"], "other", "{answer}");
    let answer = Client::modern(&gateway).at("/mcp/fixed").call(2, "echo").await;
    assert_eq!(mark(&answer)["kind"], "static", "{answer}");
    assert_eq!(answer["result"]["content"][0]["text"], "later", "{answer}");
}

/// It is called as by anybody else: within its limits, and repeated only where it says that it may be.
#[tokio::test]
async fn the_server_that_stands_in_is_asked_by_its_own_rules() {
    let other = Sample::start(&[]).await;
    let mut gone = Sample::start(&[]).await;
    gone.kill();
    let main = format!(
        r#"{{ url: "{}", tools: {{ echo: read, write: read }}, fallback: {{ server: other }} }}"#,
        url(&gone)
    );
    let stands_in = format!(
        r#"{{ url: "{}", tools: {{ echo: {{ effect: read, requests_per_minute: 1, burst: 1 }} }} }}"#,
        url(&other)
    );
    let gateway = Setup::new().server("main", &main).server("other", &stands_in).start().await;
    let client = Client::modern(&gateway).at("/mcp/main");
    let answer = client.call(1, "echo").await;
    assert_eq!(mark(&answer)["server"], "other", "{answer}");
    let answer = client.call(2, "echo").await;
    assert_eq!(answer["error"]["code"], -31001, "over the limit of its tool: {answer}");
    // It counts as what it is there.
    let answer = client.call(3, "write").await;
    assert_eq!(mark(&answer)["server"], "other", "{answer}");
}

/// What had its effect there is not said to have had none.
#[tokio::test]
async fn what_the_server_that_stands_in_may_have_run_is_not_said_to_have_not() {
    let other = Recorder::scripted(|seen| (seen.rpc() == "tools/call").then_some(Reply::Cut)).await;
    let main = format!(
        r#"{{ url: "http://{}/mcp", tools: {{ book: read }}, fallback: {{ server: other }} }}"#,
        free_address()
    );
    let stands_in = format!(r#"{{ url: "{}" }}"#, other.url());
    let gateway = Setup::new().server("main", &main).server("other", &stands_in).start().await;
    let answer = Client::modern(&gateway).at("/mcp/main").call(1, "book").await;
    assert_eq!(other.calls("book").len(), 1);
    assert_eq!(answer["error"]["data"]["mayHaveRun"], true, "{answer}");
}

/// Who configured it counts on it: the log and the metrics say that it was of no help, and why.
#[tokio::test]
async fn a_server_that_stands_in_and_cannot_is_counted_and_told() {
    let broken = Recorder::scripted(|seen| {
        (seen.rpc() == "tools/call").then(|| Reply::refused(500, String::new()))
    })
    .await;
    let other = Recorder::scripted(|seen| match seen.tool().as_str() {
        "cut" => Some(Reply::Cut),
        "wrong" => Some(Reply::json(message::error(seen.id(), -32000, "no"))),
        "hang" => Some(Reply::after(&Gate::new(), Reply::Cut)),
        _ => None,
    })
    .await;
    let main = |more: &str| {
        format!(
            r#"{{ url: "{}", tools: {{ cut: read, wrong: read, much: read, hang: read }},
                 breaker: {{ enabled: false }}, fallback: {{ server: other }}{more} }}"#,
            broken.url()
        )
    };
    let stands_in = format!(
        r#"{{ url: "{}", breaker: {{ enabled: false }},
             tools: {{ much: {{ effect: read, requests_per_minute: 1, burst: 1 }} }} }}"#,
        other.url()
    );
    let gateway = Setup::new()
        .server("main", &main(""))
        .server("hasty", &main(", timeout: 1s"))
        .server("other", &stands_in)
        .section("retry_budget: { attempts: 1 }")
        .start()
        .await;
    let failed = |server: &str, reason: &str| {
        let name = "holdfast_fallbacks_failed_total";
        format!(r#"{name}{{server_id="{server}",reason="{reason}"}}"#)
    };
    let client = Client::modern(&gateway).at("/mcp/main");
    for (id, tool) in ["cut", "wrong", "much", "much"].into_iter().enumerate() {
        let answer = client.call(id, tool).await;
        assert_eq!(answer.get("error").is_some(), id != 2, "{tool}: {answer}");
    }
    for reason in ["failed", "error", "limited"] {
        assert_eq!(gateway.metric(&failed("main", reason)).await, 1.0, "{reason}");
    }
    // Of those that come so fast there is one line.
    let line = "the server that stands in does not help either";
    assert_eq!(gateway.log().matches(line).count(), 1);
    // Who hangs until the call's time is over was of no help either.
    let answer = Client::modern(&gateway).at("/mcp/hasty").call(5, "hang").await;
    assert!(answer.get("error").is_some(), "{answer}");
    gateway.wait_metric(&failed("hasty", "failed"), |it| it == 1.0).await;
}

/// What the configuration sends to one server is that server's secret.
#[tokio::test]
async fn the_server_that_stands_in_gets_none_of_the_others_headers() {
    let other = Recorder::start().await;
    let mut gone = Sample::start(&[]).await;
    gone.kill();
    let main = format!(
        r#"{{ url: "{}", tools: {{ look: read }}, fallback: {{ server: other }},
             headers: {{ X-Vault: mains-secret, Authorization: mains-bearer }} }}"#,
        url(&gone)
    );
    let stands_in = format!(
        r#"{{ url: "{}", tools: {{ look: read }}, forward_authorization: true, headers: {{ X-Own: others }} }}"#,
        other.url()
    );
    let gateway = Setup::new().server("main", &main).server("other", &stands_in).start().await;
    let answer = Client::modern(&gateway).at("/mcp/main").call(1, "look").await;
    assert_eq!(mark(&answer)["server"], "other", "{answer}");
    let calls = other.calls("look");
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].header("x-own"), Some("others"));
    assert_eq!((calls[0].header("x-vault"), calls[0].header("authorization")), (None, None));
}
