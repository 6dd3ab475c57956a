//! Which instances are left, for calls that have failed there as often as they may: what a call waits for then, and
//! what it does not.

use holdfast_config::Role;

use super::*;

#[tokio::test(start_paused = true)]
async fn an_instance_is_left_when_its_breaker_is_open_and_the_group_moves_the_server_in_time() {
    let fleet = fleet(FAILING_OVER);
    let server = Arc::clone(fleet.server("main").unwrap());
    assert!(!server.is_left(0, 7).await, "nothing moves by itself");
    fleet.route(0, Arc::new(Failover::new("a")));
    let asked = tokio::time::Instant::now();
    assert!(!server.is_left(0, 7).await, "it is well");
    assert_eq!(asked.elapsed(), Duration::ZERO, "and nothing is waited for");
    let length = Duration::from_secs(30);
    fleet.say(0, Some(0), Word::Opened { length, generation: 1 });
    let asked = tokio::time::Instant::now();
    assert!(!server.is_left(0, 7).await, "the group leaves it where it is");
    assert!(asked.elapsed() <= Duration::from_secs(2), "and it is not waited for longer");
    let waiting = tokio::spawn({
        let server = Arc::clone(&server);
        async move { server.is_left(0, 7).await }
    });
    tokio::task::yield_now().await;
    let mut moving = Failover::new("a");
    moving.phase = Stage::FailingOver(pausing());
    fleet.route(0, Arc::new(moving.clone()));
    // It is decided, and lasts longer than that may.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!waiting.is_finished());
    (moving.phase, moving.active) = (Stage::SecondaryActive, "b".to_owned());
    fleet.route(0, Arc::new(moving));
    assert!(waiting.await.unwrap());
    assert!(server.is_left(0, 7).await && !server.is_left(1, 7).await);
}

/// Calls go from one replica to the next by themselves: no failover is waited for.
#[tokio::test(start_paused = true)]
async fn a_replica_is_left_by_no_failover() {
    let replica = r#", { id: r, url: "http://127.0.0.1:3/mcp", role: replica } ] } }"#;
    let fleet = fleet(&FAILING_OVER.replace(" ] } }", replica));
    let server = fleet.server("main").unwrap();
    fleet.route(0, Arc::new(Failover::new("a")));
    let length = Duration::from_secs(30);
    fleet.say(0, Some(2), Word::Opened { length, generation: 1 });
    assert!(server.instances[2].role == Role::Replica && server.instances[2].is_shut());
    let asked = tokio::time::Instant::now();
    assert!(!server.is_left(2, 7).await);
    assert_eq!(asked.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_not_left_when_the_move_is_taken_back() {
    let fleet = fleet(FAILING_OVER);
    let server = Arc::clone(fleet.server("main").unwrap());
    let mut moving = Failover::new("a");
    moving.phase = Stage::FailingOver(pausing());
    fleet.route(0, Arc::new(moving.clone()));
    let waiting = tokio::spawn({
        let server = Arc::clone(&server);
        async move { server.is_left(0, 7).await }
    });
    tokio::task::yield_now().await;
    moving.phase = Stage::PrimaryActive;
    fleet.route(0, Arc::new(moving));
    assert!(!waiting.await.unwrap());
}
