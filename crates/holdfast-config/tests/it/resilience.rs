//! Breakers, checks, balancing, failover, fallback, bulkheads: what a short file means, and every key.

use std::time::Duration;

use holdfast_config::{
    BulkheadClass, CheckKind, ExposeSecret, FailoverTier, HostPort, MetricSource, NotifyEvent,
    Role, Server, Strategy, Tier,
};
use holdfast_engine::class::ToolClass;

use crate::{SERVERS, good, read};

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// A server called `a` with these keys.
#[track_caller]
fn server(keys: &str) -> Server {
    let mut config = good(&format!("servers: {{ a: {{ {keys} }} }}"));
    assert!(config.notices.is_empty(), "{:?}", config.notices);
    config.servers.remove("a").expect("a")
}

const PAIR: &str = "instances: [{ id: a, url: \"http://a/\", role: primary }, \
                    { id: b, url: \"http://b/\", role: secondary }]";

#[test]
fn a_file_without_any_of_it_has_breakers_and_checks() {
    let config = good(SERVERS);
    let server = &config.servers["docs"];
    assert!(server.breaker.enabled && server.health.enabled);
    assert_eq!((server.breaker.consecutive_failures, server.breaker.minimum_calls), (5, 50));
    assert_eq!((server.breaker.open_for, server.breaker.max_open_for), (S * 30, S * 60));
    assert_eq!(server.breaker.slow_call, None);
    assert_eq!((server.health.interval, server.health.timeout), (S * 15, S * 3));
    let kinds: Vec<_> = server.health.checks.iter().map(|check| check.kind.label()).collect();
    assert_eq!(kinds, ["connect", "ping"]);
    assert_eq!(server.class, BulkheadClass::User);
    assert_eq!(server.balance.strategy, Strategy::LeastConnections);
    assert_eq!(server.failover, None);
    assert!(server.fallback.is_empty() && server.depends_on.is_empty());
    assert_eq!((server.pool.max_connections, server.pool.idle_timeout), (10_000, S * 3));
    let [instance] = server.instances() else { panic!("{server:?}") };
    assert_eq!((instance.role, instance.weight, &instance.region), (Role::Equal, 100, &None));
    let concurrency = BulkheadClass::ALL.map(|class| config.bulkheads.of(class).concurrency);
    assert_eq!(concurrency, [10, 50, 100, 20]);
    assert_eq!((config.retry_budget.share, config.retry_budget.at_least), (0.2, 3));
    assert_eq!(config.retry_budget.attempts, 3);
    assert!(config.notify.is_empty());
    assert_eq!(config.health.votes.fail, 0.66);
}

#[test]
fn every_key_of_a_breaker() {
    let breaker = server(
        "url: \"http://a/\", breaker: { enabled: false, consecutive_failures: 3, \
         failure_rate: 25%, window: 2m, minimum_calls: 20, slow_call: 90s, open_for: 45s, \
         max_open_for: 5m, half_open_share: 0.2, probe_interval: 2s, half_open_successes: 5, \
         ramp_over: 1m, per_tool: [search, publish] }",
    )
    .breaker;
    assert!(!breaker.enabled);
    assert_eq!((breaker.consecutive_failures, breaker.failure_rate), (3, 0.25));
    assert_eq!((breaker.window, breaker.minimum_calls), (S * 120, 20));
    assert_eq!(breaker.slow_call, Some(S * 90));
    assert_eq!((breaker.open_for, breaker.max_open_for), (S * 45, S * 300));
    assert_eq!((breaker.half_open_share, breaker.probe_interval), (0.2, S * 2));
    assert_eq!(breaker.half_open_successes, 5);
    assert_eq!(breaker.ramp_over, S * 60);
    assert_eq!(breaker.per_tool, ["search", "publish"]);
}

