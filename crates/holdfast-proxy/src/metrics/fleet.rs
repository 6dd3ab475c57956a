//! The servers and their instances in the Prometheus text: breakers, health, what is under way.
//!
//! Labels are names of the configuration and fixed words.

use std::fmt::{self, Write};
use std::sync::Arc;

use holdfast_config::BulkheadClass;
use holdfast_engine::breaker::Phase;
use holdfast_engine::limits::bulkhead::ClassStatus;

use super::ServerMetrics;
use super::render::{COUNTER, Escaped, GAUGE, header};
use crate::fleet::{Counts, Fleet, InstanceSnapshot, ServerSnapshot};

/// A family that is one number per instance.
type InstanceFamily = (&'static str, &'static str, fn(&InstanceSnapshot) -> f64);

/// One number per class of a server.
type ClassFamily = (&'static str, &'static str, fn(&ClassStatus) -> u32);
/// One number per server.
type ServerFamily = (&'static str, &'static str, fn(&ServerMetrics) -> u64);

#[rustfmt::skip]
const INSTANCE: &[InstanceFamily] = &[
    ("holdfast_instance_health", "How well an instance is, 0 to 1; 0 while it cannot be called.", InstanceSnapshot::score),
    ("holdfast_instance_in_flight", "Attempts that are under way at an instance.", |it| f64::from(it.in_flight)),
    ("holdfast_instance_unreachable", "1 while an instance refuses connections.", |it| f64::from(u8::from(it.away_for.is_some()))),
    ("holdfast_breaker_share", "The share of calls that an instance's breaker lets pass, 0 to 1.", |it| f64::from(it.breaker.share) / 1000.0),
];

pub(super) fn render(fleet: &Fleet, out: &mut String) -> fmt::Result {
    let servers = fleet.snapshot();
    if servers.is_empty() {
        return Ok(());
    }
    for &(name, help, read) in INSTANCE {
        header(out, name, GAUGE, help)?;
        for (server, it) in each(&servers) {
            writeln!(out, "{name}{{{}}} {}", Labels(server, it), read(it))?;
        }
    }
    let name = "holdfast_breaker_state";
    header(out, name, GAUGE, "1 for the state that an instance's breaker is in, or a tool's own.")?;
    for (server, it) in each(&servers) {
        for phase in Phase::ALL {
            let is = u8::from(it.breaker.phase == phase);
            let labels = Labels(server, it);
            writeln!(out, "{name}{{{labels},state=\"{}\"}} {is}", phase.label())?;
        }
    }
    for server in &servers {
        let id = Escaped(&server.name);
        // Those that the configuration names: no call brings a label.
        for (tool, breaker) in &server.tools {
            for phase in Phase::ALL {
                let (is, tool) = (u8::from(breaker.phase == phase), Escaped(tool));
                let state = phase.label();
                writeln!(
                    out,
                    "{name}{{server_id=\"{id}\",tool=\"{tool}\",state=\"{state}\"}} {is}"
                )?;
            }
        }
    }
    let name = "holdfast_pool_waiting";
    header(out, name, GAUGE, "Calls of a server that wait for a connection.")?;
    for server in &servers {
        let (id, waiting) = (Escaped(&server.name), server.waiting);
        writeln!(out, "{name}{{server_id=\"{id}\"}} {waiting}")?;
    }
    let name = "holdfast_server_measure";
    let help = "What a server's health calls for: 0 nothing, 1 watch, 2 degrade, 3 fail over, 4 emergency.";
    header(out, name, GAUGE, help)?;
    for server in &servers {
        let (id, value) = (Escaped(&server.name), server.measure as u8);
        writeln!(out, "{name}{{server_id=\"{id}\"}} {value}")?;
    }
    classes(&servers, out)
}

fn each(servers: &[ServerSnapshot]) -> impl Iterator<Item = (&ServerSnapshot, &InstanceSnapshot)> {
    servers.iter().flat_map(|server| server.instances.iter().map(move |it| (server, it)))
}

fn classes(servers: &[ServerSnapshot], out: &mut String) -> fmt::Result {
    let families: [ClassFamily; 3] = [
        ("holdfast_bulkhead_running", "Calls of a class that run.", |it| it.running),
        ("holdfast_bulkhead_quarantined", "Tools that fill a class and are limited.", |it| {
            it.quarantined
        }),
        ("holdfast_bulkhead_waiting", "Calls of a class that wait.", |it| it.waiting),
    ];
    for (name, help, read) in families {
        header(out, name, GAUGE, help)?;
        for server in servers {
            for class in BulkheadClass::ALL {
                let (id, label) = (Escaped(&server.name), class.label());
                let status = server.classes.iter().find(|(it, _)| *it == class);
                let value = status.map_or(0, |(_, status)| read(status));
                writeln!(out, "{name}{{server_id=\"{id}\",class=\"{label}\"}} {value}")?;
            }
        }
    }
    Ok(())
}

/// What was counted of every server that there has been.
pub(super) fn counters(servers: &[Arc<ServerMetrics>], out: &mut String) -> fmt::Result {
    if servers.is_empty() {
        return Ok(());
    }
    let plain: [ServerFamily; 2] = [
        (
            "holdfast_repeats_denied_total",
            "Calls that were not repeated because enough others were.",
            |server| server.counts.repeats_denied.get(),
        ),
        ("holdfast_sessions_moved_total", "Sessions that went to another instance.", |server| {
            server.counts.moved.get()
        }),
    ];
    for (name, help, read) in plain {
        header(out, name, COUNTER, help)?;
        for server in servers {
            writeln!(out, "{name}{{server_id=\"{}\"}} {}", Escaped(server.name()), read(server))?;
        }
    }
    let (name, help) = (
        "holdfast_breaker_transitions_total",
        "Changes of a server's breakers, by the state that they went to.",
    );
    counted(servers, (name, help, "to"), Counts::each_turned, out)?;
    let (name, help) =
        ("holdfast_refused_total", "Calls that were refused at their admission; they did not run.");
    counted(servers, (name, help, "reason"), Counts::each_refused, out)?;
    let (name, help) =
        ("holdfast_fallbacks_total", "Reads that something else answered in the server's place.");
    counted(servers, (name, help, "kind"), Counts::each_served, out)?;
    let (name, help) = (
        "holdfast_fallbacks_failed_total",
        "Reads for which the server that stands in was of no help.",
    );
    counted(servers, (name, help, "reason"), Counts::each_in_vain, out)
}

/// A family that counts something of each server by a label of fixed words.
fn counted<'a, I: Iterator<Item = (&'static str, u64)>>(
    servers: &'a [Arc<ServerMetrics>],
    (name, help, label): (&str, &str, &str),
    each: impl Fn(&'a Counts) -> I,
    out: &mut String,
) -> fmt::Result {
    header(out, name, COUNTER, help)?;
    for server in servers {
        for (word, count) in each(&server.counts) {
            let id = Escaped(server.name());
            writeln!(out, "{name}{{server_id=\"{id}\",{label}=\"{word}\"}} {count}")?;
        }
    }
    Ok(())
}

/// Server and instance.
struct Labels<'a>(&'a ServerSnapshot, &'a InstanceSnapshot);

impl fmt::Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(server, it) = self;
        write!(f, "server_id=\"{}\",instance=\"{}\"", Escaped(&server.name), Escaped(&it.id))
    }
}
