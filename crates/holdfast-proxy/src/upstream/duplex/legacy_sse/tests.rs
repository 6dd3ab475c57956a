//! Against a small HTTP+SSE server in the same process, written on bare sockets: what is tested is
//! what goes over the wire.

use std::sync::Mutex;
use std::time::Duration;

use holdfast_mcp::sse::encode_message;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::upstream::duplex::SendError;
use crate::upstream::duplex::testing::soon;

/// How the server behaves.
#[derive(Clone)]
struct Script {
    /// What a GET is answered with, before the events.
    head: &'static str,
    /// The first event.
    endpoint: &'static str,
    /// How POSTs are answered; empty: the connection is dropped.
    post: &'static str,
}

const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nConnection: close\r\n\r\n";
const ACCEPTED: &str = "HTTP/1.1 202 Accepted\r\nContent-Length: 8\r\n\r\nAccepted";

impl Default for Script {
    fn default() -> Self {
        Self {
            head: STREAM,
            endpoint: "event: endpoint\r\ndata: /messages?session=7\r\n\r\n",
            post: ACCEPTED,
        }
    }
}

/// The running server: what it was sent, and a way to send events.
struct Server {
    url: HttpUrl,
    posts: Arc<Mutex<Vec<Post>>>,
    events: mpsc::Sender<Option<&'static str>>,
}

#[derive(Clone, Debug)]
struct Post {
    /// Request line and headers, lower case.
    head: String,
    body: String,
    connection: usize,
}

async fn server(script: Script) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let posts = Arc::new(Mutex::new(Vec::new()));
    let (events, feed) = mpsc::channel(10);
    let feed = Arc::new(tokio::sync::Mutex::new(feed));
    let seen = posts.clone();
    tokio::spawn(async move {
        let mut connection = 0;
        while let Ok((stream, _)) = listener.accept().await {
            connection += 1;
            tokio::spawn(serve(stream, script.clone(), seen.clone(), feed.clone(), connection));
        }
    });
    let url = format!("http://127.0.0.1:{port}/sse?key=1").parse().expect("an address");
    Server { url, posts, events }
}

async fn serve(
    stream: TcpStream,
    script: Script,
    posts: Arc<Mutex<Vec<Post>>>,
    feed: Arc<tokio::sync::Mutex<mpsc::Receiver<Option<&'static str>>>>,
    connection: usize,
) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let head = head.to_ascii_lowercase();
        if head.starts_with("get ") {
            assert!(head.starts_with("get /sse?key=1 "), "{head}");
            assert!(head.contains("accept: text/event-stream\r\n"), "{head}");
            posts.lock().expect("not poisoned").push(Post {
                head,
                body: String::new(),
                connection,
            });
            let start = format!("{}{}", script.head, script.endpoint);
            let _ = stream.write_all(start.as_bytes()).await;
            while let Some(Some(event)) = feed.lock().await.recv().await {
                let _ = stream.write_all(event.as_bytes()).await;
            }
            return;
        }
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
        let mut body = vec![0; length.expect("a length").parse().expect("a number")];
        stream.read_exact(&mut body).await.expect("the body");
        let body = String::from_utf8(body).expect("UTF-8");
        posts.lock().expect("not poisoned").push(Post { head, body, connection });
        if script.post.is_empty() || stream.write_all(script.post.as_bytes()).await.is_err() {
            return;
        }
        if script.post.contains("Connection: close") {
            return;
        }
    }
}

impl Server {
    async fn start() -> (Self, Duplex) {
        let server = server(Script::default()).await;
        let duplex = server.open().await.expect("open");
        (server, duplex)
    }

    async fn open(&self) -> Result<Duplex, OpenError> {
        let headers = [(HeaderName::from_static("x-api-key"), HeaderValue::from_static("secret"))];
        let limits = Limits { open: Duration::from_secs(2), ..Limits::default() };
        soon(open(&"test".into(), &self.url, None, &headers, limits)).await
    }

