//! `holdfast drain NODE`: takes a node out of the cluster without failing a call, and shows how that
//! goes on until the node has left or its time is over.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use holdfast_admin::api::{DrainDto, NodeEntryDto, NodesDto};
use holdfast_admin::{Client, ClientError};
use serde_json::json;

use super::admin_port::{AdminArgs, explain};
use super::confirm::ConfirmArgs;
use super::output::{many, say, span};
use super::{Failure, Format, Outcome, OutputArgs};

/// How often the cluster is asked how it goes.
const EVERY: Duration = Duration::from_millis(500);
/// What a node needs beside its calls: balancers notice it first, and it hands its duties over last.
const BESIDES: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(crate) struct Drain {
    /// The node's name
    node: String,
    /// Even if what is left is no majority
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    confirm: ConfirmArgs,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// How it ended.
enum End {
    Left,
    CameBack(u64),
    Died,
    StoppedAnswering,
    /// After so long, and how it was last seen.
    TimedOut(Duration, String),
}

impl Drain {
    pub(crate) fn run(&self) -> Outcome {
        self.admin.run(async |client| {
            let nodes = client.nodes().await.map_err(|error| explain(&self.admin, error))?;
            find(&nodes, &self.node)?;
            self.confirm()?;
            let draining = client.drain(&self.node, self.force).await.map_err(|error| explain(&self.admin, error))?;
            let took = span(draining.deadline_ms.div_ceil(1000));
            self.tell(
                &format!("{} drains: running calls have {took} to end", self.node),
                json!({ "node": self.node, "state": "draining", "deadline_ms": draining.deadline_ms }),
            )?;
            let end = self.follow(&client, &draining, nodes.me == self.node).await?;
            self.conclude(end)
        })
    }

    fn confirm(&self) -> Result<(), Failure> {
        self.confirm.confirm(
            &format!("drain takes {} out of the cluster", self.node),
            &format!(
                "Drain {}? It takes no new work, lets its calls end and leaves; clients go on \
                 elsewhere.",
                self.node
            ),
        )
    }

    /// Asks on and on, and says what has changed.
    async fn follow(
        &self,
        client: &Client,
        draining: &DrainDto,
        itself: bool,
    ) -> anyhow::Result<End> {
        let limit = Duration::from_millis(draining.deadline_ms).saturating_add(BESIDES);
        let begun = Instant::now();
        let mut last: Option<NodeEntryDto> = None;
        loop {
            match client.nodes().await {
                Ok(nodes) => {
                    let node = nodes.nodes.into_iter().find(|node| node.name == self.node);
                    let Some(node) = node else { return Ok(End::Left) };
                    match node.state.as_str() {
                        "left" | "absent" => return Ok(End::Left),
                        _ if node.generation > draining.generation => {
                            return Ok(End::CameBack(node.generation));
                        }
                        "dead" => return Ok(End::Died),
                        _ => {}
                    }
                    let shown =
                        |node: &NodeEntryDto| (node.state.clone(), node.sessions, node.in_flight);
                    if last.as_ref().map(shown) != Some(shown(&node)) {
                        self.tell(&progress(&node), serde_json::to_value(&node)?)?;
                    }
                    last = Some(node);
                }
                // Whoever drains closes its own admin port in the end.
                Err(ClientError::Connect { .. }) if itself => return Ok(End::StoppedAnswering),
                // The node that is asked may be away for a moment; the deadline is what ends this.
                Err(_) => {}
            }
            if begun.elapsed() >= limit {
                let last = last.map(|node| format!(": {}", progress(&node))).unwrap_or_default();
                return Ok(End::TimedOut(limit, last));
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    fn conclude(&self, end: End) -> Outcome {
        let name = &self.node;
        let (outcome, text) = match end {
            End::Left => ("left", format!("{name} has left")),
            End::CameBack(generation) => {
                ("came_back", format!("{name} has left and come back, as generation {generation}"))
            }
            End::StoppedAnswering => {
                ("left", format!("{name} no longer answers: it has left and ended"))
            }
            End::Died => return Err(anyhow!("{name} was declared dead before it had left").into()),
            End::TimedOut(limit, last) => {
                let limit = span(limit.as_secs());
                return Err(anyhow!("{name} has not left within {limit}{last}").into());
            }
        };
        self.tell(&text, json!({ "node": name, "outcome": outcome }))?;
        Ok(ExitCode::SUCCESS)
    }

    fn tell(&self, text: &str, value: serde_json::Value) -> io::Result<()> {
        match self.output.output {
            Format::Table => say(text),
            // One object a line, so that another program can read along.
            Format::Json => say(&value.to_string()),
        }
    }
}

/// # Errors
/// There is no such node that could be drained.
fn find(nodes: &NodesDto, name: &str) -> anyhow::Result<()> {
    if !nodes.clustered {
        return Err(anyhow!(
            "{} runs alone: there is no other node to take its place. SIGTERM drains and ends it",
            nodes.me
        ));
    }
    if nodes.nodes.iter().any(|node| node.name == name) {
        return Ok(());
    }
    let known: Vec<&str> = nodes.nodes.iter().map(|node| node.name.as_str()).collect();
    Err(anyhow!("no node is called {name:?}; there are {}", known.join(", ")))
}

fn progress(node: &NodeEntryDto) -> String {
    let load = match (node.sessions, node.in_flight) {
        (Some(sessions), Some(calls)) => {
            format!("{}, {} in flight", many(sessions, "session"), many(calls, "call"))
        }
        _ => "does not answer".to_owned(),
    };
    format!("{}: {}, {load}", node.name, node.state)
}
