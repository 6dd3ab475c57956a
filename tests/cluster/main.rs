//! Three nodes behind a balancer, under load, losing one node after another: nothing else may be lost.
//!
//! The short form for every day; `cargo xtask drill` (see `docs/drills.md`) is the same with more of
//! everything. No figure here is a time: a slow machine makes pauses longer, not promises weaker.
#![expect(clippy::print_stdout, reason = "a failed run is read from its output")]

mod chance;
mod http;
mod links;
mod load;
mod nemesis;
mod network;
mod options;
mod redis;
mod redis_tests;
mod report;
mod run;
mod sdk;
mod self_tests;
mod spaces;
mod stack;
mod terms;

use std::path::{Path, PathBuf};
use std::time::Duration;

use nemesis::What;
use run::{Plan, faults};
use stack::Together;
use stack::front::Kind;

/// What went wrong, for a person to read.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// How long anything may take that should take no time. Long, since two cores run many tests.
const PATIENCE: Duration = Duration::from_secs(90);

/// Whether Sentinels look round more often than they do by themselves: tests wait for that.
const HURRY: bool = true;

fn plan(front: Kind) -> Plan {
    Plan {
        front,
        standby: false,
        store: redis::Kind::Replicated,
        plain: false,
        together: Together::Cluster,
        rate: 40,
        streams: 10,
        sdks: false,
        faults: Vec::new(),
        // Two runs differ in what the machine does; what the drill does is the same.
        seed: 3,
        binary: binary(),
        log: "info".into(),
        namespaces: false,
        // A shared machine may stop a process for as long as the default.
        failover_timeout: Some(2_000),
    }
}

/// Runs the plan and gives back the broken promises.
fn broken(name: &str, plan: &Plan) -> Vec<String> {
    let folder =
        std::env::temp_dir().join(format!("holdfast-cluster-{}-{name}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let report = runtime.expect("a runtime").block_on(run::run(plan, &folder));
    let report = report.unwrap_or_else(|error| panic!("{error}\nlogs: {}", folder.display()));
    println!("{}", report.table());
    let expected = plan.plain || plan.together == Together::Independent;
    if report.broken.is_empty() || expected {
        drop(std::fs::remove_dir_all(&folder));
    } else {
        let anomalies = std::fs::read_to_string(folder.join("anomalies.jsonl")).unwrap_or_default();
        for anomaly in anomalies.lines().take(10) {
            println!("{anomaly}");
        }
        println!("logs: {}", folder.display());
    }
    report.broken
}

/// A promise that was broken is kept where `cargo xtask test` looks: that the test passes when it is run again
/// does not mend it.
#[track_caller]
fn nothing_is_broken(name: &str, plan: &Plan) {
    let broken = broken(name, plan);
    if broken.is_empty() {
        return;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("broken");
    let kept = std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(folder.join(format!("{name}.txt")), broken.join("\n")));
    panic!("broken promises: {broken:#?} (kept: {kept:?})");
}

#[test]
fn behind_nginx_nothing_is_lost_when_nodes_die_freeze_and_are_cut_off() {
    let mut plan = plan(Kind::Nginx);
    plan.faults = [
        faults(What::Kill, 4, 2),
        faults(What::Wipe, 1, 0),
        faults(What::Freeze, 1, 0),
        faults(What::Cut, 1, 1),
        faults(What::Slow, 1, 1),
        faults(What::ConfigReload, 1, 0),
        faults(What::Rolling, 1, 0),
    ]
    .concat();
    nothing_is_broken("nginx", &plan);
}

#[test]
fn behind_the_edge_nothing_is_lost_when_nodes_die() {
    let mut plan = plan(Kind::Edge);
    plan.faults = faults(What::Kill, 3, 1);
    nothing_is_broken("edge", &plan);
}

#[test]
fn with_sentinels_nothing_is_lost_when_nodes_and_primaries_are_lost() {
    let mut plan = plan(Kind::Nginx);
    plan.store = redis::Kind::Sentinel;
    plan.faults = [
        faults(What::Kill, 2, 1),
        faults(What::RedisKill, 1, 0),
        faults(What::RedisSplit, 1, 0),
        faults(What::RedisFailover, 1, 0),
    ]
    .concat();
    nothing_is_broken("sentinel", &plan);
}

#[test]
fn behind_haproxy_with_one_redis_nothing_is_lost() {
    let mut plan = plan(Kind::Haproxy);
    plan.store = redis::Kind::Redis;
    plan.faults = [
        faults(What::Kill, 2, 1),
        faults(What::RedisKill, 1, 0),
        faults(What::FrontReload, 1, 0),
        faults(What::RedisFlush, 1, 0),
    ]
    .concat();
    nothing_is_broken("haproxy", &plan);
}

/// Redis replicates after it has answered: without what the project's settings add, a primary that is
/// cut off takes what it acknowledges with it.
#[test]
fn a_redis_that_loses_things_is_found_out() {
    let mut plan = plan(Kind::Nginx);
    plan.store = redis::Kind::Sentinel;
    plan.plain = true;
    // Sessions are what is lost, and many are opened.
    plan.rate = 80;
    plan.faults = faults(What::RedisSplit, 1, 0);
    let broken = broken("plain", &plan);
    assert!(broken.iter().any(|it| it.contains("sessions lost")), "saw only {broken:?}");
}

/// Three nodes that do not know each other are what a broken cluster comes to.
#[test]
fn a_cluster_that_loses_things_is_found_out() {
    let mut plan = plan(Kind::Nginx);
    plan.together = Together::Independent;
    plan.faults = faults(What::Kill, 1, 0);
    let broken = broken("independent", &plan);
    assert!(broken.iter().any(|it| it.contains("sessions lost")), "saw only {broken:?}");
}

/// The gateway's binary: `HOLDFAST_BIN`, or the one beside this test in the target folder.
fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("HOLDFAST_BIN") {
        return named.into();
    }
    // target/debug/deps/cluster-… → target/debug/holdfast
    let own = std::env::current_exe().expect("the path of this test");
    let profile = own.parent().and_then(Path::parent).expect("a test lies in target/PROFILE/deps");
    let path = profile.join("holdfast");
    assert!(
        path.is_file(),
        "there is no {}: run `cargo build -p holdfast` first, or set HOLDFAST_BIN",
        path.display()
    );
    path
}
