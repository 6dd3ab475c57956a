//! A running node takes over another configuration: all of it, or nothing.
//!
//! Whoever has a new configuration (a signal, a changed file, the cluster) calls [`Reload::apply`]. Every
//! part of the node first prepares its share, which is all that can fail, and only when all have prepared
//! does any take over. What a part takes over it takes over without dropping a call.

use std::sync::Arc;

use holdfast_admin::AdminSettings;
use holdfast_config::{Change, Config};
use holdfast_control::{Control, Plan};
use holdfast_proxy::Proxy;

use crate::descriptors;
use crate::telemetry::Logs;

/// Takes over configurations, one after another.
pub(crate) struct Reload {
    proxy: Arc<Proxy>,
    control: Arc<Control>,
    admin: AdminSettings,
    logs: Logs,
    /// One at a time: what is prepared is prepared for what runs.
    turn: std::sync::Mutex<()>,
}

// === impl Reload ===

impl Reload {
    pub(crate) fn new(
        proxy: Arc<Proxy>,
        control: Arc<Control>,
        admin: AdminSettings,
        logs: Logs,
    ) -> Self {
        Self { proxy, control, admin, logs, turn: std::sync::Mutex::default() }
    }

    /// The configuration that this node runs.
    pub(crate) fn running(&self) -> Arc<Config> {
        self.proxy.running()
    }

    /// What a configuration would change. Nothing is touched.
    ///
    /// # Errors
    /// Why it could not be taken over, for the operator.
    pub(crate) fn check(&self, new: &Config) -> anyhow::Result<Vec<Change>> {
        let _turn = self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let changes = self.running().difference(new);
        if changes.is_empty() {
            return Ok(changes);
        }
        let proxy = self.proxy.prepare(Arc::new(new.clone()))?;
        let plane = Arc::new(proxy.servers());
        drop(self.control.prepare(Plan::of(new), plane, new.notify.clone()));
        drop(self.admin.prepare(&new.admin)?);
        drop(Logs::prepare(&new.log)?);
        Ok(changes)
    }

    /// Takes over a configuration: returns what it changes; nothing, and then nothing was touched, where
    /// it means the same. Does not wait for what has to end because of it. To be called on the runtime
    /// that the control plane was started on.
    ///
    /// # Errors
    /// Why not, for the operator; nothing was changed. Where it is for settings that need a restart, there
    /// is a [`holdfast_proxy::Refused`] in it that has them.
    pub(crate) fn apply(&self, new: Config) -> anyhow::Result<Vec<Change>> {
        let _turn = self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let changes = self.running().difference(&new);
        if changes.is_empty() {
            return Ok(changes);
        }
        let new = Arc::new(new);

        // === prepare: all that can fail ===
        let proxy = self.proxy.prepare(Arc::clone(&new))?;
        let plane = Arc::new(proxy.servers());
        let control = self.control.prepare(Plan::of(&new), plane, new.notify.clone());
        let admin = self.admin.prepare(&new.admin)?;
        let logs = Logs::prepare(&new.log)?;

        // === commit: nothing that can ===
        descriptors::raise(new.limits.connections, "limits.connections");
        self.logs.commit(logs);
        self.proxy.commit(proxy);
        self.control.commit(control);
        self.admin.commit(admin);
        for change in &changes {
            tracing::info!(%change, "configuration");
        }
        for notice in &new.notices {
            tracing::warn!("{notice}");
        }
        Ok(changes)
    }

    /// What runs is this version of the cluster's configuration.
    pub(crate) fn runs(&self, version: u64) {
        self.control.runs(version);
    }
}
