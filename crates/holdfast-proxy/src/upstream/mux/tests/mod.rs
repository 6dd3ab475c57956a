//! Stories of one connection whose server the test plays, and properties over any order of events.

mod private;
mod properties;
mod shared;

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::*;
use crate::upstream::duplex::testing::{FakeServer, pair, soon};

struct Connection {
    mux: Arc<Mux>,
    standing: mpsc::Receiver<Bytes>,
    server: FakeServer,
}

fn connect(sharing: Sharing) -> Connection {
    connect_with(sharing, MuxLimits::default())
}

fn connect_with(sharing: Sharing, limits: MuxLimits) -> Connection {
    let (duplex, server) = pair();
    let (mux, standing) = Mux::start(duplex, sharing, limits);
    Connection { mux, standing, server }
}

impl Connection {
    /// Starts a call, and gives what the server got.
    async fn call(&mut self, request: impl Into<Bytes>) -> (Call, Bytes) {
        self.call_with(request, true).await
    }

    async fn call_with(&mut self, request: impl Into<Bytes>, stream_ok: bool) -> (Call, Bytes) {
        let call = self.mux.call_with(request.into(), stream_ok);
        let (call, sent) = soon(async { tokio::join!(call, self.server.next()) }).await;
        (call.expect("sent"), sent.expect("a request"))
    }

    async fn sent(&mut self) -> Bytes {
        soon(self.server.next()).await.expect("a message")
    }

    async fn stood(&mut self) -> Bytes {
        soon(self.standing.recv()).await.expect("a message")
    }
}

async fn next(call: &mut Call) -> Option<CallEvent> {
    soon(call.next()).await
}

fn message(text: &'static str) -> Option<CallEvent> {
    Some(CallEvent::Message(Bytes::from_static(text.as_bytes())))
}

fn response(text: &'static str) -> Option<CallEvent> {
    Some(CallEvent::Response(Bytes::from_static(text.as_bytes())))
}

fn lost(reason: &str) -> Option<CallEvent> {
    Some(CallEvent::Lost(reason.to_owned()))
}

// === what both have in common ===

#[tokio::test]
async fn the_end_reaches_every_call_and_those_that_come_later() {
    for sharing in [Sharing::Private, Sharing::Shared] {
        let mut connection = connect(sharing);
        let (mut one, _) =
            connection.call(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#).await;
        let (mut two, _) =
            connection.call(r#"{"jsonrpc":"2.0","id":2,"method":"tools/call"}"#).await;
        assert_eq!((connection.mux.in_flight(), connection.mux.closed()), (2, None));
        let Connection { mux, server, mut standing } = connection;
        server.end("the server's process ended");
        for call in [&mut one, &mut two] {
            assert_eq!(next(call).await, lost("the server's process ended"));
            assert_eq!(next(call).await, None);
        }
        assert_eq!(soon(mux.wait_closed()).await, "the server's process ended");
        assert_eq!(mux.closed().as_deref(), Some("the server's process ended"));
        let late = mux
            .call(r#"{"jsonrpc":"2.0","id":3,"method":"ping"}"#.into())
            .await
            .expect_err("closed");
        assert!(
            matches!(&late, SendError::NotSent(why) if why.contains("process ended")),
            "{late}"
        );
        assert_eq!(soon(standing.recv()).await, None);
        assert_eq!(mux.in_flight(), 0);
    }
}

#[tokio::test]
async fn the_connection_closes_when_the_last_handle_goes() {
    let mut connection = connect(Sharing::Private);
    let (call, _) = connection.call(r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#).await;
    let Connection { mux, mut server, standing } = connection;
    drop((mux, standing));
    server.say(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).await;
    let mut call = call;
    assert_eq!(next(&mut call).await, response(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#));
    drop(call);
    assert_eq!(soon(server.next()).await, None);
}

#[tokio::test]
async fn closing_ends_a_connection_that_others_hold() {
    let connection = connect(Sharing::Shared);
    let Connection { mux, mut server, standing: _standing } = connection;
    let closing = tokio::spawn({
        let mux = mux.clone();
        async move { mux.close().await }
    });
    assert_eq!(soon(server.next()).await, None);
    assert!(!closing.is_finished(), "it is closed when the connection says so");
    server.end("closed by the gateway");
    soon(closing).await.expect("joined");
    assert_eq!(mux.ending().expect("over").reason(), "closed by the gateway");
}

#[tokio::test]
async fn only_requests_can_be_called() {
    let connection = connect(Sharing::Private);
    for no_request in [
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
        "[]",
        "no JSON",
    ] {
        let error = connection.mux.call(no_request.into()).await.expect_err("refused");
        assert!(matches!(error, SendError::NotSent(_)), "{error}");
    }
    assert_eq!(connection.mux.in_flight(), 0);
}

#[tokio::test]
async fn what_is_no_message_of_any_call_is_dropped() {
    for sharing in [Sharing::Private, Sharing::Shared] {
        let mut connection = connect(sharing);
        let (mut call, _) = connection.call(r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#).await;
        for junk in [
            "{",
            "[",
            "[]",
            r#"{"jsonrpc":"2.0","id":99,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"?"}}"#,
            r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"?"}}"#,
        ] {
            connection.server.say(junk).await;
        }
        connection.server.say(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).await;
        assert_eq!(next(&mut call).await, response(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#));
        drop(connection.server);
        assert_eq!(soon(connection.standing.recv()).await, None);
    }
}
