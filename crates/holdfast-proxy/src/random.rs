//! Randomness from the operating system, for ids and nonces.

use std::cell::RefCell;

/// Sixteen random bytes as a number: session keys and stream ids.
pub(crate) fn u128() -> u128 {
    u128::from_ne_bytes(bytes())
}

/// Eight random bytes: jitter.
pub(crate) fn u64() -> u64 {
    u64::from_ne_bytes(bytes())
}

/// A nonce for a sealed token; 192 bits, so random ones never meet.
///
/// They are drawn many at a time, since to ask the operating system is most of what one costs. A nonce may be
/// known before it is used; ids may not, and are drawn one by one.
pub(crate) fn nonce() -> [u8; NONCE] {
    thread_local! {
        static DRAWN: RefCell<Vec<[u8; NONCE]>> = const { RefCell::new(Vec::new()) };
    }
    DRAWN.with_borrow_mut(|drawn| {
        drawn.pop().unwrap_or_else(|| {
            let block = bytes::<{ NONCE * AT_ONCE }>();
            drawn.extend_from_slice(block[NONCE..].as_chunks().0);
            std::array::from_fn(|at| block[at])
        })
    })
}

/// Bytes of a nonce.
const NONCE: usize = 24;

/// So many fill a page, nearly.
const AT_ONCE: usize = 160;

/// Nonces for the many tokens of one stream: 128 random bits of its own and a count, so they meet
/// neither each other nor another stream's.
#[derive(Debug)]
pub(crate) struct Nonces {
    stream: [u8; 16],
    count: u64,
}

impl Nonces {
    pub(crate) fn new() -> Self {
        let [stream @ .., _, _, _, _, _, _, _, _] = nonce();
        Self { stream, count: 0 }
    }

    pub(crate) fn next(&mut self) -> [u8; 24] {
        self.count += 1;
        let mut nonce = [0; 24];
        nonce[..16].copy_from_slice(&self.stream);
        nonce[16..].copy_from_slice(&self.count.to_be_bytes());
        nonce
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_nonce_comes_twice_within_streams_or_between_them() {
        let (mut one, mut other) = (Nonces::new(), Nonces::new());
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            assert!(seen.insert(one.next()));
            assert!(seen.insert(other.next()));
            assert!(seen.insert(nonce()));
        }
    }
}
