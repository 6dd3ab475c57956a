//! The record of one session.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_mcp::version::Version;

/// A session's key: the 128 random bits of the id that the client holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(pub u128);

impl std::fmt::Debug for SessionKey {
    /// Shows a third of the key: enough to follow a session in a log, not enough to use it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:010x}…", self.0 >> 88)
    }
}

/// What ties a session to an instance's own session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Index of the instance within its server's configuration.
    pub instance: u16,
    /// The id that the instance gave its session; none for a connection that is the session.
    pub server_session: Option<Arc<str>>,
    /// Counts the bindings of this session from 1; an answer to an older one is dropped.
    pub generation: u32,
}

/// The lists whose changes a server announces (`listChanged` in its capabilities).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Announces {
    pub tools: bool,
    pub prompts: bool,
    pub resources: bool,
}

/// Everything a node needs to go on with a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Who may use it, and how it is found.
    pub key: SessionKey,
    /// Digest of the principal's name.
    pub principal: u64,
    /// The logical server.
    pub server: Arc<str>,
    /// What the server agreed to speak.
    pub version: Version,
    /// The client's `initialize`, byte for byte: replayed when the instance has lost its session.
    pub initialize: Bytes,
    /// Whether the client has sent `notifications/initialized`.
    pub initialized: bool,
    /// The client's last `logging/setLevel` that the server accepted.
    pub log_level: Option<Bytes>,
    /// The `resources/subscribe` requests in force, by URI.
    pub subscriptions: BTreeMap<Box<str>, Bytes>,
    /// Which lists the server said it would announce changes of.
    pub announces: Announces,
    /// Where it is bound.
    pub binding: Binding,
    /// Compare-and-set guard, from 1.
    pub revision: u64,
}
