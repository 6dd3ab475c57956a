//! Protocol revisions and the two eras they fall into.
//!
//! *Legacy* revisions open with `initialize` and may have sessions; the *modern* one (2026-07-28)
//! carries everything in each request's `_meta`. One endpoint serves both, so the era of a request
//! is decided anew at its receipt.
//!
//! | header `MCP-Protocol-Version` | `_meta` claims a version | `initialize` | era |
//! |---|---|---|---|
//! | any | yes | no | modern |
//! | any | a legacy one, or no | yes | legacy |
//! | any | another one | yes | modern |
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

use http::HeaderMap;

use crate::{
    headers::name,
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

/// The era of a message at its receipt; `header` is what its [headers say](header). See the table above.
#[must_use]
pub fn classify(header: Option<&str>, peek: &Peek<'_>) -> Era {
    let is_handshake =
        peek.kind == Kind::Request && Method::parse(&peek.method) == Method::Initialize;
    match peek.params.claimed_version.as_deref() {
        Some(claimed) if is_handshake => {
            return Version::parse(claimed).map_or(Era::Modern, Version::era);
        }
        Some(_) => return Era::Modern,
        None if is_handshake => return Era::Legacy,
        None => {}
    }
    era_said(header)
}

/// What a request's headers say of its version; what is no text is none that there is.
#[must_use]
pub fn header(headers: &HeaderMap) -> Option<&str> {
    headers.get(name::PROTOCOL_VERSION).map(|value| value.to_str().unwrap_or("?"))
}

/// The era of a request by its [header](header) alone: of one that has no body, or whose body is not here yet.
#[must_use]
pub fn era_said(header: Option<&str>) -> Era {
    match header.map(Version::parse) {
        None => Era::Legacy,
        Some(Some(version)) => version.era(),
        Some(None) => Era::Modern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peek::peek;

    #[test]
    fn revisions_go_both_ways_in_order() {
        assert!(Version::ALL.is_sorted());
        for version in Version::ALL {
            assert_eq!(Version::parse(version.as_str()), Some(*version));
            assert_eq!(version.to_string(), version.as_str());
        }
        for text in ["", "2025-11-26", "2025-11-25 ", "DRAFT-2026-v1"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }

    #[test]
    fn each_revision_can_what_it_can() {
        let table = [
            ("2024-10-07", Era::Legacy, false, false),
            ("2024-11-05", Era::Legacy, false, false),
            ("2025-03-26", Era::Legacy, true, false),
            ("2025-06-18", Era::Legacy, false, false),
            ("2025-11-25", Era::Legacy, false, true),
            ("2026-07-28", Era::Modern, false, false),
        ];
        assert_eq!(table.len(), Version::ALL.len());
        for (text, era, batches, polling) in table {
            let version = Version::parse(text).unwrap();
            assert_eq!(
                (version.era(), version.has_batches(), version.can_resume_polling()),
                (era, batches, polling),
                "{text}"
            );
        }
        assert_eq!(Version::ASSUMED.as_str(), "2025-03-26");
    }

    #[test]
    fn without_a_body_the_header_says_the_era() {
        for (value, era) in [
            (None, Era::Legacy),
            (Some(&b"2025-03-26"[..]), Era::Legacy),
            (Some(b"2025-11-25"), Era::Legacy),
            (Some(b"2026-07-28"), Era::Modern),
            (Some(b"2030-01-01"), Era::Modern),
            (Some(b""), Era::Modern),
            (Some(b"\xe9"), Era::Modern),
        ] {
            let mut headers = HeaderMap::new();
            let value = value.map(|it| http::HeaderValue::from_bytes(it).unwrap());
            value.map(|it| headers.insert(name::PROTOCOL_VERSION, it));
            assert_eq!(era_said(header(&headers)), era, "{headers:?}");
        }
    }

    #[test]
    fn the_era_follows_the_table() {
        let claim = |version: &str| {
            format!(r#"{{"_meta":{{"io.modelcontextprotocol/protocolVersion":{version}}}}}"#)
        };
        let modern = claim("\"2026-07-28\"");
        let legacy = claim("\"2025-11-25\"");
        let odd = claim("7");
        let (l, m) = (Era::Legacy, Era::Modern);
        let table: &[(Option<&str>, &str, &str, Era)] = &[
            // header, method, params, era
            (None, "tools/call", "{}", l),
            (Some("2025-03-26"), "tools/call", "{}", l),
            (Some("2025-11-25"), "tools/call", "{}", l),
            (Some("2026-07-28"), "tools/call", "{}", m),
            (Some("2099-01-01"), "tools/call", "{}", m),
            (Some(""), "tools/call", "{}", m),
            (None, "tools/call", &modern, m),
            (Some("2025-11-25"), "tools/call", &modern, m),
            (Some("2025-11-25"), "tools/call", &legacy, m),
            (None, "tools/call", &odd, l),
            (Some("2026-07-28"), "tools/call", &odd, m),
            (None, "server/discover", &modern, m),
            (None, "initialize", "{}", l),
            (Some("2026-07-28"), "initialize", "{}", l),
            (Some("2026-07-28"), "initialize", &legacy, l),
            (None, "initialize", &modern, m),
            (None, "initialize", &claim("\"2099-01-01\""), m),
        ];
        for (header, method, params, era) in table {
            let body =
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
            let peek = peek(body.as_bytes()).unwrap();
            assert_eq!(classify(*header, &peek), *era, "{header:?} {body}");
        }
        // A notification of that name is no handshake; a response follows the header.
        let notification = peek(br#"{"jsonrpc":"2.0","method":"initialize"}"#).unwrap();
        assert_eq!(classify(Some("2026-07-28"), &notification), m);
        let response = peek(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#).unwrap();
        assert_eq!(classify(Some("2025-11-25"), &response), l);
        assert_eq!(classify(Some("2026-07-28"), &response), m);
    }
}
