//! Breakers that open for all, and those that an operator holds.

use std::time::Duration;

use holdfast_engine::breaker::Override;

use super::world::World;
use super::{PAIR, SECONDS, well};
use crate::operate::{Force, Operated, Order};
use crate::plane::Word;
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
