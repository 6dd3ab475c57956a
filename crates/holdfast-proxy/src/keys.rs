//! Keys by purpose from the node's secret, or the cluster's.

use hkdf::Hkdf;
use holdfast_config::{Config, ExposeSecret, SecretString};
use holdfast_mcp::event_id::Sealer;
use sha2::Sha256;

use crate::random;

/// What seals event ids, request states and journaled answers. With a secret in the configuration,
/// tokens outlive the process, and every node of a cluster reads those of the others; without one
/// they are void after a restart, and clients then open new streams.
pub(crate) fn sealer(config: &Config) -> Sealer {
    let Some(secret) = &config.node.secret else { return Sealer::new(1, random::bytes()) };
    let (id, key) = named(secret);
    let sealer = Sealer::new(id, key);
    // While the nodes move from one secret to the next, each reads what the other kind has sealed.
    match config.cluster.as_ref().and_then(|cluster| cluster.previous_secret.as_ref()) {
        Some(previous) => {
            let (old_id, old_key) = named(previous);
            sealer.with_previous(if old_id == id { !id } else { old_id }, old_key)
        }
        None => sealer,
    }
}

/// A secret's key for sealing, and the number by which tokens name it.
fn named(secret: &SecretString) -> (u8, [u8; 32]) {
    let secret = secret.expose_secret().as_bytes();
    (derive(secret, b"holdfast key id")[0], derive(secret, b"holdfast event-id v1"))
}

/// HKDF-SHA256 (RFC 5869), one key per purpose.
fn derive(secret: &[u8], purpose: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    // 32 bytes are far below the 8,160 at which expansion refuses.
    let expanded = Hkdf::<Sha256>::new(Some(b"holdfast"), secret).expand(purpose, &mut key);
    debug_assert!(expanded.is_ok());
    key
}
