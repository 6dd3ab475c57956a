//! The options of `cargo xtask drill`.

use std::path::PathBuf;

use crate::nemesis::{Scope, What};
use crate::redis;
use crate::run::{Plan, faults};
use crate::stack::Together;
use crate::stack::front::Kind;

pub(crate) const USAGE: &str = "\
Usage: cargo xtask drill [OPTIONS]

  --front nginx|haproxy|edge   the balancer before the three nodes (nginx)
  --store replicated|redis|sentinel|redis-cluster   where they keep sessions and the journal
  --rate N             calls a second of the raw load (300)
  --streams N          standing streams beside it (50)
  --no-sdks            leave out the six SDK clients
  --kills N            kill -9 and restart (30, if no fault is named)
  --wipes N            the same, and the data directory is empty afterwards
  --freezes N          SIGSTOP for 5 s
  --partitions N       a node cut off from the others for 5 s, both ways
  --one-way N          the same in one direction, in turn out and in
  --isolations N       a node cut off from everybody, balancer and servers too; with --namespaces
  --slow N             150 ms more for every piece between a node and the others, for 5 s
  --rolling N          rolling restarts of all nodes
  --config-reloads N   a file that is no good, then another configuration for all nodes
  --redis-kills N      kill -9 of the primary; it comes back with its data
  --redis-restarts N   the same, back at once, before anybody has taken its place
  --replica-kills N    kill -9 of a replica
  --redis-cuts N       the primary cut off from everybody for 8 s
  --redis-cuts-nodes N   the same from the nodes only
  --redis-splits N     the same from its replicas and the Sentinels only
  --failovers N        another server is made primary by command
  --flushes N          FLUSHALL
  --redis-slow N       every answer of Redis takes 500 ms more, for 8 s
  --redis-freezes N    SIGSTOP of the primary for 8 s
  --redis-away N       all of Redis killed for 10 s
  --reloads N          the balancer takes up its configuration anew
  --front-kills N      kill -9 of the balancer; a standby takes its address
  --standby            two balancers, also without that
  --leader N           of each kind of fault so many, at most all, hit the coordinator (a third)
  --seed N             repeats a schedule (a new one)
  --expect-loss        succeed only if promises are broken: proves that the drill can see it
  --independent        three nodes that know nothing of each other, as the thing to expect loss of
  --plain              Redis and nodes without what keeps acknowledged writes: the same
  --namespaces         each node in a network namespace, links cut by dropping packets; takes root
  --failover-timeout MS  of the nodes (their default, 1000)
  --log LEVEL          of the nodes (info)
  --folder DIR         logs, data and records (a temporary one, kept when a promise was broken)
  --json               print the report as JSON too
";

/// What the command line asks for.
pub(crate) struct Options {
    pub(crate) plan: Plan,
    pub(crate) folder: Option<PathBuf>,
    pub(crate) expect_loss: bool,
    pub(crate) json: bool,
}

// === impl Options ===

