//! Where the primaries are, and which slots each of them has.

use std::collections::HashMap;
use std::time::Duration;

use holdfast_config::{HostPort, Topology};
use redis::{Value, cmd};

use super::Shared;
use super::dial::{Connection, Dialler, Server};
use super::failure::{self, Unusable};
use super::keys::{Bucket, Names, SLOTS};
use super::sentinels::Sentinels;

/// A primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) address: HostPort,
    /// First and last slot.
    pub(super) slots: Vec<(u16, u16)>,
}

impl Target {
    pub(super) fn has(&self, slot: u16) -> bool {
        self.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
    }

    /// The buckets that are in its slots.
    pub(super) fn buckets<'a>(&'a self, names: &'a Names) -> impl Iterator<Item = Bucket> + 'a {
        Bucket::all().filter(|bucket| self.has(names.slot(*bucket)))
    }
}

/// Asks whoever knows.
pub(super) enum Finder {
    /// Nobody: there is one server.
    One(HostPort),
    Sentinels(Sentinels),
    Cluster(Nodes),
}

/// The nodes of a cluster.
pub(super) struct Nodes {
    configured: Vec<HostPort>,
    dialler: Dialler,
    within: Duration,
    /// Connections to those that were asked.
    open: HashMap<HostPort, Connection>,
    /// Who is asked first. It changes, so that a node that is cut off from the others and does not know it is
    /// not the only one that is heard.
    turn: usize,
}

impl Finder {
    pub(super) fn new(shared: &Shared) -> Self {
        let settings = &shared.settings;
        match &settings.topology {
            Topology::Standalone(address) => Self::One(address.clone()),
            Topology::Sentinel { sentinels, master } => {
                Self::Sentinels(Sentinels::new(shared, sentinels, master))
            }
            Topology::Cluster { nodes } => Self::Cluster(Nodes {
                configured: nodes.clone(),
                dialler: shared.dialler.clone(),
                within: settings.command_timeout.min(settings.connect_timeout),
                open: HashMap::new(),
                turn: 0,
            }),
        }
    }

    /// The primaries as they are now. Never empty.
    ///
    /// # Errors
    /// That nobody who knows can be reached, or that the configuration is wrong.
    pub(super) async fn find(&mut self) -> Result<Vec<Target>, Unusable> {
        match self {
            Self::One(address) => Ok(vec![whole(address.clone())]),
            Self::Sentinels(sentinels) => ask_sentinels(sentinels).await,
            Self::Cluster(nodes) => nodes.ask().await,
        }
    }
}

/// Which primary most of the Sentinels name.
async fn ask_sentinels(sentinels: &mut Sentinels) -> Result<Vec<Target>, Unusable> {
    let answers = sentinels.ask_patiently([NAMED]).await;
    let mut votes: Vec<(HostPort, usize)> = Vec::new();
    let mut refused = None;
    for (sentinel, answer) in sentinels.addresses().zip(answers) {
        match answer.and_then(|[reply]| named(reply, sentinel, sentinels.master())) {
            Ok(address) => match votes.iter_mut().find(|(other, _)| *other == address) {
                Some((_, votes)) => *votes += 1,
                None => votes.push((address, 1)),
            },
            // What is wrong is said rather than what is away.
            Err(error) => match &refused {
                Some(Unusable::Wrong(_)) => {}
                _ => refused = Some(error),
            },
        }
    }
    // One that was cut off may still name the old one: most decide, and its role is checked.
    match votes.into_iter().max_by_key(|(_, votes)| *votes) {
        Some((address, _)) => Ok(vec![whole(address)]),
        None => Err(refused.unwrap_or_else(|| Unusable::Away("there is no Sentinel".into()))),
    }
}

