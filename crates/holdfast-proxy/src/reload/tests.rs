//! What becomes of servers, and what a node that takes over a configuration keeps of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_config::{BulkheadClass, Config};
use holdfast_engine::balance::Set;
use holdfast_engine::breaker::Phase;
use holdfast_engine::limits::bulkhead::ToolKey;
use holdfast_store::Store;
use proptest::prelude::*;

use super::fate::{Fate, fates};
use super::*;
use crate::Options;
use crate::fleet::testing::late;
use crate::fleet::{Ask, Outcome, ServerFleet};

fn config(yaml: &str) -> Config {
    let yaml = format!("listen: {{ address: \"127.0.0.1:0\", workers: 1 }}\n{yaml}");
    holdfast_config::parse(&yaml, "test", &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
}

fn node(yaml: &str) -> Arc<Proxy> {
    let options = Options { guard: Vec::new(), store: Store::memory(), cluster: None };
    Proxy::build(Arc::new(config(yaml)), options).unwrap()
}

fn take_over(proxy: &Proxy, yaml: &str) {
    let prepared = proxy.prepare(Arc::new(config(yaml))).unwrap();
    proxy.commit(prepared);
}

fn server(proxy: &Proxy, name: &str) -> Arc<ServerFleet> {
    Arc::clone(proxy.servers().fleet().server(name).unwrap())
}

fn phases(server: &ServerFleet) -> Vec<(String, Phase)> {
    let instances = server.snapshot().instances;
    instances.iter().map(|it| (it.id.to_string(), it.breaker.phase)).collect()
}

fn open(server: &Arc<ServerFleet>, instance: usize) {
    for _ in 0..5 {
        let ask = Ask::opening(None, Set::default());
        server.enter(instance, &ask).unwrap().settle(Outcome::Broken);
    }
}

// --- what is only looked at ---

#[tokio::test]
async fn a_server_that_is_only_prepared_is_counted_nowhere() {
    let proxy = node("servers: { a: { command: cat } }");
    let names = || -> Vec<String> {
        proxy.current.load().metrics.servers().iter().map(|it| it.name().to_owned()).collect()
    };
    let both = "servers: { a: { command: cat }, b: { command: cat } }";
    drop(proxy.prepare(Arc::new(config(both))).unwrap());
    assert_eq!(names(), ["a"]);
    take_over(&proxy, both);
    assert_eq!(names(), ["a", "b"]);
    let counted = Arc::clone(&proxy.current.load().server("b").unwrap().metrics);
    assert!(Arc::ptr_eq(&counted, &proxy.current.load().metrics.server("b")));
    // Back again: what was counted goes on.
    take_over(&proxy, "servers: { a: { command: cat } }");
    take_over(&proxy, both);
    assert!(Arc::ptr_eq(&counted, &proxy.current.load().metrics.server("b")));
}

// --- what becomes of servers ---

/// The fate of the server `x` that is written like this in the one file and like that in the other.
fn fate_of(old: &str, new: &str) -> Fate {
    let of = |it: &str| config(&format!("servers: {{ x: {it}, y: {{ command: cat }} }}"));
    fates(&of(old), &of(new))["x"]
}

#[test]
fn a_server_goes_on_where_it_is_reached_as_before() {
    let pair = r#"{ instances: [ { id: a, url: "http://127.0.0.1:1/mcp" }, { id: b, url: "http://127.0.0.1:2/mcp" } ] }"#;
    let table = [
        (
            r#"{ url: "http://127.0.0.1:1/mcp" }"#,
            r#"{ url: "http://127.0.0.1:1/mcp", timeout: 9s }"#,
            Fate::GoesOn,
        ),
        (
            r#"{ url: "http://127.0.0.1:1/mcp" }"#,
            r#"{ url: "http://127.0.0.1:2/mcp" }"#,
            Fate::BeginsAnew,
        ),
        (
            r#"{ url: "http://127.0.0.1:1/mcp" }"#,
            r#"{ url: "http://127.0.0.1:1/other" }"#,
            Fate::BeginsAnew,
        ),
        (pair, r#"{ instances: [ { id: b, url: "http://127.0.0.1:2/mcp" } ] }"#, Fate::GoesOn),
        // Its name is another's now, and its address is nobody's.
        (pair, r#"{ instances: [ { id: a, url: "http://127.0.0.1:2/mcp" } ] }"#, Fate::BeginsAnew),
        (r#"{ url: "http://127.0.0.1:1/mcp" }"#, "{ command: cat }", Fate::BeginsAnew),
        ("{ command: cat }", "{ command: cat, timeout: 9s }", Fate::GoesOn),
        ("{ command: cat }", "{ command: cat, args: [\"-u\"] }", Fate::BeginsAnew),
        (
            "{ command: cat, env: { A: \"1\" } }",
            "{ command: cat, env: { A: \"1\" } }",
            Fate::GoesOn,
        ),
        (
            "{ command: cat, env: { A: \"1\" } }",
            "{ command: cat, env: { A: \"2\" } }",
            Fate::BeginsAnew,
        ),
        (
            "{ command: cat, env: { A: \"1\" } }",
            "{ command: cat, env: { B: \"1\" } }",
            Fate::BeginsAnew,
        ),
        (
            r#"{ url: "ws://127.0.0.1:1/mcp" }"#,
            r#"{ url: "ws://127.0.0.1:2/mcp" }"#,
            Fate::BeginsAnew,
        ),
    ];
    for (old, new, expected) in table {
        assert_eq!(fate_of(old, new), expected, "{old} → {new}");
    }
}

#[derive(Clone, Debug)]
enum Kind {
    Http(BTreeSet<(u8, u8)>),
    Process(u8, u8),
}

/// A few servers, ids, ports and arguments, so that they meet.
fn servers() -> impl Strategy<Value = Vec<(u8, Kind)>> {
    let http = prop::collection::btree_set((0u8..3, 1u8..4), 1..4).prop_map(Kind::Http);
    let process = (0u8..2, 0u8..2).prop_map(|(arg, env)| Kind::Process(arg, env));
    let kind = prop_oneof![http, process];
    prop::collection::btree_map(0u8..4, kind, 1..4).prop_map(|all| all.into_iter().collect())
}

fn written(servers: &[(u8, Kind)]) -> Config {
    let one = |(name, kind): &(u8, Kind)| match kind {
        Kind::Http(instances) => {
            // An id is there once, and so is a port.
            let ports: BTreeMap<u8, u8> = instances.iter().map(|(id, port)| (*port, *id)).collect();
            let ids: BTreeMap<u8, u8> = ports.iter().map(|(port, id)| (*id, *port)).collect();
            let all: Vec<String> = ids
                .iter()
                .map(|(id, port)| format!("{{ id: i{id}, url: \"http://127.0.0.1:{port}/mcp\" }}"))
                .collect();
            format!("  s{name}: {{ instances: [ {} ] }}\n", all.join(", "))
        }
        Kind::Process(arg, env) => {
            format!("  s{name}: {{ command: cat, args: [\"{arg}\"], env: {{ E: \"{env}\" }} }}\n")
        }
    };
    config(&format!("servers:\n{}", servers.iter().map(one).collect::<String>()))
}

proptest! {
    /// Every server of either file has a fate, and the same two files say the same in both directions.
    #[test]
    fn fates_are_complete_and_symmetric(old in servers(), new in servers()) {
        let (old, new) = (written(&old), written(&new));
        let (there, back) = (fates(&old, &new), fates(&new, &old));
        let all: BTreeSet<&String> = old.servers.keys().chain(new.servers.keys()).collect();
        prop_assert_eq!(there.keys().collect::<BTreeSet<_>>(), all);
        for (name, fate) in &there {
            let (before, after) = (old.servers.contains_key(name), new.servers.contains_key(name));
            prop_assert_eq!(*fate == Fate::Begins, !before && after);
            prop_assert_eq!(*fate == Fate::Ends, before && !after);
            prop_assert_eq!(*fate == Fate::GoesOn, back[name] == Fate::GoesOn);
        }
        prop_assert!(fates(&old, &old).values().all(|fate| *fate == Fate::GoesOn));
        // What a configuration changes it changes back.
        prop_assert_eq!(old.difference(&new).len(), new.difference(&old).len());
    }
}

// --- a node ---

const PAIR: &str = r#"servers: { pair: { instances: [
    { id: a, url: "http://127.0.0.1:1/mcp" }, { id: b, url: "http://127.0.0.1:2/mcp" } ] } }"#;

#[tokio::test]
async fn what_is_known_of_an_instance_is_known_of_it_as_long_as_it_is_the_same() {
    let proxy = node(PAIR);
    open(&server(&proxy, "pair"), 1);
    // Another one before it, other settings: it is the second no more, and the same.
    take_over(
        &proxy,
        r#"servers: { pair: { timeout: 9s, instances: [
            { id: "0", url: "http://127.0.0.1:3/mcp" }, { id: b, url: "http://127.0.0.1:2/mcp", weight: 7 } ] } }"#,
    );
    let all = phases(&server(&proxy, "pair"));
    assert_eq!(all, [("0".into(), Phase::Closed), ("b".into(), Phase::Open)]);
    // Where it is another one under its name, it begins anew.
    take_over(
        &proxy,
        r#"servers: { pair: { instances: [ { id: b, url: "http://127.0.0.1:9/mcp" } ] } }"#,
    );
    assert_eq!(phases(&server(&proxy, "pair")), [("b".into(), Phase::Closed)]);
}

