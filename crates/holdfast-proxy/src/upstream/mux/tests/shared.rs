//! Many modern clients on one connection.

use super::*;

const CANCELLED: &str =
    r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;

#[tokio::test]
async fn two_clients_with_the_same_id_get_their_own_answers() {
    let mut connection = connect(Sharing::Shared);
    let request = r#"{"id" : "a\u0062", "jsonrpc":"2.0","method":"tools/call","params":{"x":1.0,"_meta":{ "progressToken" : 1e1 }}}"#;
    let (mut one, sent_one) = connection.call(request).await;
    let (mut two, sent_two) = connection.call(request).await;
    let rewritten = |n: u32| {
        format!(
            r#"{{"id" : {n}, "jsonrpc":"2.0","method":"tools/call","params":{{"x":1.0,"_meta":{{ "progressToken" : {n} }}}}}}"#
        )
    };
    assert_eq!((sent_one, sent_two), (rewritten(1).into(), rewritten(2).into()));

    let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{ "progress":1,"progressToken" :2}}"#;
    connection.server.say(progress).await;
    connection.server.say(r#"{"jsonrpc":"2.0","result":{"of":2},"id":2}"#).await;
    connection.server.say(r#"{"jsonrpc":"2.0","result":{"of":1},"id":"1"}"#).await;
    assert_eq!(
        next(&mut two).await,
        message(
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{ "progress":1,"progressToken" :1e1}}"#
        )
    );
    assert_eq!(
        next(&mut two).await,
        response(r#"{"jsonrpc":"2.0","result":{"of":2},"id":"a\u0062"}"#)
    );
    assert_eq!(
        next(&mut one).await,
        response(r#"{"jsonrpc":"2.0","result":{"of":1},"id":"a\u0062"}"#)
    );
}

#[tokio::test]
async fn a_subscription_gets_what_carries_its_id() {
    let mut connection = connect(Sharing::Shared);
    let (mut other, _) =
        connection.call(r#"{"jsonrpc":"2.0","id":"sub","method":"subscriptions/listen"}"#).await;
    let (mut listen, _) =
        connection.call(r#"{"jsonrpc":"2.0","id":"sub","method":"subscriptions/listen"}"#).await;
    let news = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":2}}}"#;
    connection.server.say(news).await;
    let end = r#"{"jsonrpc":"2.0","result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/subscriptionId":2}},"id":2}"#;
    connection.server.say(end).await;
    let stray = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":9}}}"#;
    connection.server.say(stray).await;
    let plain = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
    connection.server.say(plain).await;
    assert_eq!(
        next(&mut listen).await,
        message(
            r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"sub"}}}"#
        )
    );
    assert_eq!(
        next(&mut listen).await,
        response(
            r#"{"jsonrpc":"2.0","result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/subscriptionId":"sub"}},"id":"sub"}"#
        )
    );
    assert_eq!(connection.stood().await, plain, "and not the stray one");
    connection.server.end("over");
    assert_eq!(next(&mut other).await, lost("over"));
}

#[tokio::test]
async fn the_server_may_give_a_subscription_up() {
    let mut connection = connect(Sharing::Shared);
    let (mut listen, _) =
        connection.call(r#"{"jsonrpc":"2.0","id":"s","method":"subscriptions/listen"}"#).await;
    connection.server.say(CANCELLED).await;
    assert_eq!(
        next(&mut listen).await,
        message(
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"s"}}"#
        )
    );
    assert_eq!(next(&mut listen).await, lost("the server cancelled the call"));
    assert_eq!(connection.mux.in_flight(), 0);
}

