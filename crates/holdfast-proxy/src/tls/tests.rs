//! Handshakes over an in-memory pipe, with certificates made here.

use std::path::Path;

use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::*;

/// Folder of one test, removed when it ends.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("holdfast-tls-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn certificate(&self) -> PathBuf {
        self.0.join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.0.join("key.pem")
    }

    /// Writes a fresh pair and gives the certificate.
    fn write_pair(&self) -> CertificateDer<'static> {
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        write_new(&self.certificate(), &pair.cert.pem());
        write_new(&self.key(), &pair.signing_key.serialize_pem());
        pair.cert.der().clone()
    }

    fn load(&self) -> Result<Arc<CertReloader>, TlsError> {
        CertReloader::from_files(&self.certificate(), &self.key())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Writes `text` with a time stamp that no earlier write of this test had, whatever the clock's grain.
fn write_new(path: &Path, text: &str) {
    use std::sync::atomic::{AtomicU64, Ordering};
    static WRITES: AtomicU64 = AtomicU64::new(1);
    std::fs::write(path, text).unwrap();
    let at = SystemTime::UNIX_EPOCH
        + Duration::from_secs(1_700_000_000 + WRITES.fetch_add(1, Ordering::Relaxed));
    std::fs::File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
}

/// The certificate and protocol that a new connection gets.
async fn handshake(
    reloader: &CertReloader,
    trust: &CertificateDer<'static>,
    alpn: &[&[u8]],
) -> io::Result<(CertificateDer<'static>, Option<Vec<u8>>)> {
    let mut roots = RootCertStore::empty();
    roots.add(trust.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    let (client_end, server_end) = tokio::io::duplex(16 * 1024);
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").unwrap();
    let acceptor = reloader.acceptor();
    let (client, server) =
        tokio::join!(connector.connect(name, client_end), acceptor.accept(server_end));
    let client = client?;
    server?;
    let (_, session) = client.get_ref();
    Ok((
        session.peer_certificates().unwrap()[0].clone().into_owned(),
        session.alpn_protocol().map(<[u8]>::to_vec),
    ))
}

#[tokio::test]
async fn http2_is_offered_and_http1_still_spoken() {
    let files = Files::new("alpn");
    let certificate = files.write_pair();
    let reloader = files.load().unwrap();
    let (seen, alpn) = handshake(&reloader, &certificate, &[b"http/1.1", b"h2"]).await.unwrap();
    assert_eq!(seen, certificate);
    assert_eq!(alpn.as_deref(), Some(&b"h2"[..]));
    let (_, alpn) = handshake(&reloader, &certificate, &[b"http/1.1"]).await.unwrap();
    assert_eq!(alpn.as_deref(), Some(&b"http/1.1"[..]));
    let (_, alpn) = handshake(&reloader, &certificate, &[]).await.unwrap();
    assert_eq!(alpn, None);
}

#[tokio::test]
async fn a_replaced_pair_serves_the_next_handshake() {
    let files = Files::new("replace");
    let old = files.write_pair();
    let reloader = files.load().unwrap();
    assert!(!reloader.reload().unwrap(), "nothing has changed");
    let new = files.write_pair();
    assert!(reloader.reload().unwrap());
    assert_eq!(handshake(&reloader, &new, &[]).await.unwrap().0, new);
    handshake(&reloader, &old, &[]).await.expect_err("the old certificate is gone");
}

#[tokio::test]
async fn a_bad_replacement_keeps_the_old_pair_until_a_good_one_comes() {
    let files = Files::new("bad");
    let old = files.write_pair();
    let reloader = files.load().unwrap();

    write_new(&files.certificate(), "not a certificate");
    assert!(matches!(reloader.reload(), Err(TlsError::Pem { what: "certificate", .. })));
    assert_eq!(handshake(&reloader, &old, &[]).await.unwrap().0, old);

    std::fs::remove_file(files.key()).unwrap();
    assert!(matches!(reloader.reload(), Err(TlsError::Read { what: "key", .. })));
    assert_eq!(handshake(&reloader, &old, &[]).await.unwrap().0, old);

    let new = files.write_pair();
    assert!(reloader.reload().unwrap());
    assert_eq!(handshake(&reloader, &new, &[]).await.unwrap().0, new);
}

#[test]
fn a_certificate_with_another_key_is_refused() {
    let files = Files::new("pair");
    files.write_pair();
    let certificate = std::fs::read_to_string(files.certificate()).unwrap();
    files.write_pair();
    write_new(&files.certificate(), &certificate);
    let error = files.load().expect_err("the key belongs to another certificate");
    assert!(matches!(error, TlsError::Mismatch { .. }), "{error:?}");
}

#[test]
fn errors_name_the_file() {
    let files = Files::new("missing");
    let error = files.load().expect_err("there are no files");
    assert!(error.to_string().contains(&*files.certificate().to_string_lossy()), "{error}");
    files.write_pair();
    write_new(&files.key(), "-----BEGIN NONSENSE-----\n-----END NONSENSE-----\n");
    let error = files.load().expect_err("the key file holds no key");
    assert!(matches!(error, TlsError::Pem { what: "key", .. }), "{error:?}");
    assert!(error.to_string().contains("key.pem"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn watching_swaps_the_pair_by_itself() {
    let files = Files::new("watch");
    files.write_pair();
    let reloader = files.load().unwrap();
    let watcher = tokio::spawn(Arc::clone(&reloader).watch());
    let new = files.write_pair();
    // Paused time: this passes at once, after the watcher's own ten seconds.
    tokio::time::sleep(RELOAD_INTERVAL + Duration::from_secs(1)).await;
    watcher.abort();
    assert_eq!(handshake(&reloader, &new, &[]).await.unwrap().0, new);
}

#[test]
fn the_client_side_speaks_http1_only() {
    assert_eq!(client_config(&Expiries::default()).alpn_protocols, vec![b"http/1.1".to_vec()]);
}
