//! What turns an instance away from calls and back: tries that hang, breakers that are switched off, operators,
//! and being given up.

use futures_util::FutureExt as _;

use super::*;

/// It may be well again for all that is known: it is asked as often as the configuration says.
#[test]
fn an_instance_whose_tries_hang_is_tried_once_per_probe_interval() {
    let fleet = fleet(
        r#"servers: { one: { url: "http://127.0.0.1:1/mcp", breaker: { probe_interval: 2s } } }"#,
    );
    let server = fleet.server("one").unwrap();
    let length = Duration::from_millis(1);
    fleet.say(0, Some(0), Word::Opened { length, generation: 1 });
    fleet.say(0, Some(0), Word::Released { generation: 2 });
    let begun = Instant::now();
    let mut hanging = Vec::new();
    let mut last = begun;
    for step in 0..400 {
        let now = begun + Duration::from_millis(100) * step;
        let Ok(attempt) = server.admit(0, &ask(CallClass::Read), now) else { continue };
        assert!(now - last <= Duration::from_millis(2100), "{:?}", now - last);
        hanging.push(attempt);
        last = now;
    }
    // Three by the share, and twenty by the interval.
    assert!((20..=23).contains(&hanging.len()), "{}", hanging.len());
}

/// Nobody would try it any more, and it would be open for good.
#[test]
fn a_breaker_that_is_switched_off_while_it_is_open_is_open_no_more() {
    let before = fleet(ONE);
    let old = before.server("one").unwrap();
    fail(old, 0, Outcome::Status, 5);
    assert!(old.is_shut());
    let (after, at) = (off(&before), At { server: 0, instance: 0 });
    let new = after.server("one").unwrap();
    let is_closed = || {
        let sight = after.sight(at);
        assert_eq!((sight.breaker, sight.is_open), (Phase::Closed, false));
        assert!(!sight.evidence.opened && !new.is_shut());
    };
    is_closed();
    // What still goes by the configuration before opens nothing, and neither does the cluster.
    fail(old, 0, Outcome::Status, 10);
    fail(new, 0, Outcome::Status, 10);
    let length = Duration::from_secs(60);
    after.say(0, Some(0), Word::Opened { length, generation: 1 });
    is_closed();
    fail(new, 0, Outcome::Answered, 1);
}

fn off(before: &Fleet) -> Arc<Fleet> {
    let text = ONE.replace("mcp\"", "mcp\", breaker: { enabled: false, per_tool: [look] }");
    let config = holdfast_config::parse(&text, "test", &|_| None).unwrap();
    let after = Fleet::new(&config, Some(before), |_| Arc::default(), Instant::now());
    after.begin(before, Instant::now());
    after
}

#[test]
fn an_operator_is_heeded_where_breakers_are_switched_off() {
    let fleet = off(&fleet(ONE));
    let server = fleet.server("one").unwrap();
    let look = Ask { tool: Some(0), ..ask(CallClass::Read) };
    let say = |what, generation| fleet.say(0, None, Word::Forced { what, generation });
    assert!(say(Override::Open, 1));
    let refused = server.choose(&ask(CallClass::Read)).unwrap_err();
    assert!(refused.reason.contains("operator"), "{refused:?}");
    assert!(server.is_shut());
    assert!(say(Override::Automatic, 2));
    assert_eq!(phase(server, 0), Phase::Closed, "nobody would try it");
    assert!(fleet.say_of_tool(0, "look", Word::Forced { what: Override::Open, generation: 1 }));
    assert_eq!(server.choose(&look).unwrap_err().why, Why::Breaker);
    assert!(server.choose(&ask(CallClass::Read)).is_ok(), "other tools are called");
    assert!(fleet.say_of_tool(
        0,
        "look",
        Word::Forced { what: Override::Automatic, generation: 2 }
    ));
    assert!(server.choose(&look).is_ok());
}

/// Whoever waits for an instance listens only after it was chosen.
#[test]
fn a_read_learns_that_its_instance_was_given_up_before_it_listened() {
    let fleet = fleet(PAIR);
    let server = fleet.server("pair").unwrap();
    let choose = || server.choose(&ask(CallClass::Read)).unwrap();
    let gone = |attempt: &Attempt| {
        server.gone(attempt.instance(), attempt.begun()).now_or_never().is_some()
    };
    let unhealthy = Verdict { opinion: Some(Opinion::Unhealthy), score: 10, why: "test".into() };
    let first = choose();
    assert!(!gone(&first));
    for instance in 0..2 {
        fleet.judge(At { server: 0, instance }, unhealthy.clone());
    }
    assert!(gone(&first));
    // There is nothing else: it is chosen although it was given up, and is not given up once more.
    let second = choose();
    assert!(!gone(&second));
    fleet.say(0, Some(second.instance()), Word::Forced { what: Override::Open, generation: 1 });
    assert!(gone(&second));
}
