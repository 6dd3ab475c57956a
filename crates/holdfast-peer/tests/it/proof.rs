//! Who gets in: only who holds the secret, on the channel on which it is proven.

use std::sync::Arc;

use holdfast_peer::{Lane, PeerError, Peers, Secret};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio_rustls::TlsAcceptor;

use crate::port::connector;
use crate::support::{LONG, ME, NODE, Node, echo, patient, patient_limits, peers, secret, until};

fn rotated(current: &str, previous: &str) -> Secret {
    Secret::new(&current.into(), Some(&previous.into()))
}

/// The TLS side of a listener that is not ours.
fn impostor() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["holdfast".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
        .unwrap();
    config.alpn_protocols = vec![b"holdfast-peer/1".to_vec()];
    Arc::new(config).into()
}

#[tokio::test]
async fn another_secret_gets_nowhere() {
    let node = Node::start(NODE, secret("theirs"), patient_limits()).await;
    let peers = peers(patient(), node.address);
    let error = echo(&peers, Lane::Control).await.unwrap_err();
    assert!(matches!(error, PeerError::Unproven(_)), "{error}");
    assert!(error.certainly_not_sent());
    until("it is counted", || node.counters.read().unproven == 1).await;
    assert_eq!(node.counters.read().proven, 0);
}

#[tokio::test]
async fn the_secret_can_be_rotated_node_by_node() {
    let (old, both, new) = (secret("old"), rotated("new", "old"), secret("new"));
    for (dialler, acceptor, works) in [
        (&old, &both, true),
        (&both, &old, true),
        (&both, &both, true),
        (&both, &new, true),
        (&new, &both, true),
        (&old, &new, false),
        (&new, &old, false),
    ] {
        let node = Node::start(NODE, acceptor.clone(), patient_limits()).await;
        let runtime = Handle::current();
        let peers = Peers::new(dialler.clone(), ME, "x".into(), patient(), runtime).unwrap();
        peers.set_address(NODE, node.address.to_string());
        assert_eq!(echo(&peers, Lane::Control).await.is_ok(), works);
    }
}

/// Passes on until the end, and counts.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> usize {
    let (mut buffer, mut passed) = ([0; 4_096], 0);
    // An end without a TLS alert is an end as well.
    while let Ok(read) = from.read(&mut buffer).await
        && read > 0
        && to.write_all(&buffer[..read]).await.is_ok()
        && to.flush().await.is_ok()
    {
        passed += read;
    }
    let _ = to.shutdown().await;
    passed
}

/// Two TLS sessions with the same bytes passed from one to the other, in both directions.
#[tokio::test]
async fn who_stands_in_between_can_pass_on_no_proof() {
    let node = Node::usual().await;
    let between = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = between.local_addr().unwrap();
    let target = node.address;
    let relayed = tokio::spawn(async move {
        let (near, _) = between.accept().await.unwrap();
        let near = impostor().accept(near).await.unwrap();
        let far = TcpStream::connect(target).await.unwrap();
        let name = ServerName::try_from("holdfast").unwrap();
        let far = connector(b"holdfast-peer/1").connect(name, far).await.unwrap();
        let ((near_in, near_out), (far_in, far_out)) = (split(near), split(far));
        tokio::join!(pass(near_in, far_out), pass(far_in, near_out))
    });
    let peers = peers(patient(), address);
    let error = echo(&peers, Lane::Control).await.unwrap_err();
    assert!(error.certainly_not_sent(), "{error}");
    until("it is counted", || node.counters.read().unproven == 1).await;
    assert_eq!(node.counters.read().proven, 0);
    drop(peers);
    let (there, back) = tokio::time::timeout(LONG, relayed).await.unwrap().unwrap();
    assert!(there > 0, "nothing was passed on, so nothing was refused");
    assert_eq!(back, 0, "whoever fails the proof is told nothing");
}

/// The dialler's own message sent back: as it is, and made to look like an acceptor's.
#[tokio::test]
async fn a_proof_cannot_be_sent_back() {
    for role in [1, 2] {
        let mirror = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peers = peers(patient(), mirror.local_addr().unwrap());
        tokio::spawn(async move {
            let (stream, _) = mirror.accept().await.unwrap();
            let mut stream = impostor().accept(stream).await.unwrap();
            let mut message = vec![0; 2];
            stream.read_exact(&mut message).await.unwrap();
            let length = u16::from_be_bytes([message[0], message[1]]);
            message.resize(2 + usize::from(length), 0);
            stream.read_exact(&mut message[2..]).await.unwrap();
            message[2] = role;
            // Said to be from the node that is asked for, too.
            message[4..12].copy_from_slice(&NODE.to_be_bytes());
            stream.write_all(&message).await.unwrap();
            stream.flush().await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert!(rest.is_empty(), "HTTP to a mirror");
        });
        let error = echo(&peers, Lane::Control).await.unwrap_err();
        assert!(matches!(error, PeerError::Unproven(_)), "{error}");
    }
}
