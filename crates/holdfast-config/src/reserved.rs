//! Keys that people will look for here and that this version does not have, each with the way on.

/// What to do about a key that belongs elsewhere or to a later version.
pub(crate) fn cure(section: &str, key: &str) -> Option<&'static str> {
    let server = section.starts_with("servers.");
    Some(match key {
        "port" if section.is_empty() => "write it as part of listen.address",
        "address" | "host" if section.is_empty() => "write it as listen.address",
        "tls" if section.is_empty() => "write it below listen or admin",
        "username" | "password" | "database" | "sentinel" | "address" if section == "sessions" => {
            "write it below sessions.redis"
        }
        "url" if section == "sessions.redis" => "write it as sessions.url",
        "address" | "port" if section == "cluster" => "write it as cluster.listen",
        "id" | "name" if section == "cluster" => "write it as cluster.node_id",
        "peers" | "members" if section == "cluster" => "write it as cluster.nodes",
        "data_dir" if section == "cluster" => "write it as node.data_dir",
        "mode" if section == "cluster" => "set HA_MODE in the environment",
        "circuit_breaker" if server => "write it as breaker",
        "checks" | "interval" if server && !section.contains(".health") => "write it below health",
        "strategy" if server && !section.contains(".balance") => "write it below balance",
        "sticky" | "sticky_for" if section.ends_with(".balance") => {
            "remove it: a session stays with its instance; sessions.ttl says how long it lives"
        }
        "webhooks" if section.is_empty() => "write it as notify",
        "region" if section.is_empty() => "write it as node.region",
        "answer" if section.ends_with(".fallback") => "write it as static",
        "type" if server => "write it as transport",
        _ => return None,
    })
}
