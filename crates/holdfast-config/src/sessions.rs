//! `sessions`: where client sessions are kept and for how long.

use std::time::Duration;

use crate::nearest::nearest;
use crate::redis::{self, Redis};
use crate::section::Section;

/// Where sessions are kept and for how long.
#[derive(Clone, Debug)]
pub struct Sessions {
    /// What holds them.
    pub store: StoreKind,
    /// The Redis; given with [`StoreKind::Redis`] and only there.
    pub redis: Option<Redis>,
    /// How long an unused session lives; use renews it. 10s to 30d.
    pub ttl: Duration,
}

/// What can hold sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// This process's memory: sessions end with it.
    Memory,
    /// The nodes of the cluster together: sessions last while a majority of them does.
    Replicated,
    /// A Redis beside the nodes of the cluster: sessions last as long as it keeps them.
    Redis,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { store: StoreKind::Memory, redis: None, ttl: Duration::from_secs(3600) }
    }
}

// === impl Sessions ===

const STORES: [(&str, StoreKind); 3] = [
    ("memory", StoreKind::Memory),
    ("replicated", StoreKind::Replicated),
    ("redis", StoreKind::Redis),
];

/// What `sessions.store` may be.
pub(crate) const STORE: &str = "memory (one node), replicated or redis (a cluster)";

impl StoreKind {
    /// The word for it in the configuration and in status.
    pub fn label(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Replicated => "replicated",
            Self::Redis => "redis",
        }
    }
}

impl Sessions {
    /// The section, and what it says of a Redis, which is judged once the environment has spoken.
    pub(crate) fn read(mut section: Section<'_>) -> (Self, redis::Draft) {
        let mut sessions = Self::default();
        if let Some(field) = section.field("store") {
            match field.text().as_deref().map(parse_store) {
                Some(Ok(store)) => sessions.store = store,
                Some(Err((found, cure))) => field.problem(found, STORE, &cure),
                None => {}
            }
        }
        let draft = redis::Draft::read(&mut section);
        let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
        section.duration("ttl", second * 10..=day * 30, &mut sessions.ttl);
        section.finish();
        (sessions, draft)
    }
}

/// The store that a word names, or what is wrong with it and what to do.
pub(crate) fn parse_store(word: &str) -> Result<StoreKind, (String, String)> {
    if let Some((_, store)) = STORES.iter().find(|(name, _)| *name == word) {
        return Ok(*store);
    }
    let cure = match nearest(word, &STORES.map(|(name, _)| name)) {
        Some(name) => format!("did you mean {name}?"),
        None => {
            "remove it: a cluster's nodes keep sessions together, one node in its memory".into()
        }
    };
    Err((format!("{} is not a store", crate::field::quoted(word)), cure))
}