    fn posts(&self) -> Vec<Post> {
        self.posts
            .lock()
            .expect("not poisoned")
            .iter()
            .filter(|post| post.head.starts_with("post"))
            .cloned()
            .collect()
    }

    async fn say(&self, event: &'static str) {
        self.events.send(Some(event)).await.expect("the server runs");
    }
}

async fn reason(duplex: &mut Duplex) -> String {
    let closed = soon(duplex.closed.wait_for(Option::is_some)).await.expect("told");
    closed.as_ref().expect("a reason").to_string()
}

async fn send(duplex: &Duplex, message: &'static str) -> Result<(), SendError> {
    soon(duplex.sender.send(message.into())).await
}

#[tokio::test]
async fn messages_are_posted_in_order_over_one_connection() {
    let (server, duplex) = Server::start().await;
    let sends: Vec<_> = (0..20)
        .map(|n| {
            let sender = duplex.sender.clone();
            async move { sender.send(format!("{{\"n\":{n}}}").into()).await.expect("accepted") }
        })
        .collect();
    // Polled in this order, so queued in this order.
    soon(futures_util::future::join_all(sends)).await;
    let posts = server.posts();
    let bodies: Vec<String> = posts.iter().map(|post| post.body.clone()).collect();
    assert_eq!(bodies, (0..20).map(|n| format!("{{\"n\":{n}}}")).collect::<Vec<_>>());
    assert!(posts.iter().all(|post| post.connection == posts[0].connection));
}

#[tokio::test]
async fn requests_carry_what_they_need() {
    let (server, duplex) = Server::start().await;
    send(&duplex, "{}").await.expect("accepted");
    let all = server.posts.lock().expect("not poisoned").clone();
    assert_eq!(all.len(), 2);
    for request in &all {
        assert!(request.head.contains("x-api-key: secret\r\n"), "{}", request.head);
        assert!(
            request.head.contains(&format!("host: {}\r\n", server.url.authority())),
            "{}",
            request.head
        );
    }
    assert!(all[1].head.starts_with("post /messages?session=7 http/1.1\r\n"), "{}", all[1].head);
    assert!(all[1].head.contains("content-type: application/json\r\n"), "{}", all[1].head);
}

#[tokio::test]
async fn message_events_are_delivered_and_others_are_not() {
    let (server, mut duplex) = Server::start().await;
    server.say(": a comment\n\nevent: ping\ndata: {\"no\":1}\n\ndata: hello\n\n").await;
    server.say("event: message\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\ndata: {\"b\"").await;
    server.say(":2}\n\n").await;
    assert_eq!(soon(duplex.inbox.recv()).await.expect("a message"), "{\"a\":\n1}");
    assert_eq!(soon(duplex.inbox.recv()).await.expect("a message"), "{\"b\":2}");
}

#[tokio::test]
async fn an_encoded_message_comes_back_as_it_was() {
    let (server, mut duplex) = Server::start().await;
    let mut event = bytes::BytesMut::new();
    encode_message(None, "{\"text\":\"ä\\n\"}".as_bytes(), &mut event);
    let event: &'static str =
        Box::leak(String::from_utf8(event.to_vec()).expect("UTF-8").into_boxed_str());
    server.say(event).await;
    assert_eq!(
        soon(duplex.inbox.recv()).await.expect("a message"),
        "{\"text\":\"ä\\n\"}".as_bytes()
    );
}

#[tokio::test]
async fn a_lost_session_ends_the_connection_and_says_that_nothing_ran() {
    for (post, status) in [
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404),
        ("HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno", 400),
    ] {
        let server = server(Script { post, ..Script::default() }).await;
        let mut duplex = server.open().await.expect("open");
        let error = send(&duplex, "{}").await.expect_err("refused");
        assert_eq!(error, SendError::Refused { status });
        assert!(error.did_not_run());
        assert!(reason(&mut duplex).await.contains("session is gone"));
        assert_eq!(soon(duplex.inbox.recv()).await, None);
        assert!(matches!(send(&duplex, "{}").await, Err(SendError::NotSent(_))));
    }
}

