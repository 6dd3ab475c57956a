//! Drives one URL with the official Rust SDK and asserts everything an MCP session can do.
//!
//! `holdfast-interop-rmcp --url URL --era legacy|auto|modern [--expect-era legacy|modern]`
//!
//! The SDK's client speaks Streamable HTTP only.
#![expect(
    deprecated,
    reason = "what the newest revision deprecates must still pass through the gateway"
)]

mod checks;
mod session;
mod surface;
mod user;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::checks::Checks;
use crate::session::Era;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let mut url = None;
    let mut era = ("legacy".to_owned(), Era::Legacy);
    let mut expected = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--url" => url = Some(value),
            "--era" => era = (value.clone(), parse_era(&value)?),
            "--expect-era" => expected = Some(parse_era(&value)?),
            "--transport" if value == "http" => {}
            _ => bail!("there is no {name} {value}"),
        }
    }
    let url = url.context("--url is missing")?;
    let about = json!({ "client": "rmcp 3.9.0", "era": era.0, "transport": "http" });
    let mut checks = Checks::new(about.as_object().cloned().unwrap_or_default());
    surface::check_surface(&mut checks, &url, era.1, expected).await;
    Ok(if checks.finish() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn parse_era(text: &str) -> Result<Era> {
    Ok(match text {
        "legacy" => Era::Legacy,
        "auto" => Era::Auto,
        "modern" => Era::Modern,
        other => bail!("there is no era {other}"),
    })
}
