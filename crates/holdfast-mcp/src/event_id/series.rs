//! Ids of the many events of one stream: what they have in common is sealed once, and each adds its
//! number under a code of its own.
//!
//! Such a token is `BASE.NUMBER`. BASE is a sealed token of the stream, under a purpose of its own, so
//! that it is no event id by itself. NUMBER is `base64url(seq, progress, code)`: it is readable, and
//! tells its client what that has counted anyway. The code is HMAC-SHA256 (RFC 2104), cut to 128 bits,
//! over BASE's nonce and the number, under a key that is derived from the sealer's; BASE's nonce is
//! its alone, so a number belongs to one stream.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::{EventId, Sealer, TokenError, URL_SAFE_NO_PAD, take, write_base64};
use base64::Engine as _;
use bytes::{BufMut as _, BytesMut};

/// The purpose that the common part is sealed for.
const BASE: &[u8] = b"holdfast event id base 1";
/// Derives the key of the codes.
const NUMBERS: &[u8] = b"holdfast event id numbers 1";
const CODE: usize = 16;
/// Stands between the common part and the number; not a letter of base64url.
const DOT: u8 = b'.';

/// Authenticates numbers.
pub(super) type Code = Hmac<Sha256>;

/// What the ids of a stream's events have in common, sealed.
#[derive(Clone, Debug)]
pub struct Series {
    base: String,
    nonce: [u8; 24],
}

/// The keyed code that belongs to a sealer's key.
pub(super) fn code(key: &[u8; 32]) -> Code {
    let derived = keyed(key).chain_update(NUMBERS).finalize().into_bytes();
    keyed(&derived)
}

fn keyed(key: &[u8]) -> Code {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    Code::new_from_slice(key).expect("a key of any length")
}

impl Sealer {
    /// Begins the ids of a stream: what `id` says but for its number, its progress and the server's
    /// event, which are not part of a series. `nonce` must never be used again with this key.
    #[must_use]
    pub fn series(&self, id: &EventId, nonce: [u8; 24]) -> Series {
        let common = EventId { seq: 0, server_event: None, progress: None, ..id.clone() };
        let mut bytes = Vec::new();
        common.put(&mut bytes);
        Series { base: self.seal_bytes(BASE, &bytes, nonce), nonce }
    }

    /// Appends the token of the series' event `seq` with which the client had been told `progress`.
    pub fn number_onto(
        &self,
        series: &Series,
        seq: u64,
        progress: Option<f64>,
        out: &mut BytesMut,
    ) {
        let mut number = [0; 17 + CODE];
        let length = put_number(seq, progress, &mut number);
        let mut code = self.current.code.clone();
        code.update(&series.nonce);
        code.update(&number[..length]);
        number[length..length + CODE].copy_from_slice(&code.finalize().into_bytes()[..CODE]);
        out.put_slice(series.base.as_bytes());
        out.put_u8(DOT);
        write_base64(&number[..length + CODE], out);
    }

    /// What a token of a series says; `None` if this is none.
    pub(super) fn open_numbered(&self, token: &[u8]) -> Option<Result<EventId, TokenError>> {
        let dot = memchr::memchr(DOT, token)?;
        Some(self.open_parts(&token[..dot], &token[dot + 1..]))
    }

    fn open_parts(&self, base: &[u8], number: &[u8]) -> Result<EventId, TokenError> {
        let common = self.open_bytes(BASE, base)?;
        let base = URL_SAFE_NO_PAD.decode(base).map_err(|_| TokenError::Malformed)?;
        let number = URL_SAFE_NO_PAD.decode(number).map_err(|_| TokenError::Malformed)?;
        let Some((text, code)) = number.split_last_chunk::<CODE>() else {
            return Err(TokenError::Malformed);
        };
        let nonce = &base[1..25];
        let genuine =
            [Some(&self.current), self.previous.as_ref()].into_iter().flatten().any(|key| {
                let expected = key.code.clone().chain_update(nonce).chain_update(text);
                key.id == base[0] && expected.verify_truncated_left(code).is_ok()
            });
        if !genuine {
            return Err(TokenError::Forged);
        }
        let (seq, progress) = number_of(text).ok_or(TokenError::UnknownForm)?;
        let common = EventId::from_bytes(&common).ok_or(TokenError::UnknownForm)?;
        Ok(EventId { seq, progress, ..common })
    }
}

/// Eight bytes of the number, and eight of the progress where there is one; how many those are.
fn put_number(seq: u64, progress: Option<f64>, out: &mut [u8]) -> usize {
    out[..8].copy_from_slice(&seq.to_be_bytes());
    match progress {
        None => 8,
        Some(progress) => {
            out[8..16].copy_from_slice(&progress.to_bits().to_be_bytes());
            16
        }
    }
}

fn number_of(text: &[u8]) -> Option<(u64, Option<f64>)> {
    let mut text = text;
    let seq = u64::from_be_bytes(take(&mut text)?);
    if text.is_empty() {
        return Some((seq, None));
    }
    let progress = f64::from_bits(u64::from_be_bytes(take(&mut text)?));
    text.is_empty().then_some((seq, Some(progress)))
}
