//! `holdfast status`: what a running node says about itself, read from its admin port.

use clap::Args;
use holdfast_admin::Client;
use holdfast_admin::api::{GaugedDto, RecentDto, ServerDto, StatusDto};

use super::admin_port::ViewArgs;
use super::output::{span, table};
use super::{Outcome, nodes};

#[derive(Args)]
pub(crate) struct Status {
    #[command(flatten)]
    view: ViewArgs,
}

impl Status {
    pub(crate) fn run(&self) -> Outcome {
        let ask = async |client: &Client| client.status().await;
        self.view.present(ask, page)
    }
}

fn page(status: &StatusDto) -> String {
    let node = &status.node;
    let mut text = format!(
        "{} (holdfast {}, pid {}): {}, up {}\n{}\n\n",
        node.id,
        node.version,
        node.pid,
        status.verdict.state,
        span(node.uptime_s),
        status.verdict.text
    );
    let usage = &status.usage;
    for (name, gauged) in [
        ("connections", usage.connections),
        ("sessions", usage.sessions),
        ("streams", usage.streams),
        ("calls", usage.in_flight),
    ] {
        text.push_str(&format!("{name:<13}{}\n", gauge(gauged)));
    }
    for listener in &status.listeners {
        let scheme = if listener.tls { "https" } else { "http" };
        let closed = if listener.accepting { "" } else { " (accepts nothing)" };
        let name = format!("{} port", listener.name);
        text.push_str(&format!("{name:<13}{scheme}://{}{closed}\n", listener.address));
    }
    if let Some(cluster) = &status.cluster {
        text.push_str(&format!("cluster      {}\n", nodes::summary(cluster)));
    }
    text.push_str(&format!("last minute  {}\n\n", recent(&status.recent)));

    let heading =
        ["SERVER", "STATE", "TRANSPORT", "SESSIONS", "CALLS/S", "GOOD", "P50", "P99", "TOTAL"];
    let rows: Vec<Vec<String>> = status.servers.iter().map(row).collect();
    text.push_str(&table(&heading, &rows));
    for server in &status.servers {
        if let Some(reason) = &server.reason {
            text.push_str(&format!("\n{}: {reason}", server.name));
        }
        if let Some(error) = &server.last_error {
            let ago = span(error.age_s);
            text.push_str(&format!("\n{}: last error {ago} ago: {}", server.name, error.text));
        }
    }
    for check in status.checks.iter().filter(|check| !check.ok) {
        let detail = check.detail.as_deref().unwrap_or("no detail");
        text.push_str(&format!("\ncheck {} failed: {detail}", check.name));
    }
    text
}

fn row(server: &ServerDto) -> Vec<String> {
    let recent = &server.recent;
    vec![
        server.name.clone(),
        server.state.clone(),
        server.transport.clone(),
        server.sessions.to_string(),
        format!("{:.1}", recent.rate),
        recent.success.map_or_else(|| "-".into(), percent),
        millis(recent.p50_ms),
        millis(recent.p99_ms),
        server.total.calls.to_string(),
    ]
}

fn recent(recent: &RecentDto) -> String {
    match recent.success {
        None => "no calls".into(),
        Some(good) => format!(
            "{} calls, {} good, half within {}, 99 of 100 within {}",
            recent.calls,
            percent(good),
            millis(recent.p50_ms),
            millis(recent.p99_ms)
        ),
    }
}

fn gauge(gauged: GaugedDto) -> String {
    format!("{} of {}", gauged.now, gauged.limit)
}

/// Never rounded up to 100 %: one failure in a million is still one.
fn percent(share: f64) -> String {
    format!("{:.1}%", (share * 1000.0).floor() / 10.0)
}

fn millis(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(ms) if ms < 10.0 => format!("{ms:.1}ms"),
        Some(ms) if ms < 1000.0 => format!("{ms:.0}ms"),
        Some(ms) => format!("{:.1}s", ms / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(percent(0.999_999), "99.9%");
        assert_eq!(percent(1.0), "100.0%");
        assert_eq!(millis(Some(0.25)), "0.2ms");
        assert_eq!(millis(Some(1500.0)), "1.5s");
        assert_eq!(millis(None), "-");
    }
}
