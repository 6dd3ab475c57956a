//! Keys by purpose from the node's secret.

use hkdf::Hkdf;
use holdfast_config::{ExposeSecret, Node};
use holdfast_mcp::event_id::Sealer;
use sha2::Sha256;

use crate::random;

/// What seals event ids and request states. With a secret in the configuration, tokens outlive the
/// process; without one they are void after a restart, and clients then open new streams.
pub(crate) fn sealer(node: &Node) -> Sealer {
    let key = match &node.secret {
        Some(secret) => derive(secret.expose_secret().as_bytes(), b"holdfast event-id v1"),
        None => random::bytes(),
    };
    Sealer::new(1, key)
}

/// HKDF-SHA256 (RFC 5869), one key per purpose.
fn derive(secret: &[u8], purpose: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    // 32 bytes are far below the 8,160 at which expansion refuses.
    let expanded = Hkdf::<Sha256>::new(Some(b"holdfast"), secret).expand(purpose, &mut key);
    debug_assert!(expanded.is_ok());
    key
}
