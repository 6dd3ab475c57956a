//! TLS 1.3 between nodes, with certificates that say nothing.
//!
//! The certificate is made at the start and checked by nobody: TLS gives secrecy and a channel to
//! bind the proof to, and the proof gives authenticity. Sessions are not resumed, so every
//! connection has keying material of its own.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ConnectionCommon, DigitallySignedStruct, Error, PeerIncompatible, ServerConfig,
    SignatureScheme,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::SetupError;
use crate::secret::Role;

/// What both sides must name in TLS; its number is the version of everything above TLS.
pub(crate) const PROTOCOL: &[u8] = b"holdfast-peer/1";

/// The name in the certificate. It is not looked at.
const NAME: &str = "holdfast";

/// TLS for the dialling side.
pub(crate) fn connector() -> Result<(TlsConnector, ServerName<'static>), SetupError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    let name = ServerName::try_from(NAME).map_err(|error| Error::General(error.to_string()))?;
    Ok((Arc::new(config).into(), name))
}

/// TLS for the accepting side, with a new certificate.
pub(crate) fn acceptor() -> Result<TlsAcceptor, SetupError> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], PrivateKeyDer::Pkcs8(key))?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // A ticket would be bytes to somebody who has proven nothing.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config).into())
}

/// Keying material of this very session, for one side's proof. Fails where the other side has not
/// named our protocol.
pub(crate) fn channel<D>(tls: &ConnectionCommon<D>, role: Role) -> Result<[u8; 32], Error> {
    if tls.alpn_protocol() != Some(PROTOCOL) {
        return Err(Error::NoApplicationProtocol);
    }
    let label: &[u8] = match role {
        Role::Dialler => b"EXPORTER-holdfast-peer-dialler",
        Role::Acceptor => b"EXPORTER-holdfast-peer-acceptor",
    };
    tls.export_keying_material([0; 32], label, None)
}

/// Takes every certificate, but its key must have signed the handshake.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
