//! From what the file and the environment say to a [`Cluster`] whose parts fit together.

use std::time::Duration;

use super::draft::{Draft, Mode};
use super::{Cluster, LEAST_SECRET, PORT, address};
use crate::Config;
use crate::context::Context;
use crate::environment::is_set;
use crate::nearest::nearest;
use crate::problem::Place;
use crate::server::{Objectives, Tier};
use crate::sessions::StoreKind;

/// Makes the node part of a cluster, or leaves it alone, and settles the defaults that depend on
/// it: the store and the servers' tiers.
pub(crate) fn settle(draft: Draft, config: &mut Config, context: &Context<'_>) {
    let named = !draft.nodes.is_empty() || draft.is_doubtful("nodes");
    match draft.mode {
        Some(Mode::Standalone) if named => {
            let notice = "cluster: left out, because HA_MODE is standalone";
            context.notice(notice.into());
            alone(config, context, true);
        }
        Some(Mode::Standalone) => alone(config, context, true),
        None if !named => {
            no_half_cluster(context);
            alone(config, context, false);
        }
        Some(Mode::Cluster) | None => together(draft, config, context),
    }
}

fn alone(config: &mut Config, context: &Context<'_>, standalone: bool) {
    if context.is_given("cluster.failover_timeout") {
        let name = match context.place_of("cluster.failover_timeout") {
            Place::Variable(name) => name,
            Place::File | Place::At { .. } => "cluster.failover_timeout",
        };
        context.notice(format!("{name} has no effect: this node runs alone"));
    }
    match config.sessions.store {
        StoreKind::Replicated if context.is_given("sessions.store") => context.report(
            "sessions.store",
            "replicated, and this node runs alone".into(),
            "memory, or replicated in a cluster",
            "write memory: sessions then end with the process; or name the nodes under \
             cluster.nodes or in HA_CLUSTER_NODES",
        ),
        // The group of nodes is what knows which Redis is the right one.
        StoreKind::Redis => context.report(
            "sessions.store",
            "redis, and this node runs alone".into(),
            "memory, or redis in a cluster",
            if standalone {
                "unset HA_MODE and name this node under cluster.nodes or in HA_CLUSTER_NODES (a \
                 cluster may have one node), or remove it: sessions then end with the process"
            } else {
                "name this node under cluster.nodes or in HA_CLUSTER_NODES (a cluster may have one \
                 node), or remove it: sessions then end with the process"
            },
        ),
        StoreKind::Memory | StoreKind::Replicated => config.sessions.store = StoreKind::Memory,
    }
    for (name, server) in &mut config.servers {
        Objectives::settle(name, server, context);
        if server.tier != Tier::Three && context.is_given(&tier_key(name)) {
            context.notice(format!(
                "{} has no effect: this node runs alone and nothing outlives it",
                tier_key(name)
            ));
        }
        server.tier = Tier::Three;
    }
}

fn together(draft: Draft, config: &mut Config, context: &Context<'_>) {
    let before = context.problem_count();
    let node_id = own_name(&draft, config, context);
    if draft.nodes.is_empty() && !draft.is_doubtful("nodes") {
        context.report(
            "cluster.nodes",
            "HA_MODE is cluster, and no nodes are named".into(),
            "every node and its address",
            &format!("set HA_CLUSTER_NODES=gateway-1=10.0.0.1:{PORT},…, or write cluster.nodes"),
        );
    }
    shared_addresses(&draft, context);
    secret(&draft, config, context);
    data_dir(config, context);
    store(config, context);
    for (name, server) in &mut config.servers {
        if !context.is_given(&tier_key(name)) {
            server.tier = Tier::One;
        }
        Objectives::settle(name, server, context);
    }

    let Some(own) = draft.nodes.get(&node_id).cloned() else {
        if !draft.nodes.is_empty() && !draft.is_doubtful("node_id") && !draft.is_doubtful("nodes") {
            not_among(&node_id, &draft, context);
        }
        return;
    };
    let listen = draft.listen.or_else(|| address::listen_for(&own));
    let (Some(listen), Some(secret)) = (listen, draft.secret) else { return };
    if context.problem_count() > before {
        return;
    }
    let advertise = draft.advertise;
    let reached = advertise.as_deref().unwrap_or(&own);
    if listen.ip().is_loopback() && !address::is_local(reached) {
        context.notice(format!(
            "cluster.listen: {listen} is reached from this machine alone, and the others are told \
             {reached}"
        ));
    }
    size(draft.nodes.len(), context);
    config.node.id.clone_from(&node_id);
    config.node.secret = Some(secret.clone());
    config.cluster = Some(Cluster {
        node_id,
        secret,
        previous_secret: draft.previous_secret,
        nodes: draft.nodes,
        listen,
        advertise,
        failover_timeout: draft.failover_timeout.unwrap_or(Duration::from_secs(1)),
    });
}

/// `cluster.node_id`, else `node.id`; the two must not differ.
fn own_name(draft: &Draft, config: &Config, context: &Context<'_>) -> String {
    let Some(id) = &draft.node_id else { return config.node.id.clone() };
    if context.is_given("node.id") && *id != config.node.id {
        context.report(
            "cluster.node_id",
            format!("{id}, and node.id is {}", config.node.id),
            "one name for one node",
            "remove one of the two, or set HA_NODE_ID in place of both",
        );
    }
    id.clone()
}

