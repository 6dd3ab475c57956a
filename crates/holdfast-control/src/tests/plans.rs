//! Another plan under way: what was found out stays, what is new is looked at, what is gone is retired; and
//! nodes that do not run what was agreed on take nothing away from the others.

use std::sync::Arc;

use holdfast_engine::failover::{Move, Stage};
use holdfast_engine::health::votes::Opinion;
use holdfast_engine::replicated::OverrideKind;

use super::world::{FakePlane, World};
use super::{ALL, PAIR, SECONDS, well};
use crate::machine::Reading;
use crate::operate::{Force, Operated, Order};
use crate::plane::At;
use crate::shared::lock;

const BEFORE: &str = r#"
servers:
  docs:
    instances:
      - { id: a, url: "http://127.0.0.1:1/mcp", role: primary }
      - { id: b, url: "http://127.0.0.1:2/mcp", role: secondary }
  goes: { url: "http://127.0.0.1:3/mcp" }
"#;

/// Another one before them, one of them elsewhere, and another server.
const AFTER: &str = r#"
servers:
  comes: { url: "http://127.0.0.1:4/mcp" }
  docs:
    instances:
      - { id: c, url: "http://127.0.0.1:5/mcp", role: secondary }
      - { id: a, url: "http://127.0.0.1:1/mcp", role: primary }
      - { id: b, url: "http://127.0.0.1:9/mcp", role: secondary }
"#;

#[tokio::test(start_paused = true)]
async fn another_plan_goes_on_with_what_was_found_out_of_what_is_still_there() {
    let world = World::start(BEFORE, 3);
    well(&world).await;
    let of_a = || world.history("docs").iter().filter(|line| line.contains(" a is ")).count();
    let said = of_a();
    for node in 0..3 {
        world.reload(node, AFTER);
        let views = world.control(node).servers();
        let docs = views.iter().find(|view| view.name == "docs").unwrap();
        let seen: Vec<_> = docs.instances.iter().map(|it| (&*it.id, it.score.is_some())).collect();
        assert_eq!(seen, [("c", false), ("a", true), ("b", false)], "node {node}");
    }
    tokio::time::sleep(9 * SECONDS).await;
    assert!(world.state().servers.by_name.contains_key("goes"), "at once, it may come back");
    let are_healthy = |world: &World, server: &str, many: usize| {
        use holdfast_engine::health::votes::Opinion::Healthy;
        let state = world.state();
        let known = state.servers.by_name.get(server).map(|it| it.verdicts.clone());
        known
            .is_some_and(|it| it.len() == many && it.values().all(|it| it.opinion == Some(Healthy)))
    };
    world
        .until("all of it looked at", 30 * SECONDS, |world| {
            are_healthy(world, "docs", 3)
                && are_healthy(world, "comes", 1)
                && !world.state().servers.by_name.contains_key("goes")
        })
        .await;
    assert_eq!(of_a(), said, "nothing has changed about the one that stayed");
    // It is moved as before.
    world.set_down("a", true);
    world
        .until("moved", 60 * SECONDS, |world| {
            world.state().servers.by_name["docs"].failover.active != "a"
        })
        .await;
}

/// Two nodes' configuration has more than the third's: another server and another instance.
const MORE: &str = r#"
servers:
  comes:
    instances:
      - { id: p, url: "http://127.0.0.1:4/mcp", role: primary }
      - { id: s, url: "http://127.0.0.1:6/mcp", role: secondary }
    health: { interval: 1s, timeout: 500ms, retries: 1, checks: [ { type: ping } ] }
  docs:
    instances:
      - { id: a, url: "http://127.0.0.1:1/mcp", role: primary }
      - { id: b, url: "http://127.0.0.1:2/mcp", role: secondary }
      - { id: c, url: "http://127.0.0.1:5/mcp", role: secondary }
    health: { interval: 1s, timeout: 500ms, retries: 1, checks: [ { type: ping } ] }
"#;

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_take_a_version_over_does_not_stand_in_the_way_of_what_is_new() {
    let world = World::start_together(BEFORE, 3);
    let version = world.agree();
    for node in [0, 1] {
        world.reload(node, MORE);
        world.control(node).runs(version);
    }
    world.until("known", 60 * SECONDS, all_known).await;
    world.set_down("p", true);
    world.until("moved", 10 * SECONDS, |world| world.server("comes").failover.active == "s").await;
    tokio::time::sleep(SECONDS).await;
    let incidents = world.control(0).incidents();
    let incident = incidents.iter().find(|it| it.server == "comes").expect("an incident");
    let executed = incident.switched_ms.unwrap() - incident.decided_ms.unwrap();
    assert!(executed <= 500, "A5: switched {executed} ms after the decision");
    // One that is silent may have the server: without its vote nothing is concluded, until it is dead.
    world.nodes[2].falls_silent();
    tokio::time::sleep(10 * SECONDS).await;
    world.set_down("p", false);
    let line = world.history("comes").len();
    tokio::time::sleep(60 * SECONDS).await;
    assert_eq!(world.history("comes").len(), line, "{:?}", world.history("comes"));
}

