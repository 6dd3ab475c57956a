//! A Redis under the nodes: real processes with the settings that the project ships, and a switch on
//! every connection to them.
//!
//! Each process is known by the address of a proxy (`links`), also to its own kind: a replica finds its
//! primary there, and a Sentinel tells nodes of it by that address. So the primary can be cut off from
//! everybody, from the nodes alone, or with the nodes from the rest. Sentinels are reached directly.
//! Each process of Redis connects from an address of its own, whatever does not is a node.

pub(crate) mod faults;
mod process;
pub(crate) mod resp;
pub(crate) mod topology;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_tests::ports::free_address;
use process::Member;
use resp::Value;

use crate::links::{Links, Port, Weather};
use crate::{Error, PATIENCE};

/// Where the nodes keep sessions and the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// In the cluster itself.
    Replicated,
    /// One Redis.
    Redis,
    /// A primary with two replicas and three Sentinels.
    Sentinel,
    /// Three primaries with a replica each.
    Cluster,
}

/// The name under which the Sentinels know the primary.
const MASTER: &str = "holdfast";

/// Whom the nodes are to Redis.
pub(crate) const USER: &str = "holdfast";
pub(crate) const PASSWORD: &str = "a-password-of-drills";

/// The nodes, as a party of the links, and the first server.
const NODE: usize = 0;
const FIRST: usize = 1;

/// A running Redis. Dropping it kills all of it.
pub(crate) struct Redis {
    pub(crate) kind: Kind,
    pub(crate) servers: Vec<Member>,
    pub(crate) sentinels: Vec<Member>,
    pub(crate) links: Arc<Links>,
}

// === impl Kind ===

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Replicated => "replicated",
            Self::Redis => "redis",
            Self::Sentinel => "sentinel",
            Self::Cluster => "redis-cluster",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        let all = [Self::Replicated, Self::Redis, Self::Sentinel, Self::Cluster];
        all.into_iter().find(|kind| kind.name() == name)
    }

    /// Servers, and Sentinels.
    fn size(self) -> (usize, usize) {
        match self {
            Self::Replicated => (0, 0),
            Self::Redis => (1, 0),
            Self::Sentinel => (3, 3),
            Self::Cluster => (6, 0),
        }
    }

    /// Whether another server takes a lost primary's place.
    pub(crate) fn fails_over(self) -> bool {
        matches!(self, Self::Sentinel | Self::Cluster)
    }
}

// === impl Redis ===

impl Redis {
    /// Starts all of it. `plain` leaves out what keeps acknowledged writes: a drill has to see the
    /// losses that come of it. `None` where the nodes need none.
    ///
    /// # Errors
    /// When a process does not start, or they do not find each other.
    pub(crate) async fn start(
        kind: Kind,
        plain: bool,
        folder: &Path,
    ) -> Result<Option<Self>, Error> {
        if kind == Kind::Replicated {
            return Ok(None);
        }
        fs::create_dir_all(folder)?;
        let mut redis = Self::prepare(kind, plain, folder)?;
        for at in 0..redis.servers.len() {
            redis.start_server(at).await?;
        }
        if kind == Kind::Cluster {
            topology::join_cluster(&redis.servers).await?;
        }
        // A Sentinel finds the replicas by asking the primary, every ten seconds.
        redis.until_whole(false).await?;
        for sentinel in &mut redis.sentinels {
            sentinel.start().await?;
            if crate::HURRY {
                topology::hurry(sentinel).await?;
            }
        }
        redis.until_whole(true).await?;
        Ok(Some(redis))
    }

    /// The section by which nodes get past the Sentinels.
    pub(crate) fn section(&self, plain: bool) -> String {
        let mut keys = Vec::new();
        if self.kind == Kind::Sentinel {
            keys.push(format!("sentinel_username: {USER}, sentinel_password: {PASSWORD}"));
        }
        if plain {
            keys.push("replicas_to_acknowledge: 0, allow_unsafe: true".into());
        }
        match keys.is_empty() {
            true => String::new(),
            false => format!("sessions: {{ redis: {{ {} }} }}\n", keys.join(", ")),
        }
    }

    fn prepare(kind: Kind, plain: bool, folder: &Path) -> Result<Self, Error> {
        let (servers, sentinels) = kind.size();
        let wanted = topology::Wanted::read(kind, plain)?;
        let (mut members, mut links) = (Vec::new(), Vec::new());
        for at in 0..servers {
            let (real, known) = (free_address()?, free_address()?);
            links.push(Port { party: FIRST + at, known, real });
            let mut own = Vec::new();
            if kind == Kind::Cluster {
                let (bus, known_bus) = (free_address()?, free_address()?);
                links.push(Port { party: FIRST + at, known: known_bus, real: bus });
                own.extend(topology::cluster(known, bus, known_bus));
            }
            let first = members.first().map(|first: &Member| first.known);
            members.push(wanted.server(at, (real, known), first, own, folder)?);
        }
        let primary = members.first().map(|first| first.known).ok_or("no servers")?;
        let mut watchers = Vec::new();
        for at in 0..sentinels {
            watchers.push(wanted.sentinel(at, free_address()?, primary, folder)?);
        }
        let own = members.iter().chain(&watchers).map(|member| member.source);
        let links = Links::with_sources(
            [IpAddr::from(Ipv4Addr::LOCALHOST)].into_iter().chain(own).collect(),
            links,
        );
        Ok(Self { kind, servers: members, sentinels: watchers, links })
    }

