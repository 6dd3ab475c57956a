//! Checks that need more than one value.

mod dependencies;

use std::net::SocketAddr;

use holdfast_engine::class::ToolClass;

use crate::context::Context;
use crate::units::show_duration;
use crate::{BulkheadClass, Config, Server};

/// Reports what does not fit together.
pub(crate) fn check(config: &Config, context: &Context<'_>) {
    listeners(config, context);
    cluster_listener(config, context);
    own_voice(config, context);
    admin_token(config, context);
    data_dir(config, context);
    streams(config, context);
    servers(config, context);
    dependencies::check(config, context);
}

fn listeners(config: &Config, context: &Context<'_>) {
    let (client, admin) = (config.listen.address, config.admin.address);
    if !overlap(client, admin) {
        return;
    }
    // Blame whichever was chosen rather than the default.
    let given = context.is_given("admin.address") || !context.is_given("listen.address");
    let key = if given { "admin.address" } else { "listen.address" };
    context.report(
        key,
        format!("the client port and the admin port are both {admin}"),
        "two addresses",
        "choose another port for one of the two",
    );
}

fn cluster_listener(config: &Config, context: &Context<'_>) {
    let Some(cluster) = &config.cluster else { return };
    for (what, other) in [("client", config.listen.address), ("admin", config.admin.address)] {
        if overlap(cluster.listen, other) {
            let given = context.is_given("cluster.listen");
            context.report(
                if given { "cluster.listen" } else { "cluster.nodes" },
                format!("the cluster port and the {what} port are both {other}"),
                "three addresses",
                "choose another port for one of the two",
            );
        }
    }
}

/// Whether both cannot be bound at once.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && same_ip
}

fn admin_token(config: &Config, context: &Context<'_>) {
    let admin = &config.admin;
    if admin.address.ip().is_loopback() || admin.token.is_some() || context.is_given("admin.token")
    {
        return;
    }
    context.report(
        "admin.address",
        format!("{} can be reached from other machines, and there is no token", admin.address),
        "a loopback address, or one with admin.token",
        "add admin.token: ${HOLDFAST_ADMIN_TOKEN}, or write 127.0.0.1",
    );
}

fn data_dir(config: &Config, context: &Context<'_>) {
    let Some(dir) = &config.node.data_dir else { return };
    if dir.exists() && !dir.is_dir() {
        context.report(
            "node.data_dir",
            format!("{} is not a directory", dir.display()),
            "a directory; it is made if it is missing",
            "name another path",
        );
    }
}

fn streams(config: &Config, context: &Context<'_>) {
    let streams = &config.streams;
    if streams.commit_after > streams.headers_by {
        context.report(
            "streams.commit_after",
            format!(
                "{} is longer than headers_by, {}",
                show_duration(streams.commit_after),
                show_duration(streams.headers_by)
            ),
            "commit_after up to headers_by",
            "write 250ms, or a longer headers_by",
        );
    }
    if streams.keepalive >= streams.rotate_after {
        context.report(
            "streams.keepalive",
            format!(
                "{} is not shorter than rotate_after, {}",
                show_duration(streams.keepalive),
                show_duration(streams.rotate_after)
            ),
            "keepalive below rotate_after",
            "write 15s",
        );
    }
}

/// A node that is alone has its own checks, and otherwise nothing before calls come.
fn own_voice(config: &Config, context: &Context<'_>) {
    let votes = &config.health.votes;
    // That all four are 0 is said already.
    if votes.local > 0.0 || votes.peers + votes.external + votes.users <= 0.0 {
        return;
    }
    if config.cluster.as_ref().is_none_or(|it| it.nodes.len() < 2) {
        context.report(
            "health.votes.local",
            "0, and there is no other node whose checks would count".into(),
            "a weight above 0 where a node is alone",
            "write 0.4",
        );
    } else {
        context.notice(
            "health.votes.local is 0: a node that hears of no other has no vote about an instance that \
             is not called"
                .to_owned(),
        );
    }
}

fn servers(config: &Config, context: &Context<'_>) {
    for (name, server) in &config.servers {
        if server.timeout > server.max_duration {
            let key = format!("servers.{name}.max_duration");
            let key = if context.is_given(&key) { key } else { format!("servers.{name}.timeout") };
            context.report(
                &key,
                format!(
                    "timeout, {}, is longer than max_duration, {}",
                    show_duration(server.timeout),
                    show_duration(server.max_duration)
                ),
                "timeout up to max_duration",
                &format!("write max_duration: {}", show_duration(server.timeout)),
            );
        }
        one_voice(name, server, config, context);
        effects(name, server, context);
        queues(name, server, config, context);
        if server.failover.is_some() && !server.health.enabled {
            context.notice(format!(
                "servers.{name}: it is not failed over, since without checks (health.enabled: false) \
                 nobody finds its primary ill; take that out, or move it by hand with `holdfast \
                 failover {name} --to INSTANCE --force`; write failover: {{ enabled: false }} where it \
                 is never to be moved"
            ));
        }
    }
}

/// What is run by the gateway's own doing, or kept for later, is no Write by this very file.
fn effects(name: &str, server: &Server, context: &Context<'_>) {
    let effect = |tool: &str| server.tools.get(tool).and_then(|rule| rule.effect);
    let consistency = server.failover.as_ref().and_then(|it| it.consistency.as_ref());
    if let Some(compared) = consistency.filter(|it| effect(&it.tool) == Some(ToolClass::Write)) {
        context.report(
            &format!("servers.{name}.failover.consistency.tool"),
            format!("{} is a write by tools, and would be run on both sides", compared.tool),
            "a tool that only reads",
            "name another tool, or write read for it if it has no effect",
        );
    }
    for (index, tool) in server.fallback.tools.iter().enumerate() {
        if effect(tool) == Some(ToolClass::Write) {
            context.report(
                &format!("servers.{name}.fallback.tools[{index}]"),
                format!("{tool} is write by tools, and nothing stands in for that"),
                "tools that only read",
                "remove it, or write read for it if it has no effect",
            );
        }
    }
}

/// A call that waits for its turn is given up at its own deadline, whatever its class would wait.
fn queues(name: &str, server: &Server, config: &Config, context: &Context<'_>) {
    let of_tools = server.tools.values().filter_map(|rule| rule.class);
    let used: Vec<_> = of_tools.chain([server.class]).collect();
    for class in BulkheadClass::ALL.into_iter().filter(|class| used.contains(class)) {
        let key = format!("bulkheads.{}.queue_timeout", class.label());
        let waits = config.bulkheads.of(class).queue_timeout;
        if context.is_given(&key) && waits > server.timeout {
            context.notice(format!(
                "servers.{name}: timeout, {}, is shorter than {key}, {}: its calls are given up in \
                 the queue before that",
                show_duration(server.timeout),
                show_duration(waits),
            ));
        }
    }
}

/// The voice from outside of the cluster alone must not begin a failover.
fn one_voice(name: &str, server: &Server, config: &Config, context: &Context<'_>) {
    let Some(failover) = &server.failover else { return };
    let share = config.health.votes.weights().external_share();
    // Sums of tenths are not exact.
    if share > failover.degradation + 1e-6 && server.health.checks.iter().any(|it| it.external) {
        context.report(
            &format!("servers.{name}.failover.degradation"),
            format!(
                "{} is less than the {share:.2} that health.votes.external has of a vote: the \
                 monitor alone would move the server",
                failover.degradation
            ),
            "a degradation above the monitor's share of a vote",
            "raise degradation, or lower health.votes.external",
        );
    }
}
