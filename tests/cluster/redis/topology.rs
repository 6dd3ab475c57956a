//! What makes processes a primary with replicas, watched by Sentinels, or a Redis Cluster; and how to
//! see that they are.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use super::process::{Member, PASSWORD, Role, Setting};
use super::resp::Value;
use super::{Kind, MASTER};
use crate::{Error, PATIENCE};

/// The shipped settings, and what becomes of them here.
pub(super) struct Wanted {
    kind: Kind,
    plain: bool,
    server: String,
    sentinel: String,
    /// What the nodes may do at a server, and at a Sentinel.
    users: (String, String),
}

// === impl Wanted ===

impl Wanted {
    /// # Errors
    /// When the shipped files are not there.
    pub(super) fn read(kind: Kind, plain: bool) -> Result<Self, Error> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../redis");
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(|error| format!("read {}: {error}", path.display()))
        };
        let (server, sentinel) = (read("redis.conf")?, read("sentinel.conf")?);
        let start = read("start.sh")?;
        let mut users =
            start.split("user holdfast on >$HOLDFAST_REDIS_PASSWORD").skip(1).map(rights);
        let (Some(at_servers), Some(at_sentinels)) = (users.next(), users.next()) else {
            return Err("redis/start.sh has another form than the drills know".into());
        };
        let users = (user(&at_servers), user(&at_sentinels));
        Ok(Self { kind, plain, server, sentinel, users })
    }

    pub(super) fn server(
        &self,
        at: usize,
        (real, known): (SocketAddr, SocketAddr),
        first: Option<SocketAddr>,
        mut own: Vec<Setting>,
        folder: &Path,
    ) -> Result<Member, Error> {
        own.extend([
            ("replica-announce-ip", known.ip().to_string()),
            ("replica-announce-port", known.port().to_string()),
            ("masterauth", PASSWORD.into()),
            ("user", self.users.0.clone()),
        ]);
        let replicates = first.filter(|_| self.kind == Kind::Sentinel);
        let primary =
            replicates.map_or_else(String::new, |it| format!("{} {}", it.ip(), it.port()));
        own.push(("replicaof", primary));
        // One Redis alone could not take a single write with it.
        if self.plain || self.kind == Kind::Redis {
            own.push(("min-replicas-to-write", "0".into()));
        }
        if self.plain {
            own.extend([("appendfsync", "everysec".into()), ("min-replicas-max-lag", "10".into())]);
        }
        let name = format!("redis-{}", at + 1);
        Member::new(&name, Role::Data, (real, known), source(1, at), folder, &self.server, own)
    }

    pub(super) fn sentinel(
        &self,
        at: usize,
        address: SocketAddr,
        primary: SocketAddr,
        folder: &Path,
    ) -> Result<Member, Error> {
        let own = vec![
            ("sentinel monitor", format!("{MASTER} {} {} 2", primary.ip(), primary.port())),
            ("sentinel auth-pass", format!("{MASTER} {PASSWORD}")),
            ("sentinel sentinel-pass", PASSWORD.into()),
            ("user", self.users.1.clone()),
            ("sentinel announce-ip", address.ip().to_string()),
            ("sentinel announce-port", address.port().to_string()),
        ];
        let name = format!("sentinel-{}", at + 1);
        let real = (address, address);
        Member::new(&name, Role::Sentinel, real, source(2, at), folder, &self.sentinel, own)
    }
}

/// An address of the machine from which nobody else connects.
fn source(kind: u8, at: usize) -> IpAddr {
    IpAddr::from([127, 0, kind, u8::try_from(at + 1).unwrap_or(u8::MAX)])
}

/// The rights of a user, from the text behind its password up to the end of that command.
fn rights(text: &str) -> String {
    let whole: Vec<&str> = text.split('"').collect();
    let mut rights = String::new();
    for (at, piece) in whole.iter().enumerate() {
        // Outside of the quotes there is what goes on to the next line, or the end.
        if at % 2 == 1 && piece.trim() != "\\" {
            break;
        }
        if at % 2 == 0 {
            rights.push_str(piece);
            rights.push(' ');
        }
    }
    rights.trim_end().to_owned()
}

fn user(rights: &str) -> String {
    format!("{} on >{}{rights}", super::USER, super::PASSWORD)
}

/// Lets a Sentinel look round more often than every few seconds: tests wait for it to have seen all.
/// When it finds a primary down and fails over is as it is without.
pub(super) async fn hurry(sentinel: &Member) -> Result<(), Error> {
    for (period, ms) in [("INFO-PERIOD", "500"), ("PUBLISH-PERIOD", "500")] {
        sentinel.ask(&["SENTINEL", "DEBUG", period, ms]).await?;
    }
    Ok(())
}

/// What a server of a Redis Cluster needs beside its ports.
pub(super) fn cluster(known: SocketAddr, bus: SocketAddr, known_bus: SocketAddr) -> Vec<Setting> {
    vec![
        ("cluster-enabled", "yes".into()),
        ("cluster-config-file", "nodes.conf".into()),
        ("cluster-node-timeout", "2000".into()),
        ("cluster-port", bus.port().to_string()),
        ("cluster-announce-ip", known.ip().to_string()),
        ("cluster-announce-port", known.port().to_string()),
        ("cluster-announce-bus-port", known_bus.port().to_string()),
    ]
}