#[test]
fn every_kind_of_check() {
    let health = server(
        "url: \"http://a/\", health: { critical: true, timeout: 2s, retries: 1, checks: [\
         { type: connect, weight: 0.5 }, { type: discover, name: alive, critical: true }, \
         { type: initialize }, { type: tools, expected: [search, publish] }, \
         { type: tool, tool: read_cypher, arguments: { query: RETURN 1, limit: 5 }, contains: \"1\" }, \
         { type: tool, tool: other }, \
         { type: http, url: \"http://a/health\", status: 204 }, \
         { type: latency, good: 100ms, bad: 2s }, \
         { type: metric, url: \"http://a/metrics\", metric: \"queue{pool=\\\"a\\\"}\", good: 0, bad: 100 }, \
         { type: metric, tool: stats, pointer: /quota/left, good: 1000, bad: 0.5 }, \
         { type: cpu, path: /metrics, metric: process_cpu_seconds_total, counter: true, full: 4 }, \
         { type: http, url: \"http://m/{server}/{instance}\", external: true }] }",
    )
    .health;
    assert!(health.critical && health.enabled);
    assert_eq!((health.interval, health.timeout, health.retries), (S * 5, S * 2, 1));
    let names: Vec<_> = health.checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "connect",
            "alive",
            "initialize",
            "tools",
            "tool",
            "tool-2",
            "http",
            "latency",
            "metric",
            "metric-2",
            "cpu",
            "http-2"
        ]
    );
    assert_eq!((health.checks[0].weight, health.checks[1].weight), (0.5, 1.0));
    assert_eq!(health.checks[1].kind, CheckKind::Ping);
    assert!(health.checks[1].critical && !health.checks[0].critical);
    let CheckKind::Tools { expected } = &health.checks[3].kind else { panic!() };
    assert_eq!(expected, &["search", "publish"]);
    let CheckKind::Tool { tool, arguments, contains } = &health.checks[4].kind else { panic!() };
    assert_eq!((tool.as_str(), contains.as_deref()), ("read_cypher", Some("1")));
    assert_eq!(arguments, r#"{"query":"RETURN 1","limit":5}"#);
    let CheckKind::Tool { arguments, .. } = &health.checks[5].kind else { panic!() };
    assert_eq!(arguments, "{}");
    assert!(matches!(health.checks[6].kind, CheckKind::Http { status: Some(204), .. }));
    assert_eq!(health.checks[7].kind, CheckKind::Latency { good: MS * 100, bad: S * 2 });
    let CheckKind::Metric { source, good, bad } = &health.checks[9].kind else { panic!() };
    let MetricSource::Tool { tool, pointer, .. } = source else { panic!() };
    assert_eq!(
        (tool.as_str(), pointer.as_str(), *good, *bad),
        ("stats", "/quota/left", 1000.0, 0.5)
    );
    let CheckKind::Resource { resource, full, counter, .. } = &health.checks[10].kind else {
        panic!()
    };
    assert_eq!((resource.label(), *full, *counter), ("cpu", 4.0, true));
    let scoring = health.checks.iter().filter(|check| check.scores()).count();
    assert_eq!((scoring, health.checks[11].external), (10, true));
}

#[test]
fn roles_regions_and_weights() {
    let server = server(
        "instances: [{ id: a, url: \"http://a/\", role: primary, region: us-east-1 }, \
         { id: b, url: \"http://b/\", role: secondary, region: us-west-2, weight: 7 }, \
         { id: c, url: \"http://c/\", role: replica, weight: 0 }]",
    );
    let [a, b, c] = server.instances() else { panic!("{server:?}") };
    assert_eq!((a.role, b.role, c.role), (Role::Primary, Role::Secondary, Role::Replica));
    assert_eq!((a.region.as_deref(), b.weight, c.weight), (Some("us-east-1"), 7, 0));
    // What follows from them.
    assert_eq!(server.balance.strategy, Strategy::ReadWrite);
    assert_eq!(server.failover.expect("one").tier, FailoverTier::Regional);
}

