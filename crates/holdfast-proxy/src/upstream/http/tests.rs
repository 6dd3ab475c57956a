//! Requests that meet the end of a connection that lay idle.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::tls::client_config;
use crate::tls::expiry::Expiries;

/// Reads a request without a body and answers it.
fn answer(stream: &mut TcpStream) {
    read(stream);
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
}

fn read(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend_from_slice(&byte);
    }
}

fn target(listener: &TcpListener, key: usize) -> HttpTarget {
    let address = listener.local_addr().unwrap();
    HttpTarget::new(format!("http://{address}/mcp").parse().unwrap(), key).unwrap()
}

async fn ask(target: &HttpTarget, look: Look) -> Result<Bytes, HttpError> {
    let headers = HeaderMap::new();
    let (method, session, body) = (Method::POST, None, Bytes::new());
    let outgoing = Outgoing { method, fields: Fields::Map(&headers), session, body };
    let gate = Gate { may_send: &|| Ok(()), look };
    let tls = client_config(&Expiries::default());
    let within = Duration::from_secs(30);
    match send(target, &outgoing, within, &tls, Some(gate)).await?.body.collect(100).await? {
        Collected::Whole { body, lease } => {
            lease.done();
            Ok(body)
        }
        Collected::Large { .. } => panic!("two bytes"),
    }
}

/// The runtime hears of nothing while its thread waits for the server's.
#[tokio::test]
async fn what_may_be_sent_again_is_where_the_runtime_has_not_heard_of_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = target(&listener, 101);
    let (close, told) = mpsc::channel::<()>();
    let (tell, closed) = mpsc::channel();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        answer(&mut stream);
        told.recv().unwrap();
        drop(stream);
        tell.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        answer(&mut stream);
        // Until the connection is looked at no more.
        let _ = stream.read(&mut [0]);
    });
    assert_eq!(ask(&target, Look::Runtime).await.unwrap(), "ok");
    close.send(()).unwrap();
    closed.recv().unwrap();
    assert_eq!(ask(&target, Look::Runtime).await.unwrap(), "ok");
    pool::take(target.key, Look::Kernel);
    server.join().unwrap();
}

#[tokio::test]
async fn an_end_that_comes_later_is_the_fate_of_the_request() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = target(&listener, 102);
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        answer(&mut stream);
        read(&mut stream);
        thread::sleep(UNHEARD * 2);
        drop(stream);
        listener.set_nonblocking(true).unwrap();
        listener.accept().is_ok()
    });
    assert_eq!(ask(&target, Look::Runtime).await.unwrap(), "ok");
    let error = ask(&target, Look::Runtime).await.unwrap_err();
    assert!(matches!(error, HttpError::Broken(WireError::Ended)), "{error:?}");
    assert!(!server.join().unwrap(), "it was sent again");
}
