//! Single tools that have a breaker of their own: what is said of them, and what they tell.

use super::*;

#[test]
fn an_operator_holds_one_tool_and_old_words_are_refused() {
    let fleet = fleet(
        r#"servers: { one: { url: "http://127.0.0.1:1/mcp", breaker: { per_tool: [write, read] } } }"#,
    );
    let server = fleet.server("one").unwrap();
    let passes = |number| {
        let ask = Ask { tool: Some(number), ..ask(CallClass::Write) };
        server.enter(0, &ask).map(|attempt| attempt.settle(Outcome::Answered)).is_ok()
    };
    let say = |tool: &str, what, generation| {
        fleet.say_of_tool(0, tool, Word::Forced { what, generation })
    };
    assert!(say("write", Override::Open, 4));
    assert_eq!((passes(0), passes(1)), (false, true));
    assert!(!say("write", Override::Automatic, 3), "an older word");
    assert!(!say("search", Override::Open, 9), "it has none");
    assert_eq!((passes(0), passes(1)), (false, true));
    assert!(say("write", Override::Automatic, 5));
    assert_eq!((passes(0), passes(1)), (true, true));
}

/// A tool that fails here is evidence for the group, which opens it on every node and nothing else.
#[tokio::test]
async fn the_group_opens_one_tool_by_what_its_breakers_tell() {
    let fleet = fleet(
        r#"servers: { one: { url: "http://127.0.0.1:1/mcp", breaker: { per_tool: [write, read] } } }"#,
    );
    let server = fleet.server("one").unwrap();
    let call = |number, outcome| {
        let ask = Ask { tool: Some(number), ..ask(CallClass::Write) };
        server.enter(0, &ask).map(|attempt| attempt.settle(outcome)).is_ok()
    };
    for _ in 0..5 {
        assert!(call(0, Outcome::Status) && call(1, Outcome::Answered));
    }
    assert!(!call(0, Outcome::Answered), "it is open here");
    let (write, read) = (fleet.tool_evidence(0, "write"), fleet.tool_evidence(0, "read"));
    assert_eq!((write.opened, write.calls, write.failed), (true, 5, 5));
    assert_eq!((read.opened, read.calls, read.failed), (false, 5, 0));
    assert_eq!(fleet.tool_evidence(0, "search"), Default::default());
    // A call that fails is news of its instance, too.
    fleet.changed().await;
    let length = Duration::from_secs(30);
    assert!(fleet.say_of_tool(0, "read", Word::Opened { length, generation: 4 }));
    assert!(!fleet.say_of_tool(0, "read", Word::Opened { length, generation: 4 }), "said before");
    let heard = tokio::time::timeout(Duration::from_secs(5), fleet.changed()).await;
    assert_eq!(heard, Ok(Vec::new()), "whoever tells the group hears of a tool");
    assert!(!call(1, Outcome::Answered));
    assert_eq!(phase(server, 0), Phase::Closed, "no instance is meant");
    assert!(!fleet.tool_evidence(0, "read").opened, "the group's word is no evidence");
    assert!(fleet.say_of_tool(0, "read", Word::Released { generation: 5 }));
    assert!(call(1, Outcome::Answered), "half-open: one may try");
}
