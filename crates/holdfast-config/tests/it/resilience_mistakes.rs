//! Mistakes in breakers, checks, balancing, failover, fallback and bulkheads, one at a time.

use crate::{SERVERS, problem};

#[track_caller]
fn check(text: &str, key: &str, says: &str, cure: &str) {
    let problem = problem(text);
    assert_eq!(problem.key, key, "{problem:#?}");
    assert!(problem.found.contains(says), "{problem:#?}");
    assert!(problem.cure.contains(cure), "{problem:#?}");
    assert!(problem.position().is_some(), "{problem:#?}");
    assert!(!problem.allowed.is_empty(), "{problem:#?}");
}

/// A section before a good server.
#[track_caller]
fn section(text: &str, key: &str, says: &str, cure: &str) {
    check(&format!("{text}\n{SERVERS}"), key, says, cure);
}

/// The keys of a server called `a`, besides its address.
#[track_caller]
fn server(keys: &str, key: &str, says: &str, cure: &str) {
    let text = format!("servers: {{ a: {{ url: \"http://a/\", {keys} }} }}");
    check(&text, &format!("servers.a.{key}"), says, cure);
}

/// The instances of a server called `a`.
#[track_caller]
fn instances(list: &[&str], keys: &str, key: &str, says: &str, cure: &str) {
    let ids = ["x", "y", "z"].iter().zip(list);
    let list: Vec<_> =
        ids.map(|(id, rest)| format!("{{ id: {id}, url: \"http://{id}/\"{rest} }}")).collect();
    let text = format!("servers: {{ a: {{ instances: [{}]{keys} }} }}", list.join(", "));
    check(&text, &format!("servers.a.{key}"), says, cure);
}

#[test]
fn breakers() {
    let breaker = |keys: &str, key: &str, says, cure| {
        server(&format!("breaker: {{ {keys} }}"), &format!("breaker.{key}"), says, cure);
    };
    breaker("consecutive_failures: 2", "consecutive_failures", "out of range", "write 3");
    breaker("consecutive_failures: 16", "consecutive_failures", "out of range", "write 15");
    breaker("failure_rate: 120%", "failure_rate", "out of range", "write 1");
    breaker("failure_rate: often", "failure_rate", "not a share", "0.1");
    breaker("window: 600", "window", "no unit", "600s");
    breaker("open_for: 30s, max_open_for: 20s", "max_open_for", "shorter than open_for", "30s");
    breaker("slow_call: 20m", "slow_call", "longer than window, 10m", "write 10m");
    breaker("per_tool: [a, a]", "per_tool[1]", "second time", "remove one");
    breaker("per_tool: [\" a\"]", "per_tool[0]", "not a name", "as it is called");
    breaker("treshold: 5", "treshold", "no such key", "remove it");
    breaker("open_fro: 5s", "open_fro", "no such key", "did you mean open_for?");
    server("breaker: on", "breaker", "not a section", "indented");
}

