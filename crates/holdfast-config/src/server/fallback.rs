//! `servers.NAME.fallback`: what a client gets while the server cannot answer.

use std::time::Duration;

/// What stands in for a server that cannot answer, tried in the order of the fields. Whatever comes
/// from here is marked in the answer's `_meta`. By default nothing does: the call fails.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fallback {
    /// Earlier answers to the same Read.
    pub cache: Option<FallbackCache>,
    /// Another server that has the same tools. One of `servers`, and not this one.
    pub server: Option<String>,
    /// An answer that never changes: a JSON object as text, the call's `result`. For `tools/call`
    /// only.
    pub answer: Option<String>,
    /// The tools that all this is for. Empty: every Read.
    pub tools: Vec<String>,
}

/// Answers to Reads that are kept for bad times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FallbackCache {
    /// How old an answer may be. 1s to 1d.
    pub ttl: Duration,
    /// Bytes of them per node. 64KiB to 1GiB.
    pub max_bytes: usize,
}

impl Default for FallbackCache {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(300), max_bytes: 16 << 20 }
    }
}
