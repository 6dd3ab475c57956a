//! The one message each way before HTTP: who speaks, whom it means, and the proof.
//!
//! ```text
//! length  u16   of everything after it, at most 339
//! role    u8    1 dialler, 2 acceptor
//! lane    u8    0 control, 1 data
//! node    u64   who speaks, never 0
//! to      u64   who is meant; 0 from a dialler that does not know yet
//! name    u8 + bytes   UTF-8 without control characters, never empty
//! proofs  u8 + 32 bytes each, one or two; over everything from role to name
//! ```
//! Numbers are big-endian. The version of all this is the protocol name that TLS agrees on.

use std::sync::Arc;

use crate::secret::{PROOF, Role, Secret};
use crate::{Caller, Lane, NodeId};

/// The longest message without its length.
const LONGEST: usize = 1 + 1 + 8 + 8 + 1 + NAME + 1 + 2 * PROOF;

/// The longest name in bytes.
const NAME: usize = 255;

/// A message as it was read; true only once [`Hello::is_proven`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) role: Role,
    pub(crate) lane: Lane,
    pub(crate) from: Caller,
    /// 0: whoever it is.
    pub(crate) to: NodeId,
    said: Vec<u8>,
    proofs: Vec<[u8; PROOF]>,
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a peer's message: {0}")]
pub(crate) struct Malformed(&'static str);

// === impl Hello ===

impl Hello {
    /// Whether one of the proofs is right for this channel and the role that the message claims.
    pub(crate) fn is_proven(&self, secret: &Secret, channel: &[u8]) -> bool {
        secret.accepts(self.role, channel, &self.said, &self.proofs)
    }

    /// Reads a message without its length. Nothing may be left over.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut rest = bytes;
        let role = match take::<1>(&mut rest)? {
            [1] => Role::Dialler,
            [2] => Role::Acceptor,
            _ => return Err(Malformed("unknown role")),
        };
        let lane = match take::<1>(&mut rest)? {
            [0] => Lane::Control,
            [1] => Lane::Data,
            _ => return Err(Malformed("unknown lane")),
        };
        let node = NodeId::from_be_bytes(take(&mut rest)?);
        if node == 0 {
            return Err(Malformed("node 0"));
        }
        let to = NodeId::from_be_bytes(take(&mut rest)?);
        let [length] = take(&mut rest)?;
        let name = take_slice(&mut rest, length.into())?;
        let name = std::str::from_utf8(name).map_err(|_| Malformed("name is not UTF-8"))?;
        if name.is_empty() || name.contains(char::is_control) {
            return Err(Malformed("name is empty or has control characters"));
        }
        let said = bytes[..bytes.len() - rest.len()].to_vec();
        let [count] = take(&mut rest)?;
        if !(1..=2).contains(&count) {
            return Err(Malformed("neither one proof nor two"));
        }
        let proofs = (0..count).map(|_| take(&mut rest)).collect::<Result<_, _>>()?;
        if !rest.is_empty() {
            return Err(Malformed("bytes after the end"));
        }
        Ok(Self { role, lane, from: Caller { node, name: name.into() }, to, said, proofs })
    }
}

/// The length of the message that follows, from its first two bytes.
pub(crate) fn length(bytes: [u8; 2]) -> Result<usize, Malformed> {
    match usize::from(u16::from_be_bytes(bytes)) {
        length if length <= LONGEST => Ok(length),
        _ => Err(Malformed("too long")),
    }
}

/// Writes a message with its length, and proves it.
pub(crate) fn write(
    secret: &Secret,
    channel: &[u8],
    role: Role,
    lane: Lane,
    from: &Caller,
    to: NodeId,
) -> Vec<u8> {
    let name = from.name.as_bytes();
    let mut bytes = vec![0; 2];
    bytes.push(match role {
        Role::Dialler => 1,
        Role::Acceptor => 2,
    });
    bytes.push(match lane {
        Lane::Control => 0,
        Lane::Data => 1,
    });
    bytes.extend(from.node.to_be_bytes());
    bytes.extend(to.to_be_bytes());
    bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    bytes.extend(&name[..name.len().min(NAME)]);
    let proofs = secret.prove(role, channel, &bytes[2..]);
    bytes.push(if proofs.len() > 1 { 2 } else { 1 });
    bytes.extend(proofs.iter().flatten());
    let length = u16::try_from(bytes.len() - 2).unwrap_or(u16::MAX);
    bytes[..2].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// A name as it fits into a message: what is too long is cut, and control characters are replaced.
pub(crate) fn fitting(name: &str) -> Arc<str> {
    let mut fitting: String =
        name.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
    fitting.truncate(fitting.floor_char_boundary(NAME));
    if fitting.is_empty() { "?".into() } else { fitting.into() }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (taken, left) = rest.split_first_chunk().ok_or(Malformed("too short"))?;
    *rest = left;
    Ok(*taken)
}

fn take_slice<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (taken, left) = rest.split_at_checked(length).ok_or(Malformed("too short"))?;
    *rest = left;
    Ok(taken)
}

#[cfg(test)]
#[path = "hello_tests.rs"]
mod tests;
