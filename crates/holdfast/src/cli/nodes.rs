//! `holdfast nodes`: the nodes of a cluster, as the one that is asked sees them.

use std::time::Duration;

use clap::Args;
use holdfast_admin::Client;
use holdfast_admin::api::{NodeEntryDto, NodesDto};

use super::Outcome;
use super::admin_port::ViewArgs;
use super::config::runs;
use super::output::{many, span, table};
use super::reload::brief;

#[derive(Args)]
pub(crate) struct Nodes {
    #[command(flatten)]
    view: ViewArgs,
}

impl Nodes {
    pub(crate) fn run(&self) -> Outcome {
        let ask = async |client: &Client| client.nodes().await;
        self.view.present(ask, page)
    }
}

/// One line about the whole; `status` has it too.
pub(crate) fn summary(nodes: &NodesDto) -> String {
    if !nodes.clustered {
        return format!("{} runs alone: there is no cluster", nodes.me);
    }
    let term = nodes.term.map(|term| format!(" (term {term})")).unwrap_or_default();
    let all = many(nodes.nodes.len() as u64, "node");
    if nodes.quorum == Some(false) {
        // Their states are what the group knew last.
        let heard = nodes.nodes.iter().filter(|node| is_heard(node, nodes)).count();
        return format!(
            "{heard} of {all} heard of; no quorum: nothing can be decided until a majority is there{term}"
        );
    }
    let ready = nodes.nodes.iter().filter(|node| node.state == "ready").count();
    let lead = match &nodes.leader {
        Some(leader) => format!("{leader} is the coordinator"),
        None => "no coordinator is known".to_owned(),
    };
    format!("{ready} of {all} ready; {lead}{term}")
}

/// Whether the node that was asked is this one, or has heard of it lately.
fn is_heard(node: &NodeEntryDto, nodes: &NodesDto) -> bool {
    node.name == nodes.me || node.last_heard_ms.is_some_and(|ms| ms < LATELY)
}

/// Nodes tell one another several times a second that they live; in milliseconds.
const LATELY: u64 = 5_000;

fn page(nodes: &NodesDto) -> String {
    let heading = if nodes.clustered {
        &[
            "NODE",
            "ROLE",
            "STATE",
            "HEALTH",
            "TERM",
            "GENERATION",
            "LAG",
            "HEARD",
            "SESSIONS",
            "CALLS",
        ][..]
    } else {
        &["NODE", "STATE", "HEALTH", "SESSIONS", "CALLS"][..]
    };
    let heading: Vec<&str> =
        heading.iter().copied().chain(["CONFIG", "VERSION", "CLIENTS"]).collect();
    let rows: Vec<Vec<String>> = nodes.nodes.iter().map(|node| row(node, nodes)).collect();
    let mut text = format!("{}\n\n{}", summary(nodes), table(&heading, &rows));
    if nodes.clustered {
        text.push_str(&format!("\n\n* {} was asked; the others as it sees them", nodes.me));
    }
    let said = nodes.nodes.iter().filter_map(|node| brief(node.configuration.as_ref()?));
    for (at, line) in said.enumerate() {
        text.push_str(if at == 0 { "\n\n" } else { "\n" });
        text.push_str(&line);
    }
    text
}

fn row(node: &NodeEntryDto, nodes: &NodesDto) -> Vec<String> {
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let text = |value: &str| if value.is_empty() { "-".to_owned() } else { value.to_owned() };
    let mine = if nodes.clustered && node.name == nodes.me { "*" } else { "" };
    let mut row = vec![format!("{}{mine}", node.name)];
    if nodes.clustered {
        row.push(if node.role == "unknown" { "-".to_owned() } else { node.role.clone() });
    }
    let is_known = nodes.quorum != Some(false) || node.state != "ready" || is_heard(node, nodes);
    row.push(if is_known { node.state.clone() } else { "unheard".to_owned() });
    row.push(node.health.clone().unwrap_or_else(|| "-".to_owned()));
    if nodes.clustered {
        row.push(number(node.term));
        row.push(if node.generation == 0 { "-".into() } else { node.generation.to_string() });
        row.push(number(node.commit_lag));
        row.push(node.last_heard_ms.map_or_else(|| "-".to_owned(), heard));
    }
    row.extend([number(node.sessions), number(node.in_flight)]);
    let configuration = node.configuration.as_ref().map_or_else(|| "-".to_owned(), runs);
    row.extend([configuration, text(&node.version), text(&node.client)]);
    row
}

fn heard(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms}ms"),
        _ => span(Duration::from_millis(ms).as_secs()),
    }
}