#[test]
fn a_primary_and_a_secondary_fail_over() {
    let failover = server(PAIR).failover.expect("a failover");
    assert_eq!((failover.threshold, failover.failback_delay), (2, S * 300));
    assert_eq!((failover.drain, failover.good_checks), (S * 30, 3));
    assert!(failover.automatic_failback);
    assert_eq!(failover.tier, FailoverTier::Local);
    assert_eq!(failover.tier.target(), S);
    assert_eq!(server(&format!("{PAIR}, failover: {{ enabled: false }}")).failover, None);
    let text = format!(
        "servers: {{ a: {{ {PAIR}, failover: {{ threshold: 3, failback_delay: 1m, automatic_failback: false, \
         good_checks: 5, consistency: {{ tool: count, arguments: {{ of: all }} }}, drain: 10s, \
         ramp_step: 0.25, ramp_over: 40s, shift_over: 20s, degradation: 30%, error_rate: 5%, \
         tier: geographic }} }} }}"
    );
    let mut config = good(&text);
    assert_eq!(config.notices, Vec::<String>::new());
    let failover = config.servers.remove("a").and_then(|server| server.failover).expect("one");
    assert_eq!((failover.threshold, failover.failback_delay), (3, S * 60));
    assert!(!failover.automatic_failback);
    let consistency = failover.consistency.expect("a comparison");
    assert_eq!(
        (consistency.tool.as_str(), consistency.arguments.as_str()),
        ("count", "{\"of\":\"all\"}")
    );
    assert_eq!((failover.drain, failover.ramp_step, failover.ramp_over), (S * 10, 0.25, S * 40));
    assert_eq!(
        (failover.shift_over, failover.degradation, failover.error_rate),
        (S * 20, 0.3, 0.05)
    );
    assert_eq!((failover.good_checks, failover.tier), (5, FailoverTier::Geographic));
}

#[test]
fn every_strategy() {
    let balance =
        |keys: &str| server(&format!("url: \"http://a/\", balance: {{ {keys} }}")).balance;
    let hash = balance("strategy: hash, hash_on: arguments.user.id, slow_start: 1m");
    assert_eq!((hash.strategy, hash.slow_start), (Strategy::Hash, S * 60));
    assert_eq!(hash.hash_on, ["user", "id"]);
    let aware = balance("strategy: rate_aware, panic_threshold: 0").rate.expect("a rate");
    assert_eq!((aware.per_minute, aware.burst), (100, 20));
    let aware = balance("strategy: rate_aware, rate: { per_minute: 60, burst: 5 }");
    assert_eq!(aware.rate.map(|rate| (rate.per_minute, rate.burst)), Some((60, 5)));
    for (word, strategy) in [
        ("round_robin", Strategy::RoundRobin),
        ("weighted", Strategy::Weighted),
        ("least_connections", Strategy::LeastConnections),
        ("read_write", Strategy::ReadWrite),
    ] {
        assert_eq!(balance(&format!("strategy: {word}")).strategy, strategy);
    }
}

