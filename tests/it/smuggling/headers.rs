//! Headers that readers understand differently, and those that end at the gateway.

use super::Expect::{Carry, Close, Either};
use super::{Vector, check, vector};
use crate::harness::client::Client;
use crate::harness::gateway::Setup;
use crate::harness::message;
use crate::harness::recorder::Recorder;

fn header(name: &'static str, expect: super::Expect, lines: &'static str) -> Vector {
    vector(name, expect, move |p| p.post(&format!("{lines}{}", p.length()), &p.body))
}

#[tokio::test]
async fn syntax() {
    check(vec![
        header("a bare CR in a value", Close, "X-A: a\rX-B: b\r\n"),
        header("a NUL in a value", Close, "X-A: a\0b\r\n"),
        header("a NUL in a name", Close, "X-\0A: a\r\n"),
        header("a fold", Close, "X-A: a\r\n b\r\n"),
        header("a fold with a tab", Close, "X-A: a\r\n\tb\r\n"),
        header("no colon", Close, "X-A\r\n"),
        header("no name", Close, ": a\r\n"),
        header("a name that is no token", Close, "X(A): a\r\n"),
        header("a blank in a name", Close, "X A: a\r\n"),
        header("a bell in a value", Close, "X-A: \x07\r\n"),
        header("a DEL in a value", Either, "X-A: \x7f\r\n"),
        header("a bare LF between headers", Either, "X-A: a\nX-B: b\r\n"),
        vector("bare LFs all through", Either, |p| {
            let text = String::from_utf8(p.post(&p.length(), "")).unwrap();
            format!("{}{}", text.replace("\r\n", "\n"), p.body).into_bytes()
        }),
        vector("an empty line first", Either, |p| {
            [b"\r\n".to_vec(), p.post(&p.length(), &p.body)].concat()
        }),
        vector("a blank line first", Close, |p| {
            [b" \r\n".to_vec(), p.post(&p.length(), &p.body)].concat()
        }),
    ])
    .await;
}

#[tokio::test]
async fn hop_by_hop() {
    check(vec![
        header("Connection that names the length", Carry, "Connection: Content-Length\r\n"),
        header("Connection that names MCP headers", Carry, "Connection: keep-alive, Mcp-Name\r\n"),
        header("an upgrade to HTTP/2", Carry, "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
        header("an upgrade to something else", Either, "Connection: Upgrade\r\nUpgrade: evil\r\n"),
        header("Expect of 100-continue", Carry, "Expect: 100-continue\r\n"),
        header("Expect of something else", Either, "Expect: a-miracle\r\n"),
        header("TE", Carry, "TE: trailers\r\nConnection: TE\r\n"),
        header("Proxy-Connection", Carry, "Proxy-Connection: keep-alive\r\n"),
    ])
    .await;
}

/// What `Connection` names, and every hop-by-hop header, ends at the gateway.
#[tokio::test]
async fn connection_headers_do_not_reach_the_server() {
    let recorder = Recorder::start().await;
    let gateway = Setup::http(&recorder.url()).start().await;
    let client = Client::modern(&gateway)
        .with("Connection", "keep-alive, X-Private")
        .with("X-Private", "1")
        .with("Keep-Alive", "timeout=5")
        .with("Proxy-Authorization", "Basic c2VjcmV0")
        .with("TE", "trailers")
        .with("X-Public", "2");
    let answer = client.post(&message::modern_call(1, "tool")).await.response().await;
    assert_eq!(answer["id"], 1);
    let seen = recorder.calls("tool").remove(0);
    for gone in ["x-private", "keep-alive", "proxy-authorization", "te", "proxy-connection"] {
        assert_eq!(seen.header(gone), None, "{gone} reached the server: {}", seen.head);
    }
    assert_eq!(seen.header("x-public"), Some("2"));
    assert_eq!(seen.header("host"), Some(recorder.address.to_string().as_str()));
}

/// The credential is for the gateway.
#[tokio::test]
async fn authorization_does_not_reach_the_server() {
    let recorder = Recorder::start().await;
    let gateway = Setup::new()
        .server("main", &format!(r#"{{ url: "{}" }}"#, recorder.url()))
        .server("open", &format!(r#"{{ url: "{}", forward_authorization: true }}"#, recorder.url()))
        .start()
        .await;
    for (path, expected) in [("/mcp/main", None), ("/mcp/open", Some("Bearer token"))] {
        let client = Client::modern(&gateway).at(path).with("Authorization", "Bearer token");
        client.call(1, &path[5..]).await;
        let seen = recorder.calls(&path[5..]).remove(0);
        assert_eq!(seen.header("authorization"), expected, "{path}");
    }
}