/// The roles came with a version that the third node cannot take over: it shares its calls out to both instances.
#[tokio::test(start_paused = true)]
async fn a_node_that_balances_what_the_others_move_confirms_nothing_and_is_not_waited_for() {
    let [before, _] = PAIR.split("    failover:").collect::<Vec<_>>()[..] else { panic!("{PAIR}") };
    let equal = before.replace(", role: primary", "").replace(", role: secondary", "");
    let world = World::start_together(&equal, 3);
    let version = world.agree();
    for node in [0, 1] {
        world.reload(node, PAIR);
        world.control(node).runs(version);
    }
    // One of its calls is always there.
    lock(&world.nodes[2].plane.running).insert(At { server: 0, instance: 0 }, 1);
    let both_known = |world: &World| {
        let state = world.state();
        let known = state.servers.by_name.get("docs").map(|it| it.verdicts.clone());
        known.is_some_and(|it| it.values().all(|it| it.opinion == Some(Opinion::Healthy)))
    };
    world.until("known", 60 * SECONDS, both_known).await;
    tokio::time::sleep(15 * SECONDS).await;
    let move_to = |to: &str| Order::FailOver { server: "docs".into(), to: Some(to.into()) };
    let begun = world.time();
    world.control(1).order(move_to("b")).await.expect("it moves");
    let on_b = |world: &World| {
        let it = world.server("docs").failover;
        it.active == "b" && it.moving().is_none()
    };
    world.until("moved", 30 * SECONDS, on_b).await;
    let took = world.time() - begun;
    assert!(took <= 1_000, "a pause, a drain or a switch lasted its whole limit: {took} ms");
    assert_eq!(world.control(2).shared().follows(0), (0, 0), "it has confirmed a step");
    assert!(lock(&world.nodes[2].plane.routes).is_empty());
    // One that is silent may have taken the version over.
    world.nodes[2].falls_silent();
    tokio::time::sleep(6 * SECONDS).await;
    world.control(1).order(move_to("a")).await.expect("it moves");
    tokio::time::sleep(SECONDS).await;
    let pauses = world.server("docs").failover.moving().map(|it| it.stage);
    assert_eq!(pauses, Some(Stage::Pause), "it is waited for");
}

fn all_known(world: &World) -> bool {
    let known = |it: &holdfast_engine::replicated::ServerState| {
        it.verdicts.values().all(|it| it.opinion.is_some())
    };
    let state = world.state();
    let server = |name| state.servers.by_name.get(name);
    server("comes").is_some_and(known)
        && server("docs").is_some_and(|it| it.verdicts.len() == 3 && known(it))
}

/// All nodes run the second version, `docs` is at `c`, and an operator keeps `comes` and `c` as they are.
async fn moved_and_held() -> Arc<World> {
    let world = World::start_together(BEFORE, 3);
    let version = world.agree();
    for node in 0..3 {
        world.reload(node, MORE);
        world.control(node).runs(version);
    }
    world.until("known", 60 * SECONDS, all_known).await;
    let move_to = Order::FailOver { server: "docs".into(), to: Some("c".into()) };
    world.control(1).order(move_to).await.expect("it moves");
    for (server, instance) in [("comes", None), ("docs", Some("c".to_owned()))] {
        let (server, force) = (server.to_owned(), Force::Closed);
        world.control(1).order(Order::Breaker { server, instance, force }).await.expect("held");
    }
    world.until("moved", 30 * SECONDS, |world| world.server("docs").failover.active == "c").await;
    tokio::time::sleep(20 * SECONDS).await;
    world
}

