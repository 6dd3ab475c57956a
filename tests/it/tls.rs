//! TLS on the client port: a certificate of one's own, HTTP/2 by ALPN, and a new one without a restart.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::client::Client;
use crate::harness::gateway::{Gateway, Setup};
use crate::harness::message;
use crate::harness::process::binary;
use crate::harness::recorder::Recorder;
use crate::harness::wire::Conn;
use crate::harness::{TempDir, within};

/// Makes a certificate for `localhost` and writes it down; gives back what a client has to trust.
fn certificate(folder: &TempDir) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).expect("write a key");
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).expect("write a certificate");
    made.cert.der().clone()
}

async fn start(folder: &TempDir) -> (Recorder, Gateway) {
    let recorder = Recorder::start().await;
    let gateway = Setup::http(&recorder.url())
        .tls(&folder.join("cert.pem"), &folder.join("key.pem"))
        .start()
        .await;
    (recorder, gateway)
}

async fn connect(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
    protocols: &[&str],
) -> Result<TlsStream<TcpStream>, std::io::Error> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    within("the handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

#[tokio::test]
async fn calls_are_served_over_tls() {
    let folder = TempDir::new();
    let trusted = certificate(&folder);
    let (recorder, gateway) = start(&folder).await;
    let stream = connect(gateway.address, &trusted, &["http/1.1"]).await.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let body = message::modern_call(1, "tool");
    let request = Client::modern(&gateway).request("POST", &[], Some(&body));
    let answer = Conn::over(stream).exchange(request).await;
    assert_eq!(answer.json()["id"], 1);
    assert_eq!(recorder.calls("tool").len(), 1);
}

#[tokio::test]
async fn plain_text_is_not_served_there() {
    let folder = TempDir::new();
    certificate(&folder);
    let (recorder, gateway) = start(&folder).await;
    let body = message::modern_call(1, "tool");
    let mut conn = Conn::open(gateway.address).await;
    conn.try_send(Client::modern(&gateway).request("POST", &[], Some(&body))).await;
    let said = conn.rest().await;
    assert!(!said.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&said));
    assert!(recorder.seen().is_empty());
}

#[tokio::test]
async fn http_2_by_alpn() {
    let folder = TempDir::new();
    let trusted = certificate(&folder);
    let (recorder, gateway) = start(&folder).await;
    let stream =
        connect(gateway.address, &trusted, &["h2", "http/1.1"]).await.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    // Several at once on the one connection.
    let calls = (0..5).map(|id| {
        let body = message::modern_call(id, "tool");
        let request =
            hyper::Request::post(format!("https://localhost:{}/mcp", gateway.address.port()))
                .header("content-type", "application/json")
                .header("accept", "application/json, text/event-stream")
                .header("mcp-protocol-version", message::MODERN)
                .header("mcp-method", "tools/call")
                .header("mcp-name", "tool")
                .body(Full::new(bytes::Bytes::from(body)))
                .expect("a request");
        sender.send_request(request)
    });
    for (id, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
        let response = within("an answer", call).await.expect("an answer");
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        let answer: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(answer["id"], id);
    }
    assert_eq!(recorder.calls("tool").len(), 5);
    for seen in recorder.calls("tool") {
        assert_eq!(seen.header("host"), Some(recorder.address.to_string().as_str()));
    }
}

/// An end without TLS's own word may be anybody's (RFC 8446, section 6.1).
#[tokio::test]
async fn a_connection_that_ends_says_so() {
    let folder = TempDir::new();
    let trusted = certificate(&folder);
    let recorder = Recorder::start().await;
    let gateway = Setup::http(&recorder.url())
        .tls(&folder.join("cert.pem"), &folder.join("key.pem"))
        .listen("header_timeout: 1s")
        .listen("idle_timeout: 1s")
        .start()
        .await;
    let mut stream = connect(gateway.address, &trusted, &["http/1.1"]).await.expect("a handshake");
    let body = message::modern_call(1, "tool");
    let request = Client::modern(&gateway).request("POST", &[], Some(&body));
    stream.write_all(request.as_bytes()).await.expect("the request is sent");
    let mut said = Vec::new();
    let ended = within("the end of an idle connection", stream.read_to_end(&mut said)).await;
    assert!(ended.is_ok(), "{ended:?}");
    assert!(said.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&said));
}

/// Ten seconds pass at most until a new file is seen; connections of before go on.
#[tokio::test]
async fn a_new_certificate_is_taken_without_a_restart() {
    let folder = TempDir::new();
    let old = certificate(&folder);
    let (_recorder, gateway) = start(&folder).await;
    let body = message::modern_call(1, "tool");
    let request = Client::modern(&gateway).request("POST", &[], Some(&body));
    let mut before =
        Conn::over(connect(gateway.address, &old, &["http/1.1"]).await.expect("a handshake"));
    assert_eq!(before.exchange(&request).await.status, 200);
    let new = certificate(&folder);
    let after = within("the new certificate", async {
        loop {
            if let Ok(stream) = connect(gateway.address, &new, &["http/1.1"]).await {
                return stream;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    assert_eq!(Conn::over(after).exchange(&request).await.status, 200);
    assert!(connect(gateway.address, &old, &[]).await.is_err(), "the old one is still shown");
    assert_eq!(before.exchange(&request).await.status, 200, "an old connection goes on");
}

/// Before any port opens, by the command that looks only and by the one that would start.
#[tokio::test]
async fn a_key_of_another_certificate_is_named() {
    let (folder, other) = (TempDir::new(), TempDir::new());
    certificate(&folder);
    certificate(&other);
    let (cert, key) = (folder.join("cert.pem"), other.join("key.pem"));
    for section in ["listen", "admin"] {
        let tls = format!("tls: {{ certificate: {}, key: {} }}", cert.display(), key.display());
        let file = folder.join("holdfast.yaml");
        let text = format!(
            "{section}: {{ address: \"127.0.0.1:0\", {tls} }}\n\
             servers: {{ docs: {{ url: \"http://127.0.0.1:9/mcp\" }} }}\n"
        );
        std::fs::write(&file, text).expect("write a configuration");
        for command in ["check-config", "serve"] {
            let mut asked = tokio::process::Command::new(binary());
            let asked = asked.arg(command).arg("--config").arg(&file).kill_on_drop(true).output();
            let output = within("its end", asked).await.expect("the binary runs");
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert_eq!(output.status.code(), Some(2), "{command}: {said}");
            let names = [&format!("{section}.tls: the TLS key {}", key.display())[..]];
            let names = names.into_iter().chain(["cert.pem", "cure:    name the two", "1 problem"]);
            names.for_each(|name| assert!(said.contains(name), "no {name} in {said}"));
        }
    }
}
