//! Sessions in a Redis: every way to say where it is, and every mistake in it.

use std::time::Duration;

use holdfast_config::{Config, ExposeSecret, Place, Problem, Redis, StoreKind, Topology};

use crate::SERVERS;

/// What makes a cluster, without which there is no Redis.
const CLUSTER: [(&str, &str); 4] = [
    ("HA_CLUSTER_NODES", "a=h:1,b=h:2,c=h:3"),
    ("HA_NODE_ID", "a"),
    ("HOLDFAST_CLUSTER_SECRET", "0123456789abcdef0123456789abcdef"),
    ("HOLDFAST_DATA_DIR", "data"),
];

/// Reads `text` before a good server, on a node of a cluster under these variables.
fn read(text: &str, variables: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
    crate::read(&format!("{text}\n{SERVERS}"), &[variables, &CLUSTER].concat())
}

#[track_caller]
fn redis(sessions: &str) -> Redis {
    let config = good(&format!("sessions: {{ store: redis, {sessions} }}"));
    assert!(config.notices.is_empty(), "{:?}", config.notices);
    config.sessions.redis.expect("a Redis")
}

#[track_caller]
fn good(text: &str) -> Config {
    read(text, &[]).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

#[track_caller]
fn wrong(text: &str, variables: &[(&str, &str)]) -> Problem {
    let mut problems = read(text, variables).expect_err("a problem");
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems.remove(0)
}

/// `sessions: { store: redis, … }` has one problem, at `key`.
#[track_caller]
fn check(sessions: &str, key: &str, found: &str, cure: &str) {
    let problem = wrong(&format!("sessions: {{ store: redis, {sessions} }}"), &[]);
    assert_eq!(problem.key, format!("sessions.{key}"), "{problem:#?}");
    assert!(problem.found.contains(found), "{problem:#?}");
    assert!(problem.cure.contains(cure), "{problem:#?}");
    assert!(problem.position().is_some(), "{problem:#?}");
    assert!(!problem.allowed.is_empty(), "{problem:#?}");
}

#[test]
fn a_url_is_enough() {
    let redis = redis("url: \"redis://app:s3cret@redis:6380/2\"");
    let Topology::Standalone(at) = &redis.topology else { panic!("{redis:?}") };
    assert_eq!(at.to_string(), "redis:6380");
    assert_eq!((redis.username.as_deref(), redis.database), (Some("app"), 2));
    assert_eq!(redis.password.unwrap().expose_secret(), "s3cret");
    assert_eq!(redis.tls, None);
    assert_eq!(redis.replicas_to_acknowledge, 0);
    assert_eq!(redis.acknowledge_within, Duration::from_millis(500));
    assert_eq!(redis.command_timeout, Duration::from_secs(2));
    assert_eq!(redis.connect_timeout, Duration::from_secs(1));
    assert_eq!(redis.key_prefix, "holdfast");
    assert!(!redis.allow_unsafe);
}

#[test]
fn what_has_replicas_waits_for_one() {
    assert_eq!(redis("url: \"rediss+sentinel://s1,s2/main\"").replicas_to_acknowledge, 1);
    assert_eq!(redis("url: \"redis+cluster://a,b\"").replicas_to_acknowledge, 1);
    let none = "url: \"redis+cluster://a,b\", \
                redis: { replicas_to_acknowledge: 0, allow_unsafe: true }";
    assert_eq!(redis(none).replicas_to_acknowledge, 0);
}

#[test]
fn every_key_is_taken() {
    let redis = redis(
        "redis: { sentinel: { sentinels: [s1, \"s2:5\"], master: main }, username: a, \
         password: b, database: 3, tls: {}, sentinel_username: c, sentinel_password: d, \
         replicas_to_acknowledge: 2, acknowledge_within: 100ms, command_timeout: 500ms, \
         connect_timeout: 200ms, key_prefix: hf-1, allow_unsafe: true }",
    );
    let Topology::Sentinel { sentinels, master } = &redis.topology else { panic!("{redis:?}") };
    let sentinels: Vec<_> = sentinels.iter().map(ToString::to_string).collect();
    assert_eq!(
        (sentinels.as_slice(), master.as_str()),
        (&["s1:26379".into(), "s2:5".into()][..], "main")
    );
    assert_eq!((redis.username.as_deref(), redis.database), (Some("a"), 3));
    assert_eq!(redis.password.unwrap().expose_secret(), "b");
    assert!(redis.tls.is_some());
    assert_eq!(redis.sentinel_username.as_deref(), Some("c"));
    assert_eq!(redis.sentinel_password.unwrap().expose_secret(), "d");
    assert_eq!(redis.replicas_to_acknowledge, 2);
    assert_eq!(redis.acknowledge_within, Duration::from_millis(100));
    assert_eq!(redis.command_timeout, Duration::from_millis(500));
    assert_eq!(redis.connect_timeout, Duration::from_millis(200));
    assert_eq!(redis.key_prefix, "hf-1");
    assert!(redis.allow_unsafe);
}

#[test]
fn the_other_places() {
    let at = |keys: &str| redis(&format!("redis: {{ {keys} }}")).topology.label();
    assert_eq!(at("address: \"[::1]:7\""), "standalone");
    assert_eq!(at("cluster: { nodes: [a, b, \"c:7\"] }"), "cluster");
    let rest = redis("url: \"redis://h\", redis: { username: a, password: b, database: 1 }");
    assert_eq!((rest.username.as_deref(), rest.database), (Some("a"), 1));
}

#[test]
fn a_shorter_command_shortens_the_wait() {
    let redis = redis("url: \"redis://h\", redis: { command_timeout: 200ms }");
    assert_eq!(redis.acknowledge_within, Duration::from_millis(200));
}

#[test]
fn only_a_cluster_keeps_its_sessions_there() {
    let text = format!("sessions: {{ store: redis, url: \"redis://h\" }}\n{SERVERS}");
    let alone = crate::read(&text, &[]).unwrap_err();
    assert_eq!(alone.len(), 1, "{alone:#?}");
    assert_eq!(alone[0].key, "sessions.store");
    assert!(alone[0].found.contains("runs alone"), "{alone:#?}");
    assert!(alone[0].cure.contains("a cluster may have one node"), "{alone:#?}");
    let standalone = [&[("HA_MODE", "standalone")][..], &CLUSTER].concat();
    let standalone = crate::read(&text, &standalone).unwrap_err();
    assert!(standalone[0].cure.starts_with("unset HA_MODE"), "{standalone:#?}");

    let config = good("sessions: { store: redis, url: \"redis://h\" }");
    assert_eq!(config.sessions.store, StoreKind::Redis);
    assert!(config.cluster.is_some() && config.sessions.redis.is_some());
    let one = [&[("HA_CLUSTER_NODES", "a=h:1")][..], &CLUSTER].concat();
    assert!(crate::read(&text, &one).is_ok());
    let memory = crate::read(&text, &[&[("SESSION_STORE", "memory")][..], &CLUSTER].concat());
    let memory = memory.unwrap_err();
    assert_eq!(memory[0].place, Place::Variable("SESSION_STORE"), "{memory:#?}");
    assert_eq!(memory[0].allowed, "replicated, redis");
    let failover = [&[("SESSION_FAILOVER_ENABLED", "false")][..], &CLUSTER].concat();
    let failover = crate::read(&text, &failover).unwrap();
    assert!(failover.notices[0].contains("always share"), "{:?}", failover.notices);
}

#[test]
fn the_environment_takes_the_place_of_the_files_url() {
    let with = |text: &str, variables: &[(&str, &str)]| -> Config {
        read(text, variables).unwrap_or_else(|p| panic!("{p:#?}"))
    };
    let url = ("SESSION_STORE_URL", "rediss://u:p@new/4");
    for file in [
        "",
        "sessions: { store: redis, url: \"redis://x:y@old/1\" }",
        "sessions: { store: redis, url: \"not a url\" }",
        "sessions: { redis: { cluster: { nodes: [a] } } }",
    ] {
        let config = with(file, &[("SESSION_STORE", "redis"), url]);
        let redis = config.sessions.redis.expect("a Redis");
        assert_eq!(redis.topology.label(), "standalone");
        assert_eq!((redis.username.as_deref(), redis.database), (Some("u"), 4));
        assert!(redis.tls.is_some());
        assert_eq!(redis.replicas_to_acknowledge, 0);
        assert!(config.notices.is_empty(), "{:?}", config.notices);
    }
    let password = "sessions: { redis: { password: kept } }";
    let plain = [("SESSION_STORE", "redis"), ("SESSION_STORE_URL", "redis://h")];
    let redis = with(password, &plain).sessions.redis.expect("a Redis");
    assert_eq!(redis.password.unwrap().expose_secret(), "kept");

    let elsewhere =
        with("sessions: { store: redis, url: \"redis://h\" }", &[("SESSION_STORE", "replicated")]);
    assert!(elsewhere.sessions.redis.is_none());
    assert_eq!(elsewhere.notices, ["sessions.url has no effect: SESSION_STORE is replicated"]);
}

#[test]
fn a_store_and_its_place_belong_together() {
    check("ttl: 1h", "store", "nothing says where it is", "SESSION_STORE_URL");
    let alone = wrong("sessions: { url: \"redis://h\" }", &[]);
    assert_eq!(alone.key, "sessions.url");
    assert!(alone.cure.contains("store: redis"), "{alone:?}");
    let own = wrong("sessions: { store: replicated, redis: { address: h } }", &[]);
    assert_eq!(own.key, "sessions.redis");
    assert!(own.found.contains("kept in the cluster's own store"), "{own:?}");
    let memory = crate::read(&format!("sessions: {{ url: \"redis://h\" }}\n{SERVERS}"), &[]);
    let memory = memory.unwrap_err();
    assert!(memory[0].found.contains("kept in memory"), "{memory:?}");
    let variable = wrong("", &[("SESSION_STORE_URL", "redis://h")]);
    assert_eq!(variable.place, Place::Variable("SESSION_STORE_URL"));
    assert!(variable.cure.contains("SESSION_STORE=redis"), "{variable:?}");
    let variable = wrong("", &[("SESSION_STORE", "redis")]);
    assert_eq!(variable.place, Place::Variable("SESSION_STORE"));
    assert!(variable.cure.contains("SESSION_STORE_URL"), "{variable:?}");
    // A word that is no store is one problem, not two.
    let word = wrong("sessions: { store: rediss, url: \"redis://h\" }", &[]);
    assert_eq!(word.cure, "did you mean redis?");
}

#[test]
fn two_ways_at_once() {
    let both = "url: \"redis://h\", redis: { address: h }";
    check(both, "redis.address", "sessions.url says it too", "keep one");
    let both = "redis: { address: h, cluster: { nodes: [a] } }";
    check(both, "redis.cluster", "sessions.redis.address says it too", "keep one");
    let both = "url: \"redis://u:p@h\", redis: { password: q }";
    check(both, "redis.password", "the password a second time", "remove it");
    let both = "url: \"redis://h/0\", redis: { database: 1 }";
    check(both, "redis.database", "the database a second time", "remove it");
}

#[test]
fn urls() {
    check("url: \"redi://h\"", "url", "redi:// is not a Redis", "did you mean redis://");
    check("url: \"http://h\"", "url", "http:// is not a Redis", "write one of redis");
    check("url: h", "url", "without a scheme", "redis://");
    check("url: \"redis+sentinel://a,b\"", "url", "no name of a master", "mymaster");
    check("url: \"redis+cluster://a/3\"", "url", "database's number", "no database but 0");
    check("url: \"redis://:a/b@h\"", "url", "end it early", "%2F");
    check("url: \"redis://u@h\"", "url", "user without a password", ":PASSWORD@");
    check("url: [a]", "url", "not text", "single value");
}

#[test]
fn keys() {
    let at = |keys: &str| format!("url: \"redis://h\", redis: {{ {keys} }}");
    let acknowledge = "redis.replicas_to_acknowledge";
    check(&at("replicas_to_acknowledge: 11"), acknowledge, "out of range", "write 10");
    let wait = "acknowledge_within: 3s, command_timeout: 2s";
    check(&at(wait), "redis.acknowledge_within", "longer than command_timeout, 2s", "write 2s");
    check(&at("acknowledge_within: 6s"), "redis.acknowledge_within", "out of range", "write 5s");
    check(&at("command_timeout: 20s"), "redis.command_timeout", "out of range", "write 10s");
    check(&at("connect_timeout: 1ms"), "redis.connect_timeout", "out of range", "write 50ms");
    check(&at("key_prefix: \"a b\""), "redis.key_prefix", "not a prefix", "holdfast");
    check(&at("database: 256"), "redis.database", "out of range", "write 255");
    check(&at("username: a"), "redis.username", "without a password", "sessions.redis.password");
    check(
        &at("tls: { client_key: Cargo.toml }"),
        "redis.tls.client_key",
        "no PRIVATE KEY",
        "right file",
    );
    check(&at("tls: { ca: no.pem }"), "redis.tls.ca", "cannot be read", "path");
    check(&at("allow_unsafe: maybe"), "redis.allow_unsafe", "not true or false", "true");
    check(&at("url: \"redis://h\""), "redis.url", "no such key", "sessions.url");
    check(&at("passwort: x"), "redis.passwort", "no such key", "did you mean password?");
    let cure = "did you mean replicas_to_acknowledge?";
    check(&at("replicas_to_ack: 1"), "redis.replicas_to_ack", "no such key", cure);
    let database = "redis: { cluster: { nodes: [a] }, database: 1 }";
    check(database, "redis.database", "with a Redis Cluster", "no database but 0");
    let lacks = "redis: { sentinel: { sentinels: [a] } }";
    check(lacks, "redis.sentinel", "without master", "mymaster");
    let lacks = "redis: { sentinel: { sentinels: [], master: m } }";
    check(lacks, "redis.sentinel", "without any sentinels", "mymaster");
    check("redis: { cluster: {} }", "redis.cluster", "without nodes", "HOST:6379");
    let twice = "redis: { cluster: { nodes: [a, \"A:6379\"] } }";
    check(twice, "redis.cluster.nodes[1]", "second time", "remove one");
    check("redis: { address: \"h:0\" }", "redis.address", "port", "redis:6379");
}

#[test]
fn no_password_is_ever_shown() {
    for text in [
        "sessions: { store: redis, url: \"redis://u:hunter2@h/x\" }",
        "sessions: { store: redis, url: \"hunter2://u:hunter2@h hunter2\" }",
        "sessions: { store: redis, url: [redis://u:hunter2@h] }",
        "sessions: { url: \"redis://u:hunter2@h\" }",
        "sessions: { store: redis, url: \"redis://u:a@h\", redis: { password: hunter2 } }",
        "sessions: { store: redis, redis: { password: [hunter2], address: h } }",
    ] {
        let shown = format!("{:?}", read(text, &[]).unwrap_err());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let config = good(
        "sessions: { store: redis, url: \"redis://u:hunter2@h\", \
         redis: { sentinel_password: hunter2 } }",
    );
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
}
