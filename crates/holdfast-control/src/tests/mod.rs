//! Stories of three nodes and their servers, on a paused clock.

mod breakers;
mod calls;
mod failover;
mod frozen;
mod incidents;
mod nodes;
mod orders;
mod plans;
mod webhooks;
mod world;

use std::time::Duration;

use world::World;

use crate::operate::Operated as _;

/// A server with a primary and a secondary, checked often.
const PAIR: &str = r#"
servers:
  docs:
    instances:
      - { id: a, url: "http://127.0.0.1:1/mcp", role: primary }
      - { id: b, url: "http://127.0.0.1:2/mcp", role: secondary }
    health: { interval: 1s, timeout: 500ms, retries: 1, checks: [ { type: ping } ] }
    failover: { threshold: 2, failback_delay: 1m, ramp_over: 100s, drain: 10s }
"#;

const SECONDS: Duration = Duration::from_secs(1);

/// The nodes.
const ALL: [usize; 3] = [0, 1, 2];

/// Whether the first node shows this verdict about the first instance of the first server.
fn is_found(world: &World, verdict: &str) -> bool {
    let servers = world.control(0).servers();
    servers.first().is_some_and(|it| it.instances[0].verdict == verdict)
}

/// Until all nodes know that both instances are well.
async fn well(world: &World) {
    world
        .until("well", 10 * SECONDS, |world| {
            let state = world.state();
            state.servers.by_name.get("docs").is_some_and(|known| {
                use holdfast_engine::health::votes::Opinion::Healthy;
                known.verdicts.values().all(|verdict| verdict.opinion == Some(Healthy))
            }) && world.all_go_to(0, "a")
        })
        .await;
}
