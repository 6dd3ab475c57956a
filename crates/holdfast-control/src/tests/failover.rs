//! A primary that is gone, and coordinators that die on the way.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_engine::failover::{Phase, Stage};
use holdfast_engine::health::votes::Opinion;
use holdfast_engine::replicated::ServerHappened;

use super::world::{Kill, World};
use super::{PAIR, SECONDS, well};
use crate::operate::{Force, Operated, Order};
use crate::plane::At;
use crate::shared::lock;

fn on_secondary(world: &World) -> bool {
    let failover = world.server("docs").failover;
    failover.phase == Phase::SecondaryActive && failover.active == "b"
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_is_gone_is_left_by_all_nodes_at_once() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    world.set_down("a", true);
    let gone = world.time();
    world.until("moved", 10 * SECONDS, |world| world.all_go_to(0, "b")).await;
    let moved = world.time() - gone;
    world.until("at rest", 10 * SECONDS, on_secondary).await;
    // Two rounds of two tries, and what refuses is looked at again after 200 ms.
    assert!(moved < 3_000, "after {moved} ms");
    let incidents = world.control(1).incidents();
    let shares: Vec<_> = world.nodes.iter().map(|node| *lock(&node.plane.shares)).collect();
    assert_eq!(shares, [(0, 3), (1, 3), (2, 3)]);
    let [incident] = incidents.as_slice() else { panic!("{incidents:?}") };
    assert_eq!((incident.server.as_str(), incident.instance.as_str()), ("docs", "a"));
    assert_eq!(incident.objective, "kept");
    assert!(incident.began >= gone, "{incident:?}");
    let decided = incident.decided_ms.unwrap() - incident.detected_ms;
    let executed = incident.switched_ms.unwrap() - incident.decided_ms.unwrap();
    assert!(decided <= 100, "A5: decided {decided} ms after the verdict");
    assert!(executed <= 500, "A5: switched {executed} ms after that");
}

/// A wedged listener, or no file descriptors left: what was connected before is served as well as ever. Whatever the
/// checks are: only the first of these makes a new connection by itself.
#[tokio::test(start_paused = true)]
async fn a_primary_that_takes_no_new_connections_is_left_whatever_is_kept_alive() {
    let ping = "checks: [ { type: ping } ]";
    let others = [
        "checks: [ { type: connect }, { type: ping } ]",
        "checks: [ { type: ping }, { type: tool, tool: count, arguments: {} } ]",
    ];
    for (checks, nodes) in [ping].into_iter().chain(others).flat_map(|it| [(it, 3), (it, 1)]) {
        let world = World::start(&PAIR.replace(ping, checks), nodes);
        well(&world).await;
        world.set_shut("a", true);
        let shut = world.time();
        world.until("moved", 10 * SECONDS, |world| world.all_go_to(0, "b")).await;
        let moved = world.time() - shut;
        // As one that is gone.
        assert!(moved < 3_000, "after {moved} ms: {checks}");
        world.until("at rest", 10 * SECONDS, on_secondary).await;
        let incidents = world.control(0).incidents();
        assert_eq!(incidents.len(), 1, "{incidents:?}");
        let history = world.history("docs").join("\n");
        assert!(history.contains("a is unreachable"), "{history}");
        // The others may have been enough for the move: this node says so once its own checks do.
        let says = |world: &World| {
            let why = &world.control(0).servers()[0].instances[0].why;
            why == &["connect: unreachable (connection refused)"]
        };
        world.until("told why", 10 * SECONDS, says).await;

        world.set_shut("a", false);
        let is_well =
            |world: &World| world.server("docs").verdicts["a"].opinion == Some(Opinion::Healthy);
        world.until("well", 10 * SECONDS, is_well).await;
    }
}

/// Checks are seldom, and the calls of one node alone find out. The others look when they hear of it, and not when
/// their intervals are over.
#[tokio::test(start_paused = true)]
async fn what_one_node_finds_of_no_use_the_others_look_at_at_once() {
    let yaml = PAIR.replace("interval: 1s, timeout: 500ms", "interval: 5m, timeout: 500ms");
    let world = World::start(&yaml, 3);
    well(&world).await;
    tokio::time::sleep(10 * SECONDS).await;
    world.set_shut("a", true);
    world.is_refused(2, "a");
    let shut = world.time();
    world.until("moved", 60 * SECONDS, |world| world.all_go_to(0, "b")).await;
    let moved = world.time() - shut;
    assert!(moved < 10_000, "after {moved} ms");
}

