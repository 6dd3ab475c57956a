//! Nodes that are not well: what is shown and recorded, who coordinates, and who has no traffic.

use holdfast_engine::health::node::Level;
use holdfast_engine::replicated::{ControlCommand, NodeId, READS};

use super::world::World;
use super::{PAIR, SECONDS};
use crate::machine::Reading;
use crate::shared::lock;

fn has_memory(world: &World, node: usize, used: f64) {
    *lock(&world.nodes[node].machine.0) = Reading { memory: Some(used), ..Reading::default() };
}

fn level(world: &World, node: usize) -> Level {
    lock(&world.nodes[node].plane.found).level
}

/// The nodes that a balancer would leave alone.
fn unready(world: &World) -> Vec<usize> {
    let is_unready = |node: &usize| {
        let found = lock(&world.nodes[*node].plane.found).clone();
        found.checks.iter().any(|check| check.critical && !check.ok)
    };
    world.living().filter(is_unready).collect()
}

fn record(world: &World) -> Vec<String> {
    let state = world.state();
    let of_nodes = state.servers.events.iter().filter(|event| event.server.is_empty());
    of_nodes.map(|event| event.evidence.clone()).collect()
}

/// A process of this name has come.
pub(super) fn join(node: NodeId, name: &str) -> ControlCommand {
    let (name, nowhere) = (name.to_owned(), String::new);
    let (peer, client, admin, version) = (nowhere(), nowhere(), nowhere(), nowhere());
    ControlCommand::Join { node, name, peer, client, admin, version }
}

fn reads(world: &World) -> Vec<u32> {
    world.nodes.iter().map(|it| *lock(&it.plane.reads)).collect()
}

#[tokio::test(start_paused = true)]
async fn every_node_knows_what_all_of_them_read_and_one_that_is_new_may_not() {
    let world = World::start(PAIR, 3);
    let all = |world: &World| reads(world) == [READS; 3];
    world.until("known", 10 * SECONDS, all).await;
    // Whoever coordinates next has heard of nobody yet, and these lives read what they did.
    world.elect(1);
    for _ in 0..50 {
        tokio::time::sleep(SECONDS / 10).await;
        assert_eq!(reads(&world), [READS; 3]);
    }
    // The third is started again, by an earlier build perhaps.
    world.apply(2, join(3, "n3"));
    let none = |world: &World| reads(world) == [0; 3];
    world.until("not known", SECONDS, none).await;
    world.until("known", 10 * SECONDS, all).await;
    // One that does not say is of an earlier version.
    world.apply(0, join(4, "n4"));
    world.until("not known", SECONDS, none).await;
    tokio::time::sleep(20 * SECONDS).await;
    assert_eq!(reads(&world), [0; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_critical_coordinator_hands_over_to_one_that_is_better_off_and_takes_traffic_on() {
    let world = World::start(PAIR, 3);
    for (node, used) in [(0, 0.5), (1, 0.93), (2, 0.5)] {
        has_memory(&world, node, used);
    }
    world.until("critical", 20 * SECONDS, |it| level(it, 1) == Level::Critical).await;
    assert_eq!(world.coordinator(), 0);
    has_memory(&world, 0, 0.92);
    // Not to the second, which is no better off.
    world.until("handed over", 20 * SECONDS, |it| it.coordinator() == 2).await;
    assert_eq!((level(&world, 0), unready(&world)), (Level::Critical, vec![]));
    // All alike: whoever coordinates goes on.
    has_memory(&world, 2, 0.92);
    world.until("critical", 20 * SECONDS, |it| level(it, 2) == Level::Critical).await;
    tokio::time::sleep(90 * SECONDS).await;
    assert_eq!(world.coordinator(), 2);
    let lines = record(&world);
    assert!(lines[0].contains("n2 is critical: memory 93 % used"), "{lines:?}");
    assert_eq!(lines.len(), 3, "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn of_three_that_are_about_to_fail_one_is_without_traffic() {
    let world = World::start(PAIR, 3);
    tokio::time::sleep(12 * SECONDS).await;
    for node in 0..3 {
        has_memory(&world, node, 0.99);
    }
    world.until("aside", 30 * SECONDS, |it| !unready(it).is_empty()).await;
    for _ in 0..600 {
        assert!(unready(&world).len() <= 1, "{:?}", unready(&world));
        tokio::time::sleep(SECONDS / 10).await;
    }
    let [aside] = unready(&world)[..] else { panic!("nobody") };
    // A new coordinator gives no permission before its predecessor's are over.
    world.elect((world.coordinator() + 1) % 3);
    for _ in 0..300 {
        assert!(unready(&world).len() <= 1, "{:?}", unready(&world));
        tokio::time::sleep(SECONDS / 10).await;
    }
    has_memory(&world, aside, 0.1);
    world.until("back", 30 * SECONDS, |it| !unready(it).contains(&aside)).await;
    world.until("another", 30 * SECONDS, |it| !unready(it).is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_alone_and_two_of_two_keep_their_traffic() {
    for nodes in [1, 2] {
        let world = World::start(PAIR, nodes);
        has_memory(&world, 0, 0.99);
        world.until("ill", 20 * SECONDS, |it| level(it, 0) == Level::Emergency).await;
        tokio::time::sleep(60 * SECONDS).await;
        assert_eq!(unready(&world), [0; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_record_has_one_line_a_minute_of_a_node_that_flaps() {
    let world = World::start(PAIR, 3);
    for turn in 0..20 {
        has_memory(&world, 1, if turn % 2 == 0 { 0.93 } else { 0.2 });
        tokio::time::sleep(12 * SECONDS).await;
    }
    let lines = record(&world);
    assert!((2..=4).contains(&lines.len()), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_critical_coordinator_hands_over_also_where_no_node_runs_what_was_agreed_on() {
    let world = World::start_together(PAIR, 3);
    world.agree();
    tokio::time::sleep(12 * SECONDS).await;
    has_memory(&world, 0, 0.92);
    world.until("handed over", 20 * SECONDS, |it| it.coordinator() != 0).await;
}

#[tokio::test(start_paused = true)]
async fn leadership_is_handed_to_no_node_that_is_gone_nor_for_a_version_to_one_that_counts_its_own()
{
    let world = World::start(PAIR, 2);
    for node in 0..2 {
        world.control(node).runs(1);
    }
    tokio::time::sleep(5 * SECONDS).await;
    let avoid = |needs| world.control(0).shared().who_is_not_better_off(needs);
    assert!(avoid(None).is_some_and(|it| it.is_empty()));
    assert_eq!(avoid(Some(1)), None);
    world.kill(1);
    assert_eq!(avoid(None), None);
}

#[tokio::test(start_paused = true)]
async fn elections_make_no_node_critical_sooner() {
    let world = World::start(PAIR, 3);
    tokio::time::sleep(12 * SECONDS).await;
    has_memory(&world, 1, 0.93);
    for _ in 0..20 {
        world.elect(0);
        tokio::time::sleep(SECONDS / 20).await;
    }
    assert_eq!(level(&world, 1), Level::Normal);
    world.until("critical", 20 * SECONDS, |it| level(it, 1) == Level::Critical).await;
}
