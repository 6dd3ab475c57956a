//! Servers that name other servers: those must be there, and none may need itself.

use std::collections::BTreeSet;

use holdfast_engine::cascade::DependencyGraph;

use crate::Config;
use crate::context::Context;
use crate::nearest::nearest;

/// Reports names of servers that are none, and dependencies that go in a circle.
pub(super) fn check(config: &Config, context: &Context<'_>) {
    let mut edges = Vec::new();
    for (name, server) in &config.servers {
        for (n, needed) in server.depends_on.iter().enumerate() {
            let key = format!("servers.{name}.depends_on[{n}]");
            if needed == name {
                context.report(
                    &key,
                    format!("{name} depends on itself"),
                    "the names of other servers",
                    "remove it",
                );
            } else if is_there(needed, config, context, &key) {
                edges.push((name.as_str(), needed.as_str()));
            }
        }
        if let Some(other) = &server.fallback.server {
            let key = format!("servers.{name}.fallback.server");
            if other == name {
                context.report(
                    &key,
                    format!("{name} stands in for itself"),
                    "the name of another server",
                    "name another server, or remove it",
                );
            } else {
                is_there(other, config, context, &key);
            }
        }
    }
    cycles(edges, context);
}

/// Whether a server of this name is configured; its own problems may have kept it out.
fn is_there(name: &str, config: &Config, context: &Context<'_>, key: &str) -> bool {
    if config.servers.contains_key(name) {
        return true;
    }
    let written = ["servers", "mcpServers"]
        .iter()
        .any(|section| context.is_given(&format!("{section}.{name}")));
    if !written {
        let names: Vec<&str> = config.servers.keys().map(String::as_str).collect();
        let cure = match nearest(name, &names) {
            Some(near) => format!("did you mean {near}?"),
            None => "name a server of this file, or add that one".to_owned(),
        };
        let found = format!("there is no server {}", crate::field::quoted(name));
        context.report(key, found, &names.join(", "), &cure);
    }
    false
}

/// One problem for every circle, at the first of its servers.
fn cycles(mut edges: Vec<(&str, &str)>, context: &Context<'_>) {
    let mut seen = BTreeSet::new();
    while let Err(cycle) = DependencyGraph::try_new(edges.iter().copied()) {
        // Written from the least name on, so that the same circle is always said alike.
        let mut names = cycle.0;
        let least = names.iter().enumerate().min_by_key(|(_, name)| **name).map_or(0, |(n, _)| n);
        names.rotate_left(least);
        let (Some(first), Some(last)) = (names.first().copied(), names.last().copied()) else {
            return;
        };
        if seen.insert(names.clone()) {
            context.report(
                &format!("servers.{first}.depends_on"),
                format!(
                    "servers depend on one another in a circle: {} → {first}",
                    names.join(" → ")
                ),
                "dependencies without a circle",
                &format!("remove one of them: what does {last} need {first} for?"),
            );
        }
        edges.retain(|edge| *edge != (last, first));
    }
}
