//! Instances that answer every check and fail every call.

use holdfast_engine::failover::Phase;
use holdfast_engine::replicated::ServerHappened;

use super::world::World;
use super::{PAIR, SECONDS, well};
use crate::operate::Operated as _;

const ALL: [usize; 3] = [0, 1, 2];

fn rests_on(world: &World, instance: &str) -> bool {
    let failover = world.server("docs").failover;
    failover.active == instance && failover.moving().is_none()
}

fn switches(world: &World) -> usize {
    world.count(|it| *it == ServerHappened::Switched)
}

#[tokio::test(start_paused = true)]
async fn a_primary_whose_calls_fail_is_left_and_its_failback_is_rolled_back_until_they_succeed() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    world.set_failing("a", &ALL, true);
    // No ramp: what is sent there is refused, so all of it goes at once.
    world.until("moved", 10 * SECONDS, |world| world.all_go_to(0, "b")).await;
    world.until("at rest", 10 * SECONDS, |world| rests_on(world, "b")).await;
    let history = world.history("docs");
    assert!(history.iter().any(|it| it.contains("breaker open")), "{history:#?}");
    // Its checks are good all the time, so it is tried; each time later.
    tokio::time::sleep(3_000 * SECONDS).await;
    let back = world.count(|it| *it == ServerHappened::RolledBack);
    // After 1, 2, 4 and 8 minutes, and every 8 from then on.
    assert!((4..=8).contains(&back), "{back} failbacks: {:#?}", world.history("docs"));
    assert_eq!(switches(&world), 1, "{:#?}", world.history("docs"));
    world.set_failing("a", &ALL, false);
    world.until("back", 2_000 * SECONDS, |world| rests_on(world, "a")).await;
    assert_eq!(world.server("docs").failover.phase, Phase::PrimaryActive);
    assert_eq!(switches(&world), 2);
}

#[tokio::test(start_paused = true)]
async fn one_nodes_failing_calls_move_nothing_and_two_nodes_do() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    world.set_failing("a", &[0], true);
    tokio::time::sleep(120 * SECONDS).await;
    assert!(rests_on(&world, "a"), "{:#?}", world.history("docs"));
    assert_eq!(switches(&world), 0);
    world.set_failing("a", &[1], true);
    world.until("moved", 60 * SECONDS, |world| world.all_go_to(0, "b")).await;
}

#[tokio::test(start_paused = true)]
async fn two_instances_whose_calls_fail_do_not_pass_a_server_to_each_other_all_the_time() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    world.set_failing("a", &ALL, true);
    world.set_failing("b", &ALL, true);
    tokio::time::sleep(1_800 * SECONDS).await;
    // Each has to have been well for the failback delay since the last switch: a minute.
    assert!(switches(&world) <= 30, "{:#?}", world.history("docs"));
    world.set_failing("b", &ALL, false);
    world.until("on b or a", 600 * SECONDS, |world| rests_on(world, "b")).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_without_a_secondary_is_shown_degraded_until_its_calls_succeed() {
    let alone = "servers: { docs: { url: \"http://127.0.0.1:1/mcp\", health: { interval: 1s } } }";
    let world = World::start(alone, 3);
    let is = |world: &World, wanted: &str| {
        let servers = world.control(0).servers();
        servers.first().is_some_and(|it| it.instances[0].verdict == wanted)
    };
    world.until("healthy", 10 * SECONDS, |world| is(world, "healthy")).await;
    world.set_failing("1", &ALL, true);
    world.until("degraded", 10 * SECONDS, |world| is(world, "degraded")).await;
    let why = world.control(0).servers()[0].instances[0].clone();
    assert!(format!("{why:?}").contains("breaker open"), "{why:?}");
    world.set_failing("1", &ALL, false);
    world.until("healthy again", 120 * SECONDS, |world| is(world, "healthy")).await;
}
