//! A configuration as a list of settings: what its nodes compare, and what a reload changes.
//!
//! Every value of a [`Config`] is one line, `key = value`, under the key and in the form of the file.
//! The lines are what there is after defaults and environment have had their say, so two files that
//! mean the same are the same here. A secret is a line that says that there is one.
//!
//! | | made of | for |
//! |---|---|---|
//! | [`Config::canonical`] | all lines but those of one node's own | people, and the version |
//! | [`Config::version`] | SHA-256 of that | nodes that compare what they run |
//! | [`Config::difference`] | lines of which two configurations have different ones | a reload |

mod lines;
mod resilience;
mod sections;
mod servers;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use sha2::{Digest, Sha256};

use self::lines::{Lines, Setting};
use crate::Config;
use crate::field::join;

/// One setting that differs between two configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its key as in the file, list items and names of servers in it: `servers.docs.timeout`.
    pub key: String,
    /// What it was. `None`: it was not there. Never a secret's value.
    pub old: Option<String>,
    /// What it is to be. `None`: it is gone. Never a secret's value.
    pub new: Option<String>,
    /// Whether a running node can take it over.
    pub when: When,
}

/// When a changed setting takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// A running node takes it over without dropping a call.
    Running,
    /// The node has to be started again.
    Restart,
}

/// What identifies a configuration: nodes with the same one run the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub [u8; 32]);

/// What a running node cannot change: what it is, where it listens, where its state is.
pub(crate) const RESTART: [&str; 14] = [
    "admin.address",
    "admin.tls",
    "cluster",
    "listen.address",
    "listen.tls",
    "listen.workers",
    "log.format",
    "node.data_dir",
    "node.id",
    "node.secret",
    "reload",
    "sessions.redis",
    "sessions.store",
    "sessions.url",
];

/// What differs from node to node by right, and so says nothing about the version.
pub(crate) const OWN: [&str; 13] = [
    "admin.address",
    "admin.tls",
    "cluster.advertise",
    "cluster.listen",
    "cluster.node_id",
    "listen.address",
    "listen.tls",
    "listen.workers",
    "node.data_dir",
    "node.id",
    "node.region",
    "node.regions",
    "reload",
];

/// Whether `key` is one of `keys` or below one.
pub(crate) fn is_among(key: &str, keys: &[&str]) -> bool {
    keys.iter().any(|known| {
        key.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    })
}

// === impl Config ===

/// What a server as a whole is, where it was not before or is no more.
const CONFIGURED: &str = "configured";

/// No lease lasts longer where there is no cluster to say otherwise.
const NO_LEASE: Duration = Duration::from_secs(1);

impl Config {
    /// For how long a node may send Writes after it was last heard of.
    pub fn lease(&self) -> Duration {
        self.cluster.as_ref().map_or(NO_LEASE, |cluster| cluster.failover_timeout)
    }

    /// Every setting that the nodes of a cluster have in common, one per line as `key = value`,
    /// sorted. Without notices, and without any secret's value.
    pub fn canonical(&self) -> String {
        let mut text = String::new();
        for (key, setting) in self.settings() {
            if !is_among(&key, &OWN) {
                text.push_str(&key);
                text.push_str(" = ");
                text.push_str(setting.shown());
                text.push('\n');
            }
        }
        text
    }

    /// SHA-256 of [`Self::canonical`]. A secret that changes does not change it.
    pub fn version(&self) -> Version {
        Version(Sha256::digest(self.canonical()).into())
    }

    /// The settings in which `new` differs, sorted by key. A secret that changed is among them, and
    /// not what it was or is. A server that comes or goes is one change.
    pub fn difference(&self, new: &Self) -> Vec<Change> {
        let (gone, come) = (self.servers_beyond(new), new.servers_beyond(self));
        let whole: Vec<&str> = gone.iter().chain(&come).map(String::as_str).collect();
        let parts = |config: &Self| {
            let mut settings = config.settings();
            settings.retain(|key, _| !is_among(key, &whole));
            settings
        };
        let configured = || Some(CONFIGURED.to_owned());
        let mut changes: Vec<Change> = Vec::new();
        changes.extend(gone.iter().map(|key| Change::shown(key.clone(), configured(), None)));
        changes.extend(come.iter().map(|key| Change::shown(key.clone(), None, configured())));
        let mut old = parts(self);
        for (key, now) in parts(new) {
            let before = old.remove(&key);
            if before.as_ref() != Some(&now) {
                changes.push(Change::of(key, before, Some(now)));
            }
        }
        changes.extend(old.into_iter().map(|(key, before)| Change::of(key, Some(before), None)));
        changes.sort_by(|a, b| a.key.cmp(&b.key));
        changes
    }

    /// The keys of the servers that `other` does not have.
    fn servers_beyond(&self, other: &Self) -> Vec<String> {
        let names = self.servers.keys().filter(|name| !other.servers.contains_key(*name));
        names.map(|name| join("servers", name)).collect()
    }

    fn settings(&self) -> BTreeMap<String, Setting> {
        let mut lines = Lines::default();
        self.write(&mut lines);
        lines.finish()
    }
}

// === impl Change ===

impl Change {
    fn of(key: String, old: Option<Setting>, new: Option<Setting>) -> Self {
        let shown = |setting: Option<Setting>| setting.map(|setting| setting.shown().to_owned());
        Self::shown(key, shown(old), shown(new))
    }

    fn shown(key: String, old: Option<String>, new: Option<String>) -> Self {
        let when = if is_among(&key, &RESTART) { When::Restart } else { When::Running };
        Self { key, old, new, when }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (old, new) = (self.old.as_deref(), self.new.as_deref());
        match (old, new) {
            (Some(old), Some(new)) if old == new => write!(f, "{}: changed (not shown)", self.key)?,
            (old, new) => write!(
                f,
                "{}: {} → {}",
                self.key,
                old.unwrap_or("nothing"),
                new.unwrap_or("nothing")
            )?,
        }
        match self.when {
            When::Running => Ok(()),
            When::Restart => write!(f, " (after a restart)"),
        }
    }
}

// === impl Version ===

impl Version {
    /// The first 12 digits: enough for people to tell versions apart.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({self})")
    }
}