impl Options {
    /// # Errors
    /// An unknown option or an unfit value, as a sentence.
    pub(crate) fn from_args(
        mut args: impl Iterator<Item = String>,
        binary: PathBuf,
        seed: u64,
    ) -> Result<Self, String> {
        let mut options = Self {
            plan: Plan {
                front: Kind::Nginx,
                standby: false,
                store: redis::Kind::Replicated,
                plain: false,
                together: Together::Cluster,
                rate: 300,
                streams: 50,
                sdks: true,
                faults: Vec::new(),
                seed,
                binary,
                log: "info".into(),
                namespaces: false,
                failover_timeout: None,
            },
            folder: None,
            expect_loss: false,
            json: false,
        };
        let mut wanted: Vec<(What, usize)> = Vec::new();
        let mut leader = None;
        while let Some(name) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{name} needs a value"));
            let number = |text: String| {
                text.parse::<usize>().map_err(|_| format!("{name} {text}: a number is needed"))
            };
            let plan = &mut options.plan;
            match name.as_str() {
                "--front" => {
                    let named = value()?;
                    plan.front = Kind::named(&named).ok_or_else(|| {
                        format!("--front {named}: nginx, haproxy or edge is needed")
                    })?;
                }
                "--store" => {
                    let named = value()?;
                    plan.store = redis::Kind::named(&named).ok_or_else(|| format!("--store {named}: replicated, redis, sentinel or redis-cluster is needed"))?;
                }
                "--standby" => plan.standby = true,
                "--plain" => plan.plain = true,
                "--rate" => {
                    plan.rate = u32::try_from(number(value()?)?.max(1)).unwrap_or(u32::MAX);
                }
                "--streams" => plan.streams = number(value()?)?,
                "--no-sdks" => plan.sdks = false,
                "--kills" => wanted.push((What::Kill, number(value()?)?)),
                "--wipes" => wanted.push((What::Wipe, number(value()?)?)),
                "--freezes" => wanted.push((What::Freeze, number(value()?)?)),
                "--partitions" => wanted.push((What::Cut, number(value()?)?)),
                "--one-way" => {
                    let many = number(value()?)?;
                    wanted.push((What::CutOut, many.div_ceil(2)));
                    wanted.push((What::CutIn, many / 2));
                }
                "--isolations" => wanted.push((What::Isolate, number(value()?)?)),
                "--failover-timeout" => plan.failover_timeout = Some(number(value()?)?),
                "--namespaces" => plan.namespaces = true,
                "--slow" => wanted.push((What::Slow, number(value()?)?)),
                "--rolling" => wanted.push((What::Rolling, number(value()?)?)),
                "--config-reloads" => wanted.push((What::ConfigReload, number(value()?)?)),
                "--redis-kills" => wanted.push((What::RedisKill, number(value()?)?)),
                "--redis-restarts" => wanted.push((What::RedisRestart, number(value()?)?)),
                "--replica-kills" => wanted.push((What::ReplicaKill, number(value()?)?)),
                "--redis-cuts" => wanted.push((What::RedisCut, number(value()?)?)),
                "--redis-cuts-nodes" => wanted.push((What::RedisCutNodes, number(value()?)?)),
                "--redis-splits" => wanted.push((What::RedisSplit, number(value()?)?)),
                "--failovers" => wanted.push((What::RedisFailover, number(value()?)?)),
                "--flushes" => wanted.push((What::RedisFlush, number(value()?)?)),
                "--redis-slow" => wanted.push((What::RedisSlow, number(value()?)?)),
                "--redis-freezes" => wanted.push((What::RedisFreeze, number(value()?)?)),
                "--redis-away" => wanted.push((What::RedisAway, number(value()?)?)),
                "--reloads" => wanted.push((What::FrontReload, number(value()?)?)),
                "--front-kills" => wanted.push((What::FrontKill, number(value()?)?)),
                "--leader" => leader = Some(number(value()?)?),
                "--seed" => plan.seed = number(value()?)? as u64,
                "--log" => plan.log = value()?,
                "--folder" => options.folder = Some(value()?.into()),
                "--expect-loss" => options.expect_loss = true,
                "--independent" => plan.together = Together::Independent,
                "--json" => options.json = true,
                other => return Err(format!("unknown option {other}")),
            }
        }
        if wanted.is_empty() {
            wanted.push((What::Kill, 30));
        }
        for (what, many) in wanted {
            options.plan.standby |= what == What::FrontKill && many > 0;
            let of_leader = leader.unwrap_or_else(|| many.div_ceil(3)).min(many);
            options.plan.faults.extend(faults(what, many, of_leader));
        }
        check_store(&options.plan)?;
        Ok(options)
    }
}

/// Whether the store is one that these faults can befall.
fn check_store(plan: &Plan) -> Result<(), String> {
    let any = |befalls: fn(What) -> bool| plan.faults.iter().any(|fault| befalls(fault.what));
    let store = plan.store.name();
    if plan.store == redis::Kind::Replicated && any(|what| what.scope() == Scope::Redis) {
        return Err(format!(
            "faults of Redis need --store redis, sentinel or redis-cluster, not {store}"
        ));
    }
    let needs_replicas =
        |what| matches!(what, What::RedisSplit | What::RedisFailover | What::ReplicaKill);
    if !plan.store.fails_over() && any(needs_replicas) {
        return Err(format!(
            "--redis-splits, --failovers and --replica-kills need replicas: --store sentinel or \
             redis-cluster, not {store}"
        ));
    }
    Ok(())
}
