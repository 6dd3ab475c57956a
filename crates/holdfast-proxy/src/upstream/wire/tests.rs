//! One exchange after another with servers that say exactly what they are told to.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

/// For what would hang if it failed.
const SOON: Duration = Duration::from_secs(30);

/// A connection whose other side reads a request of so many bytes, and then says and does as told.
async fn against<F>(server: impl FnOnce(TcpStream) -> F) -> (Box<Connection>, JoinHandle<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap());
    let (ours, theirs) = tokio::join!(ours, listener.accept());
    (Connection::plain(ours.unwrap()), tokio::spawn(server(theirs.unwrap().0)))
}

type Pieces = &'static [&'static str];

async fn says(pieces: Pieces) -> Box<Connection> {
    let (connection, _) = against(|mut theirs| async move {
        theirs.set_nodelay(true).unwrap();
        let mut request = [0; 4];
        theirs.read_exact(&mut request).await.unwrap();
        for piece in pieces {
            theirs.write_all(piece.as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
        }
    })
    .await;
    connection
}

async fn asked(mut connection: Box<Connection>) -> Result<(u16, AnswerBody), WireError> {
    connection.request().extend_from_slice(b"ping");
    let (status, _, body) = connection.exchange(Bytes::new()).await?;
    Ok((status.as_u16(), body))
}

async fn read(body: &mut AnswerBody) -> Result<Vec<u8>, WireError> {
    let mut all = Vec::new();
    while let Some(part) = body.next().await {
        all.extend_from_slice(&part?);
    }
    Ok(all)
}

#[tokio::test]
async fn every_framing_is_read_to_its_end() {
    let table: [(Pieces, &str, bool); 6] = [
        (&["HTTP/1.1 200 OK\r\ncontent-le", "ngth: 4\r\n\r\nab", "cd"], "abcd", true),
        (
            &[
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\na",
                "b\r\n2\r\ncd\r\n0\r",
                "\n\r\n",
            ],
            "abcd",
            true,
        ),
        (&["HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nab", "cd"], "abcd", false),
        (&["HTTP/1.1 204 No Content\r\n\r\n"], "", true),
        (&["HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\na"], "a", false),
        // What is said beyond the answer would be the next one.
        (&["HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\naHTTP/1.1 200 OK\r\n\r\n"], "a", false),
    ];
    for (pieces, expected, keeps) in table {
        let (_, mut body) = asked(says(pieces).await).await.unwrap();
        assert_eq!(read(&mut body).await.unwrap(), expected.as_bytes());
        assert!(body.next().await.is_none());
        assert_eq!(body.into_connection().is_some(), keeps, "{expected}");
    }
}

#[tokio::test]
async fn a_body_of_known_length_comes_in_one_piece() {
    let answer: Pieces = &["HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nab", "cd", "ef"];
    let (_, mut body) = asked(says(answer).await).await.unwrap();
    assert!(body.whole(5).await.is_none(), "it is longer");
    assert_eq!(body.whole(6).await.unwrap().unwrap(), "abcdef");
    assert!(body.into_connection().is_some());
}

/// What follows a large answer is expected to be large, and keeps no more room than it takes if it is not.
#[tokio::test]
async fn large_answers_and_small_ones_follow_each_other() {
    const LENGTHS: [usize; 7] = [100, 65_536, 65_536, 90_000, 100, 300_000, 3];
    let (mut connection, _) = against(|mut theirs| async move {
        for length in LENGTHS {
            theirs.read_exact(&mut [0; 4]).await.unwrap();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            let answer = [head.as_bytes(), &vec![b'a'; length]].concat();
            theirs.write_all(&answer).await.unwrap();
        }
    })
    .await;
    for (turn, length) in LENGTHS.into_iter().enumerate() {
        let (_, mut body) = asked(connection).await.unwrap();
        let before = LENGTHS[..turn].last().copied().unwrap_or_default();
        if length <= READ && before > READ {
            let room = body.connection.read.capacity();
            assert!(room <= READ, "{room} bytes are kept for {length}");
        }
        let whole = body.whole(1 << 20).await.unwrap().unwrap();
        assert_eq!((whole.len(), whole.iter().all(|byte| *byte == b'a')), (length, true));
        connection = body.into_connection().expect("it may be used again");
        assert_eq!(connection.read.capacity(), 0, "an idle connection has no buffer");
        assert_eq!(connection.expects > 0, length > READ);
    }
}

#[tokio::test]
async fn a_body_that_is_cut_is_an_error_and_its_connection_is_gone() {
    let length: Pieces = &["HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nab"];
    let table: [Pieces; 3] = [
        length,
        &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nab"],
        &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n"],
    ];
    for pieces in table {
        let (_, mut body) = asked(says(pieces).await).await.unwrap();
        assert!(matches!(read(&mut body).await, Err(WireError::Ended)));
        assert!(body.next().await.is_none() && body.into_connection().is_none());
    }
    let (_, mut body) = asked(says(length).await).await.unwrap();
    assert!(matches!(body.whole(6).await, Some(Err(WireError::Ended))));
    assert!(body.into_connection().is_none());
}

#[tokio::test]
async fn no_answer_and_nonsense_are_told_apart() {
    assert!(matches!(asked(says(&[]).await).await, Err(WireError::Ended)));
    assert!(matches!(asked(says(&["HTTP/1.1 200 OK\r\nA"]).await).await, Err(WireError::Ended)));
    assert!(matches!(asked(says(&["220 smtp ready\r\n"]).await).await, Err(WireError::Head(_))));
}

#[tokio::test]
async fn a_large_request_is_written_while_the_answer_is_waited_for() {
    let (mut connection, server) = against(|mut theirs| async move {
        let mut request = vec![0; 4 + 3_000_000];
        theirs.read_exact(&mut request).await.unwrap();
        assert!(request[4..].iter().all(|byte| *byte == 7));
        theirs.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    })
    .await;
    connection.request().extend_from_slice(b"ping");
    let (status, _, body) = connection.exchange(Bytes::from(vec![7; 3_000_000])).await.unwrap();
    server.await.unwrap();
    assert_eq!(status, 200);
    assert!(body.into_connection().is_some());
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_is_out_is_taken_and_ends_the_connection() {
    let (mut connection, server) = against(|mut theirs| async move {
        let mut request = [0; 4];
        theirs.read_exact(&mut request).await.unwrap();
        theirs.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        tokio::time::sleep(Duration::from_secs(30)).await;
    })
    .await;
    connection.request().extend_from_slice(b"ping");
    let body = Bytes::from(vec![7; 30_000_000]);
    let (status, _, mut body) = connection.exchange(body).await.unwrap();
    assert_eq!((status.as_u16(), &read(&mut body).await.unwrap()[..]), (413, &b"no"[..]));
    assert!(body.into_connection().is_none());
    server.abort();
}

/// A server may begin its answer and read on.
#[tokio::test]
async fn a_request_is_sent_on_while_its_answer_is_read() {
    const REST: usize = 30_000_000;
    let table: [(Pieces, bool); 2] = [
        (&["HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab", "cd"], true),
        (
            &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "4\r\nabcd\r\n0\r\n\r\n"],
            false,
        ),
    ];
    for (pieces, at_once) in table {
        let (mut connection, server) = against(|mut theirs| async move {
            let mut request = [0; 4];
            theirs.read_exact(&mut request).await.unwrap();
            theirs.write_all(pieces[0].as_bytes()).await.unwrap();
            let mut rest = vec![0; REST];
            theirs.read_exact(&mut rest).await.unwrap();
            assert!(rest.iter().all(|byte| *byte == 7));
            theirs.write_all(pieces[1].as_bytes()).await.unwrap();
        })
        .await;
        connection.request().extend_from_slice(b"ping");
        let exchange = connection.exchange(Bytes::from(vec![7; REST]));
        let (_, _, mut body) = tokio::time::timeout(SOON, exchange).await.expect("a head").unwrap();
        let read = async {
            match at_once {
                true => body.whole(4).await.unwrap().unwrap().to_vec(),
                false => read(&mut body).await.unwrap(),
            }
        };
        assert_eq!(tokio::time::timeout(SOON, read).await.expect("the answer"), b"abcd");
        server.await.unwrap();
    }
}

/// Two sides of a TLS connection.
async fn tls() -> (TlsStream<TcpStream>, tokio_rustls::server::TlsStream<TcpStream>) {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = pair.signing_key.serialize_der().try_into().unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key);
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config.unwrap()));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pair.cert.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap());
    let (ours, theirs) = tokio::join!(ours, listener.accept());
    let name = "localhost".try_into().unwrap();
    let (ours, theirs) =
        tokio::join!(connector.connect(name, ours.unwrap()), acceptor.accept(theirs.unwrap().0));
    let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
    // What TLS says to begin with is read with the first answer.
    theirs.write_all(b"answer").await.unwrap();
    ours.read_exact(&mut [0; 6]).await.unwrap();
    (ours, theirs)
}

