//! `servers.NAME.fallback`: what a client gets while the server cannot answer.

use std::time::Duration;

use crate::section::Section;

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

// === impl Fallback ===

impl Fallback {
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let mut fallback = Self::default();
        if let Some(cache) = section.field("cache").and_then(|field| field.section()) {
            fallback.cache = Some(FallbackCache::read(cache));
        }
        fallback.server = section.field("server").and_then(|field| field.name());
        fallback.answer = section.field("static").and_then(|field| field.sorted_json_object());
        section.names("tools", 1000, &mut fallback.tools);
        let ways = section.given(&["cache", "server", "static"]);
        if ways.is_empty() && !section.given(&["tools"]).is_empty() {
            section.report(
                "tools",
                "tools, and nothing stands in for them".into(),
                "tools beside cache, server or static",
                "add cache: {}, or remove it",
            );
        }
        section.finish();
        fallback
    }

    /// Whether anything stands in.
    pub fn is_empty(&self) -> bool {
        self.cache.is_none() && self.server.is_none() && self.answer.is_none()
    }
}

impl FallbackCache {
    fn read(mut section: Section<'_>) -> Self {
        let s = Duration::from_secs(1);
        let mut cache = Self::default();
        section.duration("ttl", s..=s * 86_400, &mut cache.ttl);
        section.size("max_bytes", 64 << 10..=1 << 30, &mut cache.max_bytes);
        section.finish();
        cache
    }
}
