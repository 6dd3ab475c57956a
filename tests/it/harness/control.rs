//! What operators see of a cluster's servers, and what they order.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::cluster::{Cluster, PATIENCE};
use super::eventually;
use super::process::{Process, binary};

/// All nodes of a cluster.
pub(crate) const ALL: [usize; 3] = [0, 1, 2];

/// An order of the command line, which follows the move to its end. Dropping it ends it.
pub(crate) struct Order(Process);

/// Between two looks.
const SOON: Duration = Duration::from_millis(20);

// === impl Cluster ===

impl Cluster {
    /// What a node says of a server; null when nothing.
    pub(crate) async fn control(&self, at: usize, server: &str) -> Value {
        let servers = self[at].says("/api/servers").await.unwrap_or_default();
        let servers = servers["servers"].as_array().cloned().unwrap_or_default();
        let found = servers.into_iter().find(|it| it["name"] == server);
        found.map(|it| it["control"].clone()).unwrap_or_default()
    }

    /// Waits until a node shows a server as it should be.
    pub(crate) async fn shows(
        &self,
        at: usize,
        server: &str,
        what: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Value {
        self.all_show(&[at], server, what, fits).await
    }

    /// Waits until these nodes show a server as it should be, and all the same of what the group has
    /// found and decided; what the last of them shows.
    pub(crate) async fn all_show(
        &self,
        nodes: &[usize],
        server: &str,
        what: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut seen = Vec::new();
            for at in nodes {
                seen.push(self.control(*at, server).await);
            }
            let as_one = seen.windows(2).all(|it| agreed(&it[0]) == agreed(&it[1]));
            if as_one && seen.iter().all(&fits) {
                return seen.pop().unwrap_or_default();
            }
            if Instant::now() > deadline {
                let record = self.record(nodes[0]).await;
                panic!("{nodes:?}: {server} never {what}; last: {seen:#?}\n{record:#?}");
            }
            tokio::time::sleep(SOON).await;
        }
    }

    /// The lines of the record, as a node has them.
    pub(crate) async fn record(&self, at: usize) -> Vec<Value> {
        let record = self[at].says("/api/audit").await.unwrap_or_default();
        record["events"].as_array().cloned().unwrap_or_default()
    }

    /// How many lines of this kind the record has.
    pub(crate) async fn recorded(&self, at: usize, kind: &str) -> usize {
        self.record(at).await.iter().filter(|it| it["kind"] == kind).count()
    }

    /// Which of the three coordinates.
    pub(crate) async fn coordinator(&self) -> usize {
        self.coordinator_of(&ALL).await
    }

    /// Waits until all nodes name the same one, and not this one.
    pub(crate) async fn coordinator_but(&self, gone: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.coordinator().await == gone {
            assert!(Instant::now() < deadline, "{} goes on coordinating", self[gone].name);
            tokio::time::sleep(SOON).await;
        }
    }

    /// Waits until these nodes all name the same one of themselves.
    pub(crate) async fn coordinator_of(&self, nodes: &[usize]) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut named = Vec::new();
            for at in nodes {
                let seen = self[*at].nodes().await.unwrap_or_default();
                named.push(nodes.iter().copied().find(|it| seen["leader"] == *self[*it].name));
            }
            if let Some(leader) = named[0].filter(|_| named.iter().all(|it| *it == named[0])) {
                return leader;
            }
            assert!(Instant::now() < deadline, "{nodes:?} name no coordinator: {named:?}");
            tokio::time::sleep(SOON).await;
        }
    }
}

/// What every node has from the group and not from its own looks.
fn agreed(seen: &Value) -> Value {
    let instances = seen["instances"].as_array().cloned().unwrap_or_default();
    let of = |it: &Value| json!([it["id"], it["verdict"], it["votes"], it["kept"]]);
    let instances: Vec<Value> = instances.iter().map(of).collect();
    let of = ["active", "generation", "phase", "stage", "target", "verdict", "kept"];
    json!([of.map(|key| seen[key].clone()), instances])
}

// === impl Order ===

impl Order {
    /// Gives it at a node's operator's port.
    pub(crate) fn give(at: SocketAddr, order: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.args(order).args(["--yes", "--admin"]).arg(at.to_string());
        Self(Process::start(&mut command))
    }

    /// Follows it to its end: the server rests on this instance.
    pub(crate) async fn arrives_at(self, instance: &str) {
        self.ends(true, &format!(": on {instance}\n")).await;
    }

    /// The same where the server stays on this one.
    pub(crate) async fn comes_back_to(self, instance: &str) {
        self.ends(false, &format!("stays on {instance}: the move was taken back")).await;
    }

    async fn ends(mut self, well: bool, saying: &str) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match self.0.ended() {
                Some(status) => break status,
                None if Instant::now() > deadline => panic!("it goes on: {}", self.0.output()),
                None => tokio::time::sleep(SOON).await,
            }
        };
        assert_eq!(status.success(), well, "{}", self.0.output());
        // The pipe's readers may be behind.
        eventually(saying, || self.0.output().contains(saying).then_some(())).await;
    }
}
