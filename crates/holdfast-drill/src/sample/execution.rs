//! How often each tool ran, per key: the count that decides whether something ran twice.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

/// Counts in memory, and lines in a file that outlives the process.
#[derive(Debug)]
pub(super) struct Executions {
    counts: Mutex<BTreeMap<String, BTreeMap<String, u64>>>,
    log: Option<File>,
}

// === impl Executions ===

impl Executions {
    /// # Errors
    /// When the file cannot be opened for appending.
    pub(super) fn new(log: Option<&Path>) -> io::Result<Self> {
        let log = match log {
            Some(path) => Some(OpenOptions::new().create(true).append(true).open(path)?),
            None => None,
        };
        Ok(Self { counts: Mutex::default(), log })
    }

    /// Counts one execution, before it does anything, and returns how many there were with it.
    pub(super) fn record(&self, tool: &str, key: &str) -> u64 {
        if let Some(mut log) = self.log.as_ref() {
            let key: String =
                key.chars().map(|c| if c.is_whitespace() { '_' } else { c }).collect();
            let key = if key.is_empty() { "-" } else { &key };
            // One write of one line to an O_APPEND file: lines of several processes never mix.
            let line = format!("{tool} {key} {}\n", std::process::id());
            if let Err(error) = log.write_all(line.as_bytes()) {
                tracing::error!(%error, "the execution log cannot be written");
            }
        }
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(tool.to_owned()).or_default().entry(key.to_owned()).or_default();
        *count += 1;
        *count
    }

    pub(super) fn clear(&self) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// `{tool: {key: count}}`; a call without a key counts under `""`.
    pub(super) fn report(&self) -> Value {
        json!(*self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_per_tool_and_key_and_appends_a_line_each() {
        let path = std::env::temp_dir().join(format!("drill-{}", uuid::Uuid::new_v4()));
        for _ in 0..2 {
            let executions = Executions::new(Some(&path)).unwrap();
            assert_eq!(executions.record("write", "a b"), 1);
            assert_eq!(executions.record("write", "a b"), 2);
            assert_eq!(executions.record("echo", ""), 1);
            assert_eq!(executions.report(), json!({ "write": { "a b": 2 }, "echo": { "": 1 } }));
        }
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let pid = std::process::id();
        let lines = format!("write a_b {pid}\nwrite a_b {pid}\necho - {pid}\n");
        assert_eq!(text, lines.repeat(2), "the second run appends to the first");
    }
}