#[test]
fn checks() {
    let health = |keys: &str, key: &str, says, cure| {
        server(&format!("health: {{ {keys} }}"), &format!("health.{key}"), says, cure);
    };
    let one = |check: &str, key: &str, says, cure| {
        health(&format!("checks: [{{ {check} }}]"), &format!("checks[0]{key}"), says, cure);
    };
    health("interval: 100ms", "interval", "out of range", "write 500ms");
    health("interval: 2s, timeout: 5s", "timeout", "longer than interval, 2s", "write 2s");
    health("checks: []", "checks", "an empty list", "enabled: false");
    let many = vec!["{ type: ping }"; 21].join(", ");
    health(&format!("checks: [{many}]"), "checks", "too many", "type: ping");
    let twice = "checks: [{ type: ping, name: x }, { type: connect, name: x }]";
    health(twice, "checks[1]", "second time", "another name");
    one("weight: 1", "", "without a type", "type: ping");
    one("type: pin", ".type", "not known", "did you mean ping?");
    one("type: ping, weight: 0", ".weight", "out of range", "write 0.01");
    one("type: ping, weight: heavy", ".weight", "not a number", "digits");
    one("type: ping, tool: x", ".tool", "no such key", "remove it");
    one("type: ping, name: \"a b\"", ".name", "not an id", "gateway-1");
    one("type: tool", "", "without tool", "tool: NAME");
    // Nothing after the colon: the check would be left out without a word.
    one("type: tool, tool: ", "", "without tool", "tool: NAME");
    one("type: tool, tool: x, arguments: [1]", ".arguments", "not a mapping", "name: value");
    one("type: http", "", "without an address", "path:");
    one("type: http, url: \"ws://a/\"", ".url", "not an HTTP address", "http://");
    one("type: http, url: \"http://a/\", status: 99", ".status", "out of range", "write 100");
    one("type: latency, good: 5s, bad: 1s", "", "not above good, 5s", "500ms");
    one("type: metric, good: 0, bad: 1", "", "from nowhere", "path:");
    one("type: metric, url: \"http://a/\", good: 0, bad: 1", "", "without metric", "metric: NAME");
    one("type: metric, tool: t, pointer: /a", "", "without good and bad", "good: 0");
    let both = "type: metric, url: \"http://a/\", metric: x, tool: t, pointer: /a, good: 0, bad: 1";
    one(both, "", "an address and tool together", "path:");
    let pointer = "type: metric, tool: t, pointer: a.b, good: 0, bad: 1";
    one(pointer, ".pointer", "not a JSON pointer", "write /a/b");
    let series = "type: metric, url: \"http://a/\", metric: \"1 x\", good: 0, bad: 1";
    one(series, ".metric", "not a series", "queue_depth");
    let alike = "type: metric, tool: t, pointer: /a, good: 1, bad: 1.0";
    one(alike, "", "both 1", "hopeless");
    one("type: cpu", "", "from nowhere", "full: 100");
    one("type: memory, path: /metrics", "", "without metric", "full: 100");
    let beside = |check: &str, key: &str, says, cure| {
        let checks = format!("checks: [{{ type: ping }}, {{ {check} }}]");
        health(&checks, &format!("checks[1]{key}"), says, cure);
    };
    beside("type: io_wait, path: /m, metric: x, full: 0", ".full", "out of range", "0.000001");
    beside("type: cpu, path: /m, metric: x, weight: 1", ".weight", "no such key", "remove it");
    one("type: http, path: /, external: true", "", "asks the instance itself", "monitor");
    let loud = "type: http, url: \"http://m/\", external: true, critical: true";
    one(loud, "", "one voice alone", "remove critical");
    one("type: ping, external: true", ".external", "no such key", "remove it");
    let outside = "type: http, url: \"http://m/\", external: true";
    health(&format!("checks: [{{ {outside} }}]"), "checks", "whether it answers", "type: ping");
    health("checks: [{ type: latency }]", "checks", "whether it answers", "type: ping");
    let measures = "health: { measures: { watch: 50 } }";
    section(measures, "health.measures.watch", "do not fall", "watch: 75");
    let measures = "health: { measures: { fail_over: 51 } }";
    section(measures, "health.measures.fail_over", "out of range", "write 50");
    section("health: { passive: { cpu: { good: 1 } } }", "health.passive.cpu.good", "bad is 1", "");
    section("health: { interval: 1s, timeout: 2s }", "health.timeout", "longer than", "write 1s");
    server("checks: []", "checks", "no such key", "below health");
}

#[test]
fn balancing() {
    let balance = |keys: &str, key: &str, says, cure| {
        server(&format!("balance: {{ {keys} }}"), &format!("balance.{key}"), says, cure);
    };
    balance("strategy: random", "strategy", "not known", "write round_robin");
    balance("strategy: hash", "strategy", "nothing says what of", "hash_on: arguments.NAME");
    balance("hash_on: arguments.x", "hash_on", "least_connections", "strategy: hash");
    let hash = |path: &str| format!("strategy: hash, hash_on: \"{path}\"");
    balance(&hash("user"), "hash_on", "not a place", "write arguments.user");
    balance(&hash("arguments"), "hash_on", "not a place", "arguments.user");
    balance(&hash("arguments..x"), "hash_on", "not a place", "arguments.user");
    balance("rate: { burst: 5 }", "rate", "least_connections", "rate_aware");
    balance("strategy: rate_aware, rate: { burst: 0 }", "rate.burst", "out of range", "write 1");
    balance("sticky_for: 1h", "sticky_for", "no such key", "sessions.ttl");
    balance("panic_threshold: 2", "panic_threshold", "out of range", "write 1");
    server("strategy: hash", "strategy", "no such key", "below balance");
}

#[test]
fn roles() {
    let (primary, secondary, replica) = (", role: primary", ", role: secondary", ", role: replica");
    instances(&[primary, primary], "", "instances", "2 primaries", "no role at all");
    instances(&[secondary, replica], "", "instances", "none is the primary", "role: primary");
    instances(&[primary, ""], "", "instances", "y has no role", "role: secondary");
    instances(
        &[", weight: 0", ", weight: 0"],
        "",
        "instances",
        "no instance with a weight",
        "above 0",
    );
    for weightless in
        [[", role: primary, weight: 0", secondary], [primary, ", role: secondary, weight: 0"]]
    {
        instances(&weightless, "", "instances", "has no weight, and a role", "holdfast failover");
    }
    let twice = "servers: { a: { instances: [{ id: x, url: \"http://x:80/\", role: primary }, \
                 { id: y, url: \"http://x/\", role: secondary }] } }";
    check(twice, "servers.a.instances[1]", "y has the same url as x", "its own address");
    instances(&[", role: leader"], "", "instances[0].role", "not known", "primary");
    instances(&[", region: \"a b\""], "", "instances[0].region", "not an id", "");
    instances(&[", weight: 1001"], "", "instances[0].weight", "out of range", "write 1000");
}

