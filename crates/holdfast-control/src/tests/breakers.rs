//! Breakers that open for all, and those that an operator holds.

use std::time::Duration;

use holdfast_engine::breaker::Override;
use holdfast_engine::replicated::{ControlCommand, OverrideKind, ServerCommand};

use super::world::{FakePlane, World};
use super::{ALL, PAIR, SECONDS, well};
use crate::operate::{Force, Operated, Order};
use crate::plane::Word;
use crate::report::NodePart;
use crate::shared::lock;

fn words(world: &World, node: usize) -> Vec<Word> {
    let words = lock(&world.nodes[node].plane.words);
    words.iter().filter(|(_, instance, _)| instance.is_none()).map(|(_, _, word)| *word).collect()
}

#[tokio::test(start_paused = true)]
async fn two_nodes_open_a_server_for_the_third_and_one_does_not() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    world.nodes[1].plane.breaker(0, true);
    tokio::time::sleep(5 * SECONDS).await;
    assert_eq!(words(&world, 2), [], "one node's word opens nothing");
    let second = world.time();
    world.nodes[2].plane.breaker(0, true);
    world.until("told", SECONDS, |world| !words(world, 0).is_empty()).await;
    let took = world.time() - second;
    assert!(took <= 50, "{took} ms from the second opening to the other node's refusal");
    let opened = words(&world, 0);
    let [Word::Opened { length, .. }] = opened[..] else { panic!("{opened:?}") };
    assert!(length > 29 * SECONDS && length <= 30 * SECONDS, "{length:?}");
}

/// What opens the only instance opens the server: that is one word, one line and one message.
#[tokio::test(start_paused = true)]
async fn a_server_of_one_instance_is_opened_once() {
    const ONE: &str = r#"
servers:
  docs:
    instances: [ { id: a, url: "http://127.0.0.1:1/mcp" } ]
    health: { interval: 1s, timeout: 500ms, retries: 1, checks: [ { type: ping } ] }
"#;
    let world = World::start(ONE, 3);
    let is_well = |world: &World| super::is_found(world, "healthy");
    world.until("well", 10 * SECONDS, is_well).await;
    world.set_failing("a", &ALL, true);
    for node in ALL {
        world.nodes[node].plane.breaker(0, true);
    }
    let of_instance = |world: &World| {
        let words = lock(&world.nodes[0].plane.words);
        words.iter().any(|it| matches!(it, (0, Some(0), Word::Opened { .. })))
    };
    world.until("told", 10 * SECONDS, of_instance).await;
    tokio::time::sleep(5 * SECONDS).await;
    let history = world.history("docs");
    let opened: Vec<&String> = history.iter().filter(|it| it.contains("open for all")).collect();
    assert!(matches!(opened[..], [it] if it.contains("breaker of a open for all")), "{history:?}");
    assert_eq!(words(&world, 0), [], "the server's own breaker is as it was");
}

