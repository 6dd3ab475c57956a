//! The admin port over real sockets, in front of a node that only exists here.

mod cluster;
mod control;

use std::net::SocketAddr;
use std::time::SystemTime;

use holdfast_config::Tls;
use holdfast_engine::health::node::Level;
use holdfast_proxy::health::{self, Health, HealthFuture};
use holdfast_proxy::metrics::{CallOutcome, Metrics, Rejection};
use holdfast_proxy::report::{
    ConfigSummary, Gauged, InstanceReport, Listener, NodeState, ServerReport, SessionPage,
    SessionReport, Usage,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::api::StatusDto;
use crate::{Client, ClientError};

/// Two servers; calls are counted by the tests.
struct Fake {
    metrics: Arc<Metrics>,
    draining: bool,
    sessions: usize,
}

impl Fake {
    fn new() -> Self {
        let names = ["github".to_owned(), "files".to_owned()];
        Self { metrics: Metrics::new(&names), draining: false, sessions: 250 }
    }
}

impl Observed for Fake {
    fn report(&self) -> Report {
        let gauged = |now| Gauged { now, limit: 100_000 };
        let servers = self.metrics.servers().into_iter().rev().map(|server| ServerReport {
            name: server.name().to_owned(),
            transport: "http",
            instances: vec![InstanceReport { id: "a".into(), target: "http://a/mcp".into() }],
            versions: vec!["2025-06-18".to_owned()],
            sessions: 3,
            in_flight: server.in_flight.get(),
            traffic: server.traffic(),
            repeated: server.attempts_repeated.get(),
            last_success: server.last_success(),
            last_error: server.last_error(),
            processes: None,
            tools: Vec::new(),
        });
        Report {
            node: "gateway-1".to_owned(),
            version: "0.1.0".to_owned(),
            started: SystemTime::now(),
            uptime: Duration::from_secs(5),
            state: if self.draining { NodeState::Draining } else { NodeState::Ready },
            level: Level::Warning,
            listeners: vec![Listener {
                name: "client",
                address: "127.0.0.1:37373".to_owned(),
                tls: false,
                accepting: !self.draining,
            }],
            usage: Usage {
                connections: gauged(4),
                sessions: gauged(self.sessions),
                streams: gauged(2),
                in_flight: gauged(1),
            },
            servers: servers.collect(),
            config: ConfigSummary { auth: true, principals: 2, store: "memory", workers: 2 },
        }
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn draining(&self) -> bool {
        self.draining
    }

    fn sessions(&self, offset: usize, limit: usize) -> SessionPage {
        let sessions = (offset..self.sessions.min(offset.saturating_add(limit)))
            .map(|n| SessionReport {
                digest: format!("{n:012x}"),
                server: "github".to_owned(),
                principal: "anonymous".to_owned(),
                version: "2025-06-18".to_owned(),
                client: None,
                age: Duration::from_secs(10),
                idle: Duration::from_secs(1),
                instance: Some("a".to_owned()),
                held_here: n == 0,
                revision: 3,
            })
            .collect();
        SessionPage { total: self.sessions, sessions }
    }

    fn ready(&self) -> HealthFuture<'_> {
        let check = |name: &str, ok| health::Check {
            name: name.to_owned(),
            ok,
            critical: false,
            elapsed: Duration::from_micros(150),
            age: Duration::ZERO,
            detail: (!ok).then(|| "connection refused".to_owned()),
        };
        let checks = vec![check("server:github", true), check("server:files", false)];
        Box::pin(async move { Health::new(&self.report(), checks) })
    }
}

struct Running {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(node: Fake, section: Section) -> Self {
        Self::start_with(node, section, |_| {}).await
    }

    async fn start_with(node: Fake, section: Section, prepare: impl FnOnce(&Admin)) -> Self {
        let metrics = Arc::clone(&node.metrics);
        let section = Section { address: "127.0.0.1:0".parse().unwrap(), ..section };
        let admin = Admin::bind(Arc::new(node), &section).await.unwrap();
        prepare(&admin);
        let address = admin.address();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(admin.run(shutdown.clone()));
        Self { address, metrics, shutdown, task }
    }

    fn client(&self, token: Option<&str>) -> Client {
        Client::new(&self.address.to_string(), token.map(Into::into)).unwrap()
    }

    /// Status line, headers and body of one request on a connection of its own.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn get(&self, path: &str) -> String {
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
            .await
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

fn with_token() -> Section {
    Section { token: Some("0123456789abcdef".into()), ..Section::default() }
}

/// Reads until the text holds `wanted`. Fails by the connection's end or the test's own deadline.
async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut text = String::new();
    let mut chunk = [0; 4096];
    while !text.contains(wanted) {
        let n = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut chunk));
        let n = n.await.expect("an answer in time").unwrap();
        assert!(n > 0, "ended without {wanted:?}: {text}");
        text.push_str(std::str::from_utf8(&chunk[..n]).unwrap());
    }
    text
}

