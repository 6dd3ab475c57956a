//! Instances that answer every check and fail every call.

use std::time::Duration;

use holdfast_engine::failover::Phase;
use holdfast_engine::replicated::ServerHappened;

use super::world::World;
use super::{ALL, PAIR, SECONDS, is_found, well};
use crate::operate::{Operated as _, Order};
use crate::plane::At;

fn rests_on(world: &World, instance: &str) -> bool {
    let failover = world.server("docs").failover;
    failover.active == instance && failover.moving().is_none()
}

async fn force_to_a(world: &World) {
    let order = Order::ForceOver { server: "docs".into(), to: "a".into() };
    world.control(2).order(order).await.expect("a forced move is refused for nothing");
    world.until("forced", 10 * SECONDS, |world| rests_on(world, "a")).await;
}

fn failovers(world: &World) -> usize {
    world.count(|it| *it == ServerHappened::FailoverBegan)
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
    world.until("healthy", 10 * SECONDS, |world| is_found(world, "healthy")).await;
    world.set_failing("1", &ALL, true);
    world.until("degraded", 10 * SECONDS, |world| is_found(world, "degraded")).await;
    let why = world.control(0).servers()[0].instances[0].clone();
    assert!(format!("{why:?}").contains("breaker open"), "{why:?}");
    world.set_failing("1", &ALL, false);
    world.until("healthy again", 120 * SECONDS, |world| is_found(world, "healthy")).await;
}

