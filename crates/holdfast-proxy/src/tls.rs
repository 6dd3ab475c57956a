//! TLS on the listeners and towards `https` servers, with one provider (aws-lc-rs) named explicitly:
//! a process-wide default would be a panic at first use as soon as a second provider is in the graph.
//!
//! # Renewal
//! A certificate is replaced on disk while the node runs. [`CertReloader::watch`] compares the files'
//! stamps every ten seconds and swaps what new handshakes get. Certificate and key are two files that
//! cannot be replaced at one instant, so a pair that does not load is logged, the old one is kept, and
//! the next round tries again.

pub mod expiry;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use self::expiry::{Expiries, Noting};

/// How often the files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// A certificate and key on disk, and what was last loaded from them.
#[derive(Debug)]
pub struct CertReloader {
    certificate: PathBuf,
    key: PathBuf,
    current: ArcSwap<ServerConfig>,
    /// The stamps of what is in `current`.
    loaded: ArcSwap<[Stamp; 2]>,
}

/// Why a certificate or key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file is not there or not readable.
    #[error("cannot read the TLS {what} {}", path.display())]
    Read {
        /// `certificate` or `key`.
        what: &'static str,
        /// The file as configured.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not PEM, or holds nothing of the kind.
    #[error("the TLS {what} {} holds no usable PEM section", path.display())]
    Pem {
        /// `certificate` or `key`.
        what: &'static str,
        /// The file as configured.
        path: PathBuf,
        /// What the parser found.
        source: pem::Error,
    },
    /// The key is another certificate's.
    #[error(
        "the TLS key {} is not that of the certificate {}: name the two that belong together",
        key.display(), certificate.display()
    )]
    Mismatch {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// Certificate or key is of a kind that is not supported.
    #[error("the TLS certificate {} and key {} cannot be used together", certificate.display(), key.display())]
    Pair {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
        /// The reason.
        source: rustls::Error,
    },
}

/// What tells that a file was replaced. The length helps where the clock is coarse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    modified: SystemTime,
    len: u64,
}

/// TLS towards `https` servers: the machine's trust store, HTTP/1.1.
///
/// Reads the trust store (tens of milliseconds): once per process. `SSL_CERT_FILE` and `SSL_CERT_DIR`
/// replace it. Certificates in it that cannot be read are logged and left out; without any, every
/// connection to an `https` server fails with an unknown issuer. When the certificates end that servers
/// show is taken down in `expiries`.
#[must_use]
pub fn client_config(expiries: &Expiries) -> Arc<ClientConfig> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "part of the machine's trust store cannot be read");
    }
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        tracing::warn!("no trusted certificate found; https servers cannot be verified");
    } else {
        tracing::debug!(added, ignored, "trust store loaded");
    }
    let roots = Arc::new(roots);
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap_or_else(|error| unreachable!("aws-lc-rs has TLS 1.2 and 1.3: {error}"));
    // Without any root there is no verifier to build, and no server that could be verified.
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), provider());
    let mut config = match verifier.build() {
        Ok(inner) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Noting {
                inner,
                expiries: expiries.clone(),
            }))
            .with_no_client_auth(),
        Err(_) => builder.with_root_certificates(roots).with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Whether a certificate and a key can be used, and together.
///
/// # Errors
/// See [`TlsError`].
pub fn check_pair(certificate: &Path, key: &Path) -> Result<(), TlsError> {
    server_config(certificate, key).map(drop)
}

// === impl CertReloader ===

impl CertReloader {
    /// Reads the files once. What cannot be loaded at the start is an error; later it is a log line.
    pub fn load(files: &holdfast_config::Tls) -> Result<Arc<Self>, TlsError> {
        Self::from_files(&files.certificate, &files.key)
    }

    /// As [`Self::load`], from two paths.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let stamps = stamps(certificate, key)?;
        let config = server_config(certificate, key)?;
        Ok(Arc::new(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            current: ArcSwap::from_pointee(config),
            loaded: ArcSwap::from_pointee(stamps),
        }))
    }

    /// An acceptor with the certificate of now. Cheap; take a new one per connection.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// Looks at the files every ten seconds, for ever, and swaps what new handshakes get.
    ///
    /// # Cancel safety
    /// Dropping it stops the watching and changes nothing else.
    pub async fn watch(self: Arc<Self>) {
        let mut last_problem = String::new();
        loop {
            tokio::time::sleep(RELOAD_INTERVAL).await;
            match self.reload() {
                Ok(false) => last_problem.clear(),
                Ok(true) => {
                    last_problem.clear();
                    tracing::info!(certificate = %self.certificate.display(), "certificate reloaded");
                }
                Err(error) => {
                    let problem = with_causes(&error);
                    // A file that stays bad is said once, not every ten seconds.
                    if problem != last_problem {
                        tracing::error!(error = %problem, "new certificate refused, the old one stays");
                        last_problem = problem;
                    }
                }
            }
        }
    }

    /// Loads the files if they have changed; says whether they had.
    pub fn reload(&self) -> Result<bool, TlsError> {
        // Stamps first: a file replaced between the two reads is then seen as changed next time.
        let stamps = stamps(&self.certificate, &self.key)?;
        if stamps == **self.loaded.load() {
            return Ok(false);
        }
        let config = server_config(&self.certificate, &self.key)?;
        self.current.store(Arc::new(config));
        self.loaded.store(Arc::new(stamps));
        Ok(true)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn server_config(certificate: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let bytes = read("certificate", certificate)?;
    let chain = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) })
        .map_err(|source| TlsError::Pem {
            what: "certificate",
            path: certificate.to_owned(),
            source,
        })?;
    let key_der = PrivateKeyDer::from_pem_slice(&read("key", key)?)
        .map_err(|source| TlsError::Pem { what: "key", path: key.to_owned(), source })?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key_der))
        .map_err(|source| {
            let (certificate, key) = (certificate.to_owned(), key.to_owned());
            match source {
                rustls::Error::InconsistentKeys(_) => TlsError::Mismatch { certificate, key },
                source => TlsError::Pair { certificate, key, source },
            }
        })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { what, path: path.to_owned(), source })
}

fn stamps(certificate: &Path, key: &Path) -> Result<[Stamp; 2], TlsError> {
    Ok([stamp("certificate", certificate)?, stamp("key", key)?])
}

fn stamp(what: &'static str, path: &Path) -> Result<Stamp, TlsError> {
    std::fs::metadata(path)
        .and_then(|meta| Ok(Stamp { modified: meta.modified()?, len: meta.len() }))
        .map_err(|source| TlsError::Read { what, path: path.to_owned(), source })
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests;