#[track_caller]
fn nothing_is_lost(world: &World, whose: &str) {
    let state = world.state();
    let comes = state.servers.by_name.get("comes").unwrap_or_else(|| panic!("{whose}: retired"));
    assert_eq!(comes.breakers[""].kind, OverrideKind::ForcedClosed, "{whose}");
    let docs = world.server("docs");
    assert_eq!((docs.failover.active.as_str(), docs.verdicts.len()), ("c", 3), "{whose}");
    assert_eq!(docs.breakers["c"].kind, OverrideKind::ForcedClosed, "{whose}");
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_does_not_run_what_was_agreed_on_lets_another_one_coordinate() {
    let world = moved_and_held().await;
    // The coordinator is started again with its old file, and cannot take the version over.
    world.reload(0, BEFORE);
    world.control(0).runs(0);
    let refused = Order::FailOver { server: "docs".into(), to: Some("b".into()) };
    let error = world.control(1).order(refused).await.unwrap_err().to_string();
    assert!(error.contains("does not run the cluster's configuration"), "{error}");
    world.until("handed over", 10 * SECONDS, |world| world.coordinator() != 0).await;
    tokio::time::sleep(60 * SECONDS).await;
    nothing_is_lost(&world, "one is behind");
    assert_ne!(world.coordinator(), 0);
    // By those who run it servers are moved as ever.
    world.set_down("c", true);
    world.until("left", 30 * SECONDS, |world| world.server("docs").failover.active != "c").await;
}

#[tokio::test(start_paused = true)]
async fn nodes_that_all_start_with_another_file_than_was_agreed_on_take_nothing_away() {
    let world = moved_and_held().await;
    for node in 0..3 {
        world.reload(node, BEFORE);
        world.control(node).runs(0);
    }
    for coordinator in [0, 1, 2, 0] {
        world.elect(coordinator);
        tokio::time::sleep(20 * SECONDS).await;
    }
    nothing_is_lost(&world, "all are behind");
    // Nobody would end what is begun by another list of instances.
    let by_force = Order::ForceOver { server: "docs".into(), to: "b".into() };
    let error = world.control(1).order(by_force).await.unwrap_err().to_string();
    assert!(error.contains("knows it with other instances"), "{error}");
    for node in 0..3 {
        world.reload(node, MORE);
        world.control(node).runs(2);
    }
    tokio::time::sleep(30 * SECONDS).await;
    nothing_is_lost(&world, "all have it again");
}

#[tokio::test(start_paused = true)]
async fn where_no_node_has_what_was_agreed_on_a_server_that_all_know_is_still_failed_over() {
    let world = World::start_together(PAIR, 3);
    well(&world).await;
    // Of a version that none of them can take over.
    world.agree();
    tokio::time::sleep(20 * SECONDS).await;
    world.set_down("a", true);
    world.until("moved", 30 * SECONDS, |world| world.server("docs").failover.active == "b").await;
}

/// The node that alone runs what was agreed on dies while `docs` waits for a call at `a` to end, on its way
/// to this instance, and `comes` too.
async fn dies_while_it_moves(to: &str) -> Arc<World> {
    let world = World::start_together(BEFORE, 3);
    let version = world.agree();
    for node in 0..3 {
        world.reload(node, MORE);
        world.control(node).runs(version);
    }
    world.until("known", 60 * SECONDS, all_known).await;
    for node in [1, 2] {
        world.reload(node, BEFORE);
        world.control(node).runs(0);
    }
    tokio::time::sleep(5 * SECONDS).await;
    let plane = world.reload(0, MORE);
    for at in [At { server: 0, instance: 0 }, At { server: 1, instance: 0 }] {
        lock(&plane.running).insert(at, 1);
    }
    for (server, to) in [("docs", to), ("comes", "s")] {
        let order = Order::FailOver { server: server.into(), to: Some(to.into()) };
        world.control(0).order(order).await.expect("it moves");
    }
    let drains = |world: &World| {
        let drains = |it: &Move| it.stage == Stage::Drain;
        ["docs", "comes"].iter().all(|it| world.server(it).failover.moving().is_some_and(drains))
    };
    world.until("waits for the call", 10 * SECONDS, drains).await;
    world.kill(0);
    world
}

#[tokio::test(start_paused = true)]
async fn a_move_that_has_begun_is_ended_by_whoever_leads_or_called_off_where_nobody_can() {
    for (to, then) in [("b", "b"), ("c", "a")] {
        let world = dies_while_it_moves(to).await;
        let flows = |world: &World| {
            let waits = |it: &Move| it.stage.is_before_switch();
            let moves = |it: &str| world.server(it).failover.moving().is_some_and(waits);
            world.server("docs").failover.active == then && !moves("docs") && !moves("comes")
        };
        // Less than the time in which another node may be found that runs what was agreed on.
        world.until("calls go on", 8 * SECONDS, flows).await;
        tokio::time::sleep(60 * SECONDS).await;
        assert!(flows(&world), "{:?}", world.history("docs"));
        assert_eq!(world.server("comes").failover.active, "p");
        assert_eq!(world.server("docs").verdicts.len(), 3, "nothing is taken away");
        // Nobody may end what is over but for telling people, and nobody waits for that.
        tokio::time::sleep(60 * SECONDS).await;
        let before = world.calls();
        tokio::time::sleep(10 * SECONDS).await;
        let said = world.calls() - before;
        assert!(said < 50, "{said} messages in ten seconds of rest");
    }
}

/// That nothing was agreed on is known once a coordinator has waited for it.
#[tokio::test(start_paused = true)]
async fn a_cluster_that_never_agrees_waits_once_and_not_with_each_coordinator() {
    let world = World::start_apart(PAIR, 3);
    tokio::time::sleep(9 * SECONDS).await;
    assert!(world.state().servers.by_name.is_empty(), "it may agree yet");
    well(&world).await;
    world.elect(1);
    world.set_down("a", true);
    let moved = |world: &World| world.server("docs").failover.active == "b";
    world.until("moved", 5 * SECONDS, moved).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_the_version_and_cannot_lead_does_not_keep_the_others_from_deciding() {
    // It is short of memory, or it is just not elected.
    for is_ill in [true, false] {
        let world = World::start_together(PAIR, 3);
        well(&world).await;
        let version = world.agree();
        world.control(0).runs(version);
        if is_ill {
            let memory = Some(0.93);
            *lock(&world.nodes[0].machine.0) = Reading { memory, ..Reading::default() };
        } else {
            world.cannot_lead(0);
        }
        tokio::time::sleep(20 * SECONDS).await;
        world.elect(1);
        let term = world.term();
        tokio::time::sleep(300 * SECONDS).await;
        let hands_over = world.term() - term;
        assert_eq!(hands_over == 0, is_ill);
        assert!(hands_over <= 18, "{hands_over} elections in five minutes");
        world.set_down("a", true);
        let on_b = |world: &World| world.server("docs").failover.active == "b";
        world.until("moved", 40 * SECONDS, on_b).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_checks_found_holds_no_more_once_there_are_none() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    world.set_down("b", true);
    let b = At { server: 0, instance: 1 };
    let found =
        |world: &World, opinion| world.server("docs").verdicts["b"].opinion == Some(opinion);
    world.until("ill", 30 * SECONDS, |world| found(world, Opinion::Unhealthy)).await;
    let unchecked = PAIR.replace("health: { ", "health: { enabled: false, ");
    let planes = ALL.map(|node| world.reload(node, &unchecked));
    let opinion = |plane: &FakePlane| lock(&plane.verdicts).get(&b).copied();
    let unknown = |_: &World| planes.iter().all(|plane| opinion(plane) == Some(None));
    world.until("unknown", 30 * SECONDS, unknown).await;
    assert_eq!(world.control(0).servers()[0].instances[1].verdict, "unknown");
    // And again, once it is checked again.
    let planes = ALL.map(|node| world.reload(node, PAIR));
    let ill = |_: &World| planes.iter().all(|it| opinion(it) == Some(Some(Opinion::Unhealthy)));
    world.until("ill again", 30 * SECONDS, ill).await;
    // What has recovered meanwhile was never ill for those that check it now.
    let planes = ALL.map(|node| world.reload(node, &unchecked));
    let unknown = |_: &World| planes.iter().all(|plane| opinion(plane) == Some(None));
    world.until("unknown again", 30 * SECONDS, unknown).await;
    world.set_down("b", false);
    let planes = ALL.map(|node| world.reload(node, PAIR));
    let is_well = |_: &World| {
        let all = planes.each_ref().map(|it| opinion(it).flatten());
        assert!(!all.contains(&Some(Opinion::Unhealthy)), "{all:?}");
        all == [Some(Opinion::Healthy); 3]
    };
    world.until("well", 30 * SECONDS, is_well).await;
    // Who cannot find so by itself believes the others, once they have had the time to vote.
    let planes = ALL.map(|node| world.reload(node, &unchecked));
    let unknown = |_: &World| planes.iter().all(|plane| opinion(plane) == Some(None));
    world.until("unknown once more", 30 * SECONDS, unknown).await;
    world.blind(0);
    let planes = ALL.map(|node| world.reload(node, PAIR));
    let is_well = |_: &World| planes.iter().all(|it| opinion(it) == Some(Some(Opinion::Healthy)));
    world.until("the others are believed", 120 * SECONDS, is_well).await;
}
