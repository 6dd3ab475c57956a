//! What the control plane counts, in the Prometheus text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_engine::health::node::Finding;

use crate::operate::{IncidentView, InstanceView, ServerView};
use crate::view::UNMEASURED;

/// The counters of one node's control plane.
#[derive(Default, Debug)]
pub(crate) struct Metrics {
    turns: Mutex<BTreeMap<&'static str, Turns>>,
    announced: [AtomicU64; 2],
}

/// What became of an announcement to a webhook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Announced {
    /// The receiver has it.
    Taken,
    /// It did not take it, however often it was tried.
    GivenUp,
}

/// How often one task has run.
#[derive(Clone, Default, Debug)]
pub(crate) struct Turns(Arc<[AtomicU64; 2]>);

// === impl Turns ===

impl Turns {
    pub(crate) fn settled(&self) {
        self.0[0].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.0[1].fetch_add(1, Ordering::Relaxed);
    }

    /// Settled and failed turns.
    pub(crate) fn read(&self) -> (u64, u64) {
        (self.0[0].load(Ordering::Relaxed), self.0[1].load(Ordering::Relaxed))
    }
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn turns(&self, task: &'static str) -> Turns {
        self.book().entry(task).or_default().clone()
    }

    pub(crate) fn announced(&self, what: Announced) {
        self.announced[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn book(&self) -> MutexGuard<'_, BTreeMap<&'static str, Turns>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends what is counted here.
    pub(crate) fn render(&self, out: &mut String) {
        let name = "holdfast_control_turns_total";
        head(out, name, "counter", "Turns of the control plane's tasks, by how they ended.");
        for (task, turns) in self.book().iter() {
            let (settled, failed) = turns.read();
            for (outcome, count) in [("settled", settled), ("failed", failed)] {
                let _ = writeln!(out, "{name}{{task=\"{task}\",outcome=\"{outcome}\"}} {count}");
            }
        }
        let name = "holdfast_control_webhooks_total";
        head(out, name, "counter", "Announcements to webhooks, by what became of them.");
        for (outcome, what) in [("taken", Announced::Taken), ("given_up", Announced::GivenUp)] {
            let count = self.announced[what as usize].load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}{{outcome=\"{outcome}\"}} {count}");
        }
    }
}

/// Appends what was found of the node itself.
pub(crate) fn render_node(findings: &[Finding], aside: bool, out: &mut String) {
    let name = "holdfast_control_node_reading";
    head(out, name, "gauge", "What was last read of the node: shares 0 to 1, ms, numbers, days.");
    for it in findings {
        let _ = writeln!(out, "{name}{{reading=\"{}\"}} {}", it.reading.label(), it.value);
    }
    let name = "holdfast_control_node_level";
    head(out, name, "gauge", "0 normal, 1 warning, 2 critical, 3 emergency.");
    for it in findings {
        let _ = writeln!(out, "{name}{{reading=\"{}\"}} {}", it.reading.label(), it.level as u8);
    }
    let name = "holdfast_control_node_aside";
    head(out, name, "gauge", "Whether the node takes no new traffic because it is about to fail.");
    let _ = writeln!(out, "{name} {}", u64::from(aside));
}

/// Appends what is known of the servers.
pub(crate) fn render_servers(servers: &[ServerView], out: &mut String) {
    let name = "mcp_server_health";
    head(out, name, "gauge", "The score of a server's best instance that serves, 0 to 1.");
    for server in servers {
        let serving = |it: &&InstanceView| server.active.as_ref().is_none_or(|id| *id == it.id);
        let scores = server.instances.iter().filter(serving).filter_map(|it| it.score);
        if let Some(best) = scores.reduce(f64::max) {
            let _ = writeln!(out, "{name}{{server_id=\"{}\"}} {best}", server.name);
        }
    }
    let name = "holdfast_control_instance_health";
    head(out, name, "gauge", "What this node's checks of an instance come to, 0 to 1.");
    each(servers, |server, it| {
        if let Some(score) = it.score {
            let _ = writeln!(out, "{name}{{{}}} {score}", labels(server, it));
        }
    });
    let name = "holdfast_control_instance_verdict";
    head(
        out,
        name,
        "gauge",
        "The group's verdict: 0 healthy, 1 degraded, 2 unhealthy, -1 unknown.",
    );
    each(servers, |server, it| {
        let value = match it.verdict {
            "healthy" => 0,
            "degraded" => 1,
            "unhealthy" => 2,
            _ => -1,
        };
        let _ = writeln!(out, "{name}{{{}}} {value}", labels(server, it));
    });
    let name = "holdfast_control_instance_active";
    head(out, name, "gauge", "Whether a server that can move is on this instance.");
    for server in servers.iter().filter(|server| server.active.is_some()) {
        for it in &server.instances {
            let active = u64::from(server.active.as_ref() == Some(&it.id));
            let _ = writeln!(out, "{name}{{{}}} {active}", labels(server, it));
        }
    }
    let name = "holdfast_control_failover_generation";
    head(out, name, "gauge", "How often a server has begun to move.");
    for server in servers.iter().filter(|server| server.active.is_some()) {
        let _ = writeln!(out, "{name}{{server=\"{}\"}} {}", server.name, server.generation);
    }
}

/// Appends what is known of outages.
pub(crate) fn render_incidents(incidents: &[IncidentView], out: &mut String) {
    let name = "holdfast_control_incidents";
    head(out, name, "gauge", "Outages in the group's record, by what became of the objective.");
    for objective in ["kept", "missed", "open"] {
        let count = incidents.iter().filter(|it| it.objective == objective).count();
        let _ = writeln!(out, "{name}{{objective=\"{objective}\"}} {count}");
    }
    let name = "holdfast_control_failovers";
    head(
        out,
        name,
        "gauge",
        "Failovers in the group's record, by what became of their tier's time.",
    );
    for tier in ["kept", "missed", "open"] {
        let count = incidents.iter().filter(|it| it.tier == tier).count();
        let _ = writeln!(out, "{name}{{tier=\"{tier}\"}} {count}");
    }
    let name = "holdfast_control_incidents_in_doubt";
    head(out, name, "gauge", "Outages in the group's record, by what became of the RPO.");
    for rpo in ["kept", "missed", "open", UNMEASURED] {
        let count = incidents.iter().filter(|it| it.rpo == rpo).count();
        let _ = writeln!(out, "{name}{{rpo=\"{rpo}\"}} {count}");
    }
    let name = "holdfast_control_incident_writes_in_doubt";
    head(out, name, "gauge", "Writes of those outages of which nobody knows whether they ran.");
    let sum = |of: fn(&IncidentView) -> u32| -> u64 {
        incidents.iter().map(|it| u64::from(of(it))).sum()
    };
    let _ = writeln!(out, "{name} {}", sum(|it| it.unknown_writes));
    let name = "holdfast_control_incident_sessions_moved";
    head(out, name, "gauge", "Sessions that left an instance in them, without their state there.");
    let _ = writeln!(out, "{name} {}", sum(|it| it.sessions_moved));
    let name = "holdfast_control_incident_longest_seconds";
    head(out, name, "gauge", "The longest recovery in the group's record.");
    let longest = incidents.iter().filter_map(|it| it.recovered_ms).max().unwrap_or(0);
    let _ = writeln!(out, "{name} {}", longest as f64 / 1e3);
}

/// Whether all nodes read what this one can write.
pub(crate) fn render_reads(all: bool, out: &mut String) {
    let name = "holdfast_control_all_read";
    head(
        out,
        name,
        "gauge",
        "1 if every node is known to read everything that this one can write.",
    );
    let _ = writeln!(out, "{name} {}", u8::from(all));
}

fn each(servers: &[ServerView], mut write: impl FnMut(&ServerView, &InstanceView)) {
    for server in servers {
        for instance in &server.instances {
            write(server, instance);
        }
    }
}

fn labels(server: &ServerView, instance: &InstanceView) -> String {
    format!("server=\"{}\",instance=\"{}\"", server.name, instance.id)
}

pub(crate) fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use holdfast_engine::health::node::{Level, Reading};

    use super::*;

    #[test]
    fn the_documentation_names_what_is_rendered_and_no_more() {
        let instance = InstanceView {
            id: "a".into(),
            verdict: "degraded",
            score: Some(0.75),
            ..InstanceView::default()
        };
        let server = ServerView {
            name: "docs".into(),
            active: Some("a".into()),
            generation: 3,
            instances: vec![instance],
            ..ServerView::default()
        };
        let incident = IncidentView {
            server: "docs".into(),
            instance: "a".into(),
            began: 1,
            detected_ms: 10,
            decided_ms: None,
            switched_ms: None,
            recovered_ms: Some(1_500),
            rto_ms: 30_000,
            objective: "kept",
            tier_ms: Some(1_000),
            tier: "missed",
            unknown_writes: 2,
            in_doubt_ms: 700,
            rpo_ms: 0,
            rpo: "missed",
            sessions_moved: 9,
        };
        let metrics = Metrics::default();
        metrics.turns("probe").failed();
        metrics.announced(Announced::GivenUp);
        let mut text = String::new();
        metrics.render(&mut text);
        let disk = Finding { reading: Reading::Disk, value: 0.92, level: Level::Critical };
        render_node(&[disk], true, &mut text);
        render_reads(true, &mut text);
        render_servers(&[server], &mut text);
        render_incidents(&[incident], &mut text);
        for line in [
            "mcp_server_health{server_id=\"docs\"} 0.75",
            "holdfast_control_instance_verdict{server=\"docs\",instance=\"a\"} 1",
            "holdfast_control_instance_active{server=\"docs\",instance=\"a\"} 1",
            "holdfast_control_failover_generation{server=\"docs\"} 3",
            "holdfast_control_incidents{objective=\"kept\"} 1",
            "holdfast_control_failovers{tier=\"missed\"} 1",
            "holdfast_control_incident_longest_seconds 1.5",
            "holdfast_control_incidents_in_doubt{rpo=\"missed\"} 1",
            "holdfast_control_incident_writes_in_doubt 2",
            "holdfast_control_incident_sessions_moved 9",
            "holdfast_control_turns_total{task=\"probe\",outcome=\"failed\"} 1",
            "holdfast_control_webhooks_total{outcome=\"given_up\"} 1",
            "holdfast_control_node_reading{reading=\"disk\"} 0.92",
            "holdfast_control_node_level{reading=\"disk\"} 2",
            "holdfast_control_node_aside 1",
            "holdfast_control_all_read 1",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
        }
        let rendered: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        let docs = std::fs::read_to_string(path).unwrap();
        let documented: BTreeSet<&str> = docs
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next())
            .filter(|it| it.starts_with("holdfast_control_") || *it == "mcp_server_health")
            .collect();
        assert_eq!(documented, rendered);
    }
}
