//! Environment variables on top of the file.

use std::time::Duration;

use holdfast_config::{Config, Place, Problem};

use crate::{SERVERS, read};

fn with(variables: &[(&str, &str)]) -> Config {
    read(SERVERS, variables).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// The one problem that a variable makes.
#[track_caller]
fn wrong(name: &'static str, value: &str) -> Problem {
    let mut problems = read(SERVERS, &[(name, value)]).expect_err("a problem");
    assert_eq!(problems.len(), 1, "{problems:#?}");
    let problem = problems.remove(0);
    assert_eq!(problem.place, Place::Variable(name));
    problem
}

#[test]
fn variables_override_the_file() {
    let text = format!(
        "node: {{ id: file }}\nlisten: {{ address: \"0.0.0.0:1\" }}\nlog: {{ level: error }}\n{SERVERS}"
    );
    let variables = [
        ("HA_NODE_ID", "gateway-2"),
        ("PORT", "8080"),
        ("HOLDFAST_ADMIN_LISTEN", "127.0.0.1:9"),
        ("HOLDFAST_DATA_DIR", "data"),
        ("HOLDFAST_CLUSTER_SECRET", "0123456789abcdef0123456789abcdef"),
        ("HOLDFAST_LOG", "debug"),
        ("HA_MODE", "standalone"),
        ("LB_HEALTH_CHECK_PATH", "/ping"),
        ("SESSION_STORE", "memory"),
    ];
    let config = read(&text, &variables).unwrap();
    assert_eq!(config.node.id, "gateway-2");
    assert_eq!(config.listen.address.to_string(), "0.0.0.0:8080");
    assert_eq!(config.admin.address.to_string(), "127.0.0.1:9");
    assert_eq!(config.node.data_dir.unwrap().to_str(), Some("data"));
    assert!(config.node.secret.is_some());
    assert_eq!(config.log.level, "debug");
    assert_eq!(config.listen.health_path.as_deref(), Some("/ping"));
    assert!(config.notices.is_empty(), "{:?}", config.notices);
}

#[test]
fn breakers_and_checks_follow_the_environment() {
    let text = "health: { interval: 20s }\n\
                mcpServers: { desktop: { url: \"http://a/\" } }\n\
                servers:\n  \
                a: { url: \"http://a/\" }\n  \
                b: { url: \"http://b/\", breaker: { enabled: true, open_for: 5s }, \
                health: { interval: 7s } }\n";
    let variables = [
        ("CIRCUIT_BREAKER_ENABLED", "0"),
        ("CIRCUIT_BREAKER_THRESHOLD", "7"),
        ("CIRCUIT_BREAKER_TIMEOUT", "90000"),
        ("HA_HEALTH_CHECK_INTERVAL", "2500"),
    ];
    let config = read(text, &variables).unwrap();
    assert_eq!(config.health.interval, Duration::from_millis(2500));
    for name in ["a", "desktop"] {
        let (breaker, health) = (&config.servers[name].breaker, &config.servers[name].health);
        assert!(!breaker.enabled);
        assert_eq!(breaker.consecutive_failures, 7);
        assert_eq!(breaker.open_for, Duration::from_secs(90));
        assert_eq!(breaker.max_open_for, Duration::from_secs(90));
        assert_eq!(health.interval, Duration::from_millis(2500));
        assert_eq!(health.timeout, Duration::from_millis(2500));
    }
    // What a server says of its own stays.
    let (breaker, health) = (&config.servers["b"].breaker, &config.servers["b"].health);
    assert!(breaker.enabled);
    assert_eq!((breaker.consecutive_failures, breaker.open_for.as_secs()), (7, 5));
    assert_eq!(health.interval, Duration::from_secs(7));
    assert!(config.notices.is_empty(), "{:?}", config.notices);
}

#[test]
fn an_empty_variable_is_not_set() {
    let config = with(&[("PORT", ""), ("HA_NODE_ID", " "), ("HA_CLUSTER_NODES", "")]);
    assert_eq!(config.listen.address.port(), 37373);
    assert_eq!(config.node.id, "holdfast");
}

#[test]
fn what_has_no_effect_is_checked_and_said() {
    let config = with(&[("SESSION_FAILOVER_ENABLED", "true"), ("HA_FAILOVER_TIMEOUT", "1000")]);
    assert_eq!(config.notices.len(), 2, "{:#?}", config.notices);
    assert!(config.notices.iter().all(|notice| notice.contains("has no effect")));
}

#[test]
fn wrong_values_are_problems_that_name_the_variable() {
    assert!(wrong("HA_MODE", "claster").found.contains("not a mode"));
    assert!(wrong("HOLDFAST_CLUSTER_LISTEN", "0.0.0.0:0").found.contains("could not find it"));
    assert!(wrong("SESSION_STORE", "etcd").found.contains("not a store"));
    wrong("SESSION_STORE_URL", "http://a");
    wrong("SESSION_FAILOVER_ENABLED", "maybe");
    wrong("CIRCUIT_BREAKER_ENABLED", "on");
    wrong("CIRCUIT_BREAKER_THRESHOLD", "2");
    wrong("CIRCUIT_BREAKER_THRESHOLD", "16");
    wrong("CIRCUIT_BREAKER_TIMEOUT", "30s");
    wrong("HA_HEALTH_CHECK_INTERVAL", "1");
    wrong("HA_FAILOVER_TIMEOUT", "x");
    wrong("HA_FAILOVER_TIMEOUT", "299");
    wrong("HA_FAILOVER_TIMEOUT", "60001");
    wrong("HA_NODE_ID", "a b");
    wrong("PORT", "70000");
    wrong("PORT", "http");
    wrong("HOLDFAST_ADMIN_LISTEN", "37374");
    wrong("HOLDFAST_LOG", "inof");
    wrong("HOLDFAST_CLUSTER_SECRET", "short");
    wrong("LB_HEALTH_CHECK_PATH", "/mcp/x");
}

#[test]
fn what_only_the_environment_makes_wrong_is_blamed_on_it() {
    assert!(wrong("HOLDFAST_ADMIN_LISTEN", "0.0.0.0:37374").found.contains("no token"));
    assert!(wrong("PORT", "37374").found.contains("both"));
}

#[test]
fn paths_that_answer_already_need_no_alias() {
    assert_eq!(with(&[("LB_HEALTH_CHECK_PATH", "/health/ready")]).listen.health_path, None);
}

#[test]
fn without_a_file_and_without_the_variable_nothing_is_loaded() {
    let problems = holdfast_config::load(None, &|_| None).unwrap_err();
    assert!(problems.list[0].cure.contains("HOLDFAST_CONFIG"));
}