#[tokio::test]
async fn another_refusal_leaves_the_connection_open() {
    let post = "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n";
    let server = server(Script { post, ..Script::default() }).await;
    let duplex = server.open().await.expect("open");
    let error = send(&duplex, "{}").await.expect_err("refused");
    assert_eq!(error, SendError::Refused { status: 500 });
    assert!(!error.did_not_run());
    assert_eq!(duplex.sender.closed(), None);
}

#[tokio::test]
async fn a_post_that_is_not_answered_may_have_arrived() {
    let server = server(Script { post: "", ..Script::default() }).await;
    let duplex = server.open().await.expect("open");
    let error = send(&duplex, "{}").await.expect_err("dropped");
    assert!(matches!(error, SendError::Unknown(_)), "{error}");
    assert_eq!(server.posts().len(), 1, "it is not repeated");
}

#[tokio::test]
async fn a_server_that_closes_after_each_post_gets_new_connections() {
    let post = "HTTP/1.1 202 Accepted\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let server = server(Script { post, ..Script::default() }).await;
    let duplex = server.open().await.expect("open");
    for _ in 0..5 {
        send(&duplex, "{}").await.expect("accepted");
    }
    assert_eq!(server.posts().len(), 5);
}

#[tokio::test]
async fn the_end_of_the_stream_is_the_end_of_the_connection() {
    let (server, mut duplex) = Server::start().await;
    server.say("data: {\"last\":1}\n\n").await;
    server.events.send(None).await.expect("the server runs");
    assert_eq!(soon(duplex.inbox.recv()).await.expect("a message"), "{\"last\":1}");
    assert_eq!(soon(duplex.inbox.recv()).await, None);
    let closed = duplex.closed.borrow().clone().expect("told before the inbox ended");
    assert!(closed.reason().contains("event stream"), "{closed}");
    assert!(matches!(send(&duplex, "{}").await, Err(SendError::NotSent(_))));
}

#[tokio::test]
async fn an_event_over_the_limit_ends_the_connection() {
    let server = server(Script::default()).await;
    let limits = Limits { message: 100, ..Limits::default() };
    let mut duplex =
        soon(open(&"test".into(), &server.url, None, &[], limits)).await.expect("open");
    let event: &'static str = Box::leak(format!("data: {{{}", " ".repeat(500)).into_boxed_str());
    server.say(event).await;
    assert!(reason(&mut duplex).await.contains("cannot be read"));
}

#[tokio::test]
async fn another_origin_is_refused() {
    for endpoint in [
        "event: endpoint\ndata: http://127.0.0.2:1/messages\n\n",
        "event: endpoint\ndata: //example.com/messages\n\n",
    ] {
        let server = server(Script { endpoint, ..Script::default() }).await;
        let error = server.open().await.expect_err("refused");
        assert!(matches!(error, OpenError::ForeignEndpoint { .. }), "{error}");
        assert!(error.is_misconfiguration());
    }
}

#[tokio::test]
async fn what_is_no_event_stream_is_refused() {
    let head = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
    let refusing = server(Script { head, endpoint: "", ..Script::default() }).await;
    let error = refusing.open().await.expect_err("refused");
    assert!(matches!(error, OpenError::Refused { status: 401, .. }), "{error}");

    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n";
    let other = server(Script { head, endpoint: "", ..Script::default() }).await;
    let error = other.open().await.expect_err("refused");
    assert!(matches!(error, OpenError::Protocol { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_names_no_endpoint_times_out() {
    let endpoint = "data: {\"early\":1}\n\n";
    let server = server(Script { endpoint, ..Script::default() }).await;
    let limits = Limits { open: Duration::from_millis(200), ..Limits::default() };
    let error =
        soon(open(&"test".into(), &server.url, None, &[], limits)).await.expect_err("silent");
    assert!(matches!(error, OpenError::TimedOut { .. }), "{error}");
}