#[tokio::test]
async fn the_client_reads_what_the_node_knows() {
    let node = Running::start(Fake::new(), Section::default()).await;
    let (ms, github) = (Duration::from_millis, node.metrics.server("github"));
    for _ in 0..99 {
        github.call(holdfast_mcp::method::Method::ToolsCall, CallOutcome::Ok, ms(3));
    }
    github.call(holdfast_mcp::method::Method::ToolsCall, CallOutcome::TimedOut, ms(900));
    github.failed("no byte for 300 s");

    let status = node.client(None).status().await.unwrap();
    assert_eq!((status.node.id.as_str(), status.node.state.as_str()), ("gateway-1", "ready"));
    assert_eq!(status.usage.sessions.now, 250);
    let github = status.servers.iter().find(|server| server.name == "github").unwrap();
    assert_eq!((github.total.calls, github.total.failures), (100, 1));
    assert_eq!(github.recent.success, Some(0.99));
    assert!(github.recent.p50_ms.is_some_and(|p50| p50 > 2.5 && p50 < 5.0), "{github:?}");
    assert_eq!(github.state, "degraded");
    assert_eq!(github.last_error.as_ref().unwrap().text, "no byte for 300 s");
    assert_eq!(status.servers[1].state, "unreachable");
    assert_eq!(status.verdict.state, "degraded");
    assert_eq!(
        status.verdict.text,
        "Takes traffic, with trouble. 2 of 2 servers have trouble: github, files."
    );
    assert_eq!(node.client(None).servers().await.unwrap().servers.len(), 2);
    node.stop().await;
}

#[tokio::test]
async fn sessions_come_in_pages() {
    let node = Running::start(Fake::new(), Section::default()).await;
    let page = node.client(None).sessions(200, 100).await.unwrap();
    assert_eq!((page.total, page.offset, page.sessions.len()), (250, 200, 50));
    assert_eq!((page.sessions[0].node.as_deref(), page.node.as_str()), (None, "gateway-1"));
    let first = &node.client(None).sessions(0, 1).await.unwrap().sessions[0];
    let place = (first.instance.as_deref(), first.node.as_deref(), first.revision);
    assert_eq!(place, (Some("a"), Some("gateway-1"), 3));
    assert_eq!(node.client(None).sessions(0, 0).await.unwrap().sessions.len(), 1, "at least one");
    let far = node.client(None).sessions(usize::MAX, 1000).await.unwrap();
    assert!(far.sessions.is_empty());
    let answer = node.get("/api/sessions?limit=many").await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("limit=1"), "{answer}");
    node.stop().await;
}

#[tokio::test]
async fn metrics_and_health_answer_any_name() {
    let node = Running::start(Fake::new(), Section::default()).await;
    node.metrics.rejected(Rejection::Origin);
    let get = async |path| {
        node.raw(&format!(
            "GET {path} HTTP/1.1\r\nHost: gateway-1.internal\r\nConnection: close\r\n\r\n"
        ))
        .await
    };
    let metrics = get("/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
    assert!(metrics.contains("holdfast_rejected_total{reason=\"origin\"} 1"));
    let ready = get("/health/ready").await;
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("\"degraded\""), "{ready}");
    assert!(get("/health/live").await.contains("\"live\""));
    assert!(get("/api/status").await.starts_with("HTTP/1.1 403"));
    node.stop().await;
}

#[tokio::test]
async fn a_draining_node_still_shows_itself() {
    let node = Running::start(Fake { draining: true, ..Fake::new() }, Section::default()).await;
    assert!(node.get("/health/ready").await.starts_with("HTTP/1.1 503"));
    assert!(node.get("/health/live").await.starts_with("HTTP/1.1 200"));
    let status = node.client(None).status().await.unwrap();
    assert_eq!(status.verdict.state, "draining");
    node.stop().await;
}

#[tokio::test]
async fn the_token_opens_the_api() {
    let node = Running::start(Fake::new(), with_token()).await;
    node.client(Some("0123456789abcdef")).status().await.unwrap();
    for token in [None, Some("wrong")] {
        let error = node.client(token).status().await.unwrap_err();
        assert!(matches!(error, ClientError::Unauthorized { .. }), "{error:?}");
        assert!(error.to_string().contains(&node.address.to_string()), "{error}");
    }
    let refused = node.get("/metrics").await;
    assert!(refused.starts_with("HTTP/1.1 401") && refused.contains("www-authenticate: Bearer"));
    assert!(node.get("/?token=0123456789abcdef").await.starts_with("HTTP/1.1 200"), "the page");
    assert!(node.get("/api/status?token=0123456789abcdef").await.starts_with("HTTP/1.1 401"));
    node.stop().await;
}

#[tokio::test]
async fn nothing_can_be_changed() {
    let node = Running::start(Fake::new(), Section::default()).await;
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let answer = node
            .raw(&format!(
                "{method} /api/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\
                 Connection: close\r\n\r\n"
            ))
            .await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{method}: {answer}");
    }
    assert!(node.get("/api/nonsense").await.starts_with("HTTP/1.1 404"));
    node.stop().await;
}

