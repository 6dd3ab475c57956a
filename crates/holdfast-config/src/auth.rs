//! `auth`: who may call. Keys are kept as hashes, so that the file gives none away.

use crate::field::Field;
use crate::section::Section;

/// Who may call. Without keys, everyone is one anonymous principal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Auth {
    /// A principal may have several keys, so that one can be replaced without a gap.
    pub keys: Vec<ApiKey>,
}

/// One API key, as a hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// The named owner. 1 to 128 visible ASCII characters.
    pub principal: String,
    /// SHA-256 of the key's text.
    pub sha256: [u8; 32],
    /// Calls a minute of its principal, in place of `limits.requests_per_minute`. 1 to 1,000,000.
    pub requests_per_minute: Option<u32>,
    /// Calls of its principal at once after a pause; `None`: a tenth of a minute's.
    pub burst: Option<u32>,
}

// === impl Auth ===

const CURE: &str = "make a key with `holdfast key new PRINCIPAL` and paste the line it prints";

impl Auth {
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let mut keys: Vec<ApiKey> = Vec::new();
        let items = section.field("keys").and_then(|field| field.items()).unwrap_or_default();
        for item in &items {
            let Some(key) = ApiKey::read(item) else { continue };
            if let Some(known) = keys.iter().find(|known| known.differs_from(&key)) {
                item.problem(
                    format!("another rate than at another key of {}", known.principal),
                    "one rate for each principal",
                    "write it at one of its keys alone, or alike at all of them",
                );
            }
            match keys.iter().find(|known| known.sha256 == key.sha256) {
                Some(known) => item.problem(
                    format!("this key is already that of {}", known.principal),
                    "each key once",
                    "remove one of the two, or make a new key",
                ),
                None => keys.push(key),
            }
        }
        section.finish();
        Self { keys }
    }
}

impl ApiKey {
    /// Whether both give the same principal a rate, and not the same one.
    fn differs_from(&self, other: &Self) -> bool {
        let rate = |key: &Self| Some((key.requests_per_minute?, key.burst));
        let both = rate(self).zip(rate(other));
        self.principal == other.principal && both.is_some_and(|(one, two)| one != two)
    }

    fn read(item: &Field<'_>) -> Option<Self> {
        let mut section = item.section()?;
        let principal = section.field("principal").and_then(|field| {
            let name = field.text()?;
            if (1..=128).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic()) {
                return Some(name);
            }
            let allowed = "1 to 128 visible ASCII characters";
            field.wrong("a principal's name", allowed, "write something like team-a");
            None
        });
        let sha256 = section.field("sha256").and_then(|field| {
            let field = field.hidden();
            let digest = parse_digest(&field.text()?);
            if digest.is_none() {
                let allowed =
                    "the SHA-256 of the key, as 64 hexadecimal digits; never the key itself";
                field.wrong("a SHA-256", allowed, CURE);
            }
            digest
        });
        let lacking: Vec<_> = ["principal", "sha256"]
            .into_iter()
            .filter(|key| section.given(&[key]).is_empty())
            .collect();
        if !lacking.is_empty() {
            let found = format!("a key without {}", lacking.join(" and "));
            item.problem(found, "principal and sha256", CURE);
        }
        let (mut requests_per_minute, mut burst) = (None, None);
        section.rate(&mut requests_per_minute, &mut burst);
        section.finish();
        Some(Self { principal: principal?, sha256: sha256?, requests_per_minute, burst })
    }
}

fn parse_digest(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}
