//! Keys that people will look for here and that this version does not have, each with the way on.

/// What to do about a key that belongs elsewhere or to a later version.
pub(crate) fn cure(section: &str, key: &str) -> Option<&'static str> {
    let server = section.starts_with("servers.");
    Some(match key {
        "cluster" if section.is_empty() => {
            "remove it: this version runs one node; node.id and node.secret take its place"
        }
        "port" if section.is_empty() => "write it as part of listen.address",
        "address" | "host" if section.is_empty() => "write it as listen.address",
        "tls" if section.is_empty() => "write it below listen or admin",
        "url" if section == "sessions" => "remove it: this version keeps sessions in memory",
        "tier" | "failover" | "health" | "breaker" | "depends_on" | "balance" if server => {
            "remove it: this version does not have it"
        }
        "role" | "region" | "weight" if section.contains(".instances[") => {
            "remove it: this version uses all instances alike"
        }
        "type" if server => "write it as transport",
        _ => return None,
    })
}
