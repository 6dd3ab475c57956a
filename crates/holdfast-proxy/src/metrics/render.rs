//! The Prometheus text format 0.0.4, written when a scrape asks.
//!
//! A (server, method) pair that never had a call is not rendered, nor an error type or rejection
//! that never happened: with 28 methods most series would say 0 for ever. Counters of the node and
//! of each server are always there, so that `rate()` sees the first increment.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use holdfast_mcp::method::Method;

use super::calls::{BOUND_LABELS, BOUNDS_MICROS, HistogramTotals, MethodTotals, Status};
use super::process::ProcessUsage;
use super::{CallOutcome, Metrics, Rejection, ServerMetrics};

/// A family that is one number per server: name, type, help, and where the number is.
type ServerFamily = (&'static str, &'static str, &'static str, fn(&ServerMetrics) -> u64);
/// A family that is one number for the node.
type NodeFamily = (&'static str, &'static str, &'static str, fn(&Metrics) -> u64);

pub(super) const COUNTER: &str = "counter";
pub(super) const GAUGE: &str = "gauge";

#[rustfmt::skip]
const NODE: &[NodeFamily] = &[
    ("holdfast_connections", GAUGE, "Open client connections.", |m| m.connections.get() as u64),
    ("holdfast_connections_accepted_total", COUNTER, "Client connections accepted.", |m| m.connections_accepted.get()),
    ("holdfast_connections_refused_total", COUNTER, "Client connections closed because the cap was reached.", |m| m.connections_refused.get()),
    ("holdfast_tls_failures_total", COUNTER, "TLS handshakes with clients that failed.", |m| m.tls_failures.get()),
    ("holdfast_sessions", GAUGE, "Live client sessions.", |m| m.sessions.get() as u64),
    ("holdfast_sessions_created_total", COUNTER, "Sessions begun by initialize.", |m| m.sessions_created.get()),
    ("holdfast_sessions_expired_total", COUNTER, "Sessions that reached their time to live.", |m| m.sessions_expired.get()),
    ("holdfast_sessions_deleted_total", COUNTER, "Sessions ended by the client.", |m| m.sessions_deleted.get()),
    ("holdfast_sessions_refused_total", COUNTER, "Sessions refused because a cap was reached.", |m| m.sessions_refused.get()),
    ("holdfast_sessions_restored_total", COUNTER, "Sessions established anew at a server that had lost them.", |m| m.sessions_restored.get()),
    ("holdfast_streams", GAUGE, "Open streams to clients, SSE and WebSocket.", |m| m.streams.get() as u64),
    ("holdfast_websockets", GAUGE, "Open WebSocket connections of clients.", |m| m.websockets.get() as u64),
    ("holdfast_streams_resumed_total", COUNTER, "Streams taken up again with Last-Event-ID.", |m| m.streams_resumed.get()),
    ("holdfast_stream_gaps_total", COUNTER, "Resumptions with events that could not be brought back.", |m| m.stream_gaps.get()),
    ("holdfast_streams_rotated_total", COUNTER, "Standing streams ended cleanly to be opened anew.", |m| m.streams_rotated.get()),
    ("holdfast_slow_readers_total", COUNTER, "Streams cut because the client read too slowly.", |m| m.slow_readers.get()),
    ("holdfast_events_total", COUNTER, "SSE events and WebSocket messages sent to clients.", |m| m.events.get()),
    ("holdfast_in_flight", GAUGE, "Calls in the gateway now.", |m| m.in_flight.get() as u64),
];

#[rustfmt::skip]
const SERVER: &[ServerFamily] = &[
    ("holdfast_server_in_flight", GAUGE, "Calls to the server that are in the gateway now.", |s| s.in_flight.get() as u64),
    ("holdfast_server_sessions", GAUGE, "Sessions that the gateway holds at the server.", |s| s.sessions.get() as u64),
    ("holdfast_server_attempts_repeated_total", COUNTER, "Attempts after the first.", |s| s.attempts_repeated.get()),
    ("holdfast_server_connects_total", COUNTER, "Connections opened to the server.", |s| s.connects.get()),
    ("holdfast_server_connect_failures_total", COUNTER, "Connections to the server that could not be opened.", |s| s.connect_failures.get()),
    ("holdfast_server_streams_broken_total", COUNTER, "Streams of the server that broke before they ended.", |s| s.streams_broken.get()),
    ("holdfast_server_process_starts_total", COUNTER, "Processes started for the server.", |s| s.process_starts.get()),
    ("holdfast_server_process_exits_total", COUNTER, "Processes of the server that ended unasked.", |s| s.process_exits.get()),
];

pub(super) fn render(metrics: &Metrics, out: &mut String) {
    write_all(metrics, out).unwrap_or_else(|_: fmt::Error| unreachable!("a String takes all text"));
}

fn write_all(metrics: &Metrics, out: &mut String) -> fmt::Result {
    calls(metrics, out)?;
    for &(name, kind, help, read) in NODE {
        header(out, name, kind, help)?;
        writeln!(out, "{name} {}", read(metrics))?;
    }
    let servers = metrics.servers();
    for &(name, kind, help, read) in SERVER {
        let is_there = |server: &&Arc<ServerMetrics>| {
            kind == COUNTER || server.is_configured() || read(server) > 0
        };
        // A family without samples is dropped whole: some parsers refuse an empty one.
        if !servers.iter().any(|server| is_there(&server)) {
            continue;
        }
        header(out, name, kind, help)?;
        for server in servers.iter().filter(is_there) {
            writeln!(out, "{name}{{server_id=\"{}\"}} {}", Escaped(server.name()), read(server))?;
        }
    }
    if let Some(fleet) = &*metrics.fleet.load() {
        super::fleet::render(fleet, out)?;
    }
    super::fleet::counters(&servers, out)?;
    if let Some(store) = metrics.store.get() {
        super::store::render(store, out)?;
    }
    rejections(metrics, out)?;
    node(metrics, out)
}

fn calls(metrics: &Metrics, out: &mut String) -> fmt::Result {
    let servers = metrics.servers();
    let totals: Vec<(&str, Method, MethodTotals)> = servers
        .iter()
        .flat_map(|server| {
            Method::ALL.iter().filter_map(move |&method| {
                Some((server.name(), method, server.calls.method(method)?))
            })
        })
        .collect();
    if totals.is_empty() {
        return Ok(());
    }

    let name = "mcp_request_duration_seconds";
    header(out, name, "histogram", "Time from a call's receipt to the end of its answer.")?;
    for (server, method, totals) in &totals {
        for status in Status::ALL {
            let labels = format!(
                "method=\"{}\",server_id=\"{}\",status=\"{}\"",
                method.label(),
                Escaped(server),
                status.label()
            );
            histogram(out, name, &labels, &totals.durations[status as usize])?;
        }
    }

    let name = "mcp_errors_total";
    let mut begun = false;
    for (server, method, totals) in &totals {
        for outcome in CallOutcome::ALL.into_iter().filter(|outcome| outcome.is_error()) {
            let n = totals.outcomes[outcome as usize];
            if n == 0 {
                continue;
            }
            if !begun {
                header(out, name, COUNTER, "Calls that ended in an error.")?;
                begun = true;
            }
            writeln!(
                out,
                "{name}{{method=\"{}\",server_id=\"{}\",error_type=\"{}\"}} {n}",
                method.label(),
                Escaped(server),
                outcome.label()
            )?;
        }
    }
    Ok(())
}

fn histogram(out: &mut String, name: &str, labels: &str, h: &HistogramTotals) -> fmt::Result {
    let count: u64 = h.buckets.iter().sum();
    if count == 0 {
        return Ok(());
    }
    let mut below = 0;
    for (bound, n) in BOUND_LABELS.iter().zip(&h.buckets[..BOUNDS_MICROS.len()]) {
        below += n;
        writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}")?;
    }
    // The count is the sum of the very buckets written above, so a call that ends during the scrape
    // cannot make the last bucket and the count differ.
    writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}")?;
    writeln!(out, "{name}_sum{{{labels}}} {}", h.sum_micros as f64 / 1e6)?;
    writeln!(out, "{name}_count{{{labels}}} {count}")
}

