//! When an incident began, and when it was over.

use std::time::Duration;

use holdfast_engine::health::votes::Opinion;
use holdfast_engine::replicated::{ControlCommand, ServerCommand, ServerHappened};

use super::world::{Kill, Node, World};
use super::{ALL, PAIR, SECONDS, well};
use crate::driver::Reconciler as _;
use crate::operate::{IncidentView, Operated as _, Order};
use crate::plane::Lost;
use crate::shared::lock;
use crate::tasks::losses::Losses;

/// Checks that notice an instance that is slow.
const LATENCY: &str = "checks: [ { type: ping, weight: 0.5 }, { type: latency, weight: 0.5, good: 50ms, bad: 150ms } ]";
/// So slow that it is degraded.
const SLOW: Duration = Duration::from_millis(100);

/// The pair, with a latency check.
fn pair() -> String {
    PAIR.replace("checks: [ { type: ping } ]", LATENCY)
}

fn is(world: &World, instance: &str, opinion: Opinion) -> bool {
    let verdicts = world.server("docs").verdicts;
    verdicts.get(instance).is_some_and(|it| it.opinion == Some(opinion))
}

/// A server of one instance, which no Write may be in doubt of.
fn alone(checks: &str) -> String {
    format!(
        "servers: {{ docs: {{ tier: 1, url: \"http://127.0.0.1:1/mcp\", health: {{ interval: 1s, {checks} }} }} }}"
    )
}

/// Whether that instance is found so.
fn so(opinion: Opinion) -> impl Fn(&World) -> bool {
    move |world| world.state().servers.by_name.contains_key("docs") && is(world, "1", opinion)
}

async fn until_degraded(world: &World) {
    let degraded = |world: &World| is(world, "a", Opinion::Degraded);
    world.until("degraded", 30 * SECONDS, degraded).await;
}

/// The only incident, once it is over.
async fn over(world: &World) -> IncidentView {
    let is_over = |world: &World| {
        world.control(0).incidents().first().is_some_and(|it| it.recovered_ms.is_some())
    };
    world.until("over", 60 * SECONDS, is_over).await;
    let incidents = world.control(0).incidents();
    let [incident] = incidents.as_slice() else { panic!("{incidents:?}") };
    incident.clone()
}

#[tokio::test(start_paused = true)]
async fn hours_of_being_slow_are_no_part_of_the_outage_that_follows() {
    let world = World::start(&pair(), 3);
    well(&world).await;
    world.slow("a", SLOW);
    until_degraded(&world).await;
    tokio::time::sleep(600 * SECONDS).await;
    let gone = world.time();
    world.set_down("a", true);
    let incident = over(&world).await;
    assert!(incident.began >= gone, "{} ms too early", gone - incident.began);
    assert_eq!((incident.objective, incident.tier), ("kept", "kept"));
}

#[tokio::test(start_paused = true)]
async fn what_an_outvoted_node_saw_is_not_the_beginning() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    world.blind(2);
    tokio::time::sleep(600 * SECONDS).await;
    let gone = world.time();
    world.set_down("a", true);
    let incident = over(&world).await;
    assert!(incident.began >= gone, "{} ms too early", gone - incident.began);
    assert_eq!(incident.objective, "kept");
}

#[tokio::test(start_paused = true)]
async fn an_outage_after_another_begins_after_it() {
    let world = World::start(&alone(LATENCY), 3);
    world.until("well", 10 * SECONDS, so(Opinion::Healthy)).await;
    world.set_down("1", true);
    world.until("out", 10 * SECONDS, so(Opinion::Unhealthy)).await;
    world.slow("1", SLOW);
    world.set_down("1", false);
    world.until("of some use", 30 * SECONDS, so(Opinion::Degraded)).await;
    tokio::time::sleep(60 * SECONDS).await;
    let gone = world.time();
    world.set_down("1", true);
    world.until("out again", 10 * SECONDS, so(Opinion::Unhealthy)).await;
    let began: Vec<u64> = world.control(0).incidents().iter().map(|it| it.began).collect();
    let [one, other] = began[..] else { panic!("{began:?}") };
    let last = one.max(other);
    assert!(last >= gone, "{} ms too early", gone - last);
}

