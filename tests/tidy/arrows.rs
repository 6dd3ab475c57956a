//! Which crate may know which, and which crate is the only one to know a heavy dependency.
//!
//! The arrow that is missing, proxy to cluster, is the design's main fact: without a quorum the data
//! plane goes on with its last state.

use std::collections::BTreeSet;

use crate::workspace::{manifests, none};

/// Crate → the workspace crates that it depends on, as `docs/architecture.md` draws them.
const ARROWS: &[(&str, &[&str])] = &[
    ("mcp", &[]),
    ("net", &["mcp"]),
    ("engine", &[]),
    ("config", &["engine"]),
    ("peer", &["config"]),
    ("store", &["mcp", "engine", "config"]),
    ("cluster", &["engine", "peer"]),
    ("edge", &["mcp", "net"]),
    ("proxy", &["mcp", "net", "engine", "config", "store", "peer"]),
    ("control", &["engine", "config", "peer", "cluster", "proxy"]),
    ("admin", &["engine", "config", "proxy", "control"]),
    ("drill", &[]),
];

/// What may know every crate: the binary, and the tests that drive it.
const EVERYTHING: [&str; 2] = ["holdfast", "holdfast-tests"];

/// A dependency and the one crate that names it.
const HOMES: [(&str, &str); 5] = [
    ("openraft", "holdfast-cluster"),
    ("redis", "holdfast-store"),
    ("clap", "holdfast"),
    ("axum", "holdfast-admin"),
    ("serde-saphyr", "holdfast-config"),
];

fn full(short: &str) -> String {
    format!("holdfast-{short}")
}

#[test]
fn every_crate_has_its_line() {
    let lines: BTreeSet<String> = ARROWS.iter().map(|(name, _)| full(name)).collect();
    let strangers: Vec<String> = manifests()
        .into_keys()
        .filter(|name| {
            !lines.contains(name) && !EVERYTHING.contains(&name.as_str()) && name != "xtask"
        })
        .collect();
    none(&strangers, "these crates have no line in tests/tidy/arrows.rs and docs/architecture.md:");
}

#[test]
fn arrows_point_as_designed() {
    let manifests = manifests();
    let mut findings = Vec::new();
    for (name, allowed) in ARROWS {
        let manifest = &manifests[&full(name)];
        let drawn: BTreeSet<String> = allowed.iter().map(|name| full(name)).collect();
        let ours = |name: &&String| name.starts_with("holdfast");
        let there: BTreeSet<String> = manifest.shipped.iter().filter(ours).cloned().collect();
        for dependency in there.difference(&drawn) {
            findings.push(format!("{} -> {dependency} is not drawn", full(name)));
        }
        for dependency in drawn.difference(&there) {
            findings.push(format!("{} -> {dependency} is not there any more", full(name)));
        }
    }
    none(
        &findings,
        "the arrows between crates are not those of the design; turn a dependency round or pass a value:",
    );
}

#[test]
fn xtask_knows_no_crate_of_the_gateway() {
    let manifests = manifests();
    let known: Vec<String> = manifests["xtask"]
        .shipped
        .iter()
        .filter(|name| name.starts_with("holdfast"))
        .cloned()
        .collect();
    none(&known, "xtask only starts programs, so that it is there before anything is built:");
}

#[test]
fn heavy_dependencies_have_one_home() {
    let mut findings = Vec::new();
    for (name, manifest) in manifests() {
        for (dependency, home) in HOMES {
            let named =
                manifest.shipped.contains(dependency) || manifest.tests_only.contains(dependency);
            // The rules here read the deployment's YAML.
            let reads = name == "holdfast-tests" && dependency == "serde-saphyr";
            if named && name != home && !reads {
                findings.push(format!("{name} names {dependency}, whose home is {home}"));
            }
        }
    }
    none(&findings, "one home per heavy dependency:");
}
