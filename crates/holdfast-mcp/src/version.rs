//! Protocol revisions and the two eras they fall into.
//!
//! *Legacy* revisions open with `initialize` and may have sessions; the *modern* one (2026-07-28)
//! carries everything in each request's `_meta`. One endpoint serves both, so the era of a request
//! is decided anew at its receipt.
//!
//! | header `MCP-Protocol-Version` | `_meta` claims a version | `initialize` | era |
//! |---|---|---|---|
//! | any | yes | any | modern |
//! | any | no | yes | legacy |
//! | absent or a legacy version | no | no | legacy |
//! | 2026-07-28 or unknown | no | no | modern |
//!
//! The SDKs differ: TypeScript goes by the body, Python by the header, Rust by the body and then the
//! header. The table takes whatever any of them would take for modern, and
//! [`crate::headers::check_modern`] then refuses a request whose header and body disagree.
//!
//! Spec: 2026-07-28 Base Protocol, "Versioning"; 2025-06-18 and 2025-11-25 Transports, "Protocol
//! Version Header".

use std::fmt;

use crate::{
    method::Method,
    peek::{Kind, Peek},
};

/// Which family of revisions a request belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Era {
    /// With `initialize`: up to 2025-11-25.
    Legacy,
    /// Stateless, with per-request metadata: 2026-07-28 and later.
    Modern,
}

/// A protocol revision; later ones are greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Version {
    /// Before the first release; clients still offer it.
    V2024_10_07,
    /// stdio and HTTP+SSE.
    V2024_11_05,
    /// Streamable HTTP and batches.
    V2025_03_26,
    /// `MCP-Protocol-Version` header, elicitation; no batches.
    V2025_06_18,
    /// Streams that may be polled (SEP-1699); the last with a handshake.
    V2025_11_25,
    /// The modern one.
    V2026_07_28,
}

impl Version {
    /// Every revision, oldest first.
    pub const ALL: &[Self] = &[
        Self::V2024_10_07,
        Self::V2024_11_05,
        Self::V2025_03_26,
        Self::V2025_06_18,
        Self::V2025_11_25,
        Self::V2026_07_28,
    ];

    /// What a legacy request without `MCP-Protocol-Version` and without a session speaks.
    pub const ASSUMED: Self = Self::V2025_03_26;

    /// The revision of that exact name, if it is a known one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|version| version.as_str() == text)
    }

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2024_10_07 => "2024-10-07",
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// The family.
    #[must_use]
    pub fn era(self) -> Era {
        if self >= Self::V2026_07_28 { Era::Modern } else { Era::Legacy }
    }

    /// Whether a body may be an array of messages.
    #[must_use]
    pub fn has_batches(self) -> bool {
        self == Self::V2025_03_26
    }

    /// Whether a client of this revision comes back for a stream that ended before its answer
    /// (SEP-1699), so that a stream may be primed and ended early.
    #[must_use]
    pub fn can_resume_polling(self) -> bool {
        self == Self::V2025_11_25
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The era of a message at its receipt; `header` is the value of `MCP-Protocol-Version`. See the
/// table above.
#[must_use]
pub fn classify(header: Option<&str>, peek: &Peek<'_>) -> Era {
    if peek.params.claimed_version.is_some() {
        return Era::Modern;
    }
    if peek.kind == Kind::Request && Method::parse(&peek.method) == Method::Initialize {
        return Era::Legacy;
    }
    match header.map(Version::parse) {
        None => Era::Legacy,
        Some(Some(version)) => version.era(),
        Some(None) => Era::Modern,
    }
}
