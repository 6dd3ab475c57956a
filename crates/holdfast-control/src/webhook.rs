//! One POST to an operator's webhook: signed, on a connection of its own, within a deadline.
//!
//! The signature is `HMAC-SHA256(secret, timestamp "." body)` in hexadecimal digits. The time is in it,
//! so that a receiver can refuse what is too old to be new.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hmac::{Hmac, Mac as _};
use holdfast_config::{ExposeSecret, HttpUrl, SecretString};
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Names one announcement: a receiver that gets it twice can tell.
pub(crate) const ID: &str = "x-holdfast-event";
/// Seconds since the Unix epoch.
pub(crate) const TIMESTAMP: &str = "x-holdfast-timestamp";
/// `sha256=` and the signature.
pub(crate) const SIGNATURE: &str = "x-holdfast-signature";

/// What is posted.
pub(crate) struct Post<'a> {
    pub(crate) url: &'a HttpUrl,
    pub(crate) secret: Option<&'a SecretString>,
    pub(crate) id: &'a str,
    /// Seconds since the Unix epoch.
    pub(crate) timestamp: u64,
    pub(crate) body: Bytes,
    /// For the whole of it, connection included.
    pub(crate) within: Duration,
}

/// Why the receiver may not have it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostError {
    #[error("no connection: {0}")]
    Connect(#[from] io::Error),
    #[error("no answer: {0}")]
    Http(#[from] hyper::Error),
    #[error("cannot be sent: {0}")]
    Request(#[from] http::Error),
    #[error("answered {0}")]
    Refused(StatusCode),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

// === impl Post ===

impl Post<'_> {
    /// Sends it, once. Any 2xx is a success; a redirect is not followed.
    ///
    /// # Errors
    /// See [`PostError`].
    pub(crate) async fn send(self, tls: &Arc<rustls::ClientConfig>) -> Result<(), PostError> {
        let within = self.within;
        let status = tokio::time::timeout(within, self.exchange(tls)).await;
        let status = status.map_err(|_| PostError::TimedOut(within))??;
        if status.is_success() { Ok(()) } else { Err(PostError::Refused(status)) }
    }

    async fn exchange(self, tls: &Arc<rustls::ClientConfig>) -> Result<StatusCode, PostError> {
        let stream = TcpStream::connect((self.url.host.as_str(), self.url.port)).await?;
        if !self.url.tls {
            return self.over(stream).await;
        }
        let name = ServerName::try_from(self.url.host.clone()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
        self.over(stream).await
    }

    async fn over(
        self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send,
    ) -> Result<StatusCode, PostError> {
        let request = self.request()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        let mut connection = std::pin::pin!(connection);
        let mut answer = std::pin::pin!(sender.send_request(request));
        tokio::select! {
            answer = answer.as_mut() => Ok(answer?.status()),
            ended = connection.as_mut() => {
                ended?;
                Ok(answer.await?.status())
            }
        }
    }

    fn request(self) -> Result<Request<Full<Bytes>>, http::Error> {
        let timestamp = self.timestamp.to_string();
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.url.path.as_str())
            .header(HOST, self.url.authority())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("holdfast/", env!("CARGO_PKG_VERSION")))
            .header(ID, self.id)
            .header(TIMESTAMP, &timestamp);
        if let Some(secret) = self.secret {
            let signature = signature(secret.expose_secret(), &timestamp, &self.body);
            let mut value = HeaderValue::try_from(format!("sha256={signature}"))?;
            value.set_sensitive(true);
            request = request.header(SIGNATURE, value);
        }
        request.body(Full::new(self.body))
    }
}

/// See the module's head.
fn signature(secret: &str, timestamp: &str, body: &[u8]) -> String {
    // A key of any length will do.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
        return String::new();
    };
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    mac.finalize().into_bytes().iter().fold(String::with_capacity(64), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Posts to a receiver that answers with this status line; what it got, in lower case.
    async fn post(status: &str, secret: Option<&str>) -> (Result<(), PostError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: HttpUrl =
            format!("http://{}/hook?a=b", listener.local_addr().unwrap()).parse().unwrap();
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        let receiver = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut got = Vec::new();
            while !got.ends_with(b"{\"a\":1}") {
                assert_ne!(stream.read_buf(&mut got).await.unwrap(), 0, "the request is whole");
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(got).unwrap().to_ascii_lowercase()
        });
        let secret = secret.map(SecretString::from);
        let body = Bytes::from_static(b"{\"a\":1}");
        let (id, within) = ("17", Duration::from_secs(10));
        let post =
            Post { url: &url, secret: secret.as_ref(), id, timestamp: 1_700_000_000, body, within };
        let none = rustls::RootCertStore::empty();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(none)
            .with_no_client_auth();
        (post.send(&Arc::new(tls)).await, receiver.await.unwrap())
    }

    #[tokio::test]
    async fn what_is_posted_is_signed_with_its_time() {
        let (sent, got) = post("204 No Content", Some("secret")).await;
        sent.unwrap();
        assert!(got.starts_with("post /hook?a=b http/1.1\r\n"), "{got}");
        assert!(got.contains("\r\nx-holdfast-event: 17\r\n"), "{got}");
        assert!(got.contains("\r\nx-holdfast-timestamp: 1700000000\r\n"), "{got}");
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac secret
        let expected = "49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686";
        assert!(got.contains(&format!("\r\nx-holdfast-signature: sha256={expected}\r\n")), "{got}");
        let (sent, got) = post("200 OK", None).await;
        sent.unwrap();
        assert!(!got.contains("x-holdfast-signature"), "{got}");
    }

    #[tokio::test]
    async fn only_a_2xx_means_that_it_was_taken() {
        for status in ["500 X", "302 X", "404 X"] {
            let (sent, _) = post(status, None).await;
            assert!(matches!(sent, Err(PostError::Refused(_))), "{status}: {sent:?}");
        }
    }
}
