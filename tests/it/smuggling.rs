//! Request smuggling: whatever a client writes, the server behind the gateway sees the one request
//! that the gateway understood, or none.
//!
//! Each vector is one connection's bytes. Where two readers could disagree about where a request
//! ends or whom it is for, the gateway answers 4xx and closes. A second, well-formed request
//! follows on the same connection: if anything of the first was left over and taken for a request,
//! there is an answer too many.

mod framing;
mod headers;
mod hosts;
mod limits;

use std::net::SocketAddr;

use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message;
use crate::harness::recorder::{Recorder, Seen};
use crate::harness::wire::Conn;

/// What must come of a vector.
#[derive(Clone, Copy)]
enum Expect {
    /// 400 and the end of the connection: where it ends is not known.
    Close,
    /// Closed with 400, or carried as one request and closed after it: the two ways that RFC 9112
    /// (6.1) leaves for a length beside a coding.
    Once,
    /// One of these statuses; the connection may go on, since its framing is clear.
    Refuse(&'static [u16]),
    /// The server gets exactly this one request.
    Carry,
    /// Closed with 400, or carried as one request: readers differ, and both are safe.
    Either,
}

/// One connection's bytes.
struct Vector {
    name: &'static str,
    expect: Expect,
    bytes: Build,
}

/// Puts a vector together.
type Build = Box<dyn Fn(&Parts) -> Vec<u8>>;

/// What a vector is put together from.
struct Parts {
    host: SocketAddr,
    /// A well-formed call of a tool named after the vector.
    body: String,
    tool: String,
    /// The tool of the smuggled request.
    hidden: String,
    /// A whole request that must never be taken for one.
    smuggled: String,
}

fn vector(
    name: &'static str,
    expect: Expect,
    bytes: impl Fn(&Parts) -> Vec<u8> + 'static,
) -> Vector {
    Vector { name, expect, bytes: Box::new(bytes) }
}

// === impl Parts ===

impl Parts {
    fn new(host: SocketAddr, tool: &str) -> Self {
        let own = format!("{tool}-own");
        let hidden = format!("{tool}-smuggled");
        let inner = message::modern_call(9, &hidden);
        let smuggled = format!(
            "POST /mcp HTTP/1.1\r\nHost: {host}\r\n{}Content-Length: {}\r\n\r\n{inner}",
            mcp_headers(&hidden),
            inner.len()
        );
        Self { host, body: message::modern_call(1, &own), tool: own, hidden, smuggled }
    }

    /// A POST with the usual headers and these lines, each ending in CRLF, then the body's bytes.
    fn post(&self, lines: &str, body: &str) -> Vec<u8> {
        self.raw("POST /mcp HTTP/1.1", &format!("Host: {}\r\n{lines}", self.host), body)
    }

    /// The same with another request line and no Host of its own.
    fn raw(&self, first: &str, lines: &str, body: &str) -> Vec<u8> {
        format!("{first}\r\n{}{lines}\r\n{body}", mcp_headers(&self.tool)).into_bytes()
    }

    /// The body with its length.
    fn length(&self) -> String {
        format!("Content-Length: {}\r\n", self.body.len())
    }

    /// The body as one chunk and the end of chunks.
    fn chunked(&self) -> String {
        format!("{:x}\r\n{}\r\n0\r\n\r\n", self.body.len(), self.body)
    }
}

fn mcp_headers(tool: &str) -> String {
    format!(
        "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: {tool}\r\n"
    )
}

/// Runs every vector and fails with all that went wrong.
async fn check(vectors: Vec<Vector>) {
    let recorder = Recorder::start().await;
    let gateway = Setup::http(&recorder.url()).start().await;
    let mut wrong = Vec::new();
    for (number, vector) in vectors.iter().enumerate() {
        let parts = Parts::new(gateway.address, &format!("v{number}"));
        if let Err(why) = run(&recorder, &gateway, vector, &parts).await {
            wrong.push(format!("{}: {why}", vector.name));
        }
    }
    let many = wrong.len();
    assert!(wrong.is_empty(), "{many} of {}:\n  {}", vectors.len(), wrong.join("\n  "));
}

/// What came back on the connection.
struct Outcome {
    /// The first answer's status; `None` when the connection was closed instead.
    status: Option<u16>,
    /// Answers between the first and the canary's.
    surplus: usize,
    /// The connection went on to serve the next request.
    goes_on: bool,
}

async fn run(
    recorder: &Recorder,
    gateway: &Gateway,
    vector: &Vector,
    parts: &Parts,
) -> Result<(), String> {
    let outcome = exchange(gateway, &(vector.bytes)(parts), &parts.tool).await;
    let own = recorder.calls(&parts.tool);
    if outcome.surplus > 0 {
        return Err(format!("{} answers too many on the connection", outcome.surplus));
    }
    if recorder.seen().iter().any(|seen| seen.text().contains(&parts.hidden)) {
        return Err("a smuggled request reached the server".into());
    }
    let status = outcome.status;
    let closed = |statuses: &[u16]| match (status, own.len()) {
        (Some(status), 0) if statuses.contains(&status) => Ok(()),
        (status, many) => Err(format!("{status:?} and {many} requests at the server")),
    };
    match vector.expect {
        Expect::Close if outcome.goes_on => Err("the connection goes on".into()),
        Expect::Close => closed(&[400]),
        Expect::Once if outcome.goes_on => Err("the connection goes on".into()),
        Expect::Refuse(statuses) => closed(statuses),
        Expect::Carry => carried(status, &own, parts),
        Expect::Once | Expect::Either if own.is_empty() => closed(&[400, 411, 415, 417, 501]),
        Expect::Once | Expect::Either => carried(status, &own, parts),
    }
}

fn carried(status: Option<u16>, own: &[Seen], parts: &Parts) -> Result<(), String> {
    let [seen] = own else {
        return Err(format!("{status:?} and {} requests at the server", own.len()));
    };
    if status != Some(200) {
        return Err(format!("carried, but answered {status:?}"));
    }
    if seen.text() != parts.body {
        return Err(format!("the server got another body: {:?}", seen.text()));
    }
    let framings = seen
        .headers
        .iter()
        .filter(|(name, _)| {
            name.eq_ignore_ascii_case("content-length")
                || name.eq_ignore_ascii_case("transfer-encoding")
        })
        .count();
    if framings != 1 {
        return Err(format!("framed {framings} times at the server: {:?}", seen.head));
    }
    Ok(())
}

async fn exchange(gateway: &Gateway, bytes: &[u8], tool: &str) -> Outcome {
    let mut conn = Conn::open(gateway.address).await;
    conn.try_send(bytes).await;
    let Some(first) = conn.answer().await else {
        return Outcome { status: None, surplus: 0, goes_on: false };
    };
    let canary = format!("{tool}-canary");
    let body = message::modern_call("\"canary\"", &canary);
    let next = format!(
        "POST /mcp HTTP/1.1\r\nHost: {}\r\n{}Content-Length: {}\r\n\r\n{body}",
        gateway.address,
        mcp_headers(&canary),
        body.len()
    );
    conn.try_send(next).await;
    let mut surplus = 0;
    while let Some(answer) = conn.answer().await {
        if answer.text().contains("\"canary\"") {
            return Outcome { status: Some(first.status), surplus, goes_on: true };
        }
        surplus += 1;
    }
    Outcome { status: Some(first.status), surplus, goes_on: false }
}
