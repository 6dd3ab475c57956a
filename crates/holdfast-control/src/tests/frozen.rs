//! A node that did not run for a while, and does again.

use std::time::Duration;

use super::world::World;
use super::{PAIR, SECONDS, well};
use crate::plane::At;

const A: At = At { server: 0, instance: 0 };

/// What it had heard and seen is of another time: it decides nothing by it, nor by what waited in its
/// sockets meanwhile.
#[tokio::test(start_paused = true)]
async fn a_coordinator_that_thaws_has_heard_nothing() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    let control = world.control(0);
    let shared = control.shared();
    let votes = || shared.desk.votes("docs", "a").len();
    assert_eq!(votes(), 3);
    assert_eq!(shared.looks.get(A).own, Some(1.0));
    let gaps = shared.beat();
    // All of it stands still; no timer is heard before the clock has gone on.
    tokio::time::advance(5 * SECONDS).await;
    assert_eq!(shared.beat(), gaps + 1);
    assert_eq!((votes(), shared.looks.get(A).own), (0, None));
    shared.take(2, crate::report::Report::default());
    assert_eq!(votes(), 0, "it was said before");
    assert!(
        !shared
            .hear_of_node(2, crate::report::NodePart { level: 3, measure: 2, ..Default::default() })
            .aside
    );
    world.until("heard anew", 10 * SECONDS, |_| votes() == 3).await;
    let moves = world.history("docs").iter().filter(|it| it.contains("failover")).count();
    assert_eq!(moves, 0, "{:?}", world.history("docs"));
}

/// A clock that goes on as it should is no gap, however much there is to do.
#[tokio::test(start_paused = true)]
async fn a_node_that_runs_is_never_anew() {
    let world = World::start(PAIR, 3);
    well(&world).await;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(170)).await;
        assert_eq!(world.control(0).shared().beat(), 0);
    }
}
