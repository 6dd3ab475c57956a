//! Whom a request is for: one Host, the same as the request line's, and one of ours.

use super::Expect::{Carry, Close, Either, Refuse};
use super::{Vector, check, vector};

/// With these lines instead of the Host.
fn host(
    name: &'static str,
    expect: super::Expect,
    lines: impl Fn(&str) -> String + 'static,
) -> Vector {
    vector(name, expect, move |p| {
        let lines = format!("{}{}", lines(&p.host.to_string()), p.length());
        p.raw("POST /mcp HTTP/1.1", &lines, &p.body)
    })
}

/// With this request line and the right Host.
fn line(
    name: &'static str,
    expect: super::Expect,
    line: impl Fn(&str) -> String + 'static,
) -> Vector {
    vector(name, expect, move |p| {
        let lines = format!("Host: {}\r\n{}", p.host, p.length());
        p.raw(&line(&p.host.to_string()), &lines, &p.body)
    })
}

/// Who is not served here, or not understood.
const NOT_OURS: super::Expect = Refuse(&[400, 403, 421]);

#[tokio::test]
async fn host_header() {
    check(vec![
        host("the right host is carried", Carry, |h| format!("Host: {h}\r\n")),
        host("none", Refuse(&[400]), |_| String::new()),
        host("two that differ", Refuse(&[400]), |h| {
            format!("Host: {h}\r\nHost: evil.example.com\r\n")
        }),
        host("two, the right one last", Refuse(&[400]), |h| {
            format!("Host: evil.example.com\r\nHost: {h}\r\n")
        }),
        host("two that are equal", Refuse(&[400]), |h| format!("Host: {h}\r\nHost: {h}\r\n")),
        host("an empty one", NOT_OURS, |_| "Host: \r\n".into()),
        host("another one", NOT_OURS, |_| "Host: evil.example.com\r\n".into()),
        host("a list", NOT_OURS, |h| format!("Host: {h}, evil.example.com\r\n")),
        host("with a user", NOT_OURS, |h| format!("Host: user@{h}\r\n")),
        host("with a path", NOT_OURS, |h| format!("Host: {h}/mcp\r\n")),
        host("with a blank inside", NOT_OURS, |h| format!("Host: {h} evil.example.com\r\n")),
        host("ours as a part of another", NOT_OURS, |h| format!("Host: {h}.evil.example.com\r\n")),
        host("a blank before the colon", Close, |h| format!("Host : {h}\r\n")),
        host("on a folded line", Close, |h| format!("Host:\r\n {h}\r\n")),
        host("X-Forwarded-Host is not the Host", NOT_OURS, |h| {
            format!("Host: evil.example.com\r\nX-Forwarded-Host: {h}\r\n")
        }),
    ])
    .await;
}

#[tokio::test]
async fn request_target() {
    check(vec![
        line("absolute form with the same authority", Either, |h| {
            format!("POST http://{h}/mcp HTTP/1.1")
        }),
        line("absolute form with another authority", Refuse(&[400]), |_| {
            "POST http://evil.example.com/mcp HTTP/1.1".into()
        }),
        line("absolute form with another port", Refuse(&[400]), |h| {
            let host = h.split(':').next().unwrap().to_owned();
            format!("POST http://{host}:1/mcp HTTP/1.1")
        }),
        line("absolute form with a user", Refuse(&[400]), |h| {
            format!("POST http://user@{h}/mcp HTTP/1.1")
        }),
        line("authority form", Refuse(&[400, 404, 405]), |h| format!("CONNECT {h} HTTP/1.1")),
        line("asterisk form", Refuse(&[400, 404, 405]), |_| "OPTIONS * HTTP/1.1".into()),
        line("two slashes are not an authority", Refuse(&[400, 404]), |_| {
            "POST //evil.example.com/mcp HTTP/1.1".into()
        }),
        line("a path that climbs", Refuse(&[400, 404]), |_| "POST /mcp/../mcp/x HTTP/1.1".into()),
        line("a control in the path", Close, |_| "POST /mcp\x01 HTTP/1.1".into()),
        line("a blank in the path", Close, |_| "POST /mcp x HTTP/1.1".into()),
        line("another version", Close, |_| "POST /mcp HTTP/9.9".into()),
        line("no version", Close, |_| "POST /mcp".into()),
        line("a method of small letters", Refuse(&[400, 405, 501]), |_| {
            "post /mcp HTTP/1.1".into()
        }),
        line("a method that is no token", Close, |_| "PO(ST /mcp HTTP/1.1".into()),
    ])
    .await;
}
