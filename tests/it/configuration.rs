//! The file of a running node changes, in all the ways in which files do: whole or not at all, and a
//! file that is no good changes nothing.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::Value;

use crate::harness::TempDir;
use crate::harness::client::Client;
use crate::harness::cluster::post;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::process::signal;
use crate::harness::sample::Sample;
use crate::harness::wire::Conn;

async fn start(section: &str) -> (Sample, Gateway) {
    let sample = Sample::start(&[]).await;
    let setup = Setup::http(&format!("http://{}/mcp", sample.address));
    let setup = setup.section("limits: { streams: 1001 }").section(section);
    (sample, setup.start().await)
}

fn text(gateway: &Gateway, streams: u32) -> String {
    let text = std::fs::read_to_string(gateway.config()).expect("the configuration");
    text.replace("streams: 1001", &format!("streams: {streams}"))
}

async fn says(gateway: &Gateway, path: &str) -> Value {
    let admin = gateway.admin;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    let answer = Conn::open(admin).await.exchange(request).await;
    serde_json::from_str(&answer.text()).expect("JSON")
}

async fn runs(gateway: &Gateway, version: u32) {
    gateway.wait_metric("holdfast_config_version", |it| it == f64::from(version)).await;
}

#[tokio::test]
async fn a_file_is_read_however_it_changes() {
    let (_sample, gateway) = start("reload: { interval: 100ms }").await;
    let (path, first) = (gateway.config(), text(&gateway, 1001));
    let beside = |name: &str| path.with_file_name(name);
    runs(&gateway, 1).await;
    // In place, in two halves: the first half alone is not YAML.
    let second = text(&gateway, 1002);
    let (half, _) = second.split_at(second.find("servers").expect("servers") + 3);
    std::fs::write(&path, half).expect("write");
    std::fs::write(&path, &second).expect("write");
    runs(&gateway, 2).await;
    assert_eq!(gateway.metric("holdfast_config_file_refused").await, 0.0);
    // As an editor does: written beside, and renamed.
    std::fs::write(beside("new"), first.replace("1001", "1003")).expect("write");
    std::fs::rename(beside("new"), &path).expect("rename");
    runs(&gateway, 3).await;
    // As a mounted ConfigMap does: a link to a folder is swapped.
    let folder = |name: &str, streams: &str| {
        let folder = beside(name);
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::write(folder.join("holdfast.yaml"), first.replace("1001", streams))
            .expect("write");
        folder
    };
    let swap = |to: &Path| {
        let _ = std::fs::remove_file(beside("next"));
        symlink(to, beside("next")).expect("a link");
        std::fs::rename(beside("next"), beside("data")).expect("rename");
    };
    swap(&folder("one", "1004"));
    symlink("data/holdfast.yaml", beside("link")).expect("a link");
    std::fs::rename(beside("link"), &path).expect("rename");
    runs(&gateway, 4).await;
    swap(&folder("two", "1005"));
    runs(&gateway, 5).await;
    // Gone: what runs goes on, and it says so.
    std::fs::remove_file(&path).expect("remove");
    gateway.wait_metric("holdfast_config_file_refused", |it| it == 1.0).await;
    let history = says(&gateway, "/api/config/history").await;
    let trouble = history["nodes"][0]["trouble"].as_str().unwrap_or_default();
    assert!(trouble.contains("it cannot be read"), "{history:#}");
    runs(&gateway, 5).await;
    std::fs::write(&path, first.replace("1001", "1006")).expect("write");
    runs(&gateway, 6).await;
    assert_eq!(gateway.metric("holdfast_config_file_refused").await, 0.0);
}

#[tokio::test]
async fn what_is_no_good_is_refused_as_a_whole() {
    let (_sample, gateway) = start("reload: { watch: false }").await;
    let (path, first) = (gateway.config(), text(&gateway, 1002));
    let client = Client::legacy(&gateway).initialized().await;
    for (text, status, said) in [
        ("servers: [".to_owned(), 422, "this is not YAML"),
        (first.replace("streams: 1002", "strems: 1002"), 422, "did you mean streams?"),
        (format!("{first}node: {{ id: other }}\n"), 409, "node.id"),
        (first.replace("log: {", "log: { format: json,"), 409, "log.format"),
    ] {
        std::fs::write(&path, text).expect("write");
        let answer = post(gateway.admin, "/api/config/reload", "{}").await.expect("an answer");
        let error = answer.1["error"].as_str().unwrap_or_default();
        assert!(answer.0 == status && error.contains(said), "{answer:?}");
        signal(gateway.pid(), "HUP");
    }
    let refused = |it| it >= 5.0;
    gateway.wait_metric("holdfast_config_reloads_total", refused).await;
    let history = says(&gateway, "/api/config/history").await;
    assert_eq!(history["versions"].as_array().map(Vec::len), Some(1), "{history:#}");
    assert!(client.call(1, "echo").await.get("result").is_some());
    // A good one is not read by itself, and then by the signal.
    std::fs::write(&path, &first).expect("write");
    let body = "{\"check\": true}";
    let told = post(gateway.admin, "/api/config/reload", body).await.expect("an answer").1;
    assert_eq!((&told["version"], told["changes"].as_array().map(Vec::len)), (&1.into(), Some(1)));
    signal(gateway.pid(), "HUP");
    runs(&gateway, 2).await;
    assert!(client.call(2, "echo").await.get("result").is_some());
}

#[tokio::test]
async fn a_node_alone_remembers_what_happened_before_its_process_ended() {
    let folder = TempDir::new();
    let data = folder.join("data");
    let section = format!("node: {{ data_dir: \"{}\" }}", data.display());
    let (_sample, mut gateway) = start(&section).await;
    runs(&gateway, 1).await;
    std::fs::write(gateway.config(), text(&gateway, 1002)).expect("write");
    signal(gateway.pid(), "HUP");
    runs(&gateway, 2).await;
    let record = |page: &Value| -> Vec<Value> {
        let events = page["events"].as_array().cloned().unwrap_or_default();
        events.into_iter().filter(|it| it["kind"] == "configured").collect()
    };
    let before = record(&says(&gateway, "/api/audit").await);
    assert_eq!(before.len(), 2, "{before:#?}");
    gateway.kill();
    // It died over a line.
    let path = data.join("events");
    let mut kept = std::fs::read_to_string(&path).expect("the record");
    kept.push_str("{\"index\":");
    std::fs::write(&path, kept).expect("write");
    gateway.restart().await;
    runs(&gateway, 1).await;
    let after = record(&says(&gateway, "/api/audit").await);
    assert_eq!(after[..2], before, "{after:#?}");
    assert_eq!(after.len(), 3, "{after:#?}");
    assert!(after[2]["index"].as_u64() > before[1]["index"].as_u64(), "{after:#?}");
    assert_eq!(gateway.log().matches("cannot be read, and is left out").count(), 1);
}
