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
    /// Where the node is, and then the other regions, the nearest first, so that near instances go first.
    /// Each 1 to 64 of `[A-Za-z0-9._-]`. Empty: all are as near. One that is not among them is farther than all.
    pub regions: Vec<String>,
    /// When the node itself is not well. Nothing measures that yet.
    pub health: NodeHealth,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            id: "holdfast".into(),
            data_dir: None,
            secret: None,
            regions: Vec::new(),
            health: NodeHealth::default(),
        }
    }
}

// === impl Node ===

/// What sealing needs at least, in characters.
pub(crate) const LEAST_SECRET: usize = 32;

/// The most regions whose order is told.
const MOST_REGIONS: usize = 16;

impl Node {
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let mut node = Self::default();
        if let Some(id) = section.field("id").and_then(|field| read_id(&field)) {
            node.id = id;
        }
        node.data_dir = section.text("data_dir").map(PathBuf::from);
        node.secret = section.secret("secret", LEAST_SECRET);
        node.regions = read_regions(&mut section);
        if let Some(health) = section.field("health").and_then(|field| field.section()) {
            node.health = NodeHealth::read(health);
        }
        section.finish();
        node
    }
}

/// `region`, or `regions` in its place.
fn read_regions(section: &mut Section<'_>) -> Vec<String> {
    let own = section.field("region");
    let Some(all) = section.field("regions") else {
        return own.and_then(|field| read_id(&field)).into_iter().collect();
    };
    if let Some(own) = own {
        let cure = "write the node's own as the first of regions, and leave region out";
        own.problem("region and regions".into(), "one of the two", cure);
    }
    let Some(items) = all.items() else { return Vec::new() };
    if items.len() > MOST_REGIONS {
        let (found, allowed) =
            (format!("a list of {}", items.len()), format!("at most {MOST_REGIONS}"));
        all.problem(found, &allowed, "name the nearest: all others are as far");
        return Vec::new();
    }
    let mut regions = Vec::new();
    for item in &items {
        let Some(region) = read_id(item) else { continue };
        if regions.contains(&region) {
            let found = format!("{region} stands here a second time");
            item.problem(found, "each region once", "leave it where it is nearest");
        } else {
            regions.push(region);
        }
    }
    regions
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
