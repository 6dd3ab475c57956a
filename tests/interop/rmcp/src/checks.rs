//! A run of named checks, as in `../lib/checks.mjs`: a JSON line each, a summary line, an exit code.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::{Map, Value, json};

const DEADLINE: Duration = Duration::from_secs(30);

pub struct Checks {
    about: Map<String, Value>,
    passed: usize,
    failed: usize,
}

impl Checks {
    /// `about` says which client, era and transport this run is; it is part of every line.
    pub fn new(about: Map<String, Value>) -> Self {
        Self { about, passed: 0, failed: 0 }
    }

    pub async fn check(&mut self, name: &str, run: impl Future<Output = Result<()>>) -> bool {
        let started = Instant::now();
        let outcome = match tokio::time::timeout(DEADLINE, run).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("no result within {DEADLINE:?}")),
        };
        let mut line = self.about.clone();
        line.insert("check".into(), json!(name));
        line.insert("ok".into(), json!(outcome.is_ok()));
        line.insert("ms".into(), json!(started.elapsed().as_millis() as u64));
        if let Err(error) = &outcome {
            line.insert("error".into(), json!(format!("{error:#}")));
            self.failed += 1;
        } else {
            self.passed += 1;
        }
        println!("{}", Value::Object(line));
        outcome.is_ok()
    }

    /// Prints the summary; true only if every check passed and there was one.
    pub fn finish(mut self) -> bool {
        self.about.insert("passed".into(), json!(self.passed));
        self.about.insert("failed".into(), json!(self.failed));
        println!("{}", Value::Object(self.about));
        self.failed == 0 && self.passed > 0
    }
}

pub fn equal<T: PartialEq + std::fmt::Debug>(got: T, wanted: T, what: &str) -> Result<()> {
    ensure!(got == wanted, "{what}: got {}, wanted {}", clip(&got), clip(&wanted));
    Ok(())
}

/// Asks until the answer is there; for what arrives on its own time.
pub async fn eventually<F>(what: &str, mut ask: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<bool>>,
{
    let end = Instant::now() + Duration::from_secs(15);
    while !ask().await? {
        if Instant::now() > end {
            bail!("{what}: not within 15 s");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn clip(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    if text.chars().count() <= 300 {
        return text;
    }
    format!("{}… ({} bytes)", text.chars().take(300).collect::<String>(), text.len())
}
