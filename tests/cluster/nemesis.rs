//! What goes wrong in a run, one fault at a time, each with the proof that it really happened.

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
}

// === impl Incident ===

impl Incident {
    /// Whether a node without a quorum may have been asked: it refuses Writes and says so.
    pub(crate) fn isolates(&self) -> bool {
        matches!(
            self.what,
            What::Cut | What::CutOut | What::CutIn | What::Isolate | What::Slow | What::Freeze
        )
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
    let leader = stack.leader().await;
    let any = usize::try_from(chance.below(NODES as u64)).unwrap_or_default();
    let victim = match stack.together {
        // The only one that is used.
        Together::Independent => 0,
        Together::Cluster if fault.leader => leader.ok_or("nobody is the leader")?,
        Together::Cluster => any,
    };
    // A node that is back before anybody has looked is back in another generation.
    let before = stack.nodes[victim].view().await;
    let generation = before.as_ref().and_then(|view| view.member(&stack.nodes[victim].name));
    let generation = generation.map(|seen| seen.generation);
    let mut incident = Incident {
        what: fault.what,
        victim: stack.nodes[victim].name.clone(),
        was_leader: leader == Some(victim),
        from: ledger.now(),
        healed: 0,
        settled: 0,
        noticed: None,
        new_leader: None,
    };
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
        What::Rolling => {
            incident.victim = "each".into();
            for node in 0..NODES {
                stack.stop_node(node).await?;
                stack.start_node(node).await?;
                stack.settled().await?;
            }
        }
    }
    incident.healed = ledger.now();
    let settled = stack.settled().await;
    incident.settled = ledger.now();
    tokio::time::sleep(CALM).await;
    Ok((incident, settled.err()))
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