#[tokio::test]
async fn the_page_is_served_under_a_strict_policy() {
    let node = Running::start(Fake::new(), Section::default()).await;
    for (path, content_type) in
        [("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")]
    {
        let answer = node.get(path).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}");
        assert!(answer.contains(&format!("content-type: {content_type}")), "{path}");
        assert!(answer.contains("content-security-policy: default-src 'none'"), "{path}");
        // The policy refuses inline code, so there must be none.
        assert!(!answer.contains("<style") && !answer.contains(" style=\""), "{path}");
        assert!(!answer.contains(" onclick="), "{path}");
    }
    node.stop().await;
}

#[tokio::test]
async fn the_feed_speaks_at_once_and_again_and_ends_with_the_node() {
    let node = Running::start(Fake::new(), Section::default()).await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let text = read_until(&mut stream, "}\n\n").await;
    assert!(text.contains("content-type: text/event-stream"), "{text}");
    let data = text.split("data: ").nth(1).unwrap().lines().next().unwrap();
    let status: StatusDto = serde_json::from_str(data).unwrap();
    assert_eq!(status.node.id, "gateway-1");
    for _ in 0..2 {
        read_until(&mut stream, "}\n\n").await;
    }
    node.stop().await;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(b"0\r\n\r\n"), "a clean end of the chunked body");
}

/// Balancers ask here whether the node is ready: nobody may hold all of the port.
#[tokio::test]
async fn who_waits_for_nothing_makes_room_for_who_asks() {
    let node = Running::start(Fake::new(), Section::default()).await;
    let mut feeds = Vec::new();
    for _ in 0..connections::CONNECTIONS {
        let mut feed = TcpStream::connect(node.address).await.unwrap();
        feed.write_all(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        read_until(&mut feed, "data:").await;
        feeds.push(feed);
    }
    let asked = tokio::time::timeout(Duration::from_secs(20), node.get("/health/live"));
    assert!(asked.await.expect("an answer in time").starts_with("HTTP/1.1 200"));
    drop(feeds);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_comes_is_not_waited_for() {
    let node = Running::start(Fake::new(), Section::default()).await;
    let head = "POST /api/drain HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n";
    // Paused time: what is waited for passes at once when nothing else happens.
    let answer = node.raw(head).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_no_headers_is_closed() {
    let node = Running::start(Fake::new(), Section::default()).await;
    for begun in [&b""[..], b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: "] {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        stream.write_all(begun).await.unwrap();
        let mut rest = Vec::new();
        // Paused time: the header timeout passes at once when nothing else happens.
        stream.read_to_end(&mut rest).await.unwrap();
    }
    node.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_it() {
    let node = Running::start(Fake::new(), Section::default()).await;
    let section = Section { address: node.address, ..Section::default() };
    let error = Admin::bind(Arc::new(Fake::new()), &section).await.unwrap_err();
    assert!(error.to_string().contains(&node.address.to_string()), "{error}");
    node.stop().await;
}

#[tokio::test]
async fn others_than_this_machine_need_a_token() {
    let open = Section { address: "0.0.0.0:0".parse().unwrap(), ..Section::default() };
    let error = Admin::bind(Arc::new(Fake::new()), &open).await.unwrap_err();
    assert!(matches!(error, AdminError::TokenNeeded { .. }), "{error:?}");
}

#[tokio::test]
async fn errors_of_the_client_name_the_address_and_the_cure() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = Client::new(&gone.to_string(), None).unwrap();
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error:?}");
    assert!(error.to_string().contains(&gone.to_string()), "{error}");
    assert!(error.to_string().contains("admin.address"), "{error}");

    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&other.local_addr().unwrap().to_string(), None).unwrap();
    let stranger = tokio::spawn(async move {
        let (mut stream, _) = other.accept().await.unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH\r\n").await.unwrap();
        stream
    });
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol { .. }), "{error:?}");
    drop(stranger.await.unwrap());
}

#[tokio::test]
async fn tls_is_spoken_where_it_is_configured() {
    let folder = std::env::temp_dir().join(format!("holdfast-admin-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = Tls { certificate: folder.join("cert.pem"), key: folder.join("key.pem") };
    std::fs::write(&files.certificate, pair.cert.pem()).unwrap();
    std::fs::write(&files.key, pair.signing_key.serialize_pem()).unwrap();
    let section = Section { tls: Some(files), ..Section::default() };
    let node = Running::start(Fake::new(), section).await;
    std::fs::remove_dir_all(&folder).unwrap();

    let mut roots = rustls::RootCertStore::empty();
    roots.add(pair.cert.der().clone()).unwrap();
    for alpn in [&b"h2"[..], b"http/1.1"] {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = TcpStream::connect(node.address).await.unwrap();
        let io = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(io);
        let request = |uri: String| {
            http::Request::get(uri)
                .header("host", "localhost")
                .body(http_body_util::Empty::<bytes::Bytes>::new())
                .unwrap()
        };
        let status = if alpn == b"h2" {
            let executor = hyper_util::rt::TokioExecutor::new();
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(executor, io).await.unwrap();
            tokio::spawn(connection);
            let uri = "https://localhost/api/status".to_owned();
            sender.send_request(request(uri)).await.unwrap().status()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request("/api/status".to_owned())).await.unwrap().status()
        };
        assert_eq!(status, 200, "{alpn:?}");
    }
    node.stop().await;
}