/// A machine dies with a node and the primary on it: the node has found the primary well until then.
#[tokio::test(start_paused = true)]
async fn the_last_word_of_a_node_that_dies_with_the_primary_does_not_hold_the_others_up() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    // It has just been heard, and their own calls went well too.
    world.calls_go_well("a");
    tokio::time::sleep(2 * SECONDS).await;
    world.nodes[2].falls_silent();
    world.set_down("a", true);
    let gone = world.time();
    let unhealthy = |world: &World| {
        let known = world.server("docs");
        known.verdicts.get("a").is_some_and(|it| it.opinion == Some(Opinion::Unhealthy))
    };
    world.until("found", 10 * SECONDS, unhealthy).await;
    let found = world.time() - gone;
    // Two rounds of two tries, as with three nodes.
    assert!(found < 3_000, "after {found} ms");
}

/// One that is not quite well has its retries like any other.
#[tokio::test(start_paused = true)]
async fn a_slow_primary_is_not_left_for_two_checks_that_are_lost() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    world.make_poorly("a");
    let opinion = |world: &World, opinion| {
        let known = world.server("docs");
        known.verdicts.get("a").is_some_and(|it| it.opinion == Some(opinion))
    };
    world.until("slow", 20 * SECONDS, |world| opinion(world, Opinion::Degraded)).await;
    tokio::time::sleep(5 * SECONDS).await;
    world.lose("a", 2);
    tokio::time::sleep(10 * SECONDS).await;
    let began = |it: &ServerHappened| matches!(it, ServerHappened::FailoverBegan);
    assert_eq!(world.count(began), 0, "{}", world.history("docs").join("\n"));
    // A third is no accident.
    world.lose("a", 3);
    world.until("moved", 10 * SECONDS, |world| world.all_go_to(0, "b")).await;
}

/// It takes connections and is silent, for all nodes.
#[tokio::test(start_paused = true)]
async fn a_monitor_that_hangs_makes_no_verdict_slower() {
    let ping = "{ type: ping } ]";
    let monitor = r#"{ type: ping }, { type: http, url: "http://m/", external: true } ]"#;
    let slow = "interval: 3s, timeout: 3s";
    let yaml = PAIR.replace("interval: 1s, timeout: 500ms", slow).replace(ping, monitor);
    assert!(yaml.contains("external: true"), "{yaml}");
    let world = World::start(&yaml, 3);
    well(&world).await;
    tokio::time::sleep(20 * SECONDS).await;
    world.set_down("a", true);
    let gone = world.time();
    world.until("moved", 60 * SECONDS, |world| world.all_go_to(0, "b")).await;
    let moved = world.time() - gone;
    // An interval, two tries of 300 ms each, and a round in which all is well waits 200 ms for it.
    assert!(moved < 6_000, "after {moved} ms");
}

/// The default checks, of every 15 s, and with two checks that count the same.
const FROZEN: [&str; 2] = ["{}", "{ checks: [ { type: connect }, { type: ping } ] }"];

