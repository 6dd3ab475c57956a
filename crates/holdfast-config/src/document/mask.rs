//! Secrets that are written out stay behind when a file becomes a document, and are put in again on each
//! node.

use crate::context::{Guard, Readings};
use crate::field::join;
use crate::problem::Problem;
use crate::tree::{Entry, Node, Value};

use super::{File, own, render};

/// Words before a credential in an `Authorization` header, which are none themselves.
const SCHEMES: [&str; 5] = ["Bearer ", "Basic ", "Token ", "ApiKey ", "Key "];

/// Where a server is: a credential belongs to that.
const PLACES: [&str; 9] = [
    "url",
    "serverUrl",
    "httpUrl",
    "instances",
    "command",
    "args",
    "type",
    "transport",
    "transportType",
];

/// What a cluster agrees on of a file; none if that is nothing.
pub(super) fn shared(tree: &Node, readings: &Readings) -> Option<Node> {
    keep(tree, "", readings)
}

fn keep(node: &Node, path: &str, readings: &Readings) -> Option<Node> {
    let value = match &node.value {
        Value::Null => Value::Null,
        Value::Scalar(text) => Value::Scalar(match readings.guarded.get(path) {
            Some(guard) => masked(text, *guard, path),
            None => text.clone(),
        }),
        Value::List(items) => {
            let items = items.iter().enumerate();
            Value::List(items.filter_map(|(n, it)| keep(it, &item(path, n), readings)).collect())
        }
        Value::Map(entries) => {
            let is_used = |path: &str| readings.guarded.get(path) != Some(&Guard::Unused);
            let is_shared =
                |path: &str| readings.read.contains(path) && is_used(path) && !own::is_own(path);
            let kept = entries.iter().filter_map(|entry| {
                let path = join(path, &entry.key);
                let node = is_shared(&path).then(|| keep(&entry.node, &path, readings))??;
                Some(Entry { node, ..entry.clone() })
            });
            let mut kept: Vec<Entry> = kept.collect();
            if !is_json(path) {
                kept.sort_by(|a, b| a.key.cmp(&b.key));
            }
            if kept.is_empty() && !entries.is_empty() {
                return None;
            }
            Value::Map(kept)
        }
    };
    Some(Node { value, ..node.clone() })
}

/// Whether the value is JSON for a server, which gets it in the order in which it is written.
fn is_json(path: &str) -> bool {
    path.split('.').any(|key| key == "arguments")
}

fn item(path: &str, n: usize) -> String {
    format!("{path}[{n}]")
}

fn marker(path: &str) -> String {
    format!("${{file:{path}}}")
}

fn masked(text: &str, guard: Guard, path: &str) -> String {
    let marker = marker(path);
    match guard {
        Guard::Whole => {
            let rest = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme));
            if is_reference(rest.unwrap_or(text)) { text.to_owned() } else { marker }
        }
        Guard::Unused => marker,
        Guard::Query => match text.split_once('?') {
            Some((before, query)) if !query.split('&').all(is_open) => format!("{before}?{marker}"),
            _ => text.to_owned(),
        },
        Guard::Path => {
            let host = text.find("://").map_or(0, |at| at + 3);
            let path_at = text[host..].find(['/', '?']).map(|at| host + at + 1);
            match path_at {
                Some(at) if at < text.len() && !ends_open(&text[at..]) => {
                    format!("{}/{marker}", &text[..at - 1])
                }
                _ => text.to_owned(),
            }
        }
    }
}

/// Whether what tells one hook from another comes from variables: the end of the path and all of the query.
fn ends_open(path: &str) -> bool {
    let (path, query) = path.split_once('?').map_or((path, None), |(it, query)| (it, Some(query)));
    let open_path = path.rsplit('/').find(|part| !part.is_empty()).is_none_or(is_open);
    open_path && query.is_none_or(|it| it.split('&').all(is_open))
}

/// Whether a part of an address has its value from a variable: `${NAME}` or `key=${NAME}`.
fn is_open(part: &str) -> bool {
    is_reference(part.split_once('=').map_or(part, |(_, value)| value))
}

/// Whether there is nothing but variables without a default of their own, perhaps with `:` in between.
fn is_reference(text: &str) -> bool {
    let part = |part: &str| {
        let inside = part.strip_prefix("${").and_then(|it| it.strip_suffix('}'));
        let inside = inside.map(|it| it.strip_prefix("env:").unwrap_or(it));
        let inside = inside.map(|it| it.strip_suffix(":-").unwrap_or(it));
        inside.is_some_and(|name| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        })
    };
    text.replace("}:${", "}\0${").split('\0').all(part)
}

/// A document's tree with the secrets of this node's files in it, the newest first.
pub(super) fn resolve(tree: &Node, files: &[&File], problems: &mut Vec<Problem>) -> Node {
    fill(tree, "", tree, files, problems)
}

