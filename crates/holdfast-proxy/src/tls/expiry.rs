//! When certificates end: those in files, and those that `https` servers show.
//!
//! Read off the certificate itself (RFC 5280, 4.1: the second time of `validity`). What a server shows
//! is taken down when its certificate is verified, so it costs nothing beside a handshake, and a
//! connection that resumes an earlier one says nothing new.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

/// When the certificates end that servers have shown, in seconds since the Unix epoch, by the name
/// that was asked for. Names come from the configuration alone, so there are no more than there.
#[derive(Clone, Default, Debug)]
pub struct Expiries(Arc<Mutex<BTreeMap<String, u64>>>);

/// Verifies as another one does, and takes down when what it has verified ends.
#[derive(Debug)]
pub(super) struct Noting {
    pub(super) inner: Arc<dyn ServerCertVerifier>,
    pub(super) expiries: Expiries,
}

/// When the first certificate of a PEM text ends, in seconds since the Unix epoch; none if there is
/// none that can be read.
#[must_use]
pub fn of_pem(pem: &[u8]) -> Option<u64> {
    ends(&CertificateDer::from_pem_slice(pem).ok()?)
}

/// When a DER certificate ends, in seconds since the Unix epoch; none if it is none. Total on any bytes.
#[must_use]
pub fn ends(der: &[u8]) -> Option<u64> {
    let (SEQUENCE, certificate, _) = element(der)? else { return None };
    let (SEQUENCE, mut body, _) = element(certificate)? else { return None };
    if let Some((VERSION, _, rest)) = element(body) {
        body = rest;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        (_, _, body) = element(body)?;
    }
    let (SEQUENCE, validity, _) = element(body)? else { return None };
    let (_, _, rest) = element(validity)?;
    let (tag, time, _) = element(rest)?;
    match tag {
        UTC_TIME => {
            let year = number(time.get(..2)?)?;
            // RFC 5280: two digits from 50 on are of the last century.
            moment(if year >= 50 { 1900 + year } else { 2000 + year }, time.get(2..)?)
        }
        GENERALIZED_TIME => moment(number(time.get(..4)?)?, time.get(4..)?),
        _ => None,
    }
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The first element of `der`: its tag, its contents, and what comes after it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let bytes = usize::from(first & 0x7f);
        if bytes == 0 || bytes > 4 {
            return None;
        }
        length = rest.get(..bytes)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        rest = &rest[bytes..];
    }
    Some((tag, rest.get(..length)?, &rest[length..]))
}

/// `MMDDHHMMSSZ` of a year, in seconds since the Unix epoch; 0 if it is before.
fn moment(year: u64, rest: &[u8]) -> Option<u64> {
    let &[m1, m2, d1, d2, h1, h2, i1, i2, s1, s2, b'Z'] = rest else { return None };
    let two = |a, b| number(&[a, b]);
    let (month, day) = (two(m1, m2)?, two(d1, d2)?);
    let (hour, minute, second) = (two(h1, h2)?, two(i1, i2)?, two(s1, s2)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days from 0000-03-01, with the leap day last in the year.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1;
    let seconds = (days * 24 + hour) * 3600 + minute * 60 + second;
    Some(seconds.saturating_sub(EPOCH_DAYS * 86_400))
}

/// From 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: u64 = 719_468;

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |sum, digit| {
        digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0'))
    })
}

// === impl Expiries ===

impl Expiries {
    /// All that were seen.
    #[must_use]
    pub fn all(&self) -> Vec<(String, u64)> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().map(|(name, ends)| (name.clone(), *ends)).collect()
    }

    fn note(&self, name: &ServerName<'_>, certificate: &[u8]) {
        let Some(ends) = ends(certificate) else { return };
        let name = name.to_str().into_owned();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name, ends);
    }
}

// === impl Noting ===

impl ServerCertVerifier for Noting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // Before it is judged: one that has ended is refused, and that is what is to be seen.
        self.expiries.note(server_name, end_entity);
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[rustls::DistinguishedName]> {
        self.inner.root_hint_subjects()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn made(year: i32, month: u8, day: u8) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, month, day);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_says_when_it_ends() {
        // The second form of a time begins with 2050.
        let table = [
            (2026, 11, 29, 1_795_910_400),
            (2000, 2, 29, 951_782_400),
            (2049, 12, 31, 2_524_521_600),
            (2050, 1, 1, 2_524_608_000),
            (2100, 3, 1, 4_107_542_400),
        ];
        for (year, month, day, seconds) in table {
            assert_eq!(ends(&made(year, month, day)), Some(seconds), "{year}-{month}-{day}");
        }
    }

    #[test]
    fn what_is_cut_or_no_certificate_ends_never() {
        let whole = made(2030, 1, 1);
        for end in 0..80 {
            let _ = ends(&whole[..end]);
        }
        for bytes in [&b""[..], b"0", b"\x30\x80", b"\x30\x84\xff\xff\xff\xff", b"not one at all"] {
            assert_eq!(ends(bytes), None);
        }
        assert_eq!(of_pem(b"-----BEGIN NOTHING-----"), None);
    }

    #[tokio::test]
    async fn what_a_server_shows_is_taken_down_under_the_name_that_was_asked_for() {
        use rustls::client::WebPkiServerVerifier;
        use tokio_rustls::{TlsAcceptor, TlsConnector};

        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2049, 12, 31);
        let key = rcgen::KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.der().clone()], key.into())
            .unwrap();
        for is_trusted in [true, false] {
            let mut roots = rustls::RootCertStore::empty();
            let other = rcgen::generate_simple_self_signed(vec!["other".to_owned()]).unwrap();
            roots
                .add(if is_trusted { made.der().clone() } else { other.cert.der().clone() })
                .unwrap();
            let roots = Arc::new(roots);
            let verifier =
                WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
            let expiries = Expiries::default();
            let noting = Noting { inner: verifier.build().unwrap(), expiries: expiries.clone() };
            let client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(noting))
                .with_no_client_auth();
            let (near, far) = tokio::io::duplex(64 * 1024);
            let acceptor = TlsAcceptor::from(Arc::new(server.clone()));
            let serving = tokio::spawn(async move { acceptor.accept(far).await.is_ok() });
            let name = ServerName::try_from("localhost").unwrap();
            let shaken = TlsConnector::from(Arc::new(client)).connect(name, near).await;
            assert_eq!(shaken.is_ok(), is_trusted, "it is still verified");
            assert_eq!(expiries.all(), [("localhost".to_owned(), 2_524_521_600)]);
            drop(shaken);
            let _ = serving.await;
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            place in 0_usize..400,
            byte in any::<u8>(),
        ) {
            let _ = ends(&bytes);
            let mut changed = made(2030, 1, 1);
            let place = place % changed.len();
            changed[place] = byte;
            let _ = ends(&changed);
        }
    }
}
