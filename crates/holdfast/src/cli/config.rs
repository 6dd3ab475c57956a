//! `holdfast config`: the versions of the configuration, their texts, and the way back to one.

use clap::{Args, Subcommand};
use holdfast_admin::Client;
use holdfast_admin::api::{ConfigHistoryDto, ConfigNodeDto, ConfigTextDto, ConfigVersionDto};
use serde_json::json;

use super::admin_port::AdminArgs;
use super::confirm::ConfirmArgs;
use super::events::utc;
use super::output::{many, say, say_json, table};
use super::reload::{conclusion, goes_on, reloaded, remark};
use super::{EXIT_CODES, Format, Outcome, OutputArgs};

#[derive(Subcommand)]
pub(crate) enum Config {
    /// Show the versions, and which of them each node runs
    #[command(after_help = EXIT_CODES)]
    History(History),
    /// Show a version as the nodes have it in common; keys, tokens and headers are hidden
    #[command(after_help = EXIT_CODES)]
    Show(Show),
    /// Take an earlier version up again on all nodes, as a new version
    #[command(after_help = EXIT_CODES)]
    Rollback(Rollback),
}

#[derive(Args)]
pub(crate) struct History {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
pub(crate) struct Show {
    /// The version [default: the one that holds]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
pub(crate) struct Rollback {
    /// The version whose content is to hold again
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    version: u64,
    #[command(flatten)]
    confirm: ConfirmArgs,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Config {
    pub(crate) fn run(&self) -> Outcome {
        match self {
            Self::History(it) => {
                let ask = async |client: &Client| client.config_history().await;
                it.admin.present(false, it.output.output, ask, history)
            }
            Self::Show(it) => {
                let ask = async |client: &Client| client.config_text(it.version).await;
                it.admin.present(false, it.output.output, ask, text)
            }
            Self::Rollback(it) => it.run(),
        }
    }
}

impl Rollback {
    fn run(&self) -> Outcome {
        let version = self.version;
        self.admin.run(async |client| {
            self.confirm.confirm(
                &format!("config rollback takes version {version} up again on all nodes"),
                &format!("Take version {version} up again on all nodes?"),
            )?;
            let done = client.roll_back(version).await;
            let done = done.map_err(|error| goes_on(&self.admin, error))?;
            match self.output.output {
                Format::Table => say(&reloaded(&done))?,
                Format::Json => say_json(&json!(done))?,
            }
            Ok(conclusion(&done))
        })
    }
}

fn text(shown: &ConfigTextDto) -> String {
    format!("# version {}\n{}", shown.version, shown.text.trim_end())
}

/// Which version a node runs, in a word.
pub(super) fn runs(node: &ConfigNodeDto) -> String {
    match (node.version, node.format) {
        (Some(0), _) => "its file".to_owned(),
        (Some(version), _) => version.to_string(),
        (None, Some(_)) => "cannot be read".to_owned(),
        (None, None) => "-".to_owned(),
    }
}

fn history(page: &ConfigHistoryDto) -> String {
    let mut out = many(page.versions.len() as u64, "version");
    let holds = page.versions.last().map_or(0, |it| it.version);
    if holds > 0 {
        let row = |it: &ConfigVersionDto| {
            let again = it.rolls_back_to.map(|of| format!(" (version {of} again)"));
            let holds = if it.version == holds { "*" } else { "" };
            vec![
                format!("{}{holds}", it.version),
                utc(it.at_unix_ms),
                it.id.chars().take(12).collect(),
                format!("{}{}", it.by, again.unwrap_or_default()),
            ]
        };
        let rows: Vec<_> = page.versions.iter().map(row).collect();
        let heading = ["VERSION", "AGREED (UTC)", "ID", "BY"];
        out.push_str(&format!("\n\n{}\n\n* holds", table(&heading, &rows)));
    }
    let row = |it: &ConfigNodeDto| {
        let runs = match (it.version, it.format) {
            (None, None) => "does not answer".to_owned(),
            _ => runs(it),
        };
        let since = it.since_unix_ms.map_or_else(|| "-".to_owned(), utc);
        let file = match &it.trouble {
            Some(_) => "refused".to_owned(),
            None => it.file.clone().unwrap_or_else(|| "-".to_owned()),
        };
        vec![it.node.clone(), runs, since, file]
    };
    let rows: Vec<_> = page.nodes.iter().map(row).collect();
    let heading = ["NODE", "RUNS", "SINCE (UTC)", "FILE"];
    out.push_str(&format!("\n\n{}", table(&heading, &rows)));
    for node in page.nodes.iter().filter(|it| it.failed.is_some() || it.format.is_some()) {
        out.push_str(&format!("\n\n{}", remark(node, holds).unwrap_or_default()));
    }
    for node in &page.nodes {
        if let Some(trouble) = &node.trouble {
            out.push_str(&format!("\n\n{} does not take its file over:\n{trouble}", node.node));
        }
    }
    out
}
