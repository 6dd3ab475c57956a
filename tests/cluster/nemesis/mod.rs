//! What goes wrong in a run, one fault at a time, each with the proof that it really happened.

mod front;
mod reload;
mod store;

use std::time::Duration;

use serde::Serialize;

use crate::Error;
use crate::chance::Chance;
use crate::load::ledger::Ledger;
use crate::stack::node::{Seen, View};
use crate::stack::{NODES, Stack, Together};

/// How long a killed node is away.
const DOWN: Duration = Duration::from_secs(2);
/// How long a node is frozen, or a link cut: several failover timeouts.
const FROZEN: Duration = Duration::from_secs(5);
/// Calm between two faults.
const CALM: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    /// `kill -9`, and a new process with the same data.
    Kill,
    /// The same, and the new process finds an empty data directory.
    Wipe,
    /// SIGSTOP, and SIGCONT.
    Freeze,
    /// No byte to or from the other nodes. Clients and servers still reach it.
    Cut,
    /// The others do not hear it.
    CutOut,
    /// It does not hear the others.
    CutIn,
    /// No packet to or from anybody: peers, clients, servers.
    Isolate,
    /// Everything between it and the others takes longer than a heartbeat's interval.
    Slow,
    /// SIGTERM and a new process, one node after the other.
    Rolling,
    /// A file that is no good, and then another configuration for all nodes.
    ConfigReload,
    /// `kill -9` of the Redis primary, and a new process with its data.
    RedisKill,
    /// The same, and it is back before anybody has taken its place.
    RedisRestart,
    /// `kill -9` of a replica.
    ReplicaKill,
    /// The primary hears nobody and nobody hears it.
    RedisCut,
    /// The nodes and the primary do not hear each other; its replicas and the Sentinels do.
    RedisCutNodes,
    /// The primary and the nodes are on one side, everything else of Redis on the other.
    RedisSplit,
    /// Another server is made primary by command.
    RedisFailover,
    /// `FLUSHALL`.
    RedisFlush,
    /// Every answer of Redis takes half a second more.
    RedisSlow,
    /// SIGSTOP of the primary, and SIGCONT.
    RedisFreeze,
    /// `kill -9` of all of its servers; they come back with their data.
    RedisAway,
    /// The balancer takes up a new configuration.
    FrontReload,
    /// `kill -9` of the balancer; its standby takes over.
    FrontKill,
}

/// What a fault befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Node,
    Redis,
    Front,
}

// === impl What ===

impl What {
    pub(crate) fn scope(self) -> Scope {
        match self {
            Self::Kill
            | Self::Wipe
            | Self::Freeze
            | Self::Cut
            | Self::CutOut
            | Self::CutIn
            | Self::Isolate
            | Self::Slow
            | Self::Rolling
            | Self::ConfigReload => Scope::Node,
            Self::RedisKill
            | Self::RedisRestart
            | Self::ReplicaKill
            | Self::RedisCut
            | Self::RedisCutNodes
            | Self::RedisSplit
            | Self::RedisFailover
            | Self::RedisFlush
            | Self::RedisSlow
            | Self::RedisFreeze
            | Self::RedisAway => Scope::Redis,
            Self::FrontReload | Self::FrontKill => Scope::Front,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) what: What,
    /// The coordinator, or any node.
    pub(crate) leader: bool,
}

/// A fault that has happened. Times are milliseconds since the start of the run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Incident {
    pub(crate) what: What,
    pub(crate) victim: String,
    pub(crate) was_leader: bool,
    pub(crate) from: u64,
    /// When the cause was gone.
    pub(crate) healed: u64,
    /// When all nodes were ready again and of one mind.
    pub(crate) settled: u64,
    /// How long until another node listed it as anything but ready.
    pub(crate) noticed: Option<u64>,
    /// How long until the others had another leader, where the victim was theirs.
    pub(crate) new_leader: Option<u64>,
    /// How long until another server was primary, a standby balancer took over, or all nodes ran another
    /// configuration.
    pub(crate) replaced: Option<u64>,
    /// How long until a node's readiness said that its store was away.
    pub(crate) said: Option<u64>,
    /// Whether there was no store that a node could have asked.
    pub(crate) store_away: bool,
}

// === impl Incident ===

impl Incident {
    fn new(what: What, victim: &str, ledger: &Ledger) -> Self {
        Self {
            what,
            victim: victim.to_owned(),
            was_leader: false,
            from: ledger.now(),
            healed: 0,
            settled: 0,
            noticed: None,
            new_leader: None,
            replaced: None,
            said: None,
            store_away: false,
        }
    }

    /// Whether a node without a quorum, or without its store, may have been asked: it refuses Writes
    /// and says so.
    pub(crate) fn isolates(&self) -> bool {
        let node = matches!(
            self.what,
            What::Cut | What::CutOut | What::CutIn | What::Isolate | What::Slow | What::Freeze
        );
        let redis = self.what.scope() == Scope::Redis && self.what != What::ReplicaKill;
        node || redis
    }

