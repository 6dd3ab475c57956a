//! Files that can be read: short, with a header that says why they exist, and finished.

use std::path::Path;

use crate::workspace::{files, none, read, rust_files};

const MOST_LINES: usize = 700;

/// Kinds of file that people write and read as code.
const CODE: [&str; 9] = ["rs", "py", "js", "mjs", "ts", "sh", "toml", "yaml", "yml"];

fn is_code(file: &Path) -> bool {
    file.extension().and_then(|it| it.to_str()).is_some_and(|it| CODE.contains(&it))
}

/// Whether people wrote the file here: lock files and the licence are as they are.
pub(crate) fn is_ours(file: &Path) -> bool {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    !name.ends_with(".lock") && !name.ends_with("-lock.json") && name != "LICENSE"
}

#[test]
fn no_file_is_too_long() {
    let findings: Vec<String> = files()
        .iter()
        .filter(|file| is_code(file))
        .map(|file| (file, read(file).lines().count()))
        .filter(|(_, lines)| *lines > MOST_LINES)
        .map(|(file, lines)| format!("{}: {lines} lines", file.display()))
        .collect();
    none(&findings, "no code file over 700 lines; cut it where it changes for different reasons:");
}

#[test]
fn every_rust_file_says_why_it_exists() {
    let mut findings = Vec::new();
    for file in rust_files() {
        let text = read(&file);
        // A crate's own attributes may stand before its doc; libFuzzer targets need `no_main` there.
        let first = text.lines().find(|line| !line.is_empty() && !line.starts_with("#!["));
        let header: Vec<&str> =
            first.map(|it| it.trim_start_matches("//!").trim()).into_iter().collect();
        let documented = first.is_some_and(|line| line.starts_with("//!"));
        if !documented || header.iter().all(|words| words.is_empty()) {
            findings.push(file.display().to_string());
        }
    }
    none(&findings, "these files do not begin with a `//!` module doc:");
}

#[test]
fn nothing_is_left_to_do() {
    // Written in two halves, so that this file passes its own rule.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        concat!("unimpl", "emented!"),
    ];
    let mut findings = Vec::new();
    for file in files().iter().filter(|file| is_ours(file)) {
        // Pictures and other bytes have no words.
        let Ok(text) = String::from_utf8(
            std::fs::read(crate::workspace::root().join(file)).expect("readable"),
        ) else {
            continue;
        };
        for (at, line) in text.lines().enumerate() {
            if let Some(word) = words.iter().find(|word| has_word(line, word)) {
                findings.push(format!("{}:{}: {word}", file.display(), at + 1));
            }
        }
    }
    none(&findings, "finish it, or file an issue and say what holds today:");
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !inside(before) && !inside(after)
    })
}

#[test]
fn words_are_found_whole() {
    assert!(has_word("// AB: later", "AB"));
    assert!(has_word("(AB)", "AB"));
    assert!(!has_word("CABLE", "AB"));
    assert!(!has_word("AB_C", "AB"));
}
