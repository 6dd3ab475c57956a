//! What stands in for a server that cannot answer, and says so.

use serde_json::Value;

use crate::harness::client::Client;
use crate::harness::gateway::Setup;
use crate::harness::recorder::Recorder;
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