    /// Whether no node can use its store for a while, long enough to be told.
    pub(crate) fn takes_store_away(&self) -> bool {
        matches!(
            self.what,
            What::RedisKill
                | What::RedisCut
                | What::RedisCutNodes
                | What::RedisFreeze
                | What::RedisAway
        )
    }

    /// Whether clients lost their connections with it, and calls that nobody can answer any more.
    pub(crate) fn cuts_clients(&self) -> bool {
        self.what == What::FrontKill
    }
}

/// Lets one fault happen and waits until the cluster has recovered; with the reason where it does not.
///
/// # Errors
/// When the fault could not be brought about, or took no effect.
pub(crate) async fn strike(
    fault: Fault,
    stack: &mut Stack,
    chance: &mut Chance,
    ledger: &Ledger,
) -> Result<(Incident, Option<Error>), Error> {
    match fault.what.scope() {
        Scope::Node => {}
        Scope::Redis => return store::strike(fault.what, stack, ledger).await,
        Scope::Front => return front::strike(fault.what, stack, ledger).await,
    }
    let leader = stack.leader().await;
    let any = usize::try_from(chance.below(NODES as u64)).unwrap_or_default();
    let victim = match stack.together {
        // The only one that is used.
        Together::Independent => 0,
        Together::Cluster if fault.leader => leader.ok_or("nobody is the leader")?,
        Together::Cluster => any,
    };
    if fault.what == What::ConfigReload {
        return reload::strike(victim, stack, ledger).await;
    }
    // A node that is back before anybody has looked is back in another generation.
    let before = stack.nodes[victim].view().await;
    let generation = before.as_ref().and_then(|view| view.member(&stack.nodes[victim].name));
    let generation = generation.map(|seen| seen.generation);
    let mut incident = Incident::new(fault.what, &stack.nodes[victim].name, ledger);
    incident.was_leader = leader == Some(victim);
    match fault.what {
        What::Kill | What::Wipe => {
            stack.kill(victim)?;
            watch(stack, victim, DOWN, ledger, &mut incident, generation).await;
            if fault.what == What::Wipe {
                stack.wipe(victim)?;
            }
            stack.start_node(victim).await?;
        }
        What::Freeze => {
            stack.nodes[victim].freeze().await?;
            watch(stack, victim, FROZEN, ledger, &mut incident, generation).await;
            stack.nodes[victim].thaw()?;
        }
        What::Cut | What::CutOut | What::CutIn | What::Isolate | What::Slow => {
            let mark = stack.network.mark();
            stack.network.spoil(victim, fault.what).await?;
            watch(stack, victim, FROZEN, ledger, &mut incident, generation).await;
            let peers: Vec<_> = stack.nodes.iter().map(|node| node.cluster).collect();
            let effect = stack.network.took_effect(mark, victim, &peers);
            stack.network.heal()?;
            if !effect && stack.together == Together::Cluster {
                return Err(format!("void: nothing was held up at {}", incident.victim).into());
            }
        }
        _ => {
            incident.victim = "each".into();
            for node in 0..NODES {
                stack.stop_node(node).await?;
                stack.start_node(node).await?;
                stack.settled().await?;
            }
        }
    }
    Ok(calm(incident, stack, ledger).await)
}

/// The cause is gone: waits until everything is whole again.
async fn calm(
    mut incident: Incident,
    stack: &mut Stack,
    ledger: &Ledger,
) -> (Incident, Option<Error>) {
    incident.healed = ledger.now();
    let settled = stack.settled().await;
    incident.settled = ledger.now();
    tokio::time::sleep(CALM).await;
    (incident, settled.err())
}

/// Looks on for as long as the fault lasts, and notes when the others have drawn their conclusions.
async fn watch(
    stack: &Stack,
    victim: usize,
    lasts: Duration,
    ledger: &Ledger,
    incident: &mut Incident,
    generation: Option<u64>,
) {
    let until = tokio::time::Instant::now() + lasts;
    if stack.together == Together::Independent {
        tokio::time::sleep_until(until).await;
        return;
    }
    let name = &stack.nodes[victim].name;
    while tokio::time::Instant::now() < until {
        for view in stack.views(Some(victim)).await {
            let since = ledger.now() - incident.from;
            if incident.noticed.is_none() && is_out(&view, name, generation) {
                incident.noticed = Some(since);
            }
            let other = view.leader.as_ref().is_some_and(|leader| leader != name);
            if incident.was_leader && incident.new_leader.is_none() && other {
                incident.new_leader = Some(since);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn is_out(view: &View, name: &str, generation: Option<u64>) -> bool {
    let present = |member: &Seen| {
        member.is_ready() && generation.is_none_or(|generation| member.generation == generation)
    };
    !view.member(name).is_some_and(present)
}
