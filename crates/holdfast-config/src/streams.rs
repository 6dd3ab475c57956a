//! `streams`: when an answer becomes a stream and how streams are kept alive and resumed.

use std::time::Duration;

use crate::section::Section;

/// How answers become streams and how streams live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Streams {
    /// How long response headers are held, so that a balancer can still go elsewhere. 0s to 30s.
    pub commit_after: Duration,
    /// When headers go out at the latest to clients that cannot resume. 1s to 5m.
    pub headers_by: Duration,
    /// A comment goes out on a stream that has been silent for this long. 1s to 5m.
    pub keepalive: Duration,
    /// GET streams end cleanly at this age, before a client's own limit of 300 s. 10s to 299s.
    pub rotate_after: Duration,
    /// When a client is told to come back. 10ms to 1m.
    pub retry: Duration,
    /// Answers to modern clients never become a stream of ours: headers are held for them as for
    /// clients that cannot resume.
    pub strict: bool,
    /// How long a modern client's call outlives its connection. 0s to 10m.
    pub modern_grace: Duration,
    /// How long a stream's events stay for a client that comes back. 1s to 1d.
    pub retain: Duration,
    /// Bytes of events kept per stream. 0B to 1GiB.
    pub retain_bytes: usize,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            commit_after: Duration::from_millis(250),
            headers_by: Duration::from_secs(45),
            keepalive: Duration::from_secs(15),
            rotate_after: Duration::from_secs(240),
            retry: Duration::from_millis(500),
            strict: false,
            modern_grace: Duration::ZERO,
            retain: Duration::from_secs(300),
            retain_bytes: 4 * 1024 * 1024,
        }
    }
}

// === impl Streams ===

impl Streams {
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let (zero, ms, s) = (Duration::ZERO, Duration::from_millis(1), Duration::from_secs(1));
        let mut streams = Self::default();
        section.duration("commit_after", zero..=s * 30, &mut streams.commit_after);
        section.duration("headers_by", s..=s * 300, &mut streams.headers_by);
        section.duration("keepalive", s..=s * 300, &mut streams.keepalive);
        section.duration("rotate_after", s * 10..=s * 299, &mut streams.rotate_after);
        section.duration("retry", ms * 10..=s * 60, &mut streams.retry);
        section.flag("strict", &mut streams.strict);
        section.duration("modern_grace", zero..=s * 600, &mut streams.modern_grace);
        section.duration("retain", s..=s * 86_400, &mut streams.retain);
        section.size("retain_bytes", 0..=1 << 30, &mut streams.retain_bytes);
        section.finish();
        streams
    }
}
