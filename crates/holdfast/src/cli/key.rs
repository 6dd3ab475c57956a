//! `holdfast key`: API keys, of which only a hash is kept.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::output::{say, say_json};
use super::{EXIT_CODES, Format, Outcome, OutputArgs};

#[derive(Subcommand)]
pub(crate) enum Key {
    /// Make a key for a principal and print it, once, with the line for the configuration
    #[command(after_help = EXIT_CODES)]
    New(New),
}

#[derive(Args)]
pub(crate) struct New {
    /// Whose key it is: 1 to 128 visible ASCII characters
    #[arg(value_parser = principal)]
    principal: String,
    #[command(flatten)]
    output: OutputArgs,
}

impl Key {
    pub(crate) fn run(&self) -> Outcome {
        match self {
            Self::New(new) => new.run(),
        }
    }
}

impl New {
    fn run(&self) -> Outcome {
        let mut random = [0; 32];
        getrandom::fill(&mut random).context("the system gives no random bytes")?;
        let key = format!("hfk_{}", hex(&random));
        let sha256 = hex(&Sha256::digest(&key));
        let principal = &self.principal;
        match self.output.output {
            Format::Json => {
                say_json(&json!({ "principal": principal, "key": key, "sha256": sha256 }))?;
            }
            // JSON's quotes are YAML's too, for names such as `a: b`.
            Format::Table => say(&format!(
                "The key of {principal}, shown this once:\n\n    {key}\n\n\
                 Clients send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`.\n\
                 In the configuration:\n\n\
                 auth:\n  keys:\n    - {{ principal: {}, sha256: \"{sha256}\" }}",
                json!(principal)
            ))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn principal(text: &str) -> Result<String, String> {
    if (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err("1 to 128 visible ASCII characters".into())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
