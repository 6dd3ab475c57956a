//! Too much: each limit has its own status, and the server sees nothing of it.

use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message;
use crate::harness::recorder::Recorder;
use crate::harness::wire::{Answer, Conn};

async fn start(lines: &[&str], limits: &str) -> (Recorder, Gateway) {
    let recorder = Recorder::start().await;
    let mut setup = Setup::http(&recorder.url());
    for line in lines {
        setup = setup.listen(line);
    }
    if !limits.is_empty() {
        setup = setup.section(&format!("limits: {{ {limits} }}"));
    }
    let gateway = setup.start().await;
    (recorder, gateway)
}

/// The answer to bytes that the gateway may refuse before it has read them all.
async fn refused(gateway: &Gateway, request: &str) -> Answer {
    let mut conn = Conn::open(gateway.address).await;
    conn.try_send(request).await;
    let answer = conn.answer().await.expect("an answer that says which limit it was");
    conn.closed().await;
    answer
}

#[tokio::test]
async fn too_many_headers() {
    let (recorder, gateway) = start(&[], "header_count: 20").await;
    let many: Vec<(String, String)> =
        (0..40).map(|at| (format!("X-{at}"), "1".to_owned())).collect();
    let extra: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let body = message::modern_call(1, "tool");
    let request = Client::modern(&gateway).request("POST", &extra, Some(&body));
    assert_eq!(refused(&gateway, &request).await.status, 431);
    assert!(recorder.calls("tool").is_empty());
    assert_eq!(Client::modern(&gateway).call(2, "tool").await["id"], 2, "others are served");
}

#[tokio::test]
async fn headers_that_are_too_large() {
    let (recorder, gateway) = start(&[], "header_bytes: 8KiB").await;
    let body = message::modern_call(1, "tool");
    let large = "x".repeat(20 * 1024);
    let request = Client::modern(&gateway).request("POST", &[("X-Large", &large)], Some(&body));
    assert_eq!(refused(&gateway, &request).await.status, 431);
    assert!(recorder.calls("tool").is_empty());
    let fits = "x".repeat(4 * 1024);
    let posted = Client::modern(&gateway).with("X-Fits", &fits).call(2, "tool").await;
    assert_eq!(posted["id"], 2);
}

#[tokio::test]
async fn a_target_that_is_too_long() {
    let (recorder, gateway) = start(&[], "header_bytes: 8KiB").await;
    let body = message::modern_call(1, "tool");
    let path = format!("/mcp?{}", "q".repeat(70 * 1024));
    let request = Client::modern(&gateway).at(&path).request("POST", &[], Some(&body));
    let status = refused(&gateway, &request).await.status;
    assert!([414, 431].contains(&status), "{status}");
    assert!(recorder.calls("tool").is_empty());
}

#[tokio::test]
async fn a_body_whose_length_is_too_large() {
    let (recorder, gateway) = start(&[], "body: 16KiB").await;
    let client = Client::modern(&gateway);
    let body = message::modern_call(1, "tool");
    let request = client.request("POST", &[], Some(&body));
    let claimed =
        request.replace(&format!("Content-Length: {}", body.len()), "Content-Length: 999999");
    let answer = refused(&gateway, &claimed).await;
    assert_eq!(answer.status, 413, "{}", answer.text());
    assert!(answer.text().contains("16"), "the limit is named: {}", answer.text());
    assert!(recorder.calls("tool").is_empty());
}

#[tokio::test]
async fn a_body_whose_chunks_are_too_many() {
    let (recorder, gateway) = start(&[], "body: 16KiB").await;
    let head = Client::modern(&gateway).request("POST", &[("Transfer-Encoding", "chunked")], None);
    let chunk = format!("2000\r\n{}\r\n", "x".repeat(0x2000));
    let answer = refused(&gateway, &format!("{head}{}", chunk.repeat(8))).await;
    assert_eq!(answer.status, 413, "{}", answer.text());
    assert_eq!(recorder.seen().len(), 0);
}

