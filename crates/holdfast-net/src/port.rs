//! Sockets: listening ones, and what each connection is set to.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// Connections that wait to be accepted, per worker.
const BACKLOG: i32 = 1024;

/// How long a client that is refused may take to read why.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Binds one listening socket per worker to the same address (`SO_REUSEPORT`); port 0 takes a free one.
///
/// # Errors
/// What the operating system says; a port in use by another program among it.
pub fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<std::net::TcpListener>> {
    if address.port() != 0 {
        // Bound once without SO_REUSEPORT: another program on the port is an error, and not half of
        // the clients.
        drop(std::net::TcpListener::bind(address)?);
    }
    let first = listen(address)?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    while listeners.len() < workers {
        listeners.push(listen(address)?);
    }
    Ok(listeners)
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Sets a connection up for small messages: nothing waits for the other side's acknowledgement, and a
/// machine that vanished without a word is noticed within about `deaf`.
pub fn watch_over(stream: &TcpStream, deaf: Duration) {
    // A socket that takes none of this is one that has just been closed: its reader will see it.
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let probes = TcpKeepalive::new().with_time(deaf / 2).with_interval(deaf / 4).with_retries(2);
    let _ = socket.set_tcp_keepalive(&probes);
    let _ = socket.set_tcp_user_timeout(Some(deaf));
}

/// Answers 503 with `reason`, and closes: there is no place for another connection.
pub async fn refuse_full(mut stream: TcpStream, reason: &str) {
    let response = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\
         retry-after: 1\r\nconnection: close\r\n\r\n{reason}\n",
        reason.len() + 1
    );
    let _ = tokio::time::timeout(LAST_WORD, stream.write_all(response.as_bytes())).await;
    let _ = stream.shutdown().await;
}
