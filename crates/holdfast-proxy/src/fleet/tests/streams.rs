//! When what is not answered yet is evidence: streams that have begun, and clients that leave.

use super::*;

/// A client of an SDK waits for 60 s and takes its call along, before the server's own time is over.
#[test]
fn clients_that_leave_after_a_long_silence_are_evidence_and_those_that_leave_before_are_none() {
    let tools = ONE.replace("mcp\"", "mcp\", breaker: { per_tool: [look] }");
    for (seconds, opens, cancels) in [
        (44, Phase::Closed, false),
        (45, Phase::Open, false),
        (44, Phase::Closed, true),
        (45, Phase::Open, true),
    ] {
        let fleet = fleet(&tools);
        let server = fleet.server("one").unwrap();
        let begun = Instant::now() - Duration::from_secs(seconds);
        let look = Ask { tool: Some(0), ..ask(CallClass::Write) };
        let mut waiting: Vec<Attempt> =
            (0..5).map(|_| server.admit(0, &look, begun).unwrap()).collect();
        if cancels {
            // Told at once; nothing that comes later changes it.
            waiting.iter_mut().for_each(Attempt::unwanted);
            assert_eq!(phase(server, 0), opens, "after {seconds} s");
            assert_eq!(server.snapshot().instances[0].in_flight, 5);
            waiting.drain(..).for_each(|it| it.settle(Outcome::TimedOut));
        }
        drop(waiting);
        assert_eq!(server.snapshot().instances[0].in_flight, 0);
        assert_eq!(phase(server, 0), opens, "after {seconds} s");
        let failed = if opens == Phase::Open { 5 } else { 0 };
        assert_eq!(fleet.tool_evidence(0, "look").failed, failed, "after {seconds} s");
        let errors = server.snapshot().instances[0].indicators.error_rate;
        assert_eq!(errors.is_some_and(|it| it > 0.0), opens == Phase::Open, "{errors:?}");
    }
}

#[test]
fn a_stream_that_lasts_is_a_success_from_its_beginning_and_a_break_is_told_then() {
    let fleet = fleet(
        r#"servers: { one: { url: "http://127.0.0.1:1/mcp", breaker: { slow_call: 100ms } } }"#,
    );
    let server = fleet.server("one").unwrap();
    let streams: Vec<Attempt> = (0..20)
        .map(|_| {
            let mut attempt = server.enter(0, &ask(CallClass::Read)).unwrap();
            attempt.heard();
            attempt
        })
        .collect();
    // Long after all of them are overdue.
    server.instances[0].steer(|it| it.tick(Instant::now() + Duration::from_secs(5), 0), |_| {});
    assert_eq!(phase(server, 0), Phase::Closed);
    assert_eq!(server.snapshot().instances[0].in_flight, 20);
    for stream in streams {
        stream.settle(Outcome::Broken);
    }
    assert_eq!(phase(server, 0), Phase::Open);
    assert_eq!(server.snapshot().instances[0].in_flight, 0);
}

/// A server that begins each stream well and breaks it is of no use, and neither is its tool.
#[test]
fn streams_that_begin_well_and_break_are_failures_in_a_row() {
    let fleet = fleet(&ONE.replace("mcp\"", "mcp\", breaker: { per_tool: [look] }"));
    let server = fleet.server("one").unwrap();
    let look = Ask { tool: Some(0), ..ask(CallClass::Read) };
    for broken in 1..=5 {
        assert_eq!(phase(server, 0), Phase::Closed, "{broken}");
        let mut attempt = server.enter(0, &look).unwrap();
        attempt.heard();
        attempt.settle(Outcome::Broken);
        assert_eq!(fleet.tool_evidence(0, "look").failed, broken);
    }
    assert_eq!(phase(server, 0), Phase::Open);
    assert!(fleet.tool_evidence(0, "look").opened);
}

/// What lasts for as long as its client likes has succeeded when it begins, and is no row with what breaks later.
#[test]
fn a_listen_is_a_success_from_its_beginning() {
    let fleet = fleet(ONE);
    let server = fleet.server("one").unwrap();
    for _ in 0..20 {
        let mut attempt = server.enter(0, &ask(CallClass::Read)).unwrap();
        attempt.lasts();
        attempt.heard();
        assert_eq!(server.snapshot().instances[0].breaker.in_a_row, 0);
        attempt.settle(Outcome::Broken);
    }
    assert_eq!(phase(server, 0), Phase::Closed);
}

/// What has begun to be answered tries nothing any more: others may.
#[test]
fn streams_that_have_begun_hold_up_nobody_who_tries() {
    let fleet = fleet(ONE);
    let server = fleet.server("one").unwrap();
    let length = Duration::from_millis(1);
    fleet.say(0, Some(0), Word::Opened { length, generation: 1 });
    fleet.say(0, Some(0), Word::Released { generation: 2 });
    let try_it = || (0..1000).filter_map(|_| server.choose(&ask(CallClass::Read)).ok());
    let mut streams: Vec<Attempt> = try_it().collect();
    let first = streams.len();
    assert!((1..=3).contains(&first), "{first}");
    streams.iter_mut().for_each(Attempt::heard);
    assert!(try_it().count() > 3, "those that hang are three at most");
    for stream in streams {
        stream.settle(Outcome::Void);
    }
    assert!(!server.instances[0].is_being_tried(length * 60_000, Instant::now()));
}