/// Most clients look for an answer when all is sent. A reset would take it from them, and behind a
/// balancer become a 502.
#[tokio::test]
async fn who_sends_all_of_a_body_reads_why_it_was_refused() {
    let (recorder, gateway) = start(&[], "body: 16KiB").await;
    let client = Client::modern(&gateway);
    let mut conn = Conn::open(gateway.address).await;
    let large = "x".repeat(8 << 20);
    let chunked = client.request("POST", &[("Transfer-Encoding", "chunked")], None);
    for request in [
        client.request("POST", &[], Some(&large)),
        format!("{chunked}{:x}\r\n{large}\r\n0\r\n\r\n", large.len()),
    ] {
        let answer = conn.exchange(&request).await;
        assert_eq!(answer.status, 413, "{}", answer.text());
    }
    // Whatever it is refused for.
    let text =
        client.request("POST", &[], Some(&large)).replace("application/json\r\n", "text/plain\r\n");
    assert_eq!(conn.exchange(&text).await.status, 415);
    assert!(recorder.seen().is_empty());
    let fits = client.request("POST", &[], Some(&message::modern_call(1, "tool")));
    assert_eq!(conn.exchange(&fits).await.status, 200, "the connection is as good as before");
}

/// Who asks first is told at once, and sends nothing.
#[tokio::test]
async fn who_asks_whether_to_send_a_large_body_is_told_not_to() {
    let (_recorder, gateway) = start(&[], "body: 16KiB").await;
    let large = "x".repeat(17 * 1024);
    let asking =
        Client::modern(&gateway).request("POST", &[("Expect", "100-continue")], Some(&large));
    let head = &asking[..asking.find("\r\n\r\n").unwrap() + 4];
    assert_eq!(refused(&gateway, head).await.status, 413);
}

/// Of chunks nobody knows how many come: such a body is asked for, and then it is on its way.
#[tokio::test]
async fn who_asks_and_sends_chunks_reads_why_they_were_refused() {
    let (recorder, gateway) = start(&[], "body: 16KiB").await;
    let client = Client::modern(&gateway);
    let fields = [("Expect", "100-continue"), ("Transfer-Encoding", "chunked")];
    let mut conn = Conn::open(gateway.address).await;
    conn.send(client.request("POST", &fields, None)).await;
    let large = "x".repeat(8 << 20);
    conn.send(format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len())).await;
    let answer = conn.answer().await.expect("an answer");
    assert_eq!(answer.status, 413, "{}", answer.text());
    assert!(recorder.seen().is_empty());
    let fits = client.request("POST", &[], Some(&message::modern_call(1, "tool")));
    assert_eq!(conn.exchange(&fits).await.status, 200, "the connection is as good as before");
}

#[tokio::test]
async fn a_body_of_just_the_limit_is_carried() {
    let (recorder, gateway) = start(&[], "body: 16KiB").await;
    let body = message::modern_call(1, "tool");
    let filled = format!("{body}{}", " ".repeat(16 * 1024 - body.len()));
    let answer = Client::modern(&gateway).post(&filled).await.response().await;
    assert_eq!(answer["id"], 1);
    assert_eq!(recorder.calls("tool")[0].body.len(), 16 * 1024);
}

/// A client that never finishes its headers is cut off when the time is over, not before, and
/// not never.
#[tokio::test]
async fn headers_that_never_end() {
    let (recorder, gateway) = start(&["header_timeout: 1s"], "").await;
    let mut conn = Conn::open(gateway.address).await;
    conn.send("POST /mcp HTTP/1.1\r\nHost: ").await;
    // Either a 408 and the end, or just the end.
    let rest = String::from_utf8_lossy(&conn.rest().await).into_owned();
    assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408"), "{rest}");
    assert!(recorder.seen().is_empty());
}

#[tokio::test]
async fn a_body_that_never_ends() {
    let (recorder, gateway) = start(&["body_timeout: 1s"], "").await;
    let body = message::modern_call(1, "tool");
    let request = Client::modern(&gateway).request("POST", &[], Some(&body));
    let mut conn = Conn::open(gateway.address).await;
    conn.send(&request.as_bytes()[..request.len() - 10]).await;
    let rest = String::from_utf8_lossy(&conn.rest().await).into_owned();
    assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408"), "{rest}");
    assert!(recorder.calls("tool").is_empty());
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let (_recorder, gateway) = start(&["header_timeout: 1s", "idle_timeout: 1s"], "").await;
    let mut silent = Conn::open(gateway.address).await;
    let mut used = Conn::open(gateway.address).await;
    let request =
        Client::modern(&gateway).request("POST", &[], Some(&message::modern_call(1, "t")));
    assert_eq!(used.exchange(request).await.status, 200);
    silent.closed().await;
    used.closed().await;
}
