//! Against small WebSocket servers in the same process.

use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::server::{
    ErrorResponse, Request as Handshake, Response,
};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::*;
use crate::upstream::duplex::testing::soon;

type ServerSocket = WebSocketStream<TcpStream>;

/// A server that handles each connection with `serve`, and its address.
async fn server<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> HttpUrl {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    format!("ws://127.0.0.1:{port}/mcp?x=1").parse().expect("an address")
}

/// Accepts as a server that knows the subprotocol.
async fn accept(stream: TcpStream) -> ServerSocket {
    tokio_tungstenite::accept_hdr_async(stream, with_subprotocol).await.expect("a handshake")
}

#[expect(clippy::result_large_err, reason = "the type is tungstenite's")]
fn with_subprotocol(
    request: &Handshake,
    mut response: Response,
) -> Result<Response, ErrorResponse> {
    assert_eq!(request.headers()[SEC_WEBSOCKET_PROTOCOL], "mcp");
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("mcp"));
    Ok(response)
}

async fn connected(url: &HttpUrl, limits: Limits) -> Result<Duplex, OpenError> {
    soon(open(&"test".into(), url, None, &[], limits)).await
}

async fn echo(stream: TcpStream) {
    let mut socket = accept(stream).await;
    while let Some(Ok(frame)) = socket.next().await {
        if frame.is_text() && socket.send(frame).await.is_err() {
            break;
        }
    }
}

async fn reason(duplex: &mut Duplex) -> String {
    let closed = soon(duplex.closed.wait_for(Option::is_some)).await.expect("told");
    closed.as_ref().expect("a reason").to_string()
}

#[tokio::test]
async fn messages_pass_in_both_directions() {
    let url = server(echo).await;
    let mut duplex = connected(&url, Limits::default()).await.expect("open");
    let large = Bytes::from(format!("{{\"x\":\"{}\"}}", "ä".repeat(1_000_000)));
    for message in [Bytes::from_static(b"{\"a\":\n1}"), large] {
        soon(duplex.sender.send(message.clone())).await.expect("sent");
        assert!(soon(duplex.inbox.recv()).await.expect("an echo") == message);
    }
}

#[tokio::test]
async fn the_callers_headers_go_with_the_handshake_and_the_handshakes_own_stay() {
    let url = server(|stream| async move {
        #[expect(clippy::result_large_err, reason = "the type is tungstenite's")]
        let check = |request: &Handshake, response: Response| {
            assert_eq!(request.uri(), "/mcp?x=1");
            assert_eq!(request.headers()["x-api-key"], "secret");
            assert_eq!(request.headers()["upgrade"], "websocket");
            with_subprotocol(request, response)
        };
        let socket = tokio_tungstenite::accept_hdr_async(stream, check).await;
        drop(socket.expect("a handshake"));
    })
    .await;
    let headers = [
        (HeaderName::from_static("x-api-key"), HeaderValue::from_static("secret")),
        (UPGRADE, HeaderValue::from_static("nonsense")),
    ];
    soon(open(&"test".into(), &url, None, &headers, Limits::default())).await.expect("open");
}

#[tokio::test]
async fn a_server_without_subprotocols_will_do() {
    let url = server(|stream| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
        let _ = socket.send(Message::text("{\"hello\":1}")).await;
        let _ = socket.next().await;
    })
    .await;
    let mut duplex = connected(&url, Limits::default()).await.expect("open");
    assert_eq!(soon(duplex.inbox.recv()).await.expect("a message"), "{\"hello\":1}");
}

#[tokio::test]
async fn only_json_is_taken_in_text_or_binary_frames() {
    let url = server(|stream| async move {
        let mut socket = accept(stream).await;
        for frame in [
            Message::binary(&b"\xff{}"[..]),
            Message::binary(&b"hello"[..]),
            Message::text("hello"),
            Message::binary(&b"{\"binary\":1}"[..]),
            Message::text(" [{\"text\":1}]"),
        ] {
            socket.send(frame).await.expect("sent");
        }
        let _ = socket.next().await;
    })
    .await;
    let mut duplex = connected(&url, Limits::default()).await.expect("open");
    assert_eq!(soon(duplex.inbox.recv()).await.expect("a message"), "{\"binary\":1}");
    assert_eq!(soon(duplex.inbox.recv()).await.expect("a message"), " [{\"text\":1}]");
}

