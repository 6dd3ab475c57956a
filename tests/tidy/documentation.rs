//! What an operator meets is written down: every metric and every configuration key.

use std::collections::BTreeSet;
use std::path::Path;

use crate::workspace::{none, read, root, rust_files};

#[test]
fn every_metric_is_in_the_documentation() {
    let names = metric_names();
    assert!(names.len() >= 20, "found only {names:?} in the sources: has their form changed?");
    let missing = missing_in("docs/metrics.md", &names);
    none(&missing, "docs/metrics.md does not mention these metrics:");
}

/// Names in the string literals of files and folders called `metrics`.
fn metric_names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in rust_files().filter(|file| file.starts_with("crates")) {
        let in_metrics = file.iter().any(|part| part == "metrics" || part == "metrics.rs");
        if !in_metrics || file.file_name().is_some_and(|name| name == "tests.rs") {
            continue;
        }
        for literal in string_literals(&read(&file)) {
            for word in words(&literal) {
                let ours = word.starts_with("mcp_") || word.starts_with("holdfast_");
                // `_bucket`, `_sum` and `_count` are parts of a histogram, not metrics.
                let part = ["_bucket", "_sum", "_count"].iter().any(|part| word.ends_with(part));
                if ours && !part {
                    names.insert(word.to_owned());
                }
            }
        }
    }
    names
}

/// The contents of `"…"` in code up to its tests, line by line, comments left out.
pub(crate) fn string_literals(text: &str) -> Vec<String> {
    let mut literals = Vec::new();
    for line in text.lines().take_while(|line| line.trim() != "#[cfg(test)]") {
        if line.trim_start().starts_with("//") {
            continue;
        }
        let unescaped = line.replace("\\\"", "\u{1}");
        literals.extend(unescaped.split('"').skip(1).step_by(2).map(str::to_owned));
    }
    literals
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
}

fn missing_in(document: &str, names: &BTreeSet<String>) -> Vec<String> {
    assert!(root().join(document).is_file(), "{document} does not exist");
    let text = read(Path::new(document));
    let said: BTreeSet<&str> = words(&text).collect();
    names.iter().filter(|name| !said.contains(name.as_str())).cloned().collect()
}

#[test]
fn literals_are_found() {
    let found = string_literals("a(\"one\", \"t\\\"wo\")\n// \"no\"\nb(\"three\")");
    assert_eq!(found, ["one", "t\u{1}wo", "three"]);
}