#[test]
fn failovers() {
    let failover = ", failover: {}";
    let (primary, secondary, replica) = (", role: primary", ", role: secondary", ", role: replica");
    instances(
        &["", ""],
        failover,
        "failover",
        "no instance is primary or secondary",
        "role: primary",
    );
    instances(
        &[primary, replica],
        failover,
        "failover",
        "no instance is secondary",
        "role: secondary",
    );
    server("failover: {}", "failover", "no instance is primary or secondary", "role: primary");
    let pair = [primary, secondary];
    let keys = |keys: &str, key: &str, says, cure| {
        instances(
            &pair,
            &format!(", failover: {{ {keys} }}"),
            &format!("failover.{key}"),
            says,
            cure,
        );
    };
    keys("threshold: 0", "threshold", "out of range", "write 1");
    keys("ramp_step: 0", "ramp_step", "out of range", "write 0.01");
    keys("consistency: {}", "consistency", "without a tool", "tool: NAME");
    keys(
        "consistency: { tool: null, arguments: {} }",
        "consistency",
        "without a tool",
        "tool: NAME",
    );
    let text = format!(
        "servers: {{ a: {{ instances: [{{ id: x, url: \"http://x/\"{primary} }}, \
         {{ id: y, url: \"http://y/\"{secondary} }}], tools: {{ w: write }}, \
         failover: {{ consistency: {{ tool: w }} }} }} }}"
    );
    check(&text, "servers.a.failover.consistency.tool", "w is a write", "another tool");
    keys("tier: far", "tier", "not known", "write local");
    keys("drain: 2h", "drain", "out of range", "write 1h");
    keys("failback: 5m", "failback", "no such key", "did you mean failback_delay?");
}

#[test]
fn fallbacks_and_dependencies() {
    let two = |a: &str, b: &str, key: &str, says, cure| {
        let text = format!(
            "servers: {{ a: {{ url: \"http://a/\", {a} }}, b: {{ url: \"http://b/\", {b} }}, \
             c: {{ url: \"http://c/\", depends_on: [a] }} }}"
        );
        check(&text, &format!("servers.{key}"), says, cure);
    };
    two("depends_on: [a]", "", "a.depends_on[0]", "a depends on itself", "remove it");
    two("depends_on: [d]", "", "a.depends_on[0]", "no server \"d\"", "name a server");
    two("depends_on: [b]", "depends_on: [a]", "a.depends_on", "circle: a → b → a", "remove one");
    two(
        "depends_on: [b]",
        "depends_on: [c]",
        "a.depends_on",
        "circle: a → b → c → a",
        "what does c need a for?",
    );
    two("", "fallback: { server: b }", "b.fallback.server", "stands in for itself", "another");
    two("", "fallback: { server: d }", "b.fallback.server", "no server \"d\"", "name a server");
    server("fallback: { tools: [x] }", "fallback.tools", "nothing stands in", "cache: {}");
    let keys = "tools: { w: write }, fallback: { cache: {}, tools: [r, w] }";
    server(keys, "fallback.tools[1]", "w is write by tools", "remove it");
    server("fallback: { cache: { ttl: 0 } }", "fallback.cache.ttl", "out of range", "write 1s");
    server("fallback: { static: later }", "fallback.static", "not a mapping", "name: value");
    server("fallback: { answer: {} }", "fallback.answer", "no such key", "write it as static");
    server("class: urgent", "class", "not known", "emergency");
    server("tools: { t: { effect: reed } }", "tools.t.effect", "not known", "did you mean read?");
    server("tools: { t: { burst: 1 } }", "tools.t.burst", "without a rate", "requests_per_minute");
    server("tools: { t: [read] }", "tools.t", "is not text", "single value");
    server("pool: { idle_timeout: 1ms }", "pool.idle_timeout", "out of range", "write 100ms");
    server("objectives: { rto: 0 }", "objectives.rto", "out of range", "write 1s");
    let mistyped = "servers: { search: { url: \"http://a/\" }, \
                    b: { url: \"http://b/\", depends_on: [serach] } }";
    check(mistyped, "servers.b.depends_on[0]", "no server", "did you mean search?");
    // A server that is written and wrong is one problem.
    let wrong = "servers: { a: { url: x }, b: { url: \"http://b/\", depends_on: [a] } }";
    check(wrong, "servers.a.url", "must begin with", "");
}

