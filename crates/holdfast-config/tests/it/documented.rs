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

#[test]
fn the_documentation_names_every_key_and_no_other() {
    let mut known = BTreeSet::new();
    for section in
        ["node", "cluster", "listen", "admin", "auth", "limits", "sessions", "streams", "log"]
    {
        known.extend(keys(section, &format!("{SERVERS}{section}: {{ no-such-key: 1 }}\n")));
    }
    let server = "servers: { docs: { url: \"http://127.0.0.1:1/mcp\", no-such-key: 1 } }\n";
    known.extend(keys("servers.NAME", server));

    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let text = std::fs::read_to_string(path).unwrap();
    let documented: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|key| key.contains('.'))
        .map(str::to_owned)
        .collect();
    assert_eq!(documented, known);
}
