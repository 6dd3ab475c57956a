//! What anybody can do to the cluster port, and what it costs.

use std::sync::Arc;
use std::time::Duration;

use holdfast_peer::{Counts, Lane, Limits};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{
    LONG, NODE, Node, echo, patient, patient_limits, peers, secret, until, until_echo,
};

/// Takes any certificate and looks at nothing.
#[derive(Debug)]
struct Anything;

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A stranger's TLS; `protocol` empty for none.
pub(crate) fn connector(protocol: &[u8]) -> TlsConnector {
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything))
        .with_no_client_auth();
    if !protocol.is_empty() {
        config.alpn_protocols = vec![protocol.to_vec()];
    }
    Arc::new(config).into()
}

async fn stranger(node: &Node, protocol: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(node.address).await?;
    connector(protocol).connect(ServerName::try_from("holdfast").unwrap(), stream).await
}

/// A message of the right form, from node 2 to node 1, with a proof of nothing.
fn forged() -> Vec<u8> {
    let mut message = vec![1, 0];
    message.extend(2_u64.to_be_bytes());
    message.extend(1_u64.to_be_bytes());
    message.extend([1, b'x', 1]);
    message.extend([0x5a; 32]);
    let mut all = u16::try_from(message.len()).unwrap().to_be_bytes().to_vec();
    all.extend(message);
    all
}

/// Everything that was said on the session until it ended, however it ended.
async fn heard(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let mut heard = Vec::new();
    let read = stream.read_to_end(&mut heard);
    let _ = tokio::time::timeout(LONG, read).await.expect("the session is left open");
    heard
}

#[tokio::test]
async fn without_the_secret_not_one_byte_is_said() {
    let node = Node::usual().await;
    let http = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let (with_http, zeros) = ([forged(), http.clone()].concat(), vec![0; 4_096]);
    let messages = [forged(), with_http, http, zeros, vec![0, 0], vec![0xff; 100]];
    for message in &messages {
        let mut stream = stranger(&node, b"holdfast-peer/1").await.unwrap();
        stream.write_all(message).await.unwrap();
        let _ = stream.flush().await;
        assert_eq!(heard(&mut stream).await, b"");
    }
    until("all are counted", || {
        let counts = node.counters.read();
        counts.unproven == 2 && counts.garbage == 4
    })
    .await;
    assert_eq!(node.counters.read().proven, 0);
}

#[tokio::test]
async fn another_protocol_is_no_peer() {
    let node = Node::usual().await;
    assert!(stranger(&node, b"h2").await.is_err());
    // Without any protocol TLS lets it in, and the proof does not.
    let mut stream = stranger(&node, b"").await.unwrap();
    let _ = stream.write_all(&forged()).await;
    assert_eq!(heard(&mut stream).await, b"");
    until("both are counted", || node.counters.read().garbage == 2).await;
}

#[tokio::test]
async fn garbage_is_counted_and_disturbs_nobody() {
    let node = Node::usual().await;
    let peers = peers(patient(), node.address);
    let mut chance = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..100 {
        let mut garbage: Vec<u8> = match round % 4 {
            0 => b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
            1 => vec![0x16, 3, 1, 0xff, 0xff],
            2 => forged(),
            _ => vec![0; 64],
        };
        if round % 4 == 3 {
            garbage.fill_with(|| {
                chance ^= chance << 13;
                chance ^= chance >> 7;
                chance ^= chance << 17;
                chance.to_le_bytes()[0]
            });
        }
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        let _ = stream.write_all(&garbage).await;
        drop(stream);
    }
    echo(&peers, Lane::Control).await.unwrap();
    until("all are counted", || {
        let Counts { garbage, accepted, .. } = node.counters.read();
        garbage == 100 && accepted == 101
    })
    .await;
}

#[tokio::test]
async fn who_holds_all_places_locks_nobody_out() {
    let limits = Limits { half_open: 8, ..patient_limits() };
    let node = Node::start(NODE, secret("shared"), limits).await;
    let peers = peers(patient(), node.address);
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(TcpStream::connect(node.address).await.unwrap());
    }
    echo(&peers, Lane::Control).await.unwrap();
    until("the oldest had to go", || node.counters.read().evicted >= 32).await;
    // The one who holds notices.
    let mut first = held.swap_remove(0);
    let ended = tokio::time::timeout(LONG, first.read(&mut [0; 1])).await.expect("still held");
    assert!(matches!(ended, Ok(0) | Err(_)));
}

#[tokio::test]
async fn slowness_ends_by_the_deadline() {
    let limits = Limits { handshake: Duration::from_millis(200), ..patient_limits() };
    let node = Node::start(NODE, secret("shared"), limits).await;
    let mut silent = TcpStream::connect(node.address).await.unwrap();
    let mut dripping = TcpStream::connect(node.address).await.unwrap();
    let drip = tokio::spawn(async move {
        // The beginning of a TLS record, one byte at a time.
        for byte in [0x16, 3, 1, 2, 0].into_iter().chain(std::iter::repeat(1)) {
            if dripping.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let ended = tokio::time::timeout(LONG, silent.read(&mut [0; 1])).await.expect("left open");
    assert!(matches!(ended, Ok(0) | Err(_)));
    tokio::time::timeout(LONG, drip).await.expect("left open").unwrap();
    until("both are counted", || node.counters.read().timed_out == 2).await;
    until_echo(&peers(patient(), node.address)).await;
}
