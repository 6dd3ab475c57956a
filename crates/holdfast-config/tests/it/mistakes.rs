//! Each mistake: where it is said to be, what is said of it, and how it is to be mended.

use crate::{SERVERS, problem, read};

/// `text` has exactly one problem, at `key`, whose words contain `says` and whose cure `cure`.
#[track_caller]
fn check(text: &str, key: &str, says: &str, cure: &str) {
    let problem = problem(text);
    assert_eq!(problem.key, key, "{problem:#?}");
    assert!(problem.found.contains(says), "{problem:#?}");
    assert!(problem.cure.contains(cure), "{problem:#?}");
    assert!(!problem.allowed.is_empty(), "{problem:#?}");
}

/// The same, for a section put before a good server.
#[track_caller]
fn section(text: &str, key: &str, says: &str, cure: &str) {
    check(&format!("{text}\n{SERVERS}"), key, says, cure);
}

/// The same, for the keys of a server called `a`.
#[track_caller]
fn server(keys: &str, key: &str, says: &str, cure: &str) {
    let key = if key.is_empty() { "servers.a".to_owned() } else { format!("servers.a.{key}") };
    check(&format!("servers: {{ a: {{ {keys} }} }}"), &key, says, cure);
}

const URL: &str = "url: \"http://a/\"";

#[test]
fn all_problems_are_reported_in_the_order_of_the_file() {
    let text =
        "log: { level: inof }\nlisten: { adress: \"x\" }\nlimits: { body: 5 }\nnonsense: 1\n";
    let problems = read(text, &[]).unwrap_err();
    let keys: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["servers", "log.level", "listen.adress", "limits.body", "nonsense"]);
    let places: Vec<_> = problems.iter().filter_map(|problem| problem.position()).collect();
    assert_eq!(places, [(1, 15), (2, 11), (3, 17), (4, 1)]);
}

#[test]
fn unknown_keys_name_the_nearest_or_say_where_to_look() {
    section("listen: { adress: \"x\" }", "listen.adress", "no such key", "did you mean address?");
    section("limit: {}", "limit", "no such key", "did you mean limits?");
    section("streams: { colour: 1 }", "streams.colour", "no such key", "remove it");
    section("cluster: { peers: {} }", "cluster.peers", "no such key", "cluster.nodes");
    section(
        "cluster: { failover: 1s }",
        "cluster.failover",
        "no such key",
        "did you mean failover_timeout?",
    );
    section("cluster: { secrt: x }", "cluster.secrt", "no such key", "did you mean secret?");
    section("sessions: { password: x }", "sessions.password", "no such key", "sessions.redis");
    server(&format!("{URL}, circuit_breaker: {{}}"), "circuit_breaker", "no such key", "breaker");
    server(&format!("{URL}, tier: 4"), "tier", "not known", "write 1");
    server(&format!("{URL}, type: sse"), "type", "no such key", "transport");
}

#[test]
fn values_of_the_wrong_kind() {
    section("listen: here", "listen", "is not a section", "indented");
    section("listen: [a]", "listen", "a list is not a section", "indented");
    section("listen: { public_hosts: a }", "listen.public_hosts", "is not a list", "[a, b]");
    section("streams: { strict: yes }", "streams.strict", "not true or false", "write true");
    section("streams: { strict: [] }", "streams.strict", "a list is not text", "single value");
    section("listen: { workers: 1.5 }", "listen.workers", "not a whole number", "digits");
    section("listen: { workers: -1 }", "listen.workers", "not a whole number", "digits");
    let huge = format!("listen: {{ workers: {} }}", "9".repeat(400));
    section(&huge, "listen.workers", "out of range", "write 1024");
    section("limits: { connections: 0 }", "limits.connections", "0 is out of range", "write 1");
    server(&format!("{URL}, headers: x"), "headers", "is not a mapping", "name: value");
    server(&format!("{URL}, tools: {{ t: reed }}"), "tools.t", "not known", "did you mean read?");
    check("servers: [a]", "servers", "a list is not a mapping", "name: value");
}