#[tokio::test(start_paused = true)]
async fn an_opening_is_the_reason_for_one_word_and_the_next_one_for_another() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    for node in [1, 2] {
        world.nodes[node].plane.breaker(0, true);
    }
    world.until("told", SECONDS, |world| words(world, 0).len() == 1).await;
    // Half-open after its time, by the same evidence: the group says nothing.
    tokio::time::sleep(60 * SECONDS).await;
    assert_eq!(words(&world, 0).len(), 1);
    for opened in [false, true] {
        for node in [1, 2] {
            world.nodes[node].plane.breaker(0, opened);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.until("told again", SECONDS, |world| words(world, 0).len() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn an_operators_word_reaches_every_node_and_is_taken_back() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    let order = |force| Order::Breaker { server: "docs".into(), instance: None, force };
    world.control(2).order(order(Force::Open)).await.unwrap();
    world.until("told", SECONDS, |world| (0..3).all(|node| words(world, node).len() == 1)).await;
    assert!(matches!(words(&world, 0)[..], [Word::Forced { what: Override::Open, .. }]));
    let view = world.control(0).servers();
    assert_eq!(view[0].breaker.as_deref(), Some("forced open by an operator at n3"));
    world.control(1).order(order(Force::Clear)).await.unwrap();
    world.until("told", SECONDS, |world| (0..3).all(|node| words(world, node).len() == 2)).await;
    assert!(matches!(words(&world, 1)[1], Word::Forced { what: Override::Automatic, .. }));
}

/// The pair, with a tool that has a breaker of its own.
fn with_tool() -> String {
    PAIR.replace("    failover:", "    breaker: { per_tool: [write] }\n    failover:")
}

fn of_tool(tool: &str, force: Force) -> Order {
    Order::ToolBreaker { server: "docs".into(), tool: tool.into(), force }
}

/// What a node's data plane was told of the tool.
fn said(plane: &FakePlane) -> Vec<Word> {
    let said = lock(&plane.tools);
    said.iter().filter(|it| (it.0, &*it.1) == (0, "write")).map(|it| it.2).collect()
}

/// What it was last told that an operator holds it at.
fn told(plane: &FakePlane) -> Option<Override> {
    said(plane).into_iter().rev().find_map(|word| match word {
        Word::Forced { what, .. } => Some(what),
        Word::Opened { .. } | Word::Released { .. } => None,
    })
}

#[tokio::test(start_paused = true)]
async fn two_nodes_open_a_tool_for_the_third_and_one_does_not() {
    let world = World::start(&with_tool(), 3);
    well(&world).await;
    world.nodes[1].plane.tool("write", true);
    tokio::time::sleep(5 * SECONDS).await;
    assert_eq!(said(&world.nodes[2].plane), [], "one node's word opens nothing");
    let second = world.time();
    world.nodes[2].plane.tool("write", true);
    let is_told = |world: &World| !said(&world.nodes[0].plane).is_empty();
    world.until("told", SECONDS, is_told).await;
    let took = world.time() - second;
    assert!(took <= 50, "{took} ms from the second opening to the other node's refusal");
    let opened = said(&world.nodes[0].plane);
    let [Word::Opened { length, .. }] = opened[..] else { panic!("{opened:?}") };
    assert!(length > 29 * SECONDS && length <= 30 * SECONDS, "{length:?}");
    assert_eq!(words(&world, 0), [], "no other breaker is meant");
    let kept = world.control(0).servers()[0].tools.clone();
    let why = "open for all: it is open on 2 of 3 nodes".to_owned();
    assert_eq!(kept, [("write".to_owned(), why)]);
    let history = world.history("docs");
    assert!(history.iter().any(|it| it.contains("breaker of its tool write open for all: by n1")));
    // The same evidence is the reason for one word.
    tokio::time::sleep(60 * SECONDS).await;
    assert_eq!(said(&world.nodes[0].plane).len(), 1);
    assert_eq!(world.control(1).servers()[0].tools, [], "its time is over");
    for opened in [false, true] {
        for node in [1, 2] {
            world.nodes[node].plane.tool("write", opened);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let is_told = |world: &World| said(&world.nodes[0].plane).len() == 2;
    world.until("told again", SECONDS, is_told).await;
    // An operator's word stands above it.
    world.control(1).order(of_tool("write", Force::Closed)).await.unwrap();
    let closed = |world: &World| told(&world.nodes[0].plane) == Some(Override::Closed);
    world.until("closed", SECONDS, closed).await;
    assert!(matches!(said(&world.nodes[0].plane)[2], Word::Released { .. }));
}

/// No node's log has a word that it cannot read, whatever the others' breakers do.
#[tokio::test(start_paused = true)]
async fn no_tool_is_opened_for_all_while_a_node_does_not_know_that_there_is_such_a_word() {
    let world = World::start(&with_tool(), 3);
    well(&world).await;
    let coordinator = world.control(world.coordinator());
    coordinator.shared().hear_of_node(3, NodePart { reads: 1, ..NodePart::default() });
    for node in [1, 2] {
        world.nodes[node].plane.tool("write", true);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(said(&world.nodes[0].plane), []);
    // It says of itself what it reads now.
    let is_told = |world: &World| !said(&world.nodes[0].plane).is_empty();
    world.until("told", 5 * SECONDS, is_told).await;
}

/// An opening that was the reason for a word is none for the next one, whatever configuration a node goes by.
#[tokio::test(start_paused = true)]
async fn a_tools_opening_is_as_old_as_it_was_after_a_reload() {
    let world = World::start(&with_tool(), 3);
    well(&world).await;
    for node in [1, 2] {
        world.nodes[node].plane.tool("write", true);
    }
    let is_told = |world: &World| !said(&world.nodes[0].plane).is_empty();
    world.until("told", SECONDS, is_told).await;
    tokio::time::sleep(60 * SECONDS).await;
    for node in [1, 2] {
        let plane = world.reload(node, &with_tool().replace("[write]", "[read, write]"));
        plane.tool("write", true);
    }
    tokio::time::sleep(5 * SECONDS).await;
    assert_eq!(said(&world.nodes[0].plane).len(), 1);
}

/// The state that a node sees is the last there was: what came between is in the record.
#[tokio::test(start_paused = true)]
async fn what_is_closed_and_let_go_at_once_is_closed_on_every_node() {
    let world = World::start(&with_tool(), 3);
    well(&world).await;
    world.control(0).order(of_tool("write", Force::Open)).await.unwrap();
    let open = |world: &World| world.nodes.iter().all(|it| told(&it.plane) == Some(Override::Open));
    world.until("open", SECONDS, open).await;
    for kind in [Some(OverrideKind::ForcedClosed), None] {
        let (server, tool, by) = ("docs".into(), "write".into(), "ops".into());
        let command = ServerCommand::Tool { server, tool, kind, by };
        world.apply(0, ControlCommand::Server(command));
    }
    let let_go =
        |world: &World| world.nodes.iter().all(|it| told(&it.plane) == Some(Override::Automatic));
    world.until("let go", SECONDS, let_go).await;
    for node in &world.nodes {
        let said = said(&node.plane);
        let closed = |word: &Word| matches!(word, Word::Forced { what: Override::Closed, .. });
        assert!(closed(&said[said.len() - 2]), "half-open: {said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_operators_word_about_a_tool_reaches_every_node_and_is_taken_back() {
    let yaml = with_tool();
    let world = World::start(&yaml, 3);
    well(&world).await;
    let unknown = world.control(1).order(of_tool("wirte", Force::Open)).await.unwrap_err();
    assert!(unknown.to_string().ends_with("did you mean write?"), "{unknown}");
    let unknown = world.control(2).order(of_tool("wirte", Force::Clear)).await.unwrap_err();
    assert!(unknown.to_string().ends_with("did you mean write?"), "nothing to let go: {unknown}");
    world.control(2).order(of_tool("write", Force::Clear)).await.unwrap();
    world.control(2).order(of_tool("write", Force::Open)).await.unwrap();
    let all = |world: &World, what| world.nodes.iter().all(|it| told(&it.plane) == Some(what));
    world.until("told", SECONDS, |world| all(world, Override::Open)).await;
    let kept = |node: usize| world.control(node).servers()[0].tools.clone();
    let by = "forced open by an operator at n3".to_owned();
    assert_eq!(kept(0), [("write".to_owned(), by)]);
    // A node that goes by another configuration, or has just been started, is told of it too.
    let plane = world.reload(0, &yaml);
    world.until("told anew", SECONDS, |_| told(&plane) == Some(Override::Open)).await;
    world.control(1).order(of_tool("write", Force::Closed)).await.unwrap();
    world.until("closed", SECONDS, |_| told(&plane) == Some(Override::Closed)).await;
    // What has no breaker any more can still be let go.
    world.reload(0, PAIR);
    assert_eq!(kept(0).len(), 1);
    world.control(0).order(of_tool("write", Force::Clear)).await.unwrap();
    let let_go = |world: &World| {
        world.nodes[1..].iter().all(|it| told(&it.plane) == Some(Override::Automatic))
    };
    world.until("let go", SECONDS, let_go).await;
    assert_eq!(kept(2), []);
    let history = world.history("docs");
    assert!(history.iter().any(|it| it.contains("breaker of its tool write forced open")));
}

/// A node that could not read such a word would follow the group no more.
#[tokio::test(start_paused = true)]
async fn no_tool_is_held_while_a_node_does_not_know_that_there_is_such_a_word() {
    let world = World::start(&with_tool(), 3);
    well(&world).await;
    let coordinator = world.control(world.coordinator());
    let earlier = NodePart { reads: 0, ..NodePart::default() };
    coordinator.shared().hear_of_node(3, earlier);
    let refused = world.control(1).order(of_tool("write", Force::Open)).await.unwrap_err();
    let said = "the breaker of docs is left as it is: not every node";
    assert!(refused.to_string().starts_with(said), "{refused}");
    tokio::time::sleep(5 * SECONDS).await;
    world.control(1).order(of_tool("write", Force::Open)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_lets_go_while_a_node_changes_its_configuration_is_let_go_there() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    let order = |force| Order::Breaker { server: "docs".into(), instance: None, force };
    world.control(2).order(order(Force::Open)).await.unwrap();
    let is_held = |world: &World| !words(world, 0).is_empty();
    world.until("held", SECONDS, is_held).await;
    world.control(2).order(order(Force::Clear)).await.unwrap();
    // Whoever told the old plane may have ended before it could say this.
    let plane = world.reload(0, PAIR);
    let is_told = |_: &World| {
        let automatic =
            |word: &Word| matches!(word, Word::Forced { what: Override::Automatic, .. });
        let words = lock(&plane.words);
        words.iter().any(|(_, instance, word)| instance.is_none() && automatic(word))
    };
    world.until("let go", SECONDS, is_told).await;
}