#[tokio::test]
async fn a_refusal_gives_its_status() {
    let url = server(|stream| async move {
        #[expect(clippy::result_large_err, reason = "the type is tungstenite's")]
        let refuse = |_: &Handshake, _: Response| -> Result<Response, ErrorResponse> {
            let mut response = ErrorResponse::new(None);
            *response.status_mut() = http::StatusCode::UNAUTHORIZED;
            Err(response)
        };
        let _ = tokio_tungstenite::accept_hdr_async(stream, refuse).await;
    })
    .await;
    let error = connected(&url, Limits::default()).await.expect_err("refused");
    assert!(matches!(error, OpenError::Refused { status: 401, .. }), "{error}");
}

#[tokio::test]
async fn a_port_without_a_listener_is_a_failed_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let url = format!("ws://127.0.0.1:{port}/ws?key=s3cret").parse().expect("an address");
    let error = connected(&url, Limits::default()).await.expect_err("refused");
    assert!(matches!(error, OpenError::Connect { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_the_handshake_times_out() {
    let url = server(|stream| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let limits = Limits { open: Duration::from_millis(100), ..Limits::default() };
    let error = connected(&url, limits).await.expect_err("silent");
    assert!(matches!(error, OpenError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn the_servers_close_is_told_after_its_last_message() {
    let url = server(|stream| async move {
        let mut socket = accept(stream).await;
        socket.send(Message::text("{\"last\":1}")).await.expect("sent");
        let frame = CloseFrame { code: CloseCode::Away, reason: "restarting".into() };
        socket.close(Some(frame)).await.expect("closed");
        while let Some(Ok(_)) = socket.next().await {}
    })
    .await;
    let mut duplex = connected(&url, Limits::default()).await.expect("open");
    assert_eq!(soon(duplex.inbox.recv()).await.expect("a message"), "{\"last\":1}");
    assert_eq!(soon(duplex.inbox.recv()).await, None);
    let closed = duplex.closed.borrow().clone().expect("told before the inbox ended");
    assert!(closed.reason().contains("restarting"), "{closed}");
    let error = soon(duplex.sender.send("{}".into())).await.expect_err("closed");
    assert!(error.did_not_run(), "{error}");
}

#[tokio::test]
async fn our_close_is_a_close_frame() {
    let (told, mut close) = mpsc::channel(1);
    let url = server(move |stream| {
        let told = told.clone();
        async move {
            let mut socket = accept(stream).await;
            while let Some(Ok(frame)) = socket.next().await {
                if frame.is_close() {
                    let _ = told.send(()).await;
                }
            }
        }
    })
    .await;
    let duplex = connected(&url, Limits::default()).await.expect("open");
    let Duplex { sender, mut closed, inbox } = duplex;
    drop((sender, inbox));
    soon(close.recv()).await.expect("a close frame");
    let closed = soon(closed.wait_for(Option::is_some)).await.expect("told").clone();
    assert_eq!(closed.expect("a reason").reason(), "closed by the gateway");
}

#[tokio::test]
async fn a_message_over_the_limit_ends_the_connection() {
    let url = server(echo).await;
    let limits = Limits { message: 1000, ..Limits::default() };
    let mut duplex = connected(&url, limits).await.expect("open");
    soon(duplex.sender.send(vec![b' '; 1001].into())).await.expect("sent");
    assert!(reason(&mut duplex).await.contains("larger than 1000 bytes"));
}

#[tokio::test]
async fn a_server_that_answers_no_ping_is_given_up() {
    let url = server(|stream| async move {
        let _held = accept(stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let limits = Limits { ping: Duration::from_millis(50), ..Limits::default() };
    let mut duplex = connected(&url, limits).await.expect("open");
    assert!(reason(&mut duplex).await.contains("pings"));
}

#[tokio::test]
async fn a_server_that_answers_pings_is_kept() {
    let (told, mut pings) = mpsc::channel(10);
    let url = server(move |stream| {
        let told = told.clone();
        async move {
            let mut socket = accept(stream).await;
            while let Some(Ok(frame)) = socket.next().await {
                if frame.is_ping() {
                    let _ = told.try_send(());
                }
            }
        }
    })
    .await;
    let limits = Limits { ping: Duration::from_millis(50), ..Limits::default() };
    let duplex = connected(&url, limits).await.expect("open");
    for _ in 0..5 {
        soon(pings.recv()).await.expect("a ping");
    }
    assert_eq!(duplex.sender.closed(), None);
}

#[tokio::test]
async fn a_server_that_does_not_read_ends_the_connection() {
    let url = server(|stream| async move {
        let _held = accept(stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let limits = Limits { send: Duration::from_millis(200), ..Limits::default() };
    let mut duplex = connected(&url, limits).await.expect("open");
    let error =
        soon(duplex.sender.send(vec![b' '; 64 << 20].into())).await.expect_err("nobody reads");
    assert!(matches!(error, SendError::Closed(_)), "{error}");
    assert!(reason(&mut duplex).await.contains("does not read"));
}