#[test]
fn durations_and_sizes() {
    section("sessions: { ttl: 3600 }", "sessions.ttl", "no unit", "3600s");
    section("sessions: { ttl: soon }", "sessions.ttl", "not a duration", "something like");
    section("sessions: { ttl: 1s }", "sessions.ttl", "out of range", "write 10s");
    section("limits: { body: 4096 }", "limits.body", "no unit", "4096B");
    section("limits: { body: 2GiB }", "limits.body", "out of range", "write 1GiB");
    section("limits: { body: big }", "limits.body", "not a size", "4MiB");
    section("streams: { rotate_after: 300s }", "streams.rotate_after", "range", "299s");
}

#[test]
fn addresses_hosts_and_networks() {
    let address = "listen.address";
    section("listen: { address: \"127.0.0.1:70000\" }", address, "port", "127.0.0.1:37373");
    section("listen: { address: 8080 }", address, "no IP address", "127.0.0.1:37373");
    section("listen: { address: \"example.com:80\" }", address, "not looked up", "127.0.0.1");
    section(
        "listen: { public_hosts: [\"https://a.b/x\"] }",
        "listen.public_hosts[0]",
        "host",
        "a.b",
    );
    section("listen: { public_hosts: [\"*.b\"] }", "listen.public_hosts[0]", "host", "no patterns");
    let origins = "listen.allowed_origins[0]";
    section("listen: { allowed_origins: [\"*\"] }", origins, "origin", "name each");
    section("listen: { allowed_origins: [a.b] }", origins, "origin", "https://a.b");
    section("listen: { allowed_origins: [\"http://a/b\"] }", origins, "origin", "http://a");
    section("listen: { trusted_proxies: [10.0.0.0/33] }", "listen.trusted_proxies[0]", "", "/24");
    section("listen: { health_path: /mcp }", "listen.health_path", "own path", "/healthz");
}

#[test]
fn what_does_not_fit_together() {
    section("admin: { address: \"127.0.0.1:37373\" }", "admin.address", "both", "another port");
    section("listen: { address: \"0.0.0.0:37374\" }", "listen.address", "both", "another port");
    section("admin: { address: \"0.0.0.0:81\" }", "admin.address", "no token", "admin.token");
    section("limits: { burst: 3 }", "limits.burst", "without a rate", "requests_per_minute");
    section(
        "limits: { sessions: 5, sessions_per_principal: 6 }",
        "limits.sessions_per_principal",
        "out of range",
        "write 5",
    );
    section(
        "streams: { commit_after: 20s, headers_by: 10s }",
        "streams.commit_after",
        "longer than headers_by",
        "250ms",
    );
    section(
        "streams: { keepalive: 60s, rotate_after: 30s }",
        "streams.keepalive",
        "not shorter",
        "15s",
    );
    server(&format!("{URL}, timeout: 2h"), "timeout", "longer than max_duration", "2h");
}

#[test]
fn ports_that_the_system_chooses_never_collide() {
    let text = format!(
        "listen: {{ address: \"127.0.0.1:0\" }}\nadmin: {{ address: \"127.0.0.1:0\" }}\n{SERVERS}"
    );
    assert!(read(&text, &[]).is_ok());
}

#[test]
fn tls_files_must_be_there_and_be_what_they_say() {
    let problems = read(
        &format!("listen: {{ tls: {{ certificate: no.pem, key: Cargo.toml }} }}\n{SERVERS}"),
        &[],
    );
    let problems = problems.expect_err("two wrong files");
    assert_eq!(problems.len(), 2, "{problems:#?}");
    assert!(problems[0].found.contains("no.pem cannot be read"), "{problems:#?}");
    assert!(problems[1].found.contains("holds no PRIVATE KEY"), "{problems:#?}");
    section("admin: { tls: {} }", "admin.tls", "without certificate and key", "remove tls");
}