/// Makes one cluster of six servers: the first three are primaries, each of the rest replicates one.
pub(super) async fn join_cluster(servers: &[Member]) -> Result<(), Error> {
    const SLOTS: usize = 16_384;
    let primaries = servers.len() / 2;
    for (at, server) in servers.iter().enumerate() {
        server.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]).await?;
    }
    let first = servers.first().ok_or("no servers")?;
    for server in servers.iter().skip(1) {
        let bus = announced_bus(server).await?;
        let (ip, port) = (server.known.ip().to_string(), server.known.port().to_string());
        first.ask(&["CLUSTER", "MEET", &ip, &port, &bus]).await?;
    }
    for (at, server) in servers.iter().take(primaries).enumerate() {
        let (from, to) = (SLOTS * at / primaries, SLOTS * (at + 1) / primaries - 1);
        server.ask(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]).await?;
    }
    for (at, server) in servers.iter().skip(primaries).enumerate() {
        let of = servers[at].ask(&["CLUSTER", "MYID"]).await?;
        let deadline = Instant::now() + PATIENCE;
        // It has to have heard of its primary first.
        while let Err(error) = server.ask(&["CLUSTER", "REPLICATE", of.text()]).await {
            if Instant::now() > deadline {
                return Err(format!("{} replicates nobody: {error}", server.name).into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

async fn announced_bus(server: &Member) -> Result<String, Error> {
    let setting = server.ask(&["CONFIG", "GET", "cluster-announce-bus-port"]).await?;
    let value = setting.many().get(1).ok_or("no announced bus port")?;
    Ok(value.text().to_owned())
}

/// `master` or `slave`, as it says itself.
pub(crate) async fn role(server: &Member) -> Option<String> {
    let answer = server.ask(&["ROLE"]).await.ok()?;
    Some(answer.many().first()?.text().to_owned())
}

/// How many replicas have all that a primary has.
pub(super) async fn replicas_online(primary: &Member) -> usize {
    let Ok(info) = primary.ask(&["INFO", "replication"]).await else { return 0 };
    info.text()
        .lines()
        .filter(|line| line.starts_with("slave") && line.contains("state=online"))
        .count()
}

/// What a Sentinel does not know yet: two replicas, and the other Sentinels.
pub(super) async fn sentinel_lacks(sentinel: &Member, of: usize) -> Option<String> {
    let name = &sentinel.name;
    let Ok(master) = sentinel.ask(&["SENTINEL", "MASTER", MASTER]).await else {
        return Some(format!("{name} does not answer"));
    };
    let field = |wanted: &str| {
        let at = master.many().iter().step_by(2).position(|name| name.text() == wanted)?;
        Some(master.many().get(at * 2 + 1)?.text().to_owned())
    };
    let known = |wanted: &str| field(wanted).and_then(|it| it.parse::<usize>().ok());
    if known("num-other-sentinels") != Some(of - 1) || known("num-slaves") != Some(2) {
        return Some(format!("{name} does not know all of them"));
    }
    let flags = field("flags").unwrap_or_default();
    if flags != "master" {
        return Some(format!("{name} sees the primary as {flags}"));
    }
    let Ok(Value::Many(replicas)) = sentinel.ask(&["SENTINEL", "REPLICAS", MASTER]).await else {
        return Some(format!("{name} names no replicas"));
    };
    for replica in &replicas {
        let flags = replica.many().iter().position(|it| it.text() == "flags");
        let flags = flags.and_then(|at| replica.many().get(at + 1)).map(Value::text);
        if flags != Some("slave") {
            return Some(format!("{name} sees a replica as {flags:?}"));
        }
    }
    None
}

/// What keeps a Redis Cluster from being whole.
pub(super) async fn cluster_lacks(servers: &[Member]) -> Option<String> {
    let mut primaries = 0;
    for server in servers {
        let Ok(info) = server.ask(&["CLUSTER", "INFO"]).await else {
            return Some(format!("{} does not answer", server.name));
        };
        let known = info.field("cluster_known_nodes").and_then(|it| it.parse::<usize>().ok());
        if info.field("cluster_state") != Some("ok") || known != Some(servers.len()) {
            return Some(format!("{} does not see a whole cluster", server.name));
        }
        let Ok(nodes) = server.ask(&["CLUSTER", "NODES"]).await else {
            return Some(format!("{} names no nodes", server.name));
        };
        if nodes.text().contains("fail") {
            return Some(format!("{} sees a failure", server.name));
        }
        if role(server).await.as_deref() == Some("master") {
            primaries += 1;
            if replicas_online(server).await == 0 {
                return Some(format!("{} has no replica", server.name));
            }
        }
    }
    (primaries * 2 != servers.len()).then(|| format!("there are {primaries} primaries"))
}
