//! `holdfast-mcp` and `holdfast-engine` cannot wait, log, read a clock, draw a random number or open
//! a socket: neither by what they depend on nor by what they name from the standard library.

use std::path::Path;

use crate::workspace::{none, reached, read, sources};

const PURE: [&str; 2] = ["holdfast-mcp", "holdfast-engine"];

/// Runtimes, loggers, sources of chance and of time, and what opens sockets.
const IMPURE_CRATES: [&str; 24] = [
    "tokio",
    "tokio-util",
    "async-std",
    "smol",
    "async-io",
    "mio",
    "polling",
    "futures-executor",
    "hyper",
    "hyper-util",
    "reqwest",
    "socket2",
    "nix",
    "rustix",
    "tracing",
    "tracing-core",
    "log",
    "getrandom",
    "rand",
    "fastrand",
    "uuid",
    "time",
    "chrono",
    "quanta",
];

/// Names that wait, log, draw, or look outside. Types such as `std::time::Instant` are fine: a time
/// is an argument.
const IMPURE_NAMES: [&str; 19] = [
    "Instant::now",
    "SystemTime::now",
    ".elapsed()",
    "std::net",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::io::stdin",
    "std::io::stdout",
    "std::io::stderr",
    "println!",
    "eprintln!",
    "thread_local!",
    "RandomState",
    "HashMap",
    "HashSet",
    "tokio::",
    "tracing::",
];

#[test]
fn pure_crates_reach_no_runtime_clock_or_chance() {
    let mut findings = Vec::new();
    for name in PURE {
        for reached in reached(name) {
            if IMPURE_CRATES.contains(&reached.as_str()) {
                findings
                    .push(format!("{name} reaches {reached} (cargo tree -p {name} -i {reached})"));
            }
        }
    }
    none(&findings, "pure crates take time and chance as arguments; look for a default feature:");
}

#[test]
fn pure_crates_name_nothing_that_acts() {
    let mut findings = Vec::new();
    for name in PURE {
        for file in sources(name) {
            let folder = file.parent().and_then(Path::file_name);
            if file.file_name().is_some_and(|name| name == "tests.rs")
                || folder.is_some_and(|name| name == "tests")
            {
                continue;
            }
            for (number, line) in shipped_lines(&read(&file)) {
                for impure in IMPURE_NAMES {
                    if line.contains(impure) {
                        findings.push(format!("{}:{number}: {impure}", file.display()));
                    }
                }
            }
        }
    }
    none(
        &findings,
        "pure crates decide and never act (HashMap iterates in a random order; use BTreeMap):",
    );
}

/// Numbered lines of what ships: without comments, and up to the tests at a file's end.
fn shipped_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
        .map(|(at, line)| (at + 1, line.split("//").next().unwrap_or_default()))
}

#[test]
fn shipped_lines_leave_out_comments_and_tests() {
    let text = "use a;\n// std::net\nb(); // std::fs\n#[cfg(test)]\nmod tests { std::thread }\n";
    let lines: Vec<(usize, &str)> = shipped_lines(text).collect();
    assert_eq!(lines, [(1, "use a;"), (2, ""), (3, "b(); ")]);
}
