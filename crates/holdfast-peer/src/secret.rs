//! The cluster secret as keys, and the proof of holding it.
//!
//! A proof is an HMAC-SHA256 over the side's role, the keying material exported from the TLS
//! session for that role, and everything else the message says. The key comes from the secret by
//! HKDF, so that the proof is of no use to any other purpose of the same secret.
//!
//! The secret must not be guessable: whoever accepts a connection under a peer's address gets one
//! proof and may try secrets against it at leisure. The configuration asks for 32 characters.
//!
//! # Rotation
//! A node that has a previous secret proves both and accepts either, so that nodes can be given the
//! new one after the other: new with old as previous everywhere, then the previous is taken away.

use std::fmt;

use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use holdfast_config::{ExposeSecret, SecretString};
use sha2::Sha256;

/// Bytes of a proof.
pub(crate) const PROOF: usize = 32;

/// The current cluster secret and, during a rotation, the one before. Prints nothing of them.
#[derive(Clone)]
pub struct Secret {
    keys: Vec<[u8; 32]>,
}

/// Which side a proof is for. In the proof, so that none can be sent back as one's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Dialler,
    Acceptor,
}

// === impl Secret ===

impl Secret {
    /// Derives the keys. `previous` is the secret that is being rotated out.
    #[must_use]
    pub fn new(current: &SecretString, previous: Option<&SecretString>) -> Self {
        Self { keys: std::iter::once(current).chain(previous).map(key).collect() }
    }

    /// One proof per key, the current one first.
    pub(crate) fn prove(&self, role: Role, channel: &[u8], said: &[u8]) -> Vec<[u8; PROOF]> {
        self.keys
            .iter()
            .map(|key| mac(key, role, channel, said).finalize().into_bytes().into())
            .collect()
    }

    /// Whether one of `proofs` is right under one of our keys. Takes the same time for all wrong ones.
    pub(crate) fn accepts(
        &self,
        role: Role,
        channel: &[u8],
        said: &[u8],
        proofs: &[[u8; PROOF]],
    ) -> bool {
        let mut right = false;
        for key in &self.keys {
            for proof in proofs {
                right |= mac(key, role, channel, said).verify_slice(proof).is_ok();
            }
        }
        right
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} keys)", self.keys.len())
    }
}

fn key(secret: &SecretString) -> [u8; 32] {
    let mut key = [0; 32];
    let derived = Hkdf::<Sha256>::new(Some(b"holdfast"), secret.expose_secret().as_bytes());
    derived.expand(b"peer proof 1", &mut key).expect("32 bytes are within HKDF's limit");
    key
}

fn mac(key: &[u8; 32], role: Role, channel: &[u8], said: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key length");
    mac.update(&[match role {
        Role::Dialler => 1,
        Role::Acceptor => 2,
    }]);
    // The keying material has one length, so nothing can move between it and what follows.
    mac.update(channel);
    mac.update(said);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(current: &str, previous: Option<&str>) -> Secret {
        Secret::new(&current.into(), previous.map(Into::into).as_ref())
    }

    const CHANNEL: [u8; 32] = [7; 32];

    #[test]
    fn a_proof_is_for_one_role_channel_and_message() {
        let held = secret("one", None);
        let proofs = held.prove(Role::Dialler, &CHANNEL, b"said");
        assert!(held.accepts(Role::Dialler, &CHANNEL, b"said", &proofs));
        assert!(!held.accepts(Role::Acceptor, &CHANNEL, b"said", &proofs));
        assert!(!held.accepts(Role::Dialler, &[8; 32], b"said", &proofs));
        assert!(!held.accepts(Role::Dialler, &CHANNEL, b"sait", &proofs));
        assert!(!held.accepts(Role::Dialler, &CHANNEL, b"said", &[]));
        assert!(!secret("two", None).accepts(Role::Dialler, &CHANNEL, b"said", &proofs));
    }

    #[test]
    fn a_rotation_never_locks_a_node_out() {
        let (old, between, new) =
            (secret("old", None), secret("new", Some("old")), secret("new", None));
        for (prover, checker, accepted) in [
            (&old, &between, true),
            (&between, &old, true),
            (&between, &new, true),
            (&new, &between, true),
            (&old, &new, false),
            (&new, &old, false),
        ] {
            let proofs = prover.prove(Role::Acceptor, &CHANNEL, b"");
            assert_eq!(checker.accepts(Role::Acceptor, &CHANNEL, b"", &proofs), accepted);
        }
    }

    #[test]
    fn nothing_of_the_secret_is_printed() {
        assert_eq!(format!("{:?}", secret("visible", Some("too"))), "Secret(2 keys)");
    }
}
