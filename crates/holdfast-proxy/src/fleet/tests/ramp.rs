//! An instance that takes its calls back bit by bit: whose calls pass there, and that it is tried at all.

use super::*;

/// One of two that has failed and is half-open now; it stays so for a hundred successes.
fn half_open(settings: &str) -> (Arc<Fleet>, Arc<ServerFleet>) {
    let fleet = fleet(&format!(
        r#"servers: {{ pair: {{ breaker: {{ probe_interval: 100ms, half_open_successes: 100 }}{settings},
        instances: [ {{ id: a, url: "http://127.0.0.1:1/mcp" }}, {{ id: b, url: "http://127.0.0.1:2/mcp" }} ] }} }}"#
    ));
    let server = Arc::clone(fleet.server("pair").unwrap());
    fail(&server, 1, Outcome::Status, 5);
    assert_eq!(phase(&server, 1), Phase::Open);
    fleet.say(0, Some(1), Word::Opened { length: Duration::from_millis(1), generation: 1 });
    fleet.say(0, Some(1), Word::Forced { what: Override::Open, generation: 1 });
    fleet.say(0, Some(1), Word::Forced { what: Override::Automatic, generation: 2 });
    assert_eq!(phase(&server, 1), Phase::HalfOpen);
    (fleet, server)
}

/// It is avoided for its failures, and tried once per interval all the same. A Write is no test.
#[test]
fn one_that_failed_is_tried_once_per_interval_whatever_it_is_avoided_for() {
    let (_fleet, server) = half_open("");
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(120));
        let write = server.choose(&ask(CallClass::Write)).unwrap();
        assert_eq!(write.instance(), 0);
        write.settle(Outcome::Answered);
        let read = server.choose(&ask(CallClass::Read)).unwrap();
        assert_eq!(read.instance(), 1, "it is due");
        read.settle(Outcome::Answered);
    }
    let still = || server.snapshot().instances[1].breaker.share;
    assert_eq!(still(), 100);
}

/// By a lot of their own, the same whenever it is drawn; all others find out by the refusal that they can be served
/// elsewhere.
#[test]
fn a_session_of_the_share_has_all_of_its_calls_pass() {
    let (fleet, server) = half_open("");
    let bound = |key| Ask { key, bound: true, opens: false, ..ask(CallClass::Read) };
    let (inside, outside): (Vec<u64>, Vec<u64>) =
        (0..1000).partition(|key| server.is_of_share(1, *key));
    assert!((50..200).contains(&inside.len()), "{}", inside.len());
    assert!((0..1000).all(|key| server.is_of_share(0, key)), "the other takes all");
    // Fewer than close it; and none of them is given back, after which the next may try.
    for key in inside.into_iter().take(40) {
        server.enter(1, &bound(key)).unwrap().settle(Outcome::Answered);
    }
    let refused = outside.iter().find_map(|key| match server.enter(1, &bound(*key)) {
        Ok(attempt) => {
            attempt.settle(Outcome::Answered);
            None
        }
        Err(refused) => Some(refused),
    });
    assert!(refused.is_some_and(|refused| refused.by_share));
    assert!(server.is_whole_elsewhere(1, outside[0]) && !server.is_whole_elsewhere(0, outside[0]));
    fleet.say(0, Some(0), Word::Forced { what: Override::Open, generation: 3 });
    assert!(!server.is_whole_elsewhere(1, outside[0]), "nobody takes it");
}
