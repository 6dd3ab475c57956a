//! `limits`: how much of anything one node takes on before it says no.

use crate::section::Section;

/// Upper bounds. Each gives an error of its own when it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one request body. 1KiB to 1GiB.
    pub body: usize,
    /// Bytes of one request's headers. 8KiB to 1MiB.
    pub header_bytes: usize,
    /// Headers of one request. 16 to 1000.
    pub header_count: usize,
    /// Client connections at once. 1 to 1,000,000.
    pub connections: usize,
    /// Sessions at once. 1 to 10,000,000.
    pub sessions: usize,
    /// Sessions of one principal at once. 1 to `sessions`.
    pub sessions_per_principal: usize,
    /// Open streams at once. 1 to 1,000,000.
    pub streams: usize,
    /// Bytes that wait for one slow reader before its stream is cut. 64KiB to 1GiB.
    pub stream_queue: usize,
    /// Bytes of a JSON answer that are held back so that a cut can be mended. 0B to 64MiB.
    pub answer_buffer: usize,
    /// Calls at once. 1 to 1,000,000.
    pub in_flight: usize,
    /// Calls a minute of one principal; `None`: no limit. 1 to 1,000,000.
    pub requests_per_minute: Option<u32>,
    /// Calls that one principal may make at once after a pause; `None`: a tenth of a minute's.
    pub burst: Option<u32>,
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 4 * MIB,
            header_bytes: 32 * KIB,
            header_count: 100,
            connections: 10_000,
            sessions: 100_000,
            sessions_per_principal: 20_000,
            streams: 20_000,
            stream_queue: 4 * MIB,
            answer_buffer: MIB,
            in_flight: 10_000,
            requests_per_minute: None,
            burst: None,
        }
    }
}

// === impl Limits ===

const MILLION: u64 = 1_000_000;

impl Limits {
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let (kib, mib, gib) = (1 << 10, 1 << 20, 1 << 30);
        let mut limits = Self::default();
        section.size("body", kib..=gib, &mut limits.body);
        section.size("header_bytes", 8 * kib..=mib, &mut limits.header_bytes);
        section.count("header_count", 16..=1000, &mut limits.header_count);
        section.count("connections", 1..=MILLION, &mut limits.connections);
        section.count("sessions", 1..=10 * MILLION, &mut limits.sessions);
        // Whoever lowers the whole lowers the part with it.
        limits.sessions_per_principal = limits.sessions_per_principal.min(limits.sessions);
        let most = limits.sessions as u64;
        section.count("sessions_per_principal", 1..=most, &mut limits.sessions_per_principal);
        section.count("streams", 1..=MILLION, &mut limits.streams);
        section.size("stream_queue", 64 * kib..=gib, &mut limits.stream_queue);
        section.size("answer_buffer", 0..=64 * mib, &mut limits.answer_buffer);
        section.count("in_flight", 1..=MILLION, &mut limits.in_flight);
        section.rate(&mut limits.requests_per_minute, &mut limits.burst);
        section.finish();
        limits
    }
}