#[tokio::test]
async fn other_rules_of_a_breaker_hold_at_once_and_for_calls_that_began_before() {
    let proxy = node(PAIR);
    let before = server(&proxy, "pair");
    let attempt = before.enter(0, &Ask::opening(None, Set::default())).unwrap();
    take_over(&proxy, &PAIR.replace("pair: {", "pair: { breaker: { consecutive_failures: 3 },"));
    let after = server(&proxy, "pair");
    assert_eq!(after.snapshot().instances[0].in_flight, 1, "it is still under way");
    // It began when five were allowed, and what it says counts for nobody now.
    attempt.settle(Outcome::Broken);
    for _ in 0..3 {
        assert_eq!(phases(&after)[0].1, Phase::Closed);
        after.enter(0, &Ask::opening(None, Set::default())).unwrap().settle(Outcome::Broken);
    }
    assert_eq!(phases(&after)[0].1, Phase::Open);
    assert_eq!(phases(&before)[0].1, Phase::Open, "there is one breaker");
}

#[tokio::test]
async fn a_lower_limit_of_a_class_counts_the_calls_that_are_in() {
    let one = r#"servers: { one: { url: "http://127.0.0.1:1/mcp" } }"#;
    let limit =
        |most: u32| format!("bulkheads: {{ user: {{ concurrency: {most}, queue: 0 }} }}\n{one}");
    let proxy = node(&limit(3));
    let class = BulkheadClass::User;
    let before = server(&proxy, "one");
    let mut running = Vec::new();
    for _ in 0..3 {
        running.push(before.admit_calls(1, class, ToolKey(0), late()).await.unwrap());
    }
    take_over(&proxy, &limit(1));
    let after = server(&proxy, "one");
    for _ in 0..3 {
        assert!(after.admit_calls(1, class, ToolKey(0), late()).await.is_err());
        running.pop();
    }
    let _only = after.admit_calls(1, class, ToolKey(0), late()).await.unwrap();
    assert!(after.admit_calls(1, class, ToolKey(0), late()).await.is_err());
}

