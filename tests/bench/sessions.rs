//! Memory of open sessions: without a stream, and each with one to its client and one to the server.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use holdfast_drill::bench::{self, Held, Holding, LoadPlan};

use crate::Error;
use crate::measure::rss;
use crate::targets::Target;

/// Memory is read when it has not grown for this long.
const CALM: Duration = Duration::from_secs(2);

/// Sessions that fill caches and pools, which are not what a session costs.
const WARM: usize = 64;

/// Limits that leave room for so many sessions.
pub(crate) fn limits(many: usize) -> String {
    let room = many + 1000;
    format!(
        "limits: {{ sessions: {room}, sessions_per_principal: {room}, streams: {room}, connections: {room} }}"
    )
}

/// Opens sessions that nobody uses.
pub(crate) fn hold(address: SocketAddr, many: usize, holding: Holding) -> Result<Held, Error> {
    Ok(bench::hold(&LoadPlan::new(address), many, holding)?)
}

/// Opens the sessions with and without a stream, holds them, and gives back what they cost.
pub(crate) fn run(server: SocketAddr, many: usize) -> Result<String, Error> {
    let mut text =
        format!("Memory of {many} sessions (`cargo xtask bench --sessions {many}`):\n\n");
    text.push_str("| session | RSS before, MiB | with them, MiB | bytes each | opened in, s |\n");
    text.push_str("|---|---|---|---|---|\n");
    for (what, holding) in [
        ("without a stream, its connection closed", Holding::Session),
        ("with a GET stream on both sides (two connections)", Holding::Stream),
    ] {
        let gateway = Target::gateway(server, &limits(many))?;
        let pids = gateway.pids();
        let warm = hold(gateway.address, WARM, holding)?;
        let before = settled(&pids);
        let started = Instant::now();
        let held = hold(gateway.address, many, holding)?;
        let took = started.elapsed();
        let after = settled(&pids);
        drop((warm, held));
        text.push_str(&format!(
            "| {what} | {:.1} | {:.1} | **{}** | {:.1} |\n",
            mib(before),
            mib(after),
            after.saturating_sub(before) / many as u64,
            took.as_secs_f64(),
        ));
    }
    Ok(text)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}

fn settled(pids: &[u32]) -> u64 {
    let mut last = rss(pids);
    loop {
        std::thread::sleep(CALM);
        let now = rss(pids);
        if now <= last {
            return now;
        }
        last = now;
    }
}
