//! `node`: what makes this process itself, as opposed to a copy of it.

use std::path::PathBuf;

use secrecy::SecretString;

use crate::field::Field;
use crate::health::NodeHealth;
use crate::section::Section;

/// Who this node is and what it keeps between two starts.
#[derive(Clone, Debug)]
pub struct Node {
    /// A name for people: in logs, `/health` and `status`. 1 to 64 of `[A-Za-z0-9._-]`.
    pub id: String,
    /// Where the node may write. `None`: it writes nothing.
    pub data_dir: Option<PathBuf>,
    /// Seals event ids, so that a client can resume a stream after a restart. At least 32
    /// characters. `None`: a random secret for this process's life.
    pub secret: Option<SecretString>,
    /// Where the node is, so that near instances go first. 1 to 64 of `[A-Za-z0-9._-]`.
    pub region: Option<String>,
    /// When the node itself is not well. Nothing measures that yet.
    pub health: NodeHealth,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            id: "holdfast".into(),
            data_dir: None,
            secret: None,
            region: None,
            health: NodeHealth::default(),
        }
    }
}

// === impl Node ===

/// What sealing needs at least, in characters.
pub(crate) const LEAST_SECRET: usize = 32;

impl Node {
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let mut node = Self::default();
        if let Some(id) = section.field("id").and_then(|field| read_id(&field)) {
            node.id = id;
        }
        node.data_dir = section.text("data_dir").map(PathBuf::from);
        node.secret = section.secret("secret", LEAST_SECRET);
        node.region = section.field("region").and_then(|field| read_id(&field));
        if let Some(health) = section.field("health").and_then(|field| field.section()) {
            node.health = NodeHealth::read(health);
        }
        section.finish();
        node
    }
}

/// What an id may look like, for nodes and instances.
pub(crate) const ID_RULE: &str = "1 to 64 letters, digits, dots, dashes and underscores";

pub(crate) fn is_id(text: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    (1..=64).contains(&text.len()) && text.bytes().all(known)
}

/// An id, or a problem.
pub(crate) fn read_id(field: &Field<'_>) -> Option<String> {
    let id = field.text()?;
    if is_id(&id) {
        return Some(id);
    }
    field.wrong("an id", ID_RULE, "write something like gateway-1");
    None
}
