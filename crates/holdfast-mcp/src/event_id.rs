//! Event ids that carry all that a node needs to resume a stream, sealed.
//!
//! A client hands an event id back with `Last-Event-ID`, possibly to another node than the one that
//! gave it, possibly when the stream's record is gone. So the id itself says which stream and which
//! call it belongs to, where the server's own stream can be resumed, and whose it is. It is sealed
//! with XChaCha20-Poly1305: what opens was written by a node with the key, and says nothing to
//! anyone else.
//!
//! A token is `base64url(key id, nonce, ciphertext, tag)` without padding. The caller chooses the
//! nonce (24 bytes, of which random ones never repeat in practice, nor do 16 random ones of a stream
//! with a count of its tokens behind them); the purpose is authenticated with the key id, so that a
//! token made for one thing does not open as another.
//!
//! Events of one stream that the server has given no id are a [`Series`]: what they have in common is
//! sealed once.
//!
//! Spec: 2025-11-25 Transports, "Resumability and Redelivery" (ids unique across a session's
//! streams, and telling which stream they are of).

mod series;

pub use self::series::Series;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::BytesMut;
use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, AeadInPlace as _, Payload},
};

const NONCE: usize = 24;
const TAG: usize = 16;
/// Not a purpose that a caller could pass by accident.
const EVENT_ID: &[u8] = b"holdfast event id 2";

/// What kind of stream an event is of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StreamKind {
    /// The answer to one call.
    Call,
    /// A standing GET stream.
    Standing,
}

/// What an event id says.
#[derive(Clone, PartialEq, Debug)]
pub struct EventId {
    /// The stream.
    pub stream: u128,
    /// The event's place in it, from 0.
    pub seq: u64,
    /// What stream it is.
    pub kind: StreamKind,
    /// The call's JSON-RPC id, as JSON text.
    pub request_id: Option<Box<str>>,
    /// The call's class, as a number.
    pub class: u8,
    /// The instance that the call went to: half of its mark, for who looks into a token.
    pub instance: u16,
    /// The binding's generation.
    pub generation: u32,
    /// Digest of the principal that the stream belongs to.
    pub principal: u64,
    /// The server's own session id.
    pub server_session: Option<Box<str>>,
    /// The server's own id of this event.
    pub server_event: Option<Box<str>>,
    /// The highest progress that the client had been told with this event.
    pub progress: Option<f64>,
}

/// Why a token does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not base64url, or too short.
    #[error("the token is malformed")]
    Malformed,
    /// Sealed with a key that is not (or no longer) known.
    #[error("the token is sealed with an unknown key")]
    UnknownKey,
    /// Altered, forged, or made for another purpose.
    #[error("the token is not genuine")]
    Forged,
    /// Genuine, but of a form that this version does not know.
    #[error("the token's content is of an unknown form")]
    UnknownForm,
}

/// Seals with the current key, opens with that and the previous one.
#[derive(Clone)]
pub struct Sealer {
    current: Key,
    previous: Option<Key>,
}

#[derive(Clone)]
struct Key {
    id: u8,
    cipher: XChaCha20Poly1305,
    /// Authenticates the numbers of a series.
    code: series::Code,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer")
            .field("current", &self.current.id)
            .field("previous", &self.previous.as_ref().map(|key| key.id))
            .finish_non_exhaustive()
    }
}

impl Key {
    fn new(id: u8, key: [u8; 32]) -> Self {
        Self { id, cipher: XChaCha20Poly1305::new(&key.into()), code: series::code(&key) }
    }
}

impl Sealer {
    /// A sealer with one key.
    #[must_use]
    pub fn new(key_id: u8, key: [u8; 32]) -> Self {
        Self { current: Key::new(key_id, key), previous: None }
    }

    /// The same sealer, which also opens what another key sealed.
    #[must_use]
    pub fn with_previous(self, key_id: u8, key: [u8; 32]) -> Self {
        Self { previous: Some(Key::new(key_id, key)), ..self }
    }

    /// The token for an event. `nonce` must never be used again with this key.
    #[must_use]
    pub fn seal(&self, id: &EventId, nonce: [u8; 24]) -> String {
        let mut token = BytesMut::new();
        self.seal_onto(id, nonce, &mut token);
        // Base64 is ASCII.
        String::from_utf8(token.into()).unwrap_or_default()
    }

    /// The same token, appended to `out`.
    pub fn seal_onto(&self, id: &EventId, nonce: [u8; 24], out: &mut BytesMut) {
        self.seal_with(EVENT_ID, nonce, USUAL, out, |token| id.put(token));
    }

    /// What a token says.
    ///
    /// # Errors
    /// When it is not a token that this sealer, or one with the same keys, made with `seal` or for a
    /// series.
    pub fn open(&self, token: &[u8]) -> Result<EventId, TokenError> {
        if let Some(opened) = self.open_numbered(token) {
            return opened;
        }
        EventId::from_bytes(&self.open_bytes(EVENT_ID, token)?).ok_or(TokenError::UnknownForm)
    }

    /// A token for other bytes. `purpose` must be given again to open it; `nonce` must never be used
    /// again with this key.
    #[must_use]
    pub fn seal_bytes(&self, purpose: &[u8], plain: &[u8], nonce: [u8; 24]) -> String {
        let mut token = BytesMut::new();
        self.seal_bytes_onto(purpose, plain, nonce, &mut token);
        String::from_utf8(token.into()).unwrap_or_default()
    }

