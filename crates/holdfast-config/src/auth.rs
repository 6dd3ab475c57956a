//! `auth`: who may call. Keys are kept as hashes, so that the file gives none away.

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
}