/// Two instances that are alike.
const EQUALS: &str = r#"
servers:
  docs:
    instances:
      - { id: a, url: "http://127.0.0.1:1/mcp" }
      - { id: b, url: "http://127.0.0.1:2/mcp" }
    health: { interval: 1s, timeout: 500ms, retries: 1, checks: [ { type: ping } ] }
    objectives: { rto: 30s }
"#;

#[tokio::test(start_paused = true)]
async fn a_server_whose_instances_are_alike_is_out_when_the_last_of_them_is() {
    let world = World::start(EQUALS, 3);
    let all = |opinion| move |world: &World| is(world, "a", opinion) && is(world, "b", opinion);
    let known = |world: &World| world.state().servers.by_name.contains_key("docs");
    world.until("known", 10 * SECONDS, known).await;
    world.until("well", 10 * SECONDS, all(Opinion::Healthy)).await;
    // The first of the list is the one that the record takes for the active one.
    world.set_down("a", true);
    world.until("one is out", 30 * SECONDS, |world| is(world, "a", Opinion::Unhealthy)).await;
    tokio::time::sleep(120 * SECONDS).await;
    assert_eq!(world.control(0).incidents(), []);
    assert_eq!(world.control(0).servers()[0].verdict, "healthy");
    assert!(!world.history("docs").iter().any(|it| it.contains("missed")));
    world.set_down("b", true);
    world.until("both are out", 30 * SECONDS, all(Opinion::Unhealthy)).await;
    assert_eq!(world.control(0).servers()[0].verdict, "unhealthy");
    tokio::time::sleep(60 * SECONDS).await;
    let missed =
        |world: &World| world.history("docs").iter().filter(|it| it.contains("missed")).count();
    assert_eq!(missed(&world), 1, "{:#?}", world.history("docs"));
    world.set_down("b", false);
    let incident = over(&world).await;
    assert_eq!((incident.instance.as_str(), incident.objective), ("b", "missed"));
}

/// On the real clock: there is a real connection, which is never answered.
#[tokio::test]
async fn an_idle_servers_outage_is_over_when_all_nodes_use_another_instance_whoever_hears_of_it() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let notify = format!("notify: [ {{ url: \"{url}\", retries: 0, timeout: 4s }} ]\n");
    let fast = PAIR.replace("interval: 1s, timeout: 500ms", "interval: 500ms, timeout: 500ms");
    let world = World::start(&format!("{notify}{fast}"), 3);
    world.idle(&ALL);
    well(&world).await;
    world.set_down("a", true);
    let tells = |world: &World| {
        use holdfast_engine::failover::Stage;
        let failover = world.server("docs").failover;
        failover.moving().is_some_and(|it| matches!(it.stage, Stage::Notify { .. }))
    };
    world.until("people are told", 20 * SECONDS, tells).await;
    let used = world.time();
    let incident = over(&world).await;
    assert!(!tells(&world) && world.time() > used, "it was over before: nothing was shown");
    let recovered = incident.began + incident.recovered_ms.unwrap();
    assert!(recovered <= used, "{} ms after all nodes used b: {incident:?}", recovered - used);
}

fn alarms(world: &World) -> usize {
    world.history("docs").iter().filter(|it| it.contains("emergency: a has")).count()
}

#[tokio::test(start_paused = true)]
async fn an_alarm_is_given_once_wherever_the_coordinator_dies() {
    let dies = (0..8).flat_map(|number| [Kill::Before(number), Kill::After(number)]);
    let mut killed = 0;
    for when in dies.chain([Kill::Depose("emergency: ")]) {
        let world = World::start(PAIR, 3);
        well(&world).await;
        world.set_down("a", true);
        world.kill_coordinator(when);
        world.until("out", 30 * SECONDS, |world| is(world, "a", Opinion::Unhealthy)).await;
        tokio::time::sleep(20 * SECONDS).await;
        assert_eq!(alarms(&world), 1, "{when:?}: {:#?}", world.history("docs"));
        killed += usize::from(world.was_killed());
    }
    assert!(killed >= 12, "only {killed}");
}

