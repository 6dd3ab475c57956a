//! Memory of open sessions: each with a GET stream to its client and one to the server.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::Error;
use crate::measure::rss;
use crate::targets::Target;

/// So many are being opened at a time.
const AT_ONCE: usize = 64;
/// Memory is read when it has not grown for this long.
const CALM: Duration = Duration::from_secs(2);

/// Opens the sessions, holds them, and gives back what they cost.
pub(crate) fn run(server: SocketAddr, many: usize) -> Result<String, Error> {
    let room = many + 1000;
    let limits = format!(
        "limits: {{ sessions: {room}, sessions_per_principal: {room}, streams: {room}, connections: {room} }}"
    );
    let gateway = Target::gateway(server, &limits)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // The first ones fill caches and pools, which are not what a session costs.
        let warm = open(gateway.address, AT_ONCE).await?;
        let pids = gateway.pids();
        let before = settled(&pids).await;
        let started = Instant::now();
        let held = open(gateway.address, many).await?;
        let took = started.elapsed();
        let after = settled(&pids).await;
        let each = after.saturating_sub(before) / many as u64;
        drop((warm, held));
        Ok(format!(
            "`cargo xtask bench --sessions {many}`: {many} sessions with a GET stream on both sides, opened in {:.1} s. RSS {:.1} MiB before, {:.1} MiB with them: **{each} bytes per session** (two connections, their buffers and the session).\n",
            took.as_secs_f64(),
            mib(before),
            mib(after),
        ))
    })
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}

async fn settled(pids: &[u32]) -> u64 {
    let mut last = rss(pids);
    loop {
        tokio::time::sleep(CALM).await;
        let now = rss(pids);
        if now <= last {
            return now;
        }
        last = now;
    }
}

async fn open(address: SocketAddr, many: usize) -> Result<Vec<TcpStream>, Error> {
    let mut opening: JoinSet<Result<TcpStream, String>> = JoinSet::new();
    let mut held = Vec::with_capacity(many);
    for _ in 0..many {
        if opening.len() == AT_ONCE
            && let Some(opened) = opening.join_next().await
        {
            held.push(opened??);
        }
        opening.spawn(session(address));
    }
    while let Some(opened) = opening.join_next().await {
        held.push(opened??);
    }
    Ok(held)
}

/// Initializes and opens the GET stream, all on one connection.
async fn session(address: SocketAddr) -> Result<TcpStream, String> {
    let fail = |e: std::io::Error| format!("open a session: {e}");
    let mut stream = TcpStream::connect(address).await.map_err(fail)?;
    let initialize = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;
    let head = exchange(&mut stream, &request(address, "POST", "", initialize)).await?;
    let id = head
        .lines()
        .find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("mcp-session-id").then(|| value.trim().to_owned())
        })
        .ok_or_else(|| format!("no session id in {head}"))?;
    let session = format!("Mcp-Session-Id: {id}\r\nMCP-Protocol-Version: 2025-11-25\r\n");
    let initialized = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    exchange(&mut stream, &request(address, "POST", &session, initialized)).await?;
    let head = exchange(&mut stream, &request(address, "GET", &session, "")).await?;
    if !head.to_ascii_lowercase().contains("text/event-stream") {
        return Err(format!("no stream: {head}"));
    }
    Ok(stream)
}

fn request(address: SocketAddr, method: &str, headers: &str, body: &str) -> String {
    let length = match method {
        "POST" => format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()),
        _ => String::new(),
    };
    format!(
        "{method} /mcp HTTP/1.1\r\nHost: {address}\r\nAccept: application/json, text/event-stream\r\n{headers}{length}\r\n{body}"
    )
}

/// Sends and reads up to the end of the head and of a body whose length it names.
async fn exchange(stream: &mut TcpStream, request: &str) -> Result<String, String> {
    let fail = |e: std::io::Error| format!("talk to the gateway: {e}");
    stream.write_all(request.as_bytes()).await.map_err(fail)?;
    let mut text = Vec::new();
    loop {
        if stream.read_buf(&mut text).await.map_err(fail)? == 0 {
            return Err(format!("closed after {:?}", String::from_utf8_lossy(&text)));
        }
        let seen = String::from_utf8_lossy(&text);
        let Some((head, body)) = seen.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let length = name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse());
            length?.ok()
        });
        if body.len() >= length.unwrap_or(0) {
            if !head.contains(" 200 ") && !head.contains(" 202 ") {
                return Err(seen.into_owned());
            }
            return Ok(head.to_owned());
        }
    }
}
