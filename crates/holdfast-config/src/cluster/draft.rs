//! What the file says about the cluster, before the environment has had its say.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use secrecy::SecretString;

use super::{LEAST_SECRET, PORT, address};
use crate::field::{Field, quoted};
use crate::listen;
use crate::node::{ID_RULE, is_id, read_id};
use crate::problem::Problem;
use crate::section::Section;
use crate::tree::{Entry, Value};

/// How a node is to run, where the environment says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Standalone,
    Cluster,
}

/// What is known so far. Whatever had a problem has said so and counts as `doubtful`, so that no
/// second problem follows from it.
pub(crate) struct Draft {
    pub(crate) mode: Option<Mode>,
    pub(crate) node_id: Option<String>,
    pub(crate) secret: Option<SecretString>,
    pub(crate) previous_secret: Option<SecretString>,
    pub(crate) nodes: BTreeMap<String, String>,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) advertise: Option<String>,
    pub(crate) failover_timeout: Option<Duration>,
    /// Keys whose value was given but could not be read.
    pub(crate) doubtful: Vec<&'static str>,
}

// === impl Draft ===

pub(crate) const LEAST_TIMEOUT: Duration = Duration::from_millis(300);
pub(crate) const MOST_TIMEOUT: Duration = Duration::from_secs(60);

impl Draft {
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let mut draft = Self::empty();
        draft.node_id = draft.keep("node_id", section.field("node_id"), read_id);
        // The variable takes its place, and has one problem of its own if it has any.
        let replaced = (section.context.env)("HOLDFAST_CLUSTER_SECRET");
        draft.secret = match replaced.filter(|text| !text.trim().is_empty()) {
            Some(_) => section.field("secret").and(None),
            None => section.secret("secret", LEAST_SECRET),
        };
        if draft.secret.is_none() && !section.given(&["secret"]).is_empty() {
            draft.doubtful.push("secret");
        }
        draft.previous_secret = read_previous(&mut section);
        if let Some(field) = section.field("nodes") {
            draft.read_nodes(&field);
        }
        draft.listen = draft.keep("listen", section.field("listen"), read_listen);
        draft.advertise = section.field("advertise").and_then(|field| read_node(&field));
        draft.failover_timeout = section
            .field("failover_timeout")
            .and_then(|field| field.duration(&(LEAST_TIMEOUT..=MOST_TIMEOUT)));
        section.finish();
        draft
    }

    /// Nothing said about a cluster.
    pub(crate) fn empty() -> Self {
        Self {
            mode: None,
            node_id: None,
            secret: None,
            previous_secret: None,
            nodes: BTreeMap::new(),
            listen: None,
            advertise: None,
            failover_timeout: None,
            doubtful: Vec::new(),
        }
    }

    pub(crate) fn is_doubtful(&self, key: &str) -> bool {
        self.doubtful.contains(&key)
    }

    fn keep<'a, T>(
        &mut self,
        key: &'static str,
        field: Option<Field<'a>>,
        read: impl FnOnce(&Field<'a>) -> Option<T>,
    ) -> Option<T> {
        let value = read(&field?);
        if value.is_none() {
            self.doubtful.push(key);
        }
        value
    }

    fn read_nodes(&mut self, field: &Field<'_>) {
        let Some(entries) = field.entries() else {
            self.doubtful.push("nodes");
            return;
        };
        for (entry, field) in entries {
            let named = check_name(entry, &field);
            match read_node(&field) {
                Some(node) if named => {
                    self.nodes.insert(entry.key.clone(), node);
                }
                _ => self.doubtful.push("nodes"),
            }
        }
    }
}

fn check_name(entry: &Entry, field: &Field<'_>) -> bool {
    let fits = is_id(&entry.key);
    if !fits {
        field.context.problem(Problem {
            place: entry.key_place.clone(),
            key: field.path.clone(),
            found: format!("{} is not a node's name", quoted(&entry.key)),
            allowed: ID_RULE.into(),
            cure: "write something like gateway-1".into(),
        });
    }
    fits
}

/// `HOST:PORT` of a node.
fn read_node(field: &Field<'_>) -> Option<String> {
    if matches!(field.node.value, Value::Null) {
        let cure = format!("write something like 10.0.0.1:{PORT}");
        field.wrong("an address", address::ADDRESS, &cure);
        return None;
    }
    let text = field.text()?;
    match address::check(&text) {
        Ok(()) => Some(text.to_ascii_lowercase()),
        Err(why) => {
            let found = format!("{} {why}", field.shown());
            field.problem(found, address::ADDRESS, &cure_for(&text));
            None
        }
    }
}

/// What to write in place of an address that cannot be called.
pub(crate) fn cure_for(text: &str) -> String {
    let with_port = format!("{text}:{PORT}");
    if address::check(&with_port).is_ok() && !text.contains(':') {
        format!("write {with_port}")
    } else {
        format!("write something like 10.0.0.1:{PORT}")
    }
}

fn read_listen(field: &Field<'_>) -> Option<SocketAddr> {
    let text = field.text()?;
    match parse_listen(&text) {
        Ok(address) => Some(address),
        Err(why) => {
            let found = format!("{} {why}", field.shown());
            field.problem(found, LISTEN, &format!("write something like 127.0.0.1:{PORT}"));
            None
        }
    }
}

/// What `cluster.listen` may be.
pub(crate) const LISTEN: &str = "IP:PORT, the port from 1 to 65535";

pub(crate) fn parse_listen(text: &str) -> Result<SocketAddr, &'static str> {
    let address = listen::parse_address(text)?;
    if address.port() == 0 {
        return Err("takes any free port, and the other nodes could not find it");
    }
    Ok(address)
}

/// An empty one is none, so that one file can serve before, during and after a change of secrets.
fn read_previous(section: &mut Section<'_>) -> Option<SecretString> {
    let field = section.field("previous_secret")?.hidden();
    match field.text()? {
        text if text.is_empty() => None,
        _ => section.secret("previous_secret", LEAST_SECRET),
    }
}