#[test]
fn what_stands_in_and_what_is_needed() {
    let config = good(
        "servers:\n  \
         a:\n    url: \"http://a/\"\n    class: critical\n    depends_on: [b, c]\n    \
         pool: { max_connections: 7, idle_timeout: 10s }\n    \
         objectives: { rto: 5s, rpo: 1s }\n    \
         fallback: { cache: { ttl: 1m, max_bytes: 1MiB }, server: b, tools: [look], \
         static: { content: [{ type: text, text: later }], isError: true } }\n    \
         tools: { look: { effect: read, class: background, requests_per_minute: 60, burst: 2 }, \
         pay: write, wait: { class: emergency } }\n  \
         b: { url: \"http://b/\", depends_on: [c] }\n  c: { command: sh, fallback: { cache: {} } }\n",
    );
    let a = &config.servers["a"];
    assert_eq!(a.depends_on, ["b", "c"]);
    assert_eq!((a.pool.max_connections, a.pool.idle_timeout), (7, S * 10));
    assert_eq!((a.objectives.rto, a.objectives.rpo), (S * 5, S));
    let cache = a.fallback.cache.expect("a cache");
    assert_eq!((cache.ttl, cache.max_bytes), (S * 60, 1 << 20));
    assert_eq!(a.fallback.server.as_deref(), Some("b"));
    assert_eq!(
        a.fallback.answer.as_deref(),
        Some(r#"{"content":[{"text":"later","type":"text"}],"isError":true}"#)
    );
    assert_eq!(a.fallback.tools, ["look"]);
    assert!(config.servers["c"].fallback.tools.is_empty());
    let cache = config.servers["c"].fallback.cache.expect("a cache");
    assert_eq!((cache.ttl, cache.max_bytes), (S * 300, 16 << 20));
    let look = a.tools["look"];
    assert_eq!(
        (look.effect, look.requests_per_minute, look.burst),
        (Some(ToolClass::Read), Some(60), Some(2))
    );
    assert_eq!(a.tools["pay"].effect, Some(ToolClass::Write));
    assert_eq!(a.tools["wait"].effect, None);
    assert_eq!(a.class_of(Some("look")), BulkheadClass::Background);
    assert_eq!(a.class_of(Some("pay")), BulkheadClass::Critical);
    assert_eq!(a.class_of(None), BulkheadClass::Critical);
}

#[test]
fn objectives_follow_the_tier() {
    let of = |text: &str, variables: &[(&str, &str)]| {
        let config = read(text, variables).unwrap_or_else(|p| panic!("{p:#?}"));
        config
            .servers
            .into_values()
            .map(|server| (server.tier, server.objectives))
            .collect::<Vec<_>>()
    };
    let servers = "servers: { a: { url: \"http://a/\", tier: 1 }, b: { url: \"http://b/\" }, \
                   c: { url: \"http://c/\", tier: 2, objectives: { rto: 7s } } }";
    let alone = of(servers, &[]);
    assert!(alone.iter().all(|(tier, _)| *tier == Tier::Three));
    let seconds: Vec<_> =
        alone.iter().map(|(_, it)| (it.rto.as_secs(), it.rpo.as_secs())).collect();
    assert_eq!(seconds, [(30, 0), (300, 900), (7, 300)]);
    let cluster = of(
        servers,
        &[
            ("HA_CLUSTER_NODES", "n=h:1,m=h:2,o=h:3"),
            ("HA_NODE_ID", "n"),
            ("HOLDFAST_CLUSTER_SECRET", "0123456789abcdef0123456789abcdef"),
            ("HOLDFAST_DATA_DIR", "data"),
        ],
    );
    let seconds: Vec<_> =
        cluster.iter().map(|(_, it)| (it.rto.as_secs(), it.rpo.as_secs())).collect();
    assert_eq!(seconds, [(30, 0), (30, 0), (7, 300)]);
}

#[test]
fn a_shorter_interval_shortens_what_depends_on_it() {
    let text = "health: { interval: 2s }\nservers: { a: { url: \"http://a/\" }, \
                b: { url: \"http://b/\", health: { critical: true, interval: 1s } } }";
    let config = good(text);
    assert_eq!((config.health.critical_interval, config.health.timeout), (S * 2, S * 2));
    assert_eq!(
        (config.servers["a"].health.interval, config.servers["a"].health.timeout),
        (S * 2, S * 2)
    );
    assert_eq!((config.servers["b"].health.interval, config.servers["b"].health.timeout), (S, S));
}

#[test]
fn every_key_of_the_sections() {
    let config = good(&format!(
        "node: {{ region: eu-1, health: {{ cpu: [50%, 0.6, 0.7], memory: [0.1, 0.2, 0.3], \
         disk: [0.1, 0.2, 0.3], success: [99%, 98%, 97%], p95: [1s, 2s, 3s], \
         connections: [10, 20, 30], certificate_expiry: [10d, 5d, 0] }} }}\n\
         bulkheads: {{ user: {{ concurrency: 500, queue: 5, queue_timeout: 1s, priority: 9 }}, \
         critical: {{ queue: 0 }}, background: {{}}, emergency: {{}}, total: 600, quarantine: 20s }}\n\
         retry_budget: {{ share: 10%, at_least: 1, attempts: 2 }}\n\
         health: {{ interval: 10s, critical_interval: 2s, timeout: 1s, retries: 0, \
         votes: {{ local: 1, peers: 0, external: 0, users: 0, least_nodes: 2, \
         fail: 0.6, round: 20s, timeout: 5s }}, passive: {{ \
         response_time: {{ good: 1s, bad: 2s, weight: 0 }}, \
         error_rate: {{ good: 1%, bad: 2%, weight: 0.5 }}, \
         connect_success: {{ good: 90%, bad: 80%, weight: 0.6 }}, cpu: {{ good: 70% }}, \
         memory: {{ bad: 90% }}, io_wait: {{ weight: 0 }} }}, measures: {{ watch: 90, degrade: 80, \
         fail_over: 50, emergency: 10 }} }}\n\
         notify: [{{ url: \"https://hooks.example/x\", secret: sixteen-or-more-characters, \
         events: [failback, failover, failover], retries: 5, timeout: 1s }}, \
         {{ url: \"http://b/\" }}]\n{SERVERS}"
    ));
    assert_eq!(config.node.regions, ["eu-1"]);
    assert_eq!(config.notices, Vec::<String>::new());
    let health = &config.node.health;
    assert_eq!((health.cpu.warning, health.cpu.emergency), (0.5, 0.7));
    assert_eq!((health.success.critical, health.p95.emergency), (0.98, S * 3));
    assert_eq!(health.connections.critical, 20);
    assert_eq!(health.certificate_expiry.warning, S * 86_400 * 10);
    let user = config.bulkheads.user;
    assert_eq!((user.concurrency, user.queue, user.queue_timeout, user.priority), (500, 5, S, 9));
    assert_eq!((config.bulkheads.critical.concurrency, config.bulkheads.critical.queue), (50, 0));
    assert_eq!((config.bulkheads.total, config.bulkheads.quarantine), (Some(600), S * 20));
    assert_eq!(config.retry_budget.share, 0.1);
    assert_eq!((config.retry_budget.at_least, config.retry_budget.attempts), (1, 2));
    let (votes, passive) = (&config.health.votes, &config.health.passive);
    assert_eq!((votes.local, votes.peers, votes.least_nodes), (1.0, 0.0, 2));
    assert_eq!((votes.fail, votes.round, votes.timeout), (0.6, S * 20, S * 5));
    assert_eq!((passive.response_time.good, passive.response_time.weight), (S, 0.0));
    assert_eq!((passive.error_rate.bad, passive.connect_success.bad), (0.02, 0.8));
    let thresholds = passive.thresholds();
    assert_eq!((thresholds.response_ms.fine, thresholds.connected.hopeless), (1_000.0, 0.8));
    assert_eq!((thresholds.cpu.fine, thresholds.cpu.hopeless), (0.7, 1.0));
    assert_eq!((thresholds.memory.hopeless, thresholds.io_wait.weight), (0.9, 0.0));
    let bars = config.health.measures;
    assert_eq!((bars.watch, bars.degrade, bars.fail_over, bars.emergency), (90, 80, 50, 10));
    let server = &config.servers["docs"].health;
    assert_eq!((server.interval, server.timeout, server.retries), (S * 10, S, 0));
    let [one, two] = config.notify.as_slice() else { panic!("{:?}", config.notify) };
    assert_eq!(one.secret.as_ref().unwrap().expose_secret(), "sixteen-or-more-characters");
    assert_eq!(one.events, [NotifyEvent::Failover, NotifyEvent::Failback]);
    assert_eq!((one.retries, one.timeout), (5, S));
    assert!(one.wants(NotifyEvent::Failback) && !one.wants(NotifyEvent::Node));
    assert!(two.wants(NotifyEvent::Node));
    assert_eq!((two.retries, two.timeout), (3, S * 5));
}

#[test]
fn a_monitor_alone_may_not_move_a_server() {
    let with = |votes: &str, degradation: &str, check: &str| {
        holdfast_config::parse(
            &format!(
                "health: {{ votes: {{ {votes} }} }}\nservers: {{ a: {{ {PAIR}, \
                 failover: {{ degradation: {degradation} }}, \
                 health: {{ checks: [ {{ type: ping }}, {{ {check} }} ] }} }} }}"
            ),
            "test",
            &|_| None,
        )
    };
    let monitor = "type: http, url: \"http://m/\", external: true";
    assert!(with("", "0.2", monitor).is_ok());
    let problems = with("", "0.19", monitor).unwrap_err().to_string();
    assert!(problems.contains("servers.a.failover.degradation"), "{problems}");
    assert!(problems.contains("0.20 that health.votes.external"), "{problems}");
    assert!(with("external: 1, local: 0.1", "0.5", monitor).is_ok(), "no more than half");
    assert!(with("", "0.1", "type: connect").is_ok(), "nobody speaks from outside");
}

#[test]
fn keys_of_principals_may_have_a_rate_of_their_own() {
    let digest = "ab".repeat(32);
    let config = good(&format!(
        "auth: {{ keys: [{{ principal: a, sha256: \"{digest}\", requests_per_minute: 30, \
         burst: 3 }}] }}\n{SERVERS}"
    ));
    let key = &config.auth.keys[0];
    assert_eq!((key.requests_per_minute, key.burst), (Some(30), Some(3)));
}

#[test]
fn addresses_are_shown_as_they_are_written() {
    let at = HostPort { host: "::1".into(), port: 5 };
    assert_eq!(at.to_string(), "[::1]:5");
}

#[test]
fn a_check_asks_each_instance_at_its_own_address_or_all_at_one() {
    let instances =
        "instances: [ { id: a, url: \"http://a:1/mcp\" }, { id: b, url: \"https://b:2/mcp\" } ]";
    let with = |check: &str| {
        let yaml =
            format!("servers: {{ docs: {{ {instances}, health: {{ checks: [ {check} ] }} }} }}");
        holdfast_config::parse(&yaml, "test", &|_| None)
    };
    let config = with("{ type: http, path: \"/healthz?full\", critical: true }").unwrap();
    assert!(config.notices.is_empty(), "{:?}", config.notices);
    let server = &config.servers["docs"];
    let target = server.health.checks[0].kind.target().unwrap();
    let asked = server.instances().iter().map(|it| target.of(&it.url).to_string());
    assert_eq!(asked.collect::<Vec<_>>(), ["http://a:1/healthz?full", "https://b:2/healthz?full"]);

    let config = with("{ type: http, url: \"http://a:1/healthz\", critical: true }").unwrap();
    let [notice] = &config.notices[..] else { panic!("{:?}", config.notices) };
    assert!(notice.contains("all 2 of them") && notice.contains("path:"), "{notice}");
    assert!(with("{ type: http, url: \"http://a:1/healthz\" }").unwrap().notices.is_empty());

    for (check, found) in [
        ("{ type: http, path: healthz }", "not a path"),
        ("{ type: http }", "a check without an address"),
        ("{ type: http, url: \"http://a/\", path: / }", "url and path together"),
        ("{ type: metric, metric: x, good: 0, bad: 1 }", "a metric from nowhere"),
    ] {
        let problems = with(check).unwrap_err().to_string();
        assert!(problems.contains(found), "{check}: {problems}");
    }
    let yaml =
        "servers: { docs: { command: cat, health: { checks: [ { type: http, path: / } ] } } }";
    let problems = holdfast_config::parse(yaml, "test", &|_| None).unwrap_err().to_string();
    assert!(problems.contains("a process"), "{problems}");
}

#[test]
fn a_pair_that_nobody_checks_is_said_to_be_failed_over_by_nobody() {
    let notices = |more: &str| good(&format!("servers: {{ a: {{ {PAIR}, {more} }} }}")).notices;
    let [notice] = &notices("health: { enabled: false }")[..] else { panic!("no notice") };
    for said in [
        "servers.a: it is not failed over",
        "by hand with `holdfast failover a --to INSTANCE --force`; write failover: { enabled: false }",
    ] {
        assert!(notice.contains(said), "{notice}");
    }
    for more in
        ["failover: { threshold: 2 }", "health: { enabled: false }, failover: { enabled: false }"]
    {
        assert_eq!(notices(more), [""; 0], "{more}");
    }
}

#[test]
fn a_queue_that_outlasts_the_servers_timeout_is_told_of_where_it_is_used() {
    let notices = |queue: &str, keys: &str| {
        let bulkheads = format!("bulkheads: {{ background: {{ {queue} }} }}");
        good(&format!("{bulkheads}\nservers: {{ a: {{ url: \"http://a/\", {keys} }} }}")).notices
    };
    let long = "queue_timeout: 45s";
    for used in ["class: background", "tools: { t: { class: background } }"] {
        let [notice] = &notices(long, &format!("timeout: 20s, {used}"))[..] else {
            panic!("no notice: {used}")
        };
        for said in ["servers.a: timeout, 20s", "bulkheads.background.queue_timeout, 45s"] {
            assert!(notice.contains(said), "{notice}");
        }
        assert_eq!(notices(long, &format!("timeout: 45s, {used}")), [""; 0]);
    }
    assert_eq!(notices(long, "timeout: 20s"), [""; 0], "a class that it does not use");
    assert_eq!(notices("queue: 5", "timeout: 20s, class: background"), [""; 0], "by default");
}
