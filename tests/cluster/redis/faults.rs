//! What can befall a Redis, each with the proof that it did.

use std::time::Duration;

use tokio::time::Instant;

use super::{FIRST, Kind, MASTER, NODE, Redis, topology};
use crate::links::Weather;
use crate::{Error, PATIENCE};

/// What a command takes longer when Redis is slow.
pub(crate) const SLOW: Duration = Duration::from_millis(500);

/// Nothing passes.
const CUT: Weather = Weather { cut: true, delay: Duration::ZERO };

// === impl Redis ===

impl Redis {
    /// No byte to or from a server: nodes, replicas, Sentinels.
    pub(crate) fn cut_off(&self, server: usize) {
        let everybody = [vec![NODE], self.others(server)].concat();
        self.set(server, &everybody, CUT);
    }

    /// No byte between a server and the nodes. Its replicas and the Sentinels still reach it.
    pub(crate) fn cut_from_nodes(&self, server: usize) {
        self.set(server, &[NODE], CUT);
    }

    /// No byte between a server and its like. The nodes still reach it.
    pub(crate) fn split_off(&self, server: usize) {
        self.set(server, &self.others(server), CUT);
    }

    /// Every answer of every server reaches the nodes later.
    pub(crate) fn slow_down(&self) {
        for server in 0..self.servers.len() {
            let weather = Weather { delay: SLOW, ..Weather::default() };
            self.links.set(FIRST + server, NODE, weather);
        }
    }

    /// Asks for another primary while the one that there is does its work.
    ///
    /// # Errors
    /// When there is none to be had.
    pub(crate) async fn fail_over(&self, primary: usize) -> Result<(), Error> {
        match self.kind {
            Kind::Sentinel => {
                let sentinel = self.sentinels.first().ok_or("void: no Sentinel")?;
                sentinel.ask(&["SENTINEL", "FAILOVER", MASTER]).await?;
                Ok(())
            }
            Kind::Cluster => {
                let id = self.servers[primary].ask(&["CLUSTER", "MYID"]).await?;
                for server in &self.servers {
                    let nodes = server.ask(&["CLUSTER", "NODES"]).await?;
                    let own = nodes.text().lines().find(|line| line.contains("myself"));
                    if own.is_some_and(|own| own.contains("slave") && own.contains(id.text())) {
                        server.ask(&["CLUSTER", "FAILOVER"]).await?;
                        return Ok(());
                    }
                }
                Err("void: the primary has no replica".into())
            }
            Kind::Redis | Kind::Replicated => Err("void: one Redis has no other".into()),
        }
    }

    /// Waits until another server than `before` is primary; with Sentinels, until most say so.
    ///
    /// # Errors
    /// When that does not come: there was no failover.
    pub(crate) async fn replaced(&self, before: usize) -> Result<usize, Error> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(now) = self.successor(before).await {
                return Ok(now);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let name = &self.servers[before].name;
        Err(format!("void: nothing took the place of {name} within {PATIENCE:?}").into())
    }

    /// Who is primary in the place of `before`, if anybody is.
    pub(crate) async fn successor(&self, before: usize) -> Option<usize> {
        if self.kind == Kind::Sentinel {
            let now = self.primary().await.filter(|now| *now != before)?;
            let role = topology::role(&self.servers[now]).await;
            return (role.as_deref() == Some("master")).then_some(now);
        }
        // The replica of a shard stands as far behind its primary in each pair.
        let half = self.servers.len() / 2;
        let other = (before + half) % self.servers.len().max(1);
        let role = topology::role(&self.servers[other]).await;
        (other != before && role.as_deref() == Some("master")).then_some(other)
    }

    /// Throws away everything that a primary, or each primary, holds. Says how many keys that were.
    ///
    /// # Errors
    /// When there was nothing to throw away: such a run says nothing.
    pub(crate) async fn flush(&self) -> Result<i64, Error> {
        let mut gone = 0;
        for server in &self.servers {
            if topology::role(server).await.as_deref() == Some("master") {
                gone += server.ask(&["DBSIZE"]).await?.number().unwrap_or_default();
                server.ask(&["FLUSHALL"]).await?;
            }
        }
        match gone {
            0 => Err("void: there were no keys to flush".into()),
            gone => Ok(gone),
        }
    }
}
