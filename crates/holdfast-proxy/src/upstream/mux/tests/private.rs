//! One legacy session.

use std::time::Duration;

use super::*;

#[tokio::test]
async fn bytes_pass_untouched_in_both_directions() {
    let mut connection = connect(Sharing::Private);
    let request = "{ \"id\" : \"a\\u0031\",\n\"jsonrpc\":\"2.0\", \"method\":\"tools/call\",\"params\":{\"n\":1.50,\"_meta\":{\"progressToken\":7}}}";
    let (mut call, sent) = connection.call(request).await;
    assert_eq!(sent, request);

    let progress = "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":7.0,\"progress\":1}}";
    let answer = "{\"result\":{ \"x\":1e3 },\"jsonrpc\":\"2.0\",\"id\":\"a1\"}";
    connection.server.say(progress).await;
    connection.server.say(answer).await;
    assert_eq!(next(&mut call).await, message(progress));
    assert_eq!(next(&mut call).await, response(answer));
    assert_eq!(next(&mut call).await, None);
    assert_eq!(connection.mux.in_flight(), 0);
}

#[tokio::test]
async fn a_number_and_its_text_are_two_calls() {
    let mut connection = connect(Sharing::Private);
    let (mut number, _) = connection.call(r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#).await;
    let (mut text, _) = connection.call(r#"{"jsonrpc":"2.0","id":"1","method":"x"}"#).await;
    connection.server.say(r#"{"jsonrpc":"2.0","id":"1","result":{}}"#).await;
    connection.server.say(r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}"#).await;
    assert_eq!(next(&mut text).await, response(r#"{"jsonrpc":"2.0","id":"1","result":{}}"#));
    let error = r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}"#;
    assert_eq!(next(&mut number).await, response(error));
}

const SAMPLING: &str = r#"{"jsonrpc":"2.0","id":0,"method":"sampling/createMessage","params":{}}"#;

#[tokio::test]
async fn the_servers_requests_go_to_the_newest_call_that_can_take_them() {
    let mut connection = connect(Sharing::Private);
    connection.server.say(SAMPLING).await;
    assert_eq!(connection.stood().await, SAMPLING, "no call is in flight");

    let (mut first, _) = connection.call(r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#).await;
    let (mut second, _) = connection.call(r#"{"jsonrpc":"2.0","id":2,"method":"x"}"#).await;
    connection.server.say(SAMPLING).await;
    assert_eq!(next(&mut second).await, message(SAMPLING));

    let (third, _) = connection.call_with(r#"{"jsonrpc":"2.0","id":3,"method":"x"}"#, false).await;
    connection.server.say(SAMPLING).await;
    assert_eq!(connection.stood().await, SAMPLING, "the newest call cannot stream");

    drop((second, third));
    connection.server.say(SAMPLING).await;
    assert_eq!(next(&mut first).await, message(SAMPLING), "nobody waits for the newer ones");
}

#[tokio::test]
async fn progress_of_no_call_in_flight_is_a_message_like_others() {
    let mut connection = connect(Sharing::Private);
    let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t","progress":1}}"#;
    connection.server.say(progress).await;
    assert_eq!(connection.stood().await, progress);
}

#[tokio::test]
async fn a_batch_is_taken_apart() {
    let mut connection = connect(Sharing::Private);
    let (mut one, _) = connection.call(r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#).await;
    let (mut two, _) =
        connection.call_with(r#"{"jsonrpc":"2.0","id":2,"method":"x"}"#, false).await;
    let batch = r#" [ {"jsonrpc":"2.0","id":2,"result":{}} , {"jsonrpc":"2.0","method":"notifications/message","params":{}},
        {"jsonrpc":"2.0","id":1,"result":{}} ] "#;
    connection.server.say(batch).await;
    assert_eq!(next(&mut two).await, response(r#"{"jsonrpc":"2.0","id":2,"result":{}}"#));
    assert_eq!(
        next(&mut one).await,
        message(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#)
    );
    assert_eq!(next(&mut one).await, response(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#));
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_goes_on_and_its_answer_is_dropped() {
    let mut connection = connect(Sharing::Private);
    let (first, _) = connection.call(r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#).await;
    drop(first);
    assert_eq!(connection.mux.in_flight(), 0);
    let again = connection.mux.call(r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#.into()).await;
    let error = again.expect_err("its answer could be taken for the first one's");
    assert!(error.did_not_run(), "{error}");

    connection.server.say(r#"{"jsonrpc":"2.0","id":1,"result":{"first":1}}"#).await;
    let (mut second, sent) = connection.call(r#"{"jsonrpc":"2.0","id":2,"method":"x"}"#).await;
    assert_eq!(sent, r#"{"jsonrpc":"2.0","id":2,"method":"x"}"#, "no cancellation was sent");
    connection.server.say(r#"{"jsonrpc":"2.0","id":2,"result":{}}"#).await;
    assert_eq!(next(&mut second).await, response(r#"{"jsonrpc":"2.0","id":2,"result":{}}"#));
}

#[tokio::test]
async fn tell_passes_anything() {
    let mut connection = connect(Sharing::Private);
    let mux = connection.mux.clone();
    for text in [
        r#"{"jsonrpc":"2.0","id":0,"result":{"role":"assistant"}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#,
    ] {
        let (told, sent) =
            soon(async { tokio::join!(mux.tell(text.into()), connection.server.next()) }).await;
        told.expect("sent");
        assert_eq!(sent.expect("a message"), text);
    }
}

#[tokio::test]
async fn a_request_that_was_not_sent_leaves_nothing_behind() {
    let mut connection = connect(Sharing::Private);
    let mux = connection.mux.clone();
    let request = r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#;
    let refusal = SendError::NotSent("full".to_owned());
    let call = mux.call(request.into());
    let (call, ()) =
        soon(async { tokio::join!(call, connection.server.refuse(refusal.clone())) }).await;
    assert_eq!(call.expect_err("refused"), refusal);
    let (_call, sent) = connection.call(request).await;
    assert_eq!(sent, request, "the id is free again");
}

fn narrow() -> MuxLimits {
    MuxLimits { queue_messages: 1, standing: 1, ..MuxLimits::default() }
}

const NEWS: &str = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#;

#[tokio::test]
async fn a_slow_caller_makes_the_server_wait_and_loses_nothing() {
    let mut connection = connect_with(Sharing::Private, narrow());
    let (mut call, _) = connection.call(r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#).await;
    let server = connection.server;
    let saying = tokio::spawn(async move {
        for _ in 0..50 {
            server.say(NEWS).await;
        }
        server.say(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).await;
        server
    });
    for _ in 0..50 {
        assert_eq!(next(&mut call).await, message(NEWS));
    }
    assert_eq!(next(&mut call).await, response(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#));
    soon(saying).await.expect("joined");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_reads_nothing_ends_after_the_stall() {
    let mut connection = connect_with(Sharing::Private, narrow());
    let (mut call, _) = connection.call(r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#).await;
    for _ in 0..2 {
        connection.server.say(NEWS).await;
    }
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(next(&mut call).await, Some(CallEvent::Unread));
    let (mut other, sent) = connection.call(r#"{"jsonrpc":"2.0","id":2,"method":"x"}"#).await;
    assert_eq!(sent, r#"{"jsonrpc":"2.0","id":2,"method":"x"}"#, "the server may finish");
    connection.server.say(r#"{"jsonrpc":"2.0","id":2,"result":{}}"#).await;
    assert_eq!(next(&mut other).await, response(r#"{"jsonrpc":"2.0","id":2,"result":{}}"#));
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_hold_the_server_up() {
    let mut connection = connect_with(Sharing::Private, narrow());
    let (slow, _) = connection.call(r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#).await;
    for _ in 0..3 {
        connection.server.say(NEWS).await;
    }
    drop(slow);
    let (mut other, _) =
        connection.call_with(r#"{"jsonrpc":"2.0","id":2,"method":"x"}"#, false).await;
    connection.server.say(r#"{"jsonrpc":"2.0","id":2,"result":{}}"#).await;
    drop(connection.standing);
    assert_eq!(next(&mut other).await, response(r#"{"jsonrpc":"2.0","id":2,"result":{}}"#));
}
