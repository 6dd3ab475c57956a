//! Everything an MCP session can do, exercised once through the Rust SDK and asserted. The same
//! checks as `../clients/surface.mjs`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::checks::{Checks, equal, eventually};
use crate::session::{Era, Session, answer_of, text_of};
use crate::user::{from, plain};

const NON_ASCII: &str = "Grüße, 世界 🌍 \u{2028}\u{0}\t\"\\ é (e\u{301})";
const PIECE: &str = "aä世🌍"; // 10 bytes
const MIB: usize = 1 << 20;

pub async fn check_surface(checks: &mut Checks, url: &str, era: Era, expected: Option<Era>) {
    let opened = Session::open(url, era).await;
    let failed = opened.as_ref().err().map(|error| format!("{error:#}"));
    let connected = checks
        .check("connect", async { failed.map_or(Ok(()), |why| Err(anyhow::anyhow!(why))) })
        .await;
    let (true, Ok(s)) = (connected, opened) else { return };

    checks.check("era", era_is(&s, expected.unwrap_or(era))).await;
    checks.check("list tools", list_tools(&s)).await;
    checks.check("call a tool, non-ASCII both ways", call(&s)).await;
    checks.check("call: an error of the tool", tool_error(&s)).await;
    checks.check("large argument (3 MiB)", large_argument(&s)).await;
    checks.check("large argument and answer", large_both(&s)).await;
    checks.check("progress arrives in order", progress(&s)).await;
    checks.check("cancellation reaches the server", cancellation(&s)).await;
    checks.check("50 calls at once on one session", many(&s)).await;
    checks.check("50 slow calls at once, each with its own progress", many_slow(&s)).await;
    if !s.modern {
        checks.check("a session keeps its state, and to itself", state(&s, url, era)).await;
    }
    checks.check("resources: list, read, template, unknown", resources(&s)).await;
    checks.check("resources: subscribe, updated, unsubscribe", subscriptions(&s)).await;
    checks.check("list_changed of tools and prompts", list_changed(&s)).await;
    checks.check("prompts: list, get", prompts(&s)).await;
    checks.check("completion", completion(&s)).await;
    checks.check("elicitation: accepted and declined", elicitation(&s)).await;
    checks.check("sampling", sampling(&s)).await;
    if has(&s, "test_input_required_result_multi_round").await {
        checks.check("rounds of questions with state, and roots", rounds(&s)).await;
    }
    checks.check("20 conversations at once", conversations(&s)).await;
    checks.check("logging follows the level", logging(&s)).await;
    checks.check("close", s.close()).await;
}

async fn era_is(s: &Session, wanted: Era) -> Result<()> {
    let got = if s.modern { Era::Modern } else { Era::Legacy };
    if wanted == Era::Auto { Ok(()) } else { equal(got, wanted, "era") }
}

async fn has(s: &Session, tool: &str) -> bool {
    let tools = s.service.list_all_tools().await.unwrap_or_default();
    tools.iter().any(|known| known.name == tool)
}

async fn list_tools(s: &Session) -> Result<()> {
    let tools = plain(&s.service.list_all_tools().await?);
    let named =
        |name: &str| tools.as_array().into_iter().flatten().find(|tool| tool["name"] == name);
    for wanted in ["echo", "big", "slow", "count", "dynamic", "test_simple_text"] {
        ensure!(named(wanted).is_some(), "{wanted} is not listed");
    }
    let echo = named("echo").map(|tool| tool["annotations"]["readOnlyHint"].clone());
    equal(echo, Some(json!(true)), "readOnlyHint of echo")
}

async fn call(s: &Session) -> Result<()> {
    let simple = s.said("test_simple_text", json!({})).await?;
    equal(simple.as_str(), "This is a simple text response for testing.", "text")?;
    equal(s.said("echo", json!({ "value": NON_ASCII })).await?.as_str(), NON_ASCII, "echo")
}

async fn tool_error(s: &Session) -> Result<()> {
    let result = s.call("test_error_handling", json!({})).await?;
    equal(&result["isError"], &json!(true), "isError")?;
    let text = text_of(&result);
    ensure!(text.contains("intentionally returns an error"), "{text}");
    Ok(())
}

async fn large_argument(s: &Session) -> Result<()> {
    let value = PIECE.repeat(3 * MIB / PIECE.len());
    let digest: String = Sha256::digest(&value).iter().map(|byte| format!("{byte:02x}")).collect();
    let wanted = format!("{} bytes {digest}", value.len());
    equal(s.said("measure", json!({ "value": value })).await?, wanted, "measure")
}

