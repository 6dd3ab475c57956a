//! `holdfast reload`: a running node reads its file and takes it over, whole or not at all; in a cluster
//! all nodes do.

use std::process::ExitCode;

use clap::Args;
use holdfast_admin::ClientError;
use holdfast_admin::api::{ChangeDto, ConfigNodeDto, ReloadedDto};
use serde_json::json;

use super::admin_port::{AdminArgs, explain};
use super::output::{many, say, say_json};
use super::{Format, Outcome, OutputArgs};

#[derive(Args)]
pub(crate) struct Reload {
    /// Only show what the node's file would change; change nothing
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Reload {
    pub(crate) fn run(&self) -> Outcome {
        self.admin.run(async |client| {
            let done = client.reload(self.check).await;
            let done = done.map_err(|error| match self.check {
                true => explain(&self.admin, error),
                false => goes_on(&self.admin, error),
            })?;
            match self.output.output {
                Format::Table if self.check => say(&checked(&done))?,
                Format::Table => say(&reloaded(&done))?,
                Format::Json => say_json(&json!(done))?,
            }
            Ok(conclusion(&done))
        })
    }
}

/// What a node says of a change, or that it goes on with it: that it is not waited for ends nothing.
pub(super) fn goes_on(admin: &AdminArgs, error: ClientError) -> anyhow::Error {
    let waited = matches!(error, ClientError::Timeout { .. });
    let error = explain(admin, error);
    if !waited {
        return error;
    }
    anyhow::anyhow!(
        "{error}; it goes on all the same: `holdfast config history` shows what comes of it"
    )
}

/// Failed, if a node that answers could not take the version over.
pub(super) fn conclusion(done: &ReloadedDto) -> ExitCode {
    if done.nodes.iter().any(|node| node.failed.is_some()) {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn checked(done: &ReloadedDto) -> String {
    match done.changes.as_slice() {
        [] => "the file is what this node runs: nothing would change".to_owned(),
        changes => {
            let count = many(changes.len() as u64, "setting");
            format!("{count} would change:\n{}", lines(changes))
        }
    }
}

/// What has become of a reload or a rollback.
pub(super) fn reloaded(done: &ReloadedDto) -> String {
    let version = done.version;
    let mut text = match (done.new, version, done.changes.as_slice()) {
        (_, 0, []) => "nothing has changed".to_owned(),
        (true, _, []) => format!("version {version} holds: nothing has changed on this node"),
        (false, _, []) => format!("version {version} holds, as before: nothing has changed"),
        (_, _, changes) => {
            let count = many(changes.len() as u64, "setting");
            format!("version {version} holds: {count} changed\n{}", lines(changes))
        }
    };
    for node in &done.nodes {
        if let Some(line) = remark(node, version) {
            text.push_str(&format!("\n{line}"));
        }
    }
    text
}

fn lines(changes: &[ChangeDto]) -> String {
    let line = |it: &ChangeDto| match (it.old.as_deref(), it.new.as_deref()) {
        (Some(old), Some(new)) if old == new => format!("  {}: changed (not shown)", it.key),
        (old, new) => {
            format!("  {}: {} → {}", it.key, old.unwrap_or("nothing"), new.unwrap_or("nothing"))
        }
    };
    changes.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// What is to be said of a node; nothing, if it runs the version.
pub(super) fn remark(node: &ConfigNodeDto, version: u64) -> Option<String> {
    let name = &node.node;
    if let (Some(failed), Some(why)) = (node.failed, &node.why) {
        let runs = match node.version {
            None | Some(0) => "its own file".to_owned(),
            Some(runs) => format!("version {runs}"),
        };
        return Some(format!("{name} cannot take version {failed} over, and keeps {runs}:\n{why}"));
    }
    if let Some(format) = node.format {
        return Some(format!(
            "{name} runs another version of holdfast, which says this in format {format}, and the node \
             that was asked cannot read that: ask {name} itself (--admin)"
        ));
    }
    match node.version {
        Some(runs) if runs == version => None,
        Some(_) => Some(format!("{name} has not taken it over yet")),
        None => Some(format!("{name} does not answer; it takes the version over when it is back")),
    }
}

/// What is wrong with a node's configuration, in a line; nothing, if nothing is.
pub(super) fn brief(node: &ConfigNodeDto) -> Option<String> {
    let line = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    let name = &node.node;
    let failed = node
        .failed
        .zip(node.why.as_deref())
        .map(|(version, why)| format!("{name} cannot take version {version} over: {}", line(why)));
    failed
        .or_else(|| {
            let trouble = node.trouble.as_deref()?;
            Some(format!("{name} does not take its file over: {}", line(trouble)))
        })
        .or_else(|| node.format.and_then(|_| remark(node, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, version: Option<u64>, failed: Option<(u64, &str)>) -> ConfigNodeDto {
        ConfigNodeDto {
            node: name.into(),
            version,
            since_unix_ms: None,
            failed: failed.map(|it| it.0),
            why: failed.map(|it| it.1.to_owned()),
            file: None,
            trouble: None,
            format: None,
        }
    }

    #[test]
    fn only_nodes_with_something_to_say_are_named() {
        assert_eq!(remark(&node("n1", Some(3), None), 3), None);
        let said = remark(&node("n1", Some(2), Some((3, "no TOKEN"))), 3);
        assert_eq!(
            said.as_deref(),
            Some("n1 cannot take version 3 over, and keeps version 2:\nno TOKEN")
        );
        assert!(remark(&node("n1", None, None), 3).is_some_and(|it| it.contains("is back")));
        assert!(remark(&node("n1", Some(2), None), 3).is_some_and(|it| it.contains("not taken")));
    }
}