fn fill(
    node: &Node,
    path: &str,
    tree: &Node,
    files: &[&File],
    problems: &mut Vec<Problem>,
) -> Node {
    let value = match &node.value {
        Value::Null => Value::Null,
        Value::Scalar(text) if is_masked(text, path) => {
            match files.iter().find_map(|file| found(tree, path, file)) {
                Some(node) => return node,
                None => problems.push(missing(node, path)),
            }
            node.value.clone()
        }
        Value::Scalar(text) => Value::Scalar(text.clone()),
        Value::List(items) => Value::List(
            items
                .iter()
                .enumerate()
                .map(|(n, it)| fill(it, &item(path, n), tree, files, problems))
                .collect(),
        ),
        Value::Map(entries) => Value::Map(
            entries
                .iter()
                .map(|entry| {
                    let path = join(path, &entry.key);
                    let node = fill(&entry.node, &path, tree, files, problems);
                    Entry { node, ..entry.clone() }
                })
                .collect(),
        ),
    };
    Node { value, ..node.clone() }
}

fn is_masked(text: &str, path: &str) -> bool {
    let before = text.strip_suffix(&marker(path));
    before.is_some_and(|it| it.is_empty() || it.ends_with(['?', '/']))
}

/// What the file has in place of the mark, if it says the same around it.
fn found(tree: &Node, path: &str, file: &File) -> Option<Node> {
    let shared = file.shared.as_ref()?;
    let there = path_in(shared, tree, path)?;
    let around = places(path);
    let same = |path: &String| sorted(at(tree, path)) == sorted(at(shared, path));
    let alike = shown(at(tree, path)) == shown(at(shared, &there)) && around.iter().all(same);
    let value = at(file.tree.as_ref()?, &there).filter(|_| alike)?;
    Some(value.clone())
}

/// Where another tree has what this one has at the path. An item of a list has no name: it is the one
/// that says the same, whatever its place; of several such ones the first is the first.
fn path_in(other: &Node, tree: &Node, path: &str) -> Option<String> {
    let Some((list, n, rest)) = item_of(tree, path) else { return Some(path.to_owned()) };
    let (mine, theirs) = (items(at(tree, list)), items(at(other, list)));
    let wanted = mine.get(n)?;
    let before = mine[..n].iter().filter(|it| *it == wanted).count();
    let mut alike = theirs.iter().enumerate().filter(|(_, it)| *it == wanted);
    alike.nth(before).map(|(n, _)| format!("{}{rest}", item(list, n)))
}

/// The list that a path leads through, the item in it, and the rest.
fn item_of<'p>(tree: &Node, path: &'p str) -> Option<(&'p str, usize, &'p str)> {
    path.match_indices('[').find_map(|(begins, _)| {
        let list = &path[..begins];
        let is_list = at(tree, list).is_some_and(|it| matches!(it.value, Value::List(_)));
        let (n, rest) = path[begins + 1..].split_once(']').filter(|_| is_list)?;
        Some((list, n.parse().ok()?, rest))
    })
}

/// The keys that say where the secrets of a server go.
fn places(path: &str) -> Vec<String> {
    let mut parts = path.split('.');
    if let (Some(section @ ("servers" | "mcpServers")), Some(name)) = (parts.next(), parts.next()) {
        return PLACES.iter().map(|key| format!("{section}.{name}.{key}")).collect();
    }
    Vec::new()
}

/// What the items of a list say, or the value that is none.
fn items(node: Option<&Node>) -> Vec<String> {
    match node.map(|it| &it.value) {
        Some(Value::List(items)) => items.iter().map(|it| shown(Some(it))).collect(),
        _ => vec![shown(node)],
    }
}

/// The same in one order.
fn sorted(node: Option<&Node>) -> Vec<String> {
    let mut items = items(node);
    items.sort_unstable();
    items
}

/// What a value says, wherever it stands: of a mark only that it is one.
fn shown(node: Option<&Node>) -> String {
    let text = render::text(node);
    let mut parts = text.split("${file:");
    let before = parts.next().unwrap_or_default().to_owned();
    let after = parts.map(|it| it.split_once('}').map_or(it, |(_, after)| after));
    after.fold(before, |text, after| text + "${file:}" + after)
}

/// The value at a path.
fn at<'n>(node: &'n Node, path: &str) -> Option<&'n Node> {
    if path.is_empty() {
        return Some(node);
    }
    match &node.value {
        Value::Null | Value::Scalar(_) => None,
        Value::List(items) => {
            let (n, rest) = path.strip_prefix('[')?.split_once(']')?;
            at(items.get(n.parse::<usize>().ok()?)?, rest.strip_prefix('.').unwrap_or(rest))
        }
        // Names may have dots in them, so each key is tried that the path begins with.
        Value::Map(entries) => entries.iter().find_map(|entry| {
            let rest = path.strip_prefix(entry.key.as_str())?;
            match rest.chars().next() {
                None | Some('[') => at(&entry.node, rest),
                Some('.') => at(&entry.node, &rest[1..]),
                Some(_) => None,
            }
        }),
    }
}

fn missing(node: &Node, path: &str) -> Problem {
    Problem {
        place: node.place.clone(),
        key: path.to_owned(),
        found: "a secret that stood in another file, and this node's file has none for the same \
                use"
        .into(),
        allowed: "a variable (${NAME}), or a secret in this node's own file".into(),
        cure: format!(
            "write {path} as ${{NAME}} in the file and set NAME on every node, or give \
                       this node the file that has it"
        ),
    }
}