    /// What a node is told: the value of `SESSION_STORE_URL`.
    pub(crate) fn url(&self) -> String {
        let list = |members: &[Member]| {
            let each = members.iter().map(|member| member.known.to_string());
            each.collect::<Vec<_>>().join(",")
        };
        let login = self.servers.first().and_then(|server| server.login.as_ref());
        let login =
            login.map_or_else(String::new, |(user, password)| format!("{user}:{password}@"));
        match self.kind {
            Kind::Sentinel => {
                format!("redis+sentinel://{login}{}/{MASTER}", list(&self.sentinels))
            }
            Kind::Cluster => format!("redis+cluster://{login}{}", list(&self.servers)),
            Kind::Redis | Kind::Replicated => format!("redis://{login}{}/0", list(&self.servers)),
        }
    }

    /// Starts a server with the data that it had.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) async fn start_server(&mut self, at: usize) -> Result<(), Error> {
        self.servers[at].start().await?;
        self.links.up(FIRST + at).await
    }

    /// `kill -9` of a server; its port refuses.
    ///
    /// # Errors
    /// When it was not there.
    pub(crate) fn kill_server(&mut self, at: usize) -> Result<(), Error> {
        self.servers[at].kill()?;
        self.links.down(FIRST + at);
        Ok(())
    }

    /// Stops, or delays, all that a server and the others tell each other.
    pub(crate) fn set(&self, server: usize, parties: &[usize], weather: Weather) {
        for party in parties {
            self.links.set(FIRST + server, *party, weather);
            self.links.set(*party, FIRST + server, weather);
        }
    }

    /// All servers but this one, and all Sentinels, as parties of the links.
    pub(crate) fn others(&self, but: usize) -> Vec<usize> {
        let all = FIRST..FIRST + self.servers.len() + self.sentinels.len();
        all.filter(|party| *party != FIRST + but).collect()
    }

    /// The server that is primary now: of the shard that `key` is in, where there are several. By what
    /// most Sentinels say, where there are any, and by what it says itself.
    pub(crate) async fn primary(&self) -> Option<usize> {
        if self.kind != Kind::Sentinel {
            for (at, server) in self.servers.iter().enumerate() {
                if topology::role(server).await.as_deref() == Some("master") {
                    return Some(at);
                }
            }
            return None;
        }
        let mut votes = vec![0; self.servers.len()];
        for sentinel in &self.sentinels {
            let named = sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]).await;
            let Ok(Value::Many(named)) = named else { continue };
            let port = named.get(1).and_then(Value::number);
            let of = |server: &Member| Some(i64::from(server.known.port())) == port;
            if let Some(at) = self.servers.iter().position(of) {
                votes[at] += 1;
            }
        }
        votes.iter().position(|votes| *votes * 2 > self.sentinels.len())
    }

    /// Waits until there is one primary that all agree on, with all its replicas behind it.
    ///
    /// # Errors
    /// When that does not come.
    pub(crate) async fn settled(&self) -> Result<(), Error> {
        self.until_whole(true).await
    }

    async fn until_whole(&self, sentinels: bool) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let missing = match self.kind {
                Kind::Cluster => topology::cluster_lacks(&self.servers).await,
                _ => self.lacks(sentinels).await,
            };
            let Some(why) = missing else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(format!("Redis is not whole within {PATIENCE:?}: {why}").into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn lacks(&self, sentinels: bool) -> Option<String> {
        let primary = match sentinels {
            true => self.primary().await,
            false => Some(0),
        };
        let Some(primary) = primary else { return Some("there is no primary".into()) };
        for (at, server) in self.servers.iter().enumerate() {
            let role = topology::role(server).await;
            let wanted = if at == primary { "master" } else { "slave" };
            if role.as_deref() != Some(wanted) {
                return Some(format!("{} is {role:?} and should be {wanted}", server.name));
            }
        }
        let replicas = self.servers.len() - 1;
        let online = topology::replicas_online(&self.servers[primary]).await;
        if online < replicas {
            let name = &self.servers[primary].name;
            return Some(format!("{online} of {replicas} replicas of {name} are online"));
        }
        if sentinels {
            for sentinel in &self.sentinels {
                if let Some(why) = topology::sentinel_lacks(sentinel, self.sentinels.len()).await {
                    return Some(why);
                }
            }
        }
        None
    }

    /// What died although nobody killed it.
    pub(crate) fn dead(&mut self) -> Option<String> {
        self.servers.iter_mut().chain(&mut self.sentinels).find_map(Member::died)
    }
}
