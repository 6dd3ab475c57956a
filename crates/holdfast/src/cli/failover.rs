//! `holdfast failover SERVER` and `holdfast failback SERVER`: move a server to another instance or back,
//! and show how that goes on until it is done.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use holdfast_admin::Client;
use holdfast_admin::api::ControlDto;
use serde_json::json;

use super::admin_port::{AdminArgs, explain};
use super::confirm::ConfirmArgs;
use super::output::{say, span};
use super::servers::progress;
use super::{Format, Outcome, OutputArgs};

/// How often the cluster is asked how it goes.
const EVERY: Duration = Duration::from_millis(250);
/// A move whose sessions go over bit by bit takes minutes; one that takes longer than this is followed
/// with `holdfast servers --watch`.
const LIMIT: Duration = Duration::from_secs(900);

#[derive(Args)]
pub(crate) struct Failover {
    /// The server's name
    server: String,
    /// The instance that is to serve [default: the best secondary]
    #[arg(long, value_name = "INSTANCE")]
    to: Option<String>,
    /// Also to an instance that is unhealthy, or of which nothing is known
    #[arg(long, requires = "to")]
    force: bool,
    #[command(flatten)]
    confirm: ConfirmArgs,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
pub(crate) struct Failback {
    /// The server's name
    server: String,
    /// All sessions at once, not bit by bit and watched
    #[arg(long)]
    at_once: bool,
    #[command(flatten)]
    confirm: ConfirmArgs,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Failover {
    pub(crate) fn run(&self) -> Outcome {
        let server = &self.server;
        let to = self.to.as_deref().map(|to| format!(" to {to}")).unwrap_or_default();
        let whatever = if self.force { ", also if that is unhealthy" } else { "" };
        self.admin.run(async |client| {
            self.confirm.confirm(
                &format!("failover moves {server}{to}{whatever}"),
                &format!(
                    "Move {server}{to}{whatever}? Its calls wait for a moment, its sessions go on there."
                ),
            )?;
            let ordered = client.failover(server, self.to.as_deref(), self.force).await;
            let ordered = ordered.map_err(|error| explain(&self.admin, error))?;
            let following =
                Following { server, output: self.output.output, undoes: "failing_back" };
            following.follow(&client, ordered.control).await
        })
    }
}

impl Failback {
    pub(crate) fn run(&self) -> Outcome {
        let server = &self.server;
        let how = if self.at_once { "at once" } else { "bit by bit" };
        self.admin.run(async |client| {
            self.confirm.confirm(
                &format!("failback moves {server} to its primary"),
                &format!("Move {server} back to its primary? Its sessions go over {how}."),
            )?;
            let ordered = client.failback(server, self.at_once).await;
            let ordered = ordered.map_err(|error| explain(&self.admin, error))?;
            let following =
                Following { server, output: self.output.output, undoes: "failing_over" };
            following.follow(&client, ordered.control).await
        })
    }
}

struct Following<'a> {
    server: &'a str,
    output: Format,
    /// The phase that such an order never begins: a server that is in it was stopped on that way.
    undoes: &'static str,
}

impl Following<'_> {
    /// Asks on and on, and says what has changed, until the server is at rest.
    async fn follow(&self, client: &Client, begun: ControlDto) -> Outcome {
        let since = Instant::now();
        let (mut last, mut shown) = (begun, None);
        let is_undone = last.phase.as_deref() == Some(self.undoes);
        let target = if is_undone { last.active.clone() } else { last.target.clone() };
        loop {
            let moves = matches!(last.phase.as_deref(), Some("failing_over" | "failing_back"));
            let text = progress(&last);
            if moves && shown.as_ref() != Some(&text) {
                self.tell(&text, &last)?;
                shown = Some(text);
            }
            if !moves {
                return self.conclude(&last, target.as_deref());
            }
            if since.elapsed() >= LIMIT {
                let limit = span(LIMIT.as_secs());
                return Err(anyhow!(
                    "{} has not arrived within {limit}, and goes on: {}",
                    self.server,
                    progress(&last)
                )
                .into());
            }
            tokio::time::sleep(EVERY).await;
            // The node that is asked may be away for a moment; the limit is what ends this.
            if let Ok(servers) = client.servers().await
                && let Some(server) = servers.servers.into_iter().find(|it| it.name == self.server)
                && let Some(control) = server.control
            {
                last = control;
            }
        }
    }

    fn conclude(&self, end: &ControlDto, target: Option<&str>) -> Outcome {
        // None: the configuration has it no more.
        let (server, active) = (self.server, end.active.as_deref().unwrap_or("no instance"));
        if end.phase.as_deref() == Some("failover_failed") {
            return Err(anyhow!("{server} stays on {active}: {}", end.reason).into());
        }
        if target.is_some_and(|target| target != active) {
            return Err(anyhow!(
                "{server} stays on {active}: the move was taken back; `holdfast events` says why"
            )
            .into());
        }
        self.tell(&format!("on {active}"), end)?;
        Ok(ExitCode::SUCCESS)
    }

    fn tell(&self, text: &str, control: &ControlDto) -> io::Result<()> {
        match self.output {
            Format::Table => say(&format!("{}: {text}", self.server)),
            // One object a line, so that another program can read along.
            Format::Json => say(&json!({ "server": self.server, "control": control }).to_string()),
        }
    }
}