#[test]
fn two_circles_are_two_problems() {
    let text = "servers: { a: { url: \"http://a/\", depends_on: [b, c] }, \
                b: { url: \"http://b/\", depends_on: [a] }, c: { url: \"http://c/\", depends_on: [a] } }";
    let problems = crate::read(text, &[]).expect_err("circles");
    let found: Vec<_> = problems.iter().map(|problem| problem.found.as_str()).collect();
    assert_eq!(problems.len(), 2, "{problems:#?}");
    assert!(found.iter().any(|found| found.ends_with("a → b → a")), "{found:?}");
    assert!(found.iter().any(|found| found.ends_with("a → c → a")), "{found:?}");
}

#[test]
fn sections() {
    section("bulkheads: { usr: {} }", "bulkheads.usr", "no such key", "did you mean user?");
    section("bulkheads: { user: 5 }", "bulkheads.user", "not a section", "indented");
    let concurrency = "bulkheads.user.concurrency";
    section("bulkheads: { user: { concurrency: 0 } }", concurrency, "out of range", "write 1");
    let priority = "bulkheads.user.priority";
    section("bulkheads: { user: { priority: 256 } }", priority, "out of range", "write 255");
    section("bulkheads: { total: 0 }", "bulkheads.total", "out of range", "write 1");
    section("retry_budget: { share: 2 }", "retry_budget.share", "out of range", "write 1");
    section("retry_budget: { attempts: 4 }", "retry_budget.attempts", "out of range", "write 3");
    section("retry_budget: { attempts: 0 }", "retry_budget.attempts", "out of range", "write 1");
    let weights = "health: { votes: { local: 0, peers: 0, external: 0, users: 0 } }";
    section(weights, "health.votes.local", "all four weights are 0", "local: 0.4");
    let votes = "health: { votes: { local: 0 } }";
    section(votes, "health.votes.local", "no other node whose checks would count", "write 0.4");
    let votes = "health: { votes: { fail: 40% } }";
    section(votes, "health.votes.fail", "out of range", "write 0.5");
    let votes = "health: { votes: { round: 5s, timeout: 6s } }";
    section(votes, "health.votes.timeout", "longer than round, 5s", "write 5s");
    let passive = "health: { passive: { error_rate: { good: 60% } } }";
    section(passive, "health.passive.error_rate.good", "good is 0.6 and bad is 0.5", "exchange");
    let passive = "health: { passive: { connect_success: { bad: 0.99 } } }";
    section(passive, "health.passive.connect_success.bad", "bad is 0.99", "exchange");
    let passive = "health: { passive: { response_time: { bad: 1ms } } }";
    section(passive, "health.passive.response_time.bad", "good is 500ms", "exchange");
    section("node: { region: \"eu 1\" }", "node.region", "not an id", "");
    let twice = "node: { regions: [eu-1, us-1, eu-1] }";
    section(twice, "node.regions[2]", "eu-1 stands here a second time", "where it is nearest");
    section("node: { regions: eu-1 }", "node.regions", "not a list", "[a, b]");
    section("node: { regions: [\"eu 1\"] }", "node.regions[0]", "not an id", "");
    let both = "node: { region: eu-1, regions: [eu-1, us-1] }";
    section(both, "node.region", "region and regions", "the first of regions");
    let many: Vec<String> = (0..17).map(|number| format!("r{number}")).collect();
    let many = format!("node: {{ regions: [{}] }}", many.join(", "));
    section(&many, "node.regions", "a list of 17", "name the nearest");
    section("node: { health: { cpu: 5 } }", "node.health.cpu", "not a list", "[a, b]");
    section("node: { health: { cpu: [0.5, 0.6] } }", "node.health.cpu", "a list of 2", "all three");
    let order = "node: { health: { cpu: [0.9, 0.5, 0.6] } }";
    section(order, "node.health.cpu", "out of order", "sort them");
    let order = "node: { health: { success: [0.5, 0.6, 0.9] } }";
    section(order, "node.health.success", "out of order", "sort them");
    let level = "node: { health: { p95: [1s, 2s, 3] } }";
    section(level, "node.health.p95[2]", "no unit", "3s");
    section("notify: here", "notify", "is not a list", "[a, b]");
    section("notify: [{}]", "notify[0]", "without url", "https://HOST/PATH");
    section("notify: [{ url: x }]", "notify[0].url", "must begin with", "");
    let short = "notify: [{ url: \"http://a/\", secret: short }]";
    section(short, "notify[0].secret", "5 characters (not shown)", "openssl");
    let event = "notify: [{ url: \"http://a/\", events: [falover] }]";
    section(event, "notify[0].events[0]", "not known", "did you mean failover?");
    let none = "notify: [{ url: \"http://a/\", events: [] }]";
    section(none, "notify[0].events", "an empty list", "remove it");
    let many = vec!["{ url: \"http://a/\" }"; 21].join(", ");
    section(&format!("notify: [{many}]"), "notify", "a list of 21", "one address");
    section("webhooks: []", "webhooks", "no such key", "notify");
}
