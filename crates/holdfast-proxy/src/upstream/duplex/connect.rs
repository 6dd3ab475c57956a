//! A TCP connection to a configured address, with TLS where the address asks for it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use holdfast_config::HttpUrl;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::error::OpenError;

/// A connection, plain or not.
pub(super) type Io = Box<dyn Stream>;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// These connections live long and may be silent, so the kernel asks whether the other machine is
/// still there: after this long, then every third of it, three times.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Connects. Has no deadline of its own: the caller's covers more than this.
///
/// # Cancel safety
/// Dropping the future drops the connection.
pub(super) async fn connect(
    url: &HttpUrl,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Io, OpenError> {
    let failed = |source| OpenError::Connect { address: url.to_string(), source };
    let tcp = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3).with_retries(3);
    let socket = SockRef::from(&tcp);
    socket.set_tcp_keepalive(&keepalive).map_err(failed)?;
    // What was sent and is not acknowledged ends the connection as well.
    socket.set_tcp_user_timeout(Some(KEEPALIVE * 2)).map_err(failed)?;
    if !url.tls {
        return Ok(Box::new(tcp));
    }

    let failed = |source| OpenError::Tls { address: url.to_string(), source };
    let config = tls.ok_or_else(|| failed(io::Error::other("no TLS configuration")))?;
    let mut config = ClientConfig::clone(config);
    // Both protocols spoken here are HTTP/1.1 at first.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name =
        ServerName::try_from(url.host.clone()).map_err(|error| failed(io::Error::other(error)))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(failed)?;
    Ok(Box::new(stream))
}
