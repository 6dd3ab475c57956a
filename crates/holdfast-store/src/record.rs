//! The record of one session.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_engine::replicated::{KvEntry, Origin};
use holdfast_mcp::version::Version;
use serde::{Deserialize, Serialize};

use crate::encode::{Malformed, decode, encode};

/// A session's key: the 128 random bits of the id that the client holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(pub u128);

/// What ties a session to an instance's own session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The instance's mark: what it is known by on every node and under every configuration.
    pub instance: u32,
    /// The id that the instance gave its session; none for a connection that is the session.
    pub server_session: Option<Arc<str>>,
    /// Counts the bindings of this session from 1; an answer to an older one is dropped.
    pub generation: u32,
    /// The node that holds the open connection, where a connection is the session (stdio, WebSocket
    /// and HTTP+SSE servers).
    pub node: Option<Origin>,
}

/// What the client of a session that was moved to another instance has not been told of it yet. Any node may
/// have the client's stream, and any other its next call: who tells it takes it out of here first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The mark of the instance that it was moved from.
    pub from: u32,
    /// The generation of the binding that it was moved by.
    pub generation: u32,
    /// By a line on its standing stream.
    pub by_log: bool,
    /// By a member of an answer's `_meta`.
    pub by_answer: bool,
}

/// The lists whose changes a server announces (`listChanged` in its capabilities).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announces {
    pub tools: bool,
    pub prompts: bool,
    pub resources: bool,
}

/// Everything a node needs to go on with a session that it has never seen: who it belongs to, how it
/// was opened, and where it is bound. About 1 KB when stored.
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
    /// What its client is still to be told of its last move.
    pub notice: Option<Notice>,
    /// The node that holds the client, where the client's connection is the session (HTTP+SSE and
    /// WebSocket clients).
    pub holder: Option<Origin>,
    /// When it was opened, in milliseconds since the Unix epoch.
    pub created: u64,
    /// When it ends unless it is touched, in milliseconds since the Unix epoch; none: never by itself.
    /// A write never moves a deadline that this node knows of to an earlier time.
    pub deadline: Option<u64>,
    /// Compare-and-set guard: rises with every write, and is never used twice. What a caller puts
    /// here in a new record does not count.
    pub revision: u64,
}

/// What is stored at a session's key.
#[derive(Debug)]
pub(crate) enum Stored {
    Live(Box<SessionRecord>),
    /// Deleted; the key stays taken until the entry's deadline.
    Tombstone,
}

const FORMAT: u8 = 1;
/// Of a session with a notice, and of no other: nodes that know the first format alone read all the rest. It is
/// written where every node reads it ([`Store::write_notices`](crate::Store::write_notices)).
const WITH_NOTICE: u8 = 2;

#[derive(Serialize, Deserialize)]
enum Wire<'a> {
    #[serde(borrow)]
    Live(Box<WireSession<'a>>),
    Tombstone,
}

#[derive(Serialize, Deserialize)]
struct WireSession<'a> {
    principal: u64,
    server: &'a str,
    version: &'a str,
    initialize: Bytes,
    initialized: bool,
    log_level: Option<Bytes>,
    #[serde(borrow)]
    subscriptions: BTreeMap<&'a str, Bytes>,
    announces: Announces,
    instance: u32,
    server_session: Option<&'a str>,
    generation: u32,
    node: Option<Origin>,
    holder: Option<Origin>,
    created: u64,
}

/// A live session of [`WITH_NOTICE`].
#[derive(Serialize, Deserialize)]
struct WireNoticed<'a> {
    #[serde(borrow)]
    session: WireSession<'a>,
    notice: Notice,
}

// === impl SessionKey ===

impl std::fmt::Debug for SessionKey {
    /// Shows a third of the key: enough to follow a session in a log, not enough to use it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:010x}…", self.0 >> 88)
    }
}

// === impl SessionRecord ===

impl SessionRecord {
    /// `notices`: whether every node reads what is to be told; else it is left out.
    pub(crate) fn encode(&self, serial: u64, notices: bool) -> Result<Bytes, Malformed> {
        let subscriptions =
            self.subscriptions.iter().map(|(uri, body)| (&**uri, body.clone())).collect();
        let wire = WireSession {
            principal: self.principal,
            server: &self.server,
            version: self.version.as_str(),
            initialize: self.initialize.clone(),
            initialized: self.initialized,
            log_level: self.log_level.clone(),
            subscriptions,
            announces: self.announces,
            instance: self.binding.instance,
            server_session: self.binding.server_session.as_deref(),
            generation: self.binding.generation,
            node: self.binding.node,
            holder: self.holder,
            created: self.created,
        };
        match self.notice.filter(|_| notices) {
            None => encode(FORMAT, serial, &Wire::Live(Box::new(wire))),
            Some(notice) => encode(WITH_NOTICE, serial, &WireNoticed { session: wire, notice }),
        }
    }

    fn from_wire(
        key: SessionKey,
        wire: WireSession<'_>,
        entry: &KvEntry,
    ) -> Result<Self, Malformed> {
        let subscriptions =
            wire.subscriptions.into_iter().map(|(uri, body)| (Box::from(uri), body)).collect();
        Ok(Self {
            key,
            principal: wire.principal,
            server: Arc::from(wire.server),
            version: Version::parse(wire.version).ok_or(Malformed::Version)?,
            initialize: wire.initialize,
            initialized: wire.initialized,
            log_level: wire.log_level,
            subscriptions,
            announces: wire.announces,
            binding: Binding {
                instance: wire.instance,
                server_session: wire.server_session.map(Arc::from),
                generation: wire.generation,
                node: wire.node,
            },
            notice: None,
            holder: wire.holder,
            created: wire.created,
            deadline: entry.deadline,
            revision: entry.revision,
        })
    }
}

// === impl Stored ===

impl Stored {
    pub(crate) fn decode(key: SessionKey, entry: &KvEntry) -> Result<Self, Malformed> {
        if entry.value.first() == Some(&WITH_NOTICE) {
            let WireNoticed { session, notice } = decode(WITH_NOTICE, &entry.value)?;
            let record = SessionRecord::from_wire(key, session, entry)?;
            return Ok(Self::Live(Box::new(SessionRecord { notice: Some(notice), ..record })));
        }
        Ok(match decode(FORMAT, &entry.value)? {
            Wire::Live(wire) => Self::Live(Box::new(SessionRecord::from_wire(key, *wire, entry)?)),
            Wire::Tombstone => Self::Tombstone,
        })
    }

    pub(crate) fn tombstone(serial: u64) -> Result<Bytes, Malformed> {
        encode(FORMAT, serial, &Wire::Tombstone)
    }
}