/// The runtime has not looked at the socket since, and what was decrypted is not in the socket.
#[tokio::test]
async fn behind_tls_too_a_connection_is_quiet_until_its_server_speaks_or_ends() {
    let (ours, mut theirs) = tls().await;
    let connection = Connection::tls(ours);
    assert!(connection.is_quiet(Look::Kernel));
    theirs.write_all(b"unasked").await.unwrap();
    assert!(!connection.is_quiet(Look::Kernel), "bytes that came a moment ago");

    let (mut ours, mut theirs) = tls().await;
    theirs.write_all(b"ab").await.unwrap();
    ours.read_exact(&mut [0; 1]).await.unwrap();
    assert!(!Connection::tls(ours).is_quiet(Look::Kernel), "a byte that is decrypted");

    let (ours, mut theirs) = tls().await;
    theirs.shutdown().await.unwrap();
    assert!(!Connection::tls(ours).is_quiet(Look::Kernel), "the end");
}

#[tokio::test]
async fn a_connection_is_quiet_until_its_server_speaks_or_ends() {
    let (mut connection, server) = against(|theirs| async move {
        theirs.readable().await.unwrap();
        drop(theirs);
    })
    .await;
    assert!(connection.is_quiet(Look::Kernel) && connection.is_quiet(Look::Runtime));
    match &mut connection.io {
        Io::Plain(stream) => stream.write_all(b"x").await.unwrap(),
        Io::Tls(_) => unreachable!("it is a plain one"),
    }
    server.await.unwrap();
    assert!(!connection.is_quiet(Look::Kernel));
    // The runtime has heard of it by the time that anybody waits for the connection.
    let Io::Plain(stream) = &connection.io else { unreachable!("it is a plain one") };
    stream.readable().await.unwrap();
    assert!(!connection.is_quiet(Look::Runtime));
}

