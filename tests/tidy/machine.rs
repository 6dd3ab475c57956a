//! Nothing tracked depends on one machine: no absolute path of a developer's, no registry's host.
//!
//! The ordinary clients know their registries; a host written into the project ties it to one mirror
//! and goes stale in silence.

use crate::files::is_ours;
use crate::workspace::{files, none, root};

/// Written in halves, so that this file passes its own rule.
const PATHS: [&str; 5] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/tmp/", "tgt"),
    concat!("/Us", "ers/"),
];

const REGISTRIES: [&str; 9] = [
    concat!("registry.", "npmjs"),
    concat!("npmjs", ".org"),
    concat!("index.", "crates.io"),
    concat!("static.", "crates.io"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("deb.", "debian.org"),
    concat!("proxy.", "golang.org"),
    concat!("index", "-url"),
];

#[test]
fn no_path_of_one_machine() {
    none(&places(&PATHS), "use a path relative to the project, or the system's temporary folder:");
}

#[test]
fn no_host_of_a_registry() {
    none(
        &places(&REGISTRIES),
        "leave the registry to its client (lock files: omit resolved URLs):",
    );
}

fn places(needles: &[&str]) -> Vec<String> {
    let mut findings = Vec::new();
    for file in files() {
        // Cargo writes the index of its registry into its own lock file; npm's need not name one.
        if !is_ours(&file) && file.extension().is_some_and(|it| it == "lock") {
            continue;
        }
        let bytes = std::fs::read(root().join(&file)).expect("a listed file is readable");
        let text = String::from_utf8_lossy(&bytes);
        for (at, line) in text.lines().enumerate() {
            if let Some(needle) = needles.iter().find(|needle| line.contains(**needle)) {
                findings.push(format!("{}:{}: {needle}", file.display(), at + 1));
            }
        }
    }
    findings
}