#[test]
fn keys_of_principals() {
    let digest = "ab".repeat(32);
    let key = format!("{{ principal: a, sha256: \"{digest}\" }}");
    let twice = format!("auth: {{ keys: [{key}, {key}] }}");
    section(&twice, "auth.keys[1]", "already that of a", "remove one");
    section("auth: { keys: [{ principal: a }] }", "auth.keys[0]", "without sha256", "key new");
    section("auth: { keys: a }", "auth.keys", "is not a list", "- ");
    let two = |one: &str, two: &str| {
        let (a, b) = ("ab".repeat(32), "cd".repeat(32));
        format!(
            "auth: {{ keys: [{{ principal: a, sha256: \"{a}\"{one} }}, \
             {{ principal: a, sha256: \"{b}\"{two} }}] }}"
        )
    };
    let rates = two(", requests_per_minute: 5", ", requests_per_minute: 6");
    section(&rates, "auth.keys[1]", "another rate than at another key of a", "alike");
    let one = format!("{}\n{SERVERS}", two(", requests_per_minute: 5", ""));
    assert!(read(&one, &[]).is_ok());
    let spaced = format!("auth: {{ keys: [{{ principal: \"a b\", sha256: \"{digest}\" }}] }}");
    section(&spaced, "auth.keys[0].principal", "not a principal's name", "team-a");
}

#[test]
fn servers() {
    check("", "servers", "no server", "servers:");
    check("servers: {}", "servers", "no server", "servers:");
    check(
        "servers: { \"my files\": { command: npx } }",
        "servers.my files",
        "not a server's name",
        "write my-files",
    );
    server("timeout: 5s", "", "nowhere", "url:");
    server("url:", "url", "nothing after the colon", "write it");
    server("url: \"http://a/\", command: b", "", "url and command together", "keep one");
    server("url: \"a:80/mcp\"", "url", "must begin with", "http://a:80/mcp");
    server("url: \"ftp://a/\"", "url", "must begin with", "something like");
    server("url: \"http://a:0/\"", "url", "port", "something like");
    server("url: \"http://a/\", transport: websocket", "url", "not an address of that", "change");
    server("url: \"ws://a/\", transport: sse", "url", "not an address of that", "change");
    server("url: \"http://a/\", transport: grpc", "transport", "not known", "write http");
    server("url: \"http://a/\", args: [b]", "args", "without a command", "add command");
    server("instances: []", "instances", "empty list", "id: a");
    server("instances: [{ id: a }]", "instances[0]", "without url", "id: a");
    server("instances: [{ id: a, url: \"ws://a\" }]", "instances[0].url", "not an HTTP", "http://");
    let two = "instances: [{ id: a, url: \"http://a\" }, { id: a, url: \"http://b\" }]";
    server(two, "instances[1]", "second time", "another id");
    server("command: npx -y thing", "command", "is a command line", "args: [-y, thing]");
    server("command: npx, transport: http", "transport", "beside a command", "remove it");
    server("command: npx, headers: { a: b }", "headers", "beside a command", "remove it");
    server("command: npx, cwd: /no/such/place", "cwd", "not a directory", "create it");
    server("command: npx, env: { \"A=B\": c }", "env.A=B", "not a variable's name", "NAME");
}

#[test]
fn headers() {
    let with = |headers: &str| format!("{URL}, headers: {{ {headers} }}");
    server(&with("\"a b\": c"), "headers.a b", "not a header's name", "Name: value");
    server(&with("Host: c"), "headers.Host", "sets this header itself", "remove it");
    server(&with("A: b, a: c"), "headers.a", "second time", "keep one");
    server(&with("A: \"b\\r\\nC: d\""), "headers.A", "not a header's value", "line breaks");
    let both = format!("{}, forward_authorization: true", with("Authorization: x"));
    server(&both, "", "beside an Authorization", "remove");
}

#[test]
fn variables() {
    server("url: \"${NOWHERE}\"", "url", "NOWHERE is not set", "${NOWHERE:-default}");
    server("url: \"${\"", "url", "names no environment variable", "name an environment");
    let text = "servers: { a: { url: \"http://${HOST}:${PORT_A:-81}/mcp\" } }";
    let config = read(text, &[("HOST", "h")]).unwrap();
    assert!(format!("{config:?}").contains("port: 81"));
}

#[test]
fn files_that_are_no_configuration() {
    check("just text", "", "does not hold sections", "servers:");
    check("- a\n- b\n", "", "does not hold sections", "servers:");
    check("servers:\n\ta: 1\n", "", "not YAML", "tabs");
    check("a: [1\n", "", "not YAML", "check the indentation");
    check(&format!("{SERVERS}---\n{SERVERS}"), "", "second YAML document", "merge");
    check(&format!("{SERVERS}{SERVERS}"), "servers", "second time (first: line 1)", "keep one");
    check("\u{0}\u{1}\u{2}", "", "", "");
}
