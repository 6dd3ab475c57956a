//! Randomness from the operating system, for ids and nonces.

/// Sixteen random bytes as a number: session keys and stream ids.
pub(crate) fn u128() -> u128 {
    u128::from_ne_bytes(bytes())
}

/// Eight random bytes: jitter.
pub(crate) fn u64() -> u64 {
    u64::from_ne_bytes(bytes())
}

/// A nonce for a sealed token; 192 bits, so random ones never meet.
pub(crate) fn nonce() -> [u8; 24] {
    bytes()
}

/// # Panics
/// If the operating system has no randomness to give: a gateway that went on would hand out ids
/// that can be guessed.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    #[expect(clippy::expect_used, reason = "without randomness no id is safe to hand out")]
    getrandom::fill(&mut out).expect("the operating system gives random bytes");
    out
}
