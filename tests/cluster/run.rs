//! One run from the first process to the report.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::Error;
use crate::chance::Chance;
use crate::load::Load;
use crate::load::ledger::Ledger;
use crate::load::standing::Standing;
use crate::nemesis::{Fault, Incident, Scope, What, strike};
use crate::redis;
use crate::report::{Facts, Report};
use crate::sdk::Sdks;
use crate::stack::front::Kind;
use crate::stack::{Stack, Together, Wanted};
use crate::terms::Terms;

/// What a run consists of.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) front: Kind,
    /// A second balancer that takes over from the first.
    pub(crate) standby: bool,
    pub(crate) store: redis::Kind,
    /// A Redis, and nodes, without what keeps acknowledged writes.
    pub(crate) plain: bool,
    pub(crate) together: Together,
    /// Calls a second of the raw load.
    pub(crate) rate: u32,
    /// Standing streams beside it.
    pub(crate) streams: usize,
    /// Official SDK clients beside it.
    pub(crate) sdks: bool,
    pub(crate) faults: Vec<Fault>,
    pub(crate) seed: u64,
    pub(crate) binary: PathBuf,
    /// The nodes' log level.
    pub(crate) log: String,
    /// Each node in a network namespace of its own.
    pub(crate) namespaces: bool,
    /// Milliseconds; the nodes' default where it is none.
    pub(crate) failover_timeout: Option<usize>,
}

/// So many faults of one kind, the coordinator being the victim of so many of them.
pub(crate) fn faults(what: What, many: usize, of_leader: usize) -> Vec<Fault> {
    // Spread evenly, so that a run that ends early has had some of both.
    (0..many)
        .map(|at| Fault { what, leader: (at + 1) * of_leader / many > at * of_leader / many })
        .collect()
}

/// Runs the plan; everything it writes goes below `folder`.
///
/// # Errors
/// When the stack does not start or a fault did not take effect: such a run says nothing.
pub(crate) async fn run(plan: &Plan, folder: &Path) -> Result<Report, Error> {
    std::fs::create_dir_all(folder)?;
    let wanted = Wanted {
        front: plan.front,
        standby: plan.standby,
        store: plan.store,
        plain: plan.plain,
        together: plan.together,
        binary: &plan.binary,
        folder,
        log: &plan.log,
        namespaces: plan.namespaces,
        failover_timeout: plan.failover_timeout,
    };
    let mut stack = Stack::start(&wanted).await?;
    let ledger = Arc::new(Ledger::new());
    let terms = Terms::watch(stack.nodes.iter().map(|node| node.admin));
    let front = stack.front.address;
    let stream_server = *stack.controls.last().ok_or("no server for streams")?;
    let standing = Standing::start(front, stream_server, plan.streams).await?;
    let load = Load::start(front, plan.rate, plan.seed, &ledger).await?;
    let sdks = match plan.sdks {
        true => Sdks::start(front, folder, &ledger).await?,
        false => Sdks::none(),
    };
    // Something is under way when the first fault strikes.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (incidents, aborted) = all(plan, &mut stack, &ledger).await?;
    stack.network.heal()?;
    if let Some(redis) = &stack.redis {
        redis.links.heal();
    }
    let sdks_ended = sdks.finish().await.err().map(|error| error.to_string());
    let sessions = load.finish().await;
    let heard = standing.finish().await;
    let (terms, several_leaders) = terms.finish();
    let executions = stack.executions();
    stack.stop().await;
    let facts = Facts {
        calls: ledger.take(),
        incidents,
        executions,
        heard,
        sessions,
        terms,
        several_leaders,
        aborted: aborted.into_iter().chain(sdks_ended).collect(),
        length: ledger.now(),
    };
    Report::new(plan, facts, folder)
}

/// Lets every fault of the plan happen. Where the cluster does not recover the run ends early.
async fn all(
    plan: &Plan,
    stack: &mut Stack,
    ledger: &Ledger,
) -> Result<(Vec<Incident>, Option<String>), Error> {
    let mut chance = Chance::new(plan.seed);
    let mut incidents = Vec::new();
    for (at, fault) in plan.faults.iter().enumerate() {
        let struck = strike(*fault, stack, &mut chance, ledger).await;
        let unsettled = match struck {
            Ok((incident, unsettled)) => {
                tell(&incident, at + 1, plan.faults.len(), ledger.count());
                incidents.push(incident);
                unsettled
            }
            Err(error) if error.to_string().starts_with("void") => return Err(error),
            Err(error) => Some(error),
        };
        if let Some(error) = unsettled {
            let what = format!("fault {} ({:?}): {error}", at + 1, fault.what);
            println!("{what}");
            return Ok((incidents, Some(what)));
        }
    }
    Ok((incidents, None))
}

fn tell(incident: &Incident, at: usize, of: usize, calls: usize) {
    let Incident { what, victim, from, healed, settled, .. } = incident;
    let seen = match what.scope() {
        Scope::Node if *what == What::ConfigReload => {
            format!("all run it after {}", millis(incident.replaced))
        }
        Scope::Node => format!(
            "noticed {}, new leader {}",
            millis(incident.noticed),
            millis(incident.new_leader)
        ),
        Scope::Redis | Scope::Front => {
            format!("said {}, replaced {}", millis(incident.said), millis(incident.replaced))
        }
    };
    println!(
        "{at:>3}/{of} {what:?} of {victim}{} at {from}: {seen}, settled {} ms after; {calls} calls so far",
        if incident.was_leader { " (leader)" } else { "" },
        settled - healed,
    );
}

fn millis(value: Option<u64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value} ms"))
}
