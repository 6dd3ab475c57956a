//! `sessions`: where client sessions are kept and for how long.

use std::time::Duration;

use crate::redis::Redis;
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
    /// A Redis beside the nodes: sessions last as long as it keeps them.
    Redis,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { store: StoreKind::Memory, redis: None, ttl: Duration::from_secs(3600) }
    }
}

// === impl Sessions ===

const STORES: [(&str, Option<StoreKind>); 3] = [
    ("memory", Some(StoreKind::Memory)),
    ("replicated", Some(StoreKind::Replicated)),
    ("redis", None),
];

/// What `sessions.store` may be.
pub(crate) const STORE: &str = "memory (one node), replicated (a cluster)";

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
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let mut sessions = Self::default();
        if let Some(field) = section.field("store") {
            match field.text().as_deref().map(parse_store) {
                Some(Ok(store)) => sessions.store = store,
                Some(Err((found, cure))) => field.problem(found, STORE, cure),
                None => {}
            }
        }
        let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
        section.duration("ttl", second * 10..=day * 30, &mut sessions.ttl);
        section.finish();
        sessions
    }
}

/// The store that a word names, or what is wrong with it and what to do.
pub(crate) fn parse_store(word: &str) -> Result<StoreKind, (String, &'static str)> {
    match STORES.iter().find(|(name, _)| *name == word) {
        Some((_, Some(store))) => Ok(*store),
        Some((name, None)) => Err((
            format!("this version has no {name} store"),
            "remove it: a cluster keeps sessions in its own replicated store, one node in memory",
        )),
        None => Err((
            format!("{} is not a store", crate::field::quoted(word)),
            "remove it: a cluster's nodes keep sessions together, one node in its memory",
        )),
    }
}