fn rejections(metrics: &Metrics, out: &mut String) -> fmt::Result {
    let name = "holdfast_rejected_total";
    let mut begun = false;
    for why in Rejection::ALL {
        let n = metrics.rejections(why);
        if n == 0 {
            continue;
        }
        if !begun {
            header(out, name, COUNTER, "Requests refused before they became a call.")?;
            begun = true;
        }
        writeln!(out, "{name}{{reason=\"{}\"}} {n}", why.label())?;
    }
    Ok(())
}

fn node(metrics: &Metrics, out: &mut String) -> fmt::Result {
    header(out, "holdfast_build_info", GAUGE, "Always 1; the label says the version.")?;
    writeln!(out, "holdfast_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"))?;
    header(out, "holdfast_uptime_seconds", GAUGE, "Time since the node started.")?;
    writeln!(out, "holdfast_uptime_seconds {:.3}", metrics.uptime().as_secs_f64())?;
    if let Ok(started) = metrics.started().duration_since(UNIX_EPOCH) {
        let name = "process_start_time_seconds";
        header(out, name, GAUGE, "Start of the process, seconds since 1970.")?;
        writeln!(out, "{name} {:.3}", started.as_secs_f64())?;
    }

    let usage = ProcessUsage::read();
    if let Some(seconds) = usage.cpu_seconds {
        header(out, "process_cpu_seconds_total", COUNTER, "CPU time used, user and system.")?;
        writeln!(out, "process_cpu_seconds_total {seconds:.6}")?;
    }
    let gauges = [
        ("process_resident_memory_bytes", "Resident memory.", usage.resident_bytes),
        ("process_open_fds", "Open file descriptors.", usage.open_fds),
        ("process_max_fds", "Most file descriptors that may be open.", usage.max_fds),
        ("process_threads", "Threads.", usage.threads),
    ];
    for (name, help, value) in gauges {
        let Some(value) = value else { continue };
        header(out, name, GAUGE, help)?;
        writeln!(out, "{name} {value}")?;
    }
    Ok(())
}

pub(super) fn header(out: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

/// A label value with the three characters escaped that the format reserves.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}