impl Nodes {
    async fn ask(&mut self) -> Result<Vec<Target>, Unusable> {
        let mut candidates = self.configured.clone();
        for known in self.open.keys() {
            if !candidates.contains(known) {
                candidates.push(known.clone());
            }
        }
        self.turn = self.turn.wrapping_add(1);
        let first = self.turn % candidates.len().max(1);
        candidates.rotate_left(first);
        let mut refused = None;
        for node in candidates {
            let open = self.open.remove(&node).filter(|open| !open.is_lost());
            let connection = match open {
                Some(connection) => Ok(connection),
                None => self.dialler.dial(&node, Server::Data, None).await,
            };
            let found = match &connection {
                Ok(connection) => ask_node(connection, &node, self.within).await,
                Err(error) => Err(error.clone()),
            };
            match (found, connection) {
                (Ok(targets), Ok(connection)) => {
                    self.open.insert(node, connection);
                    return Ok(targets);
                }
                (Err(error), _) => match &refused {
                    Some(Unusable::Wrong(_)) => {}
                    _ => refused = Some(error),
                },
                (Ok(_), Err(error)) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or_else(|| Unusable::Away("there is no node".into())))
    }
}

fn whole(address: HostPort) -> Target {
    Target { address, slots: vec![(0, SLOTS - 1)] }
}

/// Reads whom a Sentinel names.
fn named(reply: Value, sentinel: &HostPort, master: &str) -> Result<HostPort, Unusable> {
    match reply {
        Value::Nil => Err(Unusable::Wrong(format!(
            "the Sentinel {sentinel} watches no master of the name \"{master}\" (the end of the \
             URL, or sessions.redis.sentinel.master)"
        ))),
        Value::ServerError(error) => {
            let text = failure::text(&error);
            Err(if text.to_ascii_lowercase().contains("unknown command") {
                Unusable::Wrong(format!(
                    "{sentinel} is no Sentinel: give a Redis as redis://{sentinel}"
                ))
            } else {
                Unusable::Away(format!("{sentinel}: {text}"))
            })
        }
        reply => {
            let named: Result<(String, u16), _> = redis::from_redis_value(reply);
            let (host, port) =
                named.map_err(|error| Unusable::Away(format!("{sentinel}: {error}")))?;
            Ok(HostPort { host, port })
        }
    }
}

async fn ask_node(
    connection: &Connection,
    node: &HostPort,
    within: Duration,
) -> Result<Vec<Target>, Unusable> {
    let mut command = cmd("CLUSTER");
    command.arg("SLOTS");
    let reply = connection.ask(&command, within).await;
    match reply.map_err(|error| Unusable::Away(format!("{node}: {}", error.reason())))? {
        Value::ServerError(error) => {
            let text = failure::text(&error);
            Err(if text.contains("cluster support disabled") {
                Unusable::Wrong(format!(
                    "{node} is no node of a Redis Cluster: give it as redis://{node}"
                ))
            } else if text.to_ascii_lowercase().contains("unknown") {
                Unusable::Wrong(format!(
                    "{node} is no node of a Redis Cluster ({text}): a Sentinel is given as \
                     redis+sentinel://{node}/NAME"
                ))
            } else {
                Unusable::Away(format!("{node}: {text}"))
            })
        }
        reply => {
            let targets = targets(reply, node)
                .ok_or_else(|| Unusable::Away(format!("{node}: its slots cannot be read")))?;
            let covered: u32 = targets
                .iter()
                .flat_map(|target| &target.slots)
                .map(|(first, last)| u32::from(last.saturating_sub(*first)) + 1)
                .sum();
            if covered < u32::from(SLOTS) {
                return Err(Unusable::Away(format!(
                    "{node} knows the masters of {covered} of the cluster's {SLOTS} slots"
                )));
            }
            Ok(targets)
        }
    }
}

/// Reads `[[first, last, [host, port, …], …], …]`.
fn targets(reply: Value, asked: &HostPort) -> Option<Vec<Target>> {
    let Value::Array(ranges) = reply else { return None };
    let mut targets: Vec<Target> = Vec::new();
    for range in ranges {
        let Value::Array(range) = range else { return None };
        let mut range = range.into_iter();
        let (Value::Int(first), Value::Int(last), Value::Array(master)) =
            (range.next()?, range.next()?, range.next()?)
        else {
            return None;
        };
        let slots = (u16::try_from(first).ok()?, u16::try_from(last).ok()?);
        let mut master = master.into_iter();
        // A node that does not know its own name is reached by the one that it was asked by.
        let host = match master.next()? {
            Value::BulkString(host) if !host.is_empty() => String::from_utf8(host).ok()?,
            Value::SimpleString(host) if !host.is_empty() => host,
            _ => asked.host.clone(),
        };
        let Value::Int(port) = master.next()? else { return None };
        let address = HostPort { host, port: u16::try_from(port).ok()? };
        match targets.iter_mut().find(|target| target.address == address) {
            Some(target) => target.slots.push(slots),
            None => targets.push(Target { address, slots: vec![slots] }),
        }
    }
    targets.sort_by(|one, other| one.address.cmp(&other.address));
    Some(targets)
}

/// The question whom a Sentinel names as the primary.
pub(super) const NAMED: &str = "GET-MASTER-ADDR-BY-NAME";

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn range(first: i64, last: i64, host: &str, port: i64) -> Value {
        Value::Array(vec![
            Value::Int(first),
            Value::Int(last),
            Value::Array(vec![text(host), Value::Int(port), text("id")]),
            Value::Array(vec![text("replica"), Value::Int(9), text("id")]),
        ])
    }

    #[test]
    fn slots_are_read_and_a_nameless_node_is_the_one_asked() {
        let asked = HostPort { host: "a".into(), port: 1 };
        let reply =
            Value::Array(vec![range(0, 5, "b", 2), range(6, 9, "", 1), range(10, 11, "b", 2)]);
        let found = targets(reply, &asked).unwrap();
        let b = HostPort { host: "b".into(), port: 2 };
        assert_eq!(
            found,
            [
                Target { address: asked.clone(), slots: vec![(6, 9)] },
                Target { address: b, slots: vec![(0, 5), (10, 11)] },
            ]
        );
        assert_eq!(targets(Value::Nil, &asked), None);
        assert_eq!(targets(Value::Array(vec![Value::Int(1)]), &asked), None);
    }
}
