//! What an operator holds open or closed.

use super::super::instance::HELD_FOR;
use super::*;

#[test]
fn an_operator_takes_an_instance_out_and_old_words_are_refused() {
    let fleet = fleet(PAIR);
    let server = fleet.server("pair").unwrap();
    let forced = |what, generation| Word::Forced { what, generation };
    assert!(fleet.say(0, Some(1), forced(Override::Open, 5)));
    assert_eq!(chosen(server, CallClass::Read, 10), [10, 0]);
    assert!(!fleet.say(0, Some(1), forced(Override::Closed, 5)), "not newer");
    assert_eq!(phase(server, 1), Phase::ForcedOpen);
    assert!(fleet.say(0, Some(1), forced(Override::Automatic, 6)));
    assert!(fleet.say(0, None, forced(Override::Closed, 7)), "of all of them");
    assert_eq!([phase(server, 0), phase(server, 1)], [Phase::ForcedClosed; 2]);
}

#[test]
fn who_asks_for_what_an_operator_holds_open_hears_so() {
    const REPLICA: &str = r#"servers: { with: { balance: { strategy: read_write }, instances: [
        { id: a, role: primary, url: "http://127.0.0.1:1/mcp" },
        { id: b, role: replica, url: "http://127.0.0.1:2/mcp" } ] } }"#;
    // All of it, or the only one that takes Writes.
    for (text, name, at) in [(PAIR, "pair", None), (ONE, "one", None), (REPLICA, "with", Some(0))] {
        let fleet = fleet(text);
        let server = fleet.server(name).unwrap();
        fleet.say(0, at, Word::Forced { what: Override::Open, generation: 1 });
        // Whether it has been asked for before or not.
        for _ in 0..2 {
            let refused = server.choose(&ask(CallClass::Write)).unwrap_err();
            assert!(
                refused.reason.starts_with("an operator has taken it out"),
                "{}",
                refused.reason
            );
            assert_eq!(refused.retry_after, HELD_FOR);
        }
    }
}

#[test]
fn what_is_said_of_a_server_lets_no_instance_go_that_is_held_for_itself() {
    let fleet = fleet(PAIR);
    let server = fleet.server("pair").unwrap();
    let forced = |what, generation| Word::Forced { what, generation };
    let phases = || [phase(server, 0), phase(server, 1)];
    fleet.say(0, Some(0), forced(Override::Open, 2));
    fleet.say(0, None, forced(Override::Open, 4));
    assert_eq!(phases(), [Phase::ForcedOpen; 2]);
    fleet.say(0, None, forced(Override::Automatic, 5));
    assert_eq!(phases(), [Phase::ForcedOpen, Phase::Closed], "nothing has failed");
    fleet.say(0, None, forced(Override::Closed, 6));
    assert_eq!(phases(), [Phase::ForcedOpen, Phase::ForcedClosed]);
    // Let go for itself it is what its server is.
    fleet.say(0, Some(0), forced(Override::Automatic, 3));
    assert_eq!(phases(), [Phase::ForcedClosed; 2]);
}

/// What nothing has failed at is taken back whole: there is nothing to be tried.
#[test]
fn what_was_closed_before_it_was_held_open_takes_every_call_again() {
    let fleet = fleet(ONE);
    let server = fleet.server("one").unwrap();
    fleet.say(0, None, Word::Forced { what: Override::Open, generation: 1 });
    assert!(server.choose(&ask(CallClass::Read)).is_err());
    fleet.say(0, None, Word::Forced { what: Override::Automatic, generation: 2 });
    for _ in 0..100 {
        server.choose(&ask(CallClass::Read)).unwrap().settle(Outcome::Answered);
    }
}
