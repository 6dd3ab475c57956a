//! Each way to fail, met by two of three nodes.

use serde_json::Value;

use super::{breaker_is, modern};
use crate::cluster::led;
use crate::harness::cluster::Cluster;
use crate::harness::control::ALL;
use crate::harness::gateway::Setup;
use crate::harness::sample::Sample;
use crate::servers::{reads, refused, url, write, write_in_session};

/// Ways in which a server answers its checks and no call, and what a client of a Write is told: a code of an
/// error that may have run.
const FAILING: [(&str, &str, i64); 5] = [
    ("hangs", r#"{"kind":"hang"}"#, -31005),
    ("fails", r#"{"kind":"status","status":500}"#, -31002),
    ("resets", r#"{"kind":"reset"}"#, -31002),
    ("garbles", r#"{"kind":"garbage"}"#, -31002),
    ("halves", r#"{"kind":"reset_after_headers"}"#, -31002),
];

/// Failures in a row that open a breaker.
const ENOUGH: usize = 5;

/// Checked often; what opens stays open; a Read has an answer without the server.
const SETTINGS: &str = r#"tools: { echo: read }, breaker: { open_for: 1h },
    health: { interval: 1s, timeout: 1s, retries: 2, checks: [ { type: ping } ] },
    fallback: { static: { content: [ { type: text, text: "later" } ] } }"#;

/// A server that meets every Write like this.
async fn meets(fault: &str, execute: bool) -> Sample {
    let rule = format!(
        r#"{{"method":"tools/call","tool":"write","always":true,"execute":{execute},"fault":{fault}}}"#
    );
    Sample::start(&["--behaviour", &rule]).await
}

/// With a further setting.
fn server(sample: &Sample, more: &str) -> String {
    format!(r#"{{ url: "{}", {SETTINGS}{more} }}"#, url(sample))
}

/// Reads of a server that is well, at every node; they have their results, whatever becomes of the others.
fn beside(cluster: &Cluster) -> Vec<tokio::task::JoinHandle<()>> {
    let clients = ALL.map(|at| modern(cluster, at, "well"));
    let beside = clients
        .map(|it| tokio::spawn(async move { assert_eq!(reads(&it, 128).await, (128, None)) }));
    beside.into()
}

/// Until these nodes find the server degraded by its calls, with a breaker that is open for all.
async fn is_shut(cluster: &Cluster, nodes: &[usize], name: &str) {
    let shut = |it: &Value| {
        let kept = it["instances"][0]["kept"].as_str().unwrap_or_default();
        // Its checks are good, at each of them.
        let by_calls = it["verdict"] == "degraded" && it["instances"][0]["score"] == 1.0;
        breaker_is(it, "open") && kept.starts_with("open for all") && by_calls
    };
    let seen = cluster.all_show(nodes, name, "shut for all", shut).await;
    assert!(seen["instances"][0]["why"].to_string().contains("breaker open"), "{seen}");
}

/// Nothing is sent to it from these nodes, who depends on it is refused, and Reads have what stands in.
async fn is_left_alone(cluster: &Cluster, nodes: &[usize], name: &str, sample: &Sample) {
    let reached = sample.struck().await;
    for at in nodes {
        let key = format!("refused-{at}");
        let answer = led(&modern(cluster, *at, name), &write(1, &key)).await;
        refused(&answer, -31001);
        assert_eq!(sample.executions("write", &key), 0, "{name}: {answer}");
        let read = modern(cluster, *at, name).call(2, "echo").await;
        assert_eq!(read["result"]["_meta"]["io.holdfast/fallback"]["kind"], "static", "{read}");
        let needs = modern(cluster, *at, &format!("needs_{name}")).call(3, "echo").await;
        refused(&needs, -31004);
        let why = format!("it depends on {name}");
        assert!(needs.to_string().contains(&why), "{needs}");
    }
    assert_eq!(sample.struck().await, reached, "{name} was called");
}

/// Two nodes' clients meet a server that fails its calls in whatever way; the third node has no client. All
/// three find the same of it, and none calls it from then on, nor when the coordinator is gone.
#[tokio::test]
async fn what_fails_two_nodes_is_left_alone_by_all_three() {
    let well = Sample::start(&[]).await;
    let plain = format!(r#"url: "{}", tools: {{ echo: read }}"#, url(&well));
    let mut setup = Setup::new().server("well", &format!("{{ {plain} }}"));
    let mut samples = Vec::new();
    for (name, fault, _) in FAILING {
        let sample = meets(fault, true).await;
        setup = setup
            .server(name, &server(&sample, ", timeout: 3s"))
            .server(&format!("needs_{name}"), &format!("{{ {plain}, depends_on: [{name}] }}"));
        samples.push(sample);
    }
    let mut cluster = setup.cluster().await;
    let leader = cluster.coordinator().await;
    let (other, third) = ((leader + 1) % 3, (leader + 2) % 3);
    for (name, _, _) in FAILING {
        cluster.all_show(&ALL, name, "well", |it| it["verdict"] == "healthy").await;
    }
    let beside = beside(&cluster);
    let mut calls = Vec::new();
    for (place, (name, _, code)) in FAILING.into_iter().enumerate() {
        for number in 0..ENOUGH * 2 {
            let client = modern(&cluster, [leader, other][number % 2], name);
            let key = format!("{name}-{number}");
            calls.push(tokio::spawn(async move {
                let answer = led(&client, &write(number, &key)).await;
                assert_eq!(answer["id"], number, "{answer}");
                (place, key, code, answer)
            }));
        }
    }
    for call in calls {
        let (place, key, code, answer) = call.await.expect("an answer");
        let ran = samples[place].executions("write", &key);
        // The last of them may come when the breaker is open for all.
        match answer["error"]["data"]["mayHaveRun"].as_bool() {
            Some(false) => refused(&answer, -31001),
            _ => assert_eq!(answer["error"]["code"], code, "{key}: {answer}"),
        }
        let sent = answer["error"]["data"]["mayHaveRun"] == true;
        assert_eq!(ran, usize::from(sent), "{key}: {answer}");
    }
    for (sample, (name, _, _)) in samples.iter().zip(FAILING) {
        is_shut(&cluster, &ALL, name).await;
        is_left_alone(&cluster, &ALL, name, sample).await;
        let record = cluster.record(third).await;
        let is = |it: &&Value| it["kind"] == "breaker_opened" && it["server"] == name;
        let opened: Vec<&Value> = record.iter().filter(is).map(|it| &it["instance"]).collect();
        assert_eq!(opened, ["1"], "{name}: {record:#?}");
    }
    for reads in beside {
        reads.await.expect("reads that end");
    }
    let closed = |it: &Value| breaker_is(it, "closed");
    cluster.all_show(&ALL, "well", "with a breaker that is closed", closed).await;

    cluster[leader].kill();
    let left = [other, third];
    cluster.coordinator_of(&left).await;
    for (sample, (name, _, _)) in samples.iter().zip(FAILING) {
        is_shut(&cluster, &left, name).await;
        is_left_alone(&cluster, &left, name, sample).await;
    }
}

/// What asks for a rest is called once by each node; what forgets its sessions is sent its calls again, whichever node
/// has them; what answers byte by byte is waited for. None of it is a failure, at any node.
#[tokio::test]
async fn what_asks_for_a_rest_or_forgets_sessions_or_is_slow_is_well_for_all() {
    let busy = meets(r#"{"kind":"status","status":429,"retry_after":60}"#, false).await;
    let rule = r#"{"method":"tools/call","tool":"write","fault":{"kind":"forget_session"}}"#;
    let rules: Vec<String> =
        (0..6).map(|skip| rule.replacen('{', &format!("{{\"skip\":{skip},"), 1)).collect();
    let arguments: Vec<&str> = rules.iter().flat_map(|it| ["--behaviour", it]).collect();
    let forgets = Sample::start(&arguments).await;
    let drips = meets(r#"{"kind":"drip","ms":5,"bytes":20}"#, true).await;
    let cluster = Setup::new()
        .server("busy", &server(&busy, ""))
        .server("forgets", &server(&forgets, ""))
        .server("drips", &server(&drips, ""))
        .cluster()
        .await;
    const NAMES: [&str; 3] = ["busy", "forgets", "drips"];
    for (at, name) in ALL.into_iter().flat_map(|at| NAMES.map(|name| (at, name))) {
        cluster.shows(at, name, "well", |it| it["verdict"] == "healthy").await;
    }
    for at in ALL {
        let client = modern(&cluster, at, "busy");
        refused(&led(&client, &write(1, "w")).await, -31003);
        for number in 2..6 {
            refused(&led(&client, &write(number, "w")).await, -31003);
        }
        let rests = r#"holdfast_refused_total{server_id="busy",reason="back_pressure"} 4"#;
        assert!(cluster[at].has_metric(rests).await);
    }
    assert_eq!(busy.struck().await, 3, "once from each node");

    // One session, whose calls come to one node after the other.
    let session = cluster.client(0).at("/mcp/forgets").initialized().await;
    for number in 0..12 {
        let client = session.on(cluster[number % 3].address);
        let key = format!("w{number}");
        let answer = led(&client, &write_in_session(number, &key)).await;
        assert!(answer.get("result").is_some(), "{answer}");
        assert_eq!(forgets.executions("write", &key), 1, "{answer}");
    }
    assert_eq!(forgets.struck().await, 6);

    for number in 0..6 {
        let (client, key) = (modern(&cluster, number % 3, "drips"), format!("w{number}"));
        let answer = led(&client, &write(number, &key)).await;
        assert!(answer.get("result").is_some(), "{answer}");
        assert_eq!(drips.executions("write", &key), 1, "{answer}");
    }
    assert_eq!(drips.struck().await, 6);
    let is_well = |it: &Value| it["verdict"] == "healthy" && breaker_is(it, "closed");
    for name in NAMES {
        cluster.all_show(&ALL, name, "well", is_well).await;
        let record = cluster.record(0).await;
        let verdicts = record.iter().filter(|it| it["kind"] == "verdict" && it["server"] == name);
        assert_eq!(verdicts.count(), 1, "never anything but well: {record:#?}");
    }
}