#[tokio::test(start_paused = true)]
async fn a_primary_that_is_frozen_is_left_in_its_tiers_time_by_the_default_checks() {
    for health in FROZEN {
        let fast =
            "health: { interval: 1s, timeout: 500ms, retries: 1, checks: [ { type: ping } ] }";
        let yaml = PAIR.replace(fast, &format!("health: {health}\n    tier: 1"));
        assert!(yaml.contains("tier: 1"), "{yaml}");
        // Without calls, nobody notices before the next check.
        for calls in [false, true] {
            let world = World::start(&yaml, 3);
            well(&world).await;
            tokio::time::sleep(20 * SECONDS).await;
            if calls {
                for node in &world.nodes {
                    lock(&node.plane.running).insert(At { server: 0, instance: 0 }, 2);
                }
            }
            world.freeze("a");
            let begun = world.time();
            world.until("moved", 60 * SECONDS, |world| world.all_go_to(0, "b")).await;
            let took = world.time() - begun;
            // 16.5 s, or half an interval where calls hang; 3 s and three tries of 3.2 s; a second for
            // votes and the switch.
            let bound = if calls { 21_500 } else { 30_000 };
            assert!(took < bound, "after {took} ms, calls: {calls}, {health}");
            let is_over = |world: &World| {
                world.control(0).incidents().first().is_some_and(|it| it.objective != "open")
            };
            world.until("answered", 60 * SECONDS, is_over).await;
            let incident = world.control(0).incidents().remove(0);
            assert_eq!(incident.objective, "kept", "{incident:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_cut_off_from_a_healthy_server_moves_nothing() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    // The worst that there is: the coordinator's own network.
    world.blind(0);
    tokio::time::sleep(60 * SECONDS).await;
    assert!(world.all_go_to(0, "a"));
    assert_eq!(world.count(|it| *it == ServerHappened::FailoverBegan), 0);
    let unhealthy = |it: &ServerHappened| {
        use holdfast_engine::health::votes::Opinion::Unhealthy;
        matches!(it, ServerHappened::Verdict { to: Unhealthy, .. })
    };
    assert_eq!(world.count(unhealthy), 0, "{:?}", world.history("docs"));
}

#[tokio::test(start_paused = true)]
async fn a_failover_ends_wherever_its_coordinator_dies() {
    let mut killed = 0;
    for number in 0.. {
        let mut any = false;
        for when in [Kill::Before(number), Kill::After(number)] {
            let world = World::start(PAIR, 3);
            well(&world).await;
            world.set_down("a", true);
            world.kill_coordinator(when);
            world.until("moved", 60 * SECONDS, |world| world.all_go_to(0, "b")).await;
            world.until("at rest", 60 * SECONDS, on_secondary).await;
            let switches = world.count(|it| *it == ServerHappened::Switched);
            assert_eq!(switches, 1, "{when:?}: {:?}", world.history("docs"));
            any |= world.was_killed();
            killed += usize::from(world.was_killed());
        }
        if !any {
            break;
        }
    }
    // The verdict, its later score, and the steps of the move.
    assert!(killed >= 10, "only {killed} of the kills hit");
}

#[tokio::test(start_paused = true)]
async fn a_move_by_hand_ends_wherever_its_coordinator_dies() {
    for number in 0..12 {
        for when in [Kill::Before(number), Kill::After(number)] {
            let world = World::start(PAIR, 3);
            well(&world).await;
            world.kill_coordinator(when);
            let order = Order::FailOver { server: "docs".into(), to: Some("b".into()) };
            // The order itself may be lost with the coordinator; who gave it sees that and repeats it.
            let told = world.control(2).order(order.clone()).await;
            let failover = world.server("docs").failover;
            if told.is_err() && failover.generation == 0 {
                world.control(2).order(order).await.unwrap();
            }
            world.until("moved", 60 * SECONDS, on_secondary).await;
            assert!(world.all_go_to(0, "b"));
            let switches = world.count(|it| *it == ServerHappened::Switched);
            assert_eq!(switches, 1, "{when:?}: {:?}", world.history("docs"));
        }
    }
}

/// Check, ten steps of the ramp, pause, drain, switch, notify.
#[tokio::test(start_paused = true)]
async fn a_gradual_move_goes_on_wherever_its_coordinator_dies() {
    let yaml = PAIR.replace(
        "drain: 10s",
        "drain: 10s, shift_over: 5s, consistency: { tool: count, arguments: {} }",
    );
    let (mut killed, mut stages) = (0, BTreeSet::new());
    for number in 0.. {
        let mut any = false;
        for when in [Kill::Before(number), Kill::After(number)] {
            let world = World::start(&yaml, 3);
            well(&world).await;
            world.errs("a");
            world.kill_coordinator(when);
            world.until("moved", 120 * SECONDS, on_secondary).await;
            assert!(world.all_go_to(0, "b"), "{when:?}");
            // One move, however many coordinators: none was begun anew or taken back.
            let failover = world.server("docs").failover;
            assert_eq!(failover.generation, 1, "{when:?}: {:#?}", world.history("docs"));
            let switches = world.count(|it| *it == ServerHappened::Switched);
            assert_eq!(switches, 1, "{when:?}: {:#?}", world.history("docs"));
            any |= world.was_killed();
            killed += usize::from(world.was_killed());
            stages.extend(world.killed_at());
        }
        if !any {
            break;
        }
    }
    assert!(killed >= 30, "only {killed} of the kills hit");
    for stage in ["check", "ramp", "pause", "drain", "switch", "notify"] {
        assert!(stages.contains(stage), "{stage}: {stages:?}");
    }
}

/// However long it took to find the next one: the time of the check passed without anybody who made it.
#[tokio::test(start_paused = true)]
async fn a_coordinator_that_dies_over_the_check_is_followed_by_one_that_makes_it() {
    let check = "drain: 10s, consistency: { tool: count, arguments: {} }";
    let world = World::start(&PAIR.replace("drain: 10s", check), 3);
    well(&world).await;
    world.slow("b", Duration::from_millis(400));
    let order = Order::FailOver { server: "docs".into(), to: Some("b".into()) };
    world.control(1).order(order).await.unwrap();
    let checks = |world: &World| {
        let failover = world.server("docs").failover;
        failover.moving().is_some_and(|it| it.stage == Stage::Check)
    };
    world.until("at its check", 10 * SECONDS, checks).await;
    world.kill(0);
    for node in &world.nodes {
        node.loses_its_coordinator();
    }
    tokio::time::sleep(20 * SECONDS).await;
    assert!(checks(&world));
    world.elect(2);
    world.until("moved", 10 * SECONDS, |world| world.all_go_to(0, "b")).await;
    world.until("at rest", 60 * SECONDS, on_secondary).await;
    assert_eq!(world.server("docs").failover.generation, 1, "{:#?}", world.history("docs"));
}

/// What `holdfast events` shows, in the words of one who has to act on it.
#[tokio::test(start_paused = true)]
async fn the_record_of_moves_reads_well() {
    let check = "drain: 10s, consistency: { tool: count, arguments: {} }";
    let world = World::start(&PAIR.replace("drain: 10s", check), 3);
    well(&world).await;
    world.answers("a", "7 rows");
    world.answers("b", "7 rows");
    let since = world.history("docs").len();
    let breaker =
        |force| Order::Breaker { server: "docs".into(), instance: Some("b".into()), force };
    for force in [Force::Closed, Force::Clear] {
        world.control(0).order(breaker(force)).await.unwrap();
    }
    world.set_down("a", true);
    world.until("moved", 10 * SECONDS, on_secondary).await;
    world.set_down("a", false);
    world.answers("b", "6 rows");
    let is_well =
        |world: &World| world.server("docs").verdicts["a"].opinion == Some(Opinion::Healthy);
    world.until("well", 30 * SECONDS, is_well).await;
    world.control(0).order(Order::FailBack { server: "docs".into() }).await.unwrap();
    world.until("rolled back", 10 * SECONDS, on_secondary).await;
    world.answers("b", "7 rows");
    world.control(0).order(Order::FailBack { server: "docs".into() }).await.unwrap();
    let ramps = |world: &World| matches!(world.server("docs").failover.moving(), Some(it) if matches!(it.stage, Stage::Ramp { percent: 20 }));
    world.until("ramp", 60 * SECONDS, ramps).await;
    let history = world.history("docs");
    let all = history[since..].iter().filter_map(|it| Some(it.split_once(' ')?.1));
    // How the votes stood stands behind it, and is another matter.
    let said: Vec<&str> = all.clone().map(|it| it.split("; 3 of 3").next().unwrap_or(it)).collect();
    for line in all {
        assert!(!line.ends_with([':', ' ', ',']) && !line.ends_with(", score"), "{line}");
    }
    let is_step = |it: &&str| {
        let other = ["a is ", "emergency: a ", "what it costs ", "first good answer: b, "];
        !other.iter().any(|begins| it.starts_with(begins))
    };
    let said: Vec<&str> = said.into_iter().filter(is_step).collect();
    let expected = [
        "breaker of b forced closed: by an operator at n1",
        "breaker of b decides by itself: by an operator at n1",
        "failover to b begins: a is unreachable (immediate, pause)",
        "on the way to b: a is unreachable (immediate, check)",
        "b is active: a is unreachable (immediate)",
        "people are told that b is active",
        "at rest: b is active",
        "failback to a begins: by an operator at n1 (gradual, check)",
        "not moved to a: check of a: a answers otherwise than b",
        "at rest: b is active",
        "failback to a begins: by an operator at n1 (gradual, check)",
        "10 % of the sessions use a: by an operator at n1 (gradual)",
        "20 % of the sessions use a: by an operator at n1 (gradual)",
    ];
    assert_eq!(said, expected, "{history:#?}");
}

#[tokio::test(start_paused = true)]
async fn running_calls_end_before_the_switch_or_their_time_does() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    let at = At { server: 0, instance: 0 };
    lock(&world.nodes[1].plane.running).insert(at, 2);
    let order = Order::FailOver { server: "docs".into(), to: None };
    world.control(0).order(order).await.unwrap();
    tokio::time::sleep(3 * SECONDS).await;
    assert_eq!(world.count(|it| *it == ServerHappened::Switched), 0, "two calls run");
    lock(&world.nodes[1].plane.running).insert(at, 0);
    world.until("moved", SECONDS, |world| world.all_go_to(0, "b")).await;
}

#[tokio::test(start_paused = true)]
async fn sides_that_answer_otherwise_are_not_exchanged() {
    let check = "drain: 10s, consistency: { tool: count, arguments: {} }";
    let world = World::start(&PAIR.replace("drain: 10s", check), 3);
    well(&world).await;
    world.answers("a", "7 rows");
    world.answers("b", "6 rows");
    let order = Order::FailOver { server: "docs".into(), to: None };
    world.control(1).order(order.clone()).await.unwrap();
    let rolled_back = |it: &ServerHappened| *it == ServerHappened::RolledBack;
    world.until("rolled back", 5 * SECONDS, |world| world.count(rolled_back) == 1).await;
    assert!(world.all_go_to(0, "a"));
    world.answers("b", "7 rows");
    world
        .until("at rest", 5 * SECONDS, |world| {
            world.server("docs").failover.phase == Phase::PrimaryActive
        })
        .await;
    world.control(1).order(order).await.unwrap();
    world.until("moved", 5 * SECONDS, |world| world.all_go_to(0, "b")).await;
}

/// A coordinator that reaches neither side has another node compare them, and obeys what that finds.
#[tokio::test(start_paused = true)]
async fn a_coordinators_own_network_keeps_no_server_where_it_is() {
    let check = "drain: 10s, consistency: { tool: count, arguments: {} }";
    let world = World::start(&PAIR.replace("drain: 10s", check), 3);
    well(&world).await;
    world.answers("a", "42 rows");
    world.answers("b", "42 rows");
    world.blind(0);
    world.set_down("a", true);
    world.until("moved", 30 * SECONDS, |world| world.all_go_to(0, "b")).await;
    assert_eq!(world.coordinator(), 0);
    world.until("at rest", 30 * SECONDS, on_secondary).await;
}

#[tokio::test(start_paused = true)]
async fn what_another_node_finds_different_is_not_exchanged_either() {
    let check = "drain: 10s, consistency: { tool: count, arguments: {} }";
    let world = World::start(&PAIR.replace("drain: 10s", check), 3);
    well(&world).await;
    world.answers("a", "42 rows");
    world.answers("b", "41 rows");
    world.blind(0);
    let order = Order::FailOver { server: "docs".into(), to: None };
    world.control(0).order(order).await.unwrap();
    world
        .until("taken back", 60 * SECONDS, |world| {
            world.count(|it| *it == ServerHappened::RolledBack) == 1
        })
        .await;
    assert!(world.all_go_to(0, "a"), "{:?}", world.history("docs"));
    let said = world.history("docs").join("\n");
    assert!(said.contains("b answers otherwise than a"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_is_well_again_gets_its_sessions_back_bit_by_bit() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    world.set_down("a", true);
    world.until("moved", 10 * SECONDS, on_secondary).await;
    world.set_down("a", false);
    let back = world.time();
    let began = |it: &ServerHappened| *it == ServerHappened::FailbackBegan;
    world.until("on its way back", 90 * SECONDS, |world| world.count(began) == 1).await;
    let waited = Duration::from_millis(world.time() - back);
    assert!(waited >= 60 * SECONDS, "the delay is a minute, and it began after {waited:?}");
    world
        .until("back", 200 * SECONDS, |world| {
            world.server("docs").failover.phase == Phase::PrimaryActive && world.all_go_to(0, "a")
        })
        .await;
    let ramp = Duration::from_millis(world.time() - back) - waited;
    assert!(ramp >= 90 * SECONDS, "ten steps of ten seconds took {ramp:?}");
}

/// Why it does not go back is said all the time.
#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_reach_the_primary_keeps_no_server_from_going_back() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    world.set_down("a", true);
    world.until("moved", 10 * SECONDS, on_secondary).await;
    let waits = |world: &World| world.control(world.coordinator()).servers()[0].reason.clone();
    assert_eq!(waits(&world), "a has to be healthy");
    world.blind(2);
    world.set_down("a", false);
    let well_again = |world: &World| waits(world).starts_with("back to a in ");
    world.until("well again", 30 * SECONDS, well_again).await;
    world
        .until("back", 300 * SECONDS, |world| {
            let failover = world.server("docs").failover;
            failover.phase == Phase::PrimaryActive && failover.active == "a"
        })
        .await;
    assert_eq!(waits(&world), "");
    let order = Order::FailOver { server: "docs".into(), to: None };
    world.control(0).order(order).await.unwrap();
    world.until("moved by hand", 30 * SECONDS, on_secondary).await;
    assert_eq!(waits(&world), "an operator's failback is waited for");
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_fails_while_it_comes_back_is_left_again() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    world.set_down("a", true);
    world.until("moved", 10 * SECONDS, on_secondary).await;
    world.set_down("a", false);
    let began = |it: &ServerHappened| *it == ServerHappened::FailbackBegan;
    world.until("on its way back", 90 * SECONDS, |world| world.count(began) == 1).await;
    tokio::time::sleep(15 * SECONDS).await;
    world.set_down("a", true);
    let rolled_back = |it: &ServerHappened| *it == ServerHappened::RolledBack;
    world.until("rolled back", 10 * SECONDS, |world| world.count(rolled_back) == 1).await;
    world.until("moved", SECONDS, |world| world.all_go_to(0, "b")).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_target_hangs_delays_no_other_server() {
    let pair = PAIR.trim_start().trim_start_matches("servers:\n");
    let other = pair.replace("docs:", "files:").replace("id: a", "id: c").replace("id: b", "id: d");
    let checked = "failover: { consistency: { tool: count, arguments: {} },";
    let slow = pair.replace("interval: 1s, timeout: 500ms", "interval: 30s, timeout: 20s");
    let slow = slow.replace("failover: {", checked);
    let world = World::start(&format!("servers:\n{slow}{other}"), 3);
    well(&world).await;
    world.until("well", 10 * SECONDS, |world| world.all_go_to(1, "c")).await;
    // It answers pings only.
    world.hang_calls("b");
    world.set_down("a", true);
    let checks = |world: &World| {
        let state = world.server("docs").failover;
        state.moving().is_some_and(|it| it.stage == Stage::Check)
    };
    world.until("at its check", 60 * SECONDS, checks).await;
    world.set_down("c", true);
    world.until("moved", 20 * SECONDS, |world| world.all_go_to(1, "d")).await;
    let incidents = world.control(0).incidents();
    let incident = incidents.iter().find(|it| it.server == "files").expect("an outage");
    let executed = incident.switched_ms.unwrap() - incident.detected_ms;
    assert!(executed <= 600, "A5: switched {executed} ms after the verdict");
}

#[tokio::test(start_paused = true)]
async fn a_target_in_the_same_region_comes_first() {
    let regions = r#"
servers:
  docs:
    instances:
      - { id: a, url: "http://127.0.0.1:1/mcp", role: primary, region: east }
      - { id: b, url: "http://127.0.0.1:2/mcp", role: secondary, region: west }
      - { id: c, url: "http://127.0.0.1:3/mcp", role: secondary, region: east }
    health: { interval: 2m }
"#;
    let world = World::start(regions, 3);
    // Also where checks are farther apart than a round of votes.
    world.until("well", 10 * SECONDS, |world| world.all_go_to(0, "a")).await;
    tokio::time::sleep(200 * SECONDS).await;
    world.set_down("a", true);
    world.until("moved", 300 * SECONDS, |world| world.all_go_to(0, "c")).await;
}
