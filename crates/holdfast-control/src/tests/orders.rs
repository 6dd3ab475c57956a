//! What operators order and get to hear.

use super::world::World;
use super::{PAIR, SECONDS, well};
use crate::operate::{Force, Operated, Order, OrderError};

const MORE: &str = r#"
servers:
  docs:
    instances:
      - { id: a, url: "http://127.0.0.1:1/mcp", role: primary }
      - { id: b, url: "http://127.0.0.1:2/mcp", role: secondary }
  single: { url: "http://127.0.0.1:3/mcp" }
"#;

async fn order(world: &World, order: Order) -> String {
    match world.control(2).order(order).await {
        Ok(()) => "done".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn move_to(server: &str, to: Option<&str>) -> Order {
    Order::FailOver { server: server.into(), to: to.map(str::to_owned) }
}

#[tokio::test(start_paused = true)]
async fn an_order_that_cannot_be_carried_out_says_why() {
    let world = World::start(MORE, 3);
    well(&world).await;
    let table = [
        (move_to("dosc", None), "no server is called \"dosc\"; did you mean docs?"),
        (move_to("elephant", None), "no server is called \"elephant\"; there are docs, single"),
        (move_to("docs", Some("c")), "docs has no instance \"c\"; there are a, b"),
        (
            move_to("single", None),
            "single has no secondary: give one of its instances `role: secondary`",
        ),
        (move_to("docs", Some("a")), "docs is on a already"),
        (Order::FailBack { server: "docs".into() }, "docs is on a already"),
        (
            Order::Breaker {
                server: "docs".into(),
                instance: Some("z".into()),
                force: Force::Open,
            },
            "docs has no instance \"z\"; there are a, b",
        ),
    ];
    for (given, expected) in table {
        assert_eq!(order(&world, given.clone()).await, expected, "{given:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_moves_is_not_moved_again_and_a_move_can_be_taken_back() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    let at = crate::plane::At { server: 0, instance: 0 };
    crate::shared::lock(&world.nodes[0].plane.running).insert(at, 1);
    assert_eq!(order(&world, move_to("docs", None)).await, "done");
    tokio::time::sleep(SECONDS).await;
    assert_eq!(
        order(&world, move_to("docs", None)).await,
        "docs is on its way to b already (drain): follow it with `holdfast servers --watch`"
    );
    assert_eq!(order(&world, Order::FailBack { server: "docs".into() }).await, "done");
    world.until("back", 5 * SECONDS, |world| world.all_go_to(0, "a")).await;
}

fn b_is_down(world: &World) -> bool {
    use holdfast_engine::health::votes::Opinion::Unhealthy;
    world.server("docs").verdicts["b"].opinion == Some(Unhealthy)
}

fn force_to(to: &str) -> Order {
    Order::ForceOver { server: "docs".into(), to: to.into() }
}

#[tokio::test(start_paused = true)]
async fn by_force_a_server_is_moved_whatever_is_known_of_the_target_and_the_record_says_so() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    world.set_down("b", true);
    world.until("down", 10 * SECONDS, b_is_down).await;
    world.set_down("a", true);
    let failed = |world: &World| {
        use holdfast_engine::failover::Phase;
        matches!(world.server("docs").failover.phase, Phase::Failed(_))
    };
    world.until("failed", 30 * SECONDS, failed).await;
    let said = order(&world, move_to("docs", Some("b"))).await;
    assert!(said.starts_with("docs is not moved: "), "{said}");
    assert_eq!(order(&world, force_to("b")).await, "done");
    world.until("moved", 60 * SECONDS, |world| world.server("docs").failover.active == "b").await;
    let record = world.history("docs").join("\n");
    assert!(record.contains("by an operator at n3, although b is unhealthy"), "{record}");

    // Where nobody looks, nothing is known of anyone.
    let checks = "health: { interval: 1s,";
    let world = World::start(&PAIR.replace(checks, "health: { enabled: false, interval: 1s,"), 3);
    tokio::time::sleep(SECONDS).await;
    let said = order(&world, move_to("docs", Some("b"))).await;
    assert!(said.starts_with("docs is not moved: "), "{said}");
    assert_eq!(order(&world, force_to("b")).await, "done");
    world.until("moved", 60 * SECONDS, |world| world.all_go_to(0, "b")).await;
    let record = world.history("docs").join("\n");
    assert!(record.contains("although nothing is known of b"), "{record}");
}

#[tokio::test(start_paused = true)]
async fn a_server_comes_back_at_once_where_an_operator_says_so() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    assert_eq!(order(&world, move_to("docs", None)).await, "done");
    world.until("moved", 5 * SECONDS, |world| world.all_go_to(0, "b")).await;
    tokio::time::sleep(SECONDS).await;
    assert_eq!(order(&world, Order::BackAtOnce { server: "docs".into() }).await, "done");
    // Bit by bit it takes 100 s.
    world.until("back", 5 * SECONDS, |world| world.all_go_to(0, "a")).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_is_moved_to_what_is_down_and_without_a_coordinator_nothing_is() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    world.set_down("b", true);
    world.until("down", 10 * SECONDS, b_is_down).await;
    let said = order(&world, move_to("docs", Some("b"))).await;
    assert!(said.starts_with("docs is not moved: "), "{said}");
    for node in [0, 1] {
        world.kill(node);
    }
    // The last one is the coordinator here; a group of three would have none.
    world.nodes[2].loses_its_coordinator();
    let error = world.control(2).order(move_to("docs", None)).await.unwrap_err();
    let silent = vec!["n1".to_owned(), "n2".to_owned()];
    assert_eq!(error, OrderError::Minority { silent, is_sent: false });
}

/// It knows of no other coordinator than the one that has gone, which never answers.
#[tokio::test(start_paused = true)]
async fn without_a_majority_an_order_says_so_and_who_is_missing_and_is_not_sent() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    world.nodes[0].falls_silent();
    world.nodes[1].falls_silent();
    let no_quorum =
        "the cluster has no quorum: nothing can be decided until a majority of its nodes is there";
    let force = Force::Open;
    let held = || Order::Breaker { server: "docs".into(), instance: None, force };
    // It finds that the others have gone when it has sent the order.
    world.nodes[2].is_cut_off(1);
    let said = order(&world, move_to("docs", None)).await;
    assert!(said.starts_with(no_quorum), "{said}");
    assert!(said.contains("n1, n2 do not answer: start them"), "{said}");
    assert!(said.contains("was under way, and may be carried out"), "{said}");
    for asked in [move_to("docs", None), Order::FailBack { server: "docs".into() }, held()] {
        let said = order(&world, asked).await;
        assert!(said.starts_with(no_quorum), "{said}");
        assert!(
            said.ends_with(
                "n1, n2 do not answer: start them, or mend their network, and give the order again"
            ),
            "{said}"
        );
    }
    let said = order(&world, move_to("dosc", None)).await;
    assert!(said.starts_with("no server is called"), "{said}");
}
