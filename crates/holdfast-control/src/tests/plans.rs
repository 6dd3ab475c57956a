//! Another plan under way: what was found out stays, what is new is looked at, what is gone is retired.

use super::world::World;
use super::{SECONDS, well};
use crate::operate::Operated;

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