#[tokio::test]
async fn a_call_that_waits_for_its_turn_gets_the_room_that_there_is_now() {
    let limit = |most: u32| {
        format!(
            "bulkheads: {{ user: {{ concurrency: {most}, queue: 5, queue_timeout: 1m }} }}\n{}",
            r#"servers: { one: { url: "http://127.0.0.1:1/mcp" } }"#
        )
    };
    let proxy = node(&limit(1));
    let before = server(&proxy, "one");
    let _first = before.admit_calls(1, BulkheadClass::User, ToolKey(0), late()).await.unwrap();
    let mut second = Box::pin(before.admit_calls(1, BulkheadClass::User, ToolKey(0), late()));
    assert!(futures_util::poll!(second.as_mut()).is_pending());
    take_over(&proxy, &limit(2));
    let let_in = tokio::time::timeout(Duration::from_secs(10), second).await;
    assert!(let_in.expect("there is room").is_ok());
}

#[tokio::test]
async fn nothing_is_seen_of_a_configuration_before_it_is_taken_over() {
    let proxy = node(PAIR);
    open(&server(&proxy, "pair"), 0);
    let before = phases(&server(&proxy, "pair"));
    let other = r#"servers: { other: { url: "http://127.0.0.1:1/mcp" } }"#;
    let prepared = proxy.prepare(Arc::new(config(other))).unwrap();
    assert_eq!(phases(&server(&proxy, "pair")), before);
    assert!(proxy.servers().fleet().server("other").is_none());
    assert!(prepared.servers().fleet().server("other").is_some());
    proxy.commit(prepared);
    assert!(proxy.servers().fleet().server("pair").is_none());
    assert_eq!(proxy.running().servers.keys().collect::<Vec<_>>(), ["other"]);
}

#[tokio::test]
async fn a_setting_that_needs_a_restart_refuses_all_of_it_and_says_what_to_do() {
    let proxy = node(PAIR);
    let new = config(&format!(
        "node: {{ id: other }}\nlog: {{ format: json }}\nstreams: {{ keepalive: 7s }}\n{PAIR}"
    ));
    let Err(refused) = proxy.prepare(Arc::new(new)) else { panic!("it was taken") };
    let text = refused.to_string();
    assert!(
        text.starts_with(
            "a running node cannot change log.format from logfmt to json; node.id from "
        ),
        "{text}"
    );
    assert!(
        text.ends_with(
            "to other: undo that, or restart the nodes with the new file one after another"
        ),
        "{text}"
    );
    assert_ne!(proxy.running().streams.keepalive, Duration::from_secs(7));
}

#[tokio::test]
async fn an_allowance_that_is_the_same_is_not_filled_by_a_reload() {
    let yaml = |timeout: &str, more: &str| {
        format!(
            r#"servers: {{ one: {{ url: "http://127.0.0.1:1/mcp", timeout: {timeout}, requests_per_minute: {more} }} }}"#
        )
    };
    let proxy = node(&yaml("5s", "1"));
    let taken = |proxy: &Proxy| {
        let gateway = proxy.current.load_full();
        gateway.server("one").unwrap().admit(1, None, std::time::Instant::now()).is_ok()
    };
    assert!(taken(&proxy));
    take_over(&proxy, &yaml("6s", "1"));
    assert!(!taken(&proxy), "one a minute, and it was taken before the reload");
    take_over(&proxy, &yaml("6s", "2"));
    assert!(taken(&proxy), "another allowance begins full");
}
