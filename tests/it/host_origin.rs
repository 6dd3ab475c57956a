//! Host and Origin on every listener: a page that a browser has open must not reach the gateway by
//! way of a name that resolves to it (DNS rebinding).

use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message;
use crate::harness::recorder::Recorder;
use crate::harness::wire::{Answer, Conn};

async fn start(listen: &[&str]) -> (Recorder, Gateway) {
    let recorder = Recorder::start().await;
    let setup = listen.iter().fold(Setup::http(&recorder.url()), |setup, line| setup.listen(line));
    let gateway = setup.start().await;
    (recorder, gateway)
}

/// A modern call with this Host and, if any, this Origin.
async fn call(gateway: &Gateway, host: &str, origin: Option<&str>) -> Answer {
    let extra: Vec<(&str, &str)> = origin.into_iter().map(|it| ("Origin", it)).collect();
    let body = message::modern_call(1, "tool");
    let request = Client::modern(gateway).request("POST", &extra, Some(&body));
    let own = format!("Host: {}\r\n", gateway.address);
    let request = request.replace(&own, &format!("Host: {host}\r\n"));
    Conn::open(gateway.address).await.exchange(request).await
}

#[tokio::test]
async fn the_names_of_loopback_are_served_with_any_port() {
    let (recorder, gateway) = start(&[]).await;
    let port = gateway.address.port();
    let hosts = [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("LocalHost:{port}"),
        format!("[::1]:{port}"),
        "localhost".into(),
        "127.0.0.1:8080".into(),
    ];
    for host in &hosts {
        let answer = call(&gateway, host, None).await;
        assert_eq!(answer.status, 200, "{host}: {}", answer.text());
    }
    assert_eq!(recorder.calls("tool").len(), hosts.len());
}

#[tokio::test]
async fn other_names_are_refused() {
    let (recorder, gateway) = start(&[]).await;
    let port = gateway.address.port();
    for host in [
        "evil.example.com".into(),
        format!("evil.example.com:{port}"),
        "localhost.evil.example.com".into(),
        "127.0.0.1.evil.example.com".into(),
        "10.0.0.1".into(),
        "0.0.0.0".into(),
        "localhost.".into(),
    ] {
        let status = call(&gateway, &host, None).await.status;
        assert!([400, 403, 421].contains(&status), "{host}: {status}");
        let with_origin = call(&gateway, &host, Some(&format!("http://{host}"))).await.status;
        assert!((400..500).contains(&with_origin), "{host} with Origin: {with_origin}");
    }
    assert!(recorder.seen().is_empty());
}

#[tokio::test]
async fn public_hosts_are_served() {
    let (_recorder, gateway) = start(&["public_hosts: [mcp.example.com]"]).await;
    for host in ["mcp.example.com", "MCP.example.com", "mcp.example.com:443"] {
        let answer = call(&gateway, host, None).await;
        assert_eq!(answer.status, 200, "{host}: {}", answer.text());
    }
    let port = gateway.address.port();
    assert_eq!(call(&gateway, &format!("127.0.0.1:{port}"), None).await.status, 200);
    assert_ne!(call(&gateway, "example.com", None).await.status, 200);
    assert_ne!(call(&gateway, "x.mcp.example.com", None).await.status, 200);
}

#[tokio::test]
async fn origins() {
    let (recorder, gateway) = start(&[
        "public_hosts: [mcp.example.com]",
        "allowed_origins: [\"https://app.example.com\"]",
    ])
    .await;
    let own = gateway.address.to_string();
    for good in [
        format!("http://{own}"),
        "https://app.example.com".into(),
        "https://mcp.example.com".into(),
    ] {
        let answer = call(&gateway, &own, Some(&good)).await;
        assert_eq!(answer.status, 200, "{good}: {}", answer.text());
    }
    let served = recorder.calls("tool").len();
    for bad in [
        "http://evil.example.com",
        "https://evil.example.com:443",
        "https://app.example.com.evil.example.com",
        "http://app.example.com",
        "null",
        "file://",
    ] {
        assert_eq!(call(&gateway, &own, Some(bad)).await.status, 403, "{bad}");
    }
    assert_eq!(recorder.calls("tool").len(), served, "a refused request reached the server");
}

/// What a browser asks before a page of an allowed origin may call, and what lets the page read the
/// answer. An origin that is not allowed gets neither.
#[tokio::test]
async fn a_page_of_an_allowed_origin_can_use_the_gateway() {
    let (recorder, gateway) = start(&["allowed_origins: [\"https://app.example.com\"]"]).await;
    let own = gateway.address.to_string();
    let ask = |origin: &str| {
        format!(
            "OPTIONS /mcp HTTP/1.1\r\nHost: {own}\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type, mcp-method\r\n\r\n"
        )
    };
    let mut conn = Conn::open(gateway.address).await;
    let allowed = conn.exchange(ask("https://app.example.com")).await;
    assert_eq!(allowed.status, 204, "{}", allowed.text());
    let header = |name| allowed.header(name).unwrap_or_default();
    assert_eq!(header("access-control-allow-origin"), "https://app.example.com");
    assert!(header("access-control-allow-methods").contains("POST"));
    assert_eq!(header("access-control-allow-headers"), "content-type, mcp-method");
    let refused = Conn::open(gateway.address).await.exchange(ask("https://evil.example.com")).await;
    assert_eq!(refused.status, 403);
    assert!(refused.header("access-control-allow-origin").is_none());
    let answer = call(&gateway, &own, Some("https://app.example.com")).await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert!(answer.header("access-control-expose-headers").unwrap().contains("mcp-session-id"));
    assert_eq!(recorder.calls("tool").len(), 1);
    assert!(recorder.seen().iter().all(|seen| seen.method != "OPTIONS"));
}

/// Every way in is checked, not only POST.
#[tokio::test]
async fn every_path_of_the_client_port_is_checked() {
    let (_recorder, gateway) = start(&[]).await;
    let own = gateway.address;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mcp\r\n";
    for (method, path, lines) in [
        ("GET", "/mcp", "Accept: text/event-stream\r\n"),
        ("DELETE", "/mcp", "Mcp-Session-Id: x\r\n"),
        ("GET", "/sse", "Accept: text/event-stream\r\n"),
        ("POST", "/messages?session_id=x", "Content-Length: 0\r\n"),
        ("GET", "/mcp", upgrade),
    ] {
        for (host, origin, status) in [
            ("evil.example.com".to_owned(), String::new(), [400, 403, 421]),
            (own.to_string(), "Origin: http://evil.example.com\r\n".to_owned(), [403; 3]),
        ] {
            let request =
                format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{origin}{lines}\r\n");
            let answer = Conn::open(own).await.exchange(request).await;
            assert!(
                status.contains(&answer.status),
                "{method} {path} for {host} {origin}: {}",
                answer.status
            );
        }
    }
}

/// Balancers and Prometheus ask by address.
#[tokio::test]
async fn health_and_metrics_are_exempt_and_the_api_is_not() {
    let (_recorder, gateway) = start(&[]).await;
    let get = async |address, path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: 10.1.2.3\r\nConnection: close\r\n\r\n");
        Conn::open(address).await.exchange(request).await.status
    };
    for path in ["/health", "/health/live", "/health/ready"] {
        assert_eq!(get(gateway.address, path).await, 200, "{path}");
    }
    assert_eq!(get(gateway.admin, "/metrics").await, 200);
    let status = get(gateway.admin, "/api/status").await;
    assert!([400, 403, 421].contains(&status), "the API answered {status} to a foreign Host");
}