async fn large_both(s: &Session) -> Result<()> {
    let value = PIECE.repeat(3 * MIB / PIECE.len());
    let answer = s.said("echo", json!({ "value": value })).await?;
    ensure!(answer == value, "{} bytes came back of {}", answer.len(), value.len());
    Ok(())
}

/// Calls `slow`, which answers only once the last step was seen.
async fn slowly(s: &Session, steps: usize, ms: u64) -> Result<Vec<Value>> {
    let key = unique();
    let arguments = json!({ "key": key, "steps": steps, "ms": ms, "hold": true });
    let handle = s.begin("slow", arguments, None).await?;
    eventually("the last step", async || Ok(s.progress_of(&handle).len() >= steps)).await?;
    let seen = s.progress_of(&handle);
    s.said("let_go", json!({ "key": key })).await?;
    equal(answer_of(handle).await?, format!("finished {steps} steps"), "answer")?;
    let got: Vec<_> =
        seen.iter().map(|step| step["progress"].as_f64().unwrap_or_default()).collect();
    equal(got, (1..=steps).map(|step| step as f64).collect(), "progress")?;
    Ok(seen)
}

async fn progress(s: &Session) -> Result<()> {
    let seen = slowly(s, 8, 20).await?;
    equal(seen[1]["message"].as_str(), Some("Schritt 2 von 8 – 第2步"), "second step")
}

async fn cancellation(s: &Session) -> Result<()> {
    let key = unique();
    let handle = s.begin("slow", json!({ "key": key, "steps": 200, "ms": 100 }), None).await?;
    eventually("the first step", async || Ok(!s.progress_of(&handle).is_empty())).await?;
    handle.cancel(Some("enough".into())).await?;
    eventually("the server saw the cancellation", async || {
        Ok(s.said("slow_state", json!({ "key": key })).await? == "cancelled")
    })
    .await
}

async fn many(s: &Session) -> Result<()> {
    let calls = (0..50).map(|at| async move {
        let value = format!("{at}-{NON_ASCII}");
        equal(s.said("echo", json!({ "value": value })).await?, value, "echo")
    });
    all(calls).await
}

async fn many_slow(s: &Session) -> Result<()> {
    all((0..50).map(|_| async { slowly(s, 3, 30).await.map(|_| ()) })).await
}

async fn state(s: &Session, url: &str, era: Era) -> Result<()> {
    for wanted in ["1", "2", "3"] {
        equal(s.said("count", json!({})).await?.as_str(), wanted, "first session")?;
    }
    let other = Session::open(url, era).await?;
    equal(other.said("count", json!({})).await?.as_str(), "1", "second session")?;
    other.close().await?;
    equal(s.said("count", json!({})).await?.as_str(), "4", "first session again")
}

async fn resources(s: &Session) -> Result<()> {
    let listed = s.service.list_all_resources().await?;
    ensure!(listed.iter().any(|one| one.uri == "test://static-text"), "static-text is not listed");
    let templates = plain(&s.service.list_all_resource_templates().await?);
    equal(&templates[0]["uriTemplate"], &json!("test://template/{id}/data"), "template")?;
    let text = read(s, "test://static-text").await?["text"].clone();
    equal(text, json!("This is the content of the static text resource."), "text")?;
    let blob = read(s, "test://static-binary").await?["blob"].clone();
    ensure!(blob.as_str().is_some_and(|blob| blob.starts_with("iVBOR")), "not a PNG: {blob}");
    let data = read(s, "test://template/a%C3%A4/data").await?["text"].clone();
    ensure!(data.as_str().is_some_and(|data| data.contains("templateTest")), "template: {data}");
    ensure!(read(s, "test://nowhere").await.is_err(), "an unknown resource was read");
    Ok(())
}

async fn read(s: &Session, uri: &str) -> Result<Value> {
    let result = plain(&s.service.read_resource(from(json!({ "uri": uri }))).await?);
    Ok(result["contents"][0].clone())
}

async fn subscriptions(s: &Session) -> Result<()> {
    let uri = "test://watched-resource";
    let watch = s.subscribe(uri).await?;
    // A stream for the server's own messages may open a moment after the session does.
    eventually("resources/updated", async || {
        s.said("touch", json!({ "uri": uri })).await?;
        Ok(s.user.seen().updated.iter().any(|told| told == uri))
    })
    .await?;
    s.unsubscribe(uri, watch).await?;
    eventually("no more resources/updated", async || {
        let before = s.user.seen().updated.len();
        s.said("touch", json!({ "uri": uri })).await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(s.user.seen().updated.len() == before)
    })
    .await
}