#[tokio::test]
async fn log_messages_go_to_the_one_call_that_asked_for_them_or_to_nobody() {
    let mut connection = connect(Sharing::Shared);
    let log =
        r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#;
    let (_plain, _) = connection.call(r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#).await;
    connection.server.say(log).await;
    assert_eq!(connection.stood().await, log);
    let asks = r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"io.modelcontextprotocol/logLevel":"info"}}}"#;
    let (mut first, sent) = connection.call(asks).await;
    let sent: serde_json::Value = serde_json::from_slice(&sent).expect("JSON");
    let id = &sent["id"];
    let (_newer, _) = connection.call(r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#).await;
    connection.server.say(log).await;
    assert_eq!(next(&mut first).await, message(log));
    // With two it could be either's: the next thing that each gets is its answer.
    let (_second, _) = connection.call(asks).await;
    connection.server.say(log).await;
    connection.server.say(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#)).await;
    assert_eq!(next(&mut first).await, response(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#));
}

#[tokio::test]
async fn a_request_of_the_server_is_refused() {
    let mut connection = connect(Sharing::Shared);
    let (mut call, _) = connection.call(r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#).await;
    connection.server.say(r#"{"jsonrpc":"2.0","id":"q","method":"roots/list"}"#).await;
    let refusal: serde_json::Value =
        serde_json::from_slice(&connection.sent().await).expect("JSON");
    assert_eq!((&refusal["id"], &refusal["error"]["code"]), (&"q".into(), &(-32601).into()));
    connection.server.say(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).await;
    assert_eq!(next(&mut call).await, response(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#));
}

#[tokio::test]
async fn dropping_a_call_cancels_it_by_our_id() {
    let mut connection = connect(Sharing::Shared);
    let (call, _) = connection.call(r#"{"jsonrpc":"2.0","id":"theirs","method":"x"}"#).await;
    drop(call);
    assert_eq!(connection.sent().await, CANCELLED);
    assert_eq!(connection.mux.in_flight(), 0);
    let (_call, sent) = connection.call(r#"{"jsonrpc":"2.0","id":5,"method":"x"}"#).await;
    assert_eq!(sent, r#"{"jsonrpc":"2.0","id":2,"method":"x"}"#, "nothing was sent in between");
}

#[tokio::test]
async fn a_finished_call_is_not_cancelled() {
    let mut connection = connect(Sharing::Shared);
    let (mut call, _) = connection.call(r#"{"jsonrpc":"2.0","id":"theirs","method":"x"}"#).await;
    connection.server.say(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).await;
    assert_eq!(next(&mut call).await, response(r#"{"jsonrpc":"2.0","id":"theirs","result":{}}"#));
    drop(call);
    let (_call, sent) = connection.call(r#"{"jsonrpc":"2.0","id":5,"method":"x"}"#).await;
    assert_eq!(sent, r#"{"jsonrpc":"2.0","id":2,"method":"x"}"#, "nothing was sent in between");
}

#[tokio::test]
async fn a_client_cannot_cancel_or_answer_by_ids_of_its_own() {
    let mut connection = connect(Sharing::Shared);
    let (_call, _) = connection.call(r#"{"jsonrpc":"2.0","id":7,"method":"x"}"#).await;
    connection.mux.tell(CANCELLED.into()).await.expect("dropped");
    connection.mux.tell(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.into()).await.expect("dropped");
    let other = r#"{"jsonrpc":"2.0","method":"notifications/other"}"#;
    let mux = connection.mux.clone();
    let (told, sent) =
        soon(async { tokio::join!(mux.tell(other.into()), connection.server.next()) }).await;
    told.expect("sent");
    assert_eq!(sent.expect("a message"), other);
}

#[tokio::test]
async fn progress_that_nobody_asked_for_is_dropped() {
    let mut connection = connect(Sharing::Shared);
    let (mut call, _) = connection.call(r#"{"jsonrpc":"2.0","id":"x","method":"x"}"#).await;
    let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#;
    connection.server.say(progress).await;
    connection.server.say(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).await;
    assert_eq!(next(&mut call).await, response(r#"{"jsonrpc":"2.0","id":"x","result":{}}"#));
    drop(connection.server);
    assert_eq!(soon(connection.standing.recv()).await, None);
}

#[tokio::test]
async fn a_slow_client_loses_its_call_and_nobody_else_waits() {
    let limits = MuxLimits { queue_bytes: 300, ..MuxLimits::default() };
    let mut connection = connect_with(Sharing::Shared, limits);
    let with_token =
        r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"progressToken":1}}}"#;
    let (mut slow, _) = connection.call(with_token).await;
    let (mut other, _) = connection.call(with_token).await;
    let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#;
    for _ in 0..20 {
        connection.server.say(progress).await;
    }
    connection.server.say(r#"{"jsonrpc":"2.0","id":2,"result":{}}"#).await;
    assert_eq!(next(&mut other).await, response(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#));
    assert_eq!(connection.sent().await, CANCELLED);
    assert_eq!(next(&mut slow).await, Some(CallEvent::Unread));
    assert_eq!(next(&mut slow).await, None);
}

#[tokio::test]
async fn messages_that_nobody_takes_do_not_hold_the_server_up() {
    let limits = MuxLimits { standing: 1, ..MuxLimits::default() };
    let mut connection = connect_with(Sharing::Shared, limits);
    let (mut call, _) = connection.call(r#"{"jsonrpc":"2.0","id":"x","method":"x"}"#).await;
    for _ in 0..20 {
        connection
            .server
            .say(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#)
            .await;
    }
    connection.server.say(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).await;
    assert_eq!(next(&mut call).await, response(r#"{"jsonrpc":"2.0","id":"x","result":{}}"#));
}

#[tokio::test]
async fn a_request_that_was_perhaps_sent_is_cancelled() {
    let mut connection = connect(Sharing::Shared);
    let mux = connection.mux.clone();
    let call = mux.call(r#"{"jsonrpc":"2.0","id":"x","method":"x"}"#.into());
    let unknown = SendError::Unknown("reset".to_owned());
    let (call, ()) =
        soon(async { tokio::join!(call, connection.server.refuse(unknown.clone())) }).await;
    assert_eq!(call.expect_err("unknown"), unknown);
    assert_eq!(connection.sent().await, CANCELLED);

    let call = mux.call(r#"{"jsonrpc":"2.0","id":"x","method":"x"}"#.into());
    let not_sent = SendError::NotSent("full".to_owned());
    let (call, ()) =
        soon(async { tokio::join!(call, connection.server.refuse(not_sent.clone())) }).await;
    assert_eq!(call.expect_err("not sent"), not_sent);
    let (_call, sent) = connection.call(r#"{"jsonrpc":"2.0","id":5,"method":"x"}"#).await;
    assert_eq!(sent, r#"{"jsonrpc":"2.0","id":3,"method":"x"}"#, "nothing was sent in between");
}