    /// The same token, appended to `out`.
    pub fn seal_bytes_onto(
        &self,
        purpose: &[u8],
        plain: &[u8],
        nonce: [u8; 24],
        out: &mut BytesMut,
    ) {
        self.seal_with(purpose, nonce, plain.len(), out, |token| token.extend_from_slice(plain));
    }

    fn seal_with(
        &self,
        purpose: &[u8],
        nonce: [u8; 24],
        room: usize,
        out: &mut BytesMut,
        plain: impl FnOnce(&mut Vec<u8>),
    ) {
        let key = &self.current;
        let mut token = Vec::with_capacity(1 + NONCE + room + TAG);
        token.push(key.id);
        token.extend_from_slice(&nonce);
        plain(&mut token);
        let sealed = key.cipher.encrypt_in_place_detached(
            XNonce::from_slice(&nonce),
            &aad(key.id, purpose),
            &mut token[1 + NONCE..],
        );
        match sealed {
            Ok(tag) => token.extend_from_slice(&tag),
            // Only for texts beyond 256 GiB; what is left is no token.
            Err(_) => token.truncate(1 + NONCE),
        }
        write_base64(&token, out);
    }

    /// The bytes of a token made with `seal_bytes` for the same purpose.
    ///
    /// # Errors
    /// When it is no such token.
    pub fn open_bytes(&self, purpose: &[u8], token: &[u8]) -> Result<Vec<u8>, TokenError> {
        let token = URL_SAFE_NO_PAD.decode(token).map_err(|_| TokenError::Malformed)?;
        if token.len() < 1 + NONCE + TAG {
            return Err(TokenError::Malformed);
        }
        let (nonce, sealed) = token[1..].split_at(NONCE);
        let aad = aad(token[0], purpose);
        let mut error = TokenError::UnknownKey;
        // Both keys may have the same id when an operator rotates without a new one.
        for key in [Some(&self.current), self.previous.as_ref()].into_iter().flatten() {
            if key.id != token[0] {
                continue;
            }
            match key.cipher.decrypt(XNonce::from_slice(nonce), Payload { msg: sealed, aad: &aad })
            {
                Ok(plain) => return Ok(plain),
                Err(_) => error = TokenError::Forged,
            }
        }
        Err(error)
    }
}

fn write_base64(bytes: &[u8], out: &mut BytesMut) {
    let at = out.len();
    // Without padding: a block of its size is given away as it is.
    out.resize(at + (bytes.len() * 4).div_ceil(3), 0);
    let written = URL_SAFE_NO_PAD.encode_slice(bytes, &mut out[at..]);
    out.truncate(at + written.unwrap_or(0));
}

/// Room for what most events' tokens say.
const USUAL: usize = 183;

fn aad(key_id: u8, purpose: &[u8]) -> Vec<u8> {
    let mut aad = Vec::with_capacity(1 + purpose.len());
    aad.push(key_id);
    aad.extend_from_slice(purpose);
    aad
}

// === The content of a token: fixed fields, big-endian, then three optional strings and a number ===

const CALL: u8 = 0;
const STANDING: u8 = 1;

impl EventId {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.stream.to_be_bytes());
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.push(match self.kind {
            StreamKind::Call => CALL,
            StreamKind::Standing => STANDING,
        });
        out.push(self.class);
        out.extend_from_slice(&self.instance.to_be_bytes());
        out.extend_from_slice(&self.generation.to_be_bytes());
        out.extend_from_slice(&self.principal.to_be_bytes());
        for text in [&self.request_id, &self.server_session, &self.server_event] {
            put_text(text.as_deref(), out);
        }
        match self.progress {
            None => out.push(0),
            Some(progress) => {
                out.push(1);
                out.extend_from_slice(&progress.to_bits().to_be_bytes());
            }
        }
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut bytes = bytes;
        let id = Self {
            stream: u128::from_be_bytes(take(&mut bytes)?),
            seq: u64::from_be_bytes(take(&mut bytes)?),
            kind: match take::<1>(&mut bytes)? {
                [CALL] => StreamKind::Call,
                [STANDING] => StreamKind::Standing,
                _ => return None,
            },
            class: u8::from_be_bytes(take(&mut bytes)?),
            instance: u16::from_be_bytes(take(&mut bytes)?),
            generation: u32::from_be_bytes(take(&mut bytes)?),
            principal: u64::from_be_bytes(take(&mut bytes)?),
            request_id: take_text(&mut bytes)?,
            server_session: take_text(&mut bytes)?,
            server_event: take_text(&mut bytes)?,
            progress: match take::<1>(&mut bytes)? {
                [0] => None,
                [1] => Some(f64::from_bits(u64::from_be_bytes(take(&mut bytes)?))),
                _ => return None,
            },
        };
        bytes.is_empty().then_some(id)
    }
}

/// One byte says absent or present; a length of four bytes and the text follow.
fn put_text(text: Option<&str>, out: &mut Vec<u8>) {
    // A text of 4 GiB cannot have come in through any limit; it is left out rather than cut.
    let text = text.and_then(|text| Some((u32::try_from(text.len()).ok()?, text)));
    match text {
        None => out.push(0),
        Some((length, text)) => {
            out.push(1);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        }
    }
}

fn take_text(bytes: &mut &[u8]) -> Option<Option<Box<str>>> {
    match take::<1>(bytes)? {
        [0] => Some(None),
        [1] => {
            let length = usize::try_from(u32::from_be_bytes(take(bytes)?)).ok()?;
            let (text, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Some(Some(std::str::from_utf8(text).ok()?.into()))
        }
        _ => None,
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

#[cfg(test)]
mod tests;
