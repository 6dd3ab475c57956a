//! Whether a replica is missing because the Sentinels make it the primary.
//!
//! `WAIT` counts any replica. While a failover by command is under way the old primary lives and has
//! the other replicas: those acknowledge what the one that is promoted never sees. So a write lasts
//! only if *every* replica that was there has it, or if no Sentinel is about to put one in this
//! primary's place. (When a primary is gone the Sentinels take the replica that is furthest, and one
//! acknowledgement is enough.)
//!
//! A Sentinel says `failover_in_progress` before it tells the replica, and until it names it. Then it tells the
//! other Sentinels, which name the old primary for up to two seconds more: under a lower configuration epoch.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_config::{HostPort, Topology};
use redis::{Pipeline, Value, from_redis_value};
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

/// What a Sentinel says of the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    /// It names the one that is written to as the primary.
    ours: bool,
    /// And is about to replace it.
    failing_over: bool,
    /// Of the failover that made the one that it names the primary: later ones have higher numbers.
    epoch: u64,
}

/// What that comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Stays,
    Goes,
    /// It names one that ours has replaced: it has not been told yet.
    Behind,
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
        let could = |says: &&Says| matches!(says, Says::Stays | Says::Behind);
        if says.contains(&Says::Goes) || !is_most(&says, could) {
            return false;
        }
        let stays = |says: &&Says| **says == Says::Stays;
        if says.iter().all(|says| stays(&says)) {
            return true;
        }
        // One that cannot be asked may know better. If it does, the others hear of it meanwhile.
        sleep(TOLD_WITHIN).await;
        let says = self.ask().await;
        !says.contains(&Says::Goes) && is_most(&says, stays)
    }

    async fn ask(&self) -> Vec<Says> {
        understand(&join_all(self.sentinels.iter().map(|sentinel| self.ask_one(sentinel))).await)
    }

    async fn ask_one(&self, sentinel: &HostPort) -> Option<Said> {
        let connection = self.dialler.dial(sentinel, Server::Sentinel, None).await.ok()?;
        let mut commands = Pipeline::with_capacity(2);
        commands.cmd("SENTINEL").arg("MASTER").arg(&self.master);
        commands.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master);
        let replies = connection.ask_all(&commands, self.within).await;
        connection.close();
        let [master, named]: [Value; 2] = replies.ok()?.try_into().ok()?;
        read(master, named, &self.primary)
    }
}

/// Whether every replica that was known has acknowledged.
fn has_all(acknowledged: i64, known: usize) -> bool {
    usize::try_from(acknowledged).unwrap_or(0) >= known
}

fn is_most(says: &[Says], which: impl Fn(&&Says) -> bool) -> bool {
    says.iter().filter(which).count() * 2 > says.len()
}

/// Reads the answers to `SENTINEL MASTER`, names and values, and to who is the primary. In the middle of a
/// failover they differ: the second names the one that has been promoted, the first the one before.
fn read(master: Value, named: Value, primary: &HostPort) -> Option<Said> {
    let fields = from_redis_value::<HashMap<String, String>>(master).ok()?;
    let (host, port) = from_redis_value::<(String, String)>(named).ok()?;
    let field = |name: &str| fields.get(name).map_or("", String::as_str);
    let is_ours = |host: &str, port: &str| host == primary.host && port == primary.port.to_string();
    Some(Said {
        ours: is_ours(&host, &port),
        failing_over: is_ours(field("ip"), field("port"))
            && field("flags").contains("failover_in_progress"),
        epoch: field("config-epoch").parse().ok()?,
    })
}

fn understand(said: &[Option<Said>]) -> Vec<Says> {
    let ours = said.iter().flatten().filter(|said| said.ours && !said.failing_over);
    let epoch = ours.map(|said| said.epoch).max();
    let one = |said: &Option<Said>| match said {
        None => Says::Nothing,
        Some(said) if said.failing_over => Says::Goes,
        Some(said) if said.ours => Says::Stays,
        Some(said) if epoch.is_some_and(|epoch| said.epoch < epoch) => Says::Behind,
        Some(_) => Says::Goes,
    };
    said.iter().map(one).collect()
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

    /// The answers of a Sentinel with this primary, and what it names as the primary.
    fn replies(port: &str, flags: &str, epoch: &str, named: &str) -> (Value, Value) {
        let host = "10.0.0.1";
        let fields = ["name", "m", "ip", host, "port", port, "flags", flags, "config-epoch", epoch];
        let list = |texts: &[&str]| Value::Array(texts.iter().copied().map(text).collect());
        (list(&fields), list(&[host, named]))
    }

    #[test]
    fn a_primary_stays_unless_a_failover_is_under_way_or_a_later_one_is_named() {
        const FAILING: &str = "master,failover_in_progress";
        let primary = HostPort { host: "10.0.0.1".into(), port: 6379 };
        let ours = || replies("6379", "master", "4", "6379");
        let cases = [
            (ours(), Says::Stays),
            (replies("6379", FAILING, "4", "6379"), Says::Goes),
            // The replica has been promoted, and the others are yet to be told.
            (replies("6379", FAILING, "5", "6380"), Says::Goes),
            (replies("6380", "master", "5", "6380"), Says::Goes),
            // It is ours that was promoted.
            (replies("6380", FAILING, "4", "6379"), Says::Stays),
            // The one before ours, as is told within two seconds.
            (replies("6380", "master", "3", "6380"), Says::Behind),
            ((Value::Int(1), Value::Nil), Says::Nothing),
        ];
        for ((master, named), expected) in cases {
            let said = read(master.clone(), named, &primary);
            let (master_of_ours, named_of_ours) = ours();
            let says = understand(&[read(master_of_ours, named_of_ours, &primary), said]);
            assert_eq!(says, [Says::Stays, expected], "{master:?}");
        }
    }

    #[test]
    fn most_have_to_say_so_and_replicas_are_counted() {
        use Says::{Nothing, Stays};
        let stays = |says: &&Says| **says == Stays;
        assert!(is_most(&[Stays, Stays, Nothing], stays));
        assert!(!is_most(&[Stays, Nothing, Nothing], stays));
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
