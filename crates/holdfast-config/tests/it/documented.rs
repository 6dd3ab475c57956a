//! `docs/configuration.md` names every key that is read, and no other.

use std::collections::BTreeSet;

use super::{SERVERS, read};

/// The keys that a section has, as the reader itself says when it meets one it does not know.
fn keys(section: &str, text: &str) -> Vec<String> {
    let problems = read(text, &[]).expect_err("there is no such key");
    let problem = problems.iter().find(|problem| problem.key.ends_with(".no-such-key"));
    let problem = problem.unwrap_or_else(|| panic!("{section}: {problems:#?}"));
    problem.allowed.split(", ").map(|key| format!("{section}.{key}")).collect()
}

/// Sections at the top, and those below them that have a table of their own.
const SECTIONS: [&str; 21] = [
    "node",
    "node.health",
    "cluster",
    "listen",
    "admin",
    "auth",
    "limits",
    "bulkheads",
    "bulkheads.user",
    "retry_budget",
    "health",
    "health.votes",
    "health.passive",
    "health.measures",
    "sessions",
    "sessions.redis",
    "streams",
    "log",
    "reload",
    "notify[]",
    "servers.NAME.instances[]",
];

/// Those of a server.
const OF_A_SERVER: [&str; 8] =
    ["breaker", "health", "balance", "failover", "fallback", "pool", "objectives", "tools.TOOL"];

#[test]
fn the_documentation_names_every_key_and_no_other() {
    let mut known = BTreeSet::new();
    for section in SECTIONS {
        let text = match section {
            "notify[]" => format!("{SERVERS}notify: [{{ no-such-key: 1 }}]\n"),
            "servers.NAME.instances[]" => {
                "servers: { a: { instances: [{ no-such-key: 1 }] } }".to_owned()
            }
            _ => {
                let path = section.replace('.', ": { ");
                let depth = section.matches('.').count();
                format!("{SERVERS}{path}: {{ no-such-key: 1 }}{}\n", " }".repeat(depth))
            }
        };
        let name = section.replace("bulkheads.user", "bulkheads.CLASS");
        known.extend(keys(&name, &text));
    }
    let server = |inner: &str| format!("servers: {{ a: {{ url: \"http://a/\", {inner} }} }}\n");
    known.extend(keys("servers.NAME", &server("no-such-key: 1")));
    for section in OF_A_SERVER {
        let inner = match section {
            "tools.TOOL" => "tools: { t: { no-such-key: 1 } }".to_owned(),
            _ => format!("{section}: {{ no-such-key: 1 }}"),
        };
        known.extend(keys(&format!("servers.NAME.{section}"), &server(&inner)));
    }
    let check = server("health: { checks: [{ type: ping, no-such-key: 1 }] }");
    known.extend(keys("servers.NAME.health.checks[]", &check));

    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let text = std::fs::read_to_string(path).unwrap();
    let documented: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|key| key.contains('.') && !key.contains(':'))
        .map(str::to_owned)
        .collect();
    let missing: Vec<_> = known.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&known).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing: {missing:?}, unknown: {unknown:?}");
}

/// The keys that belong to one type of check stand in the table of types.
#[test]
fn every_type_of_check_is_there_with_its_keys() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let text = std::fs::read_to_string(path).unwrap();
    let common = ["type", "name", "weight", "critical", "external"];
    let kinds =
        ["connect", "ping", "initialize", "tools", "tool", "http", "latency", "metric", "cpu"];
    for kind in kinds {
        let row = text.lines().find(|line| line.starts_with(&format!("| `{kind}`")));
        let row = row.unwrap_or_else(|| panic!("no row for {kind}"));
        let file = format!(
            "servers: {{ a: {{ url: \"http://a/\", health: {{ checks: [{{ type: {kind}, \
             no-such-key: 1 }}] }} }} }}\n"
        );
        for key in keys("x", &file) {
            let key = key.trim_start_matches("x.");
            let named = common.contains(&key) || row.contains(&format!("`{key}`"));
            assert!(named, "{kind}: {key} is not in: {row}");
        }
    }
}

/// The examples are whole files, but for servers in that of the store.
#[test]
fn the_examples_are_read_without_a_problem() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut examples = 0;
    for block in text.split("```yaml\n").skip(1) {
        let example = block.split("```").next().unwrap_or_default();
        let file = if example.contains("servers:") {
            example.to_owned()
        } else {
            format!("{example}{SERVERS}")
        };
        let mut variables = vec![("HOOK_SECRET", "sixteen-or-more-characters")];
        if example.contains("store: redis") {
            variables.extend([
                ("REDIS_PASSWORD", "p"),
                ("HA_CLUSTER_NODES", "a=h:1,b=h:2,c=h:3"),
                ("HA_NODE_ID", "a"),
                ("HOLDFAST_CLUSTER_SECRET", "0123456789abcdef0123456789abcdef"),
                ("HOLDFAST_DATA_DIR", "data"),
            ]);
        }
        let config = read(&file, &variables).unwrap_or_else(|p| panic!("{example}\n{p:#?}"));
        assert!(config.notices.is_empty(), "{:?}", config.notices);
        examples += 1;
    }
    assert_eq!(examples, 4);
}