async fn list_changed(s: &Session) -> Result<()> {
    s.watch_lists().await?;
    let before = revision(s).await?;
    eventually("tools/list_changed", async || {
        s.said("test_trigger_tool_change", json!({})).await?;
        Ok(s.user.seen().tools_changed > 0)
    })
    .await?;
    ensure!(revision(s).await? != before, "the list of tools is still the old one");
    eventually("prompts/list_changed", async || {
        s.said("test_trigger_prompt_change", json!({})).await?;
        Ok(s.user.seen().prompts_changed > 0)
    })
    .await
}

async fn revision(s: &Session) -> Result<Option<String>> {
    let tools = s.service.list_all_tools().await?;
    Ok(tools
        .iter()
        .find(|tool| tool.name == "dynamic")
        .and_then(|tool| tool.description.clone())
        .map(Into::into))
}

async fn prompts(s: &Session) -> Result<()> {
    let listed = s.service.list_all_prompts().await?;
    ensure!(
        listed.iter().any(|one| one.name == "test_simple_prompt"),
        "test_simple_prompt is not listed"
    );
    let asked = json!({ "name": "test_prompt_with_arguments", "arguments": { "arg1": "grün", "arg2": "世界" } });
    let got = plain(&s.service.get_prompt(from(asked)).await?);
    let text = &got["messages"][0]["content"]["text"];
    equal(text, &json!("Prompt with arguments: arg1='grün', arg2='世界'"), "text")
}

async fn completion(s: &Session) -> Result<()> {
    for (value, wanted) in [("par", json!(["paris", "park", "party"])), ("pä", json!(["pärnu"]))]
    {
        let asked = json!({
            "ref": { "type": "ref/prompt", "name": "test_prompt_with_arguments" },
            "argument": { "name": "arg1", "value": value },
        });
        let got = plain(&s.service.complete(from(asked)).await?);
        equal(&got["completion"]["values"], &wanted, "values")?;
    }
    Ok(())
}

async fn elicitation(s: &Session) -> Result<()> {
    let accepted = s.said("test_elicitation", json!({ "message": "Wer? 谁?" })).await?;
    let asked = s.user.seen().elicited.last().map(|params| params["message"].clone());
    equal(asked, Some(json!("Wer? 谁?")), "message")?;
    ensure!(accepted.contains("accept") && accepted.contains("ä username"), "{accepted}");
    s.user.seen().declines = true;
    let declined = s.said("test_elicitation", json!({ "message": "Again?" })).await;
    s.user.seen().declines = false;
    let declined = declined?;
    ensure!(declined.contains("decline"), "{declined}");
    Ok(())
}

async fn sampling(s: &Session) -> Result<()> {
    let answer = s.said("test_sampling", json!({ "prompt": "Sag «hallo» 👋" })).await?;
    equal(answer.as_str(), "LLM response: sampled: Sag «hallo» 👋", "answer")
}

async fn rounds(s: &Session) -> Result<()> {
    let three = s.said("test_input_required_result_multi_round", json!({})).await?;
    equal(three.as_str(), "ä name likes ä color", "three rounds")?;
    equal(
        s.said("test_input_required_result_request_state", json!({})).await?.as_str(),
        "state-ok",
        "state",
    )?;
    let roots = s.said("test_input_required_result_list_roots", json!({})).await?;
    equal(roots.as_str(), "Roots: file:///interop/wurzel", "roots")
}

async fn conversations(s: &Session) -> Result<()> {
    let calls = (0..20).map(|at| async move {
        let answer = s.said("test_sampling", json!({ "prompt": format!("number {at}") })).await?;
        equal(answer, format!("LLM response: sampled: number {at}"), "answer")
    });
    all(calls).await
}

async fn logging(s: &Session) -> Result<()> {
    for (level, wanted) in [
        ("warning", vec!["warning", "error"]),
        ("debug", vec!["debug", "info", "warning", "error"]),
    ] {
        s.set_level(level).await?;
        s.user.seen().logs.clear();
        answer_of(s.begin("log_all", json!({}), s.modern.then_some(level)).await?).await?;
        eventually("the lines", async || Ok(s.user.seen().logs.len() >= wanted.len())).await?;
        let got: Vec<_> = s.user.seen().logs.iter().map(|line| line["level"].clone()).collect();
        equal(json!(got), json!(wanted), "levels")?;
    }
    Ok(())
}

/// Runs all at once on this thread; the first error is the outcome.
async fn all(calls: impl Iterator<Item = impl Future<Output = Result<()>>>) -> Result<()> {
    let outcomes = futures_util::future::join_all(calls).await;
    outcomes.into_iter().collect()
}

fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("rmcp-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
