//! `holdfast check-config`: what `serve` would find, without starting anything.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use holdfast_config::{Config, Problems, Server, Transport};
use serde_json::{Value, json};

use super::output::{say, say_json, table};
use super::{ConfigArgs, Format, Outcome, OutputArgs, config_file};

#[derive(Args)]
pub(crate) struct CheckConfig {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl CheckConfig {
    pub(crate) fn run(&self) -> Outcome {
        let path = config_file::find(&self.config)?;
        let loaded = config_file::checked(&path).map(|file| file.config);
        match (self.output.output, &loaded) {
            (Format::Table, Ok(config)) => say(&summary(&path, config))?,
            (Format::Table, Err(problems)) => say(&problems.to_string())?,
            (Format::Json, Ok(config)) => say_json(&good(&path, config))?,
            (Format::Json, Err(problems)) => say_json(&bad(problems))?,
        }
        Ok(if loaded.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(2) })
    }
}

fn summary(path: &Path, config: &Config) -> String {
    let mut text = format!("{}: no problems\n\n", path.display());
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<10}{value}\n"));
    line("node", config.node.id.clone());
    line("clients", listener(config.listen.address, config.listen.tls.is_some()));
    line("operator", listener(config.admin.address, config.admin.tls.is_some()));
    if let Some(cluster) = &config.cluster {
        let nodes: Vec<&str> = cluster.nodes.keys().map(String::as_str).collect();
        line("cluster", format!("{}; this one listens on {}", nodes.join(", "), cluster.listen));
    }
    line("keys", keys(config));
    let rows: Vec<Vec<String>> = config
        .servers
        .iter()
        .map(|(name, server)| {
            let label = server.transport.label().to_owned();
            vec![name.clone(), label, targets(&server.transport).join(", ")]
        })
        .collect();
    text.push('\n');
    text.push_str(&table(&["SERVER", "TRANSPORT", "TARGET"], &rows));
    for (at, notice) in config.notices.iter().enumerate() {
        let gap = if at == 0 { "\n" } else { "" };
        text.push_str(&format!("{gap}\nnotice: {notice}"));
    }
    text
}

fn listener(address: std::net::SocketAddr, tls: bool) -> String {
    format!("{}://{address}", if tls { "https" } else { "http" })
}

fn keys(config: &Config) -> String {
    let keys = &config.auth.keys;
    if keys.is_empty() {
        return "none: every client is one anonymous principal".into();
    }
    let principals: std::collections::BTreeSet<_> = keys.iter().map(|key| &key.principal).collect();
    let many =
        |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    format!("{} of {}", many(keys.len(), "key"), many(principals.len(), "principal"))
}

/// Addresses without their query and commands without their arguments: both may hold secrets.
fn targets(transport: &Transport) -> Vec<String> {
    let bare = |url: &str| url.split('?').next().unwrap_or_default().to_owned();
    match transport {
        Transport::Http { instances } => {
            instances.iter().map(|instance| bare(&instance.url.to_string())).collect()
        }
        Transport::Sse { url } => vec![bare(&url.to_string())],
        Transport::WebSocket { url } => vec![bare(&url.websocket())],
        Transport::Stdio(stdio) => vec![stdio.command.clone()],
    }
}

fn good(path: &Path, config: &Config) -> Value {
    let server = |server: &Server| {
        json!({
            "transport": server.transport.label(),
            "targets": targets(&server.transport),
        })
    };
    let servers: serde_json::Map<String, Value> =
        config.servers.iter().map(|(name, it)| (name.clone(), server(it))).collect();
    json!({
        "ok": true,
        "file": path.display().to_string(),
        "node": config.node.id,
        "listen": config.listen.address.to_string(),
        "admin": config.admin.address.to_string(),
        "cluster": config.cluster.as_ref().map(|cluster| json!({
            "nodes": cluster.nodes,
            "listen": cluster.listen.to_string(),
        })),
        "servers": servers,
        "notices": config.notices,
    })
}

fn bad(problems: &Problems) -> Value {
    let list: Vec<Value> = problems
        .list
        .iter()
        .map(|problem| {
            let (line, column) = problem.position().unzip();
            json!({
                "location": problem.location(&problems.origin),
                "line": line,
                "column": column,
                "key": problem.key,
                "found": problem.found,
                "allowed": problem.allowed,
                "cure": problem.cure,
            })
        })
        .collect();
    json!({ "ok": false, "file": problems.origin, "problems": list })
}