/// The next coordinator may ask for a vote minutes later.
#[tokio::test(start_paused = true)]
async fn what_others_said_before_the_coordinator_was_lost_is_forgotten() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    let heard = || world.control(1).shared().others(At { server: 0, instance: 0 }).scores.len();
    world.until("told", 5 * SECONDS, |_| heard() == 2).await;
    world.nodes.iter().for_each(super::world::Node::loses_its_coordinator);
    tokio::time::sleep(4 * SECONDS).await;
    assert_eq!(heard(), 2, "a coordinator may be away for a moment");
    tokio::time::sleep(2 * SECONDS).await;
    assert_eq!(heard(), 0);
    world.elect(2);
    world.until("told again", 5 * SECONDS, |_| heard() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn another_configuration_ends_no_incident_of_calls_that_fail() {
    let yaml = "servers: { docs: { url: \"http://127.0.0.1:1/mcp\", health: { interval: 30s } } }";
    let world = World::start(yaml, 3);
    world.until("healthy", 60 * SECONDS, |world| is_found(world, "healthy")).await;
    world.set_failing("1", &ALL, true);
    world.until("degraded", 90 * SECONDS, |world| is_found(world, "degraded")).await;
    tokio::time::sleep(120 * SECONDS).await;
    let began = world.control(0).incidents()[0].began;
    let planes = ALL.map(|node| world.reload(node, yaml));
    tokio::time::sleep(40 * SECONDS).await;
    assert_eq!(planes.len(), ALL.len());
    let incidents = world.control(0).incidents();
    let [it] = &incidents[..] else { panic!("{:#?}", world.history("docs")) };
    assert_eq!((it.began, it.recovered_ms), (began, None), "{:#?}", world.history("docs"));
}

#[tokio::test(start_paused = true)]
async fn where_all_clients_come_through_one_node_its_failing_calls_move_the_server() {
    let world = World::start(PAIR, 3);
    world.idle(&[1, 2]);
    well(&world).await;
    world.set_failing("a", &[0], true);
    world.until("moved", 60 * SECONDS, |world| world.all_go_to(0, "b")).await;
    let history = world.history("docs");
    assert!(history.iter().any(|it| it.contains("a is degraded by its calls")), "{history:#?}");
}

#[tokio::test(start_paused = true)]
async fn calls_of_the_only_node_with_clients_move_nothing_when_it_is_its_network_that_is_broken() {
    let world = World::start(PAIR, 3);
    world.idle(&[1, 2]);
    well(&world).await;
    world.set_failing("a", &[0], true);
    world.blind(0);
    tokio::time::sleep(120 * SECONDS).await;
    assert!(rests_on(&world, "a"), "{:#?}", world.history("docs"));
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_is_left_because_its_calls_fail_is_an_incident() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    world.set_failing("a", &ALL, true);
    world
        .until("over", 20 * SECONDS, |world| {
            world.control(0).incidents().first().is_some_and(|it| it.recovered_ms.is_some())
        })
        .await;
    let incidents = world.control(1).incidents();
    let [it] = &incidents[..] else { panic!("{incidents:?}") };
    assert_eq!((it.server.as_str(), it.instance.as_str()), ("docs", "a"));
    // The breaker opened a round of checks before the group knew.
    assert!(it.detected_ms > 0 && it.decided_ms >= Some(it.detected_ms), "{it:?}");
    assert!(it.switched_ms >= it.decided_ms && it.recovered_ms >= it.switched_ms, "{it:?}");
    assert_eq!((it.objective, it.tier), ("kept", "kept"));
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_calls_fail_for_too_long_misses_its_objective_and_that_is_announced_once() {
    let yaml = "servers: { docs: { url: \"http://127.0.0.1:1/mcp\", health: { interval: 1s }, objectives: { rto: 10s } } }";
    let world = World::start(yaml, 3);
    let incident = |world: &World| world.control(0).incidents().into_iter().next();
    let is_well = |world: &World| {
        let servers = world.control(0).servers();
        servers.first().is_some_and(|it| it.instances[0].verdict == "healthy")
    };
    world.until("well", 10 * SECONDS, is_well).await;
    world.set_failing("1", &ALL, true);
    world
        .until("missed", 30 * SECONDS, |world| {
            incident(world).is_some_and(|it| it.objective == "missed")
        })
        .await;
    tokio::time::sleep(20 * SECONDS).await;
    let said = world.history("docs");
    let said = said.iter().filter(|it| it.contains("recovery time objective missed"));
    assert_eq!(said.count(), 1);
    world.set_failing("1", &ALL, false);
    world
        .until("over", 120 * SECONDS, |world| {
            incident(world).is_some_and(|it| it.recovered_ms.is_some())
        })
        .await;
    assert_eq!(world.control(0).incidents().len(), 1);
}

/// Whoever has no calls of its own knows of the failing ones by the coordinator, and the next one has to hear
/// of them first.
#[tokio::test(start_paused = true)]
async fn an_incident_of_calls_at_one_node_outlasts_a_time_without_a_coordinator() {
    let yaml = "servers: { docs: { url: \"http://127.0.0.1:1/mcp\", health: { interval: 1s } } }";
    for (next, away) in [(0, 10_000), (1, 10_000), (2, 10_000), (2, 10_330), (1, 10_660)] {
        let world = World::start(yaml, 3);
        world.idle(&[1, 2]);
        world.until("healthy", 10 * SECONDS, |world| is_found(world, "healthy")).await;
        world.set_failing("1", &[0], true);
        world.until("degraded", 30 * SECONDS, |world| is_found(world, "degraded")).await;
        world.nodes.iter().for_each(super::world::Node::loses_its_coordinator);
        tokio::time::sleep(Duration::from_millis(away)).await;
        world.elect(next);
        tokio::time::sleep(30 * SECONDS).await;
        let incidents = world.control(0).incidents();
        let open = incidents.iter().filter(|it| it.recovered_ms.is_none()).count();
        assert_eq!((incidents.len(), open), (1, 1), "{next}: {:#?}", world.history("docs"));
        world.set_failing("1", &[0], false);
        world.until("healthy again", 120 * SECONDS, |world| is_found(world, "healthy")).await;
    }
}

/// Whether the breakers are open yet, or wait half-open for calls of which none come.
#[tokio::test(start_paused = true)]
async fn where_an_operator_places_a_server_what_calls_met_there_before_moves_nothing() {
    for later in [5, 25, 31, 34, 45] {
        let world = World::start(PAIR, 3);
        well(&world).await;
        world.set_failing("a", &ALL, true);
        world.until("moved", 10 * SECONDS, |world| world.all_go_to(0, "b")).await;
        world.until("at rest", 10 * SECONDS, |world| rests_on(world, "b")).await;
        world.set_failing("a", &ALL, false);
        world.idle(&ALL);
        tokio::time::sleep(later * SECONDS).await;
        force_to_a(&world).await;
        let begun = failovers(&world);
        tokio::time::sleep(150 * SECONDS).await;
        let history = world.history("docs");
        assert!(rests_on(&world, "a"), "after {later} s: {history:#?}");
        assert_eq!(failovers(&world), begun, "after {later} s: {history:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn where_an_operator_places_a_server_calls_that_fail_after_that_move_it_again() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    world.set_failing("a", &ALL, true);
    world.until("moved", 10 * SECONDS, |world| world.all_go_to(0, "b")).await;
    world.until("at rest", 10 * SECONDS, |world| rests_on(world, "b")).await;
    force_to_a(&world).await;
    world.until("moved again", 20 * SECONDS, |world| world.all_go_to(0, "b")).await;
}

/// Its calls failed, and those of the others went well, when there were any.
#[tokio::test(start_paused = true)]
async fn what_one_nodes_calls_met_before_there_were_none_is_not_taken_over() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    world.set_failing("a", &[0], true);
    tokio::time::sleep(10 * SECONDS).await;
    world.idle(&[0]);
    tokio::time::sleep(90 * SECONDS).await;
    world.idle(&[1, 2]);
    tokio::time::sleep(150 * SECONDS).await;
    assert!(rests_on(&world, "a"), "{:#?}", world.history("docs"));
    assert_eq!(failovers(&world), 0, "{:#?}", world.history("docs"));
}
