//! From what a node knows of its cluster to what the API says of it.

use std::collections::BTreeMap;

use holdfast_proxy::report::Report;

use crate::api::{ConfigNodeDto, NodeEntryDto, NodesDto};
use crate::cluster::{ClusterView, NodeView, Role, state_label};

/// The nodes of a cluster.
pub(crate) fn together(view: &ClusterView) -> NodesDto {
    NodesDto {
        clustered: true,
        me: view.me.clone(),
        quorum: Some(view.has_quorum),
        leader: view.leader.clone(),
        term: Some(view.term),
        nodes: view.nodes.iter().map(entry).collect(),
    }
}

/// A node that runs alone.
pub(crate) fn alone(report: &Report) -> NodesDto {
    let usage = &report.usage;
    let listener = |name| {
        let found = report.listeners.iter().find(|listener| listener.name == name);
        found.map(|listener| listener.address.clone()).unwrap_or_default()
    };
    let node = NodeEntryDto {
        name: report.node.clone(),
        id: None,
        role: "alone".to_owned(),
        state: report.state.label().to_owned(),
        term: None,
        generation: 1,
        commit_lag: None,
        last_heard_ms: Some(0),
        sessions: Some(usage.sessions.now as u64),
        in_flight: Some(usage.in_flight.now as u64),
        health: Some(report.level.label().to_owned()),
        version: report.version.clone(),
        client: listener("client"),
        admin: listener("admin"),
        configuration: None,
    };
    NodesDto {
        clustered: false,
        me: report.node.clone(),
        quorum: None,
        leader: None,
        term: None,
        nodes: vec![node],
    }
}

/// Adds which version of the configuration each of them runs.
pub(crate) fn add_configurations(nodes: &mut NodesDto, of: Vec<ConfigNodeDto>) {
    let mut of: BTreeMap<String, ConfigNodeDto> =
        of.into_iter().map(|it| (it.node.clone(), it)).collect();
    for node in &mut nodes.nodes {
        node.configuration = of.remove(&node.name);
    }
}

fn entry(node: &NodeView) -> NodeEntryDto {
    NodeEntryDto {
        name: node.name.clone(),
        id: node.id.map(|id| format!("{id:016x}")),
        role: node.role.map_or("unknown", Role::label).to_owned(),
        state: node.state.map_or("absent", state_label).to_owned(),
        term: node.term,
        generation: node.generation,
        commit_lag: node.commit_lag,
        last_heard_ms: node
            .last_heard
            .map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
        sessions: node.load.map(|load| load.sessions),
        in_flight: node.load.map(|load| load.in_flight),
        health: node.load.and_then(|load| load.level).map(|level| level.label().to_owned()),
        version: node.version.clone(),
        client: node.client.clone(),
        admin: node.admin.clone(),
        configuration: None,
    }
}