/// An unhealthy instance that falls below a bar is below it for the group too, however little it fell.
#[tokio::test(start_paused = true)]
async fn a_bar_is_crossed_by_one_point() {
    let world = World::start(&pair(), 3);
    well(&world).await;
    // The checks are all that is known then.
    world.idle(&ALL);
    let score = |world: &World| world.server("docs").verdicts["a"].score;
    // 50 ms are good, and 150 ms bad: half of the weight.
    world.slow("a", Duration::from_millis(128));
    world.until("61", 60 * SECONDS, |world| score(world) == 61).await;
    world.slow("a", Duration::from_millis(134));
    world.until("below 60", 60 * SECONDS, |world| score(world) < 60).await;
    tokio::time::sleep(30 * SECONDS).await;
    let below = score(&world);
    world.slow("a", Duration::from_millis(136));
    tokio::time::sleep(30 * SECONDS).await;
    assert_eq!(score(&world), below, "no news: nothing else is done for it");
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_is_deposed_over_it_announces_nothing_that_the_next_one_does() {
    let yaml = PAIR.replace("    failover:", "    objectives: { rto: 10s }\n    failover:");
    let world = World::start(&yaml, 3);
    well(&world).await;
    world.set_down("a", true);
    let began = |it: &ServerHappened| *it == ServerHappened::FailoverBegan;
    world.until("under way", 30 * SECONDS, |world| world.count(began) == 1).await;
    world.nodes.iter().for_each(Node::loses_its_coordinator);
    // Until both times are over, so that one turn finds both.
    tokio::time::sleep(20 * SECONDS).await;
    world.kill_coordinator(Kill::Depose("failover slower than its tier"));
    world.elect(0);
    world.until("moved", 30 * SECONDS, |world| world.all_go_to(0, "b")).await;
    tokio::time::sleep(20 * SECONDS).await;
    assert!(world.was_killed());
    for words in ["recovery time objective missed", "failover slower than its tier"] {
        let said = world.history("docs").iter().filter(|it| it.contains(words)).count();
        assert_eq!(said, 1, "{words}: {:#?}", world.history("docs"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_goes_on_where_its_server_is_moved_by_force_to_what_is_of_no_use() {
    // Unhealthy, and not so much that it is left at once: the move comes to rest there.
    let latency = LATENCY.replace("ping, weight: 0.5", "ping, weight: 0.45");
    let yaml = PAIR.replace("checks: [ { type: ping } ]", &latency);
    let world = World::start(&yaml, 3);
    well(&world).await;
    world.idle(&ALL);
    world.slow("b", Duration::from_millis(300));
    world.until("b is ill", 60 * SECONDS, |world| is(world, "b", Opinion::Unhealthy)).await;
    world.set_down("a", true);
    world.until("a is down", 30 * SECONDS, |world| is(world, "a", Opinion::Unhealthy)).await;
    let order = Order::ForceOver { server: "docs".into(), to: "b".into() };
    world.control(1).order(order).await.unwrap();
    let on_b = |world: &World| {
        let failover = world.server("docs").failover;
        failover.active == "b" && failover.moving().is_none()
    };
    world.until("on b", 60 * SECONDS, on_b).await;
    tokio::time::sleep(10 * SECONDS).await;
    let incident = world.control(0).incidents().remove(0);
    assert_eq!(incident.recovered_ms, None, "{:#?}", world.history("docs"));
    let better = world.time();
    world.slow("b", Duration::from_millis(3));
    let incident = over(&world).await;
    assert!(incident.began + incident.recovered_ms.unwrap() >= better, "{incident:?}");
}

fn lost(writes: u32, oldest: Duration, moved: u32) -> Lost {
    let moved = if moved == 0 { Vec::new() } else { vec![(0, moved)] };
    let unknown = if writes == 0 { Vec::new() } else { vec![(oldest, writes)] };
    Lost { unknown, moved }
}

/// A node's clients lose this.
fn loses(world: &World, node: usize, lost: Lost) {
    lock(&world.nodes[node].plane.lost).insert(0, lost);
}

/// The pair, of which no Write may be in doubt.
fn strict() -> String {
    PAIR.replace("    failover:", "    tier: 1\n    failover:")
}

fn cost(incident: &IncidentView) -> (u32, u32, &'static str) {
    (incident.unknown_writes, incident.sessions_moved, incident.rpo)
}

#[tokio::test(start_paused = true)]
async fn what_an_outage_cost_is_told_by_all_nodes_and_held_against_the_rpo() {
    let world = World::start(&strict(), 3);
    well(&world).await;
    // Long before: no outage's.
    loses(&world, 1, lost(7, SECONDS, 0));
    tokio::time::sleep(60 * SECONDS).await;
    world.set_down("a", true);
    // Calls notice before anybody has concluded anything.
    loses(&world, 0, lost(1, 4 * SECONDS, 0));
    loses(&world, 1, lost(2, 2 * SECONDS, 0));
    let incident = over(&world).await;
    assert_eq!(incident.objective, "kept");
    loses(&world, 2, lost(0, Duration::ZERO, 40));
    let is = |world: &World, expected| {
        let cost = world.control(1).incidents().first().map(cost);
        cost == Some(expected)
    };
    world.until("told", 10 * SECONDS, |world| is(world, (3, 40, "missed"))).await;
    let incident = world.control(2).incidents().remove(0);
    let took = incident.recovered_ms.unwrap();
    assert!((3_000 + took..6_000 + took).contains(&incident.in_doubt_ms), "{incident:?}");
    // Of those that were under way, one hangs until its deadline; and sessions move with their calls.
    world.kill(0);
    tokio::time::sleep(60 * SECONDS).await;
    loses(&world, 2, lost(1, 120 * SECONDS, 2));
    world.until("later", 10 * SECONDS, |world| is(world, (4, 42, "missed"))).await;
    tokio::time::sleep(20 * SECONDS).await;
    let history = world.history("docs");
    let said = |words: &str| history.iter().filter(|it| it.contains(words)).count();
    assert_eq!(said("recovery point objective missed"), 1, "{history:#?}");
    assert_eq!(said("4 Writes in doubt, 42 sessions without their state"), 1, "{history:#?}");
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_cost_nothing_keeps_its_rpo_and_a_moved_session_is_no_write() {
    let world = World::start(&strict(), 3);
    well(&world).await;
    world.set_down("a", true);
    let incident = over(&world).await;
    assert_eq!((cost(&incident), incident.rpo_ms), ((0, 0, "kept"), 0));
    for node in ALL {
        loses(&world, node, lost(0, Duration::ZERO, 100));
    }
    tokio::time::sleep(5 * SECONDS).await;
    let incident = over(&world).await;
    assert_eq!((cost(&incident), incident.in_doubt_ms), ((0, 300, "kept"), 0));
}

/// What a node has not told yet is told to whoever coordinates next.
#[tokio::test(start_paused = true)]
async fn what_a_coordinator_did_not_hear_of_is_told_to_the_next_one() {
    let world = World::start(&strict(), 3);
    well(&world).await;
    world.set_down("a", true);
    over(&world).await;
    world.nodes.iter().for_each(Node::loses_its_coordinator);
    loses(&world, 2, lost(2, 20 * SECONDS, 1));
    tokio::time::sleep(10 * SECONDS).await;
    world.elect(1);
    let told = |world: &World| world.control(0).incidents().first().map(cost);
    world.until("told", 10 * SECONDS, |world| told(world) == Some((2, 1, "missed"))).await;
}

/// Where a node may be of a version that does not count, that nobody told of a loss means nothing.
#[tokio::test(start_paused = true)]
async fn an_outage_is_not_measured_while_a_node_may_not_know_how() {
    let world = World::start(&strict(), 3);
    well(&world).await;
    // It never says what it reads.
    world.apply(0, super::nodes::join(4, "n4"));
    world.set_down("a", true);
    let incident = over(&world).await;
    assert_eq!(cost(&incident), (0, 0, "unmeasured"));
    tokio::time::sleep(20 * SECONDS).await;
    assert_eq!(world.count(|it| matches!(it, ServerHappened::Lost { .. })), 0);
}

#[tokio::test(start_paused = true)]
async fn a_missed_objective_is_told_of_each_outage_however_late_the_line_of_another_comes() {
    let world = World::start(&alone("checks: [ { type: ping } ]"), 3);
    let said = |world: &World| {
        let history = world.history("docs");
        let of = |it: &&String| it.contains("recovery point objective missed");
        history.iter().filter(of).cloned().collect::<Vec<_>>()
    };
    world.until("well", 10 * SECONDS, so(Opinion::Healthy)).await;
    world.set_down("1", true);
    world.until("out", 10 * SECONDS, so(Opinion::Unhealthy)).await;
    world.set_down("1", false);
    world.until("well", 30 * SECONDS, so(Opinion::Healthy)).await;
    world.set_down("1", true);
    world.until("out again", 10 * SECONDS, so(Opinion::Unhealthy)).await;
    let outages = holdfast_engine::objectives::outages(&world.state().servers.events);
    let [first, second] = [0, 1].map(|at| outages[at].index);
    let lose = |outage| {
        let (server, oldest) = ("docs".to_owned(), world.time() - 20_000);
        let lost = ServerCommand::Lose { server, outage, unknown: 1, oldest, moved: 0 };
        world.apply(0, ControlCommand::Server(lost));
    };
    lose(first);
    world.until("told of the first", 10 * SECONDS, |world| said(world).len() == 1).await;
    lose(second);
    world.until("told of the second", 10 * SECONDS, |world| said(world).len() == 2).await;
    tokio::time::sleep(20 * SECONDS).await;
    let said = said(&world);
    assert_eq!(said.len(), 2, "{said:#?}");
    assert!(said[0].contains(" ms before the end, "), "{said:#?}");
    assert!(said[1].contains(" ms ago, "), "it goes on: {said:#?}");
}

/// A reload ends a turn wherever it is.
#[tokio::test(start_paused = true)]
async fn what_was_about_to_be_told_when_a_node_was_reconfigured_is_told() {
    let world = World::start(&strict(), 3);
    well(&world).await;
    world.set_down("a", true);
    over(&world).await;
    loses(&world, 1, lost(2, 20 * SECONDS, 1));
    let mut turn = Losses::new(world.control(1).shared());
    tokio::select! {
        biased;
        _ = turn.activate() => panic!("the way to the coordinator takes time"),
        () = std::future::ready(()) => {}
    }
    assert!(lock(&world.nodes[1].plane.lost).is_empty(), "it was taken");
    world.reload(1, &strict());
    let told = |world: &World| world.control(0).incidents().first().map(cost);
    world.until("told", 10 * SECONDS, |world| told(world) == Some((2, 1, "missed"))).await;
}

/// A call that hangs is given up with others that came when the outage was over.
#[tokio::test(start_paused = true)]
async fn of_what_is_given_up_in_one_second_each_call_has_met_the_outage_or_not() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    world.set_down("a", true);
    let incident = over(&world).await;
    tokio::time::sleep(60 * SECONDS).await;
    let ago = |at: u64| Duration::from_millis(world.time() - at);
    let ended = incident.began + incident.recovered_ms.unwrap();
    let unknown = vec![(ago(incident.began - 2_000), 3), (ago(ended + 30_000), 2)];
    loses(&world, 2, Lost { unknown, moved: Vec::new() });
    let told = |world: &World| world.control(0).incidents()[0].unknown_writes;
    world.until("told", 10 * SECONDS, |world| told(world) > 0).await;
    tokio::time::sleep(10 * SECONDS).await;
    assert_eq!(told(&world), 3);
}

/// Not by the nodes' own clocks, which differ: the switch is in the group's time, too.
#[tokio::test(start_paused = true)]
async fn when_a_call_was_answered_is_said_in_the_groups_time() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    world.answered_before(60 * SECONDS);
    tokio::time::sleep(30 * SECONDS).await;
    let answered = world.control(0).shared().desk.answered("docs", "a", 0).expect("it was");
    let ago = world.time() - answered;
    assert!((60_000..62_000).contains(&ago), "{ago} ms ago");
}

#[tokio::test(start_paused = true)]
async fn calls_that_fail_do_not_date_back_to_when_it_became_slow() {
    let world = World::start(&pair(), 3);
    well(&world).await;
    world.slow("a", SLOW);
    until_degraded(&world).await;
    tokio::time::sleep(600 * SECONDS).await;
    let failing = world.time();
    world.set_failing("a", &ALL, true);
    let incident = over(&world).await;
    assert!(incident.began >= failing, "{} ms too early", failing - incident.began);
}

#[tokio::test(start_paused = true)]
async fn one_nodes_failing_calls_do_not_date_those_of_the_others() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    world.set_failing("a", &[0], true);
    tokio::time::sleep(600 * SECONDS).await;
    let failing = world.time();
    world.set_failing("a", &ALL, true);
    let incident = over(&world).await;
    assert!(incident.began >= failing, "{} ms too early", failing - incident.began);
}

/// Three of five find it unhealthy before the fourth does, which makes it degraded for a moment.
#[tokio::test(start_paused = true)]
async fn among_five_nodes_an_outage_begins_with_its_first_sign() {
    let mut before = 0;
    // Not in all of them the signs come before the verdict, or there is one.
    for _ in 0..20 {
        let world = World::start(PAIR, 5);
        well(&world).await;
        let gone = world.time();
        world.set_down("a", true);
        let incident = over(&world).await;
        assert!(incident.began >= gone, "{:#?}", world.history("docs"));
        before += world
            .state()
            .servers
            .events
            .iter()
            .filter(|it| {
                let is_so =
                    matches!(it.what, ServerHappened::Verdict { to: Opinion::Degraded, .. });
                is_so && it.instance == "a" && incident.began < it.at
            })
            .count();
    }
    assert!(before > 0, "it begins when it is almost detected");
}

#[tokio::test(start_paused = true)]
async fn what_an_instance_was_like_before_it_was_active_is_no_part_of_its_outage() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    world.open_breakers("b", &ALL);
    tokio::time::sleep(600 * SECONDS).await;
    world.until("well", 60 * SECONDS, |world| is(world, "b", Opinion::Healthy)).await;
    world.set_failing("b", &ALL, true);
    let order = Order::FailOver { server: "docs".to_owned(), to: Some("b".to_owned()) };
    let moved = world.time();
    world.control(0).order(order).await.unwrap();
    let incident = over(&world).await;
    assert_eq!(incident.instance, "b");
    assert!(incident.began >= moved, "{} ms too early", moved - incident.began);
}

#[tokio::test(start_paused = true)]
async fn a_score_that_goes_to_and_fro_at_a_bar_stays_below_it() {
    let world = World::start(&pair(), 3);
    well(&world).await;
    world.idle(&ALL);
    let score = |world: &World| world.server("docs").verdicts["a"].score;
    world.slow("a", Duration::from_millis(128));
    world.until("61", 60 * SECONDS, |world| score(world) == 61).await;
    let (mut before, mut turns) = (61, 0);
    for second in 0..60 {
        let took = if second % 2 == 0 { 134 } else { 128 };
        world.slow("a", Duration::from_millis(took));
        for _ in 0..50 {
            tokio::time::sleep(SECONDS / 50).await;
            let now = score(&world);
            turns += u32::from((now < 60) != (before < 60));
            before = now;
        }
    }
    assert_eq!(turns, 1, "it is below the bar from the first time on");
}

/// A score alone writes no line: the alarm before is not what this one is known by.
#[tokio::test(start_paused = true)]
async fn an_emergency_after_a_better_time_gives_an_alarm_again() {
    let checks = "checks: [ { type: ping, weight: 0.1 }, { type: latency, weight: 0.9, good: 50ms, bad: 150ms } ]";
    let world = World::start(&alone(checks), 3);
    world.idle(&ALL);
    let score = |world: &World| {
        let known = world.state().servers.by_name.get("docs").cloned();
        known.map_or(0, |it| it.verdicts["1"].score)
    };
    world.until("well", 10 * SECONDS, |world| score(world) == 100).await;
    // Unhealthy first: after that a score alone changes.
    for took in [122, 150, 122, 150] {
        world.slow("1", Duration::from_millis(took));
        let is_low = |world: &World| (score(world) < 20) == (took == 150) && score(world) < 50;
        world.until("so", 60 * SECONDS, is_low).await;
        tokio::time::sleep(600 * SECONDS).await;
    }
    let history = world.history("docs");
    let alarms = history.iter().filter(|it| it.contains("emergency: 1 has")).count();
    assert_eq!(alarms, 2, "{history:#?}");
}
