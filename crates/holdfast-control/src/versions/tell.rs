//! What the node tells of its configuration: to other nodes, to operators, in metrics.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use holdfast_engine::replicated::{Configuration, MemberState};
use tokio::time::Instant;

use super::keeper::{Cause, Versions, find};
use super::metrics::Outcome;
use super::standing::{FileStanding, NodeStanding, STANDING, Said, Standing};
use super::view::{Ask, Configured, History, ReloadError, Reloaded, Shown, VersionView};

/// How long the other nodes may take over a version before the one who asked is told how it stands.
const TAKEN_WITHIN: Duration = Duration::from_secs(1);
/// How long another node may take to say how it stands.
const SAID_WITHIN: Duration = Duration::from_millis(500);
/// Between two looks at how the others stand.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Versions {
    pub(super) fn standing(&self) -> Standing {
        let holds = self.holds();
        let state = self.state();
        let file = state.file.document.id().to_string();
        Standing {
            version: state.follow.runs(),
            since: state.since,
            failed: state.follow.failed().map(|(version, why)| (version, why.to_owned())),
            file: match holds {
                None => FileStanding::Unknown,
                Some(holds) if holds.id == file => FileStanding::Same,
                Some(_) => FileStanding::Differs,
            },
            trouble: state.trouble.clone(),
        }
    }

    async fn nodes(&self) -> Vec<NodeStanding> {
        let me = self.ledger.me();
        let members: Vec<_> = {
            let state = self.ledger.state();
            let state = state.borrow();
            let here = state.members.iter().filter(|(_, it)| it.state != MemberState::Left);
            here.map(|(id, member)| (*id, member.name.clone())).collect()
        };
        let asked = members.into_iter().map(|(id, node)| async move {
            if id == me {
                return NodeStanding { node, said: Said::Standing(self.standing()) };
            }
            let call = self.ledger.call(id, STANDING, Bytes::new());
            let said = tokio::time::timeout(SAID_WITHIN, call).await;
            let said = said.ok().and_then(Result::ok);
            NodeStanding { node, said: said.map_or(Said::Nothing, |it| Said::read(&it)) }
        });
        let mut nodes = join_all(asked).await;
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        nodes
    }

    /// Adds how all nodes stand to it, once they have dealt with it or the time is up.
    pub(super) async fn with_nodes(&self, done: Reloaded) -> Reloaded {
        let deadline = Instant::now() + TAKEN_WITHIN;
        loop {
            let nodes = self.nodes().await;
            let dealt = |it: &NodeStanding| {
                it.said.standing().is_none_or(|it| it.has_dealt_with(done.version))
            };
            if nodes.iter().all(dealt) || Instant::now() >= deadline {
                return Reloaded { nodes, ..done };
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

impl Configured for Versions {
    fn reload(&self, ask: Ask) -> BoxFuture<'_, Result<Reloaded, ReloadError>> {
        Box::pin(self.reload_for(Cause::Operator, ask))
    }

    fn roll_back(&self, version: u64) -> BoxFuture<'_, Result<Reloaded, ReloadError>> {
        Box::pin(async move {
            let turn = self.turn_of_an_operator().await?;
            let done = self.take_up_again(version).await?;
            drop(turn);
            self.counts.count(Outcome::Applied);
            Ok(self.with_nodes(done).await)
        })
    }

    fn history(&self) -> BoxFuture<'_, History> {
        Box::pin(async move {
            let view = |it: Configuration| VersionView {
                version: it.version,
                id: it.id,
                by: it.by,
                at: it.at,
                rolls_back_to: it.rolls_back_to,
            };
            let versions = self.versions().into_iter().map(view).collect();
            History { versions, nodes: self.nodes().await }
        })
    }

    fn show(&self, version: Option<u64>) -> Result<Shown, ReloadError> {
        let versions = self.versions();
        let number = version.or_else(|| versions.last().map(|it| it.version)).unwrap_or_default();
        let found = find(&versions, number)?;
        let document = self.document(found).ok_or(ReloadError::NoText { version: number })?;
        Ok(Shown { version: number, text: document.text().to_owned() })
    }

    fn render(&self, out: &mut String) {
        let holds = self.holds().map_or(0, |it| it.version);
        super::metrics::render(&self.counts, &self.standing(), holds, out);
    }
}