#[tokio::test]
async fn a_silent_stream_holds_no_buffer() {
    let (connection, server) = against(|mut theirs| async move {
        let mut request = [0; 4];
        theirs.read_exact(&mut request).await.unwrap();
        theirs.write_all(b"HTTP/1.1 200 OK\r\n\r\ndata").await.unwrap();
        tokio::time::sleep(Duration::from_secs(30)).await;
    })
    .await;
    let (_, mut body) = asked(connection).await.unwrap();
    assert_eq!(body.next().await.unwrap().unwrap(), "data");
    assert!(futures_util::poll!(std::pin::pin!(body.next())).is_pending());
    assert_eq!((body.connection.read.capacity(), body.connection.out.capacity()), (0, 0));
    server.abort();
}

#[tokio::test]
async fn what_has_been_read_is_here_and_what_has_not_is_not_waited_for() {
    let (go, gone) = tokio::sync::oneshot::channel();
    let (connection, server) = against(|mut theirs| async move {
        let mut request = [0; 4];
        theirs.read_exact(&mut request).await.unwrap();
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        theirs.write_all(format!("{head}1\r\na\r\n1\r\nb\r\n2\r\nc").as_bytes()).await.unwrap();
        gone.await.unwrap();
        theirs.write_all(b"d\r\n0\r\n\r\n").await.unwrap();
    })
    .await;
    let (_, mut body) = asked(connection).await.unwrap();
    for expected in ["a", "b", "c"] {
        assert_eq!(body.here().unwrap().unwrap().unwrap(), expected);
    }
    assert!(body.here().is_none());
    go.send(()).unwrap();
    assert_eq!(body.next().await.unwrap().unwrap(), "d");
    assert!(body.here().unwrap().is_none(), "the end came with it");
    assert!(body.into_connection().is_some());
    server.await.unwrap();
}
