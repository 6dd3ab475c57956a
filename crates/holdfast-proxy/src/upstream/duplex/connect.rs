//! A TCP connection to a configured address, with TLS where the address asks for it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use holdfast_config::HttpUrl;
use holdfast_net::watch_over;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::error::OpenError;

/// A connection, plain or not.
pub(super) type Io = Box<dyn Stream>;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// How long the server's machine may leave data and probes unacknowledged. These connections live long and
/// may be silent, so the kernel asks whether it is still there.
const DEAF: Duration = Duration::from_secs(60);

/// Connects. Has no deadline of its own: the caller's covers more than this.
///
/// # Cancel safety
/// Dropping the future drops the connection.
pub(super) async fn connect(
    url: &HttpUrl,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Io, OpenError> {
    let failed = |source| OpenError::Connect { address: url.origin(), source };
    let tcp = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(failed)?;
    watch_over(&tcp, DEAF);
    if !url.tls {
        return Ok(Box::new(tcp));
    }

    let failed = |source| OpenError::Tls { address: url.origin(), source };
    let config = tls.ok_or_else(|| failed(io::Error::other("no TLS configuration")))?;
    let mut config = ClientConfig::clone(config);
    // Both protocols spoken here are HTTP/1.1 at first.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name =
        ServerName::try_from(url.host.clone()).map_err(|error| failed(io::Error::other(error)))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(failed)?;
    Ok(Box::new(stream))
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{RootCertStore, ServerConfig};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::upstream::duplex::testing::soon;

    /// A TLS server that says which protocol was agreed on; its address and certificate.
    async fn server() -> (HttpUrl, CertificateDer<'static>) {
        let pair = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
        let certificate = pair.cert.der().clone();
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let agreed = stream.get_ref().1.alpn_protocol().unwrap_or_default().to_vec();
                let _ = stream.write_all(&agreed).await;
                let _ = stream.shutdown().await;
            }
        });
        (format!("https://127.0.0.1:{port}/").parse().unwrap(), certificate)
    }

    fn client(trusted: &[CertificateDer<'static>]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted.iter().cloned());
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    #[tokio::test]
    async fn a_trusted_server_is_spoken_to_over_http_1() {
        let (url, certificate) = server().await;
        let mut stream = soon(connect(&url, Some(&client(&[certificate])))).await.unwrap();
        let mut agreed = String::new();
        soon(stream.read_to_string(&mut agreed)).await.unwrap();
        assert_eq!(agreed, "http/1.1");
    }

    #[tokio::test]
    async fn another_server_is_not() {
        let (url, _) = server().await;
        let (_, other) = server().await;
        for trust in [Some(client(&[other])), Some(client(&[])), None] {
            let refused = soon(connect(&url, trust.as_ref())).await;
            assert!(matches!(refused, Err(OpenError::Tls { .. })));
        }
    }
}
