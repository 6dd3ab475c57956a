//! `balance.strategy: hash`: calls whose arguments name the same key go to the same instance.

use std::collections::BTreeMap;

use crate::harness::client::Client;
use crate::harness::gateway::Setup;
use crate::harness::message;
use crate::harness::recorder::Recorder;

#[tokio::test]
async fn a_key_in_the_arguments_chooses_the_instance() {
    let servers = [Recorder::start().await, Recorder::start().await, Recorder::start().await];
    let instances: Vec<String> = servers
        .iter()
        .zip(["a", "b", "c"])
        .map(|(server, id)| format!("{{ id: {id}, url: \"{}\" }}", server.url()))
        .collect();
    let settings = format!(
        "{{ instances: [ {} ], balance: {{ strategy: hash, hash_on: arguments.user.id }} }}",
        instances.join(", ")
    );
    let gateway = Setup::new().server("main", &settings).start().await;
    let client = Client::modern(&gateway);
    let meta = message::META;
    for (id, user) in (0..96).map(|id| (id, id % 16)) {
        let params = format!(
            r#"{{"name":"tool","arguments":{{"user":{{"id":"u{user}"}},"n":{id}}},{meta}}}"#
        );
        let answer = client.post(&message::request(id, "tools/call", &params)).await;
        let answer = answer.response().await;
        assert!(answer.get("result").is_some(), "{answer}");
    }
    let mut went: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, server) in servers.iter().enumerate() {
        for seen in server.calls("tool") {
            let body: serde_json::Value = serde_json::from_slice(&seen.body).expect("JSON");
            let user = body["params"]["arguments"]["user"]["id"].to_string();
            went.entry(user).or_default().push(at);
        }
    }
    assert_eq!(went.len(), 16);
    for (user, at) in &went {
        assert!(at.len() == 6 && at.iter().all(|it| it == &at[0]), "{user} went to {at:?}");
    }
    assert!(servers.iter().all(|server| !server.calls("tool").is_empty()), "all have some");
}
