//! What is one node's own of a file, or needs a restart: it never leaves the node.

use crate::field::join;
use crate::settings::{OWN, RESTART, is_among};
use crate::tree::{Entry, Node, Value};

/// Whether the cluster has no say in the key.
pub(super) fn is_own(path: &str) -> bool {
    is_among(path, &RESTART) || is_among(path, &OWN)
}

/// That part of a file; none if there is nothing of the kind.
pub(super) fn of(tree: &Node) -> Option<Node> {
    below(tree, "")
}

fn below(node: &Node, path: &str) -> Option<Node> {
    let Value::Map(entries) = &node.value else { return None };
    let keep = |entry: &Entry| {
        let path = join(path, &entry.key);
        let node = if is_own(&path) { Some(entry.node.clone()) } else { below(&entry.node, &path) };
        node.map(|node| Entry { node, ..entry.clone() })
    };
    let kept: Vec<Entry> = entries.iter().filter_map(keep).collect();
    (!kept.is_empty()).then(|| Node { value: Value::Map(kept), ..node.clone() })
}

/// Both together. They have no value in common, only the sections around their values.
pub(super) fn merge(own: Option<Node>, shared: Option<Node>) -> Option<Node> {
    let (own, mut shared) = match (own, shared) {
        (Some(own), Some(shared)) => (own, shared),
        (own, shared) => return own.or(shared),
    };
    match (own.value, &mut shared.value) {
        (Value::Map(own), Value::Map(entries)) => {
            for entry in own {
                match entries.iter().position(|it| it.key == entry.key) {
                    Some(at) => {
                        let both = entries.remove(at);
                        let merged = merge(Some(entry.node), Some(both.node.clone()));
                        let node = merged.unwrap_or_else(|| both.node.clone());
                        entries.insert(at, Entry { node, ..both });
                    }
                    None => entries.push(entry),
                }
            }
            Some(shared)
        }
        (Value::Map(own), Value::Null) => Some(Node { value: Value::Map(own), ..shared }),
        _ => Some(shared),
    }
}