fn not_among(node_id: &str, draft: &Draft, context: &Context<'_>) {
    let names: Vec<&str> = draft.nodes.keys().map(String::as_str).collect();
    let cure = match nearest(node_id, &names) {
        Some(near) => format!("did you mean {near}?"),
        None => "set HA_NODE_ID to this node's name, or add it to cluster.nodes".to_owned(),
    };
    // Who chose the name is to blame, else who listed the nodes.
    let key = ["cluster.node_id", "node.id"].into_iter().find(|key| context.is_given(key));
    context.report(
        key.unwrap_or("cluster.nodes"),
        format!("this node is called {node_id}, which is not among the nodes"),
        &names.join(", "),
        &cure,
    );
}

fn shared_addresses(draft: &Draft, context: &Context<'_>) {
    let mut known: Vec<(&String, &String)> = Vec::new();
    for (name, at) in &draft.nodes {
        match known.iter().find(|(_, other)| *other == at) {
            Some((first, _)) => context.report(
                &format!("cluster.nodes.{name}"),
                format!("{at} is the address of {first} already"),
                "an address of its own for every node",
                "write where this node's cluster listener is",
            ),
            None => known.push((name, at)),
        }
    }
}

fn secret(draft: &Draft, config: &Config, context: &Context<'_>) {
    use secrecy::ExposeSecret;
    let Some(secret) = &draft.secret else {
        if !draft.is_doubtful("secret") {
            context.report(
                "cluster.secret",
                "a cluster without a secret".into(),
                &format!("{LEAST_SECRET} characters or more, the same on every node"),
                "set HOLDFAST_CLUSTER_SECRET on every node; make one: openssl rand -hex 32",
            );
        }
        return;
    };
    let differs = config
        .node
        .secret
        .as_ref()
        .is_some_and(|own| own.expose_secret() != secret.expose_secret());
    if differs {
        context.report(
            "node.secret",
            "another secret than the cluster's (neither shown)".into(),
            "the cluster's secret, or nothing",
            "remove node.secret: what one node seals, every other must be able to open",
        );
    }
}

fn data_dir(config: &Config, context: &Context<'_>) {
    if config.node.data_dir.is_some() || context.is_given("node.data_dir") {
        return;
    }
    context.report(
        "node.data_dir",
        "a node of a cluster without a data directory".into(),
        "a directory of this node's own that outlives a restart",
        "set HOLDFAST_DATA_DIR: the node's vote and log must survive a restart, or it could vote \
         twice and forget what it acknowledged",
    );
}

fn store(config: &mut Config, context: &Context<'_>) {
    // A word that is no store has its problem already.
    let given = context.is_given("sessions.store") && !context.is_doubtful("sessions.store");
    match config.sessions.store {
        StoreKind::Memory if given => context.report(
            "sessions.store",
            "memory, and this node is one of a cluster".into(),
            "replicated, redis",
            "remove it: the nodes of a cluster keep sessions together, so that none is lost with \
             one of them",
        ),
        StoreKind::Memory | StoreKind::Replicated => config.sessions.store = StoreKind::Replicated,
        StoreKind::Redis => {}
    }
}

/// Keys of a cluster without its nodes: probably a file from which something is missing.
fn no_half_cluster(context: &Context<'_>) {
    let keys = ["node_id", "secret", "listen", "advertise"];
    if keys.iter().any(|key| context.is_in_file(&format!("cluster.{key}"))) {
        context.report(
            "cluster.nodes",
            "a cluster that names no nodes".into(),
            "every node and its address",
            &format!(
                "write nodes: {{ gateway-1: \"10.0.0.1:{PORT}\", … }}, set HA_CLUSTER_NODES, or \
                 set HA_MODE=standalone to run one node"
            ),
        );
        return;
    }
    // Each has its use at a node alone. Together they are those of a cluster whose nodes are missing, or
    // are under a name that is nearly HA_CLUSTER_NODES.
    let variables = ["HA_NODE_ID", "HOLDFAST_CLUSTER_SECRET", "HOLDFAST_CLUSTER_LISTEN"];
    let set: Vec<&str> = variables.into_iter().filter(|name| is_set(context, name)).collect();
    if set.len() >= 2 {
        context.notice(format!(
            "this node runs alone: {} are set, and HA_CLUSTER_NODES names no nodes",
            set.join(" and ")
        ));
    }
}

/// What a group of this size gains.
fn size(nodes: usize, context: &Context<'_>) {
    let notice = match nodes {
        1 => "cluster.nodes: a single node survives no loss; three survive the loss of one".into(),
        2 => "cluster.nodes: two nodes survive no loss; three survive the loss of one".into(),
        n if n.is_multiple_of(2) => format!(
            "cluster.nodes: {n} nodes survive the loss of {}, no more than {} would",
            (n - 1) / 2,
            n - 1
        ),
        _ => return,
    };
    context.notice(notice);
}

fn tier_key(server: &str) -> String {
    format!("servers.{server}.tier")
}
