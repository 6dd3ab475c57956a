//! What a short file means, and what every key does.

use std::time::Duration;

use holdfast_config::{ExposeSecret as _, LogFormat, StoreKind, Transport};
use holdfast_engine::class::ToolClass;

use crate::{SERVERS, good};

#[test]
fn one_server_is_a_whole_configuration() {
    let config = good(SERVERS);
    assert_eq!(config.listen.address.to_string(), "127.0.0.1:37373");
    assert_eq!(config.admin.address.to_string(), "127.0.0.1:37374");
    assert_eq!(config.limits.body, 4 << 20);
    assert_eq!(config.sessions.store, StoreKind::Memory);
    assert_eq!(config.streams.rotate_after, Duration::from_secs(240));
    assert_eq!(config.log.format, LogFormat::Logfmt);
    assert!(config.notices.is_empty());
    let server = &config.servers["docs"];
    assert!(server.trust_annotations);
    assert_eq!(server.connect_timeout, Duration::from_secs(2));
    let Transport::Http { instances } = &server.transport else { panic!("{server:?}") };
    assert_eq!(instances[0].url.to_string(), "http://127.0.0.1:3001/mcp");
}

#[test]
fn every_key_is_taken() {
    let digest = "ab".repeat(32);
    let secret = "s".repeat(32);
    let config = good(&format!(
        r#"
node: {{ id: gateway-1, data_dir: some/dir, secret: {secret} }}
listen:
  address: "0.0.0.0:80"
  public_hosts: [MCP.Example.com, "other:8080"]
  allowed_origins: ["https://App.example.com"]
  trusted_proxies: [10.0.0.7, 10.1.0.0/16]
  header_timeout: 5s
  body_timeout: 1m
  idle_timeout: 2m
  workers: 3
  drain_deadline: 0s
  health_path: /healthz
admin: {{ address: "[::1]:81", token: sixteen-or-more-characters, public_hosts: [ops.example.com] }}
limits:
  body: 1MiB
  header_bytes: 16KiB
  header_count: 50
  connections: 1
  sessions: 2
  sessions_per_principal: 2
  streams: 3
  stream_queue: 64KiB
  answer_buffer: 0
  in_flight: 4
  requests_per_minute: 100
  burst: 20
sessions: {{ store: memory, ttl: 30m }}
streams:
  commit_after: 100ms
  headers_by: 10s
  keepalive: 5s
  rotate_after: 60s
  retry: 1s
  strict: true
  modern_grace: 2s
  retain: 1m
  retain_bytes: 1MiB
auth: {{ keys: [{{ principal: team-a, sha256: {digest} }}] }}
log: {{ format: json, level: "warn,holdfast_proxy=debug" }}
servers:
  a:
    instances: [{{ id: one, url: "https://a:1/mcp" }}, {{ id: two, url: "http://b/mcp" }}]
    headers: {{ X-Key: k }}
    timeout: 10s
    max_duration: 20s
    connect_timeout: 100ms
    trust_annotations: false
    tools: {{ look: read, put: idempotent, pay: write }}
    requests_per_minute: 5
    burst: 1
  b: {{ url: "http://b/sse", transport: sse, forward_authorization: true }}
  c: {{ url: "wss://c/mcp" }}
  d: {{ command: sh, args: [-c, "cat"], env: {{ A: b, EMPTY: }}, cwd: ".", stop_grace: 1s }}
"#
    ));
    assert_eq!(config.node.id, "gateway-1");
    assert_eq!(config.node.secret.unwrap().expose_secret(), secret);
    assert_eq!(config.listen.public_hosts, ["mcp.example.com", "other:8080"]);
    assert_eq!(config.listen.allowed_origins, ["https://app.example.com"]);
    assert_eq!(config.listen.trusted_proxies[0].to_string(), "10.0.0.7/32");
    assert_eq!(config.listen.health_path.as_deref(), Some("/healthz"));
    assert_eq!(config.listen.drain_deadline, Duration::ZERO);
    assert_eq!(config.listen.workers, 3);
    assert_eq!(config.admin.address.port(), 81);
    assert_eq!(config.limits.answer_buffer, 0);
    assert_eq!(config.limits.sessions_per_principal, 2);
    assert_eq!((config.limits.requests_per_minute, config.limits.burst), (Some(100), Some(20)));
    assert_eq!(config.sessions.ttl, Duration::from_secs(1800));
    assert!(config.streams.strict);
    assert_eq!(config.streams.modern_grace, Duration::from_secs(2));
    assert_eq!(config.auth.keys[0].sha256, [0xab; 32]);
    assert_eq!(config.log.format, LogFormat::Json);

    let a = &config.servers["a"];
    let Transport::Http { instances } = &a.transport else { panic!("{a:?}") };
    assert_eq!((instances[1].id.as_str(), instances[1].url.port), ("two", 80));
    assert_eq!(a.headers["x-key"].expose_secret(), "k");
    assert_eq!(a.tools["put"].effect, Some(ToolClass::Idempotent));
    assert_eq!((a.timeout, a.max_duration), (Duration::from_secs(10), Duration::from_secs(20)));
    assert!(!a.trust_annotations);
    assert_eq!((a.requests_per_minute, a.burst), (Some(5), Some(1)));

    let b = &config.servers["b"];
    assert!(b.forward_authorization);
    assert!(matches!(&b.transport, Transport::Sse { url } if url.path == "/sse"));
    let c = &config.servers["c"].transport;
    assert!(matches!(c, Transport::WebSocket { url } if url.tls && url.port == 443));
    let Transport::Stdio(d) = &config.servers["d"].transport else { panic!() };
    assert_eq!((d.command.as_str(), d.args.as_slice()), ("sh", &["-c".into(), "cat".into()][..]));
    assert_eq!(d.env["EMPTY"].expose_secret(), "");
    assert_eq!(d.stop_grace, Duration::from_secs(1));
}

#[test]
fn lowering_all_sessions_lowers_those_of_a_principal() {
    let config = good(&format!("limits: {{ sessions: 5 }}\n{SERVERS}"));
    assert_eq!(config.limits.sessions_per_principal, 5);
}

#[test]
fn empty_sections_and_anchors_are_no_problem() {
    let text = "x-base: &base { timeout: 5s }\nlisten:\nauth: {}\n\
                servers:\n  a: { <<: *base, url: \"http://a/\" }\n";
    assert_eq!(good(text).servers["a"].timeout, Duration::from_secs(5));
}

#[test]
fn a_principal_may_have_two_keys() {
    let (one, two) = ("11".repeat(32), "22".repeat(32));
    let config = good(&format!(
        "auth:\n  keys:\n    - {{ principal: a, sha256: \"{one}\" }}\n    \
         - {{ principal: a, sha256: \"{two}\" }}\n{SERVERS}"
    ));
    assert_eq!(config.auth.keys.len(), 2);
}

#[test]
fn an_address_that_looks_like_the_older_transport_is_pointed_out() {
    let config = good("servers: { a: { url: \"http://a/sse\" } }");
    assert!(config.notices[0].contains("transport: sse"), "{:?}", config.notices);
    assert!(good("servers: { a: { url: \"http://a/sse\", transport: http } }").notices.len() <= 1);
}
