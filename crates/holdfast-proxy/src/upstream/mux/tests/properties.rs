//! Whatever the order of starts, progress, answers and departures: every call gets exactly what the
//! server sent for it, in order, with its own ids in its own spelling.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// Starts a call with an id and perhaps a progress token of these spellings.
    Start { id: usize, token: Option<usize> },
    /// The server reports progress of one of the calls in flight that asked for it.
    Progress(usize),
    /// The server answers one of the calls in flight.
    Answer(usize),
    /// The caller of one of the calls in flight goes away.
    Leave(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..SPELLINGS.len(), proptest::option::of(0..SPELLINGS.len()))
            .prop_map(|(id, token)| Step::Start { id, token }),
        3 => any::<usize>().prop_map(Step::Progress),
        2 => any::<usize>().prop_map(Step::Answer),
        1 => any::<usize>().prop_map(Step::Leave),
    ]
}

/// Ids that look alike, and some that only look different.
const SPELLINGS: [&str; 8] = [
    "1",
    "\"1\"",
    "2",
    "1.0",
    "\"a\\u0031\"",
    "\"a1\"",
    "3e0",
    "\"\\ud83d\\ude00 {\\\"id\\\":1}\"",
];

struct Running {
    call: Call,
    id: String,
    token: Option<String>,
    /// The same, as the server knows them.
    server_id: String,
    server_token: Option<String>,
    expected: Vec<CallEvent>,
}

async fn play(sharing: Sharing, steps: Vec<Step>) {
    let mut connection = connect(sharing);
    let mut running: Vec<Running> = Vec::new();
    let mut finished: Vec<Running> = Vec::new();
    let steps_and_the_rest = steps.into_iter().chain(std::iter::repeat_n(Step::Answer(0), 200));
    for (count, step) in steps_and_the_rest.enumerate() {
        match step {
            Step::Start { id, token } => {
                // A legacy client does not use an id twice; several modern ones may.
                let (id, token) = match sharing {
                    Sharing::Shared => {
                        (SPELLINGS[id].to_owned(), token.map(|token| SPELLINGS[token].to_owned()))
                    }
                    Sharing::Private if id % 2 == 0 => {
                        (count.to_string(), token.map(|_| format!("\"{count}\"")))
                    }
                    Sharing::Private => (format!("\"{count}\""), token.map(|_| count.to_string())),
                };
                let meta = token.as_ref().map_or_else(String::new, |token| {
                    format!(r#""_meta":{{"progressToken": {token} }},"#)
                });
                let request = format!(
                    r#"{{ "method":"x","params":{{{meta}"n":{count}}},"id": {id} ,"jsonrpc":"2.0"}}"#
                );
                let (call, sent) = connection.call(request).await;
                let peeked = peek(&sent).expect("a message");
                let server_id = peeked.id.expect("an id").as_str().to_owned();
                let server_token =
                    peeked.params.progress_token.map(|token| token.as_str().to_owned());
                if sharing == Sharing::Shared {
                    assert!(running.iter().all(|other| other.server_id != server_id));
                }
                let expected = Vec::new();
                running.push(Running { call, id, token, server_id, server_token, expected });
            }
            Step::Progress(which) => {
                let mut with_token: Vec<_> =
                    running.iter_mut().filter(|running| running.token.is_some()).collect();
                let Some(at) = which.checked_rem(with_token.len()) else { continue };
                let running = &mut with_token[at];
                let render = |token: &Option<String>| {
                    let token = token.as_ref().expect("it has one");
                    format!(
                        r#"{{"params":{{"progress":{count},"progressToken": {token} }},"method":"notifications/progress","jsonrpc":"2.0"}}"#
                    )
                };
                connection.server.say(render(&running.server_token)).await;
                running.expected.push(CallEvent::Message(render(&running.token).into()));
            }
            Step::Answer(which) => {
                let Some(at) = which.checked_rem(running.len()) else { continue };
                let mut running = running.swap_remove(at);
                let render = |id: &str| {
                    format!(r#"{{"id" :{id},"result":{{"n":{count}}},"jsonrpc":"2.0"}}"#)
                };
                connection.server.say(render(&running.server_id)).await;
                running.expected.push(CallEvent::Response(render(&running.id).into()));
                finished.push(running);
            }
            Step::Leave(which) => {
                let Some(at) = which.checked_rem(running.len()) else { continue };
                let gone = running.swap_remove(at);
                drop(gone.call);
                if sharing == Sharing::Shared {
                    let sent = connection.sent().await;
                    let peeked = peek(&sent).expect("a message");
                    assert_eq!(peeked.method, "notifications/cancelled");
                    assert_eq!(peeked.params.request_id.expect("an id").as_str(), gone.server_id);
                }
                // Its answer, and progress before it, come all the same.
                if let Some(token) = &gone.server_token {
                    let late = format!(
                        r#"{{"params":{{"progress":1,"progressToken":{token}}},"method":"notifications/progress","jsonrpc":"2.0"}}"#
                    );
                    connection.server.say(late).await;
                }
                let id = &gone.server_id;
                connection
                    .server
                    .say(format!(r#"{{"id":{id},"result":{{}},"jsonrpc":"2.0"}}"#))
                    .await;
            }
        }
    }
    assert!(running.is_empty());
    for mut running in finished {
        for expected in running.expected {
            assert_eq!(next(&mut running.call).await, Some(expected));
        }
        assert_eq!(next(&mut running.call).await, None);
    }
    assert_eq!(connection.mux.in_flight(), 0);
    drop(connection.server);
    assert_eq!(soon(connection.standing.recv()).await, None, "everything belonged to a call");
}

fn run(sharing: Sharing, steps: Vec<Step>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(play(sharing, steps));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_private_connection_gives_each_call_its_own(steps in proptest::collection::vec(step(), 0..80)) {
        run(Sharing::Private, steps);
    }

    #[test]
    fn a_shared_connection_gives_each_call_its_own(steps in proptest::collection::vec(step(), 0..80)) {
        run(Sharing::Shared, steps);
    }
}
