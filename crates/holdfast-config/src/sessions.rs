//! `sessions`: where client sessions are kept and for how long.

use std::time::Duration;

/// Where sessions are kept and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sessions {
    /// What holds them.
    pub store: StoreKind,
    /// How long an unused session lives; use renews it. 10s to 30d.
    pub ttl: Duration,
}

/// What can hold sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// This process's memory: sessions end with it.
    Memory,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { store: StoreKind::Memory, ttl: Duration::from_secs(3600) }
    }
}
