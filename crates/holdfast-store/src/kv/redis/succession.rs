//! Whether a replica is missing because the Sentinels make it the primary.
//!
//! `WAIT` counts any replica. While a failover by command is under way the old primary lives and has
//! the other replicas: those acknowledge what the one that is promoted never sees. So a write lasts
//! only if *every* replica that was there has it, or if no Sentinel is about to put one in this
//! primary's place. (When a primary is gone the Sentinels take the replica that is furthest, and one
//! acknowledgement is enough.)
//!
//! A Sentinel says `failover_in_progress` before it tells the replica, and until it names it.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_config::{HostPort, Topology};
use redis::{Value, cmd, from_redis_value};
use tokio::time::sleep;

use super::Shared;
use super::dial::{Dialler, Server};

/// What a primary's writer knows of its replicas and of who may succeed it.
pub(super) struct Succession {
    dialler: Dialler,
    sentinels: Vec<HostPort>,
    master: String,
    primary: HostPort,
    within: Duration,
    /// Replicas that were connected when that was last in order; `None` until it has been seen once.
    replicas: Option<usize>,
}

/// What a Sentinel says of a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Stays,
    Goes,
    Nothing,
}

impl Succession {
    /// `None` where no Sentinels name the primary.
    pub(super) fn of(shared: &Shared, primary: &HostPort) -> Option<Self> {
        let Topology::Sentinel { sentinels, master } = &shared.settings.topology else {
            return None;
        };
        Some(Self {
            dialler: shared.dialler.clone(),
            sentinels: sentinels.clone(),
            master: master.clone(),
            primary: primary.clone(),
            within: shared.settings.connect_timeout,
            replicas: None,
        })
    }

    /// How many replicas `WAIT` is to wait for, where `least` have to acknowledge.
    pub(super) fn wanted(&self, least: u8) -> u8 {
        least.max(u8::try_from(self.replicas.unwrap_or(0)).unwrap_or(u8::MAX))
    }

    /// Whether what `acknowledged` replicas have lasts, where `role` is what the primary says of itself
    /// afterwards.
    pub(super) async fn lasts(&mut self, acknowledged: i64, role: Option<&Value>) -> bool {
        let connected = connected(role);
        if let Some(known) = self.replicas.filter(|known| has_all(acknowledged, *known)) {
            self.replicas = Some(known.max(connected));
            return true;
        }
        // On a new connection too: the one that is to be the primary may have gone before it was counted.
        let stays = self.stays().await;
        if stays {
            self.replicas = Some(connected);
        } else {
            tracing::warn!(address = %self.primary, "redis is about to have another primary");
        }
        stays
    }

    /// Whether no Sentinel is about to name another primary.
    async fn stays(&self) -> bool {
        let says = self.ask().await;
        if says.contains(&Says::Goes) || !is_most(&says) {
            return false;
        }
        if !says.contains(&Says::Nothing) {
            return true;
        }
        // One that cannot be asked may know better. If it does, the others hear of it meanwhile.
        sleep(TOLD_WITHIN).await;
        let says = self.ask().await;
        !says.contains(&Says::Goes) && is_most(&says)
    }

    async fn ask(&self) -> Vec<Says> {
        join_all(self.sentinels.iter().map(|sentinel| self.ask_one(sentinel))).await
    }

    async fn ask_one(&self, sentinel: &HostPort) -> Says {
        let Ok(connection) = self.dialler.dial(sentinel, Server::Sentinel, None).await else {
            return Says::Nothing;
        };
        let mut command = cmd("SENTINEL");
        command.arg("MASTER").arg(&self.master);
        let reply = connection.ask(&command, self.within).await;
        connection.close();
        match reply {
            Ok(reply) => understand(reply, &self.primary),
            Err(_) => Says::Nothing,
        }
    }
}

/// Whether every replica that was known has acknowledged.
fn has_all(acknowledged: i64, known: usize) -> bool {
    usize::try_from(acknowledged).unwrap_or(0) >= known
}

fn is_most(says: &[Says]) -> bool {
    says.iter().filter(|says| **says == Says::Stays).count() * 2 > says.len()
}

/// Reads the answer to `SENTINEL MASTER`: names and values.
fn understand(reply: Value, primary: &HostPort) -> Says {
    let Ok(fields) = from_redis_value::<HashMap<String, String>>(reply) else {
        return Says::Nothing;
    };
    let field = |name: &str| fields.get(name).map_or("", String::as_str);
    let same = field("ip") == primary.host && field("port") == primary.port.to_string();
    let flags = field("flags");
    if same && !flags.contains("failover_in_progress") { Says::Stays } else { Says::Goes }
}

/// Replicas in the answer to `ROLE` of a primary: `["master", offset, [replica, …]]`.
fn connected(role: Option<&Value>) -> usize {
    match role {
        Some(Value::Array(role)) => match role.get(2) {
            Some(Value::Array(replicas)) => replicas.len(),
            _ => 0,
        },
        _ => 0,
    }
}

/// Longer than Sentinels take to tell one another, which they do every two seconds.
const TOLD_WITHIN: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn master(ip: &str, port: &str, flags: &str) -> Value {
        let fields = ["name", "m", "ip", ip, "port", port, "flags", flags];
        Value::Array(fields.map(text).to_vec())
    }

    #[test]
    fn a_primary_stays_unless_a_failover_is_under_way_or_another_one_is_named() {
        let primary = HostPort { host: "10.0.0.1".into(), port: 6379 };
        let cases = [
            (master("10.0.0.1", "6379", "master"), Says::Stays),
            (master("10.0.0.1", "6379", "master,failover_in_progress"), Says::Goes),
            (master("10.0.0.2", "6379", "master"), Says::Goes),
            (master("10.0.0.1", "6380", "master"), Says::Goes),
            (Value::Int(1), Says::Nothing),
        ];
        for (reply, expected) in cases {
            assert_eq!(understand(reply.clone(), &primary), expected, "{reply:?}");
        }
    }

    #[test]
    fn most_have_to_say_so_and_replicas_are_counted() {
        use Says::{Nothing, Stays};
        assert!(is_most(&[Stays, Stays, Nothing]));
        assert!(!is_most(&[Stays, Nothing, Nothing]));
        let role = Value::Array(vec![
            text("master"),
            Value::Int(7),
            Value::Array(vec![Value::Array(vec![]), Value::Array(vec![])]),
        ]);
        assert_eq!(connected(Some(&role)), 2);
        assert_eq!(connected(Some(&Value::Nil)), 0);
        assert_eq!(connected(None), 0);
    }
}
